//! What an operator sees of a plugin: the numbers of the admin API, of `plugin top` and of `/metrics` are those of the
//! calls that clients made.

use std::process::Stdio;

use serde_json::{Value, json};
use tidegate_protocol::{Codec, ConnectRequest};
use tidegate_tests::{Client, Node, SOON, within};
use tokio::io::{AsyncBufReadExt as _, BufReader};

const ROOM: &str = "chat:lobby";
const OF_PLUGIN: &str = "/admin/v1/apps/default/plugins/guest-trap/statistics";

/// A node with the plugin that misbehaves on command, and a client that may publish.
async fn node() -> (Node, Client) {
    let node = Node::builder()
        .set("client.allow_anonymous_connect_without_token", json!(true))
        .namespace(json!({
            "name": "chat",
            "allow_subscribe_for_client": true, "allow_subscribe_for_anonymous": true,
            "allow_publish_for_client": true, "allow_publish_for_anonymous": true,
        }))
        .start();
    node.install("guest-trap", "filtering@namespace:chat", &json!({}))
        .await;
    let client = Client::connect(&node, Codec::Json, ConnectRequest::default()).await;
    (node, client)
}

/// The error code of a publication with this command, 0 for none.
async fn publish(client: &mut Client, command: &str) -> u32 {
    let reply = client.publish(ROOM, &json!({ "do": command })).await;
    reply.error.map_or(0, |error| error.code)
}

/// The one row there is.
async fn row(node: &Node) -> Value {
    let answer = node.admin().get(OF_PLUGIN).await.json();
    assert_eq!(
        answer["items"].as_array().map(Vec::len),
        Some(1),
        "{answer}"
    );
    answer["items"][0].clone()
}

#[tokio::test]
async fn the_numbers_are_those_of_the_calls_that_clients_made() {
    let (node, mut client) = node().await;
    for _ in 0..5 {
        assert_eq!(publish(&mut client, "nothing").await, 0);
    }
    for _ in 0..3 {
        assert_eq!(publish(&mut client, "refuse").await, 499);
    }
    for _ in 0..2 {
        assert_eq!(publish(&mut client, "panic").await, 100);
    }
    let row = row(&node).await;
    for (member, expected) in [
        ("plugin", json!("guest-trap")),
        ("version", json!(1)),
        ("hook", json!("filtering")),
        ("is_bound", json!(true)),
        ("calls", json!(10)),
        ("answered", json!(8)),
        ("refused", json!(3)),
        ("verdicts", json!({ "pass": 5, "refuse": 3 })),
        ("failures", json!(2)),
        ("failed", json!({ "trap": 2 })),
        ("breaker", json!("closed")),
        ("breaker_refusals", json!(0)),
        ("lane", json!("aside")),
        ("aside", json!(10)),
        ("inline", json!(0)),
    ] {
        assert_eq!(row[member], expected, "{member}: {row}");
    }
    assert_eq!(row["time"]["samples"], 10, "{row}");
    assert!(row["time"]["p50_ns"].as_u64() > Some(0), "{row}");
    assert!(row["memory"]["peak_bytes"].as_u64() > Some(0), "{row}");

    // The command line has the same.
    let top = node.cli(&["plugin", "top", "--once", "--json"]).await;
    assert_eq!(top.json()["items"], json!([row]));
    let table = node
        .cli(&["plugin", "top", "--once", "--sort", "failures"])
        .await;
    let line = table.stdout.lines().nth(1).unwrap_or_default();
    for cell in ["guest-trap", "filtering", "aside", " 10 ", " 2 "] {
        assert!(line.contains(cell), "{cell}: {}", table.stdout);
    }

    // And so have the metrics.
    let metrics = node.metrics().await;
    let labels = "app=\"default\",plugin=\"guest-trap\",hook=\"filtering\"";
    for (family, label, count) in [
        ("calls_total", ",end=\"answered\"", 5),
        ("calls_total", ",end=\"refused\"", 3),
        ("calls_total", ",end=\"trap\"", 2),
        ("verdicts_total", ",verdict=\"pass\"", 5),
        ("verdicts_total", ",verdict=\"refuse\"", 3),
        ("calls_aside_total", "", 10),
        ("version", "", 1),
    ] {
        let name = format!("tidegate_plugin_{family}{{{labels}{label}}}");
        assert_eq!(metrics.get(&name), count, "{name}: {metrics:?}");
    }
    assert_eq!(metrics.get("tidegate_plugin_left_out"), 0);
}

#[tokio::test]
async fn a_change_of_lane_and_a_former_version_are_visible() {
    let (node, mut client) = node().await;
    let mut earned = Value::Null;
    // A busy machine may interrupt a call, and the thousand start anew.
    for _ in 0..100 {
        for _ in 0..200 {
            publish(&mut client, "nothing").await;
        }
        earned = row(&node).await;
        if earned["lane"] == "inline" {
            break;
        }
    }
    assert_eq!(earned["lane"], "inline", "{earned}");
    let before = earned["inline"].as_u64().unwrap();
    for _ in 0..10 {
        publish(&mut client, "nothing").await;
    }
    let after = row(&node).await;
    assert!(after["inline"].as_u64().unwrap() > before, "{after}");

    let folder = tempfile::tempdir().unwrap();
    let next = tidegate_tests::guests::variant("guest-trap", "next", folder.path());
    let pushed = node.push(&next, "guest-trap", &["--activate"]).await;
    pushed.json();
    assert_eq!(publish(&mut client, "nothing").await, 0);
    let answer = node.admin().get(OF_PLUGIN).await.json();
    let seen = |index: usize, member: &str| answer["items"][index][member].clone();
    assert_eq!(
        (seen(0, "version"), seen(0, "is_bound")),
        (json!(2), json!(true))
    );
    assert_eq!(
        (seen(0, "lane"), seen(0, "calls")),
        (json!("aside"), json!(1))
    );
    assert_eq!(
        (seen(1, "version"), seen(1, "is_bound")),
        (json!(1), json!(false))
    );
    assert_eq!(seen(1, "calls"), after["calls"]);

    // Those that are not asked any more are shown on request.
    for (arguments, rows) in [(&["--once"][..], 1), (&["--once", "--former"], 2)] {
        let arguments = [&["plugin", "top", "--json"], arguments].concat();
        let top = node.cli(&arguments).await.json();
        assert_eq!(top["items"].as_array().map(Vec::len), Some(rows), "{top}");
    }
}

#[tokio::test]
async fn top_looks_again_and_again_and_shows_rates() {
    let (node, mut client) = node().await;
    let mut command = tokio::process::Command::new(tidegate_tests::node::binary());
    let mut top = command
        .args(["plugin", "top", "--watch", "1", "--json"])
        .env("TIDEGATE_ADMIN_KEY", node.admin_key())
        .env(
            "TIDEGATE_ADMIN_URL",
            format!("http://{}", node.admin_addr()),
        )
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut looks = BufReader::new(top.stdout.take().unwrap()).lines();
    let working = async {
        loop {
            assert_eq!(publish(&mut client, "nothing").await, 0);
        }
    };
    let looking = async {
        let mut called = 0;
        for _ in 0..3 {
            let line = looks.next_line().await.unwrap().expect("it goes on");
            let look: Value = serde_json::from_str(&line).unwrap();
            called = look["items"][0]["per_second"]["calls"].as_u64().unwrap();
        }
        called
    };
    let called = tokio::select! {
        called = within("three looks", looking) => called,
        () = working => unreachable!("publishing does not end"),
    };
    assert!(
        called > 0,
        "calls a second while a client publishes, within {SOON:?}"
    );
}
