//! `publish.ack = replicated` over a real Redis (threat model R8): what was confirmed is on a replica, however many
//! publish at once, and what could not be confirmed is said to be stored perhaps.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tidegate_realtime::{
    broker::{Broker, BrokerError, EngineHealth, PublishRequest},
    hooks::Progress,
    ids::ChannelKey,
};
use tidegate_redis::{Listening, RedisBroker, RedisConfig, Shards, config::Ack};
use tidegate_test_redis::{RedisOptions, RedisServer, free_port};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::common::{self, Engine, Kept, key, standalone, within};

/// As many as a busy node has on their way.
const IN_FLIGHT: usize = 64;

fn config(port: u16) -> RedisConfig {
    RedisConfig {
        ack: Ack::Replicated,
        ..RedisConfig::new(standalone(port))
    }
}

fn request(key: &ChannelKey) -> PublishRequest {
    common::request(key, "{}", 1_000)
}

/// Publishes to one channel, all at the same time.
async fn publish_many(engine: &Engine, channel: &ChannelKey) -> Vec<Result<(), BrokerError>> {
    let publishes = (0..IN_FLIGHT).map(|_| async {
        let published = engine.publish(request(channel)).await;
        published.map(|_| ())
    });
    within(join_all(publishes)).await
}

/// A primary and a replica that confirms.
fn pair() -> (RedisServer, RedisServer) {
    let server = RedisServer::start(&RedisOptions::default());
    let replica = RedisServer::start(&RedisOptions {
        replica_of: Some(server.port()),
        ..RedisOptions::default()
    });
    server.wait_for(&replica);
    (server, replica)
}

/// How often replicas were waited for.
fn num_waits(server: &RedisServer) -> u64 {
    let stats = server.info("commandstats", "cmdstat_wait");
    let calls = stats
        .split(',')
        .find_map(|field| field.strip_prefix("calls="));
    calls.map_or(0, |calls| calls.parse().expect("a number"))
}

#[tokio::test]
async fn r8_a_replicated_publish_counts_only_when_a_replica_has_it() {
    let server = RedisServer::start(&RedisOptions::default());
    let engine = Engine::start(&config(server.port())).await;
    let channel = key("replicated");
    let alone = engine.publish(request(&channel)).await;
    assert_eq!(alone, Err(BrokerError::Unreplicated));
    // What has no history has no replica to wait for.
    let plain = PublishRequest {
        history: None,
        ..request(&channel)
    };
    engine.publish(plain).await.expect("published");
    let replica = RedisServer::start(&RedisOptions {
        replica_of: Some(server.port()),
        ..RedisOptions::default()
    });
    server.wait_for(&replica);
    let published = engine.publish(request(&channel)).await;
    let offset = published
        .expect("published")
        .position
        .expect("a place")
        .offset;
    let entries = replica.command(&["XLEN", "tg:stream:{07defaultreplicated}"]);
    assert_eq!(entries.text(), offset.to_string());
    // A replica that stands still confirms nothing; others are read and published meanwhile.
    replica.pause();
    let refused = engine.publish(request(&channel)).await;
    assert_eq!(refused, Err(BrokerError::Unreplicated));
    let top = engine.history(&channel).await.expect("history").top;
    assert_eq!(top.offset, offset + 1);
    replica.resume();
}

#[tokio::test]
async fn r8_a_replica_confirms_many_at_once_and_has_them_all() {
    let (server, replica) = pair();
    let engine = Engine::start(&config(server.port())).await;
    let channel = key("many");
    // The script is known from here on.
    engine.publish(request(&channel)).await.expect("published");
    let before = num_waits(&server);
    let answers = publish_many(&engine, &channel).await;
    assert_eq!(answers, vec![Ok(()); IN_FLIGHT]);
    let entries = replica.command(&["XLEN", "tg:stream:{07defaultmany}"]);
    assert_eq!(entries.text(), (IN_FLIGHT + 1).to_string());
    let num_waits = num_waits(&server) - before;
    assert!(num_waits < IN_FLIGHT as u64 / 2, "{num_waits} waits");
}

