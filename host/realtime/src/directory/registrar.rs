//! The registrar: enters this node's sessions into the directory, behind their backs.
//!
//! Owns what is still to be written (`writing`) and the heartbeat (`heartbeat`). A session that comes or goes leaves a note here and goes on;
//! notes of a moment are written together, the last one of each slot only. What could not be written stays and is
//! tried again. Owns also the moment of grace in which a user whose last session went is still there: who reconnects
//! within it was never gone.
//!
//! Invariants. Notes are bounded in number; one that finds no room is counted, and what it said is found out with the
//! next round (`orphans`). A session is in the node's book before it is among its user's, and out of it after, and after
//! whoever is told of its end has heard of it (`holds`): whatever moment the node dies in, a survivor finds it.

mod heartbeat;
mod holds;
mod orphans;
mod writing;

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64},
    },
};

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::heartbeat::ANEW_PAUSE;
use self::{heartbeat::Overdue, holds::Holds};
use super::{Directory, Slot, User, survivor};
use crate::{
    app::App,
    cluster::NodeUid,
    events::EventKind,
    hooks::Peer,
    ids::{AppId, ChannelKey, ClientId},
    metrics::DirectoryMetrics,
    node::Node,
    presence::roster::Attending,
};

/// Notes that wait: every session of a large node with a seat.
const MAX_NOTES: usize = 256 * 1024;

/// How long a user without a session is still there.
pub const GRACE: Duration = Duration::from_secs(1);

/// A task of the registrar; see [`Registrar::services`].
pub(crate) type RegistrarService = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What this node has in the directory.
pub struct Registrar {
    store: Arc<dyn Directory>,
    uid: NodeUid,
    /// Rises when the node finds out that it was taken for dead.
    term: AtomicU64,
    notes: Mutex<HashMap<Slot, Note>>,
    noted: Notify,
    /// In the order of their times; who is here has no session, and its line stands in the book.
    awaited: Mutex<VecDeque<Awaited>>,
    /// Nothing is noted and nobody awaited.
    idle: Notify,
    /// Lines whose ends are being told.
    holds: Holds,
    /// Held while notes are on their way, so that whoever holds it finds each where it belongs.
    writing: tokio::sync::Mutex<()>,
    /// The book may have lines that nobody has in hand.
    orphaned: Notify,
    /// Who went lately, for a store that turns out to have forgotten it.
    departed: Mutex<VecDeque<Departed>>,
    overdue: Mutex<Overdue>,
    overdue_told: Notify,
    /// Everybody is to be entered anew.
    anew: Notify,
    /// Set together with it when the node was taken for dead.
    is_back: AtomicBool,
    metrics: DirectoryMetrics,
}

/// What is to be written of a slot.
#[derive(Debug)]
enum Note {
    Session {
        app: AppId,
        peer: Arc<Peer>,
        since_ms: u64,
        entry: Entry,
    },
    SessionGone {
        user: User,
    },
    Seat(Attending),
    SeatGone(Attending),
    /// All else that the end means is done.
    LineGone,
}

impl Note {
    fn is_of_an_end(&self) -> bool {
        match self {
            Self::Session { .. } | Self::Seat(_) => false,
            Self::SessionGone { .. } | Self::SeatGone(_) | Self::LineGone => true,
        }
    }
}

/// Why a session is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    /// It came, and nothing of it was ever written.
    Fresh,
    /// It came, and nothing of it but perhaps its line.
    Booked,
    /// It is in the directory, unless that has lost it.
    Anew,
    /// It may be in, and what that came to was not answered.
    Again,
}

/// Notes on their way to the store.
type Notes = Vec<(Slot, Note)>;

/// A user whose last session went, until the grace is over.
struct Awaited {
    until: Instant,
    user: User,
    client: ClientId,
}

/// A session of a user that went.
struct Departed {
    at: Instant,
    user: User,
    client: ClientId,
}

