//! The demonstration page and the tickets it needs.
//!
//! Serves a directory of static files from memory and mints tickets for the `ticket-auth` plugin. Minting is for
//! people at the machine itself: the peer must be loopback, the request must name a loopback host (a page of
//! somebody else, bound to our address by DNS, does not) and must not have come through a proxy (whose peer is
//! loopback, whoever asks). Nothing here is mounted unless `demo.enabled` is set.

use std::{
    collections::HashMap,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Extension, State},
    http::{HeaderMap, Request, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use sha2::Sha256;

use crate::{
    config::{DemoConfig, Secret},
    transport::address::ClientAddress,
};

/// How long a ticket is good for: long enough for an evening with the page.
const TICKET_TTL: Duration = Duration::from_secs(12 * 3600);

/// A name and a role are shorter.
const MAX_TICKET_REQUEST_BYTES: usize = 4 * 1024;

/// What proxies add, whatever they are told to say about the host.
const PROXY_HEADERS: [&str; 6] = [
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
];

/// A page is a handful of small files; more is a mistaken directory.
const MAX_FILES: usize = 64;

/// Size of one file.
const MAX_FILE_BYTES: u64 = 2 * 1024 * 1024;

/// Nothing but our own files; no inline code, no frames.
const CONTENT_SECURITY_POLICY: &str = "default-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error("demo.page_dir: cannot read {path}")]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("demo.page_dir: {path} has no index.html; point it at the folder of the page")]
    NoIndex { path: PathBuf },
    #[error(
        "demo.page_dir: {path} holds more than {MAX_FILES} files or one over {MAX_FILE_BYTES} bytes; is it the folder of the page?"
    )]
    TooBig { path: PathBuf },
}

struct Page {
    files: HashMap<String, (&'static str, Bytes)>,
    ticket_key_id: String,
    ticket_secret: Secret,
}

/// Builds the routes: `/`, the page's files, and `POST /demo/ticket`.
///
/// # Errors
/// [`DemoError`] when the folder cannot be served; files are read once, here.
pub fn router(config: &DemoConfig) -> Result<Router, DemoError> {
    let mut files = HashMap::new();
    collect(&config.page_dir, "", &mut files)?;
    if !files.contains_key("/index.html") {
        return Err(DemoError::NoIndex {
            path: config.page_dir.clone(),
        });
    }
    let names: Vec<String> = files.keys().cloned().collect();
    let page = Arc::new(Page {
        files,
        ticket_key_id: config.ticket_key_id.clone(),
        ticket_secret: config.ticket_secret.clone(),
    });
    let mut router = Router::new()
        .route("/", get(file))
        .route("/demo/ticket", post(ticket));
    for name in names {
        router = router.route(&name, get(file));
    }
    Ok(router.with_state(page))
}

fn collect(
    dir: &Path,
    prefix: &str,
    files: &mut HashMap<String, (&'static str, Bytes)>,
) -> Result<(), DemoError> {
    let unreadable = |source| DemoError::Unreadable {
        path: dir.to_owned(),
        source,
    };
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        // A route pattern gives braces a meaning, and a dot file is nobody's page.
        if name.starts_with('.') || name.contains(['{', '}']) {
            continue;
        }
        let metadata = entry.metadata().map_err(unreadable)?;
        if metadata.is_dir() {
            collect(&entry.path(), &format!("{prefix}/{name}"), files)?;
            continue;
        }
        if files.len() == MAX_FILES || metadata.len() > MAX_FILE_BYTES {
            return Err(DemoError::TooBig {
                path: dir.to_owned(),
            });
        }
        let content = std::fs::read(entry.path()).map_err(unreadable)?;
        files.insert(
            format!("{prefix}/{name}"),
            (content_type(&name), content.into()),
        );
    }
    Ok(())
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("json") => "application/json",
        Some("png") => "image/png",
        Some("woff2") => "font/woff2",
        _ => "application/octet-stream",
    }
}

async fn file(State(page): State<Arc<Page>>, uri: Uri) -> Response {
    let path = if uri.path() == "/" {
        "/index.html"
    } else {
        uri.path()
    };
    let Some((content_type, content)) = page.files.get(path) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    (
        [
            (header::CONTENT_TYPE, *content_type),
            (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
            (header::CACHE_CONTROL, "no-cache"),
        ],
        content.clone(),
    )
        .into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TicketRequest {
    name: String,
    #[serde(default)]
    role: Role,
}

/// What a ticket lets its bearer do in the demonstration.
#[derive(Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Role {
    #[default]
    Member,
    Operator,
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Operator => "operator",
        }
    }
}

async fn ticket(
    State(page): State<Arc<Page>>,
    Extension(address): Extension<ClientAddress>,
    request: Request<Body>,
) -> Response {
    let (head, body) = request.into_parts();
    let headers = head.headers;
    // Before a byte of the body is read.
    if !is_local(address, &headers) {
        let text = "tickets of the demonstration are minted for the machine itself only: open the page on localhost, without a proxy between\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    let Ok(body) = to_bytes(body, MAX_TICKET_REQUEST_BYTES).await else {
        return (
            StatusCode::PAYLOAD_TOO_LARGE,
            "a name and a role are enough\n",
        )
            .into_response();
    };
    // A form of another page cannot send this content type without asking first.
    let is_json = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
    if !is_json {
        return (
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "send application/json\n",
        )
            .into_response();
    }
    let request: TicketRequest = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(_) => {
            let text =
                "send {\"name\": \"…\", \"role\": \"member\"} with role member or operator\n";
            return (StatusCode::BAD_REQUEST, text).into_response();
        }
    };
    let name = request.name.trim();
    if !is_name(name) {
        let text = "a name is 1 to 32 letters, digits, blanks and . _ ' -, and neither \"server\" nor \"system\"\n";
        return (StatusCode::BAD_REQUEST, text).into_response();
    }
    let expires_at = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        + TICKET_TTL;
    let ticket = mint(&page, name, request.role, expires_at.as_secs());
    axum::Json(serde_json::json!({ "ticket": ticket, "user": name })).into_response()
}

