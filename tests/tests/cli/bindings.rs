//! What the command line shows and keeps of bindings.

use serde_json::{Value, json};
use tidegate_tests::guests;

use super::{node, text};

#[tokio::test]
async fn pushing_or_binding_again_keeps_settings_until_others_are_given() {
    let node = node();
    let folder = tempfile::tempdir().unwrap();
    let file = guests::variant("guest-stamp", "one", folder.path());
    let file = file.display().to_string();
    let push = [
        "plugin",
        "push",
        &file,
        "--name",
        "stamp",
        "--activate",
        "--bind",
        "filtering@namespace:chat",
    ];
    let first = [&push[..], &["--config", "{\"loud\": true}"]].concat();
    let said = text(node.cli(&first).await);
    assert!(said.contains("stamp version 1 is there"), "{said}");
    let bind = [
        "plugin",
        "bind",
        "stamp",
        "filtering",
        "--scope",
        "namespace:chat",
    ];
    let open = [&bind[..], &["--failure-policy", "open"]].concat();
    let said = text(node.cli(&open).await);
    assert!(said.contains("settings kept"), "{said}");

    let said = text(node.cli(&push).await);
    assert!(
        said.contains("nothing new: these bytes are version 1 of stamp"),
        "{said}"
    );
    assert!(
        said.contains("filtering@namespace:chat (settings and failure policy kept)"),
        "{said}"
    );
    let listed = node.cli(&["plugin", "list", "--json"]).await.json();
    let binding = &listed["bindings"][0];
    assert_eq!(
        (&binding["config"], &binding["failure_policy"]),
        (&json!({ "loud": true }), &json!("open"))
    );

    let cleared = [&bind[..], &["--config", "{}", "--json"]].concat();
    let cleared = node.cli(&cleared).await.json();
    assert_eq!(
        (&cleared["config"], &cleared["failure_policy"]),
        (&json!({}), &json!("open"))
    );
}

#[tokio::test]
async fn the_list_shows_order_scope_policy_and_settings_without_their_secrets() {
    let node = node();
    let folder = tempfile::tempdir().unwrap();
    let file = guests::variant("guest-stamp", "one", folder.path());
    let file = file.display().to_string();
    for name in ["first", "second"] {
        let push = ["plugin", "push", &file, "--name", name, "--activate"];
        text(node.cli(&push).await);
    }
    let settings = json!({ "api_key": "hunter2", "words": 3 }).to_string();
    let bind = [
        "plugin",
        "bind",
        "second",
        "filtering",
        "--scope",
        "namespace:chat",
        "--failure-policy",
        "open",
        "--config",
        &settings,
    ];
    let said = node.cli(&bind).await;
    assert!(!said.stderr.contains("warning"), "{}", said.stderr);
    let bind = [
        "plugin",
        "bind",
        "first",
        "filtering",
        "--scope",
        "namespace:caht",
    ];
    let said = node.cli(&bind).await;
    assert!(said.stderr.contains("no namespace caht"), "{}", said.stderr);

    let listed = text(node.cli(&["plugin", "list"]).await);
    let row = listed.lines().find(|line| line.contains(":chat")).unwrap();
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(
        cells[..4],
        ["filtering@namespace:chat", "0", "second", "open"]
    );
    assert!(
        row.ends_with(r#"{"api_key":"[redacted]","words":3}"#),
        "{row}"
    );

    let hidden = node.cli(&["plugin", "list", "--json"]).await;
    assert!(!hidden.stdout.contains("hunter2"), "{}", hidden.stdout);
    let revealed = node.cli(&["plugin", "list", "--json", "--reveal"]).await;
    assert!(revealed.stdout.contains("hunter2"), "{}", revealed.stdout);

    let made = ["app", "keys", "default", "--create", "deploy", "--json"];
    let made = node.cli(&made).await.json();
    let key = folder.path().join("deploy.key");
    std::fs::write(&key, made["secret"].as_str().unwrap()).unwrap();
    let key = key.display().to_string();
    let list = ["plugin", "list", "--reveal", "--admin-key-file", &key];
    let refused = node.cli(&list).await;
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("operator"), "{}", refused.stderr);
}

#[tokio::test]
async fn a_push_that_cannot_bind_says_what_it_did_before() {
    let node = node();
    let folder = tempfile::tempdir().unwrap();
    let file = guests::variant("guest-stamp", "one", folder.path());
    // It exports filtering alone.
    let options = [
        "--activate",
        "--bind",
        "filtering@namespace:chat",
        "--bind",
        "rpc@app",
        "--bind",
        "routing@app",
    ];
    let refused = node.push(&file, "stamp", &options).await;
    assert_eq!((refused.code, &*refused.stdout), (Some(1), ""));
    let said: Value = serde_json::from_str(&refused.stderr).unwrap();
    let error = &said["error"];
    let message = error["message"].as_str().unwrap();
    assert!(
        message.starts_with(
            "stamp: version 1 is there and answers from now on; it was bound at \
             filtering@namespace:chat; routing@app was not tried; it was not bound at rpc@app: "
        ),
        "{message}"
    );
    let details = &error["details"];
    assert_eq!(details["done"]["activation"]["version"], 1, "{details}");
    assert_eq!(
        details["done"]["bindings"][0]["scope"], "namespace:chat",
        "{details}"
    );
    assert_eq!(details["not_bound"], json!(["rpc@app", "routing@app"]));

    // And so it is.
    let listed = node.cli(&["plugin", "list", "--json"]).await.json();
    assert_eq!(listed["plugins"][0]["active_version"], 1);
    assert_eq!(listed["bindings"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_hook_in_several_scopes_is_unbound_in_one_or_in_all_as_it_is_said() {
    let node = node();
    let folder = tempfile::tempdir().unwrap();
    let file = guests::variant("guest-stamp", "one", folder.path());
    let bind_both = [
        "--activate",
        "--bind",
        "filtering@app",
        "--bind",
        "filtering@namespace:chat",
    ];
    node.push(&file, "stamp", &bind_both).await.json();
    let unbind = async |options: &[&str]| {
        let unbind = ["plugin", "unbind", "stamp", "filtering"];
        node.cli(&[&unbind[..], options].concat()).await
    };
    let number = async || {
        let listed = node.cli(&["plugin", "list", "--json"]).await.json();
        listed["bindings"].as_array().unwrap().len()
    };

    let refused = unbind(&[]).await;
    assert_eq!((refused.code, &*refused.stdout), (Some(2), ""));
    for said in [
        "app, namespace:chat",
        "nothing was removed",
        "--scope app",
        "--all-scopes",
    ] {
        assert!(refused.stderr.contains(said), "{}", refused.stderr);
    }
    assert_eq!(number().await, 2);
    let removed = unbind(&["--all-scopes", "--json"]).await.json();
    assert_eq!(removed["removed"].as_array().unwrap().len(), 2);
    assert_eq!(number().await, 0);

    node.push(&file, "stamp", &bind_both).await.json();
    let removed = unbind(&["--scope", "app", "--json"]).await.json();
    assert_eq!(removed["removed"][0]["scope"], "app");
    // There is one left, and no doubt about which.
    let removed = unbind(&["--json"]).await.json();
    assert_eq!(removed["removed"][0]["scope"], "namespace:chat");
    assert_eq!(number().await, 0);
}
