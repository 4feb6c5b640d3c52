//! The client side of the protocol that `subscribe` needs, in JSON: commands out, events in. No I/O.
//!
//! Invariant: a channel's position is that of the last publication handed out, so that a recovery repeats nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde_json::{Value, json};

use crate::cli::{
    Failure,
    explain::after_internal_error,
    output::{string, text},
};

/// What happened, in the order in which it should be printed.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Event {
    Connected {
        client: String,
    },
    Subscribed {
        channel: String,
        recovery: Recovery,
    },
    Publication {
        channel: String,
        publication: Value,
    },
    /// Sent to this user or session, not over a channel.
    Message {
        data: Value,
    },
    Unsubscribed {
        channel: String,
        code: u64,
        reason: String,
        next: Next,
    },
    Lost {
        why: String,
    },
}

/// What a subscription knows of the time it was away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recovery {
    /// The first subscription, or one without recovery.
    NotAsked,
    Whole,
    /// Something was missed for good.
    Gap,
}

/// What comes after the server ended a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// It stays ended, also after a reconnect.
    Nothing,
    Subscribe,
    /// Subscribes with the position that it has.
    Recover,
}

/// First code of an `unsubscribe` push after which clients subscribe again; `docs/codes.md` lists them.
const FIRST_RESUBSCRIBE_CODE: u64 = 2500;

/// Where a channel's stream was read up to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Position {
    offset: u64,
    epoch: String,
}

#[derive(Debug)]
pub(super) struct Feed {
    channels: Vec<String>,
    token: String,
    data: Option<Value>,
    positions: BTreeMap<String, Position>,
    /// Channels whose subscription the server ended for good. Their ids stay theirs.
    ended: BTreeSet<String>,
}

/// Commands are numbered by what they are: 1 connects, the others subscribe to `channels[id - FIRST]`.
const CONNECT: u64 = 1;
const FIRST: u64 = 2;

impl Feed {
    pub(super) fn new(channels: Vec<String>, token: String, data: Option<Value>) -> Self {
        Self {
            channels,
            token,
            data,
            positions: BTreeMap::new(),
            ended: BTreeSet::new(),
        }
    }

    /// The first command of a connection.
    pub(super) fn connect(&self) -> String {
        let mut connect = json!({"name": "tidegate-cli", "version": env!("CARGO_PKG_VERSION")});
        if !self.token.is_empty() {
            connect["token"] = self.token.as_str().into();
        }
        if let Some(data) = &self.data {
            connect["data"] = data.clone();
        }
        json!({"id": CONNECT, "connect": connect}).to_string()
    }

    /// Takes a frame of newline-separated messages; gives events and the frames to answer with.
    ///
    /// # Errors
    /// The server refused something without which there is nothing to do.
    pub(super) fn receive(&mut self, frame: &str) -> Result<(Vec<Event>, Vec<String>), Failure> {
        let mut events = Vec::new();
        let mut answers = Vec::new();
        for line in frame.lines().filter(|line| !line.trim().is_empty()) {
            let message: Value = serde_json::from_str(line)
                .map_err(|_| Failure::new("the server sent something that is not JSON; is it a Centrifugo-compatible one?"))?;
            if message.as_object().is_some_and(serde_json::Map::is_empty) {
                answers.push("{}".to_owned()); // A ping is answered in kind.
            } else if let Some(id) = message["id"].as_u64() {
                self.reply(id, &message, &mut events, &mut answers)?;
            } else {
                self.push(&message["push"], &mut events, &mut answers);
            }
        }
        Ok((events, answers))
    }

    /// Whether the server ended every subscription for good.
    pub(super) fn is_over(&self) -> bool {
        self.channels
            .iter()
            .all(|channel| self.ended.contains(channel))
    }

    fn reply(
        &mut self,
        id: u64,
        message: &Value,
        events: &mut Vec<Event>,
        answers: &mut Vec<String>,
    ) -> Result<(), Failure> {
        let channel = usize::try_from(id.saturating_sub(FIRST))
            .ok()
            .and_then(|index| self.channels.get(index))
            .cloned();
        if let Some(error) = message.get("error") {
            return Err(self.refusal(if id == CONNECT { None } else { channel }, error));
        }
        if id == CONNECT {
            events.push(Event::Connected {
                client: string(&message["connect"]["client"]),
            });
            let commands = (FIRST..)
                .zip(&self.channels)
                .filter(|(_, channel)| !self.ended.contains(*channel))
                .map(|(id, channel)| self.subscribe(id, channel));
            answers.extend(commands);
        } else if let Some(channel) = channel {
            self.subscribed(&channel, &message["subscribe"], events);
        }
        Ok(())
    }

