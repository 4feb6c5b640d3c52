//! A session over WebSocket: one future that reads, hands frames to the conversation and ends the connection.
//!
//! Owns the socket's life after the handshake. It reads with one system call per readable event into a buffer
//! of the thread, feeds the parser frame by frame, and takes over writing only when the wire is full; everything
//! else is written by the hub's flusher or at the end of a turn. Invariants: no task and no channel besides
//! this future; commands are taken one after another, and while one is worked on, or the wire is full, nothing
//! more is read (back pressure by TCP); a poll that has spent its budget gives way to the worker's other
//! sessions; nothing behind a violation is processed.

use std::{
    cell::RefCell,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use tidegate_protocol::{DisconnectCode, frame::close_frame};
use tidegate_realtime::{
    driver::{Budget, Closing, Driver, Turn},
    hub::Hub,
    link::{FlushOutcome, Link},
};
use tokio::time::{Duration, Instant};

use super::{
    admission::Permit,
    reader::{Answers, Input, Reader},
    socket::Socket,
};

/// Default of `websocket.write_timeout`. A write that takes no byte for this long belongs to a slow reader
/// (3008). Threat model, section 2.
pub const DEFAULT_WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a closing frame may take to leave, and then the peer to answer it, before the socket is dropped. A
/// slow reader has it too: his queue is gone, and who reads again hears why.
const CLOSE_TIME: Duration = Duration::from_secs(5);

/// The same when it was the peer who closed: all that is left is our answer.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// Bytes read and thrown away behind our closing frame, so that a reset does not eat it.
const MAX_DRAINED: usize = 1024 * 1024;

/// One read's buffer. A command frame is far smaller; a burst of them shares the read.
const SCRATCH_BYTES: usize = 16 * 1024;

/// Native pings that a client may send in [`PING_WINDOW`]; more is a flood (3013).
const MAX_PINGS: u16 = 500;
const PING_WINDOW: Duration = Duration::from_secs(5);

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice());
}

