//! Rewriting the texts of a JSON document and nothing else.
//!
//! Walks over the document's own bytes: what is not a text is copied as it is, so numbers keep their digits and
//! members their order. The document must have been checked before; a walk over anything else stops early rather
//! than panic.

use std::borrow::Cow;

/// A text of the document holds half a character (a lone surrogate), so what it says cannot be known.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unreadable;

/// A document on its way to another one.
#[derive(Debug)]
pub(crate) struct Rewrite<'d> {
    json: &'d str,
    /// Names of the members whose texts are rewritten; all if absent.
    fields: Option<&'d [String]>,
    /// The new document up to `copied`; nothing was written while that is 0.
    written: String,
    /// How much of the document is in `written`.
    copied: usize,
    member: Option<(&'static str, String)>,
}

/// An array or object around the place of the walk.
struct Level {
    is_object: bool,
    /// Whether a text here is rewritten: said by the last name, or by the level around an array.
    is_chosen: bool,
    /// Whether the next text is a name.
    is_name_next: bool,
}

impl<'d> Rewrite<'d> {
    pub(crate) fn new(json: &'d str, fields: Option<&'d [String]>) -> Self {
        Self {
            json,
            fields,
            written: String::new(),
            copied: 0,
            member: None,
        }
    }

    /// Hands each chosen text to `change` and takes what it answers in its place.
    pub(crate) fn texts(
        &mut self,
        mut change: impl FnMut(&str) -> Option<String>,
    ) -> Result<(), Unreadable> {
        let bytes = self.json.as_bytes();
        let mut levels: Vec<Level> = Vec::new();
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            match byte {
                b'{' | b'[' => {
                    let is_chosen = levels
                        .last()
                        .map_or(self.fields.is_none(), |level| level.is_chosen);
                    levels.push(Level {
                        is_object: *byte == b'{',
                        is_chosen,
                        is_name_next: *byte == b'{',
                    });
                }
                b'}' | b']' => {
                    levels.pop();
                }
                b',' => {
                    if let Some(level) = levels.last_mut() {
                        level.is_name_next = level.is_object;
                    }
                }
                b'"' => {
                    let end = end_of_text(bytes, at).ok_or(Unreadable)?;
                    let text = &self.json[at..end];
                    match levels.last_mut() {
                        Some(level) if level.is_name_next => {
                            level.is_name_next = false;
                            level.is_chosen = match self.fields {
                                None => true,
                                Some(fields) => {
                                    let name = unescape(text).ok_or(Unreadable)?;
                                    fields.iter().any(|field| *field == name)
                                }
                            };
                        }
                        level => {
                            let is_chosen =
                                level.map_or(self.fields.is_none(), |level| level.is_chosen);
                            if is_chosen {
                                let text = unescape(text).ok_or(Unreadable)?;
                                if let Some(changed) = change(&text) {
                                    self.replace(at, end, &changed);
                                }
                            }
                        }
                    }
                    at = end;
                    continue;
                }
                _ => {}
            }
            at += 1;
        }
        Ok(())
    }

    /// Sets a member of the document, if that is an object. One of the same name that is there already is taken out,
    /// so that no sender can write it.
    pub(crate) fn set_member(&mut self, name: &'static str, value: &str) {
        self.member = Some((name, value.to_owned()));
    }

    /// The new document; `None` if it is the old one.
    pub(crate) fn finish(mut self) -> Option<String> {
        let is_changed = self.copied > 0;
        if is_changed {
            self.written.push_str(&self.json[self.copied..]);
        }
        let json = if is_changed { &self.written } else { self.json };
        if let Some((name, value)) = &self.member
            && let Some(with_member) = set_member(json, name, value)
        {
            return Some(with_member);
        }
        is_changed.then_some(self.written)
    }

    fn replace(&mut self, start: usize, end: usize, text: &str) {
        if self.written.is_empty() {
            self.written.reserve(self.json.len() + 16);
        }
        self.written.push_str(&self.json[self.copied..start]);
        push_text(&mut self.written, text);
        self.copied = end;
    }
}

/// The document with `name` as its last member and nowhere else, if it is an object.
fn set_member(json: &str, name: &str, value: &str) -> Option<String> {
    let bytes = json.as_bytes();
    let open = bytes.iter().position(|byte| *byte == b'{')?;
    if !json[..open].trim().is_empty() {
        return None;
    }
    let mut document = String::with_capacity(json.len() + name.len() + value.len() + 8);
    document.push('{');
    let mut depth = 0_usize;
    let mut start = open + 1;
    let mut at = open + 1;
    while let Some(byte) = bytes.get(at) {
        let is_end = *byte == b'}' && depth == 0;
        match byte {
            b'"' => {
                at = end_of_text(bytes, at)?;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth > 0 => depth -= 1,
            _ => {}
        }
        if is_end || (*byte == b',' && depth == 0) {
            let member = &json[start..at];
            start = at + 1;
            if !member.trim().is_empty() && !is_named(member, name) {
                document.push_str(member);
                document.push(',');
            }
        }
        if is_end {
            push_text(&mut document, name);
            document.push(':');
            push_text(&mut document, value);
            document.push('}');
            return Some(document);
        }
        at += 1;
    }
    None
}

fn is_named(member: &str, name: &str) -> bool {
    let member = member.trim_start();
    end_of_text(member.as_bytes(), 0)
        .is_some_and(|end| unescape(&member[..end]).is_some_and(|it| it == name))
}

/// Just behind the closing quote of the text whose opening one is at `start`.
fn end_of_text(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// What a text with its quotes says, if that can be said in Unicode.
fn unescape(text: &str) -> Option<Cow<'_, str>> {
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        return serde_json::from_str(text).ok().map(Cow::Owned);
    }
    Some(Cow::Borrowed(inner))
}

