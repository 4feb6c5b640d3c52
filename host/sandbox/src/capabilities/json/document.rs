//! JSON text, parsed into a list of spans: one node per value and per name, each knowing where what is inside it ends.
//!
//! Strict about the grammar, since clients parse the same text; nothing is decoded until a field is asked for. A
//! node takes 16 bytes and stands for at least two of the text, so a document takes at most eight times its text.
//! Invariant: the data that a document is asked with is the data that it was parsed from.

mod parser;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use crate::generated::tidegate::plugin::json::Kind;

/// Deepest nesting; that of the client protocol.
const MAX_DEPTH: u32 = 32;
/// Longest pointer.
const POINTER_BYTES: usize = 256;
/// Integers up to here are exact in 64 bits of floating point.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// The data is not JSON; tells where, not what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, thiserror::Error)]
#[error("the data is not JSON of at most {MAX_DEPTH} levels: byte {at} does not fit")]
pub(crate) struct NotJson {
    at: usize,
}

/// The text is no JSON pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadPointer {
    #[error("a pointer has at most {POINTER_BYTES} bytes")]
    TooLong,
    #[error("a pointer is empty or begins with `/`")]
    NoSlash,
    #[error("in a pointer `~` is written `~0`, and `/` within a name `~1`")]
    BadEscape,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Node {
    /// The bytes of the value, those of a text with its quotes.
    start: u32,
    end: u32,
    /// Index of the first node that is not inside this one. Inside an object, names and values take turns.
    next: u32,
    kind: Kind,
}

#[derive(Debug)]
pub(crate) struct Document {
    nodes: Vec<Node>,
}

/// A pointer that is one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pointer<'p>(&'p str);

/// A value of a document.
#[derive(Debug)]
pub(super) struct Found<'d> {
    nodes: &'d [Node],
    index: usize,
    raw: &'d [u8],
}

impl<'p> Pointer<'p> {
    pub(super) fn parse(text: &'p str) -> Result<Self, BadPointer> {
        if text.len() > POINTER_BYTES {
            return Err(BadPointer::TooLong);
        }
        if !text.is_empty() && !text.starts_with('/') {
            return Err(BadPointer::NoSlash);
        }
        let mut escapes = text.split('~').skip(1);
        if !escapes.all(|rest| rest.starts_with(['0', '1'])) {
            return Err(BadPointer::BadEscape);
        }
        Ok(Self(text))
    }

    fn segments(self) -> impl Iterator<Item = Cow<'p, str>> {
        self.0.split('/').skip(1).map(|segment| {
            if segment.contains('~') {
                Cow::Owned(segment.replace("~1", "/").replace("~0", "~"))
            } else {
                Cow::Borrowed(segment)
            }
        })
    }
}

impl Document {
    pub(super) fn parse(data: &[u8]) -> Result<Self, NotJson> {
        parser::parse(data).map(|nodes| Self { nodes })
    }

    /// The value that the pointer names; `data` is what the document was parsed from.
    pub(super) fn find<'d>(&'d self, data: &'d [u8], pointer: Pointer<'_>) -> Option<Found<'d>> {
        let mut index = 0;
        for segment in pointer.segments() {
            index = self.child(data, index, &segment)?;
        }
        Some(Found {
            nodes: &self.nodes,
            index,
            raw: span(data, *self.nodes.get(index)?)?,
        })
    }

    fn child(&self, data: &[u8], parent: usize, segment: &str) -> Option<usize> {
        let node = self.nodes.get(parent)?;
        let end = node.next as usize;
        let mut at = parent + 1;
        match node.kind {
            Kind::Object => {
                let mut found = None;
                while at < end {
                    if is_name(span(data, *self.nodes.get(at)?)?, segment) {
                        found = Some(at + 1);
                    }
                    at = self.nodes.get(at + 1)?.next as usize;
                }
                found
            }
            Kind::Array => {
                let mut left = array_index(segment)?;
                while at < end {
                    if left == 0 {
                        return Some(at);
                    }
                    left -= 1;
                    at = self.nodes.get(at)?.next as usize;
                }
                None
            }
            Kind::Null | Kind::Boolean | Kind::Number | Kind::Text => None,
        }
    }
}

fn span(data: &[u8], node: Node) -> Option<&[u8]> {
    data.get(node.start as usize..node.end as usize)
}

