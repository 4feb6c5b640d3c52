//! Texts in which `*` stands for anything.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer};

use super::BadSetting;

/// Longer patterns are a mistake, and would make matching slow.
const MAX_PATTERN_BYTES: usize = 256;

/// A text of the settings in which `*` stands for any characters, or none: `sensors:*`, `*-USD`.
///
/// It matches a text as a whole, byte by byte, upper case other than lower case.
///
/// ```
/// use tidegate_sdk::config::Pattern;
///
/// let pattern: Pattern = serde_json::from_str(r#""sensors:*:raw""#)?;
/// assert!(pattern.matches("sensors:7:raw"));
/// assert!(!pattern.matches("sensors:7:raw:old"));
/// assert!(serde_json::from_str::<Pattern>(r#""""#).is_err());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// The pattern that matches every text.
    pub fn any() -> Self {
        Self("*".to_owned())
    }

    /// The pattern of these parts, one after the other.
    pub(crate) fn from_parts<'p>(parts: impl Iterator<Item = &'p str>) -> Self {
        Self(parts.collect())
    }

    /// Whether the whole text is of this form.
    pub fn matches(&self, text: &str) -> bool {
        let (pattern, text) = (self.0.as_bytes(), text.as_bytes());
        let (mut at, mut read) = (0, 0);
        // Where the last `*` stands, and how much of the text it is taken for.
        let mut star = None;
        while read < text.len() {
            match pattern.get(at) {
                Some(b'*') => {
                    star = Some((at, read));
                    at += 1;
                }
                Some(byte) if *byte == text[read] => {
                    at += 1;
                    read += 1;
                }
                Some(_) | None => {
                    // It must stand for one byte more. An earlier `*` need not change: this one can take all.
                    let Some((place, taken)) = star else {
                        return false;
                    };
                    star = Some((place, taken + 1));
                    at = place + 1;
                    read = taken + 1;
                }
            }
        }
        pattern[at..].iter().all(|byte| *byte == b'*')
    }

    /// The pattern as it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Pattern {
    type Err = BadSetting;

    fn from_str(text: &str) -> Result<Self, BadSetting> {
        if text.is_empty() {
            return Err(BadSetting::new(
                "a pattern is empty; write \"*\" for everything",
            ));
        }
        if text.len() > MAX_PATTERN_BYTES {
            return Err(BadSetting::new(format!(
                "a pattern has {} bytes; at most {MAX_PATTERN_BYTES} are allowed",
                text.len()
            )));
        }
        Ok(Self(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        super::from_text(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, text: &str, expected: bool) {
        let pattern: Pattern = pattern.parse().unwrap();
        assert_eq!(pattern.matches(text), expected, "{pattern} and {text:?}");
    }

    #[test]
    fn a_star_is_any_characters_or_none_and_the_rest_is_itself() {
        check("*", "", true);
        check("*", "anything", true);
        check("room", "room", true);
        check("room", "rooms", false);
        check("room", "Room", false);
        check("a*", "a", true);
        check("*-USD", "BTC-USD", true);
        check("*-USD", "BTC-USD-PERP", false);
        check("a*b*c", "a-b-b-c", true);
        check("a*b*c", "a-c-b", false);
        check("*ab", "aaab", true);
        check("**", "x", true);
        check("sensors:*", "sensors:é", true);
    }

    #[test]
    fn hostile_patterns_are_no_slower_than_the_product_of_the_lengths() {
        let pattern = "a*".repeat(127);
        check(&pattern, &"a".repeat(10_000), true);
        check(&format!("{pattern}b"), &"a".repeat(10_000), false);
    }
}
