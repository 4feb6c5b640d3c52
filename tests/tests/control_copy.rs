//! A node with a file becomes one of many with a database, and one with a file again: the real commands, and whoever
//! has a key or a token notices nothing.

use std::{net::TcpListener, path::Path};

use serde_json::{Value, json};
use tidegate_protocol::Codec;
use tidegate_test_postgres::PostgresServer;
use tidegate_tests::{
    Client, Node, NodeBuilder,
    api::Http,
    cli::{Ended, run_in},
    client::with_token,
    guests,
    token::{mint_with, unix_time},
};

/// What a client or a back end of app `shop` holds.
struct Shop {
    api_key: String,
    token_secret: String,
}

fn node(dir: &Path) -> NodeBuilder {
    Node::builder()
        .namespace(json!({ "name": "room" }))
        .data_dir(dir)
}

async fn stop(node: &mut Node) {
    node.terminate();
    assert_eq!(node.ended().await, Some(0));
}

/// Runs `control copy` with these further arguments.
async fn copy(dir: &Path, arguments: &[&str]) -> Ended {
    let always = ["control", "copy", "--json", "--config", "shared.json"];
    run_in(dir, &[&always[..], arguments].concat()).await
}

async fn audit(node: &Node) -> Vec<Value> {
    let answer = node.admin().get("/admin/v1/audit?limit=200").await.json();
    answer["items"].as_array().expect("a list").clone()
}

/// Everything that was decided is here and counts.
async fn has_everything(node: &Node, shop: &Shop) {
    let api = Http::new(node.client_addr()).header("X-API-Key", &shop.api_key);
    assert_eq!(api.post("/api/info", &json!({})).await.status, 200);
    let claims = json!({ "sub": "ann", "exp": unix_time(600) });
    let token = mint_with(&shop.token_secret, &json!({ "alg": "HS256" }), &claims);
    let url = format!("ws://{}/apps/shop/connection/websocket", node.client_addr());
    let mut ann = Client::open_at(&url, Codec::Json).await;
    let reply = ann.connect_with(with_token(&token)).await;
    assert!(reply.connect.is_some(), "{reply:?}");
    let nodes = node.admin().get("/admin/v1/nodes").await.json();
    let plugin = &nodes["items"][0]["plugins"][0];
    assert_eq!(
        (&plugin["plugin"], &plugin["version"], &plugin["problem"]),
        (&json!("stamp"), &json!(1), &Value::Null),
        "{nodes}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_moves_into_a_shared_database_and_back_with_everything() {
    let postgres = PostgresServer::start();
    let files = tempfile::tempdir().expect("a temporary folder can be made");
    let place = |name: &str| files.path().join(name);
    let mut alone = node(&place("alone")).start();
    let file = guests::variant("guest-stamp", "one", files.path());
    let options = ["--activate", "--bind", "filtering@namespace:room"];
    alone.push(&file, "stamp", &options).await.json();
    let made = alone.cli(&["app", "create", "shop", "--json"]).await.json();
    let arguments = ["app", "keys", "shop", "--create", "api", "--json"];
    let key = alone.cli(&arguments).await.json();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let shop = Shop {
        api_key: text(&key["secret"]),
        token_secret: text(&made["token_secret"]),
    };
    has_everything(&alone, &shop).await;
    let entries = audit(&alone).await;

    let config =
        json!({ "control": { "store": "postgres", "postgres": { "url": postgres.url() } } });
    std::fs::write(place("shared.json"), config.to_string()).expect("the folder is ours");
    let busy = copy(files.path(), &["--data-dir", "alone"]).await;
    assert_ne!(busy.code, Some(0), "its node runs");
    assert!(
        busy.stderr.contains("in use by another node"),
        "{}",
        busy.stderr
    );
    stop(&mut alone).await;
    let copied = copy(files.path(), &["--data-dir", "alone"]).await;
    assert!(
        !copied.stdout.contains(postgres.password()),
        "{}",
        copied.stdout
    );
    assert_eq!(copied.json()["artifacts"], 1);
    let again = copy(files.path(), &["--data-dir", "alone"]).await;
    assert_ne!(again.code, Some(0), "it is not empty any more");
    assert!(
        again.stderr.contains("name an empty database"),
        "{}",
        again.stderr
    );

    let mut shared = node(&place("shared"))
        .set("control.store", json!("postgres"))
        .set("control.postgres.url", json!(postgres.url()))
        .start();
    shared.take_keys_of(&alone);
    has_everything(&shared, &shop).await;
    let of_shared = audit(&shared).await;
    assert_eq!(of_shared[0]["action"], "store.copy");
    assert_eq!(of_shared[1..], entries[..]);
    stop(&mut shared).await;

    let nowhere = copy(files.path(), &["--data-dir", "again"]).await;
    assert!(
        nowhere.stderr.contains("no control.db"),
        "{}",
        nowhere.stderr
    );
    let copied = copy(files.path(), &["--back", "--data-dir", "again"]).await;
    assert_eq!(copied.json()["artifacts"], 1);
    let mut again = node(&place("again")).start();
    again.take_keys_of(&alone);
    has_everything(&again, &shop).await;
    let of_again = audit(&again).await;
    assert_eq!(of_again[0]["action"], "store.copy");
    assert_eq!(of_again[1..], of_shared[..]);
}

#[tokio::test]
async fn a_copy_without_the_database_says_what_to_look_at() {
    // A port that is free: it was just given back.
    let address = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("there are ports");
    let files = tempfile::tempdir().expect("a temporary folder can be made");
    let url = format!("postgres://tidegate@{address}/tidegate");
    let config = json!({ "control": { "store": "postgres", "postgres": { "url": url } } });
    std::fs::write(files.path().join("shared.json"), config.to_string())
        .expect("the folder is ours");
    let refused = copy(files.path(), &["--back", "--data-dir", "again"]).await;
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    let said = &refused.stderr;
    assert!(said.contains("nothing was changed: see that"), "{said}");
    assert!(said.contains("control.postgres.url"), "{said}");
    assert!(!said.contains("what runs goes on"), "{said}");
    assert!(!files.path().join("again").join("control.db").exists());
}
