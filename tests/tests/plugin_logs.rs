//! The log of a plugin: what it said, what the node said about it, what is missing, and who may read it.

use serde_json::{Value, json};
use tidegate_protocol::{Codec, Command, PublishRequest};
use tidegate_tests::{
    Client, Node,
    api::Http,
    client::{raw, with_token},
    guests,
    token::{SECRET, mint, unix_time},
    within,
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout},
};

const ROOM: &str = "chat:lobby";
const CHATTY: &str = "guest-chatty";

async fn node() -> Node {
    let node = Node::builder()
        .set("client.token.hmac_secret_key", json!(SECRET))
        // No stories by sample: what is told here is told for a reason.
        .set("plugins.explain_interval", json!("0s"))
        .namespace(json!({
            "name": "chat",
            "allow_subscribe_for_client": true, "allow_publish_for_client": true,
        }))
        .start();
    node.install(CHATTY, "filtering@namespace:chat", &json!({}))
        .await;
    node
}

async fn client(node: &Node, user: &str) -> Client {
    let token = mint(&json!({ "sub": user, "exp": unix_time(3_600) }));
    let mut client = Client::connect(node, Codec::Json, with_token(&token)).await;
    assert!(client.subscribe(ROOM).await.subscribe.is_some());
    client
}

/// Has the plugin say this in one call.
async fn say(client: &mut Client, texts: &[&str]) {
    let say: Vec<_> = texts.iter().map(|text| json!({ "text": text })).collect();
    let reply = client.publish(ROOM, &json!({ "say": say })).await;
    assert!(reply.publish.is_some(), "{reply:?}");
}

/// Whether the node notes how near to its limits a call came, which depends on what else the machine has to do.
fn is_note(item: &Value) -> bool {
    item["from"] == "node" && item["failure"].is_null()
}

/// The lines of the plugin's log that these options pick, as objects, without notes.
async fn lines(node: &Node, options: &[&str]) -> Vec<Value> {
    let mut lines = lines_and_notes(node, options).await;
    lines.retain(|line| !is_note(line));
    lines
}

async fn lines_and_notes(node: &Node, options: &[&str]) -> Vec<Value> {
    let args = [&["plugin", "logs", CHATTY, "--json"], options].concat();
    let ended = node.cli(&args).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
    ended.stdout.lines().map(parse).collect()
}

fn messages(lines: &[Value]) -> Vec<&str> {
    let messages = lines.iter().map(|line| line["message"].as_str());
    messages.map(Option::unwrap_or_default).collect()
}

struct Follower {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Follower {
    /// Runs `plugin logs --follow`; lines that the plugin says from now on are seen for certain after the first that
    /// was said before, which is waited for.
    async fn start(node: &Node, options: &[&str]) -> Self {
        let args = [&["plugin", "logs", CHATTY, "--json", "--follow"], options].concat();
        let mut child = node.spawn_cli(&args);
        let stdout = child.stdout.take().expect("stdout is piped");
        let mut follower = Self {
            child,
            lines: BufReader::new(stdout).lines(),
        };
        follower.next().await;
        follower
    }

    /// The next item that is no note.
    async fn next(&mut self) -> Value {
        loop {
            let item = self.next_or_note().await;
            if !is_note(&item) {
                return item;
            }
        }
    }

