//! Which state of the store it is.

use std::{fmt, str::FromStr};

use crate::{StoreError, names::as_text};

/// Names the state that the last change made: the number of changes there were, and a word that this change alone has.
/// Two states with the same revision are the same, also when a backup was restored or a replica took over that did not
/// know the last changes. Written `NUMBER-WORD`; says nothing of which of two is newer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Revision {
    number: i64,
    change: Box<str>,
}

impl Revision {
    pub(crate) fn new(number: i64, change: String) -> Self {
        Self {
            number,
            change: change.into(),
        }
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.number, self.change)
    }
}

impl FromStr for Revision {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        let parts = text.split_once('-');
        let parsed = parts.and_then(|(number, change)| Some((number.parse().ok()?, change)));
        let (number, change): (i64, &str) =
            parsed.ok_or_else(|| StoreError::invalid("revision", "a revision is NUMBER-WORD"))?;
        Ok(Self::new(number, change.to_owned()))
    }
}

as_text!(Revision);
