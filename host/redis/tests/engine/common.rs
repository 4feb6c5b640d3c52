//! An engine against a server of the test.

use std::{future::Future, sync::Arc};

use tidegate_realtime::{broker::BrokerEvents, broker_contract::Recorder};
use tidegate_redis::{
    EngineParts, RedisBroker, RedisConfig, RedisEngine, Route, Topology,
    config::{Address, Login},
};
use tidegate_test_redis::{PATIENCE, RedisCluster, Sentinels};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// An engine and the tasks that keep its connections; they end with it.
pub(crate) struct Engine {
    pub(crate) broker: RedisBroker,
    engine: RedisEngine,
    stop: CancellationToken,
}

impl Engine {
    /// For what is read back; nobody listens.
    pub(crate) async fn start(config: &RedisConfig) -> Self {
        Self::heard_by(config, Arc::new(Recorder::default())).await
    }

    pub(crate) async fn heard_by(config: &RedisConfig, events: Arc<dyn BrokerEvents>) -> Self {
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let engine = RedisEngine::start(EngineParts {
            config,
            node: "test",
            events,
            registry: &mut prometheus_client::registry::Registry::default(),
            tracker: &tracker,
            stop: &stop,
        });
        for pipe in engine.shards().all() {
            within(pipe.connected()).await;
        }
        Self {
            broker: engine.broker().clone(),
            engine,
            stop,
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

pub(crate) fn sentinel(sentinels: &Sentinels) -> Topology {
    let ports = sentinels.ports().into_iter();
    Topology::Sentinel {
        sentinels: ports.map(|port| Address::new("127.0.0.1", port)).collect(),
        sentinel_login: Login::default(),
        master_name: Sentinels::NAME.into(),
        login: Login::default(),
    }
}

pub(crate) fn cluster(nodes: &mut RedisCluster) -> Topology {
    Topology::Cluster {
        seeds: vec![Address::new("127.0.0.1", nodes.nodes()[0].port())],
        login: Login::default(),
    }
}
