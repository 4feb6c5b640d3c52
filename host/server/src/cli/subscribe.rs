//! `subscribe`: a live client in the terminal.
//!
//! Owns the socket, the reconnects and the end by ctrl-c; what to send and what messages mean is in [`feed`], which
//! does no I/O. What was missed while the connection or a subscription was away is recovered, and a gap is told.

mod feed;

use std::{path::PathBuf, time::Duration};

use clap::Args;
use futures_util::{SinkExt as _, StreamExt as _};
use rand::RngExt as _;
use serde_json::Value;
use tidegate_protocol::codes::is_reconnect_code;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error as WebSocketError, Message},
};

use self::feed::{Event, Feed, Next};
use super::{
    Failure, Output, block_on, exit,
    http::Base,
    server,
    token::{self, Claims, json_argument},
};

/// First wait before a reconnect; doubled up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(300);
const MAX_BACKOFF: Duration = Duration::from_secs(20);

/// A server pings every 25 s by default; a minute of silence means that the connection is dead.
const MAX_SILENCE: Duration = Duration::from_secs(60);

/// Subscribes to channels and prints what arrives
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate subscribe chat:lobby --user alice --config tidegate.toml     mint a token from the configured secret
  tidegate subscribe news --token eyJhbGciOi…
  tidegate subscribe chat:lobby --data '{\"ticket\": \"…\"}' --json
  tidegate subscribe news --count 1                                     end after one publication

Ctrl-c ends it. After a lost connection it comes back and recovers what it missed, where the namespace allows it. It subscribes
again where the server says that clients do (codes from 2500 on); the exit code is 1 when the server ended all subscriptions.")]
pub struct Subscribe {
    /// Channels to subscribe to
    #[arg(required = true)]
    channels: Vec<String>,
    /// Connection token
    #[arg(long, value_name = "JWT")]
    token: Option<String>,
    #[command(flatten)]
    claims: Claims,
    /// Configuration file whose secret signs a token for --user [env: TIDEGATE_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// JSON sent with the connect command, for authentication plugins
    #[arg(long, value_name = "JSON", value_parser = json_argument)]
    data: Option<Value>,
    /// End after this many publications
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Server [default: http://127.0.0.1:8000; env: TIDEGATE_URL]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Path of the WebSocket endpoint, `websocket.handler_prefix` of the server
    #[arg(long, value_name = "PATH", default_value = "/connection/websocket")]
    path: String,
    /// App to connect to
    #[arg(long, value_name = "APP", default_value = "default")]
    app: String,
}

pub(super) fn run(command: Subscribe, output: Output) -> Result<(), Failure> {
    let Subscribe {
        channels,
        token,
        claims,
        config,
        data,
        count,
        url,
        path,
        app,
    } = command;
    let base = Base::parse(&server::url(url.as_ref()), "--url")?;
    let token = match token {
        Some(token) => token,
        None if claims.user.is_empty() => String::new(),
        None => token::mint(&token::load(config)?, claims, std::time::SystemTime::now())?.0,
    };
    let app = if app == "default" {
        String::new()
    } else {
        format!("/apps/{app}")
    };
    let address = format!("{}{app}{path}", base.websocket());
    let feed = Feed::new(channels, token, data);
    block_on(async {
        tokio::select! {
            done = follow(feed, &base, &address, Remaining { count }, output) => done,
            _ = tokio::signal::ctrl_c() => {
                output.note("ended");
                Ok(())
            }
        }
    })
}

/// Publications still wanted; `None` never ends.
#[derive(Debug, Clone, Copy)]
struct Remaining {
    count: Option<u64>,
}

/// How one connection ended.
enum End {
    /// All that was wanted arrived.
    Complete,
    /// It may work again later; a connection that had been established starts with a short wait.
    Lost { was_connected: bool, why: String },
}

async fn follow(
    mut feed: Feed,
    base: &Base,
    address: &str,
    mut remaining: Remaining,
    output: Output,
) -> Result<(), Failure> {
    let mut backoff = MIN_BACKOFF;
    let mut has_ever_connected = false;
    loop {
        let socket = match connect_async(address).await {
            Ok((socket, _)) => Some(socket),
            Err(error) if has_ever_connected && is_transport(&error) => None,
            Err(error) => return Err(refused(base, address, &error)),
        };
        if let Some(socket) = socket {
            match exchange(socket, &mut feed, &mut remaining, output).await? {
                End::Complete => return Ok(()),
                End::Lost { was_connected, why } => {
                    has_ever_connected |= was_connected;
                    if was_connected {
                        backoff = MIN_BACKOFF;
                    }
                    print(output, &Event::Lost { why });
                }
            }
        }
        tokio::time::sleep(pause(backoff)).await;
        backoff = (backoff * 2).min(MAX_BACKOFF);
    }
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// One connection, from the connect command to its end.
async fn exchange(
    mut socket: Socket,
    feed: &mut Feed,
    remaining: &mut Remaining,
    output: Output,
) -> Result<End, Failure> {
    let mut was_connected = false;
    let lost = |was_connected, why: String| Ok(End::Lost { was_connected, why });
    if let Err(error) = socket.send(Message::text(feed.connect())).await {
        return lost(false, error.to_string());
    }
    loop {
        let message = match tokio::time::timeout(MAX_SILENCE, socket.next()).await {
            Err(_) => return lost(was_connected, "the server went silent".into()),
            Ok(None) => return lost(was_connected, "the connection was closed".into()),
            Ok(Some(Err(error))) => return lost(was_connected, error.to_string()),
            Ok(Some(Ok(message))) => message,
        };
        let text = match message {
            Message::Text(text) => text,
            Message::Close(frame) => {
                let (code, reason) = frame.map_or((1005, String::new()), |frame| {
                    (u16::from(frame.code), frame.reason.to_string())
                });
                if is_reconnect_code(code.into()) {
                    return lost(was_connected, format!("{code} {reason}"));
                }
                return Err(Failure::new(format!(
                    "the server closed the connection: {reason} (code {code})"
                ))
                .hint(close_hint(code)));
            }
            Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {
                continue;
            }
        };
        let (events, answers) = feed.receive(&text)?;
        let mut is_to_wait = false;
        for event in events {
            was_connected |= matches!(event, Event::Connected { .. });
            is_to_wait |= matches!(
                event,
                Event::Unsubscribed {
                    next: Next::Subscribe | Next::Recover,
                    ..
                }
            );
            let is_publication = matches!(event, Event::Publication { .. });
            print(output, &event);
            if let (true, Some(count)) = (is_publication, remaining.count.as_mut()) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    // Nothing more is wanted of the server, whether or not it hears this.
                    let _ = socket.close(None).await;
                    return Ok(End::Complete);
                }
            }
        }
        if feed.is_over() {
            let _ = socket.close(None).await;
            return Err(Failure::new("the server ended all subscriptions; nothing more will come")
                .hint("a call of the server API or a plugin did so; the same command subscribes again"));
        }
        if is_to_wait {
            // A server that ends the new subscription too is not asked without a pause.
            tokio::time::sleep(pause(MIN_BACKOFF)).await;
        }
        for answer in answers {
            if let Err(error) = socket.send(Message::text(answer)).await {
                return lost(was_connected, error.to_string());
            }
        }
    }
}

