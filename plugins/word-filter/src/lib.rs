//! Keeps words and personal data out of messages: masks them, or refuses the message.
//!
//! Data is JSON; what is looked at are its texts. The common case is a message in which nothing looks like a match:
//! it passes after one look at its bytes, unparsed. Only a suspicious one is read text by text, and only its texts
//! are rewritten: everything else keeps its bytes, numbers and order included.
//!
//! Data that is not JSON passes if nothing in it looks suspicious, and is refused otherwise, because it cannot be
//! masked safely.

mod find;
mod json;
mod settings;
mod words;

use tidegate_sdk::{
    BAD_DATA_CODE, Configured, Filtering, Message, Refusal,
    config::{self, BadSetting},
    context,
    filtering::Verdict,
    plugin,
    settings::Offered,
};

use crate::{
    find::Finder,
    json::Rewrite,
    settings::{Mode, Settings},
};

/// The field that tells which version looked at a message, where the settings ask for it.
const STAMP: &str = "filtered_by";

/// The plugin.
#[derive(Debug)]
pub struct WordFilter;

impl Filtering for WordFilter {
    fn filter(message: Message) -> Result<Verdict, Refusal> {
        let settings = config::settings::<Settings>();
        let Ok(text) = std::str::from_utf8(message.data()) else {
            return Err(Refusal::error(BAD_DATA_CODE, "data is not text"));
        };

        let finder = Finder::new(&settings);
        let is_suspicious = finder.suspects(text);
        if !is_suspicious && !settings.stamp {
            return Ok(Verdict::Pass);
        }
        // The rewriter relies on this.
        message.json::<serde::de::IgnoredAny>()?;

        let mut refusal = None;
        let mut rewrite = Rewrite::new(text, settings.fields.as_deref());
        if is_suspicious {
            let texts = rewrite.texts(|text| {
                let found = finder.find(text);
                if refusal.is_none() {
                    refusal =
                        found
                            .iter()
                            .find_map(|found| match &settings.rule(found.category).mode {
                                Mode::Refuse { code, reason } => {
                                    Some(Refusal::error(*code, reason.clone()))
                                }
                                Mode::Mask | Mode::Pass => None,
                            });
                }
                find::mask(text, &found)
            });
            if texts.is_err() {
                return Err(Refusal::error(BAD_DATA_CODE, "data holds half a character"));
            }
        }
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        if settings.stamp {
            let version = format!("word-filter@{}", context::version());
            rewrite.set_member(STAMP, &version);
        }
        Ok(match rewrite.finish() {
            Some(data) => Verdict::Replace(data.into_bytes()),
            None => Verdict::Pass,
        })
    }
}

impl Configured for WordFilter {
    fn check(offered: Offered) -> Result<(), BadSetting> {
        offered.read::<Settings>().map(drop)
    }
}

plugin!(WordFilter: filtering, settings);

#[cfg(test)]
mod tests;
