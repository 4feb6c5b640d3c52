//! What the plugin keeps for longer than a node lives: keys that all nodes see, in the engine's store.
//!
//! **A plugin that uses it is one that waits.** The store may be another machine (Redis, where several nodes are one
//! service), so the plugin's calls run on threads of their own, have seconds instead of milliseconds (but compute for 100 ms at
//! most), and can be
//! bound to `authentication`, `authorization` and `rpc` only: a plugin that uses the store and has `filtering` or
//! `routing` is refused when it is uploaded. What can do with the memory of a node is better off with
//! [`state`](crate::state).
//!
//! The keys belong to the plugin in its app; nobody else sees any. They survive activations and, in Redis, nodes, and
//! go when the plugin is deleted. **What is written stays, whatever becomes of the call.** [`increment`] and
//! [`compare_and_set`] happen as a whole, whatever other nodes do, and are how calls agree.
//!
//! An operation waits for at most half of what the call has left. Then, or at once where the store is away, it is
//! [`StoreError::Unavailable`], **and may have been carried out all the same**. What goes over a limit is an error
//! that changes nothing: 32 operations a call, keys of 1 to 256 bytes, values of at most 64 KiB, 100,000 keys and
//! 32 MiB a plugin. A key lives until it is deleted or, with a time to live of up to a year, until that is over.
//!
//! A [`StoreError`] becomes a [`Refusal`] with code [`UNAVAILABLE_CODE`] where `?` meets it in a hook: if the plugin
//! cannot know, it cannot allow. Match the error to decide otherwise.
//!
//! ```
//! use tidegate_sdk::{Refusal, Rpc, rpc, store, testing::Host};
//!
//! /// Each user redeems a voucher once, on whatever node.
//! struct Vouchers;
//!
//! impl Rpc for Vouchers {
//!     fn call(request: rpc::Request) -> Result<rpc::Verdict, Refusal> {
//!         let key = store::key(&["voucher", request.user()]);
//!         if !store::compare_and_set(&key, None, request.data(), None)? {
//!             return Err(Refusal::error(409, "you have had yours"));
//!         }
//!         let number = store::increment("redeemed", 1, None)?;
//!         rpc::Verdict::json(&number)
//!     }
//! }
//!
//! let mut host = Host::new().user("ann");
//! assert_eq!(host.call::<Vouchers>("redeem", ""), Ok(rpc::Verdict::Reply(b"1".to_vec())));
//! assert_eq!(host.call::<Vouchers>("redeem", "").unwrap_err().code(), Some(409));
//! let mut host = host.without_store();
//! assert_eq!(host.call::<Vouchers>("redeem", "").unwrap_err().code(), Some(503));
//! ```

use std::{fmt, time::Duration};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Refusal, host,
    kept::{self, millis},
};

pub use crate::kept::{UNAVAILABLE_CODE, key};

/// An operation was not carried out. Nothing has changed, unless the store was [`Unavailable`](Self::Unavailable).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreError {
    /// The key's name or the time to live is out of its range.
    Invalid(String),
    /// The value has more than 64 KiB.
    TooLarge(String),
    /// This call has made its 32 operations.
    Limit(String),
    /// The plugin holds as much as it may.
    Quota(String),
    /// A value was asked for where a counter is, or the other way round; or what is kept is not of the type that
    /// was asked for.
    WrongKind(String),
    /// The store has not answered in time, or is away. A change may have been made all the same.
    Unavailable(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(reason)
            | Self::TooLarge(reason)
            | Self::Limit(reason)
            | Self::Quota(reason)
            | Self::WrongKind(reason)
            | Self::Unavailable(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for StoreError {}

/// The client is told that the plugin cannot answer now; the reason stays between the plugin and its log.
impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        kept::unavailable("the store could not be used", &error)
    }
}

/// The value; absent if there is none, or its time is over.
///
/// # Errors
///
/// [`StoreError::WrongKind`] when the key holds a counter; [`StoreError::Unavailable`]; limits.
pub fn get(key: &str) -> Result<Option<Vec<u8>>, StoreError> {
    host::store_get(key)
}

