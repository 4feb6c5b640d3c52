//! The position check (client-protocol section 6.2): has a quiet subscription really got all of its stream?
//!
//! Owns when positions are compared and what follows. All positioned subscriptions of a session are looked at
//! together, by the session's one deadline. A difference counts when it is found twice and nothing was delivered
//! in between: a single look would mistake a publication on its way for a lost one.

use std::num::NonZeroU32;

use tidegate_protocol::StreamPosition;
use tokio::time::{Duration, Instant};

use super::{Ask, Context, PendingKind, Rare, Seat, Session, Sink, Step};
use crate::{config::ClientConfig, hub::Standing, ids::ChannelKey, wheel::TICK};

/// Time between finding a difference and believing it: far more than a publication takes from the broker to an
/// outbox, and little beside the time between two checks.
const SECOND_LOOK: Duration = Duration::from_secs(2);

impl<S: Seat> Session<S> {
    /// Has positions checked from now on, at a moment of the session's own so that the checks of a reconnect
    /// storm spread.
    pub(super) fn plan_position_check(&mut self, client: &ClientConfig, now: Instant) {
        let delay = client.position_check_delay;
        if delay.is_zero() || self.position_check.is_some() {
            return;
        }
        let spread = (delay / 2) * u32::from(self.jitter) / u32::from(u16::MAX);
        self.check_positions_at(now + delay + spread);
    }

    pub(super) fn position_check_at(&self) -> Option<Instant> {
        self.position_check
            .map(|ticks| self.opened + TICK * ticks.get())
    }

    fn check_positions_at(&mut self, at: Instant) {
        let since = at.saturating_duration_since(self.opened).as_millis();
        let ticks = u32::try_from(since.div_ceil(TICK.as_millis())).unwrap_or(u32::MAX);
        self.position_check = Some(NonZeroU32::new(ticks).unwrap_or(NonZeroU32::MIN));
    }

    /// Asks for the tops of the streams whose positions are due: the doubtful ones, or else all.
    pub(super) fn check_positions(&mut self, client: &ClientConfig, now: Instant) -> Step {
        if self.position_check_at().is_none_or(|at| at > now) {
            return Step::Done;
        }
        self.position_check = None;
        let keys_of = |is_asked: fn(Option<&Rare>) -> bool| -> Vec<ChannelKey> {
            let positioned = self.subscriptions.iter().filter(|one| one.is_positioned);
            positioned
                .filter(|one| is_asked(one.rare.as_deref()))
                .map(|one| one.seat.key().clone())
                .collect()
        };
        let mut keys = keys_of(|rare| rare.is_some_and(|rare| rare.doubt.is_some()));
        if keys.is_empty() {
            keys = keys_of(|_| true);
        }
        let delay = client.position_check_delay;
        if keys.is_empty() || delay.is_zero() {
            return Step::Done;
        }
        self.check_positions_at(now + delay);
        self.wait(0, PendingKind::ReadTops);
        Step::Ask(Ask::ReadTops(keys))
    }

    /// Ends the subscriptions that have lost their place; those whose stream could not be read wait for the
    /// next check.
    pub(super) fn tops_read(
        &mut self,
        tops: &[(ChannelKey, StreamPosition)],
        context: &Context<'_>,
        sink: &mut dyn Sink,
    ) -> Step {
        let mut has_doubt = false;
        for (key, top) in tops {
            let Some(index) = self.position_of(key.channel()) else {
                continue; // The server API ended it meanwhile.
            };
            let subscription = &mut self.subscriptions[index];
            let before = subscription.rare.as_ref().and_then(|rare| rare.doubt);
            let doubt = match (subscription.seat.standing(top), before) {
                (Standing::Confirmed, _) => None,
                (Standing::Differs { at }, None) => Some(at),
                (Standing::Differs { at }, Some(before)) if at != before => None,
                (Standing::Differs { .. }, Some(_)) | (Standing::OtherStream, _) => {
                    tracing::debug!(channel = key.channel(), "position lost");
                    match self.on_gap(key, sink) {
                        Step::Done => continue,
                        step => return step,
                    }
                }
            };
            has_doubt |= doubt.is_some();
            match &mut subscription.rare {
                Some(rare) => rare.doubt = doubt,
                None if doubt.is_some() => {
                    subscription.rare = Some(Box::new(Rare {
                        doubt,
                        ..Rare::default()
                    }));
                }
                None => {}
            }
        }
        if has_doubt {
            self.check_positions_at(context.now.instant + SECOND_LOOK);
        }
        Step::Done
    }
}
