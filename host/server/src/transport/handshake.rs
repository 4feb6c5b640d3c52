//! The WebSocket handshake: from an HTTP request to a session on the same socket.
//!
//! Owns what is checked before the upgrade (threat model T3, T3a) and what the request chooses: app, codec and
//! kind of ping. Everything is checked before the answer; a request that is not exactly a WebSocket handshake
//! gets 400. Invariant: nothing of the request is kept but what the session needs.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Path, Request, State},
    response::Response,
    routing::any,
};
use base64::Engine;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version,
    header::{self, AsHeaderName},
};
use hyper::{
    body::Body as _,
    upgrade::{OnUpgrade, Upgraded},
};
use tidegate_protocol::{Codec, Framing};
use tidegate_realtime::{
    driver::Driver,
    ids::AppId,
    node::{Node, OpenRefused, PeerInfo},
    session::Pings,
};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_util::task::TaskTracker;

use super::{
    address::{ClientAddress, TrustedProxies},
    admission::{Admission, Permit, Refused},
    head_guard::GuardedStream,
    origin::AllowedOrigins,
    refusal::{Refusal, TransportMetrics},
    socket::Socket,
    websocket::{DEFAULT_WRITE_TIMEOUT, SessionLimits, WebSocketSession},
};

/// Default of `websocket.message_size_limit`; the reference's.
pub const DEFAULT_MAX_MESSAGE_BYTES: usize = 65_536;

/// Time between our 101 and the socket being ours.
const UPGRADE_TIME: Duration = Duration::from_secs(5);

const JSON_SUBPROTOCOL: &str = "centrifuge-json";
const PROTOBUF_SUBPROTOCOL: &str = "centrifuge-protobuf";

/// How sessions over WebSocket are begun.
#[derive(Debug, Clone)]
pub struct WebSocketConfig {
    pub allowed_origins: AllowedOrigins,
    pub max_message_bytes: usize,
    /// How long a client may take no byte of what waits for it.
    pub write_timeout: Duration,
    /// The header by which a proxy in front names the user.
    pub user_id_header: Option<HeaderName>,
    /// Request headers that hooks may see, by lower-case name.
    pub visible_headers: Vec<HeaderName>,
}

impl Default for WebSocketConfig {
    fn default() -> Self {
        Self {
            allowed_origins: AllowedOrigins::default(),
            max_message_bytes: DEFAULT_MAX_MESSAGE_BYTES,
            write_timeout: DEFAULT_WRITE_TIMEOUT,
            user_id_header: None,
            visible_headers: Vec::new(),
        }
    }
}

/// The endpoint at `/connection/websocket`.
#[derive(Debug)]
pub struct WebSocketEndpoint {
    pub node: Arc<Node>,
    pub admission: Arc<Admission>,
    pub proxies: Arc<TrustedProxies>,
    pub config: WebSocketConfig,
    pub metrics: TransportMetrics,
    /// Owns the sessions' tasks.
    pub tracker: TaskTracker,
}

