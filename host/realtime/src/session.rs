//! A session: the client protocol of one connection as a pure state machine.
//!
//! Owns what a client may say when, what it is answered, its subscriptions and its deadlines. Does no I/O and
//! reads no clock: commands, answers, deadlines and signals come in with the time, replies go to a [`Sink`], and
//! what needs somebody else is an [`Ask`] for [`crate::driver`]. Invariants: a command other than `send` gets
//! exactly one reply or the connection ends; one command is carried out at a time, in the order of arrival; a
//! subscribe reply precedes every publication of its channel.

pub mod asks;
mod commands;
mod connect;
mod context;
mod deadlines;
mod enlist;
mod subscribe;
mod subscription;
pub mod terms;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use smallvec::SmallVec;
use tidegate_protocol::{
    Command, DisconnectCode, Error, ErrorCode, Publication, Push, Reply, Request,
    SubRefreshRequest, Unsubscribe, UnsubscribeCode, UnsubscribeResult,
};
use tokio::time::Instant;

pub use self::asks::{
    Admission, Answer, Ask, Closing, ConnectAsk, EnlistAsk, Failure, HistoryAsk, MadeBy,
    PublishAsk, Requested, Seated, Step, SubscribeAsk, Terms, Wishes,
};
pub use self::context::{Context, Now, SessionAddress};
pub use self::enlist::Enlistment;
use self::{
    deadlines::Expiry,
    enlist::Enlistments,
    subscription::{Rare, Subscription},
};
use crate::{
    events::EventId,
    hooks::Peer,
    hub::{Activation, Buffered, Membership},
    ids::ChannelKey,
    link::Signal,
    namespace::Applicant,
    rate::{Bucket, ErrorWindow, RateVerdict},
};

/// Longest label that a client supplies: name and version of its library, epochs (threat model section 3).
pub const MAX_LABEL_BYTES: usize = 64;

/// Longest RPC method.
pub const MAX_METHOD_BYTES: usize = 255;

/// A subscription that has begun, or ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub key: ChannelKey,
    /// The code and reason of an end; `None` for a beginning.
    pub ended: Option<(u32, Arc<str>)>,
    /// The event of the end, where it may be another node's to tell.
    pub(crate) end: Option<EventId>,
}

/// Where replies and pushes go, in order.
pub trait Sink {
    fn reply(&mut self, reply: &Reply);
    fn publication(&mut self, channel: &str, publication: &Publication);
    fn ping(&mut self);
    /// A ping of the transport in place of an empty message.
    fn native_ping(&mut self);
}

/// How a client is asked whether it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pings {
    /// Empty messages, answered by empty commands.
    Messages,
    /// Ping frames of the transport, answered by its pong frames; the client's library sees none of it.
    Native,
}

/// A place among a channel's members that is about to go live; see [`Membership`].
pub trait Seat {
    fn key(&self) -> &ChannelKey;
    /// Hands over what was kept back; what comes from now on is kept back until [`Seat::go_live`].
    fn open(&self) -> Buffered;
    /// Goes live, behind what was pushed since [`Seat::open`].
    fn go_live(&self, activation: &Activation);
}

impl Seat for Membership {
    fn key(&self) -> &ChannelKey {
        Self::key(self)
    }

    fn open(&self) -> Buffered {
        Self::open(self)
    }

    fn go_live(&self, activation: &Activation) {
        Self::go_live(self, activation);
    }
}

/// One connection's state. `S` is the seat in a channel: [`Membership`] but for tests.
#[derive(Debug)]
pub struct Session<S = Membership> {
    peer: Arc<Peer>,
    phase: Phase,
    /// What the one command under way is; its reply is owed.
    pending: Option<Pending>,
    subscriptions: SmallVec<[Subscription<S>; 1]>,
    enlistments: Enlistments,
    /// Subscriptions that came and went since somebody last looked; absent while nobody looks.
    #[expect(
        clippy::box_collection,
        reason = "an idle session pays one pointer for it"
    )]
    notes: Option<Box<Vec<Note>>>,
    opened: Instant,
    next_ping: Instant,
    /// Until when the answer to the last ping is due.
    pong_due: Option<Instant>,
    expiry: Option<Expiry>,
    bucket: Bucket,
    errors: ErrorWindow,
    /// Where in the first half interval the first ping falls, so that pings of a reconnect storm spread.
    jitter: u16,
    pings: Pings,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing was said yet.
    Fresh,
    /// The connect command is under way.
    Connecting,
    Connected,
    /// Connect was answered with an error; nothing else will be accepted.
    Rejected,
}

#[derive(Debug)]
struct Pending {
    id: u32,
    kind: PendingKind,
}

