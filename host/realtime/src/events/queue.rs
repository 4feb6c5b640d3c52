//! The queue of one observing plugin: what waits, within bounds, and what goes into the next batch.
//!
//! Pure but for a lock: no clock, no task. A queue takes news up to one bound and what must not be lost up to a higher
//! one, so that a flood of news never costs anybody the word that somebody left. Of the words on whether a user is
//! online only the last one waits. Invariant: what an app's plugins leave lying costs no other app, and no other plugin
//! of the app, the room that a plugin needs which takes what it is handed.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicUsize, Ordering},
    },
};

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Event, EventKind, Kinds, Observer, Then, delivery::BATCH};
use crate::ids::AppId;

/// Bytes of events that wait for one plugin beyond which news is dropped: some twenty thousand events.
pub const MAX_BYTES: usize = 4 * 1024 * 1024;

/// The same for what is kept: all sessions of a large node may end at once.
pub const MAX_KEPT_BYTES: usize = 32 * 1024 * 1024;

/// Bytes of events that wait on the node, for all plugins of all apps.
pub const MAX_NODE_BYTES: usize = 128 * 1024 * 1024;

/// An app's share of them.
pub const MAX_APP_BYTES: usize = MAX_NODE_BYTES / 4;

/// Bytes that each plugin has whatever waits for others: some two thousand events, which is more than the time of a
/// call brings.
pub const OWN_BYTES: usize = 512 * 1024;

/// Places of words that were taken back, beyond which a queue closes its ranks.
const MAX_HOLES: usize = 1_024;

/// What the queues of an app take, and those of the node.
#[derive(Debug)]
pub(super) struct Room {
    of_node: Arc<AtomicUsize>,
    of_app: AtomicUsize,
}

impl Room {
    pub(super) fn new(of_node: &Arc<AtomicUsize>) -> Self {
        Self {
            of_node: Arc::clone(of_node),
            of_app: AtomicUsize::new(0),
        }
    }

    fn take(&self, bytes: usize, is_own: bool) -> bool {
        // Relaxed: counters. Two that meet at a bound may both be refused.
        let of_app = self.of_app.fetch_add(bytes, Ordering::Relaxed);
        let of_node = self.of_node.fetch_add(bytes, Ordering::Relaxed);
        let fits = of_app.saturating_add(bytes) <= MAX_APP_BYTES
            && of_node.saturating_add(bytes) <= MAX_NODE_BYTES;
        if !fits && !is_own {
            self.give_back(bytes);
        }
        fits || is_own
    }

    fn give_back(&self, bytes: usize) {
        self.of_app.fetch_sub(bytes, Ordering::Relaxed);
        self.of_node.fetch_sub(bytes, Ordering::Relaxed);
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

    /// A reader will not have it who should: what is to be done when all have it is not done.
    pub(super) fn forsake(&self) {
        // Dropped when the lock is not held any more: whoever made it may act on that.
        let then = self.then.lock().take();
        drop(then);
    }
}

/// What became of an event that was offered.
pub(super) enum Offered {
    /// It waits; an earlier word about its user does not any more, if there was one.
    Taken {
        in_place_of: Option<Arc<Entry>>,
    },
    NoRoom {
        in_place_of: Option<Arc<Entry>>,
    },
    /// The plugin observes no more.
    Retired,
}

/// One observing plugin of an app.
pub(super) struct Post {
    pub(super) app: AppId,
    pub(super) plugin: Arc<str>,
    kinds: AtomicU16,
    waiting: Mutex<Waiting>,
    room: Arc<Room>,
    /// A batch is full.
    pub(super) full: Notify,
    /// It observes no more.
    is_retired: AtomicBool,
}

#[derive(Default)]
struct Waiting {
    /// In the order of offering; `None` where a word was taken back.
    places: VecDeque<Option<Arc<Entry>>>,
    /// Of the places that are not empty.
    num_entries: usize,
    /// The number of the first place; the others follow it.
    first: u64,
    /// Where the word about a user waits.
    statuses: HashMap<Arc<str>, u64>,
    /// Of what waits and of the batch that is under way.
    num_bytes: usize,
    /// Somebody delivers, or is about to.
    is_busy: bool,
}

impl Waiting {
    fn push(&mut self, entry: &Arc<Entry>) {
        if entry.event.kind.is_status() {
            let place = self.first + self.places.len() as u64;
            self.statuses.insert(Arc::clone(&entry.event.user), place);
        }
        self.places.push_back(Some(Arc::clone(entry)));
        self.num_entries += 1;
    }

