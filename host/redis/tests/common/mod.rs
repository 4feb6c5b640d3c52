//! A broker against a server of the test.

use std::{future::Future, sync::Arc, time::Duration};

use tidegate_realtime::{
    broker::{BrokerError, EngineHealth},
    hooks::Progress,
    ids::ChannelKey,
};
use tidegate_redis::{
    EngineMetrics, Keys, Listening, RedisBroker, RedisConfig, Route, Shards, Topology,
    config::{Address, Login},
};
use tidegate_test_redis::PATIENCE;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A broker and the tasks that keep its connections; they end with it.
pub(crate) struct Engine {
    pub(crate) broker: RedisBroker,
    shards: Shards,
    stop: CancellationToken,
}

/// Hears nothing: for what is read back.
struct Deaf;

impl Listening for Deaf {
    fn subscribe(&self, _: &ChannelKey) -> Progress<Result<(), BrokerError>> {
        Progress::Ready(Ok(()))
    }

    fn unsubscribe(&self, _: &ChannelKey) {}

    fn health(&self) -> EngineHealth {
        EngineHealth::Able
    }

    fn max_unconfirmed(&self) -> Duration {
        Duration::MAX
    }
}

impl Engine {
    /// A broker that publishes and reads, connected.
    pub(crate) async fn deaf(config: &RedisConfig) -> Self {
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let shards = Shards::start(config, &tracker, &stop);
        let metrics =
            EngineMetrics::register(&mut prometheus_client::registry::Registry::default());
        let keys = Keys::new(config.prefix.clone());
        let engine = Self {
            broker: RedisBroker::new(shards.clone(), keys, Arc::new(Deaf), metrics),
            shards,
            stop,
        };
        engine.connected().await;
        engine
    }

    async fn connected(&self) {
        for pipe in self.shards.all() {
            within(pipe.connected()).await;
        }
    }
}

impl Engine {
    /// Waits until commands are answered after the test has stopped servers without giving way to our tasks.
    pub(crate) async fn noticed_restart(&self) {
        let ping = redis::cmd("PING");
        for pipe in self.shards.all() {
            let answered = async {
                while pipe.run(&ping, Route::Any).await.is_err() {
                    tokio::task::yield_now().await;
                }
            };
            within(Box::pin(answered)).await;
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("in time")
}

pub(crate) fn standalone(port: u16) -> Topology {
    Topology::Standalone {
        address: Address::new("127.0.0.1", port),
        login: Login::default(),
    }
}
