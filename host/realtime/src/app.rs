//! An app on this node: its settings, and who of its clients is here.
//!
//! Owns the lookup of connected sessions by client and by user, and the counts behind the connection limits.
//! Settings are swapped, never edited: a session reads them anew with every command, so that a new
//! configuration closes no socket.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use arc_swap::ArcSwap;
use hashbrown::HashMap;
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::{
    config::RealtimeConfig,
    entrance::{Arrival, Entrance},
    events::Desk,
    hooks::Peer,
    ids::{AppId, ClientId},
    link::Link,
    notices::Notices,
    session::Now,
};

/// An app's part of the node.
pub struct App {
    id: AppId,
    settings: ArcSwap<RealtimeConfig>,
    sessions: Mutex<Sessions>,
    entrance: Entrance,
    /// Open connections, connected or not.
    num_open: AtomicUsize,
    notices: Notices,
    /// Who is told what happens here.
    desk: Arc<Desk>,
}

#[derive(Default)]
struct Sessions {
    by_client: HashMap<ClientId, Entered>,
    by_user: HashMap<Arc<str>, OfUser>,
}

struct Entered {
    link: Arc<Link>,
    /// Who it was when it came in; what others are shown of it may have changed since.
    peer: Arc<Peer>,
    /// Unix milliseconds.
    since: u64,
    /// Where the link is in [`OfUser::links`], so that leaving costs the same however many sessions a user has:
    /// all anonymous ones are one user.
    index: usize,
}

impl Entered {
    fn seen(&self) -> (Arc<Peer>, u64) {
        (Arc::clone(&self.peer), self.since)
    }
}

#[derive(Default)]
struct OfUser {
    /// Sessions that count against the user's limit, those about to be answered included.
    num_reserved: usize,
    links: SmallVec<[Arc<Link>; 1]>,
}

/// The user has as many connections as allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the user has as many connections as allowed")]
pub struct UserLimit;

impl App {
    /// An app that nobody observes.
    pub fn new(id: AppId, settings: RealtimeConfig) -> Arc<Self> {
        let desk = Desk::unattended(&id);
        Self::observed(id, settings, desk)
    }

    /// An app whose events go there.
    pub(crate) fn observed(id: AppId, settings: RealtimeConfig, desk: Arc<Desk>) -> Arc<Self> {
        Arc::new(Self {
            id,
            desk,
            settings: ArcSwap::from_pointee(settings),
            sessions: Mutex::default(),
            entrance: Entrance::default(),
            num_open: AtomicUsize::new(0),
            notices: Notices::default(),
        })
    }

    pub fn id(&self) -> &AppId {
        &self.id
    }

    pub fn settings(&self) -> arc_swap::Guard<Arc<RealtimeConfig>> {
        self.settings.load()
    }

    pub(crate) fn desk(&self) -> &Arc<Desk> {
        &self.desk
    }

    pub(crate) fn entrance(&self) -> &Entrance {
        &self.entrance
    }

    /// Tells that what a plugin of the app asked for was refused: a line a minute for each `what`, since it may be
    /// so for every message.
    pub(crate) fn note_refused_answer(&self, what: &'static str) {
        if let Some(suppressed) = self.notices.due(what) {
            tracing::warn!(app = %self.id, what, suppressed, "a plugin's answer was refused");
        }
    }

    /// Sessions follow with their next command.
    pub fn replace_settings(&self, settings: RealtimeConfig) {
        self.settings.store(Arc::new(settings));
    }

    /// Open connections, those that have not said connect included.
    pub fn num_open(&self) -> usize {
        self.num_open.load(Ordering::Relaxed)
    }

    /// Connected sessions and their different users; anonymous ones are one user.
    pub fn num_clients_and_users(&self) -> (usize, usize) {
        let sessions = self.sessions.lock();
        (sessions.by_client.len(), sessions.by_user.len())
    }

    /// Counts an open connection; `None` when the app has as many as allowed.
    pub(crate) fn open(self: &Arc<Self>) -> Option<Open> {
        let limit = self.settings().client.connection_limit;
        let before = self.num_open.fetch_add(1, Ordering::Relaxed);
        let open = Open(Arc::clone(self));
        limit.is_none_or(|limit| before < limit).then_some(open)
    }

