//! The command line against a live node, as its users type it: results, JSON, exit codes, what to do next.

mod access;
mod bindings;
mod failures;

use serde_json::{Value, json};
use tempfile::TempDir;
use tidegate_protocol::{Codec, ConnectRequest};
use tidegate_tests::{
    Client, Node,
    cli::{Ended, run_in, run_with},
    client::with_token,
    guests,
    token::SECRET,
    within,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, BufReader, Lines},
    process::{ChildStdout, Command},
};

const ROOM: &str = "chat:lobby";

fn node() -> Node {
    Node::builder()
        .set("client.token.hmac_secret_key", json!(SECRET))
        .set("client.allow_anonymous_connect_without_token", json!(true))
        .namespace(json!({
            "name": "chat", "history_size": 10, "history_ttl": "60s",
            "allow_subscribe_for_client": true, "allow_subscribe_for_anonymous": true,
            "allow_publish_for_client": true, "allow_publish_for_anonymous": true,
        }))
        .start()
}

/// A folder with a configuration file that has the node's token secret.
fn folder() -> (TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tidegate.json");
    let config = json!({ "client": { "token": { "hmac_secret_key": SECRET } } });
    std::fs::write(&file, config.to_string()).expect("a file");
    let file = file.display().to_string();
    (folder, file)
}

async fn join(node: &Node) -> Client {
    let mut client = Client::connect(node, Codec::Json, ConnectRequest::default()).await;
    assert!(client.subscribe(ROOM).await.subscribe.is_some());
    client
}

/// What a reader of the room gets of `data`.
async fn through(client: &mut Client, data: &Value) -> Value {
    let reply = client.publish(ROOM, data).await;
    assert!(reply.publish.is_some(), "{reply:?}");
    client.publication().await.0
}