/// Keeps a value, in the place of the one before. It lives for `ttl` from now; without one until it is deleted.
///
/// # Errors
///
/// [`StoreError::WrongKind`] when the key holds a counter; [`StoreError::Unavailable`]; limits.
pub fn set(key: &str, value: &[u8], ttl: Option<Duration>) -> Result<(), StoreError> {
    host::store_set(key, value, ttl.map(millis))
}

/// The value, read as JSON.
///
/// # Errors
///
/// As [`get`]; and [`StoreError::WrongKind`] when what is kept is not a `T`, as another version may have left it.
pub fn get_json<T: DeserializeOwned>(key: &str) -> Result<Option<T>, StoreError> {
    let value = get(key)?.map(|value| kept::parse(key, &value));
    value.transpose().map_err(StoreError::WrongKind)
}

/// Keeps a value as JSON. It lives for `ttl` from now; without one until it is deleted.
///
/// # Errors
///
/// As [`set`].
///
/// # Panics
///
/// When `value` cannot be written as JSON, such as a map whose keys are not text: a mistake in the plugin.
#[track_caller]
pub fn set_json<T: Serialize + ?Sized>(
    key: &str,
    value: &T,
    ttl: Option<Duration>,
) -> Result<(), StoreError> {
    set(key, &crate::json::print("a value of the store", value), ttl)
}

/// Keeps a value only if the key holds what is `expected` (`None`: only if there is nothing), and tells whether it
/// did. No other call comes in between, on no node.
///
/// ```
/// use tidegate_sdk::{Refusal, Rpc, rpc, store, testing::Host};
///
/// /// Adds the caller to a list that calls on all nodes add to.
/// struct Join;
///
/// impl Rpc for Join {
///     fn call(request: rpc::Request) -> Result<rpc::Verdict, Refusal> {
///         for _ in 0..8 {
///             let before = store::get("list")?;
///             let mut list = before.clone().unwrap_or_default();
///             list.extend_from_slice(request.user().as_bytes());
///             list.push(b' ');
///             if store::compare_and_set("list", before.as_deref(), &list, None)? {
///                 return Ok(rpc::Verdict::Reply(list));
///             }
///         }
///         Err(Refusal::error(503, "too many at once; try again"))
///     }
/// }
///
/// let mut host = Host::new().user("ann").with_stored("list", "bob ");
/// assert_eq!(host.call::<Join>("join", ""), Ok(rpc::Verdict::Reply(b"bob ann ".to_vec())));
/// assert_eq!(host.stored("list").unwrap(), b"bob ann ");
/// ```
///
/// # Errors
///
/// [`StoreError::WrongKind`] when the key holds a counter; [`StoreError::Unavailable`]; limits.
pub fn compare_and_set(
    key: &str,
    expected: Option<&[u8]>,
    value: &[u8],
    ttl: Option<Duration>,
) -> Result<bool, StoreError> {
    host::store_compare_and_set(key, expected, value, ttl.map(millis))
}

/// Forgets a value or a counter, and tells whether there was one.
///
/// # Errors
///
/// [`StoreError::Unavailable`]; limits.
pub fn delete(key: &str) -> Result<bool, StoreError> {
    host::store_delete(key)
}

/// Adds to a counter, which begins at 0, and answers the new count: that of all nodes. The counter lives for `ttl` from
/// the increment that began it, and later ones do not prolong it; without one it lives until it is deleted.
///
/// # Errors
///
/// [`StoreError::WrongKind`] when the key holds a value; [`StoreError::Unavailable`]; limits.
pub fn increment(key: &str, by: i64, ttl: Option<Duration>) -> Result<i64, StoreError> {
    host::store_increment(key, by, ttl.map(millis))
}

/// The count; 0 if the counter has not begun, or its time is over.
///
/// # Errors
///
/// [`StoreError::WrongKind`] when the key holds a value; [`StoreError::Unavailable`]; limits.
pub fn count(key: &str) -> Result<i64, StoreError> {
    host::store_count(key)
}
