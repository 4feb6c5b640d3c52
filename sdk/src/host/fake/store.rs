//! `store` without a node: one plugin's keys, on the test's clock, there until the test takes the store away.

use std::collections::BTreeMap;

use super::with;
use crate::store::StoreError;

/// Limits of `wit/capabilities.wit`.
const MAX_OPERATIONS: u32 = 32;
const MAX_KEY_BYTES: usize = 256;
const MAX_VALUE_BYTES: usize = 64 << 10;
const MAX_TTL_MS: u64 = 365 * 24 * 3_600 * 1_000;
const MAX_KEYS: usize = 100_000;

/// What a key holds.
#[derive(Debug, Clone)]
pub(crate) enum Stored {
    Value(Vec<u8>),
    Counter(i64),
}

/// The keys; they outlive the call.
#[derive(Debug, Clone, Default)]
pub(crate) struct StoredKeys {
    /// With their ends, if they have one.
    entries: BTreeMap<String, (Stored, Option<u64>)>,
    /// Whether the store does not answer.
    pub(crate) is_away: bool,
    /// Of the call in hand.
    pub(crate) operations: u32,
}

impl StoredKeys {
    pub(crate) fn held(&self, key: &str, now: u64) -> Option<&Stored> {
        let (held, end) = self.entries.get(key)?;
        end.is_none_or(|end| end > now).then_some(held)
    }

    pub(crate) fn put(&mut self, key: &str, held: Stored, end: Option<u64>) {
        self.entries.insert(key.to_owned(), (held, end));
    }

    fn room_for(&mut self, key: &str, now: u64) -> Result<(), StoreError> {
        self.entries
            .retain(|_, (_, end)| end.is_none_or(|end| end > now));
        if self.entries.len() < MAX_KEYS || self.entries.contains_key(key) {
            return Ok(());
        }
        Err(StoreError::Quota(format!(
            "the plugin has as many keys as it may: {MAX_KEYS}"
        )))
    }
}

/// Counts an operation on `key` and carries it out at the test's time. Arguments are looked at before the store is.
fn operate<A, T>(
    key: &str,
    arguments: impl FnOnce(u64) -> Result<A, StoreError>,
    operation: impl FnOnce(&mut StoredKeys, u64, A) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    with(|state| {
        let (keys, now) = (&mut state.stored, state.facts.now_ms);
        if keys.operations >= MAX_OPERATIONS {
            return Err(StoreError::Limit(format!(
                "{MAX_OPERATIONS} operations were made in this call already"
            )));
        }
        keys.operations += 1;
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            return Err(StoreError::Invalid(format!(
                "a key has 1 to {MAX_KEY_BYTES} bytes"
            )));
        }
        let arguments = arguments(now)?;
        if keys.is_away {
            return Err(StoreError::Unavailable(
                "the store does not answer; a change may have been made all the same".to_owned(),
            ));
        }
        operation(keys, now, arguments)
    })
}

fn end(ttl_ms: Option<u64>, now: u64) -> Result<Option<u64>, StoreError> {
    match ttl_ms {
        None => Ok(None),
        Some(ttl_ms @ 1..=MAX_TTL_MS) => Ok(Some(now.saturating_add(ttl_ms))),
        Some(_) => Err(StoreError::Invalid(format!(
            "a time to live is 1 to {MAX_TTL_MS} ms, which is a year; without one a key stays until it is deleted"
        ))),
    }
}

fn check_value(value: &[u8]) -> Result<(), StoreError> {
    if value.len() <= MAX_VALUE_BYTES {
        return Ok(());
    }
    Err(StoreError::TooLarge(format!(
        "a value has at most {MAX_VALUE_BYTES} bytes"
    )))
}

fn holds(what: &str) -> StoreError {
    StoreError::WrongKind(format!(
        "the key holds a {what}; delete it first, or use another key"
    ))
}

fn value_of(keys: &StoredKeys, key: &str, now: u64) -> Result<Option<Vec<u8>>, StoreError> {
    match keys.held(key, now) {
        None => Ok(None),
        Some(Stored::Value(value)) => Ok(Some(value.clone())),
        Some(Stored::Counter(_)) => Err(holds("counter")),
    }
}

fn count_of(keys: &StoredKeys, key: &str, now: u64) -> Result<Option<i64>, StoreError> {
    match keys.held(key, now) {
        None => Ok(None),
        Some(Stored::Counter(count)) => Ok(Some(*count)),
        Some(Stored::Value(_)) => Err(holds("value")),
    }
}

pub(crate) fn store_get(key: &str) -> Result<Option<Vec<u8>>, StoreError> {
    operate(key, |_| Ok(()), |keys, now, ()| value_of(keys, key, now))
}

pub(crate) fn store_set(key: &str, value: &[u8], ttl_ms: Option<u64>) -> Result<(), StoreError> {
    let arguments = |now| {
        check_value(value)?;
        end(ttl_ms, now)
    };
    operate(key, arguments, |keys, now, end| {
        value_of(keys, key, now)?;
        keys.room_for(key, now)?;
        keys.put(key, Stored::Value(value.to_vec()), end);
        Ok(())
    })
}

