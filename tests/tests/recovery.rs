//! Recovery: what a client that was away gets, and what it is told when that is not everything.

use serde_json::json;
use tidegate_protocol::{
    Codec, Command, ConnectRequest, PublishRequest, StreamPosition, SubscribeRequest,
    SubscribeResult,
};
use tidegate_tests::{Client, Node};

const CODECS: [Codec; 2] = [Codec::Json, Codec::Protobuf];

/// Streams of 20 in `chat:`, of which 10 are recovered at most.
fn node() -> Node {
    Node::builder()
        .set("client.allow_anonymous_connect_without_token", json!(true))
        .set("client.recovery_max_publication_limit", json!(10))
        .namespace(json!({
            "name": "chat",
            "history_size": 20,
            "history_ttl": "60s",
            "force_recovery": true,
            "allow_subscribe_for_client": true,
            "allow_subscribe_for_anonymous": true,
            "allow_publish_for_client": true,
            "allow_publish_for_anonymous": true,
        }))
        .namespace(json!({
            "name": "wish",
            "history_size": 20,
            "history_ttl": "60s",
            "allow_recovery": true,
            "allow_subscribe_for_client": true,
            "allow_subscribe_for_anonymous": true,
        }))
        .namespace(json!({
            "name": "plain",
            "history_size": 20,
            "history_ttl": "60s",
            "allow_subscribe_for_client": true,
            "allow_subscribe_for_anonymous": true,
        }))
        .start()
}

async fn anonymous(node: &Node, codec: Codec) -> Client {
    Client::connect(node, codec, ConnectRequest::default()).await
}

async fn subscribed(client: &mut Client, channel: &str) -> SubscribeResult {
    let reply = client.subscribe(channel).await;
    *reply.subscribe.expect("subscribing is allowed")
}

async fn recovered(client: &mut Client, channel: &str, since: &StreamPosition) -> SubscribeResult {
    let reply = client.recover(channel, since).await;
    *reply.subscribe.expect("recovering is allowed")
}

async fn publish(node: &Node, channel: &str, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        node.api()
            .call("publish", &json!({"channel": channel, "data": number}))
            .await;
    }
}

fn offsets(result: &SubscribeResult) -> Vec<u64> {
    result
        .publications
        .iter()
        .map(|entry| entry.offset)
        .collect()
}

#[tokio::test]
async fn a_client_that_was_cut_off_gets_what_it_missed_and_then_lives_on() {
    let node = node();
    for (codec, channel) in CODECS.into_iter().zip(["chat:a", "chat:b"]) {
        let mut client = anonymous(&node, codec).await;
        let first = subscribed(&mut client, channel).await;
        assert!(first.recoverable && first.positioned);
        assert!(!first.was_recovering && !first.recovered);
        publish(&node, channel, 1..=2).await;
        assert_eq!(client.publication().await, (json!(1), 1));
        let epoch = match first.epoch.as_str() {
            // Subscribed to an empty stream: its first publication tells.
            "" => node
                .api()
                .call("history", &json!({"channel": channel}))
                .await["epoch"]
                .as_str()
                .expect("a stream has an epoch")
                .to_owned(),
            epoch => epoch.to_owned(),
        };
        client.cut();

        publish(&node, channel, 3..=5).await;
        let mut client = anonymous(&node, codec).await;
        let since = StreamPosition { offset: 1, epoch };
        let result = recovered(&mut client, channel, &since).await;
        assert!(result.was_recovering && result.recovered);
        assert_eq!(offsets(&result), [2, 3, 4, 5]);
        assert_eq!(result.offset, 1, "the position asked for");
        assert_eq!(result.epoch, since.epoch);
        publish(&node, channel, 6..=6).await;
        assert_eq!(client.publication().await, (json!(6), 6));
    }
}

#[tokio::test]
async fn a_client_that_missed_nothing_has_recovered() {
    let node = node();
    for (codec, channel) in CODECS.into_iter().zip(["chat:a", "chat:b"]) {
        publish(&node, channel, 1..=3).await;
        let mut client = anonymous(&node, codec).await;
        let top = subscribed(&mut client, channel).await;
        assert_eq!(top.offset, 3);
        client.unsubscribe(channel).await;
        let since = StreamPosition {
            offset: 3,
            epoch: top.epoch,
        };
        let result = recovered(&mut client, channel, &since).await;
        assert!(result.recovered && result.publications.is_empty());
    }
}

#[tokio::test]
async fn an_empty_stream_recovers_from_its_beginning() {
    let node = node();
    let mut client = anonymous(&node, Codec::Json).await;
    let result = recovered(&mut client, "chat:empty", &StreamPosition::default()).await;
    assert!(result.was_recovering && result.recovered);
    assert!(result.publications.is_empty());
}

