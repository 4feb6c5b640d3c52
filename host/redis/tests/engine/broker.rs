//! The broker over a real Redis: the contract of every broker, the documented user, and what only a store that many share, and that outlives nodes, can do to streams.

use std::sync::Arc;

use tidegate_protocol::StreamPosition;
use tidegate_realtime::{
    broker::{Broker, BrokerError, HistoryOrder, HistoryPage, HistoryQuery, PublishRequest},
    broker_contract::{self, Recorder},
    ids::ChannelKey,
};
use tidegate_redis::RedisConfig;
use tidegate_test_redis::{
    ClusterOptions, MinReplicas, RedisCluster, RedisOptions, RedisServer, SentinelOptions,
    Sentinels,
};

use crate::common::{
    self, Engine, as_tidegate, cluster, documented_acl, history_query, key, sentinel, shards,
    standalone, within,
};

fn request(key: &ChannelKey, data: &'static str) -> PublishRequest {
    common::request(key, data, 10)
}

async fn publish(engine: &Engine, key: &ChannelKey, data: &'static str) -> StreamPosition {
    let published = engine.publish(request(key, data)).await;
    published.expect("published").position.expect("a position")
}

async fn try_publish(engine: &Engine, key: &ChannelKey) -> Result<(), BrokerError> {
    engine.publish(request(key, "{}")).await.map(|_| ())
}

async fn history(engine: &Engine, key: &ChannelKey) -> HistoryPage {
    engine.history(key).await.expect("history")
}

fn offsets(page: &HistoryPage) -> Vec<u64> {
    page.publications.iter().map(|one| one.offset).collect()
}

#[tokio::test]
async fn a_standalone_redis_keeps_the_contract() {
    let server = RedisServer::start(&RedisOptions::default());
    let events = Arc::new(Recorder::default());
    let config = RedisConfig::new(standalone(server.port()));
    let engine = Engine::heard_by(&config, Arc::clone(&events) as Arc<_>).await;
    broker_contract::check_all(&engine.broker, &events, "").await;
}

#[tokio::test]
async fn several_shards_keep_the_contract_and_share_the_channels() {
    let servers = [(); 3].map(|()| RedisServer::start(&RedisOptions::default()));
    let config = shards(&servers);
    let events = Arc::new(Recorder::default());
    let engine = Engine::heard_by(&config, Arc::clone(&events) as Arc<_>).await;
    broker_contract::check_all(&engine.broker, &events, "").await;
    for server in &servers {
        assert_ne!(server.command(&["DBSIZE"]).text(), "0");
    }
}

#[tokio::test]
async fn a_redis_behind_sentinels_keeps_the_contract() {
    let sentinels = Sentinels::start(&SentinelOptions::default());
    let events = Arc::new(Recorder::default());
    let engine = Engine::heard_by(
        &RedisConfig::new(sentinel(&sentinels)),
        Arc::clone(&events) as Arc<_>,
    )
    .await;
    broker_contract::check_all(&engine.broker, &events, "").await;
}

#[tokio::test]
async fn a_cluster_keeps_the_contract() {
    let nodes = RedisCluster::start(&ClusterOptions::default());
    let events = Arc::new(Recorder::default());
    let engine = Engine::heard_by(
        &RedisConfig::new(cluster(&nodes)),
        Arc::clone(&events) as Arc<_>,
    )
    .await;
    broker_contract::check_all(&engine.broker, &events, "").await;
}

#[tokio::test]
async fn r1_the_documented_user_is_enough_and_has_no_more() {
    let options = RedisOptions {
        acl: documented_acl(),
        ..RedisOptions::default()
    };
    let server = RedisServer::start(&options);
    let events = Arc::new(Recorder::default());
    let config = RedisConfig::new(as_tidegate(standalone(server.port())));
    let engine = Engine::heard_by(&config, Arc::clone(&events) as Arc<_>).await;
    broker_contract::check_all(&engine.broker, &events, "").await;
    // What is not the engine's is refused.
    let mut client = server.connect().expect("a connection");
    let login = client
        .call(&["AUTH", "tidegate", "secret"])
        .expect("a reply");
    assert_eq!(login.text(), "OK");
    for command in [
        &["FLUSHALL"][..],
        &["KEYS", "*"],
        &["CONFIG", "GET", "*"],
        &["DEBUG", "SLEEP", "0"],
        &["GET", "other:key"],
        &["PUBLISH", "other:channel", "x"],
    ] {
        let reply = client.call(command).expect("a reply");
        assert!(reply.is_error(), "{command:?}: {reply:?}");
    }
    let nodes = RedisCluster::start(&ClusterOptions {
        redis: options,
        ..ClusterOptions::default()
    });
    let events = Arc::new(Recorder::default());
    let config = RedisConfig::new(as_tidegate(cluster(&nodes)));
    let engine = Engine::heard_by(&config, Arc::clone(&events) as Arc<_>).await;
    broker_contract::check_all(&engine.broker, &events, "").await;
}

