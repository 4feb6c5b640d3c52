//! A Tidegate plugin: puts chat messages in capitals before anybody sees them.
//!
//! It takes JSON data with a `text`, cuts blanks at both ends, refuses what is empty or too long, and shouts unless it
//! is told not to. It signs what it read in `filtered_by`; every other field passes untouched.

use serde::Deserialize;
use serde_json::{Map, Value};
use tidegate_sdk::{
    Configured, Filtering, Message, Refusal,
    config::{self, BadSetting},
    context,
    filtering::Verdict,
    plugin,
    settings::Offered,
};

/// What the operator may set: `tidegate plugin bind … --config '{"loud": false}'`.
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
            loud: true,
        }
    }
}

struct Shout;

/// Settings that are not good are not bound; whoever binds them reads why.
impl Configured for Shout {
    fn check(offered: Offered) -> Result<(), BadSetting> {
        offered.read::<Settings>().map(drop)
    }
}

impl Filtering for Shout {
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
        *text = if settings.loud {
            tidy.to_uppercase()
        } else {
            tidy.to_owned()
        };
        sign(&mut data);
        Verdict::json(&data)
    }
}

/// Adds this plugin and its version to those that read the message before.
fn sign(data: &mut Map<String, Value>) {
    let me = format!("{}@{}", env!("CARGO_PKG_NAME"), context::version());
    let readers = data.entry("filtered_by").or_insert(Value::Null);
    *readers = match readers.take() {
        Value::Null => vec![me].into(),
        Value::Array(mut before) => {
            before.push(me.into());
            before.into()
        }
        one => vec![one, me.into()].into(),
    };
}

plugin!(Shout: filtering, settings);

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tidegate_sdk::testing::Host;

    use super::*;

    /// What becomes of the data.
    fn filtered(host: &mut Host, data: &Value) -> Value {
        match host.filter::<Shout>("chat:lobby", data.to_string()) {
            Ok(Verdict::Replace(data)) => serde_json::from_slice(&data).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn me() -> String {
        format!("{}@3", env!("CARGO_PKG_NAME"))
    }

    #[test]
    fn text_is_shouted_and_signed_and_other_fields_are_kept() {
        let data = json!({ "color": "red", "text": "  hello " });
        assert_eq!(
            filtered(&mut Host::new().version(3), &data),
            json!({ "color": "red", "text": "HELLO", "filtered_by": [me()] })
        );
    }

    #[test]
    fn who_read_it_before_stays_named() {
        let data = json!({ "text": "HI", "filtered_by": "word-filter@1" });
        assert_eq!(
            filtered(&mut Host::new().version(3), &data),
            json!({ "text": "HI", "filtered_by": ["word-filter@1", me()] })
        );
    }

    #[test]
    fn loud_is_a_setting() {
        let mut host = Host::new().version(3).config(json!({ "loud": false }));
        let data = json!({ "text": " hello" });
        assert_eq!(filtered(&mut host, &data)["text"], "hello");
    }

    #[test]
    fn a_setting_with_a_typo_is_not_bound() {
        let host = Host::new().config(json!({ "lout": false }));
        let error = host.check_settings::<Shout>("filtering").unwrap_err();
        assert!(
            error.to_string().starts_with("unknown field `lout`"),
            "{error}"
        );
    }

    #[test]
    fn data_without_text_passes_as_it_is() {
        let verdict = Host::new().filter::<Shout>("chat:lobby", r#"{"typing":true}"#);
        assert_eq!(verdict, Ok(Verdict::Pass));
    }

    #[test]
    fn empty_and_long_texts_are_refused() {
        let mut host = Host::new().config(json!({ "max_chars": 5 }));
        let empty = host.filter::<Shout>("chat:lobby", r#"{"text":"  "}"#);
        assert_eq!(empty.unwrap_err().code(), Some(422));
        let long = host.filter::<Shout>("chat:lobby", r#"{"text":"123456"}"#);
        assert_eq!(long.unwrap_err().reason(), "at most 5 characters");
    }
}
