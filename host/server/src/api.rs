//! The server API: what back ends call (client-compatible with Centrifugo's `/api`).
//!
//! Owns authentication by API key, the HTTP forms (one method, batch, legacy) and the envelopes. What a method
//! does is behind [`Realtime`]. Invariant: the key alone decides the app; nothing in path or body can.

mod auth;
mod call;
mod forms;
mod node;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header, request},
    response::{IntoResponse, Response},
    routing::post,
};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tidegate_control::Store;
use tidegate_protocol::{
    ApiErrorCode, ErrorCode,
    server_api::{
        ApiError, ChannelsRequest, ChannelsResult, DisconnectRequest, EmptyResult,
        HistoryRemoveRequest, HistoryRequest, HistoryResult, InfoResult, PresenceRequest,
        PresenceResult, PresenceStatsRequest, PresenceStatsResult, PublishRequest, PublishResult,
        RefreshRequest, SubscribeRequest, UnsubscribeRequest,
    },
};
use tidegate_realtime::{hooks::Progress, ids::AppId};

pub use self::auth::ConfiguredKey;
use self::{
    auth::Keys,
    call::{Fault, Method},
};

/// Largest request body (threat model section 2).
const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;

/// Asks for errors as HTTP statuses, request by request.
const ERROR_MODE_HEADER: &str = "x-centrifugo-error-mode";

/// What a method answers: now, or later.
pub type Answer<T> = Progress<Result<T, ApiError>>;

/// The node, as the server API sees it. Requests arrive with their form checked: channels are not empty, data
/// is there and `b64…` members are resolved into their raw twins. The API bypasses channel permissions.
pub trait Realtime: Send + Sync + 'static {
    fn publish(&self, app: &AppId, request: PublishRequest) -> Answer<PublishResult>;
    fn history(&self, app: &AppId, request: HistoryRequest) -> Answer<HistoryResult>;
    fn history_remove(&self, app: &AppId, request: HistoryRemoveRequest) -> Answer<EmptyResult>;
    fn disconnect(&self, app: &AppId, request: DisconnectRequest) -> Answer<EmptyResult>;
    fn info(&self, app: &AppId) -> Answer<InfoResult>;

    fn subscribe(&self, _: &AppId, _: SubscribeRequest) -> Answer<EmptyResult> {
        Progress::Ready(Err(comes_later("subscribe")))
    }

    fn unsubscribe(&self, _: &AppId, _: UnsubscribeRequest) -> Answer<EmptyResult> {
        Progress::Ready(Err(comes_later("unsubscribe")))
    }

    fn refresh(&self, _: &AppId, _: RefreshRequest) -> Answer<EmptyResult> {
        Progress::Ready(Err(comes_later("refresh")))
    }

    fn presence(&self, _: &AppId, _: PresenceRequest) -> Answer<PresenceResult> {
        Progress::Ready(Err(comes_later("presence")))
    }

    fn presence_stats(&self, _: &AppId, _: PresenceStatsRequest) -> Answer<PresenceStatsResult> {
        Progress::Ready(Err(comes_later("presence_stats")))
    }

    fn channels(&self, _: &AppId, _: ChannelsRequest) -> Answer<ChannelsResult> {
        Progress::Ready(Err(comes_later("channels")))
    }
}

/// How errors are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ErrorMode {
    /// HTTP 200 and `{"error": …}`.
    #[default]
    Envelope,
    /// The HTTP status says it, the body is the bare error.
    Transport,
}

/// Settings of the server API (`http_api.*`).
#[derive(Debug)]
pub struct ApiConfig {
    /// Path in front of the methods, such as `/api`.
    pub prefix: String,
    pub error_mode: ErrorMode,
    /// Requests without a valid key act on app `default` (`http_api.insecure`).
    pub is_insecure: bool,
    /// Keys that the configuration file owns.
    pub keys: Vec<ConfiguredKey>,
}

struct Api {
    realtime: Arc<dyn Realtime>,
    keys: Keys,
    error_mode: ErrorMode,
}

/// The routes of the server API.
pub fn router(config: ApiConfig, store: Arc<Store>, realtime: Arc<dyn Realtime>) -> Router {
    let prefix = config.prefix.trim_end_matches('/').to_owned();
    let api = Arc::new(Api {
        realtime,
        error_mode: config.error_mode,
        keys: Keys::new(store, config.keys, config.is_insecure),
    });
    let mut router = Router::new().route(&format!("{prefix}/{{method}}"), post(one_method));
    // With an empty prefix the legacy form would take the root of the listener.
    if !prefix.is_empty() {
        router = router.route(&prefix, post(legacy));
    }
    router.with_state(api)
}

