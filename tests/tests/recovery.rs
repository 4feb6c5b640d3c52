//! Recovery: what a client that was away gets, and what it is told when that is not everything.

use serde_json::json;
use tidegate_protocol::{
    Codec, Command, ConnectRequest, PublishRequest, StreamPosition, SubscribeRequest,
    SubscribeResult,
};
use tidegate_tests::{
    Client, Node,
    client::{Closed, with_token},
    token, within,
};

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

/// Anna may subscribe to `mine:`; `chat:` recovers, `short:` is forgotten two seconds after a publication.
fn node_of_anna() -> Node {
    let options = |name: &str, ttl: &str, meta_ttl: &str| {
        json!({
            "name": name,
            "history_size": 20,
            "history_ttl": ttl,
            "history_meta_ttl": meta_ttl,
            "force_recovery": true,
            "allow_subscribe_for_client": name != "chat",
            "allow_user_limited_channels": name == "mine",
        })
    };
    Node::builder()
        .set("client.token.hmac_secret_key", json!(token::SECRET))
        .set("client.channel_limit", json!(5))
        .set("client.channel_position_check_delay", json!("2s"))
        .namespace(options("chat", "60s", "1h"))
        .namespace(options("mine", "60s", "1h"))
        .namespace(options("short", "1s", "2s"))
        .start()
}

/// A connect of anna's, whose token names these channels and whose request these positions.
fn connect_of_anna(
    channels: &[&str],
    requested: &[(&str, Option<&StreamPosition>)],
) -> ConnectRequest {
    let claims = json!({"sub": "anna", "channels": channels});
    let mut request = with_token(&token::mint(&claims));
    for (channel, since) in requested {
        let since = since.cloned();
        let held = SubscribeRequest {
            recover: since.is_some(),
            offset: since.as_ref().map_or(0, |since| since.offset),
            epoch: since.map_or_else(String::new, |since| since.epoch),
            ..SubscribeRequest::default()
        };
        request.subs.insert((*channel).to_owned(), held);
    }
    request
}

#[tokio::test]
async fn several_server_side_subscriptions_recover_in_one_connect() {
    let node = node_of_anna();
    for codec in CODECS {
        let channels = ["chat:a", "chat:b", "chat:c"];
        let mut client = Client::open(&node, codec).await;
        let reply = client.connect_with(connect_of_anna(&channels, &[])).await;
        let first = reply.connect.expect("the token is good").subs;
        assert_eq!(first.keys().collect::<Vec<_>>(), channels);
        let positions = first.values().map(|result| {
            assert!(result.recoverable && !result.was_recovering);
            StreamPosition {
                offset: result.offset,
                epoch: result.epoch.clone(),
            }
        });
        let positions: Vec<_> = positions.collect();
        client.cut();

        publish(&node, "chat:a", 1..=2).await;
        publish(&node, "chat:b", 1..=1).await;
        publish(&node, "chat:c", 1..=1).await;
        let elsewhere = StreamPosition {
            epoch: "elsewhere".to_owned(),
            ..positions[2].clone()
        };
        let held = [
            ("chat:a", Some(&positions[0])),
            ("chat:b", Some(&positions[1])),
            ("chat:c", Some(&elsewhere)),
        ];
        let mut client = Client::open(&node, codec).await;
        let reply = client.connect_with(connect_of_anna(&channels, &held)).await;
        let subs = reply.connect.expect("the token is good").subs;
        for (channel, position, missed) in
            [("chat:a", &positions[0], 2), ("chat:b", &positions[1], 1)]
        {
            let result = &subs[channel];
            assert!(result.was_recovering && result.recovered, "{channel}");
            assert_eq!(result.offset, position.offset, "the position asked for");
            let after = position.offset;
            let expected: Vec<u64> = (after + 1..=after + missed).collect();
            assert_eq!(offsets(result), expected, "{channel}");
        }
        let lost = &subs["chat:c"];
        assert!(lost.was_recovering && !lost.recovered && lost.publications.is_empty());
        assert_eq!(lost.offset, positions[2].offset + 1, "the top");
        publish(&node, "chat:c", 9..=9).await;
        assert_eq!(client.publication().await, (json!(9), lost.offset + 1));
    }
}

#[tokio::test]
async fn a_connect_request_gets_the_channels_that_its_client_could_subscribe_to() {
    let node = node_of_anna();
    for codec in CODECS {
        let wanted = [
            ("mine:own", None),
            ("mine:#anna", None),
            ("mine:#boris", None),
            ("$mine:private", None),
            ("chat:closed", None),
        ];
        let mut client = Client::open(&node, codec).await;
        let reply = client.connect_with(connect_of_anna(&[], &wanted)).await;
        let subs = reply.connect.expect("the token is good").subs;
        let granted: Vec<_> = subs.keys().collect();
        assert_eq!(granted, ["mine:#anna", "mine:own"], "the others in silence");
        // It is subscribed, and no second subscription is made.
        let again = client.subscribe("mine:own").await;
        assert_eq!(again.error.expect("refused").code, 105);
        node.api()
            .call("publish", &json!({"channel": "mine:own", "data": "hi"}))
            .await;
        assert_eq!(client.publication().await.0, json!("hi"));
    }
}

#[tokio::test]
async fn a_connect_request_with_unknown_or_too_many_channels_is_closed() {
    let node = node_of_anna();
    let many = ["1", "2", "3", "4"].map(|name| (format!("mine:{name}"), None));
    let many: Vec<_> = many.iter().map(|(name, since)| (&**name, *since)).collect();
    for codec in CODECS {
        for (granted, wanted, code, reason) in [
            (&[][..], &[("nowhere:x", None)][..], 3501, "bad request"),
            (&["chat:a", "chat:b"][..], &many[..], 3505, "channel limit"),
        ] {
            let mut client = Client::open(&node, codec).await;
            let connect = Command {
                connect: Some(Box::new(connect_of_anna(granted, wanted))),
                ..Command::default()
            };
            client.send_commands(vec![connect]).await;
            let reason = reason.to_owned();
            assert_eq!(client.closed().await, Closed { code, reason });
        }
        let mut client = Client::open(&node, codec).await;
        let request = connect_of_anna(&["chat:a"], &many);
        let reply = client.connect_with(request).await;
        assert_eq!(reply.connect.expect("as many as allowed").subs.len(), 5);
    }
}

#[tokio::test]
async fn a_stream_that_somebody_follows_does_not_begin_anew() {
    let node = node_of_anna();
    let mut clients = Vec::new();
    for (codec, channel) in CODECS.into_iter().zip(["short:a", "short:b"]) {
        let request = connect_of_anna(&[], &[]);
        let mut client = Client::connect(&node, codec, request).await;
        subscribed(&mut client, channel).await;
        publish(&node, channel, 1..=1).await;
        assert_eq!(client.publication().await, (json!(1), 1));
        clients.push((client, channel));
    }
    publish(&node, "short:of-nobody", 1..=1).await;
    let streams = async || node.metrics().await.get("tidegate_memory_streams");
    assert_eq!(streams().await, 3);
    within("the stream that nobody follows is forgotten", async {
        while streams().await == 3 {}
    })
    .await;
    // Offsets go on, nobody was unsubscribed: the position was checked meanwhile and found good.
    for (mut client, channel) in clients {
        publish(&node, channel, 2..=2).await;
        assert_eq!(client.publication().await, (json!(2), 2));
    }
}