#[tokio::test]
async fn r8_a_replica_that_stands_still_fails_all_in_flight_and_ends_no_connection() {
    let (server, replica) = pair();
    let engine = Engine::start(&config(server.port())).await;
    let channel = key("still");
    engine.publish(request(&channel)).await.expect("published");
    let (before, num_connections) = (num_waits(&server), connections_made(&server));
    replica.pause();
    let answers = publish_many(&engine, &channel).await;
    // Not `Unavailable`, which would say that nobody knows: they are stored, and may get lost.
    assert_eq!(answers, vec![Err(BrokerError::Unreplicated); IN_FLIGHT]);
    let num_waits = num_waits(&server) - before;
    assert!(num_waits < IN_FLIGHT as u64 / 2, "{num_waits} waits");
    replica.resume();
    let back = async { while engine.publish(request(&channel)).await.is_err() {} };
    within(Box::pin(back)).await;
    // The harness makes two itself to find out: for the number of waits and for this.
    assert_eq!(connections_made(&server), num_connections + 2);
}

fn connections_made(server: &RedisServer) -> u64 {
    let made = server.info("stats", "total_connections_received");
    made.parse().expect("a number")
}

/// On a fresh connection, `WAIT` would stand for nothing.
#[tokio::test]
async fn r8_a_repeated_publish_is_a_write_too_and_has_a_replica_confirm_it() {
    let (server, replica) = pair();
    let engine = Engine::start(&config(server.port())).await;
    let repeated = || PublishRequest {
        idempotency_key: Some("once".into()),
        ..request(&key("repeated"))
    };
    engine.publish(repeated()).await.expect("published");
    let life = || server.command(&["PTTL", &result_key(&server)]).text();
    let life: u64 = life().parse().expect("a life");
    assert!(life > 200_000, "{life}");
    replica.pause();
    let again = engine.publish(repeated()).await;
    assert_eq!(again, Err(BrokerError::Unreplicated));
    replica.resume();
    let writes = || {
        let stats = server.info("commandstats", "cmdstat_pexpire");
        stats
            .split(',')
            .next()
            .map(str::to_owned)
            .unwrap_or_default()
    };
    let before = writes();
    let back = async { while engine.publish(repeated()).await.is_err() {} };
    within(Box::pin(back)).await;
    assert_ne!(writes(), before, "the repeat wrote something");
    let entries = server.command(&["XLEN", "tg:stream:{07defaultrepeated}"]);
    assert_eq!(entries.text(), "1");
    let kept = server.command(&["PTTL", &result_key(&server)]).text();
    let kept: u64 = kept.parse().expect("a life");
    assert!(
        (1..=life).contains(&kept),
        "its life goes on: {kept} of {life}"
    );
}

fn result_key(server: &RedisServer) -> String {
    let keys = server.command(&["KEYS", "tg:*once*"]);
    keys.list().first().expect("a result is kept").text()
}

#[tokio::test]
async fn r2_publishes_that_wait_for_a_replica_and_all_others_share_one_bound() {
    let server = RedisServer::start(&RedisOptions::default());
    let config = RedisConfig {
        max_in_flight: 2,
        io_timeout: Duration::from_secs(2),
        ..config(server.port())
    };
    let engine = Engine::start(&config).await;
    let channel = key("shared");
    // So that both links stand.
    let _ = engine.publish(request(&channel)).await;
    engine.history(&channel).await.expect("history");
    server.pause();
    let (_, _, third) = Box::pin(async {
        tokio::join!(
            engine.publish(request(&channel)),
            engine.history(&channel),
            engine.history(&channel)
        )
    })
    .await;
    assert_eq!(third, Err(BrokerError::Overloaded));
}

/// Hears everything.
struct Able;

impl Listening for Able {
    fn subscribe(&self, _: &ChannelKey) -> Progress<Result<(), BrokerError>> {
        Progress::Ready(Ok(()))
    }

    fn unsubscribe(&self, _: &ChannelKey) {}

    fn health(&self) -> EngineHealth {
        EngineHealth::Able
    }

    fn max_unconfirmed(&self) -> Duration {
        Duration::from_secs(10)
    }
}

#[tokio::test]
async fn i9_a_node_that_cannot_publish_as_it_is_told_to_is_not_ready() {
    let server = RedisServer::start(&RedisOptions::default());
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let _stops = stop.clone().drop_guard();
    let replicated = Shards::start(&config(free_port()), &tracker, &stop);
    let broker = Kept::connected(&config(server.port()), |shards, keys, metrics| {
        RedisBroker::new(shards, Some(replicated), keys, Arc::new(Able), metrics)
    })
    .await;
    assert_eq!(broker.health(), EngineHealth::Able, "it may be on its way");
    let waiting = async {
        while broker.health() == EngineHealth::Able {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(waiting).await;
}