#[tokio::test]
async fn r3_after_a_restart_the_stream_has_another_epoch_and_keeps_what_it_has() {
    let mut server = RedisServer::start(&RedisOptions {
        append_only: true,
        ..RedisOptions::default()
    });
    let engine = Engine::start(&RedisConfig::new(standalone(server.port()))).await;
    let (one, other) = (key("one"), key("other"));
    let before = publish(&engine, &one, "1").await;
    publish(&engine, &other, "1").await;
    server.stop();
    server.restart();
    engine.noticed_restart().await;
    let after = publish(&engine, &one, "2").await;
    assert_ne!(after.epoch, before.epoch);
    assert_eq!(after.offset, 2, "offsets do not fall, in no epoch");
    let page = history(&engine, &one).await;
    assert_eq!((offsets(&page), page.top), (vec![1, 2], after.clone()));
    // A reader is told as well, and everybody after the first the same.
    let read = history(&engine, &other).await;
    assert_ne!(read.top.epoch, before.epoch);
    assert_eq!(history(&engine, &other).await.top, read.top);
    assert_eq!(publish(&engine, &one, "3").await.epoch, after.epoch);
}

#[tokio::test]
async fn r3_a_replica_that_attaches_changes_no_epoch() {
    let server = RedisServer::start(&RedisOptions::default());
    let engine = Engine::start(&RedisConfig::new(standalone(server.port()))).await;
    let channel = key("kept");
    let before = publish(&engine, &channel, "1").await;
    let id = server.info("replication", "master_replid");
    let replica = RedisServer::start(&RedisOptions {
        replica_of: Some(server.port()),
        ..RedisOptions::default()
    });
    server.wait_for(&replica);
    let changed = server.info("replication", "master_replid");
    // One node knows the old id, another one the new: neither takes the stream away from the other for good.
    let newer = Engine::start(&RedisConfig::new(standalone(server.port()))).await;
    let first = publish(&newer, &channel, "2").await;
    assert_eq!(first.epoch == before.epoch, id == changed);
    let mut last = first.clone();
    for _ in 0..3 {
        assert_eq!(publish(&engine, &channel, "3").await.epoch, first.epoch);
        last = publish(&newer, &channel, "4").await;
        assert_eq!(last.epoch, first.epoch);
    }
    assert_eq!(last.offset, first.offset + 6);
}

#[tokio::test]
async fn streams_that_lost_a_part_of_themselves_are_never_whole_again() {
    let server = RedisServer::start(&RedisOptions::default());
    let engine = Engine::start(&RedisConfig::new(standalone(server.port()))).await;
    for (name, damage) in [
        (
            "meta deleted",
            &["DEL", "tg:meta:{07defaultmeta deleted}"][..],
        ),
        (
            "meta wrong",
            &["LPUSH", "tg:meta:{07defaultmeta wrong}", "x"],
        ),
        (
            "meta short",
            &["SET", "tg:meta:{07defaultmeta short}", "short"],
        ),
        (
            "stream wrong",
            &["SET", "tg:stream:{07defaultstream wrong}", "x"],
        ),
        (
            "stream ahead",
            &[
                "XADD",
                "tg:stream:{07defaultstream ahead}",
                "99-0",
                "d",
                "x",
            ],
        ),
        ("flushed", &["FLUSHALL"]),
    ] {
        let channel = key(name);
        publish(&engine, &channel, "1").await;
        let before = publish(&engine, &channel, "2").await;
        // What is of the wrong type has to go first.
        if damage[0] == "LPUSH" {
            server.command(&["DEL", damage[1]]);
        }
        assert!(!server.command(damage).is_error(), "{name}");
        let after = publish(&engine, &channel, "3").await;
        assert_ne!(after.epoch, before.epoch, "{name}");
        let page = history(&engine, &channel).await;
        assert_eq!(page.top, after, "{name}");
        assert_eq!(offsets(&page), [after.offset], "{name}");
    }
}

#[tokio::test]
async fn a_stream_without_its_entries_goes_on_and_what_is_missing_is_missing() {
    let server = RedisServer::start(&RedisOptions::default());
    let engine = Engine::start(&RedisConfig::new(standalone(server.port()))).await;
    let channel = key("entries");
    for _ in 0..3 {
        publish(&engine, &channel, "1").await;
    }
    let stream = "tg:stream:{07defaultentries}";
    server.command(&["DEL", stream]);
    let after = publish(&engine, &channel, "4").await;
    assert_eq!(after.offset, 4);
    assert_eq!(offsets(&history(&engine, &channel).await), [4]);
    assert_ne!(
        server.command(&["PTTL", stream]).text(),
        "-1",
        "it ends some day"
    );
    // A hole, and an entry of somebody else: what is older would look whole.
    for _ in 5..=7 {
        publish(&engine, &channel, "5").await;
    }
    server.command(&["XDEL", stream, "6-0"]);
    assert_eq!(offsets(&history(&engine, &channel).await), [7]);
    server.command(&["XADD", stream, "7-5", "d", "x"]);
    assert!(offsets(&history(&engine, &channel).await).is_empty());
}

