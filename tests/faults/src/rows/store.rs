//! Faults of Redis and of the way to it.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use anyhow::Result;
use serde_json::{Value, json};
use tidegate_test_redis::{
    ClusterOptions, MinReplicas, RedisCluster, RedisOptions, RedisServer, Reply, SentinelOptions,
    Sentinels,
};
use tokio::task::block_in_place;

use super::{
    Played, all_of_before, diverged, ends, finish, not_recovered, slower_than, what_lagged,
    without_ack,
};
use crate::{
    checker::{AckedLoss, Expectation, Forgotten, Recovery, Unready},
    proxy::{Direction, Mode, Proxy},
    stage::{Ack, Size, Stage, redis, with_ack},
};

pub(super) async fn kill_with_file(size: Size) -> Played {
    let mut server = RedisServer::start(&RedisOptions {
        append_only: true,
        ..RedisOptions::default()
    });
    let mut stage = Stage::open(&redis(&server.addr()), 2, size.load()).await?;
    stage.load.run_for(size.before()).await;
    stage.load.fault_begins();
    server.kill();
    stage.load.run_for(size.hold() * 2 / 3).await;
    block_in_place(|| server.restart());
    stage.load.healed();
    stage.load.run_for(size.after()).await;
    let record = finish(stage, without_ack).await?;
    let expected = Expectation {
        truth_within: Some(size.bar(5)),
        flow_within: Some(size.bar(15)),
        connections_stay: true,
        ..size.expectation()
    };
    Ok((record, expected))
}

pub(super) async fn kill_without_file(size: Size) -> Played {
    let mut server = RedisServer::start(&RedisOptions::default());
    let mut stage = Stage::open(&redis(&server.addr()), 2, size.load()).await?;
    stage.load.run_for(size.before()).await;
    stage.load.fault_begins();
    server.kill();
    stage.load.run_for(size.hold() * 2 / 3).await;
    block_in_place(|| server.restart());
    stage.load.healed();
    stage.load.run_for(size.after()).await;
    let record = finish(stage, |record| {
        not_recovered(record).min(without_ack(record))
    })
    .await?;
    let expected = loss(size, all_of_before(size, &record));
    Ok((record, expected))
}

/// Streams may end, with these of their publications; everybody who was in one is told.
fn loss(size: Size, forgotten: Forgotten) -> Expectation {
    Expectation {
        acked_loss: AckedLoss::WithTheEpoch(forgotten),
        flow_within: Some(size.bar(15)),
        connections_stay: true,
        ..size.expectation()
    }
}

/// A Redis behind the proxy, and nodes that reach it only through that.
async fn behind_proxy(size: Size, options: &RedisOptions) -> Result<(RedisServer, Proxy, Stage)> {
    let server = RedisServer::start(options);
    let proxy = Proxy::to_port(server.port()).await?;
    let engine = redis(&proxy.addr().to_string());
    let stage = Stage::open(&engine, 2, size.load()).await?;
    Ok((server, proxy, stage))
}

/// Long enough for readiness to have to fail.
fn partition_hold(size: Size) -> Duration {
    match size {
        Size::Quarter => Duration::from_secs(16),
        Size::Full => Duration::from_secs(20),
    }
}

/// What a partition comes to: both nodes say that they cannot deliver, and nobody is disconnected for it. `truth` is
/// in seconds, as [`Size::bar`] takes them.
fn of_partition(size: Size, truth: u64) -> Expectation {
    Expectation {
        truth_within: Some(size.bar(truth)),
        flow_within: Some(size.bar(15)),
        unready: Some(Unready {
            nodes: vec![0, 1],
            within: size.bar(15),
        }),
        connections_stay: true,
        ..size.expectation()
    }
}

pub(super) async fn partition(size: Size) -> Played {
    let (server, proxy, mut stage) = behind_proxy(size, &RedisOptions::default()).await?;
    stage.load.run_for(size.before()).await;
    stage.load.fault_begins();
    proxy.set(Mode::Stall(Direction::Both));
    stage.load.run_for(partition_hold(size)).await;
    proxy.set(Mode::Pass);
    stage.load.healed();
    stage.load.run_for(size.after()).await;
    let record = finish(stage, without_ack).await?;
    drop((proxy, server));
    Ok((record, of_partition(size, 6)))
}

