use std::sync::atomic::{AtomicUsize, Ordering};

use tidegate_protocol::{Codec, Framing};
use tidegate_realtime::{
    hub::HubConfig,
    ids::ClientId,
    link::{PushOutcome, Signal},
};
use tokio::sync::oneshot;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::*;
use crate::transport::socket::MemorySocket;

/// Sends every frame back, on these words does something else.
struct Echo {
    link: Arc<Link>,
    waiting: Option<oneshot::Receiver<()>>,
    /// Ends the wait that `wait` began.
    release: Arc<parking_lot::Mutex<Option<oneshot::Sender<()>>>>,
    /// Told when the wire has stalled.
    stalled: Option<oneshot::Sender<()>>,
}

impl Conversation for Echo {
    fn on_frame(&mut self, payload: &[u8], budget: &mut Budget) -> Turn {
        budget.spend();
        match payload {
            b"close" => Turn::Close(DisconnectCode::ForceNoReconnect.into()),
            b"wait" => {
                let (release, waiting) = oneshot::channel();
                *self.release.lock() = Some(release);
                self.waiting = Some(waiting);
                Turn::Wait
            }
            payload => {
                let mut frame = vec![0x81, u8::try_from(payload.len()).unwrap()];
                frame.extend_from_slice(payload);
                let _ = self.link.push_raw(frame.into());
                Turn::Read
            }
        }
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>, _: &mut Budget) -> Poll<Turn> {
        let Some(waiting) = &mut self.waiting else {
            return Poll::Ready(Turn::Read);
        };
        if Pin::new(waiting).poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.waiting = None;
        Poll::Ready(Turn::Read)
    }

    fn on_pong(&mut self) {}

    fn on_signals(&mut self) -> Turn {
        for signal in self.link.take_signals() {
            match signal {
                Signal::Slow => return Turn::Close(DisconnectCode::Slow.into()),
                Signal::Drain => return Turn::Close(DisconnectCode::Shutdown.into()),
                _ => {}
            }
        }
        match self.waiting {
            Some(_) => Turn::Wait,
            None => Turn::Read,
        }
    }

