//! The memory engine: publications and history of one node.
//!
//! Owns which streams there are, how long they stay and how much memory they may take. What is in a stream is
//! `stream`'s, who has how many of them `share`'s, what goes when there is no room `room`'s.
//!
//! Invariants. A publication reaches [`BrokerEvents`] under its stream's lock, so that events of a channel arrive in
//! stream order. A stream gets a random epoch when it is first asked for and keeps it until it is forgotten; it is
//! not forgotten while somebody is in its channel, and what happens to other streams does not matter to it. Every
//! stream is in its share's timeline once, not behind the moment at which something of it ends, so that a sweep costs
//! what has ended and not what there is. What is held stays within [`MemoryConfig`]: beyond it the oldest entries go,
//! which recovery tells from a hole, and counters count.
//!
//! Lock order: stream; then map part, timeline or hub, each alone. The hub may call [`Broker::unsubscribe`] with a
//! lock of its own, so that call takes no stream.

mod room;
mod share;
mod stream;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use hashbrown::{DefaultHashBuilder, HashMap};
use parking_lot::{Mutex, RwLock};
use tidegate_protocol::{Publication, StreamPosition};
use tokio::time::Instant;

use self::{
    room::Room,
    share::{Place, Share, Shares, account},
    stream::Stream,
};
use crate::{
    broker::{
        Broker, BrokerError, BrokerEvents, HistoryPage, HistoryQuery, IDEMPOTENCY_TTL, JoinLeave,
        PublishRequest, Published,
    },
    hooks::Progress,
    ids::ChannelKey,
};

/// Bytes of streams and history on one node: two apps at their quota (threat model N3), and a quarter of a small
/// machine.
pub const DEFAULT_MAX_BYTES: usize = 512 * 1024 * 1024;

/// Parts that lock apart; publishes to different channels rarely meet.
const PARTS: usize = 64;

/// How often what ended is looked for.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Streams looked at between two yields: at a few microseconds each, the others wait 0.2 ms.
const SWEEP_STREAMS: usize = 64;

/// Entries freed between two yields, and taken off a stream in one step when there is no room.
const STEP_ENTRIES: usize = 256;

/// Entries of one stream that are freed where they ended; more wait for the sweep, which frees them step by step.
const FREED_AT_ONCE: usize = 64;

/// A followed stream without a life of its own is looked at again after this.
const MIN_FOLLOWED_LIFE: Duration = Duration::from_secs(1);

/// How much the engine may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryConfig {
    /// Of all apps together. Over it the app that holds most loses its oldest entries.
    pub max_bytes: usize,
    /// Of each app that was made by the admin API; the app `default` has no quota (threat model N3).
    pub created_apps: AppQuota,
}

/// What one app may hold; over it the app's own oldest entries and streams go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppQuota {
    pub max_bytes: usize,
    pub max_streams: usize,
}

impl AppQuota {
    const NONE: Self = Self {
        max_bytes: usize::MAX,
        max_streams: usize::MAX,
    };
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            max_bytes: DEFAULT_MAX_BYTES,
            // Threat model N3.
            created_apps: AppQuota {
                max_bytes: 256 * 1024 * 1024,
                max_streams: 100_000,
            },
        }
    }
}

/// A snapshot of what the engine holds and has dropped, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryStatistics {
    pub num_streams: usize,
    /// Streams, publications and results of idempotent publishes.
    pub num_bytes: usize,
    /// Publications that went before their time because there was no room.
    pub dropped_publications: u64,
    /// Streams that were forgotten before their time because there was no room.
    pub dropped_streams: u64,
}

type Entries = VecDeque<Arc<Publication>>;
type Streams = HashMap<ChannelKey, Arc<Slot>>;

/// The broker of a node that stands alone.
pub struct MemoryBroker {
    config: MemoryConfig,
    parts: Box<[RwLock<Streams>]>,
    /// Of parts; keyed anew for each node, so that clients cannot choose names that all fall into one.
    hasher: DefaultHashBuilder,
    shares: Shares,
    /// What all shares hold together.
    num_bytes: AtomicUsize,
    events: Arc<dyn BrokerEvents>,
    /// Makes epochs that nobody can guess, out of the number of the stream.
    epochs: RandomState,
    num_made: AtomicU64,
    /// Long histories that have ended; the sweep frees them.
    rubbish: Mutex<Vec<Entries>>,
    clock: Clock,
    dropped_publications: AtomicU64,
    dropped_streams: AtomicU64,
}

