//! Asking a sandbox the saved inputs, and what came of it.

use serde_json::{Value, json};
use tidegate_realtime::{
    hooks::{
        Answered, AuthenticationVerdict, AuthorizationVerdict, Destination, Effect, EventsQuestion,
        FilteringVerdict, HookFailure, Hooks, Outcome, Refusal, RoutingVerdict, RpcVerdict,
        ScheduleQuestion, SessionTarget, Target,
    },
    ids::AppId,
};
use tidegate_sandbox::{Sandbox, StepEnd};

use super::input::{Expectation, Question};
use crate::cli::output::word;

/// A verdict, or a failure of the plugin.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Came {
    Verdict {
        word: &'static str,
        /// What more there is to say about it.
        detail: Value,
    },
    Failed {
        kind: String,
        detail: String,
        /// What the plugin logged last in this call: a panic's message, above all.
        log: Vec<String>,
    },
}

/// Asks one question and waits for the answer.
pub(super) async fn ask(sandbox: &Sandbox, plugin: &str, question: Question) -> Came {
    match question {
        Question::Authentication(question) => {
            told(
                sandbox,
                sandbox.authenticate(question),
                |verdict| match verdict {
                    AuthenticationVerdict::NotMine => ("not-mine", Value::Null),
                    AuthenticationVerdict::Accept(identity) => (
                        "accept",
                        json!({ "user": &*identity.user, "expires_at": identity.expires_at }),
                    ),
                    AuthenticationVerdict::Refuse(refusal) => refused(&refusal),
                },
            )
            .await
        }
        Question::Authorization(question) => {
            told(
                sandbox,
                sandbox.authorize(question),
                |verdict| match verdict {
                    AuthorizationVerdict::NotMine => ("not-mine", Value::Null),
                    AuthorizationVerdict::Allow(grant) => {
                        ("allow", json!({ "expires_at": grant.expires_at }))
                    }
                    AuthorizationVerdict::Refuse(refusal) => refused(&refusal),
                },
            )
            .await
        }
        Question::Filtering(draft) => {
            let before = draft.data.clone();
            told(
                sandbox,
                sandbox.filter(draft),
                move |verdict| match verdict {
                    FilteringVerdict::Pass(draft) if draft.data == before => {
                        ("pass", json!({ "tags": tags(&draft.tags) }))
                    }
                    FilteringVerdict::Pass(draft) => (
                        "replace",
                        json!({ "data": data(&draft.data), "tags": tags(&draft.tags) }),
                    ),
                    FilteringVerdict::Drop => ("drop", Value::Null),
                    FilteringVerdict::Refuse(refusal) => refused(&refusal),
                },
            )
            .await
        }
        Question::Routing(draft) => {
            told(sandbox, sandbox.route(draft), |verdict| match verdict {
                RoutingVerdict::Keep(_) => ("keep", Value::Null),
                RoutingVerdict::Routed(_, destinations) => {
                    let destinations: Vec<_> = destinations.iter().map(destination).collect();
                    ("routed", json!({ "destinations": destinations }))
                }
                RoutingVerdict::Refuse(refusal) => refused(&refusal),
            })
            .await
        }
        Question::Rpc(question) => {
            told(sandbox, sandbox.rpc(question), |verdict| match verdict {
                RpcVerdict::NotMine => ("not-mine", Value::Null),
                RpcVerdict::Reply(bytes) => ("reply", json!({ "data": data(&bytes) })),
                RpcVerdict::Refuse(refusal) => refused(&refusal),
            })
            .await
        }
        Question::Events(batch) => {
            let question = EventsQuestion {
                app: AppId::default_app(),
                plugin: plugin.into(),
                batch,
            };
            told(sandbox, sandbox.events(question), |()| {
                ("done", Value::Null)
            })
            .await
        }
        Question::Schedule { period, due_ms } => {
            let question = ScheduleQuestion {
                app: AppId::default_app(),
                plugin: plugin.into(),
                period,
                due_ms,
            };
            told(sandbox, sandbox.scheduled(question), |()| {
                ("done", Value::Null)
            })
            .await
        }
    }
}

