//! Malformed handshakes, frames and commands: each has its stated answer, others see nothing, and memory comes
//! back to its level.

mod cases;

use serde_json::json;
use tidegate_protocol::{Codec, ConnectRequest, Reply};
use tidegate_tests::{
    Client, Node,
    raw::{Ending, RawSocket},
    within,
};

use cases::{Answer, Case, frame_cases, handshakes, json_cases, protobuf_cases, text};

fn node() -> Node {
    Node::builder()
        .set("client.allow_anonymous_connect_without_token", json!(true))
        .set(
            "client.allowed_origins",
            json!(["https://example.com", "https://*.example.org"]),
        )
        .namespace(json!({
            "name": "open",
            "history_size": 10,
            "history_ttl": "60s",
            "allow_subscribe_for_client": true,
            "allow_subscribe_for_anonymous": true,
            "allow_publish_for_client": true,
            "allow_publish_for_anonymous": true,
        }))
        .start()
}

/// Sends a case over a connected socket of its own and compares.
async fn check(node: &Node, codec: Codec, (what, bytes, expected): &Case) {
    let mut socket = RawSocket::connected(node, codec).await;
    socket.send(bytes).await;
    let answer = match expected {
        Answer::Fine | Answer::Error(_) => {
            let replies = socket.replies(codec).await;
            let replies = replies.unwrap_or_else(|| panic!("{what}: closed instead of answered"));
            answer_in(&replies)
        }
        Answer::Closed(_) => match within(what, socket.ending()).await {
            Ending::Closed(code, _) => Answer::Closed(code),
            Ending::Cut => panic!("{what}: cut without a close frame"),
        },
    };
    assert_eq!(answer, *expected, "{what}");
}

fn answer_in(replies: &[Reply]) -> Answer {
    match &replies[0].error {
        Some(error) => Answer::Error(error.code),
        None => Answer::Fine,
    }
}

/// A client that behaves, connected while others do not.
struct Bystander {
    client: Client,
    seen: u64,
}

impl Bystander {
    async fn join(node: &Node) -> Self {
        let mut client = Client::connect(node, Codec::Json, ConnectRequest::default()).await;
        let reply = client.subscribe("open:bystander").await;
        assert!(reply.subscribe.is_some(), "{reply:?}");
        Self { client, seen: 0 }
    }

    async fn still_receives(&mut self, node: &Node) {
        self.seen += 1;
        let request = json!({"channel": "open:bystander", "data": self.seen});
        node.api().call("publish", &request).await;
        let publication = self.client.publication().await;
        assert_eq!(publication, (json!(self.seen), self.seen));
    }
}

#[tokio::test]
async fn every_malformed_handshake_gets_its_status() {
    let node = node();
    let mut bystander = Bystander::join(&node).await;
    let cases = handshakes();
    for (what, request, status) in &cases {
        let mut socket = RawSocket::open(&node).await;
        socket.send(request).await;
        assert_eq!(socket.status().await, Some(*status), "{what}");
    }
    bystander.still_receives(&node).await;
    assert!(cases.len() >= 25, "{}", cases.len());
}

#[tokio::test]
async fn an_http2_preface_is_refused_at_once() {
    let node = node();
    let mut socket = RawSocket::open(&node).await;
    socket.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    let status = socket.status().await;
    assert!(matches!(status, None | Some(400)), "{status:?}");
}

#[tokio::test]
async fn every_malformed_frame_gets_its_close_code() {
    let node = node();
    let mut bystander = Bystander::join(&node).await;
    for case in frame_cases() {
        check(&node, Codec::Json, &case).await;
    }
    bystander.still_receives(&node).await;
}

#[tokio::test]
async fn c3_every_malformed_json_command_gets_its_answer() {
    let node = node();
    let mut bystander = Bystander::join(&node).await;
    for case in json_cases() {
        check(&node, Codec::Json, &case).await;
    }
    bystander.still_receives(&node).await;
}

#[tokio::test]
async fn c3_every_malformed_protobuf_command_gets_its_answer() {
    let node = node();
    let mut bystander = Bystander::join(&node).await;
    for case in protobuf_cases() {
        check(&node, Codec::Protobuf, &case).await;
    }
    bystander.still_receives(&node).await;
}

#[tokio::test]
async fn nothing_but_connect_is_taken_before_connect() {
    let node = node();
    for command in [
        r#"{"id":1,"subscribe":{"channel":"open:a"}}"#,
        r#"{"id":1,"publish":{"channel":"open:a","data":1}}"#,
        r#"{"id":1,"rpc":{}}"#,
        r#"{"id":1,"refresh":{"token":"a"}}"#,
        r#"{"send":{"data":1}}"#,
        "{}",
    ] {
        let mut socket = RawSocket::upgraded(&node, Codec::Json).await;
        socket.send(&text(command)).await;
        let ending = socket.ending().await;
        assert_eq!(
            ending,
            Ending::Closed(3501, "bad request".to_owned()),
            "{command}"
        );
    }
}

#[tokio::test]
async fn the_close_reason_does_not_echo_the_input() {
    let node = node();
    let mut socket = RawSocket::connected(&node, Codec::Json).await;
    socket.send(&text("secret-token-of-mine")).await;
    let ending = socket.ending().await;
    assert_eq!(ending, Ending::Closed(3501, "bad request".to_owned()));
}

#[tokio::test]
async fn p2_memory_is_back_at_its_level_after_all_of_it() {
    const SLACK_BYTES: u64 = 12 * 1024 * 1024;
    let node = node();
    let mut bystander = Bystander::join(&node).await;
    let all = async || {
        for case in frame_cases().iter().chain(&json_cases()) {
            check(&node, Codec::Json, case).await;
        }
        for case in &protobuf_cases() {
            check(&node, Codec::Protobuf, case).await;
        }
        for (what, request, status) in handshakes() {
            let mut socket = RawSocket::open(&node).await;
            socket.send(&request).await;
            assert_eq!(socket.status().await, Some(status), "{what}");
        }
    };
    // The first round fills the allocator's caches.
    all().await;
    let before = node.resident_bytes();
    for _ in 0..3 {
        all().await;
    }
    let after = node.resident_bytes();
    assert!(
        after <= before + SLACK_BYTES,
        "{before} bytes before, {after} after"
    );
    bystander.still_receives(&node).await;
    let info = node.api().call("info", &json!({})).await;
    assert_eq!(
        info["nodes"][0]["num_clients"], 1,
        "only the bystander is left"
    );
}
