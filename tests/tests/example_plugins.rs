//! The three plugins of `plugins/` in a whole node: pushed by the CLI, felt by clients and by the server API.

use serde_json::{Value, json};
use tidegate_protocol::{Codec, HistoryRequest, Reply};
use tidegate_tests::{
    Client, Node, NodeBuilder,
    client::{Closed, with_data},
    reply::{accepted, error},
    token::{ticket, unix_time},
};

const SECRET: &str = "sixteen bytes or more, for tickets";
const ROOM: &str = "chat:lobby";
const CODECS: [Codec; 2] = [Codec::Json, Codec::Protobuf];

fn builder() -> NodeBuilder {
    Node::builder()
        .set("client.expired_close_delay", json!("1s"))
        .namespace(json!({
            "name": "chat",
            "history_size": 10,
            "history_ttl": "60s",
            "allow_subscribe_for_client": true,
            "allow_publish_for_subscriber": true,
            "allow_history_for_subscriber": true,
        }))
}

/// A node in which tickets are the only way in.
async fn node() -> Node {
    let node = builder().start();
    let settings = json!({ "secrets": [{ "id": "tests", "secret": SECRET }] });
    node.install("ticket-auth", "authentication@app", &settings)
        .await;
    node
}

async fn with_word_filter(settings: &Value) -> Node {
    let node = node().await;
    node.install("word-filter", "filtering@namespace:chat", settings)
        .await;
    node
}

async fn with_direct_router() -> Node {
    let node = node().await;
    node.install("direct-router", "routing@namespace:chat", &json!({}))
        .await;
    node
}

fn ticket_of(user: &str, role: &str, seconds: i64) -> String {
    let payload = json!({
        "kid": "tests", "user": user, "name": user.to_uppercase(), "role": role, "exp": unix_time(seconds),
    });
    ticket(SECRET, &payload)
}

/// A device of `user` in the room.
async fn join_as(node: &Node, codec: Codec, user: &str, role: &str) -> Client {
    let ticket = ticket_of(user, role, 3_600);
    let mut client = Client::connect(node, codec, with_data(&json!({ "ticket": ticket }))).await;
    let reply = client.subscribe(ROOM).await;
    assert!(reply.subscribe.is_some(), "{reply:?}");
    client
}

async fn join(node: &Node, user: &str) -> Client {
    join_as(node, Codec::Json, user, "member").await
}

/// How the node answers the first connect of a client that brings this.
async fn knock(node: &Node, codec: Codec, data: &Value) -> Result<Reply, Closed> {
    let mut client = Client::open(node, codec).await;
    let ids = client
        .send_commands(vec![tidegate_protocol::Command {
            connect: Some(Box::new(with_data(data))),
            ..Default::default()
        }])
        .await;
    client.reply_or_close(ids[0]).await
}

/// Publications that the room remembers.
async fn history(client: &mut Client) -> Vec<Value> {
    let request = HistoryRequest {
        channel: ROOM.to_owned(),
        limit: -1,
        ..HistoryRequest::default()
    };
    let result = client
        .history(request)
        .await
        .history
        .expect("history is on");
    let data = |publication: &std::sync::Arc<tidegate_protocol::Publication>| {
        serde_json::from_slice(publication.data.as_bytes()).expect("tests publish JSON")
    };
    result.publications.iter().map(data).collect()
}

#[tokio::test]
async fn ticket_auth_lets_the_bearer_in_and_others_see_who_it_is() {
    let node = node().await;
    for codec in CODECS {
        let mut reader = join_as(&node, codec, "bob", "member").await;
        let payload = json!({
            "user": "ann", "name": "Ann", "role": "operator", "exp": unix_time(60), "channels": ["chat:staff"],
        });
        let mut ann = Client::open(&node, codec).await;
        let data = json!({ "ticket": ticket(SECRET, &payload) });
        let reply = ann.connect_with(with_data(&data)).await;
        let result = reply.connect.expect("the ticket is good");
        assert!(
            result.subs.contains_key("chat:staff"),
            "the ticket's channels are subscribed to: {result:?}"
        );

        assert!(ann.subscribe(ROOM).await.subscribe.is_some());
        accepted(&ann.publish(ROOM, &json!({ "text": "hi" })).await);
        let push = reader.push().await;
        let info = push
            .r#pub
            .expect("a publication")
            .info
            .clone()
            .expect("a client published it");
        assert_eq!(info.user, "ann");
        let shown: Value = serde_json::from_slice(info.conn_info.as_bytes()).unwrap();
        assert_eq!(shown, json!({ "name": "Ann", "role": "operator" }));
    }
}

