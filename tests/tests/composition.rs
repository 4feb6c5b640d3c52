//! Several plugins at one hook: who is asked, in which order, and how their answers become one. One test per rule.
//!
//! All plugins are the guest that does what data tells it by name. Who was asked shows in the member `seen` of what
//! arrives, and in the statistics.

use serde_json::{Value, json};
use tidegate_protocol::{Codec, ConnectRequest, Reply, SubscribeRequest};
use tidegate_tests::{
    Client, Node,
    client::{raw, with_data},
    guests, within,
};

const ROOM: &str = "chat:lobby";

/// A node that lets anybody do anything but subscribe in `closed`, with history to look things up in.
fn node() -> Node {
    let open = |name: &str| {
        json!({
            "name": name, "history_size": 100, "history_ttl": "600s",
            "allow_subscribe_for_client": true, "allow_subscribe_for_anonymous": true,
            "allow_publish_for_client": true, "allow_publish_for_anonymous": true,
        })
    };
    Node::builder()
        .set("client.allow_anonymous_connect_without_token", json!(true))
        .namespace(open("chat"))
        .namespace(open("news"))
        .namespace(open("ping"))
        .namespace(open("pong"))
        .namespace(json!({ "name": "closed" }))
        .start()
}

/// Uploads the guest under these names, each of which then listens to its own commands.
async fn members(node: &Node, names: &[&str]) {
    let wasm = guests::wasm("guest-member");
    for name in names {
        node.push(&wasm, name, &["--activate"]).await.json();
    }
}

/// Binds one of them; `more` are further options.
async fn bind(node: &Node, name: &str, place: &str, more: &[&str]) {
    let (hook, scope) = place.split_once('@').expect("HOOK@SCOPE");
    let settings = match more {
        ["--mirror", channel] => json!({ "name": name, "mirror": channel }),
        _ => json!({ "name": name }),
    };
    let settings = settings.to_string();
    let mut command = vec![
        "plugin", "bind", name, hook, "--scope", scope, "--config", &settings, "--json",
    ];
    if !more.starts_with(&["--mirror"]) {
        command.extend(more);
    }
    node.cli(&command).await.json();
}

/// `a`, `b` and `c`, bound there in this order.
async fn three(place: &str) -> Node {
    let node = node();
    members(&node, &["a", "b", "c"]).await;
    for name in ["a", "b", "c"] {
        bind(&node, name, place, &[]).await;
    }
    node
}

async fn client(node: &Node) -> Client {
    Client::connect(node, Codec::Json, ConnectRequest::default()).await
}

/// One that hears what is said in these channels.
async fn listener(node: &Node, channels: &[&str]) -> Client {
    let mut client = client(node).await;
    for channel in channels {
        let reply = client.subscribe(channel).await;
        assert!(reply.subscribe.is_some(), "{reply:?}");
    }
    client
}

/// What publishing this comes to: 0, or the error's code.
async fn publish(client: &mut Client, channel: &str, data: &Value) -> u32 {
    code(&client.publish(channel, data).await)
}

fn code(reply: &Reply) -> u32 {
    reply.error.as_ref().map_or(0, |error| error.code)
}

/// Channel and data of the next publication.
async fn heard(listener: &mut Client) -> (String, Value) {
    let push = listener.push().await;
    let publication = push.r#pub.expect("only publications are pushed");
    let data = serde_json::from_slice(publication.data.as_bytes());
    (push.channel, data.expect("tests publish JSON"))
}

/// How often a plugin was asked.
async fn calls(node: &Node, plugin: &str) -> u64 {
    let path = format!("/admin/v1/apps/default/plugins/{plugin}/statistics");
    let answer = node.admin().get(&path).await.json();
    let items = answer["items"].as_array().expect("a list");
    let calls = items.iter().map(|row| row["calls"].as_u64());
    calls.map(Option::unwrap_or_default).sum()
}

