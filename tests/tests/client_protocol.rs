//! What a well-behaved client sees, in both codecs.

use serde_json::{Value, json};
use tidegate_protocol::{
    Codec, Command, ConnectRequest, HistoryRequest, PublishRequest, Raw, SendRequest,
    StreamPosition, SubscribeRequest,
};
use tidegate_tests::{Client, Node, client::with_token, raw, raw::RawSocket, token};

const CODECS: [Codec; 2] = [Codec::Json, Codec::Protobuf];

/// Anonymous clients may do everything in `open:` and, with history, in `kept:`.
fn node() -> Node {
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
        .namespace(json!({
            "name": "kept",
            "history_size": 10,
            "history_ttl": "60s",
            "allow_subscribe_for_client": true,
            "allow_subscribe_for_anonymous": true,
            "allow_publish_for_client": true,
            "allow_publish_for_anonymous": true,
            "allow_history_for_client": true,
            "allow_history_for_anonymous": true,
        }))
        .start()
}

async fn anonymous(node: &Node, codec: Codec) -> Client {
    Client::connect(node, codec, ConnectRequest::default()).await
}

fn data(raw: &Raw) -> Value {
    serde_json::from_slice(raw.as_bytes()).expect("tests publish JSON")
}

#[tokio::test]
async fn connect_answers_with_an_id_a_version_and_the_ping_interval() {
    let node = node();
    for codec in CODECS {
        let mut client = Client::open(&node, codec).await;
        let reply = client.connect_with(ConnectRequest::default()).await;
        let result = reply.connect.expect("connect succeeds");
        assert_eq!(result.client.len(), 36, "a UUID: {}", result.client);
        assert!(!result.version.is_empty());
        assert_eq!((result.ping, result.pong), (25, true));
        assert!(!result.expires);
        assert_eq!(result.session, "", "sessions belong to other transports");
    }
}

#[tokio::test]
async fn a_publication_reaches_every_subscriber_and_its_publisher() {
    let node = node();
    for codec in CODECS {
        let mut publisher = Client::connect(
            &node,
            codec,
            with_token(&token::mint(&json!({"sub": "anna"}))),
        )
        .await;
        let mut json_client = anonymous(&node, Codec::Json).await;
        let mut protobuf_client = anonymous(&node, Codec::Protobuf).await;
        for client in [&mut publisher, &mut json_client, &mut protobuf_client] {
            let reply = client.subscribe("open:room").await;
            assert!(reply.subscribe.is_some(), "{reply:?}");
        }
        let reply = publisher.publish("open:room", &json!({"n": 1})).await;
        assert!(reply.publish.is_some(), "{reply:?}");
        for client in [&mut publisher, &mut json_client, &mut protobuf_client] {
            let push = client.push().await;
            assert_eq!(push.channel, "open:room");
            let publication = push.r#pub.expect("a publication is pushed");
            assert_eq!(data(&publication.data), json!({"n": 1}));
            assert_eq!(publication.offset, 0, "there is no history");
            let info = publication.info.as_ref().expect("a client published");
            assert_eq!(info.user, "anna");
            assert_eq!(info.client.len(), 36);
        }
    }
}

#[tokio::test]
async fn pipelined_commands_are_answered_in_order() {
    let node = node();
    for codec in CODECS {
        let mut client = Client::open(&node, codec).await;
        let subscribe = SubscribeRequest {
            channel: "open:pipe".to_owned(),
            ..SubscribeRequest::default()
        };
        let publish = PublishRequest {
            channel: "open:pipe".to_owned(),
            data: "1".into(),
            ..PublishRequest::default()
        };
        let ids = client
            .send_commands(vec![
                Command {
                    connect: Some(Box::default()),
                    ..Command::default()
                },
                Command {
                    subscribe: Some(Box::new(subscribe)),
                    ..Command::default()
                },
                Command {
                    publish: Some(Box::new(publish)),
                    ..Command::default()
                },
            ])
            .await;
        assert!(client.reply(ids[0]).await.connect.is_some());
        assert!(client.reply(ids[1]).await.subscribe.is_some());
        assert!(client.reply(ids[2]).await.publish.is_some());
        assert_eq!(client.publication().await, (json!(1), 0));
    }
}