#[tokio::test]
async fn ticket_auth_refuses_forged_expired_and_absent_tickets_with_their_codes() {
    let node = node().await;
    let forged = ticket(
        "another secret of enough bytes",
        &json!({ "user": "ann", "exp": unix_time(60) }),
    );
    let mut swapped = ticket_of("ann", "member", 60);
    let mac = swapped.split_once('.').unwrap().1.to_owned();
    swapped = ticket_of("boss", "operator", 60);
    swapped = format!("{}.{mac}", swapped.split_once('.').unwrap().0);
    for codec in CODECS {
        for (ticket, code, says) in [
            (forged.as_str(), 401, "not signed with a key"),
            (&swapped, 401, "not signed with a key"),
            ("nonsense", 401, "malformed"),
            (&ticket_of("ann", "member", -5), 440, "fetch a new one"),
        ] {
            let reply = knock(&node, codec, &json!({ "ticket": ticket })).await;
            let reply = reply.expect("a refused connect is answered");
            let (found, message) = error(&reply);
            assert_eq!(found, code, "{message}");
            assert!(message.contains(says), "{message}");
        }
        // Nobody else vouches for a client without a ticket either.
        let closed = knock(&node, codec, &json!({})).await.unwrap_err();
        assert_eq!(closed.code, 3501, "{closed:?}");
    }
}

#[tokio::test]
async fn the_host_asks_again_when_a_ticket_ends_and_a_new_ticket_lets_its_bearer_back_in() {
    let node = node().await;
    for codec in CODECS {
        let ticket = ticket_of("ann", "member", 2);
        let mut ann = Client::connect(&node, codec, with_data(&json!({ "ticket": ticket }))).await;
        assert!(ann.subscribe(ROOM).await.subscribe.is_some());
        // The plugin renews nothing, so the host, which asks ahead of time, ends the session.
        let closed = ann.closed().await;
        assert_eq!(
            (closed.code, closed.reason.as_str()),
            (3005, "connection expired")
        );
        join_as(&node, codec, "ann", "member").await;
    }
    let statistics = node.admin().get("/admin/v1/statistics").await.json();
    let hooks = statistics["plugins"]["hooks"].as_array().unwrap();
    let asked = hooks.iter().find(|row| row["hook"] == "authentication");
    let asked = asked.expect("authentication is counted");
    // For each codec two connects, and the question whether the first identity goes on.
    assert_eq!(asked["answered"], 6, "{asked}");
}

#[tokio::test]
async fn word_filter_masks_words_and_personal_data_for_every_reader() {
    let settings = json!({ "words": ["darn"], "leetspeak": true, "identity": { "mode": "mask" }, "stamp": true });
    let node = with_word_filter(&settings).await;
    let mut writer = join(&node, "ann").await;
    let mut reader = join_as(&node, Codec::Protobuf, "bob", "member").await;
    for (text, masked) in [
        ("Darn it", "**** it"),
        ("d4rn!", "****!"),
        ("darning is fine", "darning is fine"),
        ("mail ann@example.org now", "mail *************** now"),
        ("call +44 20 7946 0958", "call ****************"),
        ("pay 4111 1111 1111 1111", "pay *******************"),
        ("the year 2026", "the year 2026"),
    ] {
        let data = json!({ "text": text, "n": 1.5 });
        accepted(&writer.publish(ROOM, &data).await);
        let expected = json!({ "text": masked, "n": 1.5, "filtered_by": "word-filter@1" });
        assert_eq!(reader.publication().await.0, expected, "{text}");
        assert_eq!(writer.publication().await.0, expected, "{text}");
    }
    // Nothing of what was masked is kept.
    let kept = history(&mut reader).await;
    assert_eq!(kept[0]["text"], "**** it");
}

