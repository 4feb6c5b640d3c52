//! The client listener: our own accept loop over hyper's HTTP/1.
//!
//! Owns TCP connections until they are a session's (threat model T1, T2). Invariants: the loop survives every
//! accept error, running out of file descriptors included; a connection has a bounded time to say what it
//! wants and a bounded head to say it in; what is over a limit is answered 503 without parsing anything.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use axum::{Router, body::Body, response::Response};
use http::{HeaderMap, Request, StatusCode, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioTimer;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use super::{
    address::TrustedProxies,
    admission::{Admission, Permit},
    head_guard::GuardedStream,
    refusal::{Refusal, TransportMetrics},
};

/// Time for a request head; a client that has something to say says it within.
pub const HEAD_TIME: Duration = Duration::from_secs(5);

/// Time for a whole request, body and answer; longer is 408.
pub const REQUEST_TIME: Duration = Duration::from_secs(30);

/// How long a client may take no byte of an answer; the same as for sessions.
pub const WRITE_STALL_TIME: Duration = Duration::from_secs(5);

/// Longest request head; longer is 431.
pub const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Most headers of a request; more is 431.
pub const MAX_HEADERS: usize = 64;

/// Connections that wait in the kernel until they are accepted. A reconnect of everybody fits.
const BACKLOG: u32 = 16_384;

/// Refusals written at the same time; beyond, connections are dropped without a word.
const MAX_REFUSALS: usize = 256;

/// Time that a refused client has to read the refusal.
const REFUSAL_TIME: Duration = Duration::from_secs(2);

/// Pauses after an accept error that will not go away at once, such as having no file descriptor left.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Time for requests under way when the listener stops.
const GRACE: Duration = Duration::from_secs(5);

const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// Where connections come from: a TCP listener, or a script in tests.
pub trait Acceptor: Send + Sync + 'static {
    fn accept(&self) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send;
}

impl Acceptor for TcpListener {
    fn accept(&self) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send {
        Self::accept(self)
    }
}

/// Binds a listening socket; nothing is accepted yet.
///
/// # Errors
/// When the address is taken or not ours.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(address) => {
            let socket = TcpSocket::new_v6()?;
            if address.ip().is_unspecified() {
                // Whatever the system's habit is: every interface means IPv4 as well.
                socket2::SockRef::from(&socket).set_only_v6(false)?;
            }
            socket
        }
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Binds every interface: of IPv6, which has those of IPv4 in it, or of IPv4 on a host without IPv6.
///
/// # Errors
/// As [`bind`], with the address that was tried last.
pub fn bind_everywhere(port: u16) -> Result<TcpListener, (SocketAddr, io::Error)> {
    with_fallback(port, bind)
}

fn with_fallback<T>(
    port: u16,
    bind: impl Fn(SocketAddr) -> io::Result<T>,
) -> Result<T, (SocketAddr, io::Error)> {
    let all = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    match bind(all) {
        Ok(bound) => Ok(bound),
        Err(error) if is_without_ipv6(&error) => {
            tracing::info!("this host has no IPv6; listening on IPv4 alone");
            let of_ipv4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
            bind(of_ipv4).map_err(|error| (of_ipv4, error))
        }
        Err(error) => Err((all, error)),
    }
}

fn is_without_ipv6(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    code == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
        || code == Some(rustix::io::Errno::ADDRNOTAVAIL.raw_os_error())
}

/// Serves HTTP, and what is upgraded from it, to clients.
#[derive(Debug, Clone)]
pub struct Listener {
    pub router: Router,
    pub admission: Arc<Admission>,
    pub proxies: Arc<TrustedProxies>,
    pub metrics: TransportMetrics,
    /// Owns the connections' tasks.
    pub tracker: TaskTracker,
}

