//! Exact codes: which mistake gets which answer.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate_protocol::{
    Codec, Command, ConnectRequest, FilterNode, HistoryRequest, PresenceRequest,
    PresenceStatsRequest, PublishRequest, SubscribeRequest,
};
use tidegate_tests::{
    Client, Node, NodeBuilder,
    client::{Closed, with_token},
    raw::{self, Ending, RawSocket},
    token, within,
};

/// Time over the rate that is granted before the end; threat model, section 3.
const OVER_RATE_GRACE: Duration = Duration::from_secs(5);

const CODECS: [Codec; 2] = [Codec::Json, Codec::Protobuf];

fn builder() -> NodeBuilder {
    Node::builder()
        .set("client.allow_anonymous_connect_without_token", json!(true))
        .set("client.token.hmac_secret_key", json!(token::SECRET))
        .namespace(json!({
            "name": "open",
            "allow_subscribe_for_client": true,
            "allow_subscribe_for_anonymous": true,
            "allow_publish_for_client": true,
            "allow_publish_for_anonymous": true,
        }))
        .namespace(json!({ "name": "closed", "history_size": 1, "history_ttl": "60s" }))
        .namespace(json!({
            "name": "users",
            "allow_subscribe_for_client": true,
            "allow_publish_for_subscriber": true,
        }))
}

fn disconnects(code: u16) -> String {
    format!("tidegate_realtime_disconnects_total{{code=\"{code}\"}}")
}

async fn anonymous(node: &Node, codec: Codec) -> Client {
    Client::connect(node, codec, ConnectRequest::default()).await
}

fn closed(code: u16, reason: &str) -> Closed {
    Closed {
        code,
        reason: reason.to_owned(),
    }
}

fn subscribe(channel: &str) -> Command {
    subscribe_with(SubscribeRequest {
        channel: channel.to_owned(),
        ..SubscribeRequest::default()
    })
}

fn subscribe_with(request: SubscribeRequest) -> Command {
    Command {
        subscribe: Some(Box::new(request)),
        ..Command::default()
    }
}

fn publish(channel: &str, data: &'static str) -> Command {
    Command {
        publish: Some(Box::new(PublishRequest {
            channel: channel.to_owned(),
            data: data.into(),
            ..PublishRequest::default()
        })),
        ..Command::default()
    }
}

fn history(request: HistoryRequest) -> Command {
    Command {
        history: Some(Box::new(request)),
        ..Command::default()
    }
}

