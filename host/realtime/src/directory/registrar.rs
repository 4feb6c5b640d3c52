//! The registrar: enters this node's sessions into the directory, behind their backs.
//!
//! Owns what is still to be written (`writing`) and the heartbeat (`heartbeat`). A session that comes or goes leaves a note here and goes on;
//! notes of a moment are written together, the last one of each slot only. What could not be written stays and is
//! tried again. Owns also the moment of grace in which a user whose last session went is still there: who reconnects
//! within it was never gone.
//!
//! Invariants. Notes are bounded in number; one that finds no room is counted, and what it said of a session that
//! lives is entered with the next round. A session is in the node's book before it is among its user's, and out of it
//! after: whatever moment the node dies in, a survivor finds it.

mod heartbeat;
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
use self::heartbeat::Overdue;
use super::{Directory, Slot, User, survivor};
use crate::{
    app::App,
    cluster::NodeUid,
    events::EventKind,
    hooks::Peer,
    ids::{AppId, ChannelKey, ClientId},
    metrics::DirectoryMetrics,
    node::Node,
    presence::{Member, roster::Visibility},
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
    Seat {
        member: Arc<Member>,
        visibility: Visibility,
    },
    SeatGone,
}

/// Why a session is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    /// It came, and nothing of it was ever written.
    Fresh,
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
    pub(crate) fn seat(&self, key: &ChannelKey, member: &Arc<Member>, visibility: Visibility) {
        let note = Note::Seat {
            member: Arc::clone(member),
            visibility,
        };
        self.note(Slot::Seat(key.clone(), member.client), note);
    }

    /// A session gave its seat up; the roster does not have it any more.
    pub(crate) fn leave_seat(&self, key: &ChannelKey, client: ClientId) {
        self.note(Slot::Seat(key.clone(), client), Note::SeatGone);
    }

    fn note(&self, slot: Slot, mut note: Note) {
        let mut notes = self.notes.lock();
        let is_known = match (notes.get(&slot), &mut note) {
            (Some(Note::Session { entry: before, .. }), Note::Session { entry, .. }) => {
                *entry = *before;
                true
            }
            // It came and went before anything of it was written: there is nothing to take out.
            (
                Some(Note::Session {
                    entry: Entry::Fresh,
                    ..
                }),
                Note::SessionGone { .. },
            ) => {
                notes.remove(&slot);
                drop(notes);
                self.noted.notify_one();
                return;
            }
            (before, _) => before.is_some(),
        };
        if notes.len() >= MAX_NOTES && !is_known {
            drop(notes);
            self.metrics.dropped.inc();
            return;
        }
        notes.insert(slot, note);
        drop(notes);
        self.noted.notify_one();
    }

    /// A session whose end everybody was told of; its line can go.
    fn note_told(&self, slot: Slot) {
        self.notes.lock().entry(slot).or_insert(Note::SeatGone);
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

    /// Notes that were not written, unless there are newer ones. They may be written all the same: the answer is what
    /// is missing.
    fn put_back(&self, unwritten: Notes) {
        let mut notes = self.notes.lock();
        for (slot, note) in unwritten {
            let was_coming = matches!(note, Note::Session { .. });
            let note = notes.entry(slot).or_insert(note);
            if let Note::Session { entry, .. } = note
                && was_coming
            {
                *entry = Entry::Again;
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
