//! Who is in a channel, and who comes and goes, as clients and back ends see it.

use serde_json::{Value, json};
use tidegate_protocol::{
    ClientInfo, Codec, Command, PresenceRequest, PresenceResult, PresenceStatsRequest, Push,
    SubscribeRequest,
};
use tidegate_tests::{Client, Node, client::with_token, reply, token};

const CODECS: [Codec; 2] = [Codec::Json, Codec::Protobuf];

/// Subscribers of `room:` may see each other, those of `dark:` only hear of each other, those of `plain:` neither.
fn node() -> Node {
    Node::builder()
        .set("client.token.hmac_secret_key", json!(token::SECRET))
        .namespace(json!({
            "name": "room",
            "allow_subscribe_for_client": true,
            "allow_publish_for_client": true,
            "presence": true,
            "allow_presence_for_subscriber": true,
            "join_leave": true,
        }))
        .namespace(json!({
            "name": "dark",
            "allow_subscribe_for_client": true,
            "join_leave": true,
            "force_push_join_leave": true,
        }))
        .namespace(json!({"name": "plain", "allow_subscribe_for_client": true}))
        .start()
}

async fn connect(node: &Node, codec: Codec, user: &str) -> Client {
    let claims = json!({"sub": user, "info": {"name": user}});
    Client::connect(node, codec, with_token(&token::mint(&claims))).await
}

async fn subscribe(client: &mut Client, channel: &str) {
    let request = SubscribeRequest {
        channel: channel.to_owned(),
        join_leave: true,
        ..SubscribeRequest::default()
    };
    let answer = client.subscribe_with(request).await;
    assert!(answer.subscribe.is_some(), "{answer:?}");
}

fn presence(channel: &str) -> Command {
    Command {
        presence: Some(Box::new(PresenceRequest {
            channel: channel.to_owned(),
        })),
        ..Command::default()
    }
}

fn stats(channel: &str) -> Command {
    Command {
        presence_stats: Some(Box::new(PresenceStatsRequest {
            channel: channel.to_owned(),
        })),
        ..Command::default()
    }
}

async fn members(client: &mut Client, channel: &str) -> Vec<ClientInfo> {
    let answer = client.call(presence(channel)).await;
    let PresenceResult { presence } = *answer.presence.expect("presence is answered");
    for (id, info) in &presence {
        assert_eq!(*id, info.client);
    }
    presence.into_values().collect()
}

async fn counts(client: &mut Client, channel: &str) -> (u32, u32) {
    let answer = client.call(stats(channel)).await;
    let stats = answer.presence_stats.expect("the numbers are answered");
    (stats.num_clients, stats.num_users)
}

/// The sign and the user of a join or a leave.
fn told(push: Push) -> (char, ClientInfo) {
    let (sign, info) = match (push.join, push.leave) {
        (Some(join), None) => ('+', join.info),
        (None, Some(leave)) => ('-', leave.info),
        other => panic!("neither a join nor a leave: {other:?}"),
    };
    (sign, *info.expect("a join says who"))
}

#[tokio::test]
async fn clients_see_who_is_there_and_who_comes_and_goes() {
    let node = node();
    for codec in CODECS {
        let channel = "room:a";
        let mut ann = connect(&node, codec, "ann").await;
        subscribe(&mut ann, channel).await;
        let (sign, own) = told(ann.push().await);
        assert_eq!((sign, own.user.as_str()), ('+', "ann"), "its own join");
        assert_eq!(own.conn_info.as_bytes().as_ref(), br#"{"name":"ann"}"#);
        let mut bob = connect(&node, codec, "bob").await;
        subscribe(&mut bob, channel).await;
        let (sign, came) = told(ann.push().await);
        assert_eq!((sign, came.user.as_str()), ('+', "bob"));
        let mut there = members(&mut bob, channel).await;
        there.sort_by(|left, right| left.user.cmp(&right.user));
        assert_eq!(there, [own.clone(), came.clone()]);
        assert_eq!(counts(&mut ann, channel).await, (2, 2));
        // A connection that is cut is gone like one that says so.
        bob.cut();
        let (sign, went) = told(ann.push().await);
        assert_eq!((sign, went), ('-', came));
        assert_eq!(members(&mut ann, channel).await, [own]);
        ann.unsubscribe(channel).await;
        let answer = ann.call(presence(channel)).await;
        assert_eq!(reply::error(&answer).0, 103, "no subscriber any more");
    }
}

#[tokio::test]
async fn presence_is_error_108_where_it_is_off_and_106_never_for_a_few() {
    let node = node();
    for codec in CODECS {
        let mut ann = connect(&node, codec, "ann").await;
        for channel in ["dark:a", "plain:a"] {
            subscribe(&mut ann, channel).await;
            assert_eq!(reply::error(&ann.call(presence(channel)).await).0, 108);
            assert_eq!(reply::error(&ann.call(stats(channel)).await).0, 108);
        }
        let (sign, own) = told(ann.push().await);
        assert_eq!(
            (sign, own.user.as_str()),
            ('+', "ann"),
            "dark, but not silent"
        );
        assert_eq!(reply::error(&ann.call(presence("nowhere:a")).await).0, 102);
        assert_eq!(reply::error(&ann.call(presence("room:a")).await).0, 103);
    }
}

#[tokio::test]
async fn back_ends_see_the_same_and_the_api_needs_no_subscription() {
    let node = node();
    let api = node.api();
    let nobody = api.call("presence", &json!({"channel": "room:a"})).await;
    assert_eq!(nobody, json!({"presence": {}}));
    let mut one = connect(&node, Codec::Json, "ann").await;
    let mut two = connect(&node, Codec::Protobuf, "ann").await;
    subscribe(&mut one, "room:a").await;
    subscribe(&mut two, "room:a").await;
    let found = api.call("presence", &json!({"channel": "room:a"})).await;
    let members = found["presence"].as_object().expect("a map");
    assert_eq!(members.len(), 2);
    for (id, info) in members {
        let expected = json!({"user": "ann", "client": id, "conn_info": {"name": "ann"}});
        assert_eq!(*info, expected);
    }
    let stats = api
        .call("presence_stats", &json!({"channel": "room:a"}))
        .await;
    assert_eq!(stats, json!({"num_clients": 2, "num_users": 1}));
    let batch = json!({"commands": [
        {"presence_stats": {"channel": "room:a"}},
        {"presence": {"channel": "room:nobody"}},
        {"presence": {"channel": "plain:a"}},
        {"presence": {"channel": ""}},
        {"presence_stats": {"channel": "nowhere:a"}},
    ]});
    let replies: Value = api.post("/api/batch", &batch).await.json();
    let replies = replies["replies"].as_array().expect("replies");
    assert_eq!(
        replies[..2],
        [
            json!({"presence_stats": {"num_clients": 2, "num_users": 1}}),
            json!({"presence": {"presence": {}}}),
        ]
    );
    let codes: Vec<_> = replies[2..]
        .iter()
        .map(|reply| &reply["error"]["code"])
        .collect();
    assert_eq!(codes, [108, 107, 102]);
}

#[tokio::test]
async fn metrics_count_the_members_of_the_node() {
    let node = node();
    let mut ann = connect(&node, Codec::Json, "ann").await;
    let count = || async {
        node.metrics()
            .await
            .get("tidegate_realtime_presence_members")
    };
    assert_eq!(count().await, 0);
    subscribe(&mut ann, "plain:a").await;
    subscribe(&mut ann, "room:a").await;
    assert_eq!(count().await, 1);
    ann.unsubscribe("room:a").await;
    assert_eq!(count().await, 0);
}
