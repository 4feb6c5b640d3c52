//! One small HTTP client for the admin API and the server API.
//!
//! Plain HTTP: the admin API is on loopback, and a server behind TLS is reached through its proxy's plain side.
//! Invariant: a failure says who failed (nobody answered, or the server refused) and what to do next.

use std::{ops::ControlFlow, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header};
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
                .hint(format!("write it as in {}", example(url, flag)))
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

/// The address as it should have been written; one to go by where that is not to be seen.
fn example(url: &str, flag: &str) -> String {
    let port = if flag == "--admin-url" { 8001 } else { 8000 };
    // With a scheme it is something else that is wrong.
    let given = (!url.contains("://"))
        .then(|| url.trim_end_matches('/').parse::<http::uri::Authority>())
        .and_then(Result::ok);
    match given {
        Some(given) if given.port().is_some() => format!("http://{given}"),
        Some(given) => format!("http://{given}:{port}"),
        None => format!("http://127.0.0.1:{port}"),
    }
}

/// Which of a server's two APIs a client talks to; they have listeners of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Api {
    Admin,
    Server,
}

/// What proves who asks.
pub(super) struct Credential {
    pub(super) api: Api,
    pub(super) header: &'static str,
    pub(super) value: String,
    /// Where the key was found, in words.
    pub(super) origin: String,
}

/// A server and the header that proves who asks.
#[derive(Debug)]
pub(super) struct Client {
    base: Base,
    inner: legacy::Client<HttpConnector, Full<Bytes>>,
    credential: (&'static str, header::HeaderValue),
    api: Api,
    key_origin: String,
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
    pub(super) fn new(base: Base, credential: Credential) -> Result<Self, Failure> {
        let Credential {
            api,
            header: name,
            value,
            origin,
        } = credential;
        let mut value = header::HeaderValue::try_from(value).map_err(|_| {
            Failure::usage("the key holds characters that no key has; is it the right one?")
                .hint(format!("it came from {origin}"))
        })?;
        value.set_sensitive(true);
        Ok(Self {
            base,
            inner: legacy::Client::builder(TokioExecutor::new()).build_http(),
            credential: (name, value),
            api,
            key_origin: origin,
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
        self.accepted(&answer)
    }

    /// Sends bytes and takes any answer.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<Answer, Failure> {
        let exchange = async {
            let response = self.ask(method, path, content_type, body).await?;
            self.read(response).await
        };
        tokio::time::timeout(TIMEOUT, exchange)
            .await
            .unwrap_or_else(|_| {
                Err(self.silent(&format!("did not answer within {} s", TIMEOUT.as_secs())))
            })
    }

    /// Calls `opened` once the server has accepted, then gives `each` line of an answer that goes on, until it has enough
    /// or the server ends it. An empty line is a sign of life.
    pub(super) async fn lines(
        &self,
        path: &str,
        max_silence: Duration,
        (opened, mut each): (impl FnOnce(), impl FnMut(&[u8]) -> ControlFlow<()>),
    ) -> Result<(), Failure> {
        let fell_silent = |_| self.silent("fell silent");
        let asked = self.ask(Method::GET, path, "application/json", Bytes::new());
        let response = tokio::time::timeout(TIMEOUT, asked)
            .await
            .map_err(fell_silent)??;
        if !response.status().is_success() {
            let refused = self.read(response).await?;
            return self.accepted(&refused).map(drop);
        }
        opened();
        let mut body = response.into_body();
        // What came of a line that is not complete.
        let mut rest = Vec::new();
        loop {
            let frame = tokio::time::timeout(max_silence, body.frame())
                .await
                .map_err(fell_silent)?;
            let Some(frame) = frame else { return Ok(()) };
            let frame = frame.map_err(|error| self.base.unreachable(&error))?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            if rest.len() + data.len() > MAX_ANSWER_BYTES {
                return Err(Failure::new(format!(
                    "{} sends a line without an end; is it the admin API of this release?",
                    self.base.http()
                )));
            }
            rest.extend_from_slice(&data);
            let mut begin = 0;
            while let Some(len) = rest[begin..].iter().position(|byte| *byte == b'\n') {
                if each(&rest[begin..begin + len]).is_break() {
                    return Ok(());
                }
                begin += len + 1;
            }
            rest.drain(..begin);
        }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, Failure> {
        let (name, value) = &self.credential;
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base.http()))
            .header(header::CONTENT_TYPE, content_type)
            .header(*name, value)
            .body(Full::new(body))
            .map_err(|error| Failure::usage(format!("`{path}` cannot be asked for: {error}")))?;
        let response = self.inner.request(request).await;
        response.map_err(|error| self.base.unreachable(&error))
    }

    async fn read(&self, response: Response<Incoming>) -> Result<Answer, Failure> {
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES)
            .collect()
            .await;
        let body = body
            .map_err(|error| self.base.unreachable(error.as_ref()))?
            .to_bytes();
        Ok(Answer { status, body })
    }