async fn told<V>(
    sandbox: &Sandbox,
    answered: Answered<V>,
    describe: impl FnOnce(V) -> (&'static str, Value),
) -> Came {
    match answered.wait().await {
        Ok(Outcome { verdict, effects }) => {
            let (word, mut detail) = describe(verdict);
            if !effects.is_empty() {
                let effects: Vec<_> = effects.iter().map(effect).collect();
                detail["effects"] = effects.into();
            }
            Came::Verdict { word, detail }
        }
        Err(failure) => failed(sandbox, &failure),
    }
}

/// The failure as its story tells it.
fn failed(sandbox: &Sandbox, failure: &HookFailure) -> Came {
    let story = sandbox.explain(&failure.trace_id);
    let step = story.as_ref().and_then(|story| story.steps.last());
    match step.map(|step| &step.ended) {
        Some(StepEnd::Failed {
            kind, detail, log, ..
        }) => Came::Failed {
            kind: kind.as_str().to_owned(),
            detail: detail.to_string(),
            log: log.iter().map(|line| line.to_string()).collect(),
        },
        // It said that it could not, and why.
        Some(StepEnd::Answered(word)) => Came::Failed {
            kind: (*word).to_owned(),
            detail: story
                .as_ref()
                .and_then(|story| story.steps.last()?.reason.as_deref())
                .unwrap_or_default()
                .to_owned(),
            log: Vec::new(),
        },
        None => Came::Failed {
            kind: "unknown".to_owned(),
            detail: failure.to_string(),
            log: Vec::new(),
        },
    }
}

fn refused(refusal: &Refusal) -> (&'static str, Value) {
    let (kind, code, reason) = match refusal {
        Refusal::Error { code, reason } => ("error", code, reason),
        Refusal::Disconnect { code, reason } => ("disconnect", code, reason),
    };
    let detail = json!({ "kind": kind, "code": code, "reason": &**reason });
    ("refuse", detail)
}

/// Bytes as JSON if they are JSON, and their number otherwise.
fn data(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|_| json!({ "bytes": bytes.len() }))
}