#[derive(Debug)]
enum PendingKind {
    Connect,
    Subscribe(Joining),
    Enlist(Joining),
    Publish,
    Rpc,
    History,
    Presence,
    PresenceStats,
    RefreshIdentity,
    RefreshSubscription(ChannelKey),
}

/// A subscription that somebody is still asked about.
#[derive(Debug)]
struct Joining {
    channel: Arc<str>,
    /// The server API has taken it away before it was there, with this code and reason.
    taken: Option<Box<(u32, Arc<str>)>>,
}

impl<S: Seat> Session<S> {
    /// A session of a client that has not spoken. `jitter` is any random number.
    pub fn new(peer: Arc<Peer>, now: Instant, jitter: u16) -> Self {
        Self {
            peer,
            phase: Phase::Fresh,
            pending: None,
            subscriptions: SmallVec::new(),
            enlistments: None,
            notes: None,
            opened: now,
            next_ping: now,
            pong_due: None,
            expiry: None,
            bucket: Bucket::new(now),
            errors: ErrorWindow::new(now),
            jitter,
            pings: Pings::Messages,
        }
    }

    /// The same session, pinged in this way.
    #[must_use]
    pub fn with_pings(mut self, pings: Pings) -> Self {
        self.pings = pings;
        self
    }

    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    pub fn is_connected(&self) -> bool {
        self.phase == Phase::Connected
    }

    /// Whether an [`Ask`] waits for its answer.
    pub fn is_waiting(&self) -> bool {
        self.pending.is_some()
    }

    pub fn num_subscriptions(&self) -> usize {
        self.subscriptions.len()
    }

    /// The channels that the session is subscribed to, with the events of their ends where those may be another node's
    /// to tell.
    pub(crate) fn channels(&self) -> impl Iterator<Item = (&ChannelKey, Option<EventId>)> {
        self.subscriptions
            .iter()
            .map(|subscription| (subscription.seat.key(), subscription.end()))
    }

    /// Has what follows noted, for [`Session::notes`].
    pub fn take_notes(&mut self) {
        self.notes.get_or_insert_default();
    }

    /// What was noted since the last look, if anything was to be.
    pub fn notes(&mut self) -> Vec<Note> {
        let notes = self.notes.as_deref_mut();
        notes.map(std::mem::take).unwrap_or_default()
    }

    fn note(&mut self, key: &ChannelKey, ended: Option<(u32, Arc<str>)>, end: Option<EventId>) {
        if let Some(notes) = &mut self.notes {
            let key = key.clone();
            notes.push(Note { key, ended, end });
        }
    }

    /// Leaves a channel: nothing of it follows what is pushed from now on.
    fn leave(&mut self, index: usize, code: u32, reason: &Arc<str>) -> ChannelKey {
        let subscription = self.subscriptions.swap_remove(index);
        let key = subscription.seat.key().clone();
        let end = subscription.end();
        drop(subscription);
        self.note(&key, Some((code, Arc::clone(reason))), end);
        key
    }

    /// The same, for a reason of the protocol's.
    fn leave_for(&mut self, index: usize, code: UnsubscribeCode) -> ChannelKey {
        let subscription = self.subscriptions.swap_remove(index);
        let key = subscription.seat.key().clone();
        let end = subscription.end();
        drop(subscription);
        if self.notes.is_some() {
            self.note(&key, Some((code.code(), code.text().into())), end);
        }
        key
    }

    /// Carries out one command. Must not be called while an ask waits for its answer.
    pub fn handle(&mut self, command: Command, context: &Context<'_>, sink: &mut dyn Sink) -> Step {
        if command.is_pong() {
            let is_due = self.pings == Pings::Messages && self.pong_due.take().is_some();
            return if is_due {
                Step::Done
            } else {
                close(DisconnectCode::BadRequest)
            };
        }
        let id = command.id;
        let Some(request) = command.into_request() else {
            return close(DisconnectCode::BadRequest);
        };
        let is_connect = matches!(request, Request::Connect(_));
        let is_expected = match self.phase {
            Phase::Fresh => is_connect,
            Phase::Connected => !is_connect,
            Phase::Connecting | Phase::Rejected => false,
        };
        if !is_expected {
            return close(DisconnectCode::BadRequest);
        }
        if let Some(rate) = context.settings.client.command_rate {
            match self.bucket.take(rate, context.now.instant) {
                RateVerdict::Within => {}
                // `send` is never answered.
                RateVerdict::Over if matches!(request, Request::Send(_)) => return Step::Done,
                RateVerdict::Over => {
                    sink.reply(&Reply::from_error(id, ErrorCode::TooManyRequests.into()));
                    return Step::Done;
                }
                RateVerdict::Abuse => return close(DisconnectCode::TooManyRequests),
            }
        }
        let outcome = match request {
            Request::Connect(request) => self.connect(id, *request, context),
            Request::Subscribe(request) => self.subscribe(id, *request, context),
            Request::Unsubscribe(request) => {
                self.unsubscribe(&request.channel);
                Ok(Outcome::Reply(Reply {
                    unsubscribe: Some(Box::new(UnsubscribeResult {})),
                    ..Reply::default()
                }))
            }
            Request::Publish(request) => self.publish(id, *request, context),
            Request::History(request) => self.history(id, *request, context),
            Request::Rpc(request) => self.rpc(id, *request),
            Request::Refresh(request) => self.refresh(&request.token, context),
            Request::SubRefresh(request) => self.sub_refresh(&request),
            Request::Presence(request) => self.presence(id, &request.channel, context),
            Request::PresenceStats(request) => self.presence_stats(id, &request.channel, context),
            Request::Send(_) => Err(DisconnectCode::NotAvailable.into()),
            Request::Ping(_) => Err(DisconnectCode::BadRequest.into()),
        };
        self.conclude(id, outcome, context, sink)
    }

