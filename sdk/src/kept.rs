//! What keys have in common, be they kept in the memory of the nodes or in the store: names, times, JSON; and what a
//! hook answers that needs what is away. Asks the host for nothing.

use std::{
    fmt,
    hash::{DefaultHasher, Hasher as _},
    time::Duration,
};

use serde::de::DeserializeOwned;

use crate::Refusal;

/// Longer keys are refused by the node.
const MAX_KEY_BYTES: usize = 256;

/// What of a name that is too long stays readable.
const MAX_READABLE_BYTES: usize = 200;

/// The code of the refusal that an error of [`state`](crate::state) or [`store`](crate::store) turns into.
pub const UNAVAILABLE_CODE: u32 = 503;

/// A key made of parts that others choose: users, channels, ids. Different parts make different keys, whatever they
/// contain, and a key that would be too long for the node ends in a hash.
///
/// ```
/// use tidegate_sdk::state;
///
/// assert_eq!(state::key(&["sent", "ann"]), "sent:ann");
/// assert_ne!(state::key(&["a:b", "c"]), state::key(&["a", "b:c"]));
/// assert!(state::key(&["sent", &"x".repeat(1_000)]).len() <= 256);
/// ```
pub fn key(parts: &[&str]) -> String {
    let mut key = String::with_capacity(64);
    for (nth, part) in parts.iter().enumerate() {
        if nth > 0 {
            key.push(':');
        }
        for char in part.chars() {
            match char {
                ':' => key.push_str("%3A"),
                '%' => key.push_str("%25"),
                _ => key.push(char),
            }
        }
    }
    if key.len() > MAX_KEY_BYTES {
        let half = |salt: u8| {
            let mut hasher = DefaultHasher::new();
            hasher.write_u8(salt);
            hasher.write(key.as_bytes());
            hasher.finish()
        };
        let hash = format!("#{:016x}{:016x}", half(0), half(1));
        key.truncate(key.floor_char_boundary(MAX_READABLE_BYTES));
        key.push_str(&hash);
    }
    key
}

/// What is kept, read as JSON; or what is wrong with it.
pub(crate) fn parse<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, String> {
    serde_json::from_slice(value)
        .map_err(|error| format!("the value of `{key}` is of another form: {error}"))
}

/// Tells the client that the plugin cannot answer now; the reason stays between the plugin and its log.
pub(crate) fn unavailable(why: &str, error: &dyn fmt::Display) -> Refusal {
    crate::log::warn!("refused, because {why}: {error}");
    Refusal::error(
        UNAVAILABLE_CODE,
        "not available for the moment; try again later",
    )
}

/// Whole milliseconds; what is less than one is one, as the shortest time to live.
pub(crate) fn millis(ttl: Duration) -> u64 {
    let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    if ttl.is_zero() { 0 } else { millis.max(1) }
}
