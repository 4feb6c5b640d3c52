//! Events: what happened, told to plugins after the fact.
//!
//! Owns the kinds, who wants which, a queue for each observing plugin, and the delivery in batches. What must not be
//! lost (somebody left, a user came online) is kept and tried again; what is news is dropped when there is no room for
//! it. Decides nothing about sessions: they go on while an observer is slow, broken or gone.
//!
//! Invariants. Offering never waits and costs one relaxed load where no plugin wants the kind. Every queue is bounded
//! in bytes, each by itself, those of an app and all together. One plugin's trouble holds up no other plugin. Within a
//! plugin the order is that of offering, but for what is tried again after newer events had been dropped.
//!
//! At least once: an event of a kept kind may reach a plugin twice, with the same id. What the node cannot know is
//! whether a call that failed had done its work; and a call whose messages could not be published has not.

mod delivery;
mod elsewhere;
mod metrics;
mod queue;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwap;
use hashbrown::HashMap;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

pub(crate) use self::delivery::run;
use self::{
    delivery::Busy,
    elsewhere::Taken,
    queue::{Entry, Offered, Post, Room},
};
pub use self::{
    delivery::{BATCH, Untold},
    metrics::EventsMetrics,
    queue::{MAX_APP_BYTES, MAX_BYTES, MAX_KEPT_BYTES, MAX_NODE_BYTES, OWN_BYTES},
};
use crate::{
    hooks::Peer,
    ids::{AppId, ClientId},
    session::Now,
};

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventKind {
    /// A session was let in.
    Connected,
    /// A session that had been let in ended. Kept.
    Disconnected,
    /// A session has subscribed to a channel.
    Subscribed,
    /// A subscription ended, with its session or before. Kept.
    Unsubscribed,
    /// A message was published to a channel.
    Published,
    /// A channel has subscribers on this node now.
    Occupied,
    /// A channel has no subscribers on this node any more.
    Vacated,
    /// A user has a session in the cluster now. Kept.
    Online,
    /// A user has no session in the cluster any more. Kept.
    Offline,
}

impl EventKind {
    pub const ALL: [Self; 9] = [
        Self::Connected,
        Self::Disconnected,
        Self::Subscribed,
        Self::Unsubscribed,
        Self::Published,
        Self::Occupied,
        Self::Vacated,
        Self::Online,
        Self::Offline,
    ];

    /// The word used in WIT and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
            Self::Subscribed => "subscribed",
            Self::Unsubscribed => "unsubscribed",
            Self::Published => "published",
            Self::Occupied => "occupied",
            Self::Vacated => "vacated",
            Self::Online => "online",
            Self::Offline => "offline",
        }
    }

    /// Whether it is told at least once: somebody who is believed to be there and is not, or the other way round, is
    /// worse than a message that was not counted.
    pub fn is_kept(self) -> bool {
        match self {
            Self::Disconnected | Self::Unsubscribed | Self::Online | Self::Offline => true,
            Self::Connected
            | Self::Subscribed
            | Self::Published
            | Self::Occupied
            | Self::Vacated => false,
        }
    }

    /// Whether it says what a user is now, so that the last word about a user is worth all those before it.
    fn is_status(self) -> bool {
        match self {
            Self::Online | Self::Offline => true,
            Self::Connected
            | Self::Disconnected
            | Self::Subscribed
            | Self::Unsubscribed
            | Self::Published
            | Self::Occupied
            | Self::Vacated => false,
        }
    }

    fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// A set of kinds.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Kinds(u16);

impl Kinds {
    pub const NONE: Self = Self(0);

    pub fn with(self, kind: EventKind) -> Self {
        Self(self.0 | kind.bit())
    }

    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub fn has(self, kind: EventKind) -> bool {
        self.0 & kind.bit() != 0
    }

    /// Whether the two have a kind in common.
    pub fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn iter(self) -> impl Iterator<Item = EventKind> {
        EventKind::ALL
            .into_iter()
            .filter(move |kind| self.has(*kind))
    }
}

