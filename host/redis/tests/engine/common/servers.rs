//! Where servers of the test are, and as whom we go there.

use std::future::Future;

use tidegate_redis::{
    RedisConfig, Topology,
    config::{Address, Login},
};
use tidegate_test_redis::{PATIENCE, RedisCluster, RedisOptions, RedisServer, Sentinels};

/// Waits for what a server has to do with.
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

/// The others are found through the first.
pub(crate) fn cluster(nodes: &RedisCluster) -> Topology {
    Topology::Cluster {
        seeds: vec![Address::new("127.0.0.1", nodes.ports()[0])],
        login: Login::default(),
    }
}

/// Each server is a shard.
pub(crate) fn shards(servers: &[RedisServer]) -> RedisConfig {
    let shards = servers.iter().map(|server| standalone(server.port()));
    RedisConfig {
        shards: shards.collect(),
        ..RedisConfig::new(standalone(0))
    }
}

/// The lines of the ACL example in the guide that are about our user.
pub(crate) fn documented_acl() -> Vec<String> {
    let guide = include_str!("../../../../../docs/redis.md");
    let (_, rest) = guide.split_once("```acl\n").expect("an ACL example");
    let (example, _) = rest.split_once("```").expect("its end");
    let lines = example
        .lines()
        .filter(|line| line.starts_with("user tidegate "));
    lines.map(str::to_owned).collect()
}

/// A server that knows the user of the guide, and the way to it as that user.
pub(crate) fn documented_server() -> (RedisServer, Topology) {
    let server = RedisServer::start(&RedisOptions {
        acl: documented_acl(),
        ..RedisOptions::default()
    });
    let topology = as_tidegate(standalone(server.port()));
    (server, topology)
}

/// The same servers, as the user of the guide.
pub(crate) fn as_tidegate(topology: Topology) -> Topology {
    let login = Login {
        user: "tidegate".into(),
        password: "secret".into(),
        client_name: "tidegate-test".into(),
        ..Login::default()
    };
    match topology {
        Topology::Standalone { address, .. } => Topology::Standalone { address, login },
        Topology::Cluster { seeds, .. } => Topology::Cluster { seeds, login },
        Topology::Sentinel { .. } => unreachable!("not asked for"),
    }
}
