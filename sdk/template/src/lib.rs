//! A Tidegate plugin: tidies chat messages before anybody sees them.
//!
//! It takes JSON data with a `text`, cuts blanks at both ends, refuses what is empty or too long, and shouts if it
//! is told to. Every other field passes untouched.

use serde::Deserialize;
use serde_json::{Map, Value};
use tidegate_sdk::{Filtering, Message, Refusal, config, filtering::Verdict, plugin};

/// What the operator may set: `tidegate plugin bind … --config '{"loud": true}'`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    /// Longer texts are refused.
    max_chars: usize,
    /// Whether texts are put in capitals.
    loud: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_chars: 500,
            loud: false,
        }
    }
}

struct Tidy;

impl Filtering for Tidy {
    fn filter(message: Message) -> Result<Verdict, Refusal> {
        let settings = config::settings::<Settings>();
        // `?` refuses data that is not a JSON object, and tells its sender what is wrong.
        let mut data: Map<String, Value> = message.json()?;
        let Some(Value::String(text)) = data.get_mut("text") else {
            return Ok(Verdict::Pass);
        };

        let tidy = text.trim();
        if tidy.is_empty() {
            return Err(Refusal::error(422, "there is nothing to say"));
        }
        if tidy.chars().count() > settings.max_chars {
            let reason = format!("at most {} characters", settings.max_chars);
            return Err(Refusal::error(413, reason));
        }
        let tidy = if settings.loud {
            tidy.to_uppercase()
        } else {
            tidy.to_owned()
        };
        if tidy == *text {
            return Ok(Verdict::Pass);
        }
        *text = tidy;
        Verdict::json(&data)
    }
}

plugin!(Tidy: filtering);

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tidegate_sdk::testing::Host;

    use super::*;

    #[test]
    fn tidy_text_passes_as_it_is() {
        let verdict = Host::new().filter::<Tidy>("chat:lobby", r#"{"text":"hello"}"#);
        assert_eq!(verdict, Ok(Verdict::Pass));
    }

    #[test]
    fn blanks_are_cut_and_other_fields_kept() {
        let data = r#"{"color":"red","text":"  hello "}"#;
        let verdict = Host::new().filter::<Tidy>("chat:lobby", data);
        let expected = br#"{"color":"red","text":"hello"}"#;
        assert_eq!(verdict, Ok(Verdict::Replace(expected.to_vec())));
    }

    #[test]
    fn loud_is_a_setting() {
        let mut host = Host::new().config(json!({ "loud": true }));
        let verdict = host.filter::<Tidy>("chat:lobby", r#"{"text":"hello"}"#);
        let expected = br#"{"text":"HELLO"}"#;
        assert_eq!(verdict, Ok(Verdict::Replace(expected.to_vec())));
    }

    #[test]
    fn empty_and_long_texts_are_refused() {
        let mut host = Host::new().config(json!({ "max_chars": 5 }));
        let empty = host.filter::<Tidy>("chat:lobby", r#"{"text":"  "}"#);
        assert_eq!(empty.unwrap_err().code(), Some(422));
        let long = host.filter::<Tidy>("chat:lobby", r#"{"text":"123456"}"#);
        assert_eq!(long.unwrap_err().reason(), "at most 5 characters");
    }
}
