//! A secret of the configuration: usable, never printable.

use std::{fmt, sync::Arc};

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Text that must not reach a log, an error or `config check`. Cheap to clone; wiped when the last clone goes.
#[derive(Clone)]
pub struct Secret(Arc<Zeroizing<String>>);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(Arc::new(Zeroizing::new(text.into())))
    }

    /// Gives the secret away; the caller keeps it out of logs and errors.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Length in bytes, which is no secret.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.redacted())
    }
}

impl Secret {
    /// What may be shown: whether it is set, and how long it is.
    pub fn redacted(&self) -> String {
        if self.is_empty() {
            "not set".into()
        } else {
            format!("{} bytes, hidden", self.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_shows_itself() {
        let secret = Secret::new("hunter2hunter2");
        let shown = format!("{secret:?} {:?} {}", Some(&secret), secret.redacted());
        assert!(!shown.contains("hunter"), "{shown}");
        assert!(shown.contains("14 bytes"));
        assert_eq!(secret, Secret::new("hunter2hunter2"));
        assert_ne!(secret, Secret::new("hunter2hunter3"));
    }
}
