//! A plugin that cannot run any more, met by a node that starts: it is its own app's trouble and nobody else's.

use rusqlite::Connection;
use serde_json::json;
use tidegate_protocol::{Codec, ConnectRequest};
use tidegate_tests::{Client, Node, NodeBuilder, api::Http, guests, within};

const ROOM: &str = "chat:lobby";

fn node() -> NodeBuilder {
    Node::builder()
        .set("client.allow_anonymous_connect_without_token", json!(true))
        .namespace(json!({
            "name": "chat",
            "allow_subscribe_for_client": true, "allow_subscribe_for_anonymous": true,
            "allow_publish_for_client": true, "allow_publish_for_anonymous": true,
        }))
}

/// Publishes as an anonymous client of app `default`; the error and its trace id, if there is one.
async fn publish(node: &Node) -> Option<(u32, String)> {
    let mut client = Client::connect(node, Codec::Json, ConnectRequest::default()).await;
    assert!(client.subscribe(ROOM).await.subscribe.is_some());
    let error = client.publish(ROOM, &json!({ "a": 1 })).await.error?;
    let trace = error
        .message
        .split_once("trace ")
        .map(|(_, rest)| rest.trim_end_matches(')').to_owned());
    Some((error.code, trace.unwrap_or_default()))
}

#[tokio::test]
async fn w5_a_damaged_artifact_fails_its_own_binding_and_neither_the_start_nor_another_app() {
    let data = tempfile::tempdir().unwrap();
    let mut before = node().data_dir(data.path()).start();
    before
        .install("guest-trap", "filtering@namespace:chat", &json!({}))
        .await;
    assert_eq!(publish(&before).await, None);
    before
        .cli(&["app", "create", "shop", "--json"])
        .await
        .json();
    let made = before
        .cli(&["app", "keys", "shop", "--create", "api", "--json"])
        .await
        .json();
    let key = made["secret"].as_str().unwrap().to_owned();
    let stamp = guests::wasm("guest-stamp");
    let bind = ["--bind", "filtering@namespace:chat", "--app", "shop"];
    let options = [&["--activate"], &bind[..]].concat();
    before.push(&stamp, "stamp", &options).await.json();
    before.terminate();
    within("the node ends", before.ended()).await;

    let control = Connection::open(data.path().join("control.db")).unwrap();
    control
        .execute_batch(
            "DROP TRIGGER artifacts_do_not_change;
             UPDATE artifacts SET bytes = zeroblob(100) WHERE digest IN
               (SELECT v.digest FROM versions v JOIN plugins p ON p.id = v.plugin WHERE p.name = 'guest-trap');",
        )
        .unwrap();
    drop(control);

    let after = node().data_dir(data.path()).start();
    let said = after
        .log()
        .next(&mut 0, |line| {
            line["level"] == "ERROR" && line.to_string().contains("a plugin cannot run")
        })
        .await;
    assert!(said.to_string().contains("guest-trap"), "{said}");

    // The app whose plugin it is: refused, with a story that says why.
    let (code, trace) = publish(&after).await.expect("the binding is closed");
    assert_eq!(code, 100);
    let told = after.cli(&["explain", &trace, "--json"]).await.json();
    let step = &told["story"]["plugins"][0];
    assert_eq!(step["plugin"], "guest-trap");
    let detail = step["detail"].as_str().unwrap();
    assert!(detail.contains("artifact"), "{detail}");
    let listed = after.cli(&["plugin", "list"]).await;
    assert!(
        listed
            .stdout
            .contains("guest-trap does not run at filtering@namespace:chat: artifact"),
        "{}",
        listed.stdout
    );

    // Another app: as ever, and it can be changed.
    let shop = Http::new(after.client_addr()).header("X-API-Key", &key);
    shop.call("publish", &json!({ "channel": ROOM, "data": {} }))
        .await;
    after
        .cli(&[
            "plugin",
            "bind",
            "stamp",
            "filtering",
            "--app",
            "shop",
            "--scope",
            "app",
            "--json",
        ])
        .await
        .json();

    // And the way out.
    after
        .cli(&[
            "plugin",
            "unbind",
            "guest-trap",
            "filtering",
            "--scope",
            "namespace:chat",
            "--json",
        ])
        .await
        .json();
    assert_eq!(publish(&after).await, None);
}