impl Registrar {
    pub(crate) fn new(
        store: Arc<dyn Directory>,
        uid: NodeUid,
        metrics: DirectoryMetrics,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            uid,
            term: AtomicU64::new(1),
            notes: Mutex::default(),
            noted: Notify::new(),
            awaited: Mutex::default(),
            idle: Notify::new(),
            holds: Holds::default(),
            writing: tokio::sync::Mutex::default(),
            orphaned: Notify::new(),
            departed: Mutex::default(),
            overdue: Mutex::default(),
            overdue_told: Notify::new(),
            anew: Notify::new(),
            is_back: AtomicBool::new(false),
            metrics,
        })
    }

    pub(crate) fn store(&self) -> &Arc<dyn Directory> {
        &self.store
    }

    pub(super) fn uid(&self) -> &NodeUid {
        &self.uid
    }

    pub(super) fn metrics(&self) -> &DirectoryMetrics {
        &self.metrics
    }

    /// What must run for as long as the node is used, until `stop`; then what is noted is written, and the node signs
    /// off.
    pub(crate) fn services(
        self: &Arc<Self>,
        node: &Arc<Node>,
        stop: &CancellationToken,
    ) -> Vec<(&'static str, RegistrarService)> {
        let node = Arc::downgrade(node);
        let writing = Arc::clone(self).run(Weak::clone(&node), stop.clone());
        let beating = Arc::clone(self).keep_beating(stop.clone());
        let renewing = Arc::clone(self).keep_entered(Weak::clone(&node), stop.clone());
        let surviving = survivor::run(Arc::clone(self), node, stop.clone());
        vec![
            ("directory", Box::pin(writing)),
            ("directory heartbeat", Box::pin(beating)),
            ("directory renewal", Box::pin(renewing)),
            ("care for dead nodes", Box::pin(surviving)),
        ]
    }

    /// A session came in. An anonymous one is nobody's, and entered where a plugin is told of its end.
    pub(crate) fn enter(&self, app: &App, peer: &Arc<Peer>, since_ms: u64) {
        self.enter_as(Entry::Fresh, app, (peer, since_ms));
    }

    fn enter_as(&self, entry: Entry, app: &App, (peer, since_ms): (&Arc<Peer>, u64)) {
        if !is_entered(app, &peer.user) {
            return;
        }
        let note = Note::Session {
            app: app.id().clone(),
            peer: Arc::clone(peer),
            since_ms,
            entry,
        };
        self.note(Slot::Session(peer.client), note);
    }

    /// A session has gone; the app does not have it any more.
    pub(crate) fn leave(&self, app: &App, name: &Arc<str>, client: ClientId) {
        if !is_entered(app, name) {
            return;
        }
        let user = User {
            app: app.id().clone(),
            name: Arc::clone(name),
        };
        self.note(Slot::Session(client), Note::SessionGone { user });
    }

    /// A session has a seat in which others see it, or shows something else of itself there.
    pub(crate) fn seat(&self, key: &ChannelKey, attending: Attending) {
        let slot = Slot::Seat(key.clone(), attending.member.client);
        self.note(slot, Note::Seat(attending));
    }

    /// A session gave its seat up, and the others were told so; the roster does not have it any more.
    pub(crate) fn leave_seat(&self, key: &ChannelKey, attending: Attending) {
        let slot = Slot::Seat(key.clone(), attending.member.client);
        self.note(slot, Note::SeatGone(attending));
    }

    /// The others could not be told that a session gave its seat up: the line stays.
    pub(crate) fn leave_seat_untold(&self, key: &ChannelKey, client: ClientId) {
        if !self.holds.fail(&Slot::Seat(key.clone(), client)) {
            self.note_untold();
        }
    }

    /// Somebody could not be told of an end: the book is looked through soon.
    fn note_untold(&self) {
        self.orphaned.notify_one();
    }

    fn note(&self, slot: Slot, mut note: Note) {
        let mut notes = self.notes.lock();
        let before = match notes.get(&slot) {
            Some(Note::Session { entry, .. }) => Some(*entry),
            Some(_) | None => None,
        };
        match (&mut note, before) {
            (Note::Session { entry, .. }, Some(before)) => *entry = before,
            // It came and went before anything of it was written: there is nothing to take out.
            (Note::SessionGone { .. }, Some(Entry::Fresh)) => {
                notes.remove(&slot);
                drop(notes);
                self.holds.forget(&slot);
                self.noted.notify_one();
                return;
            }
            (Note::SessionGone { .. }, Some(Entry::Booked)) => note = Note::LineGone,
            (
                Note::Session { .. }
                | Note::SessionGone { .. }
                | Note::Seat(_)
                | Note::SeatGone(_)
                | Note::LineGone,
                _,
            ) => {}
        }
        if notes.len() >= MAX_NOTES && !notes.contains_key(&slot) {
            drop(notes);
            self.metrics.dropped.inc();
            // What comes is entered with the next round; of what went only the book knows.
            if note.is_of_an_end() {
                self.note_untold();
            }
            return;
        }
        notes.insert(slot, note);
        drop(notes);
        self.noted.notify_one();
    }

    /// The line of something whose end everybody was told of.
    fn note_over(&self, slot: Slot) {
        self.notes.lock().entry(slot).or_insert(Note::LineGone);
        self.noted.notify_one();
    }

    fn is_idle(&self) -> bool {
        self.notes.lock().is_empty() && self.awaited.lock().is_empty()
    }

    /// Waits until what was noted is written and nobody is awaited.
    pub(crate) async fn settled(&self) {
        loop {
            let idle = self.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            if self.is_idle() {
                return;
            }
            idle.await;
        }
    }

    /// Notes that were not written, unless there are newer ones. What came is entered as `entry_of` makes of what it
    /// was entered as.
    fn put_back(&self, unwritten: Notes, entry_of: impl Fn(Entry) -> Entry) {
        let mut notes = self.notes.lock();
        for (slot, note) in unwritten {
            let was_entered = matches!(note, Note::Session { .. });
            let note = notes.entry(slot).or_insert(note);
            if let Note::Session { entry, .. } = note
                && was_entered
            {
                *entry = entry_of(*entry);
            }
        }
    }
}

fn is_entered(app: &App, user: &str) -> bool {
    !user.is_empty() || app.desk().wants(EventKind::Disconnected)
}

impl std::fmt::Debug for Registrar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registrar")
            .field("uid", &self.uid)
            .finish_non_exhaustive()
    }
}