/// Why a request is no handshake that we accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum HandshakeError {
    #[error("a WebSocket handshake is a GET request of HTTP/1.1")]
    NotGet,
    #[error("a WebSocket handshake names a path, not an absolute address")]
    AbsoluteTarget,
    #[error("a WebSocket handshake has one Host header")]
    BadHost,
    #[error("a WebSocket handshake has no body")]
    HasBody,
    #[error("a WebSocket handshake has one header 'Upgrade: websocket' and 'Connection: Upgrade'")]
    NoUpgrade,
    #[error(
        "a WebSocket handshake has one Sec-WebSocket-Version header, and this server speaks version 13"
    )]
    BadVersion,
    #[error("a WebSocket handshake has one Sec-WebSocket-Key header of 16 bytes in base64")]
    BadKey,
    #[error("the origin is not among client.allowed_origins")]
    ForbiddenOrigin,
    #[error("{0}; try again later")]
    Refused(#[from] Refused),
    #[error(transparent)]
    NotOpened(#[from] OpenRefused),
}

impl WebSocketEndpoint {
    /// The endpoint's paths: `prefix` for the default app, `/apps/{app}` in front of it for named ones.
    pub fn router(self: Arc<Self>, prefix: &str) -> Router {
        Router::new()
            .route(prefix, any(answer_default))
            .route(&format!("/apps/{{app}}{prefix}"), any(answer_named))
            .with_state(self)
    }

    async fn answer(self: Arc<Self>, app: Option<AppId>, mut request: Request) -> Response {
        let Some(address) = request.extensions().get::<ClientAddress>().copied() else {
            tracing::error!(
                "a request reached the WebSocket endpoint without passing the listener"
            );
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "internal server error");
        };
        match Arc::clone(&self).accept(app, address, &mut request).await {
            Ok(response) => response,
            Err(error) => {
                if error == HandshakeError::ForbiddenOrigin {
                    self.metrics.note_origin(request.headers(), address.client);
                }
                self.metrics.refuse(error.into(), address.peer.ip());
                error.response()
            }
        }
    }

    async fn accept(
        self: Arc<Self>,
        app: Option<AppId>,
        address: ClientAddress,
        request: &mut Request,
    ) -> Result<Response, HandshakeError> {
        let accept_key = check_request(request)?;
        let app = app.ok_or(OpenRefused::UnknownApp)?;
        self.node.check_open(&app)?;
        if !self.config.allowed_origins.allows(request.headers()) {
            return Err(HandshakeError::ForbiddenOrigin);
        }
        let through_proxy = self.proxies.trusts(address.peer.ip());
        let permit = self
            .admission
            .admit_session(address.client, through_proxy)?;
        self.admission.wait_turn().await?;
        let subprotocol = subprotocol(request.headers());
        let query = request.uri().query().unwrap_or("");
        let is_protobuf = subprotocol == Some(PROTOBUF_SUBPROTOCOL)
            || has_parameter(query, "format", "protobuf")
            || has_parameter(query, "cf_protocol", "protobuf");
        let peer = PeerInfo {
            app,
            transport: "websocket",
            remote_addr: address.client.to_string().into(),
            user: self.vouched_user(address.peer.ip(), request.headers()),
            headers: visible_headers(request.headers(), &self.config.visible_headers),
            codec: if is_protobuf {
                Codec::Protobuf
            } else {
                Codec::Json
            },
            framing: Framing::WebSocket,
            pings: if has_parameter(query, "cf_ws_frame_ping_pong", "true") {
                Pings::Native
            } else {
                Pings::Messages
            },
        };
        let upgrade = hyper::upgrade::on(request);
        let tracker = self.tracker.clone();
        tracker.spawn(self.begin(upgrade, peer, permit));
        Ok(switching_protocols(&accept_key, subprotocol))
    }

    /// The user that the proxy names. It is believed as in the reference, from everybody, unless proxies are
    /// configured: then from them alone. A header that comes twice names nobody, since one of the two may be
    /// the client's own.
    fn vouched_user(&self, peer: IpAddr, headers: &HeaderMap) -> Arc<str> {
        let is_believed = self.proxies.is_empty() || self.proxies.trusts(peer);
        let name = self.config.user_id_header.as_ref();
        let value = name
            .filter(|_| is_believed)
            .and_then(|name| only(headers, name))
            .and_then(|value| std::str::from_utf8(value.as_bytes()).ok());
        value.unwrap_or_default().into()
    }

    /// Waits for the socket and starts the session on it, as a task of its own size.
    async fn begin(self: Arc<Self>, upgrade: OnUpgrade, peer: PeerInfo, permit: Permit) {
        let Ok(Ok(upgraded)) = tokio::time::timeout(UPGRADE_TIME, upgrade).await else {
            return; // The client went away while it was answered.
        };
        let Some((stream, early)) = take_socket(upgraded) else {
            tracing::error!("an upgraded connection is not a TCP stream");
            return;
        };
        if let Some(session) = self.session(Socket::Tcp(stream), &early, peer, Some(permit)) {
            self.tracker.spawn(session);
        }
    }

    /// The session's future on an accepted socket; `None` when the node takes no more since it was asked.
    pub fn session(
        &self,
        socket: Socket,
        early: &[u8],
        peer: PeerInfo,
        permit: Option<Permit>,
    ) -> Option<WebSocketSession<Driver>> {
        let (link, driver) = self.node.open(peer, socket).ok()?;
        let hub = Arc::clone(self.node.hub());
        let limits = SessionLimits {
            max_message_bytes: self.config.max_message_bytes,
            write_timeout: self.config.write_timeout,
        };
        let session = WebSocketSession::new(hub, link, driver, limits, permit);
        Some(session.with_early_bytes(early))
    }
}

async fn answer_default(
    State(endpoint): State<Arc<WebSocketEndpoint>>,
    request: Request,
) -> Response {
    endpoint.answer(Some(AppId::default_app()), request).await
}

async fn answer_named(
    State(endpoint): State<Arc<WebSocketEndpoint>>,
    Path(app): Path<String>,
    request: Request,
) -> Response {
    endpoint.answer(AppId::parse(&app).ok(), request).await
}

