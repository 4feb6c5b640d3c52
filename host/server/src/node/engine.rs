//! The engine of a node: memory for one that stands alone, Redis for many that are one service.
//!
//! Owns the choice, its start and its end. The engine outlives the sessions: what they publish and leave while they
//! drain still goes through it. A Redis that is away does not keep a node from starting, since it may come back before
//! the node does: the node is not ready meanwhile. One that refuses the login does, because waiting will not mend it.

use std::sync::Arc;

use prometheus_client::registry::Registry;
use tidegate_realtime::{
    broker::{Broker, BrokerEvents},
    cluster::Bus,
    memory::{MemoryBroker, MemoryConfig},
    node::Shared,
    presence::{MemoryPresence, Presence},
    store::{MemoryStore, Store},
};
use tidegate_redis::{EngineParts, RedisConfig, RedisEngine, check_login};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    BuildError,
    services::{Services, sweep, sweep_presence, sweep_store},
};
use crate::{config::EngineConfig, metrics::MemoryCollector};

/// What the node publishes to and reads from.
#[derive(Debug)]
pub(super) struct Engine {
    kind: Kind,
    /// What keeps connections; ends with `stop`.
    tasks: TaskTracker,
    stop: CancellationToken,
}

#[derive(Debug)]
enum Kind {
    Memory(Arc<MemoryBroker>, MemoryPresence, MemoryStore),
    Redis(RedisEngine),
}

impl Engine {
    /// Starts the engine; `node` is unlike that of any other node.
    ///
    /// # Errors
    /// [`BuildError::Redis`] when Redis refuses the login.
    pub(super) async fn open(
        config: &EngineConfig,
        node: &str,
        events: Arc<dyn BrokerEvents>,
        registry: &mut Registry,
    ) -> Result<Self, BuildError> {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let kind = match config {
            EngineConfig::Memory { max_bytes } => {
                let config = MemoryConfig {
                    max_bytes: *max_bytes,
                    ..MemoryConfig::default()
                };
                let broker = Arc::new(MemoryBroker::with_config(events, config));
                registry.register_collector(Box::new(MemoryCollector(Arc::clone(&broker))));
                Kind::Memory(broker, MemoryPresence::default(), MemoryStore::default())
            }
            EngineConfig::Redis(config) => {
                let parts = EngineParts {
                    config,
                    node,
                    events,
                    registry,
                    tracker: &tasks,
                    stop: &stop,
                };
                Kind::Redis(open_redis(config, parts).await?)
            }
        };
        Ok(Self { kind, tasks, stop })
    }

    pub(super) fn broker(&self) -> Arc<dyn Broker> {
        match &self.kind {
            Kind::Memory(broker, ..) => Arc::clone(broker) as Arc<_>,
            Kind::Redis(engine) => Arc::new(engine.broker().clone()),
        }
    }

    pub(super) fn presence(&self) -> Arc<dyn Presence> {
        match &self.kind {
            Kind::Memory(_, presence, _) => Arc::new(presence.clone()),
            Kind::Redis(engine) => Arc::new(engine.presence().clone()),
        }
    }

    /// What the nodes share beside publications and presence.
    pub(super) fn shared(&self) -> Shared {
        match &self.kind {
            Kind::Memory(..) => Shared::default(),
            Kind::Redis(engine) => Shared {
                leases: Arc::new(engine.leases().clone()),
                directory: Some(Arc::new(engine.directory().clone())),
            },
        }
    }

    /// What plugins keep.
    pub(super) fn store(&self) -> Arc<dyn Store> {
        match &self.kind {
            Kind::Memory(.., store) => Arc::new(store.clone()),
            Kind::Redis(engine) => Arc::new(engine.store().clone()),
        }
    }

    /// How this node and the others hear of each other; `None` for a node that stands alone.
    pub(super) fn bus(&self) -> Option<Arc<dyn Bus>> {
        match &self.kind {
            Kind::Memory(..) => None,
            Kind::Redis(engine) => Some(Arc::clone(engine.bus()) as Arc<_>),
        }
    }

    /// Runs what the engine needs while the node runs.
    pub(super) fn spawn_services(&self, services: &Services) {
        let stop = services.stop();
        match &self.kind {
            Kind::Memory(broker, presence, store) => {
                let presence = sweep_presence(presence.clone(), stop.clone());
                services.spawn("presence sweep", presence);
                let store = sweep_store(store.clone(), stop.clone());
                services.spawn("store sweep", store);
                services.spawn("history sweep", sweep(Arc::clone(broker), stop.clone()));
            }
            Kind::Redis(_) => {}
        }
    }

    /// Ends the connections. The sessions have gone.
    pub(super) async fn close(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn open_redis(
    config: &RedisConfig,
    parts: EngineParts<'_>,
) -> Result<RedisEngine, BuildError> {
    check_login(config).await.map_err(BuildError::Redis)?;
    Ok(RedisEngine::start(parts))
}
