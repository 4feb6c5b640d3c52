//! The engine put together: connections, broker and subscriptions, and the way from what arrives to the node.
//!
//! Owns the start and the reading of payloads. Invariant (threat model R7): a payload that cannot be read reaches
//! nobody, is counted, and makes the node compare the positions of its channel with the stream at once.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use prometheus_client::registry::Registry;
use tidegate_realtime::{
    broker::{BrokerError, BrokerEvents, Doubt, EngineHealth, JoinLeave},
    hooks::Progress,
    ids::ChannelKey,
    store::StoreQuotas,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    broker::{Listening, RedisBroker},
    commands::Shards,
    config::{Ack, RedisConfig, Topology},
    connect::{ConnectError, Connector},
    control::ControlBus,
    directory::RedisDirectory,
    envelope::Envelope,
    keys::Keys,
    leases::RedisLeases,
    metrics::{AbleCollector, EngineMetrics, InFlightCollector},
    presence::RedisPresence,
    pubsub::{Lapse, PubSubEvents, PubSubMetrics, SubscriptionParts, Subscriptions},
    store::RedisStore,
};

/// How long a position may go without being compared with the stream's top (threat model R5).
const MAX_UNCONFIRMED: Duration = Duration::from_secs(10);

/// What an engine is made of.
pub struct EngineParts<'a> {
    pub config: &'a RedisConfig,
    /// Unlike that of any other node.
    pub node: &'a str,
    pub events: Arc<dyn BrokerEvents>,
    pub registry: &'a mut Registry,
    pub tracker: &'a TaskTracker,
    pub stop: &'a CancellationToken,
}

impl std::fmt::Debug for EngineParts<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineParts")
            .field("config", &self.config)
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

/// A running engine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RedisEngine {
    shards: Shards,
    keys: Keys,
    subscriptions: Subscriptions,
    broker: RedisBroker,
    presence: RedisPresence,
    leases: RedisLeases,
    store: RedisStore,
    directory: RedisDirectory,
    bus: Arc<ControlBus>,
}

impl RedisEngine {
    /// Starts to connect and waits for nothing: a node starts while Redis is away, and is not ready. Connections are
    /// kept on `tracker` until `stop`.
    pub fn start(parts: EngineParts<'_>) -> Self {
        let EngineParts {
            config,
            node,
            events,
            registry,
            tracker,
            stop,
        } = parts;
        let shards = Shards::start(config, tracker, stop);
        let replicated = match config.ack {
            Ack::Primary => None,
            // Whoever waits for a replica keeps those waiting who come behind on the connection.
            Ack::Replicated => Some(shards.start_beside(config, tracker, stop)),
        };
        let keys = Keys::new(config.prefix.clone());
        let metrics = EngineMetrics::register(registry);
        let in_flight = shards.first().in_flight().clone();
        registry.register_collector(Box::new(InFlightCollector(in_flight)));
        let bus = Arc::new(ControlBus::new(&shards, keys.clone()));
        let subscriptions = Subscriptions::start(SubscriptionParts {
            config,
            shards: &shards,
            keys: keys.clone(),
            node,
            events: Arc::new(Reader {
                events,
                keys: keys.clone(),
                metrics: metrics.clone(),
                bus: Arc::clone(&bus),
            }),
            metrics: PubSubMetrics::register(registry),
            tracker,
            stop,
        });
        bus.hear_by(subscriptions.clone());
        let listening = Arc::new(subscriptions.clone());
        let presence = RedisPresence::new(
            shards.clone(),
            keys.clone(),
            config.presence_ttl,
            metrics.clone(),
        );
        let leases = RedisLeases::new(&shards, keys.clone(), node, metrics.clone());
        let store = RedisStore::new(
            shards.clone(),
            keys.clone(),
            StoreQuotas::default(),
            metrics.clone(),
        );
        let directory = RedisDirectory::new(shards.clone(), keys.clone(), metrics.clone());
        let broker = RedisBroker::new(shards.clone(), replicated, keys.clone(), listening, metrics);
        registry.register_collector(Box::new(AbleCollector(broker.clone())));
        Self {
            shards,
            keys,
            subscriptions,
            broker,
            presence,
            leases,
            store,
            directory,
            bus,
        }
    }