    async fn next_or_note(&mut self) -> Value {
        let line = within("the follower prints a line", self.lines.next_line()).await;
        let line = line.expect("stdout is readable").expect("there is a line");
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"))
    }
}

#[tokio::test]
async fn a_line_carries_whose_command_it_was_and_filters_pick_it() {
    let node = node().await;
    let empty = node.cli(&["plugin", "logs", CHATTY]).await;
    assert_eq!((empty.code, &*empty.stdout), (Some(0), ""));
    assert!(empty.stderr.contains("logged nothing"), "{}", empty.stderr);
    assert!(empty.stderr.contains("log::info!"), "{}", empty.stderr);

    // A second plugin in the pipeline: the lines of one command belong together over plugins.
    let options = ["--activate", "--bind", "filtering@app"];
    let wasm = guests::wasm(CHATTY);
    node.push(&wasm, "second", &options).await.json();
    let (mut alice, mut bob) = (client(&node, "alice").await, client(&node, "bob").await);
    say(&mut alice, &["one", "two"]).await;
    say(&mut bob, &["three"]).await;

    let all = lines(&node, &[]).await;
    assert_eq!(messages(&all), ["one", "two", "three"]);
    let first = &all[0];
    for (member, value) in [
        ("event", json!("line")),
        ("number", json!(1)),
        ("level", json!("info")),
        ("from", json!("plugin")),
        ("plugin", json!(CHATTY)),
        ("version", json!(1)),
        ("hook", json!("filtering")),
        ("user", json!("alice")),
        ("channel", json!(ROOM)),
    ] {
        assert_eq!(first[member], value, "{member}");
    }
    assert!(first["client"].as_str().is_some_and(|id| !id.is_empty()));
    let trace = first["trace"].as_str().expect("a line has a trace id");
    assert_eq!(all[1]["trace"], first["trace"]);
    assert_ne!(all[2]["trace"], first["trace"]);

    let of = lines(&node, &["--user", "bob"]).await;
    assert_eq!(messages(&of), ["three"]);
    let of = lines(&node, &["--trace", trace]).await;
    assert_eq!(messages(&of), ["one", "two"]);
    assert_eq!(messages(&lines(&node, &["--limit", "1"]).await), ["three"]);
    assert!(lines(&node, &["--version", "2"]).await.is_empty());
    assert!(lines(&node, &["--level", "warn"]).await.is_empty());
    let second = node
        .cli(&["plugin", "logs", "second", "--trace", trace])
        .await;
    assert_eq!(second.stdout.lines().count(), 2, "{}", second.stdout);
    // A call that only logged is no story of its own.
    assert_eq!(node.cli(&["explain", trace]).await.code, Some(1));
}

#[tokio::test]
async fn a_panic_is_in_the_log_with_its_message_and_the_trace_id_that_the_client_got() {
    let node = node().await;
    let mut alice = client(&node, "alice").await;
    let reply = alice
        .publish(
            ROOM,
            &json!({ "say": [{ "text": "before" }], "then": "panic" }),
        )
        .await;
    let error = reply.error.expect("the call failed");
    let (_, trace) = error.message.split_once("trace ").expect("a trace id");
    let trace = trace.trim_end_matches(')');
    let said = lines(&node, &["--trace", trace]).await;
    assert_eq!(messages(&said)[0], "before");
    let panic = &said[1];
    assert_eq!(
        (&panic["level"], &panic["from"]),
        (&json!("error"), &json!("plugin"))
    );
    let message = panic["message"].as_str().unwrap();
    assert!(
        message.contains("told to") && message.contains("lib.rs"),
        "{message}"
    );
    let failed = &said[2];
    assert_eq!(
        (&failed["from"], &failed["failure"]),
        (&json!("node"), &json!("trap"))
    );
    assert_eq!(
        (&failed["user"], &failed["channel"], &failed["level"]),
        (&json!("alice"), &json!(ROOM), &json!("error"))
    );
    assert_eq!(said.len(), 3);
    let grave = lines(&node, &["--level", "error", "--user", "alice"]).await;
    assert_eq!(grave.len(), 2, "{grave:?}");
}

/// Every line that was said is there, or is counted exactly where it is missing; notes have numbers as well.
fn check_account(items: &[Value], said: u64) -> u64 {
    let (mut number, mut dropped, mut notes) = (0, 0, 0);
    for item in items {
        notes += u64::from(is_note(item));
        if item["event"] == "dropped" {
            assert_eq!(item["reason"], "rate-limit", "{item}");
            let count = item["count"].as_u64().expect("a count");
            assert!(count > 0);
            (number, dropped) = (number + count, dropped + count);
        } else {
            number += 1;
            assert_eq!(item["number"], number, "{item}");
        }
    }
    assert_eq!(number, said + notes);
    dropped
}

#[tokio::test]
async fn w6_of_a_flood_a_hundred_lines_a_second_are_kept_and_the_others_counted_where_they_were() {
    const CALLS: u64 = 11;
    const LINES: u64 = 90;
    let node = node().await;
    let mut alice = client(&node, "alice").await;
    say(&mut alice, &["first"]).await;
    let mut follower = Follower::start(&node, &[]).await;
    let flood = json!({ "say": [{ "text": "spam", "times": LINES }] });
    // In one frame, so that a second sees many of them on a busy machine, too.
    let publish = || Command {
        publish: Some(Box::new(PublishRequest {
            channel: ROOM.to_owned(),
            data: raw(&flood),
            ..PublishRequest::default()
        })),
        ..Command::default()
    };
    let commands = (0..CALLS).map(|_| publish()).collect();
    for id in alice.send_commands(commands).await {
        let reply = alice.reply(id).await;
        assert!(reply.publish.is_some(), "{reply:?}");
    }
    let said = 1 + CALLS * LINES;
    let recent = lines_and_notes(&node, &["--limit", "1000"]).await;
    let dropped = check_account(&recent, said);
    assert!(dropped > 0, "eleven calls of one frame took ten seconds");

    // Who follows is told the same, each line once.
    let mut followed = vec![recent[0].clone()];
    let mut accounted = 1;
    while accounted < said {
        let item = follower.next_or_note().await;
        accounted += match &item {
            note if is_note(note) => 0,
            item => item["count"].as_u64().unwrap_or(1),
        };
        followed.push(item);
    }
    assert_eq!(check_account(&followed, said), dropped);
    let metrics = node.metrics().await;
    assert_eq!(
        metrics.get("tidegate_plugin_log_lines_dropped_total"),
        dropped
    );
}

#[tokio::test]
async fn a_follower_sees_lines_as_they_are_said_and_ends_with_the_node() {
    let mut node = node().await;
    let (mut alice, mut bob) = (client(&node, "alice").await, client(&node, "bob").await);
    say(&mut alice, &["before", "last before"]).await;
    let mut all = Follower::start(&node, &["--limit", "1"]).await;
    let mut of_bob = {
        say(&mut bob, &["bob was here"]).await;
        Follower::start(&node, &["--user", "bob"]).await
    };
    assert_eq!(all.next().await["message"], "bob was here");
    for n in 0..3 {
        let text = n.to_string();
        say(&mut alice, &[&text]).await;
        assert_eq!(all.next().await["message"], *text);
    }
    say(&mut bob, &["again"]).await;
    assert_eq!(all.next().await["message"], "again");
    assert_eq!(of_bob.next().await["message"], "again");

    node.terminate();
    for follower in [&mut all, &mut of_bob] {
        let end = follower.next().await;
        assert_eq!(end["event"], "end");
        let ended = within("the follower ends", follower.child.wait()).await;
        assert!(ended.unwrap().success());
    }
    assert_eq!(within("the node ends", node.ended()).await, Some(0));
}

#[tokio::test]
async fn w6_neither_a_plugin_nor_a_user_can_forge_a_line() {
    let node = node().await;
    let user = "eve\n2026-11-21T00:00:00.000Z error v1 filtering  forged\u{1b}[31m\u{202e}";
    let mut eve = client(&node, user).await;
    let text =
        "real\n2026-11-21T00:00:00.000Z error v1 filtering  forged\u{1b}[31m\u{7}\r\u{2028}x";
    say(&mut eve, &[text]).await;
    let shown = node
        .cli(&["plugin", "logs", CHATTY, "--user", user])
        .await
        .stdout;
    assert_eq!(shown.lines().count(), 1, "{shown}");
    let line = shown.trim_end_matches('\n');
    let is_odd = |char: char| char.is_control() || ('\u{2028}'..='\u{202e}').contains(&char);
    assert!(!line.contains(is_odd), "{line:?}");
    assert!(line.contains("info  v1 filtering"), "{line}");
    let said = lines(&node, &["--user", user]).await;
    assert_eq!(said.len(), 1);
    assert_eq!(
        said[0]["message"],
        "real\\n2026-11-21T00:00:00.000Z error v1 filtering  forged\\u{1b}[31m\\u{7}\\r\\u{2028}x"
    );
    // The node's own log repeats the line, escaped as well.
    let mut cursor = 0;
    let repeated = node
        .log()
        .next(&mut cursor, |line| line["target"] == "tidegate::plugin")
        .await;
    assert_eq!(repeated["fields"]["line"], said[0]["message"]);
    assert_eq!(repeated["fields"]["trace_id"], said[0]["trace"]);
}

#[tokio::test]
async fn n2_the_log_is_for_keys_of_its_app_that_may_look_at_plugins() {
    let node = node().await;
    let mut alice = client(&node, "alice").await;
    say(&mut alice, &["ours"]).await;
    node.cli(&["app", "create", "shop", "--json"]).await.json();
    let key = async |app: &str, role: &str| {
        let made = node
            .cli(&["app", "keys", app, "--create", role, "--json"])
            .await
            .json();
        made["secret"].as_str().expect("a secret").to_owned()
    };
    let ask = async |key: &str, path: &str| {
        let http = Http::new(node.admin_addr()).header("Authorization", &format!("Bearer {key}"));
        http.get(path).await
    };
    let ours = format!("/admin/v1/apps/default/plugins/{CHATTY}/logs");
    let theirs = format!("/admin/v1/apps/shop/plugins/{CHATTY}/logs");
    let of_shop = key("shop", "app-admin").await;
    for path in [&ours, &format!("{ours}/follow"), &theirs] {
        let refused = ask(&of_shop, path).await;
        assert_eq!(
            (refused.status, &refused.json()["code"]),
            (404, &json!("not-found"))
        );
        assert!(!refused.json().to_string().contains("ours"));
    }
    let api = key("default", "api").await;
    assert_eq!(ask(&api, &ours).await.status, 401);
    let deploy = key("default", "deploy").await;
    let read = ask(&deploy, &ours).await.json();
    assert_eq!(read["items"][0]["message"], "ours");
}
