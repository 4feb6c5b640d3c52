//! What a server says on a connection for subscriptions: RESP2, as far as that goes.
//!
//! Pure: bytes in, values out. Reads what pub/sub needs and takes anything else for nonsense, within bounds: whoever
//! can write to Redis may be hostile (threat model R7), and so may be what listens on its port. Payloads are found and
//! not copied. Invariant: whatever the bytes are, there is no panic, and nothing is allocated by a declared length.

use std::ops::Range;

use bytes::BytesMut;

/// Longest bulk string. Messages of the server API are bounded by 4 MiB; an envelope adds little.
const MAX_BULK: usize = 8 * 1024 * 1024;

/// Longest line: numbers, errors.
const MAX_LINE: usize = 1_024;

/// Elements of the longest answer we know (`pmessage`) are four.
const MAX_ELEMENTS: usize = 4;

/// The server speaks something else, or more than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server said something that is not pub/sub")]
pub(super) struct Nonsense;

/// One thing that a server says. Ranges are into the buffer that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    Message {
        name: Range<usize>,
        payload: Range<usize>,
    },
    Subscribed(Range<usize>),
    Unsubscribed(Range<usize>),
    /// An error: the answer to the oldest command that has none yet.
    Error(Range<usize>),
    /// `+OK`, `PONG` and what else means nothing here.
    Other,
}

/// The next complete thing in `buffer` from `start` on, and where it ends; `None` when more has to come.
pub(super) fn next(buffer: &[u8], start: usize) -> Result<Option<(Said, usize)>, Nonsense> {
    let mut reader = Reader { buffer, at: start };
    let said = reader.said()?;
    Ok(said.map(|said| (said, reader.at)))
}

struct Reader<'a> {
    buffer: &'a [u8],
    at: usize,
}

/// An element of an answer.
enum Element {
    Bulk(Range<usize>),
    /// A number, or no value.
    Other,
}

impl Reader<'_> {
    fn said(&mut self) -> Result<Option<Said>, Nonsense> {
        let Some(line) = self.line()? else {
            return Ok(None);
        };
        let (kind, rest) = self.split(&line)?;
        match kind {
            b'-' => Ok(Some(Said::Error(rest))),
            b'+' | b':' => Ok(Some(Said::Other)),
            b'$' => Ok(self.bulk(&rest)?.map(|_| Said::Other)),
            b'*' => self.answer(&rest),
            _ => Err(Nonsense),
        }
    }

    fn answer(&mut self, count: &Range<usize>) -> Result<Option<Said>, Nonsense> {
        let count = usize::try_from(self.number(count)?).map_err(|_| Nonsense)?;
        if !(1..=MAX_ELEMENTS).contains(&count) {
            return Err(Nonsense);
        }
        let mut bulks: [Range<usize>; MAX_ELEMENTS] = [const { 0..0 }; MAX_ELEMENTS];
        for bulk in bulks.iter_mut().take(count) {
            match self.element()? {
                None => return Ok(None),
                Some(Element::Bulk(range)) => *bulk = range,
                Some(Element::Other) => {}
            }
        }
        let [kind, name, payload, _] = bulks;
        Ok(Some(match &self.buffer[kind] {
            b"message" | b"smessage" if count == 3 => Said::Message { name, payload },
            b"subscribe" | b"ssubscribe" if count == 3 => Said::Subscribed(name),
            b"unsubscribe" | b"sunsubscribe" if count == 3 => Said::Unsubscribed(name),
            _ => Said::Other,
        }))
    }

    fn element(&mut self) -> Result<Option<Element>, Nonsense> {
        let Some(line) = self.line()? else {
            return Ok(None);
        };
        let (kind, rest) = self.split(&line)?;
        match kind {
            b'$' => self.bulk(&rest),
            b':' | b'+' => Ok(Some(Element::Other)),
            _ => Err(Nonsense),
        }
    }

    fn bulk(&mut self, len: &Range<usize>) -> Result<Option<Element>, Nonsense> {
        let len = self.number(len)?;
        if len == -1 {
            return Ok(Some(Element::Other));
        }
        let len = usize::try_from(len).map_err(|_| Nonsense)?;
        if len > MAX_BULK {
            return Err(Nonsense);
        }
        let (start, end) = (self.at, self.at + len);
        let Some(terminator) = self.buffer.get(end..end + 2) else {
            return Ok(None);
        };
        if terminator != b"\r\n" {
            return Err(Nonsense);
        }
        self.at = end + 2;
        Ok(Some(Element::Bulk(start..end)))
    }

    /// The next line without its end.
    fn line(&mut self) -> Result<Option<Range<usize>>, Nonsense> {
        let rest = self.buffer.get(self.at..).unwrap_or_default();
        let seen = &rest[..rest.len().min(MAX_LINE)];
        let Some(len) = seen.iter().position(|byte| *byte == b'\r') else {
            return if rest.len() >= MAX_LINE {
                Err(Nonsense)
            } else {
                Ok(None)
            };
        };
        match rest.get(len + 1) {
            None => Ok(None),
            Some(b'\n') => {
                let line = self.at..self.at + len;
                self.at += len + 2;
                Ok(Some(line))
            }
            Some(_) => Err(Nonsense),
        }
    }

    /// The first byte of a line, and the rest.
    fn split(&self, line: &Range<usize>) -> Result<(u8, Range<usize>), Nonsense> {
        let kind = self.buffer[line.clone()].first().ok_or(Nonsense)?;
        Ok((*kind, line.start + 1..line.end))
    }

    fn number(&self, range: &Range<usize>) -> Result<i64, Nonsense> {
        let text = std::str::from_utf8(&self.buffer[range.clone()]).map_err(|_| Nonsense)?;
        text.parse().map_err(|_| Nonsense)
    }
}

