//! What an operator binds: a version of a plugin to a hook, in a scope, at a position, with settings.
//!
//! Owns the words and their text forms; knows nothing of wasm. [`Bindings`] is always the complete desired
//! state, never a change to it, so that applying it twice does nothing.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use tidegate_realtime::ids::AppId;

use crate::compile::Compiled;

/// A moment at which plugins are asked.
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

    /// The word used in WIT, the API, metrics and logs.
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

    /// The hook with that word; `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hook| hook.as_str() == text)
    }

    /// What a call may take unless the binding says otherwise (threat model section 6).
    pub(crate) fn default_deadline(self, class: Class) -> Duration {
        match (self, class) {
            (Self::Filtering | Self::Routing, _) => Duration::from_millis(5),
            (Self::Authentication | Self::Authorization | Self::Rpc, Class::Immediate) => {
                Duration::from_millis(20)
            }
            (Self::Authentication | Self::Authorization | Self::Rpc, Class::Waiting) => {
                WAITING_DEADLINE
            }
            (Self::Events, Class::Immediate) => Duration::from_millis(50),
            (Self::Schedule, Class::Immediate) => Duration::from_secs(1),
            (Self::Events | Self::Schedule, Class::Waiting) => WAITING_DEADLINE,
        }
    }

    /// Whether a plugin that waits may be asked here. Where messages pass, nobody waits for another machine.
    pub fn suits(self, class: Class) -> bool {
        match class {
            Class::Immediate => true,
            Class::Waiting => match self {
                Self::Authentication
                | Self::Authorization
                | Self::Rpc
                | Self::Events
                | Self::Schedule => true,
                Self::Filtering | Self::Routing => false,
            },
        }
    }

    /// Whether it is asked on plugin threads, however well its plugins conduct themselves.
    pub(crate) fn is_always_aside(self) -> bool {
        match self {
            Self::Authentication
            | Self::Authorization
            | Self::Rpc
            | Self::Events
            | Self::Schedule => true,
            Self::Filtering | Self::Routing => false,
        }
    }

    /// What a binding may raise the deadline to. The clients of the slow hooks wait, but their app has few
    /// threads, so they too are held to a tenth of a second; a plugin that waits has threads for that.
    pub fn deadline_cap(self, class: Class) -> Duration {
        match (self, class) {
            (Self::Filtering | Self::Routing, _) => Duration::from_millis(20),
            (Self::Authentication | Self::Authorization | Self::Rpc, Class::Immediate) => {
                Duration::from_millis(100)
            }
            (Self::Authentication | Self::Authorization | Self::Rpc, Class::Waiting) => {
                WAITING_DEADLINE_CAP
            }
            (Self::Events, Class::Immediate) => Duration::from_secs(1),
            (Self::Schedule, Class::Immediate)
            | (Self::Events | Self::Schedule, Class::Waiting) => WAITING_DEADLINE_CAP,
        }
    }
}

/// What a call of a plugin that waits may take unless the binding says otherwise: a client that waits for an answer
/// does so for five seconds, and has time left to hear of it.
const WAITING_DEADLINE: Duration = Duration::from_secs(3);
/// What a binding may raise that to.
const WAITING_DEADLINE_CAP: Duration = Duration::from_secs(10);

/// Whether calls of a plugin may wait for other machines; its imports say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Every capability answers at once.
    Immediate,
    /// Some capability may have to ask another machine.
    Waiting,
}

impl Class {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Immediate => "immediate",
            Self::Waiting => "waiting",
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a binding holds. Text form: `app`, `namespace:NAME`, `rpc:PREFIX`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Everywhere in the app.
    App,
    /// Channels of one namespace.
    Namespace(String),
    /// RPC methods that start so.
    RpcPrefix(String),
}

/// The text names no scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a scope is `app`, `namespace:NAME` or `rpc:PREFIX`")]
pub struct BadScope;

impl Scope {
    /// # Errors
    /// [`BadScope`] when the text is none of the three forms.
    pub fn parse(text: &str) -> Result<Self, BadScope> {
        match text.split_once(':') {
            None if text == "app" => Ok(Self::App),
            Some(("namespace", name)) if !name.is_empty() => Ok(Self::Namespace(name.to_owned())),
            Some(("rpc", prefix)) if !prefix.is_empty() => Ok(Self::RpcPrefix(prefix.to_owned())),
            None | Some(_) => Err(BadScope),
        }
    }

    /// Whether a binding at `hook` can have this scope.
    pub fn suits(&self, hook: Hook) -> bool {
        match self {
            Self::App => true,
            Self::Namespace(_) => {
                matches!(hook, Hook::Authorization | Hook::Filtering | Hook::Routing)
            }
            Self::RpcPrefix(_) => hook == Hook::Rpc,
        }
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

/// What happens when the plugin fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum FailurePolicy {
    /// The whole question fails: error 100.
    #[default]
    Closed,
    /// The plugin is passed over and the failure counted. Filtering only.
    Open,
}

impl FailurePolicy {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Closed, Self::Open]
            .into_iter()
            .find(|policy| policy.as_str() == text)
    }
}

/// How long an instance lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Isolation {
    /// Instances serve many calls, one after the other.
    #[default]
    Shared,
    /// Every call gets an instance of its own, which costs about ten microseconds and nothing lives on.
    PerCall,
}

impl Isolation {
    pub const ALL: [Self; 2] = [Self::Shared, Self::PerCall];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::PerCall => "per-call",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|isolation| isolation.as_str() == text)
    }
}

/// Limits of one binding; `None` takes the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PluginLimits {
    /// At most [`Hook::deadline_cap`].
    pub deadline: Option<Duration>,
    /// All linear memories of an instance summed; at most [`crate::MEMORY_CAP_BYTES`].
    pub memory_bytes: Option<usize>,
}

/// One plugin bound to one hook.
#[derive(Debug, Clone)]
pub struct Binding {
    pub plugin: Arc<str>,
    /// Number of the version, 1 for the first upload.
    pub version: u32,
    pub compiled: Compiled,
    pub hook: Hook,
    pub scope: Scope,
    /// Lower is asked earlier.
    pub position: i64,
    /// JSON text; `{}` when the operator gave none.
    pub config: Arc<str>,
    pub failure_policy: FailurePolicy,
    pub isolation: Isolation,
    pub limits: PluginLimits,
}

/// The complete desired state: what is not in it does not run.
#[derive(Debug, Clone, Default)]
pub struct Bindings {
    pub apps: BTreeMap<AppId, Vec<Binding>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_have_one_text_form_each_way() {
        for text in ["app", "namespace:chat", "rpc:orders.", "rpc:a:b"] {
            assert_eq!(Scope::parse(text).unwrap().to_string(), text);
        }
        for bad in ["", "App", "namespace", "namespace:", "rpc:", "user:x"] {
            assert_eq!(Scope::parse(bad), Err(BadScope), "{bad}");
        }
    }

    #[test]
    fn words_of_hooks_and_policies_read_back() {
        for hook in Hook::ALL {
            assert_eq!(Hook::parse(hook.as_str()), Some(hook));
            for class in [Class::Immediate, Class::Waiting] {
                assert!(hook.default_deadline(class) <= hook.deadline_cap(class));
            }
        }
        for policy in [FailurePolicy::Closed, FailurePolicy::Open] {
            assert_eq!(FailurePolicy::parse(policy.as_str()), Some(policy));
        }
        for isolation in Isolation::ALL {
            assert_eq!(Isolation::parse(isolation.as_str()), Some(isolation));
        }
    }
}
