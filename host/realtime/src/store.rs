//! The store: what plugins keep beyond a call and beyond a node, the same on all nodes.
//!
//! Owns the trait, what a key, a value and a life may be, and the quotas; the store of a node that stands alone is
//! [`memory`], Redis joins in its own crate. Knows nothing of wasm: whose keys they are is an [`Owner`].
//!
//! Invariants. Each operation happens as a whole: between what it looks at and what it changes nothing else comes in,
//! on whatever node. What is over is never seen, also while it is still there. The quotas hold at every moment, and
//! an operation that goes over one changes nothing.

#[cfg(any(test, feature = "testing"))]
pub mod contract;
pub mod memory;

use std::{fmt, time::Duration};

use bytes::Bytes;

pub use self::memory::MemoryStore;
use crate::{
    broker::BrokerError,
    hooks::Progress,
    ids::{AppId, ChannelKey},
};

/// Longest name of a key.
pub const KEY_BYTES: usize = 256;

/// Longest value.
pub const VALUE_BYTES: usize = 64 << 10;

/// Longest time to live: a year, in milliseconds. What shall stay for longer is kept without an end.
pub const MAX_TTL_MS: u64 = 365 * 24 * 3_600 * 1_000;

/// What a key costs beside its name and its value: about what either store needs to find it and to end it.
pub const KEY_OVERHEAD: usize = 128;

/// What the number of a counter costs.
pub const COUNTER_BYTES: usize = 8;

/// What one plugin of an app may keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreQuotas {
    pub keys: usize,
    /// Of names, values and [`KEY_OVERHEAD`].
    pub bytes: usize,
}

impl Default for StoreQuotas {
    /// As much as an app may keep in `state`: a key for each user of a large app fits, and what a plugin keeps can
    /// be moved from one Redis to another in a moment.
    fn default() -> Self {
        Self {
            keys: 100_000,
            bytes: 32 << 20,
        }
    }
}

/// Whose keys: a plugin in its app. Versions, hooks and bindings of the plugin share them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner(ChannelKey);

impl Owner {
    pub fn new(app: &AppId, plugin: &str) -> Self {
        Self(ChannelKey::new(app, plugin))
    }

    /// Unlike that of any other owner.
    pub fn key(&self) -> &ChannelKey {
        &self.0
    }

    pub fn app(&self) -> &str {
        self.0.app()
    }

    pub fn plugin(&self) -> &str {
        self.0.channel()
    }
}

/// The name of a key: 1 to [`KEY_BYTES`] bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StoreKey(Box<str>);

