//! The memory engine: publications and history of one node.
//!
//! Owns streams, their expiry, and the results of idempotent publishes. Everything is answered at once.
//! Invariant: a publication reaches [`BrokerEvents`] under its stream's lock, so that events of a channel arrive
//! in stream order. A stream that was never published to takes no memory: its epoch is computed from the key.

use std::{
    collections::VecDeque,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};
use rustc_hash::FxBuildHasher;
use tidegate_protocol::{Publication, StreamPosition};
use tokio::time::Instant;

use crate::{
    broker::{
        Broker, BrokerError, BrokerEvents, HistoryLimit, HistoryOptions, HistoryOrder, HistoryPage,
        HistoryQuery, IDEMPOTENCY_TTL, PublishRequest, Published,
    },
    hooks::Progress,
    ids::ChannelKey,
};

/// Parts that lock apart; publishes to different channels rarely meet.
const PARTS: usize = 64;

/// Results remembered per channel. A publisher that retries does so within seconds; the oldest go first.
const MAX_RESULTS: usize = 1_000;

/// How often expired streams are looked for.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Streams looked at in one sweep of a part, so that a sweep holds no lock for long.
const SWEEP_STREAMS: usize = 1_024;

type Streams = HashMap<ChannelKey, Arc<Mutex<Stream>>, FxBuildHasher>;

/// The broker of a node that stands alone.
pub struct MemoryBroker {
    parts: Box<[RwLock<Streams>]>,
    events: Arc<dyn BrokerEvents>,
    /// Makes epochs of this process unlike those of any other.
    epochs: RandomState,
    /// Rises when a stream with publications is forgotten, so that its successor gets another epoch.
    generation: AtomicU64,
}

#[derive(Debug)]
struct Stream {
    epoch: String,
    offset: u64,
    /// Oldest first; offsets are contiguous and end at `offset`.
    entries: VecDeque<Arc<Publication>>,
    entries_expire_at: Instant,
    meta_expires_at: Instant,
    version: u64,
    version_epoch: Box<str>,
    /// Oldest first.
    results: VecDeque<Repeatable>,
    /// Taken out of the map by the sweep while somebody waited for the lock: look again.
    is_forgotten: bool,
}

/// A result that a repeated publish gets again.
#[derive(Debug)]
struct Repeatable {
    key: Box<str>,
    position: Option<StreamPosition>,
    expires_at: Instant,
}

impl MemoryBroker {
    pub fn new(events: Arc<dyn BrokerEvents>) -> Self {
        Self {
            parts: (0..PARTS)
                .map(|_| RwLock::new(Streams::default()))
                .collect(),
            events,
            epochs: RandomState::new(),
            generation: AtomicU64::new(0),
        }
    }

    /// Drops what has expired; to be called every [`SWEEP_INTERVAL`].
    pub fn sweep(&self) {
        let now = Instant::now();
        for part in &self.parts {
            let streams: Vec<_> = {
                let part = part.read();
                part.iter()
                    .take(SWEEP_STREAMS)
                    .map(|(key, stream)| (key.clone(), Arc::clone(stream)))
                    .collect()
            };
            for (key, stream) in streams {
                let mut stream_state = stream.lock();
                stream_state.expire(now);
                if !stream_state.is_over(now) {
                    continue;
                }
                stream_state.is_forgotten = true;
                if stream_state.offset > 0 {
                    // Release: who computes an epoch afterwards must not compute the old one again.
                    self.generation.fetch_add(1, Ordering::Release);
                }
                drop(stream_state);
                part.write().remove(&key);
            }
        }
    }

    /// Streams that take memory.
    pub fn num_streams(&self) -> usize {
        self.parts.iter().map(|part| part.read().len()).sum()
    }

    fn part(&self, key: &ChannelKey) -> &RwLock<Streams> {
        let hash = FxBuildHasher.hash_one(key);
        // The map uses the low bits for its own buckets.
        let index = usize::try_from(hash >> 32).unwrap_or_default() % PARTS;
        &self.parts[index]
    }

