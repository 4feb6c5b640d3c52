//! Redacting a JSON document: values at paths are replaced, and what gives a person away in the texts of the rest.
//!
//! Walks over the document's own bytes, so that everything else stays as it was sent. Every member counts, those whose
//! name is there twice too: a reader may look at either. The document must have been checked to be JSON before; where
//! it turns out not to be, or a text holds half a character, nothing is handed out.

use std::{collections::BTreeSet, ops::Range};

use crate::settings::{Kind, Redaction};

/// What became of a document.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Redacted {
    /// The new document; `None` if it is the old one.
    pub(crate) json: Option<String>,
    /// What was masked: paths of the settings and kinds of data.
    pub(crate) masked: BTreeSet<String>,
}

/// Deeper documents are not read: the walk goes down with them, and a plugin's stack is small.
pub(crate) const MAX_DEPTH: usize = 64;

/// The document cannot be read as far as it must be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unreadable;

/// Redacts a document.
pub(crate) fn redact(json: &str, redaction: &Redaction) -> Result<Redacted, Unreadable> {
    let mut walk = Walk {
        json,
        redaction,
        mask: serde_json::to_string(&redaction.mask).map_err(|_| Unreadable)?,
        at: 0,
        place: Vec::new(),
        written: String::new(),
        copied: 0,
        masked: BTreeSet::new(),
    };
    walk.blanks();
    walk.value()?;
    walk.blanks();
    if walk.at != json.len() {
        return Err(Unreadable);
    }
    let is_changed = walk.copied > 0;
    walk.written.push_str(&json[walk.copied..]);
    Ok(Redacted {
        json: is_changed.then_some(walk.written),
        masked: walk.masked,
    })
}

struct Walk<'d> {
    json: &'d str,
    redaction: &'d Redaction,
    /// The mask as JSON.
    mask: String,
    /// How far the document was read.
    at: usize,
    /// Names and indices on the way to the value in hand.
    place: Vec<String>,
    /// The new document up to `copied`; nothing was written while that is 0.
    written: String,
    /// How much of the document is in `written`.
    copied: usize,
    masked: BTreeSet<String>,
}