impl StoreKey {
    /// # Errors
    /// [`StoreError::KeyLength`].
    pub fn parse(text: impl Into<Box<str>>) -> Result<Self, StoreError> {
        let text = text.into();
        if (1..=KEY_BYTES).contains(&text.len()) {
            Ok(Self(text))
        } else {
            Err(StoreError::KeyLength)
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A value: at most [`VALUE_BYTES`] bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreValue(Bytes);

impl StoreValue {
    /// # Errors
    /// [`StoreError::ValueLength`].
    pub fn parse(bytes: impl Into<Bytes>) -> Result<Self, StoreError> {
        let bytes = bytes.into();
        if bytes.len() <= VALUE_BYTES {
            Ok(Self(bytes))
        } else {
            Err(StoreError::ValueLength)
        }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

/// Values are nobody's business but their plugin's.
impl fmt::Debug for StoreValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreValue({} bytes)", self.0.len())
    }
}

/// How long a key lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Until it is deleted.
    Endless,
    /// Milliseconds from now, at most [`MAX_TTL_MS`] and at least one.
    Millis(u64),
}

impl Life {
    /// # Errors
    /// [`StoreError::TimeToLive`].
    pub fn parse(ttl_ms: Option<u64>) -> Result<Self, StoreError> {
        match ttl_ms {
            None => Ok(Self::Endless),
            Some(millis @ 1..=MAX_TTL_MS) => Ok(Self::Millis(millis)),
            Some(_) => Err(StoreError::TimeToLive),
        }
    }

    pub fn from_duration(life: Duration) -> Result<Self, StoreError> {
        Self::parse(Some(u64::try_from(life.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// Why an operation was not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("a key has 1 to {KEY_BYTES} bytes")]
    KeyLength,
    #[error("a value has at most {VALUE_BYTES} bytes")]
    ValueLength,
    #[error(
        "a time to live is 1 to {MAX_TTL_MS} ms, which is a year; without one a key stays until it is deleted"
    )]
    TimeToLive,
    #[error("{0}")]
    Quota(StoreQuota),
    #[error("the key holds a counter; delete it first, or use another key")]
    HoldsCounter,
    #[error("the key holds a value; delete it first, or use another key")]
    HoldsValue,
    /// The store did not answer: a change may have been made all the same.
    #[error("the store does not answer; a change may have been made all the same")]
    Unavailable,
}

/// Which quota is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoreQuota {
    #[error("the plugin has as many keys as it may; delete some, or let them expire sooner")]
    Keys,
    #[error("the plugin's keys fill all the room they may; delete some, or keep smaller values")]
    Bytes,
    #[error(
        "the keys of all plugins fill all the memory of the node that they may; try again later"
    )]
    Node,
}

impl From<BrokerError> for StoreError {
    fn from(error: BrokerError) -> Self {
        match error {
            BrokerError::Unavailable | BrokerError::Overloaded | BrokerError::Unreplicated => {
                Self::Unavailable
            }
        }
    }
}

/// A change that depends on what is there.
#[derive(Debug, Clone)]
pub struct Swap {
    /// What the key has to hold; `None` for nothing.
    pub expected: Option<StoreValue>,
    pub value: StoreValue,
    pub life: Life,
}

/// What an operation answers, at once or later. Nothing waits for longer than the store's own time limits.
pub type Stored<T> = Progress<Result<T, StoreError>>;

/// Keys that hold a value or a counter, and go by themselves when their life is over.
///
/// A key holds what it began with for as long as it lives: asking a counter for its value, or a value for its count,
/// is [`StoreError::HoldsCounter`] or [`StoreError::HoldsValue`] and changes nothing.
pub trait Store: Send + Sync + 'static {
    fn get(&self, owner: &Owner, key: &StoreKey) -> Stored<Option<Bytes>>;

    /// Keeps a value in the place of the one before.
    fn set(&self, owner: &Owner, key: &StoreKey, value: StoreValue, life: Life) -> Stored<()>;

    /// Keeps a value only if the key holds what is expected, and tells whether it did.
    fn compare_and_set(&self, owner: &Owner, key: &StoreKey, swap: Swap) -> Stored<bool>;

    /// Adds to a counter, which begins at 0 with the given life, and answers the new count; it stays within its range.
    fn increment(&self, owner: &Owner, key: &StoreKey, by: i64, life: Life) -> Stored<i64>;

    /// The count; 0 where there is none.
    fn count(&self, owner: &Owner, key: &StoreKey) -> Stored<i64>;

    /// Takes a value or a counter away, and tells whether there was one.
    fn delete(&self, owner: &Owner, key: &StoreKey) -> Stored<bool>;

    /// Takes everything of an owner away.
    fn forget(&self, owner: &Owner) -> Stored<()>;

    /// Gives back the room of what is over; to be called now and then. A store that needs no help does nothing.
    fn sweep(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_store_takes_is_refused_before_it() {
        assert_eq!(StoreKey::parse(""), Err(StoreError::KeyLength));
        assert_eq!(StoreKey::parse("k".repeat(257)), Err(StoreError::KeyLength));
        assert!(StoreKey::parse("k".repeat(256)).is_ok());
        let too_large = StoreValue::parse(vec![0; VALUE_BYTES + 1]);
        assert_eq!(too_large, Err(StoreError::ValueLength));
        assert!(StoreValue::parse(vec![0; VALUE_BYTES]).is_ok());
        for bad in [0, MAX_TTL_MS + 1, u64::MAX] {
            assert_eq!(Life::parse(Some(bad)), Err(StoreError::TimeToLive));
        }
        assert_eq!(Life::parse(Some(1)), Ok(Life::Millis(1)));
        assert_eq!(Life::parse(None), Ok(Life::Endless));
    }

    #[test]
    fn n1_owners_of_other_apps_are_other_owners() {
        let owner = |app: &str, plugin: &str| Owner::new(&AppId::parse(app).unwrap(), plugin);
        assert_ne!(owner("a", "bc"), owner("ab", "c"));
        assert_ne!(owner("a", "b"), owner("a", "c"));
        let one = owner("a", "b");
        assert_eq!((one.app(), one.plugin()), ("a", "b"));
    }
}