impl FromIterator<EventKind> for Kinds {
    fn from_iter<T: IntoIterator<Item = EventKind>>(kinds: T) -> Self {
        kinds.into_iter().fold(Self::NONE, Self::with)
    }
}

impl fmt::Debug for Kinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.iter().map(EventKind::as_str))
            .finish()
    }
}

/// Kinds that are about subscriptions, which a session notes only while somebody wants one of them.
pub(crate) const OF_SUBSCRIPTIONS: Kinds =
    Kinds(1 << EventKind::Subscribed as u16 | 1 << EventKind::Unsubscribed as u16);

/// Names an event, however often and by whichever node it is told. Text form: 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct EventId(u128);

impl EventId {
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// Reads the text form.
    pub fn parse(text: &str) -> Option<Self> {
        let is_ours = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_ours.then(|| u128::from_str_radix(text, 16).ok().map(Self))?
    }

    /// The id of what these words name, for an event that more than one node may tell.
    pub fn of(words: &[&str]) -> Self {
        let mut digest = Sha256::new();
        for word in words {
            // With its length, so that other words never give the same bytes.
            digest.update((word.len() as u64).to_le_bytes());
            digest.update(word);
        }
        let mut id = [0; 16];
        id.copy_from_slice(&digest.finalize()[..16]);
        Self(u128::from_be_bytes(id))
    }

    /// The id of the one end that a session has, the same on the node it was on and on one that outlived that.
    pub fn of_disconnect(client: ClientId) -> Self {
        /// Any number: it keeps the id apart from those of the session's other events.
        const END: u128 = 0x6469_7363_6f6e_6e65_6374_6564_2e2e_2e2e;
        Self(client.as_u128() ^ END)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "event:{self}")
    }
}

/// One thing that happened. What does not apply is empty or zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub id: EventId,
    pub kind: EventKind,
    /// Unix milliseconds.
    pub at_ms: u64,
    /// Empty for an anonymous client, and where nobody did it.
    pub user: Arc<str>,
    pub client: Option<ClientId>,
    pub channel: Arc<str>,
    /// Why a session or a subscription ended; see the registry of codes.
    pub code: u32,
    pub reason: Arc<str>,
    /// Plugins in a row that made the message, so that one that publishes what it is told of ends its circle.
    pub hops: u8,
}

impl Event {
    /// An event of now with an id of its own.
    pub fn new(kind: EventKind) -> Self {
        let nothing = Arc::<str>::default();
        Self {
            id: EventId::random(),
            kind,
            at_ms: Now::read().unix_millis,
            user: Arc::clone(&nothing),
            client: None,
            channel: Arc::clone(&nothing),
            code: 0,
            reason: nothing,
            hops: 0,
        }
    }

    /// The event of a session.
    pub fn of_peer(kind: EventKind, peer: &Peer) -> Self {
        Self {
            user: Arc::clone(&peer.user),
            client: Some(peer.client),
            ..Self::new(kind)
        }
    }

    /// The event of a user.
    pub fn of_user(kind: EventKind, user: &str) -> Self {
        Self {
            user: user.into(),
            ..Self::new(kind)
        }
    }

    /// Bytes that it takes in a queue.
    fn cost(&self) -> usize {
        size_of::<Entry>() + self.user.len() + self.channel.len() + self.reason.len()
    }
}

/// A plugin that observes an app, and what it wants to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observer {
    pub plugin: Arc<str>,
    pub kinds: Kinds,
}

/// What is done once every observer has taken an event, or it was given up. Dropped without being done where there was
/// no room for the event, so that it can be offered again, and on a node that stops before.
pub type Then = Box<dyn FnOnce() + Send>;

/// The events of a node.
pub struct Events {
    desks: ArcSwap<HashMap<AppId, Arc<Desk>>>,
    shared: Arc<Shared>,
}

/// What all queues of the node share.
struct Shared {
    /// Bytes that all queues take.
    num_bytes: Arc<AtomicUsize>,
    /// Posts that got their first event; each is here at most once.
    ready: Mutex<Vec<Arc<Post>>>,
    wake: Notify,
    /// Ends every wait for more.
    draining: CancellationToken,
    busy: Busy,
    metrics: EventsMetrics,
}

