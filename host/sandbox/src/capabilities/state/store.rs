//! The keys of all plugins on the node: apps, their plugins, and the shards of each plugin's keys.
//!
//! A plugin's keys are spread over shards with a lock each, so that workers rarely meet. Expiry needs no timer: each
//! shard keeps its keys in order of their end; every operation takes a few of those that are over, and a sweep, once
//! a second, the rest. What is over but still there is never seen. Invariants: usage is taken before a key grows and
//! given back when it goes, so the quotas hold at every moment; time only ever comes from the caller, in
//! milliseconds that the nodes of a cluster have in common (`time`). What a node that shares tells others, and what it
//! takes from them, is in `shared`; a node that is alone keeps no account of changes.

mod graves;
mod shard;
mod shared;
#[cfg(test)]
mod tests;
mod time;

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tidegate_realtime::ids::AppId;

#[cfg(test)]
pub(super) use self::shared::Counts;
pub(super) use self::{
    graves::Forgotten,
    shard::{Told, Whose},
    shared::{MAX_SHARES, Place},
};
use self::{
    shard::{Held, Shard},
    shared::Shared,
};
use super::merge::{Counter, Stamp};
use crate::{clock::Clock, limits::StateQuotas};

/// Longest name of a key.
pub(super) const KEY_BYTES: usize = 256;
/// Longest value.
pub(super) const VALUE_BYTES: usize = 64 << 10;
/// Longest time to live: seven days, in milliseconds.
pub(super) const MAX_TTL: u64 = 7 * 24 * 3_600 * 1_000;
/// What a key costs beside its name and its value: two map entries and a shared name.
const KEY_OVERHEAD: usize = 128;
/// The part of an app's bytes that deletions may take which are kept for longer than the least: what a plugin deletes
/// must not cost it the room for what it keeps.
const LONG_GONE_PART: usize = 8;
/// Shards of one plugin; more than any machine we know has workers that meet in one plugin.
const SHARDS: usize = 16;
/// Keys that one operation takes away because they are over. More than one, so that a shard in use shrinks.
const EXPIRE_PER_OPERATION: usize = 4;
/// Keys that an operation takes away before it answers that a quota is used up.
const EXPIRE_FOR_ROOM: usize = 64;
/// Keys that a sweep takes away under one lock.
const EXPIRE_PER_SWEEP: usize = 256;

/// Why an operation was not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("a key has 1 to {KEY_BYTES} bytes")]
    KeyLength,
    #[error("a value has at most {VALUE_BYTES} bytes")]
    ValueLength,
    #[error("a time to live is 1 to {MAX_TTL} ms, which is seven days")]
    TimeToLive,
    #[error("{0}")]
    Quota(Quota),
    #[error("the key holds a counter; delete it first, or use another key")]
    HoldsCounter,
    #[error("the key holds a value; delete it first, or use another key")]
    HoldsValue,
}

/// Which quota is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Quota {
    #[error("the app has as many keys as it may; delete some, or let them expire sooner")]
    AppKeys,
    #[error("the app's keys fill all the memory they may; delete some, or keep smaller values")]
    AppBytes,
    #[error("the keys of all apps fill all the memory of the node that they may; try again later")]
    NodeBytes,
}

impl Quota {
    pub(super) const ALL: [Self; 3] = [Self::AppKeys, Self::AppBytes, Self::NodeBytes];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::AppKeys => "app-keys",
            Self::AppBytes => "app-bytes",
            Self::NodeBytes => "node-bytes",
        }
    }
}

/// All state of the node.
#[derive(Debug)]
pub(crate) struct StateStore {
    shared: Arc<Shared>,
    quotas: StateQuotas,
    /// Of all apps.
    bytes: Arc<AtomicUsize>,
    /// Read when instances are made, swept and counted; never by an operation.
    apps: Mutex<FxHashMap<AppId, App>>,
}

#[derive(Debug)]
struct App {
    usage: Arc<Usage>,
    plugins: FxHashMap<Arc<str>, Arc<PluginState>>,
}

/// What the keys of an app use, over all its plugins.
#[derive(Debug)]
pub(super) struct Usage {
    quotas: StateQuotas,
    keys: AtomicUsize,
    bytes: AtomicUsize,
    of_node: Arc<AtomicUsize>,
    /// Of `bytes`, those of deletions that are kept for long.
    long_gone: AtomicUsize,
    /// Operations refused, by quota.
    refused: [AtomicU64; Quota::ALL.len()],
}

