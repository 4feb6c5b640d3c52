//! Plugins that are told what happened and run by the clock, in whole nodes.

use serde_json::json;
use tidegate_test_redis::{RedisOptions, RedisServer};
use tidegate_tests::{Client, Node, NodeBuilder, token::SECRET, within};

fn builder() -> NodeBuilder {
    Node::builder()
        .set("client.token.hmac_secret_key", json!(SECRET))
        .set(
            "channel.without_namespace.allow_subscribe_for_client",
            json!(true),
        )
        .set(
            "channel.without_namespace.allow_publish_for_client",
            json!(true),
        )
}

fn on_redis(redis: &RedisServer) -> NodeBuilder {
    builder().on_redis(redis)
}

/// The next line of the guest that is told everything, of a user.
async fn told(client: &mut Client, user: &str) -> (String, String, u64) {
    loop {
        let (data, _) = client.publication().await;
        let text = |name: &str| data[name].as_str().expect("a text").to_owned();
        assert_eq!(text("id").len(), 32);
        // That they are online is told when the directory says so, whatever came meanwhile.
        let is_status = matches!(&*text("kind"), "online" | "offline");
        if text("user") == user && !is_status {
            let code = data["code"].as_u64().expect("a code");
            return (text("kind"), text("channel"), code);
        }
    }
}

fn line(kind: &str, channel: &str, code: u64) -> (String, String, u64) {
    (kind.to_owned(), channel.to_owned(), code)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_is_told_what_a_session_did_in_order() {
    let node = builder().start();
    let mut watcher = Client::connect_as(&node, "watcher").await;
    assert!(watcher.subscribe("told").await.subscribe.is_some());
    node.install("guest-gong", "events@app", &json!({})).await;
    let mut ann = Client::connect_as(&node, "ann").await;
    assert!(ann.subscribe("room").await.subscribe.is_some());
    ann.publish("room", &json!(1)).await;
    ann.unsubscribe("room").await;
    drop(ann);
    for expected in [
        line("connected", "", 0),
        line("subscribed", "room", 0),
        line("published", "room", 0),
        line("unsubscribed", "room", 0),
        line("disconnected", "", 3000),
    ] {
        assert_eq!(told(&mut watcher, "ann").await, expected);
    }
    assert!(node.metrics().await.get("tidegate_events_delivered_total") >= 5);
}

/// When the next run was due, in whole seconds.
async fn due(client: &mut Client) -> u64 {
    let (data, _) = client.publication().await;
    let due_ms = data.as_u64().expect("a number");
    assert_eq!(due_ms % 1_000, 0, "a run is due at a full second");
    due_ms / 1_000
}

/// Runs that a node has done.
async fn done(node: &Node) -> u64 {
    let metrics = node.metrics().await;
    metrics.get(r#"tidegate_schedule_runs_total{outcome="done"}"#)
}

/// Until the schedule, asked at this node, shows a run that was due at this second or later, and who ran it.
async fn known_to_have_run(node: &Node, due: u64) {
    loop {
        let shown = node.cli(&["plugin", "schedule", "--json"]).await.json();
        let item = &shown["items"][0];
        assert_eq!(item["plugin"], "guest-gong", "{shown}");
        let is_that_run = item["last_due_ms"].as_u64() >= Some(due * 1_000);
        let is_done = item["last_outcome"] == "done" && item["node_name"].is_string();
        if is_that_run && is_done {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_nodes_one_runs_a_schedule_and_the_other_goes_on_without_it() {
    let redis = RedisServer::start(&RedisOptions::default());
    let mut nodes = [on_redis(&redis).start(), on_redis(&redis).start()];
    let mut watchers = Vec::new();
    for node in &nodes {
        node.until_ready().await;
        node.install("guest-gong", "schedule@app", &json!({})).await;
        let mut watcher = Client::connect_as(node, "watcher").await;
        assert!(watcher.subscribe("gong").await.subscribe.is_some());
        watchers.push(watcher);
    }
    let [mut one, mut other] = <[Client; 2]>::try_from(watchers).expect("two nodes");
    let mut last = due(&mut one).await;
    let before = [done(&nodes[0]).await, done(&nodes[1]).await];
    for _ in 0..4 {
        let next = due(&mut one).await;
        assert!(next > last, "no run twice: {next} after {last}");
        last = next;
    }
    let after = [done(&nodes[0]).await, done(&nodes[1]).await];
    for node in &nodes {
        within("both nodes know who ran it", known_to_have_run(node, last)).await;
    }
    // Whoever runs it is killed: as a rule that is always the same node.
    let (holder, survivor, watcher) = if after[0] - before[0] >= after[1] - before[1] {
        (0, 1, &mut other)
    } else {
        (1, 0, &mut one)
    };
    assert!(after[holder] > before[holder], "{before:?} {after:?}");
    nodes[holder].kill();
    // What was said before is on its way still.
    let (mut last, known) = (0, done(&nodes[survivor]).await);
    while done(&nodes[survivor]).await < known + 3 {
        let next = due(watcher).await;
        assert!(next > last, "no run twice: {next} after {last}");
        last = next;
    }
}
