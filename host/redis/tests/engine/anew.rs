//! A real node over servers that lost what it had entered into the directory: it enters everybody anew, at once and not
//! with the renewal twenty minutes later.

use std::sync::Arc;

use tidegate_realtime::{
    config::RealtimeConfig,
    directory::{Directory as _, User},
    driver::{Driver, Turn},
    hooks::NoHooks,
    hub::{Hub, HubConfig},
    ids::{AppId, ChannelKey},
    metrics::RealtimeMetrics,
    node::{Node, NodeParts, PeerInfo, Shared},
};
use tidegate_redis::{Keys, RedisConfig, RedisDirectory, keys::shard};
use tidegate_test_redis::{
    PATIENCE, RedisOptions, RedisServer, Reply, SentinelOptions, Sentinels, until,
};
use tokio::time::Duration;

use crate::common::{Engine, Paper, peer, say, sentinel, shards};

/// Enough for both shards to have some.
const NUM_USERS: usize = 40;

/// A node and its engine.
struct World {
    node: Arc<Node>,
    directory: RedisDirectory,
    _engine: Engine,
}

impl World {
    async fn on(config: &RedisConfig) -> Self {
        let hub = Hub::new(HubConfig::default());
        let mut engine = Engine::heard_by(config, Arc::clone(&hub) as Arc<_>).await;
        let directory = engine.directory().clone();
        let node = Node::new(NodeParts {
            broker: Arc::new(engine.broker.clone()),
            shared: Shared {
                directory: Some(Arc::new(directory.clone())),
                ..Shared::default()
            },
            metrics: RealtimeMetrics::register(&mut engine.registry),
            tracker: engine.tracker.clone(),
            ..NodeParts::in_memory(hub, Arc::new(NoHooks))
        });
        let mut settings = RealtimeConfig::default();
        settings.client.ping_interval = Duration::from_secs(1_000);
        node.set_app(&AppId::default_app(), settings);
        for (_, service) in node.services(&engine.stop) {
            engine.tracker.spawn(service);
        }
        Self {
            node,
            directory,
            _engine: engine,
        }
    }

