//! A JSON reader that knows where it is, for configuration files.
//!
//! serde_json gives no places of values, and YAML readers stumble over tabs and surrogate pairs, both of which real
//! files have. Strings are unescaped by serde_json; numbers too.

use super::{
    parse::place,
    tree::{Entry, Node, Origin, Problem, Value},
};

/// Deepest nesting of a configuration; ours needs five.
pub(super) const MAX_DEPTH: usize = 32;

/// Parses one JSON value.
pub(super) fn parse(text: &str) -> Result<Node, Problem> {
    let mut reader = Reader { text, at: 0 };
    let node = reader.value(0)?;
    reader.skip_space();
    if reader.at < text.len() {
        return Err(reader.problem("there is more after the end of the value"));
    }
    Ok(node)
}

struct Reader<'a> {
    text: &'a str,
    /// Byte offset of what is read next; always at a character boundary.
    at: usize,
}

impl Reader<'_> {
    fn problem(&self, message: &str) -> Problem {
        Problem::new("", &self.origin(), format!("not valid JSON: {message}"))
    }

    fn origin(&self) -> Origin {
        place(self.text, self.at)
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while self
            .peek()
            .is_some_and(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n'))
        {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8, message: &str) -> Result<(), Problem> {
        self.skip_space();
        if self.peek() != Some(byte) {
            return Err(self.problem(message));
        }
        self.at += 1;
        Ok(())
    }

    fn value(&mut self, depth: usize) -> Result<Node, Problem> {
        self.skip_space();
        if depth > MAX_DEPTH {
            return Err(self.problem("nested too deeply"));
        }
        let origin = self.origin();
        let value = match self.peek() {
            None => return Err(self.problem("the file ends where a value is expected")),
            Some(b'{') => self.table(depth)?,
            Some(b'[') => self.list(depth)?,
            Some(b'"') => Value::Text(self.string()?),
            Some(_) => self.word()?,
        };
        Ok(Node { value, origin })
    }

    fn table(&mut self, depth: usize) -> Result<Value, Problem> {
        self.at += 1;
        let mut entries: Vec<Entry> = Vec::new();
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Value::Table(entries));
        }
        loop {
            self.skip_space();
            let origin = self.origin();
            if self.peek() != Some(b'"') {
                return Err(self.problem("expected a key in double quotes"));
            }
            let key = self.string()?;
            if entries.iter().any(|entry| entry.key == key) {
                return Err(Problem::new(
                    "",
                    &origin,
                    format!("the key \"{key}\" is there twice; keep one"),
                ));
            }
            self.expect(b':', "expected `:` after the key")?;
            let node = self.value(depth + 1)?;
            entries.push(Entry { key, origin, node });
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(Value::Table(entries));
                }
                _ => return Err(self.problem("expected `,` or `}`")),
            }
        }
    }

    fn list(&mut self, depth: usize) -> Result<Value, Problem> {
        self.at += 1;
        let mut nodes = Vec::new();
        self.skip_space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Value::List(nodes));
        }
        loop {
            nodes.push(self.value(depth + 1)?);
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(Value::List(nodes));
                }
                _ => return Err(self.problem("expected `,` or `]`")),
            }
        }
    }

    fn string(&mut self) -> Result<String, Problem> {
        let start = self.at;
        self.at += 1;
        loop {
            match self.peek() {
                None => return Err(self.problem("the text has no closing quote")),
                Some(b'\\') => self.at += 2,
                Some(b'"') => break,
                Some(_) => self.at += 1,
            }
        }
        self.at += 1;
        let literal = self.text.get(start..self.at).unwrap_or_default();
        serde_json::from_str(literal).map_err(|_| {
            let message =
                "not valid JSON: the text has an escape or a line break that JSON does not allow";
            Problem::new("", &place(self.text, start), message)
        })
    }

    fn word(&mut self) -> Result<Value, Problem> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let end = rest
            .find(|char: char| {
                char.is_whitespace() || matches!(char, ',' | ']' | '}' | ':' | '"' | '{' | '[')
            })
            .unwrap_or(rest.len());
        let word = &rest[..end];
        let value = match serde_json::from_str(word) {
            Ok(serde_json::Value::Null) => Value::Null,
            Ok(serde_json::Value::Bool(value)) => Value::Bool(value),
            Ok(serde_json::Value::Number(number)) => match (number.as_i64(), number.as_f64()) {
                (Some(integer), _) => Value::Integer(integer),
                (None, Some(float)) => Value::Float(float),
                (None, None) => return Err(self.problem("the number does not fit")),
            },
            Ok(_) | Err(_) => {
                return Err(self.problem("expected a value: text in double quotes, a number, true, false, null, a list or a table"));
            }
        };
        self.at += end;
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_what_serde_json_reads() {
        for text in [
            r#"{"a":[1,-2,3.5,true,false,null,"x\n\u00e9\ud83d\ude00\/"],"b":{"c":{}},"d":[]}"#,
            "\t[ ]\n",
            "\"ünïcode\"",
        ] {
            let expected: serde_json::Value = serde_json::from_str(text).unwrap();
            assert_eq!(parse(text).unwrap().value.to_json(), expected);
        }
    }

    #[test]
    fn broken_text_is_refused_without_a_panic() {
        for text in [
            "",
            "{",
            "[",
            "[1",
            "[1,",
            "{\"a\"",
            "{\"a\":",
            "{a:1}",
            "\"x",
            "\"\\",
            "\"é\\",
            "tru",
            "1 2",
            "{\"a\":1,}",
            "\"\\x\"",
            "\u{1}",
            "[1é]",
            "nulll",
            ":",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        let deep = "[".repeat(40);
        assert!(parse(&deep).unwrap_err().message.contains("deeply"));
    }
}
