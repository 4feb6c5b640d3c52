//! One small HTTP client for the admin API and the server API.
//!
//! Plain HTTP: the admin API is on loopback, and a server behind TLS is reached through its proxy's plain side.
//! Invariant: a failure says who failed (nobody answered, or the server refused) and what to do next.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;

use super::{Failure, exit};

/// Longest wait for an answer; activation compiles, which may take a minute on a small machine.
const TIMEOUT: Duration = Duration::from_secs(150);

/// Largest answer that is read.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// Scheme, host and port of a server, without a trailing slash.
#[derive(Debug, Clone)]
pub(super) struct Base {
    url: String,
    flag: &'static str,
}

impl Base {
    /// Checks a URL as people write it; `flag` is the option that sets it.
    pub(super) fn parse(url: &str, flag: &'static str) -> Result<Self, Failure> {
        let wrong = |why: &str| {
            Failure::usage(format!("{flag}: `{url}` {why}"))
                .hint("write it as in http://127.0.0.1:8000")
        };
        if url.starts_with("https://") || url.starts_with("wss://") {
            return Err(wrong(
                "asks for TLS, which this release does not speak; use the plain address behind the proxy",
            ));
        }
        let rest = url
            .strip_prefix("http://")
            .or_else(|| url.strip_prefix("ws://"));
        let authority = rest
            .ok_or_else(|| wrong("is not an http URL"))?
            .trim_end_matches('/');
        if authority.is_empty() || authority.parse::<http::uri::Authority>().is_err() {
            return Err(wrong("is not a host and a port"));
        }
        Ok(Self {
            url: format!("http://{authority}"),
            flag,
        })
    }

    /// As in `http://127.0.0.1:8000`.
    pub(super) fn http(&self) -> &str {
        &self.url
    }

    /// As in `ws://127.0.0.1:8000`.
    pub(super) fn websocket(&self) -> String {
        self.url.replacen("http://", "ws://", 1)
    }

    /// Nobody answered there.
    pub(super) fn unreachable(&self, error: &dyn std::error::Error) -> Failure {
        let mut cause = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            cause = error.to_string();
            source = error.source();
        }
        Failure {
            code: exit::UNREACHABLE,
            ..Failure::new(format!("no server answers at {}: {cause}", self.url))
        }
        .hint(format!(
            "start one with `tidegate serve`, or say where it is with {}",
            self.flag
        ))
    }
}

/// A server and the header that proves who asks.
#[derive(Debug)]
pub(super) struct Client {
    base: Base,
    inner: legacy::Client<HttpConnector, Full<Bytes>>,
    credential: (&'static str, header::HeaderValue),
}

/// What a server answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

impl Answer {
    /// The body as JSON, `null` when it is not.
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

impl Client {
    pub(super) fn new(base: Base, (name, value): (&'static str, String)) -> Result<Self, Failure> {
        let mut value = header::HeaderValue::try_from(value).map_err(|_| {
            Failure::usage("the key holds characters that no key has; is it the right file?")
        })?;
        value.set_sensitive(true);
        Ok(Self {
            base,
            inner: legacy::Client::builder(TokioExecutor::new()).build_http(),
            credential: (name, value),
        })
    }

    /// Sends JSON (or nothing, for `Null`) and wants a success.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<Value, Failure> {
        let bytes = if body.is_null() {
            Bytes::new()
        } else {
            body.to_string().into()
        };
        let answer = self.send(method, path, "application/json", bytes).await?;
        accepted(&answer)
    }

    /// Sends bytes and takes any answer.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<Answer, Failure> {
        let (name, value) = &self.credential;
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base.http()))
            .header(header::CONTENT_TYPE, content_type)
            .header(*name, value)
            .body(Full::new(body))
            .map_err(|error| Failure::usage(format!("`{path}` cannot be asked for: {error}")))?;
        let exchange = async {
            let response = self
                .inner
                .request(request)
                .await
                .map_err(|error| self.base.unreachable(&error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES)
                .collect()
                .await;
            let body = body
                .map_err(|error| self.base.unreachable(error.as_ref()))?
                .to_bytes();
            Ok(Answer { status, body })
        };
        tokio::time::timeout(TIMEOUT, exchange)
            .await
            .unwrap_or_else(|_| {
                let message = format!(
                    "{} did not answer within {} s",
                    self.base.http(),
                    TIMEOUT.as_secs()
                );
                Err(Failure {
                    code: exit::UNREACHABLE,
                    ..Failure::new(message)
                })
            })
    }
}

/// The body of a success, or the refusal in the server's own words.
pub(super) fn accepted(answer: &Answer) -> Result<Value, Failure> {
    if answer.status.is_success() {
        return Ok(answer.json());
    }
    let body = answer.json();
    let text = |name: &str| body[name].as_str().filter(|text| !text.is_empty());
    let said = text("detail")
        .or_else(|| text("message"))
        .or_else(|| text("title"));
    let message = match (said, text("rule")) {
        (Some(said), Some(rule)) => format!("{said} (rule {rule})"),
        (Some(said), None) => said.to_owned(),
        (None, _) => format!("the server answered {}", answer.status),
    };
    // What the server says to do about a key is for those who write requests by hand.
    let help = text("help").filter(|_| answer.status != StatusCode::UNAUTHORIZED);
    let hint = help.map_or_else(|| next_step(answer.status).to_owned(), str::to_owned);
    Err(Failure::new(message).hint(hint).details(body.clone()))
}

/// What to do when the server did not say it itself.
fn next_step(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            "the key was not accepted: check that --data-dir (or the key) belongs to this server"
        }
        StatusCode::NOT_FOUND => "`tidegate plugin list` shows what there is",
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => "try again in a moment",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_before_anything_is_sent() {
        assert_eq!(
            Base::parse("http://127.0.0.1:8000/", "--url")
                .unwrap()
                .websocket(),
            "ws://127.0.0.1:8000"
        );
        assert_eq!(
            Base::parse("ws://[::1]:8000", "--url").unwrap().http(),
            "http://[::1]:8000"
        );
        for wrong in [
            "https://example.com",
            "127.0.0.1:8000",
            "http://",
            "http://a b",
            "ftp://x",
        ] {
            let failure = Base::parse(wrong, "--url").unwrap_err();
            assert!(failure.message.contains("--url"), "{failure:?}");
            assert_eq!(failure.code, exit::USAGE);
        }
    }

    #[test]
    fn a_refusal_keeps_rule_and_help_of_the_server() {
        let body = r#"{"title":"refused","detail":"imports wasi:sockets","rule":"imports","help":"remove it"}"#;
        let answer = Answer {
            status: StatusCode::UNPROCESSABLE_ENTITY,
            body: Bytes::from(body),
        };
        let failure = accepted(&answer).unwrap_err();
        assert_eq!(failure.message, "imports wasi:sockets (rule imports)");
        assert_eq!(failure.hint, "remove it");
        assert_eq!(failure.details["rule"], "imports");
        let answer = Answer {
            status: StatusCode::UNAUTHORIZED,
            body: Bytes::from(r#"{"detail":"a key is needed","help":"send the header"}"#),
        };
        let failure = accepted(&answer).unwrap_err();
        assert!(failure.hint.contains("--data-dir"), "{failure:?}");
    }
}
