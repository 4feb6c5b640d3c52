//! Presence in a real Redis: the contract, several nodes, and what others do to the keys.

use std::{sync::Arc, time::Duration};

use tidegate_realtime::{
    ids::{ChannelKey, ClientId},
    presence::{Member, Presence, PresenceStats, Present, contract},
};
use tidegate_redis::{Keys, RedisConfig, RedisPresence, Topology};
use tidegate_test_redis::{ClusterOptions, RedisCluster, RedisOptions, RedisServer, Reply};

use crate::common::{Kept, cluster, documented_server, key, shards, standalone, within};

/// Long enough for a machine that has no time for us now and then.
const TTL: Duration = Duration::from_secs(3);

/// A node's presence.
struct Node {
    presence: Kept<RedisPresence>,
}

impl Node {
    async fn connected(config: &RedisConfig) -> Self {
        let kept = Kept::connected(config, |shards, keys, metrics| {
            RedisPresence::new(shards, keys, config.presence_ttl, metrics)
        });
        Self {
            presence: kept.await,
        }
    }

    async fn add(&self, key: &ChannelKey, member: &Arc<Member>) {
        let added = self.presence.add(key, member).wait().await;
        added.expect("add");
    }

    async fn stats(&self, key: &ChannelKey) -> (usize, usize) {
        let PresenceStats {
            num_clients,
            num_users,
        } = self.presence.stats(key).wait().await.expect("stats");
        (num_clients, num_users)
    }

    async fn num_members(&self, key: &ChannelKey) -> usize {
        let members = self.presence.members(key, 1_000).wait().await;
        members.expect("members").members.len()
    }
}

fn config(topology: Topology) -> RedisConfig {
    RedisConfig {
        presence_ttl: TTL,
        ..RedisConfig::new(topology)
    }
}

fn member(user: &str) -> Arc<Member> {
    Arc::new(Member {
        client: ClientId::random(),
        user: user.into(),
        conn_info: "{}".into(),
        chan_info: "".into(),
    })
}

#[tokio::test]
async fn presence_in_one_redis_keeps_the_contract() {
    let server = RedisServer::start(&RedisOptions::default());
    let node = Node::connected(&config(standalone(server.port()))).await;
    contract::check_all(&*node.presence, TTL, "one").await;
}

#[tokio::test]
async fn r1_the_documented_user_is_enough_for_presence() {
    let (_server, topology) = documented_server();
    let node = Node::connected(&config(topology)).await;
    contract::check_all(&*node.presence, TTL, "acl").await;
}

#[tokio::test]
async fn presence_over_two_shards_keeps_the_contract() {
    let servers = [(); 2].map(|()| RedisServer::start(&RedisOptions::default()));
    let config = RedisConfig {
        presence_ttl: TTL,
        ..shards(&servers)
    };
    let node = Node::connected(&config).await;
    contract::check_all(&*node.presence, TTL, "shards").await;
}

#[tokio::test]
async fn presence_in_a_cluster_keeps_the_contract() {
    let nodes = RedisCluster::start(&ClusterOptions::default());
    let node = Node::connected(&config(cluster(&nodes))).await;
    contract::check_all(&*node.presence, TTL, "cluster").await;
}

#[tokio::test]
async fn nodes_see_each_other_and_those_of_a_dead_one_are_gone_in_time() {
    let server = RedisServer::start(&RedisOptions::default());
    let config = config(standalone(server.port()));
    let (one, two) = (
        Node::connected(&config).await,
        Node::connected(&config).await,
    );
    let room = key("room");
    let (ann, bob) = (member("ann"), member("bob"));
    one.add(&room, &ann).await;
    two.add(&room, &bob).await;
    assert_eq!(one.stats(&room).await, (2, 2));
    assert_eq!(two.num_members(&room).await, 2);
    // The first node dies; the other one goes on with its heartbeats.
    drop(one);
    let alone = async {
        loop {
            let refreshed = two.presence.refresh(vec![Present {
                key: room.clone(),
                member: Arc::clone(&bob),
            }]);
            refreshed.wait().await.unwrap();
            if two.stats(&room).await == (1, 1) {
                return;
            }
            tokio::time::sleep(TTL / 10).await;
        }
    };
    within(alone).await;
    let left = two.presence.members(&room, 10).wait().await.unwrap();
    assert_eq!(left.members, [bob]);
}

#[tokio::test]
async fn keys_that_go_by_themselves_make_no_wrong_numbers_for_long() {
    let server = RedisServer::start(&RedisOptions::default());
    let node = Node::connected(&config(standalone(server.port()))).await;
    let room = key("room");
    let keys = Keys::new(RedisConfig::new(standalone(server.port())).prefix);
    let members = ["ann", "ann", "bob"].map(member);
    for name in [
        keys.presence_clients(&room),
        keys.presence_expiry(&room),
        keys.presence_users(&room),
    ] {
        for member in &members {
            node.add(&room, member).await;
        }
        server.command(&["DEL", &name]);
        // A heartbeat of everybody, and it is as it was.
        let all = members.iter().map(|member| Present {
            key: room.clone(),
            member: Arc::clone(member),
        });
        let refreshed = node.presence.refresh(all.collect()).wait().await;
        refreshed.unwrap();
        assert_eq!(node.stats(&room).await, (3, 2), "{name}");
        assert_eq!(node.num_members(&room).await, 3);
    }
}

#[tokio::test]
async fn r7_foreign_entries_are_nobody_and_foreign_keys_an_error() {
    let server = RedisServer::start(&RedisOptions::default());
    let node = Node::connected(&config(standalone(server.port()))).await;
    let room = key("room");
    let keys = Keys::new(RedisConfig::new(standalone(server.port())).prefix);
    node.add(&room, &member("ann")).await;
    let clients = keys.presence_clients(&room);
    let stranger = ClientId::random().to_string();
    for (client, entry) in [
        ("no client", "x"),
        (&stranger, "\u{1}"),
        (&stranger, "garbage"),
    ] {
        server.command(&["HSET", &clients, client, entry]);
        assert_eq!(node.num_members(&room).await, 1);
    }
    server.command(&["SET", &keys.presence_clients(&key("other")), "a text"]);
    assert!(
        node.presence
            .members(&key("other"), 10)
            .wait()
            .await
            .is_err()
    );
    assert!(node.presence.stats(&key("other")).wait().await.is_err());
}

#[tokio::test]
async fn nothing_is_left_in_redis_once_everybody_has_gone() {
    let server = RedisServer::start(&RedisOptions::default());
    let node = Node::connected(&config(standalone(server.port()))).await;
    let (stays, leaves) = (key("stays"), key("leaves"));
    let (ann, bob) = (member("ann"), member("bob"));
    node.add(&stays, &ann).await;
    node.add(&leaves, &bob).await;
    let removed = node.presence.remove(&leaves, bob.client).wait().await;
    removed.unwrap();
    let gone = async {
        while !matches!(server.command(&["DBSIZE"]), Reply::Integer(0)) {
            tokio::time::sleep(TTL / 10).await;
        }
    };
    within(gone).await;
}
