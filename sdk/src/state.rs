//! Small things to remember from call to call: keys with a time to live, in the memory of the nodes.
//!
//! The keys belong to the plugin in its app. All its versions, hooks and instances see the same ones; nobody else sees
//! any. They survive an activation, not a restart of the only node, and every key ends when its time to live does.
//!
//! On several nodes, each answers out of what it holds and sees what the others wrote **within 250 ms**: counters add
//! up, of a value the last writer wins, deletions are carried. So a limit may be exceeded by what the other nodes let
//! through in that time, and [`compare_and_set`] is atomic among the calls on one node only.
//!
//! **What is written stays, whatever becomes of the call.** A call that is refused or fails has counted all the same;
//! what must happen only if it succeeds belongs into [`publishing`](crate::publishing).
//!
//! A key holds a *value* or a *counter*. Limits: 32 operations a call, keys of 1 to 256 bytes, values of at most
//! 64 KiB, times of one millisecond to seven days, 100,000 keys and 32 MiB an app. What goes over one is a
//! [`StateError`], and becomes a [`Refusal`] with code [`UNAVAILABLE_CODE`] where `?` meets it in a
//! hook: if the plugin cannot remember, it cannot allow. Match the error to decide otherwise.
//!
//! ```
//! use std::time::Duration;
//! use tidegate_sdk::{Filtering, Message, Refusal, filtering::Verdict, state, testing::Host};
//!
//! /// Ten messages a minute for each user.
//! struct Calm;
//!
//! impl Filtering for Calm {
//!     fn filter(message: Message) -> Result<Verdict, Refusal> {
//!         let key = format!("sent:{}", message.user());
//!         if state::increment(&key, 1, Duration::from_secs(60))? > 10 {
//!             let left = state::time_left(&key)?.unwrap_or_default();
//!             let reason = format!("ten messages a minute; go on in {} s", left.as_secs() + 1);
//!             return Err(Refusal::error(429, reason));
//!         }
//!         Ok(Verdict::Pass)
//!     }
//! }
//!
//! let mut host = Host::new().user("ann");
//! for _ in 0..10 {
//!     assert_eq!(host.filter::<Calm>("room", "{}"), Ok(Verdict::Pass));
//! }
//! assert_eq!(host.filter::<Calm>("room", "{}").unwrap_err().code(), Some(429));
//! let mut host = host.advance(Duration::from_secs(60));
//! assert_eq!(host.filter::<Calm>("room", "{}"), Ok(Verdict::Pass));
//! ```

use std::{fmt, time::Duration};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Refusal, host,
    kept::{self, millis},
};

pub use crate::kept::{UNAVAILABLE_CODE, key};