/// A stream and what is known of it without its lock.
#[derive(Debug)]
struct Slot {
    share: Arc<Share>,
    /// When the position was last read, written or left by a subscriber, in milliseconds of the engine's life.
    used_at: AtomicU64,
    stream: Mutex<Stream>,
}

impl MemoryBroker {
    pub fn new(events: Arc<dyn BrokerEvents>) -> Self {
        Self::with_config(events, MemoryConfig::default())
    }

    pub fn with_config(events: Arc<dyn BrokerEvents>, config: MemoryConfig) -> Self {
        Self {
            parts: (0..PARTS)
                .map(|_| RwLock::new(Streams::default()))
                .collect(),
            hasher: DefaultHashBuilder::default(),
            shares: Shares::new(config.created_apps),
            num_bytes: AtomicUsize::new(0),
            events,
            epochs: RandomState::new(),
            num_made: AtomicU64::new(0),
            rubbish: Mutex::default(),
            clock: Clock::start(),
            dropped_publications: AtomicU64::new(0),
            dropped_streams: AtomicU64::new(0),
            config,
        }
    }

    /// Drops what has ended; to be called every [`SWEEP_INTERVAL`]. Other tasks run between its steps.
    ///
    /// # Cancel safety
    /// What was looked at is done; the rest waits for the next sweep.
    pub async fn sweep(&self) {
        for share in self.shares.all() {
            loop {
                let now = self.clock.now();
                let ended = share.take_ended(now, SWEEP_STREAMS);
                if ended.is_empty() {
                    break;
                }
                for place in ended {
                    self.look_at(&place, now);
                }
                tokio::task::yield_now().await;
            }
            while self.make_room(&share) == Room::NotYet {
                tokio::task::yield_now().await;
            }
        }
        loop {
            let next = self.rubbish.lock().pop();
            let Some(mut entries) = next else {
                return;
            };
            while !entries.is_empty() {
                entries.drain(..entries.len().min(STEP_ENTRIES));
                tokio::task::yield_now().await;
            }
        }
    }

    pub fn statistics(&self) -> MemoryStatistics {
        let shares = self.shares.all();
        MemoryStatistics {
            num_streams: shares.iter().map(|share| share.num_streams()).sum(),
            num_bytes: self.num_bytes.load(Ordering::Relaxed),
            dropped_publications: self.dropped_publications.load(Ordering::Relaxed),
            dropped_streams: self.dropped_streams.load(Ordering::Relaxed),
        }
    }

    fn part(&self, key: &ChannelKey) -> &RwLock<Streams> {
        let hash = self.hasher.hash_one(key);
        // The map uses the low bits for its own buckets.
        let index = usize::try_from(hash >> 32).unwrap_or_default() % PARTS;
        &self.parts[index]
    }

    fn find(&self, key: &ChannelKey) -> Option<Arc<Slot>> {
        self.part(key).read().get(key).cloned()
    }

    /// Finds the stream or makes it.
    fn enter(&self, key: &ChannelKey) -> Arc<Slot> {
        if let Some(slot) = self.find(key) {
            return slot;
        }
        let share = self.shares.of(key.app());
        let mut part = self.part(key).write();
        let slot = part.entry_ref(key).or_insert_with(|| {
            let now = self.clock.now();
            share.count_made();
            Arc::new(Slot {
                share,
                used_at: AtomicU64::new(self.millis(now)),
                stream: Mutex::new(Stream::new(self.random_epoch(), now)),
            })
        });
        Arc::clone(slot)
    }

    /// Runs `act` on the stream, made if need be, and takes note of what has changed.
    fn with_stream<R>(&self, key: &ChannelKey, act: impl FnOnce(&mut Stream, Instant) -> R) -> R {
        loop {
            let slot = self.enter(key);
            let mut stream = slot.stream.lock();
            if stream.is_forgotten {
                // It went off the map before: the next look finds another one, or none.
                continue;
            }
            let now = self.clock.now();
            let ended = stream.expire(now);
            let result = act(&mut stream, now);
            self.touch(&slot, now);
            self.settle(key, &slot, &mut stream);
            drop(stream);
            self.free(ended);
            self.make_room(&slot.share);
            return result;
        }
    }

