//! The store of a node that stands alone: in its memory, gone with it.
//!
//! One lock for each owner's keys. Expiry needs no timer: keys lie in the order of their ends, every change takes a
//! few of those that are over, and a sweep the rest. Invariant: room is taken before a key grows and given back when
//! it goes, by drop where an owner goes as a whole.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    COUNTER_BYTES, KEY_OVERHEAD, Life, Owner, Store, StoreError, StoreKey, StoreQuota, StoreQuotas,
    StoreValue, Stored, Swap,
};
use crate::hooks::Progress;

/// Bytes that the keys of all plugins may fill: eight plugins that use all they may.
pub const DEFAULT_BYTES_IN_ALL: usize = 256 << 20;

/// Keys that a change takes away because they are over. More than one, so that what is in use shrinks.
const EXPIRE_PER_CHANGE: usize = 4;
/// Keys that a change takes away before it answers that a quota is used up.
const EXPIRE_FOR_ROOM: usize = 64;
/// Keys that a sweep takes away under one lock.
const EXPIRE_PER_SWEEP: usize = 256;

/// The store in memory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Lives are counted from here.
    origin: Instant,
    quotas: StoreQuotas,
    room: Arc<Room>,
    /// Locked before the keys of an owner, and never while those are.
    owners: Mutex<HashMap<Owner, Arc<Mutex<Keys>>>>,
}

/// Of all owners.
#[derive(Debug)]
struct Room {
    used: AtomicUsize,
    limit: usize,
}

impl Room {
    fn take(&self, more: usize) -> bool {
        let taken = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(more).filter(|used| *used <= self.limit)
            });
        taken.is_ok()
    }

    fn give_back(&self, less: usize) {
        self.used.fetch_sub(less, Ordering::Relaxed);
    }
}

/// The keys of one owner.
#[derive(Debug)]
struct Keys {
    held: HashMap<Arc<str>, Entry>,
    /// Those that end, by their end.
    ends: BTreeSet<(u64, Arc<str>)>,
    /// What they cost.
    bytes: usize,
    room: Arc<Room>,
}

#[derive(Debug)]
struct Entry {
    held: Held,
    /// `None` for never.
    end: Option<u64>,
}

#[derive(Debug)]
enum Held {
    Value(Bytes),
    Counter(i64),
}

impl Held {
    fn cost(&self, key: &str) -> usize {
        let held = match self {
            Self::Value(value) => value.len(),
            Self::Counter(_) => COUNTER_BYTES,
        };
        KEY_OVERHEAD + key.len() + held
    }
}

impl MemoryStore {
    /// `bytes_in_all` is what the keys of all owners may cost together.
    pub fn new(quotas: StoreQuotas, bytes_in_all: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                origin: Instant::now(),
                quotas,
                room: Arc::new(Room {
                    used: AtomicUsize::new(0),
                    limit: bytes_in_all,
                }),
                owners: Mutex::default(),
            }),
        }
    }

    fn now(&self) -> u64 {
        let millis = self.shared.origin.elapsed().as_millis();
        u64::try_from(millis).unwrap_or(u64::MAX)
    }

    fn end(life: Life, now: u64) -> Option<u64> {
        match life {
            Life::Endless => None,
            Life::Millis(millis) => Some(now.saturating_add(millis)),
        }
    }

    /// Looks at the keys of an owner who has some.
    fn look<T: Default>(
        &self,
        owner: &Owner,
        look: impl FnOnce(&Keys, u64) -> Result<T, StoreError>,
    ) -> Stored<T> {
        let keys = self.shared.owners.lock().get(owner).map(Arc::clone);
        Progress::Ready(match keys {
            Some(keys) => look(&keys.lock(), self.now()),
            None => Ok(T::default()),
        })
    }

    /// Changes the keys of an owner, rid of some that are over.
    fn change<T>(
        &self,
        owner: &Owner,
        change: impl FnOnce(&mut Keys, u64) -> Result<T, StoreError>,
    ) -> Stored<T> {
        let keys = {
            let mut owners = self.shared.owners.lock();
            let keys = owners.entry(owner.clone()).or_insert_with(|| {
                Arc::new(Mutex::new(Keys {
                    held: HashMap::new(),
                    ends: BTreeSet::new(),
                    bytes: 0,
                    room: Arc::clone(&self.shared.room),
                }))
            });
            Arc::clone(keys)
        };
        let now = self.now();
        let mut keys = keys.lock();
        keys.expire(now, EXPIRE_PER_CHANGE);
        Progress::Ready(change(&mut keys, now))
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(StoreQuotas::default(), DEFAULT_BYTES_IN_ALL)
    }
}

