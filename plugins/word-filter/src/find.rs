//! Putting the searches together: what is in a text, and whether data is worth a closer look.

use std::ops::Range;

use personal_data::Number;

use crate::settings::{Category, Mode, Settings};

/// Fewer digits in all of the data are neither a telephone nor an identity number.
const FEWEST_DIGITS: usize = 7;

/// Searches with the settings of a binding.
#[derive(Debug)]
pub(crate) struct Finder<'s> {
    settings: &'s Settings,
    has_words: bool,
    has_mail: bool,
    has_numbers: bool,
}

/// Something that must not stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) category: Category,
    pub(crate) place: Range<usize>,
}

impl<'s> Finder<'s> {
    pub(crate) fn new(settings: &'s Settings) -> Self {
        Self {
            settings,
            has_words: settings.is_on(Category::Word),
            has_mail: settings.is_on(Category::Email),
            has_numbers: settings.is_on(Category::Phone) || settings.is_on(Category::Identity),
        }
    }

    /// Could there be a match in any text of this JSON? Never wrongly no.
    pub(crate) fn suspects(&self, json: &str) -> bool {
        if self.has_words || self.has_mail || self.has_numbers {
            self.suspects_signs(json.as_bytes()) || (self.has_words && self.suspects_words(json))
        } else {
            false
        }
    }

    /// One pass for what a single byte gives away. An escape may hide anything: `\u0040` is an `@`, and the letter
    /// of `\n` is no letter.
    fn suspects_signs(&self, json: &[u8]) -> bool {
        let mut digits = 0;
        let mut has_sign = false;
        for byte in json {
            digits += usize::from(byte.is_ascii_digit());
            has_sign |= *byte == b'\\' || *byte == b'@';
        }
        let has_escape = || json.contains(&b'\\');
        (self.has_numbers && digits >= FEWEST_DIGITS)
            || (has_sign && (self.has_mail || has_escape()))
    }

    fn suspects_words(&self, json: &str) -> bool {
        let mut is_found = false;
        self.settings.words.find(json, |_| {
            is_found = true;
            false
        });
        is_found
    }

    /// All matches in one text, sorted by place.
    pub(crate) fn find(&self, text: &str) -> Vec<Found> {
        let mut all = Vec::new();
        let mut add = |category, place| {
            if self.settings.rule(category).mode != Mode::Pass {
                all.push(Found { category, place });
            }
        };
        if self.has_words {
            self.settings.words.find(text, |place| {
                add(Category::Word, place);
                true
            });
        }
        if self.has_mail {
            personal_data::emails(text).for_each(|place| add(Category::Email, place));
        }
        if self.has_numbers {
            personal_data::numbers(text, |number, place| match number {
                Number::Phone => add(Category::Phone, place),
                Number::Identity => add(Category::Identity, place),
            });
        }
        all.sort_by_key(|found| found.place.start);
        all
    }
}

/// The text with an asterisk for each character of what was found; `None` if nothing was.
pub(crate) fn mask(text: &str, found: &[Found]) -> Option<String> {
    if found.is_empty() {
        return None;
    }
    let mut masked = String::with_capacity(text.len());
    let mut at = 0;
    for Found { place, .. } in found {
        // Matches may overlap: a word in an address.
        let start = place.start.max(at);
        let end = place.end.max(at);
        masked.push_str(&text[at..start]);
        masked.extend(text[start..end].chars().map(|_| '*'));
        at = end;
    }
    masked.push_str(&text[at..]);
    Some(masked)
}
