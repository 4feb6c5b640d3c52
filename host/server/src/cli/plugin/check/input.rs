//! Saved inputs: questions to a plugin in a file, with what it is expected to answer.
//!
//! A file holds one input or a list of them; `docs/plugins.md` has the format. Every member that a hook does not
//! look at is refused, so that a typing error does not become a question about something else.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use tidegate_realtime::{
    events::{BATCH, Event, EventKind},
    hooks::{
        AuthenticationQuestion, AuthenticationReason, AuthorizationQuestion, AuthorizationReason,
        Draft, Origin, Peer, RpcQuestion, TokenCheck,
    },
    ids::{AppId, ClientId},
};
use tidegate_sandbox::Hook;

use crate::cli::Failure;

/// An input as it is written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Raw {
    name: Option<String>,
    hook: String,
    reason: Option<String>,
    channel: Option<String>,
    method: Option<String>,
    token: Option<String>,
    claims: Option<Value>,
    data: Option<Value>,
    data_base64: Option<String>,
    tags: BTreeMap<String, String>,
    origin: Option<String>,
    user: String,
    meta: Option<Value>,
    info: Option<Value>,
    headers: BTreeMap<String, String>,
    remote_addr: Option<String>,
    events: Vec<RawEvent>,
    period: Option<String>,
    due_ms: Option<u64>,
    expect: Option<Expectation>,
}

/// An event as it is written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawEvent {
    kind: String,
    at_ms: u64,
    user: String,
    client: Option<String>,
    channel: String,
    code: u32,
    reason: String,
}

/// What the plugin should answer: a verdict's word, or more of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum Expectation {
    Word(String),
    Detail(ExpectedDetail),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExpectedDetail {
    pub(super) verdict: String,
    /// Of a refusal.
    pub(super) code: Option<u32>,
    /// Of a replacement or a reply, compared as JSON.
    pub(super) data: Option<Value>,
}

/// One question, ready to be asked.
#[derive(Debug, Clone)]
pub(super) struct Input {
    pub(super) name: String,
    pub(super) hook: Hook,
    pub(super) question: Question,
    /// Bytes of its data.
    pub(super) bytes: usize,
    pub(super) expect: Option<Expectation>,
}

#[derive(Debug, Clone)]
pub(super) enum Question {
    Authentication(AuthenticationQuestion),
    Authorization(AuthorizationQuestion),
    Filtering(Box<Draft>),
    Routing(Box<Draft>),
    Rpc(RpcQuestion),
    Events(Vec<Event>),
    Schedule { period: Arc<str>, due_ms: u64 },
}

/// All inputs of a file, or of all `.json` files of a directory in the order of their names.
pub(super) fn read(path: &Path) -> Result<Vec<Input>, Failure> {
    let unreadable = |path: &Path, error: std::io::Error| {
        Failure::usage(format!(
            "--inputs: {} cannot be read: {error}",
            path.display()
        ))
    };
    let mut files = Vec::new();
    if path.is_dir() {
        for entry in std::fs::read_dir(path).map_err(|error| unreadable(path, error))? {
            let file = entry.map_err(|error| unreadable(path, error))?.path();
            if file
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                files.push(file);
            }
        }
        files.sort();
        if files.is_empty() {
            return Err(Failure::usage(format!(
                "--inputs: {} has no .json files",
                path.display()
            )));
        }
    } else {
        files.push(path.to_owned());
    }
    let mut inputs = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).map_err(|error| unreadable(&file, error))?;
        let stem = file.file_stem().unwrap_or_default().to_string_lossy();
        let of_file = parse(&stem, &text).map_err(|problem| {
            Failure::usage(format!("--inputs: {}: {problem}", file.display()))
                .hint("docs/plugins.md, \"Saved inputs\", has the format and examples")
        })?;
        inputs.extend(of_file);
    }
    Ok(inputs)
}

/// The inputs in a text; those without a name are called after the file.
fn parse(stem: &str, text: &str) -> Result<Vec<Input>, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("no JSON: {error}"))?;
    let (values, is_list) = match value {
        Value::Array(values) => (values, true),
        value => (vec![value], false),
    };
    let number = |at: usize| {
        if is_list {
            format!("{stem}[{at}]")
        } else {
            stem.to_owned()
        }
    };
    values
        .into_iter()
        .enumerate()
        .map(|(at, value)| {
            let name = number(at);
            serde_json::from_value::<Raw>(value)
                .map_err(|error| error.to_string())
                .and_then(|raw| raw.into_input(&name))
                .map_err(|problem| format!("{name}: {problem}"))
        })
        .collect()
}

