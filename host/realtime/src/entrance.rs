//! The entrance of an app: calls of the server API about connections that are only being let in.
//!
//! A connection can be found by its user once it was let in, and until then a plugin may take its time. What is
//! ordered meanwhile is kept here and carried out when the connection enters, or else a user could be
//! disconnected, and be there a moment later with an answer from before. Kept while somebody is entering, and no
//! longer. Invariant: of a call and an entry at the same time, exactly one sees the other. Locks: this one is
//! taken before the one of the app's sessions.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tidegate_protocol::DisconnectCode;

use crate::{
    app::{App, Registration},
    hooks::Peer,
    ids::{ClientId, SessionId},
    link::{Link, Signal},
    session::Now,
};

/// Milliseconds after which a session was certainly there before one of which its node hears now: several times what
/// a message takes from node to node.
const SETTLED_AFTER: u64 = 500;

/// Calls kept at a time. Connections are let in within a plugin's deadline, so this is a burst of tens of
/// thousands of calls a second; who misses the oldest of them is told to connect again.
const MAX_CALLS: usize = 1024;

/// Whom a call means: the user's sessions, narrowed to a client and to a session where they are named. What names
/// nothing selects nothing.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Selection {
    /// Empty is the anonymous ones; `None` is whoever the client is.
    pub(crate) user: Option<String>,
    pub(crate) client: String,
    pub(crate) session: String,
    /// Clients that are not meant after all.
    pub(crate) spared: Vec<ClientId>,
    /// Only sessions that are there for longer than this one.
    pub(crate) before: Option<Arrival>,
}

/// When a session came in; of two that came in at the same time, one is before the other everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Arrival {
    /// Unix milliseconds.
    pub(crate) at: u64,
    pub(crate) client: ClientId,
}

impl Selection {
    /// All sessions of a user.
    pub(crate) fn of_user(user: &str) -> Self {
        Self {
            user: Some(user.to_owned()),
            ..Self::default()
        }
    }

    /// One session, whoever its user is.
    pub(crate) fn of_client(client: ClientId) -> Self {
        Self {
            client: client.to_string(),
            ..Self::default()
        }
    }

    /// The connected sessions that are meant.
    pub(crate) fn find(&self, app: &App) -> Vec<Arc<Link>> {
        let client = ClientId::parse(&self.client);
        let mut links = match &self.user {
            Some(user) if self.client.is_empty() => app.find_user(user).into_vec(),
            Some(user) => client
                .and_then(|client| app.find_client_of(user, client))
                .into_iter()
                .collect(),
            None => client
                .and_then(|client| app.find_client(client))
                .into_iter()
                .collect(),
        };
        if !self.session.is_empty() {
            let session = SessionId::parse(&self.session);
            links.retain(|link| session.is_some() && session == link.session());
        }
        links.retain(|link| !self.spared.contains(&link.client()));
        if let Some(before) = self.before {
            let now = Now::read().unix_millis;
            let ends = |at: Arrival| before.ends(at, now);
            links.retain(|link| app.arrival_of(link.client()).is_some_and(ends));
        }
        links
    }

    /// Whether a session of the user outlives the one that came in, which has to go then: of two that came at the
    /// same time to nodes whose clocks differ, both nodes know which one stays, and each sees the other's order.
    pub(crate) fn is_outlived(&self, app: &App) -> bool {
        let (Some(before), Some(user)) = (self.before, &self.user) else {
            return false;
        };
        let now = Now::read().unix_millis;
        let stays = |link: &Arc<Link>| {
            let at = app.arrival_of(link.client());
            link.client() != before.client && at.is_some_and(|at| !before.ends(at, now))
        };
        app.find_user(user).iter().any(stays)
    }

    /// Whether somebody who enters is meant by a call from before.
    fn means(&self, user: &str, link: &Link, arrival: Arrival) -> bool {
        let names_somebody = self.user.is_some() || !self.client.is_empty();
        names_somebody
            && self.user.as_deref().is_none_or(|named| named == user)
            && self.before.is_none_or(|before| arrival < before)
            && (self.client.is_empty() || ClientId::parse(&self.client) == Some(link.client()))
            && (self.session.is_empty()
                || SessionId::parse(&self.session)
                    .is_some_and(|session| link.session() == Some(session)))
            && !self.spared.contains(&link.client())
    }
}

impl Arrival {
    /// Whether a session that came at `other` gives way to this one, at `now` by the clock of its node.
    fn ends(self, other: Self, now: u64) -> bool {
        let is_settled = other.at.saturating_add(SETTLED_AFTER) <= now;
        other.client != self.client && (other < self || is_settled)
    }
}

#[derive(Default)]
pub(crate) struct Entrance(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    num_entering: usize,
    calls: VecDeque<(Selection, Signal)>,
    /// The number of the first of `calls`; each call has the next one.
    first: u64,
}

impl Waiting {
    fn next(&self) -> u64 {
        self.first + self.calls.len() as u64
    }
}

