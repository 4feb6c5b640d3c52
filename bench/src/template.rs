//! Texts with places to fill in: `{seq}` (ten digits), `{ts}` (nineteen digits of nanoseconds), `{id}`, `{group}`.

use std::io::Write as _;

/// A text cut at its places once, so that rendering is copying.
#[derive(Debug, Clone)]
pub struct Template(Vec<Piece>);

#[derive(Debug, Clone)]
enum Piece {
    Text(String),
    Sequence,
    Timestamp,
    Id,
    Group,
}

/// What is filled in.
#[derive(Debug, Clone, Copy, Default)]
pub struct Values {
    pub sequence: u64,
    pub timestamp: u64,
    pub id: u64,
    pub group: usize,
}

/// The marker in front of the sequence number in what comes back.
pub const SEQUENCE_MARKER: &str = "\"seq\":\"";

/// The marker in front of the timestamp in what comes back.
pub const TIMESTAMP_MARKER: &str = "\"ts\":\"";

impl Template {
    pub fn new(text: &str) -> Self {
        let mut pieces = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let places = [
                ("{seq}", Piece::Sequence),
                ("{ts}", Piece::Timestamp),
                ("{id}", Piece::Id),
                ("{group}", Piece::Group),
            ];
            let next = places
                .into_iter()
                .filter_map(|(name, piece)| Some((rest.find(name)?, name, piece)))
                .min_by_key(|(at, ..)| *at);
            let Some((at, name, piece)) = next else { break };
            pieces.push(Piece::Text(rest[..at].to_owned()));
            pieces.push(piece);
            rest = &rest[at + name.len()..];
        }
        pieces.push(Piece::Text(rest.to_owned()));
        Self(pieces)
    }

    /// Data of exactly `len` bytes once it is filled in, with a sequence number and a timestamp.
    pub fn data(len: usize) -> String {
        let text = format!("{{{SEQUENCE_MARKER}{{seq}}\",{TIMESTAMP_MARKER}{{ts}}\",\"d\":\"\"}}");
        let empty = text.len() - "{seq}{ts}".len() + 10 + 19;
        text.replace(
            "\"d\":\"\"",
            &format!("\"d\":\"{}\"", "x".repeat(len.saturating_sub(empty))),
        )
    }

    pub fn render(&self, values: Values, out: &mut Vec<u8>) {
        for piece in &self.0 {
            // Writing to a vector cannot fail.
            let _ = match piece {
                Piece::Text(text) => out.write_all(text.as_bytes()),
                Piece::Sequence => write!(out, "{:010}", values.sequence),
                Piece::Timestamp => write!(out, "{:019}", values.timestamp),
                Piece::Id => write!(out, "{}", values.id),
                Piece::Group => write!(out, "{}", values.group),
            };
        }
    }
}

/// Reads the digits right behind a marker. The offset at which it was found last is tried first, so the usual cost
/// is one short comparison.
#[derive(Debug)]
pub struct Field {
    marker: &'static str,
    digits: usize,
    last: usize,
}

impl Field {
    pub fn sequence() -> Self {
        Self {
            marker: SEQUENCE_MARKER,
            digits: 10,
            last: 0,
        }
    }

    pub fn timestamp() -> Self {
        Self {
            marker: TIMESTAMP_MARKER,
            digits: 19,
            last: 0,
        }
    }

    #[inline]
    pub fn read(&mut self, text: &[u8]) -> Option<u64> {
        let marker = self.marker.as_bytes();
        if !text
            .get(self.last..)
            .is_some_and(|rest| rest.starts_with(marker))
        {
            self.last = memchr::memmem::find(text, marker)?;
        }
        let start = self.last + marker.len();
        text.get(start..start + self.digits)?
            .iter()
            .try_fold(0_u64, |value, digit| {
                digit
                    .is_ascii_digit()
                    .then(|| value * 10 + u64::from(digit - b'0'))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_has_the_wanted_size_and_its_fields_are_read_back() {
        let template = Template::new(&Template::data(140));
        let mut out = Vec::new();
        template.render(
            Values {
                sequence: 42,
                timestamp: 1_234,
                ..Values::default()
            },
            &mut out,
        );
        assert_eq!(out.len(), 140, "{}", String::from_utf8_lossy(&out));
        assert_eq!(Field::sequence().read(&out), Some(42));
        assert_eq!(Field::timestamp().read(&out), Some(1_234));
    }

    #[test]
    fn a_field_is_found_again_when_it_moved() {
        let mut field = Field::sequence();
        assert_eq!(field.read(br#"{"seq":"0000000007"}"#), Some(7));
        assert_eq!(field.read(br#"{"a":1,"seq":"0000000008"}"#), Some(8));
        assert_eq!(field.read(b"{}"), None);
    }

    #[test]
    fn every_place_is_filled() {
        let mut out = Vec::new();
        Template::new("a{group}b{id}c").render(
            Values {
                group: 3,
                id: 9,
                ..Values::default()
            },
            &mut out,
        );
        assert_eq!(out, b"a3b9c");
    }
}
