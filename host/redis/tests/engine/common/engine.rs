//! An engine, or a part of one, against servers of the test.

use std::sync::Arc;

use prometheus_client::registry::Registry;
use tidegate_protocol::{Publication, Raw};
use tidegate_realtime::{
    broker::{
        Broker as _, BrokerError, BrokerEvents, HistoryLimit, HistoryOptions, HistoryOrder,
        HistoryPage, HistoryQuery, PublishRequest, Published,
    },
    broker_contract::Recorder,
    ids::ChannelKey,
};
use tidegate_redis::{
    EngineMetrics, EngineParts, Keys, RedisBroker, RedisConfig, RedisEngine, Route, Shards,
};
use tokio::time::Duration;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::within;

/// What each part of an engine is made of.
pub(crate) struct Parts {
    pub(crate) shards: Shards,
    pub(crate) keys: Keys,
    pub(crate) metrics: EngineMetrics,
    /// The tasks that keep the connections end with it.
    pub(crate) stops: DropGuard,
}

/// Connections to every shard, which stand.
pub(crate) async fn connected(config: &RedisConfig) -> Parts {
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let shards = Shards::start(config, &tracker, &stop);
    all_connected(&shards).await;
    Parts {
        shards,
        keys: Keys::new(config.prefix.clone()),
        metrics: EngineMetrics::register(&mut Registry::default()),
        stops: stop.drop_guard(),
    }
}

async fn all_connected(shards: &Shards) {
    for pipe in shards.all() {
        within(pipe.connected()).await;
    }
}

/// An engine and the tasks that keep its connections; they end with it.
pub(crate) struct Engine {
    pub(crate) broker: RedisBroker,
    pub(crate) registry: Registry,
    pub(crate) tracker: TaskTracker,
    pub(crate) stop: CancellationToken,
    engine: RedisEngine,
}

impl Engine {
    /// For what is read back; nobody listens.
    pub(crate) async fn start(config: &RedisConfig) -> Self {
        Self::heard_by(config, Arc::new(Recorder::default())).await
    }

    pub(crate) async fn heard_by(config: &RedisConfig, events: Arc<dyn BrokerEvents>) -> Self {
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let mut registry = Registry::default();
        let engine = RedisEngine::start(EngineParts {
            config,
            node: "test",
            events,
            registry: &mut registry,
            tracker: &tracker,
            stop: &stop,
        });
        all_connected(engine.shards()).await;
        Self {
            broker: engine.broker().clone(),
            registry,
            tracker,
            stop,
            engine,
        }
    }

    /// Waits until commands are answered after the test has stopped servers without giving way to our tasks.
    pub(crate) async fn noticed_restart(&self) {
        let ping = redis::cmd("PING");
        for pipe in self.engine.shards().all() {
            let answered = async {
                while pipe.run(&ping, Route::Any).await.is_err() {
                    tokio::task::yield_now().await;
                }
            };
            within(Box::pin(answered)).await;
        }
    }

    pub(crate) async fn publish(&self, request: PublishRequest) -> Result<Published, BrokerError> {
        within(self.broker.publish(request).wait()).await
    }

    /// The oldest publications and where the stream is.
    pub(crate) async fn history(&self, key: &ChannelKey) -> Result<HistoryPage, BrokerError> {
        let query = history_query(HistoryOrder::OldestFirst);
        within(self.broker.history(key, query).wait()).await
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// More than a test keeps, from the end that comes first.
pub(crate) fn history_query(order: HistoryOrder) -> HistoryQuery {
    HistoryQuery {
        limit: HistoryLimit::AtMost(100),
        since: None,
        order,
        meta_ttl: Duration::from_secs(600),
    }
}

/// A publication to a channel that keeps this many.
pub(crate) fn request(key: &ChannelKey, data: &'static str, size: usize) -> PublishRequest {
    PublishRequest {
        key: key.clone(),
        publication: Publication {
            data: Raw::from(data),
            ..Publication::default()
        },
        history: Some(HistoryOptions {
            size,
            ttl: Duration::from_secs(60),
            meta_ttl: Duration::from_secs(600),
        }),
        idempotency_key: None,
        version: 0,
        version_epoch: Box::default(),
    }
}
