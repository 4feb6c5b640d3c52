//! The client listener: what it serves, and whom it believes.

use serde_json::{Value, json};
use tidegate_protocol::{Codec, Reply};
use tidegate_tests::{
    Node, NodeBuilder,
    api::Http,
    raw::{self, Ending, RawSocket},
    token,
};

const HEADER: &str = "X-User-Id";

fn builder() -> NodeBuilder {
    Node::builder()
        .set("client.user_id_http_header", json!(HEADER))
        .set("client.token.hmac_secret_key", json!(token::SECRET))
}

fn bad_request() -> Ending {
    Ending::Closed(3501, "bad request".to_owned())
}

/// A socket whose handshake had these header lines and whose connect was sent.
async fn connecting(node: &Node, headers: &str, token: &str) -> RawSocket {
    let mut socket = RawSocket::upgraded_with(node, Codec::Json, headers).await;
    let connect = json!({"id": 1, "connect": {"token": token}}).to_string();
    socket
        .send(&raw::frame(raw::TEXT, connect.as_bytes()))
        .await;
    socket
}

async fn first_reply(socket: &mut RawSocket) -> Reply {
    let replies = socket.replies(Codec::Json).await;
    replies.expect("the connect is answered").remove(0)
}

/// Ends the sessions of a user and tells whether this socket's was one of them.
async fn is_user(node: &Node, socket: &mut RawSocket, user: &str) -> bool {
    let api = node.api();
    api.call(
        "disconnect",
        &json!({"user": user, "disconnect": {"code": 4001, "reason": "it is you"}}),
    )
    .await;
    // Whoever it was not is ended by this one.
    let everybody = json!({"user": "", "disconnect": {"code": 4002, "reason": "it is not"}});
    api.call("disconnect", &everybody).await;
    match socket.ending().await {
        Ending::Closed(4001, _) => true,
        Ending::Closed(4002, _) => false,
        ending => panic!("{ending:?}"),
    }
}

#[tokio::test]
async fn the_header_of_a_proxy_names_the_user() {
    let node = builder().start();
    let mut socket = connecting(&node, "X-User-Id: anna\r\n", "").await;
    assert!(first_reply(&mut socket).await.connect.is_some());
    assert!(is_user(&node, &mut socket, "anna").await);
}

#[tokio::test]
async fn without_the_header_or_with_two_of_it_nobody_is_named() {
    let node = builder().start();
    for headers in [
        "",
        "X-User-Id: \r\n",
        "X-User-Id: anna\r\nX-User-Id: berta\r\n",
        "X-User-Id: anna\r\nx-user-id: anna\r\n",
    ] {
        let mut socket = connecting(&node, headers, "").await;
        assert_eq!(socket.ending().await, bad_request(), "{headers:?}");
    }
}

#[tokio::test]
async fn a_token_and_anonymous_access_come_before_the_header() {
    let node = builder().start();
    let berta = token::mint(&json!({"sub": "berta"}));
    let mut socket = connecting(&node, "X-User-Id: anna\r\n", &berta).await;
    assert!(first_reply(&mut socket).await.connect.is_some());
    assert!(is_user(&node, &mut socket, "berta").await);

    let node = builder()
        .set("client.allow_anonymous_connect_without_token", json!(true))
        .start();
    let mut socket = connecting(&node, "X-User-Id: anna\r\n", "").await;
    assert!(first_reply(&mut socket).await.connect.is_some());
    assert!(!is_user(&node, &mut socket, "anna").await, "anonymous");
}

#[tokio::test]
async fn t8_once_proxies_are_named_the_header_counts_from_them_alone() {
    let from = |network: &str| builder().set("http_server.trusted_proxies", json!([network]));
    let stranger = from("10.0.0.0/8").start();
    let mut socket = connecting(&stranger, "X-User-Id: anna\r\n", "").await;
    assert_eq!(socket.ending().await, bad_request());

    let proxied = from("127.0.0.0/8").start();
    let mut socket = connecting(&proxied, "X-User-Id: anna\r\n", "").await;
    assert!(first_reply(&mut socket).await.connect.is_some());
    assert!(is_user(&proxied, &mut socket, "anna").await);
}

