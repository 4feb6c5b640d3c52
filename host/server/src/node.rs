//! A node: everything put together, started and stopped in order.
//!
//! Owns the wiring and the two phases of a start: [`Node::build`] opens the data directory, brings the stored
//! plugins to run and binds both listeners; [`Node::run`] accepts. Decides nothing about messages. Invariant:
//! when `build` fails nothing was accepted, and `run` returns only when every task it started has ended or the
//! grace period is over.

mod engine;
mod files;
mod listeners;
mod services;
#[cfg(test)]
mod tests;

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use prometheus_client::registry::Registry;
use tidegate_control::{Actor, FirstKeys, OpenError, Store, StoreError};
use tidegate_realtime::{
    cluster::{Cluster, ClusterCollector, ClusterMetrics},
    hub::Hub,
    ids::{AppId, ClientId},
    metrics::RealtimeMetrics,
    node::{Node as RealtimeNode, NodeParts},
};
use tidegate_redis::connect::ConnectError;
use tidegate_sandbox::{
    CacheConfig, Clock, Sandbox, SandboxConfig, SandboxError, UnfitSender, UnfitVersion,
};
use tokio::{runtime::Handle, sync::mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    engine::Engine,
    listeners::{Bound, admin_listener, admission_config, bind, bound, client_router},
    services::{Services, checkpoint, sweep_state, warn_insecure},
};
use crate::{
    admin::{Admin, AdminConfig, NodeIdentity, StartError},
    apps::RealtimeApps,
    config::{Config, ControlConfig, InsecureSwitch},
    demo::DemoError,
    health::Readiness,
    metrics::{HubCollector, StoreCollector},
    plugin_host::{self, Forgotten, ForgottenOwners, SandboxHost, forget, return_unfit},
    transport::{
        address::TrustedProxies,
        admission::Admission,
        handshake::{WebSocketConfig, WebSocketEndpoint},
        listener::{self, Listener},
        origin::{AllowedOrigins, BadOriginPattern},
        refusal::TransportMetrics,
    },
    vitals,
};

/// Version of this server, as shown to clients and by `info`.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " tidegate");

/// Over how long a drain spreads its disconnects (threat model O3): the first retry of the client libraries
/// falls into half a second, so that an unspread drain would be a storm on the other nodes.
const DRAIN_SPREAD: Duration = Duration::from_secs(10);

/// How long the plugins may take to hear of the last that happened here.
const EVENTS_DRAIN: Duration = Duration::from_secs(5);

/// Time for telling the directory of those who left: a moment of grace, a write or two.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(3);

