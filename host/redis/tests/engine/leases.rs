//! Leases in a real Redis: the contract, and what somebody else writes into their keys.

use std::time::Duration;

use tidegate_realtime::{
    cluster::NodeUid,
    leases::{LeaseName, Leases, contract},
};
use tidegate_redis::{Keys, RedisConfig, RedisLeases, Topology};
use tidegate_test_redis::{ClusterOptions, RedisCluster, RedisOptions, RedisServer};

use crate::common::{Kept, cluster, documented_server, standalone, within};

/// Long enough for a machine that has no time for us now and then.
const SHORT: Duration = Duration::from_secs(2);

/// A node's leases.
async fn connected(config: &RedisConfig, name: &str) -> Kept<RedisLeases> {
    Kept::connected(config, |shards, keys, metrics| {
        RedisLeases::new(&shards, keys, name, metrics)
    })
    .await
}

async fn check(topology: Topology) {
    let config = RedisConfig::new(topology);
    let one = connected(&config, "one").await;
    let other = connected(&config, "other").await;
    contract::check_all(&*one, &*other, SHORT).await;
}

#[tokio::test]
async fn leases_in_one_redis_keep_the_contract() {
    let server = RedisServer::start(&RedisOptions::default());
    check(standalone(server.port())).await;
}

#[tokio::test]
async fn r1_the_documented_user_is_enough_for_leases() {
    let (_server, topology) = documented_server();
    check(topology).await;
}

#[tokio::test]
async fn leases_in_a_cluster_keep_the_contract() {
    let nodes = RedisCluster::start(&ClusterOptions::default());
    check(cluster(&nodes)).await;
}

#[tokio::test]
async fn r7_what_somebody_else_wrote_is_nobodys_lease() {
    let server = RedisServer::start(&RedisOptions::default());
    let config = RedisConfig::new(standalone(server.port()));
    let leases = connected(&config, "one").await;
    let name = LeaseName::DeadNode(NodeUid::random());
    let key = Keys::new(config.prefix.clone()).lease(&name);
    let long = Duration::from_secs(600);
    for foreign in ["", "one", "1 two", " "] {
        server.command(&["SET", &key, foreign]);
        let taken = within(leases.take(&name, long).wait()).await;
        assert_eq!(taken, Ok(None), "{foreign:?}");
    }
    for not_a_fence in ["x one", "-1 one", " one"] {
        server.command(&["SET", &key, not_a_fence]);
        let taken = within(leases.take(&name, long).wait()).await;
        assert!(taken.is_err(), "{not_a_fence:?}");
    }
    server.command(&["DEL", &key]);
    server.command(&["HSET", &key, "a", "b"]);
    assert!(within(leases.take(&name, long).wait()).await.is_err());
    server.command(&["DEL", &key]);
    let taken = within(leases.take(&name, long).wait()).await;
    assert!(taken.is_ok_and(|fence| fence.is_some()));
}
