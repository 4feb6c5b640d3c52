//! What a plugin made of a command can be looked up afterwards: failures always, refusals and successes by sample.

use serde_json::{Value, json};
use tidegate_protocol::Codec;
use tidegate_tests::{Client, Node, client::with_data, guests};

const ROOM: &str = "chat:lobby";
const OTHER: &str = "chat:other";

/// A node whose plugin `a` says who somebody is, and then does with their messages what these tell it; and its user.
async fn node(explain_interval: &str) -> (Node, Client) {
    let node = Node::builder()
        .set("plugins.explain_interval", json!(explain_interval))
        .namespace(json!({
            "name": "chat",
            "allow_subscribe_for_client": true, "allow_publish_for_client": true,
        }))
        .start();
    let wasm = guests::wasm("guest-member").display().to_string();
    let settings = json!({ "name": "a" }).to_string();
    let push = ["plugin", "push", &wasm, "--name", "a", "--activate"];
    let bind = [
        "--bind",
        "authentication",
        "--bind",
        "filtering@namespace:chat",
        "--config",
        &settings,
        "--json",
    ];
    node.cli(&[&push[..], &bind[..]].concat()).await.json();
    let accepted = with_data(&json!({ "do": { "a": "accept" } }));
    let mut client = Client::connect(&node, Codec::Json, accepted).await;
    for channel in [ROOM, OTHER] {
        assert!(client.subscribe(channel).await.subscribe.is_some());
    }
    (node, client)
}

/// Publishes with this command for the plugin; the error's code, or 0.
async fn publish(client: &mut Client, channel: &str, command: &str) -> u32 {
    let told = json!({ "do": { "a": command } });
    let reply = client.publish(channel, &told).await;
    reply.error.map_or(0, |error| error.code)
}

/// What `explain --recent` lists.
async fn recent(node: &Node, filters: &[&str]) -> Vec<Value> {
    let command = [&["explain", "--recent", "--json"], filters].concat();
    let listed = node.cli(&command).await.json();
    let items = listed["items"].as_array().expect("a list");
    items.iter().map(|item| item["story"].clone()).collect()
}

#[tokio::test]
async fn a_success_a_refusal_and_a_failure_are_told_with_who_did_what_and_what_it_took() {
    let (node, mut a) = node("1s").await;
    assert_eq!(publish(&mut a, ROOM, "accept").await, 0);
    assert_eq!(publish(&mut a, OTHER, "refuse").await, 499);
    assert_eq!(publish(&mut a, ROOM, "panic").await, 100);

    let [failed] = &recent(&node, &["--failed"]).await[..] else {
        panic!("one failure");
    };
    let step = &failed["plugins"][0];
    assert_eq!(
        (&step["failure"], &failed["user"]),
        (&json!("trap"), &json!("a"))
    );
    let [refused] = &recent(&node, &["--refused"]).await[..] else {
        panic!("one refusal");
    };
    assert_eq!(refused["plugins"][0]["reason"], "error 499: a");
    assert_eq!(refused["subject"], OTHER);

    let own = recent(&node, &["--user", "a", "--channel", ROOM]).await;
    let outcomes: Vec<_> = own.iter().map(|story| &story["outcome"]).collect();
    assert_eq!(outcomes, ["failed", "answered"], "the newest first");
    let step = &own[1]["plugins"][0];
    for (member, expected) in [
        ("plugin", json!("a")),
        ("version", json!(1)),
        ("verdict", json!("pass")),
        ("lane", json!("aside")),
    ] {
        assert_eq!(step[member], expected, "{member}: {step}");
    }
    for measured in ["took_ns", "memory_bytes"] {
        assert!(step[measured].as_u64() > Some(0), "{measured}: {step}");
    }
    assert!(recent(&node, &["--user", "nobody"]).await.is_empty());

    // For people: a line for each, and the whole story by its id.
    let told = node.cli(&["explain", "--recent", "--failed"]).await.stdout;
    let line = told.lines().nth(1).expect("a line");
    assert!(line.contains("a@1 trap (aside, "), "{told}");
    let trace = line.split_whitespace().nth(1).expect("its id");
    let story = node.cli(&["explain", trace]).await.stdout;
    assert!(story.contains("a version 1 failed (trap)"), "{story}");
}

#[tokio::test]
async fn without_an_interval_no_success_is_kept() {
    let (node, mut a) = node("0s").await;
    assert_eq!(publish(&mut a, ROOM, "accept").await, 0);
    assert!(recent(&node, &[]).await.is_empty());
    assert_eq!(publish(&mut a, ROOM, "refuse").await, 499);
    assert_eq!(recent(&node, &[]).await.len(), 1);
}
