//! Deadlines: pings and pongs, silence before connect, expiry of identity and subscriptions.

use std::sync::Arc;

use tidegate_protocol::{DisconnectCode, Push, Refresh, Reply, UnsubscribeCode};
use tokio::time::{Duration, Instant};

use super::{
    Ask, Context, PendingKind, Phase, Pings, Seat, Session, Sink, Step, close, push_unsubscribe,
};
use crate::{
    config::ClientConfig,
    hooks::{
        AuthenticationQuestion, AuthenticationReason, AuthenticationVerdict, AuthorizationQuestion,
        AuthorizationReason, AuthorizationVerdict, HookFailure, Refusal, TokenCheck,
    },
    ids::ChannelKey,
};

/// How long before an expiry the host asks again, so that the answer is there in time.
const ASK_AHEAD: Duration = Duration::from_secs(10);

/// How long to wait after a failed call before the next.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// When something ends unless it is refreshed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expiry {
    /// The client brings a new token.
    ByClient { at: Instant },
    /// The host asks the hook that gave it; not any more once nobody wanted to renew it.
    ByHost {
        at: Instant,
        ask_at: Option<Instant>,
    },
}

impl Expiry {
    pub(super) fn by_client(at: Instant) -> Self {
        Self::ByClient { at }
    }

    /// Asks ahead of time, but not before half of a short life has passed.
    pub(super) fn by_host(at: Instant, now: Instant) -> Self {
        let life = at.saturating_duration_since(now);
        Self::ByHost {
            at,
            ask_at: Some(at - ASK_AHEAD.min(life / 2)),
        }
    }

    /// When what it limits is over. `grace` is for clients that are late with a token; the host asks in time.
    fn end(self, grace: Duration) -> Instant {
        match self {
            Self::ByClient { at } => at + grace,
            Self::ByHost { at, .. } => at,
        }
    }

    /// The next moment at which something has to be done about it.
    fn due(self, grace: Duration, is_waiting: bool) -> Instant {
        let end = self.end(grace);
        match self {
            Self::ByHost {
                ask_at: Some(ask_at),
                ..
            } if !is_waiting => ask_at.min(end),
            Self::ByHost { .. } | Self::ByClient { .. } => end,
        }
    }

    fn is_to_be_asked(self, now: Instant) -> bool {
        matches!(self, Self::ByHost { ask_at: Some(ask_at), .. } if ask_at <= now)
    }

    fn ask_again(&mut self, now: Instant) {
        if let Self::ByHost { ask_at, .. } = self {
            *ask_at = Some(now + ASK_AGAIN);
        }
    }

    /// Nobody renews it: it lasts as long as was said, and no longer.
    fn stop_asking(&mut self) {
        if let Self::ByHost { ask_at, .. } = self {
            *ask_at = None;
        }
    }
}

impl<S: Seat> Session<S> {
    /// When [`Session::on_deadline`] wants to be called next.
    pub fn next_deadline(&self, client: &ClientConfig) -> Instant {
        if self.phase != Phase::Connected {
            return self.opened + client.stale_close_delay;
        }
        let is_waiting = self.is_waiting();
        let mut next = self.next_ping;
        if let Some(due) = self.pong_due.filter(|_| !is_waiting) {
            next = next.min(due);
        }
        if let Some(expiry) = self.expiry {
            next = next.min(expiry.due(client.expired_close_delay, is_waiting));
        }
        for expiry in self.subscription_expiries() {
            next = next.min(expiry.due(client.expired_sub_close_delay, is_waiting));
        }
        next
    }

    /// Does what is due.
    pub fn on_deadline(&mut self, context: &Context<'_>, sink: &mut dyn Sink) -> Step {
        let now = context.now.instant;
        let client = &context.settings.client;
        if self.phase != Phase::Connected {
            return if now >= self.opened + client.stale_close_delay {
                close(DisconnectCode::Stale)
            } else {
                Step::Done
            };
        }
        // While a hook is asked nothing is read, so a pong may wait in the socket.
        if !self.is_waiting() && self.pong_due.is_some_and(|due| due <= now) {
            return close(DisconnectCode::NoPong);
        }
        if self
            .expiry
            .is_some_and(|expiry| expiry.end(client.expired_close_delay) <= now)
        {
            return close(DisconnectCode::Expired);
        }
        if let Some(step) = self.end_expired_subscriptions(client, now, sink) {
            return step;
        }
        if self.next_ping <= now {
            self.ping(client, now, sink);
        }
        self.ask_for_renewal(now)
    }

