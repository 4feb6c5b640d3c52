//! Lexical JSON: checks and skips values without building them.
//!
//! Owns the grammar (RFC 8259) and the depth limit. Never recurses and never allocates beyond one bit per open
//! container, so depth costs nothing but bits. Input must be UTF-8 already where the caller needs text.

use smallvec::SmallVec;

/// Why text is not acceptable JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JsonFault {
    /// Not the grammar.
    Syntax,
    /// More open containers than allowed.
    TooDeep,
}

/// What a check saw on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Raw newlines between tokens; inside strings they are not JSON.
    pub(crate) has_newline: bool,
}

/// Checks that `text` is one JSON value, with nothing but whitespace around it.
pub(crate) fn check_document(text: &[u8], max_depth: usize) -> Result<Seen, JsonFault> {
    if std::str::from_utf8(text).is_err() {
        return Err(JsonFault::Syntax);
    }
    let mut lexer = Lexer::new(text);
    lexer.skip_whitespace();
    lexer.skip_value(max_depth)?;
    lexer.skip_whitespace();
    if lexer.peek().is_some() {
        return Err(JsonFault::Syntax);
    }
    Ok(Seen {
        has_newline: lexer.has_newline,
    })
}

/// A place in a JSON text.
#[derive(Debug)]
pub(crate) struct Lexer<'a> {
    text: &'a [u8],
    position: usize,
    /// Set when a newline was skipped as whitespace.
    pub(crate) has_newline: bool,
}

/// Which containers are open, one bit each: set for an object.
#[derive(Debug, Default)]
struct Nesting {
    bits: SmallVec<[u64; 2]>,
    depth: usize,
}

impl Nesting {
    fn push(&mut self, is_object: bool, max_depth: usize) -> Result<(), JsonFault> {
        if self.depth >= max_depth {
            return Err(JsonFault::TooDeep);
        }
        let (word, bit) = (self.depth / 64, self.depth % 64);
        if word == self.bits.len() {
            self.bits.push(0);
        }
        let mask = 1u64 << bit;
        if is_object {
            self.bits[word] |= mask;
        } else {
            self.bits[word] &= !mask;
        }
        self.depth += 1;
        Ok(())
    }

    fn pop(&mut self) {
        self.depth -= 1;
    }

    fn is_in_object(&self) -> bool {
        let top = self.depth - 1;
        self.bits[top / 64] >> (top % 64) & 1 == 1
    }
}

/// How many bytes of JSON text come before the next quote, backslash or control character: the part of a string that
/// stands for itself. Looks at eight bytes at a time.
#[must_use]
pub fn plain_prefix(text: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES << 7;
    let mut skipped = 0;
    let (words, tail) = text.as_chunks::<8>();
    for word in words {
        let word = u64::from_le_bytes(*word);
        let quote = word ^ (ONES * b'"' as u64);
        let backslash = word ^ (ONES * b'\\' as u64);
        let controls = word.wrapping_sub(ONES * 0x20) & !word;
        let quotes = quote.wrapping_sub(ONES) & !quote;
        let backslashes = backslash.wrapping_sub(ONES) & !backslash;
        let found = (controls | quotes | backslashes) & HIGHS;
        if found != 0 {
            // Borrows run upwards only, so the lowest bit found is never a false one.
            return skipped + found.trailing_zeros() as usize / 8;
        }
        skipped += 8;
    }
    let plain = tail
        .iter()
        .take_while(|byte| !matches!(byte, b'"' | b'\\' | 0..=0x1f))
        .count();
    skipped + plain
}

