//! What nodes say to each other, as bytes.
//!
//! JSON with a version, so that nodes of different releases live in one cluster while it is upgraded: members that
//! a node does not know are skipped, kinds that it does not know are reported as [`Unread::Strange`] and have no
//! effect. [`VERSION`] changes when an old node would misread what a new one says. Nothing here is trusted: sizes
//! are bounded before anything is read, and what an order says is checked.

use std::{borrow::Cow, collections::BTreeMap};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::value::RawValue;
use tidegate_protocol::{
    DisconnectCode,
    codes::{CUSTOM_DISCONNECT_CODES, MAX_CLOSE_REASON_BYTES},
    server_api::{NodeMetrics, ProcessInfo},
};

use super::NodeUid;
use crate::{
    entrance::Selection,
    node::{RunPlace, SessionFilter, SessionPlace, are_sound_metrics},
    session::{Enlistment, MAX_LABEL_BYTES},
};

/// Of all messages.
const VERSION: u32 = 1;

/// Largest message: the largest request of the server API (4 MiB), its data in base64, and what is around it.
const MAX_MESSAGE_BYTES: usize = 8 * 1024 * 1024;

/// Largest content to be merged: the largest value that a plugin keeps, in base64, and what is around it.
const MAX_GOSSIP_BYTES: usize = 256 * 1024;

/// Longest name and version of a node.
const MAX_NAME_BYTES: usize = 255;

/// Why a message has no effect.
#[derive(Debug)]
pub(super) enum Unread {
    /// It is no message of ours; the reason is of a closed set.
    Bad(&'static str),
    /// A kind that this release does not know; of an ask also who waits for what.
    Strange(NodeUid, Option<AskHead>),
}

#[derive(Debug)]
pub(super) enum Message {
    Announce(Announcement),
    /// The node is about to stop.
    Leave,
    Ask(Box<Ask>),
    Answer(NodeAnswer),
    /// Content to be merged, as JSON; what it says is not the cluster's business.
    Gossip(Box<RawValue>),
}

/// What a node says of itself every few seconds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Announcement {
    pub(crate) name: String,
    pub(crate) version: String,
    /// Seconds.
    pub(crate) uptime: u32,
    /// The apps that have something on the node.
    #[serde(default)]
    pub(crate) apps: BTreeMap<String, AppCounts>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) process: Option<ProcessInfo>,
    /// `None`: what was said of them last still holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) metrics: Option<NodeMetrics>,
    #[serde(default)]
    pub(crate) greeting: Greeting,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Greeting {
    /// The node knows nobody yet and wants to hear of the others at once.
    Hello,
    #[default]
    #[serde(other)]
    Again,
}

/// How much of an app is on a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct AppCounts {
    pub(crate) clients: u32,
    pub(crate) users: u32,
    pub(crate) subs: u32,
    pub(crate) channels: u32,
}

/// Something that every node is asked.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) head: AskHead,
    pub(super) what: What,
}

/// What can be read of any ask.
#[derive(Debug, Clone)]
pub(super) struct AskHead {
    /// Unlike that of any other ask of the node.
    pub(super) id: u64,
    pub(super) app: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum What {
    Order(Box<Order>),
    Query(Query),
}

/// Something that every node shall do.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    Disconnect {
        of: Selection,
        code: u32,
        reason: String,
    },
    /// An empty channel is all of them.
    Unsubscribe { of: Selection, channel: String },
    Refresh {
        of: Selection,
        is_expired: bool,
        expires_at: Option<u64>,
        info: Blob,
    },
    Subscribe {
        of: Selection,
        enlistment: Enlistment,
    },
    /// A `message` push.
    Message { of: Selection, data: Blob },
}

/// Something that every node is to say.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Query {
    /// The app's channels that match and how many members they have.
    Channels { pattern: String },
    /// The app's sessions.
    Sessions(SessionFilter),
    /// The last runs of the app's plugins by the clock.
    Runs,
}

/// A part of a node's answer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct NodeAnswer {
    pub(super) id: u64,
    pub(super) part: u32,
    pub(super) parts: u32,
    pub(super) reply: Reply,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    Done,
    Channels(BTreeMap<String, u32>),
    Sessions(Vec<SessionPlace>),
    Runs(Vec<RunPlace>),
    /// The node does not know what it was asked, or who asked does not know the answer.
    #[serde(other)]
    Unknown,
}

/// Bytes that need not be JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Blob(pub(crate) Bytes);

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text.as_bytes());
        bytes
            .map(|bytes| Self(bytes.into()))
            .map_err(de::Error::custom)
    }
}

impl Order {
    pub(crate) fn selection(&self) -> &Selection {
        match self {
            Self::Disconnect { of, .. }
            | Self::Unsubscribe { of, .. }
            | Self::Refresh { of, .. }
            | Self::Subscribe { of, .. }
            | Self::Message { of, .. } => of,
        }
    }