#[tokio::test]
async fn word_filter_refuses_by_policy_and_nothing_of_a_refused_message_is_delivered() {
    let settings = json!({
        "words": ["darn"], "word": { "mode": "refuse", "code": 470, "reason": "mind your language" },
        "identity": { "mode": "refuse" },
    });
    let node = with_word_filter(&settings).await;
    let mut writer = join(&node, "ann").await;
    let mut reader = join(&node, "bob").await;
    for (text, refusal) in [
        ("darn it", (470, "mind your language")),
        (
            "4111 1111 1111 1111",
            (
                451,
                "card, account and identity numbers are not allowed here",
            ),
        ),
    ] {
        let reply = writer.publish(ROOM, &json!({ "text": text })).await;
        assert_eq!(error(&reply), refusal);
    }
    accepted(&writer.publish(ROOM, &json!({ "text": "fine" })).await);
    let (data, offset) = reader.publication().await;
    assert_eq!((data, offset), (json!({ "text": "fine" }), 1));
    assert_eq!(history(&mut reader).await, [json!({ "text": "fine" })]);
}

#[tokio::test]
async fn word_filter_judges_what_the_server_api_publishes_too() {
    let settings = json!({ "words": ["darn"], "identity": { "mode": "refuse", "code": 460, "reason": "no cards" } });
    let node = with_word_filter(&settings).await;
    let mut reader = join(&node, "bob").await;
    let api = node.api();
    let body = json!({ "channel": ROOM, "data": { "text": "darn" } });
    api.call("publish", &body).await;
    assert_eq!(reader.publication().await.0, json!({ "text": "****" }));

    let body = json!({ "channel": ROOM, "data": { "text": "4111 1111 1111 1111" } });
    let refused = api.post("/api/publish", &body).await.json();
    assert_eq!(
        refused["error"],
        json!({ "code": 460, "message": "no cards" })
    );
    let body = json!({ "channels": [ROOM, "chat:other"], "data": { "text": "DARN" } });
    api.call("broadcast", &body).await;
    assert_eq!(reader.publication().await.0, json!({ "text": "****" }));
}

#[tokio::test]
async fn direct_router_broadcasts_to_everybody_in_the_channel() {
    let node = with_direct_router().await;
    let mut ann = join(&node, "ann").await;
    let mut bob = join_as(&node, Codec::Protobuf, "bob", "member").await;
    let data = json!({ "type": "broadcast", "text": "hi" });
    accepted(&ann.publish(ROOM, &data).await);
    assert_eq!(ann.publication().await, (data.clone(), 1));
    assert_eq!(bob.publication().await, (data, 1));
}

#[tokio::test]
async fn direct_router_takes_a_private_message_to_all_devices_of_one_user_and_to_nobody_else() {
    let node = with_direct_router().await;
    let mut ann = join(&node, "ann").await;
    let mut ann_phone = join_as(&node, Codec::Protobuf, "ann", "member").await;
    let mut bob = join(&node, "bob").await;
    let mut bob_phone = join_as(&node, Codec::Protobuf, "bob", "member").await;
    // A device that is not even in the room.
    let ticket = ticket_of("bob", "member", 3_600);
    let data = json!({ "ticket": ticket });
    let mut bob_watch = Client::connect(&node, Codec::Json, with_data(&data)).await;
    let mut eve = join(&node, "eve").await;

    let private = json!({ "type": "private", "to": "bob", "text": "psst", "from": "eve" });
    accepted(&ann.publish(ROOM, &private).await);
    let expected = json!({
        "type": "private", "to": "bob", "text": "psst", "from": "ann", "channel": ROOM,
    });
    for device in [
        &mut bob,
        &mut bob_phone,
        &mut bob_watch,
        &mut ann,
        &mut ann_phone,
    ] {
        assert_eq!(device.message().await, expected);
    }
    // Had anything private come to eve, it would stand before one of these.
    for n in [1, 2] {
        let open = json!({ "type": "broadcast", "n": n });
        accepted(&ann.publish(ROOM, &open).await);
        assert_eq!(eve.publication().await, (open.clone(), n));
        assert_eq!(
            bob.publication().await,
            (open, n),
            "each device hears it once"
        );
    }
    let kept = history(&mut eve).await;
    assert_eq!(kept.len(), 2, "nothing private is remembered: {kept:?}");
}

