//! Who is here, told to the directory and to plugins.
//!
//! Owns what a session's coming and going means beyond the node. Invariant: a session waits for none of it.

use std::sync::Arc;

use tidegate_protocol::{DisconnectCode, UnsubscribeCode};

use super::Node;
use crate::{
    app::App,
    directory::{Moment, Registrar, User, entry::SeatEntry},
    events::{Event, EventId, EventKind, Then, Untold},
    hooks::Peer,
    ids::{AppId, ChannelKey, ClientId},
};

/// A session that ended with its node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LostSession<'a> {
    pub(crate) client: ClientId,
    /// Empty for an anonymous one.
    pub(crate) user: &'a str,
    /// When the user went, with it or with another one, if this is what was last of them.
    pub(crate) gone: Option<Moment>,
}

impl Node {
    /// What this node has in the directory; `None` on a node that stands alone.
    pub(crate) fn registrar(&self) -> Option<&Arc<Registrar>> {
        self.registrar.as_ref()
    }

    /// A session was let in.
    pub(crate) fn session_came(&self, app: &App, peer: &Arc<Peer>, since_ms: u64) {
        if let Some(registrar) = &self.registrar {
            registrar.enter(app, peer, since_ms);
        } else if !peer.user.is_empty() && is_status_wanted(app) {
            let user = user(app, &peer.user);
            if self.statuses.came(user.clone()) {
                self.user_came(&user, self.statuses.next_moment());
            }
        }
    }

    /// A session that had been let in is over, and the app does not have it any more.
    pub(crate) fn session_went(&self, app: &App, name: &Arc<str>, client: ClientId) {
        if let Some(registrar) = &self.registrar {
            registrar.leave(app, name, client);
        } else if !name.is_empty() && is_status_wanted(app) && !app.has_user(name) {
            self.statuses.went(user(app, name));
        }
    }

    /// Whether seats in the channel are kept in the directory, seen or not: a plugin is told of their ends.
    pub(crate) fn remembers_seats(&self, key: &ChannelKey) -> bool {
        self.registrar.is_some() && self.events().is_wanted(key.app(), EventKind::Unsubscribed)
    }

    /// A user has a session in the cluster and had none before.
    pub(crate) fn user_came(&self, user: &User, at: Moment) {
        let event = status(EventKind::Online, user, at);
        self.events().offer(&user.app, event);
    }

    /// A user has no session in the cluster any more.
    pub(crate) fn user_went(&self, user: &User, at: Moment) {
        let event = status(EventKind::Offline, user, at);
        self.events().offer(&user.app, event);
    }

    /// The same, with something to be done when plugins have taken it.
    pub(crate) fn user_went_then(&self, user: &User, at: Moment, then: Then) {
        let event = status(EventKind::Offline, user, at);
        self.events().offer_then(&user.app, event, then);
    }

    /// Waits until everybody's coming and going was told, after the last session has gone; no longer than a few
    /// seconds where the directory does not answer.
    pub async fn settle(&self) {
        match &self.registrar {
            Some(registrar) => registrar.settled().await,
            None => self.statuses.settled().await,
        }
    }

    /// Tells plugins of sessions that ended with their node, those of a user one after the other. An event has the
    /// same id however often it is told.
    pub(crate) async fn tell_lost(
        self: &Arc<Self>,
        app: &AppId,
        lost: &[LostSession<'_>],
        reason: &str,
    ) -> Result<(), Untold> {
        let reason: Arc<str> = reason.into();
        let mut events = Vec::with_capacity(lost.len());
        for session in lost {
            events.push(Event {
                id: EventId::of_disconnect(session.client),
                client: Some(session.client),
                code: DisconnectCode::ConnectionClosed.code(),
                reason: Arc::clone(&reason),
                ..Event::of_user(EventKind::Disconnected, session.user)
            });
            if let Some(at) = session.gone {
                let user = User {
                    app: app.clone(),
                    name: session.user.into(),
                };
                events.push(status(EventKind::Offline, &user, at));
            }
        }
        self.deliver_events(app, events).wait().await
    }

    /// The same for subscriptions. Their channels have been told that they ended, which is not done twice: so what a
    /// plugin does not take now waits in this node's queues.
    pub(crate) async fn tell_lost_seats(
        self: &Arc<Self>,
        app: &AppId,
        lost: &[(&ChannelKey, &SeatEntry)],
        reason: &str,
    ) {
        let code = UnsubscribeCode::Disconnected;
        let reason: Arc<str> = reason.into();
        let events = lost.iter().map(|(key, entry)| Event {
            id: entry.end,
            client: Some(entry.member.client),
            channel: key.channel().into(),
            code: code.code(),
            reason: Arc::clone(&reason),
            ..Event::of_user(EventKind::Unsubscribed, &entry.member.user)
        });
        let events: Vec<_> = events.collect();
        let told = self.deliver_events(app, events.clone()).wait().await;
        if told.is_err() {
            for event in events {
                self.events().offer_untaken(app, event);
            }
        }
    }
}

/// The event of a user's coming or going at that moment. Its id is the same whichever node tells it, and its time is by
/// which a plugin knows the later one.
fn status(kind: EventKind, user: &User, at: Moment) -> Event {
    let User { app, name } = user;
    let at_ms = at.unix_millis();
    let words = [kind.as_str(), app.as_str(), name, &at_ms.to_string()];
    Event {
        id: EventId::of(&words),
        at_ms,
        ..Event::of_user(kind, name)
    }
}

fn user(app: &App, name: &Arc<str>) -> User {
    User {
        app: app.id().clone(),
        name: Arc::clone(name),
    }
}

fn is_status_wanted(app: &App) -> bool {
    let wanted = app.desk().wanted();
    wanted.has(EventKind::Online) || wanted.has(EventKind::Offline)
}
