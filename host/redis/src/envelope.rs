//! What travels over pub/sub and lies in streams: publications, joins and leaves in a compact form of our own.
//!
//! Owns both directions of the form. Whoever can write to Redis may be hostile (threat model R7): what does not decode
//! to exactly what we would have encoded is an error, nothing is allocated by a declared length, and there is no panic.
//!
//! A payload is a letter and what it announces: `n` a publication outside a stream; `p` eight letters of epoch, the
//! offset in digits, a colon, a publication (put together by the publish script); `j` and `l` a session that joined or
//! left. A publication is a byte of flags, then who published it and tags where the flags say so, then the data up to
//! the end. Texts and counts have their length as a varint in front.

use std::{collections::BTreeMap, sync::Arc};

use bytes::{Buf as _, Bytes};
use tidegate_protocol::{ClientInfo, Publication, Raw, StreamPosition};

/// Longer than any publication that the server takes, with its envelope.
pub const MAX_PAYLOAD_BYTES: usize = 8 * 1024 * 1024;

/// Letters of an epoch, as in the reference.
pub(crate) const EPOCH_LEN: usize = 8;

/// Digits of the greatest offset: those of a 64-bit number that Lua still counts exactly are fewer.
const MAX_OFFSET_DIGITS: usize = 19;

const HAS_INFO: u8 = 1;
const HAS_TAGS: u8 = 2;

/// What a payload says.
#[derive(Debug, Clone, PartialEq)]
pub enum Envelope {
    Publication {
        /// `None` outside a stream.
        position: Option<StreamPosition>,
        publication: Arc<Publication>,
    },
    Join(ClientInfo),
    Leave(ClientInfo),
}

/// The bytes are not what a node of ours sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadEnvelope {
    #[error("a payload is too long")]
    TooLong,
    #[error("a payload ends too early")]
    Truncated,
    #[error("a payload is of an unknown kind")]
    UnknownKind,
    #[error("a payload names no position")]
    Position,
    #[error("a payload holds something else than was announced")]
    Malformed,
}

impl BadEnvelope {
    /// For metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::Truncated => "truncated",
            Self::UnknownKind => "unknown_kind",
            Self::Position => "position",
            Self::Malformed => "malformed",
        }
    }
}

impl Envelope {
    /// Reads a payload; data stay where they are.
    ///
    /// # Errors
    /// [`BadEnvelope`] for whatever our own nodes would not have sent.
    pub fn parse(payload: Bytes) -> Result<Self, BadEnvelope> {
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(BadEnvelope::TooLong);
        }
        let mut rest = payload;
        match take_byte(&mut rest)? {
            b'n' => Ok(Self::Publication {
                position: None,
                publication: Arc::new(parse_publication(rest)?),
            }),
            b'p' => {
                let end = rest.iter().position(|byte| *byte == b':');
                let end = end.ok_or(BadEnvelope::Position)?;
                let position = rest.split_to(end);
                rest.advance(1);
                let position = parse_position(&position).ok_or(BadEnvelope::Position)?;
                let mut publication = parse_publication(rest)?;
                place(&mut publication, &position);
                Ok(Self::Publication {
                    position: Some(position),
                    publication: Arc::new(publication),
                })
            }
            b'j' => Ok(Self::Join(parse_last_info(rest)?)),
            b'l' => Ok(Self::Leave(parse_last_info(rest)?)),
            _ => Err(BadEnvelope::UnknownKind),
        }
    }

    /// The payload of a session that joined.
    pub fn encode_join(info: &ClientInfo) -> Vec<u8> {
        encode_info_payload(b'j', info)
    }

    /// The payload of a session that left.
    pub fn encode_leave(info: &ClientInfo) -> Vec<u8> {
        encode_info_payload(b'l', info)
    }

    /// The payload of a publication outside a stream.
    pub fn encode_plain(publication: &Publication) -> Vec<u8> {
        let mut payload = vec![b'n'];
        encode_publication(publication, &mut payload);
        payload
    }
}