    /// What the nodes of the cluster tell each other travels over it.
    pub fn bus(&self) -> &Arc<ControlBus> {
        &self.bus
    }

    pub fn broker(&self) -> &RedisBroker {
        &self.broker
    }

    pub fn presence(&self) -> &RedisPresence {
        &self.presence
    }

    pub fn leases(&self) -> &RedisLeases {
        &self.leases
    }

    /// What plugins keep.
    pub fn store(&self) -> &RedisStore {
        &self.store
    }

    pub fn directory(&self) -> &RedisDirectory {
        &self.directory
    }

    pub fn shards(&self) -> &Shards {
        &self.shards
    }

    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    pub fn subscriptions(&self) -> &Subscriptions {
        &self.subscriptions
    }
}

/// Tries to log in at every shard, for a start: what waiting will not mend is better said at once. A Redis that is
/// away is no error.
///
/// # Errors
/// [`ConnectError`] of the first shard that refuses.
pub async fn check_login(config: &RedisConfig) -> Result<(), ConnectError> {
    for topology in &config.shards {
        let connector = Connector::new(topology.clone(), config.connect_timeout);
        let tried = match topology {
            Topology::Standalone { .. } | Topology::Sentinel { .. } => {
                match connector.primary().await {
                    Ok(Some(address)) => connector.open(&address).await.map(|_| ()),
                    Ok(None) => Ok(()),
                    Err(error) => Err(error),
                }
            }
            Topology::Cluster { seeds, login } => {
                let mut tried = Ok(());
                for seed in seeds {
                    let mut command = redis::cmd("CLUSTER");
                    command.arg("SLOTS");
                    tried = connector.ask(seed, login, &command).await.map(|_| ());
                    if tried.is_ok() {
                        break;
                    }
                }
                tried
            }
        };
        match tried {
            Err(error) if error.is_lasting() => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

impl Listening for Subscriptions {
    fn subscribe(&self, key: &ChannelKey) -> Progress<Result<(), BrokerError>> {
        Self::subscribe(self, key)
    }

    fn unsubscribe(&self, key: &ChannelKey) {
        Self::unsubscribe(self, key);
    }

    fn health(&self) -> EngineHealth {
        Self::health(self)
    }

    fn max_unconfirmed(&self) -> Duration {
        MAX_UNCONFIRMED
    }
}

/// Turns payloads into events of the node.
struct Reader {
    events: Arc<dyn BrokerEvents>,
    keys: Keys,
    metrics: EngineMetrics,
    bus: Arc<ControlBus>,
}

impl Reader {
    fn channel(&self, name: &str) -> Option<ChannelKey> {
        self.keys.parse_channel(name).and_then(ChannelKey::parse)
    }
}

impl PubSubEvents for Reader {
    fn on_payload(&self, name: &str, payload: Bytes) {
        // Names are those that this node subscribed to; others are not of channels.
        let Some(key) = self.channel(name) else {
            self.bus.on_payload(name, &payload);
            return;
        };
        match Envelope::parse(payload) {
            Ok(Envelope::Publication {
                position,
                publication,
            }) => self
                .events
                .on_publication(&key, &publication, position.as_ref()),
            Ok(Envelope::Join(info)) => self.events.on_join_leave(&key, &JoinLeave::Join(info)),
            Ok(Envelope::Leave(info)) => self.events.on_join_leave(&key, &JoinLeave::Leave(info)),
            Err(error) => {
                self.metrics.count_bad_envelope(error);
                self.events.on_doubt(Doubt::Channel(&key));
            }
        }
    }

    fn on_lapse(&self, lapse: Lapse<'_>) {
        match lapse {
            Lapse::Everything => self.events.on_doubt(Doubt::Everything),
            Lapse::Name(name) => {
                if let Some(key) = self.channel(name) {
                    self.events.on_doubt(Doubt::Channel(&key));
                }
            }
        }
    }
}