    /// Takes one of the user's places, before the connect reply goes out.
    pub(crate) fn reserve(
        self: &Arc<Self>,
        user: &Arc<str>,
        client: ClientId,
        limit: Option<usize>,
    ) -> Result<Registration, UserLimit> {
        let mut sessions = self.sessions.lock();
        let of_user = sessions.by_user.entry(Arc::clone(user)).or_default();
        if limit.is_some_and(|limit| of_user.num_reserved >= limit && !user.is_empty()) {
            return Err(UserLimit);
        }
        of_user.num_reserved += 1;
        drop(sessions);
        Ok(Registration {
            app: Arc::clone(self),
            user: Arc::clone(user),
            client,
            since: Now::read().unix_millis,
        })
    }

    /// The connected session of this client.
    pub fn find_client(&self, client: ClientId) -> Option<Arc<Link>> {
        let sessions = self.sessions.lock();
        let entered = sessions.by_client.get(&client)?;
        Some(Arc::clone(&entered.link))
    }

    /// The connected session of this client if it is one of the user's.
    pub(crate) fn find_client_of(&self, user: &str, client: ClientId) -> Option<Arc<Link>> {
        let sessions = self.sessions.lock();
        let index = sessions.by_client.get(&client)?.index;
        let link = sessions.by_user.get(user)?.links.get(index)?;
        (link.client() == client).then(|| Arc::clone(link))
    }

    /// When the connected session of this client came in.
    pub(crate) fn arrival_of(&self, client: ClientId) -> Option<Arrival> {
        let sessions = self.sessions.lock();
        let at = sessions.by_client.get(&client)?.since;
        Some(Arrival { at, client })
    }

    /// The connected session of this client, and since when it is there.
    pub(crate) fn seen(&self, client: ClientId) -> Option<(Arc<Peer>, u64)> {
        let sessions = self.sessions.lock();
        sessions.by_client.get(&client).map(Entered::seen)
    }

    /// Some connected sessions of a user.
    pub(crate) fn seen_of(&self, user: &str, most: usize) -> Vec<(Arc<Peer>, u64)> {
        let sessions = self.sessions.lock();
        let links = sessions.by_user.get(user).map(|of_user| &of_user.links);
        let links = links.into_iter().flatten().take(most);
        links
            .filter_map(|link| sessions.by_client.get(&link.client()).map(Entered::seen))
            .collect()
    }

    /// Some connected sessions.
    pub(crate) fn seen_some(&self, most: usize) -> Vec<(Arc<Peer>, u64)> {
        let sessions = self.sessions.lock();
        let entered = sessions.by_client.values().take(most);
        entered.map(Entered::seen).collect()
    }

    /// The connected sessions of a user; empty is the anonymous ones.
    pub fn find_user(&self, user: &str) -> SmallVec<[Arc<Link>; 1]> {
        self.sessions
            .lock()
            .by_user
            .get(user)
            .map(|of_user| of_user.links.clone())
            .unwrap_or_default()
    }

    /// Whether the user has a connected session here, or one that is about to be.
    pub(crate) fn has_user(&self, user: &str) -> bool {
        self.sessions.lock().by_user.contains_key(user)
    }

    /// Every connected session.
    pub fn all(&self) -> Vec<Arc<Link>> {
        let sessions = self.sessions.lock();
        let entered = sessions.by_client.values();
        entered.map(|entered| Arc::clone(&entered.link)).collect()
    }
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App")
            .field("id", &self.id)
            .field("num_open", &self.num_open())
            .finish_non_exhaustive()
    }
}

