//! The directory in a real Redis: the contract, and what somebody else writes into its keys.

use std::time::Duration;

use tidegate_realtime::{
    cluster::NodeUid,
    directory::{Answer, Change, Directory, Record, Slot, Turn, User, contract},
    ids::{AppId, ChannelKey, ClientId},
};
use tidegate_redis::{Keys, RedisConfig, RedisDirectory, Topology};
use tidegate_test_redis::{ClusterOptions, RedisCluster, RedisOptions, RedisServer, Reply};

use crate::common::{Kept, cluster, documented_server, shards, standalone, within};

/// Long enough for a machine that has no time for us now and then.
const SILENT_FOR: Duration = Duration::from_secs(2);

/// A node's directory.
async fn connected(config: &RedisConfig) -> Kept<RedisDirectory> {
    Kept::connected(config, RedisDirectory::new).await
}

async fn check(topology: Topology) {
    let config = RedisConfig::new(topology);
    let directory = connected(&config).await;
    contract::check_all(&*directory, SILENT_FOR, "one").await;
}

#[tokio::test]
async fn a_directory_in_one_redis_keeps_the_contract() {
    let server = RedisServer::start(&RedisOptions::default());
    check(standalone(server.port())).await;
}

#[tokio::test]
async fn r1_the_documented_user_is_enough_for_the_directory() {
    let (_server, first) = documented_server();
    let (server, second) = documented_server();
    let config = RedisConfig {
        shards: vec![first.clone(), second],
        ..RedisConfig::new(first)
    };
    let directory = connected(&config).await;
    contract::check_all(&*directory, SILENT_FOR, "one").await;
    let marks = server.command(&["KEYS", "tg:mark:*"]);
    assert_ne!(marks.list().len(), 0);
}

#[tokio::test]
async fn a_directory_in_a_cluster_keeps_the_contract() {
    let nodes = RedisCluster::start(&ClusterOptions::default());
    check(cluster(&nodes)).await;
}

#[tokio::test]
async fn a_directory_over_two_shards_keeps_the_contract() {
    let servers = [(); 2].map(|()| RedisServer::start(&RedisOptions::default()));
    let directory = connected(&shards(&servers)).await;
    contract::check_all(&*directory, SILENT_FOR, "shards").await;
}

#[tokio::test]
async fn r7_what_somebody_else_wrote_is_no_node_and_no_line_and_can_be_erased() {
    let server = RedisServer::start(&RedisOptions::default());
    let config = RedisConfig::new(standalone(server.port()));
    let directory = connected(&config).await;
    let keys = Keys::new(config.prefix.clone());
    let node = NodeUid::random();
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
    let client = ClientId::random();
    let settle = vec![(user.clone(), Change::Settle { client })];
    let turns = within(directory.change(settle).wait()).await;
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
    let config = RedisConfig::new(standalone(server.port()));
    let directory = connected(&config).await;
    let node = NodeUid::random();
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
    let keys = Keys::new(config.prefix.clone());
    let ends = |key: &str| match server.command(&["PTTL", key]) {
        Reply::Integer(left @ 1..) => left,
        other => panic!("{key} does not end: {other:?}"),
    };
    // Also without a heartbeat: its node may have been taken for dead.
    ends(&keys.book(&node));
    change(&directory, &user, came(client)).await;
    let place = ChannelKey::new(&user.app, &user.name);
    let here = ends(&keys.user(&place));
    change(&directory, &user, Change::Left { client }).await;
    assert!(
        ends(&keys.user(&place)) < here,
        "of who has gone less is kept"
    );
    within(directory.beat(&node, SILENT_FOR).wait())
        .await
        .unwrap();
    ends(&keys.nodes());
}

fn came(client: ClientId) -> Change {
    Change::Came {
        client,
        value: "x".into(),
        answer: Answer::Known,
    }
}

async fn change(directory: &RedisDirectory, user: &User, change: Change) -> Turn {
    let turns = directory.change(vec![(user.clone(), change)]).wait();
    within(turns).await[0].clone().expect("an answer")
}

#[tokio::test]
async fn a_session_that_nobody_enters_anew_keeps_no_user_online() {
    let server = RedisServer::start(&RedisOptions::default());
    let config = RedisConfig::new(standalone(server.port()));
    let directory = connected(&config).await;
    let keys = Keys::new(config.prefix.clone());
    let user = User {
        app: AppId::default_app(),
        name: "ann".into(),
    };
    let key = keys.user(&ChannelKey::new(&user.app, &user.name));
    let client = ClientId::random();
    change(&directory, &user, came(client)).await;
    // Its departure was lost in a failover more than a life ago.
    let ghost = ClientId::random().to_string();
    server.command(&["HSET", &key, &ghost, "1600000000000 x"]);
    let turn = change(&directory, &user, Change::Left { client }).await;
    assert!(matches!(turn, Turn::Last(_)), "{turn:?}");
    let found = within(directory.sessions(&user, 10).wait()).await;
    assert_eq!(found.unwrap().len(), 0);
}

