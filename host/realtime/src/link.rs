//! A session's outside: outbox, wire and wake-ups.
//!
//! Owns everything that other tasks may touch of a session: the hub appends publications and writes them, the
//! wheel and the node leave signals, the session's own task reads signals and takes over when a write blocks.
//! Does not know the protocol state of the session. Invariants: bytes leave in the order in which they were
//! pushed; once closing began nothing is queued behind the closing frame; no call ever waits for the peer.

#[cfg(test)]
mod tests;

use std::{io, sync::Arc, task::Waker};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tidegate_protocol::{Codec, Frame, Framing};
use tokio::time::{Duration, Instant};

use crate::{
    ids::{ChannelKey, ClientId, SessionId},
    outbox::{Item, Outbox, Written},
    session::Enlistment,
};

/// Where bytes leave: a TCP socket, TLS later, memory in tests. Never blocks: a full wire answers
/// [`io::ErrorKind::WouldBlock`].
pub trait Wire: Send + Sync + 'static {
    /// # Errors
    /// `WouldBlock` when the wire is full; any other error ends the session.
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize>;
}

/// Which of the hub's shards serves a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ShardId(pub(crate) u16);

/// Most bytes waiting for one client; more is a slow reader (3008). Threat model, section 2.
pub const DEFAULT_OUTBOX_BYTES: usize = 1024 * 1024;

/// Signals that one session may leave unread. They come from the node's own calls, so only a burst of server
/// API calls for one stuck session gets here; it is closed as slow.
const MAX_SIGNALS: usize = 1024;

/// Something that happened outside the session and that its task must act on.
#[derive(Debug, Clone)]
pub enum Signal {
    /// Close with this code and reason.
    Disconnect { code: u32, reason: Arc<str> },
    /// The node is going away: close so that the client reconnects elsewhere.
    Drain,
    /// Take the subscription away and tell the client.
    Unsubscribe {
        channel: Arc<str>,
        code: u32,
        reason: Arc<str>,
    },
    /// Subscribe the session on the server's side, by order of the server API.
    Subscribe(Arc<Enlistment>),
    /// The hub could not deliver everything to the membership of this channel and delivers nothing more to it:
    /// the client must be told that its position is insufficient.
    Gap(ChannelKey),
    /// The identity has a new expiry, or none, by order of the server API.
    Refresh {
        is_expired: bool,
        expires_at: Option<u64>,
        /// Replaces what others are shown of the client; empty leaves it.
        info: Bytes,
    },
    /// The deadline that was scheduled on the wheel has passed.
    Deadline,
    /// The outbox overflowed; what was queued is gone.
    Slow,
}

/// What became of a pushed frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "an overflow has made the session slow"]
pub enum PushOutcome {
    Queued,
    /// The outbox is full. The session got [`Signal::Slow`], the queue was dropped, and nothing is accepted
    /// but the closing frame.
    Overflow,
    /// The session is closing; the frame was dropped.
    Closing,
}

/// What became of a flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushOutcome {
    Flushed,
    /// The wire is full: the session's task continues when it is writable again.
    Blocked,
    /// The wire failed; the session's task finds out by itself.
    Broken,
}

/// What became of a publication that the hub appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Appended {
    /// The link has to be flushed by the caller.
    NowDirty,
    /// Somebody is about to flush it already, or it takes nothing more.
    Nothing,
}

/// One session's outside. `Arc<Link<Socket>>` coerces to `Arc<Link>`: one allocation holds state and socket.
pub struct Link<W: ?Sized = dyn Wire> {
    /// Written by whoever pushes, flushes or signals. Held over one non-blocking write: order on the wire is
    /// what it protects, and only this session's writers ever wait for it.
    state: Mutex<State>,
    /// The session's task.
    waker: AtomicWaker,
    client: ClientId,
    shard: ShardId,
    codec: Codec,
    framing: Framing,
    outbox_limit: u32,
    /// Present where the transport tells it to its client; elsewhere nobody could ever name it.
    session: Option<Box<SessionId>>,
    wire: W,
}

#[derive(Debug, Default)]
struct State {
    outbox: Outbox,
    signals: Vec<Signal>,
    /// Since when the wire has not taken a byte; `None` while it is not blocked.
    blocked_since: Option<Instant>,
    timer: Timer,
    /// A flusher has this link on its list.
    is_dirty: bool,
    phase: Phase,
}