pub(super) async fn receive_partition(size: Size) -> Played {
    let (server, proxy, mut stage) = behind_proxy(size, &RedisOptions::default()).await?;
    stage.load.run_for(size.before()).await;
    stage.load.fault_begins();
    let accepted = proxy.accepted();
    proxy.set(Mode::StallSubscribers);
    stage.load.run_for(partition_hold(size)).await;
    // The effect: the nodes gave up connections that looked alive.
    let reconnects = proxy.accepted() - accepted;
    proxy.set(Mode::Pass);
    stage.load.healed();
    stage.load.run_for(size.after()).await;
    let record = finish(stage, |_| reconnects).await?;
    drop((proxy, server));
    Ok((record, of_partition(size, 15)))
}

pub(super) async fn slow(size: Size) -> Played {
    let options = RedisOptions {
        debug_command: true,
        ..RedisOptions::default()
    };
    let (server, proxy, mut stage) = behind_proxy(size, &options).await?;
    stage.load.run_for(size.before()).await;
    stage.load.fault_begins();
    block_in_place(|| server.command(&["DEBUG", "SLEEP", "3"]));
    proxy.set(Mode::Delay(Duration::from_millis(100)));
    stage.load.run_for(size.hold()).await;
    proxy.set(Mode::Pass);
    stage.load.healed();
    stage.load.run_for(size.after()).await;
    let effect = |record: &_| slower_than(record, Duration::from_millis(150));
    let record = finish(stage, effect).await?;
    drop((proxy, server));
    let expected = Expectation {
        flow_within: Some(size.bar(5)),
        // The sleep, and what waited for its end.
        publish_within: Some(size.bar(4)),
        connections_stay: true,
        recovery: Recovery::WhoeverAsks,
        ..size.expectation()
    };
    Ok((record, expected))
}

/// With a replica's confirmation nothing that was acked may be lost.
fn loss_with(ack: Ack, size: Size, forgotten: Forgotten) -> Expectation {
    let expected = loss(size, forgotten);
    match ack {
        Ack::Primary => expected,
        Ack::Replicated => Expectation {
            acked_loss: AckedLoss::Never,
            ..expected
        },
    }
}

pub(super) async fn sentinel(size: Size, ack: Ack) -> Played {
    let mut group = Sentinels::start(&SentinelOptions::default());
    let addrs: Vec<String> = group
        .ports()
        .iter()
        .map(|port| format!("127.0.0.1:{port}"))
        .collect();
    let engine = json!({ "type": "redis", "redis": {
        "sentinel_address": addrs, "sentinel_master_name": Sentinels::NAME,
    } });
    let engine = with_ack(json!({ "engine": engine }), ack);
    let mut stage = Stage::open(&engine, 2, size.load()).await?;
    stage.load.run_for(size.before()).await;
    stage.load.fault_begins();
    block_in_place(|| group.kill_primary());
    stage.load.healed();
    stage.load.run_for(size.hold() + size.after()).await;
    let effect = |record: &_| without_ack(record).max(not_recovered(record));
    let record = finish(stage, effect).await?;
    let expected = loss_with(ack, size, what_lagged(size, &record));
    Ok((record, expected))
}

/// The replica's link is stalled, the primary goes on and dies, the replica is promoted.
pub(super) async fn fork(size: Size, ack: Ack) -> Played {
    let mut primary = RedisServer::start(&RedisOptions::default());
    let link = Proxy::to_port(primary.port()).await?;
    let replica = RedisServer::start(&RedisOptions {
        replica_of: Some(link.addr().port()),
        ..RedisOptions::default()
    });
    primary.wait_for(&replica);
    // It follows the replica, and confirms when that is the primary.
    let next = RedisServer::start(&RedisOptions {
        replica_of: Some(replica.port()),
        ..RedisOptions::default()
    });
    replica.wait_for(&next);
    let proxy = Proxy::to_port(primary.port()).await?;
    let engine = with_ack(redis(&proxy.addr().to_string()), ack);
    let mut stage = Stage::open(&engine, 2, size.load()).await?;
    stage.load.run_for(size.before()).await;
    stage.load.fault_begins();
    link.set(Mode::Stall(Direction::Both));
    // What is published now never reaches the replica.
    stage.load.run_for(size.hold() / 4).await;
    primary.kill();
    replica.command(&["REPLICAOF", "NO", "ONE"]);
    proxy.forward_to(SocketAddr::from(([127, 0, 0, 1], replica.port())));
    stage.load.healed();
    stage.load.run_for(size.hold() + size.after()).await;
    let effect = |record: &_| match ack {
        Ack::Primary => not_recovered(record).min(diverged(record)),
        // Nobody was told that what came after is stored, so that nothing shows that the histories diverged.
        Ack::Replicated => not_recovered(record).min(without_ack(record)),
    };
    let record = finish(stage, effect).await?;
    drop((proxy, link, replica, next));
    let forgotten = Forgotten {
        // The link was stalled all the while.
        window: record.healed_at - record.fault_at,
        ..what_lagged(size, &record)
    };
    Ok((record, loss_with(ack, size, forgotten)))
}

