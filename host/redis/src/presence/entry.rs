//! What is kept of a member: a version, the user, and what it shows.
//!
//! The scripts read the version's place and the user out of it, and nothing else. Parsing is total: whatever stands
//! in Redis, the answer is a member or `None` (threat model R7).

use bytes::Bytes;
use tidegate_realtime::{ids::ClientId, presence::Member};

/// Of this form. A node that meets another one leaves the member out.
const VERSION: u8 = 1;

/// More than a token or a plugin may say of a client; what is larger was not written by a node.
const MAX_ENTRY_BYTES: usize = 1024 * 1024;

/// The version, then user, `conn_info` and `chan_info`, each behind its length in four bytes.
pub(super) fn encode(member: &Member) -> Vec<u8> {
    let parts: [&[u8]; 3] = [member.user.as_bytes(), &member.conn_info, &member.chan_info];
    let num_bytes = parts.iter().map(|part| 4 + part.len()).sum::<usize>();
    let mut entry = Vec::with_capacity(1 + num_bytes);
    entry.push(VERSION);
    for part in parts {
        let len = u32::try_from(part.len()).unwrap_or(u32::MAX);
        entry.extend_from_slice(&len.to_be_bytes());
        entry.extend_from_slice(part);
    }
    entry
}

pub(super) fn decode(client: ClientId, entry: &[u8]) -> Option<Member> {
    if entry.len() > MAX_ENTRY_BYTES {
        return None;
    }
    let rest = entry.strip_prefix(&[VERSION])?;
    let (user, rest) = part(rest)?;
    let (conn_info, rest) = part(rest)?;
    let (chan_info, rest) = part(rest)?;
    if !rest.is_empty() {
        return None;
    }
    Some(Member {
        client,
        user: std::str::from_utf8(user).ok()?.into(),
        conn_info: Bytes::copy_from_slice(conn_info),
        chan_info: Bytes::copy_from_slice(chan_info),
    })
}

fn part(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let len = usize::try_from(u32::from_be_bytes(*len)).ok()?;
    rest.split_at_checked(len)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_entry_gives_back_its_member(user in ".{0,20}", conn in "[a-z{}]{0,20}", chan in "[a-z{}]{0,20}") {
            let member = Member {
                client: ClientId::random(),
                user: user.as_str().into(),
                conn_info: conn.into(),
                chan_info: chan.into(),
            };
            prop_assert_eq!(decode(member.client, &encode(&member)), Some(member));
        }

        #[test]
        fn r7_anything_else_is_nobody_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let client = ClientId::random();
            if let Some(member) = decode(client, &bytes) {
                prop_assert_eq!(encode(&member), bytes);
            }
        }
    }

    #[test]
    fn r7_a_cut_or_longer_entry_and_another_version_are_nobody() {
        let member = Member {
            client: ClientId::random(),
            user: "ann".into(),
            conn_info: "{}".into(),
            chan_info: "".into(),
        };
        let entry = encode(&member);
        for len in 0..entry.len() {
            assert_eq!(decode(member.client, &entry[..len]), None);
        }
        assert_eq!(decode(member.client, &[&entry[..], b"x"].concat()), None);
        assert_eq!(decode(member.client, &[&[2], &entry[1..]].concat()), None);
    }
}