pub(crate) fn store_compare_and_set(
    key: &str,
    expected: Option<&[u8]>,
    value: &[u8],
    ttl_ms: Option<u64>,
) -> Result<bool, StoreError> {
    let arguments = |now| {
        check_value(expected.unwrap_or_default())?;
        check_value(value)?;
        end(ttl_ms, now)
    };
    operate(key, arguments, |keys, now, end| {
        if value_of(keys, key, now)?.as_deref() != expected {
            return Ok(false);
        }
        keys.room_for(key, now)?;
        keys.put(key, Stored::Value(value.to_vec()), end);
        Ok(true)
    })
}

pub(crate) fn store_delete(key: &str) -> Result<bool, StoreError> {
    operate(
        key,
        |_| Ok(()),
        |keys, now, ()| {
            let was_there = keys.held(key, now).is_some();
            keys.entries.remove(key);
            Ok(was_there)
        },
    )
}

pub(crate) fn store_increment(key: &str, by: i64, ttl_ms: Option<u64>) -> Result<i64, StoreError> {
    let arguments = |now| end(ttl_ms, now);
    operate(key, arguments, |keys, now, end| {
        let Some(count) = count_of(keys, key, now)? else {
            keys.room_for(key, now)?;
            keys.put(key, Stored::Counter(by), end);
            return Ok(by);
        };
        let count = count.saturating_add(by);
        if let Some((held, _)) = keys.entries.get_mut(key) {
            *held = Stored::Counter(count);
        }
        Ok(count)
    })
}

pub(crate) fn store_count(key: &str) -> Result<i64, StoreError> {
    operate(
        key,
        |_| Ok(()),
        |keys, now, ()| Ok(count_of(keys, key, now)?.unwrap_or(0)),
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::{
        Refusal, Rpc, rpc,
        store::{self, StoreError},
        testing::Host,
    };

    /// Does what the test's text says, and answers how it went.
    struct Keeper;

    impl Rpc for Keeper {
        fn call(request: rpc::Request) -> Result<rpc::Verdict, Refusal> {
            let minute = Some(Duration::from_secs(60));
            match request.method() {
                "set" => store::set("k", request.data(), minute)?,
                "stay" => store::set("k", request.data(), None)?,
                "count" => {
                    let count = store::increment("n", 1, minute)?;
                    return rpc::Verdict::json(&count);
                }
                "mixed" => {
                    let set = store::set("n", b"", None);
                    assert!(matches!(set, Err(StoreError::WrongKind(_))), "{set:?}");
                    let count = store::count("k");
                    assert!(matches!(count, Err(StoreError::WrongKind(_))), "{count:?}");
                }
                "limits" => {
                    let long = store::get(&"k".repeat(257));
                    assert!(matches!(long, Err(StoreError::Invalid(_))), "{long:?}");
                    let large = store::set("k", &[0; (64 << 10) + 1], None);
                    assert!(matches!(large, Err(StoreError::TooLarge(_))), "{large:?}");
                    let never = store::set("k", b"", Some(Duration::ZERO));
                    assert!(matches!(never, Err(StoreError::Invalid(_))), "{never:?}");
                    let year = Duration::from_secs(366 * 24 * 3600);
                    let late = store::set("k", b"", Some(year));
                    assert!(matches!(late, Err(StoreError::Invalid(_))), "{late:?}");
                    for _ in 4..32 {
                        store::delete("none")?;
                    }
                    let last = store::get("k");
                    assert!(matches!(last, Err(StoreError::Limit(_))), "{last:?}");
                }
                _ => return Ok(rpc::Verdict::NotMine),
            }
            rpc::Verdict::json(&())
        }
    }

    #[test]
    fn keys_end_in_time_and_kinds_and_limits_are_those_of_a_node() {
        let mut host = Host::new();
        host.call::<Keeper>("set", "v").unwrap();
        host.call::<Keeper>("count", "").unwrap();
        host.call::<Keeper>("mixed", "").unwrap();
        host.call::<Keeper>("limits", "").unwrap();
        assert_eq!(host.stored("k").as_deref(), Some(&b"v"[..]));
        assert_eq!(host.stored_count("n"), 1);
        let mut host = host.advance(Duration::from_secs(60));
        assert_eq!((host.stored("k"), host.stored_count("n")), (None, 0));
        host.call::<Keeper>("stay", "v").unwrap();
        let host = host.advance(Duration::from_secs(400 * 24 * 3600));
        assert_eq!(host.stored("k").as_deref(), Some(&b"v"[..]));
    }

    #[test]
    fn a_store_that_is_away_refuses_and_keeps_what_it_has() {
        let mut host = Host::new()
            .with_stored("k", "before")
            .with_stored_count("n", 3)
            .without_store();
        for method in ["set", "count"] {
            let refused = host.call::<Keeper>(method, "v").unwrap_err();
            assert_eq!(refused.code(), Some(store::UNAVAILABLE_CODE));
        }
        assert_eq!(host.stored("k").as_deref(), Some(&b"before"[..]));
        assert_eq!(host.stored_count("n"), 3);
    }
}
