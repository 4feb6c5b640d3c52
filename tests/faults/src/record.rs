//! What publishers and subscribers saw: the evidence that the checker reads.
//!
//! Plain values, so that a test can write evidence by hand. Times are since the start of the run.

use std::{collections::BTreeSet, time::Duration};

/// What a publication carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Body {
    pub publisher: u32,
    /// Rises by one with each attempt of the publisher.
    pub sequence: u64,
    pub sent_at: Duration,
    /// Of the bytes as they arrived.
    pub hash: u64,
}

/// One publish command and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub channel: u32,
    pub body: Body,
    pub done_at: Duration,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The server said that it is stored there.
    Acked { epoch: String, offset: u64 },
    /// The server answered with an error. It may be stored all the same: an error says that nobody knows.
    Refused { code: u32 },
    /// No answer.
    Unknown,
}

/// A place in a stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Position {
    pub epoch: String,
    pub offset: u64,
}

/// A subscribe that was answered with a result: what the client asked for and what the server said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subscribed {
    /// The position from which the client asked to recover; the rest is what the server said.
    pub asked: Option<Position>,
    pub was_recovering: bool,
    pub recovered: bool,
    pub epoch: String,
    pub offset: u64,
}

/// What a subscriber saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Subscribed(Subscribed),
    /// Pushed, or part of what was recovered. `epoch` is empty but in the first of a stream.
    Publication {
        offset: u64,
        epoch: String,
        body: Body,
    },
    /// The server ended the subscription.
    Unsubscribed {
        code: u32,
    },
    /// The server answered a subscribe or connect with an error.
    Refused {
        code: u32,
    },
    /// The connection ended; 1006 when nobody said why.
    Disconnected {
        code: u16,
    },
    /// An attempt to connect did not succeed: nobody listened, or the answer was this HTTP status.
    NotConnected {
        status: u16,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub at: Duration,
    pub event: Event,
}

/// One subscriber's life in one channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriberLog {
    pub channel: u32,
    pub entries: Vec<Entry>,
}

/// The whole stream of a channel, paged after the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    pub channel: u32,
    pub epoch: String,
    pub top: u64,
    /// Offset and body, in the order of the pages.
    pub entries: Vec<(u64, Body)>,
}

/// One look at the readiness of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    pub node: usize,
    pub at: Duration,
    pub is_ready: bool,
}

/// Sessions that others see, when a node dies that some of them are on; all by their client ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leaves {
    /// Those on the node that died.
    pub lost: BTreeSet<String>,
    /// Those elsewhere.
    pub living: BTreeSet<String>,
    /// Who left, as a witness heard it, and how long after the fault.
    pub heard: Vec<(Duration, String)>,
    /// Whom presence names at the end.
    pub present: BTreeSet<String>,
}

/// Everything that was seen in one run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    pub attempts: Vec<Attempt>,
    pub subscribers: Vec<SubscriberLog>,
    pub audits: Vec<Audit>,
    pub health: Vec<Health>,
    /// When the fault began, and when its cause was gone.
    pub fault_at: Duration,
    pub healed_at: Duration,
    /// Number of things that the fault visibly did; 0 means that it was none.
    pub effects: u64,
    /// In a row about them.
    pub leaves: Option<Leaves>,
}
