//! A plugin is replaced under a thousand publishing sockets: nobody notices but the verdicts.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use serde_json::json;
use tidegate_protocol::{Codec, ConnectRequest};
use tidegate_tests::{Client, Node, guests};
use tokio::task::JoinSet;

const SOCKETS: usize = 1_000;
const ACTIVATIONS: u64 = 200;

/// The swaps as the publishers see them. Activation `n` makes version `1 + n % 2` active; 0 is the first.
#[derive(Default)]
struct Swaps {
    /// Commands that were started.
    started: AtomicU64,
    /// Commands that have answered.
    answered: AtomicU64,
    is_over: AtomicBool,
    /// Messages of which exactly one version was allowed to judge.
    strict: AtomicUsize,
    total: AtomicUsize,
}

impl Swaps {
    /// Whether `version` was active at some moment between the two activations.
    fn allows(first: u64, last: u64, version: u64) -> bool {
        (first..=last).any(|activation| 1 + activation % 2 == version)
    }
}

/// Publishes one message after the other into its own channel and judges what comes back.
async fn publisher(mut client: Client, index: usize, swaps: Arc<Swaps>) {
    let channel = format!("swap:{index}");
    let reply = client.subscribe(&channel).await;
    assert!(reply.subscribe.is_some(), "{reply:?}");
    let mut sequence = 0_u64;
    while !swaps.is_over.load(Ordering::Acquire) || sequence == 0 {
        sequence += 1;
        // Acquire pairs with the stores around each activation below.
        let first = swaps.answered.load(Ordering::Acquire);
        let reply = client.publish(&channel, &json!({ "s": sequence })).await;
        assert!(reply.publish.is_some(), "publisher {index}: {reply:?}");
        let (data, offset) = client.publication().await;
        let last = swaps.started.load(Ordering::Acquire);
        assert_eq!(
            data["s"], sequence,
            "lost, doubled or reordered in {channel}"
        );
        assert_eq!(offset, sequence, "the stream has a hole");
        let version = data["v"].as_u64().expect("the guest stamps its version");
        assert!(
            Swaps::allows(first, last, version),
            "version {version} judged a message between activations {first} and {last}"
        );
        swaps.total.fetch_add(1, Ordering::Relaxed);
        if first == last {
            swaps.strict.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_activations_under_a_thousand_sockets_lose_and_disturb_nothing() {
    let node = Node::builder()
        .set("client.allow_anonymous_connect_without_token", json!(true))
        .set("client.ip_connection_limit", json!(2 * SOCKETS))
        .namespace(json!({
            "name": "swap", "history_size": 10, "history_ttl": "60s",
            "allow_subscribe_for_client": true, "allow_subscribe_for_anonymous": true,
            "allow_publish_for_client": true, "allow_publish_for_anonymous": true,
        }))
        .start();
    let folder = tempfile::tempdir().unwrap();
    for mark in ["one", "two"] {
        let file = guests::variant("guest-stamp", mark, folder.path());
        node.push(&file, "stamp", &[]).await.json();
    }
    node.cli(&["plugin", "activate", "stamp", "1", "--json"])
        .await
        .json();
    node.cli(&[
        "plugin",
        "bind",
        "stamp",
        "filtering",
        "--scope",
        "namespace:swap",
        "--json",
    ])
    .await
    .json();

    let swaps = Arc::new(Swaps::default());
    let mut publishers = JoinSet::new();
    for index in 0..SOCKETS {
        let client = Client::connect(&node, Codec::Json, ConnectRequest::default()).await;
        publishers.spawn(publisher(client, index, Arc::clone(&swaps)));
    }
    for activation in 1..=ACTIVATIONS {
        let version = (1 + activation % 2).to_string();
        // Release pairs with the publishers' loads: who sees the answer was preceded by it.
        swaps.started.store(activation, Ordering::Release);
        node.cli(&["plugin", "activate", "stamp", &version, "--json"])
            .await
            .json();
        swaps.answered.store(activation, Ordering::Release);
    }
    swaps.is_over.store(true, Ordering::Release);
    while let Some(ended) = publishers.join_next().await {
        ended.expect("no publisher saw anything amiss");
    }
    let total = swaps.total.load(Ordering::Relaxed);
    let strict = swaps.strict.load(Ordering::Relaxed);
    println!(
        "{total} messages, {strict} of them with one version allowed, {ACTIVATIONS} activations"
    );
    assert!(
        total >= 10 * SOCKETS,
        "only {total} messages: the test shows nothing"
    );
    assert!(strict > 0, "no message was judged between activations");
}
