//! The node: what everything else holds to reach sessions, channels and apps.
//!
//! Owns the apps, the wiring of hub, broker and hooks, the way in for transports ([`Node::open`]) and the calls of
//! the server API. Knows no transport. Invariant: what acts on an app is given its id by a credential; nothing
//! here finds an app by what a client says.

mod calls;
mod channels;
mod orders;
mod presence;
mod runs;
mod sessions;
mod statuses;
mod vitals;
mod whereabouts;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwap;
use hashbrown::HashMap;
use tidegate_protocol::{Codec, Framing};
use tokio::time::{Duration, Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::{
    calls::Called,
    runs::{PeriodFound, RunPlace, ScheduleFound},
    sessions::{MAX_SESSIONS, SessionFilter, SessionPlace, SessionsFound},
    vitals::{MAX_METRIC_NAME_BYTES, MAX_METRICS},
};
use self::{statuses::Statuses, vitals::Vitals};
pub(crate) use self::{vitals::is_sound as are_sound_metrics, whereabouts::LostSession};
use crate::{
    app::App,
    broker::Broker,
    cluster::{Bus, Cluster, ClusterMetrics, NodeUid},
    config::RealtimeConfig,
    directory::{Directory, Registrar},
    driver::Driver,
    events::{self, EventKind, Events},
    hooks::{Duties, Hooks, Peer, Watch},
    hub::{Hub, HubService},
    ids::{AppId, ClientId},
    leases::{Leases, MemoryLeases},
    link::{Link, Signal, Wire},
    memory::MemoryBroker,
    metrics::RealtimeMetrics,
    positions,
    presence::{MemoryPresence, Presence, Roster, watched::Watched},
    reads::Reads,
    schedule::{self, Schedule},
    session::Pings,
};

/// How often a drain tells the next share of the sessions.
const DRAIN_STEP: Duration = Duration::from_millis(100);

/// What a node is made of.
pub struct NodeParts {
    pub hub: Arc<Hub>,
    pub broker: Arc<dyn Broker>,
    pub presence: Arc<dyn Presence>,
    pub shared: Shared,
    pub hooks: Arc<dyn Hooks>,
    pub metrics: RealtimeMetrics,
    /// Where work that outlives its cause runs; the node waits for it at shutdown.
    pub tracker: TaskTracker,
    /// Shown by `info`.
    pub name: String,
    /// Shown by `info` and to clients.
    pub version: String,
}

impl NodeParts {
    /// A node that stands alone and keeps everything in memory, for what is not run as a server.
    pub fn in_memory(hub: Arc<Hub>, hooks: Arc<dyn Hooks>) -> Self {
        Self {
            broker: Arc::new(MemoryBroker::new(Arc::clone(&hub) as _)),
            presence: Arc::new(MemoryPresence::default()),
            shared: Shared::default(),
            hub,
            hooks,
            metrics: RealtimeMetrics::default(),
            tracker: TaskTracker::new(),
            name: "test".to_owned(),
            version: "1".to_owned(),
        }
    }
}

/// What the engine keeps for all nodes of a cluster beside publications and presence. The default is that of a node
/// which stands alone.
#[derive(Clone)]
pub struct Shared {
    pub leases: Arc<dyn Leases>,
    /// `None`: the node stands alone, and knows where everybody is.
    pub directory: Option<Arc<dyn Directory>>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            leases: Arc::new(MemoryLeases::default()),
            directory: None,
        }
    }
}

/// One running host process.
pub struct Node {
    parts: NodeParts,
    roster: Arc<Roster>,
    reads: Reads,
    /// What plugins ask of presence that is kept elsewhere.
    watched: Arc<Watched>,
    events: Arc<Events>,
    registrar: Option<Arc<Registrar>>,
    /// Of a node that stands alone.
    statuses: Statuses,
    vitals: Vitals,
    schedule: Arc<Schedule>,
    uid: NodeUid,
    /// Set once, by a node that has others beside it.
    cluster: OnceLock<Arc<Cluster>>,
    started: Instant,
    apps: ArcSwap<HashMap<AppId, Arc<App>>>,
    is_draining: AtomicBool,
}