fn push_text(json: &mut String, text: &str) {
    match serde_json::to_string(text) {
        Ok(text) => json.push_str(&text),
        // Text can always be written.
        Err(_) => json.push_str("\"\""),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shout(json: &str, fields: Option<&[&str]>) -> Option<String> {
        let fields = fields.map(|fields| {
            fields
                .iter()
                .map(|&field| field.to_owned())
                .collect::<Vec<_>>()
        });
        let mut rewrite = Rewrite::new(json, fields.as_deref());
        rewrite
            .texts(|text| {
                text.chars()
                    .any(char::is_lowercase)
                    .then(|| text.to_uppercase())
            })
            .unwrap();
        rewrite.finish()
    }

    #[track_caller]
    fn check(json: &str, fields: Option<&[&str]>, expected: Option<&str>) {
        assert_eq!(shout(json, fields).as_deref(), expected, "of {json}");
    }

    #[test]
    fn only_texts_are_rewritten() {
        check(
            r#" { "b" : "x" , "a":[1.000, 12345678901234567890, "y"], "c":{"d":"z"} , "e":null } "#,
            None,
            Some(
                r#" { "b" : "X" , "a":[1.000, 12345678901234567890, "Y"], "c":{"d":"Z"} , "e":null } "#,
            ),
        );
        check(r#""x""#, None, Some(r#""X""#));
        check(r#"["x",["y"]]"#, None, Some(r#"["X",["Y"]]"#));
        check(r#"{"lower":"UPPER"}"#, None, None);
        check("17", None, None);
    }

    #[test]
    fn escapes_are_read_and_written() {
        check(
            r#"{"a":"\u0078\n\"y\" \\ \ud83d\ude00"}"#,
            None,
            Some("{\"a\":\"X\\n\\\"Y\\\" \\\\ 😀\"}"),
        );
        check(r#"{"a\"b":"x\\"}"#, None, Some(r#"{"a\"b":"X\\"}"#));
    }

    #[test]
    fn fields_choose_their_own_texts_and_those_of_arrays() {
        check(
            r#"{"a":"x","b":["x",{"c":"x","a":"x"}],"c":"x"}"#,
            Some(&["a", "b"]),
            Some(r#"{"a":"X","b":["X",{"c":"x","a":"X"}],"c":"x"}"#),
        );
        check(r#""x""#, Some(&["a"]), None);
        check(r#"{"\u0061":"x"}"#, Some(&["a"]), Some(r#"{"\u0061":"X"}"#));
    }

    #[test]
    fn a_member_is_set_once_whatever_was_there() {
        let set = |json: &str| set_member(json, "by", "me");
        assert_eq!(set("{}").unwrap(), r#"{"by":"me"}"#);
        assert_eq!(
            set(r#" {"a": [1,{"by":2}] }"#).unwrap(),
            r#"{"a": [1,{"by":2}] ,"by":"me"}"#
        );
        assert_eq!(
            set(r#"{"by":"you","a":1}"#).unwrap(),
            r#"{"a":1,"by":"me"}"#
        );
        assert_eq!(
            set(r#"{"a":1, "\u0062y" :"you"}"#).unwrap(),
            r#"{"a":1,"by":"me"}"#
        );
        assert_eq!(set(r#"{"by":1,"by":2}"#).unwrap(), r#"{"by":"me"}"#);
        assert_eq!(set("[]"), None);
        assert_eq!(set(r#""{}""#), None);
    }

    fn value() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::btree_map(any::<String>(), inner, 0..4)
                    .prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    fn replaced(value: serde_json::Value) -> serde_json::Value {
        use serde_json::Value;
        match value {
            Value::String(_) => "!".into(),
            Value::Array(items) => items.into_iter().map(replaced).collect(),
            Value::Object(members) => members
                .into_iter()
                .map(|(name, value)| (name, replaced(value)))
                .collect(),
            Value::Null | Value::Bool(_) | Value::Number(_) => value,
        }
    }

    proptest! {
        #[test]
        fn every_document_keeps_its_shape(value in value()) {
            let json = value.to_string();
            let mut rewrite = Rewrite::new(&json, None);
            rewrite.texts(|_| Some("!".to_owned())).unwrap();
            let rewritten = rewrite.finish().unwrap_or(json);
            let rewritten: serde_json::Value = serde_json::from_str(&rewritten).unwrap();
            prop_assert_eq!(rewritten, replaced(value));
        }

        #[test]
        fn what_is_not_json_does_not_panic(text in any::<String>(), name in any::<String>()) {
            let mut rewrite = Rewrite::new(&text, None);
            drop(rewrite.texts(|_| Some(name.clone())));
            rewrite.set_member("by", &name);
            rewrite.finish();
        }
    }
}
