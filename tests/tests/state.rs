//! What plugins keep, and whom they see, on one node and on the others: two real nodes and one Redis.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate_protocol::{Codec, ConnectRequest};
use tidegate_test_redis::{RedisOptions, RedisServer};
use tidegate_tests::{Client, Node, guests, token, within};
use tokio::time::Instant;

/// Between two looks at what another process holds.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A node with the guest, and a client that asks it.
struct Keeper {
    node: Node,
    client: Client,
}

impl Keeper {
    async fn start(redis: &RedisServer) -> Self {
        let node = Node::builder()
            .set("client.allow_anonymous_connect_without_token", json!(true))
            .on_redis(redis)
            .set("client.token.hmac_secret_key", json!(token::SECRET))
            .namespace(json!({
                "name": "room",
                "presence": true,
                "allow_subscribe_for_client": true,
            }))
            .start();
        let wasm = guests::wasm("guest-rpc-echo");
        let pushed = node.push(&wasm, "keeper", &["--activate"]).await;
        pushed.json();
        let bind = ["plugin", "bind", "keeper", "rpc", "--json"];
        node.cli(&bind).await.json();
        let client = Client::connect(&node, Codec::Json, ConnectRequest::default()).await;
        Self { node, client }
    }

    async fn two(redis: &RedisServer) -> (Self, Self) {
        let one = Box::pin(Self::start(redis)).await;
        let other = Box::pin(Self::start(redis)).await;
        one.node.until_nodes(2).await;
        other.node.until_nodes(2).await;
        (one, other)
    }

    async fn ask(&mut self, method: &str, data: Value) -> Value {
        let reply = self.client.rpc(method, &data).await;
        let result = reply.rpc.unwrap_or_else(|| panic!("{:?}", reply.error));
        serde_json::from_slice(result.data.as_bytes().as_ref()).expect("the guest says JSON")
    }

    async fn add(&mut self, key: &str, by: i64) -> i64 {
        let count = self.ask("add", json!({ "key": key, "by": by })).await;
        count.as_i64().expect("a count")
    }

    async fn until(&mut self, method: &str, key: &str, expected: &Value) {
        let told = format!("`{method}` of {key} answers {expected}");
        let seen = async {
            while self.ask(method, json!({ "key": key, "by": 0 })).await != *expected {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        within(&told, Box::pin(seen)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_for_each_user_holds_over_both_nodes() {
    let redis = RedisServer::start(&RedisOptions::default());
    let (mut one, mut other) = Keeper::two(&redis).await;
    const LIMIT: i64 = 10;
    for _ in 0..LIMIT / 2 {
        assert!(one.add("sent:ann", 1).await <= LIMIT);
        assert!(other.add("sent:ann", 1).await <= LIMIT);
    }
    one.until("add", "sent:ann", &json!(LIMIT)).await;
    other.until("add", "sent:ann", &json!(LIMIT)).await;
    // From now on each refuses, whoever was asked before.
    assert!(other.add("sent:ann", 1).await > LIMIT);
    assert!(one.add("sent:ann", 1).await > LIMIT);
    assert_eq!(one.add("sent:bob", 1).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn values_and_deletions_reach_the_other_node_and_whoever_joins_later() {
    let redis = RedisServer::start(&RedisOptions::default());
    let (mut one, mut other) = Keeper::two(&redis).await;
    one.ask("set", json!({ "key": "color", "value": "red" }))
        .await;
    other.until("get", "color", &json!("red")).await;
    other
        .ask("set", json!({ "key": "color", "value": "blue" }))
        .await;
    one.until("get", "color", &json!("blue")).await;
    one.add("visits", 3).await;
    other.until("add", "visits", &json!(3)).await;
    // Who wrote it goes; who comes is told by who stays.
    let Keeper { node, client } = other;
    drop((client, node));
    let mut third = Box::pin(Keeper::start(&redis)).await;
    third.until("get", "color", &json!("blue")).await;
    third.until("add", "visits", &json!(3)).await;
    assert_eq!(
        third.ask("delete", json!({ "key": "color" })).await,
        json!(true)
    );
    one.until("get", "color", &Value::Null).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_redis_kept_from_the_other_node_arrives_when_redis_is_back() {
    let mut redis = RedisServer::start(&RedisOptions::default());
    let (mut one, mut other) = Keeper::two(&redis).await;
    one.add("k", 1).await;
    other.until("add", "k", &json!(1)).await;
    redis.kill();
    for _ in 0..50 {
        one.add("k", 1).await;
        other.add("k", 1).await;
    }
    redis.restart();
    one.until("add", "k", &json!(101)).await;
    other.until("add", "k", &json!(101)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_see_who_is_subscribed_on_the_other_node() {
    let redis = RedisServer::start(&RedisOptions::default());
    let (mut one, other) = Keeper::two(&redis).await;
    let ask = json!({ "key": "room:a", "value": "ann" });
    // Nobody waits for Redis: the first question begins to follow the channel.
    let first = one.ask("present", ask.clone()).await;
    assert_eq!(first, json!({ "users": null, "is_present": null }));
    let mut until = async |expected: Value| {
        let seen = async {
            while one.ask("present", ask.clone()).await != expected {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        within(&format!("the plugin sees {expected}"), Box::pin(seen)).await;
    };
    until(json!({ "users": 0, "is_present": false })).await;
    let mut ann = Client::connect_as(&other.node, "ann").await;
    ann.subscribe("room:a").await;
    until(json!({ "users": 1, "is_present": true })).await;
    ann.unsubscribe("room:a").await;
    until(json!({ "users": 0, "is_present": false })).await;
}

/// Prints how long it takes; the guide quotes it. What is asserted is that it arrives.
#[tokio::test(flavor = "multi_thread")]
async fn each_increment_is_known_on_the_other_node_soon() {
    let redis = RedisServer::start(&RedisOptions::default());
    let (mut one, mut other) = Keeper::two(&redis).await;
    let mut took = Vec::new();
    for round in 1..=100 {
        let began = Instant::now();
        one.add("k", 1).await;
        let seen = async {
            while other.add("k", 0).await < round {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        within("the increment arrives", Box::pin(seen)).await;
        took.push(began.elapsed());
    }
    took.sort_unstable();
    println!("p50 {:?}, p99 {:?}, max {:?}", took[50], took[98], took[99]);
}