/// Unfit versions reported and not dealt with yet. Over it, the next opening of their breakers reports again.
const UNFIT_REPORTS: usize = 64;

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error(
        "the data directory {path} cannot be used; create it, or name another one with --data-dir"
    )]
    DataDir {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the control store cannot be opened")]
    Store(#[from] OpenError),
    #[error("the control store cannot be read")]
    StoreRead(#[from] StoreError),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error("the stored plugins do not run")]
    Plugins(#[from] StartError),
    #[error(
        "the program's own file cannot be found, so plugins cannot be compiled; is /proc mounted?"
    )]
    Program(#[source] io::Error),
    #[error("client.allowed_origins")]
    Origins(#[from] BadOriginPattern),
    #[error(
        "{setting}: cannot listen on {address}; stop what listens there, or choose another port"
    )]
    Bind {
        setting: &'static str,
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("the engine cannot start")]
    Redis(#[source] ConnectError),
    #[error("the demonstration page cannot be served")]
    Demo(#[from] DemoError),
}

/// Why a node did not stop of its own free will.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("the node had to stop: its {0} failed; the log has the cause, please report it")]
    Service(&'static str),
}

/// A node that listens and has accepted nothing yet.
#[derive(Debug)]
pub struct Node {
    realtime: Arc<RealtimeNode>,
    engine: Engine,
    /// `None` for a node that stands alone.
    cluster: Option<Arc<Cluster>>,
    presence_update_interval: Duration,
    info_metrics_interval: Duration,
    registry: Arc<Registry>,
    sandbox: Arc<Sandbox>,
    client: Bound,
    admin: Option<Bound>,
    admission: Arc<Admission>,
    readiness: Readiness,
    insecure: Vec<InsecureSwitch>,
    shutdown_timeout: Duration,
    tracker: TaskTracker,
    first_keys: Option<FirstKeys>,
    control: Arc<Admin>,
    unfit: mpsc::Receiver<UnfitVersion>,
    store: Arc<Store>,
    /// Deleted plugins, whose keys go.
    forgotten: ForgottenOwners,
    services: Services,
}

/// What the start of a node tells whoever started it.
#[derive(Debug)]
pub struct Announcement {
    pub client: SocketAddr,
    pub admin: Option<SocketAddr>,
    /// The keys of a first start; they are shown here and never again.
    pub first_keys: Option<FirstKeys>,
}

impl Node {
    /// Opens, starts and binds everything; accepts nothing.
    ///
    /// # Errors
    /// [`BuildError`]. The data directory may have been made by then, and nothing else.
    pub async fn build(config: Config) -> Result<Self, BuildError> {
        // Boxed: it happens once, and what it keeps over its waits is large.
        Box::pin(Self::put_together(config)).await
    }

    async fn put_together(config: Config) -> Result<Self, BuildError> {
        let insecure = config.insecure_switches();
        let data_dir = config.data_dir.clone();
        let store = open_store(&config).await?;
        let (unfit_tx, unfit) = mpsc::channel(UNFIT_REPORTS);
        let sandbox = Sandbox::new(sandbox_config(&config, unfit_tx)?)?;
        let mut registry = Registry::default();
        sandbox.register(&mut registry);
        let tracker = TaskTracker::new();
        let hub = Hub::new(config.hub());
        registry.register_collector(Box::new(HubCollector(Arc::clone(&hub))));
        let engine_name = ClientId::random().to_string();
        let events = Arc::clone(&hub) as Arc<_>;
        let engine = Engine::open(&config.engine, &engine_name, events, &mut registry).await?;
        let realtime = RealtimeNode::new(NodeParts {
            hub,
            broker: engine.broker(),
            presence: engine.presence(),
            shared: engine.shared(),
            hooks: Arc::clone(&sandbox) as Arc<_>,
            metrics: RealtimeMetrics::register(&mut registry),
            tracker: tracker.clone(),
            name: node_name(&config),
            version: VERSION.to_owned(),
        });
        sandbox.watch_presence(realtime.presence_view());
        let services = Services::default();
        let (runtime, stopped) = (Handle::current(), services.stop().clone());
        sandbox.open_store(engine.store(), runtime, stopped);
        let (forgotten, forgotten_owners) = Forgotten::new();
        let cluster = engine.bus().map(|bus| {
            let metrics = ClusterMetrics::register(&mut registry);
            let cluster = realtime.join_cluster(bus, metrics);
            registry.register_collector(Box::new(ClusterCollector(Arc::clone(&cluster))));
            cluster
        });
        let settings = config.clone().into_realtime();
        realtime.set_app(&AppId::default_app(), settings.clone());

        let host = SandboxHost::new(
            Arc::clone(&sandbox),
            Arc::clone(&store),
            config.plugins.clone(),
            forgotten,
        );
        let admin = Admin::new(
            AdminConfig {
                key: config
                    .admin_api
                    .key
                    .as_ref()
                    .map(|key| key.expose().to_owned()),
                channels: settings.channel.clone(),
                keep_versions: config.plugins.keep_versions,
                tracker: tracker.clone(),
                node: NodeIdentity {
                    uid: realtime.uid().to_owned(),
                    name: node_name(&config),
                },
            },
            Arc::clone(&store),
            Arc::new(host),
            Arc::new(RealtimeApps::new(Arc::clone(&realtime), settings)),
        );
        admin.start().await?;

        let readiness = Readiness::default();
        readiness.watch(Arc::clone(realtime.broker()));
        readiness.watch_store(Arc::clone(&store));
        registry.register_collector(Box::new(StoreCollector(Arc::clone(&store))));
        let transport = TransportMetrics::register(&mut registry);
        let registry = Arc::new(registry);
        let admission = Admission::new(admission_config(&config));
        let proxies = Arc::new(TrustedProxies::new(
            config.http_server.trusted_proxies.clone(),
        ));
        let endpoint = Arc::new(WebSocketEndpoint {
            node: Arc::clone(&realtime),
            admission: Arc::clone(&admission),
            proxies: Arc::clone(&proxies),
            config: WebSocketConfig {
                allowed_origins: AllowedOrigins::parse(&config.client.allowed_origins)?,
                max_message_bytes: config.websocket.max_message_bytes,
                write_timeout: config.websocket.write_timeout,
                user_id_header: config.client.user_id_header.clone(),
                visible_headers: config.plugins.allowed_headers.clone(),
            },
            metrics: transport.clone(),
            tracker: tracker.clone(),
        });
        let router = client_router(&config, &store, &realtime, &readiness, &registry, endpoint)?;
        let listener = Listener {
            router,
            admission: Arc::clone(&admission),
            proxies,
            metrics: transport.clone(),
            tracker: tracker.clone(),
        };
        let port = config.http_server.port;
        let client = match config.http_server.address {
            Some(address) => bind("http_server.port", SocketAddr::new(address, port), listener)?,
            None => {
                let socket = listener::bind_everywhere(port);
                let socket = socket.map_err(|(address, source)| BuildError::Bind {
                    setting: "http_server.port",
                    address,
                    source,
                })?;
                bound("http_server.port", socket, listener)?
            }
        };
        let control = Arc::clone(&admin);
        let admin = if config.admin_api.is_enabled {
            Some(admin_listener(
                &config, &admin, &readiness, &registry, transport, &tracker,
            )?)
        } else {
            None
        };
        // Last, since keys are shown once: no start that fails can have made them.
        let first_keys = first_keys(&config, &store).await?;
        tracing::info!(client.addr = %client.address, data_dir = %data_dir.display(), "the node is bound");
        Ok(Self {
            realtime,
            engine,
            cluster,
            presence_update_interval: config.client.presence_update_interval,
            info_metrics_interval: config.info_metrics_interval,
            registry,
            sandbox,
            client,
            admin,
            admission,
            readiness,
            insecure,
            shutdown_timeout: config.shutdown_timeout,
            tracker,
            first_keys,
            control,
            unfit,
            store,
            forgotten: forgotten_owners,
            services,
        })
    }

    /// Addresses, and the first keys, which are handed out once.
    pub fn announcement(&mut self) -> Announcement {
        Announcement {
            client: self.client.address,
            admin: self.admin.as_ref().map(|admin| admin.address),
            first_keys: self.first_keys.take(),
        }
    }

    /// Serves until `stop`, then drains; `hurry` skips what is left of the drain.
    ///
    /// # Errors
    /// [`RunError`] when the node drained because something in it failed.
    pub async fn run(
        self,
        stop: CancellationToken,
        hurry: CancellationToken,
    ) -> Result<(), RunError> {
        let Self {
            realtime,
            engine,
            cluster,
            presence_update_interval,
            info_metrics_interval,
            registry,
            sandbox,
            client,
            admin,
            admission,
            readiness,
            insecure,
            shutdown_timeout,
            tracker,
            first_keys: _,
            control,
            unfit,
            store,
            forgotten,
            services,
        } = self;
        // Sessions end before the tasks that write for them and keep their deadlines.
        let services_stop = services.stop().clone();
        let listeners_stop = CancellationToken::new();
        for (name, service) in realtime.services(&services_stop) {
            services.spawn(name, service);
        }
        let roster = realtime.roster();
        for (name, service) in roster.services(presence_update_interval, &services_stop) {
            services.spawn(name, service);
        }
        engine.spawn_services(&services);
        let node = Arc::clone(&realtime);
        let measuring = vitals::run(node, registry, info_metrics_interval, services_stop.clone());
        services.spawn("figures for info", measuring);
        let forgetting = forget(engine.store(), forgotten, services_stop.clone());
        services.spawn("forgetting of deleted plugins", forgetting);
        if let Some(cluster) = cluster {
            let stop = services_stop.clone().cancelled_owned();
            let sharing = sandbox.share_state(&cluster, stop);
            services.spawn("state of plugins over the cluster", sharing);
            services.spawn("cluster", cluster.run(services_stop.clone()));
        }
        let returning = return_unfit(Arc::clone(&control), unfit, services_stop.clone());
        services.spawn("return of unfit plugins", returning);
        let following = Arc::clone(&control).follow(services_stop.clone());
        services.spawn("following of the control store", following);
        let retrying = Arc::clone(&control).retry_after_changes(services_stop.clone());
        services.spawn("retry of plugins", retrying);
        services.spawn("state sweep", sweep_state(sandbox, services_stop.clone()));
        let warning = warn_insecure(insecure.clone(), services_stop.clone());
        services.spawn("insecure warning", warning);
        for Bound {
            socket, listener, ..
        } in std::iter::once(client).chain(admin)
        {
            let serving = listener.serve(socket, listeners_stop.clone());
            services.spawn_until("listener", &listeners_stop, &tracker, serving);
        }
        let switches = insecure.iter().map(|switch| switch.key.to_owned());
        readiness.start(switches.collect());

        tokio::select! {
            () = stop.cancelled() => {}
            _ = services.fallen() => {}
        }
        tracing::info!("the node drains");
        // Readiness first, so that balancers stop sending; then new handshakes get 503; then sessions go.
        readiness.drain();
        admission.drain();
        let drained = async {
            realtime.drain(DRAIN_SPREAD.min(shutdown_timeout / 2)).await;
            // The last that the plugins said was heard; the listeners wait for nobody who follows.
            control.drain();
            listeners_stop.cancel();
            tracker.close();
            tracker.wait().await;
            // Nobody is here any more; that they left is told before what tells it ends.
            if tokio::time::timeout(SETTLE_TIMEOUT, realtime.settle())
                .await
                .is_err()
            {
                tracing::debug!(
                    "the directory was not told of everybody who left; the other nodes find out"
                );
            }
            realtime.events().drain(EVENTS_DRAIN).await;
            services.end().await;
            engine.close().await;
        };
        tokio::select! {
            biased; // A finished drain is not a hurried one.
            () = drained => tracing::info!("the node has stopped"),
            () = hurry.cancelled() => tracing::warn!("the drain was cut short by a second signal"),
            () = tokio::time::sleep(shutdown_timeout) => {
                tracing::warn!(open = realtime.num_open(), "the drain took longer than shutdown.timeout");
            }
        }
        checkpoint(store).await;
        match services.fallen_name() {
            Some(name) => Err(RunError::Service(name)),
            None => Ok(()),
        }
    }
}

async fn open_store(config: &Config) -> Result<Arc<Store>, BuildError> {
    let (data_dir, control) = (config.data_dir.clone(), config.control.clone());
    in_data_dir(config, move || {
        files::make_private_dir(&data_dir).map_err(|source| BuildError::DataDir {
            path: data_dir.clone(),
            source,
        })?;
        let store = match control {
            ControlConfig::Sqlite => Store::open(&data_dir)?,
            ControlConfig::Postgres(postgres) => Store::connect(*postgres, &data_dir)?,
        };
        Ok(Arc::new(store))
    })
    .await
}

/// Makes the keys of a first start, and files of them for the commands on this machine.
async fn first_keys(config: &Config, store: &Arc<Store>) -> Result<Option<FirstKeys>, BuildError> {
    let (data_dir, store) = (config.data_dir.clone(), Arc::clone(store));
    in_data_dir(config, move || {
        let first_keys = match store.ensure_first_keys(&Actor::node()) {
            Err(error) if error.is_away() => {
                // It started with what it ran by before: there were keys.
                tracing::warn!(%error, "the node serves without its control store");
                None
            }
            answered => answered?,
        };
        if let Some(keys) = &first_keys {
            for (name, key) in [("admin.key", &keys.operator), ("api.key", &keys.api)] {
                // The keys are made and about to be shown, so a file that cannot be written is no reason to fail.
                if let Err(error) = files::write_private(&data_dir.join(name), key.secret.reveal()) {
                    tracing::warn!(%error, file = name, "a first key could not be written to its file; keep the one that is shown");
                }
            }
        }
        Ok(first_keys)
    })
    .await
}

/// Does something on a thread that may wait for the disk.
async fn in_data_dir<T: Send + 'static>(
    config: &Config,
    work: impl FnOnce() -> Result<T, BuildError> + Send + 'static,
) -> Result<T, BuildError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| {
        Err(BuildError::DataDir {
            path: config.data_dir.clone(),
            source: io::Error::other(panic),
        })
    })
}

