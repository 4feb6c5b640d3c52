//! A share of one plugin's keys, under one lock: the keys, the same keys in order of their end, and what the other
//! nodes have not been told yet.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

use bytes::Bytes;

use super::{
    super::merge::{Counter, Known, Origin, Share, Stamp},
    KEY_OVERHEAD, Quota, Usage,
};

/// How long a deletion is kept at least, for nodes that have not heard of it: they ask for what they missed within
/// seconds. It is kept for as long as the key had left, so that a node that was cut off does not bring it back, where
/// there is room for that.
pub(super) const GONE_LIFE: u64 = 60_000;

/// What a key holds.
#[derive(Debug, Clone)]
pub(super) enum Held {
    Value { value: Bytes, stamp: Stamp },
    Counter(Counter),
}

impl Held {
    fn len(&self) -> usize {
        match self {
            Self::Value { value, .. } => value.len(),
            Self::Counter(counter) => {
                size_of::<i64>() + counter.others.len() * size_of::<(Origin, Share)>()
            }
        }
    }

    pub(super) fn at(&self) -> u64 {
        match self {
            Self::Value { stamp, .. } => stamp.at,
            Self::Counter(counter) => counter.last_begun(),
        }
    }
}

#[derive(Debug)]
struct Entry {
    held: Held,
    end: u64,
    /// The last batch for the other nodes that it was in; zero if in none.
    sent_in: u64,
    /// It is in `changed`.
    is_changed: bool,
}

/// A deleted key that other nodes may still have.
#[derive(Debug)]
struct Gone {
    stamp: Stamp,
    until: u64,
    /// It takes some of the room for deletions that are kept for longer than the least.
    is_long: bool,
    sent_in: u64,
    is_changed: bool,
}

#[derive(Debug, Default)]
pub(super) struct Shard {
    entries: HashMap<Arc<str>, Entry>,
    /// One for each entry. The soonest end is first.
    ends: BTreeSet<(u64, Arc<str>)>,
    /// Deletions, on a node that shares. A key is here or in `entries`, or in neither.
    gone: HashMap<Arc<str>, Gone>,
    /// One for each deletion. The soonest end is first.
    gone_ends: BTreeSet<(u64, Arc<str>)>,
    /// Keys that the other nodes are to be told of, the first to change first. Some are over by now.
    changed: VecDeque<Arc<str>>,
}

fn size(key: &str, held: &Held) -> usize {
    KEY_OVERHEAD + key.len() + held.len()
}

fn gone_size(key: &str) -> usize {
    KEY_OVERHEAD + key.len()
}

/// A key as the other nodes are told of it.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) key: Arc<str>,
    pub(crate) known: Known,
    /// How long a deletion is to be kept; nothing to anything else.
    pub(crate) until: u64,
}

impl Told {
    /// About what it takes in a message.
    pub(crate) fn num_bytes(&self) -> usize {
        let what = match &self.known {
            Known::Value { value, .. } => value.len() / 3 * 4 + 64,
            Known::Gone(_) => 64,
            Known::Counter(counter) => 80 * counter.others.len() + 32,
        };
        // A control character takes six bytes in JSON; keys seldom have any.
        self.key.len() + self.key.len() / 8 + what + 16
    }
}

/// Whose knowledge is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// What this node itself wrote since that batch.
    Own { since: u64 },
    /// Everything that it knows of.
    Everybodys,
}

impl Whose {
    fn is_to_tell(self, sent_in: u64) -> bool {
        match self {
            Self::Own { since } => sent_in > since,
            Self::Everybodys => true,
        }
    }
}