    /// The server is there and says nothing.
    fn silent(&self, how: &str) -> Failure {
        Failure {
            code: exit::UNREACHABLE,
            ..Failure::new(format!("{} {how}", self.base.http()))
        }
    }

    /// The body of a success, or the refusal in the server's own words.
    pub(super) fn accepted(&self, answer: &Answer) -> Result<Value, Failure> {
        if answer.status.is_success() {
            return Ok(answer.json());
        }
        let body = answer.json();
        if let Some(failure) = self.wrong_api(answer, &body) {
            return Err(failure);
        }
        if answer.status == StatusCode::UNAUTHORIZED {
            return Err(self.key_refused().details(body));
        }
        let text = |name: &str| body[name].as_str().filter(|text| !text.is_empty());
        let said = text("detail")
            .or_else(|| text("message"))
            .or_else(|| text("title"));
        let message = match (said, text("rule")) {
            (Some(said), Some(rule)) => format!("{said} (rule {rule})"),
            (Some(said), None) => said.to_owned(),
            (None, _) => format!("the server answered {}", answer.status),
        };
        let hint = match text("help") {
            Some(help) => help.to_owned(),
            None => self.next_step(answer.status, said.unwrap_or_default()),
        };
        Err(Failure::new(message).hint(hint).details(body.clone()))
    }

    /// Errors of the admin API are problem documents with a code, and nobody else's are.
    fn wrong_api(&self, answer: &Answer, body: &Value) -> Option<Failure> {
        let is_problem = body["type"] == "about:blank" && body["code"].is_string();
        let url = self.base.http();
        let failure = match (self.api, is_problem) {
            (Api::Admin, true) | (Api::Server, false) => return None,
            (Api::Admin, false) => Failure::new(format!(
                "{url} is not the admin API: it answered {}",
                answer.status
            ))
            .hint("the admin API has a port of its own, 8001 unless `admin_api.port` says otherwise; name it with --admin-url or TIDEGATE_ADMIN_URL"),
            (Api::Server, true) => Failure::new(format!("{url} is the admin API, not the server API"))
                .hint("the server API is where clients connect, port 8000 unless `http_server.port` says otherwise; name it with --url or TIDEGATE_URL"),
        };
        Some(failure)
    }

    fn key_refused(&self) -> Failure {
        let (url, origin) = (self.base.http(), &self.key_origin);
        let (kind, prefix, flag) = match self.api {
            Api::Admin => ("admin", "tga_", "--admin-key-file"),
            Api::Server => ("API", "tgk_", "--api-key-file"),
        };
        Failure::new(format!("the server at {url} refused the {kind} key; it came from {origin}")).hint(format!(
            "is it the key of this server? An {kind} key begins with {prefix} unless the configuration sets another; --data-dir or {flag} names another one, {} another server",
            self.base.flag
        ))
    }

