//! What plugins keep in the store: over calls, versions and nodes, and what becomes of their calls when it is away.

use serde_json::{Value, json};
use tidegate_protocol::{Codec, ConnectRequest};
use tidegate_test_redis::{RedisOptions, RedisServer};
use tidegate_tests::{Client, Node, NodeBuilder, guests, within};
use tokio::task::JoinSet;

const VAULT: &str = "guest-vault";

fn builder() -> NodeBuilder {
    Node::builder().set("client.allow_anonymous_connect_without_token", json!(true))
}

fn on_redis(redis: &RedisServer) -> NodeBuilder {
    builder().on_redis(redis)
}

/// A client of a node with the guest.
async fn client(node: &Node) -> Client {
    Client::connect(node, Codec::Json, ConnectRequest::default()).await
}

/// What the guest answered.
async fn ask(client: &mut Client, method: &str, asked: Value) -> Value {
    let reply = client.rpc(method, &asked).await;
    let Some(answer) = &reply.rpc else {
        panic!("{method} {asked}: {reply:?}");
    };
    serde_json::from_slice(answer.data.as_bytes()).expect("the guest answers JSON")
}

fn ok(value: impl Into<Value>) -> Value {
    json!({ "ok": value.into() })
}

fn error(name: &str) -> Value {
    json!({ "error": name })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_keeps_its_keys_over_calls_and_versions_until_it_is_deleted() {
    let node = builder().start();
    node.install(VAULT, "rpc@app", &json!({})).await;
    let mut ann = client(&node).await;
    let key = json!({ "key": "k" });
    assert_eq!(ask(&mut ann, "get", key.clone()).await, ok(Value::Null));
    let put = json!({ "key": "k", "value": "one", "ttl_ms": 3_600_000 });
    assert_eq!(ask(&mut ann, "put", put).await, ok(Value::Null));
    let swap = |expected: Option<&str>, value: &str| json!({ "key": "k", "expected": expected, "value": value });
    assert_eq!(ask(&mut ann, "swap", swap(None, "two")).await, ok(false));
    assert_eq!(
        ask(&mut ann, "swap", swap(Some("one"), "two")).await,
        ok(true)
    );
    let count = json!({ "key": "n", "by": 2 });
    assert_eq!(ask(&mut ann, "count", count.clone()).await, ok(2));
    assert_eq!(
        ask(&mut ann, "get", json!({ "key": "n" })).await,
        error("wrong-kind")
    );
    assert_eq!(
        ask(&mut ann, "get", json!({ "key": "" })).await,
        error("invalid")
    );
    let late = json!({ "key": "k", "ttl_ms": 0 });
    assert_eq!(ask(&mut ann, "put", late).await, error("invalid"));

    // Another version, in the place of the first: it finds what that one kept.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let second = guests::variant(VAULT, "two", folder.path());
    let pushed = node.push(&second, VAULT, &["--activate"]).await;
    assert_eq!(pushed.json()["version"], 2);
    assert_eq!(ask(&mut ann, "get", key.clone()).await, ok("two"));
    assert_eq!(ask(&mut ann, "count", count).await, ok(4));
    assert_eq!(ask(&mut ann, "drop", key.clone()).await, ok(true));
    assert_eq!(ask(&mut ann, "get", key).await, ok(Value::Null));

    // It is shown as what it is.
    let path = format!("/admin/v1/apps/default/plugins/{VAULT}/statistics");
    let shown = node.admin().get(&path).await.json();
    assert_eq!(shown["items"][0]["lane"], "waiting", "{shown}");

    // A plugin of the same name that comes later begins with nothing.
    for command in ["unbind", "delete"] {
        let ended = node.cli(&["plugin", command, VAULT]).await;
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    }
    node.install(VAULT, "rpc@app", &json!({})).await;
    let forgotten = async {
        while ask(&mut ann, "get", json!({ "key": "n" })).await != ok(Value::Null) {
            tokio::task::yield_now().await;
        }
    };
    Box::pin(within("what the deleted plugin kept is gone", forgotten)).await;
}

/// So many clients of two nodes ask so often at the same time.
async fn crowd(nodes: [&Node; 2], each: usize, method: &str, asked: impl Fn(usize) -> Value) {
    let mut tasks = JoinSet::new();
    for number in 0..6 {
        let mut client = client(nodes[number % 2]).await;
        let (method, asked) = (method.to_owned(), asked(number));
        tasks.spawn(async move {
            for _ in 0..each {
                // A guest gives up when the others were always quicker; then it has done nothing.
                while ask(&mut client, &method, asked.clone()).await == error("limit") {}
            }
        });
    }
    while let Some(done) = within("a client asks all it wants", tasks.join_next()).await {
        done.expect("the client does not panic");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_count_exactly_and_lose_none_of_each_others_changes() {
    const EACH: usize = 20;
    let redis = RedisServer::start(&RedisOptions::default());
    let (one, two) = (on_redis(&redis).start(), on_redis(&redis).start());
    for node in [&one, &two] {
        node.install(VAULT, "rpc@app", &json!({})).await;
    }
    crowd(
        [&one, &two],
        EACH,
        "count",
        |_| json!({ "key": "n", "by": 3 }),
    )
    .await;
    crowd(
        [&one, &two],
        EACH,
        "join",
        |number| json!({ "key": "list", "value": format!("c{number}") }),
    )
    .await;
    for node in [&one, &two] {
        let mut client = client(node).await;
        let count = ask(&mut client, "count", json!({ "key": "n", "by": 0 })).await;
        assert_eq!(count, ok(3 * 6 * EACH));
        let list = ask(&mut client, "get", json!({ "key": "list" })).await;
        let list = list["ok"].as_str().expect("a list").to_owned();
        let mut words: Vec<&str> = list.split_whitespace().collect();
        words.sort_unstable();
        for number in 0..6 {
            let name = format!("c{number}");
            let times = words.iter().filter(|word| **word == name).count();
            assert_eq!(times, EACH, "{name} in {list}");
        }
        assert_eq!(words.len(), 6 * EACH);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_calls_are_answered_and_other_plugins_do_not_notice() {
    let mut redis = RedisServer::start(&RedisOptions::default());
    let node = on_redis(&redis)
        .set("plugins.deadline.waiting", json!("4s"))
        .start();
    node.install(VAULT, "rpc@rpc:p", &json!({})).await;
    node.install("guest-rpc-echo", "rpc@rpc:echo", &json!({}))
        .await;
    let (mut ann, mut bob) = (client(&node).await, client(&node).await);
    let put = json!({ "key": "k", "value": "v" });
    let works = async |client: &mut Client| {
        let works = async {
            while ask(client, "put", put.clone()).await != ok(Value::Null) {
                tokio::task::yield_now().await;
            }
        };
        Box::pin(within("the store works", works)).await;
    };
    Box::pin(works(&mut ann)).await;

    redis.kill();
    assert_eq!(
        ask(&mut ann, "put", put.clone()).await,
        error("unavailable")
    );
    assert_eq!(ask(&mut bob, "echo", json!([1])).await, json!([1]));
    redis.restart();
    Box::pin(works(&mut ann)).await;

    // One that does not answer is waited for, for half of what the call has, and nobody else waits.
    redis.pause();
    let (patience, echoed) =
        tokio::join!(ask(&mut ann, "patience", json!({ "key": "k" })), async {
            for number in 0..50 {
                assert_eq!(ask(&mut bob, "echo", json!(number)).await, json!(number));
            }
        });
    let () = echoed;
    redis.resume();
    let ok = &patience["ok"];
    assert_eq!(ok["answered"], false, "{patience}");
    let [before, after] = ["before_ms", "after_ms"].map(|name| ok[name].as_u64().expect("a time"));
    assert!(before <= 4_000, "{patience}");
    assert!(after > 0 && after <= before / 2 + 1, "{patience}");
    Box::pin(works(&mut ann)).await;
}