/// Digits without a zero in front.
fn array_index(segment: &str) -> Option<u32> {
    let is_index = segment.bytes().all(|byte| byte.is_ascii_digit())
        && (segment == "0" || !segment.starts_with('0'));
    is_index.then(|| segment.parse().ok()).flatten()
}

/// Whether a name in quotes is `segment`, in whatever way it was written.
fn is_name(quoted: &[u8], segment: &str) -> bool {
    let written = without_quotes(quoted);
    if written.contains(&b'\\') {
        return decode(written) == segment;
    }
    written == segment.as_bytes()
}

fn without_quotes(quoted: &[u8]) -> &[u8] {
    match quoted {
        [_, written @ .., _] => written,
        _ => &[],
    }
}

/// Text without its escapes. Half a surrogate pair, which is no character, becomes U+FFFD, as it does where a client
/// writes it out again.
fn decode(written: &[u8]) -> String {
    let text = String::from_utf8_lossy(written);
    let mut decoded = String::with_capacity(text.len());
    let mut rest = text.as_ref();
    while let Some((plain, escape)) = rest.split_once('\\') {
        decoded.push_str(plain);
        let mut chars = escape.chars();
        let what = chars.next();
        rest = chars.as_str();
        match what {
            Some('b') => decoded.push('\u{8}'),
            Some('f') => decoded.push('\u{c}'),
            Some('n') => decoded.push('\n'),
            Some('r') => decoded.push('\r'),
            Some('t') => decoded.push('\t'),
            Some('u') => {
                let (character, after) = unicode(rest);
                decoded.push(character);
                rest = after;
            }
            Some(itself) => decoded.push(itself),
            None => {}
        }
    }
    decoded.push_str(rest);
    decoded
}

/// The character behind `\u`, and what comes after it.
fn unicode(text: &str) -> (char, &str) {
    let unit = |text: &str| {
        let digits = text.get(..4)?;
        u32::from_str_radix(digits, 16).ok()
    };
    let Some(first) = unit(text) else {
        return (char::REPLACEMENT_CHARACTER, text);
    };
    let rest = &text[4..];
    if let Some(character) = char::from_u32(first) {
        return (character, rest);
    }
    let second = rest.strip_prefix("\\u").and_then(unit);
    match second {
        Some(second @ 0xdc00..=0xdfff) if first < 0xdc00 => {
            let code = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
            let character = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
            (character, &rest[6..])
        }
        _ => (char::REPLACEMENT_CHARACTER, rest),
    }
}

impl<'d> Found<'d> {
    pub(super) fn kind(&self) -> Kind {
        self.node().map_or(Kind::Null, |node| node.kind)
    }

    fn node(&self) -> Option<&Node> {
        self.nodes.get(self.index)
    }

    pub(super) fn raw(&self) -> &'d [u8] {
        self.raw
    }

    pub(super) fn text(&self) -> Option<String> {
        (self.kind() == Kind::Text).then(|| {
            let written = without_quotes(self.raw);
            if written.contains(&b'\\') {
                decode(written)
            } else {
                String::from_utf8_lossy(written).into_owned()
            }
        })
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        (self.kind() == Kind::Boolean).then_some(self.raw == b"true")
    }

    /// The text of a number.
    fn digits(&self) -> Option<&'d str> {
        let digits = std::str::from_utf8(self.raw).ok()?;
        (self.kind() == Kind::Number).then_some(digits)
    }

    pub(super) fn number(&self) -> Option<f64> {
        self.digits()?.parse().ok()
    }

    /// `12`, and also `12.0` and `1.2e1` where they are exact.
    pub(super) fn integer(&self) -> Option<i64> {
        if let Ok(integer) = self.digits()?.parse() {
            return Some(integer);
        }
        let number = self.number()?;
        let is_exact = number.fract() == 0.0 && number.abs() < EXACT;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "it has no fraction and is smaller than 2^53"
        )]
        is_exact.then_some(number as i64)
    }

    pub(super) fn length(&self) -> Option<u32> {
        let node = self.node()?;
        let nodes_each = match node.kind {
            Kind::Array => 1,
            Kind::Object => 2,
            Kind::Null | Kind::Boolean | Kind::Number | Kind::Text => return None,
        };
        let (mut at, mut length) = (self.index + 1, 0);
        while at < node.next as usize {
            length += 1;
            at = self.nodes.get(at + nodes_each - 1)?.next as usize;
        }
        Some(length)
    }
}
