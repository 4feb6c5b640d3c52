//! The ceiling: the least that a server with our socket design can cost.
//!
//! hyper answers the upgrade, tungstenite's sans-I/O context reads out of a per-thread scratch buffer, a publication
//! is framed once and its bytes are shared by every outbox, and one flusher per shard writes. There is no protocol, no
//! channel, no identity and no limit: every message from a connection at `/pub` goes to each connection at `/ws`, or
//! with several groups to the members of one group after the other.
//! What Tidegate costs beyond this is the price of being a server.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use anyhow::Result;
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use slab::Slab;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig, WebSocketContext};

/// One syscall per readable event fills this, shared by all connections of a thread.
const SCRATCH_BYTES: usize = 16 * 1024;

/// Kept by each idle connection for reading.
const READ_BUFFER_BYTES: usize = 64;

/// Publications a slow reader may lag before it misses some; measurements show that as loss.
const OUTBOX_FRAMES: usize = 4096;

/// A flusher lets others run after this many connections.
const FLUSH_BATCH: usize = 256;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH_BYTES]);
    static JOINED: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(SCRATCH_BYTES));
}

/// Accepts until the process is told to stop.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve(listener: TcpListener, shards: usize, groups: usize) -> Result<()> {
    let hub = Arc::new(Hub {
        shards: (0..shards.max(1)).map(|_| Shard::new(groups)).collect(),
        joined: AtomicUsize::new(0),
        published: AtomicUsize::new(0),
    });
    for shard in 0..hub.shards.len() {
        tokio::spawn(flush_forever(Arc::clone(&hub), shard));
    }
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let hub = Arc::clone(&hub);
        tokio::spawn(async move {
            let service = service_fn(|request| upgrade(Arc::clone(&hub), request));
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            // A peer that leaves in the middle of its request is its own business.
            let _ = connection.with_upgrades().await;
        });
    }
}

async fn upgrade(
    hub: Arc<Hub>,
    request: Request<Incoming>,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let mut response = Response::new(Empty::new());
    let Some(key) = request
        .headers()
        .get(SEC_WEBSOCKET_KEY)
        .map(|key| derive_accept_key(key.as_bytes()))
    else {
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return Ok(response);
    };
    let is_publisher = request.uri().path() == "/pub";
    let upgraded = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgraded.await else { return };
        let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else {
            return;
        };
        let connection = Arc::new(Connection {
            stream: parts.io.into_inner(),
            outbox: Mutex::default(),
            waker: AtomicWaker::new(),
            is_blocked: AtomicBool::new(false),
        });
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0);
        let context = WebSocketContext::new(Role::Server, Some(config));
        // Its own task: the one of the upgrade still holds what hyper needed.
        tokio::spawn(Session {
            connection,
            context,
            hub,
            membership: None,
            is_publisher,
        });
    });
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(
        CONNECTION,
        hyper::header::HeaderValue::from_static("Upgrade"),
    );
    headers.insert(
        UPGRADE,
        hyper::header::HeaderValue::from_static("websocket"),
    );
    if let Ok(key) = key.parse() {
        headers.insert(SEC_WEBSOCKET_ACCEPT, key);
    }
    Ok(response)
}

/// Everybody, in shards.
#[derive(Debug)]
struct Hub {
    shards: Vec<Shard>,
    joined: AtomicUsize,
    published: AtomicUsize,
}

/// Where a member is found again.
#[derive(Debug, Clone, Copy)]
struct Seat {
    shard: usize,
    group: usize,
    key: usize,
}

#[derive(Debug)]
struct Shard {
    /// By group.
    members: Vec<Mutex<Slab<Arc<Connection>>>>,
    dirty: Mutex<Vec<Arc<Connection>>>,
    wake: Notify,
}

impl Shard {
    fn new(groups: usize) -> Self {
        Self {
            members: (0..groups.max(1)).map(|_| Mutex::default()).collect(),
            dirty: Mutex::default(),
            wake: Notify::new(),
        }
    }
}

impl Hub {
    fn join(&self, connection: &Arc<Connection>) -> Seat {
        let nth = self.joined.fetch_add(1, Ordering::Relaxed);
        let shard = nth % self.shards.len();
        let members = &self.shards[shard].members;
        let group = nth / self.shards.len() % members.len();
        let key = members[group].lock().insert(Arc::clone(connection));
        Seat { shard, group, key }
    }

    fn leave(&self, Seat { shard, group, key }: Seat) {
        // The guard ends before the connection is dropped.
        let left = self.shards[shard].members[group].lock().try_remove(key);
        drop(left);
    }

    fn publish(&self, payload: &[u8]) {
        let frame = frame(payload);
        let nth = self.published.fetch_add(1, Ordering::Relaxed);
        for shard in &self.shards {
            let newly: Vec<Arc<Connection>> = shard.members[nth % shard.members.len()]
                .lock()
                .iter()
                .filter(|(_, member)| member.enqueue(&frame))
                .map(|(_, member)| Arc::clone(member))
                .collect();
            if !newly.is_empty() {
                shard.dirty.lock().extend(newly);
                shard.wake.notify_one();
            }
        }
    }
}

