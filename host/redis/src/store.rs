//! The store in Redis: what plugins keep, the same on all nodes.
//!
//! Owns two keys of each owner (entries, ends) and the scripts that keep them in step. All that a plugin keeps lies in
//! one place, so that one script sees all of it: that is what makes its quotas exact and forgetting it one command.
//! Invariants. An operation is one script, so nothing comes in between. Ends are by the clock of Redis, so that the
//! clocks of nodes do not matter. An operation whose answer did not come is not repeated: it may have been carried
//! out, and an increment must not count twice.

use std::sync::Arc;

use bytes::Bytes;
use redis::{Cmd, Value};
use tidegate_realtime::{
    hooks::Progress,
    store::{
        Life, Owner, Store, StoreError, StoreKey, StoreQuota, StoreQuotas, StoreValue, Stored, Swap,
    },
};
use tokio::time::Instant;

use crate::{
    commands::{
        RedisFailure, Route, Script, Shards,
        value::{bytes, number, text},
    },
    keys::Keys,
    metrics::{CommandKind, EngineMetrics},
};

/// What stands before a value, so that it is told from a count.
const VALUE: u8 = b'v';

/// The store in Redis. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RedisStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    shards: Shards,
    keys: Keys,
    quotas: StoreQuotas,
    metrics: EngineMetrics,
    get: Script,
    set: Script,
    swap: Script,
    increment: Script,
    delete: Script,
}

/// What a key holds.
enum Held {
    Value(Bytes),
    Counter(i64),
}

/// What a script that changes something answers instead of what was asked for.
enum Outcome {
    Done,
    Differs,
    Refused(StoreError),
}

macro_rules! script {
    ($file:literal) => {
        Script::new(concat!(
            include_str!("scripts/store_head.lua"),
            include_str!("scripts/store_change.lua"),
            include_str!($file)
        ))
    };
}

impl RedisStore {
    /// `quotas` are those of each owner, and have to be the same on all nodes.
    pub fn new(shards: Shards, keys: Keys, quotas: StoreQuotas, metrics: EngineMetrics) -> Self {
        Self {
            shared: Arc::new(Shared {
                shards,
                keys,
                quotas,
                metrics,
                get: Script::new(concat!(
                    include_str!("scripts/store_head.lua"),
                    include_str!("scripts/store_get.lua")
                )),
                set: script!("scripts/store_set.lua"),
                swap: script!("scripts/store_swap.lua"),
                increment: script!("scripts/store_increment.lua"),
                delete: script!("scripts/store_delete.lua"),
            }),
        }
    }

    fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<Result<T, StoreError>, RedisFailure>> + Send + 'static,
    ) -> Stored<T> {
        let metrics = self.shared.metrics.clone();
        Progress::Pending(Box::pin(async move {
            let start = Instant::now();
            let outcome = work.await;
            metrics.observe(CommandKind::Store, start.elapsed(), &outcome);
            outcome.unwrap_or(Err(StoreError::Unavailable))
        }))
    }
}

impl Shared {
    async fn invoke(
        &self,
        script: &Script,
        owner: &Owner,
        arguments: impl Fn(&mut Cmd),
    ) -> Result<Value, RedisFailure> {
        let (entries, ends) = (self.keys.store(owner), self.keys.store_ends(owner));
        let build = |command: &mut Cmd, _: &_| {
            command.arg(2).arg(&entries).arg(&ends);
            arguments(command);
        };
        let pipe = self.shards.of(owner.key());
        pipe.invoke(script, Route::Key(&entries), build).await
    }

    /// The same with a script that changes a key.
    async fn change(
        &self,
        script: &Script,
        (owner, key): (&Owner, &StoreKey),
        arguments: impl Fn(&mut Cmd),
    ) -> Result<Value, RedisFailure> {
        let StoreQuotas { keys, bytes } = self.quotas;
        self.invoke(script, owner, |command| {
            command.arg(keys).arg(bytes).arg(key.as_str());
            arguments(command);
        })
        .await
    }

    async fn held(&self, owner: &Owner, key: &StoreKey) -> Result<Option<Held>, RedisFailure> {
        let answer = self.invoke(&self.get, owner, |command| {
            command.arg(key.as_str());
        });
        parse_held(&answer.await?).ok_or(RedisFailure::Unexpected)
    }

    async fn forget(&self, owner: &Owner) -> Result<(), RedisFailure> {
        let (entries, ends) = (self.keys.store(owner), self.keys.store_ends(owner));
        let mut command = redis::cmd("UNLINK");
        command.arg(&entries).arg(&ends);
        let pipe = self.shards.of(owner.key());
        pipe.run(&command, Route::Key(&entries)).await.map(|_| ())
    }
}

fn entry(value: &[u8]) -> Vec<u8> {
    [&[VALUE], value].concat()
}

/// In the form of the scripts.
fn millis(life: Life) -> u64 {
    match life {
        Life::Endless => 0,
        Life::Millis(millis) => millis,
    }
}

