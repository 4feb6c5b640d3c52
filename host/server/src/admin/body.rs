//! Reading requests: bodies within their limits, JSON with known members only, queries likewise.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderMap, header},
};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use super::problem::Problem;

/// Largest JSON body; the largest part of one is a binding's configuration.
pub(super) const MAX_JSON_BYTES: usize = 128 * 1024;

/// Largest upload (threat model W1).
pub(super) const MAX_UPLOAD_BYTES: usize = 4 * 1024 * 1024;

/// How long the rest of a refused request is waited for.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads and forgets the body of a request that is refused, at most [`MAX_UPLOAD_BYTES`] of it: the caller then
/// finishes sending and reads the answer. Callers that send more, or slowly, are not waited for.
pub(super) async fn discard(mut body: Body) {
    let reading = async {
        let mut left = MAX_UPLOAD_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            let len = frame.data_ref().map_or(0, Bytes::len);
            if len > left {
                return;
            }
            left -= len;
        }
    };
    // The answer goes out either way.
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, reading).await;
}

/// Reads a body of at most `limit` bytes; what declares more is refused and not kept.
pub(super) async fn read(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, Problem> {
    let too_large = || {
        Problem::new(
            "too-large",
            format!("the body has more than {limit} bytes, which is the limit here"),
        )
    };
    let declared = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > limit as u64) {
        discard(body).await;
        return Err(too_large());
    }
    match Limited::new(body, limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(_) => Err(Problem::new("invalid-json", "the body broke off")),
    }
}

/// Whether the body is declared to be of one of these types, parameters aside.
pub(super) fn is_type(headers: &HeaderMap, types: &[&str]) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|value| {
            types
                .iter()
                .any(|known| value.trim().eq_ignore_ascii_case(known))
        })
}

/// Parses a request; `members` are the ones it may have, for the text.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8], members: &[&str]) -> Result<T, Problem> {
    // Some clients send nothing where nothing is asked for.
    let body = if body.is_empty() { b"{}" } else { body };
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(Problem::new(
            "invalid-json",
            "the body is not a JSON object",
        ));
    }
    serde_json::from_slice(body).map_err(|error| {
        // The error's own text quotes the input, which must not travel back.
        let known = match members {
            [] => "it has no fields".to_owned(),
            members => format!("its fields are {}", members.join(", ")),
        };
        if !error.is_data() {
            Problem::new("invalid-json", "the body is not valid JSON")
        } else if error.to_string().starts_with("unknown field") {
            Problem::new("unknown-field", format!("the request has an unknown field; {known}"))
        } else {
            Problem::new(
                "invalid-field",
                format!(
                    "a field is missing, of the wrong type or there twice (line {}, column {}); {known}",
                    error.line(),
                    error.column()
                ),
            )
        }
    })
}

/// The parameters of a query, each at most once and each known.
#[derive(Debug, Default)]
pub(super) struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    pub(super) fn parse(query: &str, known: &[&str]) -> Result<Self, Problem> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if !known.contains(&name) || pairs.iter().any(|(seen, _)| seen == name) {
                let text = match known {
                    [] => "this path takes no query".to_owned(),
                    known => format!("the query may have, once each: {}", known.join(", ")),
                };
                return Err(Problem::new("unknown-field", text));
            }
            let value = value.replace('+', " ");
            let value = percent_encoding::percent_decode_str(&value)
                .decode_utf8()
                .map_err(|_| Problem::new("invalid-field", "the query is not valid UTF-8"))?;
            pairs.push((name.to_owned(), value.into_owned()));
        }
        Ok(Self { pairs })
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.pairs.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(super) fn number(&self, name: &'static str) -> Result<Option<u64>, Problem> {
        let parsed = self.get(name).map(str::parse).transpose();
        parsed.map_err(|_| {
            Problem::new("invalid-field", format!("{name}: a whole number")).field(name)
        })
    }
}
