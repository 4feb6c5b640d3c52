//! The store in a real Redis: the contract, several nodes, and what others do to the keys.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use tidegate_realtime::{
    ids::AppId,
    store::{
        KEY_OVERHEAD, Life, Owner, Store, StoreError, StoreKey, StoreQuotas, StoreValue, Swap,
        contract,
    },
};
use tidegate_redis::{Keys, RedisConfig, RedisStore};
use tidegate_test_redis::{ClusterOptions, RedisCluster, RedisOptions, RedisServer, Reply};

use crate::common::{Kept, cluster, documented_server, shards, standalone, within};

/// Long enough for a machine that has no time for us now and then.
const LIFE: Duration = Duration::from_secs(3);

/// A node's store.
struct Node {
    store: Kept<RedisStore>,
}

impl Node {
    async fn connected(config: &RedisConfig) -> Self {
        Self::with_quotas(config, contract::QUOTAS).await
    }

    async fn with_quotas(config: &RedisConfig, quotas: StoreQuotas) -> Self {
        let kept = Kept::connected(config, |shards, keys, metrics| {
            RedisStore::new(shards, keys, quotas, metrics)
        });
        Self { store: kept.await }
    }

    async fn set(&self, name: &str, life: Life) -> Result<(), StoreError> {
        let value = StoreValue::parse("value").expect("a value");
        let set = self.store.set(&owner(), &key(name), value, life);
        set.wait().await
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        self.store.get(&owner(), &key(name)).wait().await
    }
}

fn config(server: &RedisServer) -> RedisConfig {
    RedisConfig::new(standalone(server.port()))
}

fn owner() -> Owner {
    Owner::new(&AppId::default_app(), "plugin")
}

fn key(text: &str) -> StoreKey {
    StoreKey::parse(text).expect("a key")
}

/// Names of the two keys of [`owner`].
fn names() -> [String; 2] {
    let keys = Keys::new(tidegate_redis::keys::Prefix::default());
    [keys.store(&owner()), keys.store_ends(&owner())]
}

#[tokio::test]
async fn the_store_in_one_redis_keeps_the_contract_and_leaves_nothing() {
    let server = RedisServer::start(&RedisOptions::default());
    let node = Node::connected(&config(&server)).await;
    contract::check_all(&*node.store, LIFE, "one").await;
    assert_eq!(server.command(&["DBSIZE"]), Reply::Integer(0));
}

#[tokio::test]
async fn r1_the_documented_user_is_enough_for_the_store() {
    let (_server, topology) = documented_server();
    let node = Node::connected(&RedisConfig::new(topology)).await;
    contract::check_all(&*node.store, LIFE, "acl").await;
}

#[tokio::test]
async fn the_store_over_two_shards_keeps_the_contract() {
    let servers = [(); 2].map(|()| RedisServer::start(&RedisOptions::default()));
    let node = Node::connected(&shards(&servers)).await;
    contract::check_all(&*node.store, LIFE, "shards").await;
}

#[tokio::test]
async fn the_store_in_a_cluster_keeps_the_contract() {
    let nodes = RedisCluster::start(&ClusterOptions::default());
    let node = Node::connected(&RedisConfig::new(cluster(&nodes))).await;
    contract::check_all(&*node.store, LIFE, "cluster").await;
}

#[tokio::test]
async fn two_nodes_count_together_and_only_one_of_them_wins_a_key() {
    const EACH: usize = 200;
    let server = RedisServer::start(&RedisOptions::default());
    let config = config(&server);
    let nodes = [
        Node::connected(&config).await,
        Node::connected(&config).await,
    ];
    let increments = nodes.iter().flat_map(|node| {
        (0..EACH).map(|_| {
            let count = node.store.increment(&owner(), &key("n"), 1, Life::Endless);
            count.wait()
        })
    });
    let counts = within(join_all(increments)).await;
    let mut counts: Vec<_> = counts.into_iter().map(Result::unwrap).collect();
    counts.sort_unstable();
    let expected: Vec<_> = (1..=2 * EACH as i64).collect();
    assert_eq!(counts, expected);
    for round in 0..20 {
        let key = key(&format!("leader{round}"));
        let swaps = nodes.iter().enumerate().map(|(number, node)| {
            let swap = Swap {
                expected: None,
                value: StoreValue::parse(number.to_string()).unwrap(),
                life: Life::Endless,
            };
            node.store.compare_and_set(&owner(), &key, swap).wait()
        });
        let won = within(join_all(swaps)).await;
        assert_eq!(won.iter().filter(|won| **won == Ok(true)).count(), 1);
        let winner = won.iter().position(|won| *won == Ok(true)).unwrap();
        for node in &nodes {
            let found = node.store.get(&owner(), &key).wait().await.unwrap();
            assert_eq!(found, Some(winner.to_string().into()));
        }
    }
}

