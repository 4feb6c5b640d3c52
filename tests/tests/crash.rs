//! kill -9 at any moment: what was acknowledged is there afterwards, what was not is there whole or not at all.

use serde_json::{Value, json};
use tidegate_protocol::{Codec, ConnectRequest};
use tidegate_tests::{Client, Node, NodeBuilder, guests, within};

fn node() -> NodeBuilder {
    Node::builder()
        .set("client.allow_anonymous_connect_without_token", json!(true))
        .namespace(json!({
            "name": "crash",
            "allow_subscribe_for_client": true, "allow_subscribe_for_anonymous": true,
            "allow_publish_for_client": true, "allow_publish_for_anonymous": true,
        }))
}

/// Numbers of the versions that the control store has, and the active one.
async fn versions(node: &Node) -> (Vec<u64>, Option<u64>) {
    let listed = node
        .cli(&["plugin", "versions", "stamp", "--json"])
        .await
        .json();
    let rows = listed["versions"].as_array().cloned().unwrap_or_default();
    let number = |row: &Value| row["version"].as_u64().or_else(|| row["number"].as_u64());
    let mut numbers: Vec<u64> = rows.iter().filter_map(number).collect();
    numbers.sort_unstable();
    let inspected = node
        .cli(&["plugin", "inspect", "stamp", "--json"])
        .await
        .json();
    (numbers, inspected["active_version"].as_u64())
}

/// Publishes through the filter; the version that answered.
async fn judged_by(node: &Node) -> u64 {
    let mut client = Client::connect(node, Codec::Json, ConnectRequest::default()).await;
    assert!(client.subscribe("crash:x").await.subscribe.is_some());
    assert!(
        client
            .publish("crash:x", &json!({ "a": 1 }))
            .await
            .publish
            .is_some()
    );
    let (data, _) = client.publication().await;
    data["v"].as_u64().expect("the guest stamps its version")
}

#[tokio::test(flavor = "multi_thread")]
async fn control_state_is_whole_after_kills_during_upload_activation_and_traffic() {
    let data = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut running = node().data_dir(data.path()).start();
    let first = guests::variant("guest-stamp", "0", folder.path());
    let pushed = running.push(&first, "stamp", &["--activate"]).await;
    pushed.json();
    running
        .cli(&[
            "plugin",
            "bind",
            "stamp",
            "filtering",
            "--scope",
            "namespace:crash",
            "--json",
        ])
        .await
        .json();
    let mut acknowledged_versions = 1;
    let mut acknowledged_active = 1;
    for round in 1..=6_u64 {
        // Traffic that the kill cuts: its errors are expected, its panics are nobody's business.
        let mut client = Client::connect(&running, Codec::Json, ConnectRequest::default()).await;
        let mut traffic = tokio::task::JoinSet::new();
        traffic.spawn(async move {
            loop {
                client.publish("crash:x", &json!({ "round": round })).await;
            }
        });
        let file = guests::variant("guest-stamp", &round.to_string(), folder.path());
        let file = file.to_str().unwrap().to_owned();
        // Odd rounds are killed during the upload, even ones during the activation, every fourth after its answer.
        // How far the command got is the scheduler's choice; the number of turns moves it along.
        let turns = round * round * 40;
        let mut args = vec!["plugin", "push", &file, "--name", "stamp", "--json"];
        let target;
        if round % 2 == 0 {
            acknowledged_versions = running.cli(&args).await.json()["version"]
                .as_u64()
                .expect("an upload answers its number");
            target = acknowledged_versions.to_string();
            args = vec!["plugin", "activate", "stamp", &target, "--json"];
        }
        if round % 4 == 0 {
            running.cli(&args).await.json();
            acknowledged_active = acknowledged_versions;
            running.kill();
        } else {
            let command = running.spawn_cli(&args);
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
            running.kill();
            let ended = within("the command's end", command.wait_with_output()).await;
            ended.expect("the command was started by us");
        }
        traffic.shutdown().await;

        running = node().data_dir(data.path()).start();
        let (numbers, active) = versions(&running).await;
        let last = *numbers.last().expect("the first version was acknowledged");
        assert_eq!(
            numbers,
            (1..=last).collect::<Vec<_>>(),
            "round {round}: a hole"
        );
        assert!(
            last >= acknowledged_versions,
            "round {round}: an acknowledged upload is gone"
        );
        let active = active.expect("a version was activated");
        assert!(
            active >= acknowledged_active,
            "round {round}: an acknowledged activation is gone"
        );
        assert_eq!(
            judged_by(&running).await,
            active,
            "round {round}: what runs is not what is stored"
        );
        acknowledged_versions = last;
        acknowledged_active = active;
    }
    let database = rusqlite::Connection::open(data.path().join("control.db")).unwrap();
    let verdict: String = database
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(verdict, "ok");
}