impl Entrance {
    /// Sends a signal to the app's sessions that are meant, and to those that enter later but have begun already.
    pub(crate) fn tell(&self, app: &App, selection: &Selection, signal: &Signal) {
        let mut waiting = self.0.lock();
        let found = selection.find(app);
        if waiting.num_entering > 0 {
            if waiting.calls.len() == MAX_CALLS {
                waiting.calls.pop_front();
                waiting.first += 1;
            }
            waiting.calls.push_back((selection.clone(), signal.clone()));
        }
        drop(waiting);
        for link in found {
            link.signal(signal.clone());
        }
    }
}

/// A connection that is being let in.
#[must_use = "dropping it says that the connection does not enter"]
pub(crate) struct Entering {
    app: Arc<App>,
    /// The number that the next call had.
    since: u64,
}

impl Entering {
    /// Before anybody is asked about the connection.
    pub(crate) fn begin(app: &Arc<App>) -> Self {
        let mut waiting = app.entrance().0.lock();
        waiting.num_entering += 1;
        Self {
            since: waiting.next(),
            app: Arc::clone(app),
        }
    }

    /// Makes the session findable and hands it what was ordered since it began.
    pub(crate) fn enter(self, registration: &Registration, link: &Arc<Link>, peer: &Arc<Peer>) {
        let waiting = self.app.entrance().0.lock();
        registration.enter(link, peer);
        let user = registration.user();
        let mut missed: Vec<Signal> = Vec::new();
        if self.since < waiting.first {
            let code = DisconnectCode::ServerError;
            missed.push(Signal::Disconnect {
                code: code.code(),
                reason: code.text().into(),
            });
        }
        let known = usize::try_from(self.since.saturating_sub(waiting.first)).unwrap_or(usize::MAX);
        let calls = waiting.calls.iter().skip(known);
        missed.extend(
            calls
                .filter(|(selection, _)| selection.means(user, link, registration.arrival()))
                .map(|(_, signal)| signal.clone()),
        );
        drop(waiting);
        for signal in missed {
            link.signal(signal);
        }
    }
}

impl Drop for Entering {
    fn drop(&mut self) {
        let mut waiting = self.app.entrance().0.lock();
        waiting.num_entering -= 1;
        if waiting.num_entering == 0 {
            waiting.first = waiting.next();
            waiting.calls = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_protocol::{Codec, Framing};

    use super::*;
    use crate::{
        config::RealtimeConfig,
        hub::{Hub, HubConfig},
        ids::AppId,
        test_wire::TestWire,
    };

    fn link() -> Arc<Link> {
        let hub = Hub::new(HubConfig::default());
        let wire = TestWire::default();
        hub.link(ClientId::random(), Codec::Json, Framing::WebSocket, wire)
    }

    fn app() -> Arc<App> {
        App::new(AppId::default_app(), RealtimeConfig::default())
    }

    fn of_ann() -> Selection {
        Selection::of_user("ann")
    }

    #[test]
    fn of_two_arrivals_one_gives_way_and_what_was_long_there_always_does() {
        let (one, other) = (ClientId::random(), ClientId::random());
        let arrival = |client, at| Arrival { at, client };
        // At the same moment, and with a clock that is behind: exactly one of them goes.
        for at in [1_000, 900] {
            let (first, second) = (arrival(one, 1_000), arrival(other, at));
            let gone = [first.ends(second, 1_001), second.ends(first, 1_001)];
            assert_eq!(gone.iter().filter(|gone| **gone).count(), 1);
        }
        let late = arrival(other, 10);
        assert!(late.ends(arrival(one, 1_000), 1_000 + SETTLED_AFTER));
        assert!(!late.ends(late, 10_000), "nobody ends itself");
    }

    /// How many signals somebody got who entered as this user.
    fn enter(app: &Arc<App>, entering: Entering, user: &str) -> usize {
        let link = link();
        let registration = app.reserve(&user.into(), link.client(), None).unwrap();
        entering.enter(&registration, &link, &crate::test_wire::peer());
        link.take_signals().len()
    }

    #[test]
    fn who_began_before_a_call_hears_of_it_and_nobody_else_does() {
        let app = app();
        let call = || app.entrance().tell(&app, &of_ann(), &Signal::Drain);
        call();
        let before = Entering::begin(&app);
        let other = Entering::begin(&app);
        call();
        let after = Entering::begin(&app);
        assert_eq!(enter(&app, before, "ann"), 1);
        assert_eq!(enter(&app, other, "bob"), 0);
        assert_eq!(enter(&app, after, "ann"), 0);
    }

    #[test]
    fn calls_are_kept_while_somebody_enters_and_only_so_many() {
        let app = app();
        let call = || app.entrance().tell(&app, &of_ann(), &Signal::Drain);
        let num_kept = || app.entrance().0.lock().calls.len();
        call();
        assert_eq!(num_kept(), 0);
        let entering = Entering::begin(&app);
        for _ in 0..=MAX_CALLS {
            call();
        }
        assert_eq!(num_kept(), MAX_CALLS);
        // Nobody knows any more whether the first of them meant bob.
        let told = enter(&app, entering, "bob");
        assert_eq!(told, 1);
        assert_eq!(num_kept(), 0);
    }
}
