//! The cluster: which nodes there are, and what they ask of each other.
//!
//! Owns the messages between nodes, the registry of who is alive, and asks with their answers: an ask goes to
//! everybody, each node that was alive answers it, and whoever asked waits until a deadline and no longer. Knows
//! neither sessions nor channels: what an ask means is [`Node`]'s business. How bytes get from node to node is
//! behind [`Bus`]; a node without one is alone and pays nothing.
//!
//! Invariants. An order is carried out at most once by a node, and again sent to a node that is alive until it has
//! said that it did. Nobody waits longer than [`ASK_TIMEOUT`]. Bytes from the bus are parsed as hostile: what does
//! not fit is counted and has no effect. No lock is held while the bus is used.

mod asks;
mod gossip;
mod hearing;
mod message;
mod metrics;
mod registry;
#[cfg(any(test, feature = "testing"))]
pub mod test_bus;

use std::{
    fmt,
    sync::{Arc, OnceLock, Weak},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::{
    asks::Surveyed,
    message::{Announcement, AppCounts, Blob, Greeting, Order, Query, Reply},
    registry::Peer as OtherNode,
};
use self::{
    asks::{Asks, Begun, Repeats},
    hearing::Hearing,
    message::{Ask, AskHead, Message, NodeAnswer, What},
    registry::Registry,
};
pub use self::{
    gossip::Gossip,
    metrics::{ClusterCollector, ClusterMetrics},
};
use crate::{broker::BrokerError, hooks::Progress, ids::AppId, node::Node};

/// How often a node says that it is there; the reference's value.
pub const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(3);

/// A node that was not heard of for so long is forgotten: two announcements missed, and a bit.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(7);

/// Longest wait for the answers of other nodes. They take milliseconds; a node that takes longer is in trouble, and
/// whoever called the server API has a timeout of its own.
pub const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// Time after which an order is sent again to a node that has not answered it.
const RESEND_AFTER: Duration = Duration::from_millis(500);

/// How long an order is sent again to a node that lives and does not answer.
const ORDER_LIFE: Duration = Duration::from_secs(60);

/// Asks that wait for answers at a time; more is a node that the others do not hear.
const MAX_ASKS: usize = 10_000;

/// Bytes of asks that wait for answers.
const MAX_ASK_BYTES: usize = 64 * 1024 * 1024;

/// Shortest time between two greetings of nodes that are not known.
const GREET_AGAIN: Duration = Duration::from_millis(100);

/// Time that a node takes at most for telling the others that it leaves.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// Time between two attempts to begin listening.
const ATTACH_AGAIN: Duration = Duration::from_secs(1);

/// Name of a node: unlike that of any other, and new after a restart.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeUid(Arc<str>);

impl NodeUid {
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4().to_string().into())
    }

    /// Parses the hyphenated form; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let uid = uuid::Uuid::try_parse(text).ok()?;
        Some(Self(uid.hyphenated().to_string().into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node:{}", self.0)
    }
}

/// Whom a message is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recipient {
    /// Every node; whether the sender is among them does not matter.
    Everyone,
    Node(NodeUid),
}

/// Carries messages between the nodes of a cluster: at most once, and from one node in the order in which they were
/// sent, as far as they arrive.
pub trait Bus: Send + Sync + 'static {
    /// Begins to hand over what is sent to everyone and to `uid`. Called until it has succeeded once; from then on
    /// the bus keeps listening by itself.
    fn attach(
        &self,
        uid: &NodeUid,
        events: Weak<dyn BusEvents>,
    ) -> Progress<Result<(), BrokerError>>;

    /// Sends a message. The answer says that it left, not that anybody got it, and comes within five seconds.
    fn send(&self, to: Recipient, payload: Bytes) -> Progress<Result<(), BrokerError>>;
}

/// Receives what a [`Bus`] carries. Must not block.
pub trait BusEvents: Send + Sync + 'static {
    fn on_message(&self, payload: Bytes);
}

/// A node's place in its cluster.
pub struct Cluster {
    uid: NodeUid,
    node: Weak<Node>,
    bus: Arc<dyn Bus>,
    metrics: ClusterMetrics,
    core: Mutex<Core>,
    hearing: Arc<Mutex<Hearing>>,
    /// The next deadline may be earlier than the service knows.
    changed: Notify,
    /// Who merges what the other nodes share. Set once, before the service runs.
    gossip: OnceLock<Weak<dyn Gossip>>,
}

struct Core {
    registry: Registry,
    asks: Asks,
    repeats: Repeats,
    /// When a node that is not known was greeted last.
    greeted_at: Option<Instant>,
}