impl Keys {
    /// What the key holds, unless it is over.
    fn find(&self, key: &StoreKey, now: u64) -> Option<&Held> {
        let entry = self.held.get(key.as_str())?;
        let is_over = entry.end.is_some_and(|end| end <= now);
        (!is_over).then_some(&entry.held)
    }

    fn value(&self, key: &StoreKey, now: u64) -> Result<Option<&Bytes>, StoreError> {
        match self.find(key, now) {
            None => Ok(None),
            Some(Held::Value(value)) => Ok(Some(value)),
            Some(Held::Counter(_)) => Err(StoreError::HoldsCounter),
        }
    }

    fn counter(&self, key: &StoreKey, now: u64) -> Result<Option<i64>, StoreError> {
        match self.find(key, now) {
            None => Ok(None),
            Some(Held::Counter(count)) => Ok(Some(*count)),
            Some(Held::Value(_)) => Err(StoreError::HoldsValue),
        }
    }

    fn remove(&mut self, key: &str) {
        let Some((name, Entry { held, end })) = self.held.remove_entry(key) else {
            return;
        };
        let cost = held.cost(key);
        self.bytes -= cost;
        self.room.give_back(cost);
        if let Some(end) = end {
            self.ends.remove(&(end, name));
        }
    }

    /// Takes some of those away that are over; how many.
    fn expire(&mut self, now: u64, most: usize) -> usize {
        for count in 0..most {
            match self.ends.first() {
                Some((end, key)) if *end <= now => {
                    let key = Arc::clone(key);
                    self.remove(&key);
                }
                Some(_) | None => return count,
            }
        }
        most
    }

    /// Puts a key in its place. If there is no room, keys that are over make some; if there is none still, nothing
    /// has changed.
    fn put(
        &mut self,
        key: &StoreKey,
        held: Held,
        end: Option<u64>,
        (quotas, now): (StoreQuotas, u64),
    ) -> Result<(), StoreError> {
        let cost = held.cost(key.as_str());
        if let Err(quota) = self.take_room(key, cost, quotas) {
            if self.expire(now, EXPIRE_FOR_ROOM) == 0 {
                return Err(StoreError::Quota(quota));
            }
            self.take_room(key, cost, quotas)
                .map_err(StoreError::Quota)?;
        }
        // What it grew by was taken; the rest is that of the one before, which goes with it.
        let freed = self.cost_of(key.as_str());
        self.room.used.fetch_add(cost.min(freed), Ordering::Relaxed);
        self.bytes += cost;
        self.remove(key.as_str());
        let name: Arc<str> = key.as_str().into();
        if let Some(end) = end {
            self.ends.insert((end, Arc::clone(&name)));
        }
        self.held.insert(name, Entry { held, end });
        Ok(())
    }

    /// What the key costs now.
    fn cost_of(&self, key: &str) -> usize {
        self.held.get(key).map_or(0, |entry| entry.held.cost(key))
    }

    /// Takes room of the node for what the key grows by, if the quotas will hold.
    fn take_room(
        &self,
        key: &StoreKey,
        cost: usize,
        quotas: StoreQuotas,
    ) -> Result<(), StoreQuota> {
        let freed = self.cost_of(key.as_str());
        if freed == 0 && self.held.len() >= quotas.keys {
            return Err(StoreQuota::Keys);
        }
        if self.bytes - freed + cost > quotas.bytes {
            return Err(StoreQuota::Bytes);
        }
        if self.room.take(cost.saturating_sub(freed)) {
            Ok(())
        } else {
            Err(StoreQuota::Node)
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.room.give_back(self.bytes);
    }
}

impl Store for MemoryStore {
    fn get(&self, owner: &Owner, key: &StoreKey) -> Stored<Option<Bytes>> {
        self.look(owner, |keys, now| Ok(keys.value(key, now)?.cloned()))
    }

    fn set(&self, owner: &Owner, key: &StoreKey, value: StoreValue, life: Life) -> Stored<()> {
        let quotas = self.shared.quotas;
        self.change(owner, |keys, now| {
            keys.value(key, now)?;
            let held = Held::Value(value.into_bytes());
            keys.put(key, held, Self::end(life, now), (quotas, now))
        })
    }

