//! `store`: what plugins keep over all nodes, in a store that may be another machine.
//!
//! The one capability that blocks its thread, which is one of the threads for plugins that wait (`lane`). It does so
//! for at most half of what the call has left, so a plugin always has time to decide without an answer, and no call
//! waits beyond its deadline whatever the store does. Invariants: on any other thread an operation that would have to
//! wait is `unavailable` at once; an operation is begun once and never repeated, since it may have been carried out.

use std::{
    cell::Cell,
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tidegate_realtime::{
    hooks::Progress,
    ids::AppId,
    store::{Life, Owner, Store, StoreError as Refused, StoreKey, StoreValue, Stored, Swap},
};
use tokio::{runtime::Handle, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    failure::GuestFault,
    generated::tidegate::plugin::store::{Host, StoreError},
    guest::{Facts, GuestState},
};

/// Operations of one call.
const OPERATIONS: u8 = 32;

/// With less left than this an operation that has to wait is not begun: its answer would find nobody.
const SHORTEST_WAIT: Duration = Duration::from_millis(2);

/// The node's store, once there is a node.
#[derive(Clone, Default)]
pub(crate) struct StoreDoor {
    inner: Arc<OnceLock<Open>>,
}

struct Open {
    store: Arc<dyn Store>,
    /// Drives timers and connections while a plugin's thread waits.
    runtime: Handle,
    /// Ends waiting when the node stops.
    stop: CancellationToken,
}

impl fmt::Debug for StoreDoor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreDoor")
            .field("is_open", &self.inner.get().is_some())
            .finish()
    }
}

impl StoreDoor {
    /// Only the first call has an effect.
    pub(crate) fn open(&self, store: Arc<dyn Store>, runtime: Handle, stop: CancellationToken) {
        let _ = self.inner.set(Open {
            store,
            runtime,
            stop,
        });
    }
}

/// The keys of one plugin in one app.
#[derive(Debug)]
pub(crate) struct PluginStore {
    door: StoreDoor,
    owner: Owner,
}

impl PluginStore {
    pub(crate) fn new(door: &StoreDoor, app: &AppId, plugin: &str) -> Self {
        Self {
            door: door.clone(),
            owner: Owner::new(app, plugin),
        }
    }

    /// Carries an operation out, for at most so long; and how long its answer took, if it was not there at once.
    fn operate<T: Send + 'static>(
        &self,
        longest: Duration,
        operation: impl FnOnce(&dyn Store, &Owner) -> Stored<T>,
    ) -> (Result<T, Unanswered>, Duration) {
        let Some(Open {
            store,
            runtime,
            stop,
        }) = self.door.inner.get()
        else {
            return (Err(Unanswered::NoStore), Duration::ZERO);
        };
        // What the engine begins may want timers, which belong to the runtime.
        let entered = runtime.enter();
        let progress = operation(&**store, &self.owner);
        drop(entered);
        let answer = match progress {
            Progress::Ready(answer) => {
                return (answer.map_err(Unanswered::Refused), Duration::ZERO);
            }
            Progress::Pending(answer) => answer,
        };
        if !MAY_WAIT.get() {
            return (Err(Unanswered::NotHere), Duration::ZERO);
        }
        if longest < SHORTEST_WAIT {
            return (Err(Unanswered::NoTime), Duration::ZERO);
        }
        let began = Instant::now();
        let answer = runtime.block_on(async {
            tokio::select! {
                biased; // An answer that is there counts.
                answer = tokio::time::timeout(longest, answer) => answer.ok(),
                () = stop.cancelled() => None,
            }
        });
        let answer = match answer {
            Some(answer) => answer.map_err(Unanswered::Refused),
            None => Err(Unanswered::TooLate),
        };
        (answer, began.elapsed())
    }
}

thread_local! {
    /// Whether this thread is one that plugins may wait on.
    static MAY_WAIT: Cell<bool> = const { Cell::new(false) };
}

/// Lets plugins that this thread calls wait for other machines.
pub(crate) fn let_this_thread_wait() {
    MAY_WAIT.set(true);
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error("this node has no store; decide without it")]
    NoStore,
    #[error(
        "the call was begun where nobody may wait, since its plugin was bound a moment ago; try again"
    )]
    NotHere,
    #[error("the call has no time left to wait for the store")]
    NoTime,
    #[error(
        "the store has not answered in half the time that the call had left; a change may have been made all the same"
    )]
    TooLate,
    #[error("{0}")]
    Refused(Refused),
}

