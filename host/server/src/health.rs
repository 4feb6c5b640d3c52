//! Health endpoints.
//!
//! Liveness says that the process turns; readiness says that it can deliver and is not draining (threat model O2).
//! Draining turns readiness off before anything else happens, so that load balancers stop sending.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;

/// Whether the node takes traffic. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    state: Arc<ReadinessState>,
}

#[derive(Debug, Default)]
struct ReadinessState {
    /// Set once everything listens.
    is_started: AtomicBool,
    /// Set when the drain begins, never unset.
    is_draining: AtomicBool,
    /// Names of the insecure switches that are on, for the health output.
    insecure: parking_lot::Mutex<Vec<String>>,
}

impl Readiness {
    /// Everything listens: ready from now on.
    pub fn start(&self, insecure: Vec<String>) {
        *self.state.insecure.lock() = insecure;
        // Pairs with the load in `is_ready`: who sees it also sees the listeners' state.
        self.state.is_started.store(true, Ordering::Release);
    }

    /// The node is about to stop: not ready, for good.
    pub fn drain(&self) {
        self.state.is_draining.store(true, Ordering::Release);
    }

    pub fn is_ready(&self) -> bool {
        // Pairs with the stores in `start` and `drain`.
        self.state.is_started.load(Ordering::Acquire)
            && !self.state.is_draining.load(Ordering::Acquire)
    }
}

/// `/health`, `/health/live` and `/health/ready` below `prefix`.
pub fn router(prefix: &str, readiness: Readiness) -> Router {
    Router::new()
        .route(prefix, get(ready))
        .route(&format!("{prefix}/ready"), get(ready))
        .route(&format!("{prefix}/live"), get(live))
        .with_state(readiness)
}

async fn live() -> Json<serde_json::Value> {
    Json(json!({ "status": "live" }))
}

async fn ready(State(readiness): State<Readiness>) -> Response {
    let (code, status) = if readiness.is_ready() {
        (StatusCode::OK, "ready")
    } else if readiness.state.is_draining.load(Ordering::Acquire) {
        (StatusCode::SERVICE_UNAVAILABLE, "draining")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "starting")
    };
    let insecure = readiness.state.insecure.lock().clone();
    let body = if insecure.is_empty() {
        json!({ "status": status })
    } else {
        json!({ "status": status, "insecure": insecure })
    };
    (code, Json(body)).into_response()
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};
    use tower::ServiceExt as _;

    use super::*;

    async fn status(readiness: &Readiness, path: &str) -> u16 {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router("/health", readiness.clone())
            .oneshot(request)
            .await
            .unwrap();
        response.status().as_u16()
    }

    #[tokio::test]
    async fn o2_readiness_follows_start_and_drain_and_liveness_does_not() {
        let readiness = Readiness::default();
        assert_eq!(status(&readiness, "/health").await, 503);
        readiness.start(Vec::new());
        assert_eq!(status(&readiness, "/health").await, 200);
        assert_eq!(status(&readiness, "/health/ready").await, 200);
        readiness.drain();
        assert_eq!(status(&readiness, "/health/ready").await, 503);
        assert_eq!(status(&readiness, "/health/live").await, 200);
    }
}