/// Sets offset and, on the first publication, the epoch: a subscriber of the empty stream learns it from there.
pub(crate) fn place(publication: &mut Publication, position: &StreamPosition) {
    publication.offset = position.offset;
    if position.offset == 1 {
        publication.epoch.clone_from(&position.epoch);
    }
}

/// Reads epoch and offset as the scripts write them; `None` for nonsense.
pub(crate) fn parse_position(text: &[u8]) -> Option<StreamPosition> {
    let (epoch, offset) = text.split_at_checked(EPOCH_LEN)?;
    let is_epoch = epoch.iter().all(u8::is_ascii_lowercase);
    let is_number = (1..=MAX_OFFSET_DIGITS).contains(&offset.len())
        && offset.iter().all(u8::is_ascii_digit)
        && (offset[0] != b'0' || offset.len() == 1);
    if !is_epoch || !is_number {
        return None;
    }
    Some(StreamPosition {
        offset: std::str::from_utf8(offset).ok()?.parse().ok()?,
        epoch: std::str::from_utf8(epoch).ok()?.to_owned(),
    })
}

/// Appends what a stream keeps of a publication.
pub(crate) fn encode_publication(publication: &Publication, to: &mut Vec<u8>) {
    let Publication {
        data, info, tags, ..
    } = publication;
    to.reserve(data.len() + 2);
    let has_info = if info.is_some() { HAS_INFO } else { 0 };
    let has_tags = if tags.is_empty() { 0 } else { HAS_TAGS };
    to.push(has_info | has_tags);
    if let Some(info) = info {
        encode_info(info, to);
    }
    if !tags.is_empty() {
        put_varint(tags.len(), to);
        for (key, value) in tags {
            put(key.as_bytes(), to);
            put(value.as_bytes(), to);
        }
    }
    to.extend_from_slice(data.as_bytes());
}

/// Reads what [`encode_publication`] wrote; offset and epoch are not in it.
pub(crate) fn parse_publication(mut rest: Bytes) -> Result<Publication, BadEnvelope> {
    let flags = take_byte(&mut rest)?;
    if flags & !(HAS_INFO | HAS_TAGS) != 0 {
        return Err(BadEnvelope::Malformed);
    }
    let info = if flags & HAS_INFO == 0 {
        None
    } else {
        Some(Box::new(parse_info(&mut rest)?))
    };
    let tags = if flags & HAS_TAGS == 0 {
        BTreeMap::new()
    } else {
        parse_tags(&mut rest)?
    };
    Ok(Publication {
        // Not taken for checked JSON, whatever the sender knew.
        data: Raw::from(rest),
        info,
        tags,
        ..Publication::default()
    })
}

fn parse_tags(rest: &mut Bytes) -> Result<BTreeMap<String, String>, BadEnvelope> {
    let num_tags = take_varint(rest)?;
    let mut tags = BTreeMap::new();
    for _ in 0..num_tags {
        let (key, value) = (take_text(rest)?, take_text(rest)?);
        // In order and each once, as a map is written.
        if tags.last_key_value().is_some_and(|(last, _)| *last >= key) {
            return Err(BadEnvelope::Malformed);
        }
        tags.insert(key, value);
    }
    if tags.is_empty() {
        return Err(BadEnvelope::Malformed);
    }
    Ok(tags)
}

fn encode_info_payload(kind: u8, info: &ClientInfo) -> Vec<u8> {
    let mut payload = vec![kind];
    encode_info(info, &mut payload);
    payload
}

/// Appends what is shown of a session.
pub fn encode_info(info: &ClientInfo, to: &mut Vec<u8>) {
    let ClientInfo {
        user,
        client,
        conn_info,
        chan_info,
    } = info;
    put(user.as_bytes(), to);
    put(client.as_bytes(), to);
    put(conn_info.as_bytes(), to);
    put(chan_info.as_bytes(), to);
}

