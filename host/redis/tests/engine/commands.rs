//! Commands through a real Redis: answered, refused, bounded in time, and back after the server is.

use std::time::Duration;

use redis::Value;
use tidegate_redis::{
    Pipe, RedisConfig, RedisFailure, Route, Script, Topology,
    commands::{InFlight, value::text},
    config::{Address, Login},
    connect::{ConnectError, Connector},
};
use tidegate_test_redis::{
    ClusterOptions, PATIENCE, RedisCluster, RedisOptions, RedisServer, SentinelOptions, Sentinels,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::common::{Kept, cluster, sentinel, standalone, within};

/// A pipe to one shard.
struct World {
    pipe: Kept<Pipe>,
}

impl World {
    async fn connected(config: &RedisConfig) -> Self {
        let kept = Kept::connected(config, |shards, _, _| shards.first().clone());
        Self { pipe: kept.await }
    }

    async fn set(&self, key: &str, value: &str) -> Result<Value, RedisFailure> {
        let mut command = redis::cmd("SET");
        command.arg(key).arg(value);
        self.pipe.run(&command, Route::Key(key)).await
    }

    async fn get(&self, key: &str) -> Result<Value, RedisFailure> {
        let mut command = redis::cmd("GET");
        command.arg(key);
        self.pipe.run(&command, Route::Key(key)).await
    }

    /// Repeats until the shard answers again.
    async fn set_at_last(&self, key: &str, value: &str) {
        let setting = async {
            while self.set(key, value).await.is_err() {
                // Each failure took its time or, while Redis is known to be away, none.
                tokio::task::yield_now().await;
            }
        };
        within(setting).await;
    }
}

#[tokio::test]
async fn a_command_is_answered_and_a_refusal_says_why() {
    let server = RedisServer::start(&RedisOptions::default());
    let world = World::connected(&RedisConfig::new(standalone(server.port()))).await;
    world.set("k", "v").await.unwrap();
    assert_eq!(text(&world.get("k").await.unwrap()), Some("v"));
    let mut wrong = redis::cmd("LPUSH");
    wrong.arg("k").arg("x");
    match world.pipe.run(&wrong, Route::Key("k")).await {
        Err(RedisFailure::Refused { code, .. }) => assert_eq!(&*code, "WRONGTYPE"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_script_that_redis_forgot_is_loaded_again() {
    let server = RedisServer::start(&RedisOptions::default());
    let world = World::connected(&RedisConfig::new(standalone(server.port()))).await;
    let script = Script::new("return KEYS[1] .. ARGV[1]");
    for _ in 0..2 {
        let answer = world
            .pipe
            .invoke(&script, Route::Key("k"), |command, generation| {
                assert_eq!(generation.as_str().len(), 16);
                command.arg(1).arg("k").arg("!");
            });
        assert_eq!(text(&answer.await.unwrap()), Some("k!"));
        server.command(&["SCRIPT", "FLUSH"]);
    }
}

#[tokio::test]
async fn r2_commands_to_a_stalled_redis_end_and_it_is_found_again() {
    let server = RedisServer::start(&RedisOptions::default());
    let config = RedisConfig {
        io_timeout: Duration::from_secs(2),
        ..RedisConfig::new(standalone(server.port()))
    };
    let world = World::connected(&config).await;
    server.pause();
    let stalled = within(world.set("k", "v")).await;
    assert_eq!(stalled, Err(RedisFailure::Unanswered));
    // The connection is given up; a new one is not to be had, so that the next command is not sent at all.
    assert_eq!(world.set("k", "v").await, Err(RedisFailure::Away));
    server.resume();
    world.set_at_last("k", "w").await;
}

#[tokio::test]
async fn a_redis_that_is_away_fails_commands_and_comes_back() {
    let mut server = RedisServer::start(&RedisOptions::default());
    let world = World::connected(&RedisConfig::new(standalone(server.port()))).await;
    server.kill();
    assert!(within(world.set("k", "v")).await.is_err());
    assert_eq!(within(world.set("k", "v")).await, Err(RedisFailure::Away));
    server.restart();
    world.set_at_last("k", "v").await;
}

#[tokio::test]
async fn a_redis_that_loads_is_away_and_keeps_its_connection() {
    let server = RedisServer::start(&RedisOptions {
        debug_command: true,
        // Loads slowly, and serves between any two keys.
        lines: vec![
            "key-load-delay 500".to_owned(),
            "loading-process-events-interval-bytes 1024".to_owned(),
        ],
        ..RedisOptions::default()
    });
    let world = World::connected(&RedisConfig::new(standalone(server.port()))).await;
    server.command(&["DEBUG", "POPULATE", "5000", "loaded", "64"]);
    world.set("k", "v").await.unwrap();
    let id = async || {
        let mut command = redis::cmd("CLIENT");
        command.arg("ID");
        world.pipe.run(&command, Route::Any).await
    };
    let before = id().await.unwrap();
    let mut loader = server.connect().unwrap();
    let loading = tokio::task::spawn_blocking(move || loader.call(&["DEBUG", "RELOAD"]));
    let refused = within(async {
        loop {
            match world.set("k", "w").await {
                Ok(_) => tokio::task::yield_now().await,
                Err(failure) => return failure,
            }
        }
    });
    assert_eq!(refused.await, RedisFailure::Away, "it was not executed");
    within(async {
        while world.pipe.is_connected() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // Whatever is sent until it serves again was not executed.
    within(async {
        loop {
            match world.set("k", "x").await {
                Ok(_) => return,
                Err(failure) => assert_eq!(failure, RedisFailure::Away),
            }
        }
    })
    .await;
    within(loading).await.unwrap().unwrap();
    assert_eq!(id().await, Ok(before), "the same connection");
}

#[tokio::test]
async fn r2_one_command_too_many_is_refused() {
    let server = RedisServer::start(&RedisOptions::default());
    let config = RedisConfig {
        max_in_flight: 2,
        ..RedisConfig::new(standalone(server.port()))
    };
    let world = World::connected(&config).await;
    server.pause();
    let sent = Box::pin(async {
        tokio::join!(world.set("a", ""), world.set("b", ""), world.set("c", ""))
    });
    let (a, b, c) = within(sent).await;
    assert_eq!(c, Err(RedisFailure::Overloaded));
    assert_eq!(
        (a, b),
        (Err(RedisFailure::Unanswered), Err(RedisFailure::Unanswered))
    );
    assert_eq!(world.pipe.in_flight().num(), 0);
}

#[tokio::test]
async fn a_wrong_password_is_told_from_a_server_that_is_away() {
    let server = RedisServer::start(&RedisOptions {
        password: Some("right".to_owned()),
        ..RedisOptions::default()
    });
    let open = |password: &str| {
        let address = Address::new("127.0.0.1", server.port());
        let login = Login {
            password: password.into(),
            ..Login::default()
        };
        let topology = Topology::Standalone {
            address: address.clone(),
            login,
        };
        let connector = Connector::new(topology, PATIENCE);
        async move { connector.open(&address).await }
    };
    assert!(open("right").await.is_ok());
    for wrong in ["wrong", ""] {
        let error = open(wrong).await.unwrap_err();
        assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");
        assert!(error.is_lasting());
    }
}

#[tokio::test]
async fn a_replica_is_not_taken_for_a_primary() {
    let primary = RedisServer::start(&RedisOptions::default());
    let replica = RedisServer::start(&RedisOptions {
        replica_of: Some(primary.port()),
        ..RedisOptions::default()
    });
    let address = Address::new("127.0.0.1", replica.port());
    let connector = Connector::new(standalone(replica.port()), PATIENCE);
    let error = connector.open(&address).await.unwrap_err();
    assert!(
        matches!(error, ConnectError::NotPrimary { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_restart_is_a_new_generation() {
    let mut server = RedisServer::start(&RedisOptions::default());
    let address = Address::new("127.0.0.1", server.port());
    let connector = Connector::new(standalone(server.port()), PATIENCE);
    let generation = async || connector.open(&address).await.unwrap().generation;
    let first = generation().await;
    assert_eq!(generation().await, first);
    server.kill();
    server.restart();
    assert_ne!(generation().await, first);
}

#[tokio::test]
async fn commands_follow_a_failover_of_sentinels() {
    let mut sentinels = Sentinels::start(&SentinelOptions::default());
    let config = RedisConfig::new(sentinel(&sentinels));
    let world = World::connected(&config).await;
    world.set("k", "v").await.unwrap();
    let port = sentinels.kill_primary();
    assert!(world.set("k", "v").await.is_err());
    world.set_at_last("k", "w").await;
    assert_ne!(sentinels.failed_over_from(port), port);
}

#[tokio::test]
async fn commands_follow_slots_and_a_failover_of_a_cluster() {
    let nodes = RedisCluster::start(&ClusterOptions::default());
    let config = RedisConfig::new(cluster(&nodes));
    let world = World::connected(&config).await;
    let keys: Vec<String> = (0..64).map(|number| format!("key:{{{number}}}")).collect();
    for key in &keys {
        world.set(key, "v").await.unwrap();
    }
    // Slots that move under load cost nobody an error.
    let moving = {
        let key = keys[0].clone();
        tokio::task::spawn_blocking(move || {
            nodes.reshard_from(&key, 100);
            nodes
        })
    };
    let mut writes = 0;
    while !moving.is_finished() {
        for key in &keys {
            world.set(key, "w").await.unwrap();
            writes += 1;
        }
    }
    assert!(writes > 0);
    let mut nodes = moving.await.unwrap();
    let port = nodes.kill_primary_of(&keys[0]);
    world.set_at_last(&keys[0], "x").await;
    assert_ne!(nodes.primary_port_of(&keys[0]), port);
    for key in &keys {
        world.set_at_last(key, "y").await;
        assert_eq!(text(&world.get(key).await.unwrap()), Some("y"));
    }
}

#[tokio::test]
async fn a_pipe_for_nobody_stops_its_tasks() {
    let server = RedisServer::start(&RedisOptions::default());
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let connector = Connector::new(standalone(server.port()), PATIENCE);
    let pipe = Pipe::start(
        connector,
        Duration::from_secs(4),
        InFlight::new(1),
        &tracker,
        &stop,
    );
    within(pipe.connected()).await;
    tracker.close();
    assert!(!tracker.is_empty());
    drop(pipe);
    within(tracker.wait()).await;
}