fn sandbox_config(config: &Config, unfit: UnfitSender) -> Result<SandboxConfig, BuildError> {
    let directory = config.data_dir.join("artifacts");
    let key_file = config.data_dir.join("artifacts.key");
    let cache = CacheConfig::open(directory, &key_file);
    if let Err(error) = &cache {
        tracing::warn!(%error, "the cache of compiled plugins cannot be used; each start compiles anew");
    }
    Ok(SandboxConfig {
        cache: cache.ok(),
        compilation: plugin_host::compilation(&config.plugins).map_err(BuildError::Program)?,
        max_message_bytes: config.websocket.max_message_bytes,
        max_channel_bytes: config.channels.max_length_bytes,
        name_in_errors: config.plugins.name_in_errors,
        trace_in_refusals: config.plugins.trace_in_refusals,
        private_prefix: config.channels.private_prefix.to_string(),
        namespace_boundary: config.channels.namespace_boundary.to_string(),
        clock: Clock::system(),
        plugin_threads: config.plugins.threads,
        waiting_threads: config.plugins.waiting_threads,
        max_instances: config.plugins.max_instances,
        unfit: Some(unfit),
        explain_interval: config.plugins.explain_interval,
        state: config.plugins.state,
    })
}

/// The configured name, or `HOST_PORT` as in the reference.
fn node_name(config: &Config) -> String {
    config.node_name.clone().unwrap_or_else(|| {
        let host = rustix::system::uname();
        let host = host.nodename().to_string_lossy();
        format!("{host}_{}", config.http_server.port)
    })
}