#[tokio::test]
async fn c2_each_refused_command_gets_its_own_error_and_the_connection_goes_on() {
    let node = builder().start();
    let on = |channel: &str| SubscribeRequest {
        channel: channel.to_owned(),
        ..SubscribeRequest::default()
    };
    let filter = FilterNode {
        key: "k".to_owned(),
        cmp: "ex".to_owned(),
        ..FilterNode::default()
    };
    let cases: Vec<(&str, Command, u32)> = vec![
        ("unknown namespace", subscribe("nobody:a"), 102),
        ("unknown namespace, publish", publish("nobody:a", "1"), 102),
        (
            "unknown namespace, history",
            history(HistoryRequest {
                channel: "nobody:a".to_owned(),
                ..HistoryRequest::default()
            }),
            102,
        ),
        ("no rule allows", subscribe("closed:a"), 103),
        ("top-level options allow nothing", subscribe("a"), 103),
        ("anonymous where users may", subscribe("users:a"), 103),
        ("private without token", subscribe("$open:a"), 103),
        ("publish not allowed", publish("closed:a", "1"), 103),
        (
            "history not allowed",
            history(HistoryRequest {
                channel: "closed:a".to_owned(),
                ..HistoryRequest::default()
            }),
            103,
        ),
        (
            "256 bytes",
            subscribe(&format!("open:{}", "a".repeat(251))),
            107,
        ),
        ("not ASCII", subscribe("open:é"), 107),
        ("NUL", subscribe("open:a\0b"), 107),
        ("control", subscribe("open:a\nb"), 107),
        ("no data", publish("open:a", ""), 107),
        (
            "filters are not allowed",
            subscribe_with(SubscribeRequest {
                tf: Some(Box::new(filter)),
                ..on("open:filtered")
            }),
            107,
        ),
        (
            "an epoch above 64 bytes",
            subscribe_with(SubscribeRequest {
                recover: true,
                epoch: "e".repeat(65),
                ..on("open:epoch")
            }),
            107,
        ),
        (
            "a map, which the namespace is not",
            subscribe_with(SubscribeRequest {
                r#type: 1,
                ..on("open:map")
            }),
            103,
        ),
        (
            "history off",
            history(HistoryRequest {
                channel: "open:a".to_owned(),
                ..HistoryRequest::default()
            }),
            108,
        ),
        (
            "presence off",
            Command {
                presence: Some(Box::new(PresenceRequest {
                    channel: "open:a".to_owned(),
                })),
                ..Command::default()
            },
            108,
        ),
        (
            "presence stats off",
            Command {
                presence_stats: Some(Box::new(PresenceStatsRequest {
                    channel: "open:a".to_owned(),
                })),
                ..Command::default()
            },
            108,
        ),
    ];
    for codec in CODECS {
        let mut client = anonymous(&node, codec).await;
        for (what, command, code) in &cases {
            let reply = client.call(command.clone()).await;
            let error = reply.error.unwrap_or_else(|| panic!("{what} was accepted"));
            assert_eq!(error.code, *code, "{what}: {}", error.message);
            assert_eq!(error.temporary, *code == 100, "{what}");
        }
        let reply = client.subscribe(&format!("open:{}", "a".repeat(250))).await;
        assert!(reply.subscribe.is_some(), "255 bytes are fine: {reply:?}");
        let again = client.subscribe(&format!("open:{}", "a".repeat(250))).await;
        assert_eq!(again.error.expect("already subscribed").code, 105);
    }
}

#[tokio::test]
async fn rules_for_users_and_subscribers_let_them_in() {
    let node = builder().start();
    let token = token::mint(&json!({"sub": "anna"}));
    let mut client = Client::connect(&node, Codec::Json, with_token(&token)).await;
    let before = client.call(publish("users:a", "1")).await;
    assert_eq!(before.error.expect("not a subscriber yet").code, 103);
    assert!(client.subscribe("users:a").await.subscribe.is_some());
    assert!(client.call(publish("users:a", "1")).await.publish.is_some());
}

#[tokio::test]
async fn c4_channels_per_connection_are_counted_and_unsubscribing_frees_them() {
    let node = builder().set("client.channel_limit", json!(3)).start();
    let mut client = anonymous(&node, Codec::Json).await;
    for round in 0..50 {
        for index in 0..3 {
            let reply = client.subscribe(&format!("open:{round}-{index}")).await;
            assert!(reply.subscribe.is_some(), "{reply:?}");
        }
        let one_more = client.subscribe("open:more").await;
        assert_eq!(one_more.error.expect("three are the limit").code, 106);
        for index in 0..3 {
            client.unsubscribe(&format!("open:{round}-{index}")).await;
        }
    }
}

