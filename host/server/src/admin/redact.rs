//! What is hidden in the settings of bindings: values whose names say that they are secret.
//!
//! Settings are any JSON, so names are all there is to go by. Invariant: the shape stays, and no value below such a
//! name is left.

use serde_json::Value;

/// Stands where a secret was.
pub(super) const MARK: &str = "[redacted]";

/// A name that has one of these in it, whatever the case and the separators, is the name of a secret. Hiding a
/// harmless value costs a look with an operator's key; showing a secret costs the secret.
const WORDS: [&str; 7] = [
    "secret",
    "token",
    "password",
    "passwd",
    "passphrase",
    "credential",
    "key",
];

/// Replaces every value below a name that says so.
pub(super) fn redact(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                if names_a_secret(name) {
                    blank(member);
                } else {
                    redact(member);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn blank(value: &mut Value) {
    match value {
        Value::Object(members) => members.values_mut().for_each(blank),
        Value::Array(items) => items.iter_mut().for_each(blank),
        Value::Null => {}
        Value::Bool(_) | Value::Number(_) | Value::String(_) => *value = MARK.into(),
    }
}

fn names_a_secret(name: &str) -> bool {
    let name: String = name
        .chars()
        .filter(|char| char.is_alphanumeric())
        .flat_map(char::to_lowercase)
        .collect();
    WORDS.iter().any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_go_at_every_depth_and_the_shape_stays() {
        let mut settings = json!({
            "secrets": [{ "id": "k1", "secret": "s3cret" }],
            "upstream": [{ "url": "http://a", "API-Key": 7, "passWord": true }],
            "tokens": { "a": null, "b": ["x", {}] },
            "max_chars": 5,
            "loud": false,
        });
        redact(&mut settings);
        let expected = json!({
            "secrets": [{ "id": MARK, "secret": MARK }],
            "upstream": [{ "url": "http://a", "API-Key": MARK, "passWord": MARK }],
            "tokens": { "a": null, "b": [MARK, {}] },
            "max_chars": 5,
            "loud": false,
        });
        assert_eq!(settings, expected);
    }
}
