//! The snapshot of what is bound, and how a question comes by it.
//!
//! Invariant: a question that begins after [`Core::replace`] returned asks the new snapshot, on whatever thread.

use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;

use crate::{
    Runtime,
    lane::Turn,
    pipeline::{Asker, Snapshot},
};

/// What questions need, on whatever thread they are asked.
pub(crate) struct Core {
    pub(crate) runtime: Arc<Runtime>,
    /// What runs. Written by `apply` alone, loaded once at the start of every question, which for a question that
    /// waited aside is the moment when its turn came.
    snapshot: ArcSwap<Snapshot>,
    /// Names the snapshot; no two of all sandboxes have the same. Written by `apply` after the snapshot, so who reads
    /// a number and then loads has that snapshot or a newer one.
    snapshot_number: AtomicU64,
}

thread_local! {
    /// The snapshot that this thread asked last, with its number: most questions need neither count a reference nor
    /// tell other threads that they read. A thread without questions keeps an old one until its next.
    static ASKED_LAST: RefCell<Option<(u64, Arc<Snapshot>)>> = const { RefCell::new(None) };
}

/// Numbers of snapshots that were given out.
static SNAPSHOTS: AtomicU64 = AtomicU64::new(0);

fn next_snapshot_number() -> u64 {
    // Relaxed: it need only differ from all others.
    SNAPSHOTS.fetch_add(1, Ordering::Relaxed)
}

impl Core {
    /// Nothing is bound yet.
    pub(crate) fn new(runtime: Arc<Runtime>) -> Self {
        Self {
            runtime,
            snapshot: ArcSwap::default(),
            snapshot_number: AtomicU64::new(next_snapshot_number()),
        }
    }

    /// Asks on this thread.
    #[inline]
    pub(crate) fn ask<R>(&self, turn: Turn, question: impl FnOnce(Asker<'_>) -> R) -> R {
        // Pairs with the store in `replace`: who sees a number sees its snapshot.
        let number = self.snapshot_number.load(Ordering::Acquire);
        // Taken out for the time of the question, so that one within another would find nothing and load its own.
        let last = ASKED_LAST.with_borrow_mut(Option::take);
        let snapshot = match last {
            Some((held, snapshot)) if held == number => snapshot,
            Some(_) | None => self.snapshot.load_full(),
        };
        let answer = question(Asker {
            runtime: &self.runtime,
            snapshot: &snapshot,
            turn,
        });
        let displaced = ASKED_LAST.replace(Some((number, snapshot)));
        drop(displaced);
        answer
    }

    /// Makes this the snapshot of every question that begins from now on.
    pub(crate) fn replace(&self, snapshot: Snapshot) {
        self.snapshot.store(Arc::new(snapshot));
        // Pairs with the load in `ask`.
        self.snapshot_number
            .store(next_snapshot_number(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_snapshots_have_the_same_number() {
        let first = next_snapshot_number();
        assert!(next_snapshot_number() > first);
    }
}