/// An operation was not carried out; nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateError {
    /// The key's name or the time to live is out of its range.
    Invalid(String),
    /// The value has more than 64 KiB.
    TooLarge(String),
    /// This call has made its 32 operations.
    Limit(String),
    /// The app, or the node, holds as much as it may.
    Quota(String),
    /// A value was asked for where a counter is, or the other way round; or what is kept is not of the type that
    /// was asked for.
    WrongKind(String),
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(reason)
            | Self::TooLarge(reason)
            | Self::Limit(reason)
            | Self::Quota(reason)
            | Self::WrongKind(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for StateError {}

/// The client is told that the plugin cannot answer now; the reason stays between the plugin and its log.
impl From<StateError> for Refusal {
    fn from(error: StateError) -> Self {
        kept::unavailable("state could not be used", &error)
    }
}

/// The value; absent if there is none, or its time is over.
///
/// # Errors
///
/// [`StateError::WrongKind`] when the key holds a counter; limits.
pub fn get(key: &str) -> Result<Option<Vec<u8>>, StateError> {
    host::state_get(key)
}

/// Keeps a value, in the place of the one before. It lives for `ttl` from now.
///
/// # Errors
///
/// [`StateError::WrongKind`] when the key holds a counter; limits.
pub fn set(key: &str, value: &[u8], ttl: Duration) -> Result<(), StateError> {
    host::state_set(key, value, millis(ttl))
}

/// The value, read as JSON.
///
/// # Errors
///
/// As [`get`]; and [`StateError::WrongKind`] when what is kept is not a `T`, as another version may have left it.
pub fn get_json<T: DeserializeOwned>(key: &str) -> Result<Option<T>, StateError> {
    let value = get(key)?.map(|value| kept::parse(key, &value));
    value.transpose().map_err(StateError::WrongKind)
}

/// Keeps a value as JSON. It lives for `ttl` from now.
///
/// ```
/// use std::time::Duration;
/// use serde::{Deserialize, Serialize};
/// use tidegate_sdk::{Refusal, Rpc, rpc, state, testing::Host};
///
/// #[derive(Serialize, Deserialize, Default)]
/// struct Seen {
///     methods: Vec<String>,
/// }
///
/// struct Remember;
///
/// impl Rpc for Remember {
///     fn call(request: rpc::Request) -> Result<rpc::Verdict, Refusal> {
///         let mut seen: Seen = state::get_json("seen")?.unwrap_or_default();
///         seen.methods.push(request.method().to_owned());
///         state::set_json("seen", &seen, Duration::from_secs(3600))?;
///         rpc::Verdict::json(&seen)
///     }
/// }
///
/// let mut host = Host::new();
/// host.call::<Remember>("one", "").unwrap();
/// host.call::<Remember>("two", "").unwrap();
/// assert_eq!(host.state("seen").unwrap(), br#"{"methods":["one","two"]}"#);
/// ```
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
    ttl: Duration,
) -> Result<(), StateError> {
    set(key, &crate::json::print("a value of state", value), ttl)
}

/// Keeps a value only if the key holds what is `expected` (`None`: only if there is nothing), and tells whether it
/// did. No other call comes in between.
///
/// ```
/// use std::time::Duration;
/// use tidegate_sdk::{Refusal, Rpc, rpc, state, testing::Host};
///
/// /// Whoever asks first has the seat for a minute.
/// struct Seat;
///
/// impl Rpc for Seat {
///     fn call(request: rpc::Request) -> Result<rpc::Verdict, Refusal> {
///         let user = request.user().as_bytes();
///         let got = state::compare_and_set("seat", None, user, Duration::from_secs(60))?;
///         rpc::Verdict::json(&got)
///     }
/// }
///
/// let mut host = Host::new().user("ann");
/// assert_eq!(host.call::<Seat>("take", ""), Ok(rpc::Verdict::Reply(b"true".to_vec())));
/// let mut host = host.user("bob");
/// assert_eq!(host.call::<Seat>("take", ""), Ok(rpc::Verdict::Reply(b"false".to_vec())));
/// ```
///
/// # Errors
///
/// [`StateError::WrongKind`] when the key holds a counter; limits.
pub fn compare_and_set(
    key: &str,
    expected: Option<&[u8]>,
    value: &[u8],
    ttl: Duration,
) -> Result<bool, StateError> {
    host::state_compare_and_set(key, expected, value, millis(ttl))
}

/// Forgets a value or a counter, and tells whether there was one.
///
/// # Errors
///
/// Limits.
pub fn delete(key: &str) -> Result<bool, StateError> {
    host::state_delete(key)
}

/// Adds to a counter, which begins at 0, and answers the new count. The counter lives for `ttl` from the increment
/// that began it; later ones do not prolong it.
///
/// On several nodes, where they share counters, the answer holds every increment of this node and those of the
/// others as far as they have arrived.
///
/// # Errors
///
/// [`StateError::WrongKind`] when the key holds a value; limits.
pub fn increment(key: &str, by: i64, ttl: Duration) -> Result<i64, StateError> {
    host::state_increment(key, by, millis(ttl))
}

/// The count; 0 if the counter has not begun, or its time is over.
///
/// # Errors
///
/// [`StateError::WrongKind`] when the key holds a value; limits.
pub fn count(key: &str) -> Result<i64, StateError> {
    host::state_count(key)
}

/// How long the key has left; absent if it is not there.
///
/// # Errors
///
/// Limits.
pub fn time_left(key: &str) -> Result<Option<Duration>, StateError> {
    Ok(host::state_time_left(key)?.map(Duration::from_millis))
}