#[tokio::test]
async fn lives_are_those_that_were_asked_for() {
    let server = RedisServer::start(&RedisOptions::default());
    let engine = Engine::start(&RedisConfig::new(standalone(server.port()))).await;
    let channel = key("lives");
    for _ in 0..20 {
        publish(&engine, &channel, "1").await;
    }
    let life = |name: &str| -> u64 {
        let life = server.command(&["PTTL", name]).text();
        life.parse().expect("a life")
    };
    let (stream, meta) = ("tg:stream:{07defaultlives}", "tg:meta:{07defaultlives}");
    assert!((60_000..66_000).contains(&life(stream)), "{}", life(stream));
    assert!((600_000..640_000).contains(&life(meta)), "{}", life(meta));
    // With the first publication of a new term; the meta says of which one it is.
    server.command(&["PEXPIRE", stream, "30000"]);
    server.command(&["SETRANGE", meta, "24", "0000000001"]);
    publish(&engine, &channel, "1").await;
    assert!((60_000..66_000).contains(&life(stream)), "{}", life(stream));
}

#[tokio::test]
async fn a_history_shows_its_size_while_redis_is_trimmed_now_and_then() {
    let server = RedisServer::start(&RedisOptions::default());
    let engine = Engine::start(&RedisConfig::new(standalone(server.port()))).await;
    let channel = key("trimmed");
    let entries = || -> usize {
        let len = server.command(&["XLEN", "tg:stream:{07defaulttrimmed}"]);
        len.text().parse().expect("a number")
    };
    let mut most = 0;
    for offset in 1..=70_u64 {
        publish(&engine, &channel, "1").await;
        most = most.max(entries());
        let page = history(&engine, &channel).await;
        let expected: Vec<u64> = (offset.saturating_sub(9).max(1)..=offset).collect();
        assert_eq!(offsets(&page), expected);
    }
    assert!((11..=25).contains(&most), "{most} entries");
    // What is gone stays gone to who asks for it, in either direction.
    let query = |order, since| HistoryQuery {
        since: Some(StreamPosition {
            offset: since,
            epoch: String::new(),
        }),
        ..history_query(order)
    };
    for (order, since, expected) in [
        (HistoryOrder::OldestFirst, 3, (61..=70).collect::<Vec<_>>()),
        (HistoryOrder::OldestFirst, 66, (67..=70).collect()),
        (HistoryOrder::NewestFirst, 64, (61..=63).rev().collect()),
        (HistoryOrder::NewestFirst, 61, vec![]),
    ] {
        let page = engine.broker.history(&channel, query(order, since)).wait();
        let page = within(page).await.expect("history");
        assert_eq!(offsets(&page), expected, "{order:?} since {since}");
    }
    // Large entries are not held beyond their number, and a smaller size holds from the next publication on.
    let large: &'static str = Box::leak(format!("\"{}\"", "x".repeat(2_000)).into_boxed_str());
    publish(&engine, &channel, large).await;
    assert_eq!(entries(), 10);
    let mut smaller = request(&channel, "1");
    if let Some(history) = &mut smaller.history {
        history.size = 3;
    }
    engine.publish(smaller).await.expect("published");
    assert_eq!(entries(), 3);
    assert_eq!(offsets(&history(&engine, &channel).await), [70, 71, 72]);
}

#[tokio::test]
async fn a_redis_that_refuses_makes_publishing_fail_and_nothing_else() {
    let server = RedisServer::start(&RedisOptions {
        min_replicas: Some(MinReplicas {
            count: 1,
            max_lag_seconds: 1,
        }),
        ..RedisOptions::default()
    });
    let engine = Engine::start(&RedisConfig::new(standalone(server.port()))).await;
    let channel = key("refused");
    let refused = try_publish(&engine, &channel).await;
    assert_eq!(refused, Err(BrokerError::Unavailable));
    server.command(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    try_publish(&engine, &channel).await.expect("published");
    server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    for name in ["refused", "never used before"] {
        let refused = try_publish(&engine, &key(name)).await;
        assert_eq!(refused, Err(BrokerError::Unavailable), "{name}");
    }
    assert_eq!(offsets(&history(&engine, &channel).await), [1]);
    server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(publish(&engine, &channel, "2").await.offset, 2);
}