/// The link's place on the wheel, in wheel ticks; zero is none. Written by [`crate::wheel`] alone.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Timer {
    /// When the session wants to be woken.
    pub(crate) wanted: u32,
    /// The earliest tick at which the wheel will look at this link.
    pub(crate) placed: u32,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    #[default]
    Open,
    /// The outbox overflowed.
    Slow,
    /// The closing frame is queued.
    Closing,
    /// The wire failed.
    Broken,
}

impl<W: Wire> Link<W> {
    pub(crate) fn new(identity: LinkIdentity, wire: W) -> Arc<Self> {
        let LinkIdentity {
            client,
            shard,
            codec,
            framing,
            outbox_bytes,
        } = identity;
        Arc::new(Self {
            state: Mutex::default(),
            waker: AtomicWaker::new(),
            client,
            shard,
            codec,
            framing,
            outbox_limit: u32::try_from(outbox_bytes).unwrap_or(u32::MAX),
            session: framing.is_emulated().then(|| Box::new(SessionId::random())),
            wire,
        })
    }
}

/// What a link is made of besides its wire; see [`crate::hub::Hub::link`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct LinkIdentity {
    pub(crate) client: ClientId,
    pub(crate) shard: ShardId,
    pub(crate) codec: Codec,
    pub(crate) framing: Framing,
    pub(crate) outbox_bytes: usize,
}

impl<W: Wire + ?Sized> Link<W> {
    pub fn client(&self) -> ClientId {
        self.client
    }

    pub fn shard(&self) -> ShardId {
        self.shard
    }

    pub fn codec(&self) -> Codec {
        self.codec
    }

    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// The secret id of the session; `None` where the transport has no use for it.
    pub fn session(&self) -> Option<SessionId> {
        self.session.as_deref().copied()
    }

    /// The wire, for the transport that made it.
    pub fn wire(&self) -> &W {
        &self.wire
    }

    /// Appends a message. It leaves with the next [`Link::flush`]; the session's task flushes after each turn.
    pub fn push(&self, frame: Frame) -> PushOutcome {
        self.append(Item::Message(frame))
    }

    /// Appends bytes that are complete by themselves, such as a WebSocket control frame.
    pub fn push_raw(&self, bytes: Bytes) -> PushOutcome {
        self.append(Item::Raw(bytes))
    }

    /// Appends a message from outside the session and has the session's task send it.
    pub fn send(&self, frame: Frame) -> PushOutcome {
        let outcome = self.push(frame);
        if outcome == PushOutcome::Queued {
            self.waker.wake();
        }
        outcome
    }

    /// Appends the last bytes that this link will carry; what is pushed later is refused. A slow link has
    /// nothing before it, any other link sends what was queued first.
    pub fn finish(&self, closing_frame: Option<Bytes>) {
        let mut state = self.state.lock();
        if matches!(state.phase, Phase::Closing | Phase::Broken) {
            return;
        }
        state.phase = Phase::Closing;
        if let Some(bytes) = closing_frame {
            state.outbox.push(Item::Raw(bytes));
        }
    }

    /// Writes what is queued, in as few writes as the joining rules allow. Does nothing while the wire is
    /// known to be full; the session's task then uses [`Link::resume`].
    pub fn flush(&self) -> FlushOutcome {
        let mut state = self.state.lock();
        state.is_dirty = false;
        if state.blocked_since.is_some() {
            return FlushOutcome::Blocked;
        }
        let (outcome, wakes) = self.write(&mut state);
        drop(state);
        if wakes {
            self.waker.wake();
        }
        outcome
    }

    /// Continues a blocked write; for the session's task when the wire is writable again.
    pub fn resume(&self) -> FlushOutcome {
        let mut state = self.state.lock();
        self.write(&mut state).0
    }

    /// Since when the wire has taken nothing; `None` while nothing waits for it.
    pub fn blocked_since(&self) -> Option<Instant> {
        self.state.lock().blocked_since
    }

    /// Whether the wire has taken nothing for `limit` although something waits for it.
    pub fn has_stalled(&self, limit: Duration) -> bool {
        self.blocked_since()
            .is_some_and(|since| since.elapsed() >= limit)
    }

    /// Gives up on what is queued, for a reader that is too slow; only a closing frame may follow.
    pub fn drop_queue(&self) {
        let mut state = self.state.lock();
        state.outbox.clear();
        if state.phase == Phase::Open {
            state.phase = Phase::Slow;
        }
    }

