//! What arrives from Redis: subscriptions, and the certainty that they still deliver.
//!
//! Owns one connection for subscriptions to each server (`line`), what is listened to (`registry`), the probe that
//! finds out whether what is published arrives (`probe`), and with it the engine's health. Does not read payloads:
//! they go to [`PubSubEvents`] as they came, those of one name in the order in which Redis sent them.
//!
//! Invariants. A subscribe is answered when Redis has confirmed it, or fails within five seconds. A connection that
//! ends, or over which a probe does not come back, is made anew, to wherever the primary is now; everything that was
//! listened to is subscribed again, and only then is told that something may have been lost. Nothing here holds a
//! lock while it calls out.

mod cluster;
mod line;
mod metrics;
mod probe;
mod registry;
mod resp;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tidegate_realtime::{
    broker::{BrokerError, EngineHealth},
    hooks::Progress,
    ids::ChannelKey,
};
use tokio::{sync::Notify, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::metrics::PubSubMetrics;
use self::{
    line::Line,
    registry::{LineId, Registry, Wanted},
};
use crate::{
    commands::{Pipe, Shards},
    config::{Address, RedisConfig},
    keeper,
    keys::{self, Keys},
};

/// Hears what Redis sends. Called on the connection's task: must not block, and may call [`Subscriptions`].
pub trait PubSubEvents: Send + Sync + 'static {
    /// A message on a pub/sub channel. Whoever can write to Redis may have sent it.
    fn on_payload(&self, name: &str, payload: Bytes);

    /// Messages on these may have been lost up to now, and are not from now on.
    fn on_lapse(&self, lapse: Lapse<'_>);
}

/// What may have missed something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lapse<'a> {
    /// One pub/sub channel, which moved.
    Name(&'a str),
    /// Everything that came over a connection.
    Everything,
}

/// All that this node listens to. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Subscriptions {
    shards: Arc<[Arc<Shard>]>,
    keys: Keys,
    io_timeout: Duration,
}

/// What subscriptions are made of.
pub struct SubscriptionParts<'a> {
    pub config: &'a RedisConfig,
    pub shards: &'a Shards,
    pub keys: Keys,
    /// Unlike that of any other node: it names the probes.
    pub node: &'a str,
    pub events: Arc<dyn PubSubEvents>,
    pub metrics: PubSubMetrics,
    pub tracker: &'a TaskTracker,
    pub stop: &'a CancellationToken,
}

/// One Redis or Cluster.
struct Shard {
    pipe: Pipe,
    keys: Keys,
    node: Box<str>,
    connect_timeout: Duration,
    events: Arc<dyn PubSubEvents>,
    metrics: PubSubMetrics,
    tracker: TaskTracker,
    stop: CancellationToken,
    registry: Mutex<Registry>,
    /// Taken alone, or before the registry's lock.
    lines: Mutex<HashMap<LineId, Arc<Line>>>,
    next_line: AtomicU64,
    /// A probe has come back: until then nobody knows whether anything ever will. Written by the lines.
    has_delivered: AtomicBool,
    /// Some names have no line.
    has_homeless: Notify,
}

impl Subscriptions {
    /// Starts to connect; waits for nothing. Connections are kept on `tracker` until `stop`.
    pub fn start(parts: SubscriptionParts<'_>) -> Self {
        let SubscriptionParts {
            config,
            shards,
            keys,
            node,
            events,
            metrics,
            tracker,
            stop,
        } = parts;
        let made = shards.all().iter().map(|pipe| {
            let shard = Arc::new(Shard {
                pipe: pipe.clone(),
                keys: keys.clone(),
                node: node.into(),
                connect_timeout: config.connect_timeout,
                events: Arc::clone(&events),
                metrics: metrics.clone(),
                tracker: tracker.clone(),
                stop: stop.clone(),
                registry: Mutex::default(),
                lines: Mutex::default(),
                next_line: AtomicU64::new(0),
                has_delivered: AtomicBool::new(false),
                has_homeless: Notify::new(),
            });
            if pipe.is_cluster() {
                let steered = Arc::clone(&shard);
                tracker.spawn(keeper::keep(
                    "lines of a cluster",
                    stop.clone(),
                    move || cluster::steer(Arc::clone(&steered)),
                    // The next look at the map finds every line that is missing and every name without one.
                    || {},
                ));
            } else {
                shard.open_line(None);
            }
            shard
        });
        Self {
            shards: made.collect(),
            keys,
            io_timeout: config.io_timeout,
        }
    }

    /// Listens to a channel; answered when Redis has confirmed it.
    pub fn subscribe(&self, channel: &ChannelKey) -> Progress<Result<(), BrokerError>> {
        self.want(self.of(channel), &self.keys.channel(channel))
    }

    pub fn unsubscribe(&self, channel: &ChannelKey) {
        self.of(channel).unwant(&self.keys.channel(channel));
    }