/// The protocol side of a session, driven by the session's future.
pub trait Conversation: Send + Unpin + 'static {
    /// Takes the payload of one frame and spends the budget on it. Not called while the last turn was
    /// [`Turn::Wait`].
    fn on_frame(&mut self, payload: &[u8], budget: &mut Budget) -> Turn;

    /// Goes on with what is under way; called after [`Turn::Wait`] whenever the future is woken.
    fn poll_answer(&mut self, cx: &mut Context<'_>, budget: &mut Budget) -> Poll<Turn>;

    /// Takes note of a pong frame.
    fn on_pong(&mut self);

    /// Acts on what was signalled to the link, waiting or not.
    fn on_signals(&mut self) -> Turn;

    /// The transport ends the session for what the peer sent: counts and logs it.
    fn on_violation(&mut self, closing: &Closing, reason: &'static str);

    /// The transport ends the session since the peer takes nothing: counts and logs it.
    fn on_stall(&mut self, closing: &Closing);

    /// What the conversation had the wheel told, so that a nearer deadline of the transport can be put before.
    fn deadline(&self) -> Option<Instant>;
}

impl Conversation for Driver {
    fn on_frame(&mut self, payload: &[u8], budget: &mut Budget) -> Turn {
        Self::on_frame(self, payload, budget)
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>, budget: &mut Budget) -> Poll<Turn> {
        Self::poll_answer(self, cx, budget)
    }

    fn on_pong(&mut self) {
        self.on_native_pong();
    }

    fn on_signals(&mut self) -> Turn {
        Self::on_signals(self)
    }

    fn on_violation(&mut self, closing: &Closing, reason: &'static str) {
        Self::on_violation(self, closing, reason);
    }

    fn on_stall(&mut self, closing: &Closing) {
        Self::on_stall(self, closing);
    }

    fn deadline(&self) -> Option<Instant> {
        Self::deadline(self)
    }
}

/// What a session holds its peer to.
#[derive(Debug, Clone, Copy)]
pub struct SessionLimits {
    pub max_message_bytes: usize,
    /// How long the peer may take no byte of what waits for it.
    pub write_timeout: Duration,
}

/// The future of one session. Its size, with the link's, is what an idle client costs.
pub struct WebSocketSession<C> {
    link: Arc<Link<Socket>>,
    /// The same link, as the hub knows it.
    shared: Arc<Link>,
    hub: Arc<Hub>,
    reader: Reader,
    /// Bytes that were read while the conversation could not take more; empty and without allocation else.
    carry: Bytes,
    state: State<C>,
    pings: PingBudget,
    write_timeout: Duration,
    /// Gives the connection's place back.
    _permit: Option<Permit>,
}

/// What the future is at.
enum State<C> {
    Open {
        conversation: C,
        is_waiting: bool,
    },
    /// The closing frame is on its way out.
    Closing {
        until: Instant,
    },
    /// The closing frame is out; what the peer still sends is thrown away.
    Draining {
        until: Instant,
        left: usize,
    },
}

/// Native pings counted in a window.
#[derive(Debug)]
struct PingBudget {
    since: Instant,
    count: u16,
}

/// What follows a step of the future.
enum Next {
    Again,
    Wait,
    Done,
}

/// What one read brought the session to.
enum ReadOutcome {
    /// All bytes were used, and there may be more in the socket.
    More,
    /// The conversation takes no more now, or the poll's budget is spent.
    Paused,
    Blocked,
    Close(Closing),
    /// The peer has closed or is gone; the answer to its closing frame, if it sent one.
    PeerClosed(Option<Bytes>),
}

impl<C: Conversation> WebSocketSession<C> {
    pub fn new(
        hub: Arc<Hub>,
        link: Arc<Link<Socket>>,
        conversation: C,
        limits: SessionLimits,
        permit: Option<Permit>,
    ) -> Self {
        let SessionLimits {
            max_message_bytes,
            write_timeout,
        } = limits;
        Self {
            shared: Arc::clone(&link) as Arc<Link>,
            link,
            hub,
            reader: Reader::new(max_message_bytes),
            carry: Bytes::new(),
            state: State::Open {
                conversation,
                is_waiting: false,
            },
            pings: PingBudget {
                since: Instant::now(),
                count: 0,
            },
            write_timeout,
            _permit: permit,
        }
    }

    /// Hands over bytes that came with the handshake, behind it.
    pub fn with_early_bytes(mut self, bytes: &[u8]) -> Self {
        // Copied, even when empty: the bytes are a view that keeps hyper's whole read buffer alive.
        self.carry = Bytes::copy_from_slice(bytes);
        self
    }

    fn step(&mut self, cx: &mut Context<'_>, budget: &mut Budget) -> Next {
        match &self.state {
            State::Open { .. } => self.step_open(cx, budget),
            State::Closing { .. } => self.step_closing(cx),
            State::Draining { .. } => self.step_draining(cx),
        }
    }

    fn step_open(&mut self, cx: &mut Context<'_>, budget: &mut Budget) -> Next {
        let State::Open {
            conversation,
            is_waiting,
        } = &mut self.state
        else {
            return Next::Again;
        };
        let mut turn = conversation.on_signals();
        if turn == Turn::Wait {
            turn = match conversation.poll_answer(cx, budget) {
                Poll::Ready(turn) => turn,
                Poll::Pending => Turn::Wait,
            };
        }
        if let Turn::Close(closing) = turn {
            return self.close(&closing);
        }
        *is_waiting = turn == Turn::Wait;
        let is_waiting = *is_waiting;
        match self.flush(cx) {
            FlushOutcome::Flushed if is_waiting => return Next::Wait,
            FlushOutcome::Flushed => {}
            FlushOutcome::Blocked => return self.wait_for_room(),
            FlushOutcome::Broken => return self.lose_peer(),
        }
        if budget.is_spent() {
            cx.waker().wake_by_ref();
            return Next::Wait;
        }
        match self.read(cx, budget) {
            ReadOutcome::More | ReadOutcome::Paused => Next::Again,
            ReadOutcome::Blocked => Next::Wait,
            ReadOutcome::Close(closing) => self.close(&closing),
            ReadOutcome::PeerClosed(answer) => self.answer_close(answer),
        }
    }

    /// The wire is full: nothing is read, and after the write timeout without a byte taken the reader is slow.
    fn wait_for_room(&mut self) -> Next {
        let Some(since) = self.link.blocked_since() else {
            return Next::Again;
        };
        let stalls_at = since + self.write_timeout;
        let State::Open { conversation, .. } = &mut self.state else {
            return Next::Again;
        };
        if Instant::now() >= stalls_at {
            let closing = DisconnectCode::Slow.into();
            conversation.on_stall(&closing);
            return self.close(&closing);
        }
        if conversation.deadline().is_none_or(|at| stalls_at < at) {
            // When it fires the conversation finds nothing due and gives the wheel its own deadline again.
            self.hub.schedule(&self.shared, stalls_at);
        }
        Next::Wait
    }

    /// Writes what the turn queued; continues a blocked write when the wire has room again.
    fn flush(&mut self, cx: &mut Context<'_>) -> FlushOutcome {
        let mut outcome = self.link.flush();
        while outcome == FlushOutcome::Blocked {
            match self.link.wire().poll_write_ready(cx) {
                Poll::Ready(Ok(())) => outcome = self.link.resume(),
                Poll::Ready(Err(_)) => return FlushOutcome::Broken,
                Poll::Pending => return FlushOutcome::Blocked,
            }
        }
        outcome
    }

    /// One round of reading: what was carried over, or one system call.
    fn read(&mut self, cx: &mut Context<'_>, budget: &mut Budget) -> ReadOutcome {
        if !self.carry.is_empty() {
            let carried = std::mem::take(&mut self.carry);
            let (outcome, left) = self.consume(&carried, budget);
            self.carry = carried.slice(carried.len() - left..);
            return outcome;
        }
        match self.link.wire().poll_read_ready(cx) {
            Poll::Pending => return ReadOutcome::Blocked,
            Poll::Ready(Err(_)) => return ReadOutcome::PeerClosed(None),
            Poll::Ready(Ok(())) => {}
        }
        // Reads count too: a message may come in thousands of pieces.
        budget.spend();
        SCRATCH.with_borrow_mut(|scratch| match self.link.wire().try_read(scratch) {
            Ok(0) => ReadOutcome::PeerClosed(None),
            Ok(len) => {
                let (outcome, left) = self.consume(&scratch[..len], budget);
                if left > 0 && matches!(outcome, ReadOutcome::Paused) {
                    self.carry = Bytes::copy_from_slice(&scratch[len - left..len]);
                }
                outcome
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ReadOutcome::More,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => ReadOutcome::More,
            Err(_) => ReadOutcome::PeerClosed(None),
        })
    }

    /// Hands the messages in `bytes` to the conversation; answers how many bytes it left.
    fn consume(&mut self, bytes: &[u8], budget: &mut Budget) -> (ReadOutcome, usize) {
        let mut rest = bytes;
        let mut answers = Answers::default();
        let outcome = self.consume_messages(&mut rest, &mut answers, budget);
        if let Some(pong) = answers.pong {
            // An overflow has signalled itself.
            let _ = self.link.push_raw(pong);
        }
        (outcome, rest.len())
    }

    fn consume_messages(
        &mut self,
        rest: &mut &[u8],
        answers: &mut Answers,
        budget: &mut Budget,
    ) -> ReadOutcome {
        let State::Open {
            conversation,
            is_waiting,
        } = &mut self.state
        else {
            return ReadOutcome::Paused;
        };
        loop {
            let turn = match self.reader.read(rest, answers) {
                Input::Message(payload) => conversation.on_frame(payload.as_bytes(), budget),
                Input::Ping if self.pings.spend() => {
                    budget.spend();
                    Turn::Read
                }
                Input::Ping => {
                    let closing = DisconnectCode::TooManyRequests.into();
                    conversation.on_violation(&closing, "ping_flood");
                    return ReadOutcome::Close(closing);
                }
                Input::Pong => {
                    conversation.on_pong();
                    budget.spend();
                    Turn::Read
                }
                Input::Close => return ReadOutcome::PeerClosed(answers.close.take()),
                Input::NeedMore => {
                    self.reader.shrink();
                    return ReadOutcome::More;
                }
                Input::Violation(violation) => {
                    let closing = Closing {
                        code: u32::from(violation.code()),
                        reason: violation.to_string().into(),
                    };
                    conversation.on_violation(&closing, violation.label());
                    return ReadOutcome::Close(closing);
                }
            };
            match turn {
                Turn::Read if budget.is_spent() => return ReadOutcome::Paused,
                Turn::Read => {}
                Turn::Wait => {
                    *is_waiting = true;
                    return ReadOutcome::Paused;
                }
                Turn::Close(closing) => return ReadOutcome::Close(closing),
            }
        }
    }

    /// Ends the connection from our side: what was queued leaves first, except for a slow reader.
    fn close(&mut self, closing: &Closing) -> Next {
        let code = u16::try_from(closing.code).unwrap_or(1011);
        let is_slow = closing.code == DisconnectCode::Slow.code();
        if is_slow {
            self.link.drop_queue();
        }
        let frame = Bytes::from(close_frame(code, &closing.reason));
        self.end_conversation(Some(frame));
        self.state = State::Closing {
            until: Instant::now() + CLOSE_TIME,
        };
        Next::Again
    }

    /// The peer closes: answers, if there is something to answer, and lets the socket go.
    fn answer_close(&mut self, answer: Option<Bytes>) -> Next {
        if answer.is_none() {
            return self.lose_peer();
        }
        self.end_conversation(answer);
        self.state = State::Closing {
            until: Instant::now() + ANSWER_TIME,
        };
        Next::Again
    }

    fn lose_peer(&mut self) -> Next {
        self.end_conversation(None);
        Next::Done
    }

    /// Drops the conversation, so that its memberships are gone before the last bytes leave.
    fn end_conversation(&mut self, last: Option<Bytes>) {
        self.state = State::Closing {
            until: Instant::now(),
        };
        self.carry = Bytes::new();
        self.link.finish(last);
    }

    fn step_closing(&mut self, cx: &mut Context<'_>) -> Next {
        let State::Closing { until } = self.state else {
            return Next::Again;
        };
        if self.is_past(until) {
            return Next::Done;
        }
        match self.flush(cx) {
            FlushOutcome::Flushed => {
                self.link.wire().end_writing();
                self.state = State::Draining {
                    until,
                    left: MAX_DRAINED,
                };
                Next::Again
            }
            FlushOutcome::Blocked => self.wait_until(until),
            FlushOutcome::Broken => Next::Done,
        }
    }

    fn step_draining(&mut self, cx: &mut Context<'_>) -> Next {
        let State::Draining { until, left } = self.state else {
            return Next::Again;
        };
        match self.link.wire().poll_read_ready(cx) {
            Poll::Pending if self.is_past(until) => return Next::Done,
            Poll::Pending => return self.wait_until(until),
            Poll::Ready(Err(_)) => return Next::Done,
            Poll::Ready(Ok(())) => {}
        }
        let read = SCRATCH.with_borrow_mut(|scratch| self.link.wire().try_read(scratch));
        match read {
            Ok(0) => Next::Done,
            Ok(len) if len >= left => Next::Done,
            Ok(len) => {
                let left = left - len;
                self.state = State::Draining { until, left };
                Next::Again
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Next::Again,
            Err(_) => Next::Done,
        }
    }

    /// Whether a time of closing has passed. Signals that came meanwhile have nobody left to act on them.
    fn is_past(&self, until: Instant) -> bool {
        drop(self.link.take_signals());
        Instant::now() >= until
    }

    fn wait_until(&mut self, until: Instant) -> Next {
        self.hub.schedule(&self.shared, until);
        Next::Wait
    }
}

impl<C: Conversation> Future for WebSocketSession<C> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        // Before anything is looked at, so that no signal is missed.
        this.link.register_waker(cx.waker());
        let mut budget = Budget::default();
        loop {
            match this.step(cx, &mut budget) {
                Next::Again => {}
                Next::Wait => return Poll::Pending,
                Next::Done => return Poll::Ready(()),
            }
        }
    }
}

impl<C> Drop for WebSocketSession<C> {
    /// Covers the ends that no step sees: a panic of the conversation, and the runtime's shutdown.
    fn drop(&mut self) {
        self.hub.unschedule(&self.shared);
        self.link.finish(None);
    }
}

impl<C> std::fmt::Debug for WebSocketSession<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebSocketSession")
            .field("link", &self.link)
            .finish_non_exhaustive()
    }
}

impl PingBudget {
    /// Counts a ping; answers whether it was within the bound.
    fn spend(&mut self) -> bool {
        self.count += 1;
        if self.count <= MAX_PINGS {
            return true;
        }
        let now = Instant::now();
        if now.duration_since(self.since) < PING_WINDOW {
            return false;
        }
        self.since = now;
        self.count = 1;
        true
    }
}

#[cfg(test)]
mod tests;
