//! `state` without a node: one plugin's keys, on the test's clock.

use std::collections::BTreeMap;

use super::with;
use crate::state::StateError;

/// Limits of `wit/capabilities.wit`.
const MAX_OPERATIONS: u32 = 32;
const MAX_KEY_BYTES: usize = 256;
const MAX_VALUE_BYTES: usize = 64 << 10;
const MAX_TTL_MS: u64 = 7 * 24 * 3_600 * 1_000;
const MAX_KEYS: usize = 100_000;

/// What a key holds.
#[derive(Debug, Clone)]
pub(crate) enum Held {
    Value(Vec<u8>),
    Counter(i64),
}

/// The keys; they outlive the call.
#[derive(Debug, Clone, Default)]
pub(crate) struct Keys {
    entries: BTreeMap<String, (Held, u64)>,
    /// Of the call in hand.
    pub(crate) operations: u32,
}

impl Keys {
    pub(crate) fn held(&self, key: &str, now: u64) -> Option<&Held> {
        let (held, end) = self.entries.get(key)?;
        (*end > now).then_some(held)
    }

    pub(crate) fn put(&mut self, key: &str, held: Held, end: u64) {
        self.entries.insert(key.to_owned(), (held, end));
    }

    fn room_for(&mut self, key: &str, now: u64) -> Result<(), StateError> {
        self.entries.retain(|_, (_, end)| *end > now);
        if self.entries.len() < MAX_KEYS || self.entries.contains_key(key) {
            return Ok(());
        }
        Err(StateError::Quota(format!(
            "the app has as many keys as it may: {MAX_KEYS}"
        )))
    }
}

/// Counts an operation on `key` and carries it out at the test's time.
fn operate<T>(
    key: &str,
    operation: impl FnOnce(&mut Keys, u64) -> Result<T, StateError>,
) -> Result<T, StateError> {
    with(|state| {
        let keys = &mut state.keys;
        if keys.operations >= MAX_OPERATIONS {
            return Err(StateError::Limit(format!(
                "{MAX_OPERATIONS} operations were made in this call already"
            )));
        }
        keys.operations += 1;
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            return Err(StateError::Invalid(format!(
                "a key has 1 to {MAX_KEY_BYTES} bytes"
            )));
        }
        operation(keys, state.facts.now_ms)
    })
}

fn end(ttl_ms: u64, now: u64) -> Result<u64, StateError> {
    if (1..=MAX_TTL_MS).contains(&ttl_ms) {
        return Ok(now.saturating_add(ttl_ms));
    }
    Err(StateError::Invalid(format!(
        "a time to live is 1 to {MAX_TTL_MS} ms, which is seven days"
    )))
}

fn check_value(value: &[u8]) -> Result<(), StateError> {
    if value.len() <= MAX_VALUE_BYTES {
        return Ok(());
    }
    Err(StateError::TooLarge(format!(
        "a value has at most {MAX_VALUE_BYTES} bytes"
    )))
}

fn holds(what: &str) -> StateError {
    StateError::WrongKind(format!(
        "the key holds a {what}; delete it first, or use another key"
    ))
}

fn value_of(keys: &Keys, key: &str, now: u64) -> Result<Option<Vec<u8>>, StateError> {
    match keys.held(key, now) {
        None => Ok(None),
        Some(Held::Value(value)) => Ok(Some(value.clone())),
        Some(Held::Counter(_)) => Err(holds("counter")),
    }
}

fn count_of(keys: &Keys, key: &str, now: u64) -> Result<Option<i64>, StateError> {
    match keys.held(key, now) {
        None => Ok(None),
        Some(Held::Counter(count)) => Ok(Some(*count)),
        Some(Held::Value(_)) => Err(holds("value")),
    }
}

pub(crate) fn state_get(key: &str) -> Result<Option<Vec<u8>>, StateError> {
    operate(key, |keys, now| value_of(keys, key, now))
}

pub(crate) fn state_set(key: &str, value: &[u8], ttl_ms: u64) -> Result<(), StateError> {
    operate(key, |keys, now| {
        let end = end(ttl_ms, now)?;
        check_value(value)?;
        value_of(keys, key, now)?;
        keys.room_for(key, now)?;
        keys.put(key, Held::Value(value.to_vec()), end);
        Ok(())
    })
}

pub(crate) fn state_compare_and_set(
    key: &str,
    expected: Option<&[u8]>,
    value: &[u8],
    ttl_ms: u64,
) -> Result<bool, StateError> {
    operate(key, |keys, now| {
        let end = end(ttl_ms, now)?;
        check_value(value)?;
        if value_of(keys, key, now)?.as_deref() != expected {
            return Ok(false);
        }
        keys.room_for(key, now)?;
        keys.put(key, Held::Value(value.to_vec()), end);
        Ok(true)
    })
}

pub(crate) fn state_delete(key: &str) -> Result<bool, StateError> {
    operate(key, |keys, now| {
        let was_there = keys.held(key, now).is_some();
        keys.entries.remove(key);
        Ok(was_there)
    })
}

pub(crate) fn state_increment(key: &str, by: i64, ttl_ms: u64) -> Result<i64, StateError> {
    operate(key, |keys, now| {
        let end = end(ttl_ms, now)?;
        let Some(count) = count_of(keys, key, now)? else {
            keys.room_for(key, now)?;
            keys.put(key, Held::Counter(by), end);
            return Ok(by);
        };
        let count = count.saturating_add(by);
        if let Some((held, _)) = keys.entries.get_mut(key) {
            *held = Held::Counter(count);
        }
        Ok(count)
    })
}

pub(crate) fn state_count(key: &str) -> Result<i64, StateError> {
    operate(key, |keys, now| Ok(count_of(keys, key, now)?.unwrap_or(0)))
}

pub(crate) fn state_time_left(key: &str) -> Result<Option<u64>, StateError> {
    operate(key, |keys, now| {
        let end = keys.entries.get(key).map(|(_, end)| *end);
        Ok(end.filter(|end| *end > now).map(|end| end - now))
    })
}