#[tokio::test]
async fn a_redis_that_is_away_is_unavailable_and_one_that_is_back_works() {
    let mut server = RedisServer::start(&RedisOptions::default());
    let node = Node::connected(&config(&server)).await;
    node.set("k", Life::Endless).await.unwrap();
    server.kill();
    for _ in 0..3 {
        assert_eq!(within(node.get("k")).await, Err(StoreError::Unavailable));
        let set = within(node.set("k", Life::Endless)).await;
        assert_eq!(set, Err(StoreError::Unavailable));
    }
    server.restart();
    let works = async {
        while node.set("k", Life::Endless).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(works).await;
    assert_eq!(node.get("k").await, Ok(Some("value".into())));
}

#[tokio::test]
async fn keys_that_go_by_themselves_make_no_wrong_quotas() {
    let server = RedisServer::start(&RedisOptions::default());
    let quotas = StoreQuotas {
        keys: 2,
        bytes: 2 * (KEY_OVERHEAD + 6),
    };
    let node = Node::with_quotas(&config(&server), quotas).await;
    for name in names() {
        node.set("a", Life::Endless).await.unwrap();
        node.set("b", Life::Endless).await.unwrap();
        assert!(node.set("c", Life::Endless).await.is_err());
        server.command(&["DEL", &name]);
        assert_eq!(node.get("a").await, Ok(None), "{name}");
        node.set("c", Life::Endless).await.unwrap();
        node.set("d", Life::Endless).await.unwrap();
        assert!(node.set("e", Life::Endless).await.is_err());
        node.store.forget(&owner()).wait().await.unwrap();
    }
}

#[tokio::test]
async fn r7_foreign_entries_and_foreign_keys_are_errors() {
    let server = RedisServer::start(&RedisOptions::default());
    let node = Node::connected(&config(&server)).await;
    node.set("k", Life::Endless).await.unwrap();
    let [entries, _] = names();
    server.command(&["HSET", &entries, "k", "garbage"]);
    assert_eq!(node.get("k").await, Err(StoreError::Unavailable));
    server.command(&["DEL", &entries]);
    server.command(&["SET", &entries, "a text"]);
    assert_eq!(node.get("k").await, Err(StoreError::Unavailable));
    let set = node.set("k", Life::Endless).await;
    assert_eq!(set, Err(StoreError::Unavailable));
}

#[tokio::test]
async fn nothing_is_left_in_redis_once_everything_is_over() {
    let server = RedisServer::start(&RedisOptions::default());
    let node = Node::connected(&config(&server)).await;
    let short = Life::from_duration(LIFE / 3).unwrap();
    node.set("a", short).await.unwrap();
    node.set("b", Life::Endless).await.unwrap();
    let deleted = node.store.delete(&owner(), &key("b")).wait().await;
    assert_eq!(deleted, Ok(true));
    node.set("c", short).await.unwrap();
    let gone = async {
        loop {
            // Whoever changes something takes what is over with it.
            let none = node.store.delete(&owner(), &key("none")).wait().await;
            assert_eq!(none, Ok(false));
            if server.command(&["DBSIZE"]) == Reply::Integer(0) {
                return;
            }
            tokio::time::sleep(LIFE / 10).await;
        }
    };
    within(gone).await;
    // By themselves, where nobody asks.
    node.set("a", short).await.unwrap();
    let gone = async {
        while server.command(&["DBSIZE"]) != Reply::Integer(0) {
            tokio::time::sleep(LIFE / 10).await;
        }
    };
    within(gone).await;
}

#[tokio::test]
async fn an_answer_that_is_late_ends_in_time_and_costs_nobody_else() {
    let server = RedisServer::start(&RedisOptions::default());
    let node = Arc::new(Node::connected(&config(&server)).await);
    server.pause();
    let answers = join_all((0..10).map(|_| node.get("k"))).await;
    assert!(
        answers
            .iter()
            .all(|answer| *answer == Err(StoreError::Unavailable))
    );
    server.resume();
    let works = async {
        while node.get("k").await != Ok(None) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(works).await;
}