    /// Whether it is sent again until it was acknowledged. A message to users is lost with its node, as a push is.
    pub(crate) fn is_acknowledged(&self) -> bool {
        match self {
            Self::Disconnect { .. }
            | Self::Unsubscribe { .. }
            | Self::Refresh { .. }
            | Self::Subscribe { .. } => true,
            Self::Message { .. } => false,
        }
    }

    /// Whether clients can make sense of it; the server API has checked what comes from it.
    fn is_sound(&self) -> bool {
        match self {
            Self::Disconnect { code, reason, .. } => {
                let is_known = CUSTOM_DISCONNECT_CODES.contains(code)
                    || DisconnectCode::from_code(*code).is_some();
                is_known && reason.len() <= MAX_CLOSE_REASON_BYTES
            }
            Self::Subscribe { enlistment, .. } => {
                let since = enlistment.recover_since.as_ref();
                since.is_none_or(|since| since.epoch.len() <= MAX_LABEL_BYTES)
            }
            Self::Unsubscribe { .. } | Self::Refresh { .. } | Self::Message { .. } => true,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    v: u32,
    #[serde(borrow)]
    from: Cow<'a, str>,
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    body: Option<&'a RawValue>,
}

#[derive(Serialize, Deserialize)]
struct AskBody<'a> {
    id: u64,
    app: String,
    #[serde(borrow)]
    what: &'a RawValue,
}

impl Message {
    pub(super) fn encode(&self, from: &NodeUid) -> Bytes {
        let (kind, body) = match self {
            Self::Announce(announcement) => ("announce", Some(raw(announcement))),
            Self::Leave => ("leave", None),
            Self::Ask(ask) => {
                let Ask { head, what } = &**ask;
                let what = raw(what);
                let body = AskBody {
                    id: head.id,
                    app: head.app.clone(),
                    what: &what,
                };
                ("ask", Some(raw(&body)))
            }
            Self::Answer(answer) => ("answer", Some(raw(answer))),
            Self::Gossip(text) => ("gossip", Some(text.clone())),
        };
        let envelope = Envelope {
            v: VERSION,
            from: from.as_str().into(),
            kind: kind.into(),
            body: body.as_deref(),
        };
        serde_json::to_vec(&envelope).unwrap_or_default().into()
    }
}

fn raw(value: &impl Serialize) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("numbers, texts and maps by text are JSON")
}

/// Reads a message and who sent it.
pub(super) fn parse(payload: &[u8]) -> Result<(NodeUid, Message), Unread> {
    if payload.len() > MAX_MESSAGE_BYTES {
        return Err(Unread::Bad("too_large"));
    }
    let envelope: Envelope<'_> = read(payload)?;
    if envelope.v != VERSION {
        return Err(Unread::Bad("version"));
    }
    let from = NodeUid::parse(&envelope.from).ok_or(Unread::Bad("sender"))?;
    let body = envelope.body.map_or("null", RawValue::get);
    let message = match &*envelope.kind {
        "announce" => {
            let announcement: Announcement = read(body.as_bytes())?;
            let names = [&announcement.name, &announcement.version];
            if names.iter().any(|name| name.len() > MAX_NAME_BYTES) {
                return Err(Unread::Bad("too_large"));
            }
            if !announcement.metrics.as_ref().is_none_or(are_sound_metrics) {
                return Err(Unread::Bad("too_large"));
            }
            Message::Announce(announcement)
        }
        "leave" => Message::Leave,
        "ask" => {
            let ask: AskBody<'_> = read(body.as_bytes())?;
            let (id, app) = (ask.id, ask.app);
            let head = AskHead { id, app };
            let Ok(what) = serde_json::from_str(ask.what.get()) else {
                return Err(Unread::Strange(from, Some(head)));
            };
            if matches!(&what, What::Order(order) if !order.is_sound()) {
                return Err(Unread::Bad("unsound"));
            }
            Message::Ask(Box::new(Ask { head, what }))
        }
        "answer" => Message::Answer(read(body.as_bytes())?),
        "gossip" if body.len() > MAX_GOSSIP_BYTES => return Err(Unread::Bad("too_large")),
        "gossip" => Message::Gossip(read(body.as_bytes())?),
        _ => return Err(Unread::Strange(from, None)),
    };
    Ok((from, message))
}

