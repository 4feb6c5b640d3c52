use std::net::SocketAddr;

use tidegate_realtime::{
    config::RealtimeConfig,
    hooks::NoHooks,
    hub::{Hub, HubConfig},
    node::NodeParts,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::transport::{
    admission::AdmissionConfig,
    listener::{Listener, bind},
};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

struct Running {
    address: SocketAddr,
    stop: CancellationToken,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Running {
    async fn start() -> Self {
        Self::with_admission(AdmissionConfig::default()).await
    }

    async fn with_admission(admission: AdmissionConfig) -> Self {
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let hub = Hub::new(HubConfig::default());
        hub.run(&tracker, &stop);
        let node = Node::new(NodeParts {
            tracker: tracker.clone(),
            ..NodeParts::in_memory(hub, Arc::new(NoHooks))
        });
        let mut settings = RealtimeConfig::default();
        settings.client.is_insecure = true;
        node.set_app(&AppId::default_app(), settings);
        let proxies = Arc::new(TrustedProxies::default());
        let admission = Admission::new(admission);
        let endpoint = Arc::new(WebSocketEndpoint {
            node,
            admission: Arc::clone(&admission),
            proxies: Arc::clone(&proxies),
            config: WebSocketConfig {
                allowed_origins: AllowedOrigins::parse(["https://app.io"]).unwrap(),
                ..WebSocketConfig::default()
            },
            metrics: TransportMetrics::default(),
            tracker: tracker.clone(),
        });
        let socket = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        let listener = Listener {
            router: endpoint.router("/connection/websocket"),
            admission,
            proxies,
            metrics: TransportMetrics::default(),
            tracker: tracker.clone(),
        };
        tracker.spawn(listener.serve(socket, stop.clone()));
        Self { address, stop }
    }

    async fn ask(&self, request: &str) -> (TcpStream, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        let read = async {
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), read)
            .await
            .expect("an answer comes in time");
        (stream, String::from_utf8(head).unwrap())
    }
}

/// A handshake with lines replaced: a line that starts with a given name takes the place of ours.
fn request(changes: &[&str]) -> String {
    let mut lines = vec![
        "GET /connection/websocket HTTP/1.1".to_owned(),
        "host: example.com".to_owned(),
        "upgrade: websocket".to_owned(),
        "connection: keep-alive, Upgrade".to_owned(),
        "sec-websocket-version: 13".to_owned(),
        format!("sec-websocket-key: {KEY}"),
    ];
    for change in changes {
        let name = change.split([':', ' ']).next().unwrap();
        match lines.iter_mut().find(|line| line.starts_with(name)) {
            Some(line) if !change.starts_with('+') => *line = (*change).to_owned(),
            _ => lines.push(change.trim_start_matches('+').to_owned()),
        }
    }
    lines.retain(|line| !line.ends_with(':'));
    format!("{}\r\n\r\n", lines.join("\r\n"))
}

async fn check(running: &Running, changes: &[&str], status: u16) {
    let (_, head) = running.ask(&request(changes)).await;
    assert!(
        head.split(' ').nth(1) == Some(&status.to_string()),
        "{changes:?}: {head:?}"
    );
}

#[tokio::test]
async fn a_handshake_is_answered_and_the_session_speaks() {
    let running = Running::start().await;
    let (mut stream, head) = running.ask(&request(&[])).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(
        head.contains(&format!("sec-websocket-accept: {ACCEPT}\r\n")),
        "{head}"
    );
    assert!(!head.contains("sec-websocket-protocol"), "{head}");
    let command = br#"{"id":1,"connect":{}}"#;
    let mut frame = vec![
        0x81,
        0x80 | u8::try_from(command.len()).unwrap(),
        0,
        0,
        0,
        0,
    ];
    frame.extend_from_slice(command);
    stream.write_all(&frame).await.unwrap();
    let mut start = [0; 4];
    stream.read_exact(&mut start).await.unwrap();
    assert_eq!(start[0], 0x81);
}

#[tokio::test]
async fn bytes_behind_the_handshake_reach_the_session() {
    let running = Running::start().await;
    let command = br#"{"id":1,"connect":{}}"#;
    let mut bytes = request(&[]).into_bytes();
    bytes.extend([
        0x81,
        0x80 | u8::try_from(command.len()).unwrap(),
        0,
        0,
        0,
        0,
    ]);
    bytes.extend_from_slice(command);
    let text = String::from_utf8(bytes.clone()).unwrap_or_default();
    drop(text);
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut answer = Vec::new();
    let read = async {
        while !answer.windows(9).any(|window| window == b"\"connect\"") {
            answer.push(stream.read_u8().await.unwrap());
        }
    };
    tokio::time::timeout(Duration::from_secs(20), read)
        .await
        .expect("the connect reply comes in time");
}

#[tokio::test]
async fn t3a_what_is_not_exactly_a_handshake_gets_400() {
    let running = Running::start().await;
    for changes in [
        &["sec-websocket-key:"][..],
        &["sec-websocket-key: c2hvcnQ="],
        &["sec-websocket-key: not base64"],
        &["+sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ=="],
        &["sec-websocket-version: 12"],
        &["sec-websocket-version:"],
        &["upgrade: h2c"],
        &["+upgrade: websocket"],
        &["connection: close"],
        &["host:"],
        &["GET http://example.com/connection/websocket HTTP/1.1"],
        &["GET /connection/websocket HTTP/1.0"],
    ] {
        check(&running, changes, 400).await;
    }
    let post = request(&[]).replace("GET", "POST");
    let (_, head) = running.ask(&post).await;
    assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
}

#[tokio::test]
async fn t3_a_foreign_origin_gets_403_before_the_upgrade() {
    let running = Running::start().await;
    check(&running, &["origin: https://evil.com"], 403).await;
    check(&running, &["origin: null"], 403).await;
    check(&running, &["origin: https://app.io"], 101).await;
    check(&running, &["origin: https://example.com"], 101).await;
}

#[tokio::test]
async fn the_first_subprotocol_that_is_known_is_echoed() {
    let running = Running::start().await;
    for (offered, chosen) in [
        ("centrifuge-protobuf", "centrifuge-protobuf"),
        ("other, centrifuge-json", "centrifuge-json"),
    ] {
        let offer = format!("sec-websocket-protocol: {offered}");
        let (_, head) = running.ask(&request(&[&offer])).await;
        assert!(
            head.contains(&format!("sec-websocket-protocol: {chosen}\r\n")),
            "{head}"
        );
    }
    let (_, head) = running
        .ask(&request(&["sec-websocket-protocol: other"]))
        .await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(!head.contains("sec-websocket-protocol"), "{head}");
}

#[tokio::test]
async fn n2_an_app_that_is_not_there_gets_404() {
    let running = Running::start().await;
    check(
        &running,
        &["GET /apps/nobody/connection/websocket HTTP/1.1"],
        404,
    )
    .await;
    check(
        &running,
        &["GET /apps/NOT%20AN%20APP/connection/websocket HTTP/1.1"],
        404,
    )
    .await;
    check(
        &running,
        &["GET /apps/default/connection/websocket HTTP/1.1"],
        101,
    )
    .await;
}

#[tokio::test]
async fn a_full_node_refuses_the_handshake_with_503() {
    let running = Running::with_admission(AdmissionConfig {
        max_connections: 1,
        ..AdmissionConfig::default()
    })
    .await;
    let (stream, head) = running.ask(&request(&[])).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let (_, head) = running.ask(&request(&[])).await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert!(head.contains("retry-after: 1\r\n"), "{head}");
    drop(stream);
}

#[test]
fn query_parameters_choose_the_codec_by_whole_names() {
    assert!(has_parameter("a=b&format=protobuf", "format", "protobuf"));
    assert!(!has_parameter("xformat=protobuf", "format", "protobuf"));
    assert!(!has_parameter("format=protobuf2", "format", "protobuf"));
    assert!(!has_parameter("", "format", "protobuf"));
}