#[tokio::test]
async fn an_unsubscribed_client_hears_nothing_and_may_unsubscribe_again() {
    let node = node();
    for codec in CODECS {
        let mut client = anonymous(&node, codec).await;
        client.subscribe("open:a").await;
        client.subscribe("open:b").await;
        for _ in 0..2 {
            let reply = client.unsubscribe("open:a").await;
            assert!(reply.unsubscribe.is_some(), "{reply:?}");
        }
        let never = client.unsubscribe("open:never").await;
        assert!(never.unsubscribe.is_some(), "{never:?}");
        client.publish("open:a", &json!("unheard")).await;
        client.publish("open:b", &json!("heard")).await;
        assert_eq!(client.publication().await.0, json!("heard"));
    }
}

#[tokio::test]
async fn publications_of_the_server_api_carry_offset_and_tags_but_no_publisher() {
    let node = node();
    for (codec, channel) in CODECS.into_iter().zip(["kept:api1", "kept:api2"]) {
        let mut client = anonymous(&node, codec).await;
        client.subscribe(channel).await;
        let request = json!({"channel": channel, "data": {"x": [1]}, "tags": {"k": "v"}});
        let result = node.api().call("publish", &request).await;
        assert_eq!(result["offset"], 1);
        assert!(
            result["epoch"]
                .as_str()
                .is_some_and(|epoch| !epoch.is_empty())
        );
        let publication = client.push().await.r#pub.expect("a publication is pushed");
        assert_eq!(publication.offset, 1);
        assert_eq!(data(&publication.data), json!({"x": [1]}));
        assert_eq!(publication.tags.get("k").map(String::as_str), Some("v"));
        assert_eq!(publication.info, None);
    }
}

#[tokio::test]
async fn history_is_read_forwards_backwards_and_by_pages() {
    let node = node();
    for (codec, channel) in CODECS.into_iter().zip(["kept:h1", "kept:h2"]) {
        let mut client = anonymous(&node, codec).await;
        for n in 1..=12 {
            client.publish(channel, &json!(n)).await;
        }
        let request = |limit: i32| HistoryRequest {
            channel: channel.to_owned(),
            limit,
            ..HistoryRequest::default()
        };
        let offsets = |result: &tidegate_protocol::HistoryResult| -> Vec<u64> {
            result
                .publications
                .iter()
                .map(|entry| entry.offset)
                .collect()
        };

        let position = client.history(request(0)).await.history.expect("allowed");
        assert!(position.publications.is_empty());
        assert_eq!(position.offset, 12);
        assert!(!position.epoch.is_empty());

        let all = client.history(request(-1)).await.history.expect("allowed");
        assert_eq!(offsets(&all), (3..=12).collect::<Vec<_>>(), "ten are kept");
        assert_eq!(data(&all.publications[0].data), json!(3));

        let since = |offset| {
            Some(Box::new(StreamPosition {
                offset,
                epoch: position.epoch.clone(),
            }))
        };
        let page = HistoryRequest {
            since: since(5),
            ..request(3)
        };
        let page = client.history(page).await.history.expect("allowed");
        assert_eq!(offsets(&page), [6, 7, 8]);

        let newest = HistoryRequest {
            reverse: true,
            ..request(2)
        };
        let newest = client.history(newest).await.history.expect("allowed");
        assert_eq!(offsets(&newest), [12, 11]);

        let other_epoch = HistoryRequest {
            since: Some(Box::new(StreamPosition {
                offset: 5,
                epoch: "other".to_owned(),
            })),
            ..request(3)
        };
        let error = client.history(other_epoch).await.error.expect("refused");
        assert_eq!((error.code, error.temporary), (112, false));
    }
}

#[tokio::test]
async fn subscribers_of_both_codecs_see_one_order() {
    let node = node();
    let mut clients = Vec::new();
    for codec in CODECS {
        let mut client = anonymous(&node, codec).await;
        client.subscribe("kept:order").await;
        clients.push(client);
    }
    let mut publisher = anonymous(&node, Codec::Protobuf).await;
    let publish = |n: usize| Command {
        publish: Some(Box::new(PublishRequest {
            channel: "kept:order".to_owned(),
            data: n.to_string().into(),
            ..PublishRequest::default()
        })),
        ..Command::default()
    };
    // Below the burst of the command rate.
    publisher
        .send_commands((0..200).map(publish).collect())
        .await;
    for client in &mut clients {
        for n in 0..200 {
            assert_eq!(client.publication().await, (json!(n), n + 1));
        }
    }
}