    /// A moment in the second half of the first interval, different for every session.
    pub(super) fn first_ping(&self, interval: Duration, now: Instant) -> Instant {
        now + interval / 2 + (interval / 2) * u32::from(self.jitter) / u32::from(u16::MAX)
    }

    /// The transport got an answer to one of its own pings. Unasked ones are allowed by RFC 6455 and mean
    /// nothing.
    pub fn on_native_pong(&mut self) {
        if self.pings == Pings::Native {
            self.pong_due = None;
        }
    }

    fn ping(&mut self, client: &ClientConfig, now: Instant, sink: &mut dyn Sink) {
        match self.pings {
            Pings::Messages => sink.ping(),
            Pings::Native => sink.native_ping(),
        }
        if self.pong_due.is_none() {
            self.pong_due = Some(now + client.pong_timeout);
        }
        self.next_ping = now + client.ping_interval;
    }

    fn subscription_expiries(&self) -> impl Iterator<Item = Expiry> {
        self.subscriptions
            .iter()
            .filter_map(|subscription| subscription.rare.as_ref()?.expiry)
    }

    fn end_expired_subscriptions(
        &mut self,
        client: &ClientConfig,
        now: Instant,
        sink: &mut dyn Sink,
    ) -> Option<Step> {
        let grace = client.expired_sub_close_delay;
        loop {
            let index = self.subscriptions.iter().position(|subscription| {
                let expiry = subscription.rare.as_ref().and_then(|rare| rare.expiry);
                expiry.is_some_and(|expiry| expiry.end(grace) <= now)
            })?;
            if let Some(step) = self.end_subscription(index, sink) {
                return Some(step);
            }
        }
    }

    /// Ends a subscription that was not renewed; one of the server's ends the connection.
    fn end_subscription(&mut self, index: usize, sink: &mut dyn Sink) -> Option<Step> {
        if self.subscriptions[index].is_server_side() {
            return Some(close(DisconnectCode::SubscriptionExpired));
        }
        let code = UnsubscribeCode::Expired;
        let key = self.leave_for(index, code);
        push_unsubscribe(key.channel(), code.code(), code.text(), sink);
        None
    }

    /// Asks for one thing that a hook gave and that is about to expire.
    fn ask_for_renewal(&mut self, now: Instant) -> Step {
        if self.is_waiting() {
            return Step::Done;
        }
        if self.expiry.is_some_and(|expiry| expiry.is_to_be_asked(now)) {
            self.wait(0, PendingKind::RefreshIdentity);
            return Step::Ask(Ask::RefreshIdentity(Box::new(AuthenticationQuestion {
                reason: AuthenticationReason::Refresh,
                peer: Arc::clone(&self.peer),
                token: "".into(),
                token_check: TokenCheck::Absent,
                data: bytes::Bytes::new(),
            })));
        }
        let due = self.subscriptions.iter().find(|subscription| {
            let expiry = subscription.rare.as_ref().and_then(|rare| rare.expiry);
            expiry.is_some_and(|expiry| expiry.is_to_be_asked(now))
        });
        let Some(key) = due.map(|subscription| subscription.seat.key().clone()) else {
            return Step::Done;
        };
        let question = AuthorizationQuestion {
            reason: AuthorizationReason::Refresh,
            peer: Arc::clone(&self.peer),
            channel: key.channel().into(),
            data: bytes::Bytes::new(),
        };
        self.wait(0, PendingKind::RefreshSubscription(key));
        Step::Ask(Ask::RefreshSubscription(Box::new(question)))
    }