/// The keys of one plugin in one app.
#[derive(Debug)]
pub(crate) struct PluginState {
    pub(super) app: AppId,
    pub(super) plugin: Arc<str>,
    shared: Arc<Shared>,
    /// Itself, to be put among the changed.
    me: Weak<Self>,
    /// It is among the changed.
    has_changes: AtomicBool,
    usage: Arc<Usage>,
    /// Keys come from clients often enough; this hasher cannot be steered by them.
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

/// What an app uses, for metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AppUsage {
    pub(super) app: AppId,
    pub(super) keys: usize,
    pub(super) bytes: usize,
    pub(super) refused: [u64; Quota::ALL.len()],
}

impl StateStore {
    pub(crate) fn new(clock: Clock, quotas: StateQuotas) -> Self {
        Self {
            shared: Arc::new(Shared::new(clock)),
            quotas,
            bytes: Arc::default(),
            apps: Mutex::default(),
        }
    }

    /// The keys of a plugin; made when first asked for.
    pub(crate) fn of(&self, app: &AppId, plugin: &Arc<str>) -> Arc<PluginState> {
        let mut apps = self.apps.lock();
        let id = app;
        let app = apps.entry(id.clone()).or_insert_with(|| App {
            usage: Arc::new(Usage {
                quotas: self.quotas,
                keys: AtomicUsize::new(0),
                bytes: AtomicUsize::new(0),
                of_node: Arc::clone(&self.bytes),
                long_gone: AtomicUsize::new(0),
                refused: Default::default(),
            }),
            plugins: FxHashMap::default(),
        });
        let state = app.plugins.entry(Arc::clone(plugin)).or_insert_with(|| {
            Arc::new_cyclic(|me| PluginState {
                app: id.clone(),
                plugin: Arc::clone(plugin),
                shared: Arc::clone(&self.shared),
                me: Weak::clone(me),
                has_changes: AtomicBool::new(false),
                usage: Arc::clone(&app.usage),
                hasher: RandomState::new(),
                shards: Default::default(),
            })
        });
        Arc::clone(state)
    }

    /// Takes away what is over, and plugins and apps that hold nothing and that nobody runs. No lock is held for
    /// longer than a few hundred keys take.
    pub(crate) fn sweep(&self) {
        self.sweep_at(self.shared.now());
    }

    fn sweep_at(&self, now: u64) {
        let states: Vec<_> = {
            let apps = self.apps.lock();
            let in_use = apps
                .values()
                .filter(|app| app.usage.bytes.load(Ordering::Relaxed) > 0);
            in_use
                .flat_map(|app| app.plugins.values().cloned())
                .collect()
        };
        for state in states {
            state.expire_until(now);
        }
        self.apps.lock().retain(|_, app| {
            app.plugins
                .retain(|_, state| Arc::strong_count(state) > 1 || state.has_keys());
            !app.plugins.is_empty()
        });
    }

    /// Takes away all keys of a plugin that is no more, however long they had left; on the other nodes too.
    pub(crate) fn forget_plugin(&self, app: &AppId, plugin: &str) {
        self.forget(app, Some(plugin));
    }

    /// Takes away all keys of an app that is no more; on the other nodes too.
    pub(crate) fn forget_app(&self, app: &AppId) {
        self.forget(app, None);
    }

    fn forget(&self, app: &AppId, plugin: Option<&str>) {
        self.shared.tell_forgotten(app, plugin);
        for state in self.states_of(app, plugin) {
            state.expire_until(u64::MAX);
        }
    }

    /// The keys of a plugin, or of all plugins of an app, as far as they are here.
    fn states_of(&self, app: &AppId, plugin: Option<&str>) -> Vec<Arc<PluginState>> {
        let apps = self.apps.lock();
        let plugins = apps.get(app).into_iter().flat_map(|app| &app.plugins);
        let is_meant = |name: &str| plugin.is_none_or(|plugin| plugin == name);
        plugins
            .filter(|(name, _)| is_meant(name))
            .map(|(_, state)| Arc::clone(state))
            .collect()
    }

    pub(super) fn usage(&self) -> Vec<AppUsage> {
        let apps = self.apps.lock();
        let mut all: Vec<_> = apps
            .iter()
            .map(|(app, App { usage, .. })| AppUsage {
                app: app.clone(),
                keys: usage.keys.load(Ordering::Relaxed),
                bytes: usage.bytes.load(Ordering::Relaxed),
                refused: usage
                    .refused
                    .each_ref()
                    .map(|one| one.load(Ordering::Relaxed)),
            })
            .collect();
        drop(apps);
        all.sort_by(|a, b| a.app.cmp(&b.app));
        all
    }
}