/// Reads what [`encode_info`] wrote, and nothing behind it.
///
/// # Errors
/// [`BadEnvelope`].
pub fn parse_last_info(mut rest: Bytes) -> Result<ClientInfo, BadEnvelope> {
    let info = parse_info(&mut rest)?;
    if rest.is_empty() {
        Ok(info)
    } else {
        Err(BadEnvelope::Malformed)
    }
}

fn parse_info(rest: &mut Bytes) -> Result<ClientInfo, BadEnvelope> {
    Ok(ClientInfo {
        user: take_text(rest)?,
        client: take_text(rest)?,
        conn_info: Raw::from(take(rest)?),
        chan_info: Raw::from(take(rest)?),
    })
}

fn put(bytes: &[u8], to: &mut Vec<u8>) {
    put_varint(bytes.len(), to);
    to.extend_from_slice(bytes);
}

fn put_varint(mut value: usize, to: &mut Vec<u8>) {
    loop {
        let low = u8::try_from(value & 0x7f).unwrap_or_default();
        value >>= 7;
        if value == 0 {
            to.push(low);
            return;
        }
        to.push(low | 0x80);
    }
}

fn take_byte(rest: &mut Bytes) -> Result<u8, BadEnvelope> {
    rest.try_get_u8().map_err(|_| BadEnvelope::Truncated)
}

/// Four bytes at most, since no length is above [`MAX_PAYLOAD_BYTES`]; each number has one form.
fn take_varint(rest: &mut Bytes) -> Result<usize, BadEnvelope> {
    let mut value = 0;
    for shift in [0, 7, 14, 21] {
        let byte = take_byte(rest)?;
        value |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            let is_padded = byte == 0 && shift > 0;
            return if is_padded {
                Err(BadEnvelope::Malformed)
            } else {
                Ok(value)
            };
        }
    }
    Err(BadEnvelope::Malformed)
}

fn take(rest: &mut Bytes) -> Result<Bytes, BadEnvelope> {
    let len = take_varint(rest)?;
    if len > rest.len() {
        return Err(BadEnvelope::Truncated);
    }
    Ok(rest.split_to(len))
}

