//! Leases in a real Redis: the contract, and what somebody else writes into their keys.

use std::{future::Future, time::Duration};

use prometheus_client::registry::Registry;
use tidegate_realtime::{
    cluster::NodeUid,
    leases::{LeaseName, Leases, contract},
};
use tidegate_redis::{
    EngineMetrics, Keys, RedisConfig, RedisLeases, Shards, Topology,
    config::{Address, Login},
};
use tidegate_test_redis::{ClusterOptions, PATIENCE, RedisCluster, RedisOptions, RedisServer};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Long enough for a machine that has no time for us now and then.
const SHORT: Duration = Duration::from_secs(2);

/// A node's leases, and the tasks that keep its connection; they end with it.
struct Holder {
    leases: RedisLeases,
    stop: CancellationToken,
}

impl Holder {
    async fn connected(config: &RedisConfig, name: &str) -> Self {
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let shards = Shards::start(config, &tracker, &stop);
        for pipe in shards.all() {
            within(pipe.connected()).await;
        }
        let keys = Keys::new(config.prefix.clone());
        let metrics = EngineMetrics::register(&mut Registry::default());
        let leases = RedisLeases::new(&shards, keys, name, metrics);
        Self { leases, stop }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("in time")
}

async fn check(topology: Topology) {
    let config = RedisConfig::new(topology);
    let one = Holder::connected(&config, "one").await;
    let other = Holder::connected(&config, "other").await;
    contract::check_all(&one.leases, &other.leases, SHORT).await;
}

fn standalone(server: &RedisServer, login: Login) -> Topology {
    Topology::Standalone {
        address: Address::new("127.0.0.1", server.port()),
        login,
    }
}

#[tokio::test]
async fn leases_in_one_redis_keep_the_contract() {
    let server = RedisServer::start(&RedisOptions::default());
    check(standalone(&server, Login::default())).await;
}

#[tokio::test]
async fn r1_the_documented_user_is_enough_for_leases() {
    let guide = include_str!("../../../../docs/redis.md");
    let lines = guide.lines();
    let ours = lines.filter(|line| line.starts_with("user tidegate "));
    let server = RedisServer::start(&RedisOptions {
        acl: ours.map(str::to_owned).collect(),
        ..RedisOptions::default()
    });
    let login = Login {
        user: "tidegate".into(),
        password: "secret".into(),
        ..Login::default()
    };
    check(standalone(&server, login)).await;
}

#[tokio::test]
async fn leases_in_a_cluster_keep_the_contract() {
    let cluster = RedisCluster::start(&ClusterOptions::default());
    let seeds = cluster.addrs().into_iter().map(|addr| {
        let (host, port) = addr.rsplit_once(':').unwrap();
        Address::new(host, port.parse().unwrap())
    });
    check(Topology::Cluster {
        seeds: seeds.collect(),
        login: Login::default(),
    })
    .await;
}

#[tokio::test]
async fn r7_what_somebody_else_wrote_is_nobodys_lease() {
    let server = RedisServer::start(&RedisOptions::default());
    let config = RedisConfig::new(standalone(&server, Login::default()));
    let holder = Holder::connected(&config, "one").await;
    let name = LeaseName::DeadNode(NodeUid::random());
    let key = Keys::new(config.prefix.clone()).lease(&name);
    let long = Duration::from_secs(600);
    for foreign in ["", "one", "1 two", " "] {
        server.command(&["SET", &key, foreign]);
        let taken = within(holder.leases.take(&name, long).wait()).await;
        assert_eq!(taken, Ok(None), "{foreign:?}");
    }
    for not_a_fence in ["x one", "-1 one", " one"] {
        server.command(&["SET", &key, not_a_fence]);
        let taken = within(holder.leases.take(&name, long).wait()).await;
        assert!(taken.is_err(), "{not_a_fence:?}");
    }
    server.command(&["DEL", &key]);
    server.command(&["HSET", &key, "a", "b"]);
    assert!(
        within(holder.leases.take(&name, long).wait())
            .await
            .is_err()
    );
    server.command(&["DEL", &key]);
    let taken = within(holder.leases.take(&name, long).wait()).await;
    assert!(taken.is_ok_and(|fence| fence.is_some()));
}