impl Raw {
    fn into_input(self, default_name: &str) -> Result<Input, String> {
        let hook = Hook::parse(&self.hook).ok_or_else(|| {
            let hooks = Hook::ALL.map(Hook::as_str).join(", ");
            format!("`hook` is `{}`; use one of {hooks}", self.hook)
        })?;
        self.only_what_is_looked_at(hook)?;
        let data = self.data()?;
        let bytes = data.len();
        let question = match hook {
            Hook::Authentication => Question::Authentication(self.authentication(data)?),
            Hook::Authorization => Question::Authorization(self.authorization(data)?),
            Hook::Filtering => Question::Filtering(self.draft(data)?),
            Hook::Routing => Question::Routing(self.draft(data)?),
            Hook::Rpc => Question::Rpc(self.rpc(data)?),
            Hook::Events => Question::Events(self.events()?),
            Hook::Schedule => Question::Schedule {
                period: required("period", self.period.as_deref())?,
                due_ms: self.due_ms.unwrap_or_default(),
            },
        };
        Ok(Input {
            name: self.name.unwrap_or_else(|| default_name.to_owned()),
            hook,
            question,
            bytes,
            expect: self.expect,
        })
    }

    fn only_what_is_looked_at(&self, hook: Hook) -> Result<(), String> {
        let is_message = matches!(hook, Hook::Filtering | Hook::Routing);
        let is_authentication = hook == Hook::Authentication;
        let members = [
            (
                "reason",
                self.reason.is_some(),
                is_authentication || hook == Hook::Authorization,
            ),
            (
                "channel",
                self.channel.is_some(),
                is_message || hook == Hook::Authorization,
            ),
            ("method", self.method.is_some(), hook == Hook::Rpc),
            ("token", self.token.is_some(), is_authentication),
            ("claims", self.claims.is_some(), is_authentication),
            ("tags", !self.tags.is_empty(), is_message),
            ("origin", self.origin.is_some(), is_message),
            (
                "data",
                self.data.is_some() || self.data_base64.is_some(),
                !matches!(hook, Hook::Events | Hook::Schedule),
            ),
            ("events", !self.events.is_empty(), hook == Hook::Events),
            ("period", self.period.is_some(), hook == Hook::Schedule),
            ("due_ms", self.due_ms.is_some(), hook == Hook::Schedule),
        ];
        match members
            .iter()
            .find(|(_, is_there, is_used)| *is_there && !is_used)
        {
            Some((name, ..)) => Err(format!("`{name}` means nothing to {hook}; remove it")),
            None => Ok(()),
        }
    }

    fn data(&self) -> Result<Bytes, String> {
        match (&self.data, &self.data_base64) {
            (Some(_), Some(_)) => Err("both `data` and `data_base64`; use one".to_owned()),
            (Some(value), None) => Ok(value.to_string().into()),
            (None, Some(text)) => STANDARD
                .decode(text)
                .map(Bytes::from)
                .map_err(|error| format!("`data_base64` is no base64: {error}")),
            (None, None) => Ok(Bytes::new()),
        }
    }

    fn peer(&self) -> Arc<Peer> {
        let json = |value: &Option<Value>| match value {
            Some(value) => value.to_string().into(),
            None => Bytes::new(),
        };
        let headers = self.headers.iter();
        Arc::new(Peer {
            app: AppId::default_app(),
            client: ClientId::random(),
            user: self.user.as_str().into(),
            transport: "websocket",
            name: "check".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            remote_addr: self.remote_addr.as_deref().unwrap_or("192.0.2.1").into(),
            headers: headers
                .map(|(name, value)| (name.to_lowercase().into(), value.as_str().into()))
                .collect(),
            meta: json(&self.meta),
            info: json(&self.info),
        })
    }

    fn authentication(&self, data: Bytes) -> Result<AuthenticationQuestion, String> {
        let token = self.token.as_deref().unwrap_or_default();
        let token_check = match &self.claims {
            Some(claims) => TokenCheck::Valid {
                claims: claims.to_string().into(),
            },
            None if token.is_empty() => TokenCheck::Absent,
            None => TokenCheck::NotConfigured,
        };
        Ok(AuthenticationQuestion {
            reason: one_of(
                "reason",
                self.reason.as_deref(),
                &[
                    ("connect", AuthenticationReason::Connect),
                    ("refresh", AuthenticationReason::Refresh),
                ],
            )?,
            peer: self.peer(),
            token: token.into(),
            token_check,
            data,
        })
    }

    fn authorization(&self, data: Bytes) -> Result<AuthorizationQuestion, String> {
        Ok(AuthorizationQuestion {
            reason: one_of(
                "reason",
                self.reason.as_deref(),
                &[
                    ("subscribe", AuthorizationReason::Subscribe),
                    ("refresh", AuthorizationReason::Refresh),
                ],
            )?,
            peer: self.peer(),
            channel: required("channel", self.channel.as_deref())?,
            data,
        })
    }

    fn draft(&self, data: Bytes) -> Result<Box<Draft>, String> {
        let origin = one_of(
            "origin",
            self.origin.as_deref(),
            &[
                ("client", Origin::Client(self.peer())),
                ("server", Origin::ServerApi),
                ("plugin", Origin::Plugin),
            ],
        )?;
        let tags = self.tags.iter();
        Ok(Box::new(Draft {
            app: AppId::default_app(),
            channel: required("channel", self.channel.as_deref())?,
            origin,
            data,
            tags: tags
                .map(|(key, value)| (key.as_str().into(), value.as_str().into()))
                .collect(),
            skip_history: false,
            idempotency_key: None,
            delta: None,
            hops: 0,
        }))
    }

