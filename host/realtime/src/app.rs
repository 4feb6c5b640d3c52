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
    ids::{AppId, ClientId},
    link::Link,
};

/// An app's part of the node.
pub struct App {
    id: AppId,
    settings: ArcSwap<RealtimeConfig>,
    sessions: Mutex<Sessions>,
    /// Open connections, connected or not.
    num_open: AtomicUsize,
}

#[derive(Default)]
struct Sessions {
    by_client: HashMap<ClientId, Arc<Link>>,
    by_user: HashMap<Arc<str>, OfUser>,
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
    pub fn new(id: AppId, settings: RealtimeConfig) -> Arc<Self> {
        Arc::new(Self {
            id,
            settings: ArcSwap::from_pointee(settings),
            sessions: Mutex::default(),
            num_open: AtomicUsize::new(0),
        })
    }

    pub fn id(&self) -> &AppId {
        &self.id
    }

    pub fn settings(&self) -> arc_swap::Guard<Arc<RealtimeConfig>> {
        self.settings.load()
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
        })
    }

    /// The connected session of this client.
    pub fn find_client(&self, client: ClientId) -> Option<Arc<Link>> {
        self.sessions.lock().by_client.get(&client).cloned()
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

    /// Every connected session.
    pub fn all(&self) -> Vec<Arc<Link>> {
        self.sessions.lock().by_client.values().cloned().collect()
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
}

impl Registration {
    /// Makes the session findable, after its connect reply was pushed.
    pub(crate) fn enter(&self, link: &Arc<Link>) {
        let mut sessions = self.app.sessions.lock();
        sessions.by_client.insert(self.client, Arc::clone(link));
        if let Some(of_user) = sessions.by_user.get_mut(&self.user) {
            of_user.links.push(Arc::clone(link));
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut sessions = self.app.sessions.lock();
        let gone = sessions.by_client.remove(&self.client);
        let Some(of_user) = sessions.by_user.get_mut(&self.user) else {
            return;
        };
        of_user.num_reserved -= 1;
        of_user.links.retain(|link| link.client() != self.client);
        let dropped = if of_user.num_reserved == 0 {
            sessions.by_user.remove(&self.user)
        } else {
            None
        };
        drop(sessions);
        // A link may close its socket when it goes: not under the lock.
        drop((gone, dropped));
    }
}
