//! `state`: what plugins remember from call to call, on this node and, over the cluster, on the others.
//!
//! Operations happen at once and stay, whatever becomes of the call. All refusals are errors for the guest to
//! handle; only calls without a call in hand, from an initialiser, fail.

mod merge;
mod metrics;
pub(crate) mod sharing;
pub(super) mod store;

use crate::{
    failure::GuestFault,
    generated::tidegate::plugin::state::{Host, StateError},
    guest::{Facts, GuestState},
};

pub(crate) use self::metrics::StateCollector;
use self::store::{PluginState, Refused};

/// Operations of one call.
const OPERATIONS: u8 = 32;

/// The call's use of `state`.
#[derive(Debug, Default)]
pub(crate) struct StateUse {
    operations: u8,
    /// Read at the first operation and the same from then on (threat model W8).
    now: Option<u64>,
}

impl GuestState {
    /// Counts the host call and the operation, and carries it out.
    fn operate<T>(
        &mut self,
        operation: impl FnOnce(&PluginState, u64) -> Result<T, Refused>,
    ) -> wasmtime::Result<Result<T, StateError>> {
        self.call.enter_host()?;
        if matches!(self.call.facts, Facts::Idle) {
            return Err(GuestFault::limit(
                "state was used outside a call: an initialiser runs once per instance, not once",
            )
            .into());
        }
        let used = &mut self.call.state;
        if used.operations >= OPERATIONS {
            return Ok(Err(StateError::Limit(format!(
                "{OPERATIONS} operations were made in this call already"
            ))));
        }
        used.operations += 1;
        let state = &self.unit.kept().state;
        let now = *used.now.get_or_insert_with(|| state.now());
        Ok(operation(state, now).map_err(StateError::from))
    }
}

impl From<Refused> for StateError {
    fn from(refused: Refused) -> Self {
        let text = refused.to_string();
        match refused {
            Refused::KeyLength | Refused::TimeToLive => Self::Invalid(text),
            Refused::ValueLength => Self::TooLarge(text),
            Refused::Quota(_) => Self::Quota(text),
            Refused::HoldsCounter | Refused::HoldsValue => Self::WrongKind(text),
        }
    }
}

impl Host for GuestState {
    fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<Vec<u8>>, StateError>> {
        let value = self.operate(|state, now| state.get(&key, now))?;
        // Copied for the guest here, not under the lock of the shard.
        Ok(value.map(|value| value.map(Into::into)))
    }

    fn set(
        &mut self,
        key: String,
        value: Vec<u8>,
        ttl_ms: u64,
    ) -> wasmtime::Result<Result<(), StateError>> {
        self.operate(|state, now| state.set(&key, value.into(), ttl_ms, now))
    }

    fn compare_and_set(
        &mut self,
        key: String,
        expected: Option<Vec<u8>>,
        value: Vec<u8>,
        ttl_ms: u64,
    ) -> wasmtime::Result<Result<bool, StateError>> {
        self.operate(|state, now| {
            state.compare_and_set(&key, expected.as_deref(), value.into(), ttl_ms, now)
        })
    }

    fn delete(&mut self, key: String) -> wasmtime::Result<Result<bool, StateError>> {
        self.operate(|state, now| state.delete(&key, now))
    }

    fn increment(
        &mut self,
        key: String,
        by: i64,
        ttl_ms: u64,
    ) -> wasmtime::Result<Result<i64, StateError>> {
        self.operate(|state, now| state.increment(&key, by, ttl_ms, now))
    }

    fn count(&mut self, key: String) -> wasmtime::Result<Result<i64, StateError>> {
        self.operate(|state, now| state.count(&key, now))
    }

    fn time_left(&mut self, key: String) -> wasmtime::Result<Result<Option<u64>, StateError>> {
        self.operate(|state, now| state.time_left(&key, now))
    }
}