fn read<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, Unread> {
    serde_json::from_slice(text).map_err(|_| Unread::Bad("syntax"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ask(what: What) -> Message {
        Message::Ask(Box::new(Ask {
            head: AskHead {
                id: 7,
                app: "default".to_owned(),
            },
            what,
        }))
    }

    fn disconnect(code: u32) -> Message {
        ask(What::Order(Box::new(Order::Disconnect {
            of: Selection::of_user("ann"),
            code,
            reason: "go".to_owned(),
        })))
    }

    #[test]
    fn what_was_said_is_what_is_heard() {
        let uid = NodeUid::random();
        let refresh = Order::Refresh {
            of: Selection::of_user("ann"),
            is_expired: false,
            expires_at: Some(9),
            info: Blob(Bytes::from_static(b"\xff\x00")),
        };
        let rows = [
            Message::Announce(Announcement {
                apps: BTreeMap::from([("default".to_owned(), AppCounts::default())]),
                process: Some(ProcessInfo { cpu: 12.5, rss: 9 }),
                metrics: Some(NodeMetrics {
                    interval: 60.0,
                    items: BTreeMap::from([("a".to_owned(), 2.0)]),
                }),
                greeting: Greeting::Hello,
                ..Announcement::default()
            }),
            Message::Leave,
            disconnect(4001),
            ask(What::Order(Box::new(refresh))),
            ask(What::Query(Query::Channels {
                pattern: "a*".to_owned(),
            })),
            Message::Answer(NodeAnswer {
                id: 7,
                part: 0,
                parts: 1,
                reply: Reply::Channels(BTreeMap::from([("a\"b".to_owned(), 3)])),
            }),
            Message::Gossip(raw(&[1, 2])),
        ];
        for said in rows {
            let (from, heard) = parse(&said.encode(&uid)).unwrap();
            assert_eq!(from, uid);
            assert_eq!(format!("{heard:?}"), format!("{said:?}"));
        }
    }

    #[test]
    fn messages_of_other_releases_have_no_effect_and_are_told_apart() {
        let uid = NodeUid::random();
        let text = |message: Message| String::from_utf8(message.encode(&uid).to_vec()).unwrap();
        let newer = text(disconnect(4001)).replace("\"disconnect\"", "\"embrace\"");
        let strange = parse(newer.as_bytes());
        assert!(
            matches!(strange, Err(Unread::Strange(from, Some(head))) if from == uid && head.id == 7)
        );
        let newer = text(Message::Leave).replace("\"leave\"", "\"dance\"");
        assert!(matches!(
            parse(newer.as_bytes()),
            Err(Unread::Strange(_, None))
        ));
        let newer = text(Message::Leave).replace("\"v\":1", "\"v\":2");
        assert!(matches!(
            parse(newer.as_bytes()),
            Err(Unread::Bad("version"))
        ));
        // Members are added without a new version.
        let newer = text(disconnect(4001)).replace("\"code\"", "\"mood\":1,\"code\"");
        assert!(parse(newer.as_bytes()).is_ok());
        let answer = Message::Answer(NodeAnswer {
            id: 1,
            part: 0,
            parts: 1,
            reply: Reply::Done,
        });
        let newer = text(answer).replace("\"done\"", "\"perhaps\"");
        let (_, Message::Answer(answer)) = parse(newer.as_bytes()).unwrap() else {
            panic!("an answer");
        };
        assert!(matches!(answer.reply, Reply::Unknown));
    }

    #[test]
    fn hostile_messages_are_refused_by_reason() {
        let uid = NodeUid::random();
        let reason = |bytes: &[u8]| match parse(bytes) {
            Err(Unread::Bad(reason)) => reason,
            other => panic!("{other:?}"),
        };
        assert_eq!(reason(b""), "syntax");
        assert_eq!(reason(b"[]"), "syntax");
        assert_eq!(reason(&vec![b'['; MAX_MESSAGE_BYTES]), "syntax");
        assert_eq!(reason(&vec![b' '; MAX_MESSAGE_BYTES + 1]), "too_large");
        assert_eq!(reason(br#"{"v":1,"from":"me","kind":"leave"}"#), "sender");
        assert_eq!(reason(&disconnect(17).encode(&uid)), "unsound");
        let long = Announcement {
            name: "x".repeat(256),
            ..Announcement::default()
        };
        assert_eq!(reason(&Message::Announce(long).encode(&uid)), "too_large");
        let long = Announcement {
            metrics: Some(NodeMetrics {
                interval: 60.0,
                items: BTreeMap::from([("x".repeat(129), 1.0)]),
            }),
            ..Announcement::default()
        };
        assert_eq!(reason(&Message::Announce(long).encode(&uid)), "too_large");
        let much = Message::Gossip(raw(&"x".repeat(MAX_GOSSIP_BYTES)));
        assert_eq!(reason(&much.encode(&uid)), "too_large");
    }

    proptest! {
        #[test]
        fn no_bytes_and_no_damage_make_it_panic(
            noise in proptest::collection::vec(any::<u8>(), 0..200),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let _ = parse(&noise);
            let mut damaged = disconnect(4001).encode(&NodeUid::random()).to_vec();
            let at = at.index(damaged.len());
            damaged[at] = byte;
            let _ = parse(&damaged);
        }
    }
}
