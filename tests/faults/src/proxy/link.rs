//! One connection through the proxy: two pumps that obey the mode.

use std::{
    collections::VecDeque,
    future::pending,
    io,
    net::Shutdown,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{net::TcpStream, time::Instant};

use super::{Mode, Shared, Way, reset};

/// Read at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// Held back per direction before the sender is made to wait; as much as a TCP buffer of the kernel.
const HELD_BYTES: usize = 1024 * 1024;

/// What a client sends to Redis to become a subscriber: `SUBSCRIBE`, `PSUBSCRIBE` and `SSUBSCRIBE` end so.
const SUBSCRIBE: &[u8] = b"SUBSCRIBE\r\n";

/// Both ends.
struct Link {
    client: TcpStream,
    server: TcpStream,
    /// The client has sent a subscribe. Written by the pump to the server, read by the other one.
    has_subscribed: AtomicBool,
}

/// Carries one connection until it ends.
pub(super) async fn serve(client: TcpStream, shared: Arc<Shared>) {
    let mut mode = shared.mode.subscribe();
    let mut generation = shared.generation.subscribe();
    if *mode.borrow_and_update() == Mode::Reset {
        reset(&client);
        return;
    }
    let upstream = *shared.upstream.read();
    let Ok(server) = TcpStream::connect(upstream).await else {
        reset(&client);
        return;
    };
    // Without these the proxy itself would delay small messages.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let link = Link {
        client,
        server,
        has_subscribed: AtomicBool::new(false),
    };
    let pumps = async {
        tokio::join!(
            pump(&link, Way::ToServer, &shared),
            pump(&link, Way::ToClient, &shared)
        )
    };
    tokio::select! {
        (to_server, to_client) = pumps => {
            if to_server.is_err() || to_client.is_err() {
                reset(&link.client);
                reset(&link.server);
            }
        }
        _ = generation.changed() => {
            reset(&link.client);
            reset(&link.server);
        }
        _ = mode.wait_for(|mode| *mode == Mode::Reset) => {
            reset(&link.client);
            reset(&link.server);
        }
    }
}

/// What waits to be written in one direction.
#[derive(Default)]
struct Held {
    chunks: VecDeque<(Instant, Bytes)>,
    bytes: usize,
}

/// Carries bytes one way until their source ends.
async fn pump(link: &Link, way: Way, shared: &Shared) -> io::Result<()> {
    let (from, to, carried) = match way {
        Way::ToServer => (&link.client, &link.server, &shared.bytes_to_server),
        Way::ToClient => (&link.server, &link.client, &shared.bytes_to_client),
    };
    let mut mode = shared.mode.subscribe();
    let mut held = Held::default();
    let mut has_ended = false;
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut tail = Vec::new();
    loop {
        let now = *mode.borrow_and_update();
        let is_stalled = match now {
            Mode::Stall(direction) => direction.covers(way),
            // Pairs with the store below: a stall that begins between the two stalls one chunk later.
            Mode::StallSubscribers => {
                way == Way::ToClient && link.has_subscribed.load(Ordering::Acquire)
            }
            Mode::HalfClose(direction) if direction.covers(way) => {
                return shut(to);
            }
            Mode::Pass | Mode::Delay(_) | Mode::Reset | Mode::HalfClose(_) => false,
        };
        let delay = match now {
            Mode::Delay(delay) => delay,
            Mode::Pass
            | Mode::Stall(_)
            | Mode::StallSubscribers
            | Mode::Reset
            | Mode::HalfClose(_) => Duration::ZERO,
        };
        let due = held.chunks.front().map(|(due, _)| *due);
        if has_ended && due.is_none() {
            return shut(to);
        }
        tokio::select! {
            changed = mode.changed() => if changed.is_err() {
                return Ok(()); // The proxy is gone.
            },
            readable = from.readable(), if !has_ended && !is_stalled && held.bytes < HELD_BYTES => {
                readable?;
                match from.try_read(&mut chunk) {
                    Ok(0) => has_ended = true,
                    Ok(len) => {
                        if way == Way::ToServer && !link.has_subscribed.load(Ordering::Acquire) {
                            notice_subscribe(link, &mut tail, &chunk[..len]);
                        }
                        let bytes = Bytes::copy_from_slice(&chunk[..len]);
                        held.bytes += len;
                        held.chunks.push_back((Instant::now() + delay, bytes));
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
            () = sleep_until(due), if !is_stalled => {
                let Some((_, bytes)) = held.chunks.pop_front() else { continue };
                held.bytes -= bytes.len();
                write_all(to, &bytes).await?;
                carried.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) if due <= Instant::now() => {}
        Some(due) => tokio::time::sleep_until(due).await,
        None => pending().await,
    }
}

async fn write_all(to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        to.writable().await?;
        match to.try_write(bytes) {
            Ok(len) => bytes = &bytes[len..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Looks for a subscribe in what the client sends; `tail` is the end of what came before, which may hold its head.
fn notice_subscribe(link: &Link, tail: &mut Vec<u8>, bytes: &[u8]) {
    tail.extend_from_slice(bytes);
    let mut windows = tail.windows(SUBSCRIBE.len());
    if windows.any(|window| window.eq_ignore_ascii_case(SUBSCRIBE)) {
        link.has_subscribed.store(true, Ordering::Release);
    }
    let keep = tail.len().min(SUBSCRIBE.len() - 1);
    tail.drain(..tail.len() - keep);
}

/// Sends the end of the stream.
fn shut(to: &TcpStream) -> io::Result<()> {
    match socket2::SockRef::from(to).shutdown(Shutdown::Write) {
        // The other side has ended the connection already.
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        result => result,
    }
}
