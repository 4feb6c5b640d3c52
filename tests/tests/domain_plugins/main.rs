//! Plugins of `plugins/` that answer the needs of one trade each, in a whole node: sensors, quotas, clinics, markets.

mod order_router;
mod rate_tier;
mod redact_audit;
mod sensor_alerts;

use std::path::Path;

use serde_json::{Value, json};
use tidegate_protocol::Codec;
use tidegate_tests::{
    Client, Node, NodeBuilder,
    client::with_token,
    reply::{accepted, error},
    token::{SECRET, mint, unix_time},
};

const CODECS: [Codec; 2] = [Codec::Json, Codec::Protobuf];

/// A node that knows tokens.
fn builder() -> NodeBuilder {
    Node::builder().set("client.token.hmac_secret_key", json!(SECRET))
}

/// A namespace of which clients may do everything, with history.
fn open(name: &str) -> Value {
    json!({
        "name": name,
        "history_size": 100,
        "history_ttl": "60s",
        "allow_subscribe_for_client": true,
        "allow_publish_for_client": true,
        "allow_history_for_subscriber": true,
    })
}

fn token_of(user: &str, role: &str) -> String {
    mint(&json!({ "sub": user, "exp": unix_time(3_600), "meta": { "role": role } }))
}

/// A device of `user`, connected.
async fn join(node: &Node, codec: Codec, user: &str, role: &str) -> Client {
    Client::connect(node, codec, with_token(&token_of(user, role))).await
}

/// A device of `user`, subscribed to these channels.
async fn reader(node: &Node, user: &str, channels: &[&str]) -> Client {
    let mut client = join(node, Codec::Json, user, "member").await;
    for channel in channels {
        let reply = client.subscribe(channel).await;
        assert!(reply.subscribe.is_some(), "{channel}: {reply:?}");
    }
    client
}

/// What a channel remembers, the oldest first.
async fn history(node: &Node, channel: &str) -> Vec<Value> {
    let request = json!({ "channel": channel, "limit": 100 });
    let result = node.api().call("history", &request).await;
    let publications = result["publications"].as_array();
    let publications = publications.unwrap_or_else(|| panic!("no history: {result}"));
    publications
        .iter()
        .map(|publication| publication["data"].clone())
        .collect()
}

#[tokio::test]
async fn settings_that_cannot_be_used_are_refused_before_they_are_bound() {
    let node = builder().namespace(open("chat")).start();
    let settings =
        json!({ "tiers": { "free": { "rate": 1, "per": "1s" } }, "default_tier": "silver" });
    let settings = settings.to_string();
    let bind = ["--bind", "filtering@namespace:chat", "--config", &settings];
    let wasm = tidegate_tests::guests::wasm("rate-tier");
    let options = [&["--activate"], &bind[..]].concat();
    let refused = node.push(&wasm, "rate-tier", &options).await;
    assert_eq!(refused.code, Some(1), "{}", refused.stdout);
    let says = "`default_tier`: `silver` is none of the tiers: free";
    assert!(refused.stderr.contains(says), "{}", refused.stderr);
    // So nobody's messages fail for it.
    let mut ann = join(&node, Codec::Json, "ann", "member").await;
    let reply = ann.publish("chat:lobby", &json!({})).await;
    assert!(reply.error.is_none(), "{reply:?}");
}

#[tokio::test]
async fn a_slip_in_the_settings_of_an_example_is_refused_by_name() {
    let node = builder().namespace(open("chat")).start();
    for (package, hook) in [
        ("word-filter", "filtering"),
        ("direct-router", "routing"),
        ("redact-audit", "routing"),
    ] {
        let place = format!("{hook}@namespace:chat");
        let settings = r#"{"wordz": []}"#;
        let options = ["--activate", "--bind", &place, "--config", settings];
        let wasm = tidegate_tests::guests::wasm(package);
        let refused = node.push(&wasm, package, &options).await;
        assert_eq!(refused.code, Some(1), "{package}: {}", refused.stdout);
        let says = "unknown field `wordz`";
        assert!(refused.stderr.contains(says), "{}", refused.stderr);
    }
}

#[tokio::test]
async fn the_example_of_each_guide_does_what_it_says() {
    let plugins = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins");
    for (package, saved) in [
        ("sensor-alerts", 4),
        ("rate-tier", 7),
        ("redact-audit", 6),
        ("order-router", 5),
    ] {
        let folder = plugins.join(package);
        let read = |file: &str| std::fs::read_to_string(folder.join(file)).expect("it is there");
        let settings = read("example/settings.json");
        let is_shown = read("README.md").contains(settings.trim());
        assert!(is_shown, "README.md of {package} shows other settings");

        let wasm = tidegate_tests::guests::wasm(package).display().to_string();
        let check = [
            "plugin",
            "check",
            &wasm,
            "--inputs",
            "example/inputs.json",
            "--config",
            &settings,
            "--json",
        ];
        let checked = tidegate_tests::cli::run_in(&folder, &check).await.json();
        let inputs = checked["inputs"].as_array().map(Vec::len);
        assert_eq!(inputs, Some(saved), "{checked}");
    }
}
