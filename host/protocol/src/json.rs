//! The JSON codec: a reader that fills messages and the writers of their parts.
//!
//! Reads in one pass, borrows what it can, and never builds a tree. Unknown members are skipped (but checked),
//! known ones may appear once. Works on text that was checked to be UTF-8.

use std::borrow::Cow;

use bytes::Bytes;

use crate::{
    codec::DecodeReason,
    json_lexer::{HasEscapes, JsonFault, Lexer},
    raw::{InvalidJson, Raw},
    schema::Field,
};

impl From<JsonFault> for DecodeReason {
    fn from(fault: JsonFault) -> Self {
        match fault {
            JsonFault::Syntax => Self::Syntax,
            JsonFault::TooDeep => Self::TooDeep,
        }
    }
}

/// Fills messages from one JSON text.
#[derive(Debug)]
pub(crate) struct JsonReader<'a> {
    text: &'a str,
    lexer: Lexer<'a>,
    /// Containers that may still be opened.
    depth_left: usize,
}

/// Which members of an object have appeared, by field number.
#[derive(Debug, Default)]
pub(crate) struct SeenMembers(u32);

impl SeenMembers {
    pub(crate) fn once(&mut self, number: u32) -> Result<(), DecodeReason> {
        let bit = 1 << number;
        if self.0 & bit != 0 {
            return Err(DecodeReason::DuplicateMember);
        }
        self.0 |= bit;
        Ok(())
    }
}

impl<'a> JsonReader<'a> {
    pub(crate) fn new(text: &'a str, max_depth: usize) -> Self {
        Self {
            text,
            lexer: Lexer::new(text.as_bytes()),
            depth_left: max_depth,
        }
    }

    /// Nothing but whitespace may follow.
    pub(crate) fn finish(mut self) -> Result<(), DecodeReason> {
        self.lexer.skip_whitespace();
        match self.lexer.peek() {
            None => Ok(()),
            Some(_) => Err(DecodeReason::Syntax),
        }
    }

    /// Reads an object; `member` must consume the value of the key it is given.
    pub(crate) fn object(
        &mut self,
        mut member: impl FnMut(&mut Self, &str, &mut SeenMembers) -> Result<(), DecodeReason>,
    ) -> Result<(), DecodeReason> {
        self.enter(b'{')?;
        let mut seen = SeenMembers::default();
        if self.is_next(b'}') {
            return self.leave();
        }
        loop {
            let key = self.string()?;
            self.lexer.expect(b':')?;
            self.lexer.skip_whitespace();
            member(self, &key, &mut seen)?;
            if self.is_next(b'}') {
                return self.leave();
            }
            self.lexer.expect(b',')?;
        }
    }

    /// Reads an array; `element` must consume one value.
    pub(crate) fn array(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<(), DecodeReason>,
    ) -> Result<(), DecodeReason> {
        self.enter(b'[')?;
        if self.is_next(b']') {
            return self.leave();
        }
        loop {
            self.lexer.skip_whitespace();
            element(self)?;
            if self.is_next(b']') {
                return self.leave();
            }
            self.lexer.expect(b',')?;
        }
    }

    /// Reads a member's value; `null` leaves it unset unless that is a value of its type.
    pub(crate) fn field<F: Field>(&mut self, field: &mut F) -> Result<(), DecodeReason> {
        if !F::KEEPS_NULL && self.lexer.peek() == Some(b'n') {
            return Ok(self.lexer.expect_literal(b"null")?);
        }
        field.read_json(self)
    }

