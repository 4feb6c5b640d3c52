//! Errors of the admin API: problem documents (RFC 9457) with a stable `code`.
//!
//! One place decides what callers see. No SQL, no stack, no echo of input (threat model M8).

use std::{fmt, time::Duration};

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tidegate_control::StoreError;

use super::{access::WINDOW, host::Refused};

/// When to ask again for a plugin to be tried: about the longest compilation.
const RETRY_SECONDS: u64 = 30;

/// Why a request has no result.
#[derive(Debug)]
pub(super) struct Problem {
    kind: &'static Kind,
    detail: String,
    help: Option<Box<str>>,
    /// The admission rule that an upload broke.
    rule: Option<Box<str>>,
    /// The member of the request that is wrong.
    field: Option<&'static str>,
    /// When it is worth trying again, for codes of status 429.
    retry_after: Duration,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.0, self.detail)
    }
}

/// A code that never changes its meaning, its status and its title.
type Kind = (&'static str, StatusCode, &'static str);

/// A problem as it is written.
#[derive(Serialize)]
struct Document<'a> {
    /// The specification's word for "the status says what it is".
    r#type: &'static str,
    title: &'static str,
    status: u16,
    code: &'static str,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'static str>,
}

/// Every code, its status and title; the OpenAPI document shows the table.
pub(super) const CODES: &[Kind] = &[
    (
        "invalid-json",
        StatusCode::BAD_REQUEST,
        "the body cannot be read",
    ),
    (
        "unauthorized",
        StatusCode::UNAUTHORIZED,
        "no valid admin key",
    ),
    (
        "forbidden",
        StatusCode::FORBIDDEN,
        "the key's role does not reach",
    ),
    (
        "not-found",
        StatusCode::NOT_FOUND,
        "there is no such object",
    ),
    (
        "method-not-allowed",
        StatusCode::METHOD_NOT_ALLOWED,
        "the path has other methods",
    ),
    (
        "conflict",
        StatusCode::CONFLICT,
        "the present state stands against it",
    ),
    (
        "too-large",
        StatusCode::PAYLOAD_TOO_LARGE,
        "the body is too large",
    ),
    (
        "unsupported-media-type",
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "the body has another type",
    ),
    (
        "unknown-field",
        StatusCode::UNPROCESSABLE_ENTITY,
        "a field is not known",
    ),
    (
        "invalid-field",
        StatusCode::UNPROCESSABLE_ENTITY,
        "a value is not possible",
    ),
    (
        "plugin-refused",
        StatusCode::UNPROCESSABLE_ENTITY,
        "the plugin was refused",
    ),
    (
        "too-many-attempts",
        StatusCode::TOO_MANY_REQUESTS,
        "too many failed attempts",
    ),
    (
        "too-many-calls",
        StatusCode::TOO_MANY_REQUESTS,
        "the app calls too often",
    ),
    (
        "too-many-followers",
        StatusCode::TOO_MANY_REQUESTS,
        "too many follow logs",
    ),
    (
        "internal",
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal error",
    ),
    (
        "not-applied",
        StatusCode::INTERNAL_SERVER_ERROR,
        "the change was undone",
    ),
    (
        "store-damaged",
        StatusCode::INTERNAL_SERVER_ERROR,
        "the control store is damaged",
    ),
    (
        "store-unavailable",
        StatusCode::SERVICE_UNAVAILABLE,
        "the control store is unavailable",
    ),
    (
        "plugin-not-tried",
        StatusCode::SERVICE_UNAVAILABLE,
        "the plugin could not be tried now",
    ),
    (
        "nodes-unreachable",
        StatusCode::SERVICE_UNAVAILABLE,
        "the other nodes cannot be asked",
    ),
    (
        "disk-full",
        StatusCode::INSUFFICIENT_STORAGE,
        "the disk is full",
    ),
];

impl Problem {
    /// `code` is one of [`CODES`].
    pub(super) fn new(code: &'static str, detail: impl Into<String>) -> Self {
        let kind = CODES
            .iter()
            .find(|(known, ..)| *known == code)
            .expect("codes are literals of the table, which a test compares");
        Self {
            kind,
            detail: detail.into(),
            help: None,
            rule: None,
            field: None,
            retry_after: WINDOW,
        }
    }

    pub(super) fn retry_after(mut self, retry_after: Duration) -> Self {
        self.retry_after = retry_after;
        self
    }

    pub(super) fn help(mut self, help: impl Into<Box<str>>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(super) fn field(mut self, field: &'static str) -> Self {
        self.field = Some(field);
        self
    }

    /// The same words for every failed authentication.
    pub(super) fn unauthorized() -> Self {
        Self::new("unauthorized", "an admin key is needed")
            .help("send the header 'Authorization: Bearer KEY' with a key that begins with tga_")
    }

    pub(super) fn refused(refused: Refused) -> Self {
        let code = if refused.is_for_want_of_a_compiler() {
            "plugin-not-tried"
        } else {
            "plugin-refused"
        };
        Self {
            rule: Some(refused.rule.into()),
            ..Self::new(code, refused.detail).help(refused.help)
        }
    }

    pub(super) fn not_applied(refused: Refused) -> Self {
        let detail = format!(
            "the change could not be carried out and was undone; what ran before still runs: {}",
            refused.detail
        );
        Self {
            rule: Some(refused.rule.into()),
            ..Self::new("not-applied", detail).help(refused.help)
        }
    }

    /// Something of ours gave up; the log has the rest.
    pub(super) fn internal() -> Self {
        Self::new(
            "internal",
            "the request could not be finished; the server's log says why",
        )
    }

    #[cfg(test)]
    pub(super) fn code(&self) -> &'static str {
        self.kind.0
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound { .. } => Self::new("not-found", error.to_string()),
            StoreError::Conflict { why } => Self::new("conflict", why),
            StoreError::Invalid { field, why } => {
                Self::new("invalid-field", format!("{field}: {why}")).field(field)
            }
            StoreError::Full => {
                tracing::error!("the disk of the data directory is full");
                Self::new("disk-full", error.to_string())
                    .help("free space on the disk of the data directory, then try again")
            }
            StoreError::Corrupt { .. } => {
                tracing::error!(%error, "the control store is damaged");
                Self::new("store-damaged", error.to_string())
            }
            // The node says once when it begins and when it ends.
            StoreError::Away { .. } => Self::new("store-unavailable", error.to_string())
                .help("try again when the database answers; until then the health endpoint says 'degraded'"),
            StoreError::Unknown { .. } => Self::new("store-unavailable", error.to_string())
                .help("ask for the object when the database answers again"),
            StoreError::Unavailable(ref source) => {
                tracing::error!(error = %source, "the control store is unavailable");
                Self::new("store-unavailable", error.to_string()).help("try again in a moment")
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");
        let (code, status, title) = *self.kind;
        let document = Document {
            r#type: "about:blank",
            title,
            status: status.as_u16(),
            code,
            detail: &self.detail,
            help: self.help.as_deref(),
            rule: self.rule.as_deref(),
            field: self.field,
        };
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let mut response = (status, [(header::CONTENT_TYPE, PROBLEM)], body).into_response();
        if status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, scheme);
        }
        if code == "plugin-not-tried" {
            let seconds = HeaderValue::from(RETRY_SECONDS);
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        if status == StatusCode::TOO_MANY_REQUESTS {
            let seconds = HeaderValue::from(self.retry_after.as_secs());
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}