/// Who is at the other end of a new connection.
#[derive(Debug, Clone)]
pub struct PeerInfo {
    pub app: AppId,
    /// `websocket`, `sse`, ….
    pub transport: &'static str,
    pub remote_addr: Arc<str>,
    /// The user that the transport vouches for, when nobody else decides who this is; empty: nobody.
    pub user: Arc<str>,
    /// Allowed headers, lower-case names.
    pub headers: Arc<[(Box<str>, Box<str>)]>,
    pub codec: Codec,
    pub framing: Framing,
    pub pings: Pings,
}

/// Why a connection is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenRefused {
    #[error("there is no such app")]
    UnknownApp,
    #[error("the app has as many connections as allowed")]
    ConnectionLimit,
    #[error("the node is shutting down")]
    Draining,
}

impl Node {
    pub fn new(parts: NodeParts) -> Arc<Self> {
        let uid = NodeUid::random();
        let registrar = parts.shared.directory.as_ref().map(|directory| {
            let metrics = parts.metrics.directory.clone();
            Registrar::new(Arc::clone(directory), uid.clone(), metrics)
        });
        let roster = Roster::new(
            Arc::clone(&parts.presence),
            Arc::clone(&parts.broker),
            parts.metrics.presence.clone(),
            registrar.clone(),
        );
        let events = Events::new(parts.metrics.events.clone());
        let (broker, told) = (Arc::downgrade(&parts.broker), Arc::clone(&events));
        parts.hub.when_vacant(move |key| {
            if let Some(broker) = broker.upgrade() {
                broker.unsubscribe(key);
            }
            told.offer_of_channel(key.app(), key.channel(), EventKind::Vacated);
        });
        let told = Arc::clone(&events);
        parts.hub.when_occupied(move |key| {
            told.offer_of_channel(key.app(), key.channel(), EventKind::Occupied);
        });
        let schedule = Schedule::new(parts.metrics.schedule.clone());
        let duty = Duty {
            events: Arc::clone(&events),
            schedule: Arc::clone(&schedule),
        };
        parts.hooks.watch_duties(Arc::new(duty));
        Arc::new(Self {
            parts,
            roster,
            reads: Reads::default(),
            watched: Arc::default(),
            events,
            registrar,
            statuses: Statuses::default(),
            vitals: Vitals::default(),
            uid,
            schedule,
            cluster: OnceLock::new(),
            started: Instant::now(),
            apps: ArcSwap::default(),
            is_draining: AtomicBool::new(false),
        })
    }

    /// Makes the app, or gives it new settings. Live sessions stay and follow.
    pub fn set_app(&self, id: &AppId, settings: RealtimeConfig) {
        if let Some(app) = self.app(id) {
            app.replace_settings(settings);
            return;
        }
        let app = App::observed(id.clone(), settings, self.events.desk(id));
        self.apps.rcu(|apps| {
            let mut apps = HashMap::clone(apps);
            apps.entry(id.clone()).or_insert_with(|| Arc::clone(&app));
            apps
        });
    }

    /// Takes the app away and ends its sessions (3503).
    pub fn remove_app(&self, id: &AppId) {
        let removed = self.app(id);
        self.apps.rcu(|apps| {
            let mut apps = HashMap::clone(apps);
            apps.remove(id);
            apps
        });
        for link in removed.iter().flat_map(|app| app.all()) {
            link.signal(calls::disconnect_signal(
                tidegate_protocol::DisconnectCode::ForceNoReconnect,
            ));
        }
    }

    pub fn app(&self, id: &AppId) -> Option<Arc<App>> {
        self.apps.load().get(id).cloned()
    }

    /// The app that a channel's key names.
    pub(crate) fn app_named(&self, id: &str) -> Option<Arc<App>> {
        self.apps.load().get(id).cloned()
    }