    fn compare_and_set(&self, owner: &Owner, key: &StoreKey, swap: Swap) -> Stored<bool> {
        let quotas = self.shared.quotas;
        self.change(owner, |keys, now| {
            let Swap {
                expected,
                value,
                life,
            } = swap;
            if keys.value(key, now)? != expected.map(StoreValue::into_bytes).as_ref() {
                return Ok(false);
            }
            let held = Held::Value(value.into_bytes());
            keys.put(key, held, Self::end(life, now), (quotas, now))?;
            Ok(true)
        })
    }

    fn increment(&self, owner: &Owner, key: &StoreKey, by: i64, life: Life) -> Stored<i64> {
        let quotas = self.shared.quotas;
        self.change(owner, |keys, now| {
            let Some(count) = keys.counter(key, now)? else {
                keys.put(key, Held::Counter(by), Self::end(life, now), (quotas, now))?;
                return Ok(by);
            };
            let count = count.saturating_add(by);
            if let Some(entry) = keys.held.get_mut(key.as_str()) {
                entry.held = Held::Counter(count);
            }
            Ok(count)
        })
    }

    fn count(&self, owner: &Owner, key: &StoreKey) -> Stored<i64> {
        self.look(owner, |keys, now| {
            Ok(keys.counter(key, now)?.unwrap_or_default())
        })
    }

    fn delete(&self, owner: &Owner, key: &StoreKey) -> Stored<bool> {
        self.change(owner, |keys, now| {
            let was_there = keys.find(key, now).is_some();
            keys.remove(key.as_str());
            Ok(was_there)
        })
    }

    fn forget(&self, owner: &Owner) -> Stored<()> {
        let keys = self.shared.owners.lock().remove(owner);
        // Dropped outside of the lock: it may be a hundred thousand keys.
        drop(keys);
        Progress::Ready(Ok(()))
    }

    fn sweep(&self) {
        let now = self.now();
        let all: Vec<_> = self.shared.owners.lock().values().cloned().collect();
        for keys in all {
            while keys.lock().expire(now, EXPIRE_PER_SWEEP) == EXPIRE_PER_SWEEP {}
        }
        // Nobody else can come to have it while the owners are locked.
        self.shared
            .owners
            .lock()
            .retain(|_, keys| Arc::strong_count(keys) > 1 || !keys.lock().held.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{ids::AppId, store::contract};

    fn owner(plugin: &str) -> Owner {
        Owner::new(&AppId::default_app(), plugin)
    }

    fn key(text: &str) -> StoreKey {
        StoreKey::parse(text).unwrap()
    }

    async fn set(
        store: &MemoryStore,
        owner: &Owner,
        name: &str,
        life: Life,
    ) -> Result<(), StoreError> {
        let value = StoreValue::parse("value").unwrap();
        store.set(owner, &key(name), value, life).wait().await
    }

    #[tokio::test(start_paused = true)]
    async fn the_store_in_memory_keeps_the_contract() {
        let store = MemoryStore::new(contract::QUOTAS, DEFAULT_BYTES_IN_ALL);
        contract::check_all(&store, Duration::from_secs(1), "memory").await;
        store.sweep();
        assert_eq!(store.shared.room.used.load(Ordering::Relaxed), 0);
        assert!(store.shared.owners.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_node_refuses_more_until_something_goes() {
        let room = 2 * (KEY_OVERHEAD + 6);
        let store = MemoryStore::new(StoreQuotas::default(), room);
        let (one, two) = (owner("one"), owner("two"));
        set(&store, &one, "k", Life::Endless).await.unwrap();
        let short = Life::Millis(10);
        set(&store, &two, "k", short).await.unwrap();
        let refused = set(&store, &two, "l", short).await;
        assert_eq!(refused, Err(StoreError::Quota(StoreQuota::Node)));
        tokio::time::advance(Duration::from_millis(10)).await;
        set(&store, &two, "l", short).await.unwrap();
        store.forget(&one).wait().await.unwrap();
        set(&store, &two, "m", short).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_sweep_gives_back_what_nobody_asks_for() {
        let store = MemoryStore::default();
        for number in 0..1_000 {
            let name = number.to_string();
            set(&store, &owner("one"), &name, Life::Millis(5))
                .await
                .unwrap();
        }
        tokio::time::advance(Duration::from_millis(5)).await;
        store.sweep();
        assert_eq!(store.shared.room.used.load(Ordering::Relaxed), 0);
        assert!(store.shared.owners.lock().is_empty());
    }
}
