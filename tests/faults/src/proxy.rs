//! The fault proxy: a TCP proxy on the loopback whose behaviour is switched while connections are open.
//!
//! Owns its listener, its connections and nothing of what they carry; it reads the bytes only to tell a subscriber's
//! connection to Redis from the others. Invariant: bytes are never lost, doubled or reordered by any mode but those
//! that end the connection; what is stalled flows on when the stall ends, as TCP does after a partition.

mod link;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::RwLock;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// How connections behave, those that are open and those to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Bytes pass as they come.
    #[default]
    Pass,
    /// Bytes pass this much later, both ways, as many at once as come.
    Delay(Duration),
    /// Bytes wait: the connection looks alive and carries nothing.
    Stall(Direction),
    /// Only what the server sends to connections that have subscribed waits; everything else passes.
    StallSubscribers,
    /// Connections are ended by a reset, and so is each new one.
    Reset,
    /// The end of the stream is sent in this direction, once; the other one passes on.
    HalfClose(Direction),
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Both,
    ToServer,
    ToClient,
}

impl Direction {
    fn covers(self, way: Way) -> bool {
        match self {
            Self::Both => true,
            Self::ToServer => way == Way::ToServer,
            Self::ToClient => way == Way::ToClient,
        }
    }
}

/// One of the two ways of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    ToServer,
    ToClient,
}

/// What every connection sees.
#[derive(Debug)]
struct Shared {
    mode: watch::Sender<Mode>,
    /// Where new connections go; a failover moves it.
    upstream: RwLock<SocketAddr>,
    /// Connections of an earlier one are ended.
    generation: watch::Sender<u64>,
    accepted: AtomicU64,
    bytes_to_server: AtomicU64,
    bytes_to_client: AtomicU64,
}

/// A running proxy; it and its connections end on drop.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    _serving: JoinSet<()>,
}

impl Proxy {
    /// Listens on a free port of the loopback and forwards to `upstream`.
    ///
    /// # Errors
    /// No port can be bound.
    pub async fn start(upstream: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared {
            mode: watch::Sender::new(Mode::Pass),
            upstream: RwLock::new(upstream),
            generation: watch::Sender::new(0),
            accepted: AtomicU64::new(0),
            bytes_to_server: AtomicU64::new(0),
            bytes_to_client: AtomicU64::new(0),
        });
        let mut serving = JoinSet::new();
        serving.spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self {
            addr,
            shared,
            _serving: serving,
        })
    }

    /// Forwards to a port of the loopback.
    ///
    /// # Errors
    /// No port can be bound.
    pub async fn to_port(port: u16) -> io::Result<Self> {
        Self::start((Ipv4Addr::LOCALHOST, port).into()).await
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Switches all connections, at once.
    pub fn set(&self, mode: Mode) {
        self.shared.mode.send_replace(mode);
    }

    /// Sends new connections elsewhere; open ones stay.
    pub fn forward_to(&self, upstream: SocketAddr) {
        *self.shared.upstream.write() = upstream;
    }

    /// Ends every open connection by a reset and sends the next ones elsewhere, as a failover of a name does.
    pub fn move_to(&self, upstream: SocketAddr) {
        self.forward_to(upstream);
        self.shared
            .generation
            .send_modify(|generation| *generation += 1);
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Bytes that the server took.
    pub fn bytes_to_server(&self) -> u64 {
        self.shared.bytes_to_server.load(Ordering::Relaxed)
    }

    /// Bytes that the clients took.
    pub fn bytes_to_client(&self) -> u64 {
        self.shared.bytes_to_client.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut links = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // Out of descriptors for a moment, or the client was gone already.
                let Ok((client, _)) = accepted else { continue };
                shared.accepted.fetch_add(1, Ordering::Relaxed);
                links.spawn(link::serve(client, Arc::clone(&shared)));
            }
            Some(_) = links.join_next() => {}
        }
    }
}

/// Ends a connection by a reset rather than by an end of its stream.
fn reset(stream: &TcpStream) {
    // A socket that is gone needs no reset.
    let _ = stream.set_zero_linger();
}