    pub fn apps(&self) -> Vec<Arc<App>> {
        self.apps.load().values().cloned().collect()
    }

    /// Whether [`Node::open`] would take a connection now; for a transport that has to answer before it has the
    /// connection's wire.
    ///
    /// # Errors
    /// See [`OpenRefused`].
    pub fn check_open(&self, app: &AppId) -> Result<(), OpenRefused> {
        if self.is_draining() {
            return Err(OpenRefused::Draining);
        }
        let app = self.app(app).ok_or(OpenRefused::UnknownApp)?;
        let limit = app.settings().client.connection_limit;
        if limit.is_some_and(|limit| app.num_open() >= limit) {
            return Err(OpenRefused::ConnectionLimit);
        }
        Ok(())
    }

    /// Takes a new connection: the link for its bytes and the driver for its frames.
    ///
    /// # Errors
    /// See [`OpenRefused`]; the transport answers with an HTTP status.
    pub fn open<W: Wire>(
        self: &Arc<Self>,
        peer: PeerInfo,
        wire: W,
    ) -> Result<(Arc<Link<W>>, Driver), OpenRefused> {
        let opened = self.try_open(peer, wire);
        if let Err(refused) = &opened {
            self.metrics().count_refused(match refused {
                OpenRefused::UnknownApp => "unknown_app",
                OpenRefused::ConnectionLimit => "connection_limit",
                OpenRefused::Draining => "draining",
            });
        }
        opened
    }

    fn try_open<W: Wire>(
        self: &Arc<Self>,
        peer: PeerInfo,
        wire: W,
    ) -> Result<(Arc<Link<W>>, Driver), OpenRefused> {
        if self.is_draining() {
            return Err(OpenRefused::Draining);
        }
        let app = self.app(&peer.app).ok_or(OpenRefused::UnknownApp)?;
        let open = app.open().ok_or(OpenRefused::ConnectionLimit)?;
        let client = ClientId::random();
        let link = self.parts.hub.link(client, peer.codec, peer.framing, wire);
        let pings = peer.pings;
        let peer = Arc::new(Peer {
            app: peer.app,
            client,
            // Until connect, which takes it away and decides.
            user: peer.user,
            transport: peer.transport,
            name: "".into(),
            version: "".into(),
            remote_addr: peer.remote_addr,
            headers: peer.headers,
            meta: bytes::Bytes::new(),
            info: bytes::Bytes::new(),
        });
        let outside: Arc<Link> = Arc::clone(&link) as Arc<Link>;
        let driver = Driver::new(Arc::clone(self), app, open, outside, (peer, pings));
        Ok((link, driver))
    }

    /// Makes the node one of several. What is returned has to run ([`Cluster::run`]) for as long as the node does.
    /// A node joins once; later calls answer the cluster that it is in.
    pub fn join_cluster(
        self: &Arc<Self>,
        bus: Arc<dyn Bus>,
        metrics: ClusterMetrics,
    ) -> Arc<Cluster> {
        let cluster = self
            .cluster
            .get_or_init(|| Cluster::new(self, self.uid.clone(), bus, metrics));
        Arc::clone(cluster)
    }

