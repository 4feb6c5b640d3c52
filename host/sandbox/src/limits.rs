//! What an instance may use: numbers, and the limiter that wasmtime asks.
//!
//! Wasmtime's stock limiter counts per memory and per table; this one sums over the store, so that a guest
//! with many memories gains nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use wasmtime::ResourceLimiter;

use crate::metrics::{MemoryGuard, MemoryUse};

/// Linear memory of an instance unless the binding says otherwise, all memories summed.
pub const DEFAULT_MEMORY_BYTES: usize = 32 << 20;
/// What a binding may raise it to; the pool's slots are this large.
pub const MEMORY_CAP_BYTES: usize = 64 << 20;
/// Table elements of an instance, all tables summed.
pub(crate) const TABLE_ELEMENTS: usize = 10_000;
/// Handles to host or guest resources alive at once.
pub(crate) const HANDLES: usize = 1_000;
/// Core instances, tables and memories in one component.
pub(crate) const CORE_INSTANCES: u32 = 8;
pub(crate) const TABLES: u32 = 4;
pub(crate) const MEMORIES: u32 = 1;
/// Native stack of a guest.
pub(crate) const STACK_BYTES: usize = 256 << 10;
/// Start functions run guest code while an instance is made.
pub(crate) const INSTANTIATION_DEADLINE: Duration = Duration::from_millis(50);
/// Calls into the host during one call.
pub(crate) const HOST_CALLS: u32 = 100;
/// Calls that an instance serves before it is made anew, give or take a fifth: leaks end some time, and not
/// in all workers at once.
pub(crate) const CALLS_PER_INSTANCE: u32 = 10_000;

/// How often expired keys of `state` are looked for.
pub const STATE_SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// What plugins may keep in `state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateQuotas {
    /// Keys of one app.
    pub keys_per_app: usize,
    /// Bytes of one app's keys, values and their bookkeeping.
    pub bytes_per_app: usize,
    /// Bytes of all apps together.
    pub bytes_in_all: usize,
}

impl Default for StateQuotas {
    /// As many keys as an app may have channels; a key of its own for each user of a large app fits. The node holds
    /// eight apps that use all they may, or a thousand that use a quarter of a mebibyte each.
    fn default() -> Self {
        Self {
            keys_per_app: 100_000,
            bytes_per_app: 32 << 20,
            bytes_in_all: 256 << 20,
        }
    }
}

/// The most memory that any instance of the process came to have since somebody looked last. For measuring plugins
/// one at a time; growth is rare, so counting it costs nothing.
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// Looks, and begins anew.
pub(crate) fn take_memory_peak() -> usize {
    PEAK.swap(0, Ordering::Relaxed)
}

/// Bytes that a guest may hand over in one crossing: a message and its replacement, and some room.
pub(crate) fn hostcall_fuel(max_message_bytes: usize) -> usize {
    (2 * max_message_bytes + (64 << 10)).min(8 << 20)
}

/// Whether so much of a limit was used that its author should hear of it: seven tenths.
pub(crate) fn is_near(used: u128, limit: u128) -> bool {
    used * 10 >= limit * 7
}

/// Counts what one store holds. Owned by the store's state.
#[derive(Debug)]
pub(crate) struct StoreLimiter {
    memory_cap: usize,
    memory: usize,
    /// What the guest had before it first grew.
    initial: usize,
    tables: usize,
    /// Growth granted last, taken back if it then failed.
    granted: usize,
    /// Shows `memory` in the statistics.
    shown: MemoryGuard,
    /// Whether memory was ever denied. Out of memory shows up as `unreachable` in the guest, so the story
    /// of a failure needs this.
    pub(crate) was_denied: bool,
}

impl StoreLimiter {
    pub(crate) fn new(memory_cap: usize, shown_in: &Arc<MemoryUse>) -> Self {
        Self {
            memory_cap,
            memory: 0,
            initial: 0,
            tables: 0,
            granted: 0,
            shown: MemoryGuard::new(shown_in),
            was_denied: false,
        }
    }

    /// Whether the instance has grown past half of what it may: better made anew than denied in the
    /// middle of a call. A guest that starts beyond that may use half of what is left. One that was denied
    /// memory and lived with it is made anew as well, so that a later trap is not laid to that denial.
    pub(crate) fn is_high(&self) -> bool {
        self.was_denied
            || self.memory > self.memory_cap / 2
                && self.memory > self.initial + (self.memory_cap - self.initial) / 2
    }

    /// Bytes of all memories.
    pub(crate) fn memory(&self) -> usize {
        self.memory
    }
}

impl ResourceLimiter for StoreLimiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let growth = desired.saturating_sub(current);
        let total = self.memory.saturating_add(growth);
        if total > self.memory_cap {
            self.was_denied = true;
            return Ok(false);
        }
        self.memory = total;
        self.granted = growth;
        if total > PEAK.load(Ordering::Relaxed) {
            PEAK.fetch_max(total, Ordering::Relaxed);
        }
        self.shown.set(total);
        if current == 0 {
            self.initial = total;
        }
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.memory = self.memory.saturating_sub(self.granted);
        self.granted = 0;
        self.shown.set(self.memory);
        self.was_denied = true;
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let total = self.tables.saturating_add(desired.saturating_sub(current));
        if total > TABLE_ELEMENTS {
            return Ok(false);
        }
        self.tables = total;
        Ok(true)
    }

    fn instances(&self) -> usize {
        CORE_INSTANCES as usize
    }

    fn tables(&self) -> usize {
        TABLES as usize
    }

    fn memories(&self) -> usize {
        MEMORIES as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(memory_cap: usize) -> StoreLimiter {
        StoreLimiter::new(memory_cap, &Arc::default())
    }

    #[test]
    fn w5_memory_is_summed_over_the_store() {
        let mut limiter = super::tests::limiter(100);
        assert!(limiter.memory_growing(0, 60, None).unwrap());
        assert!(!limiter.memory_growing(0, 60, None).unwrap());
        assert!(limiter.was_denied);
        assert!(limiter.memory_growing(60, 100, None).unwrap());
    }

    #[test]
    fn half_the_cap_is_high_unless_the_guest_started_there() {
        let mut small = limiter(100);
        assert!(small.memory_growing(0, 10, None).unwrap());
        assert!(small.memory_growing(10, 50, None).unwrap());
        assert!(!small.is_high());
        assert!(small.memory_growing(50, 56, None).unwrap());
        assert!(small.is_high());
        let mut large = limiter(100);
        assert!(large.memory_growing(0, 60, None).unwrap());
        assert!(!large.is_high());
        assert!(large.memory_growing(60, 81, None).unwrap());
        assert!(large.is_high());
    }

    #[test]
    fn growth_that_failed_is_not_counted() {
        let mut limiter = super::tests::limiter(100);
        assert!(limiter.memory_growing(0, 90, None).unwrap());
        limiter
            .memory_grow_failed(wasmtime::Error::msg("no memory"))
            .unwrap();
        assert_eq!(limiter.memory(), 0);
    }

    #[test]
    fn who_was_denied_memory_is_made_anew() {
        let mut limiter = super::tests::limiter(100);
        assert!(limiter.memory_growing(0, 10, None).unwrap());
        assert!(!limiter.is_high());
        assert!(!limiter.memory_growing(10, 200, None).unwrap());
        assert!(limiter.is_high());
    }

    #[test]
    fn w5_table_elements_are_summed_over_the_store() {
        let mut limiter = super::tests::limiter(0);
        assert!(limiter.table_growing(0, 6_000, None).unwrap());
        assert!(!limiter.table_growing(0, 6_000, None).unwrap());
    }
}
