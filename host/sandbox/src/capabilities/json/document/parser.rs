//! The grammar of RFC 8259, byte by byte. Recursion is bounded by the depth that is allowed.

use tidegate_protocol::plain_prefix;

use super::{MAX_DEPTH, Node, NotJson};
use crate::generated::tidegate::plugin::json::Kind;

struct Parser<'d> {
    data: &'d [u8],
    at: usize,
    nodes: Vec<Node>,
}

type Parse = Result<(), NotJson>;

pub(super) fn parse(data: &[u8]) -> Result<Vec<Node>, NotJson> {
    if let Err(error) = std::str::from_utf8(data) {
        return Err(NotJson {
            at: error.valid_up_to(),
        });
    }
    if u32::try_from(data.len()).is_err() {
        return Err(NotJson { at: 0 });
    }
    let mut parser = Parser {
        data,
        at: 0,
        // A guess: messages are names and short values.
        nodes: Vec::with_capacity(data.len() / 8 + 1),
    };
    parser.blanks();
    parser.value(0)?;
    parser.blanks();
    if parser.at == data.len() {
        Ok(parser.nodes)
    } else {
        Err(parser.here())
    }
}

/// Everything parsed lies within `u32::MAX`, which was checked first.
fn short(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

impl Parser<'_> {
    fn here(&self) -> NotJson {
        NotJson { at: self.at }
    }

    fn peek(&self) -> Option<u8> {
        self.data.get(self.at).copied()
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Whether the next byte is this one, which is then behind us.
    fn eat(&mut self, byte: u8) -> bool {
        let is_it = self.peek() == Some(byte);
        self.at += usize::from(is_it);
        is_it
    }

    fn expect(&mut self, byte: u8) -> Parse {
        if self.eat(byte) {
            Ok(())
        } else {
            Err(self.here())
        }
    }

    fn value(&mut self, depth: u32) -> Parse {
        let index = self.nodes.len();
        let start = short(self.at);
        let kind = match self.peek() {
            Some(b'{') => Kind::Object,
            Some(b'[') => Kind::Array,
            Some(b'"') => Kind::Text,
            Some(b't' | b'f') => Kind::Boolean,
            Some(b'n') => Kind::Null,
            Some(b'-' | b'0'..=b'9') => Kind::Number,
            _ => return Err(self.here()),
        };
        self.nodes.push(Node {
            start,
            end: start,
            next: 0,
            kind,
        });
        match kind {
            Kind::Object | Kind::Array if depth >= MAX_DEPTH => return Err(self.here()),
            Kind::Object => self.object(depth + 1)?,
            Kind::Array => self.array(depth + 1)?,
            Kind::Text => self.text()?,
            Kind::Number => self.number()?,
            Kind::Boolean if self.peek() == Some(b't') => self.word(b"true")?,
            Kind::Boolean => self.word(b"false")?,
            Kind::Null => self.word(b"null")?,
        }
        let (end, next) = (short(self.at), short(self.nodes.len()));
        if let Some(node) = self.nodes.get_mut(index) {
            node.end = end;
            node.next = next;
        }
        Ok(())
    }

    fn object(&mut self, depth: u32) -> Parse {
        self.expect(b'{')?;
        self.blanks();
        if self.eat(b'}') {
            return Ok(());
        }
        loop {
            self.blanks();
            if self.peek() != Some(b'"') {
                return Err(self.here());
            }
            self.value(depth)?;
            self.blanks();
            self.expect(b':')?;
            self.blanks();
            self.value(depth)?;
            self.blanks();
            if !self.eat(b',') {
                return self.expect(b'}');
            }
        }
    }

    fn array(&mut self, depth: u32) -> Parse {
        self.expect(b'[')?;
        self.blanks();
        if self.eat(b']') {
            return Ok(());
        }
        loop {
            self.blanks();
            self.value(depth)?;
            self.blanks();
            if !self.eat(b',') {
                return self.expect(b']');
            }
        }
    }

    fn text(&mut self) -> Parse {
        self.expect(b'"')?;
        loop {
            self.at += plain_prefix(self.data.get(self.at..).unwrap_or_default());
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    self.at += 1;
                    self.escape()?;
                }
                // A control character.
                None | Some(_) => return Err(self.here()),
            }
        }
    }

    fn escape(&mut self) -> Parse {
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 1;
                Ok(())
            }
            Some(b'u') => {
                self.at += 1;
                for _ in 0..4 {
                    if !self.peek().is_some_and(|byte| byte.is_ascii_hexdigit()) {
                        return Err(self.here());
                    }
                    self.at += 1;
                }
                Ok(())
            }
            _ => Err(self.here()),
        }
    }

    fn number(&mut self) -> Parse {
        self.eat(b'-');
        if !self.eat(b'0') {
            self.digits()?;
        }
        if self.eat(b'.') {
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    /// One or more.
    fn digits(&mut self) -> Parse {
        if !self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            return Err(self.here());
        }
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        Ok(())
    }

    fn word(&mut self, word: &[u8]) -> Parse {
        if self
            .data
            .get(self.at..)
            .is_some_and(|rest| rest.starts_with(word))
        {
            self.at += word.len();
            return Ok(());
        }
        Err(self.here())
    }
}