    /// Accounts for the stream's size and sees that its place in the timeline is not behind its next end.
    fn settle(&self, key: &ChannelKey, slot: &Slot, stream: &mut Stream) {
        let num_bytes = stream.num_bytes(key);
        self.account(slot, stream, num_bytes);
        let line = stream.line();
        let ends_at = self.ends_at(slot, stream);
        match stream.place {
            // A place too early costs one look later on; a new place with every publish would cost more.
            Some((held, at)) if held == line && at <= ends_at => {}
            held => {
                let next = Some((line, ends_at));
                slot.share.move_place(key, held, next);
                stream.place = next;
            }
        }
    }

    fn account(&self, slot: &Slot, stream: &mut Stream, num_bytes: usize) {
        let before = std::mem::replace(&mut stream.num_accounted, num_bytes);
        slot.share.account(before, num_bytes);
        account(&self.num_bytes, before, num_bytes);
    }

    /// Looks at a stream whose place was taken off the timeline.
    fn look_at(&self, place: &Place, now: Instant) {
        let Some(slot) = self.find(&place.key) else {
            return;
        };
        let mut stream = slot.stream.lock();
        if !has_lost(&mut stream, place) {
            return;
        }
        let ended = stream.expire(now);
        let is_over = self.ends_at(&slot, &stream) <= now;
        if !is_over || self.is_kept(&place.key, &slot, &mut stream, now) {
            self.settle(&place.key, &slot, &mut stream);
        } else {
            self.forget(&place.key, &slot, &mut stream);
        }
        drop(stream);
        self.free(ended);
    }

    /// Whether somebody relies on the position of a stream without contents; if so, its life begins anew.
    fn is_kept(&self, key: &ChannelKey, slot: &Slot, stream: &mut Stream, now: Instant) -> bool {
        // Under the stream's lock: who joins the channel and reads afterwards is either seen here, or finds the
        // stream forgotten and makes another one.
        let is_followed = self.events.is_followed(key);
        if is_followed {
            stream.was_followed = true;
            self.touch(slot, now + MIN_FOLLOWED_LIFE);
        }
        is_followed
    }

    /// Takes the stream, which has no place in the timeline, off the map.
    fn forget(&self, key: &ChannelKey, slot: &Slot, stream: &mut Stream) {
        stream.is_forgotten = true;
        self.account(slot, stream, 0);
        slot.share.count_forgotten();
        // Whoever finds the stream later finds it off the map as well, so that nobody has to wait for that.
        let removed = self.part(key).write().remove(key);
        drop(removed);
    }

    /// When the next of the stream's contents ends or, without any, the stream itself.
    fn ends_at(&self, slot: &Slot, stream: &Stream) -> Instant {
        stream.contents_end_at().unwrap_or_else(|| {
            let used_at = Duration::from_millis(slot.used_at.load(Ordering::Relaxed));
            self.clock.started + used_at + stream.meta_ttl
        })
    }

    fn touch(&self, slot: &Slot, now: Instant) {
        // It does not go back: the timeline relies on it.
        slot.used_at.fetch_max(self.millis(now), Ordering::Relaxed);
    }

    fn millis(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.clock.started);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// Frees entries, many of them later.
    fn free(&self, entries: Entries) {
        if entries.len() > FREED_AT_ONCE {
            self.rubbish.lock().push(entries);
        }
    }

    /// Eight letters, as the reference's.
    fn random_epoch(&self) -> String {
        let number = self.num_made.fetch_add(1, Ordering::Relaxed);
        let mut hash = self.epochs.hash_one(number);
        let mut epoch = String::with_capacity(8);
        for _ in 0..8 {
            let letter = u8::try_from(hash % 26).unwrap_or_default();
            epoch.push(char::from(b'a' + letter));
            hash /= 26;
        }
        epoch
    }