#[tokio::test]
async fn what_breaks_the_protocol_ends_the_connection_with_3501() {
    let node = builder().start();
    let cases: Vec<(&str, Command)> = vec![
        (
            "a second connect",
            Command {
                connect: Some(Box::default()),
                ..Command::default()
            },
        ),
        ("no request at all", Command::default()),
        (
            "the ping command",
            Command {
                ping: Some(Box::default()),
                ..Command::default()
            },
        ),
        ("an empty channel", subscribe("")),
        (
            "an unknown delta",
            subscribe_with(SubscribeRequest {
                channel: "open:a".to_owned(),
                delta: "rsync".to_owned(),
                ..SubscribeRequest::default()
            }),
        ),
        (
            "a refresh without a token",
            Command {
                refresh: Some(Box::default()),
                ..Command::default()
            },
        ),
    ];
    for codec in CODECS {
        for (what, command) in &cases {
            let mut client = anonymous(&node, codec).await;
            client.send_commands(vec![command.clone()]).await;
            assert_eq!(client.closed().await, closed(3501, "bad request"), "{what}");
        }
        let mut client = Client::open(&node, codec).await;
        client.send_commands(vec![subscribe("open:a")]).await;
        let ending = client.closed().await;
        assert_eq!(ending, closed(3501, "bad request"), "before connect");
        let mut client = anonymous(&node, codec).await;
        let pong = match codec {
            Codec::Json => b"{}".to_vec(),
            Codec::Protobuf => vec![0],
        };
        client.send_frame(pong).await;
        assert_eq!(client.closed().await, closed(3501, "bad request"), "a pong");
    }
}

#[tokio::test]
async fn a_frame_of_more_than_256_commands_ends_the_connection() {
    let node = builder().start();
    for codec in CODECS {
        let mut client = anonymous(&node, codec).await;
        let commands = vec![publish("open:a", "1"); 257];
        client.send_commands(commands).await;
        assert_eq!(client.closed().await, closed(3501, "bad request"));
    }
}

#[tokio::test]
async fn commands_above_the_rate_get_111_and_then_3013() {
    let node = builder().set("client.command_rate", json!(100)).start();
    let mut client = anonymous(&node, Codec::Json).await;
    let began = tokio::time::Instant::now();
    let mut refused = 0;
    let ending = within("the end", async {
        loop {
            let ids = client
                .send_commands(vec![publish("open:a", "1"); 200])
                .await;
            for id in ids {
                match client.reply_or_close(id).await {
                    Ok(reply) => {
                        if let Some(error) = reply.error {
                            assert_eq!((error.code, error.temporary), (111, true));
                            refused += 1;
                        }
                    }
                    Err(closed) => return closed,
                }
            }
        }
    })
    .await;
    assert_eq!(ending, closed(3013, "too many requests"));
    assert!(began.elapsed() >= OVER_RATE_GRACE, "{:?}", began.elapsed());
    let metrics = node.metrics().await;
    let counted = metrics.get("tidegate_realtime_errors_total{code=\"111\"}");
    assert!(counted >= refused && refused > 0, "{counted} of {refused}");
    assert_eq!(metrics.get(&disconnects(3013)), 1);
    assert_eq!(
        metrics.get(&disconnects(3509)),
        0,
        "111 is no error of the client's"
    );
}

#[tokio::test]
async fn a_hundred_errors_in_a_minute_end_the_connection() {
    let node = builder().start();
    let mut client = anonymous(&node, Codec::Json).await;
    for sent in 0.. {
        assert!(sent <= 101, "the connection should have ended");
        let ids = client.send_commands(vec![subscribe("nobody:a")]).await;
        match client.reply_or_close(ids[0]).await {
            Ok(reply) => assert_eq!(reply.error.expect("no such namespace").code, 102),
            Err(ending) => {
                assert!(sent >= 99, "after {sent} errors");
                assert_eq!(ending, closed(3509, "too many errors"));
                return;
            }
        }
    }
}

#[tokio::test]
async fn a_connection_that_never_connects_is_stale() {
    let node = builder()
        .set("client.stale_close_delay", json!("1s"))
        .start();
    for codec in CODECS {
        let mut client = Client::open(&node, codec).await;
        assert_eq!(client.closed().await, closed(3502, "stale"));
    }
}

