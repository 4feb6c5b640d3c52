//! Words with rules: app and plugin names, hooks, scopes, failure policies, isolation.
//!
//! Whoever holds one of these types holds a checked value.

use std::{fmt, str::FromStr};

use crate::StoreError;

/// Longest app or plugin name, in bytes.
const MAX_NAME_BYTES: usize = 64;

/// Longest namespace or RPC method prefix in a scope, in bytes.
const MAX_SCOPE_BYTES: usize = 128;

/// Name of an app: 1 to 64 bytes of `[a-z0-9-]`, a letter first.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AppName(Box<str>);

/// Name of a plugin within its app: 1 to 64 bytes of `[a-z0-9-]`, a letter first.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PluginName(Box<str>);

/// The moment at which a plugin is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hook {
    Authentication,
    Authorization,
    Filtering,
    Routing,
    Rpc,
    Events,
    Schedule,
}

/// What part of an app a binding covers; written `app`, `namespace:NAME` or `rpc:PREFIX`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    App,
    Namespace(Box<str>),
    RpcPrefix(Box<str>),
}

/// What happens to a message when the plugin cannot answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailurePolicy {
    /// The operation fails.
    Closed,
    /// The message passes as if the plugin were not bound; for filtering only.
    Open,
}

/// How long an instance of the plugin lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Isolation {
    /// For many calls.
    #[default]
    Shared,
    /// For one.
    PerCall,
}

impl AppName {
    /// The app that every store has.
    pub const DEFAULT: &'static str = "default";

    /// # Errors
    /// [`StoreError::Invalid`] with the rule.
    pub fn parse(text: &str) -> Result<Self, StoreError> {
        check_name("app", text).map(Self)
    }

    pub fn default_app() -> Self {
        Self(Self::DEFAULT.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl PluginName {
    /// # Errors
    /// [`StoreError::Invalid`] with the rule.
    pub fn parse(text: &str) -> Result<Self, StoreError> {
        check_name("plugin", text).map(Self)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check_name(field: &'static str, text: &str) -> Result<Box<str>, StoreError> {
    let is_ok = (1..=MAX_NAME_BYTES).contains(&text.len())
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && text
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    if is_ok {
        Ok(text.into())
    } else {
        Err(StoreError::invalid(
            field,
            "a name is 1 to 64 characters of a-z, 0-9 and '-', and starts with a letter",
        ))
    }
}

impl Hook {
    pub const ALL: [Self; 7] = [
        Self::Authentication,
        Self::Authorization,
        Self::Filtering,
        Self::Routing,
        Self::Rpc,
        Self::Events,
        Self::Schedule,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Authentication => "authentication",
            Self::Authorization => "authorization",
            Self::Filtering => "filtering",
            Self::Routing => "routing",
            Self::Rpc => "rpc",
            Self::Events => "events",
            Self::Schedule => "schedule",
        }
    }
}

impl FromStr for Hook {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        Self::ALL
            .into_iter()
            .find(|hook| hook.as_str() == text)
            .ok_or_else(|| {
                StoreError::invalid(
                    "hook",
                    "a hook is authentication, authorization, filtering, routing, rpc, events or schedule",
                )
            })
    }
}

impl Scope {
    /// Whether a binding of `hook` can have this scope at all.
    pub fn fits(&self, hook: Hook) -> bool {
        match (self, hook) {
            (Self::App, _)
            | (Self::Namespace(_), Hook::Authorization | Hook::Filtering | Hook::Routing)
            | (Self::RpcPrefix(_), Hook::Rpc) => true,
            (
                Self::Namespace(_),
                Hook::Authentication | Hook::Rpc | Hook::Events | Hook::Schedule,
            )
            | (
                Self::RpcPrefix(_),
                Hook::Authentication
                | Hook::Authorization
                | Hook::Filtering
                | Hook::Routing
                | Hook::Events
                | Hook::Schedule,
            ) => false,
        }
    }
}

impl FromStr for Scope {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        let check = |word: &str| {
            let is_ok = (1..=MAX_SCOPE_BYTES).contains(&word.len())
                && word.bytes().all(|byte| byte.is_ascii_graphic());
            is_ok.then(|| Box::<str>::from(word))
        };
        let scope = if text == "app" {
            Some(Self::App)
        } else if let Some(name) = text.strip_prefix("namespace:") {
            check(name).map(Self::Namespace)
        } else if let Some(prefix) = text.strip_prefix("rpc:") {
            check(prefix).map(Self::RpcPrefix)
        } else {
            None
        };
        scope.ok_or_else(|| {
            StoreError::invalid(
                "scope",
                "a scope is 'app', 'namespace:NAME' or 'rpc:METHOD-PREFIX' with 1 to 128 printable ASCII characters and no blanks",
            )
        })
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::App => f.write_str("app"),
            Self::Namespace(name) => write!(f, "namespace:{name}"),
            Self::RpcPrefix(prefix) => write!(f, "rpc:{prefix}"),
        }
    }
}

impl FailurePolicy {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
        }
    }
}