/// Jitter, so that many clients of one server do not come back at the same moment.
fn pause(backoff: Duration) -> Duration {
    backoff.mul_f64(rand::rng().random_range(0.5..1.0))
}

fn print(output: Output, event: &Event) {
    match event {
        Event::Publication { .. } | Event::Message { .. } => {
            output.result(&event.to_json(), || event.to_string())
        }
        _ if output.is_json() => output.line(&event.to_json().to_string()),
        _ => output.note(&event.to_string()),
    }
}

/// Errors of the network rather than of what we asked.
fn is_transport(error: &WebSocketError) -> bool {
    match error {
        WebSocketError::Io(_)
        | WebSocketError::ConnectionClosed
        | WebSocketError::AlreadyClosed => true,
        WebSocketError::Http(response) => response.status().is_server_error(),
        _ => false,
    }
}

fn refused(base: &Base, address: &str, error: &WebSocketError) -> Failure {
    match error {
        WebSocketError::Io(error) => base.unreachable(error),
        WebSocketError::Http(response) => {
            let hint = match response.status().as_u16() {
                403 => "the server does not allow this origin: client.allowed_origins",
                404 => "check --path and --app",
                503 => "the server is full or draining; try again in a moment",
                _ => "",
            };
            Failure::new(format!("{address} answered {}", response.status())).hint(hint)
        }
        error => Failure {
            code: exit::UNREACHABLE,
            ..Failure::new(format!("{address}: {error}"))
        },
    }
}

fn close_hint(code: u16) -> &'static str {
    match code {
        3500 => "mint a token with --user and --config, or give one with --token",
        3501 => {
            "without a token most servers take nobody: --user NAME --config FILE mints one; else, is it a Centrifugo-compatible server?"
        }
        3505 => "the connection has too many channels: client.channel_limit",
        _ => "",
    }
}