    /// Takes back the word about a user that waits.
    fn take_back(&mut self, user: &str) -> Option<Arc<Entry>> {
        let place = self.statuses.remove(user)?;
        let index = usize::try_from(place.checked_sub(self.first)?).ok()?;
        let entry = self.places.get_mut(index)?.take()?;
        self.num_entries -= 1;
        if self.places.len() > self.num_entries + MAX_HOLES.max(self.num_entries) {
            self.close_ranks();
        }
        Some(entry)
    }

    fn close_ranks(&mut self) {
        let places = std::mem::take(&mut self.places);
        self.statuses.clear();
        self.num_entries = 0;
        for entry in places.into_iter().flatten() {
            self.push(&entry);
        }
    }

    /// The next entry, if it fits beside those before it.
    fn pop(&mut self, fits: impl Fn(&Event) -> bool) -> Option<Arc<Entry>> {
        loop {
            if let Some(entry) = self.places.front()?
                && !fits(&entry.event)
            {
                return None;
            }
            let place = self.first;
            self.first += 1;
            if let Some(entry) = self.places.pop_front()? {
                self.num_entries -= 1;
                let user = &*entry.event.user;
                if entry.event.kind.is_status() && self.statuses.get(user) == Some(&place) {
                    self.statuses.remove(user);
                }
                return Some(entry);
            }
        }
    }
}

impl Post {
    pub(super) fn new(app: &AppId, observer: &Observer, room: &Arc<Room>) -> Self {
        Self {
            app: app.clone(),
            plugin: Arc::clone(&observer.plugin),
            kinds: AtomicU16::new(observer.kinds.0),
            waiting: Mutex::default(),
            room: Arc::clone(room),
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
        self.waiting.lock().num_entries
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() >= BATCH
    }

    pub(super) fn is_retired(&self) -> bool {
        self.is_retired.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(super) fn num_places(&self) -> usize {
        self.waiting.lock().places.len()
    }

    /// Puts an event behind the others. What it takes the place of is for the caller to finish.
    pub(super) fn offer(&self, entry: &Arc<Entry>) -> Offered {
        let cost = entry.event.cost();
        let limit = if entry.event.kind.is_kept() {
            MAX_KEPT_BYTES
        } else {
            MAX_BYTES
        };
        let mut waiting = self.waiting.lock();
        if self.is_retired() {
            return Offered::Retired;
        }
        let in_place_of = if entry.event.kind.is_status() {
            waiting.take_back(&entry.event.user)
        } else {
            None
        };
        // What is taken back has its room until it is finished.
        let given = in_place_of.as_ref().map_or(0, |entry| entry.event.cost());
        let after = (waiting.num_bytes + cost).saturating_sub(given);
        if after > limit || !self.room.take(cost, after <= OWN_BYTES) {
            return Offered::NoRoom { in_place_of };
        }
        waiting.num_bytes += cost;
        waiting.push(entry);
        let is_full = waiting.num_entries == BATCH;
        drop(waiting);
        if is_full {
            self.full.notify_one();
        }
        Offered::Taken { in_place_of }
    }

    /// Whether somebody has to begin delivering.
    pub(super) fn begin_work(&self) -> bool {
        let mut waiting = self.waiting.lock();
        let begins = !waiting.is_busy && waiting.num_entries > 0;
        waiting.is_busy |= begins;
        begins
    }

    /// The next batch, of events that plugins caused equally often; `None` ends the work.
    pub(super) fn take(&self) -> Option<Vec<Arc<Entry>>> {
        let mut waiting = self.waiting.lock();
        let Some(first) = waiting.pop(|_| true) else {
            waiting.is_busy = false;
            return None;
        };
        let hops = first.event.hops;
        let mut batch = vec![first];
        while batch.len() < BATCH
            && let Some(entry) = waiting.pop(|event| event.hops == hops)
        {
            batch.push(entry);
        }
        Some(batch)
    }

    /// Ends the work of a task that has fallen; whether somebody has to begin it anew.
    pub(super) fn abandon(&self) -> bool {
        self.waiting.lock().is_busy = false;
        self.begin_work()
    }

    /// Makes the room of what was taken free again, and ends it for this reader.
    pub(super) fn finish(&self, batch: &[Arc<Entry>]) {
        let num_bytes: usize = batch.iter().map(|entry| entry.event.cost()).sum();
        let mut waiting = self.waiting.lock();
        waiting.num_bytes = waiting.num_bytes.saturating_sub(num_bytes);
        drop(waiting);
        self.room.give_back(num_bytes);
        for entry in batch {
            entry.done();
        }
    }

    /// Takes no more, and answers what waited; to be finished.
    pub(super) fn retire(&self) -> Vec<Arc<Entry>> {
        let mut waiting = self.waiting.lock();
        self.is_retired.store(true, Ordering::Relaxed);
        waiting.statuses.clear();
        waiting.num_entries = 0;
        waiting.places.drain(..).flatten().collect()
    }
}
