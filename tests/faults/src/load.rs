//! The load: publishers with one publish in flight each, subscribers that behave as the official SDKs do, a look at
//! every node's readiness, and an audit of every stream at the end.
//!
//! Owns what it writes into the [`Record`] and judges nothing.

mod api;
mod body;
mod publisher;
mod subscriber;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use parking_lot::Mutex;
use serde_json::json;
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::Instant,
};

pub use api::{Answer, Api};
pub use body::parse as parse_body;

use crate::{
    node::Balancer,
    record::{Attempt, Audit, Health, Position, Record, SubscriberLog},
};

/// Between two looks at the readiness of a node.
const HEALTH_INTERVAL: Duration = Duration::from_millis(250);

/// Publications in one page of the audit.
const PAGE: u64 = 500;

/// How much and how long.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    pub channels: u32,
    pub subscribers: u32,
    pub publishers: u32,
    /// Publishes per second of all publishers together.
    pub rate: u32,
    /// The longest delay of a reconnect; 20 s in the official SDKs.
    pub backoff_cap: Duration,
    /// The longest wait for the last subscribers to reach the top after the last publish.
    pub settle_within: Duration,
}

/// What all parts of a load share.
#[derive(Debug)]
struct Shared {
    options: LoadOptions,
    balancer: Arc<Balancer>,
    start: Instant,
    phase: watch::Sender<Phase>,
    /// By subscriber: the offset that it has reached, and whether it is subscribed.
    reached: Vec<Reached>,
    /// Somebody has moved on while the load settles.
    moved: Notify,
    /// How often every connection was cut.
    cuts: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Reached {
    /// Written by its subscriber alone.
    position: Mutex<Position>,
    /// Subscribes that succeeded.
    subscribed: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Subscribers come; nobody publishes.
    Opening,
    Publishing,
    /// Nobody publishes; subscribers catch up.
    Settling,
    Ended,
}

impl Shared {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Waits until the load has come so far.
    async fn reach(&self, wanted: Phase) {
        let mut phase = self.phase.subscribe();
        // The sender lives in `self`.
        let _ = phase.wait_for(|phase| *phase >= wanted).await;
    }

    fn channel(index: u32) -> String {
        format!("flow:{index}")
    }
}

/// A running load.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    publishers: JoinSet<Vec<Attempt>>,
    subscribers: JoinSet<(usize, SubscriberLog)>,
    health: JoinSet<Vec<Health>>,
    fault_at: Duration,
    healed_at: Duration,
}

impl Load {
    /// Connects every subscriber to a node, then begins to publish.
    ///
    /// # Errors
    /// Not every subscriber succeeds within two minutes.
    pub async fn start(options: LoadOptions, balancer: Arc<Balancer>) -> Result<Self> {
        let reached = (0..options.subscribers).map(|_| Reached::default());
        let shared = Arc::new(Shared {
            reached: reached.collect(),
            options,
            balancer,
            start: Instant::now(),
            phase: watch::Sender::new(Phase::Opening),
            moved: Notify::new(),
            cuts: watch::Sender::new(0),
        });
        let mut load = Self {
            publishers: JoinSet::new(),
            subscribers: JoinSet::new(),
            health: JoinSet::new(),
            fault_at: Duration::ZERO,
            healed_at: Duration::ZERO,
            shared: Arc::clone(&shared),
        };
        for index in 0..shared.options.subscribers {
            let subscribing = subscriber::run(index, Arc::clone(&shared));
            load.subscribers
                .spawn(async move { (index as usize, Box::pin(subscribing).await) });
        }
        load.all_subscribed().await?;
        for index in 0..shared.options.publishers {
            let shared = Arc::clone(&shared);
            load.publishers.spawn(publisher::run(index, shared));
        }
        for node in 0..shared.balancer.len() {
            load.health.spawn(watch_health(node, Arc::clone(&shared)));
        }
        shared.phase.send_replace(Phase::Publishing);
        Ok(load)
    }

    async fn all_subscribed(&self) -> Result<()> {
        const PATIENCE: Duration = Duration::from_secs(120);
        let all = async {
            loop {
                let moved = self.shared.moved.notified();
                let mut reached = self.shared.reached.iter();
                if reached.all(|reached| reached.subscribed.load(Ordering::Acquire) > 0) {
                    return;
                }
                moved.await;
            }
        };
        if tokio::time::timeout(PATIENCE, all).await.is_err() {
            let reached = self.shared.reached.iter();
            let missing = reached.filter(|one| one.subscribed.load(Ordering::Acquire) == 0);
            bail!("{} subscribers were not served", missing.count());
        }
        Ok(())
    }

