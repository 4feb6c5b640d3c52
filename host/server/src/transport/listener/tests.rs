use std::{collections::VecDeque, num::NonZeroU32};

use axum::routing::get;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::*;
use crate::transport::{address::ClientAddress, admission::AdmissionConfig};

struct Running {
    address: SocketAddr,
    admission: Arc<Admission>,
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl Running {
    async fn start(config: AdmissionConfig) -> Self {
        Self::start_with(config, |listener| listener).await
    }

    async fn start_with<A: Acceptor>(
        config: AdmissionConfig,
        wrap: impl FnOnce(TcpListener) -> A,
    ) -> Self {
        let socket = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        let admission = Admission::new(config);
        let (stop, tracker) = (CancellationToken::new(), TaskTracker::new());
        let listener = Listener {
            router: Router::new()
                .route("/", get(show_address))
                .route("/endless", get(endless)),
            admission: Arc::clone(&admission),
            proxies: Arc::new(TrustedProxies::new(vec!["127.0.0.0/8".parse().unwrap()])),
            metrics: TransportMetrics::default(),
            tracker: tracker.clone(),
        };
        tracker.spawn(listener.serve(wrap(socket), stop.clone()));
        Self {
            address,
            admission,
            stop,
            tracker,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends a request and reads the answer to the end of the connection.
    async fn ask(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        read_to_end(&mut stream).await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn show_address(axum::Extension(address): axum::Extension<ClientAddress>) -> String {
    address.client.to_string()
}

/// Told when the answer of [`endless`] is given up.
static ENDLESS_ENDED: Notify = Notify::const_new();

struct TellOnDrop;

impl Drop for TellOnDrop {
    fn drop(&mut self) {
        ENDLESS_ENDED.notify_one();
    }
}

/// More than any buffer between the two ends holds.
async fn endless() -> Body {
    let chunk = bytes::Bytes::from_static(&[b'x'; 64 << 10]);
    let chunks = futures_util::stream::repeat(chunk);
    let end = TellOnDrop;
    Body::from_stream(futures_util::StreamExt::map(chunks, move |chunk| {
        let _ = &end;
        io::Result::Ok(chunk)
    }))
}

#[tokio::test]
async fn t2_a_client_that_reads_nothing_of_its_answer_is_cut() {
    let running = Running::start(AdmissionConfig::default()).await;
    let mut stream = running.connect().await;
    stream
        .write_all(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    tokio::time::timeout(WRITE_STALL_TIME * 6, ENDLESS_ENDED.notified())
        .await
        .expect("the answer is given up");
    drop(stream);
}

async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    // A reset after the answer is as good an end.
    let _ = tokio::time::timeout(Duration::from_secs(20), read)
        .await
        .expect("the connection ends in time");
    String::from_utf8(bytes).unwrap()
}

#[track_caller]
fn assert_status(answer: &str, status: u16) {
    assert!(
        answer.starts_with(&format!("HTTP/1.1 {status} ")),
        "{answer:?}"
    );
}

#[tokio::test]
async fn t8_handlers_see_the_forwarded_address_of_a_trusted_peer() {
    let running = Running::start(AdmissionConfig::default()).await;
    let answer = running
        .ask("GET / HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 203.0.113.9\r\nconnection: close\r\n\r\n")
        .await;
    assert_status(&answer, 200);
    assert!(answer.ends_with("203.0.113.9"), "{answer}");
}

#[tokio::test]
async fn t1_the_loop_survives_every_accept_error() {
    /// Fails in every way first.
    struct Failing {
        errors: Mutex<VecDeque<io::Error>>,
        listener: TcpListener,
    }
    impl Acceptor for Failing {
        async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
            let error = self.errors.lock().pop_front();
            match error {
                Some(error) => Err(error),
                None => self.listener.accept().await,
            }
        }
    }
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;
    const ENOMEM: i32 = 12;
    let running = Running::start_with(AdmissionConfig::default(), |listener| Failing {
        errors: Mutex::new(VecDeque::from([
            io::Error::from_raw_os_error(EMFILE),
            io::ErrorKind::ConnectionAborted.into(),
            io::Error::from_raw_os_error(ENFILE),
            io::Error::from_raw_os_error(ENOMEM),
            io::ErrorKind::PermissionDenied.into(),
            io::ErrorKind::Other.into(),
        ])),
        listener,
    })
    .await;
    let answer = running
        .ask("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await;
    assert_status(&answer, 200);
}

#[tokio::test]
async fn t1_a_head_that_does_not_come_ends_the_connection() {
    let running = Running::start(AdmissionConfig::default()).await;
    let answer = running.ask("GET / HTTP/1.1\r\nhost:").await;
    assert_eq!(answer, "");
}

#[tokio::test]
async fn t2_a_large_head_is_refused_with_431() {
    let running = Running::start(AdmissionConfig::default()).await;
    let long = format!(
        "GET / HTTP/1.1\r\nhost: x\r\na: {}\r\n\r\n",
        "x".repeat(20_000)
    );
    assert_status(&running.ask(&long).await, 431);
    let many = "a: b\r\n".repeat(100);
    let many = format!("GET / HTTP/1.1\r\nhost: x\r\n{many}\r\n");
    assert_status(&running.ask(&many).await, 431);
}

#[tokio::test]
async fn broken_http_is_refused_with_400() {
    let running = Running::start(AdmissionConfig::default()).await;
    for request in [
        "GET / HTTP/1.1\r\nhost: x\r\n folded\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc",
        "GET / HTTP/1.1\r\nhost : x\r\n\r\n",
        "\u{1}\u{2}\u{3}\r\n\r\n",
    ] {
        assert_status(&running.ask(request).await, 400);
    }
}

#[tokio::test]
async fn a_request_with_two_ways_to_end_is_the_last_of_its_connection() {
    let running = Running::start(AdmissionConfig::default()).await;
    let head =
        "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n";
    let smuggled = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    let answer = running.ask(&format!("{head}0\r\n\r\n{smuggled}")).await;
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
}

#[tokio::test]
async fn a_full_node_answers_503_with_retry_after() {
    let config = AdmissionConfig {
        max_connections: 0,
        handshakes_per_second: NonZeroU32::MIN,
        ..AdmissionConfig::default()
    };
    let running = Running::start(config).await;
    let held: Vec<_> = (0..1024)
        .map(|_| running.admission.admit_socket(None).unwrap())
        .collect();
    let answer = running.ask("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_status(&answer, 503);
    assert!(answer.contains("retry-after: 1\r\n"), "{answer}");
    drop(held);
    let answer = running
        .ask("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await;
    assert_status(&answer, 200);
}

#[tokio::test]
async fn o3_a_draining_listener_refuses_with_503() {
    let running = Running::start(AdmissionConfig::default()).await;
    running.admission.drain();
    assert_status(&running.ask("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await, 503);
}

#[tokio::test]
async fn o3_a_connection_that_stands_ends_with_its_next_answer_of_a_drain() {
    let running = Running::start(AdmissionConfig::default()).await;
    let mut stream = running.connect().await;
    let request = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut first = Vec::new();
    while !first.ends_with(b"127.0.0.1") {
        assert!(stream.read_buf(&mut first).await.unwrap() > 0);
    }
    let first = String::from_utf8(first).unwrap();
    assert!(!first.contains("connection: close"), "{first}");
    running.admission.drain();
    stream.write_all(request.as_bytes()).await.unwrap();
    // To the end: nothing but the answer ends it.
    let answer = read_to_end(&mut stream).await;
    assert_status(&answer, 200);
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    assert!(answer.ends_with("127.0.0.1"), "{answer}");
}

#[tokio::test]
async fn a_refusal_comes_after_the_question() {
    let running = Running::start(AdmissionConfig::default()).await;
    running.admission.drain();
    let mut early = running.connect().await;
    // Whoever came later has been answered, so this one could have been.
    assert_status(&running.ask("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await, 503);
    let unasked = early.try_read(&mut [0; 16]);
    assert_eq!(unasked.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    let question = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    early.write_all(question.as_bytes()).await.unwrap();
    assert_status(&read_to_end(&mut early).await, 503);
}

#[tokio::test]
async fn stopping_finishes_the_request_under_way() {
    let running = Running::start(AdmissionConfig::default()).await;
    let mut stream = running.connect().await;
    let request = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut first = [0; 16];
    stream.read_exact(&mut first).await.unwrap();
    running.stop.cancel();
    running.tracker.close();
    let ended = Notify::new();
    let wait = async {
        running.tracker.wait().await;
        ended.notify_one();
    };
    let (answer, ()) = tokio::join!(read_to_end(&mut stream), wait);
    assert!(answer.ends_with("127.0.0.1"), "{answer}");
}

#[test]
fn a_host_without_ipv6_listens_on_ipv4_and_a_port_that_is_taken_stays_an_error() {
    let bound = with_fallback(8000, |address| match address {
        SocketAddr::V6(_) => Err(rustix::io::Errno::AFNOSUPPORT.into()),
        SocketAddr::V4(_) => Ok(address),
    });
    assert_eq!(bound.unwrap(), "0.0.0.0:8000".parse().unwrap());
    let taken = with_fallback(8000, |_| -> io::Result<()> {
        Err(rustix::io::Errno::ADDRINUSE.into())
    });
    assert_eq!(taken.unwrap_err().0, "[::]:8000".parse().unwrap());
}