fn tags(tags: &[(Box<str>, Box<str>)]) -> Value {
    let tags = tags.iter();
    tags.map(|(key, value)| (key.to_string(), Value::from(&**value)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn destination(destination: &Destination) -> Value {
    let mut shown = match &destination.target {
        Target::Origin => json!("origin"),
        Target::Channel(name) => json!({ "channel": &**name }),
        Target::User(name) => json!({ "user": &**name }),
        Target::Session(id) => json!({ "session": &**id }),
    };
    if let (Some(bytes), true) = (&destination.data, shown.is_object()) {
        shown["data"] = data(bytes);
    }
    shown
}

fn effect(effect: &Effect) -> Value {
    match effect {
        Effect::Publish {
            channel,
            data: bytes,
            version: 0,
        } => {
            json!({ "publish": { "channel": &**channel, "data": data(bytes) } })
        }
        Effect::Publish {
            channel,
            data: bytes,
            version,
        } => {
            json!({ "publish": { "channel": &**channel, "data": data(bytes), "version": version } })
        }
        Effect::Disconnect {
            target,
            code,
            reason,
        } => {
            let of = sessions(target);
            json!({ "disconnect": { "of": of, "code": code, "reason": &**reason } })
        }
        Effect::Unsubscribe { target, channel } => {
            json!({ "unsubscribe": { "of": sessions(target), "channel": &**channel } })
        }
    }
}

fn sessions(target: &SessionTarget) -> Value {
    match target {
        SessionTarget::User(user) => json!({ "user": &**user }),
        SessionTarget::Client(client) => json!({ "client": client.to_string() }),
    }
}

impl Came {
    /// What the call would have had done elsewhere, in a few words; nothing for most.
    pub(super) fn effects(&self) -> Vec<String> {
        let Self::Verdict { detail, .. } = self else {
            return Vec::new();
        };
        let effects = detail["effects"].as_array().into_iter().flatten();
        effects
            .filter_map(|effect| {
                let (what, effect) = effect.as_object()?.iter().next()?;
                let of = |target: &Value| match (target["user"].as_str(), target["client"].as_str())
                {
                    (Some(user), _) => format!("user {}", word(user)),
                    (None, client) => format!("session {}", word(client.unwrap_or_default())),
                };
                let channel = word(effect["channel"].as_str().unwrap_or_default());
                Some(match what.as_str() {
                    "publish" => format!("publishes to {channel}"),
                    "unsubscribe" => format!("unsubscribes {} from {channel}", of(&effect["of"])),
                    _ => format!("disconnects {}", of(&effect["of"])),
                })
            })
            .collect()
    }
}

impl Expectation {
    /// What came differently; `None` if all is as expected.
    pub(super) fn missed_by(&self, came: &Came) -> Option<String> {
        let (wanted, code, wanted_data) = match self {
            Self::Word(word) => (word, None, None),
            Self::Detail(detail) => (&detail.verdict, detail.code, detail.data.as_ref()),
        };
        let Came::Verdict { word, detail } = came else {
            return Some(format!("expected `{wanted}`, but the call failed"));
        };
        if wanted != word {
            return Some(format!("expected `{wanted}`, but it answered `{word}`"));
        }
        if let Some(code) = code
            && detail["code"] != code
        {
            return Some(format!(
                "expected code {code}, but it is {}",
                detail["code"]
            ));
        }
        if let Some(data) = wanted_data
            && detail["data"] != *data
        {
            return Some(format!(
                "expected data {data}, but it is {}",
                detail["data"]
            ));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::plugin::check::input::ExpectedDetail;

    #[test]
    fn effects_are_told_in_words() {
        let user: SessionTarget = SessionTarget::User("ann".into());
        let effects = [
            Effect::Publish {
                channel: "alerts:overheat".into(),
                data: "{}".into(),
                version: 0,
            },
            Effect::Publish {
                channel: "status:ann".into(),
                data: "{}".into(),
                version: 7,
            },
            Effect::Disconnect {
                target: user.clone(),
                code: 4_500,
                reason: "no".into(),
            },
            Effect::Unsubscribe {
                target: user,
                channel: "chat:a".into(),
            },
        ];
        let effects: Vec<Value> = effects.iter().map(effect).collect();
        let came = Came::Verdict {
            word: "keep",
            detail: json!({ "effects": effects }),
        };
        assert_eq!(
            came.effects(),
            [
                "publishes to alerts:overheat",
                "publishes to status:ann",
                "disconnects user ann",
                "unsubscribes user ann from chat:a"
            ]
        );
    }

    #[test]
    fn what_is_not_as_expected_is_said() {
        let came = Came::Verdict {
            word: "replace",
            detail: json!({ "data": [1], "code": 7 }),
        };
        let detail = |code, data| {
            Expectation::Detail(ExpectedDetail {
                verdict: "replace".into(),
                code,
                data,
            })
        };
        assert_eq!(Expectation::Word("replace".into()).missed_by(&came), None);
        assert_eq!(detail(Some(7), Some(json!([1]))).missed_by(&came), None);
        for (expectation, said) in [
            (
                Expectation::Word("pass".into()),
                "expected `pass`, but it answered `replace`",
            ),
            (detail(Some(8), None), "expected code 8, but it is 7"),
            (
                detail(None, Some(json!([2]))),
                "expected data [2], but it is [1]",
            ),
        ] {
            assert_eq!(expectation.missed_by(&came).as_deref(), Some(said));
        }
    }
}