#[tokio::test]
async fn direct_router_takes_system_messages_from_operators_and_the_back_end_only() {
    let node = with_direct_router().await;
    let mut operator = join_as(&node, Codec::Json, "olga", "operator").await;
    let mut ann = join(&node, "ann").await;
    let system = json!({ "type": "system", "text": "closing at ten" });
    let refused = ann.publish(ROOM, &system).await;
    assert_eq!(
        error(&refused),
        (103, "only operators send system messages")
    );
    accepted(&operator.publish(ROOM, &system).await);
    assert_eq!(ann.publication().await, (system.clone(), 1));
    let body = json!({ "channel": ROOM, "data": system });
    node.api().call("publish", &body).await;
    assert_eq!(ann.publication().await, (system, 2));
}

#[tokio::test]
async fn direct_router_refuses_what_it_does_not_know_and_never_falls_back_to_the_channel() {
    let node = with_direct_router().await;
    let mut ann = join(&node, "ann").await;
    let mut bob = join(&node, "bob").await;
    for (data, code, says) in [
        (
            json!({ "type": "whisper", "to": "bob" }),
            422,
            "none of broadcast, private, system",
        ),
        (json!({ "text": "hi" }), 400, "`type` is missing"),
        (json!({ "type": "private" }), 400, "needs `to`"),
        (
            json!({ "type": "broadcast", "to": "bob" }),
            400,
            "private messages only",
        ),
        (json!("hi"), 400, "cannot be used as JSON"),
    ] {
        let reply = ann.publish(ROOM, &data).await;
        let (found, message) = error(&reply);
        assert_eq!(found, code, "{data}: {message}");
        assert!(message.contains(says), "{data}: {message}");
    }
    let open = json!({ "type": "broadcast" });
    accepted(&ann.publish(ROOM, &open).await);
    assert_eq!(bob.publication().await, (open, 1));
}

#[tokio::test]
async fn the_three_together_decide_who_speaks_what_is_said_and_who_hears_it() {
    let node = with_word_filter(&json!({
        "words": ["darn"], "fields": ["text"], "stamp": true, "identity": { "mode": "refuse", "code": 460, "reason": "no cards" },
    }))
    .await;
    node.install("direct-router", "routing@namespace:chat", &json!({}))
        .await;
    let mut olga = join_as(&node, Codec::Json, "olga", "operator").await;
    let mut ann = join(&node, "ann").await;
    let mut bob = join_as(&node, Codec::Protobuf, "bob", "member").await;

    // Filtered first, then routed: the private copy is masked as well, and the router's own members stand.
    let private = json!({ "type": "private", "to": "bob", "text": "darn" });
    accepted(&ann.publish(ROOM, &private).await);
    let expected = json!({
        "type": "private", "to": "bob", "text": "****", "filtered_by": "word-filter@1", "from": "ann", "channel": ROOM,
    });
    assert_eq!(bob.message().await, expected);
    assert_eq!(ann.message().await, expected);

    // What the filter refuses is never routed, and what the router refuses was never delivered.
    let card = json!({ "type": "private", "to": "bob", "text": "4111 1111 1111 1111" });
    assert_eq!(error(&ann.publish(ROOM, &card).await), (460, "no cards"));
    let system = json!({ "type": "system", "text": "darn" });
    assert_eq!(error(&ann.publish(ROOM, &system).await).0, 103);

    // The ticket's role reaches the router through the session's meta.
    accepted(&olga.publish(ROOM, &system).await);
    let shown = json!({ "type": "system", "text": "****", "filtered_by": "word-filter@1" });
    for client in [&mut ann, &mut bob, &mut olga] {
        assert_eq!(client.publication().await, (shown.clone(), 1));
    }
    let listed = node.cli(&["plugin", "list", "--json"]).await.json();
    assert_eq!(listed["plugins"].as_array().map(Vec::len), Some(3));
}
