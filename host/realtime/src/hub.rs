//! The hub: who is in which channel on this node, and how a publication gets to all of them.
//!
//! Owns channels, members and the shards' queues. Does not know sessions, histories or hooks: it is told which
//! links join, and the broker tells it what was published. A broadcast puts one event on the queue of every
//! shard with members and returns; the flusher does the rest.
//!
//! Invariants. A member gets the publications of a channel in the order of [`Hub::broadcast`]. A positioned
//! member gets every offset once, or is stopped and told by [`Signal::Gap`](crate::link::Signal::Gap): there is no silent gap. Every
//! queue and buffer is bounded. Nothing here waits.
//!
//! Lock order: channel map, members, link. The queue lock is taken alone.

mod channel;
mod delivery;
mod membership;
mod positions;
mod stream;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    hash::BuildHasher,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};
use parking_lot::{Mutex, RwLock};
use tidegate_protocol::{Codec, Framing, Publication, StreamPosition};
use tokio::{
    sync::Notify,
    time::{Duration, Instant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::membership::{Activation, Buffered, BufferedPublication, Joined, Membership};
use self::stream::{Advance, Epoch};
pub(crate) use self::{
    channel::{AppCounters, Channel, MemberPosition, Reception, Run},
    delivery::{Delivery, NUM_ENCODINGS, encoding_index},
    positions::{Comparison, Doubts},
    stream::Known,
};
use crate::{
    broker::{BrokerEvents, Doubt, JoinLeave},
    flusher,
    ids::{ChannelKey, ClientId},
    link::{DEFAULT_OUTBOX_BYTES, Link, LinkIdentity, ShardId, Wire},
    wheel::{TICK, Wheel},
};

/// Bytes of publications that wait for one shard's flusher. At the bound the event is not queued, and every
/// member that would have got it is told so ([`Signal::Gap`](crate::link::Signal::Gap)).
pub const DEFAULT_QUEUE_BYTES: usize = 16 * 1024 * 1024;

/// How long a channel without members keeps its place in the broker, so that a client that reconnects at once
/// costs the broker nothing. The reference's value.
pub const DEFAULT_LINGER: Duration = Duration::from_secs(1);

/// Parts of the channel map, so that joins of different channels rarely meet.
const MAP_PARTS: usize = 64;

type ChannelListener = Box<dyn Fn(&ChannelKey) + Send + Sync>;

/// How the hub is set up.
#[derive(Debug, Clone)]
pub struct HubConfig {
    /// As many as there are worker threads.
    pub shards: usize,
    pub queue_bytes: usize,
    /// Bound of each session's outbox.
    pub outbox_bytes: usize,
    pub linger: Duration,
}

impl Default for HubConfig {
    fn default() -> Self {
        Self {
            shards: std::thread::available_parallelism().map_or(1, usize::from),
            queue_bytes: DEFAULT_QUEUE_BYTES,
            outbox_bytes: DEFAULT_OUTBOX_BYTES,
            linger: DEFAULT_LINGER,
        }
    }
}

/// The channels of a node and the shards that serve their members.
pub struct Hub {
    config: HubConfig,
    hasher: DefaultHashBuilder,
    /// Channels by hash of their key. A channel is here from its first join until it has been without members
    /// for the linger time.
    channels: Box<[RwLock<HashTable<Arc<Channel>>>]>,
    num_channels: AtomicUsize,
    /// By app; an app that ever had a channel keeps its counters: they are few.
    apps: RwLock<HashMap<Box<str>, Arc<AppCounters>>>,
    pub(crate) shards: Box<[Shard]>,
    next_shard: AtomicUsize,
    /// Channels whose last member left, with the time; a channel is here at most once.
    vacant: Mutex<VecDeque<(Instant, Arc<Channel>)>>,
    when_vacant: OnceLock<ChannelListener>,
    when_occupied: OnceLock<ChannelListener>,
    /// What the position check looks at next.
    doubts: Doubts,
    pub(crate) counters: Counters,
}

/// A task of the hub; see [`Hub::services`].
pub type HubService = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The queue and the clock of the sessions that one flusher serves.
pub(crate) struct Shard {
    queue: Mutex<Queue>,
    pub(crate) wake: Notify,
    wheel: Wheel,
}

#[derive(Default)]
struct Queue {
    events: Vec<Arc<Delivery>>,
    num_bytes: usize,
    /// Channels of which an event was not queued. A channel is here at most once: it is marked.
    lost: Vec<Arc<Channel>>,
}

/// What a flusher takes off its queue at once.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) events: Vec<Arc<Delivery>>,
    /// To be resynchronised after the events: see [`flusher`].
    pub(crate) lost: Vec<Arc<Channel>>,
}

/// Counts of what the hub did since it was made.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) broadcasts: AtomicU64,
    pub(crate) deliveries: AtomicU64,
    pub(crate) queue_overflows: AtomicU64,
    pub(crate) gaps: AtomicU64,
}