/// Counts an open connection while it lives.
#[derive(Debug)]
#[must_use = "dropping it says that the connection is closed"]
pub(crate) struct Open(Arc<App>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.num_open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Keeps a session findable and counted; dropping it ends both.
#[derive(Debug)]
#[must_use = "dropping the registration takes the session off the app"]
pub(crate) struct Registration {
    app: Arc<App>,
    user: Arc<str>,
    client: ClientId,
    /// Unix milliseconds.
    since: u64,
}

impl Registration {
    pub(crate) fn user(&self) -> &str {
        &self.user
    }

    pub(crate) fn user_arc(&self) -> Arc<str> {
        Arc::clone(&self.user)
    }

    pub(crate) fn arrival(&self) -> Arrival {
        Arrival {
            at: self.since,
            client: self.client,
        }
    }

    /// Makes the session findable, after its connect reply was pushed.
    pub(crate) fn enter(&self, link: &Arc<Link>, peer: &Arc<Peer>) {
        let mut sessions = self.app.sessions.lock();
        let Sessions { by_client, by_user } = &mut *sessions;
        let Some(of_user) = by_user.get_mut(&self.user) else {
            return;
        };
        by_client.entry(self.client).or_insert_with(|| {
            of_user.links.push(Arc::clone(link));
            Entered {
                link: Arc::clone(link),
                peer: Arc::clone(peer),
                since: self.since,
                index: of_user.links.len() - 1,
            }
        });
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut sessions = self.app.sessions.lock();
        let Sessions { by_client, by_user } = &mut *sessions;
        let gone = by_client.remove(&self.client);
        let Some(of_user) = by_user.get_mut(&self.user) else {
            return;
        };
        of_user.num_reserved -= 1;
        let left = gone.as_ref().map(|gone| {
            let left = of_user.links.swap_remove(gone.index);
            // The last one has taken the place.
            if let Some(moved) = of_user.links.get(gone.index)
                && let Some(entered) = by_client.get_mut(&moved.client())
            {
                entered.index = gone.index;
            }
            left
        });
        let emptied = if of_user.num_reserved == 0 {
            by_user.remove(&self.user)
        } else {
            None
        };
        drop(sessions);
        // A link may close its socket when it goes: not under the lock.
        drop((gone, left, emptied));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidegate_protocol::{Codec, Framing};

    use super::*;
    use crate::{
        hub::{Hub, HubConfig},
        test_wire::TestWire,
    };

    proptest! {
        /// Whoever entered and has not left is found by client and by user, and nobody else is, in whatever order
        /// they leave.
        #[test]
        fn who_is_here_is_found_and_who_left_is_not(
            steps in proptest::collection::vec((any::<bool>(), 0_usize..3, any::<proptest::sample::Index>()), 1..60)
        ) {
            let hub = Hub::new(HubConfig::default());
            let app = App::new(AppId::default_app(), RealtimeConfig::default());
            let users: [Arc<str>; 3] = ["".into(), "ann".into(), "bob".into()];
            let mut here: Vec<(usize, Arc<Link>, Registration)> = Vec::new();
            for (is_leaving, user, index) in steps {
                if is_leaving && !here.is_empty() {
                    let (user, link, registration) = here.swap_remove(index.index(here.len()));
                    drop(registration);
                    prop_assert!(app.find_client(link.client()).is_none());
                    prop_assert!(app.find_client_of(&users[user], link.client()).is_none());
                } else {
                    let client = ClientId::random();
                    let link: Arc<Link> =
                        hub.link(client, Codec::Json, Framing::WebSocket, TestWire::default());
                    let registration = app.reserve(&users[user], client, None).unwrap();
                    registration.enter(&link, &crate::test_wire::peer());
                    here.push((user, link, registration));
                }
                for (index, name) in users.iter().enumerate() {
                    let mut found: Vec<_> =
                        app.find_user(name).iter().map(|link| link.client()).collect();
                    let mut expected: Vec<_> = here
                        .iter()
                        .filter(|(user, ..)| *user == index)
                        .map(|(_, link, _)| link.client())
                        .collect();
                    found.sort_unstable();
                    expected.sort_unstable();
                    prop_assert_eq!(found, expected);
                }
                for (user, link, _) in &here {
                    let client = link.client();
                    prop_assert!(app.find_client(client).is_some());
                    prop_assert!(app.find_client_of(&users[*user], client).is_some());
                    prop_assert!(app.find_client_of(&users[(*user + 1) % 3], client).is_none());
                }
            }
            let num_users = here.iter().map(|(user, ..)| user).collect::<std::collections::HashSet<_>>().len();
            prop_assert_eq!(app.num_clients_and_users(), (here.len(), num_users));
        }
    }
}
