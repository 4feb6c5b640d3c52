//! Ids of the operator's own: record numbers, insurance numbers, case numbers.

use std::{fmt, ops::Range, str::FromStr};

use serde::{Deserialize, Deserializer};
use tidegate_sdk::config::{BadSetting, from_text};

const MAX_FORM_BYTES: usize = 64;

/// What an id looks like: `#` is a digit, `?` an ASCII letter, everything else itself, letters in either case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IdForm(String);

impl IdForm {
    /// The places of all ids of this form that are not a part of a longer word.
    pub(crate) fn find(&self, text: &str, mut found: impl FnMut(Range<usize>)) {
        let bytes = text.as_bytes();
        let form = self.0.as_bytes();
        let mut at = 0;
        while at + form.len() <= bytes.len() {
            let end = at + form.len();
            let before = at.checked_sub(1).map(|before| bytes[before]);
            let is_whole = ![before, bytes.get(end).copied()]
                .into_iter()
                .flatten()
                .any(is_word);
            let is_id = || {
                let mut pairs = form.iter().zip(&bytes[at..end]);
                pairs.all(|(wanted, byte)| match wanted {
                    b'#' => byte.is_ascii_digit(),
                    b'?' => byte.is_ascii_alphabetic(),
                    _ => wanted.eq_ignore_ascii_case(byte),
                })
            };
            if is_whole && is_id() {
                found(at..end);
                at = end;
            } else {
                at += 1;
            }
        }
    }
}

/// Digits, letters and everything that is not ASCII belong together.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || !byte.is_ascii()
}

impl fmt::Display for IdForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for IdForm {
    type Err = BadSetting;

    fn from_str(text: &str) -> Result<Self, BadSetting> {
        let bad = |why: String| {
            Err(BadSetting::new(format!(
                "`{text}` {why}; write a form such as \"MRN-######\": `#` is a digit, `?` a letter"
            )))
        };
        if !(3..=MAX_FORM_BYTES).contains(&text.len()) {
            return bad(format!(
                "has {} bytes, and a form has 3 to {MAX_FORM_BYTES}",
                text.len()
            ));
        }
        if !text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
            return bad("has characters that are not printable ASCII".to_owned());
        }
        let is_end = |byte: Option<u8>| {
            byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || b"#?".contains(&byte))
        };
        if !is_end(text.bytes().next()) || !is_end(text.bytes().next_back()) {
            return bad("does not begin and end with a digit or a letter".to_owned());
        }
        Ok(Self(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for IdForm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(form: &str, text: &str, expected: &[&str]) {
        let form: IdForm = form.parse().unwrap();
        let mut found = Vec::new();
        form.find(text, |place| found.push(&text[place]));
        assert_eq!(found, expected, "{form} in {text:?}");
    }

    #[test]
    fn ids_are_found_whole_and_in_either_case() {
        check(
            "MRN-####",
            "see MRN-1234, mrn-0001.",
            &["MRN-1234", "mrn-0001"],
        );
        check("MRN-####", "MRN-12345 XMRN-1234 MRN-123é MRN-1234é", &[]);
        check("?##", "A12,b34 é56 7", &["A12", "b34"]);
        check("###", "123 456-789", &["123", "456", "789"]);
        check("###", "é123é 12", &[]);
        check("###", "", &[]);
    }

    #[test]
    fn what_is_no_form_says_what_one_is() {
        for text in ["", "##", "-###", "### ", "é###", &"#".repeat(65)] {
            let error = text.parse::<IdForm>().unwrap_err().to_string();
            assert!(error.contains("such as \"MRN-######\""), "{error}");
        }
    }
}
