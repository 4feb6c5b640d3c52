//! Malformed handshakes, frames, commands and requests: each has its stated answer, is counted under its reason, is
//! logged once in plain text, and others see nothing; memory comes back to its level.

mod cases;

use serde_json::{Value, json};
use tidegate_protocol::{Codec, ConnectRequest};
use tidegate_tests::{
    Client, Node,
    metrics::Metrics,
    raw::{Ending, RawSocket},
    token, within,
};

use cases::{
    Answer, FAMILIES, MARK, Row, Seen, api, connects, frames, handshakes, json, protobuf, text,
};

fn node() -> Node {
    Node::builder()
        .set("client.allow_anonymous_connect_without_token", json!(true))
        .set("client.token.hmac_secret_key", json!(token::SECRET))
        .set(
            "client.allowed_origins",
            json!(["https://example.com", "https://*.example.org"]),
        )
        .set("log.level", json!("debug"))
        .namespace(json!({
            "name": "open",
            "history_size": 10,
            "history_ttl": "60s",
            "allow_subscribe_for_client": true,
            "allow_subscribe_for_anonymous": true,
            "allow_publish_for_client": true,
            "allow_publish_for_anonymous": true,
        }))
        .namespace(json!({
            "name": "kept",
            "history_size": 10,
            "history_ttl": "60s",
            "allow_history_for_client": true,
            "allow_history_for_anonymous": true,
        }))
        .start()
}

/// How far a connection has come when a row's bytes are sent.
#[derive(Debug, Clone, Copy)]
enum Stage {
    /// Nothing was said.
    Fresh,
    /// Upgraded, nothing else.
    Upgraded,
    Connected(Codec),
}

/// Sends a row over a socket of its own and tells what comes back.
async fn play(node: &Node, stage: Stage, (what, bytes, expected): &Row) -> Seen {
    let (mut socket, codec) = match stage {
        Stage::Fresh => (RawSocket::open(node).await, Codec::Json),
        Stage::Upgraded => (RawSocket::upgraded(node, Codec::Json).await, Codec::Json),
        Stage::Connected(codec) => (RawSocket::connected(node, codec).await, codec),
    };
    socket.send(bytes).await;
    match (stage, expected.seen()) {
        (Stage::Fresh, _) => socket.status().await.map_or(Seen::Nothing, Seen::Status),
        (_, Seen::Fine | Seen::Error(_)) => match socket.reply(codec, 2).await {
            Some(reply) => reply
                .error
                .map_or(Seen::Fine, |error| Seen::Error(error.code)),
            None => Seen::Nothing,
        },
        _ => match within(what, socket.ending()).await {
            Ending::Closed(code, _) => Seen::Closed(code),
            Ending::Cut => Seen::Nothing,
        },
    }
}

/// What the rows so far must have been counted and logged as.
struct Ledger<'a> {
    node: &'a Node,
    counted: Metrics,
    /// Lines of the log that were looked at.
    cursor: usize,
    failures: Vec<String>,
}

impl<'a> Ledger<'a> {
    async fn open(node: &'a Node) -> Self {
        Self {
            node,
            counted: node.metrics().await.of(&FAMILIES),
            cursor: 0,
            failures: Vec::new(),
        }
    }

    async fn check_all(&mut self, stage: Stage, rows: &[Row]) {
        for row in rows {
            self.check(stage, row).await;
        }
    }

    async fn check(&mut self, stage: Stage, row: &Row) {
        let (what, _, answer) = row;
        let seen = play(self.node, stage, row).await;
        if seen != answer.seen() {
            self.fail(what, &format!("{seen:?} came, not {:?}", answer.seen()));
        }
        for name in answer.counts() {
            self.counted.add(&name);
        }
        let counted = self.read(*answer).await;
        if counted != self.counted {
            self.fail(
                what,
                &format!("counted {counted:?}, not {:?}", self.counted),
            );
            self.counted = counted;
        }
        if let Some(expected) = answer.logged() {
            let line = self.next_refusal().await;
            let fields = &line["fields"];
            let found = (
                fields["message"].as_str().unwrap_or_default(),
                fields["reason"].as_str(),
            );
            let code = match answer.seen() {
                Seen::Closed(code) => json!(code),
                _ => Value::Null,
            };
            if found != expected || fields["code"] != code {
                self.fail(what, &format!("logged {line}, not {expected:?}"));
            }
        }
    }

    /// The counts, once those that come behind the answer are there.
    async fn read(&self, answer: Answer) -> Metrics {
        within("the count", async {
            loop {
                let counted = self.node.metrics().await.of(&FAMILIES);
                let is_there = |name: &String| counted.get(name) >= self.counted.get(name);
                if !answer.is_counted_late() || answer.counts().iter().all(is_there) {
                    return counted;
                }
            }
        })
        .await
    }

    async fn next_refusal(&mut self) -> Value {
        let is_refusal = |line: &Value| {
            let message = line["fields"]["message"].as_str();
            matches!(message, Some("refused" | "session closes"))
        };
        self.node.log().next(&mut self.cursor, is_refusal).await
    }

    fn fail(&mut self, what: &str, why: &str) {
        self.failures.push(format!("{what}: {why}"));
    }