    /// A session; it ends with the driver.
    async fn join(&self, user: &User) -> Driver {
        let peer = PeerInfo {
            user: Arc::clone(&user.name),
            ..peer()
        };
        let opened = self.node.open(peer, Paper::default());
        let (_, mut driver) = opened.expect("an open node");
        let turn = say(&mut driver, r#"{"id":1,"connect":{}}"#).await;
        assert_eq!(turn, Turn::Read);
        driver
    }

    async fn join_all(&self, users: &[User]) -> Vec<Driver> {
        let mut drivers = Vec::new();
        for user in users {
            drivers.push(self.join(user).await);
        }
        drivers
    }

    /// Waits until the directory has so many sessions of each of these.
    async fn until_each_has(&self, users: &[User], expected: usize, when: &str) {
        for user in users {
            let looking = async {
                loop {
                    let found = self.directory.sessions(user, 10).wait().await;
                    if found.is_ok_and(|found| found.len() == expected) {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            let found = tokio::time::timeout(PATIENCE, Box::pin(looking)).await;
            assert!(found.is_ok(), "{when}: not {expected} of {}", user.name);
        }
    }
}

fn users(kind: &str) -> Vec<User> {
    let user = |number| User {
        app: AppId::default_app(),
        name: format!("{kind}{number}").into(),
    };
    (0..NUM_USERS).map(user).collect()
}

fn place(user: &User) -> ChannelKey {
    ChannelKey::new(&user.app, &user.name)
}

fn marks(server: &RedisServer) -> Vec<String> {
    let marks = server.command(&["KEYS", "tg:mark:*"]);
    marks.list().iter().map(Reply::text).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_shard_that_goes_on_running_gets_everybody_again() {
    let servers = [(); 2].map(|()| RedisServer::start(&RedisOptions::default()));
    let world = World::on(&shards(&servers)).await;
    let everybody = users("user");
    let on_second = everybody.iter().filter(|user| shard(&place(user), 2) == 1);
    assert_ne!(on_second.count(), 0);
    let _sessions = world.join_all(&everybody).await;
    world.until_each_has(&everybody, 1, "entered").await;
    for round in ["emptied", "emptied again"] {
        until("a heartbeat", || {
            (!marks(&servers[1]).is_empty()).then_some(())
        });
        servers[1].command(&["FLUSHALL"]);
        world.until_each_has(&everybody, 1, round).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_left_and_is_back_with_a_shard_that_lost_the_last_writes_goes_again() {
    let servers = [(); 2].map(|()| RedisServer::start(&RedisOptions::default()));
    let config = shards(&servers);
    let world = World::on(&config).await;
    let keys = Keys::new(config.prefix.clone());
    let mut gone = users("gone");
    // Their lines in the book are on the other shard, which loses nothing.
    gone.retain(|user| shard(&place(user), 2) == 1);
    let leaving = world.join_all(&gone).await;
    world.until_each_has(&gone, 1, "entered").await;
    until("a heartbeat", || {
        (!marks(&servers[1]).is_empty()).then_some(())
    });
    let entered = gone.iter().map(|user| {
        let key = keys.user(&place(user));
        let lines = servers[1].command(&["HGETALL", &key]);
        let lines: Vec<_> = lines.list().iter().map(Reply::text).collect();
        (key, lines)
    });
    let entered: Vec<_> = entered.collect();
    drop(leaving);
    world.until_each_has(&gone, 0, "gone").await;
    for (key, lines) in &entered {
        let words = ["HSET", key].into_iter();
        let words: Vec<_> = words.chain(lines.iter().map(String::as_str)).collect();
        servers[1].command(&words);
    }
    for mark in marks(&servers[1]) {
        servers[1].command(&["DEL", &mark]);
    }
    world.until_each_has(&gone, 0, "back").await;
}

/// How the primary goes.
#[derive(Debug, Clone, Copy)]
enum End {
    Dies,
    /// Connections to it stand and get no answer.
    StandsStill,
}

fn replicas(group: &mut Sentinels, primary_port: u16) -> impl Iterator<Item = &RedisServer> {
    let servers = group.servers().iter();
    servers.filter(move |server| server.port() != primary_port)
}

/// What is entered after the replicas stopped to follow is lost with the primary, and who left is back.
async fn fail_over_behind_the_last_writes(end: End) {
    let mut group = Sentinels::start(&SentinelOptions {
        // A replica that has lost its primary may take over for ten times as long.
        down_after: Duration::from_secs(3),
        ..SentinelOptions::default()
    });
    let world = World::on(&RedisConfig::new(sentinel(&group))).await;
    let (before, gone, after) = (users("before"), users("gone"), users("after"));
    let keys = Keys::new(RedisConfig::new(sentinel(&group)).prefix);
    let _before = world.join_all(&before).await;
    let leaving = world.join_all(&gone).await;
    world.until_each_has(&before, 1, "before").await;
    world.until_each_has(&gone, 1, "before").await;
    let port = group.primary_port();
    for replica in replicas(&mut group, port) {
        let has = |key: &str| replica.command(&["EXISTS", key]).text() == "1";
        until("the replica to have them", || {
            let mut entered = before.iter().chain(&gone);
            let all = entered.all(|user| has(&keys.user(&place(user)))) && has(&keys.nodes());
            all.then_some(())
        });
        // The primary has no password, and takes no login.
        replica.command(&["CONFIG", "SET", "masterauth", "wrong"]);
        replica.command(&["CLIENT", "KILL", "TYPE", "master"]);
    }
    drop(leaving);
    let _after = world.join_all(&after).await;
    world.until_each_has(&after, 1, "behind").await;
    world.until_each_has(&gone, 0, "behind").await;
    match end {
        End::Dies => {
            group.kill_primary();
        }
        End::StandsStill => group.primary().pause(),
    }
    for replica in replicas(&mut group, port) {
        for user in &after {
            let entered = replica.command(&["EXISTS", &keys.user(&place(user))]);
            assert_eq!(entered.text(), "0", "the replica was cut off");
        }
        replica.command(&["CONFIG", "SET", "masterauth", ""]);
    }
    group.failed_over_from(port);
    world.until_each_has(&before, 1, "after").await;
    world.until_each_has(&after, 1, "after").await;
    world.until_each_has(&gone, 0, "after").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_that_lost_the_last_writes_leaves_nobody_out() {
    Box::pin(fail_over_behind_the_last_writes(End::Dies)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_from_a_primary_that_stands_still_leaves_nobody_out() {
    Box::pin(fail_over_behind_the_last_writes(End::StandsStill)).await;
}
