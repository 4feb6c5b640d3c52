//! What a node that shares its keys tells the others, and what it takes from them.
//!
//! A key that changes is noted once until it is told; what is told is the key as it is then. Quotas hold for what
//! comes from others as for what plugins keep: what finds no room is not kept, and counted. No lock but a shard's is
//! held, and that for a page of keys at most.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use tidegate_realtime::ids::AppId;

use super::{
    super::merge::{Counter, Known, Origin},
    EXPIRE_FOR_ROOM, Forgotten, PluginState, StateStore, Told, Whose,
    graves::Graves,
    shard::{Held, Shard},
    time::CommonTime,
};
use crate::clock::Clock;

/// Keys that are told of under one lock.
const PAGE: usize = 64;

/// Bytes after which no more keys are told of under one lock.
const PAGE_BYTES: usize = 16 << 10;

/// Nodes whose shares of one counter are kept; more is somebody who makes them up.
pub(in super::super) const MAX_SHARES: usize = 1_000;

/// What all plugins' keys have in common with those of other nodes.
#[derive(Debug)]
pub(in super::super) struct Shared {
    time: CommonTime,
    pub(in super::super) origin: Origin,
    /// Set once there are other nodes to tell.
    is_on: AtomicBool,
    /// Plugins with keys that the others are to be told of.
    changed: Mutex<Vec<Arc<PluginState>>>,
    /// Plugins, or all of an app, that were deleted here and that the others are to be told of.
    forgotten: Mutex<Vec<Forgotten>>,
    /// What was deleted on any node.
    graves: Mutex<Graves>,
    pub(in super::super) counts: Counts,
}

/// What came of sharing, for metrics.
#[derive(Debug, Default)]
pub(in super::super) struct Counts {
    pub(in super::super) sent_keys: AtomicU64,
    pub(in super::super) received_keys: AtomicU64,
    /// Keys that had to wait for the next turn, at each turn.
    pub(in super::super) deferred_keys: AtomicU64,
    /// Keys of others, and deletions, that there was no room for.
    pub(in super::super) unkept: AtomicU64,
    /// Messages that were not understood or not believed.
    pub(in super::super) bad_messages: AtomicU64,
    /// Messages that could not be sent, or that came faster than they were merged.
    pub(in super::super) lost_messages: AtomicU64,
    /// Times that another node was asked for what did not arrive.
    pub(in super::super) pulls: AtomicU64,
}

/// Where a reader of all keys of a plugin is.
#[derive(Debug, Default)]
pub(in super::super) struct Place {
    shard: usize,
    after: Option<(u64, Arc<str>)>,
    has_deletions: bool,
}

impl Shared {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            time: CommonTime::new(clock),
            origin: Origin(rand::random()),
            is_on: AtomicBool::new(false),
            changed: Mutex::default(),
            forgotten: Mutex::default(),
            graves: Mutex::default(),
            counts: Counts::default(),
        }
    }

    pub(in super::super) fn now(&self) -> u64 {
        self.time.now()
    }

    /// Follows another node's time; whether it can be believed.
    pub(in super::super) fn follow(&self, theirs: u64) -> bool {
        self.time.follow(theirs)
    }

    pub(super) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// Notes that a plugin, or an app, is no more.
    pub(super) fn tell_forgotten(&self, app: &AppId, plugin: Option<&str>) {
        if self.is_on() {
            let forgotten = Forgotten {
                app: app.clone(),
                plugin: plugin.map(Arc::from),
                at: self.now(),
            };
            self.graves.lock().dig(&forgotten, forgotten.at);
            self.forgotten.lock().push(forgotten);
        }
    }

    /// What was deleted here since this was asked last.
    pub(in super::super) fn take_forgotten(&self) -> Vec<Forgotten> {
        mem::take(&mut *self.forgotten.lock())
    }

    /// What is known to have been deleted, on any node.
    pub(in super::super) fn all_forgotten(&self) -> Vec<Forgotten> {
        self.graves.lock().all()
    }

    /// The plugins that have changed since this was asked last.
    pub(in super::super) fn take_changed(&self) -> Vec<Arc<PluginState>> {
        mem::take(&mut *self.changed.lock())
    }
}