    /// What to do when the server did not say it itself.
    fn next_step(&self, status: StatusCode, said: &str) -> String {
        let next = match status {
            StatusCode::FORBIDDEN => {
                return format!(
                    "the key came from {}; one with a higher role can do it",
                    self.key_origin
                );
            }
            StatusCode::NOT_FOUND if self.api == Api::Server => {
                "is --api-prefix what `http_api.handler_prefix` of the server says?"
            }
            StatusCode::NOT_FOUND if said.contains("no such path") => {
                "the server is of another release than this command"
            }
            StatusCode::NOT_FOUND if said.starts_with("app ") || said.starts_with("the app ") => {
                "`tidegate app list` shows the apps that the key reaches"
            }
            StatusCode::NOT_FOUND
                if said.starts_with("version ") || said.starts_with("the version ") =>
            {
                "`tidegate plugin versions NAME` shows the versions there are"
            }
            StatusCode::NOT_FOUND => "`tidegate plugin list` shows what there is",
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                "try again in a moment"
            }
            _ => "",
        };
        next.to_owned()
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
    fn an_address_without_its_scheme_is_shown_with_it() {
        for (given, flag, shown) in [
            ("127.0.0.1:8001", "--admin-url", "http://127.0.0.1:8001"),
            ("node-1:9000/", "--url", "http://node-1:9000"),
            ("localhost", "--admin-url", "http://localhost:8001"),
            ("ftp://x", "--admin-url", "http://127.0.0.1:8001"),
            ("http://", "--url", "http://127.0.0.1:8000"),
            ("https://example.com", "--url", "http://127.0.0.1:8000"),
        ] {
            let hint = Base::parse(given, flag).unwrap_err().hint;
            assert!(hint.ends_with(shown), "{given}: {hint}");
        }
    }

    fn client(api: Api) -> Client {
        let credential = Credential {
            api,
            header: "authorization",
            value: "Bearer tga_x".to_owned(),
            origin: "the file data/admin.key".to_owned(),
        };
        let base = Base::parse("http://127.0.0.1:8001", "--admin-url").unwrap();
        Client::new(base, credential).unwrap()
    }

    fn refusal(api: Api, status: StatusCode, body: &'static str) -> Failure {
        let body = Bytes::from(body);
        client(api).accepted(&Answer { status, body }).unwrap_err()
    }

    #[test]
    fn a_refusal_keeps_rule_and_help_of_the_server() {
        let failure = refusal(
            Api::Admin,
            StatusCode::UNPROCESSABLE_ENTITY,
            r#"{"type":"about:blank","code":"plugin-refused","detail":"imports wasi:sockets","rule":"imports","help":"remove it"}"#,
        );
        assert_eq!(failure.message, "imports wasi:sockets (rule imports)");
        assert_eq!(failure.hint, "remove it");
        assert_eq!(failure.details["rule"], "imports");
    }

    #[test]
    fn a_refused_key_is_named_by_where_it_came_from() {
        let failure = refusal(
            Api::Admin,
            StatusCode::UNAUTHORIZED,
            r#"{"type":"about:blank","code":"unauthorized","detail":"a key is needed","help":"send the header"}"#,
        );
        assert!(failure.message.ends_with("data/admin.key"), "{failure:?}");
        assert!(!failure.hint.contains("header"), "{failure:?}");
        let failure = refusal(Api::Server, StatusCode::UNAUTHORIZED, "");
        assert!(failure.message.contains("API key"), "{failure:?}");
    }

    #[test]
    fn the_other_listener_is_recognised() {
        let failure = refusal(Api::Admin, StatusCode::NOT_FOUND, "");
        assert!(failure.hint.contains("--admin-url"), "{failure:?}");
        let problem =
            r#"{"type":"about:blank","code":"not-found","detail":"there is no such path"}"#;
        let failure = refusal(Api::Server, StatusCode::NOT_FOUND, problem);
        assert!(failure.hint.contains("--url"), "{failure:?}");
    }

    #[test]
    fn what_is_missing_decides_where_to_look() {
        for (said, next) in [
            ("the app does not exist", "app list"),
            ("plugin app-version does not exist", "plugin list"),
            ("the version does not exist", "plugin versions"),
            ("the plugin does not exist", "plugin list"),
        ] {
            let hint = client(Api::Admin).next_step(StatusCode::NOT_FOUND, said);
            assert!(hint.contains(next), "{said}: {hint}");
        }
    }
}