    pub(super) fn identity_refreshed(
        &mut self,
        answer: Result<AuthenticationVerdict, HookFailure>,
        context: &Context<'_>,
    ) -> Step {
        let now = context.now;
        match answer {
            // Nobody said no: the identity lives on until its end, and the hook is asked again before.
            Err(_) => {
                if let Some(expiry) = &mut self.expiry {
                    expiry.ask_again(now.instant);
                }
                Step::Done
            }
            Ok(AuthenticationVerdict::Accept(identity)) if identity.user == self.peer.user => {
                if identity.expires_at.is_some_and(|at| at <= now.unix()) {
                    return close(DisconnectCode::Expired);
                }
                self.take_identity(&identity);
                self.expiry = identity
                    .expires_at
                    .map(|at| Expiry::by_host(now.instant_of(at), now.instant));
                Step::Done
            }
            Ok(AuthenticationVerdict::Refuse(Refusal::Disconnect { code, reason })) => {
                Step::Close(super::Closing { code, reason })
            }
            Ok(
                AuthenticationVerdict::Accept(_)
                | AuthenticationVerdict::Refuse(Refusal::Error { .. }),
            ) => close(DisconnectCode::Expired),
            // Ending it now would bring the client back at once with the same credentials, to be asked again
            // after half of what is left of them, and so on.
            Ok(AuthenticationVerdict::NotMine) => {
                if let Some(expiry) = &mut self.expiry {
                    expiry.stop_asking();
                }
                Step::Done
            }
        }
    }

    pub(super) fn subscription_refreshed(
        &mut self,
        key: &ChannelKey,
        answer: Result<AuthorizationVerdict, HookFailure>,
        context: &Context<'_>,
        sink: &mut dyn Sink,
    ) -> Step {
        let now = context.now;
        let Some(index) = self.position_of(key.channel()) else {
            return Step::Done;
        };
        match answer {
            Err(_) => {
                if let Some(expiry) = self.subscriptions[index].expiry_mut() {
                    expiry.ask_again(now.instant);
                }
                Step::Done
            }
            Ok(AuthorizationVerdict::NotMine) => {
                if let Some(expiry) = self.subscriptions[index].expiry_mut() {
                    expiry.stop_asking();
                }
                Step::Done
            }
            Ok(AuthorizationVerdict::Allow(grant))
                if grant.expires_at.is_none_or(|at| at > now.unix()) =>
            {
                if let Some(rare) = &mut self.subscriptions[index].rare {
                    rare.info = grant.info.into();
                    rare.expiry = grant
                        .expires_at
                        .map(|at| Expiry::by_host(now.instant_of(at), now.instant));
                }
                self.subscriptions[index].show(&self.peer.info);
                Step::Done
            }
            Ok(AuthorizationVerdict::Refuse(Refusal::Disconnect { code, reason })) => {
                Step::Close(super::Closing { code, reason })
            }
            Ok(
                AuthorizationVerdict::Allow(_)
                | AuthorizationVerdict::Refuse(Refusal::Error { .. }),
            ) => self.end_subscription(index, sink).unwrap_or(Step::Done),
        }
    }

    /// The server API changed the life of the connection.
    pub(super) fn on_refresh(
        &mut self,
        is_expired: bool,
        expires_at: Option<u64>,
        context: &Context<'_>,
        sink: &mut dyn Sink,
    ) -> Step {
        let now = context.now;
        let is_over = expires_at.is_some_and(|at| at <= now.unix());
        if self.phase != Phase::Connected {
            return Step::Done;
        }
        if is_expired || is_over {
            return close(DisconnectCode::Expired);
        }
        self.expiry = expires_at.map(|at| Expiry::by_client(now.instant_of(at)));
        let ttl = self.ttl_for_client(now.instant);
        sink.reply(&Reply::from_push(Push {
            refresh: Some(Box::new(Refresh {
                expires: ttl.is_some(),
                ttl: ttl.unwrap_or_default(),
            })),
            ..Push::default()
        }));
        Step::Done
    }

    /// Seconds that the client is told; `None` when refreshing is not its duty.
    pub(super) fn ttl_for_client(&self, now: Instant) -> Option<u32> {
        match self.expiry {
            Some(Expiry::ByClient { at }) => {
                let seconds = at.saturating_duration_since(now).as_secs();
                Some(u32::try_from(seconds).unwrap_or(u32::MAX))
            }
            Some(Expiry::ByHost { .. }) | None => None,
        }
    }
}