#[tokio::test]
async fn what_cannot_be_recovered_whole_is_not_recovered_at_all() {
    let node = node();
    for (codec, channel) in CODECS.into_iter().zip(["chat:a", "chat:b"]) {
        publish(&node, channel, 1..=30).await;
        let mut client = anonymous(&node, codec).await;
        let epoch = subscribed(&mut client, channel).await.epoch;
        client.unsubscribe(channel).await;
        let cases = [
            ("trimmed from the stream", 5, epoch.clone()),
            ("more than the limit", 15, epoch.clone()),
            ("another epoch", 29, "other".to_owned()),
            ("ahead of the stream", 31, epoch.clone()),
            ("the largest offset", u64::MAX, epoch.clone()),
        ];
        for (what, offset, epoch) in cases {
            let since = StreamPosition { offset, epoch };
            let result = recovered(&mut client, channel, &since).await;
            assert!(result.was_recovering && !result.recovered, "{what}");
            assert!(result.publications.is_empty(), "{what}");
            assert_eq!(result.offset, 30, "{what}: the present top");
            client.unsubscribe(channel).await;
        }
        // Exactly at the limit it works.
        let since = StreamPosition { offset: 20, epoch };
        let result = recovered(&mut client, channel, &since).await;
        assert!(result.recovered);
        assert_eq!(offsets(&result), (21..=30).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_client_may_ask_for_an_error_instead_of_a_gap() {
    let node = node();
    publish(&node, "chat:flag", 1..=1).await;
    let mut client = anonymous(&node, Codec::Json).await;
    let request = SubscribeRequest {
        channel: "chat:flag".to_owned(),
        recover: true,
        offset: 1,
        epoch: "other".to_owned(),
        flag: 2,
        ..SubscribeRequest::default()
    };
    let error = client.subscribe_with(request).await.error;
    assert_eq!(error.expect("there is a gap").code, 112);
    // There is no subscription either.
    let again = client.subscribe("chat:flag").await;
    assert!(again.subscribe.is_some(), "{again:?}");
}

#[tokio::test]
async fn wishes_of_the_client_need_permission() {
    let node = node();
    let mut client = anonymous(&node, Codec::Json).await;
    let wish = |channel: &str| SubscribeRequest {
        channel: channel.to_owned(),
        recoverable: true,
        ..SubscribeRequest::default()
    };
    let reply = client.subscribe_with(wish("wish:a")).await;
    let result = reply.subscribe.expect("subscribing is allowed");
    assert!(result.recoverable && result.positioned);
    let reply = client.subscribe_with(wish("plain:a")).await;
    let result = reply.subscribe.expect("subscribing is allowed");
    assert!(!result.recoverable && !result.positioned);
}

#[tokio::test]
async fn history_and_live_messages_join_without_gap_or_repetition() {
    let node = node();
    let mut publisher = anonymous(&node, Codec::Json).await;
    let command = |n: u64| Command {
        publish: Some(Box::new(PublishRequest {
            channel: "chat:merge".to_owned(),
            data: n.to_string().into(),
            ..PublishRequest::default()
        })),
        ..Command::default()
    };
    let mut clients = Vec::new();
    for index in 0..8 {
        clients.push(anonymous(&node, CODECS[index % 2]).await);
    }
    let mut next = 1;
    for (index, client) in clients.iter_mut().enumerate() {
        // The publications of this frame and the subscribe race.
        publisher
            .send_commands((next..next + 5).map(command).collect())
            .await;
        next += 5;
        let since = StreamPosition {
            offset: (next - 1).saturating_sub(9),
            epoch: String::new(),
        };
        let result = recovered(client, "chat:merge", &since).await;
        assert!(result.recovered, "client {index}: {result:?}");
        let mut expected = since.offset;
        for offset in offsets(&result) {
            expected += 1;
            assert_eq!(offset, expected, "client {index}");
        }
        while expected < next - 1 {
            expected += 1;
            assert_eq!(client.publication().await.1, expected, "client {index}");
        }
        client.unsubscribe("chat:merge").await;
    }
}

#[tokio::test]
async fn an_idempotent_publish_is_made_once() {
    let node = node();
    let mut client = anonymous(&node, Codec::Json).await;
    subscribed(&mut client, "chat:once").await;
    let request = json!({"channel": "chat:once", "data": 1, "idempotency_key": "key"});
    let first = node.api().call("publish", &request).await;
    let second = node.api().call("publish", &request).await;
    assert_eq!(first, second);
    publish(&node, "chat:once", 2..=2).await;
    assert_eq!(client.publication().await, (json!(1), 1));
    assert_eq!(client.publication().await, (json!(2), 2));
}