    /// Takes the answer to the last ask.
    pub fn answer(
        &mut self,
        answer: Answer<S>,
        context: &Context<'_>,
        sink: &mut dyn Sink,
    ) -> Step {
        let Some(Pending { id, kind }) = self.pending.take() else {
            return close(DisconnectCode::ServerError);
        };
        let outcome = match (answer, kind) {
            (Answer::Connect(answer), PendingKind::Connect) => {
                return self.connect_answered(id, answer, context, sink);
            }
            (Answer::Subscribe(answer), PendingKind::Subscribe(joining)) => {
                let outcome = answer.and_then(|seated| self.seat(id, *seated, context, sink));
                match outcome {
                    Ok(()) => {
                        if let Some((code, reason)) = joining.taken.as_deref() {
                            self.take_away(&joining.channel, *code, reason, sink);
                        }
                        return Step::Done;
                    }
                    Err(failure) => Err(failure),
                }
            }
            (Answer::Enlist(answer), PendingKind::Enlist(joining)) => {
                return self.enlisted(&joining, answer, context, sink);
            }
            (Answer::Publish(answer), PendingKind::Publish) => answer.map(|()| {
                Outcome::Reply(Reply {
                    publish: Some(Box::default()),
                    ..Reply::default()
                })
            }),
            (Answer::Rpc(answer), PendingKind::Rpc) => commands::rpc_outcome(answer),
            (Answer::History(answer), PendingKind::History) => {
                answer.map(|page| Outcome::Reply(commands::history_reply(*page)))
            }
            (Answer::Presence(answer), PendingKind::Presence) => answer.map(|presence| {
                Outcome::Reply(Reply {
                    presence: Some(presence),
                    ..Reply::default()
                })
            }),
            (Answer::PresenceStats(answer), PendingKind::PresenceStats) => {
                answer.map(commands::presence_stats_outcome)
            }
            (Answer::RefreshIdentity(answer), PendingKind::RefreshIdentity) => {
                return self.identity_refreshed(answer, context);
            }
            (Answer::RefreshSubscription(answer), PendingKind::RefreshSubscription(key)) => {
                return self.subscription_refreshed(&key, answer, context, sink);
            }
            _ => Err(DisconnectCode::ServerError.into()),
        };
        self.conclude(id, outcome, context, sink)
    }

    /// Acts on something that happened outside; deadlines go to [`Session::on_deadline`].
    pub fn on_signal(
        &mut self,
        signal: &Signal,
        context: &Context<'_>,
        sink: &mut dyn Sink,
    ) -> Step {
        match signal {
            Signal::Disconnect { code, reason } => Step::Close(Closing {
                code: *code,
                reason: Arc::clone(reason),
            }),
            Signal::Drain => close(DisconnectCode::Shutdown),
            Signal::Slow => close(DisconnectCode::Slow),
            Signal::Unsubscribe {
                channel,
                code,
                reason,
            } => {
                self.take_away(channel, *code, reason, sink);
                Step::Done
            }
            Signal::Subscribe(enlistment) => {
                self.enlist(enlistment, context);
                Step::Done
            }
            Signal::Gap(key) => self.on_gap(key, sink),
            Signal::Refresh {
                is_expired,
                expires_at,
                info,
            } => {
                let step = self.on_refresh(*is_expired, *expires_at, context, sink);
                if self.is_connected() && !info.is_empty() {
                    self.take_info(info);
                }
                step
            }
            Signal::Deadline => self.on_deadline(context, sink),
        }
    }