/// Parses an entry or nothing at all; what is neither is nobody's (threat model R7).
#[expect(
    clippy::option_option,
    reason = "nothing there and nothing understood are different answers"
)]
fn parse_held(answer: &Value) -> Option<Option<Held>> {
    if matches!(answer, Value::Nil) {
        return Some(None);
    }
    let held = match bytes(answer)? {
        [VALUE, value @ ..] => Held::Value(Bytes::copy_from_slice(value)),
        _ => Held::Counter(count(answer)?),
    };
    Some(Some(held))
}

fn count(answer: &Value) -> Option<i64> {
    text(answer)?.parse().ok()
}

/// The codes of `store_change.lua`.
fn outcome(answer: &Value) -> Result<Outcome, RedisFailure> {
    let refused = match number(answer) {
        Some(0) => return Ok(Outcome::Done),
        Some(1) => StoreError::HoldsCounter,
        Some(2) => StoreError::HoldsValue,
        Some(3) => StoreError::Quota(StoreQuota::Keys),
        Some(4) => StoreError::Quota(StoreQuota::Bytes),
        Some(5) => return Ok(Outcome::Differs),
        Some(_) | None => return Err(RedisFailure::Unexpected),
    };
    Ok(Outcome::Refused(refused))
}

impl Store for RedisStore {
    fn get(&self, owner: &Owner, key: &StoreKey) -> Stored<Option<Bytes>> {
        let (shared, owner, key) = (Arc::clone(&self.shared), owner.clone(), key.clone());
        self.run(async move {
            Ok(match shared.held(&owner, &key).await? {
                None => Ok(None),
                Some(Held::Value(value)) => Ok(Some(value)),
                Some(Held::Counter(_)) => Err(StoreError::HoldsCounter),
            })
        })
    }

    fn set(&self, owner: &Owner, key: &StoreKey, value: StoreValue, life: Life) -> Stored<()> {
        let (shared, owner, key) = (Arc::clone(&self.shared), owner.clone(), key.clone());
        self.run(async move {
            let entry = entry(value.as_bytes());
            let answer = shared.change(&shared.set, (&owner, &key), |command| {
                command.arg(millis(life)).arg(&entry[..]);
            });
            match outcome(&answer.await?)? {
                Outcome::Done => Ok(Ok(())),
                Outcome::Refused(refused) => Ok(Err(refused)),
                Outcome::Differs => Err(RedisFailure::Unexpected),
            }
        })
    }

    fn compare_and_set(&self, owner: &Owner, key: &StoreKey, swap: Swap) -> Stored<bool> {
        let (shared, owner, key) = (Arc::clone(&self.shared), owner.clone(), key.clone());
        self.run(async move {
            let Swap {
                expected,
                value,
                life,
            } = swap;
            let value = entry(value.as_bytes());
            // No entry is empty, so that nothing stands for nothing.
            let expected = expected.map_or_else(Vec::new, |expected| entry(expected.as_bytes()));
            let answer = shared.change(&shared.swap, (&owner, &key), |command| {
                let command = command.arg(millis(life)).arg(&value[..]);
                command.arg(&expected[..]);
            });
            Ok(match outcome(&answer.await?)? {
                Outcome::Done => Ok(true),
                Outcome::Differs => Ok(false),
                Outcome::Refused(refused) => Err(refused),
            })
        })
    }

    fn increment(&self, owner: &Owner, key: &StoreKey, by: i64, life: Life) -> Stored<i64> {
        let (shared, owner, key) = (Arc::clone(&self.shared), owner.clone(), key.clone());
        self.run(async move {
            let answer = shared.change(&shared.increment, (&owner, &key), |command| {
                command.arg(millis(life)).arg(by);
            });
            let answer = answer.await?;
            // A count comes as text, a refusal as a number.
            if !matches!(answer, Value::Int(_)) {
                return count(&answer).map(Ok).ok_or(RedisFailure::Unexpected);
            }
            match outcome(&answer)? {
                Outcome::Refused(refused) => Ok(Err(refused)),
                Outcome::Done | Outcome::Differs => Err(RedisFailure::Unexpected),
            }
        })
    }

    fn count(&self, owner: &Owner, key: &StoreKey) -> Stored<i64> {
        let (shared, owner, key) = (Arc::clone(&self.shared), owner.clone(), key.clone());
        self.run(async move {
            Ok(match shared.held(&owner, &key).await? {
                None => Ok(0),
                Some(Held::Counter(count)) => Ok(count),
                Some(Held::Value(_)) => Err(StoreError::HoldsValue),
            })
        })
    }

    fn delete(&self, owner: &Owner, key: &StoreKey) -> Stored<bool> {
        let (shared, owner, key) = (Arc::clone(&self.shared), owner.clone(), key.clone());
        self.run(async move {
            let deleted = shared.change(&shared.delete, (&owner, &key), |_| ());
            let deleted = number(&deleted.await?).ok_or(RedisFailure::Unexpected)?;
            Ok(Ok(deleted != 0))
        })
    }

    fn forget(&self, owner: &Owner) -> Stored<()> {
        let (shared, owner) = (Arc::clone(&self.shared), owner.clone());
        self.run(async move { shared.forget(&owner).await.map(Ok) })
    }
}