async fn one_method(
    State(api): State<Arc<Api>>,
    Path(method): Path<String>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let Some(caller) = api.keys.authenticate(&parts) else {
        return StatusCode::UNAUTHORIZED.into_response();
    };
    let is_batch = method == "batch";
    let method = Method::from_name(&method);
    if method.is_none() && !is_batch {
        return plain(StatusCode::NOT_FOUND, "there is no such method");
    }
    let body = match read(&parts, body).await {
        Ok(body) => body,
        Err(response) => return response,
    };
    let answer = match method {
        Some(method) => api.call(&caller, method, &body).await,
        None => return api.batch(&caller, &body).await,
    };
    respond(answer, api.error_mode_of(&parts.headers))
}

async fn legacy(State(api): State<Arc<Api>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Some(caller) = api.keys.authenticate(&parts) else {
        return StatusCode::UNAUTHORIZED.into_response();
    };
    match read(&parts, body).await {
        Ok(body) => api.legacy(&caller, &body).await,
        Err(response) => response,
    }
}

impl Api {
    fn error_mode_of(&self, headers: &HeaderMap) -> ErrorMode {
        match headers.get(ERROR_MODE_HEADER) {
            Some(mode) if mode == "transport" => ErrorMode::Transport,
            _ => self.error_mode,
        }
    }
}

/// Reads a body of at most [`MAX_BODY_BYTES`]; a larger one is refused before it is read where it declares
/// its length.
async fn read(parts: &request::Parts, body: Body) -> Result<Bytes, Response> {
    let too_large = || {
        plain(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the request body is larger than 4 MiB",
        )
    };
    let declared = parts
        .headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > MAX_BODY_BYTES as u64) {
        return Err(too_large());
    }
    match Limited::new(body, MAX_BODY_BYTES).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(_) => Err(plain(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the request body could not be read",
        )),
    }
}

fn respond(answer: Result<Vec<u8>, Fault>, mode: ErrorMode) -> Response {
    match (answer, mode) {
        (Ok(result), ErrorMode::Envelope | ErrorMode::Transport) => {
            json(StatusCode::OK, forms::wrap("result", &result))
        }
        (Err(Fault::Api(error)), ErrorMode::Envelope) => json(
            StatusCode::OK,
            forms::wrap("error", &call::error_to_json(&error)),
        ),
        (Err(Fault::Api(error)), ErrorMode::Transport) => {
            json(transport_status(&error), call::error_to_json(&error))
        }
        (Err(Fault::Malformed(why)), _) => plain(StatusCode::BAD_REQUEST, why),
        (Err(Fault::UnknownMember(why)), _) => plain(StatusCode::UNPROCESSABLE_ENTITY, why),
        (Err(Fault::Forbidden), _) => plain(
            StatusCode::FORBIDDEN,
            "this key may not call the method; use a key that may, or make one",
        ),
    }
}

/// Errors of plugins have numbers of their own and are refusals, so they are the caller's.
fn transport_status(error: &ApiError) -> StatusCode {
    if error.code == ErrorCode::PermissionDenied.code() {
        return StatusCode::FORBIDDEN;
    }
    // The node or its engine has too much on its hands, not the caller.
    if error.code == ErrorCode::TooManyRequests.code() {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    ApiErrorCode::from_code(error.code)
        .and_then(|code| StatusCode::from_u16(code.http_status()).ok())
        .unwrap_or(StatusCode::BAD_REQUEST)
}

fn json(status: StatusCode, body: Vec<u8>) -> Response {
    const JSON: HeaderValue = HeaderValue::from_static("application/json");
    (status, [(header::CONTENT_TYPE, JSON)], body).into_response()
}

fn plain(status: StatusCode, text: impl Into<std::borrow::Cow<'static, str>>) -> Response {
    (status, text.into()).into_response()
}

fn comes_later(method: &str) -> ApiError {
    ApiError {
        code: ApiErrorCode::NotAvailable.code(),
        message: format!(
            "not available: this release does not have {method} yet, a later one will"
        ),
    }
}