#[tokio::test]
async fn health_that_is_off_is_not_on_the_client_listener() {
    let node = Node::builder().set("health.enabled", json!(false)).start();
    let client = Http::new(node.client_addr());
    for path in ["/health", "/health/ready", "/health/live"] {
        assert_eq!(client.get(path).await.status, 404, "{path}");
    }
    let admin = Http::new(node.admin_addr());
    assert_eq!(admin.get("/health").await.status, 200);

    let node = Node::builder().start();
    assert_eq!(
        Http::new(node.client_addr()).get("/health").await.status,
        200
    );
}

#[tokio::test]
async fn t2_a_client_that_takes_nothing_for_the_write_timeout_is_slow() {
    let node = Node::builder()
        .set("client.allow_anonymous_connect_without_token", json!(true))
        .set("client.queue_max_size", json!("64MiB"))
        .set("websocket.write_timeout", json!("1s"))
        .set("log.level", json!("debug"))
        .namespace(json!({
            "name": "open",
            "allow_subscribe_for_client": true,
            "allow_subscribe_for_anonymous": true,
        }))
        .start();
    let mut socket = connecting(&node, "", "").await;
    assert!(first_reply(&mut socket).await.connect.is_some());
    let subscribe = br#"{"id":2,"subscribe":{"channel":"open:flood"}}"#;
    socket.send(&raw::frame(raw::TEXT, subscribe)).await;
    let reply = socket.reply(Codec::Json, 2).await;
    assert!(reply.is_some_and(|reply| reply.subscribe.is_some()));
    // More than both ends' socket buffers, and less than the queue.
    let api = node.api();
    let big = json!({"channel": "open:flood", "data": "x".repeat(50_000)});
    for _ in 0..400 {
        api.call("publish", &big).await;
    }
    let is_end = |line: &Value| line["fields"]["message"] == "session closes";
    let line = node.log().next(&mut 0, is_end).await;
    assert_eq!(line["fields"]["code"], 3008, "{line}");
    assert_eq!(line["fields"]["reason"], "write_stalled", "{line}");
    assert_eq!(
        socket.ending().await,
        Ending::Closed(3008, "slow".to_owned())
    );
    let slow = "tidegate_realtime_disconnects_total{code=\"3008\"}";
    assert_eq!(node.metrics().await.get(slow), 1);
}

#[tokio::test]
async fn refused_connections_are_told_at_info_level_once_a_minute_without_secrets() {
    const SECRET_TEXT: &str = "eyJhbGciOiJIUzI1NiJ9.bm90IHNpZ25lZA.c2VjcmV0";
    let node = builder().start();
    let mut cursor = 0;
    let next = async |cursor: &mut usize, reason: &str| {
        node.log()
            .next(cursor, |line| {
                line["level"] == "INFO" && line.to_string().contains(reason)
            })
            .await
            .to_string()
    };
    for _ in 0..2 {
        let refused = Http::new(node.client_addr())
            .header("Origin", "https://evil.example")
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==")
            .get("/connection/websocket")
            .await;
        assert_eq!(refused.status, 403);
    }
    let said = next(&mut cursor, "forbidden_origin").await;
    for part in [
        "https://evil.example",
        "client.allowed_origins",
        "127.0.0.1",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }

    let mut without = connecting(&node, "", "").await;
    assert_eq!(without.ending().await, bad_request());
    let said = next(&mut cursor, "token_absent").await;
    assert!(said.contains("127.0.0.1"), "{said}");
    assert!(
        !said.contains("forbidden_origin"),
        "the second was left out"
    );
    let mut wrong = connecting(&node, "", SECRET_TEXT).await;
    assert!(matches!(wrong.ending().await, Ending::Closed(3500, _)));
    next(&mut cursor, "token_invalid").await;

    let refused = Http::new(node.client_addr())
        .header("X-API-Key", SECRET_TEXT)
        .post("/api/info", &json!({}))
        .await;
    assert_eq!(refused.status, 401);
    let said = next(&mut cursor, "api_key_wrong").await;
    assert!(said.contains("127.0.0.1"), "{said}");
    assert!(!node.log().holds(SECRET_TEXT.as_bytes()));
}