    /// One row more, whose line must be the next: none of the others was logged twice.
    async fn close(mut self) {
        let last = (
            "the last row",
            b"BAD\r\n\r\n".to_vec(),
            Answer::Refused(400, "malformed"),
        );
        self.check(Stage::Fresh, &last).await;
        assert!(
            !self.node.log().holds(MARK.as_bytes()),
            "input is in the log"
        );
        assert!(self.failures.is_empty(), "{}", self.failures.join("\n"));
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

/// Plays a table on a node of its own.
async fn check_table(stage: Stage, rows: impl FnOnce(&Node) -> Vec<Row>) {
    let node = node();
    let mut bystander = Bystander::join(&node).await;
    let mut ledger = Ledger::open(&node).await;
    ledger.check_all(stage, &rows(&node)).await;
    ledger.close().await;
    bystander.still_receives(&node).await;
}

#[tokio::test]
async fn every_malformed_handshake_gets_its_status() {
    check_table(Stage::Fresh, |_| handshakes::rows()).await;
}

#[tokio::test]
async fn every_malformed_api_request_gets_its_status() {
    check_table(Stage::Fresh, |node| api::rows(&node.api_key())).await;
}

#[tokio::test]
async fn every_malformed_frame_gets_its_close_code() {
    check_table(Stage::Connected(Codec::Json), |_| frames::rows()).await;
}

#[tokio::test]
async fn every_false_start_gets_its_answer() {
    check_table(Stage::Upgraded, |_| connects::rows()).await;
}

#[tokio::test]
async fn c3_every_malformed_json_command_gets_its_answer() {
    check_table(Stage::Connected(Codec::Json), |_| json::rows()).await;
}

#[tokio::test]
async fn c3_every_malformed_protobuf_command_gets_its_answer() {
    check_table(Stage::Connected(Codec::Protobuf), |_| protobuf::rows()).await;
}

#[tokio::test]
async fn t1_a_head_that_does_not_come_ends_the_connection() {
    let node = node();
    let mut ledger = Ledger::open(&node).await;
    let began = tokio::time::Instant::now();
    let mut socket = RawSocket::open(&node).await;
    socket
        .send(b"GET /connection/websocket HTTP/1.1\r\nHost: ")
        .await;
    assert_eq!(socket.status().await, None, "closed without an answer");
    assert!(began.elapsed().as_secs() >= 4, "five seconds are granted");
    ledger
        .counted
        .add("tidegate_transport_refused_total{reason=\"head_timeout\"}");
    let late = Answer::Refused(0, "head_timeout");
    assert_eq!(ledger.read(late).await, ledger.counted);
    assert_eq!(
        ledger.next_refusal().await["fields"]["reason"],
        "head_timeout"
    );
}

#[tokio::test]
async fn the_close_reason_does_not_echo_the_input() {
    let node = node();
    let mut socket = RawSocket::connected(&node, Codec::Json).await;
    socket.send(&text(MARK)).await;
    let ending = socket.ending().await;
    assert_eq!(ending, Ending::Closed(3501, "bad request".to_owned()));
}

/// Memory that a node may keep for itself while others come and go: caches of the allocator.
const SLACK_BYTES: u64 = 8 * 1024 * 1024;

#[tokio::test]
async fn p2_memory_is_back_at_its_level_after_all_of_it() {
    let node = Node::builder()
        .set("client.allow_anonymous_connect_without_token", json!(true))
        .set("client.token.hmac_secret_key", json!(token::SECRET))
        // The bystander is not listened to while the others have their turn.
        .set("client.ping_interval", json!("1h"))
        .namespace(json!({
            "name": "open",
            "history_size": 10,
            "history_ttl": "60s",
            "allow_subscribe_for_client": true,
            "allow_subscribe_for_anonymous": true,
        }))
        .start();
    let mut bystander = Bystander::join(&node).await;
    let tables = [
        (Stage::Fresh, handshakes::rows()),
        (Stage::Fresh, api::rows(&node.api_key())),
        (Stage::Upgraded, connects::rows()),
        (Stage::Connected(Codec::Json), frames::rows()),
        (Stage::Connected(Codec::Json), json::rows()),
        (Stage::Connected(Codec::Protobuf), protobuf::rows()),
    ];
    let round_bytes: usize = tables
        .iter()
        .flat_map(|(_, rows)| rows)
        .map(|(_, bytes, _)| bytes.len())
        .sum();
    let all = async || {
        for (stage, rows) in &tables {
            for row in rows {
                // What it comes to is the other tests' business; some answers need their configuration.
                let mut socket = match stage {
                    Stage::Fresh => RawSocket::open(&node).await,
                    Stage::Upgraded => RawSocket::upgraded(&node, Codec::Json).await,
                    Stage::Connected(codec) => RawSocket::connected(&node, *codec).await,
                };
                socket.send(&row.1).await;
                socket.hang_up().await;
            }
        }
    };
    // The first round fills the allocator's caches.
    all().await;
    let before = node.own_bytes();

    // If a quarter of what is sent were kept, the level would not come back.
    let rounds = usize::try_from(SLACK_BYTES).expect("it fits") * 4 / round_bytes + 1;
    for _ in 0..rounds {
        all().await;
    }
    wait_for_level(&node, before + SLACK_BYTES).await;

    // The measure sees what is held: unfinished messages of many clients, as long as they are there.
    let mut holders = Vec::new();
    for _ in 0..400 {
        let mut socket = RawSocket::connected(&node, Codec::Json).await;
        let message = text("x".repeat(60_000));
        socket.send(&message[..message.len() - 1]).await;
        holders.push(socket);
    }
    within("holding memory", async {
        while node.own_bytes() < before + 2 * SLACK_BYTES {
            bystander.still_receives(&node).await;
        }
    })
    .await;
    drop(holders);
    wait_for_level(&node, before + SLACK_BYTES).await;
    bystander.still_receives(&node).await;
    let info = node.api().call("info", &json!({})).await;
    assert_eq!(
        info["nodes"][0]["num_clients"], 1,
        "only the bystander is left"
    );
}

/// Waits until the process holds no more than this; each look makes the server work, so that it can give back.
async fn wait_for_level(node: &Node, level: u64) {
    within("memory back at its level", async {
        while node.own_bytes() > level {
            node.api().call("info", &json!({})).await;
        }
    })
    .await;
}
