//! An engine, or a part of one, against servers of the test.

use std::{ops::Deref, sync::Arc};

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
    EngineMetrics, EngineParts, Keys, RedisBroker, RedisConfig, RedisDirectory, RedisEngine, Route,
    Shards,
};
use tokio::time::Duration;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::within;

/// A part of an engine over connections of its own, and the tasks that keep them; they end with it.
pub(crate) struct Kept<T> {
    part: T,
    stop: CancellationToken,
}

impl<T> Kept<T> {
    /// Made of connections to every shard, which stand.
    pub(crate) async fn connected(
        config: &RedisConfig,
        make: impl FnOnce(Shards, Keys, EngineMetrics) -> T,
    ) -> Self {
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let shards = Shards::start(config, &tracker, &stop);
        all_connected(&shards).await;
        let keys = Keys::new(config.prefix.clone());
        let metrics = EngineMetrics::register(&mut Registry::default());
        let part = make(shards, keys, metrics);
        Self { part, stop }
    }
}

impl<T> Deref for Kept<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.part
    }
}

impl<T> Drop for Kept<T> {
    fn drop(&mut self) {
        self.stop.cancel();
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

    pub(crate) fn directory(&self) -> &RedisDirectory {
        self.engine.directory()
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
