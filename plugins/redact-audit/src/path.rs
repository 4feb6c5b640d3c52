//! Paths of fields: which value of a document is meant.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer};
use tidegate_sdk::config::{BadSetting, from_text};

const MAX_PATH_BYTES: usize = 256;

/// A JSON pointer in which a segment `*` is any one member or element, and `**` any number of them, none too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FieldPath {
    text: String,
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Name(String),
    Any,
    /// At most once in a path, so that matching takes linear time.
    Deep,
}

impl FieldPath {
    /// Whether the value that these names and indices lead to is meant.
    pub(crate) fn leads_to(&self, place: &[String]) -> bool {
        let is_at = |segments: &[Segment], place: &[String]| {
            let mut pairs = segments.iter().zip(place);
            segments.len() == place.len()
                && pairs.all(|(segment, name)| match segment {
                    Segment::Name(wanted) => wanted == name,
                    Segment::Any => true,
                    Segment::Deep => false,
                })
        };
        let is_deep = |segment: &Segment| *segment == Segment::Deep;
        let Some(deep) = self.segments.iter().position(is_deep) else {
            return is_at(&self.segments, place);
        };
        let (head, tail) = (&self.segments[..deep], &self.segments[deep + 1..]);
        place.len() >= head.len() + tail.len()
            && is_at(head, &place[..head.len()])
            && is_at(tail, &place[place.len() - tail.len()..])
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for FieldPath {
    type Err = BadSetting;

    fn from_str(text: &str) -> Result<Self, BadSetting> {
        let bad = |why: &str| {
            Err(BadSetting::new(format!(
                "`{text}` {why}; write a path such as \"/patient/name\", \"/visits/*/notes\" or \"/**/diagnosis\""
            )))
        };
        if text.len() > MAX_PATH_BYTES {
            return bad("has more than 256 bytes");
        }
        let Some(path) = text.strip_prefix('/') else {
            return bad("does not begin with `/`");
        };
        let mut segments = Vec::new();
        for segment in path.split('/') {
            segments.push(match segment {
                "*" => Segment::Any,
                "**" => Segment::Deep,
                _ if segment
                    .split('~')
                    .skip(1)
                    .any(|after| !after.starts_with(['0', '1'])) =>
                {
                    return bad("has a `~` that is neither `~0` nor `~1`");
                }
                _ => Segment::Name(segment.replace("~1", "/").replace("~0", "~")),
            });
        }
        if segments.iter().filter(|one| **one == Segment::Deep).count() > 1 {
            return bad("has `**` more than once");
        }
        Ok(Self {
            text: text.to_owned(),
            segments,
        })
    }
}

impl<'de> Deserialize<'de> for FieldPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, place: &[&str], expected: bool) {
        let path: FieldPath = path.parse().unwrap();
        let place: Vec<String> = place.iter().map(|&name| name.to_owned()).collect();
        assert_eq!(path.leads_to(&place), expected, "{path} and {place:?}");
    }

    #[test]
    fn a_path_means_what_its_segments_say() {
        check("/patient/name", &["patient", "name"], true);
        check("/patient/name", &["patient"], false);
        check("/patient/name", &["patient", "name", "first"], false);
        check("/visits/*/notes", &["visits", "0", "notes"], true);
        check("/visits/*/notes", &["visits", "notes"], false);
        check("/visits/0", &["visits", "0"], true);
        check("/**/diagnosis", &["diagnosis"], true);
        check("/**/diagnosis", &["a", "b", "diagnosis"], true);
        check("/**/diagnosis", &["diagnosis", "code"], false);
        check("/a/**", &["a"], true);
        check("/a/**", &["a", "b", "c"], true);
        check("/a/**/z", &["a", "z"], true);
        check("/a/**/a", &["a"], false);
        check("/a~1b/~0", &["a/b", "~"], true);
        check("/", &[""], true);
        check("/**", &[], true);
    }

    #[test]
    fn what_is_no_path_says_what_one_is() {
        for (text, says) in [
            ("", "does not begin with `/`"),
            ("patient", "does not begin with `/`"),
            ("/a~2", "neither `~0` nor `~1`"),
            ("/**/a/**", "`**` more than once"),
        ] {
            let error = text.parse::<FieldPath>().unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
            assert!(error.contains("such as \"/patient/name\""), "{error}");
        }
        assert!(
            format!("/{}", "x".repeat(256))
                .parse::<FieldPath>()
                .is_err()
        );
    }
}