    fn subscribe(&self, id: u64, channel: &str) -> String {
        let mut subscribe = json!({"channel": channel});
        if let Some(position) = self.positions.get(channel) {
            subscribe["recover"] = true.into();
            subscribe["offset"] = position.offset.into();
            subscribe["epoch"] = position.epoch.as_str().into();
        }
        json!({"id": id, "subscribe": subscribe}).to_string()
    }

    fn subscribed(&mut self, channel: &str, result: &Value, events: &mut Vec<Event>) {
        let was_asked = self.positions.contains_key(channel);
        let is_whole = result["recovered"].as_bool().unwrap_or(false);
        let recovery = match (was_asked, is_whole) {
            (false, _) => Recovery::NotAsked,
            (true, true) => Recovery::Whole,
            (true, false) => Recovery::Gap,
        };
        events.push(Event::Subscribed {
            channel: channel.to_owned(),
            recovery,
        });
        if result["recoverable"] == true || result["positioned"] == true {
            let position = Position {
                offset: result["offset"].as_u64().unwrap_or(0),
                epoch: string(&result["epoch"]),
            };
            self.positions.insert(channel.to_owned(), position);
        }
        for publication in result["publications"].as_array().into_iter().flatten() {
            self.published(channel, publication, events);
        }
    }

    fn published(&mut self, channel: &str, publication: &Value, events: &mut Vec<Event>) {
        if let (Some(position), Some(offset)) = (
            self.positions.get_mut(channel),
            publication["offset"].as_u64(),
        ) {
            position.offset = position.offset.max(offset);
        }
        events.push(Event::Publication {
            channel: channel.to_owned(),
            publication: publication.clone(),
        });
    }

    fn push(&mut self, push: &Value, events: &mut Vec<Event>, answers: &mut Vec<String>) {
        let channel = string(&push["channel"]);
        if push["pub"].is_object() {
            self.published(&channel, &push["pub"], events);
        } else if push["message"].is_object() {
            events.push(Event::Message {
                data: push["message"]["data"].clone(),
            });
        } else if push["unsubscribe"].is_object() {
            let code = push["unsubscribe"]["code"].as_u64().unwrap_or(0);
            let next = self.unsubscribed(&channel, code, answers);
            events.push(Event::Unsubscribed {
                channel,
                code,
                reason: string(&push["unsubscribe"]["reason"]),
                next,
            });
        }
    }

    /// Subscribes again where the code says so.
    fn unsubscribed(&mut self, channel: &str, code: u64, answers: &mut Vec<String>) -> Next {
        let mut ids = (FIRST..).zip(&self.channels);
        // Else the server subscribed us, and only the server does it again.
        let Some((id, _)) = ids.find(|(_, ours)| *ours == channel) else {
            self.positions.remove(channel);
            return Next::Nothing;
        };
        if code < FIRST_RESUBSCRIBE_CODE {
            self.positions.remove(channel);
            self.ended.insert(channel.to_owned());
            return Next::Nothing;
        }
        answers.push(self.subscribe(id, channel));
        if self.positions.contains_key(channel) {
            Next::Recover
        } else {
            Next::Subscribe
        }
    }

    fn refusal(&self, channel: Option<String>, error: &Value) -> Failure {
        let code = error["code"].as_u64().unwrap_or(0);
        let what = channel.map_or_else(
            || "the connection".to_owned(),
            |channel| format!("the subscription to {channel}"),
        );
        let after_internal = after_internal_error(text(&error["message"]));
        let hint = match code {
            100 => after_internal.as_str(),
            101 => "connect with --token, or with --user and --config",
            102 => "name a namespace that the configuration has",
            103 => "allow it in the namespace (allow_subscribe_for_client), or let a plugin decide",
            109 => "the token expired; mint a new one",
            _ => "",
        };
        Failure::new(format!(
            "the server refused {what}: {} (code {code})",
            string(&error["message"])
        ))
        .hint(hint)
        .details(error.clone())
    }
}

