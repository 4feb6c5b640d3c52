//! Presence in the memory of one node.
//!
//! Owns who is in which channel and when each of them ends. Every channel's members and users are counted as they
//! come and go, so that counting costs nothing. Invariants: no lock is held over more than a page of members when
//! they are read; a sweep looks at one part of the channels at a time.

use std::{hash::BuildHasher as _, sync::Arc, time::Duration};

use hashbrown::{DefaultHashBuilder, HashMap};
use parking_lot::Mutex;
use slab::Slab;
use tokio::time::Instant;

use super::{DEFAULT_TTL, Member, Members, PAGE, Presence, PresenceStats, Present};
use crate::{
    broker::BrokerError,
    hooks::Progress,
    ids::{ChannelKey, ClientId},
};

/// Parts that lock apart; different channels rarely meet.
const PARTS: usize = 64;

/// The presence store of a node that stands alone. Cheap to clone.
#[derive(Clone)]
pub struct MemoryPresence {
    shared: Arc<Shared>,
}

struct Shared {
    ttl: Duration,
    parts: Box<[Mutex<Rooms>]>,
    /// Of parts; keyed anew for each node, so that clients cannot choose names that all fall into one.
    hasher: DefaultHashBuilder,
}

type Rooms = HashMap<ChannelKey, Room>;

/// A channel with members; one without is not kept.
#[derive(Default)]
struct Room {
    /// In slots, so that reading can pause and go on.
    members: Slab<Kept>,
    slots: HashMap<ClientId, usize>,
    /// How many members each user has.
    users: HashMap<Arc<str>, usize>,
}

struct Kept {
    member: Arc<Member>,
    ends_at: Instant,
}

impl MemoryPresence {
    /// `ttl` is longer than the interval of the refreshes.
    pub fn new(ttl: Duration) -> Self {
        let parts = (0..PARTS).map(|_| Mutex::default()).collect();
        Self {
            shared: Arc::new(Shared {
                ttl,
                parts,
                hasher: DefaultHashBuilder::default(),
            }),
        }
    }

    /// How many are in the channel now.
    pub fn stats_now(&self, key: &ChannelKey) -> PresenceStats {
        let rooms = self.shared.part(key).lock();
        let stats = rooms.get(key).map(|room| PresenceStats {
            num_clients: room.members.len(),
            num_users: room.users.len(),
        });
        stats.unwrap_or_default()
    }

    /// Some of those who are in the channel now; at most a page of them.
    pub fn members_now(&self, key: &ChannelKey, limit: usize) -> Vec<Arc<Member>> {
        let rooms = self.shared.part(key).lock();
        let Some(room) = rooms.get(key) else {
            return Vec::new();
        };
        let slots = room.slots.values().take(limit.min(PAGE));
        slots
            .map(|slot| Arc::clone(&room.members[*slot].member))
            .collect()
    }

    pub fn is_present_now(&self, key: &ChannelKey, user: &str) -> bool {
        let rooms = self.shared.part(key).lock();
        rooms
            .get(key)
            .is_some_and(|room| room.users.contains_key(user))
    }

    /// How often [`Self::sweep`] is to be called, so that nobody outlives the TTL.
    pub fn sweep_interval(&self) -> Duration {
        self.shared.ttl / 4
    }

    /// Removes who was not refreshed in time. Other tasks run between its steps.
    ///
    /// # Cancel safety
    /// What was looked at is done; the rest waits for the next sweep.
    pub async fn sweep(&self) {
        for part in &self.shared.parts {
            // Who ends before the next sweep ends now.
            let horizon = Instant::now() + self.sweep_interval();
            part.lock().retain(|_, room| {
                room.expire(horizon);
                !room.members.is_empty()
            });
            tokio::task::yield_now().await;
        }
    }
}

impl Default for MemoryPresence {
    fn default() -> Self {
        Self::new(DEFAULT_TTL)
    }
}

impl Shared {
    fn part(&self, key: &ChannelKey) -> &Mutex<Rooms> {
        let hash = self.hasher.hash_one(key);
        // The map uses the low bits for its own buckets.
        let index = usize::try_from(hash >> 32).unwrap_or_default() % PARTS;
        &self.parts[index]
    }

    fn put(&self, key: &ChannelKey, member: &Arc<Member>) {
        let kept = Kept {
            member: Arc::clone(member),
            ends_at: Instant::now() + self.ttl,
        };
        let mut rooms = self.part(key).lock();
        rooms.entry_ref(key).or_default().put(kept);
    }