/// The first node keeps the old primary, which refuses writes when its replica is gone, while the second node has the
/// replica that was promoted.
pub(super) async fn split_brain(size: Size) -> Played {
    let primary = RedisServer::start(&RedisOptions {
        min_replicas: Some(MinReplicas {
            count: 1,
            max_lag_seconds: 1,
        }),
        ..RedisOptions::default()
    });
    let replica = RedisServer::start(&RedisOptions {
        replica_of: Some(primary.port()),
        ..RedisOptions::default()
    });
    in_sync(&replica);
    let (first, second) = (
        Proxy::to_port(primary.port()).await?,
        Proxy::to_port(primary.port()).await?,
    );
    let promoted = SocketAddr::from(([127, 0, 0, 1], replica.port()));
    let engines = [&first, &second].map(|proxy| redis(&proxy.addr().to_string()));
    let mut stage = Stage::open_each(&[&engines[0], &engines[1]], size.load()).await?;
    stage.load.run_for(size.before()).await;
    stage.load.fault_begins();
    replica.command(&["REPLICAOF", "NO", "ONE"]);
    second.move_to(promoted);
    stage.load.run_for(size.hold() * 2 / 3).await;
    // The network is whole again, and the old primary follows.
    primary.command(&["REPLICAOF", "127.0.0.1", &replica.port().to_string()]);
    first.move_to(promoted);
    stage.load.healed();
    stage.load.run_for(size.hold() + size.after()).await;
    let record = finish(stage, without_ack).await?;
    drop((first, second, primary, replica));
    let expected = loss(size, what_lagged(size, &record));
    Ok((record, expected))
}

fn in_sync(replica: &RedisServer) {
    tidegate_test_redis::until("the replica to be in sync", || {
        (replica.info("replication", "master_link_status") == "up").then_some(())
    });
}

fn cluster_engine(cluster: &RedisCluster) -> Value {
    json!({ "engine": { "type": "redis", "redis": { "cluster_address": cluster.addrs() } } })
}

pub(super) async fn cluster_failover(size: Size) -> Played {
    let mut cluster = RedisCluster::start(&ClusterOptions::default());
    let mut stage = Stage::open(&cluster_engine(&cluster), 2, size.load()).await?;
    stage.load.run_for(size.before()).await;
    stage.load.fault_begins();
    block_in_place(|| cluster.kill_primary_of("any"));
    stage.load.healed();
    stage.load.run_for(size.hold() + size.after()).await;
    let effect = |record: &_| without_ack(record).max(not_recovered(record));
    let record = finish(stage, effect).await?;
    let expected = loss(size, what_lagged(size, &record));
    Ok((record, expected))
}

pub(super) async fn cluster_reshard(size: Size) -> Played {
    let mut cluster = RedisCluster::start(&ClusterOptions::default());
    let mut stage = Stage::open(&cluster_engine(&cluster), 2, size.load()).await?;
    stage.load.run_for(size.before()).await;
    stage.load.fault_begins();
    let slots = match size {
        // So few channels that it takes more slots to meet some of them.
        Size::Quarter => 1_000,
        Size::Full => 500,
    };
    let port = cluster.primary_port_of("any");
    let before = streams_on(&mut cluster, port);
    block_in_place(|| cluster.reshard_from("any", slots));
    let after = streams_on(&mut cluster, port);
    // The effect: streams that live elsewhere now.
    let moved = before.difference(&after).count() as u64;
    stage.load.healed();
    stage.load.run_for(size.hold() + size.after()).await;
    let record = finish(stage, |_| moved).await?;
    drop(cluster);
    let expected = Expectation {
        publishes_succeed: true,
        flow_within: Some(size.bar(5)),
        connections_stay: true,
        ..size.expectation()
    };
    Ok((record, expected))
}

