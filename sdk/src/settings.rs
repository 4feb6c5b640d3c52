//! Settings that are tried when they are bound.
//!
//! A plugin reads its settings at its first call, and calls fail where they cannot be used. One that implements
//! [`Configured`] and names `settings` in [`plugin!`](crate::plugin) has them tried before: the server refuses to bind
//! what the plugin cannot use, and whoever binds reads why.

use serde::de::DeserializeOwned;

use crate::{
    bindings::settings::exports::tidegate::plugin::settings as wit, config::BadSetting, panics,
};

/// Says whether settings can be used, when they are bound.
///
/// ```
/// use serde::Deserialize;
/// use tidegate_sdk::{
///     Configured, Filtering, Message, Refusal, config::{self, BadSetting}, filtering::Verdict, plugin,
///     settings::Offered, testing::Host,
/// };
///
/// #[derive(Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Limits {
///     max_bytes: usize,
/// }
///
/// struct Short;
///
/// impl Configured for Short {
///     fn check(offered: Offered) -> Result<(), BadSetting> {
///         offered.read::<Limits>().map(drop)
///     }
/// }
///
/// impl Filtering for Short {
///     fn filter(message: Message) -> Result<Verdict, Refusal> {
///         let limits = config::settings::<Limits>();
///         if message.data().len() > limits.max_bytes {
///             return Err(Refusal::error(413, "the message is too long"));
///         }
///         Ok(Verdict::Pass)
///     }
/// }
///
/// plugin!(Short: filtering, settings);
///
/// let host = Host::new().config(serde_json::json!({ "max_byte": 4 }));
/// let error = host.check_settings::<Short>("filtering").unwrap_err();
/// assert!(error.to_string().starts_with("unknown field `max_byte`, expected `max_bytes`"));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is listed with `settings` but does not implement `Configured`",
    label = "needs `impl tidegate_sdk::Configured for {Self}`",
    note = "write `fn check(offered: settings::Offered) -> Result<(), config::BadSetting>` in it, or take `settings` out of `plugin!`"
)]
pub trait Configured {
    /// Reads the settings as calls do. Nothing of the node but [`log`](crate::log) may be used here, and the node waits
    /// 50 ms.
    ///
    /// # Errors
    ///
    /// [`BadSetting`] says what is wrong and what to write instead; the node does not bind it.
    fn check(offered: Offered) -> Result<(), BadSetting>;
}

/// Settings that somebody wants to bind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offered {
    hook: String,
    text: String,
}

impl Offered {
    pub(crate) fn new(hook: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            hook: hook.into(),
            text: text.into(),
        }
    }

    /// The hook that the plugin would be bound to: `filtering`, ….
    pub fn hook(&self) -> &str {
        &self.hook
    }

    /// The settings as JSON text; `{}` when none were given.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The settings as calls read them with [`config::settings`](crate::config::settings).
    ///
    /// # Errors
    ///
    /// When they are not a `T`. The text of the error names the member.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, BadSetting> {
        serde_json::from_str(&self.text).map_err(|error| self.bad(&error))
    }

    fn bad(&self, error: &serde_json::Error) -> BadSetting {
        let text = error.to_string();
        // Other errors name their member, or were written by the plugin.
        let is_nameless = [
            "invalid type",
            "invalid value",
            "invalid length",
            "unknown variant",
        ]
        .iter()
        .any(|beginning| text.starts_with(beginning));
        let bad = BadSetting::new(text);
        match place(&self.text, error.line(), error.column()) {
            Some(place) if is_nameless => bad.at(place),
            Some(_) | None => bad,
        }
    }
}

/// An object or a list around the place of the walk.
enum Level<'t> {
    Object {
        member: &'t str,
        /// Whether the next text is a member's name.
        is_name_next: bool,
    },
    List {
        index: usize,
    },
}

/// The member whose value stands before `line` and `column`, or begins there: `rules[2].high`. Both are those of an
/// error of `serde_json`, which has read the text up to there; `None` if that is outside of all members.
fn place(json: &str, line: usize, column: usize) -> Option<String> {
    let lines = json.split_inclusive('\n').take(line.checked_sub(1)?);
    let end = lines.map(str::len).sum::<usize>() + column;
    let json = json.get(..end)?;
    let bytes = json.as_bytes();
    let mut levels: Vec<Level<'_>> = Vec::new();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'{' => levels.push(Level::Object {
                member: "",
                is_name_next: true,
            }),
            b'[' => levels.push(Level::List { index: 0 }),
            b'}' | b']' => {
                levels.pop();
            }
            b',' => match levels.last_mut() {
                Some(Level::Object { is_name_next, .. }) => *is_name_next = true,
                Some(Level::List { index }) => *index += 1,
                None => {}
            },
            b'"' => {
                let start = at + 1;
                at = end_of_text(bytes, start)?;
                if let Some(Level::Object {
                    member,
                    is_name_next: is_name_next @ true,
                }) = levels.last_mut()
                {
                    *member = json.get(start..at)?;
                    *is_name_next = false;
                }
            }
            _ => {}
        }
        at += 1;
    }
    let mut path = String::new();
    for level in &levels {
        match level {
            Level::Object { member: "", .. } => {}
            Level::Object { member, .. } if path.is_empty() => path.push_str(member),
            Level::Object { member, .. } => {
                path.push('.');
                path.push_str(member);
            }
            Level::List { index } => path.push_str(&format!("[{index}]")),
        }
    }
    Some(path).filter(|path| !path.is_empty())
}

/// Where the closing quote is of the text that begins at `at`.
fn end_of_text(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

impl<P: Configured> wit::Guest for P {
    fn check(hook: String, settings: String) -> Result<(), String> {
        panics::report();
        P::check(Offered::new(hook, settings)).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Settings {
        name: String,
        rules: Vec<Rule>,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Rule {
        high: u8,
        low: Option<u8>,
    }

    #[test]
    fn errors_name_the_member() {
        for (text, says) in [
            (r#"{"name":5}"#, "`name`: invalid type: integer `5`"),
            (r#"{"name": {"a": 1}}"#, "`name`: invalid type: map"),
            (
                r#"{"rules":[{"high":1}],"name":[1]}"#,
                "`name`: invalid type: sequence",
            ),
            (
                r#"{"name":"\"}, {","rules":"x"}"#,
                "`rules`: invalid type: string",
            ),
            (
                r#"{"rules":[{"high":1},{"low":null,"high":300}]}"#,
                "`rules[1].high`: invalid value",
            ),
            (
                "{\n  \"rules\": [\n    {\"high\": \"1\"}\n  ]\n}",
                "`rules[0].high`: invalid type",
            ),
            (r#"{"rules":[{},7]}"#, "`rules[1]`: invalid type"),
            (r#"{"naem":"x"}"#, "unknown field `naem`"),
            ("5", "invalid type: integer `5`"),
            (r#"{"name":"x"#, "EOF while parsing"),
        ] {
            let error = Offered::new("filtering", text).read::<Settings>();
            let error = error.expect_err("it cannot be used").to_string();
            assert!(error.starts_with(says), "{text}: {error}");
        }
    }
}