#[tokio::test]
async fn data_that_is_not_json_reaches_protobuf_clients_and_ends_json_ones() {
    let node = node();
    let mut binary = anonymous(&node, Codec::Protobuf).await;
    let mut text = anonymous(&node, Codec::Json).await;
    binary.subscribe("open:bytes").await;
    text.subscribe("open:bytes").await;
    let publish = PublishRequest {
        channel: "open:bytes".to_owned(),
        data: vec![0, 0xff, b'\n'].into(),
        ..PublishRequest::default()
    };
    let reply = binary
        .call(Command {
            publish: Some(Box::new(publish)),
            ..Command::default()
        })
        .await;
    assert!(reply.publish.is_some(), "{reply:?}");
    let publication = binary.push().await.r#pub.expect("a publication is pushed");
    assert_eq!(publication.data.as_bytes().as_ref(), &[0, 0xff, b'\n']);
    let closed = text.closed().await;
    assert_eq!(
        (closed.code, closed.reason.as_str()),
        (3506, "inappropriate protocol")
    );
}

#[tokio::test]
async fn raw_newlines_in_data_do_not_break_the_frames_of_json_clients() {
    let node = node();
    let mut client = anonymous(&node, Codec::Json).await;
    client.subscribe("open:lines").await;
    let body = "{\"channel\": \"open:lines\",\n \"data\": {\n\"a\":\n\"b\\n\"}}";
    let answer = node
        .api()
        .send(
            hyper::Method::POST,
            "/api/publish",
            "application/json",
            body,
        )
        .await;
    assert_eq!(answer.status, 200, "{:?}", answer.json());
    assert_eq!(client.publication().await.0, json!({"a": "b\n"}));
}

#[tokio::test]
async fn rpc_without_a_plugin_and_send_without_a_handler_are_not_available() {
    let node = node();
    for codec in CODECS {
        let mut client = anonymous(&node, codec).await;
        let error = client.rpc("anything", &json!({})).await.error;
        assert_eq!(error.expect("no plugin answers").code, 108);
        let send = Command {
            send: Some(Box::new(SendRequest { data: "1".into() })),
            ..Command::default()
        };
        client.send_commands(vec![send]).await;
        let closed = client.closed().await;
        assert_eq!(
            (closed.code, closed.reason.as_str()),
            (3508, "not available")
        );
    }
}

#[tokio::test]
async fn the_subprotocol_is_echoed_and_the_query_selects_protobuf_too() {
    let node = node();
    for subprotocol in ["centrifuge-json", "centrifuge-protobuf"] {
        let mut socket = RawSocket::open(&node).await;
        let offer = format!("Sec-WebSocket-Protocol: other, {subprotocol}\r\n");
        let request = raw::upgrade_request("/connection/websocket", &offer);
        socket.send(request.as_bytes()).await;
        let head = socket.head().await.expect("the server answers");
        let lower = head.to_lowercase();
        assert!(
            lower.contains(&format!("sec-websocket-protocol: {subprotocol}\r\n")),
            "{head}"
        );
        assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    }
    for query in [
        "format=protobuf",
        "cf_protocol=protobuf",
        "x=1&format=protobuf",
    ] {
        let mut socket = RawSocket::open(&node).await;
        let path = format!("/connection/websocket?{query}");
        socket
            .send(raw::upgrade_request(&path, "").as_bytes())
            .await;
        assert_eq!(socket.status().await, Some(101));
        socket
            .send(&raw::frame(raw::BINARY, &[4, 0x08, 1, 0x22, 0]))
            .await;
        let frame = socket.frame().await.expect("connect is answered");
        assert_eq!(frame.first, raw::BINARY);
    }
}

#[tokio::test]
async fn an_app_is_reached_by_its_path_and_unknown_ones_do_not_exist() {
    let node = node();
    let url = format!(
        "ws://{}/apps/default/connection/websocket",
        node.client_addr()
    );
    let mut client = Client::open_at(&url, Codec::Json).await;
    let reply = client.connect_with(ConnectRequest::default()).await;
    assert!(reply.connect.is_some(), "{reply:?}");
    let mut socket = RawSocket::open(&node).await;
    let request = raw::upgrade_request("/apps/nobody/connection/websocket", "");
    socket.send(request.as_bytes()).await;
    assert_eq!(socket.status().await, Some(404));
}