/// A snapshot of the hub's counters and sizes, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HubStatistics {
    pub num_channels: usize,
    pub broadcasts: u64,
    pub deliveries: u64,
    /// Events that found a shard's queue full.
    pub queue_overflows: u64,
    /// Memberships that were stopped because a publication was missing.
    pub gaps: u64,
    /// Bytes that wait for the flushers now.
    pub queued_bytes: usize,
}

impl Hub {
    pub fn new(config: HubConfig) -> Arc<Self> {
        let now = Instant::now();
        let num_shards = config.shards.clamp(1, usize::from(u16::MAX));
        Arc::new(Self {
            hasher: DefaultHashBuilder::default(),
            channels: (0..MAP_PARTS).map(|_| RwLock::default()).collect(),
            num_channels: AtomicUsize::new(0),
            apps: RwLock::default(),
            shards: (0..num_shards)
                .map(|_| Shard {
                    queue: Mutex::default(),
                    wake: Notify::new(),
                    wheel: Wheel::new(now),
                })
                .collect(),
            next_shard: AtomicUsize::new(0),
            vacant: Mutex::default(),
            when_vacant: OnceLock::new(),
            when_occupied: OnceLock::new(),
            doubts: Doubts::default(),
            counters: Counters::default(),
            config,
        })
    }

    /// Names who is told that a channel has had no member for the linger time, usually to unsubscribe the
    /// broker. Called with the channel's map part locked, so that the next join comes after it: it must not
    /// block and not call the hub. Only the first call has an effect.
    pub fn when_vacant(&self, told: impl Fn(&ChannelKey) + Send + Sync + 'static) {
        let _ = self.when_vacant.set(Box::new(told));
    }

    /// Names who is told that a channel has its first member, under the same terms: the two are told of a channel
    /// in turns.
    pub fn when_occupied(&self, told: impl Fn(&ChannelKey) + Send + Sync + 'static) {
        let _ = self.when_occupied.set(Box::new(told));
    }

    /// Starts a flusher per shard and the wheel, for whoever does not watch over them.
    pub fn run(self: &Arc<Self>, tracker: &TaskTracker, stop: &CancellationToken) {
        for (_, service) in self.services(stop) {
            tracker.spawn(service);
        }
    }