    /// Listens to a name of [`Keys`] that belongs to no channel, on the first shard.
    pub fn subscribe_plain(&self, name: &str) -> Progress<Result<(), BrokerError>> {
        self.want(&self.shards[0], name)
    }

    pub fn unsubscribe_plain(&self, name: &str) {
        self.shards[0].unwant(name);
    }

    /// Names listened to.
    pub fn num_names(&self) -> usize {
        let shards = self.shards.iter();
        shards.map(|shard| shard.registry.lock().len()).sum()
    }

    /// Whether what is published arrives, by the probes (threat model R4, invariant I9 of the fault list). A server of a
    /// Cluster that has no slots has nothing to deliver, and one that the others hold for dead delivers to nobody: a
    /// node that is deaf to these is as good as any other, and taking all of them off their balancer would end what
    /// the other servers still carry.
    pub fn health(&self) -> EngineHealth {
        let now = Instant::now();
        let is_deaf = |shard: &Arc<Shard>| {
            let lines = shard.lines.lock();
            let is_on_duty = |line: &&Arc<Line>| {
                let address = line.address.as_ref();
                address.is_none_or(|address| shard.pipe.is_on_duty(address))
            };
            let mut on_duty = lines.values().filter(is_on_duty).peekable();
            !shard.has_delivered.load(Ordering::Relaxed)
                || on_duty.peek().is_none()
                || on_duty.any(|line| line.is_deaf(now))
        };
        if self.shards.iter().any(is_deaf) {
            return EngineHealth::Unable(
                "what is published through Redis does not arrive at this node".into(),
            );
        }
        EngineHealth::Able
    }

    fn of(&self, channel: &ChannelKey) -> &Arc<Shard> {
        &self.shards[keys::shard(channel, self.shards.len())]
    }

    fn want(&self, shard: &Arc<Shard>, name: &str) -> Progress<Result<(), BrokerError>> {
        match shard.want(name) {
            Wanted::Live => Progress::Ready(Ok(())),
            Wanted::Waits(waits) => {
                let io_timeout = self.io_timeout;
                Progress::Pending(Box::pin(async move {
                    match tokio::time::timeout(io_timeout, waits).await {
                        Ok(Ok(())) => Ok(()),
                        // Not in time, or given up.
                        Err(_) | Ok(Err(_)) => Err(BrokerError::Unavailable),
                    }
                }))
            }
        }
    }
}

impl Shard {
    fn want(&self, name: &str) -> Wanted {
        let line = self.line_of(name);
        let wanted = self
            .registry
            .lock()
            .want(name, line.as_ref().map(|line| line.id));
        if let Wanted::Waits(_) = wanted {
            match line {
                Some(line) => line.wake.notify_one(),
                None => self.has_homeless.notify_one(),
            }
        }
        wanted
    }

    fn unwant(&self, name: &str) {
        let line = self.registry.lock().unwant(name);
        if let Some(line) = line.and_then(|line| self.line(line)) {
            line.wake.notify_one();
        }
    }

    fn line(&self, id: LineId) -> Option<Arc<Line>> {
        self.lines.lock().get(&id).cloned()
    }

    /// The line over which a name is heard; `None` while nobody knows.
    fn line_of(&self, name: &str) -> Option<Arc<Line>> {
        if self.pipe.is_cluster() {
            let address = self.pipe.primary_of(name)?;
            return self.line_to(&address);
        }
        self.lines.lock().values().next().cloned()
    }

    fn line_to(&self, address: &Address) -> Option<Arc<Line>> {
        let lines = self.lines.lock();
        let mut lines = lines.values();
        lines
            .find(|line| line.address.as_ref() == Some(address))
            .cloned()
    }

    /// Starts a line to a server of a Cluster, or to wherever the primary is.
    fn open_line(self: &Arc<Self>, address: Option<Address>) -> Arc<Line> {
        let id = LineId(self.next_line.fetch_add(1, Ordering::Relaxed));
        let line = Arc::new(Line::new(id, address, self.stop.child_token()));
        let mut lines = self.lines.lock();
        self.registry.lock().open_line(id);
        lines.insert(id, Arc::clone(&line));
        drop(lines);
        let (shard, kept) = (Arc::clone(self), Arc::clone(&line));
        let (fallen_shard, fallen) = (Arc::clone(self), Arc::clone(&line));
        self.tracker.spawn(keeper::keep(
            "line",
            line.stop.clone(),
            move || line::keep(Arc::clone(&shard), Arc::clone(&kept)),
            move || line::clean_up(&fallen_shard, &fallen),
        ));
        line
    }

    /// Ends a line; its names look for another one.
    fn close_line(&self, id: LineId) {
        let line = self.lines.lock().remove(&id);
        if let Some(line) = line {
            line.stop.cancel();
            self.registry.lock().close_line(id);
            self.has_homeless.notify_one();
        }
    }
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shard")
            .field("num_names", &self.registry.lock().len())
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for SubscriptionParts<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SubscriptionParts")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}
