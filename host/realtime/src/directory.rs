//! The directory: who is where in the cluster, and what a node that dies leaves to be done.
//!
//! Owns the trait of the store, which keeps three things. For each user their sessions, so that a list of them takes
//! no other node's time, and the moment is known in which the first one came and the last one went. For each node a
//! book of its sessions and of their seats (channels in which others see them), so that a survivor knows what to tell.
//! And the nodes, by when each was last heard of: a node's whole book lives by the one heartbeat of its node, however
//! much is in it. What this node enters is [`registrar`]'s, what is done for dead nodes `survivor`'s. A node that
//! stands alone has no directory.
//!
//! Invariants. Stores keep records as they are given and compare them byte by byte; what is in them is [`entry`]'s.
//! Nothing of a session waits for the store. A record in the book of a dead node is erased when what it asks for is
//! done, and only as it was read: what its node has entered anew stays.

#[cfg(any(test, feature = "testing"))]
pub mod contract;
pub mod entry;
#[cfg(any(test, feature = "testing"))]
pub mod memory;
pub mod registrar;
mod survivor;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

pub use self::{entry::Slot, registrar::Registrar};
use crate::{
    broker::BrokerError,
    cluster::{FORGOTTEN_AFTER, NodeUid},
    hooks::Progress,
    ids::{AppId, ClientId},
};

/// How often a node says to the store that it lives.
pub const BEAT_INTERVAL: Duration = Duration::from_secs(3);

/// A node whose last heartbeat is older than this may be dead; so long it is known to the others, too.
pub const SILENT_AFTER: Duration = FORGOTTEN_AFTER;

/// How long a user's sessions are kept without being entered again; each node enters its own three times as often.
/// It ends only what no survivor has ended: all nodes went and did not come back.
pub const USER_LIFE: Duration = Duration::from_secs(3600);

/// How long the book of a node is kept without a heartbeat, and a node in mind that has gone.
pub const BOOK_LIFE: Duration = Duration::from_secs(24 * 3600);

/// How long it is kept of a user who has gone when that was, and by whose end: longer than an answer that was lost is
/// asked for again, and than a survivor needs for the books of most nodes.
pub const GONE_LIFE: Duration = Duration::from_secs(600);

/// Most records in one call of a [`Directory`].
pub const BATCH: usize = 128;

/// A line of a node's book.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub slot: Slot,
    pub value: Bytes,
}

/// A part of a node's book.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    pub records: Vec<Record>,
    /// Lines that are no record of ours, as the store has them.
    pub foreign: Vec<Bytes>,
    /// Where the next page begins; `None` after the last one.
    pub next: Option<u64>,
}

/// What the store knew of a node when it heard of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Known,
    /// It is new, or the store has lost it.
    Unknown,
    /// It was taken for dead: what it had entered may be gone, and others may have been told so.
    Condemned,
}

/// The answer to a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beat {
    pub standing: Standing,
    /// Other nodes whose books have to be closed, or may have to: silent for too long, or condemned already.
    pub overdue: Vec<NodeUid>,
}

/// A user of an app. Anonymous sessions are nobody's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct User {
    pub app: AppId,
    pub name: Arc<str>,
}

/// When a user came or went: milliseconds since 1970 by the clock of the store, and in any case more than at the
/// user's change before, whichever nodes told of the two and whatever clocks did in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    pub fn new(unix_millis: u64) -> Self {
        Self(unix_millis)
    }

    pub fn unix_millis(self) -> u64 {
        self.0
    }
}

/// What happens to a user's sessions. Each may be made again until its answer came, and is answered as the first time
/// unless somebody else has come or gone since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A session came, or is entered anew.
    Came {
        client: ClientId,
        value: Bytes,
        answer: Answer,
    },
    /// A session went. [`Turn::Last`]: no other is there.
    Left { client: ClientId },
    /// A session went; if it was the last one, the user is still there until [`Change::Settle`], and who comes
    /// meanwhile is not the first.
    Away { client: ClientId },
    /// The user whose last session was this one has gone unless somebody has come; [`Turn::Last`] if so.
    Settle { client: ClientId },
    /// The session of a dead node went, unless it was entered anew.
    Lost { client: ClientId, value: Bytes },
}

/// Whether the answer to an earlier [`Change::Came`] of the session is known; of the other changes a repetition is
/// none but for what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// There was none, or it is known: a session that is entered anew is nobody's first.
    Known,
    /// The change was made, perhaps, and its answer is missing.
    Missing,
}

/// What a [`Change`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    Neither,
    /// There was no session of the user.
    First(Moment),
    /// There is none any more.
    Last(Moment),
}

/// What nodes know of each other's sessions. Answers come within the store's own time limits; a call whose answer did
/// not come may be made again.
pub trait Directory: Send + Sync + 'static {
    /// The node lives, and so does its book. Names nodes that were silent for so long, by the clock of the store.
    fn beat(&self, node: &NodeUid, silent_for: Duration) -> Progress<Result<Beat, BrokerError>>;

    /// Takes the node for dead, if it was silent for so long; true if it is taken for dead then, false if it lives
    /// or is not known.
    fn condemn(&self, node: &NodeUid, silent_for: Duration) -> Progress<Result<bool, BrokerError>>;

    /// Closes the book of a condemned node, if it is empty; true if it is closed. The node is not overdue any more;
    /// should it live, it hears that it was condemned.
    fn retire(&self, node: &NodeUid) -> Progress<Result<bool, BrokerError>>;

    /// Writes lines into the node's book, in place of those of the same slots; at most [`BATCH`].
    fn write(&self, node: &NodeUid, records: Vec<Record>) -> Progress<Result<(), BrokerError>>;

    /// Takes lines out of the node's book, whatever they say; at most [`BATCH`].
    fn strike(&self, node: &NodeUid, slots: Vec<Slot>) -> Progress<Result<(), BrokerError>>;

    /// Takes lines out of a book that say just this, and what is foreign; at most a page of them.
    fn erase(&self, node: &NodeUid, page: Page) -> Progress<Result<(), BrokerError>>;

    /// Reads a page of a node's book, from 0 on. What is in the book from the first page to the last is on one of
    /// them at least.
    fn read(&self, node: &NodeUid, from: u64) -> Progress<Result<Page, BrokerError>>;

    /// Makes changes, at most [`BATCH`]; those of one user in their order. Each has an answer of its own.
    fn change(&self, changes: Vec<(User, Change)>) -> Progress<Vec<Result<Turn, BrokerError>>>;

    /// How often the store may have lost what was written: it came back as another one, or with less, or a heartbeat has
    /// found a part of it empty. Nodes that see it rise after a heartbeat enter their sessions anew.
    fn num_lapses(&self) -> u64;

    /// The values of a user's sessions; at most so many, no matter which.
    fn sessions(&self, user: &User, most: usize) -> Progress<Result<Vec<Bytes>, BrokerError>>;
}