    pub(crate) fn string(&mut self) -> Result<Cow<'a, str>, DecodeReason> {
        self.lexer.skip_whitespace();
        if self.lexer.peek() != Some(b'"') {
            return Err(self.wrong_type());
        }
        let start = self.lexer.position() + 1;
        let HasEscapes(has_escapes) = self.lexer.skip_string()?;
        let inner = self
            .text
            .get(start..self.lexer.position() - 1)
            .ok_or(DecodeReason::Syntax)?;
        if has_escapes {
            unescape(inner).map(Cow::Owned).ok_or(DecodeReason::Syntax)
        } else {
            Ok(Cow::Borrowed(inner))
        }
    }

    pub(crate) fn number(&mut self) -> Result<&'a [u8], DecodeReason> {
        let Some(b'-' | b'0'..=b'9') = self.lexer.peek() else {
            return Err(self.wrong_type());
        };
        let start = self.lexer.position();
        self.lexer.skip_number()?;
        Ok(self.lexer.slice_from(start))
    }

    pub(crate) fn boolean(&mut self) -> Result<bool, DecodeReason> {
        match self.lexer.peek() {
            Some(b't') => Ok(self.lexer.expect_literal(b"true").map(|()| true)?),
            Some(b'f') => Ok(self.lexer.expect_literal(b"false").map(|()| false)?),
            _ => Err(self.wrong_type()),
        }
    }

    /// Copies a value as it is, checked.
    pub(crate) fn raw(&mut self) -> Result<Raw, DecodeReason> {
        let start = self.lexer.position();
        self.lexer.has_newline = false;
        self.lexer.skip_value(self.depth_left)?;
        let bytes = Bytes::copy_from_slice(self.lexer.slice_from(start));
        Ok(Raw::from_checked_json(bytes, self.lexer.has_newline))
    }

    /// Skips a value, checked.
    pub(crate) fn skip(&mut self) -> Result<(), DecodeReason> {
        Ok(self.lexer.skip_value(self.depth_left)?)
    }

    fn enter(&mut self, open: u8) -> Result<(), DecodeReason> {
        self.lexer.skip_whitespace();
        if self.lexer.peek() != Some(open) {
            return Err(self.wrong_type());
        }
        self.depth_left = self
            .depth_left
            .checked_sub(1)
            .ok_or(DecodeReason::TooDeep)?;
        self.lexer.advance();
        Ok(())
    }

    fn is_next(&mut self, byte: u8) -> bool {
        self.lexer.skip_whitespace();
        self.lexer.peek() == Some(byte)
    }

    /// Consumes the closing bracket that was just seen.
    fn leave(&mut self) -> Result<(), DecodeReason> {
        self.lexer.advance();
        self.depth_left += 1;
        Ok(())
    }

    /// A value of another type than expected, or no value at all.
    fn wrong_type(&mut self) -> DecodeReason {
        match self.lexer.skip_value(self.depth_left) {
            Ok(()) => DecodeReason::WrongType,
            Err(fault) => fault.into(),
        }
    }
}

/// Resolves the escapes of a string that the lexer has passed; `None` for a lone surrogate.
fn unescape(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, escape)) = rest.split_once('\\') {
        out.push_str(plain);
        let code = escape.chars().next()?;
        rest = escape.get(code.len_utf8()..)?;
        out.push(match code {
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let first = take_hex(&mut rest)?;
                match first {
                    0xd800..=0xdbff => {
                        rest = rest.strip_prefix("\\u")?;
                        let second = take_hex(&mut rest)?;
                        char::decode_utf16([first, second]).next()?.ok()?
                    }
                    _ => char::from_u32(first.into())?,
                }
            }
            same => same,
        });
    }
    out.push_str(rest);
    Some(out)
}

fn take_hex(rest: &mut &str) -> Option<u16> {
    let (digits, after) = rest.split_at_checked(4)?;
    *rest = after;
    u16::from_str_radix(digits, 16).ok()
}

/// Integers as JSON numbers.
pub(crate) trait JsonInteger: Sized {
    fn write(self, out: &mut Vec<u8>);
    /// `None` for a fraction, an exponent, or a number out of range.
    fn parse(digits: &[u8]) -> Option<Self>;
}

macro_rules! json_integers {
    ($($kind:ty),*) => {$(
        impl JsonInteger for $kind {
            fn write(self, out: &mut Vec<u8>) {
                out.extend_from_slice(itoa::Buffer::new().format(self).as_bytes());
            }

            fn parse(digits: &[u8]) -> Option<Self> {
                std::str::from_utf8(digits).ok()?.parse().ok()
            }
        }
    )*};
}

json_integers!(u32, u64, i32, i64);

impl JsonInteger for crate::schema::ZigZag {
    fn write(self, out: &mut Vec<u8>) {
        self.0.write(out);
    }

    fn parse(digits: &[u8]) -> Option<Self> {
        JsonInteger::parse(digits).map(Self)
    }
}

/// Writes a comma unless the container has just been opened. No value ends in an opening bracket.
pub(crate) fn separate(out: &mut Vec<u8>) {
    if !matches!(out.last(), Some(b'{' | b'[')) {
        out.push(b',');
    }
}

/// Writes `"name":`, after a comma where one is due.
pub(crate) fn write_member(name: &str, out: &mut Vec<u8>) {
    separate(out);
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

pub(crate) fn write_array<T>(
    items: &[T],
    out: &mut Vec<u8>,
    write: impl Fn(&T, &mut Vec<u8>) -> Result<(), InvalidJson>,
) -> Result<(), InvalidJson> {
    out.push(b'[');
    for item in items {
        separate(out);
        write(item, out)?;
    }
    out.push(b']');
    Ok(())
}

pub(crate) fn write_string(text: &str, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(at) = rest
        .iter()
        .position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f))
    {
        let (plain, tail) = rest.split_at(at);
        out.extend_from_slice(plain);
        let byte = tail[0];
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            control => {
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(control >> 4)]);
                out.push(HEX[usize::from(control & 15)]);
            }
        }
        rest = &tail[1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}