fn take_text(rest: &mut Bytes) -> Result<String, BadEnvelope> {
    let bytes = take(rest)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| BadEnvelope::Malformed)?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn publication(
        data: &[u8],
        user: Option<String>,
        tags: BTreeMap<String, String>,
    ) -> Publication {
        Publication {
            data: Raw::from(Bytes::copy_from_slice(data)),
            info: user.map(|user| {
                Box::new(ClientInfo {
                    user,
                    client: "c".to_owned(),
                    conn_info: Raw::from("{}"),
                    chan_info: Raw::default(),
                })
            }),
            tags,
            ..Publication::default()
        }
    }

    #[track_caller]
    fn check(payload: &[u8], expected: BadEnvelope) {
        let parsed = Envelope::parse(Bytes::copy_from_slice(payload));
        assert_eq!(
            parsed,
            Err(expected),
            "{:?}",
            String::from_utf8_lossy(payload)
        );
    }

    #[test]
    fn a_position_in_front_places_the_publication() {
        let parsed = Envelope::parse(Bytes::from_static(b"pabcdefgh1:\0{}")).unwrap();
        let Envelope::Publication {
            position: Some(position),
            publication,
        } = parsed
        else {
            panic!("{parsed:?}");
        };
        assert_eq!((position.offset, &*position.epoch), (1, "abcdefgh"));
        assert_eq!((publication.offset, &*publication.epoch), (1, "abcdefgh"));
        let later = Envelope::parse(Bytes::from_static(b"pabcdefgh12:\0{}")).unwrap();
        let Envelope::Publication { publication, .. } = later else {
            panic!("{later:?}");
        };
        assert_eq!((publication.offset, &*publication.epoch), (12, ""));
    }

    #[test]
    fn r7_what_our_nodes_do_not_send_is_refused() {
        check(b"", BadEnvelope::Truncated);
        check(b"n", BadEnvelope::Truncated);
        check(b"x\0{}", BadEnvelope::UnknownKind);
        check(b"__p1:5:abc__", BadEnvelope::UnknownKind);
        for position in [
            "abcdefgh",
            "abcdefgh-5",
            "abcdefgh01",
            "abcdefgh+1",
            "Abcdefgh1",
            "1",
            "",
            "abcdefgh99999999999999999999",
            "abcdefgh1e5",
            "abcdefgh18446744073709551616",
        ] {
            check(
                format!("p{position}:\0{{}}").as_bytes(),
                BadEnvelope::Position,
            );
        }
        check(b"pabcdefgh1", BadEnvelope::Position);
        check(b"n\x04{}", BadEnvelope::Malformed);
        check(b"n\x02\x00{}", BadEnvelope::Malformed);
        check(b"n\x02\x02\x01b\x00\x01a\x00{}", BadEnvelope::Malformed);
        check(b"n\x02\x01\x80\x00\x00", BadEnvelope::Malformed);
        check(b"n\x02\xff\xff\xff\x7f\x01a\x00", BadEnvelope::Truncated);
        check(b"n\x01\x05ab", BadEnvelope::Truncated);
        check(
            b"n\x01\xff\xff\xff\xff\xff\xff\xff\xff",
            BadEnvelope::Malformed,
        );
        check(b"j\x01\xff\x00\x00\x00", BadEnvelope::Malformed);
        check(b"l\x00\x00\x00\x00more", BadEnvelope::Malformed);
        check(&vec![b'n'; MAX_PAYLOAD_BYTES + 1], BadEnvelope::TooLong);
    }

    #[test]
    fn joins_and_leaves_come_back() {
        let info = *publication(b"", Some("u".to_owned()), BTreeMap::new())
            .info
            .unwrap();
        let join = Envelope::parse(Envelope::encode_join(&info).into());
        assert_eq!(join, Ok(Envelope::Join(info.clone())));
        let leave = Envelope::parse(Envelope::encode_leave(&info).into());
        assert_eq!(leave, Ok(Envelope::Leave(info)));
    }

    proptest! {
        #[test]
        fn publications_come_back(
            data in proptest::collection::vec(any::<u8>(), 0..300),
            user in proptest::option::of(".{0,200}"),
            tags in proptest::collection::btree_map(".{0,5}", ".{0,200}", 0..4),
        ) {
            let publication = publication(&data, user, tags);
            let parsed = Envelope::parse(Envelope::encode_plain(&publication).into());
            let expected = Envelope::Publication { position: None, publication: Arc::new(publication) };
            prop_assert_eq!(parsed, Ok(expected));
        }

        #[test]
        fn r7_any_bytes_end_in_a_value_that_encodes_to_them_or_in_an_error(
            kind in "[npjlx]", bytes in proptest::collection::vec(0_u8..6, 0..40),
        ) {
            let payload = [kind.as_bytes(), &bytes].concat();
            match Envelope::parse(payload.clone().into()) {
                Ok(Envelope::Publication { position: None, publication }) => {
                    prop_assert_eq!(Envelope::encode_plain(&publication), payload);
                }
                Ok(Envelope::Join(info)) => prop_assert_eq!(Envelope::encode_join(&info), payload),
                Ok(Envelope::Leave(info)) => prop_assert_eq!(Envelope::encode_leave(&info), payload),
                Ok(Envelope::Publication { position: Some(_), .. }) | Err(_) => {}
            }
        }

        #[test]
        fn r7_a_cut_payload_is_no_other_one(cut in 0_usize..40) {
            let tags = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
            let whole = Envelope::encode_plain(&publication(b"", Some("user".to_owned()), tags));
            let cut = cut % whole.len();
            prop_assert!(Envelope::parse(whole[..cut].to_vec().into()).is_err());
        }
    }
}