#[tokio::test]
async fn filters_are_asked_by_position_and_of_equals_the_app_wide_one_first() {
    let node = node();
    members(&node, &["app-0", "app-1", "chat-0", "chat-1", "news-0"]).await;
    // Bound in another order than they are asked in.
    for (name, place, position) in [
        ("chat-1", "filtering@namespace:chat", "0"),
        ("chat-0", "filtering@namespace:chat", "0"),
        ("news-0", "filtering@namespace:news", "0"),
        ("app-1", "filtering@app", "0"),
        ("app-0", "filtering@app", "0"),
    ] {
        bind(&node, name, place, &["--position", position]).await;
    }
    let mut listener = listener(&node, &[ROOM, "news:1", "ping:1"]).await;
    let mut ann = client(&node).await;
    for (channel, asked) in [
        (ROOM, json!(["app-0", "chat-0", "app-1", "chat-1"])),
        ("news:1", json!(["app-0", "news-0", "app-1"])),
        ("ping:1", json!(["app-0", "app-1"])),
    ] {
        assert_eq!(publish(&mut ann, channel, &json!({})).await, 0);
        let (_, data) = heard(&mut listener).await;
        assert_eq!(data["seen"], asked, "in {channel}");
    }

    // What is shown is what happens.
    let shown = node
        .cli(&[
            "plugin",
            "pipelines",
            "--channel",
            ROOM,
            "--hook",
            "filtering",
            "--json",
        ])
        .await
        .json();
    let [pipeline] = &shown["items"].as_array().unwrap()[..] else {
        panic!("one pipeline: {shown}");
    };
    assert_eq!(pipeline["scope"], "namespace:chat");
    let plugins = pipeline["plugins"].as_array().unwrap();
    let names: Vec<_> = plugins.iter().map(|step| &step["plugin"]).collect();
    assert_eq!(names, ["app-0", "chat-0", "app-1", "chat-1"]);
    let step = json!({
        "plugin": "app-0", "version": 1, "scope": "app", "failure_policy": "closed", "isolation": "shared",
        "lane": "aside", "breaker": "closed", "deadline_ms": 20,
    });
    assert_eq!(plugins[0], step);
    assert_eq!(pipeline["deadlines_ms"], 4 * 20);
    assert!(
        pipeline["worst_case_ms"].as_u64() > Some(4 * 20 + 200),
        "{pipeline}"
    );
    let table = node
        .cli(&["plugin", "pipelines", "--hook", "filtering"])
        .await;
    assert_eq!(table.stdout.matches("app-0").count(), 3, "{}", table.stdout);
}

#[tokio::test]
async fn each_filter_sees_what_the_one_before_made_of_the_message() {
    let node = three("filtering@namespace:chat").await;
    let mut listener = listener(&node, &[ROOM]).await;
    let mut ann = client(&node).await;
    // `b` lets it pass as it came to it.
    let told = json!({ "text": "hello", "do": { "b": "accept" } });
    assert_eq!(publish(&mut ann, ROOM, &told).await, 0);
    let (_, data) = heard(&mut listener).await;
    assert_eq!(data["seen"], json!(["a", "c"]));
    assert_eq!(data["text"], "hello");
}

#[tokio::test]
async fn the_first_refusal_ends_filtering_and_is_the_answer() {
    let node = three("filtering@namespace:chat").await;
    let mut ann = client(&node).await;
    let told = json!({ "do": { "b": "refuse", "c": "refuse" } });
    let reply = ann.publish(ROOM, &told).await;
    assert_eq!(code(&reply), 499);
    assert_eq!(reply.error.unwrap().message, "b");
    assert_eq!((calls(&node, "b").await, calls(&node, "c").await), (1, 0));
}

#[tokio::test]
async fn the_first_drop_ends_filtering_and_its_sender_is_not_told() {
    let node = three("filtering@namespace:chat").await;
    let mut listener = listener(&node, &[ROOM]).await;
    let mut ann = client(&node).await;
    let told = json!({ "do": { "b": "drop", "c": "refuse" } });
    assert_eq!(publish(&mut ann, ROOM, &told).await, 0);
    assert_eq!(calls(&node, "c").await, 0);
    assert_eq!(publish(&mut ann, ROOM, &json!({ "second": true })).await, 0);
    let (_, data) = heard(&mut listener).await;
    assert_eq!(data["second"], true, "the first was dropped");
}

#[tokio::test]
async fn a_closed_policy_fails_the_question_and_an_open_one_passes_over() {
    let node = three("filtering@namespace:chat").await;
    let mut listener = listener(&node, &[ROOM]).await;
    let mut ann = client(&node).await;
    let told = json!({ "do": { "b": "panic" } });
    assert_eq!(publish(&mut ann, ROOM, &told).await, 100);
    assert_eq!(calls(&node, "c").await, 0);
    bind(
        &node,
        "b",
        "filtering@namespace:chat",
        &["--failure-policy", "open"],
    )
    .await;
    assert_eq!(publish(&mut ann, ROOM, &told).await, 0);
    let (_, data) = heard(&mut listener).await;
    assert_eq!(data["seen"], json!(["a", "c"]));
}

