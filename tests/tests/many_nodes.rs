//! Nodes with a Redis between them: one service to its clients, and what an operator sees when Redis is away.

use serde_json::{Value, json};
use tidegate_protocol::{Codec, ConnectRequest, StreamPosition};
use tidegate_test_redis::{RedisOptions, RedisServer};
use tidegate_tests::{Client, Node, NodeBuilder, SOON, api::Http, node::binary};

fn builder(redis: &RedisServer) -> NodeBuilder {
    Node::builder()
        .set("client.allow_anonymous_connect_without_token", json!(true))
        .on_redis(redis)
        .namespace(json!({
            "name": "chat",
            "history_size": 20,
            "history_ttl": "60s",
            "force_recovery": true,
            "allow_subscribe_for_client": true,
            "allow_subscribe_for_anonymous": true,
            "allow_publish_for_client": true,
            "allow_publish_for_anonymous": true,
        }))
}

async fn anonymous(node: &Node) -> Client {
    Client::connect(node, Codec::Json, ConnectRequest::default()).await
}

async fn readiness(node: &Node) -> (u16, Value) {
    let answer = Http::new(node.client_addr()).get("/health/ready").await;
    (answer.status, answer.json())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_on_one_node_is_heard_and_recovered_on_the_other() {
    let redis = RedisServer::start(&RedisOptions::default());
    let (one, other) = (builder(&redis).start(), builder(&redis).start());
    one.until_ready().await;
    other.until_ready().await;
    let (mut ann, mut bob) = (anonymous(&one).await, anonymous(&other).await);
    let joined = ann.subscribe("chat:room").await.subscribe.expect("allowed");
    bob.subscribe("chat:room").await;
    for number in 1..=3 {
        bob.publish("chat:room", &json!({ "number": number })).await;
    }
    for number in 1..=3 {
        let heard = (json!({ "number": number }), number);
        assert_eq!(ann.publication().await, heard);
        assert_eq!(bob.publication().await, heard);
    }
    // History belongs to the service: who left one node is recovered by the other.
    let since = StreamPosition {
        offset: 1,
        epoch: joined.epoch.clone(),
    };
    let mut back = anonymous(&other).await;
    let result = back
        .recover("chat:room", &since)
        .await
        .subscribe
        .expect("allowed");
    assert!(result.recovered);
    let offsets: Vec<u64> = result.publications.iter().map(|one| one.offset).collect();
    assert_eq!(offsets, [2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_starts_while_redis_is_away_and_is_ready_when_it_answers() {
    let mut redis = RedisServer::start(&RedisOptions::default());
    redis.kill();
    let node = builder(&redis).start();
    let (status, said) = readiness(&node).await;
    assert_eq!(
        (status, said["status"].as_str()),
        (503, Some("engine unavailable"))
    );
    // Clients are let in, and told to try again.
    let mut client = anonymous(&node).await;
    let refused = client.publish("chat:room", &json!(1)).await;
    let error = refused.error.expect("an error");
    assert_eq!((error.code, error.temporary), (100, true));
    redis.restart();
    node.until_ready().await;
    let published = client.publish("chat:room", &json!(1)).await;
    assert!(published.publish.is_some(), "{published:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_password_ends_the_start_with_what_to_do() {
    let redis = RedisServer::start(&RedisOptions {
        password: Some("right".to_owned()),
        ..RedisOptions::default()
    });
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = folder.path().join("config.json");
    let text = json!({
        "http_server": { "address": "127.0.0.1", "port": 0 },
        "admin_api": { "port": 0 },
        "engine": { "type": "redis", "redis": {
            "address": [format!("redis://127.0.0.1:{}", redis.port())],
            "password": "hunter2",
        } },
    });
    std::fs::write(&config, text.to_string()).expect("the folder is writable");
    let mut command = tokio::process::Command::new(binary());
    command.args(["serve", "--config"]).arg(&config);
    command.arg("--data-dir").arg(folder.path().join("data"));
    command.kill_on_drop(true);
    let ended = tokio::time::timeout(SOON, command.output()).await;
    let ended = ended
        .expect("the start ends")
        .expect("the server can be executed");
    assert!(!ended.status.success());
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(
        said.contains("check user and password of engine.redis"),
        "{said}"
    );
    assert!(!said.contains("hunter2"), "{said}");
}