/// A text frame around the payload, encoded once for everybody.
fn frame(payload: &[u8]) -> Bytes {
    let mut frame = Vec::with_capacity(payload.len() + 10);
    frame.push(0x81);
    if let Ok(len) = u8::try_from(payload.len())
        && len < 126
    {
        frame.push(len);
    } else if let Ok(len) = u16::try_from(payload.len()) {
        frame.push(126);
        frame.extend_from_slice(&len.to_be_bytes());
    } else {
        frame.push(127);
        frame.extend_from_slice(&(payload.len() as u64).to_be_bytes());
    }
    frame.extend_from_slice(payload);
    frame.into()
}

async fn flush_forever(hub: Arc<Hub>, shard: usize) {
    let shard = &hub.shards[shard];
    let mut work = Vec::new();
    loop {
        std::mem::swap(&mut *shard.dirty.lock(), &mut work);
        if work.is_empty() {
            shard.wake.notified().await;
        }
        for (at, connection) in work.drain(..).enumerate() {
            connection.flush_or_block();
            if at % FLUSH_BATCH == FLUSH_BATCH - 1 {
                tokio::task::yield_now().await;
            }
        }
    }
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    outbox: Mutex<Outbox>,
    waker: AtomicWaker,
    /// Set by the flusher when the socket is full; the session's task then waits for room.
    is_blocked: AtomicBool,
}

#[derive(Debug, Default)]
struct Outbox {
    frames: VecDeque<Bytes>,
    /// Bytes of the first frame that are written already.
    written: usize,
    /// Whether a flusher knows about it.
    is_dirty: bool,
}

impl Connection {
    /// Tells whether the connection has to be put on the dirty list.
    fn enqueue(&self, frame: &Bytes) -> bool {
        let mut outbox = self.outbox.lock();
        if outbox.frames.len() == OUTBOX_FRAMES {
            return false;
        }
        outbox.frames.push_back(frame.clone());
        !std::mem::replace(&mut outbox.is_dirty, true)
    }

    /// Tells whether the outbox is empty now; errors are found by the reading side.
    fn flush(&self) -> bool {
        let mut outbox = self.outbox.lock();
        while !outbox.frames.is_empty() {
            let result = match outbox.frames.len() {
                1 => self.stream.try_write(&outbox.frames[0][outbox.written..]),
                _ => JOINED.with_borrow_mut(|joined| {
                    joined.clear();
                    joined.extend_from_slice(&outbox.frames[0][outbox.written..]);
                    for frame in outbox.frames.iter().skip(1) {
                        if joined.len() >= 4 * SCRATCH_BYTES {
                            break;
                        }
                        joined.extend_from_slice(frame);
                    }
                    self.stream.try_write(joined)
                }),
            };
            match result {
                Ok(len) => outbox.advance(len),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(_) => break,
            }
        }
        // An idle connection keeps no allocation.
        *outbox = Outbox::default();
        true
    }

    fn flush_or_block(&self) {
        if !self.flush() {
            self.is_blocked.store(true, Ordering::Release);
            self.waker.wake();
        }
    }
}

impl Outbox {
    fn advance(&mut self, mut len: usize) {
        while let Some(first) = self.frames.front() {
            let left = first.len() - self.written;
            if len < left {
                self.written += len;
                return;
            }
            len -= left;
            self.written = 0;
            self.frames.pop_front();
        }
    }
}

/// Lets tungstenite read from the scratch buffer and append its control frames to the outbox.
struct Feed<'a> {
    connection: &'a Connection,
    arrived: &'a [u8],
}

impl io::Read for Feed<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.arrived.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.arrived.read(out)
    }
}

impl io::Write for Feed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.connection.enqueue(&Bytes::copy_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One connection's task.
struct Session {
    connection: Arc<Connection>,
    context: WebSocketContext,
    hub: Arc<Hub>,
    membership: Option<Seat>,
    is_publisher: bool,
}

impl Session {
    /// Reads once; tells whether the connection goes on.
    fn read(&mut self) -> bool {
        let goes_on = SCRATCH.with_borrow_mut(|scratch| {
            let len = match self.connection.stream.try_read(scratch) {
                Ok(0) => return false,
                Ok(len) => len,
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            };
            let mut feed = Feed {
                connection: &self.connection,
                arrived: &scratch[..len],
            };
            loop {
                match self.context.read(&mut feed) {
                    Ok(Message::Text(text)) if self.is_publisher => {
                        self.hub.publish(text.as_bytes())
                    }
                    Ok(_) => {}
                    Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                        return true;
                    }
                    Err(_) => return false,
                }
            }
        });
        if !self.connection.outbox.lock().frames.is_empty() {
            self.connection.flush_or_block();
        }
        goes_on
    }
}

impl Future for Session {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let session = &mut *self;
        session.connection.waker.register(cx.waker());
        if session.membership.is_none() && !session.is_publisher {
            session.membership = Some(session.hub.join(&session.connection));
        }
        while let Poll::Ready(ready) = session.connection.stream.poll_read_ready(cx) {
            if ready.is_err() || !session.read() {
                return Poll::Ready(());
            }
        }
        while session.connection.is_blocked.load(Ordering::Acquire) {
            match session.connection.stream.poll_write_ready(cx) {
                Poll::Ready(Ok(())) => {
                    if session.connection.flush() {
                        session
                            .connection
                            .is_blocked
                            .store(false, Ordering::Release);
                    }
                }
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        Poll::Pending
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(membership) = self.membership.take() {
            self.hub.leave(membership);
        }
    }
}