    fn events(&self) -> Result<Vec<Event>, String> {
        if self.events.is_empty() || self.events.len() > BATCH {
            return Err(format!("`events` is a list of 1 to {BATCH}"));
        }
        let batch = self.events.iter().map(|raw| {
            let kinds = EventKind::ALL.map(|kind| (kind.as_str(), kind));
            let kind = one_of("kind", Some(&raw.kind), &kinds)?;
            let client = raw.client.as_deref().map(|client| {
                ClientId::parse(client).ok_or_else(|| "`client` is a UUID".to_owned())
            });
            Ok(Event {
                at_ms: raw.at_ms,
                user: raw.user.as_str().into(),
                client: client.transpose()?,
                channel: raw.channel.as_str().into(),
                code: raw.code,
                reason: raw.reason.as_str().into(),
                ..Event::new(kind)
            })
        });
        batch.collect()
    }

    fn rpc(&self, data: Bytes) -> Result<RpcQuestion, String> {
        Ok(RpcQuestion {
            peer: self.peer(),
            method: required("method", self.method.as_deref())?,
            data,
        })
    }
}

fn required(name: &str, value: Option<&str>) -> Result<Arc<str>, String> {
    value
        .map(Arc::from)
        .ok_or_else(|| format!("`{name}` is missing"))
}

/// The value of a word, the first where none is given.
fn one_of<T: Clone>(name: &str, word: Option<&str>, words: &[(&str, T)]) -> Result<T, String> {
    let found = match word {
        Some(word) => words.iter().find(|(known, _)| *known == word),
        None => words.first(),
    };
    found.map(|(_, value)| value.clone()).ok_or_else(|| {
        let words: Vec<_> = words.iter().map(|(known, _)| *known).collect();
        format!("`{name}` is one of {}", words.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_hook_takes_what_it_looks_at() {
        let text = r#"[
            {"hook": "authentication", "token": "t", "claims": {"sub": "ann"}, "headers": {"X-A": "b"}},
            {"hook": "authorization", "reason": "refresh", "channel": "a", "user": "ann"},
            {"hook": "filtering", "channel": "a", "data": {"x": 1}, "tags": {"k": "v"}, "expect": "pass"},
            {"hook": "routing", "channel": "a", "origin": "server", "data_base64": "AAE="},
            {"name": "quote", "hook": "rpc", "method": "m", "expect": {"verdict": "reply", "data": [1]}},
            {"hook": "events", "events": [{"kind": "offline", "user": "ann"}], "expect": "done"},
            {"hook": "schedule", "period": "hour", "due_ms": 3600000}
        ]"#;
        let inputs = parse("all", text).unwrap();
        let names: Vec<_> = inputs.iter().map(|input| input.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "all[0]", "all[1]", "all[2]", "all[3]", "quote", "all[5]", "all[6]"
            ]
        );
        assert_eq!(
            inputs.iter().map(|input| input.hook).collect::<Vec<_>>(),
            Hook::ALL
        );
        assert_eq!((inputs[2].bytes, inputs[3].bytes), (7, 2));
        let Question::Authentication(question) = &inputs[0].question else {
            panic!("{:?}", inputs[0]);
        };
        assert_eq!(&*question.peer.headers[0].0, "x-a");
        assert!(matches!(question.token_check, TokenCheck::Valid { .. }));
    }

    #[test]
    fn what_is_wrong_with_an_input_is_said() {
        for (text, problem) in [
            ("{", "no JSON"),
            ("{}", "`hook`"),
            (r#"{"hook": "sleeping"}"#, "one of authentication"),
            (r#"{"hook": "filtering"}"#, "`channel` is missing"),
            (
                r#"{"hook": "rpc", "method": "m", "channel": "a"}"#,
                "means nothing to rpc",
            ),
            (
                r#"{"hook": "filtering", "channel": "a", "chanel": "b"}"#,
                "chanel",
            ),
            (
                r#"{"hook": "filtering", "channel": "a", "data_base64": "?"}"#,
                "base64",
            ),
            (
                r#"{"hook": "filtering", "channel": "a", "data": 1, "data_base64": ""}"#,
                "use one",
            ),
            (
                r#"{"hook": "routing", "channel": "a", "origin": "moon"}"#,
                "client, server, plugin",
            ),
            (r#"[{"hook": "authentication"}, 7]"#, "x[1]"),
            (r#"{"hook": "events"}"#, "1 to 16"),
            (
                r#"{"hook": "events", "events": [{"kind": "born"}]}"#,
                "connected, disconnected",
            ),
            (
                r#"{"hook": "schedule", "period": "p", "data": 1}"#,
                "means nothing to schedule",
            ),
        ] {
            let error = parse("x", text).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
