//! `presence-board`: friends see each other come and go, on one node and on two.

use serde_json::{Value, json};
use tidegate_protocol::{Codec, HistoryRequest};
use tidegate_test_redis::{RedisOptions, RedisServer};
use tidegate_tests::{
    Client, Node, NodeBuilder,
    client::with_token,
    reply::error,
    token::{SECRET, mint},
};

fn builder() -> NodeBuilder {
    Node::builder()
        .set("client.token.hmac_secret_key", json!(SECRET))
        .namespace(json!({
            "name": "status",
            "history_size": 1,
            "history_ttl": "1h",
            "allow_history_for_subscriber": true,
        }))
}

fn on_redis(redis: &RedisServer) -> NodeBuilder {
    builder().on_redis(redis)
}

/// A device of a user whose friends are these.
async fn device(node: &Node, user: &str, friends: &[&str]) -> Client {
    let token = mint(&json!({ "sub": user, "meta": { "friends": friends } }));
    Client::connect(node, Codec::Json, with_token(&token)).await
}

async fn install_board(node: &Node) {
    node.install("presence-board", "events@app", &json!({}))
        .await;
    for (hook, scope) in [("authorization", "namespace:status"), ("rpc", "app")] {
        let bind = ["plugin", "bind", "presence-board", hook, "--scope", scope];
        let bound = node.cli(&bind).await;
        assert_eq!(bound.code, Some(0), "{}", bound.stderr);
    }
}

/// The next word about a user, and who it is about.
async fn status(client: &mut Client) -> (String, String) {
    let (data, _) = client.publication().await;
    let text = |name: &str| data[name].as_str().expect("a text").to_owned();
    (text("user"), text("status"))
}

fn pair(user: &str, status: &str) -> (String, String) {
    (user.to_owned(), status.to_owned())
}

/// What a friend on `there` sees of somebody who comes and goes on `here`.
async fn see_friend_come_and_go(here: &Node, there: &Node) {
    let mut bob = device(there, "bob", &["alice"]).await;
    assert!(bob.subscribe("status:alice").await.subscribe.is_some());
    let phone = device(here, "alice", &[]).await;
    assert_eq!(status(&mut bob).await, pair("alice", "online"));
    // A second device is no news, and that the first one goes is none either.
    let mut laptop = device(here, "alice", &[]).await;
    drop(phone);
    assert!(laptop.subscribe("status:alice").await.subscribe.is_some());
    drop(laptop);
    assert_eq!(status(&mut bob).await, pair("alice", "offline"));
    // Who comes late finds the last word.
    let mut cy = device(there, "cy", &["alice"]).await;
    assert!(cy.subscribe("status:alice").await.subscribe.is_some());
    let last = cy
        .history(HistoryRequest {
            channel: "status:alice".to_owned(),
            limit: 1,
            reverse: true,
            ..HistoryRequest::default()
        })
        .await;
    let last = last.history.expect("history is on");
    let data: Value =
        serde_json::from_slice(last.publications[0].data.as_bytes()).expect("JSON text");
    assert_eq!(data["status"], "offline");
    // No friend of hers sees anything.
    let mut eve = device(there, "eve", &[]).await;
    assert_eq!(error(&eve.subscribe("status:alice").await).0, 103);
}

#[tokio::test(flavor = "multi_thread")]
async fn friends_see_each_other_come_and_go() {
    let node = builder().start();
    install_board(&node).await;
    Box::pin(see_friend_come_and_go(&node, &node)).await;
    // The board of one node knows what the node was told.
    let mut bob = device(&node, "bob", &["alice", "dan"]).await;
    let reply = bob.rpc("board", &json!({})).await.rpc.expect("a reply");
    let board: Value = serde_json::from_slice(reply.data.as_bytes()).unwrap();
    assert_eq!(board[0]["status"], "offline");
    assert_eq!(board[1]["status"], "unknown");
}

#[tokio::test(flavor = "multi_thread")]
async fn friends_on_two_nodes_see_each_other_come_and_go() {
    let redis = RedisServer::start(&RedisOptions::default());
    let (one, other) = (on_redis(&redis).start(), on_redis(&redis).start());
    for node in [&one, &other] {
        node.until_ready().await;
        install_board(node).await;
    }
    Box::pin(see_friend_come_and_go(&one, &other)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_on_a_node_that_is_killed_is_offline_to_friends_on_the_other() {
    let redis = RedisServer::start(&RedisOptions::default());
    let (mut one, other) = (on_redis(&redis).start(), on_redis(&redis).start());
    for node in [&one, &other] {
        node.until_ready().await;
        install_board(node).await;
    }
    let mut bob = device(&other, "bob", &["alice"]).await;
    assert!(bob.subscribe("status:alice").await.subscribe.is_some());
    let _phone = device(&one, "alice", &[]).await;
    // Told after she was entered, so that a survivor finds her.
    assert_eq!(status(&mut bob).await, pair("alice", "online"));
    one.kill();
    assert_eq!(status(&mut bob).await, pair("alice", "offline"));
    // Where she comes back to she is online again.
    let _laptop = device(&other, "alice", &[]).await;
    assert_eq!(status(&mut bob).await, pair("alice", "online"));
}