impl FromStr for FailurePolicy {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        match text {
            "closed" => Ok(Self::Closed),
            "open" => Ok(Self::Open),
            _ => Err(StoreError::invalid(
                "failure_policy",
                "a failure policy is 'closed' or 'open'",
            )),
        }
    }
}

impl Isolation {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::PerCall => "per-call",
        }
    }
}

impl FromStr for Isolation {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        match text {
            "shared" => Ok(Self::Shared),
            "per-call" => Ok(Self::PerCall),
            _ => Err(StoreError::invalid(
                "isolation",
                "an isolation is 'shared' or 'per-call'",
            )),
        }
    }
}

impl fmt::Display for FailurePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for AppName {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        Self::parse(text)
    }
}

impl FromStr for PluginName {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        Self::parse(text)
    }
}

impl fmt::Display for AppName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for PluginName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Written as its text, and read back through its check.
macro_rules! as_text {
    ($($word:ident),* $(,)?) => {$(
        impl ::serde::Serialize for $word {
            fn serialize<S: ::serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> ::serde::Deserialize<'de> for $word {
            fn deserialize<D: ::serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = <String as ::serde::Deserialize>::deserialize(from)?;
                text.parse().map_err(::serde::de::Error::custom)
            }
        }
    )*};
}
pub(crate) use as_text;

as_text!(AppName, PluginName, Hook, Scope, FailurePolicy, Isolation);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_anything_but_lower_case_digits_and_dashes_are_refused() {
        for bad in [
            "",
            "A",
            "a/b",
            "../x",
            "a b",
            "1a",
            "-a",
            "ä",
            "a\0",
            &"a".repeat(65),
        ] {
            assert!(PluginName::parse(bad).is_err(), "{bad:?}");
            assert!(AppName::parse(bad).is_err(), "{bad:?}");
        }
        assert!(PluginName::parse(&"a".repeat(64)).is_ok());
        assert!(PluginName::parse("word-filter-2").is_ok());
    }

    #[test]
    fn a_scope_reads_back_as_it_is_written() {
        for text in ["app", "namespace:chat", "rpc:user.", "namespace:a:b"] {
            let scope: Scope = text.parse().unwrap();
            assert_eq!(scope.to_string(), text);
        }
        for bad in [
            "",
            "App",
            "namespace:",
            "rpc:",
            "user:7",
            "namespace:a b",
            "rpc:\u{202e}",
        ] {
            assert!(bad.parse::<Scope>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn scopes_fit_the_hooks_that_know_their_word() {
        let namespace: Scope = "namespace:chat".parse().unwrap();
        let rpc: Scope = "rpc:user.".parse().unwrap();
        for hook in Hook::ALL {
            assert!(Scope::App.fits(hook));
            assert_eq!(rpc.fits(hook), hook == Hook::Rpc);
        }
        assert!(!namespace.fits(Hook::Authentication));
        assert!(!namespace.fits(Hook::Rpc));
        assert!(namespace.fits(Hook::Filtering));
    }
}