    /// The position of a subscription cannot be kept.
    fn on_gap(&mut self, key: &ChannelKey, sink: &mut dyn Sink) -> Step {
        let Some(index) = self.position_of(key.channel()) else {
            return Step::Done;
        };
        if self.subscriptions[index].is_server_side() {
            return close(DisconnectCode::InsufficientState);
        }
        let code = UnsubscribeCode::InsufficientState;
        self.leave_for(index, code);
        push_unsubscribe(key.channel(), code.code(), code.text(), sink);
        Step::Done
    }

    /// Sends what a command came to, or remembers that it is under way.
    fn conclude(
        &mut self,
        id: u32,
        outcome: Result<Outcome, Failure>,
        context: &Context<'_>,
        sink: &mut dyn Sink,
    ) -> Step {
        match outcome {
            Ok(Outcome::Reply(mut reply)) => {
                reply.id = id;
                sink.reply(&reply);
                Step::Done
            }
            Ok(Outcome::Ask(ask)) => Step::Ask(ask),
            Err(Failure::Error(error)) => self.fail(id, error, context, sink),
            Err(Failure::Close(closing)) => Step::Close(closing),
        }
    }

    fn fail(&mut self, id: u32, error: Error, context: &Context<'_>, sink: &mut dyn Sink) -> Step {
        // What a plugin or the node did wrong says nothing about the client: it may try as often as its rate allows.
        let is_of_client = error.code != ErrorCode::Internal.code();
        if is_of_client && !self.errors.count(context.now.instant) {
            return close(DisconnectCode::TooManyErrors);
        }
        sink.reply(&Reply::from_error(id, error));
        Step::Done
    }

    fn wait(&mut self, id: u32, kind: PendingKind) {
        self.pending = Some(Pending { id, kind });
    }

    fn position_of(&self, channel: &str) -> Option<usize> {
        self.subscriptions
            .iter()
            .position(|subscription| subscription.seat.key().channel() == channel)
    }

    fn find(&self, channel: &str) -> Option<&Subscription<S>> {
        self.position_of(channel)
            .map(|index| &self.subscriptions[index])
    }

    /// Ends a subscription of the client's own making.
    fn unsubscribe(&mut self, channel: &str) {
        if let Some(index) = self.position_of(channel)
            && !self.subscriptions[index].is_server_side()
        {
            self.leave_for(index, UnsubscribeCode::Client);
        }
    }

    /// Ends a subscription by order of the server API, whoever made it; an empty name ends all. One that is
    /// still asked about ends as soon as it is there.
    fn take_away(&mut self, channel: &str, code: u32, reason: &Arc<str>, sink: &mut dyn Sink) {
        self.strike(channel);
        if let Some(Pending {
            kind: PendingKind::Subscribe(joining) | PendingKind::Enlist(joining),
            ..
        }) = &mut self.pending
            && (channel.is_empty() || *joining.channel == *channel)
        {
            joining.taken = Some(Box::new((code, Arc::clone(reason))));
        }
        if channel.is_empty() {
            // From the first to the last, which is cheap to take off at the end.
            self.subscriptions.reverse();
        }
        loop {
            let index = if channel.is_empty() {
                self.subscriptions.len().checked_sub(1)
            } else {
                self.position_of(channel)
            };
            let Some(index) = index else {
                return;
            };
            let key = self.leave(index, code, reason);
            push_unsubscribe(key.channel(), code, reason, sink);
        }
    }

    fn applicant(&self, is_subscribed: bool, context: &Context<'_>) -> Applicant {
        Applicant {
            is_anonymous: self.peer.user.is_empty(),
            is_subscribed,
            is_insecure: context.settings.client.is_insecure,
        }
    }

    fn sub_refresh(&self, request: &SubRefreshRequest) -> Result<Outcome, Failure> {
        if self.find(&request.channel).is_none() {
            return Err(ErrorCode::PermissionDenied.into());
        }
        if request.token.is_empty() {
            return Err(ErrorCode::BadRequest.into());
        }
        Err(Failure::error(
            ErrorCode::NotAvailable,
            "not available: subscription tokens",
        ))
    }
}

/// What a command came to.
enum Outcome {
    Reply(Reply),
    Ask(Ask),
}

fn close(code: DisconnectCode) -> Step {
    Step::Close(code.into())
}

fn push_unsubscribe(channel: &str, code: u32, reason: &str, sink: &mut dyn Sink) {
    sink.reply(&Reply::from_push(Push {
        channel: channel.to_owned(),
        unsubscribe: Some(Box::new(Unsubscribe {
            code,
            reason: reason.to_owned(),
        })),
        ..Push::default()
    }));
}
