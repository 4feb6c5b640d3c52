//! Health endpoints.
//!
//! Liveness says that the process turns; readiness says that it can deliver and is not draining (threat model O2).
//! Whether it can deliver, the engine says (R4), at the moment of the question. Draining turns readiness off before
//! anything else happens, so that load balancers stop sending.

use std::{
    borrow::Cow,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use tidegate_control::Store;
use tidegate_realtime::broker::{Broker, EngineHealth};

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
    engine: OnceLock<Engine>,
    /// Keeps what was decided; without it the node goes on, and changes are refused.
    store: OnceLock<Arc<Store>>,
}

struct Engine(Arc<dyn Broker>);

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Engine").field(&self.0.health()).finish()
    }
}

impl Readiness {
    /// Everything listens: ready from now on.
    pub fn start(&self, insecure: Vec<String>) {
        *self.state.insecure.lock() = insecure;
        // Pairs with the load in `is_ready`: who sees it also sees the listeners' state.
        self.state.is_started.store(true, Ordering::Release);
    }

    /// Not ready, from now on, while this engine cannot do its work. Only the first call has an effect.
    pub fn watch(&self, engine: Arc<dyn Broker>) {
        let _ = self.state.engine.set(Engine(engine));
    }

    /// Degraded, though ready, while this store is away. Only the first call has an effect.
    pub fn watch_store(&self, store: Arc<Store>) {
        let _ = self.state.store.set(store);
    }

    /// The node is about to stop: not ready, for good.
    pub fn drain(&self) {
        self.state.is_draining.store(true, Ordering::Release);
    }

    pub fn is_ready(&self) -> bool {
        matches!(self.verdict(), Verdict::Ready)
    }

    fn verdict(&self) -> Verdict {
        // Both pair with the stores in `drain` and `start`.
        if self.state.is_draining.load(Ordering::Acquire) {
            return Verdict::Draining;
        }
        if !self.state.is_started.load(Ordering::Acquire) {
            return Verdict::Starting;
        }
        match self.state.engine.get().map(|engine| engine.0.health()) {
            None | Some(EngineHealth::Able) => Verdict::Ready,
            Some(EngineHealth::Unable(reason)) => Verdict::EngineUnavailable(reason),
        }
    }
}

enum Verdict {
    Ready,
    Starting,
    Draining,
    EngineUnavailable(Cow<'static, str>),
}

/// `/health`, `/health/live` and `/health/ready` below `prefix`.
pub fn router(prefix: &str, readiness: Readiness) -> Router {
    Router::new()
        .route(prefix, get(ready))
        .route(&format!("{prefix}/ready"), get(ready))
        .route(&format!("{prefix}/live"), get(live))
        .with_state(readiness)
}

const UNAVAILABLE: StatusCode = StatusCode::SERVICE_UNAVAILABLE;

async fn live() -> Json<serde_json::Value> {
    Json(json!({ "status": "live" }))
}

async fn ready(State(readiness): State<Readiness>) -> Response {
    let verdict = readiness.verdict();
    let (code, mut body) = match &verdict {
        Verdict::Ready => (StatusCode::OK, json!({ "status": "ready" })),
        Verdict::Starting => (UNAVAILABLE, json!({ "status": "starting" })),
        Verdict::Draining => (UNAVAILABLE, json!({ "status": "draining" })),
        Verdict::EngineUnavailable(reason) => (
            UNAVAILABLE,
            json!({ "status": "engine unavailable", "reason": reason }),
        ),
    };
    let store = readiness.state.store.get();
    if let Some(store) = store.filter(|store| store.problem().is_some()) {
        // Why is in the log: this endpoint is everybody's.
        let mut degraded = vec!["the control store is away; changes are refused"];
        if let Some(heard) = store.heard() {
            body["control_store_heard_seconds_ago"] = json!(heard.ago.as_secs());
            if heard.is_too_long {
                degraded.push("what runs is older than control.postgres.max_copy_age; keys that were revoked meanwhile may still count");
            }
        }
        body["degraded"] = json!(degraded);
    }
    let insecure = readiness.state.insecure.lock().clone();
    if !insecure.is_empty() {
        body["insecure"] = json!(insecure);
    }
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
