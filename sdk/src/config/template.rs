//! Texts with places to fill in.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer};

use super::{BadSetting, Pattern};

/// A text of the settings with places to fill in, such as a channel's name: `alerts:{channel}`.
///
/// A place is a name in braces. Which names there are is the plugin's business: it says so with
/// [`Template::allow`] when it checks its settings, so that a slip of the pen is found then.
///
/// ```
/// use tidegate_sdk::config::Template;
///
/// let template: Template = serde_json::from_str(r#""alerts:{channel}""#)?;
/// assert!(template.allow(&["channel"]).is_ok());
/// assert_eq!(template.fill(&[("channel", "room")]), "alerts:room");
/// assert!(template.pattern().matches("alerts:x"));
///
/// let template: Template = serde_json::from_str(r#""alerts:{chanel}""#)?;
/// let error = template.allow(&["channel"]).unwrap_err();
/// assert_eq!(error.to_string(), "`{chanel}` in `alerts:{chanel}` is not known; there is {channel}");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    text: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// Name of a place.
    Place(String),
}

impl Template {
    /// Checks that all its places have one of these names.
    ///
    /// # Errors
    ///
    /// When one has not; the text of the error names it.
    pub fn allow(&self, names: &[&str]) -> Result<(), BadSetting> {
        match self.places().find(|place| !names.contains(place)) {
            None => Ok(()),
            Some(place) if names.is_empty() => Err(BadSetting::new(format!(
                "`{{{place}}}` in `{}` is not known; nothing is filled in here",
                self.text
            ))),
            Some(place) => {
                let known: Vec<String> = names.iter().map(|name| format!("{{{name}}}")).collect();
                Err(BadSetting::new(format!(
                    "`{{{place}}}` in `{}` is not known; there is {}",
                    self.text,
                    known.join(", ")
                )))
            }
        }
    }

    /// Names of the places, in order.
    pub fn places(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Place(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// The text with its places filled in; with nothing, where `values` has no such name.
    pub fn fill(&self, values: &[(&str, &str)]) -> String {
        let value_of = |name: &str| values.iter().find(|(known, _)| *known == name);
        let parts = self.parts.iter().map(|part| match part {
            Part::Text(text) => text.as_str(),
            Part::Place(name) => value_of(name).map_or("", |(_, value)| value),
        });
        parts.collect()
    }

    /// The pattern of all texts that it can become.
    pub fn pattern(&self) -> Pattern {
        let parts = self.parts.iter().map(|part| match part {
            Part::Text(text) => text.as_str(),
            Part::Place(_) => "*",
        });
        Pattern::from_parts(parts)
    }

    /// The template as it is written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Template {
    type Err = BadSetting;

    fn from_str(text: &str) -> Result<Self, BadSetting> {
        if text.is_empty() {
            return Err(BadSetting::new("a text to fill in is empty"));
        }
        if text.contains('*') {
            return Err(BadSetting::new(format!(
                "`{text}` is a text to fill in, such as \"alerts:{{channel}}\"; a `*` has no meaning there"
            )));
        }
        let unpaired = || {
            BadSetting::new(format!(
                "a brace of `{text}` is alone; places to fill in are written \"{{name}}\""
            ))
        };
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(at);
            let inside = from.strip_prefix('{').ok_or_else(unpaired)?;
            let (name, after) = inside.split_once('}').ok_or_else(unpaired)?;
            if name.contains('{') || name.is_empty() {
                return Err(unpaired());
            }
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(Part::Place(name.to_owned()));
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self {
            text: text.to_owned(),
            parts,
        })
    }
}

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        super::from_text(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_filled_wherever_they_stand() {
        let values = [("channel", "room"), ("device", "7")];
        for (text, filled) in [
            ("alerts", "alerts"),
            ("{channel}", "room"),
            ("{channel}:full", "room:full"),
            ("a:{device}:{channel}:{device}", "a:7:room:7"),
            ("{channel}{device}", "room7"),
            ("a:{unknown}", "a:"),
        ] {
            let template: Template = text.parse().unwrap();
            assert_eq!(template.fill(&values), filled, "{text}");
            assert_eq!(template.as_str(), text);
            assert!(template.pattern().matches(filled), "{text}");
        }
    }

    #[test]
    fn lone_braces_and_stars_are_told() {
        for text in ["{", "a}", "{a", "{}", "{a{b}}", "{a}}"] {
            let error = text.parse::<Template>().unwrap_err().to_string();
            assert!(error.contains("is alone"), "{text}: {error}");
        }
        let error = "a*".parse::<Template>().unwrap_err().to_string();
        assert!(error.contains("has no meaning"), "{error}");
        assert!("".parse::<Template>().is_err());
        let plain: Template = "alerts:{x}".parse().unwrap();
        assert!(
            plain
                .allow(&[])
                .unwrap_err()
                .to_string()
                .contains("nothing is filled in")
        );
    }
}
