//! What the operator sets.

use serde::Deserialize;

use crate::words::Words;

/// The code of a refusal whose rule names none: unavailable for legal reasons, as HTTP says it.
const DEFAULT_REFUSAL_CODE: u32 = 451;

/// The settings, checked.
#[derive(Debug, Deserialize)]
#[serde(try_from = "RawSettings")]
pub(crate) struct Settings {
    pub(crate) words: Words,
    pub(crate) fields: Option<Vec<String>>,
    pub(crate) stamp: bool,
    word: Rule,
    email: Rule,
    phone: Rule,
    identity: Rule,
}

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Category {
    /// A word of the list.
    Word,
    /// An e-mail address.
    Email,
    /// A telephone number.
    Phone,
    /// A number that stands for a person or their money: payment card, IBAN, US social security number.
    Identity,
}

/// What happens to one category.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub(crate) mode: Mode,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It is replaced by asterisks.
    Mask,
    /// The message is refused.
    Refuse { code: u32, reason: String },
    /// It is not looked for.
    Pass,
}

impl Settings {
    pub(crate) fn rule(&self, category: Category) -> &Rule {
        match category {
            Category::Word => &self.word,
            Category::Email => &self.email,
            Category::Phone => &self.phone,
            Category::Identity => &self.identity,
        }
    }

    /// Whether anything of the category is looked for.
    pub(crate) fn is_on(&self, category: Category) -> bool {
        let has_list = category != Category::Word || !self.words.is_empty();
        has_list && self.rule(category).mode != Mode::Pass
    }
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
#[derive(Default)]
struct RawSettings {
    words: Vec<String>,
    leetspeak: bool,
    fields: Option<Vec<String>>,
    stamp: bool,
    word: RawRule,
    email: RawRule,
    phone: RawRule,
    identity: RawRule,
}

#[derive(Deserialize, Default)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "an object such as {\"mode\": \"mask\"}"
)]
struct RawRule {
    mode: RawMode,
    code: Option<u32>,
    reason: Option<String>,
}

#[derive(Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum RawMode {
    #[default]
    Mask,
    Refuse,
    Pass,
}

impl TryFrom<RawSettings> for Settings {
    type Error = String;

    fn try_from(raw: RawSettings) -> Result<Self, String> {
        let RawSettings {
            words,
            leetspeak,
            fields,
            stamp,
            word,
            email,
            phone,
            identity,
        } = raw;
        Ok(Self {
            words: Words::parse(&words, leetspeak)?,
            fields,
            stamp,
            word: word.check("word", "a word in this message is not allowed here")?,
            email: email.check("email", "e-mail addresses are not allowed here")?,
            phone: phone.check("phone", "telephone numbers are not allowed here")?,
            identity: identity.check(
                "identity",
                "card, account and identity numbers are not allowed here",
            )?,
        })
    }
}

impl RawRule {
    fn check(self, name: &str, default_reason: &str) -> Result<Rule, String> {
        let Self { mode, code, reason } = self;
        let mode = match mode {
            RawMode::Refuse => {
                let code = code.unwrap_or(DEFAULT_REFUSAL_CODE);
                if !(400..=1999).contains(&code) {
                    return Err(format!(
                        "`{name}.code` is {code}; choose one from 400 to 1999"
                    ));
                }
                Mode::Refuse {
                    code,
                    reason: reason.unwrap_or_else(|| default_reason.to_owned()),
                }
            }
            RawMode::Mask | RawMode::Pass if code.is_some() || reason.is_some() => {
                return Err(format!(
                    "`{name}` has a code or a reason but does not refuse; add \"mode\": \"refuse\""
                ));
            }
            RawMode::Mask => Mode::Mask,
            RawMode::Pass => Mode::Pass,
        };
        Ok(Rule { mode })
    }
}
