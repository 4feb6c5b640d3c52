//! A share of one plugin's keys, under one lock: the keys, and the same keys in order of their end.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use bytes::Bytes;

use super::{KEY_OVERHEAD, Quota, Usage};

/// What a key holds.
#[derive(Debug)]
pub(super) enum Held {
    Value(Bytes),
    Counter(i64),
}

impl Held {
    fn len(&self) -> usize {
        match self {
            Self::Value(value) => value.len(),
            Self::Counter(_) => size_of::<i64>(),
        }
    }
}

#[derive(Debug)]
struct Entry {
    held: Held,
    end: u64,
}

#[derive(Debug, Default)]
pub(super) struct Shard {
    entries: HashMap<Arc<str>, Entry>,
    /// One for each entry. The soonest end is first.
    ends: BTreeSet<(u64, Arc<str>)>,
}

fn size(key: &str, held: &Held) -> usize {
    KEY_OVERHEAD + key.len() + held.len()
}

impl Shard {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What the keys use, counted anew.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let entries = self.entries.iter();
        entries.map(|(key, entry)| size(key, &entry.held)).sum()
    }

    pub(super) fn get(&self, key: &str, now: u64) -> Option<&Held> {
        let entry = self.entries.get(key)?;
        (entry.end > now).then_some(&entry.held)
    }

    pub(super) fn get_mut(&mut self, key: &str, now: u64) -> Option<&mut Held> {
        let entry = self.entries.get_mut(key)?;
        (entry.end > now).then_some(&mut entry.held)
    }

    pub(super) fn end(&self, key: &str) -> Option<u64> {
        self.entries.get(key).map(|entry| entry.end)
    }

    /// Puts a key in the place of what is there.
    ///
    /// # Errors
    /// What there is no room for comes back, and nothing has changed.
    pub(super) fn put(
        &mut self,
        key: &str,
        held: Held,
        end: u64,
        usage: &Usage,
    ) -> Result<(), (Quota, Held)> {
        let new = size(key, &held);
        let Some((name, _)) = self.entries.get_key_value(key) else {
            if let Err(quota) = usage.take(1, new) {
                return Err((quota, held));
            }
            let name: Arc<str> = key.into();
            self.ends.insert((end, Arc::clone(&name)));
            self.entries.insert(name, Entry { held, end });
            return Ok(());
        };
        let name = Arc::clone(name);
        let Some(entry) = self.entries.get_mut(&name) else {
            return Ok(());
        };
        let old = size(key, &entry.held);
        if let Err(quota) = usage.take(0, new.saturating_sub(old)) {
            return Err((quota, held));
        }
        usage.give_back(0, old.saturating_sub(new));
        entry.held = held;
        if entry.end != end {
            let before = std::mem::replace(&mut entry.end, end);
            self.ends.remove(&(before, Arc::clone(&name)));
            self.ends.insert((end, name));
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, key: &str, usage: &Usage) {
        let Some((name, entry)) = self.entries.remove_entry(key) else {
            return;
        };
        usage.give_back(1, size(key, &entry.held));
        self.ends.remove(&(entry.end, name));
    }

    /// Takes away at most so many keys that are over, and answers how many.
    pub(super) fn expire(&mut self, now: u64, at_most: usize, usage: &Usage) -> usize {
        for expired in 0..at_most {
            let Some((end, _)) = self.ends.first() else {
                return expired;
            };
            if *end > now {
                return expired;
            }
            let Some((_, name)) = self.ends.pop_first() else {
                return expired;
            };
            if let Some(entry) = self.entries.remove(&name) {
                usage.give_back(1, size(&name, &entry.held));
            }
        }
        at_most
    }
}
