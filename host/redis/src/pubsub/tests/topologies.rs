//! Sentinel and Cluster: the server changes, and the subscriptions go with it.

use tidegate_test_redis::{ClusterOptions, RedisCluster, SentinelOptions, Sentinels};

use super::*;

fn sentinel(sentinels: &Sentinels, login: Login) -> Topology {
    let ports = sentinels.ports().into_iter();
    Topology::Sentinel {
        sentinels: ports.map(|port| Address::new("127.0.0.1", port)).collect(),
        sentinel_login: Login::default(),
        master_name: Sentinels::NAME.into(),
        login,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f8_subscriptions_follow_the_primary_that_the_sentinels_name() {
    let mut sentinels = Sentinels::start(&SentinelOptions::default());
    let world = World::start(sentinel(&sentinels, Login::default()));
    let a = world.subscribe("a").await;
    let port = sentinels.kill_primary();
    sentinels.failed_over_from(port);
    world.until("the lapse", || world.all_lapsed()).await;
    world.publish(&a, "again").await;
    world
        .until("a message", || !world.heard(&a).is_empty())
        .await;
}

/// A primary that its sentinels and replicas have lost, while the node has not: it goes on to call itself one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r4_a_primary_that_only_its_sentinels_lost_is_left() {
    const USER: &str = "user node on >secret ~* &* +@all";
    let mut sentinels = Sentinels::start(&SentinelOptions {
        redis: RedisOptions {
            lines: vec![USER.to_owned()],
            ..RedisOptions::default()
        },
        ..SentinelOptions::default()
    });
    let login = Login {
        user: "node".into(),
        password: "secret".into(),
        ..Login::default()
    };
    let world = World::start(sentinel(&sentinels, login));
    let a = world.subscribe("a").await;
    world.until_healthy().await;
    // Everybody but the node comes as the default user, and may not any more.
    let (old, mut inside) = {
        let primary = sentinels.primary();
        let mut inside = primary.connect().unwrap();
        inside.call(&["AUTH", "node", "secret"]).unwrap();
        (primary.port(), inside)
    };
    for command in [
        &["ACL", "SETUSER", "default", "off"][..],
        &["CLIENT", "KILL", "USER", "default"],
    ] {
        inside.call(command).unwrap();
    }
    let new = sentinels.failed_over_from(old);
    world.until("the lapse", || world.all_lapsed()).await;
    let role = inside.call(&["ROLE"]).unwrap();
    assert_eq!(role.list()[0].text(), "master", "nobody told the old one");
    // What others publish where they all are now is heard, and what we publish goes there.
    let mut servers = sentinels.servers().iter();
    let promoted = servers.find(|server| server.port() == new).unwrap();
    let name = world.keys.channel(&a);
    promoted.command(&["PUBLISH", &name, "theirs"]);
    world
        .until("their message", || world.heard(&a) == ["theirs"])
        .await;
    world.until_healthy().await;
    world.publish(&a, "ours").await;
    world
        .until("our message", || world.heard(&a) == ["theirs", "ours"])
        .await;
}

fn cluster_world(cluster: &RedisCluster) -> World {
    let ports = cluster.ports().into_iter();
    World::start(Topology::Cluster {
        seeds: ports.map(|port| Address::new("127.0.0.1", port)).collect(),
        login: Login::default(),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f11_a_moved_slot_takes_its_subscriptions_along() {
    let cluster = RedisCluster::start(&ClusterOptions::default());
    let world = cluster_world(&cluster);
    let keys = world.subscribe_all(300).await;
    for key in &keys {
        world.publish(key, "1").await;
    }
    let all_heard = |times: usize| keys.iter().all(|key| world.heard(key).len() == times);
    world.until("all", || all_heard(1)).await;
    world.until_healthy().await;
    assert!(world.lapses().is_empty());

    let name = world.keys.channel(&keys[0]);
    let before = cluster.primary_port_of(&name);
    cluster.reshard_from(&name, 3_000);
    let moved: Vec<_> = keys
        .iter()
        .filter(|key| {
            let name = world.keys.channel(key);
            keys::slot(name.as_bytes()) == keys::slot(world.keys.channel(&keys[0]).as_bytes())
        })
        .collect();
    assert!(!moved.is_empty());
    if cluster.primary_port_of(&name) != before {
        world
            .until("the move", || world.lapses().contains(&name))
            .await;
    }
    for key in &keys {
        world.publish(key, "2").await;
    }
    world.until("all again", || all_heard(2)).await;
    assert!(world.metrics.moved.get() > 0, "something has moved");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f11_the_subscriptions_of_a_dead_primary_go_to_its_replica() {
    let mut cluster = RedisCluster::start(&ClusterOptions::default());
    cluster.wait_until_able_to_fail_over();
    let world = cluster_world(&cluster);
    let keys = world.subscribe_all(300).await;
    let name = world.keys.channel(&keys[0]);
    let port = cluster.kill_primary_of(&name);
    cluster.failed_over_from(port, &name);
    // Some may have been published before the subscription was back: what counts is that it comes back.
    let mut round = 0;
    let mut is_heard = false;
    while !is_heard {
        round += 1;
        assert!(
            round < 600,
            "{} of 300 are heard",
            keys.iter()
                .filter(|key| !world.heard(key).is_empty())
                .count()
        );
        for key in keys.iter().filter(|key| world.heard(key).is_empty()) {
            world.publish(key, "again").await;
        }
        is_heard = keys.iter().all(|key| !world.heard(key).is_empty());
        let changed = world.ear.changed.notified();
        let _ = tokio::time::timeout(Duration::from_millis(50), changed).await;
    }
    assert!(!world.lapses().is_empty(), "and it was told");
}

/// Row F11a at a slow pace: what has moved to a replica is not waited for at the dead primary.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i9_a_dead_primary_that_was_replaced_or_that_all_have_lost_leaves_the_node_ready() {
    let mut cluster = RedisCluster::start(&ClusterOptions {
        redis: RedisOptions {
            lines: vec!["cluster-require-full-coverage no".to_owned()],
            ..RedisOptions::default()
        },
        ..ClusterOptions::default()
    });
    let world = cluster_world(&cluster);
    let keys = world.subscribe_all(100).await;
    world.until_healthy().await;
    assert_eq!(world.subscriptions.health(), EngineHealth::Able);
    let name = world.keys.channel(&keys[0]);
    let shard = &world.subscriptions.shards[0];
    let is_deaf_to = |port: u16| {
        let line = shard.line_to(&Address::new("127.0.0.1", port));
        line.is_some_and(|line| line.is_deaf(Instant::now()))
    };
    let has_slots = |port: u16| shard.pipe.has_slots(&Address::new("127.0.0.1", port));

    let first = cluster.kill_primary_of(&name);
    let second = cluster.failed_over_from(first, &name);
    world
        .until("the line to be deaf after the failover", || {
            is_deaf_to(first) && !has_slots(first)
        })
        .await;
    assert_eq!(world.subscriptions.health(), EngineHealth::Able);

    // There is no other replica: a third of the channels is dead on every node, and two thirds are not.
    world.until_healthy_but(&[first]).await;
    assert_eq!(cluster.kill_primary_of(&name), second);
    world
        .until("the word of the others", || {
            is_deaf_to(second)
                && has_slots(second)
                && world.subscriptions.health() == EngineHealth::Able
        })
        .await;
    let dead = Address::new("127.0.0.1", second);
    let lives =
        |key: &&ChannelKey| shard.pipe.primary_of(&world.keys.channel(key)).as_ref() != Some(&dead);
    let living = keys.iter().find(lives).unwrap();
    world.publish(living, "on").await;
    world
        .until("a message", || {
            world.heard(living).contains(&"on".to_owned())
        })
        .await;
}
