//! Instances per worker: each thread owns its own, so a call takes no lock and makes no hop.
//!
//! An instance is taken out of the table for the time of its call and put back only if the call went well.
//! Invariant: an instance is found only by the very unit that made it, because the generation is compared.

use std::{cell::RefCell, sync::Arc};

use crate::{
    instance::Instance,
    metrics::{CallEnd, ShardGuard},
    unit::{self, Unit},
};

/// Ticks (milliseconds while anything runs) after which an unused instance is dropped.
const IDLE_TICKS: u64 = 60_000;

thread_local! {
    static TABLE: RefCell<Table> = const { RefCell::new(Table::new()) };
}

struct Table {
    /// By the index of the unit.
    entries: Vec<Option<Entry>>,
    /// Retirements up to which the table was swept.
    swept: u64,
}

struct Entry {
    unit: Arc<Unit>,
    instance: Option<Box<Instance>>,
    shard: ShardGuard,
    last_used: u64,
}

/// Takes the worker's instance of the unit, if it has one.
#[inline]
pub(crate) fn take(unit: &Arc<Unit>, now: u64) -> Option<Box<Instance>> {
    TABLE.with_borrow_mut(|table| {
        if table.swept != unit::retirements() {
            table.sweep_retired();
        }
        let entry = table.entry(unit);
        entry.last_used = now;
        entry.instance.take()
    })
}

/// Counts the call and puts its instance back; without one the next call makes a new one.
#[inline]
pub(crate) fn give_back(unit: &Arc<Unit>, instance: Option<Box<Instance>>, end: CallEnd) {
    let displaced = TABLE.with_borrow_mut(|table| {
        let entry = table.entry(unit);
        entry.shard.count(end);
        if unit.is_retired() {
            // Retired during the call: the sweep that should have found it may be over.
            table.entries[unit.id.index] = None;
            return instance;
        }
        match instance {
            Some(instance) => entry.instance.replace(instance),
            None => None,
        }
    });
    drop(displaced);
}

/// Counts something about the unit besides a call's end.
pub(crate) fn count(unit: &Arc<Unit>, end: CallEnd) {
    TABLE.with_borrow_mut(|table| table.entry(unit).shard.count(end));
}

/// Drops what this worker has not used for a while; called when an instance is made anyway.
pub(crate) fn drop_idle(now: u64) {
    TABLE.with_borrow_mut(|table| {
        for entry in table.entries.iter_mut().flatten() {
            if now.saturating_sub(entry.last_used) > IDLE_TICKS {
                entry.instance = None;
            }
        }
    });
}

/// Drops all idle instances of this worker: the pool is exhausted.
pub(crate) fn drop_all_idle() {
    TABLE.with_borrow_mut(|table| {
        for entry in table.entries.iter_mut().flatten() {
            entry.instance = None;
        }
    });
}

impl Table {
    const fn new() -> Self {
        Self {
            entries: Vec::new(),
            swept: 0,
        }
    }

    #[inline]
    fn entry(&mut self, unit: &Arc<Unit>) -> &mut Entry {
        let index = unit.id.index;
        if index >= self.entries.len() {
            self.entries.resize_with(index + 1, || None);
        }
        let slot = &mut self.entries[index];
        if !matches!(slot, Some(entry) if entry.unit.id == unit.id) {
            *slot = Some(Entry::new(unit));
        }
        slot.as_mut().expect("the entry was just made")
    }

    #[cold]
    fn sweep_retired(&mut self) {
        // Read first: what is retired during the sweep is then seen at the next call.
        self.swept = unit::retirements();
        for slot in &mut self.entries {
            if slot.as_ref().is_some_and(|entry| entry.unit.is_retired()) {
                *slot = None;
            }
        }
    }
}

impl Entry {
    #[cold]
    fn new(unit: &Arc<Unit>) -> Self {
        Self {
            unit: Arc::clone(unit),
            instance: None,
            shard: unit.tally.shard(),
            last_used: 0,
        }
    }
}