impl StateStore {
    pub(in super::super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Keeps account of changes from now on.
    pub(in super::super) fn share(&self) {
        self.shared.is_on.store(true, Ordering::Relaxed);
    }

    /// The keys of all plugins.
    pub(in super::super) fn all(&self) -> Vec<Arc<PluginState>> {
        let apps = self.apps.lock();
        apps.values()
            .flat_map(|app| app.plugins.values().cloned())
            .collect()
    }

    /// Takes in what another node knows of a plugin's keys.
    pub(in super::super) fn merge(&self, app: &AppId, plugin: &Arc<str>, told: Vec<Told>) {
        let counts = &self.shared.counts;
        counts
            .received_keys
            .fetch_add(told.len() as u64, Ordering::Relaxed);
        let forgotten_until = self.shared.graves.lock().of(app, Some(plugin));
        let (state, now) = (self.of(app, plugin), self.shared.now());
        for mut told in told {
            if forgotten_until > 0 && !told.is_later(forgotten_until) {
                continue;
            }
            if !state.merge(told, now) {
                counts.unkept.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Takes in that a plugin, or an app, was deleted elsewhere: what was written until then is taken away here.
    pub(in super::super) fn take_away(&self, forgotten: &Forgotten) {
        if !self.shared.graves.lock().dig(forgotten, self.shared.now()) {
            return;
        }
        let Forgotten { app, plugin, at } = forgotten;
        for state in self.states_of(app, plugin.as_deref()) {
            for shard in &state.shards {
                shard.lock().forget_until(*at, &state.usage);
            }
        }
    }
}

impl Told {
    /// Takes out what was written until then; whether anything is left.
    fn is_later(&mut self, at: u64) -> bool {
        match &mut self.known {
            Known::Value { stamp, .. } | Known::Gone(stamp) => stamp.at > at,
            Known::Counter(counter) => counter.begin_at(at.saturating_add(1)),
        }
    }
}

impl PluginState {
    /// Puts the plugin among the changed.
    pub(super) fn tell(&self) {
        if !self.has_changes.swap(true, Ordering::AcqRel)
            && let Some(me) = self.me.upgrade()
        {
            self.shared.changed.lock().push(me);
        }
    }

    /// Takes changed keys for a batch, until `room` says that there is none left. Answers whether there are more.
    pub(in super::super) fn take_changes(
        &self,
        batch: u64,
        mut room: impl FnMut(Told) -> bool,
    ) -> bool {
        // Before the keys are looked at: who changes one from now on puts the plugin among the changed again. Pairs
        // with the swap in `tell`.
        self.has_changes.store(false, Ordering::Release);
        let mut has_room = true;
        for shard in &self.shards {
            while has_room {
                let told = next_changed(&mut shard.lock(), batch, self.shared.origin);
                if told.is_empty() {
                    break;
                }
                self.shared
                    .counts
                    .sent_keys
                    .fetch_add(told.len() as u64, Ordering::Relaxed);
                for told in told {
                    has_room &= room(told);
                }
            }
        }
        if has_room {
            return false;
        }
        let num_left: usize = self
            .shards
            .iter()
            .map(|shard| shard.lock().num_changed())
            .sum();
        // Whoever changed a key meanwhile has put the plugin among the changed already.
        num_left > 0 && !self.has_changes.swap(true, Ordering::AcqRel)
    }

    /// How many changed keys wait to be told.
    pub(in super::super) fn num_changed(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.lock().num_changed())
            .sum()
    }

    /// The next keys to be told; `None` at the end.
    pub(in super::super) fn page(&self, place: &mut Place, whose: Whose) -> Option<Vec<Told>> {
        let shard = self.shards.get(place.shard)?.lock();
        if !mem::replace(&mut place.has_deletions, true) {
            return Some(shard.deletions(whose));
        }
        let (told, next) = shard.page(place.after.take(), PAGE, whose, self.shared.origin);
        drop(shard);
        if next.is_none() {
            *place = Place {
                shard: place.shard + 1,
                ..Place::default()
            };
        } else {
            place.after = next;
        }
        Some(told)
    }

    /// Takes in what another node knows of a key; whether there was room for it.
    fn merge(&self, told: Told, now: u64) -> bool {
        let Told {
            key,
            known: theirs,
            until,
        } = told;
        let key = &*key;
        let own = self.shared.origin;
        // A value whose time is over is one that is not there.
        let theirs = match theirs {
            Known::Value { stamp, end, .. } if end <= now => Known::Gone(stamp),
            Known::Counter(mut counter) => {
                counter.expire(now);
                Known::Counter(counter)
            }
            theirs => theirs,
        };
        let (is_kept, is_news) = {
            let mut shard = self.shards[self.index(key)].lock();
            shard.expire(now, super::EXPIRE_PER_OPERATION, &self.usage);
            let mine = match shard.known(key) {
                Some(Known::Value { stamp, end, .. }) if end <= now => Some(Known::Gone(stamp)),
                Some(Known::Counter(counter)) if counter.end() <= now => None,
                mine => mine,
            };
            let before = mine.clone();
            let mine = mine.unwrap_or_else(|| Known::Counter(Counter::default()));
            let merged = mine.merge(theirs, own);
            if before.as_ref() == Some(&merged) {
                // Of two that know of a deletion one may know for how long it matters.
                shard.prolong(key, until, &self.usage);
                return true;
            }
            self.put_merged(&mut shard, key, (merged, until), now)
        };
        if is_news {
            self.tell();
        }
        is_kept
    }

    /// Puts what came of a merge in its place. Answers whether there was room, and whether there is something to tell
    /// the others.
    fn put_merged(
        &self,
        shard: &mut Shard,
        key: &str,
        (merged, until): (Known, u64),
        now: u64,
    ) -> (bool, bool) {
        let own = self.shared.origin;
        let (held, end, is_changed) = match merged {
            Known::Gone(stamp) => {
                return (shard.bury(key, (stamp, until), now, &self.usage), false);
            }
            Known::Value { stamp, value, end } => (Held::Value { value, stamp }, end, false),
            Known::Counter(mut counter) => {
                let is_changed = counter.take_end(own, now);
                counter.expire(now);
                let end = counter.end();
                if end <= now {
                    return (true, false);
                }
                if counter.others.len() > MAX_SHARES {
                    return (false, false);
                }
                (Held::Counter(counter), end, is_changed)
            }
        };
        let is_kept = shard.put(key, held, end, &self.usage).or_else(|(_, held)| {
            shard.expire(now, EXPIRE_FOR_ROOM, &self.usage);
            shard.put(key, held, end, &self.usage)
        });
        let is_kept = is_kept.is_ok();
        (is_kept, is_kept && is_changed && shard.change(key))
    }
}

/// The next changed keys of a shard: a page of them, or what has half of a message's bytes.
fn next_changed(shard: &mut Shard, batch: u64, own: Origin) -> Vec<Told> {
    let (mut page, mut num_bytes) = (Vec::new(), 0);
    while page.len() < PAGE && num_bytes < PAGE_BYTES {
        let Some(told) = shard.next_changed(batch, own) else {
            break;
        };
        num_bytes += told.num_bytes();
        page.push(told);
    }
    page
}
