//! Instances per worker: each thread has its own, so a call takes no lock and makes no hop.
//!
//! An instance is taken off its seat for the time of its call and put back only if the call went well.
//! Invariant: a seat is found only by the very unit that it was made for, because the generation is compared.

use std::{cell::RefCell, sync::Arc};

use crate::{
    Runtime,
    instance::{CALLS_PER_SAMPLE, Instance, Sampling},
    instances::Seat,
    metrics::{Also, CallEnd, ShardGuard},
    unit::{self, Unit, UnitId},
};

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
    /// The unit's; here too, so that finding the entry touches nothing but the table.
    id: UnitId,
    seat: Arc<Seat>,
    shard: ShardGuard,
    /// Instances that this worker made; one in [`CALLS_PER_SAMPLE`] is drawn.
    made: u32,
}

/// Takes the worker's instance of the unit, if it has one.
#[inline]
pub(crate) fn take(runtime: &Runtime, unit: &Arc<Unit>) -> Option<Box<Instance>> {
    TABLE.with_borrow_mut(|table| {
        if table.swept != unit::retirements() {
            table.sweep_retired();
        }
        table.entry(runtime, unit).seat.take()
    })
}

/// Counts the call and puts its instance back; without one the next call makes a new one.
#[inline]
pub(crate) fn give_back(
    runtime: &Runtime,
    unit: &Arc<Unit>,
    (instance, now): (Option<Box<Instance>>, u64),
    end: CallEnd,
) {
    let displaced = TABLE.with_borrow_mut(|table| {
        let entry = table.entry(runtime, unit);
        entry.shard.count(end);
        let displaced = instance.and_then(|instance| entry.seat.put(instance, now));
        if unit.is_retired() {
            // Retired during the call: the sweep that should have found it may be over.
            drop(entry.seat.take());
            table.entries[unit.id.index] = None;
        }
        displaced
    });
    drop(displaced);
    runtime.instances.made_room();
}

/// Counts an instance that is about to be made, and tells whether it is drawn.
pub(crate) fn draw(runtime: &Runtime, unit: &Arc<Unit>) -> Sampling {
    TABLE.with_borrow_mut(|table| {
        let made = &mut table.entry(runtime, unit).made;
        *made = made.wrapping_add(1);
        if made.is_multiple_of(CALLS_PER_SAMPLE) {
            Sampling::Drawn
        } else {
            Sampling::NotDrawn
        }
    })
}

/// Counts something about the unit that was not a call.
pub(crate) fn count(runtime: &Runtime, unit: &Arc<Unit>, end: CallEnd) {
    TABLE.with_borrow_mut(|table| table.entry(runtime, unit).shard.count(end));
}

/// Counts something beside a call's end.
pub(crate) fn count_also(runtime: &Runtime, unit: &Arc<Unit>, also: Also) {
    TABLE.with_borrow_mut(|table| table.entry(runtime, unit).shard.count_also(also));
}

impl Table {
    const fn new() -> Self {
        Self {
            entries: Vec::new(),
            swept: 0,
        }
    }

    #[inline]
    fn entry(&mut self, runtime: &Runtime, unit: &Arc<Unit>) -> &mut Entry {
        let index = unit.id.index;
        let is_here = matches!(self.entries.get(index), Some(Some(entry)) if entry.id == unit.id);
        if !is_here {
            self.enter(runtime, unit);
        }
        self.entries[index]
            .as_mut()
            .expect("the entry is there or was just made")
    }

    #[cold]
    fn enter(&mut self, runtime: &Runtime, unit: &Arc<Unit>) {
        let index = unit.id.index;
        if index >= self.entries.len() {
            self.entries.resize_with(index + 1, || None);
        }
        self.entries[index] = Some(Entry::new(runtime, unit));
    }

    #[cold]
    fn sweep_retired(&mut self) {
        // Read first: what is retired during the sweep is then seen at the next call.
        self.swept = unit::retirements();
        for slot in &mut self.entries {
            if slot
                .as_ref()
                .is_some_and(|entry| entry.seat.unit.is_retired())
            {
                *slot = None;
            }
        }
    }
}

impl Entry {
    #[cold]
    fn new(runtime: &Runtime, unit: &Arc<Unit>) -> Self {
        let seat = Arc::new(Seat::new(unit));
        runtime.instances.enter(&seat);
        Self {
            id: unit.id,
            seat,
            shard: unit.tally.shard(),
            made: 0,
        }
    }
}
