//! The state of a store: who the instance is, what it may use, and the call in hand.
//!
//! Capabilities read the facts from here and leave their effects here. Invariant: outside a call the facts
//! are [`Facts::Idle`], so nothing of one call can be seen by the next.

use std::{mem, sync::Arc};

use bytes::Bytes;
use tidegate_realtime::hooks::{Destination, Draft, Effect, Origin, Peer, TokenCheck};

use crate::{
    capabilities::{json::Parsed, kept::Kept, log::LogTail, state::StateUse},
    deadline::Deadline,
    failure::GuestFault,
    limits,
    limits::StoreLimiter,
    ticker::Ticker,
    unit::Unit,
};

/// Tags of a message: key, value.
pub(crate) type Tags = Vec<(Box<str>, Box<str>)>;

pub(crate) struct GuestState {
    /// Armed again when a deadline is put off.
    pub(crate) ticker: Ticker,
    pub(crate) limiter: StoreLimiter,
    pub(crate) unit: Arc<Unit>,
    /// What outlives the instance.
    pub(crate) kept: Kept,
    pub(crate) call: CallState,
}

/// One call: what the guest may ask about it, and what it did.
#[derive(Debug, Default)]
pub(crate) struct CallState {
    pub(crate) facts: Facts,
    host_calls: u32,
    /// Size of what the guest was given to look at.
    pub(crate) input_bytes: usize,
    pub(crate) deadline: Deadline,
    /// Time of the call, read when the guest first asks and the same from then on (threat model W8).
    pub(crate) now_millis: Option<u64>,
    /// Made when the guest asks or the call fails; one per question, whatever the number of plugins.
    pub(crate) trace_id: Option<Arc<str>>,
    /// Boxed, since most calls change nothing.
    pub(crate) edits: Option<Box<Edits>>,
    pub(crate) queued: Vec<Effect>,
    pub(crate) state: StateUse,
    /// The message's data, once a field of it was asked for.
    pub(crate) parsed: Parsed,
    /// For the story, should the call fail.
    pub(crate) log: LogTail,
}

/// What a call is about.
#[derive(Debug, Default)]
pub(crate) enum Facts {
    /// No call: the instance is being made.
    #[default]
    Idle,
    Authentication {
        peer: Arc<Peer>,
        token_check: TokenCheck,
    },
    /// Authorization and rpc.
    Session { peer: Arc<Peer> },
    /// Filtering and routing.
    Message {
        origin: Origin,
        data: Bytes,
        /// Lent by the draft for the time of the call.
        tags: Tags,
        hops: u8,
        destinations: Destinations,
    },
}

/// Whether the call may name destinations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Destinations {
    /// Filtering.
    Fixed,
    /// Routing.
    Free,
}

/// Changes to the message in hand.
#[derive(Debug, Default)]
pub(crate) struct Edits {
    /// All tags as they shall be; `None` leaves them.
    pub(crate) tags: Option<Tags>,
    pub(crate) skip_history: bool,
    pub(crate) idempotency_key: Option<Box<str>>,
    pub(crate) delta: Option<bool>,
    pub(crate) destinations: Vec<Destination>,
}

impl CallState {
    pub(crate) fn new(facts: Facts, input_bytes: usize, trace_id: Option<Arc<str>>) -> Self {
        Self {
            facts,
            input_bytes,
            trace_id,
            ..Self::default()
        }
    }

    /// No call: the instance is being made, which has a deadline of its own.
    pub(crate) fn starting(deadline: Deadline) -> Self {
        Self {
            deadline,
            ..Self::default()
        }
    }

    /// Counts a call into the host, of which there are none while the instance is made: an initialiser that could
    /// ask anything might succeed when the plugin is uploaded and fail when the node starts.
    pub(crate) fn enter_host(&mut self) -> Result<(), GuestFault> {
        if matches!(self.facts, Facts::Idle) {
            return Err(GuestFault::limit(
                "an initialiser called the host: it may use `log` and nothing else; do that work at the first call",
            ));
        }
        self.enter_log()
    }

    /// Counts a call that may be made at any time.
    pub(crate) fn enter_log(&mut self) -> Result<(), GuestFault> {
        self.host_calls += 1;
        if self.host_calls > limits::HOST_CALLS {
            return Err(GuestFault::limit(format!(
                "more than {} calls into the host during one call",
                limits::HOST_CALLS
            )));
        }
        Ok(())
    }

    /// Gives the tags back to the draft that lent them.
    pub(crate) fn take_tags(&mut self) -> Tags {
        match &mut self.facts {
            Facts::Message { tags, .. } => mem::take(tags),
            Facts::Idle | Facts::Authentication { .. } | Facts::Session { .. } => Tags::new(),
        }
    }
}

impl Facts {
    pub(crate) fn message(draft: &mut Draft, destinations: Destinations) -> Self {
        Self::Message {
            origin: draft.origin.clone(),
            data: draft.data.clone(),
            tags: mem::take(&mut draft.tags),
            hops: draft.hops,
            destinations,
        }
    }

    pub(crate) fn peer(&self) -> Option<&Arc<Peer>> {
        match self {
            Self::Idle => None,
            Self::Authentication { peer, .. } | Self::Session { peer } => Some(peer),
            Self::Message { origin, .. } => match origin {
                Origin::Client(peer) => Some(peer),
                Origin::ServerApi | Origin::Plugin => None,
            },
        }
    }

    pub(crate) fn hops(&self) -> u8 {
        match self {
            Self::Message { hops, .. } => *hops,
            Self::Idle | Self::Authentication { .. } | Self::Session { .. } => 0,
        }
    }
}

impl Edits {
    /// Carries the changes over to the draft; destinations stay behind for the router.
    pub(crate) fn apply(self, draft: &mut Draft) -> Vec<Destination> {
        let Self {
            tags,
            skip_history,
            idempotency_key,
            delta,
            destinations,
        } = self;
        if let Some(tags) = tags {
            draft.tags = tags;
        }
        draft.skip_history |= skip_history;
        if idempotency_key.is_some() {
            draft.idempotency_key = idempotency_key;
        }
        if delta.is_some() {
            draft.delta = delta;
        }
        destinations
    }
}
