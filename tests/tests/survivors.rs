//! What a node that is killed leaves to be done, on real nodes with a Redis: the others do it.

use std::collections::BTreeMap;

use serde_json::json;
use tidegate_protocol::Codec;
use tidegate_test_redis::{RedisOptions, RedisServer};
use tidegate_tests::{
    Client, Node,
    client::with_token,
    token::{SECRET, mint},
    within,
};

/// Sessions on the node that is killed; dan has two.
const DEVICES: [&str; 4] = ["ann", "bob", "dan", "dan"];

fn start(redis: &RedisServer) -> Node {
    Node::builder()
        .set("client.token.hmac_secret_key", json!(SECRET))
        .on_redis(redis)
        .set(
            "channel.without_namespace.allow_subscribe_for_client",
            json!(true),
        )
        .namespace(json!({
            "name": "room",
            "presence": true,
            "join_leave": true,
            "force_push_join_leave": true,
            "allow_subscribe_for_client": true,
            "allow_publish_for_subscriber": true,
        }))
        .start()
}

async fn device(node: &Node, user: &str) -> Client {
    let token = mint(&json!({ "sub": user }));
    Client::connect(node, Codec::Json, with_token(&token)).await
}

/// Two nodes with a plugin that tells the channel `told` what it is told.
async fn nodes(redis: &RedisServer) -> [Node; 2] {
    let nodes = [start(redis), start(redis)];
    for node in &nodes {
        node.until_ready().await;
        node.install("guest-gong", "events@app", &json!({})).await;
    }
    nodes
}

/// What a plugin told of: how often, by kind, user and id.
#[derive(Default)]
struct Told(BTreeMap<(String, String, String), usize>);

impl Told {
    /// The next one.
    async fn hear(&mut self, watcher: &mut Client) -> String {
        let (data, _) = watcher.publication().await;
        let text = |name: &str| data[name].as_str().expect("a text").to_owned();
        let (kind, user) = (text("kind"), text("user"));
        let word = format!("{kind} {user}");
        *self.0.entry((kind, user, text("id"))).or_default() += 1;
        word
    }

    /// How many there were of a kind, once by id.
    fn ids(&self, kind: &str, user: &str) -> usize {
        let told = self.0.keys();
        told.filter(|(of, by, _)| of == kind && by == user).count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_are_told_of_the_sessions_of_a_killed_node_and_channels_once() {
    let redis = RedisServer::start(&RedisOptions::default());
    let [survivor, mut victim] = nodes(&redis).await;
    let mut watcher = device(&survivor, "watcher").await;
    assert!(watcher.subscribe("told").await.subscribe.is_some());
    let mut eve = device(&survivor, "eve").await;
    assert!(eve.subscribe("room:one").await.subscribe.is_some());
    let mut told = Told::default();
    let mut devices = Vec::new();
    for user in DEVICES {
        let mut device = device(&victim, user).await;
        assert!(device.subscribe("room:one").await.subscribe.is_some());
        devices.push(device);
    }
    // Bob is on the other node, too.
    let _bob = device(&survivor, "bob").await;
    // What came before is in the directory when plugins are told of who came last.
    let _last = device(&victim, "last").await;
    while told.hear(&mut watcher).await != "online last" {}
    victim.kill();
    let is_told = |told: &Told| {
        let ends = [("ann", 1), ("bob", 1), ("dan", 2)];
        ends.iter().all(|(user, number)| {
            told.ids("disconnected", user) >= *number && told.ids("unsubscribed", user) >= *number
        }) && told.ids("offline", "ann") > 0
            && told.ids("offline", "dan") > 0
    };
    let hearing = async {
        while !is_told(&told) {
            told.hear(&mut watcher).await;
        }
    };
    within("a survivor tells plugins of everybody", hearing).await;
    for (user, number) in [("ann", 1), ("bob", 1), ("dan", 2)] {
        assert_eq!(told.ids("disconnected", user), number, "{user}");
        assert_eq!(told.ids("unsubscribed", user), number, "{user}");
    }
    for (user, number) in [("ann", 1), ("bob", 0), ("dan", 1)] {
        assert_eq!(told.ids("offline", user), number, "{user}");
    }
    // Nothing more is told to the channel than that each session left.
    eve.publish("room:one", &json!("mark")).await;
    let mut left = eve.who_left_before_a_publication().await;
    left.sort_unstable();
    assert_eq!(left, DEVICES);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_session_whose_node_is_killed_before_it_told_it_is_told() {
    let redis = RedisServer::start(&RedisOptions::default());
    let [survivor, mut victim] = nodes(&redis).await;
    let mut watcher = device(&survivor, "watcher").await;
    assert!(watcher.subscribe("told").await.subscribe.is_some());
    let ann = device(&victim, "ann").await;
    let mut told = Told::default();
    while told.hear(&mut watcher).await != "online ann" {}
    // The plugin of that node is told in a moment, and the node has none left.
    drop(ann);
    victim.kill();
    let hearing = async {
        while told.ids("offline", "ann") == 0 || told.ids("disconnected", "ann") == 0 {
            told.hear(&mut watcher).await;
        }
    };
    within("somebody tells of the end", hearing).await;
    assert_eq!(told.ids("offline", "ann"), 1);
    assert_eq!(told.ids("disconnected", "ann"), 1);
}