impl Usage {
    /// Takes room for `keys` more keys and `bytes` more bytes, or nothing at all.
    fn take(&self, keys: usize, bytes: usize) -> Result<(), Quota> {
        let StateQuotas {
            keys_per_app,
            bytes_per_app,
            bytes_in_all,
        } = self.quotas;
        take(&self.keys, keys, keys_per_app).map_err(|()| Quota::AppKeys)?;
        if take(&self.bytes, bytes, bytes_per_app).is_err() {
            self.keys.fetch_sub(keys, Ordering::Relaxed);
            return Err(Quota::AppBytes);
        }
        if take(&self.of_node, bytes, bytes_in_all).is_err() {
            self.keys.fetch_sub(keys, Ordering::Relaxed);
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(Quota::NodeBytes);
        }
        Ok(())
    }

    fn give_back(&self, keys: usize, bytes: usize) {
        self.keys.fetch_sub(keys, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.of_node.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Takes room for a deletion that is kept for long, out of what it has already; whether there was any.
    fn take_long(&self, bytes: usize) -> bool {
        let limit = self.quotas.bytes_per_app / LONG_GONE_PART;
        take(&self.long_gone, bytes, limit).is_ok()
    }

    fn give_back_long(&self, bytes: usize) {
        self.long_gone.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn refuse(&self, quota: Quota) -> Refused {
        let refused = &self.refused[quota as usize];
        refused.fetch_add(1, Ordering::Relaxed);
        Refused::Quota(quota)
    }
}

fn take(used: &AtomicUsize, more: usize, limit: usize) -> Result<(), ()> {
    let taken = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
        used.checked_add(more).filter(|used| *used <= limit)
    });
    taken.map(|_| ()).map_err(|_| ())
}

impl PluginState {
    /// The clock's time, which operations are told.
    pub(super) fn now(&self) -> u64 {
        self.shared.now()
    }

    /// Takes away the keys that end by then, few under each lock.
    fn expire_until(&self, end: u64) {
        for shard in &self.shards {
            while shard.lock().expire(end, EXPIRE_PER_SWEEP, &self.usage) == EXPIRE_PER_SWEEP {}
        }
    }

    fn has_keys(&self) -> bool {
        self.shards.iter().any(|shard| !shard.lock().is_empty())
    }

    /// The shard of a key, rid of some keys that are over.
    fn shard<T>(
        &self,
        key: &str,
        now: u64,
        operation: impl FnOnce(&mut Shard) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        if key.is_empty() || key.len() > KEY_BYTES {
            return Err(Refused::KeyLength);
        }
        let mut shard = self.shards[self.index(key)].lock();
        shard.expire(now, EXPIRE_PER_OPERATION, &self.usage);
        operation(&mut shard)
    }

    fn index(&self, key: &str) -> usize {
        // Of the hash's 64 bits any four serve.
        usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or_default()
    }

    /// The shard of a key for an operation that says whether it changed the key, which others then hear of.
    fn shard_to_change<T>(
        &self,
        key: &str,
        now: u64,
        operation: impl FnOnce(&mut Shard) -> Result<(T, bool), Refused>,
    ) -> Result<T, Refused> {
        let (answer, is_news) = self.shard(key, now, |shard| {
            let (answer, is_changed) = operation(shard)?;
            let is_news = is_changed && self.shared.is_on() && shard.change(key);
            Ok((answer, is_news))
        })?;
        if is_news {
            self.tell();
        }
        Ok(answer)
    }

    pub(super) fn get(&self, key: &str, now: u64) -> Result<Option<Bytes>, Refused> {
        self.shard(key, now, |shard| match shard.get(key, now) {
            None => Ok(None),
            Some(Held::Value { value, .. }) => Ok(Some(value.clone())),
            Some(Held::Counter(_)) => Err(Refused::HoldsCounter),
        })
    }

    pub(super) fn count(&self, key: &str, now: u64) -> Result<i64, Refused> {
        self.shard(key, now, |shard| match shard.get(key, now) {
            None => Ok(0),
            Some(Held::Counter(counter)) => Ok(counter.count(now)),
            Some(Held::Value { .. }) => Err(Refused::HoldsValue),
        })
    }

