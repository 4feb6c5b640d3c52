//! A subscriber that behaves as the official JavaScript SDK does: connect and subscribe in one frame, recovery from
//! the remembered position, resubscription after 2500 and above, reconnection with backoff after every end below 3500.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::{SinkExt as _, StreamExt as _};
use rand::RngExt as _;
use tidegate_protocol::{
    Codec, Command, ConnectRequest, Push, Reply, SubscribeRequest, SubscribeResult, decode_replies,
    encode_commands,
};
use tokio::{net::TcpStream, time::Instant};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        Error, Message, client::IntoClientRequest as _, http::HeaderValue,
        protocol::WebSocketConfig,
    },
};

use super::{Phase, Shared, body};
use crate::members::USER_HEADER;
use crate::record::{Entry, Event, Position, Subscribed, SubscriberLog};

/// First delay of a reconnect or resubscribe.
const BACKOFF: Duration = Duration::from_millis(500);

/// Longest wait for the reply to a command, and for the handshake.
const PATIENCE: Duration = Duration::from_secs(5);

/// How much later than promised a ping may come.
const PING_GRACE: Duration = Duration::from_secs(10);

/// The SDK's own codes, for what no server said.
const NOT_SAID: u16 = 1006;
const TIMED_OUT: u16 = 3;

type Socket = WebSocketStream<TcpStream>;

struct Subscriber {
    index: u32,
    channel: u32,
    codec: Codec,
    shared: Arc<Shared>,
    /// Where it is; `None` before the first subscribe.
    position: Option<Position>,
    /// What the last subscribe asked to recover from.
    asked: Option<Position>,
    log: SubscriberLog,
}

/// How a connection ended.
enum End {
    /// The load is over.
    Stopped,
    /// Try again, after the backoff of this many failures in a row.
    Again,
    /// The server said not to.
    Terminal,
}

/// What is to be done next on a connection.
enum Next {
    Listen,
    Resubscribe(Duration),
}

pub(super) async fn run(index: u32, shared: Arc<Shared>) -> SubscriberLog {
    let channel = index % shared.options.channels;
    let mut subscriber = Subscriber {
        index,
        channel,
        codec: match index % 2 {
            0 => Codec::Json,
            _ => Codec::Protobuf,
        },
        position: None,
        asked: None,
        log: SubscriberLog {
            channel,
            entries: Vec::new(),
        },
        shared,
    };
    let mut failures = 0;
    loop {
        match subscriber.life(&mut failures).await {
            End::Stopped | End::Terminal => break,
            End::Again => {}
        }
        let shared = Arc::clone(&subscriber.shared);
        tokio::select! {
            () = tokio::time::sleep(backoff(failures, shared.options.backoff_cap)) => {}
            () = shared.reach(Phase::Ended) => break,
        }
        failures += 1;
    }
    subscriber.log
}

/// The SDK's: exponential, with full jitter above the first delay.
fn backoff(failures: u32, cap: Duration) -> Duration {
    let span = (BACKOFF * 2_u32.saturating_pow(failures.min(16))).min(cap);
    let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let jitter = Duration::from_millis(rand::rng().random_range(0..=millis));
    (BACKOFF + jitter).min(cap)
}

impl Subscriber {
    fn note(&mut self, event: Event) {
        let at = self.shared.now();
        self.log.entries.push(Entry { at, event });
    }