    /// The other nodes; `None` on a node that is alone.
    pub(crate) fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.cluster.get()
    }

    /// How many nodes are alive, this one included, as far as it hears them.
    pub fn num_nodes(&self) -> usize {
        self.cluster().map_or(1, |cluster| cluster.num_nodes())
    }

    pub fn uid(&self) -> &str {
        self.uid.as_str()
    }

    pub fn version(&self) -> &str {
        &self.parts.version
    }

    pub fn hub(&self) -> &Arc<Hub> {
        &self.parts.hub
    }

    pub fn broker(&self) -> &Arc<dyn Broker> {
        &self.parts.broker
    }

    /// What is told to plugins after the fact; delivered by the services.
    pub fn events(&self) -> &Arc<Events> {
        &self.events
    }

    /// What plugins do by the clock; done by the services.
    pub fn schedule(&self) -> &Arc<Schedule> {
        &self.schedule
    }

    /// Who of this node's sessions is seen where; its services must run.
    pub fn roster(&self) -> &Arc<Roster> {
        &self.roster
    }

    pub(crate) fn reads(&self) -> &Reads {
        &self.reads
    }

    pub(crate) fn watched(&self) -> &Watched {
        &self.watched
    }

    /// Who does what one node of the cluster does at a time.
    pub fn leases(&self) -> &Arc<dyn Leases> {
        &self.parts.shared.leases
    }

    pub fn hooks(&self) -> &Arc<dyn Hooks> {
        &self.parts.hooks
    }

    pub fn metrics(&self) -> &RealtimeMetrics {
        &self.parts.metrics
    }

    /// What must run for as long as the node is used, until `stop`; see [`Hub::services`].
    pub fn services(self: &Arc<Self>, stop: &CancellationToken) -> Vec<(&'static str, HubService)> {
        let mut services = self.hub().services(stop);
        let checking = positions::run(Arc::clone(self), stop.clone());
        services.push(("position check", Box::pin(checking)));
        let telling = events::run(Arc::clone(self), stop.clone());
        services.push(("events", Box::pin(telling)));
        match &self.registrar {
            Some(registrar) => services.extend(registrar.services(self, stop)),
            None => {
                let settling = statuses::run(Arc::clone(self), stop.clone());
                services.push(("online status", Box::pin(settling)));
            }
        }
        let store = self.roster.store();
        if store.local().is_none() {
            let watching = Arc::clone(&self.watched).run(Arc::clone(store), stop.clone());
            services.push(("presence for plugins", Box::pin(watching)));
        }
        let schedule = Arc::clone(&self.schedule);
        let running = schedule::run(schedule, Arc::clone(self), stop.clone());
        services.push(("schedule", Box::pin(running)));
        services
    }

    /// Open connections of all apps.
    pub fn num_open(&self) -> usize {
        self.apps.load().values().map(|app| app.num_open()).sum()
    }

    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    /// Refuses new connections from now on, and tells the connected sessions to go elsewhere (3001), an even
    /// share of them every tenth of a second until `over` has passed. Cancel-safe: what was told stays told.
    pub async fn drain(&self, over: Duration) {
        self.is_draining.store(true, Ordering::Relaxed);
        let mut links: Vec<_> = self.apps().iter().flat_map(|app| app.all()).collect();
        let num_steps = (over.as_millis() / DRAIN_STEP.as_millis()).max(1);
        let num_steps = usize::try_from(num_steps).unwrap_or(usize::MAX);
        let share = links.len().div_ceil(num_steps).max(1);
        while !links.is_empty() {
            for link in links.drain(links.len().saturating_sub(share)..) {
                link.signal(Signal::Drain);
            }
            if !links.is_empty() {
                tokio::time::sleep(DRAIN_STEP).await;
            }
        }
        // Who connected in the meantime.
        for link in self.apps().iter().flat_map(|app| app.all()) {
            link.signal(Signal::Drain);
        }
    }

    /// Runs work whose cause does not wait for it.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.parts.tracker.spawn(work);
    }
}

/// Hands on which plugins observe, and which run by the clock.
struct Duty {
    events: Arc<Events>,
    schedule: Arc<Schedule>,
}

impl Watch for Duty {
    fn on_duties(&self, duties: &BTreeMap<AppId, Duties>) {
        let observers = duties.iter();
        let observers = observers.map(|(app, duties)| (app.clone(), duties.observers.clone()));
        self.events.replace_observers(&observers.collect());
        let timetables = duties.iter();
        let timetables = timetables.map(|(app, duties)| (app.clone(), duties.timetables.clone()));
        self.schedule.replace_timetables(&timetables.collect());
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("uid", &self.uid)
            .field("name", &self.parts.name)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for NodeParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeParts")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