/// The call's use of `store`.
#[derive(Debug, Default)]
pub(crate) struct StoreUse {
    operations: u8,
    /// For answers that were not there at once.
    pub(crate) waited: Duration,
}

impl From<Unanswered> for StoreError {
    fn from(unanswered: Unanswered) -> Self {
        let text = unanswered.to_string();
        match unanswered {
            Unanswered::NoStore
            | Unanswered::NotHere
            | Unanswered::NoTime
            | Unanswered::TooLate
            | Unanswered::Refused(Refused::Unavailable) => Self::Unavailable(text),
            Unanswered::Refused(Refused::KeyLength | Refused::TimeToLive) => Self::Invalid(text),
            Unanswered::Refused(Refused::ValueLength) => Self::TooLarge(text),
            Unanswered::Refused(Refused::Quota(_)) => Self::Quota(text),
            Unanswered::Refused(Refused::HoldsCounter | Refused::HoldsValue) => {
                Self::WrongKind(text)
            }
        }
    }
}

impl GuestState {
    /// Counts the host call and the operation, checks its arguments, and carries it out.
    fn store<A, T: Send + 'static>(
        &mut self,
        arguments: impl FnOnce() -> Result<A, Refused>,
        operation: impl FnOnce(&dyn Store, &Owner, A) -> Stored<T>,
    ) -> wasmtime::Result<Result<T, StoreError>> {
        self.call.enter_host()?;
        if matches!(self.call.facts, Facts::Idle) {
            return Err(GuestFault::limit(
                "the store was used outside a call: an initialiser runs once per instance, not once",
            )
            .into());
        }
        let used = &mut self.call.store;
        if used.operations >= OPERATIONS {
            return Ok(Err(StoreError::Limit(format!(
                "{OPERATIONS} operations were made in this call already"
            ))));
        }
        used.operations += 1;
        let arguments = match arguments() {
            Ok(arguments) => arguments,
            Err(refused) => return Ok(Err(Unanswered::Refused(refused).into())),
        };
        let longest = self.call.deadline.time_to_wait() / 2;
        let store = &self.unit.kept().store;
        let (answer, waited) =
            store.operate(longest, |store, owner| operation(store, owner, arguments));
        if !waited.is_zero() {
            self.call.store.waited += waited;
            // The ticks may have stopped meanwhile, and the guest goes on.
            self.ticker.arm();
        }
        Ok(answer.map_err(StoreError::from))
    }
}

impl Host for GuestState {
    fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<Vec<u8>>, StoreError>> {
        let value = self.store(
            || StoreKey::parse(key),
            |store, owner, key| store.get(owner, &key),
        )?;
        Ok(value.map(|value| value.map(Into::into)))
    }

    fn set(
        &mut self,
        key: String,
        value: Vec<u8>,
        ttl_ms: Option<u64>,
    ) -> wasmtime::Result<Result<(), StoreError>> {
        self.store(
            || {
                Ok((
                    StoreKey::parse(key)?,
                    StoreValue::parse(value)?,
                    Life::parse(ttl_ms)?,
                ))
            },
            |store, owner, (key, value, life)| store.set(owner, &key, value, life),
        )
    }

    fn compare_and_set(
        &mut self,
        key: String,
        expected: Option<Vec<u8>>,
        value: Vec<u8>,
        ttl_ms: Option<u64>,
    ) -> wasmtime::Result<Result<bool, StoreError>> {
        self.store(
            || {
                let swap = Swap {
                    expected: expected.map(StoreValue::parse).transpose()?,
                    value: StoreValue::parse(value)?,
                    life: Life::parse(ttl_ms)?,
                };
                Ok((StoreKey::parse(key)?, swap))
            },
            |store, owner, (key, swap)| store.compare_and_set(owner, &key, swap),
        )
    }

    fn delete(&mut self, key: String) -> wasmtime::Result<Result<bool, StoreError>> {
        self.store(
            || StoreKey::parse(key),
            |store, owner, key| store.delete(owner, &key),
        )
    }

    fn increment(
        &mut self,
        key: String,
        by: i64,
        ttl_ms: Option<u64>,
    ) -> wasmtime::Result<Result<i64, StoreError>> {
        self.store(
            || Ok((StoreKey::parse(key)?, Life::parse(ttl_ms)?)),
            |store, owner, (key, life)| store.increment(owner, &key, by, life),
        )
    }

    fn count(&mut self, key: String) -> wasmtime::Result<Result<i64, StoreError>> {
        self.store(
            || StoreKey::parse(key),
            |store, owner, key| store.count(owner, &key),
        )
    }
}