    /// One connection, from the first attempt to its end.
    async fn life(&mut self, failures: &mut u32) -> End {
        let Some(mut socket) = self.connect().await else {
            return End::Again;
        };
        let first = [
            Command {
                id: 1,
                connect: Some(Box::new(ConnectRequest::default())),
                ..Command::default()
            },
            self.subscribe_command(2),
        ];
        let mut commands = 2;
        let mut reply_due = Some(Instant::now() + PATIENCE);
        let mut ping_due = None;
        let mut resubscribe_at: Option<Instant> = None;
        let mut resubscribes = 0;
        if self.send(&mut socket, &first).await.is_err() {
            return self.ended(NOT_SAID);
        }
        let shared = Arc::clone(&self.shared);
        let mut cuts = shared.cuts.subscribe();
        loop {
            let due = [reply_due, ping_due, resubscribe_at]
                .into_iter()
                .flatten()
                .min();
            let message = tokio::select! {
                message = socket.next() => message,
                () = sleep_until(due) => {
                    if resubscribe_at.is_some_and(|at| at <= Instant::now()) {
                        resubscribe_at = None;
                        commands += 1;
                        let command = self.subscribe_command(commands);
                        if self.send(&mut socket, &[command]).await.is_err() {
                            return self.ended(NOT_SAID);
                        }
                        reply_due = Some(Instant::now() + PATIENCE);
                        continue;
                    }
                    return self.ended(TIMED_OUT);
                }
                () = shared.reach(Phase::Ended) => return End::Stopped,
                _ = cuts.changed() => return self.ended(NOT_SAID),
            };
            let frame = match message {
                Some(Ok(Message::Text(text))) => text.as_bytes().to_vec(),
                Some(Ok(Message::Binary(bytes))) => bytes.to_vec(),
                Some(Ok(Message::Close(close))) => {
                    let code = close.map_or(1005, |close| close.code.into());
                    return self.ended(code);
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
                Some(Err(_)) | None => return self.ended(NOT_SAID),
            };
            let Ok(replies) = decode_replies(self.codec, &frame) else {
                return self.ended(NOT_SAID);
            };
            for reply in replies {
                if reply == Reply::default() {
                    if self.send(&mut socket, &[Command::default()]).await.is_err() {
                        return self.ended(NOT_SAID);
                    }
                    ping_due = ping_due.map(|_| Instant::now() + PING_GRACE + PING_INTERVAL);
                } else if let Some(error) = &reply.error {
                    self.note(Event::Refused { code: error.code });
                    let is_temporary = error.temporary || error.code < 100 || error.code == 109;
                    if reply.id == 1 || !is_temporary {
                        return match is_temporary {
                            true => End::Again,
                            false => End::Terminal,
                        };
                    }
                    reply_due = None;
                    let delay = backoff(resubscribes, shared.options.backoff_cap);
                    resubscribes += 1;
                    resubscribe_at = Some(Instant::now() + delay);
                } else if let Some(connect) = &reply.connect {
                    *failures = 0;
                    if connect.ping > 0 {
                        let ping = Duration::from_secs(u64::from(connect.ping));
                        ping_due = Some(Instant::now() + ping + PING_GRACE);
                    }
                } else if let Some(result) = reply.subscribe {
                    reply_due = None;
                    resubscribes = 0;
                    self.subscribed(*result);
                } else if let Some(push) = reply.push {
                    match self.pushed(*push) {
                        Next::Listen => {}
                        Next::Resubscribe(delay) => resubscribe_at = Some(Instant::now() + delay),
                    }
                }
            }
        }
    }

    /// Connects to the first node that takes it, as behind a balancer; `None` after a failure of all.
    async fn connect(&mut self) -> Option<Socket> {
        let mut status = 0;
        let nodes = self.shared.balancer.nodes_from(self.index as usize);
        for (_, addr) in nodes {
            match tokio::time::timeout(PATIENCE, handshake(addr, self.codec)).await {
                Ok(Ok(socket)) => return Some(socket),
                // Refused on the TCP level: the balancer tries the next node at once.
                Ok(Err(None)) => {}
                Ok(Err(Some(answer))) => {
                    status = answer;
                    break;
                }
                Err(_) => break,
            }
        }
        self.note(Event::NotConnected { status });
        None
    }

    fn subscribe_command(&mut self, id: u32) -> Command {
        let mut request = SubscribeRequest {
            channel: Shared::channel(self.channel),
            ..SubscribeRequest::default()
        };
        self.asked.clone_from(&self.position);
        if let Some(Position { epoch, offset }) = &self.position {
            request.recover = true;
            request.epoch.clone_from(epoch);
            request.offset = *offset;
        }
        Command {
            id,
            subscribe: Some(Box::new(request)),
            ..Command::default()
        }
    }

    async fn send(&self, socket: &mut Socket, commands: &[Command]) -> Result<(), Error> {
        let frame = encode_commands(self.codec, commands).expect("the commands are valid");
        let message = match self.codec {
            Codec::Json => Message::text(String::from_utf8(frame).expect("JSON is text")),
            Codec::Protobuf => Message::binary(frame),
        };
        socket.send(message).await
    }

    fn subscribed(&mut self, result: SubscribeResult) {
        let is_continued = result.was_recovering && result.recovered;
        let asked = self.asked.take();
        self.note(Event::Subscribed(Subscribed {
            asked,
            was_recovering: result.was_recovering,
            recovered: result.recovered,
            epoch: result.epoch.clone(),
            offset: result.offset,
        }));
        let offset = match (&self.position, is_continued) {
            (Some(position), true) => position.offset,
            _ => result.offset,
        };
        self.position = Some(Position {
            epoch: result.epoch,
            offset,
        });
        for publication in result.publications {
            self.took(
                publication.offset,
                &publication.epoch,
                publication.data.as_bytes(),
            );
        }
        let reached = &self.shared.reached[self.index as usize];
        // Pairs with the load of who waits for every subscriber.
        reached.subscribed.fetch_add(1, Ordering::AcqRel);
        self.moved();
    }

    fn pushed(&mut self, push: Push) -> Next {
        if let Some(publication) = push.r#pub {
            self.took(
                publication.offset,
                &publication.epoch,
                publication.data.as_bytes(),
            );
            self.moved();
        } else if let Some(unsubscribe) = push.unsubscribe {
            self.note(Event::Unsubscribed {
                code: unsubscribe.code,
            });
            if unsubscribe.code >= 2500 {
                return Next::Resubscribe(Duration::ZERO);
            }
        }
        Next::Listen
    }

