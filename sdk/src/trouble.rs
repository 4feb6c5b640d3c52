//! Why something could not be done, for those hooks where nobody is there to be told.

use std::fmt;

/// Why [`Events`](crate::Events) or [`Schedule`](crate::Schedule) could not do its work. `?` makes it of any error
/// that can be shown; it is written to the plugin's log.
#[derive(Clone, PartialEq, Eq)]
pub struct Trouble(String);

impl Trouble {
    /// Says what is wrong.
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }

    /// What is wrong.
    pub fn reason(&self) -> &str {
        &self.0
    }

    pub(crate) fn into_reason(self) -> String {
        self.0
    }
}

// Shown by `Debug` alone: with `Display` it would be an error itself, and `?` could not make it of every other one.
impl<E: fmt::Display> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

impl fmt::Debug for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Trouble").field(&self.0).finish()
    }
}