impl Shard {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.gone.is_empty()
    }

    /// What the keys and deletions use, counted anew.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let entries = self.entries.iter();
        let entries: usize = entries.map(|(key, entry)| size(key, &entry.held)).sum();
        let gone = self.gone.keys().map(|key| gone_size(key));
        entries + gone.sum::<usize>()
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

    /// The moment after everything that is known of the key.
    pub(super) fn after(&self, key: &str) -> u64 {
        let held = self.entries.get(key).map(|entry| entry.held.at());
        let gone = self.gone.get(key).map(|gone| gone.stamp.at);
        held.max(gone).map_or(0, |at| at.saturating_add(1))
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
            // What the others were told, or are to be told, of the deletion is told of what came after it.
            let gone = self.unbury(key, usage);
            let name: Arc<str> = key.into();
            self.ends.insert((end, Arc::clone(&name)));
            let entry = Entry {
                held,
                end,
                sent_in: gone.as_ref().map_or(0, |gone| gone.sent_in),
                is_changed: gone.is_some_and(|gone| gone.is_changed),
            };
            self.entries.insert(name, entry);
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

    /// Remembers that the key was deleted, until then or until the key would have been over; whether there was room.
    pub(super) fn bury(
        &mut self,
        key: &str,
        (stamp, until): (Stamp, u64),
        now: u64,
        usage: &Usage,
    ) -> bool {
        let until = until.max(self.end(key).unwrap_or(0));
        self.remove(key, usage);
        let least = now.saturating_add(GONE_LIFE);
        if let Some(gone) = self.gone.get_mut(key) {
            gone.stamp = stamp;
            let (is_long, before) = (gone.is_long, gone.until);
            self.keep_gone(key, least.max(before), is_long);
        } else {
            if usage.take(0, gone_size(key)).is_err() {
                return false;
            }
            let gone = Gone {
                stamp,
                until: least,
                is_long: false,
                sent_in: 0,
                is_changed: false,
            };
            let name: Arc<str> = key.into();
            self.gone_ends.insert((least, Arc::clone(&name)));
            self.gone.insert(name, gone);
        }
        self.prolong(key, until, usage);
        true
    }

    /// Keeps a deletion for longer, where there is room for that.
    pub(super) fn prolong(&mut self, key: &str, until: u64, usage: &Usage) {
        let Some(gone) = self.gone.get(key) else {
            return;
        };
        if gone.until < until && (gone.is_long || usage.take_long(gone_size(key))) {
            self.keep_gone(key, until, true);
        }
    }

    fn keep_gone(&mut self, key: &str, until: u64, is_long: bool) {
        let Some((name, _)) = self.gone.get_key_value(key) else {
            return;
        };
        let name = Arc::clone(name);
        if let Some(gone) = self.gone.get_mut(&name) {
            gone.is_long = is_long;
            let before = std::mem::replace(&mut gone.until, until);
            self.gone_ends.remove(&(before, Arc::clone(&name)));
            self.gone_ends.insert((until, name));
        }
    }

    /// Takes a deletion away.
    fn unbury(&mut self, key: &str, usage: &Usage) -> Option<Gone> {
        let (name, gone) = self.gone.remove_entry(key)?;
        usage.give_back(0, gone_size(key));
        if gone.is_long {
            usage.give_back_long(gone_size(key));
        }
        self.gone_ends.remove(&(gone.until, name));
        Some(gone)
    }

    /// Takes away what was written until then, on whatever node; what was written later stays.
    pub(super) fn forget_until(&mut self, at: u64, usage: &Usage) {
        let is_old = |stamp: &Stamp| stamp.at <= at;
        let gone = self.gone.iter().filter(|(_, gone)| is_old(&gone.stamp));
        let gone: Vec<_> = gone.map(|(key, _)| Arc::clone(key)).collect();
        for key in gone {
            self.unbury(&key, usage);
        }
        let mut over = Vec::new();
        for (key, entry) in &mut self.entries {
            let before = entry.held.len();
            let stays = match &mut entry.held {
                Held::Value { stamp, .. } => !is_old(stamp),
                Held::Counter(counter) => counter.begin_at(at.saturating_add(1)),
            };
            usage.give_back(0, before.saturating_sub(entry.held.len()));
            if !stays {
                over.push(Arc::clone(key));
            }
        }
        for key in over {
            self.remove(&key, usage);
        }
    }

    /// Takes at most so many keys, and deletions, away that are over, and answers how many of which are more.
    pub(super) fn expire(&mut self, now: u64, at_most: usize, usage: &Usage) -> usize {
        let num_gone = self.forget_gone(now, at_most, usage);
        for expired in 0..at_most {
            let Some((end, _)) = self.ends.first() else {
                return expired.max(num_gone);
            };
            if *end > now {
                return expired.max(num_gone);
            }
            let Some((_, name)) = self.ends.pop_first() else {
                return expired.max(num_gone);
            };
            if let Some(entry) = self.entries.remove(&name) {
                usage.give_back(1, size(&name, &entry.held));
            }
        }
        at_most
    }

    fn forget_gone(&mut self, now: u64, at_most: usize, usage: &Usage) -> usize {
        for forgotten in 0..at_most {
            let name = match self.gone_ends.first() {
                Some((until, name)) if *until <= now => Arc::clone(name),
                Some(_) | None => return forgotten,
            };
            self.unbury(&name, usage);
        }
        at_most
    }

    /// Notes that the other nodes are to be told of the key; whether it is the first such of the shard.
    pub(super) fn change(&mut self, key: &str) -> bool {
        let flag = match (self.entries.get_mut(key), self.gone.get_mut(key)) {
            (Some(entry), _) => &mut entry.is_changed,
            (None, Some(gone)) => &mut gone.is_changed,
            (None, None) => return false,
        };
        if std::mem::replace(flag, true) {
            return false;
        }
        let name = self.entries.get_key_value(key).map(|(name, _)| name);
        let name = name.or_else(|| self.gone.get_key_value(key).map(|(name, _)| name));
        let is_first = self.changed.is_empty();
        self.changed.extend(name.map(Arc::clone));
        is_first
    }

    pub(super) fn num_changed(&self) -> usize {
        self.changed.len()
    }

    /// Takes the next key that the other nodes are to be told of, for this batch.
    pub(super) fn next_changed(&mut self, batch: u64, own: Origin) -> Option<Told> {
        loop {
            let key = self.changed.pop_front()?;
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.is_changed = false;
                entry.sent_in = batch;
                if let Some(known) = entry.known(Whose::Own { since: 0 }, own) {
                    let until = 0;
                    return Some(Told { key, known, until });
                }
            } else if let Some(gone) = self.gone.get_mut(&key) {
                gone.is_changed = false;
                gone.sent_in = batch;
                return Some(gone.told(&key));
            }
        }
    }

    /// All that is to be told of the next so many keys after a place, and the place that this came to.
    pub(super) fn page(
        &self,
        after: Option<(u64, Arc<str>)>,
        at_most: usize,
        whose: Whose,
        own: Origin,
    ) -> (Vec<Told>, Option<(u64, Arc<str>)>) {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut place = None;
        let mut told = Vec::new();
        for (nth, end_and_key) in self.ends.range((from, Bound::Unbounded)).enumerate() {
            let (_, key) = end_and_key;
            if let Some(entry) = self.entries.get(key)
                && whose.is_to_tell(entry.sent_in)
                && let Some(known) = entry.known(whose, own)
            {
                let (key, until) = (Arc::clone(key), 0);
                told.push(Told { key, known, until });
            }
            if nth + 1 >= at_most {
                place = Some(end_and_key.clone());
                break;
            }
        }
        (told, place)
    }

    /// All deletions that are to be told.
    pub(super) fn deletions(&self, whose: Whose) -> Vec<Told> {
        let told = self.gone.iter();
        let told = told.filter(|(_, gone)| whose.is_to_tell(gone.sent_in));
        told.map(|(key, gone)| gone.told(key)).collect()
    }

    /// What is known of a key, over or not.
    pub(super) fn known(&self, key: &str) -> Option<Known> {
        if let Some(entry) = self.entries.get(key) {
            return Some(match &entry.held {
                Held::Value { value, stamp } => Known::Value {
                    stamp: *stamp,
                    value: value.clone(),
                    end: entry.end,
                },
                Held::Counter(counter) => Known::Counter(counter.clone()),
            });
        }
        self.gone.get(key).map(|gone| Known::Gone(gone.stamp))
    }
}

impl Gone {
    fn told(&self, key: &Arc<str>) -> Told {
        Told {
            key: Arc::clone(key),
            known: Known::Gone(self.stamp),
            until: self.until,
        }
    }
}

impl Entry {
    /// What is to be told of it, if anything.
    fn known(&self, whose: Whose, own: Origin) -> Option<Known> {
        match &self.held {
            Held::Value { value, stamp } => {
                let is_told = whose == Whose::Everybodys || stamp.origin == own;
                is_told.then(|| Known::Value {
                    stamp: *stamp,
                    value: value.clone(),
                    end: self.end,
                })
            }
            Held::Counter(counter) => {
                let mut others = match whose {
                    Whose::Own { .. } => Vec::new(),
                    Whose::Everybodys => counter.others.clone(),
                };
                if counter.own.end > 0 {
                    others.push((own, counter.own));
                }
                if others.is_empty() {
                    // Others keep the shares; that what was before is gone may be known here alone.
                    let at = counter.since.checked_sub(1)?;
                    return Some(Known::Gone(Stamp { at, origin: own }));
                }
                Some(Known::Counter(Counter {
                    since: counter.since,
                    own: Share::default(),
                    others,
                }))
            }
        }
    }
}