#[tokio::test]
async fn a_closed_book_that_gets_a_line_is_opened_again() {
    let server = RedisServer::start(&RedisOptions::default());
    let config = RedisConfig::new(standalone(server.port()));
    let directory = connected(&config).await;
    let keys = Keys::new(config.prefix.clone());
    let (dead, other) = (NodeUid::random(), NodeUid::random());
    within(directory.beat(&dead, SILENT_FOR).wait())
        .await
        .unwrap();
    let condemned = within(directory.condemn(&dead, Duration::ZERO).wait()).await;
    assert!(condemned.unwrap());
    assert!(within(directory.retire(&dead).wait()).await.unwrap());
    server.command(&["HSET", &keys.book(&dead), "a", "line"]);
    assert!(!within(directory.retire(&dead).wait()).await.unwrap());
    let beat = within(directory.beat(&other, SILENT_FOR).wait()).await;
    assert_eq!(beat.unwrap().overdue, [dead]);
}

#[tokio::test]
async fn a_server_that_comes_back_as_another_one_is_a_lapse() {
    let mut servers = [(); 2].map(|()| RedisServer::start(&RedisOptions::default()));
    let directory = connected(&shards(&servers)).await;
    assert_eq!(directory.num_lapses(), 0);
    // Not the one that has the nodes and their books: a node is known all the same.
    servers[1].restart();
    let lapsed = async {
        while directory.num_lapses() == 0 {
            tokio::task::yield_now().await;
        }
    };
    within(lapsed).await;
    let node = NodeUid::random();
    for _ in 0..2 {
        within(directory.beat(&node, SILENT_FOR).wait())
            .await
            .unwrap();
    }
    assert_eq!(directory.num_lapses(), 1);
}

/// Heartbeats, until something that they bring about is there.
async fn beat_until(directory: &RedisDirectory, node: &NodeUid, is_there: impl Fn() -> bool) {
    let beating = async {
        while !is_there() {
            let beat = directory.beat(node, SILENT_FOR).wait().await;
            beat.expect("a heartbeat");
        }
    };
    within(Box::pin(beating)).await;
}

/// The server has nothing but what heartbeats leave there.
async fn check_that_emptying_is_a_lapse(directory: &RedisDirectory, server: &RedisServer) {
    let node = NodeUid::random();
    // That the slots of a Cluster became known is one, too.
    let before = directory.num_lapses();
    for expected in before..before + 3 {
        let is_marked = || server.command(&["DBSIZE"]).text() == "1";
        beat_until(directory, &node, is_marked).await;
        beat_until(directory, &node, || directory.num_lapses() >= expected).await;
        for _ in 0..2 {
            let beat = within(directory.beat(&node, SILENT_FOR).wait()).await;
            beat.expect("a heartbeat");
        }
        assert_eq!(directory.num_lapses(), expected);
        server.command(&["FLUSHALL"]);
    }
}

#[tokio::test]
async fn a_shard_that_was_emptied_and_goes_on_running_is_a_lapse() {
    let servers = [(); 2].map(|()| RedisServer::start(&RedisOptions::default()));
    let directory = connected(&shards(&servers)).await;
    check_that_emptying_is_a_lapse(&directory, &servers[1]).await;
}

#[tokio::test]
async fn a_primary_of_a_cluster_that_was_emptied_and_goes_on_running_is_a_lapse() {
    let mut nodes = RedisCluster::start(&ClusterOptions::default());
    let config = RedisConfig::new(cluster(&nodes));
    let directory = connected(&config).await;
    let keys = Keys::new(config.prefix.clone());
    let port_of_nodes = nodes.primary_port_of(&keys.nodes());
    let mut users = (0..).map(|number| {
        let name = format!("user{number}");
        keys.user(&ChannelKey::new(&AppId::default_app(), &name))
    });
    let elsewhere = users.find(|user| nodes.primary_port_of(user) != port_of_nodes);
    let primary = nodes.primary_of(&elsewhere.unwrap());
    check_that_emptying_is_a_lapse(&directory, primary).await;
}

#[tokio::test]
async fn a_shard_that_stands_still_fails_no_heartbeat_and_is_no_lapse() {
    let servers = [(); 2].map(|()| RedisServer::start(&RedisOptions::default()));
    let directory = connected(&shards(&servers)).await;
    let node = NodeUid::random();
    let is_marked = || servers[1].command(&["DBSIZE"]).text() == "1";
    beat_until(&directory, &node, is_marked).await;
    servers[1].pause();
    for _ in 0..3 {
        let beat = within(directory.beat(&node, SILENT_FOR).wait()).await;
        assert!(beat.is_ok());
    }
    servers[1].resume();
    within(directory.beat(&node, SILENT_FOR).wait())
        .await
        .unwrap();
    assert_eq!(directory.num_lapses(), 0);
}