/// Checks the request line and headers (RFC 6455, section 4.2.1); answers the accept key.
fn check_request(request: &Request) -> Result<String, HandshakeError> {
    if request.method() != Method::GET || request.version() != Version::HTTP_11 {
        return Err(HandshakeError::NotGet);
    }
    if request.uri().authority().is_some() {
        return Err(HandshakeError::AbsoluteTarget);
    }
    let headers = request.headers();
    if only(headers, header::HOST).is_none_or(HeaderValue::is_empty) {
        return Err(HandshakeError::BadHost);
    }
    // A body would be read by whoever holds the socket next: the way requests are smuggled.
    if headers.contains_key(header::TRANSFER_ENCODING) || !request.body().is_end_stream() {
        return Err(HandshakeError::HasBody);
    }
    let upgrades = only(headers, header::UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if !upgrades || !has_token(headers, header::CONNECTION, "upgrade") {
        return Err(HandshakeError::NoUpgrade);
    }
    let version = only(headers, header::SEC_WEBSOCKET_VERSION);
    if version.is_none_or(|version| version.as_bytes() != b"13") {
        return Err(HandshakeError::BadVersion);
    }
    let key = only(headers, header::SEC_WEBSOCKET_KEY).ok_or(HandshakeError::BadKey)?;
    let decoded = base64::engine::general_purpose::STANDARD.decode(key.as_bytes());
    if decoded.is_ok_and(|bytes| bytes.len() == 16) {
        Ok(derive_accept_key(key.as_bytes()))
    } else {
        Err(HandshakeError::BadKey)
    }
}

/// The value of a header that must be there once.
fn only(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    values.next().is_none().then_some(first)
}

fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|known| known.eq_ignore_ascii_case(token))
}

fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

/// The first offered subprotocol that we speak; it must be echoed.
fn subprotocol(headers: &HeaderMap) -> Option<&'static str> {
    tokens(headers, header::SEC_WEBSOCKET_PROTOCOL).find_map(|offered| match offered {
        JSON_SUBPROTOCOL => Some(JSON_SUBPROTOCOL),
        PROTOBUF_SUBPROTOCOL => Some(PROTOBUF_SUBPROTOCOL),
        _ => None,
    })
}

fn has_parameter(query: &str, name: &str, value: &str) -> bool {
    query
        .split('&')
        .any(|pair| pair.split_once('=') == Some((name, value)))
}

fn visible_headers(headers: &HeaderMap, names: &[HeaderName]) -> Arc<[(Box<str>, Box<str>)]> {
    names
        .iter()
        .filter_map(|name| {
            let value = headers.get(name)?.to_str().ok()?;
            Some((name.as_str().into(), value.into()))
        })
        .collect()
}

fn take_socket(upgraded: Upgraded) -> Option<(TcpStream, Bytes)> {
    let parts = upgraded.downcast::<GuardedStream>().ok()?;
    Some((parts.io.into_inner(), parts.read_buf))
}

fn switching_protocols(accept_key: &str, subprotocol: Option<&'static str>) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept_key) = HeaderValue::from_str(accept_key) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept_key);
    }
    if let Some(subprotocol) = subprotocol {
        let subprotocol = HeaderValue::from_static(subprotocol);
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, subprotocol);
    }
    response
}

impl From<HandshakeError> for Refusal {
    fn from(error: HandshakeError) -> Self {
        match error {
            HandshakeError::NotGet => Self::NotGet,
            HandshakeError::AbsoluteTarget => Self::AbsoluteTarget,
            HandshakeError::BadHost => Self::BadHost,
            HandshakeError::HasBody => Self::HasBody,
            HandshakeError::NoUpgrade => Self::NoUpgrade,
            HandshakeError::BadVersion => Self::BadVersion,
            HandshakeError::BadKey => Self::BadKey,
            HandshakeError::ForbiddenOrigin => Self::ForbiddenOrigin,
            HandshakeError::Refused(refused) => refused.into(),
            HandshakeError::NotOpened(refused) => refused.into(),
        }
    }
}

impl HandshakeError {
    fn response(self) -> Response {
        let status = match self {
            Self::NotGet
            | Self::AbsoluteTarget
            | Self::BadHost
            | Self::HasBody
            | Self::NoUpgrade
            | Self::BadVersion
            | Self::BadKey => StatusCode::BAD_REQUEST,
            Self::ForbiddenOrigin => StatusCode::FORBIDDEN,
            Self::NotOpened(OpenRefused::UnknownApp) => StatusCode::NOT_FOUND,
            Self::Refused(_)
            | Self::NotOpened(OpenRefused::ConnectionLimit | OpenRefused::Draining) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        };
        let mut response = plain(status, &self.to_string());
        let headers = response.headers_mut();
        // What is refused shall not keep a socket.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        if self == Self::BadVersion {
            let version = HeaderValue::from_static("13");
            headers.insert(header::SEC_WEBSOCKET_VERSION, version);
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

fn plain(status: StatusCode, text: &str) -> Response {
    let mut response = Response::new(Body::from(format!("{text}\n")));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests;