    pub(super) fn time_left(&self, key: &str, now: u64) -> Result<Option<u64>, Refused> {
        self.shard(key, now, |shard| {
            let end = match shard.get(key, now) {
                Some(Held::Counter(counter)) => counter.life_end(self.shared.origin, now),
                Some(Held::Value { .. }) => shard.end(key),
                None => None,
            };
            Ok(end.map(|end| end.saturating_sub(now)))
        })
    }

    pub(super) fn set(&self, key: &str, value: Bytes, ttl: u64, now: u64) -> Result<(), Refused> {
        let end = end(ttl, now)?;
        check_value(&value)?;
        self.shard_to_change(key, now, |shard| {
            if let Some(Held::Counter(_)) = shard.get(key, now) {
                return Err(Refused::HoldsCounter);
            }
            let held = self.written(shard, key, value, now);
            self.put(shard, key, held, end, now)?;
            Ok(((), true))
        })
    }

    pub(super) fn compare_and_set(
        &self,
        key: &str,
        expected: Option<&[u8]>,
        value: Bytes,
        ttl: u64,
        now: u64,
    ) -> Result<bool, Refused> {
        let end = end(ttl, now)?;
        check_value(&value)?;
        self.shard_to_change(key, now, |shard| {
            let held = match shard.get(key, now) {
                None => None,
                Some(Held::Value { value, .. }) => Some(value.as_ref()),
                Some(Held::Counter(_)) => return Err(Refused::HoldsCounter),
            };
            if held != expected {
                return Ok((false, false));
            }
            let held = self.written(shard, key, value, now);
            self.put(shard, key, held, end, now)?;
            Ok((true, true))
        })
    }

    pub(super) fn delete(&self, key: &str, now: u64) -> Result<bool, Refused> {
        self.shard_to_change(key, now, |shard| {
            let was_there = shard.get(key, now).is_some();
            if was_there && self.shared.is_on() {
                let stamp = self.stamp(shard, key, now);
                if !shard.bury(key, (stamp, 0), now, &self.usage) {
                    self.shared.counts.unkept.fetch_add(1, Ordering::Relaxed);
                }
            } else {
                shard.remove(key, &self.usage);
            }
            Ok((was_there, was_there))
        })
    }

    pub(super) fn increment(&self, key: &str, by: i64, ttl: u64, now: u64) -> Result<i64, Refused> {
        let end = end(ttl, now)?;
        self.shard_to_change(key, now, |shard| match shard.get_mut(key, now) {
            Some(Held::Counter(counter)) => Ok((counter.add(by, self.shared.origin, now), true)),
            Some(Held::Value { .. }) => Err(Refused::HoldsValue),
            None => {
                let counter = Counter::begin(by, now, end, shard.after(key));
                self.put(shard, key, Held::Counter(counter), end, now)?;
                Ok((by, true))
            }
        })
    }

    /// A value that this node writes, after everything that it knows of the key.
    fn written(&self, shard: &Shard, key: &str, value: Bytes, now: u64) -> Held {
        let stamp = self.stamp(shard, key, now);
        Held::Value { value, stamp }
    }

    fn stamp(&self, shard: &Shard, key: &str, now: u64) -> Stamp {
        let after = if self.shared.is_on() {
            shard.after(key)
        } else {
            0
        };
        Stamp {
            at: now.max(after),
            origin: self.shared.origin,
        }
    }

    /// Puts a key in its place. If there is no room, keys that are over make some; if there is none still, nothing
    /// has changed.
    fn put(
        &self,
        shard: &mut Shard,
        key: &str,
        held: Held,
        end: u64,
        now: u64,
    ) -> Result<(), Refused> {
        let Err((_, held)) = shard.put(key, held, end, &self.usage) else {
            return Ok(());
        };
        shard.expire(now, EXPIRE_FOR_ROOM, &self.usage);
        shard
            .put(key, held, end, &self.usage)
            .map_err(|(quota, _)| self.usage.refuse(quota))
    }
}

/// When a key with this time to live is over.
fn end(ttl: u64, now: u64) -> Result<u64, Refused> {
    if (1..=MAX_TTL).contains(&ttl) {
        Ok(now.saturating_add(ttl))
    } else {
        Err(Refused::TimeToLive)
    }
}

fn check_value(value: &Bytes) -> Result<(), Refused> {
    if value.len() > VALUE_BYTES {
        return Err(Refused::ValueLength);
    }
    Ok(())
}