#[tokio::test]
async fn authentication_the_first_definite_answer_wins_and_a_failure_closes() {
    let node = three("authentication@app").await;
    for (told, expected) in [
        (json!({ "b": "accept", "c": "refuse" }), 0),
        (json!({ "b": "refuse", "c": "accept" }), 499),
        (json!({ "b": "panic", "c": "accept" }), 100),
    ] {
        let c_before = calls(&node, "c").await;
        let mut ann = Client::open(&node, Codec::Json).await;
        let reply = ann.connect_with(with_data(&json!({ "do": told }))).await;
        assert_eq!(code(&reply), expected, "{told}: {reply:?}");
        assert_eq!(calls(&node, "c").await, c_before, "{told}");
    }
    // Who it is, shows in what they publish.
    let accepted = with_data(&json!({ "do": { "b": "accept" } }));
    let mut b = Client::connect(&node, Codec::Json, accepted).await;
    let mut listener = listener(&node, &[ROOM]).await;
    assert_eq!(publish(&mut b, ROOM, &json!({})).await, 0);
    let push = listener.push().await;
    let info = push.r#pub.and_then(|publication| publication.info.clone());
    assert_eq!(info.expect("a client published it").user, "b");
    // All said that it is not theirs: the built-in outcome decides, and here it lets anybody in.
    assert_eq!(
        calls(&node, "c").await,
        1,
        "the listener alone went past `b`"
    );
}

/// Subscribes with these commands: the error's code, or 0 and the grant's data.
async fn subscribe(node: &Node, channel: &str, told: &Value) -> (u32, Value) {
    let mut ann = client(node).await;
    let request = SubscribeRequest {
        channel: channel.into(),
        data: raw(&json!({ "do": told })),
        ..SubscribeRequest::default()
    };
    let reply = ann.subscribe_with(request).await;
    let data = reply
        .subscribe
        .as_ref()
        .map(|granted| granted.data.as_bytes());
    let data = data.and_then(|data| serde_json::from_slice(data).ok());
    (code(&reply), data.unwrap_or_default())
}

#[tokio::test]
async fn authorization_the_first_definite_answer_wins_and_the_rules_decide_where_there_is_none() {
    let node = three("authorization@app").await;
    for (channel, told, expected) in [
        (
            "closed:1",
            json!({ "b": "accept", "c": "refuse" }),
            (0, json!({ "by": "b" })),
        ),
        (
            ROOM,
            json!({ "a": "refuse", "b": "accept" }),
            (499, Value::Null),
        ),
        (
            ROOM,
            json!({ "a": "panic", "b": "accept" }),
            (100, Value::Null),
        ),
        ("closed:1", json!({}), (103, Value::Null)),
        (ROOM, json!({}), (0, Value::Null)),
    ] {
        assert_eq!(
            subscribe(&node, channel, &told).await,
            expected,
            "{channel} {told}"
        );
    }
    // Of the five, `c` was asked only where nobody before it had an answer.
    assert_eq!(calls(&node, "c").await, 2);
}

#[tokio::test]
async fn rpc_the_first_definite_answer_wins_among_those_whose_prefix_fits() {
    let node = node();
    members(&node, &["any", "orders", "books"]).await;
    bind(&node, "any", "rpc@app", &[]).await;
    bind(&node, "orders", "rpc@rpc:orders.", &[]).await;
    bind(&node, "books", "rpc@rpc:books.", &[]).await;
    let mut ann = client(&node).await;
    let all = json!({ "orders": "accept", "books": "accept" });
    for (method, told, by, expected) in [
        ("orders.new", all.clone(), "orders", 0),
        ("books.new", all.clone(), "books", 0),
        (
            "orders.new",
            json!({ "any": "accept", "orders": "accept" }),
            "any",
            0,
        ),
        ("other", all, "", 104),
        (
            "orders.new",
            json!({ "any": "refuse", "orders": "accept" }),
            "",
            499,
        ),
        (
            "orders.new",
            json!({ "any": "panic", "orders": "accept" }),
            "",
            100,
        ),
    ] {
        let reply = ann.rpc(method, &json!({ "do": told })).await;
        assert_eq!(code(&reply), expected, "{method} {told}: {reply:?}");
        if let Some(result) = reply.rpc {
            let data: Value = serde_json::from_slice(result.data.as_bytes()).unwrap();
            assert_eq!(data["by"], by, "{method} {told}");
        }
    }
    assert_eq!(calls(&node, "books").await, 1);
    // The scopes of rpc are prefixes of methods; each shows whom its methods ask.
    let shown = node
        .cli(&["plugin", "pipelines", "--hook", "rpc", "--json"])
        .await
        .json();
    let seen: Vec<(Value, Vec<Value>)> = shown["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pipeline| {
            let plugins = pipeline["plugins"].as_array().unwrap();
            let names = plugins.iter().map(|step| step["plugin"].clone());
            (pipeline["scope"].clone(), names.collect())
        })
        .collect();
    let expected = [
        (json!("app"), vec![json!("any")]),
        (json!("rpc:books."), vec![json!("any"), json!("books")]),
        (json!("rpc:orders."), vec![json!("any"), json!("orders")]),
    ];
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn routing_the_last_one_that_did_not_keep_decides() {
    let node = three("routing@namespace:chat").await;
    let mut listener = listener(&node, &[ROOM, "news:a", "news:b"]).await;
    let mut ann = client(&node).await;
    let to = |channel: &str| json!({ "route": channel });
    for (told, expected) in [
        (json!({ "a": to("news:a"), "b": to("news:b") }), "news:b"),
        (json!({ "a": to("news:a") }), "news:a"),
        (json!({}), ROOM),
    ] {
        assert_eq!(publish(&mut ann, ROOM, &json!({ "do": told })).await, 0);
        let (channel, data) = heard(&mut listener).await;
        assert_eq!((channel.as_str(), &data["do"]), (expected, &told));
    }
    // A refusal and a failure end it, whoever decided before; nothing goes anywhere.
    for (command, expected) in [("refuse", 499), ("panic", 100)] {
        let told = json!({ "do": { "a": to("news:a"), "b": command } });
        assert_eq!(publish(&mut ann, ROOM, &told).await, expected);
    }
    assert_eq!(publish(&mut ann, ROOM, &json!({ "last": true })).await, 0);
    assert_eq!(heard(&mut listener).await.1["last"], true);
}