    /// Leaves a signal for the session's task and wakes it. Deadline and slowness are remembered once.
    pub fn signal(&self, signal: Signal) {
        let mut state = self.state.lock();
        if state.phase == Phase::Slow {
            return; // The session is about to close; nothing matters more.
        }
        let is_known = match signal {
            Signal::Deadline => state.holds(|known| matches!(known, Signal::Deadline)),
            Signal::Slow => state.holds(|known| matches!(known, Signal::Slow)),
            Signal::Drain => state.holds(|known| matches!(known, Signal::Drain)),
            Signal::Disconnect { .. }
            | Signal::Unsubscribe { .. }
            | Signal::Subscribe(_)
            | Signal::Gap(_)
            | Signal::Refresh { .. } => false,
        };
        if is_known {
            return;
        }
        if state.signals.len() < MAX_SIGNALS {
            state.signals.push(signal);
        } else {
            state.overflow();
        }
        drop(state);
        self.waker.wake();
    }

    /// Takes what was signalled, oldest first.
    pub fn take_signals(&self) -> SmallVec<[Signal; 2]> {
        let signals = std::mem::take(&mut self.state.lock().signals);
        signals.into_iter().collect()
    }

    /// Names the task that signals wake. A wake-up between two registrations is not lost as long as the task
    /// registers before it looks.
    pub fn register_waker(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// Bytes waiting to be written.
    pub fn num_queued_bytes(&self) -> usize {
        self.state.lock().outbox.num_bytes()
    }

    /// Appends for a flusher; see [`Appended`].
    pub(crate) fn append_for_flusher(&self, item: Item) -> Appended {
        let mut state = self.state.lock();
        match state.append(item, self.outbox_limit) {
            PushOutcome::Queued => {}
            PushOutcome::Overflow => {
                drop(state);
                self.waker.wake();
                return Appended::Nothing;
            }
            PushOutcome::Closing => return Appended::Nothing,
        }
        if state.is_dirty || state.blocked_since.is_some() {
            return Appended::Nothing;
        }
        state.is_dirty = true;
        Appended::NowDirty
    }

    /// Changes the link's place on the wheel.
    pub(crate) fn with_timer<R>(&self, change: impl FnOnce(&mut Timer) -> R) -> R {
        change(&mut self.state.lock().timer)
    }

    fn append(&self, item: Item) -> PushOutcome {
        let mut state = self.state.lock();
        let outcome = state.append(item, self.outbox_limit);
        drop(state);
        if outcome == PushOutcome::Overflow {
            self.waker.wake();
        }
        outcome
    }

    /// One round of writing; the second answer is whether the session's task has to learn of the outcome.
    fn write(&self, state: &mut State) -> (FlushOutcome, bool) {
        if state.phase == Phase::Broken {
            return (FlushOutcome::Broken, false);
        }
        match state
            .outbox
            .write_to(&self.wire, (self.codec, self.framing))
        {
            Ok(Written::All) => {
                state.blocked_since = None;
                (FlushOutcome::Flushed, false)
            }
            Ok(Written::Blocked { progress }) => {
                let was_blocked = state.blocked_since.is_some();
                if progress || !was_blocked {
                    state.blocked_since = Some(Instant::now());
                }
                (FlushOutcome::Blocked, !was_blocked)
            }
            Err(error) => {
                tracing::debug!(session.id = %self.client, %error, "write failed");
                state.phase = Phase::Broken;
                state.blocked_since = None;
                state.outbox = Outbox::default();
                (FlushOutcome::Broken, true)
            }
        }
    }
}

impl State {
    fn append(&mut self, item: Item, limit: u32) -> PushOutcome {
        if self.phase != Phase::Open {
            return PushOutcome::Closing;
        }
        let is_over = self.outbox.num_bytes() + item.bytes().len() > limit as usize;
        if is_over && !self.outbox.is_empty() {
            self.overflow();
            return PushOutcome::Overflow;
        }
        self.outbox.push(item);
        PushOutcome::Queued
    }

    fn overflow(&mut self) {
        if self.phase != Phase::Open {
            return;
        }
        self.phase = Phase::Slow;
        self.outbox.clear();
        // The session closes at once: nothing that was signalled before matters more.
        self.signals.clear();
        self.signals.push(Signal::Slow);
    }

    fn holds(&self, is_it: impl Fn(&Signal) -> bool) -> bool {
        self.signals.iter().any(is_it)
    }
}

impl<W: ?Sized> std::fmt::Debug for Link<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("client", &self.client)
            .field("shard", &self.shard)
            .field("codec", &self.codec)
            .finish_non_exhaustive()
    }
}
