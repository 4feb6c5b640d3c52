//! The directory in a real Redis: the contract, and what somebody else writes into its keys.

use std::{future::Future, time::Duration};

use prometheus_client::registry::Registry;
use tidegate_realtime::{
    cluster::NodeUid,
    directory::{Change, Directory, Record, Slot, User, contract},
    ids::{AppId, ChannelKey, ClientId},
};
use tidegate_redis::{
    EngineMetrics, Keys, RedisConfig, RedisDirectory, Shards, Topology,
    config::{Address, Login},
};
use tidegate_test_redis::{
    ClusterOptions, PATIENCE, RedisCluster, RedisOptions, RedisServer, Reply,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Long enough for a machine that has no time for us now and then.
const SILENT_FOR: Duration = Duration::from_secs(2);

/// A node's directory, and the tasks that keep its connection; they end with it.
struct Member {
    directory: RedisDirectory,
    stop: CancellationToken,
}

impl Member {
    async fn connected(config: &RedisConfig) -> Self {
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let shards = Shards::start(config, &tracker, &stop);
        for pipe in shards.all() {
            within(pipe.connected()).await;
        }
        let keys = Keys::new(config.prefix.clone());
        let metrics = EngineMetrics::register(&mut Registry::default());
        let directory = RedisDirectory::new(shards, keys, metrics);
        Self { directory, stop }
    }
}

impl Drop for Member {
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
    let member = Member::connected(&config).await;
    contract::check_all(&member.directory, SILENT_FOR, "one").await;
}

fn standalone(server: &RedisServer, login: Login) -> Topology {
    Topology::Standalone {
        address: Address::new("127.0.0.1", server.port()),
        login,
    }
}

#[tokio::test]
async fn a_directory_in_one_redis_keeps_the_contract() {
    let server = RedisServer::start(&RedisOptions::default());
    check(standalone(&server, Login::default())).await;
}

#[tokio::test]
async fn r1_the_documented_user_is_enough_for_the_directory() {
    let guide = include_str!("../../../docs/redis.md");
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
async fn a_directory_in_a_cluster_keeps_the_contract() {
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
async fn a_directory_over_two_shards_keeps_the_contract() {
    let servers = [(); 2].map(|()| RedisServer::start(&RedisOptions::default()));
    let shards = servers
        .iter()
        .map(|server| standalone(server, Login::default()));
    let config = RedisConfig {
        shards: shards.collect(),
        ..RedisConfig::new(standalone(&servers[0], Login::default()))
    };
    let member = Member::connected(&config).await;
    contract::check_all(&member.directory, SILENT_FOR, "shards").await;
}

#[tokio::test]
async fn r7_what_somebody_else_wrote_is_no_node_and_no_line_and_can_be_erased() {
    let server = RedisServer::start(&RedisOptions::default());
    let config = RedisConfig::new(standalone(&server, Login::default()));
    let member = Member::connected(&config).await;
    let keys = Keys::new(config.prefix.clone());
    let (directory, node) = (&member.directory, NodeUid::random());
    server.command(&["ZADD", &keys.nodes(), "1", "no node", "2", "\u{0}"]);
    let beat = within(directory.beat(&node, SILENT_FOR).wait()).await;
    assert_eq!(beat.unwrap().overdue, []);
    server.command(&["HSET", &keys.book(&node), "no slot", "x", "", "y"]);
    let page = within(directory.read(&node, 0).wait()).await.unwrap();
    assert_eq!((page.records.len(), page.foreign.len()), (0, 2));
    within(directory.erase(&node, page).wait()).await.unwrap();
    let page = within(directory.read(&node, 0).wait()).await.unwrap();
    assert_eq!((page.records.len(), page.foreign.len()), (0, 0));
    let user = User {
        app: AppId::default_app(),
        name: "ann".into(),
    };
    let place = ChannelKey::new(&user.app, &user.name);
    server.command(&["SET", &keys.user(&place), "a text"]);
    assert!(within(directory.sessions(&user, 1).wait()).await.is_err());
    let turns = within(
        directory
            .change(vec![(user.clone(), Change::Settle)])
            .wait(),
    )
    .await;
    assert!(turns[0].is_err());
    server.command(&["DEL", &keys.user(&place)]);
    server.command(&["SET", &keys.nodes(), "a text"]);
    assert!(
        within(directory.beat(&node, SILENT_FOR).wait())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn everything_that_is_kept_ends_by_itself() {
    let server = RedisServer::start(&RedisOptions::default());
    let config = RedisConfig::new(standalone(&server, Login::default()));
    let member = Member::connected(&config).await;
    let (directory, node) = (&member.directory, NodeUid::random());
    let client = ClientId::random();
    let user = User {
        app: AppId::default_app(),
        name: "ann".into(),
    };
    let record = Record {
        slot: Slot::Session(client),
        value: "x".into(),
    };
    within(directory.write(&node, vec![record]).wait())
        .await
        .unwrap();
    let came = Change::Came {
        client,
        value: "x".into(),
    };
    within(directory.change(vec![(user.clone(), came)]).wait()).await[0]
        .clone()
        .unwrap();
    within(directory.beat(&node, SILENT_FOR).wait())
        .await
        .unwrap();
    let keys = Keys::new(config.prefix.clone());
    let place = ChannelKey::new(&user.app, &user.name);
    for key in [keys.nodes(), keys.book(&node), keys.user(&place)] {
        let left = server.command(&["PTTL", &key]);
        assert!(matches!(left, Reply::Integer(1..)), "{key}: {left:?}");
    }
}