#[tokio::test]
async fn effects_happen_only_when_the_whole_question_succeeded() {
    let node = three("filtering@namespace:chat").await;
    let mut listener = listener(&node, &["news:log"]).await;
    let mut ann = client(&node).await;
    let publishes = json!({ "publish": "news:log" });
    for (command, expected) in [("refuse", 499), ("panic", 100)] {
        let told = json!({ "do": { "a": publishes, "b": command } });
        assert_eq!(publish(&mut ann, ROOM, &told).await, expected);
    }
    let told = json!({ "do": { "b": publishes, "c": publishes } });
    assert_eq!(publish(&mut ann, ROOM, &told).await, 0);
    for by in ["b", "c"] {
        let (_, data) = heard(&mut listener).await;
        assert_eq!(
            data["by"], by,
            "in the order of the pipeline, and none of `a`"
        );
    }
}

#[tokio::test]
async fn what_a_plugin_publishes_passes_the_filters_of_where_it_goes() {
    let node = node();
    members(&node, &["chat", "news", "strict"]).await;
    bind(
        &node,
        "chat",
        "filtering@namespace:chat",
        &["--mirror", "news:1"],
    )
    .await;
    bind(&node, "news", "filtering@namespace:news", &[]).await;
    bind(&node, "strict", "filtering@namespace:news", &[]).await;
    let mut listener = listener(&node, &[ROOM, "news:1"]).await;
    let mut ann = client(&node).await;
    // The copy is what `chat` was given, without its name; the filters of `news` add theirs.
    assert_eq!(publish(&mut ann, ROOM, &json!({ "n": 1 })).await, 0);
    let mut both = [heard(&mut listener).await, heard(&mut listener).await];
    both.sort_by(|one, other| one.0.cmp(&other.0));
    let [(_, original), (copied_to, copy)] = both;
    assert_eq!(original["seen"], json!(["chat"]));
    assert_eq!(
        (copied_to.as_str(), &copy["seen"]),
        ("news:1", &json!(["news", "strict"]))
    );
    // One of them refuses the copy; the original is not concerned.
    let told = json!({ "n": 2, "do": { "strict": "refuse" } });
    assert_eq!(publish(&mut ann, ROOM, &told).await, 0);
    assert_eq!(heard(&mut listener).await.1["n"], 2);
    assert_eq!(publish(&mut ann, "news:1", &json!({ "n": 3 })).await, 0);
    assert_eq!(heard(&mut listener).await.1["n"], 3, "no copy came between");
}

#[tokio::test]
async fn plugins_that_answer_each_other_are_stopped_at_the_third_hop() {
    let node = node();
    members(&node, &["to-pong", "to-ping"]).await;
    bind(
        &node,
        "to-pong",
        "filtering@namespace:ping",
        &["--mirror", "pong:1"],
    )
    .await;
    bind(
        &node,
        "to-ping",
        "filtering@namespace:pong",
        &["--mirror", "ping:1"],
    )
    .await;
    let mut ping = listener(&node, &["ping:1"]).await;
    let mut pong = listener(&node, &["pong:1"]).await;
    let mut ann = client(&node).await;
    for round in [1, 2] {
        assert_eq!(
            publish(&mut ann, "ping:1", &json!({ "round": round })).await,
            0
        );
        // The message, its copy in `pong`, and the copy of that one; there it ends.
        for _ in 0..2 {
            let (_, data) = within("a ping", heard(&mut ping)).await;
            assert_eq!(data["round"], round);
        }
        let (_, data) = within("a pong", heard(&mut pong)).await;
        assert_eq!(data["round"], round);
    }
    assert_eq!(calls(&node, "to-pong").await, 4);
    assert_eq!(calls(&node, "to-ping").await, 2);
}