/// Appends a command in the form of an array of bulk strings.
pub(super) fn write_command<'a>(
    out: &mut BytesMut,
    name: &'a str,
    arguments: impl ExactSizeIterator<Item = &'a str>,
) {
    write_head(out, b'*', arguments.len() + 1);
    for part in std::iter::once(name).chain(arguments) {
        write_head(out, b'$', part.len());
        out.extend_from_slice(part.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

fn write_head(out: &mut BytesMut, kind: u8, number: usize) {
    out.extend_from_slice(&[kind]);
    out.extend_from_slice(number.to_string().as_bytes());
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is said, with the texts in place of the ranges.
    fn read(bytes: &[u8]) -> Result<Option<(String, usize)>, Nonsense> {
        let text =
            |range: &Range<usize>| String::from_utf8_lossy(&bytes[range.clone()]).into_owned();
        let said = next(bytes, 0)?;
        Ok(said.map(|(said, end)| {
            let said = match said {
                Said::Message { name, payload } => {
                    format!("message {} {}", text(&name), text(&payload))
                }
                Said::Subscribed(name) => format!("subscribed {}", text(&name)),
                Said::Unsubscribed(name) => format!("unsubscribed {}", text(&name)),
                Said::Error(error) => format!("error {}", text(&error)),
                Said::Other => "other".to_owned(),
            };
            (said, end)
        }))
    }

    #[test]
    fn what_a_server_says_is_read_as_soon_as_it_is_whole() {
        for (bytes, expected) in [
            (
                "*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$4\r\na\r\nb\r\n",
                "message c a\r\nb",
            ),
            (
                "*3\r\n$8\r\nsmessage\r\n$1\r\nc\r\n$0\r\n\r\n",
                "message c ",
            ),
            ("*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n", "subscribed c"),
            (
                "*3\r\n$10\r\nssubscribe\r\n$1\r\nc\r\n:1\r\n",
                "subscribed c",
            ),
            (
                "*3\r\n$12\r\nsunsubscribe\r\n$1\r\nc\r\n:0\r\n",
                "unsubscribed c",
            ),
            ("*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n", "unsubscribed "),
            ("*2\r\n$4\r\npong\r\n$0\r\n\r\n", "other"),
            (
                "-MOVED 1 127.0.0.1:7001\r\n",
                "error MOVED 1 127.0.0.1:7001",
            ),
            ("+OK\r\n", "other"),
        ] {
            let expected = (expected.to_owned(), bytes.len());
            assert_eq!(read(bytes.as_bytes()), Ok(Some(expected)), "{bytes:?}");
            for end in 0..bytes.len() {
                assert_eq!(
                    read(&bytes.as_bytes()[..end]),
                    Ok(None),
                    "{end} of {bytes:?}"
                );
            }
        }
    }

    #[test]
    fn nonsense_is_refused_at_its_declared_length() {
        for bytes in [
            "HTTP/1.1 400 Bad Request\r\n",
            "*5\r\n",
            "*-1\r\n",
            "*0\r\n",
            "*99999999999999999999\r\n",
            "*3\r\n$8388609\r\n",
            "*3\r\n$-2\r\n",
            "*3\r\n*1\r\n",
            "*1\r\n$1\r\nabc\r\n",
            "\r\n",
            "+a\rb",
        ] {
            assert_eq!(read(bytes.as_bytes()), Err(Nonsense), "{bytes:?}");
        }
        assert_eq!(read(&[b'+'; MAX_LINE]), Err(Nonsense), "an endless line");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(Some((_, end))) = next(&bytes, 0) {
                prop_assert!(end <= bytes.len());
            }
        }

        #[test]
        fn mutilated_messages_are_read_without_a_panic(
            payload in ".{0,40}", at in 0_usize..80, byte in any::<u8>(),
        ) {
            let mut bytes = BytesMut::new();
            write_command(&mut bytes, "message", ["name", payload.as_str()].into_iter());
            let whole = read(&bytes);
            prop_assert_eq!(whole, Ok(Some((format!("message name {payload}"), bytes.len()))));
            let index = at % bytes.len();
            bytes[index] = byte;
            let _ = next(&bytes, 0);
        }
    }
}