impl Event {
    /// One object with the member `event`.
    pub(super) fn to_json(&self) -> Value {
        match self {
            Self::Connected { client } => json!({"event": "connected", "client": client}),
            Self::Subscribed { channel, recovery } => {
                let recovered = match recovery {
                    Recovery::NotAsked => Value::Null,
                    Recovery::Whole => true.into(),
                    Recovery::Gap => false.into(),
                };
                json!({"event": "subscribed", "channel": channel, "recovered": recovered})
            }
            Self::Publication {
                channel,
                publication,
            } => {
                let mut event = json!({"event": "publication", "channel": channel});
                for name in ["offset", "data", "info", "tags"] {
                    if let Some(value) = publication.get(name) {
                        event[name] = value.clone();
                    }
                }
                event
            }
            Self::Message { data } => json!({"event": "message", "data": data}),
            Self::Unsubscribed {
                channel,
                code,
                reason,
                next: _, // The code says it.
            } => {
                json!({"event": "unsubscribed", "channel": channel, "code": code, "reason": reason})
            }
            Self::Lost { why } => json!({"event": "disconnected", "reason": why}),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected { client } => write!(f, "connected as {client}"),
            Self::Subscribed { channel, recovery } => {
                let more = match recovery {
                    Recovery::NotAsked => "",
                    Recovery::Whole => ", recovered everything",
                    Recovery::Gap => ", but something was missed",
                };
                write!(f, "subscribed to {channel}{more}")
            }
            Self::Publication {
                channel,
                publication,
            } => {
                let offset = publication["offset"].as_u64();
                let offset = offset
                    .map(|offset| format!(" {offset}"))
                    .unwrap_or_default();
                write!(f, "[{channel}{offset}] {}", publication["data"])
            }
            Self::Message { data } => write!(f, "[to you] {data}"),
            Self::Unsubscribed {
                channel,
                code,
                reason,
                next,
            } => {
                let next = match next {
                    Next::Nothing => "",
                    Next::Subscribe => "; subscribing again",
                    Next::Recover => "; subscribing again and recovering what was missed",
                };
                write!(f, "unsubscribed from {channel}: {reason} ({code}){next}")
            }
            Self::Lost { why } => write!(f, "connection lost ({why}); coming back"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed() -> Feed {
        Feed::new(
            vec!["a".into(), "b".into()],
            "jwt".into(),
            Some(json!({"ticket": 1})),
        )
    }

    fn json_of(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn it_connects_subscribes_and_answers_pings() {
        let mut feed = feed();
        let connect = json_of(&feed.connect());
        assert_eq!(connect["connect"]["token"], "jwt");
        assert_eq!(connect["connect"]["data"], json!({"ticket": 1}));
        let (events, answers) = feed
            .receive("{\"id\":1,\"connect\":{\"client\":\"c1\"}}\n{}")
            .unwrap();
        assert_eq!(
            events,
            [Event::Connected {
                client: "c1".into()
            }]
        );
        assert_eq!(
            json_of(&answers[0]),
            json!({"id": 2, "subscribe": {"channel": "a"}})
        );
        assert_eq!(
            json_of(&answers[1]),
            json!({"id": 3, "subscribe": {"channel": "b"}})
        );
        assert_eq!(answers[2], "{}");
    }

    #[test]
    fn after_a_cut_it_asks_from_the_last_publication_it_printed() {
        let mut feed = feed();
        feed.receive(r#"{"id":1,"connect":{"client":"c1"}}"#)
            .unwrap();
        feed.receive(r#"{"id":2,"subscribe":{"recoverable":true,"epoch":"e","offset":4}}"#)
            .unwrap();
        let (events, _) = feed
            .receive(r#"{"push":{"channel":"a","pub":{"data":{"x":1},"offset":5}}}"#)
            .unwrap();
        assert_eq!(events[0].to_string(), r#"[a 5] {"x":1}"#);
        let (_, answers) = feed
            .receive(r#"{"id":1,"connect":{"client":"c2"}}"#)
            .unwrap();
        let expected = json!({"id": 2, "subscribe": {"channel": "a", "recover": true, "offset": 5, "epoch": "e"}});
        assert_eq!(json_of(&answers[0]), expected);
        // The reply's offset is the top of the stream, which the publications before it lead up to.
        let reply = r#"{"id":2,"subscribe":{"recoverable":true,"recovered":true,"epoch":"e","offset":7,"publications":[{"data":6,"offset":6},{"data":7,"offset":7}]}}"#;
        let (events, _) = feed.receive(reply).unwrap();
        assert_eq!(
            events[0],
            Event::Subscribed {
                channel: "a".into(),
                recovery: Recovery::Whole
            }
        );
        assert_eq!(events.len(), 3);
        assert_eq!(feed.positions["a"].offset, 7);
    }

    #[test]
    fn a_gap_is_told() {
        let mut feed = feed();
        feed.receive(r#"{"id":2,"subscribe":{"recoverable":true,"epoch":"e","offset":4}}"#)
            .unwrap();
        let (events, _) = feed
            .receive(r#"{"id":2,"subscribe":{"recoverable":true,"epoch":"f"}}"#)
            .unwrap();
        assert!(events[0].to_string().contains("missed"));
        assert_eq!(events[0].to_json()["recovered"], false);
        assert_eq!(
            feed.positions["a"],
            Position {
                offset: 0,
                epoch: "f".into()
            }
        );
    }

    #[test]
    fn refusals_and_other_pushes_are_understood() {
        let mut feed = feed();
        let failure = feed
            .receive(r#"{"id":3,"error":{"code":103,"message":"permission denied"}}"#)
            .unwrap_err();
        assert!(
            failure
                .message
                .contains("subscription to b: permission denied (code 103)"),
            "{failure:?}"
        );
        let frame = "{\"push\":{\"channel\":\"a\",\"unsubscribe\":{\"code\":2500,\"reason\":\"gap\"}}}\n{\"push\":{\"message\":{\"data\":\"hi\"}}}";
        let (events, _) = feed.receive(frame).unwrap();
        assert_eq!(events[0].to_json()["code"], 2500);
        assert_eq!(events[1].to_string(), "[to you] \"hi\"");
        assert!(feed.receive("not json").is_err());
    }

    #[test]
    fn after_a_code_that_asks_for_it_it_subscribes_again_from_where_it_was() {
        let mut feed = feed();
        feed.receive(r#"{"id":2,"subscribe":{"recoverable":true,"epoch":"e","offset":4}}"#)
            .unwrap();
        let push = |channel: &str, code: u64| {
            let unsubscribe = json!({"code": code, "reason": "why"});
            json!({"push": {"channel": channel, "unsubscribe": unsubscribe}}).to_string()
        };
        let (events, answers) = feed.receive(&push("a", 2500)).unwrap();
        assert!(
            events[0]
                .to_string()
                .ends_with("recovering what was missed"),
            "{}",
            events[0]
        );
        let expected = json!({"id": 2, "subscribe": {"channel": "a", "recover": true, "offset": 4, "epoch": "e"}});
        assert_eq!(
            answers
                .iter()
                .map(|answer| json_of(answer))
                .collect::<Vec<_>>(),
            [expected]
        );
        let (events, answers) = feed.receive(&push("b", 2501)).unwrap();
        assert!(
            events[0].to_string().ends_with("(2501); subscribing again"),
            "{}",
            events[0]
        );
        assert_eq!(
            json_of(&answers[0]),
            json!({"id": 3, "subscribe": {"channel": "b"}})
        );
        // What the server subscribed us to, the server subscribes us to again.
        let (_, answers) = feed.receive(&push("not-ours", 2500)).unwrap();
        assert_eq!(answers, [""; 0]);
        assert!(!feed.is_over());
    }

    #[test]
    fn what_the_server_ended_for_good_stays_ended_after_a_reconnect() {
        let mut feed = feed();
        let push = |channel: &str| {
            json!({"push": {"channel": channel, "unsubscribe": {"code": 2000, "reason": "out"}}})
                .to_string()
        };
        let (events, answers) = feed.receive(&push("a")).unwrap();
        assert_eq!(events[0].to_string(), "unsubscribed from a: out (2000)");
        assert_eq!((answers.len(), feed.is_over()), (0, false));
        let (_, answers) = feed
            .receive(r#"{"id":1,"connect":{"client":"c2"}}"#)
            .unwrap();
        assert_eq!(answers.len(), 1);
        assert_eq!(
            json_of(&answers[0]),
            json!({"id": 3, "subscribe": {"channel": "b"}})
        );
        feed.receive(&push("b")).unwrap();
        assert!(feed.is_over());
    }
}