    fn publish_now(&self, request: PublishRequest) -> Published {
        let PublishRequest {
            key,
            mut publication,
            history,
            idempotency_key,
            version,
            version_epoch,
        } = request;
        if history.is_none() && idempotency_key.is_none() && version == 0 {
            // Nothing to remember: no stream, no lock.
            publication.offset = 0;
            self.events
                .on_publication(&key, &Arc::new(publication), None);
            return Published::default();
        }
        self.with_stream(&key, |stream, now| {
            stream.meta_ttl = match history {
                Some(history) => history.meta_ttl,
                None => stream.meta_ttl.max(IDEMPOTENCY_TTL),
            };
            if let Some(repeated) = idempotency_key
                .as_deref()
                .and_then(|name| stream.repeated(name))
            {
                return repeated;
            }
            if version > 0 && !stream.accept_version(version, version_epoch) {
                return Published {
                    position: history.map(|_| stream.position()),
                    is_suppressed: true,
                    ..Published::default()
                };
            }
            let position = history.map(|_| stream.advance());
            publication.offset = position.as_ref().map_or(0, |position| position.offset);
            // A subscriber of the empty stream learns the epoch from its first publication.
            publication.epoch = match &position {
                Some(position) if position.offset == 1 => position.epoch.clone(),
                _ => String::new(),
            };
            let publication = Arc::new(publication);
            if let Some(options) = history {
                stream.append(Arc::clone(&publication), options, now);
            }
            self.events
                .on_publication(&key, &publication, position.as_ref());
            if let Some(name) = idempotency_key {
                stream.remember(name, position.clone(), now);
            }
            Published {
                position,
                ..Published::default()
            }
        })
    }

    /// Reading makes the stream: who was told a position relies on its epoch.
    fn history_now(&self, key: &ChannelKey, query: &HistoryQuery) -> HistoryPage {
        self.with_stream(key, |stream, _| {
            stream.meta_ttl = query.meta_ttl;
            stream.page(query)
        })
    }
}

/// The engine's time; in tests it moves when it is told to.
#[derive(Debug)]
struct Clock {
    started: Instant,
    #[cfg(test)]
    ahead: Mutex<Duration>,
}

impl Clock {
    fn start() -> Self {
        Self {
            started: Instant::now(),
            #[cfg(test)]
            ahead: Mutex::default(),
        }
    }

    #[cfg(not(test))]
    fn now(&self) -> Instant {
        Instant::now()
    }

    #[cfg(test)]
    fn now(&self) -> Instant {
        self.started + *self.ahead.lock()
    }
}

/// Takes note that the place is off the timeline; false when the stream has another one by now, or has gone.
fn has_lost(stream: &mut Stream, place: &Place) -> bool {
    let has_lost = !stream.is_forgotten && stream.place.is_some_and(|(_, at)| at == place.at);
    if has_lost {
        stream.place = None;
    }
    has_lost
}

impl Broker for MemoryBroker {
    fn publish(&self, request: PublishRequest) -> Progress<Result<Published, BrokerError>> {
        Progress::Ready(Ok(self.publish_now(request)))
    }

    fn history(
        &self,
        key: &ChannelKey,
        query: HistoryQuery,
    ) -> Progress<Result<HistoryPage, BrokerError>> {
        Progress::Ready(Ok(self.history_now(key, &query)))
    }

    fn publish_join_leave(
        &self,
        key: &ChannelKey,
        event: JoinLeave,
    ) -> Progress<Result<(), BrokerError>> {
        self.events.on_join_leave(key, &event);
        Progress::Ready(Ok(()))
    }

    fn remove_history(&self, key: &ChannelKey) -> Progress<Result<(), BrokerError>> {
        if let Some(slot) = self.find(key) {
            let mut stream = slot.stream.lock();
            let entries = stream.clear();
            if !stream.is_forgotten {
                self.settle(key, &slot, &mut stream);
            }
            drop(stream);
            self.free(entries);
        }
        Progress::Ready(Ok(()))
    }

    fn subscribe(&self, _: &ChannelKey) -> Progress<Result<(), BrokerError>> {
        Progress::Ready(Ok(()))
    }

    fn renew_epoch(
        &self,
        key: &ChannelKey,
        epoch: &str,
    ) -> Progress<Result<StreamPosition, BrokerError>> {
        let top = self.with_stream(key, |stream, _| {
            if stream.position().epoch == epoch {
                stream.renew(self.random_epoch());
            }
            stream.position()
        });
        Progress::Ready(Ok(top))
    }

    /// Those who left may come back: the position lives on for its time from now.
    fn unsubscribe(&self, key: &ChannelKey) {
        if let Some(slot) = self.find(key) {
            self.touch(&slot, self.clock.now());
        }
    }
}

impl std::fmt::Debug for MemoryBroker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryBroker")
            .field("config", &self.config)
            .field("statistics", &self.statistics())
            .finish_non_exhaustive()
    }
}