/// An app's part: who wants what.
pub struct Desk {
    app: AppId,
    /// What any observer wants; the one thing that is looked at where nobody does.
    wanted: AtomicU16,
    posts: ArcSwap<Vec<Arc<Post>>>,
    room: Arc<Room>,
    /// What some of them took of events that others did not.
    taken: Taken,
    shared: Arc<Shared>,
}

impl Events {
    pub fn new(metrics: EventsMetrics) -> Arc<Self> {
        Arc::new(Self {
            desks: ArcSwap::default(),
            shared: Arc::new(Shared {
                num_bytes: Arc::default(),
                ready: Mutex::default(),
                wake: Notify::new(),
                draining: CancellationToken::new(),
                busy: Busy::default(),
                metrics,
            }),
        })
    }

    /// The app's part; made when it is first asked for.
    pub(crate) fn desk(&self, app: &AppId) -> Arc<Desk> {
        if let Some(desk) = self.desks.load().get(app) {
            return Arc::clone(desk);
        }
        let fresh = Arc::new(Desk {
            app: app.clone(),
            wanted: AtomicU16::new(0),
            posts: ArcSwap::default(),
            room: Arc::new(Room::new(&self.shared.num_bytes)),
            taken: Taken::default(),
            shared: Arc::clone(&self.shared),
        });
        let before = self.desks.rcu(|desks| {
            let mut desks = HashMap::clone(desks);
            desks
                .entry(app.clone())
                .or_insert_with(|| Arc::clone(&fresh));
            desks
        });
        before.get(app).map_or(fresh, Arc::clone)
    }

    /// Tells whoever wants it. Never waits.
    pub fn offer(&self, app: &AppId, event: Event) {
        if let Some(desk) = self.desks.load().get(app) {
            desk.offer(event);
        }
    }

    /// The same, with something to be done when it was told, or at once if nobody wants it; see [`Then`].
    pub fn offer_then(&self, app: &AppId, event: Event, then: Then) {
        match self.desks.load().get(app) {
            Some(desk) => desk.offer_then(event, then),
            None => then(),
        }
    }

    /// Tells whoever wants it and has not taken it at once; see [`Node::deliver_events`].
    ///
    /// [`Node::deliver_events`]: crate::node::Node::deliver_events
    pub(crate) fn offer_untaken(&self, app: &AppId, event: Event) {
        if let Some(desk) = self.desks.load().get(app) {
            desk.offer_untaken(event);
        }
    }

    /// Whether any plugin of the app wants to be told of this kind.
    pub fn is_wanted(&self, app: &str, kind: EventKind) -> bool {
        let desks = self.desks.load();
        desks.get(app).is_some_and(|desk| desk.wants(kind))
    }

    /// Tells of a channel's first or last subscriber on this node.
    pub(crate) fn offer_of_channel(&self, app: &str, channel: &str, kind: EventKind) {
        let desks = self.desks.load();
        let Some(desk) = desks.get(app).filter(|desk| desk.wants(kind)) else {
            return;
        };
        desk.offer(Event {
            channel: channel.into(),
            ..Event::new(kind)
        });
    }

    /// Takes over who observes from now on. What waits for a plugin that observes no more is dropped.
    pub fn replace_observers(&self, observers: &BTreeMap<AppId, Vec<Observer>>) {
        for app in observers.keys() {
            self.desk(app);
        }
        for (app, desk) in self.desks.load().iter() {
            desk.replace(observers.get(app).map_or(&[], Vec::as_slice));
        }
    }

    /// Events that wait, of all apps.
    pub fn num_queued(&self) -> usize {
        let desks = self.desks.load();
        let posts = desks.values().map(|desk| desk.posts.load());
        posts
            .map(|posts| posts.iter().map(|post| post.len()).sum::<usize>())
            .sum()
    }
}