#[tokio::test]
async fn t2_a_client_that_does_not_read_is_closed_with_3008_and_others_still_receive() {
    let node = builder()
        .set("client.queue_max_size", json!(65_536))
        .start();
    let mut slow = RawSocket::connected(&node, Codec::Json).await;
    slow.send(&raw::frame(
        raw::TEXT,
        br#"{"id":2,"subscribe":{"channel":"open:flood"}}"#,
    ))
    .await;
    slow.replies(Codec::Json)
        .await
        .expect("subscribing is allowed");
    let mut fast = anonymous(&node, Codec::Protobuf).await;
    fast.subscribe("open:flood").await;
    let api = node.api();
    let big = json!({"channel": "open:flood", "data": "x".repeat(50_000)});
    // Until queue and both ends' socket buffers are full.
    within("a full queue", async {
        while node.metrics().await.get(&disconnects(3008)) == 0 {
            api.call("publish", &big).await;
            fast.push().await;
        }
    })
    .await;
    // The queue was dropped; who reads again hears why.
    assert_eq!(slow.ending().await, Ending::Closed(3008, "slow".to_owned()));
    let info = api.call("info", &json!({})).await;
    assert_eq!(info["nodes"][0]["num_clients"], 1, "{info}");
}

#[tokio::test]
async fn the_server_api_disconnects_a_user_with_exact_code_and_reason() {
    let node = builder().start();
    let token = token::mint(&json!({"sub": "anna"}));
    let cases: [(Value, Closed); 3] = [
        (json!({"user": "anna"}), closed(3503, "force disconnect")),
        (
            json!({"user": "anna", "disconnect": {"code": 4321, "reason": "go away"}}),
            closed(4321, "go away"),
        ),
        (
            json!({"user": "anna", "disconnect": {"code": 4999, "reason": "x"}}),
            closed(4999, "x"),
        ),
    ];
    for codec in CODECS {
        for (request, ending) in &cases {
            let mut client = Client::connect(&node, codec, with_token(&token)).await;
            let mut bystander = anonymous(&node, codec).await;
            node.api().call("disconnect", request).await;
            assert_eq!(client.closed().await, *ending);
            assert!(bystander.subscribe("open:a").await.subscribe.is_some());
        }
    }
}

#[tokio::test]
async fn the_server_api_spares_a_whitelisted_client() {
    let node = builder().start();
    let token = token::mint(&json!({"sub": "anna"}));
    let mut spared = Client::open(&node, Codec::Json).await;
    let reply = spared.connect_with(with_token(&token)).await;
    let id = reply.connect.expect("the token is good").client;
    let mut other = Client::connect(&node, Codec::Json, with_token(&token)).await;
    let request = json!({"user": "anna", "whitelist": [id]});
    node.api().call("disconnect", &request).await;
    assert_eq!(other.closed().await.code, 3503);
    assert!(spared.subscribe("open:a").await.subscribe.is_some());
}

#[tokio::test]
async fn connections_of_one_user_are_limited() {
    let node = builder()
        .set("client.user_connection_limit", json!(2))
        .start();
    let token = token::mint(&json!({"sub": "anna"}));
    let _first = Client::connect(&node, Codec::Json, with_token(&token)).await;
    let _second = Client::connect(&node, Codec::Json, with_token(&token)).await;
    let mut third = Client::open(&node, Codec::Json).await;
    third
        .send_commands(vec![Command {
            connect: Some(Box::new(with_token(&token))),
            ..Command::default()
        }])
        .await;
    assert_eq!(third.closed().await, closed(3504, "connection limit"));
}

#[tokio::test]
async fn o3_a_terminated_node_tells_its_clients_and_exits_clean() {
    let mut node = builder().start();
    let mut clients = Vec::new();
    for index in 0..8 {
        let mut client = anonymous(&node, CODECS[index % 2]).await;
        client.subscribe("open:a").await;
        clients.push(client);
    }
    let began = tokio::time::Instant::now();
    node.terminate();
    for client in &mut clients {
        assert_eq!(client.closed().await, closed(3001, "shutdown"));
    }
    assert_eq!(node.ended().await, Some(0));
    assert!(began.elapsed() < Duration::from_secs(30));
}
