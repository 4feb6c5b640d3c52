//! What the directory keeps of a session and of a seat, as bytes.
//!
//! JSON, so that nodes of different releases read each other: members that a node does not know are skipped. Parsing
//! is total: whatever stands in the store, the answer is an entry or `None` (threat model R7). A value says in which
//! term of its node it was written, so that what a node enters again after it was taken for dead differs.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    cluster::Blob,
    events::EventId,
    hooks::Peer,
    ids::{AppId, ChannelKey, ClientId},
    node::SessionPlace,
    presence::{
        Member,
        roster::{Attending, Visibility},
    },
};

/// More than a token or a plugin may say of a client; what is larger was not written by a node.
const MAX_VALUE_BYTES: usize = 2 * 1024 * 1024;

/// Behind the client in the text of a seat.
const SEAT: char = '/';

/// What a line of a node's book is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Slot {
    Session(ClientId),
    /// A session's place in a channel in which others see it.
    Seat(ChannelKey, ClientId),
}

impl Slot {
    /// For stores. Distinct slots have distinct texts: a client id is of one length.
    pub fn to_text(&self) -> String {
        match self {
            Self::Session(client) => client.to_string(),
            Self::Seat(key, client) => format!("{client}{SEAT}{}", key.as_str()),
        }
    }

    /// Reads what [`Slot::to_text`] gave to a store; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let Some((client, key)) = text.split_once(SEAT) else {
            return parse_client(text).map(Self::Session);
        };
        Some(Self::Seat(ChannelKey::parse(key)?, parse_client(client)?))
    }
}

/// In the one form that nodes write.
fn parse_client(text: &str) -> Option<ClientId> {
    ClientId::parse(text).filter(|client| client.to_string() == text)
}

/// A session as its node entered it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionEntry {
    pub app: AppId,
    pub place: SessionPlace,
}

#[derive(Serialize, Deserialize)]
struct SessionForm {
    app: String,
    term: u64,
    #[serde(flatten)]
    place: SessionPlace,
}

/// A seat as its node entered it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeatEntry {
    pub member: Member,
    pub visibility: Visibility,
    /// The event of its end.
    pub end: EventId,
}

#[derive(Serialize, Deserialize)]
struct SeatForm {
    term: u64,
    user: String,
    #[serde(default)]
    conn_info: Blob,
    #[serde(default)]
    chan_info: Blob,
    present: bool,
    announced: bool,
    end: String,
}

pub(crate) fn encode_session(
    app: &AppId,
    (peer, since_ms): (&Peer, u64),
    node: &str,
    term: u64,
) -> Bytes {
    let form = SessionForm {
        app: app.as_str().to_owned(),
        term,
        place: SessionPlace::of(peer, since_ms, node),
    };
    encode(&form)
}

pub(crate) fn decode_session(value: &[u8]) -> Option<SessionEntry> {
    let SessionForm {
        app,
        term: _,
        place,
    } = decode(value)?;
    Some(SessionEntry {
        app: AppId::parse(&app).ok()?,
        place,
    })
}

pub(crate) fn encode_seat(attending: &Attending, term: u64) -> Bytes {
    let Attending {
        member,
        visibility,
        end,
    } = attending;
    encode(&SeatForm {
        term,
        user: member.user.as_ref().to_owned(),
        conn_info: Blob(member.conn_info.clone()),
        chan_info: Blob(member.chan_info.clone()),
        present: visibility.is_present,
        announced: visibility.is_announced,
        end: end.to_string(),
    })
}

pub(crate) fn decode_seat(client: ClientId, value: &[u8]) -> Option<SeatEntry> {
    let SeatForm {
        term: _,
        user,
        conn_info,
        chan_info,
        present,
        announced,
        end,
    } = decode(value)?;
    Some(SeatEntry {
        member: Member {
            client,
            user: Arc::from(user),
            conn_info: conn_info.0,
            chan_info: chan_info.0,
        },
        visibility: Visibility {
            is_present: present,
            is_announced: announced,
        },
        end: EventId::parse(&end)?,
    })
}

fn encode(form: &impl Serialize) -> Bytes {
    serde_json::to_vec(form).unwrap_or_default().into()
}

fn decode<T: DeserializeOwned>(value: &[u8]) -> Option<T> {
    if value.len() > MAX_VALUE_BYTES {
        return None;
    }
    serde_json::from_slice(value).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn member(user: &str, conn: &[u8]) -> Member {
        Member {
            client: ClientId::random(),
            user: user.into(),
            conn_info: Bytes::copy_from_slice(conn),
            chan_info: "{}".into(),
        }
    }

    #[test]
    fn slots_give_back_what_they_are_about_and_nothing_else_is_one() {
        let client = ClientId::random();
        let key = ChannelKey::new(&AppId::default_app(), "a/b");
        for slot in [Slot::Session(client), Slot::Seat(key, client)] {
            assert_eq!(Slot::parse(&slot.to_text()), Some(slot));
        }
        let other_form = client.to_string().replace('-', "");
        for foreign in ["", "x", "/", &other_form, &format!("{client}/x")] {
            assert_eq!(Slot::parse(foreign), None, "{foreign:?}");
        }
    }

    #[test]
    fn a_session_gives_back_its_place_and_differs_by_term() {
        let peer = crate::test_wire::peer();
        let app = AppId::default_app();
        let entered = |term| encode_session(&app, (&peer, 7), "node", term);
        assert_ne!(entered(1), entered(2));
        let entry = decode_session(&entered(1)).unwrap();
        assert_eq!((entry.app, entry.place.since_ms), (app, 7));
        assert_eq!(entry.place.client, peer.client.to_string());
    }

    proptest! {
        #[test]
        fn a_seat_gives_back_its_member(
            user in ".{0,20}",
            conn in proptest::collection::vec(any::<u8>(), 0..20),
            is_present: bool,
            is_announced: bool,
        ) {
            let member = member(&user, &conn);
            let visibility = Visibility { is_present, is_announced };
            let end = EventId::random();
            let attending = Attending { member: Arc::new(member.clone()), visibility, end };
            let value = encode_seat(&attending, 1);
            prop_assert_ne!(&value, &encode_seat(&attending, 2));
            let client = member.client;
            prop_assert_eq!(decode_seat(client, &value), Some(SeatEntry { member, visibility, end }));
        }

        #[test]
        fn r7_no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode_session(&bytes);
            let _ = decode_seat(ClientId::random(), &bytes);
            let _ = Slot::parse(&String::from_utf8_lossy(&bytes));
        }
    }
}