    fn on_violation(&mut self, _: &Closing, _: &'static str) {}

    fn on_stall(&mut self, _: &Closing) {
        if let Some(stalled) = self.stalled.take() {
            stalled.send(()).expect("the test waits");
        }
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }
}

struct Connected {
    client: MemorySocket,
    link: Arc<Link>,
    release: Arc<parking_lot::Mutex<Option<oneshot::Sender<()>>>>,
    stalled: oneshot::Receiver<()>,
    polls: Arc<AtomicUsize>,
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Connected {
    fn start() -> Self {
        Self::with_capacity(1 << 20, HubConfig::default())
    }

    fn with_capacity(capacity: usize, config: HubConfig) -> Self {
        Self::with_write_timeout(capacity, config, DEFAULT_WRITE_TIMEOUT)
    }

    fn with_write_timeout(capacity: usize, config: HubConfig, write_timeout: Duration) -> Self {
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let hub = Hub::new(config);
        hub.run(&TaskTracker::new(), &stop);
        let (client, server) = MemorySocket::pair(capacity);
        let socket = Socket::Memory(server);
        let link = hub.link(ClientId::random(), Codec::Json, Framing::WebSocket, socket);
        let shared = Arc::clone(&link) as Arc<Link>;
        let release = Arc::default();
        let (tell, stalled) = oneshot::channel();
        let echo = Echo {
            link: Arc::clone(&shared),
            waiting: None,
            release: Arc::clone(&release),
            stalled: Some(tell),
        };
        let limits = SessionLimits {
            max_message_bytes: 65_536,
            write_timeout,
        };
        let polls = Arc::default();
        tracker.spawn(Counted {
            future: WebSocketSession::new(hub, link, echo, limits, None),
            polls: Arc::clone(&polls),
        });
        tracker.close();
        Self {
            client,
            link: shared,
            release,
            stalled,
            polls,
            tracker,
            stop,
        }
    }

    fn send(&self, frames: &[Vec<u8>]) {
        let bytes = frames.concat();
        assert_eq!(self.client.try_write(&bytes).unwrap(), bytes.len());
    }

    /// Reads until the far end stops writing.
    async fn read_to_end(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.read_into(&mut bytes).await {}
        bytes
    }

    async fn read_until(&self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < len && self.read_into(&mut bytes).await {}
        bytes
    }

    async fn read_into(&self, bytes: &mut Vec<u8>) -> bool {
        let mut scratch = [0; 1024];
        let ready = std::future::poll_fn(|cx| self.client.poll_read_ready(cx));
        within(ready).await.unwrap();
        match self.client.try_read(&mut scratch) {
            Ok(0) => false,
            Ok(len) => {
                bytes.extend_from_slice(&scratch[..len]);
                true
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// The session's task ends once the client has gone.
    async fn assert_ends(self) {
        let Self {
            client,
            tracker,
            link,
            ..
        } = &self;
        client.end_writing();
        within(tracker.wait()).await;
        assert_eq!(
            link.push_raw(Bytes::from_static(b"x")),
            PushOutcome::Closing
        );
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .expect("this happens in time")
}

/// A client's frame with a mask of zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let len = 0x80 | u8::try_from(payload.len()).unwrap();
    let mut frame = vec![first, len, 0, 0, 0, 0];
    frame.extend_from_slice(payload);
    frame
}

fn text(text: &str) -> Vec<u8> {
    frame(0x81, text.as_bytes())
}

fn echoed(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81, u8::try_from(text.len()).unwrap()];
    frame.extend_from_slice(text.as_bytes());
    frame
}

fn closing(code: u16, reason: &str) -> Vec<u8> {
    close_frame(code, reason)
}

#[tokio::test]
async fn frames_are_answered_in_order() {
    let connected = Connected::start();
    connected.send(&[text("a"), text("b")]);
    assert_eq!(
        connected.read_until(6).await,
        [echoed("a"), echoed("b")].concat()
    );
    connected.assert_ends().await;
}

/// How often a future was polled.
struct Counted<F> {
    future: F,
    polls: Arc<AtomicUsize>,
}

impl<F: Future + Unpin> Future for Counted<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.polls.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.future).poll(cx)
    }
}

#[tokio::test]
async fn a_client_that_never_pauses_gives_way_to_others() {
    const FRAMES: usize = 2_000;
    let connected = Connected::start();
    // All of it is there before the session's task runs for the first time.
    connected.send(&vec![text("abc"); FRAMES]);
    let expected = echoed("abc").repeat(FRAMES);
    assert_eq!(connected.read_until(expected.len()).await, expected);
    let polls = connected.polls.load(Ordering::Relaxed);
    assert!(polls >= FRAMES / 64, "{polls} polls");
    connected.assert_ends().await;
}

#[tokio::test]
async fn a_flood_of_pongs_gives_way_to_others() {
    const FRAMES: usize = 2_000;
    let connected = Connected::start();
    connected.send(&vec![frame(0x8a, b""); FRAMES]);
    connected.send(&[text("a")]);
    assert_eq!(connected.read_until(3).await, echoed("a"));
    let polls = connected.polls.load(Ordering::Relaxed);
    assert!(polls >= FRAMES / 64, "{polls} polls");
    connected.assert_ends().await;
}

#[tokio::test]
async fn frames_behind_a_waiting_one_are_kept_until_it_is_answered() {
    let connected = Connected::start();
    connected.send(&[text("a"), text("wait"), text("b"), text("c")]);
    assert_eq!(connected.read_until(3).await, echoed("a"));
    let release = connected.release.lock().take().unwrap();
    release.send(()).unwrap();
    assert_eq!(
        connected.read_until(6).await,
        [echoed("b"), echoed("c")].concat()
    );
    connected.assert_ends().await;
}

#[tokio::test]
async fn a_disconnect_sends_code_and_reason_behind_what_was_queued() {
    let connected = Connected::start();
    connected.send(&[text("a"), text("close"), text("b")]);
    let expected = [echoed("a"), closing(3503, "force disconnect")].concat();
    assert_eq!(connected.read_to_end().await, expected);
    connected.assert_ends().await;
}

#[tokio::test]
async fn t3a_a_violation_is_answered_and_what_follows_is_drained() {
    let connected = Connected::start();
    connected.send(&[text("a"), frame(0x83, b""), text("b"), text("c")]);
    let expected = [
        echoed("a"),
        closing(1002, "the frame breaks the WebSocket protocol"),
    ]
    .concat();
    assert_eq!(connected.read_to_end().await, expected);
    connected.send(&[text("still sending")]);
    connected.assert_ends().await;
}

#[tokio::test]
async fn a_closing_client_gets_its_code_back() {
    let connected = Connected::start();
    connected.send(&[frame(0x88, &[0x03, 0xe8])]);
    assert_eq!(connected.read_to_end().await, [0x88, 2, 0x03, 0xe8]);
    connected.assert_ends().await;
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_session() {
    let connected = Connected::start();
    connected.send(&[text("a")]);
    assert_eq!(connected.read_until(3).await, echoed("a"));
    connected.assert_ends().await;
}

#[tokio::test]
async fn a_signal_ends_an_idle_session() {
    let connected = Connected::start();
    connected.send(&[text("a")]);
    assert_eq!(connected.read_until(3).await, echoed("a"));
    connected.link.signal(Signal::Drain);
    assert_eq!(connected.read_to_end().await, closing(3001, "shutdown"));
    connected.assert_ends().await;
}

#[tokio::test]
async fn a_few_pings_are_answered_and_a_flood_is_closed_with_3013() {
    let connected = Connected::start();
    connected.send(&[frame(0x89, b"x")]);
    assert_eq!(connected.read_until(3).await, [0x8a, 1, b'x']);
    connected.send(&vec![frame(0x89, b"x"); 1_000]);
    let bytes = connected.read_to_end().await;
    assert!(bytes.ends_with(&closing(3013, "too many requests")));
    assert!(bytes.len() < 200, "pongs are joined: {} bytes", bytes.len());
    connected.assert_ends().await;
}

#[tokio::test]
async fn a_full_wire_is_written_on_when_the_client_reads() {
    let connected = Connected::with_capacity(8, HubConfig::default());
    for number in 0..50 {
        let payload = format!("message {number}");
        let frame = echoed(&payload);
        assert_eq!(connected.link.push_raw(frame.into()), PushOutcome::Queued);
    }
    connected.link.signal(Signal::Refresh {
        is_expired: false,
        expires_at: None,
        info: Bytes::new(),
    });
    let expected: Vec<u8> = (0..50)
        .flat_map(|number| echoed(&format!("message {number}")))
        .collect();
    assert_eq!(connected.read_until(expected.len()).await, expected);
    connected.assert_ends().await;
}

#[tokio::test]
async fn slow_reader_is_closed_with_3008() {
    let config = HubConfig {
        outbox_bytes: 1_000,
        ..HubConfig::default()
    };
    let connected = Connected::with_capacity(16, config);
    let message = Bytes::from(echoed(&"x".repeat(100)));
    while let PushOutcome::Queued = connected.link.push_raw(message.clone()) {
        connected.link.flush();
    }
    let bytes = connected.read_to_end().await;
    assert!(bytes.ends_with(&closing(3008, "slow")));
    assert!(bytes.len() < 400, "the queue was dropped: {}", bytes.len());
    connected.assert_ends().await;
}

#[tokio::test]
async fn a_wire_that_takes_nothing_is_given_the_write_timeout() {
    let write_timeout = Duration::from_millis(300);
    let mut connected = Connected::with_write_timeout(16, HubConfig::default(), write_timeout);
    let began = Instant::now();
    let message = Bytes::from(echoed(&"x".repeat(100)));
    assert_eq!(connected.link.push_raw(message), PushOutcome::Queued);
    assert_eq!(connected.link.flush(), FlushOutcome::Blocked);
    within(&mut connected.stalled)
        .await
        .expect("the session says so");
    let took = began.elapsed();
    assert!(took >= write_timeout, "{took:?}");
    assert!(took < DEFAULT_WRITE_TIMEOUT, "{took:?}");
    let bytes = connected.read_to_end().await;
    assert!(bytes.ends_with(&closing(3008, "slow")), "{bytes:?}");
    connected.assert_ends().await;
}

#[test]
fn the_size_of_an_idle_session_is_known() {
    let link = size_of::<Link<Socket>>();
    let future = size_of::<WebSocketSession<Driver>>();
    let (driver, reader) = (size_of::<Driver>(), size_of::<Reader>());
    println!(
        "Link<Socket> {link}, session future {future} (driver {driver}, reader {reader}) bytes"
    );
    assert!(link <= 256, "{link}");
    assert!(future <= 1024 + 256, "{future}");
}