    /// What must run for as long as the hub is used, until `stop`: a flusher per shard and the wheel. When one of
    /// them ends before, sessions are deaf and deadlines pass.
    pub fn services(self: &Arc<Self>, stop: &CancellationToken) -> Vec<(&'static str, HubService)> {
        let mut services: Vec<(&'static str, HubService)> = Vec::new();
        for shard in 0..self.shards.len() {
            let flusher = flusher::run(Arc::clone(self), shard, stop.clone());
            services.push(("flusher", Box::pin(flusher)));
        }
        let wheel = turn_wheels(Arc::clone(self), stop.clone());
        services.push(("wheel", Box::pin(wheel)));
        services
    }

    /// Makes the link of a new session and gives it to a shard.
    pub fn link<W: Wire>(
        &self,
        client: ClientId,
        codec: Codec,
        framing: Framing,
        wire: W,
    ) -> Arc<Link<W>> {
        let next = self.next_shard.fetch_add(1, Ordering::Relaxed) % self.shards.len();
        let identity = LinkIdentity {
            client,
            shard: ShardId(u16::try_from(next).unwrap_or(0)),
            codec,
            framing,
            outbox_bytes: self.config.outbox_bytes,
        };
        Link::new(identity, wire)
    }

    /// Has `link` get [`Signal::Deadline`](crate::link::Signal::Deadline) at `at` or at most one
    /// [`TICK`] later. A link has one deadline; a new one replaces the old.
    pub fn schedule(&self, link: &Arc<Link>, at: Instant) {
        self.shard_of(link).wheel.schedule(link, at);
    }

    /// Takes the deadline of `link` away.
    pub fn unschedule(&self, link: &Link) {
        self.shard_of(link).wheel.cancel(link);
    }

    /// Makes `link` a member of the channel. Publications are kept back for it until
    /// [`Membership::activate`].
    pub fn join(self: &Arc<Self>, key: &ChannelKey, link: &Arc<Link>) -> Joined {
        let channel = self.enter(key);
        let is_first = !channel.is_carried();
        let shard = link.shard().0;
        let slot = channel.members(usize::from(shard)).insert(Arc::clone(link));
        Joined {
            membership: Membership::new(Arc::clone(self), channel, shard, slot),
            is_first,
        }
    }

    /// Hands a publication to every member of the channel on this node. Never waits; encodes at most once per
    /// codec and framing, in the first flusher that needs it.
    pub fn broadcast(
        &self,
        key: &ChannelKey,
        publication: &Arc<Publication>,
        position: Option<&StreamPosition>,
    ) {
        let Some(channel) = self.find(key) else {
            return;
        };
        self.counters.broadcasts.fetch_add(1, Ordering::Relaxed);
        let advance = position.map_or(Advance::Deliver(Epoch::Same), |position| {
            channel.advance(position)
        });
        let epoch = match advance {
            Advance::Deliver(epoch) => epoch,
            Advance::Forked => {
                self.doubt(&channel);
                return;
            }
        };
        let delivery = Delivery::new(channel, publication, position, epoch);
        self.enqueue(&Arc::new(delivery));
    }

    /// Tells the members that listen of a join or a leave, behind what was broadcast before. Where a queue is full
    /// it is left out: nobody's position depends on it.
    pub fn broadcast_join_leave(&self, key: &ChannelKey, event: &JoinLeave) {
        if let Some(channel) = self.find(key) {
            self.enqueue(&Arc::new(Delivery::of_join_leave(channel, event.clone())));
        }
    }

    /// Puts a delivery on the queue of every shard that has members of its channel.
    fn enqueue(&self, delivery: &Arc<Delivery>) {
        for (index, shard) in self.shards.iter().enumerate() {
            let has_members = delivery
                .channel
                .existing_members(index)
                .is_some_and(|members| !members.is_empty());
            if !has_members {
                continue;
            }
            if !shard.enqueue(index, delivery, self.config.queue_bytes) {
                self.counters
                    .queue_overflows
                    .fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn find(&self, key: &ChannelKey) -> Option<Arc<Channel>> {
        let hash = self.hasher.hash_one(key);
        let part = self.part(hash).read();
        part.find(hash, |channel| channel.key == *key)
            .map(Arc::clone)
    }

    /// Channels known to the node, lingering ones included.
    pub fn num_channels(&self) -> usize {
        self.num_channels.load(Ordering::Relaxed)
    }

    /// Members of a channel on this node.
    pub fn num_members(&self, key: &ChannelKey) -> usize {
        self.find(key).map_or(0, |channel| channel.num_members())
    }

    /// Channels of an app with members on this node, and their members.
    pub fn num_channels_and_members_of(&self, app: &str) -> (usize, usize) {
        let apps = self.apps.read();
        apps.get(app).map_or((0, 0), |counters| counters.read())
    }

    /// The channels of an app that have members on this node, with their number of members. Other tasks run
    /// meanwhile, and what they change may be seen or not.
    pub async fn channels_of(&self, app: &str) -> Vec<(ChannelKey, usize)> {
        let mut channels = Vec::new();
        let counters = self.apps.read().get(app).cloned();
        let Some(counters) = counters else {
            return channels;
        };
        for part in &self.channels {
            {
                let part = part.read();
                channels.extend(
                    part.iter()
                        .filter(|channel| channel.is_of(&counters) && channel.num_members() > 0)
                        .map(|channel| (channel.key.clone(), channel.num_members())),
                );
            }
            tokio::task::yield_now().await;
        }
        channels
    }

    pub fn statistics(&self) -> HubStatistics {
        HubStatistics {
            num_channels: self.num_channels(),
            broadcasts: self.counters.broadcasts.load(Ordering::Relaxed),
            deliveries: self.counters.deliveries.load(Ordering::Relaxed),
            queue_overflows: self.counters.queue_overflows.load(Ordering::Relaxed),
            gaps: self.counters.gaps.load(Ordering::Relaxed),
            queued_bytes: self.shards.iter().map(|s| s.queue.lock().num_bytes).sum(),
        }
    }

    pub(crate) fn count_deliveries(&self, delivered: u64) {
        self.counters
            .deliveries
            .fetch_add(delivered, Ordering::Relaxed);
    }

    pub(crate) fn count_gap(&self) {
        self.counters.gaps.fetch_add(1, Ordering::Relaxed);
    }

    /// Finds or makes the channel and counts one member more, under the map's lock: a channel that counts a
    /// member is never taken off the map.
    fn enter(&self, key: &ChannelKey) -> Arc<Channel> {
        let hash = self.hasher.hash_one(key);
        {
            let part = self.part(hash).read();
            if let Some(channel) = part.find(hash, |channel| channel.key == *key) {
                channel.add_member();
                return Arc::clone(channel);
            }
        }
        let counters = self.counters_of(key.app());
        let mut part = self.part(hash).write();
        if let Some(channel) = part.find(hash, |channel| channel.key == *key) {
            channel.add_member();
            return Arc::clone(channel);
        }
        let channel = Arc::new(Channel::new(key.clone(), counters, self.shards.len()));
        channel.add_member();
        part.insert_unique(hash, Arc::clone(&channel), |channel| {
            self.hasher.hash_one(&channel.key)
        });
        self.num_channels.fetch_add(1, Ordering::Relaxed);
        if let Some(told) = self.when_occupied.get() {
            told(key);
        }
        channel
    }

    fn counters_of(&self, app: &str) -> Arc<AppCounters> {
        if let Some(counters) = self.apps.read().get(app) {
            return Arc::clone(counters);
        }
        let mut apps = self.apps.write();
        Arc::clone(apps.entry(app.into()).or_default())
    }

    /// Counts a member less and, when it was the last, starts the linger time.
    fn leave(&self, channel: &Arc<Channel>) {
        if !channel.remove_member() {
            return;
        }
        let mut vacant = self.vacant.lock();
        if channel.start_lingering() {
            vacant.push_back((Instant::now(), Arc::clone(channel)));
        }
    }

    /// Takes channels off the map that had no member for the linger time.
    fn sweep_vacant(&self, now: Instant) {
        loop {
            let channel = {
                let mut vacant = self.vacant.lock();
                let is_over = vacant
                    .front()
                    .is_some_and(|(since, _)| now.duration_since(*since) >= self.config.linger);
                if !is_over {
                    return;
                }
                let Some((_, channel)) = vacant.pop_front() else {
                    return;
                };
                // From here on the next last member to leave starts a new linger time.
                channel.stop_lingering();
                channel
            };
            let hash = self.hasher.hash_one(&channel.key);
            let mut part = self.part(hash).write();
            if channel.num_members() > 0 {
                continue;
            }
            if let Ok(entry) = part.find_entry(hash, |known| Arc::ptr_eq(known, &channel)) {
                entry.remove();
                self.num_channels.fetch_sub(1, Ordering::Relaxed);
                if let Some(told) = self.when_vacant.get() {
                    told(&channel.key);
                }
            }
        }
    }

    fn part(&self, hash: u64) -> &RwLock<HashTable<Arc<Channel>>> {
        // The table uses the low bits and the highest seven.
        &self.channels[(hash >> 32) as usize % MAP_PARTS]
    }

    fn shard_of(&self, link: &Link) -> &Shard {
        &self.shards[usize::from(link.shard().0)]
    }
}

impl BrokerEvents for Hub {
    fn on_publication(
        &self,
        key: &ChannelKey,
        publication: &Arc<Publication>,
        position: Option<&StreamPosition>,
    ) {
        self.broadcast(key, publication, position);
    }

    fn on_join_leave(&self, key: &ChannelKey, event: &JoinLeave) {
        self.broadcast_join_leave(key, event);
    }

    fn is_followed(&self, key: &ChannelKey) -> bool {
        let hash = self.hasher.hash_one(key);
        let part = self.part(hash).read();
        part.find(hash, |channel| channel.key == *key).is_some()
    }

    fn on_doubt(&self, doubt: Doubt<'_>) {
        match doubt {
            Doubt::Everything => self.doubts.everything(),
            Doubt::Channel(key) => {
                if let Some(channel) = self.find(key) {
                    self.doubt(&channel);
                }
            }
        }
    }
}

impl Shard {
    /// Queues an event, or marks its channel as lost in this shard when the queue is full. Nothing more of a
    /// lost channel is queued until the flusher has taken note, so that members see no gap before they are
    /// told of it.
    fn enqueue(&self, index: usize, delivery: &Arc<Delivery>, limit: usize) -> bool {
        let mut queue = self.queue.lock();
        let members = delivery.channel.members(index);
        if members.is_lost() {
            return false;
        }
        let fits = queue.num_bytes + delivery.cost <= limit || queue.events.is_empty();
        if fits {
            queue.num_bytes += delivery.cost;
            queue.events.push(Arc::clone(delivery));
        } else if delivery.is_join_leave() {
            return false;
        } else {
            members.mark_lost();
            queue.lost.push(Arc::clone(&delivery.channel));
        }
        let is_first = queue.events.len() + queue.lost.len() == 1;
        drop(queue);
        if is_first {
            self.wake.notify_one();
        }
        fits
    }

    /// Takes everything queued, in exchange for the empty vectors of `batch`. Lost channels are unmarked here:
    /// what is published from now on is queued again, and reaches members only after they were stopped.
    pub(crate) fn take(&self, index: usize, batch: &mut Batch) {
        let mut queue = self.queue.lock();
        std::mem::swap(&mut queue.events, &mut batch.events);
        std::mem::swap(&mut queue.lost, &mut batch.lost);
        queue.num_bytes = 0;
        for channel in &batch.lost {
            channel.members(index).unmark_lost();
        }
    }
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub")
            .field("config", &self.config)
            .field("num_channels", &self.num_channels())
            .finish_non_exhaustive()
    }
}

/// Links looked at between two yields of the wheel's task.
const WHEEL_YIELD: usize = 256;

/// Fires deadlines and ends linger times, every [`TICK`].
async fn turn_wheels(hub: Arc<Hub>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            biased; // Stop wins, so that shutdown is prompt.
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let now = Instant::now();
        for shard in &hub.shards {
            for (count, link) in shard.wheel.due(now).into_iter().enumerate() {
                shard.wheel.look_at(&link);
                if count % WHEEL_YIELD == WHEEL_YIELD - 1 {
                    tokio::task::yield_now().await;
                }
            }
        }
        hub.sweep_vacant(now);
    }
}