/// The streams that the node on this port holds.
fn streams_on(cluster: &mut RedisCluster, port: u16) -> BTreeSet<String> {
    let nodes = cluster.nodes().iter();
    nodes
        .filter(|node| node.port() == port)
        .flat_map(|node| {
            let found = node.command(&["KEYS", "tg:meta:*"]);
            found.list().iter().map(Reply::text).collect::<Vec<_>>()
        })
        .collect()
}

/// What a command counts.
fn counted(reply: &Reply) -> u64 {
    match reply {
        Reply::Integer(count) => u64::try_from(*count).unwrap_or_default(),
        Reply::Status(_) | Reply::Error(_) | Reply::Bytes(_) | Reply::List(_) | Reply::Nil => 0,
    }
}

pub(super) async fn kill_subscribers(size: Size) -> Played {
    let server = RedisServer::start(&RedisOptions::default());
    let mut stage = Stage::open(&redis(&server.addr()), 2, size.load()).await?;
    stage.load.run_for(size.before()).await;
    stage.load.fault_begins();
    let killed = counted(&server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]));
    stage.load.healed();
    stage.load.run_for(size.hold() + size.after()).await;
    let record = finish(stage, |_| killed).await?;
    let expected = Expectation {
        flow_within: Some(size.bar(5)),
        connections_stay: true,
        recovery: Recovery::WhoeverAsks,
        ..size.expectation()
    };
    Ok((record, expected))
}

pub(super) async fn flush_all(size: Size) -> Played {
    let server = RedisServer::start(&RedisOptions::default());
    let mut stage = Stage::open(&redis(&server.addr()), 2, size.load()).await?;
    stage.load.run_for(size.before()).await;
    stage.load.fault_begins();
    server.command(&["FLUSHALL"]);
    stage.load.healed();
    stage.load.run_for(size.hold() + size.after()).await;
    let record = finish(stage, not_recovered).await?;
    let expected = loss(size, all_of_before(size, &record));
    Ok((record, expected))
}

/// Redis has no memory left for writes, and then has some again.
pub(super) async fn out_of_memory(size: Size) -> Played {
    let server = RedisServer::start(&RedisOptions::default());
    let mut stage = Stage::open(&redis(&server.addr()), 2, size.load()).await?;
    stage.load.run_for(size.before()).await;
    stage.load.fault_begins();
    server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    stage.load.run_for(size.hold()).await;
    server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    stage.load.healed();
    stage.load.run_for(size.after()).await;
    let record = finish(stage, without_ack).await?;
    let expected = Expectation {
        truth_within: Some(size.bar(1)),
        flow_within: Some(size.bar(5)),
        connections_stay: true,
        recovery: Recovery::WhoeverAsks,
        ..size.expectation()
    };
    Ok((record, expected))
}

/// Deletes the keys that match; how many there were.
fn delete(server: &RedisServer, pattern: &str) -> u64 {
    let found = server.command(&["KEYS", pattern]);
    let keys: Vec<String> = found.list().iter().map(Reply::text).collect();
    let mut command = vec!["DEL"];
    command.extend(keys.iter().map(String::as_str));
    match keys.is_empty() {
        true => 0,
        false => counted(&server.command(&command)),
    }
}

pub(super) async fn delete_streams(size: Size) -> Played {
    let server = RedisServer::start(&RedisOptions::default());
    let mut stage = Stage::open(&redis(&server.addr()), 2, size.load()).await?;
    stage.load.run_for(size.before()).await;
    stage.load.fault_begins();
    // Clients that are away while history goes come back to a hole.
    stage.load.cut_all();
    let deleted = delete(&server, "tg:stream:*");
    stage.load.healed();
    stage.load.run_for(size.hold() + size.after()).await;
    let record = finish(stage, |record| deleted.min(ends(record))).await?;
    let expected = Expectation {
        acked_loss: AckedLoss::WithTheHistory(all_of_before(size, &record)),
        flow_within: Some(size.bar(25)),
        ..size.expectation()
    };
    Ok((record, expected))
}

pub(super) async fn delete_meta(size: Size) -> Played {
    let server = RedisServer::start(&RedisOptions::default());
    let mut stage = Stage::open(&redis(&server.addr()), 2, size.load()).await?;
    stage.load.run_for(size.before()).await;
    stage.load.fault_begins();
    let deleted = delete(&server, "tg:meta:*");
    stage.load.healed();
    stage.load.run_for(size.hold() + size.after()).await;
    let record = finish(stage, |record| deleted.min(not_recovered(record))).await?;
    let expected = loss(size, all_of_before(size, &record));
    Ok((record, expected))
}
