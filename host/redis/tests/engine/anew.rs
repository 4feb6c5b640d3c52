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
use tidegate_redis::{RedisConfig, RedisDirectory, keys::shard};
use tidegate_test_redis::{PATIENCE, RedisOptions, RedisServer, SentinelOptions, Sentinels, until};
use tokio::time::Duration;

use crate::common::{Engine, Paper, peer, say, shards};

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
            let marks = servers[1].command(&["KEYS", "tg:mark:*"]);
            (!marks.list().is_empty()).then_some(())
        });
        servers[1].command(&["FLUSHALL"]);
        world.until_each_has(&everybody, 1, round).await;
    }
}