fn mint(page: &Page, name: &str, role: Role, expires_at: u64) -> String {
    let payload = serde_json::json!({
        "kid": page.ticket_key_id,
        "user": name,
        "name": name,
        "role": role.as_str(),
        "exp": expires_at,
    });
    let payload = URL_SAFE_NO_PAD.encode(payload.to_string());
    let mut mac = Hmac::<Sha256>::new_from_slice(page.ticket_secret.expose().as_bytes())
        .expect("HMAC takes a key of any length");
    mac.update(payload.as_bytes());
    format!(
        "{payload}.{}",
        URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
    )
}

/// Letters of any script; nothing that turns text around or speaks for the server.
fn is_name(name: &str) -> bool {
    (1..=32).contains(&name.chars().count())
        && name
            .chars()
            .all(|c| c.is_alphanumeric() || " ._'-".contains(c))
        && !["server", "system"].contains(&name.to_lowercase().as_str())
}

fn is_local(address: ClientAddress, headers: &HeaderMap) -> bool {
    if PROXY_HEADERS.iter().any(|name| headers.contains_key(*name)) {
        return false;
    }
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let is_loopback = |address: IpAddr| address.to_canonical().is_loopback();
    is_loopback(address.peer.ip())
        && is_loopback(address.client)
        && matches!(name, "localhost" | "127.0.0.1" | "[::1]")
}

#[cfg(test)]
mod tests {
    use tower::ServiceExt as _;

    use super::*;

    async fn ask(peer: &str, headers: &[(&str, &str)], body: &'static str) -> StatusCode {
        let page = tempfile::tempdir().unwrap();
        std::fs::write(page.path().join("index.html"), "hello").unwrap();
        let router = router(&DemoConfig {
            page_dir: page.path().to_owned(),
            ticket_key_id: "demo".into(),
            ticket_secret: Secret::new("0123456789abcdef0123456789abcdef"),
        })
        .unwrap();
        let peer: std::net::SocketAddr = peer.parse().unwrap();
        let mut request = Request::post("/demo/ticket").extension(ClientAddress {
            peer,
            client: peer.ip(),
        });
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body)).unwrap();
        router.oneshot(request).await.unwrap().status()
    }

    #[tokio::test]
    async fn tickets_are_minted_for_the_machine_itself_only() {
        const JSON: (&str, &str) = ("content-type", "application/json");
        let body = r#"{"name":"ann","role":"operator"}"#;
        for (peer, headers, expected) in [
            (
                "127.0.0.1:5000",
                vec![("host", "localhost:8000"), JSON],
                200,
            ),
            ("127.0.0.1:5000", vec![("host", "127.0.0.1"), JSON], 200),
            ("[::1]:5000", vec![("host", "[::1]:8000"), JSON], 200),
            (
                "[::ffff:127.0.0.1]:5000",
                vec![("host", "localhost"), JSON],
                200,
            ),
            (
                "192.0.2.7:5000",
                vec![("host", "localhost:8000"), JSON],
                403,
            ),
            (
                "127.0.0.1:5000",
                vec![("host", "evil.example:8000"), JSON],
                403,
            ),
            (
                "127.0.0.1:5000",
                vec![("host", "localhost.evil.example"), JSON],
                403,
            ),
            ("127.0.0.1:5000", vec![JSON], 403),
            (
                "127.0.0.1:5000",
                vec![
                    ("host", "localhost"),
                    ("x-forwarded-for", "127.0.0.1"),
                    JSON,
                ],
                403,
            ),
            (
                "127.0.0.1:5000",
                vec![("host", "localhost"), ("via", "1.1 edge"), JSON],
                403,
            ),
            (
                "127.0.0.1:5000",
                vec![("host", "localhost"), ("forwarded", "for=_x"), JSON],
                403,
            ),
            ("127.0.0.1:5000", vec![("host", "localhost")], 415),
        ] {
            let status = ask(peer, &headers, body).await;
            assert_eq!(status.as_u16(), expected, "{peer} {headers:?}");
        }
    }

    #[test]
    fn a_name_shows_who_somebody_is_and_nothing_else() {
        for name in ["Ada", "Zoë O'Hara-2", "Ольга", "李 小龙"] {
            assert!(is_name(name), "{name}");
        }
        for name in [
            "",
            "a\u{202e}b",
            "a\nb",
            "Server",
            "system",
            &"x".repeat(33),
        ] {
            assert!(!is_name(name), "{name:?}");
        }
    }

    #[tokio::test]
    async fn a_large_body_is_refused() {
        let body: &'static str =
            Box::leak(" ".repeat(MAX_TICKET_REQUEST_BYTES + 1).into_boxed_str());
        let headers = [("host", "localhost"), ("content-type", "application/json")];
        assert_eq!(
            ask("127.0.0.1:1", &headers, body).await,
            StatusCode::PAYLOAD_TOO_LARGE
        );
    }
}