/// Names of an object's members, in order.
fn members(value: &Value) -> Vec<&str> {
    let object = value.as_object().unwrap_or_else(|| panic!("{value}"));
    let mut names: Vec<&str> = object.keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

/// Standard output of a command that must succeed.
#[track_caller]
fn text(ended: Ended) -> String {
    assert_eq!(ended.code, Some(0), "{} {}", ended.stdout, ended.stderr);
    ended.stdout
}

/// Cargo as a stranger has it, but without the network and with the crates of this repository.
fn cargo_variables(target: &str) -> [(&str, &str); 2] {
    [("CARGO_NET_OFFLINE", "true"), ("CARGO_TARGET_DIR", target)]
}

#[tokio::test]
async fn a_new_plugin_goes_from_an_empty_directory_to_what_a_client_sees() {
    let node = node();
    let folder = tempfile::tempdir().unwrap();
    let made = run_in(folder.path(), &["plugin", "new", "shout", "--json"])
        .await
        .json();
    assert_eq!(made, json!({ "name": "shout", "path": "shout" }));
    let crate_dir = folder.path().join("shout");
    std::fs::write(
        crate_dir.join("Cargo.lock"),
        include_str!("../../../Cargo.lock"),
    )
    .unwrap();
    // Beside our own, so that a second run finds the crates compiled.
    let executable = std::env::current_exe().unwrap();
    let target = executable.ancestors().nth(3).unwrap().join("new-plugin");
    let target = target.display().to_string();
    let variables = cargo_variables(&target);

    let tested = Command::new("cargo")
        .args(["test", "--quiet"])
        .current_dir(&crate_dir)
        .envs(variables)
        .output()
        .await
        .unwrap();
    assert!(
        tested.status.success(),
        "{}",
        String::from_utf8_lossy(&tested.stderr)
    );

    let built = run_with(&crate_dir, &variables, &["plugin", "build", "--json"])
        .await
        .json();
    assert_eq!(members(&built), ["name", "path", "size"]);
    assert_eq!(built["name"], "shout");
    let wasm = std::fs::metadata(built["path"].as_str().unwrap()).unwrap();
    assert_eq!(built["size"], wasm.len());

    let (admin_key, admin_url) = (node.admin_key(), format!("http://{}", node.admin_addr()));
    let mut variables = variables.to_vec();
    variables.extend([
        ("TIDEGATE_ADMIN_KEY", &*admin_key),
        ("TIDEGATE_ADMIN_URL", &*admin_url),
    ]);
    let mut client = join(&node).await;
    assert_eq!(
        through(&mut client, &json!({ "text": " hi " })).await["text"],
        " hi "
    );
    let push = [
        "plugin",
        "push",
        "--activate",
        "--bind",
        "filtering@namespace:chat",
        "--config",
        "{\"loud\": true}",
        "--json",
    ];
    let pushed = run_with(&crate_dir, &variables, &push).await.json();
    assert_eq!(
        members(&pushed),
        ["activation", "bindings", "plugin", "upload", "version"]
    );
    assert_eq!(
        (&pushed["plugin"], &pushed["version"]),
        (&json!("shout"), &json!(1))
    );
    assert_eq!(pushed["activation"]["version"], 1);
    assert_eq!(pushed["bindings"][0]["scope"], "namespace:chat");
    // The client that was there before sees the effect.
    assert_eq!(
        through(&mut client, &json!({ "text": " hi " })).await["text"],
        "HI"
    );
    let refused = client.publish(ROOM, &json!({ "text": "  " })).await;
    assert_eq!(refused.error.expect("it is empty").code, 422);
}

#[tokio::test]
async fn versions_are_listed_inspected_rolled_back_unbound_and_deleted() {
    let node = node();
    let folder = tempfile::tempdir().unwrap();
    for mark in ["one", "two"] {
        let file = guests::variant("guest-stamp", mark, folder.path());
        let file = file.display().to_string();
        let push = [
            "plugin",
            "push",
            &file,
            "--name",
            "stamp",
            "--note",
            mark,
            "--activate",
        ];
        let said = text(node.cli(&push).await);
        assert!(said.contains("answers from now on"), "{said}");
    }
    let said = text(
        node.cli(&[
            "plugin",
            "bind",
            "stamp",
            "filtering",
            "--scope",
            "namespace:chat",
        ])
        .await,
    );
    assert_eq!(said.trim(), "stamp is asked at filtering@namespace:chat");
    let mut client = join(&node).await;
    assert_eq!(through(&mut client, &json!({})).await["v"], 2);

    let listed = node
        .cli(&["plugin", "versions", "stamp", "--json"])
        .await
        .json();
    let versions = listed["versions"].as_array().unwrap();
    let row = |version: &Value| {
        (
            version["number"].clone(),
            version["note"].clone(),
            version["is_active"].clone(),
        )
    };
    assert_eq!(
        versions.iter().map(row).collect::<Vec<_>>(),
        [
            (json!(2), json!("two"), json!(true)),
            (json!(1), json!("one"), json!(false))
        ]
    );
    let fields = [
        "created_at",
        "digest",
        "hooks",
        "imports",
        "is_active",
        "note",
        "number",
        "size",
    ];
    assert_eq!(members(&versions[0]), fields);
    let said = text(node.cli(&["plugin", "versions", "stamp"]).await);
    assert!(
        said.lines()
            .nth(1)
            .is_some_and(|line| line.starts_with('2') && line.contains("active")),
        "{said}"
    );

    let newest = node
        .cli(&["plugin", "inspect", "stamp", "--json"])
        .await
        .json();
    assert_eq!(
        (&newest["number"], &newest["active_version"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(newest["hooks"], json!(["filtering"]));
    let first = node
        .cli(&["plugin", "inspect", "stamp", "1", "--json"])
        .await
        .json();
    assert_eq!(
        (&first["number"], &first["digest"]),
        (&json!(1), &versions[1]["digest"])
    );
    let said = text(node.cli(&["plugin", "inspect", "stamp"]).await);
    assert!(
        said.contains("filtering") && said.contains("digest"),
        "{said}"
    );

    let back = node
        .cli(&["plugin", "rollback", "stamp", "--json"])
        .await
        .json();
    assert_eq!(
        (&back["version"], &back["previous_version"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(through(&mut client, &json!({})).await["v"], 1);
    let said = text(node.cli(&["plugin", "list"]).await);
    assert!(said.contains("filtering@namespace:chat"), "{said}");

    let bound = node.cli(&["plugin", "delete", "stamp"]).await;
    assert_eq!(bound.code, Some(1), "a bound plugin stays");
    assert!(bound.stderr.contains("unbind"), "{}", bound.stderr);
    let removed = node
        .cli(&["plugin", "unbind", "stamp", "--json"])
        .await
        .json();
    assert_eq!(removed["removed"][0]["hook"], "filtering");
    assert_eq!(
        through(&mut client, &json!({ "s": 1 })).await,
        json!({ "s": 1 })
    );
    let deleted = node
        .cli(&["plugin", "delete", "stamp", "--json"])
        .await
        .json();
    assert_eq!(deleted, json!({ "deleted": "stamp" }));
    let listed = node.cli(&["plugin", "list", "--json"]).await.json();
    assert_eq!(listed, json!({ "plugins": [], "bindings": [] }));
}

async fn line<R: AsyncRead + Unpin>(lines: &mut Lines<BufReader<R>>) -> String {
    let line = within("a line", lines.next_line())
        .await
        .expect("lines are read");
    line.expect("the command goes on")
}

async fn event(lines: &mut Lines<BufReader<ChildStdout>>) -> Value {
    let line = line(lines).await;
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

#[tokio::test]
async fn subscribe_is_a_live_client_that_prints_what_publish_sends() {
    let node = node();
    let (_folder, config) = folder();
    let mut follower = node.spawn_cli(&[
        "subscribe",
        ROOM,
        "--user",
        "alice",
        "--config",
        &config,
        "--count",
        "1",
        "--json",
    ]);
    let mut events = BufReader::new(follower.stdout.take().unwrap()).lines();
    let connected = event(&mut events).await;
    assert_eq!(
        (&connected["event"], members(&connected)),
        (&json!("connected"), vec!["client", "event"])
    );
    let subscribed = event(&mut events).await;
    assert_eq!(
        subscribed,
        json!({ "event": "subscribed", "channel": ROOM, "recovered": null })
    );
    let publish = [
        "publish",
        ROOM,
        "{\"text\": \"hello\"}",
        "--tag",
        "lang=en",
        "--json",
    ];
    let published = node.cli(&publish).await.json();
    assert_eq!(
        (published["offset"].as_u64(), published["epoch"].is_string()),
        (Some(1), true)
    );
    let arrived = event(&mut events).await;
    assert_eq!(arrived["event"], "publication");
    assert_eq!(
        (&arrived["channel"], &arrived["offset"]),
        (&json!(ROOM), &json!(1))
    );
    assert_eq!(arrived["data"], json!({ "text": "hello" }));
    assert_eq!(arrived["tags"], json!({ "lang": "en" }));
    assert!(within("the end", follower.wait()).await.unwrap().success());

    // For people: notes on standard error, the publication on standard output.
    let mut follower = node.spawn_cli(&["subscribe", ROOM, "--count", "1"]);
    let mut notes = BufReader::new(follower.stderr.take().unwrap()).lines();
    while !line(&mut notes).await.contains("subscribed") {}
    let said = text(node.cli(&["publish", ROOM, "{\"text\": \"again\"}"]).await);
    assert!(
        said.starts_with("published at offset 2 of epoch "),
        "{said}"
    );
    let mut printed = BufReader::new(follower.stdout.take().unwrap()).lines();
    let said = line(&mut printed).await;
    assert!(said.contains("again") && said.contains(ROOM), "{said}");
    assert!(within("the end", follower.wait()).await.unwrap().success());
}

#[tokio::test]
async fn subscribe_ends_when_the_server_ended_all_it_subscribed_to() {
    let node = node();
    let (_folder, config) = folder();
    let other = "chat:other";
    let mut follower = node.spawn_cli(&[
        "subscribe",
        ROOM,
        other,
        "--user",
        "alice",
        "--config",
        &config,
        "--json",
    ]);
    let mut events = BufReader::new(follower.stdout.take().unwrap()).lines();
    for _ in ["connected", ROOM, other] {
        event(&mut events).await;
    }
    for channel in [ROOM, other] {
        let unsubscribe = json!({ "user": "alice", "channel": channel });
        node.api().call("unsubscribe", &unsubscribe).await;
        let told = event(&mut events).await;
        assert_eq!(
            (&told["event"], &told["channel"], &told["code"]),
            (&json!("unsubscribed"), &json!(channel), &json!(2000))
        );
    }
    let ended = within("the end", follower.wait_with_output())
        .await
        .unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(said.contains("ended all subscriptions"), "{said}");
}

#[tokio::test]
async fn a_token_of_the_command_line_is_accepted_by_connect() {
    let node = node();
    let (folder, config) = folder();
    let mut args = vec![
        "token",
        "--config",
        &config,
        "--user",
        "alice",
        "--ttl",
        "10m",
        "--channel",
        "chat:news",
    ];
    let plain = text(run_in(folder.path(), &args).await);
    args.extend(["--info", "{\"name\": \"Alice\"}", "--json"]);
    let minted = run_in(folder.path(), &args).await.json();
    assert_eq!(members(&minted), ["expires_at", "token"]);
    for token in [plain.trim(), minted["token"].as_str().unwrap()] {
        let mut client = Client::open(&node, Codec::Json).await;
        let reply = client.connect_with(with_token(token)).await;
        let result = reply.connect.expect("the token is good");
        assert!(
            result.expires && (590..=600).contains(&result.ttl),
            "{result:?}"
        );
        assert!(result.subs.contains_key("chat:news"));
    }
    let refused = run_in(folder.path(), &["token", "--user", "alice"]).await;
    assert_eq!(refused.code, Some(2));
    assert!(
        refused.stderr.contains("client.token.hmac_secret_key"),
        "{}",
        refused.stderr
    );
}

#[tokio::test]
async fn explain_tells_the_story_of_a_trace_id_that_a_client_got() {
    let node = node();
    node.install("guest-trap", "filtering@namespace:chat", &json!({}))
        .await;
    let mut client = join(&node).await;
    let error = client
        .publish(ROOM, &json!({ "do": "panic" }))
        .await
        .error
        .expect("it panics");
    assert_eq!(error.code, 100);
    let (_, trace) = error
        .message
        .split_once("trace ")
        .unwrap_or_else(|| panic!("{error:?}"));
    let trace: String = trace
        .chars()
        .take_while(char::is_ascii_alphanumeric)
        .collect();

    let told = node.cli(&["explain", &trace, "--json"]).await.json();
    assert_eq!(members(&told), ["app", "story", "trace"]);
    let story = &told["story"];
    assert_eq!(
        (&story["hook"], &story["subject"]),
        (&json!("filtering"), &json!(ROOM))
    );
    assert_eq!(story["plugins"][0]["plugin"], "guest-trap");
    let step = &story["plugins"][0];
    assert_eq!(step["failure"], "trap");
    let why = step["log"].to_string();
    assert!(why.contains("panicked at"), "{step}");
    assert!(
        step["backtrace"][0]
            .as_str()
            .is_some_and(|frame| frame.starts_with("0: ")),
        "{step}"
    );
    let at = story["at"].as_str().unwrap_or_default();
    assert!(at.ends_with('Z') && at.contains('T'), "{story}");
    let said = text(node.cli(&["explain", &trace]).await);
    assert!(
        said.contains("guest-trap") && said.contains("trap") && said.contains("error: panicked at"),
        "{said}"
    );
    assert!(!said.contains("0: 0x"), "{said}");
    let said = text(node.cli(&["explain", &trace, "--verbose"]).await);
    assert!(said.contains("\n    0: 0x"), "{said}");
    let logged = node
        .log()
        .next(&mut 0, |line| {
            line["fields"]["message"] == "plugin call failed"
        })
        .await;
    assert_eq!(logged["level"], "WARN");
    assert_eq!(
        (&logged["fields"]["trace_id"], &logged["fields"]["plugin"]),
        (&json!(trace), &json!("guest-trap"))
    );

    assert_eq!(node.cli(&["explain", "nothing"]).await.code, Some(2));
    let unknown = node.cli(&["explain", "000000000000"]).await;
    assert_eq!(unknown.code, Some(1));
    assert!(
        unknown.stderr.contains("recent failures"),
        "{}",
        unknown.stderr
    );
}

#[tokio::test]
async fn health_says_ready() {
    let node = node();
    assert_eq!(text(node.cli(&["health"]).await).trim(), "ready");
    assert_eq!(
        node.cli(&["health", "--json"]).await.json(),
        json!({ "ready": true })
    );
}
