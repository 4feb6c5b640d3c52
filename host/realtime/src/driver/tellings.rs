//! What a session tells plugins: that it is there, what it subscribes to, and that it is over.
//!
//! Owns which of it a survivor tells if this node dies first: such an event holds the session's line in the directory
//! until plugins have taken it. Invariant: where no plugin wants a kind, nothing is done for it but look.

use std::sync::Arc;

use tidegate_protocol::{DisconnectCode, UnsubscribeCode};

use super::Driver;
use crate::{
    directory::Slot,
    events::{Event, EventId, EventKind},
    ids::ChannelKey,
    session::Note,
};

impl Driver {
    /// Tells plugins of something about this session, if any of them wants to know.
    pub(super) fn tell(&self, kind: EventKind, complete: impl FnOnce(Event) -> Event) {
        let desk = self.app.desk();
        if desk.wants(kind) {
            desk.offer(complete(Event::of_peer(kind, self.session.peer())));
        }
    }

    /// The same of an end that a survivor tells if this node dies first: `slot` is where the directory has it.
    fn tell_end_of(
        &self,
        kind: EventKind,
        slot: impl FnOnce() -> Slot,
        complete: impl FnOnce(Event) -> Event,
    ) {
        let desk = self.app.desk();
        if !desk.wants(kind) {
            return;
        }
        let event = complete(Event::of_peer(kind, self.session.peer()));
        match self.node.registrar() {
            Some(registrar) => desk.offer_then(event, registrar.hold(slot()).until_taken()),
            None => desk.offer(event),
        }
    }

    /// Tells plugins of the subscriptions that came and went.
    pub(super) fn tell_notes(&mut self) {
        // Those of the connect command come after the word that somebody connected.
        if self.registration.is_none() {
            return;
        }
        for note in self.session.notes() {
            let Note { key, ended, end } = note;
            match ended {
                Some((code, reason)) => self.tell_unsubscribed(&key, end, (code, &reason)),
                None => self.tell(EventKind::Subscribed, |event| Event {
                    channel: key.channel().into(),
                    ..event
                }),
            }
        }
    }

    fn tell_unsubscribed(
        &self,
        key: &ChannelKey,
        end: Option<EventId>,
        (code, reason): (u32, &Arc<str>),
    ) {
        let complete = |event: Event| Event {
            id: end.unwrap_or(event.id),
            channel: key.channel().into(),
            code,
            reason: Arc::clone(reason),
            ..event
        };
        let slot = || Slot::Seat(key.clone(), self.link.client());
        match end {
            Some(_) => self.tell_end_of(EventKind::Unsubscribed, slot, complete),
            None => self.tell(EventKind::Unsubscribed, complete),
        }
    }

    /// Tells plugins that the session is over, and with it its subscriptions.
    pub(super) fn tell_end(&self) {
        if self.registration.is_none() {
            return;
        }
        if self.app.desk().wants(EventKind::Unsubscribed) {
            let code = UnsubscribeCode::Disconnected;
            let reason: Arc<str> = code.text().into();
            for (key, end) in self.session.channels() {
                self.tell_unsubscribed(key, end, (code.code(), &reason));
            }
        }
        let slot = || Slot::Session(self.link.client());
        self.tell_end_of(EventKind::Disconnected, slot, |event| {
            let closed = DisconnectCode::ConnectionClosed;
            let (code, reason) = match &self.closing {
                Some(closing) => (closing.code, Arc::clone(&closing.reason)),
                // The client went, or its connection broke.
                None => (closed.code(), closed.text().into()),
            };
            Event {
                id: EventId::of_disconnect(self.link.client()),
                code,
                reason,
                ..event
            }
        });
    }
}