    /// Runs `act` on the stream, made if need be.
    fn with_stream<R>(
        &self,
        key: &ChannelKey,
        meta_ttl: Duration,
        act: impl FnOnce(&mut Stream) -> R,
    ) -> R {
        loop {
            let found = self.part(key).read().get(key).cloned();
            let stream = found.unwrap_or_else(|| {
                let mut part = self.part(key).write();
                let stream = part.entry(key.clone()).or_insert_with(|| {
                    Arc::new(Mutex::new(Stream::new(self.epoch(key), meta_ttl)))
                });
                Arc::clone(stream)
            });
            let mut stream = stream.lock();
            if stream.is_forgotten {
                continue;
            }
            stream.expire(Instant::now());
            return act(&mut stream);
        }
    }

    /// The epoch that a stream of this key would get now: eight letters, as the reference's.
    fn epoch(&self, key: &ChannelKey) -> String {
        // Acquire pairs with the release in `sweep`.
        let generation = self.generation.load(Ordering::Acquire);
        let mut hash = self.epochs.hash_one((generation, key));
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
        let meta_ttl = history.map_or(IDEMPOTENCY_TTL, |history| history.meta_ttl);
        self.with_stream(&key, meta_ttl, |stream| {
            let now = Instant::now();
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
            let position = history.map(|options| stream.advance(options, now));
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

    fn history_now(&self, key: &ChannelKey, query: &HistoryQuery) -> HistoryPage {
        let found = self.part(key).read().get(key).cloned();
        let Some(stream) = found else {
            // Reading must not cost memory: the epoch of an unused stream can be computed again.
            let top = StreamPosition {
                offset: 0,
                epoch: self.epoch(key),
            };
            return HistoryPage {
                publications: Vec::new(),
                top,
            };
        };
        let mut stream = stream.lock();
        stream.expire(Instant::now());
        if stream.is_forgotten {
            drop(stream);
            return self.history_now(key, query);
        }
        stream.page(query)
    }
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

    fn remove_history(&self, key: &ChannelKey) -> Progress<Result<(), BrokerError>> {
        if let Some(stream) = self.part(key).read().get(key).cloned() {
            stream.lock().entries.clear();
        }
        Progress::Ready(Ok(()))
    }

    fn subscribe(&self, _: &ChannelKey) -> Progress<Result<(), BrokerError>> {
        Progress::Ready(Ok(()))
    }

    fn unsubscribe(&self, _: &ChannelKey) {}
}

impl Stream {
    fn new(epoch: String, meta_ttl: Duration) -> Self {
        let now = Instant::now();
        Self {
            epoch,
            offset: 0,
            entries: VecDeque::new(),
            entries_expire_at: now,
            meta_expires_at: now + meta_ttl,
            version: 0,
            version_epoch: Box::default(),
            results: VecDeque::new(),
            is_forgotten: false,
        }
    }

    fn position(&self) -> StreamPosition {
        StreamPosition {
            offset: self.offset,
            epoch: self.epoch.clone(),
        }
    }

    fn expire(&mut self, now: Instant) {
        if self.entries_expire_at <= now {
            self.entries.clear();
        }
        while self
            .results
            .front()
            .is_some_and(|result| result.expires_at <= now)
        {
            self.results.pop_front();
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        self.meta_expires_at <= now && self.entries.is_empty() && self.results.is_empty()
    }

    fn repeated(&self, name: &str) -> Option<Published> {
        let result = self.results.iter().find(|result| *result.key == *name)?;
        Some(Published {
            position: result.position.clone(),
            is_repeated: true,
            ..Published::default()
        })
    }

    /// Takes note of a version if it is greater than the last one of the same epoch.
    fn accept_version(&mut self, version: u64, version_epoch: Box<str>) -> bool {
        let is_same_epoch = version_epoch.is_empty() || version_epoch == self.version_epoch;
        if is_same_epoch && version <= self.version {
            return false;
        }
        self.version = version;
        if !version_epoch.is_empty() {
            self.version_epoch = version_epoch;
        }
        true
    }

    fn advance(&mut self, options: HistoryOptions, now: Instant) -> StreamPosition {
        self.offset += 1;
        self.meta_expires_at = self.meta_expires_at.max(now + options.meta_ttl);
        self.position()
    }

    fn append(&mut self, publication: Arc<Publication>, options: HistoryOptions, now: Instant) {
        self.entries.push_back(publication);
        while self.entries.len() > options.size {
            self.entries.pop_front();
        }
        self.entries_expire_at = now + options.ttl;
    }

    fn remember(&mut self, key: Box<str>, position: Option<StreamPosition>, now: Instant) {
        if self.results.len() == MAX_RESULTS {
            self.results.pop_front();
        }
        self.results.push_back(Repeatable {
            key,
            position,
            expires_at: now + IDEMPOTENCY_TTL,
        });
    }

    fn page(&self, query: &HistoryQuery) -> HistoryPage {
        let top = self.position();
        let limit = match query.limit {
            HistoryLimit::PositionOnly => 0,
            HistoryLimit::AtMost(limit) => limit,
            HistoryLimit::All => usize::MAX,
        };
        let is_other_stream = query
            .since
            .as_ref()
            .is_some_and(|since| !since.epoch.is_empty() && since.epoch != top.epoch);
        let publications = if limit == 0 || is_other_stream {
            Vec::new()
        } else {
            let since = query.since.as_ref().map(|since| since.offset);
            let entries = self.entries.iter();
            match query.order {
                HistoryOrder::OldestFirst => entries
                    .filter(|entry| since.is_none_or(|since| entry.offset > since))
                    .take(limit)
                    .cloned()
                    .collect(),
                HistoryOrder::NewestFirst => entries
                    .rev()
                    .filter(|entry| since.is_none_or(|since| entry.offset < since))
                    .take(limit)
                    .cloned()
                    .collect(),
            }
        };
        HistoryPage { publications, top }
    }
}

impl std::fmt::Debug for MemoryBroker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryBroker")
            .field("num_streams", &self.num_streams())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker_contract::{Recorder, check_all};

    #[tokio::test]
    async fn the_memory_broker_keeps_the_contract() {
        let events = Arc::new(Recorder::default());
        let broker = MemoryBroker::new(Arc::clone(&events) as _);
        check_all(&broker, &events, "").await;
    }

    #[test]
    fn streams_end_with_their_time_and_reading_makes_none() {
        let broker = MemoryBroker::new(Arc::new(Recorder::default()));
        let key = |name: &str| ChannelKey::new(&crate::ids::AppId::default_app(), name);
        let query = HistoryQuery {
            limit: HistoryLimit::All,
            since: None,
            order: HistoryOrder::OldestFirst,
            meta_ttl: Duration::from_secs(1),
        };
        broker.history_now(&key("read"), &query);
        assert_eq!(broker.num_streams(), 0);
        broker.publish_now(PublishRequest {
            key: key("short"),
            publication: Publication::default(),
            history: Some(HistoryOptions {
                size: 1,
                ttl: Duration::ZERO,
                meta_ttl: Duration::ZERO,
            }),
            idempotency_key: None,
            version: 0,
            version_epoch: Box::default(),
        });
        let before = broker.history_now(&key("short"), &query);
        assert!(before.publications.is_empty(), "entries end by themselves");
        assert_eq!(before.top.offset, 1, "the position outlives them");
        broker.sweep();
        assert_eq!(broker.num_streams(), 0);
        let after = broker.history_now(&key("short"), &query);
        assert_eq!(after.top.offset, 0);
        assert_ne!(
            after.top.epoch, before.top.epoch,
            "a new stream has a new epoch"
        );
    }
}
