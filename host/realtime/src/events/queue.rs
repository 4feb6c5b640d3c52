//! The queue of one observing plugin: what waits, within bounds, and what goes into the next batch.
//!
//! Pure but for a lock: no clock, no task. A queue takes news up to one bound and what must not be lost up to a higher
//! one, so that a flood of news never costs anybody the word that somebody left.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Event, EventKind, Kinds, Observer, Then, delivery::BATCH};
use crate::ids::AppId;

/// Bytes of events that wait for one plugin beyond which news is dropped: some twenty thousand events.
pub const MAX_BYTES: usize = 4 * 1024 * 1024;

/// The same for what is kept: all sessions of a large node may end at once.
pub const MAX_KEPT_BYTES: usize = 32 * 1024 * 1024;

/// Bytes of events that wait on the node, for all plugins of all apps. Beyond it everything is dropped.
pub const MAX_NODE_BYTES: usize = 128 * 1024 * 1024;

/// What all queues take together.
#[derive(Debug, Default)]
pub(super) struct Room(AtomicUsize);

impl Room {
    fn take(&self, bytes: usize) -> bool {
        // Relaxed: a counter. Two that meet at the bound may both be refused.
        let before = self.0.fetch_add(bytes, Ordering::Relaxed);
        let fits = before.saturating_add(bytes) <= MAX_NODE_BYTES;
        if !fits {
            self.give_back(bytes);
        }
        fits
    }

    fn give_back(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// An event in the queues of its readers.
pub(super) struct Entry {
    pub(super) event: Event,
    /// Readers that are not done with it, and whoever hands it out.
    num_readers: AtomicU32,
    then: Mutex<Option<Then>>,
}

impl Entry {
    pub(super) fn new(event: Event, then: Option<Then>) -> Self {
        Self {
            event,
            num_readers: AtomicU32::new(1),
            then: Mutex::new(then),
        }
    }

    pub(super) fn add_reader(&self) {
        self.num_readers.fetch_add(1, Ordering::Relaxed);
    }

    /// A reader has it, or will never have it.
    pub(super) fn done(&self) {
        // AcqRel: whoever is last acts after what all the others did.
        if self.num_readers.fetch_sub(1, Ordering::AcqRel) == 1 {
            let then = self.then.lock().take();
            if let Some(then) = then {
                then();
            }
        }
    }
}

/// One observing plugin of an app.
pub(super) struct Post {
    pub(super) app: AppId,
    pub(super) plugin: Arc<str>,
    kinds: AtomicU16,
    waiting: Mutex<Waiting>,
    /// A batch is full.
    pub(super) full: Notify,
    /// It observes no more.
    is_retired: AtomicBool,
}

#[derive(Default)]
struct Waiting {
    entries: VecDeque<Arc<Entry>>,
    /// Of what waits and of the batch that is under way.
    num_bytes: usize,
    /// Somebody delivers, or is about to.
    is_busy: bool,
}

impl Post {
    pub(super) fn new(app: &AppId, observer: &Observer) -> Self {
        Self {
            app: app.clone(),
            plugin: Arc::clone(&observer.plugin),
            kinds: AtomicU16::new(observer.kinds.0),
            waiting: Mutex::default(),
            full: Notify::new(),
            is_retired: AtomicBool::new(false),
        }
    }

    /// Whether it is to be told.
    pub(super) fn wants(&self, kind: EventKind) -> bool {
        Kinds(self.kinds.load(Ordering::Relaxed)).has(kind)
    }

    pub(super) fn set_kinds(&self, kinds: Kinds) {
        self.kinds.store(kinds.0, Ordering::Relaxed);
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.lock().entries.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() >= BATCH
    }

    pub(super) fn is_retired(&self) -> bool {
        self.is_retired.load(Ordering::Relaxed)
    }

    /// Whether there was room.
    pub(super) fn offer(&self, entry: &Arc<Entry>, room: &Room) -> bool {
        let cost = entry.event.cost();
        let limit = if entry.event.kind.is_kept() {
            MAX_KEPT_BYTES
        } else {
            MAX_BYTES
        };
        let mut waiting = self.waiting.lock();
        if self.is_retired() || waiting.num_bytes + cost > limit || !room.take(cost) {
            return false;
        }
        waiting.num_bytes += cost;
        waiting.entries.push_back(Arc::clone(entry));
        let is_full = waiting.entries.len() == BATCH;
        drop(waiting);
        if is_full {
            self.full.notify_one();
        }
        true
    }

    /// Whether somebody has to begin delivering.
    pub(super) fn begin_work(&self) -> bool {
        let mut waiting = self.waiting.lock();
        let begins = !waiting.is_busy && !waiting.entries.is_empty();
        waiting.is_busy |= begins;
        begins
    }

    /// The next batch, of events that plugins caused equally often; `None` ends the work.
    pub(super) fn take(&self) -> Option<Vec<Arc<Entry>>> {
        let mut waiting = self.waiting.lock();
        let Some(first) = waiting.entries.front() else {
            waiting.is_busy = false;
            return None;
        };
        let hops = first.event.hops;
        let alike = waiting.entries.iter().take(BATCH);
        let num = alike.take_while(|entry| entry.event.hops == hops).count();
        Some(waiting.entries.drain(..num).collect())
    }

    /// Ends the work of a task that has fallen; the next event begins it anew.
    pub(super) fn abandon(&self) {
        self.waiting.lock().is_busy = false;
    }

    /// Makes the room of what was taken free again, and ends it for this reader.
    pub(super) fn finish(&self, batch: &[Arc<Entry>], room: &Room) {
        let num_bytes: usize = batch.iter().map(|entry| entry.event.cost()).sum();
        let mut waiting = self.waiting.lock();
        waiting.num_bytes = waiting.num_bytes.saturating_sub(num_bytes);
        drop(waiting);
        room.give_back(num_bytes);
        for entry in batch {
            entry.done();
        }
    }

    /// Takes no more and drops what waits; answers how much that was.
    pub(super) fn retire(&self, room: &Room) -> usize {
        self.is_retired.store(true, Ordering::Relaxed);
        let left: Vec<_> = self.waiting.lock().entries.drain(..).collect();
        self.finish(&left, room);
        left.len()
    }
}