impl Shared {
    /// Has somebody deliver what waits for a plugin.
    fn work_on(&self, post: &Arc<Post>) {
        self.busy.add();
        self.ready.lock().push(Arc::clone(post));
        self.wake.notify_one();
    }
}

impl Desk {
    /// A desk of nobody, for apps outside a node.
    pub(crate) fn unattended(app: &AppId) -> Arc<Self> {
        Events::new(EventsMetrics::default()).desk(app)
    }

    /// Whether any plugin of the app wants to be told of this kind.
    #[inline]
    pub(crate) fn wants(&self, kind: EventKind) -> bool {
        self.wanted().has(kind)
    }

    /// What any plugin of the app wants.
    #[inline]
    pub(crate) fn wanted(&self) -> Kinds {
        // Relaxed: an event at the moment of a change may be told or not.
        Kinds(self.wanted.load(Ordering::Relaxed))
    }

    pub(crate) fn offer(&self, event: Event) {
        if self.wants(event.kind) {
            self.post(event, None, |_| true);
        }
    }

    /// The same, but for plugins that have taken it already: see [`Node::deliver_events`].
    ///
    /// [`Node::deliver_events`]: crate::node::Node::deliver_events
    fn offer_untaken(&self, event: Event) {
        let (id, now) = (event.id, Instant::now());
        if self.wants(event.kind) {
            self.post(event, None, |post| !self.taken.has(&post.plugin, id, now));
        }
    }

    pub(crate) fn offer_then(&self, event: Event, then: Then) {
        if self.wants(event.kind) {
            self.post(event, Some(then), |_| true);
        } else {
            then();
        }
    }

    #[cold]
    fn post(&self, event: Event, then: Option<Then>, is_meant: impl Fn(&Post) -> bool) {
        let (kind, is_awaited) = (event.kind, then.is_some());
        let metrics = &self.shared.metrics;
        let entry = Arc::new(Entry::new(event, then));
        let posts = self.posts.load();
        for post in posts
            .iter()
            .filter(|post| post.wants(kind) && is_meant(post))
        {
            entry.add_reader();
            let (is_taken, in_place_of) = match post.offer(&entry) {
                Offered::Taken { in_place_of } => (true, in_place_of),
                Offered::NoRoom { in_place_of } => {
                    if is_awaited {
                        // Whoever is to hear that it was told offers it again.
                        entry.forsake();
                        metrics.deferred.inc();
                    } else {
                        metrics.dropped_full(kind);
                    }
                    (false, in_place_of)
                }
                Offered::Retired => (false, None),
            };
            if let Some(earlier) = in_place_of {
                metrics.leave(1);
                post.finish(&[earlier]);
            }
            if !is_taken {
                entry.done();
                continue;
            }
            metrics.queued.inc();
            if post.begin_work() {
                self.shared.work_on(post);
            }
        }
        // The reader that it was made with: what comes then comes after all of them.
        entry.done();
    }

    fn replace(&self, observers: &[Observer]) {
        let before = self.posts.load_full();
        let now: Vec<Arc<Post>> = observers
            .iter()
            .filter(|observer| !observer.kinds.is_empty())
            .map(|observer| {
                let known = before.iter().find(|post| post.plugin == observer.plugin);
                match known {
                    Some(post) => {
                        post.set_kinds(observer.kinds);
                        Arc::clone(post)
                    }
                    None => Arc::new(Post::new(&self.app, observer, &self.room)),
                }
            })
            .collect();
        let wanted = observers
            .iter()
            .fold(Kinds::NONE, |all, observer| all.union(observer.kinds));
        self.posts.store(Arc::new(now.clone()));
        self.wanted.store(wanted.0, Ordering::Relaxed);
        for post in before.iter() {
            if !now.iter().any(|kept| Arc::ptr_eq(kept, post)) {
                let dropped = post.retire();
                self.shared.metrics.dropped_unbound(&dropped);
                post.finish(&dropped);
            }
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events")
            .field("num_queued", &self.num_queued())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk")
            .field("app", &self.app)
            .field("wanted", &self.wanted())
            .finish_non_exhaustive()
    }
}