/// What follows in [`Lexer::skip_value`].
enum Next {
    Value,
    AfterValue,
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Self {
            text,
            position: 0,
            has_newline: false,
        }
    }

    pub(crate) fn position(&self) -> usize {
        self.position
    }

    pub(crate) fn slice_from(&self, start: usize) -> &'a [u8] {
        &self.text[start..self.position]
    }

    pub(crate) fn peek(&self) -> Option<u8> {
        self.text.get(self.position).copied()
    }

    pub(crate) fn advance(&mut self) {
        self.position += 1;
    }

    pub(crate) fn skip_whitespace(&mut self) {
        while let Some(byte) = self.peek() {
            match byte {
                b' ' | b'\t' | b'\r' => {}
                b'\n' => self.has_newline = true,
                _ => return,
            }
            self.position += 1;
        }
    }

    /// Consumes `byte`, after whitespace.
    pub(crate) fn expect(&mut self, byte: u8) -> Result<(), JsonFault> {
        self.skip_whitespace();
        if self.peek() == Some(byte) {
            self.position += 1;
            Ok(())
        } else {
            Err(JsonFault::Syntax)
        }
    }

    pub(crate) fn expect_literal(&mut self, literal: &[u8]) -> Result<(), JsonFault> {
        let rest = self.text.get(self.position..).unwrap_or_default();
        if rest.starts_with(literal) {
            self.position += literal.len();
            Ok(())
        } else {
            Err(JsonFault::Syntax)
        }
    }

    /// Skips the value that starts here. Containers open inside it may number `max_depth`.
    pub(crate) fn skip_value(&mut self, max_depth: usize) -> Result<(), JsonFault> {
        let mut nesting = Nesting::default();
        let mut next = Next::Value;
        loop {
            next = match next {
                Next::Value => self.enter_value(&mut nesting, max_depth)?,
                Next::AfterValue if nesting.depth == 0 => return Ok(()),
                Next::AfterValue => self.leave_value(&mut nesting)?,
            };
        }
    }

    fn enter_value(&mut self, nesting: &mut Nesting, max_depth: usize) -> Result<Next, JsonFault> {
        match self.peek().ok_or(JsonFault::Syntax)? {
            b'{' => {
                self.position += 1;
                nesting.push(true, max_depth)?;
                self.skip_whitespace();
                if self.peek() == Some(b'}') {
                    self.position += 1;
                    nesting.pop();
                    return Ok(Next::AfterValue);
                }
                self.skip_key()?;
                Ok(Next::Value)
            }
            b'[' => {
                self.position += 1;
                nesting.push(false, max_depth)?;
                self.skip_whitespace();
                if self.peek() == Some(b']') {
                    self.position += 1;
                    nesting.pop();
                    return Ok(Next::AfterValue);
                }
                Ok(Next::Value)
            }
            b'"' => {
                self.skip_string()?;
                Ok(Next::AfterValue)
            }
            b'-' | b'0'..=b'9' => {
                self.skip_number()?;
                Ok(Next::AfterValue)
            }
            b't' => self.expect_literal(b"true").map(|()| Next::AfterValue),
            b'f' => self.expect_literal(b"false").map(|()| Next::AfterValue),
            b'n' => self.expect_literal(b"null").map(|()| Next::AfterValue),
            _ => Err(JsonFault::Syntax),
        }
    }

    fn leave_value(&mut self, nesting: &mut Nesting) -> Result<Next, JsonFault> {
        self.skip_whitespace();
        let byte = self.peek().ok_or(JsonFault::Syntax)?;
        self.position += 1;
        match (byte, nesting.is_in_object()) {
            (b',', true) => {
                self.skip_whitespace();
                self.skip_key()?;
                Ok(Next::Value)
            }
            (b',', false) => {
                self.skip_whitespace();
                Ok(Next::Value)
            }
            (b'}', true) | (b']', false) => {
                nesting.pop();
                Ok(Next::AfterValue)
            }
            _ => Err(JsonFault::Syntax),
        }
    }

    /// Skips `"key" :` and the whitespace around it, up to the value.
    fn skip_key(&mut self) -> Result<(), JsonFault> {
        self.skip_string()?;
        self.expect(b':')?;
        self.skip_whitespace();
        Ok(())
    }

    /// Skips a string; tells whether it has escapes.
    pub(crate) fn skip_string(&mut self) -> Result<HasEscapes, JsonFault> {
        if self.peek() != Some(b'"') {
            return Err(JsonFault::Syntax);
        }
        self.position += 1;
        let mut has_escapes = false;
        loop {
            self.skip_plain();
            match self.peek().ok_or(JsonFault::Syntax)? {
                b'"' => {
                    self.position += 1;
                    return Ok(HasEscapes(has_escapes));
                }
                b'\\' => {
                    has_escapes = true;
                    self.skip_escape()?;
                }
                _ => return Err(JsonFault::Syntax), // A control character.
            }
        }
    }

    /// Moves to the next byte that is a quote, a backslash or a control character.
    fn skip_plain(&mut self) {
        let rest = self.text.get(self.position..).unwrap_or_default();
        self.position += plain_prefix(rest);
    }

    fn skip_escape(&mut self) -> Result<(), JsonFault> {
        self.position += 1; // The backslash.
        let byte = self.peek().ok_or(JsonFault::Syntax)?;
        self.position += 1;
        match byte {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Ok(()),
            b'u' => {
                let digits = self
                    .text
                    .get(self.position..self.position + 4)
                    .ok_or(JsonFault::Syntax)?;
                if !digits.iter().all(u8::is_ascii_hexdigit) {
                    return Err(JsonFault::Syntax);
                }
                self.position += 4;
                Ok(())
            }
            _ => Err(JsonFault::Syntax),
        }
    }

    /// Skips a number of any size.
    pub(crate) fn skip_number(&mut self) -> Result<(), JsonFault> {
        if self.peek() == Some(b'-') {
            self.position += 1;
        }
        match self.peek() {
            Some(b'0') => self.position += 1,
            Some(b'1'..=b'9') => self.skip_digits()?,
            _ => return Err(JsonFault::Syntax),
        }
        if self.peek() == Some(b'.') {
            self.position += 1;
            self.skip_digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.position += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.position += 1;
            }
            self.skip_digits()?;
        }
        Ok(())
    }

    /// Skips one digit or more.
    fn skip_digits(&mut self) -> Result<(), JsonFault> {
        let start = self.position;
        while let Some(b'0'..=b'9') = self.peek() {
            self.position += 1;
        }
        if self.position == start {
            return Err(JsonFault::Syntax);
        }
        Ok(())
    }
}

/// Whether a string must be unescaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HasEscapes(pub(crate) bool);