impl Walk<'_> {
    fn value(&mut self) -> Result<(), Unreadable> {
        if self.place.len() > MAX_DEPTH {
            return Err(Unreadable);
        }
        let mut paths = self.redaction.fields.iter();
        if let Some(path) = paths.find(|path| path.leads_to(&self.place)) {
            let start = self.at;
            self.skip_value()?;
            let mask = self.mask.clone();
            self.replace(start, &mask);
            self.masked.insert(path.to_string());
            return Ok(());
        }
        match self.byte()? {
            b'{' => self.object(),
            b'[' => self.array(),
            b'"' => self.text(),
            _ => self.skip_value(),
        }
    }

    fn object(&mut self) -> Result<(), Unreadable> {
        self.at += 1;
        self.blanks();
        while self.byte()? != b'}' {
            let name = self.take_text()?;
            self.blanks();
            self.expect(b':')?;
            self.place.push(name);
            self.value()?;
            self.place.pop();
            self.blanks();
            if self.byte()? != b'}' {
                self.expect(b',')?;
            }
        }
        self.at += 1;
        Ok(())
    }

    fn array(&mut self) -> Result<(), Unreadable> {
        self.at += 1;
        self.blanks();
        let mut index = 0_usize;
        while self.byte()? != b']' {
            self.place.push(index.to_string());
            self.value()?;
            self.place.pop();
            index += 1;
            self.blanks();
            if self.byte()? != b']' {
                self.expect(b',')?;
            }
        }
        self.at += 1;
        Ok(())
    }

    fn text(&mut self) -> Result<(), Unreadable> {
        let start = self.at;
        let text = self.take_text()?;
        let found = find(&text, self.redaction);
        if found.is_empty() {
            return Ok(());
        }
        let masked = mask(&text, &found, &self.redaction.mask);
        let masked = serde_json::to_string(&masked).map_err(|_| Unreadable)?;
        self.replace(start, &masked);
        let kinds = found.iter().map(|(kind, _)| kind.name().to_owned());
        self.masked.extend(kinds);
        Ok(())
    }

    /// What the text in hand says. Escapes are read: one may hide anything.
    fn take_text(&mut self) -> Result<String, Unreadable> {
        let start = self.at;
        if self.byte()? != b'"' {
            return Err(Unreadable);
        }
        self.skip_text()?;
        serde_json::from_str(&self.json[start..self.at]).map_err(|_| Unreadable)
    }

    fn skip_text(&mut self) -> Result<(), Unreadable> {
        self.at += 1;
        loop {
            match self.byte()? {
                b'"' => {
                    self.at += 1;
                    return Ok(());
                }
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
    }

    /// Goes behind the value in hand, whatever it is.
    fn skip_value(&mut self) -> Result<(), Unreadable> {
        let mut depth = 0_usize;
        loop {
            match self.byte()? {
                b'"' => self.skip_text()?,
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' => {
                    depth = depth.checked_sub(1).ok_or(Unreadable)?;
                    self.at += 1;
                }
                b',' | b':' | b' ' | b'\t' | b'\n' | b'\r' if depth > 0 => self.at += 1,
                _ => self.skip_word()?,
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }

    /// A number, `true`, `false` or `null`.
    fn skip_word(&mut self) -> Result<(), Unreadable> {
        let rest = &self.json.as_bytes()[self.at..];
        let is_part = |byte: &&u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
        match rest.iter().take_while(is_part).count() {
            0 => Err(Unreadable),
            len => {
                self.at += len;
                Ok(())
            }
        }
    }

    fn blanks(&mut self) {
        let rest = &self.json.as_bytes()[self.at..];
        self.at += rest
            .iter()
            .take_while(|byte| b" \t\n\r".contains(byte))
            .count();
    }

    fn byte(&self) -> Result<u8, Unreadable> {
        let bytes = self.json.as_bytes();
        bytes.get(self.at).copied().ok_or(Unreadable)
    }

    fn expect(&mut self, wanted: u8) -> Result<(), Unreadable> {
        if self.byte()? != wanted {
            return Err(Unreadable);
        }
        self.at += 1;
        self.blanks();
        Ok(())
    }

    /// Writes `json` in the place of what was read since `start`.
    fn replace(&mut self, start: usize, json: &str) {
        self.written.push_str(&self.json[self.copied..start]);
        self.written.push_str(json);
        self.copied = self.at;
    }
}

/// What gives a person away in a text, by place.
fn find(text: &str, redaction: &Redaction) -> Vec<(Kind, Range<usize>)> {
    let mut all = Vec::new();
    let mut add = |kind, place| {
        if redaction.patterns.contains(&kind) {
            all.push((kind, place));
        }
    };
    personal_data::emails(text).for_each(|place| add(Kind::Email, place));
    personal_data::numbers(text, |number, place| match number {
        personal_data::Number::Phone => add(Kind::Phone, place),
        personal_data::Number::Identity => add(Kind::Identity, place),
    });
    for form in &redaction.ids {
        form.find(text, |place| all.push((Kind::Id, place)));
    }
    all.sort_by_key(|(_, place)| place.start);
    all
}

/// The text with the mask in each of these places, once where they overlap.
fn mask(text: &str, found: &[(Kind, Range<usize>)], mask: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut at = 0;
    for (_, Range { start, end }) in found {
        if *start >= at {
            masked.push_str(&text[at..*start]);
            masked.push_str(mask);
        }
        at = at.max(*end);
    }
    masked.push_str(&text[at..]);
    masked
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::settings::Settings;

    fn redaction() -> Redaction {
        let settings = json!({
            "audit_channel": "audit",
            "fields": ["/patient/name", "/visits/*/notes", "/**/diagnosis"],
            "ids": ["MRN-####"],
            "mask": "█",
        });
        let settings: Settings = serde_json::from_str(&settings.to_string()).unwrap();
        settings.redaction
    }

    #[track_caller]
    fn check(json: &str, expected: &str, masked: &[&str]) {
        let redacted = redact(json, &redaction()).unwrap();
        let found: Vec<&str> = redacted.masked.iter().map(String::as_str).collect();
        assert_eq!(found, masked, "in {json}");
        assert_eq!(redacted.json.as_deref().unwrap_or(json), expected);
        assert_eq!(redacted.json.is_none(), masked.is_empty(), "{json}");
    }

    #[test]
    fn fields_are_masked_whatever_they_hold_and_the_rest_keeps_its_bytes() {
        check(
            r#" {"patient" : {"name": {"first":"Ann"}, "age": 4.20e1} ,"n":12345678901234567890 } "#,
            r#" {"patient" : {"name": "█", "age": 4.20e1} ,"n":12345678901234567890 } "#,
            &["/patient/name"],
        );
        check(
            r#"{"visits":[{"notes":"x","at":1},{"notes":[1,"a]"]},{"notes":null}]}"#,
            r#"{"visits":[{"notes":"█","at":1},{"notes":"█"},{"notes":"█"}]}"#,
            &["/visits/*/notes"],
        );
        check(
            r#"[[{"diagnosis":false}],{"a":{"diagnosis":-1.5e3}}]"#,
            r#"[[{"diagnosis":"█"}],{"a":{"diagnosis":"█"}}]"#,
            &["/**/diagnosis"],
        );
        check(r#"{"name":"Ann"}"#, r#"{"name":"Ann"}"#, &[]);
        check("17", "17", &[]);
        check("{}", "{}", &[]);
        check("[ ]", "[ ]", &[]);
    }

    #[test]
    fn a_field_that_is_there_twice_is_masked_twice_however_it_is_written() {
        check(
            r#"{"patient":{"name":"Ann","\u006eame":"Bob"},"patient":{"name":"Eve"}}"#,
            r#"{"patient":{"name":"█","\u006eame":"█"},"patient":{"name":"█"}}"#,
            &["/patient/name"],
        );
    }

    #[test]
    fn texts_lose_what_gives_a_person_away() {
        check(
            r#"{"note":"mail ann@example.org or +49 30 901820, card 4111 1111 1111 1111, mrn-0042"}"#,
            r#"{"note":"mail █ or █, card █, █"}"#,
            &["email", "id", "identity", "phone"],
        );
        check(r#"["ann\u0040example.org"]"#, r#"["█"]"#, &["email"]);
        check(
            r#""say \"hi\" to 2026-11-21""#,
            r#""say \"hi\" to 2026-11-21""#,
            &[],
        );
    }

    #[test]
    fn nesting_ends_somewhere() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        check(&nested(MAX_DEPTH), &nested(MAX_DEPTH), &[]);
        check("[1]", "[1]", &[]);
        let too_deep = redact(&nested(100_000), &redaction());
        assert_eq!(too_deep, Err(Unreadable));
    }

    #[test]
    fn what_cannot_be_read_is_not_handed_out() {
        for json in [
            r#"["\ud800"]"#,
            "{",
            r#"{"a" 1}"#,
            r#"{"a":1"#,
            "[1 2]",
            r#""abc"#,
            "",
            "]",
            "{]",
            r#"{"a":}"#,
            "1 1",
        ] {
            assert_eq!(redact(json, &redaction()), Err(Unreadable), "{json}");
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
            Just(json!("SECRET ann@example.org")),
        ];
        let name = prop_oneof![
            any::<String>(),
            Just("diagnosis".to_owned()),
            Just("patient".to_owned()),
            Just("name".to_owned()),
        ];
        leaf.prop_recursive(5, 40, 5, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
                prop::collection::btree_map(name.clone(), inner, 0..5)
                    .prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    /// The same, the slow and plain way.
    fn expected(value: Value, place: &mut Vec<String>, redaction: &Redaction) -> Value {
        if redaction.fields.iter().any(|path| path.leads_to(place)) {
            return redaction.mask.clone().into();
        }
        let mut within = |name: String, value| {
            place.push(name);
            let value = expected(value, place, redaction);
            place.pop();
            value
        };
        match value {
            Value::String(text) => mask(&text, &find(&text, redaction), &redaction.mask).into(),
            Value::Array(items) => {
                let items = items.into_iter().enumerate();
                items
                    .map(|(nth, item)| within(nth.to_string(), item))
                    .collect()
            }
            Value::Object(members) => {
                let members = members.into_iter();
                let members = members.map(|(name, value)| (name.clone(), within(name, value)));
                members.collect::<serde_json::Map<_, _>>().into()
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => value,
        }
    }

    proptest! {
        #[test]
        fn every_document_is_redacted_as_the_plain_way_would(value in value()) {
            let (json, redaction) = (value.to_string(), redaction());
            let redacted = redact(&json, &redaction).unwrap();
            let redacted: Value = serde_json::from_str(redacted.json.as_deref().unwrap_or(&json)).unwrap();
            prop_assert_eq!(&redacted, &expected(value, &mut Vec::new(), &redaction));
            prop_assert!(!redacted.to_string().contains("ann@example.org"));
        }

        #[test]
        fn what_is_not_json_does_not_panic(text in any::<String>(), piece in "[\\[\\]{}:,\"\\\\a1 ]{0,20}") {
            drop(redact(&text, &redaction()));
            drop(redact(&piece, &redaction()));
        }
    }
}