impl Cluster {
    pub(crate) fn new(
        node: &Arc<Node>,
        uid: NodeUid,
        bus: Arc<dyn Bus>,
        metrics: ClusterMetrics,
    ) -> Arc<Self> {
        Arc::new(Self {
            core: Mutex::new(Core {
                registry: Registry::new(uid.clone()),
                asks: Asks::default(),
                repeats: Repeats::default(),
                greeted_at: None,
            }),
            hearing: Arc::default(),
            uid,
            node: Arc::downgrade(node),
            bus,
            metrics,
            changed: Notify::new(),
            gossip: OnceLock::new(),
        })
    }

    /// Listens and announces until `stop`, and says then that the node leaves.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        if !self.attach(&stop).await {
            return;
        }
        self.announce(Greeting::Hello);
        let mut announce_at = Instant::now() + ANNOUNCE_INTERVAL;
        loop {
            let next = {
                let core = self.core.lock();
                let dues = [core.registry.next_due(), core.asks.next_due()];
                dues.into_iter().flatten().fold(announce_at, Instant::min)
            };
            tokio::select! {
                biased; // Stop wins, so that shutdown is prompt.
                () = stop.cancelled() => break,
                () = self.changed.notified() => {}
                () = tokio::time::sleep_until(next) => {}
            }
            self.tick();
            if Instant::now() >= announce_at {
                self.announce(Greeting::Again);
                announce_at = Instant::now() + ANNOUNCE_INTERVAL;
            }
        }
        let leave = Message::Leave.encode(&self.uid);
        let sent = self.bus.send(Recipient::Everyone, leave).wait();
        if !matches!(tokio::time::timeout(LEAVE_TIMEOUT, sent).await, Ok(Ok(()))) {
            tracing::debug!("the other nodes were not told that this one leaves; they find out");
        }
    }

    async fn attach(self: &Arc<Self>, stop: &CancellationToken) -> bool {
        let events: Arc<dyn BusEvents> = Arc::clone(self) as Arc<dyn BusEvents>;
        let mut is_told = false;
        loop {
            let attached = self.bus.attach(&self.uid, Arc::downgrade(&events)).wait();
            tokio::select! {
                biased; // Stop wins, so that shutdown is prompt.
                () = stop.cancelled() => return false,
                attached = attached => match attached {
                    Ok(()) => return true,
                    Err(error) => {
                        self.hearing.lock().hears_nothing();
                        if !is_told {
                            is_told = true;
                            tracing::warn!(%error, "the other nodes cannot be heard yet; trying again");
                        }
                    }
                },
            }
            tokio::select! {
                () = stop.cancelled() => return false,
                () = tokio::time::sleep(ATTACH_AGAIN) => {}
            }
        }
    }

    /// The other nodes that are alive, by their name.
    pub(crate) fn others(&self) -> Vec<OtherNode> {
        self.core.lock().registry.alive()
    }

    /// Whether another node is alive, by what it says itself.
    pub(crate) fn hears(&self, node: &NodeUid) -> bool {
        self.core.lock().registry.knows(node)
    }

    /// How many nodes are alive, this one included.
    pub fn num_nodes(&self) -> usize {
        self.core.lock().registry.num_others() + 1
    }

    /// Has every other node carry an order out; the answer is there when all that are alive have, or at the
    /// deadline. Who has not by then is told again.
    pub(crate) fn order(
        self: &Arc<Self>,
        app: &AppId,
        order: Order,
    ) -> Progress<Result<(), BrokerError>> {
        let asked = self.ask(app, What::Order(Box::new(order)));
        asked.map(|surveyed| surveyed.map(|_| ()))
    }

    /// As [`Cluster::order`], but the answer only says that the order left. A message to users is sent once, as a push
    /// is; any other order is sent again to who does not acknowledge it.
    pub(crate) fn tell(
        self: &Arc<Self>,
        app: &AppId,
        order: Order,
    ) -> Progress<Result<(), BrokerError>> {
        if !order.is_acknowledged() {
            let id = self.core.lock().asks.next_id();
            let head = AskHead {
                id,
                app: app.as_str().to_owned(),
            };
            let what = What::Order(Box::new(order));
            let payload = Message::Ask(Box::new(Ask { head, what })).encode(&self.uid);
            return self.bus.send(Recipient::Everyone, payload);
        }
        match self.begin(app, What::Order(Box::new(order))) {
            Ok(begun) => self.bus.send(Recipient::Everyone, begun.payload),
            Err(error) => Progress::Ready(Err(error)),
        }
    }

    /// Asks every other node that is alive. One that knows of nobody else asks too: only so it notices that it is cut
    /// off, and not alone.
    ///
    /// # Errors
    /// Also while there may be nodes that this one does not know, because the bus was away.
    pub(crate) fn survey(
        self: &Arc<Self>,
        app: &AppId,
        query: Query,
    ) -> Progress<Result<Surveyed, BrokerError>> {
        if self.hearing.lock().is_partial(Instant::now()) {
            return Progress::Ready(Err(BrokerError::Unavailable));
        }
        self.ask(app, What::Query(query))
    }

    fn begin(&self, app: &AppId, what: What) -> Result<Begun, BrokerError> {
        let is_order = matches!(what, What::Order(_));
        let mut core = self.core.lock();
        let core = &mut *core;
        let id = core.asks.next_id();
        let ask = Ask {
            head: AskHead {
                id,
                app: app.as_str().to_owned(),
            },
            what,
        };
        let payload = Message::Ask(Box::new(ask)).encode(&self.uid);
        let others = core.registry.alive_uids();
        let begun = core.asks.begin(payload, others, is_order, Instant::now());
        self.changed.notify_one();
        begun
    }

    fn ask(self: &Arc<Self>, app: &AppId, what: What) -> Progress<Result<Surveyed, BrokerError>> {
        let begun = match self.begin(app, what) {
            Ok(begun) => begun,
            Err(error) => return Progress::Ready(Err(error)),
        };
        self.metrics.asks.inc();
        let sent = self.bus.send(Recipient::Everyone, begun.payload);
        let cluster = Arc::clone(self);
        Progress::Pending(Box::pin(async move {
            if let Err(error) = sent.wait().await {
                cluster.core.lock().asks.withdraw(begun.id);
                return Err(error);
            }
            // The service ends before its asks do when the node stops.
            let surveyed = begun.surveyed.await;
            let surveyed = surveyed.map_err(|_| BrokerError::Unavailable)?;
            for node in &surveyed.silent {
                cluster.metrics.unanswered.inc();
                tracing::warn!(%node, "a node did not answer in time");
            }
            Ok(surveyed)
        }))
    }

    fn tick(&self) {
        let now = Instant::now();
        let mut forgotten = Vec::new();
        let resent = {
            let mut core = self.core.lock();
            for gone in core.registry.forget(now) {
                tracing::warn!(node.id = %gone.uid, node.name = gone.announcement.name, "a node was not heard of for 7 s and is forgotten");
                core.asks.forgotten(&gone.uid);
                core.repeats.forgotten(&gone.uid, now);
                forgotten.push(gone.uid);
            }
            core.repeats.tick(now);
            core.asks.tick(now)
        };
        if !forgotten.is_empty() {
            self.hearing.lock().forgot();
        }
        if let Some(gossip) = self.gossiping() {
            forgotten.iter().for_each(|node| gossip.on_gone(node));
        }
        for (node, payload) in resent {
            self.metrics.resent.inc();
            self.post(Recipient::Node(node), payload);
        }
    }

    fn announce(&self, greeting: Greeting) {
        self.announce_to(Recipient::Everyone, greeting);
    }

    fn announce_to(&self, to: Recipient, greeting: Greeting) {
        if let Some(node) = self.node.upgrade() {
            let mut announcement = node.announcement(greeting);
            let is_for_everyone = matches!(to, Recipient::Everyone);
            // They are many, and who was not told of them yet says Hello and is told alone.
            if is_for_everyone {
                announcement.metrics = node.new_metrics();
            }
            let hearing = Arc::clone(&self.hearing);
            let payload = Message::Announce(announcement).encode(&self.uid);
            self.post_then(to, payload, move |is_sent| {
                if is_for_everyone {
                    hearing.lock().announced(is_sent, Instant::now());
                }
            });
        }
    }

    /// Sends what nobody waits for.
    fn post(&self, to: Recipient, payload: Bytes) {
        self.post_then(to, payload, |_| {});
    }

    /// The same, and says whether it left.
    fn post_then(&self, to: Recipient, payload: Bytes, then: impl FnOnce(bool) + Send + 'static) {
        let metrics = self.metrics.clone();
        let count = move |sent: Result<(), BrokerError>| {
            then(sent.is_ok());
            if let Err(error) = sent {
                metrics.unsent.inc();
                tracing::debug!(%error, "a message to other nodes was not sent");
            }
        };
        match self.bus.send(to, payload).map(count) {
            Progress::Ready(()) => {}
            Progress::Pending(rest) => {
                if let Some(node) = self.node.upgrade() {
                    node.spawn(rest);
                }
            }
        }
    }

    fn on_announcement(&self, from: &NodeUid, announcement: Announcement) {
        let is_greeted = announcement.greeting == Greeting::Hello;
        let name = announcement.name.clone();
        let is_new = {
            let (mut core, now) = (self.core.lock(), Instant::now());
            let heard = core.registry.heard(from, announcement, now);
            if heard == registry::Heard::New {
                core.asks.is_back(from, now);
                core.repeats.is_back(from);
            }
            heard
        };
        match is_new {
            registry::Heard::New => {
                tracing::info!(node.id = %from, node.name = name, "a node has joined");
                self.changed.notify_one();
                if let Some(gossip) = self.gossiping() {
                    gossip.on_joined(from);
                }
            }
            registry::Heard::Known => {}
            registry::Heard::TooMany => {
                self.metrics.count_bad("too_many_nodes");
                return;
            }
        }
        if is_greeted {
            let to = Recipient::Node(from.clone());
            self.announce_to(to, Greeting::Again);
        }
    }

    fn on_leave(&self, from: &NodeUid) {
        let mut core = self.core.lock();
        if core.registry.left(from) {
            core.asks.left(from);
            core.repeats.left(from);
            drop(core);
            tracing::info!(node.id = %from, "a node has left");
            if let Some(gossip) = self.gossiping() {
                gossip.on_gone(from);
            }
        }
    }

    fn on_ask(&self, from: NodeUid, ask: Ask) {
        let Ask {
            head: AskHead { id, app },
            what,
        } = ask;
        let (Some(node), Ok(app)) = (self.node.upgrade(), AppId::parse(&app)) else {
            return;
        };
        if !self.is_known(&from) {
            return;
        }
        match what {
            What::Order(order) if !order.is_acknowledged() => node.carry_out(&app, &order),
            What::Order(order) => {
                let is_first = self.core.lock().repeats.is_first(&from, id);
                if is_first {
                    node.carry_out(&app, &order);
                }
                self.answer(from, id, Reply::Done);
            }
            What::Query(query) => {
                let Some(turn) = self.metrics.answering.begin() else {
                    self.metrics.count_bad("too_many_asks");
                    return;
                };
                let (bus, uid) = (Arc::clone(&self.bus), self.uid.clone());
                let (metrics, again) = (self.metrics.clone(), Arc::clone(&node));
                node.spawn(async move {
                    let replies = again.answer_query(&app, query).await;
                    let parts = u32::try_from(replies.len()).unwrap_or(u32::MAX);
                    for (part, reply) in (0..).zip(replies) {
                        let answer = NodeAnswer {
                            id,
                            part,
                            parts,
                            reply,
                        };
                        let payload = Message::Answer(answer).encode(&uid);
                        let sent = bus.send(Recipient::Node(from.clone()), payload);
                        if sent.wait().await.is_err() {
                            metrics.unsent.inc();
                            break;
                        }
                    }
                    drop(turn);
                });
            }
        }
    }

    /// Whether a node that asks something is in the registry. One that is not is greeted: it says then who it is, and
    /// sends again what matters.
    fn is_known(&self, from: &NodeUid) -> bool {
        let now = Instant::now();
        {
            let mut core = self.core.lock();
            if core.registry.knows(from) {
                return true;
            }
            self.metrics.count_bad("stranger");
            if core.greeted_at.is_some_and(|at| now < at + GREET_AGAIN) {
                return false;
            }
            core.greeted_at = Some(now);
        }
        self.announce_to(Recipient::Node(from.clone()), Greeting::Hello);
        false
    }

    fn answer(&self, to: NodeUid, id: u64, reply: Reply) {
        let answer = NodeAnswer {
            id,
            part: 0,
            parts: 1,
            reply,
        };
        self.post(
            Recipient::Node(to),
            Message::Answer(answer).encode(&self.uid),
        );
    }
}

impl BusEvents for Cluster {
    fn on_message(&self, payload: Bytes) {
        let (from, message) = match message::parse(&payload) {
            Ok(parsed) => parsed,
            Err(message::Unread::Strange(from, head)) => {
                self.metrics.count_bad("unknown_kind");
                // A newer node asks what this one does not know: it need not wait for the answer.
                if let Some(head) = head.filter(|_| from != self.uid) {
                    self.answer(from, head.id, Reply::Unknown);
                }
                return;
            }
            Err(message::Unread::Bad(reason)) => {
                self.metrics.count_bad(reason);
                tracing::debug!(reason, "a message of another node cannot be read");
                return;
            }
        };
        if from == self.uid {
            return;
        }
        match message {
            Message::Announce(announcement) => self.on_announcement(&from, announcement),
            Message::Leave => self.on_leave(&from),
            Message::Ask(ask) => self.on_ask(from, *ask),
            Message::Answer(answer) => self.core.lock().asks.answered(&from, answer),
            Message::Gossip(text) => self.on_gossip(&from, text),
        }
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("uid", &self.uid)
            .finish_non_exhaustive()
    }
}