    /// Appends the members of a page to `found`; answers where to go on.
    fn read(
        &self,
        key: &ChannelKey,
        start: usize,
        limit: usize,
        found: &mut Vec<Arc<Member>>,
    ) -> Reading {
        let now = Instant::now();
        let rooms = self.part(key).lock();
        let Some(room) = rooms.get(key) else {
            return Reading::Whole;
        };
        // A slab's slots end before its capacity.
        let end = room.members.capacity();
        for slot in start..end {
            if slot - start == PAGE {
                return Reading::From(slot);
            }
            let Some(kept) = room.members.get(slot) else {
                continue;
            };
            if kept.ends_at <= now {
                continue;
            }
            if found.len() == limit {
                return Reading::Limited;
            }
            found.push(Arc::clone(&kept.member));
        }
        Reading::Whole
    }
}

/// How far reading a channel has got.
enum Reading {
    From(usize),
    Limited,
    Whole,
}

impl Room {
    fn put(&mut self, kept: Kept) {
        let client = kept.member.client;
        if let Some(slot) = self.slots.get(&client) {
            let before = std::mem::replace(&mut self.members[*slot], kept);
            let user = Arc::clone(&self.members[*slot].member.user);
            self.count_user(&user);
            self.discount_user(&before.member.user);
            return;
        }
        self.count_user(&Arc::clone(&kept.member.user));
        let slot = self.members.insert(kept);
        self.slots.insert(client, slot);
    }

    fn remove(&mut self, client: ClientId) {
        if let Some(slot) = self.slots.remove(&client) {
            let kept = self.members.remove(slot);
            self.discount_user(&kept.member.user);
        }
    }

    fn count_user(&mut self, user: &Arc<str>) {
        *self.users.entry_ref(user).or_default() += 1;
    }

    fn discount_user(&mut self, user: &str) {
        if let Some(count) = self.users.get_mut(user) {
            *count -= 1;
            if *count == 0 {
                self.users.remove(user);
            }
        }
    }

    fn expire(&mut self, horizon: Instant) {
        let ended = self
            .members
            .iter()
            .filter(|(_, kept)| kept.ends_at <= horizon);
        let ended: Vec<ClientId> = ended.map(|(_, kept)| kept.member.client).collect();
        for client in ended {
            self.remove(client);
        }
    }
}

impl Presence for MemoryPresence {
    fn add(&self, key: &ChannelKey, member: &Arc<Member>) -> Progress<Result<(), BrokerError>> {
        self.shared.put(key, member);
        Progress::Ready(Ok(()))
    }

    fn refresh(&self, members: Vec<Present>) -> Progress<Result<(), BrokerError>> {
        for Present { key, member } in &members {
            self.shared.put(key, member);
        }
        Progress::Ready(Ok(()))
    }

    fn remove(&self, key: &ChannelKey, client: ClientId) -> Progress<Result<(), BrokerError>> {
        let mut rooms = self.shared.part(key).lock();
        let mut vacated = None;
        if let Some(room) = rooms.get_mut(key) {
            room.remove(client);
            if room.members.is_empty() {
                vacated = rooms.remove(key);
            }
        }
        drop(rooms);
        drop(vacated); // A large channel that emptied leaves large tables: not under the lock.
        Progress::Ready(Ok(()))
    }

    fn members(&self, key: &ChannelKey, limit: usize) -> Progress<Result<Members, BrokerError>> {
        let mut members = Vec::new();
        let mut reading = self.shared.read(key, 0, limit, &mut members);
        if !matches!(reading, Reading::From(_)) {
            let is_whole = matches!(reading, Reading::Whole);
            return Progress::Ready(Ok(Members { members, is_whole }));
        }
        let (shared, key) = (Arc::clone(&self.shared), key.clone());
        Progress::Pending(Box::pin(async move {
            while let Reading::From(slot) = reading {
                tokio::task::yield_now().await;
                reading = shared.read(&key, slot, limit, &mut members);
            }
            let is_whole = matches!(reading, Reading::Whole);
            Ok(Members { members, is_whole })
        }))
    }

    fn stats(&self, key: &ChannelKey) -> Progress<Result<PresenceStats, BrokerError>> {
        Progress::Ready(Ok(self.stats_now(key)))
    }

    fn local(&self) -> Option<&Self> {
        Some(self)
    }
}

impl std::fmt::Debug for MemoryPresence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryPresence")
            .field("ttl", &self.shared.ttl)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::contract;

    /// Long enough for a machine that has no time for us now and then.
    const TTL: Duration = Duration::from_secs(3);

    #[tokio::test]
    async fn the_memory_store_keeps_the_contract() {
        let presence = MemoryPresence::new(TTL);
        let sweeping = presence.clone();
        let sweep = async move {
            loop {
                tokio::time::sleep(sweeping.sweep_interval()).await;
                sweeping.sweep().await;
            }
        };
        tokio::select! {
            () = contract::check_all(&presence, TTL, "memory") => {}
            () = sweep => {}
        }
        let parts = &presence.shared.parts;
        assert!(
            parts.iter().all(|part| part.lock().is_empty()),
            "no empty channel is kept"
        );
    }
}