    /// Lets it run.
    pub async fn run_for(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// The fault begins now.
    pub fn fault_begins(&mut self) {
        self.fault_at = self.shared.now();
        self.healed_at = self.fault_at;
    }

    /// Cuts every subscriber's connection, without a word to the server.
    pub fn cut_all(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// The cause of the fault is gone.
    pub fn healed(&mut self) {
        self.healed_at = self.shared.now();
    }

    /// Ends publishing, waits until every subscriber is at the top of its stream, or the time for that is over, audits
    /// the streams and gives the record.
    ///
    /// # Errors
    /// A stream cannot be read.
    pub async fn finish(mut self, effects: u64) -> Result<Record> {
        self.shared.phase.send_replace(Phase::Settling);
        let mut attempts = Vec::new();
        while let Some(log) = self.publishers.join_next().await {
            attempts.extend(log.context("a publisher panicked")?);
        }
        let audits = self.audit().await?;
        self.settle(&audits).await;
        self.shared.phase.send_replace(Phase::Ended);
        let mut subscribers = Vec::new();
        while let Some(log) = self.subscribers.join_next().await {
            subscribers.push(log.context("a subscriber panicked")?);
        }
        subscribers.sort_by_key(|(index, _)| *index);
        let mut health = Vec::new();
        while let Some(log) = self.health.join_next().await {
            health.extend(log.context("a look at the readiness panicked")?);
        }
        Ok(Record {
            attempts,
            subscribers: subscribers.into_iter().map(|(_, log)| log).collect(),
            audits,
            health,
            fault_at: self.fault_at,
            healed_at: self.healed_at,
            effects,
            leaves: None,
        })
    }

    async fn settle(&self, audits: &[Audit]) {
        let channels = self.shared.options.channels as usize;
        let is_at_top = |(index, reached): (usize, &Reached)| {
            let audit = &audits[index % channels];
            let position = reached.position.lock();
            position.offset == audit.top && (position.epoch == audit.epoch || audit.top == 0)
        };
        let all = async {
            loop {
                let moved = self.shared.moved.notified();
                if self.shared.reached.iter().enumerate().all(is_at_top) {
                    return;
                }
                moved.await;
            }
        };
        // Who is late is found by the checker.
        let _ = tokio::time::timeout(self.shared.options.settle_within, all).await;
    }

    async fn audit(&self) -> Result<Vec<Audit>> {
        let mut audits = Vec::new();
        for channel in 0..self.shared.options.channels {
            let audit = self.audit_of(channel).await;
            audits.push(audit.with_context(|| format!("the audit of channel {channel}"))?);
        }
        Ok(audits)
    }

    async fn audit_of(&self, channel: u32) -> Result<Audit> {
        let mut api = Api::new();
        let name = Shared::channel(channel);
        let mut living = None;
        for (_, addr) in self.shared.balancer.nodes_from(channel as usize) {
            if living.is_none() && api.is_ready(addr).await {
                living = Some(addr);
            }
        }
        let addr = living.context("no node is ready")?;
        let top = api
            .result(addr, "history", &json!({"channel": name, "limit": 0}))
            .await?;
        let epoch = top["epoch"].as_str().unwrap_or_default().to_owned();
        let mut audit = Audit {
            channel,
            top: top["offset"].as_u64().unwrap_or_default(),
            epoch,
            entries: Vec::new(),
        };
        let mut since = 0;
        while since < audit.top {
            let ask = json!({
                "channel": name, "limit": PAGE, "since": {"offset": since, "epoch": audit.epoch},
            });
            let page = api.result(addr, "history", &ask).await?;
            let publications = page["publications"].as_array().cloned().unwrap_or_default();
            if publications.is_empty() {
                break; // The checker finds that the end is missing.
            }
            for publication in publications {
                let offset = publication["offset"].as_u64().unwrap_or_default();
                let data = publication["data"].to_string();
                let body =
                    body::parse(data.as_bytes()).context("a publication that is not ours")?;
                audit.entries.push((offset, body));
                since = since.max(offset);
            }
        }
        Ok(audit)
    }
}

/// Looks at the readiness of a node until the load ends.
async fn watch_health(node: usize, shared: Arc<Shared>) -> Vec<Health> {
    let mut looks = Vec::new();
    let mut api = Api::new();
    let mut tick = tokio::time::interval(HEALTH_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut phase = shared.phase.subscribe();
    loop {
        tokio::select! {
            _ = phase.wait_for(|phase| *phase == Phase::Ended) => return looks,
            _ = tick.tick() => {}
        }
        let is_ready = match addr_of(&shared, node) {
            Some(addr) => api.is_ready(addr).await,
            None => false,
        };
        let at = shared.now();
        looks.push(Health { node, at, is_ready });
    }
}

fn addr_of(shared: &Shared, node: usize) -> Option<SocketAddr> {
    let nodes = shared.balancer.nodes_from(node);
    nodes
        .iter()
        .find(|(index, _)| *index == node)
        .map(|(_, addr)| *addr)
}