impl Listener {
    /// Accepts until `stop`. [`Admission::drain`] makes it refuse with 503 before that, and end connections that stand
    /// with their next answer.
    pub async fn serve(self, acceptor: impl Acceptor, stop: CancellationToken) {
        let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
        let mut pause = FIRST_PAUSE;
        loop {
            let accepted = tokio::select! {
                biased; // Stop wins, so that shutdown is prompt.
                () = stop.cancelled() => return,
                accepted = acceptor.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    pause = FIRST_PAUSE;
                    self.take(stream, peer, &refusals, &stop);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "accepting connections fails");
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(pause) => {}
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Admits a connection and serves it, or refuses it.
    fn take(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        refusals: &Arc<Semaphore>,
        stop: &CancellationToken,
    ) {
        // Frames leave when they are written; waiting for more would only delay them.
        let _ = stream.set_nodelay(true);
        match self.admission.admit_socket(self.counted_address(peer)) {
            Ok(permit) => {
                let connection = self.clone().connection(stream, peer, permit, stop.clone());
                self.tracker.spawn(connection);
            }
            Err(refused) => {
                self.metrics.refuse(refused.into(), peer.ip());
                let Ok(place) = Arc::clone(refusals).try_acquire_owned() else {
                    return;
                };
                self.tracker.spawn(async move {
                    let _ = tokio::time::timeout(REFUSAL_TIME, refuse(stream)).await;
                    drop(place);
                });
            }
        }
    }

    /// A proxy's connections are not its own: its clients are counted in the handshake.
    fn counted_address(&self, peer: SocketAddr) -> Option<IpAddr> {
        (!self.proxies.trusts(peer.ip())).then(|| peer.ip())
    }

    /// Serves one connection until it ends, is upgraded, or the listener stops.
    async fn connection(
        self,
        stream: TcpStream,
        peer: SocketAddr,
        permit: Permit,
        stop: CancellationToken,
    ) {
        let service = service_fn(|request| answer(&self, peer, request));
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_headers(MAX_HEADERS)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(GuardedStream::new(stream, WRITE_STALL_TIME), service)
            .with_upgrades();
        let mut served = pin!(served);
        let result = tokio::select! {
            result = served.as_mut() => Some(result),
            () = stop.cancelled() => None,
        };
        let result = match result {
            Some(result) => result,
            None => {
                served.as_mut().graceful_shutdown();
                match tokio::time::timeout(GRACE, served).await {
                    Ok(result) => result,
                    Err(_) => return,
                }
            }
        };
        if let Err(error) = result {
            match Refusal::of_connection(&error) {
                Some(refusal) => self.metrics.refuse(refusal, peer.ip()),
                None => tracing::debug!(client.addr = %peer.ip(), %error, "connection ended"),
            }
        }
        drop(permit);
    }
}

/// Passes a request to the router, within the time that a request may take.
async fn answer(
    listener: &Listener,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response, std::convert::Infallible> {
    let refuse = |refusal, code| {
        listener.metrics.refuse(refusal, peer.ip());
        listener.metrics.count_answer(code);
        Ok(status(code))
    };
    if is_smuggled(request.headers()) {
        return refuse(Refusal::TwoLengths, StatusCode::BAD_REQUEST);
    }
    let mut request = request.map(Body::new);
    let address = listener.proxies.client_address(peer, request.headers());
    request.extensions_mut().insert(address);
    let answered = listener.router.clone().oneshot(request);
    match tokio::time::timeout(REQUEST_TIME, answered).await {
        Ok(Ok(mut response)) => {
            listener.metrics.count_answer(response.status());
            // A connection that ends with an answer ends for both sides: when the drain closes the others, none is left
            // on which a request may be on its way.
            if listener.admission.is_draining()
                && response.status() != StatusCode::SWITCHING_PROTOCOLS
            {
                let close = http::HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
            Ok(response)
        }
        Ok(Err(never)) => match never {},
        Err(_) => refuse(Refusal::RequestTimeout, StatusCode::REQUEST_TIMEOUT),
    }
}

/// Two ways to say where the body ends: somebody between us and the client may have believed the other one.
fn is_smuggled(headers: &HeaderMap) -> bool {
    let lengths = headers.get_all(header::CONTENT_LENGTH).iter().count();
    let encodings = headers.get_all(header::TRANSFER_ENCODING).iter().count();
    lengths + encodings > 1
}

fn status(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONNECTION, http::HeaderValue::from_static("close"));
    response
}

/// Says 503 once the client has begun to ask, and waits a little for it to hear: closing with unread bytes would reset,
/// and an answer that comes before its question leaves nginx (1.22) in a state in which it does not ask the next node.
async fn refuse(mut stream: TcpStream) -> io::Result<()> {
    let mut scratch = [0; 512];
    let len = stream.read(&mut scratch).await?;
    if len == 0 {
        return Ok(());
    }
    stream.write_all(REFUSAL).await?;
    stream.shutdown().await?;
    let mut left = MAX_HEAD_BYTES.saturating_sub(len);
    while left > 0 {
        let len = stream.read(&mut scratch).await?;
        if len == 0 {
            break;
        }
        left = left.saturating_sub(len);
    }
    Ok(())
}

/// Errors that belong to the connection that was to be accepted, not to the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests;