    /// A publication arrived: it is written down, whatever it is, and moves the position as in the SDK.
    fn took(&mut self, offset: u64, epoch: &str, data: &[u8]) {
        let Some(body) = body::parse(data) else {
            // Not ours: it takes a place in the stream, and no publisher knows of it.
            return;
        };
        self.note(Event::Publication {
            offset,
            epoch: epoch.to_owned(),
            body,
        });
        if let Some(position) = &mut self.position {
            if position.epoch.is_empty() {
                epoch.clone_into(&mut position.epoch);
            }
            position.offset = offset;
        }
    }

    /// Says where it is to who waits for the load to settle.
    fn moved(&self) {
        if let Some(position) = &self.position {
            let reached = &self.shared.reached[self.index as usize];
            position.clone_into(&mut reached.position.lock());
            if *self.shared.phase.borrow() != Phase::Publishing {
                self.shared.moved.notify_waiters();
            }
        }
    }

    fn ended(&mut self, code: u16) -> End {
        self.note(Event::Disconnected { code });
        match code {
            3500..4000 | 4500..5000 => End::Terminal,
            _ => End::Again,
        }
    }
}

/// The usual ping interval; the server says the real one, which is no longer.
const PING_INTERVAL: Duration = Duration::from_secs(25);

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// A WebSocket to this node; `Err(None)` when nobody listens, else the HTTP status that refused it, or 0.
async fn handshake(addr: SocketAddr, codec: Codec) -> Result<Socket, Option<u16>> {
    let stream = TcpStream::connect(addr).await.map_err(|_| None)?;
    stream.set_nodelay(true).map_err(|_| None)?;
    let url = format!("ws://{addr}/connection/websocket");
    let mut request = url.into_client_request().expect("the URL is valid");
    // Only rows with members have nodes that look at it.
    let user = HeaderValue::from_static("load");
    request.headers_mut().insert(USER_HEADER, user);
    if codec == Codec::Protobuf {
        let protocol = HeaderValue::from_static("centrifuge-protobuf");
        request
            .headers_mut()
            .insert("Sec-WebSocket-Protocol", protocol);
    }
    // Ten thousand of these fit into one process.
    let config = WebSocketConfig::default()
        .read_buffer_size(4 * 1024)
        .write_buffer_size(0);
    match Box::pin(client_async_with_config(request, stream, Some(config))).await {
        Ok((socket, _)) => Ok(socket),
        Err(Error::Http(response)) => Err(Some(response.status().as_u16())),
        Err(_) => Err(Some(0)),
    }
}