#[tokio::test]
async fn the_server_pings_and_a_client_that_answers_stays() {
    let node = Node::builder()
        .set("client.allow_anonymous_connect_without_token", json!(true))
        .set("client.ping_interval", json!("1s"))
        .set("client.pong_timeout", json!("500ms"))
        .start();
    for codec in CODECS {
        let mut socket = RawSocket::connected(&node, codec).await;
        for _ in 0..2 {
            let replies = socket.replies(codec).await.expect("a ping arrives");
            assert_eq!(replies, [tidegate_protocol::Reply::ping()]);
            let pong = match codec {
                Codec::Json => raw::frame(raw::TEXT, b"{}"),
                Codec::Protobuf => raw::frame(raw::BINARY, &[0]),
            };
            socket.send(&pong).await;
        }
        // The third goes unanswered.
        let ending = socket.ending().await;
        assert_eq!(ending, raw::Ending::Closed(3012, "no pong".to_owned()));
    }
}

#[tokio::test]
async fn native_pings_are_answered() {
    let node = node();
    let mut socket = RawSocket::connected(&node, Codec::Json).await;
    socket.send(&raw::frame(raw::PING, b"are you there")).await;
    let frame = socket.frame().await.expect("the ping is answered");
    assert_eq!(frame.first, raw::PONG);
    assert_eq!(frame.payload, b"are you there");
    socket
        .send(&raw::frame(raw::CLOSE, &1000u16.to_be_bytes()))
        .await;
    let frame = socket.frame().await.expect("the close is answered");
    assert_eq!(frame.first, raw::CLOSE);
}

#[tokio::test]
async fn native_pings_replace_empty_messages_where_the_address_asks_for_them() {
    let node = Node::builder()
        .set("client.allow_anonymous_connect_without_token", json!(true))
        .set("client.ping_interval", json!("1s"))
        .set("client.pong_timeout", json!("500ms"))
        .start();
    let mut socket = RawSocket::open(&node).await;
    let path = "/connection/websocket?cf_protocol_version=v2&cf_ws_frame_ping_pong=true";
    socket.send(raw::upgrade_request(path, "").as_bytes()).await;
    assert_eq!(socket.status().await, Some(101));
    socket
        .send(&raw::frame(raw::TEXT, br#"{"id":1,"connect":{}}"#))
        .await;
    let replies = socket.replies(Codec::Json).await.expect("an answer");
    let result = replies[0].connect.as_ref().expect("connect succeeds");
    assert_eq!((result.ping, result.pong), (0, false));
    for _ in 0..2 {
        let frame = socket.frame().await.expect("a ping arrives");
        assert_eq!(frame.first, raw::PING);
        socket.send(&raw::frame(raw::PONG, &frame.payload)).await;
    }
    // The third goes unanswered.
    let ending = socket.ending().await;
    assert_eq!(ending, raw::Ending::Closed(3012, "no pong".to_owned()));
}

#[tokio::test]
async fn a_session_id_of_the_server_api_narrows_and_never_widens() {
    let node = node();
    let mut client = Client::open(&node, Codec::Json).await;
    let reply = client.connect_with(ConnectRequest::default()).await;
    let id = reply.connect.expect("connect succeeds").client;
    // The public id is no session id, and no session has this one.
    for session in [id.as_str(), "3f0e7a52-7c3b-4c9e-9d0e-0d7a5f2b1c11", "x"] {
        let selector = json!({"user": "", "session": session});
        node.api().call("disconnect", &selector).await;
    }
    let reply = client.subscribe("open:room").await;
    assert!(reply.subscribe.is_some(), "{reply:?}");
    let selector = json!({"user": "", "client": id});
    node.api().call("disconnect", &selector).await;
    assert_eq!(client.closed().await.code, 3503);
}

#[tokio::test]
async fn a_refresh_of_the_server_api_changes_the_expiry_and_the_info() {
    let node = node();
    let token = token::mint(&json!({"sub": "anna", "info": {"mood": "good"}}));
    let mut client = Client::connect(&node, Codec::Json, with_token(&token)).await;
    client.subscribe("open:room").await;
    let request = json!({
        "user": "anna",
        "expire_at": token::unix_time(600),
        "info": {"mood": "better"},
    });
    node.api().call("refresh", &request).await;
    let refresh = client.push().await.refresh.expect("the client is told");
    assert!(refresh.expires && (590..=600).contains(&refresh.ttl));
    client.publish("open:room", &json!(1)).await;
    let publication = client.push().await.r#pub.expect("a publication is pushed");
    let info = publication.info.as_ref().expect("a client published");
    assert_eq!(data(&info.conn_info), json!({"mood": "better"}));
    let over = json!({"user": "anna", "expired": true});
    node.api().call("refresh", &over).await;
    let closed = client.closed().await;
    assert_eq!(
        (closed.code, closed.reason.as_str()),
        (3005, "connection expired")
    );
}
