//! The state of a store: who the instance is, what it may use, and the call in hand.
//!
//! Capabilities read the facts from here and leave their effects here. Invariant: outside a call the facts
//! are [`Facts::Idle`], so nothing of one call can be seen by the next.

use std::{mem, sync::Arc};

use bytes::Bytes;
use tidegate_realtime::hooks::{Destination, Effect, Origin, Peer, TokenCheck};

use crate::{
    capabilities::{json::Parsed, log::CallLog, state::StateUse, store::StoreUse},
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
    pub(crate) call: CallState,
}

/// One call: what the guest may ask about it, and what it did.
#[derive(Debug, Default)]
pub(crate) struct CallState {
    pub(crate) facts: Facts,
    host_calls: u32,
    /// The data that the guest was given, if it may ask about it.
    pub(crate) data: Option<Bytes>,
    pub(crate) deadline: Deadline,
    /// Time of the call, read when the guest first asks and the same from then on (threat model W8).
    pub(crate) now_millis: Option<u64>,
    /// Made when the guest asks, the call fails or a plugin logged; one per question, whatever the number of plugins.
    pub(crate) trace_id: Option<Arc<str>>,
    /// Whether the guest asked for the trace id: then somebody may ask for its story.
    pub(crate) is_story_wanted: bool,
    /// Boxed, since most calls change nothing.
    pub(crate) edits: Option<Box<Edits>>,
    pub(crate) queued: Vec<Effect>,
    pub(crate) state: StateUse,
    pub(crate) store: StoreUse,
    /// The same, once a field of it was asked for.
    pub(crate) parsed: Parsed,
    /// For the plugin's log, and for the story should the call fail.
    pub(crate) log: CallLog,
}

/// What the guest is given to look at.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) bytes: usize,
    /// For plugins that may ask about it: see [`Unit::reads_data`].
    pub(crate) data: Option<Bytes>,
}

impl Input {
    /// Data, and so many bytes beside it.
    #[inline]
    pub(crate) fn new(unit: &Unit, data: &Bytes, more: usize) -> Self {
        Self {
            bytes: data.len() + more,
            data: unit.reads_data.then(|| data.clone()),
        }
    }
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
        /// For plugins that may ask about it: see [`Unit::reads_context`].
        origin: Option<Origin>,
        /// Lent by the draft for the time of the call.
        tags: Tags,
        hops: u8,
        destinations: Destinations,
    },
    /// Events and schedule: no client has a part in it.
    Alone { hops: u8 },
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

/// What a call left behind that did more than answer.
#[derive(Debug, Default)]
pub(crate) struct Left {
    pub(crate) trace_id: Option<Arc<str>>,
    pub(crate) is_story_wanted: bool,
    pub(crate) edits: Option<Box<Edits>>,
    pub(crate) queued: Vec<Effect>,
    pub(crate) log: CallLog,
}

impl Left {
    /// What the plugin logged.
    pub(crate) fn log(left: Option<Box<Self>>) -> CallLog {
        left.map(|left| left.log).unwrap_or_default()
    }
}

impl CallState {
    /// Begins a call, in the place that the one before has left clean: the state is too large to be carried in and
    /// out of the store for each call.
    #[inline]
    pub(crate) fn begin(
        &mut self,
        (facts, data): (Facts, Option<Bytes>),
        trace_id: Option<Arc<str>>,
        deadline: Deadline,
    ) {
        debug_assert!(matches!(self.facts, Facts::Idle) && self.queued.is_empty());
        self.store = StoreUse::default();
        self.facts = facts;
        self.data = data;
        self.trace_id = trace_id;
        self.deadline = deadline;
    }

    /// Ends the call: nothing of it stays but its deadline and what it waited, which tell how long it took. Answers the tags that
    /// were lent, if there are any, and what the call left; most calls leave nothing.
    #[inline]
    pub(crate) fn end(&mut self) -> (Option<Tags>, Option<Box<Left>>) {
        let Self {
            facts,
            host_calls,
            data,
            deadline: _,
            now_millis,
            trace_id,
            is_story_wanted,
            edits,
            queued,
            state,
            store: _,
            parsed,
            log,
        } = self;
        *host_calls = 0;
        *now_millis = None;
        *data = None;
        *state = StateUse::default();
        *parsed = Parsed::default();
        let tags = match facts {
            Facts::Message { tags, .. } if !tags.is_empty() => Some(mem::take(tags)),
            Facts::Message { .. }
            | Facts::Idle
            | Facts::Authentication { .. }
            | Facts::Session { .. }
            | Facts::Alone { .. } => None,
        };
        *facts = Facts::Idle;
        let has_left =
            trace_id.is_some() || edits.is_some() || !queued.is_empty() || !log.is_empty();
        let left = has_left.then(|| {
            Box::new(Left {
                trace_id: trace_id.take(),
                is_story_wanted: mem::take(is_story_wanted),
                edits: edits.take(),
                queued: mem::take(queued),
                log: mem::take(log),
            })
        });
        (tags, left)
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
}

impl Facts {
    pub(crate) fn message(
        unit: &Unit,
        (origin, hops): (&Origin, u8),
        message: &mut Editable<'_>,
        destinations: Destinations,
    ) -> Self {
        Self::Message {
            origin: unit.reads_context.then(|| origin.clone()),
            tags: mem::take(message.tags),
            hops,
            destinations,
        }
    }

    pub(crate) fn peer(&self) -> Option<&Arc<Peer>> {
        match self {
            Self::Idle | Self::Alone { .. } => None,
            Self::Authentication { peer, .. } | Self::Session { peer } => Some(peer),
            Self::Message { origin, .. } => match origin {
                Some(Origin::Client(peer)) => Some(peer),
                Some(Origin::ServerApi | Origin::Plugin) | None => None,
            },
        }
    }

    pub(crate) fn hops(&self) -> u8 {
        match self {
            Self::Message { hops, .. } | Self::Alone { hops } => *hops,
            Self::Idle | Self::Authentication { .. } | Self::Session { .. } => 0,
        }
    }
}

/// What of a draft plugins may change. Apart from the rest, which the question looks at meanwhile.
pub(crate) struct Editable<'a> {
    pub(crate) data: &'a mut Bytes,
    pub(crate) tags: &'a mut Tags,
    pub(crate) skip_history: &'a mut bool,
    pub(crate) idempotency_key: &'a mut Option<Box<str>>,
    pub(crate) delta: &'a mut Option<bool>,
}

impl Edits {
    /// Carries the changes over to the message; destinations stay behind for the router.
    pub(crate) fn apply(self, message: &mut Editable<'_>) -> Vec<Destination> {
        let Self {
            tags,
            skip_history,
            idempotency_key,
            delta,
            destinations,
        } = self;
        if let Some(tags) = tags {
            *message.tags = tags;
        }
        *message.skip_history |= skip_history;
        if idempotency_key.is_some() {
            *message.idempotency_key = idempotency_key;
        }
        if delta.is_some() {
            *message.delta = delta;
        }
        destinations
    }
}
