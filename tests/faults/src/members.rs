//! Sessions that others see: they join channels and stay, and one beside them hears who leaves.
//!
//! Owns connections that are never made again: whoever loses one has left.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use futures_util::{SinkExt as _, StreamExt as _, TryStreamExt as _, stream};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{net::TcpStream, sync::Notify, task::JoinSet, time::Instant};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest as _, http::HeaderValue},
};

use crate::load::Api;

/// The channels they are in.
pub const CHANNELS: usize = 20;

/// The header that says who a client is; see `settings`.
pub(crate) const USER_HEADER: &str = "X-Member";

/// Connections that are made at the same time.
const AT_ONCE: usize = 16;

/// A node lets so many in a second, and says to come back.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(200);

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

type Socket = WebSocketStream<TcpStream>;

/// What a node needs for them, in addition to `engine`.
pub fn settings(mut engine: Value) -> Value {
    // Who may be anonymous is, whatever the header says.
    engine["client"] = json!({ "user_id_http_header": USER_HEADER });
    engine
}

fn channel(index: usize) -> String {
    format!("seen:{}", index % CHANNELS)
}

/// Sessions in the channels, two for each user. They end with this.
#[derive(Debug)]
pub struct Members {
    /// By their client ids.
    pub clients: BTreeSet<String>,
    _listening: JoinSet<()>,
}

impl Members {
    /// Connects so many to a node.
    ///
    /// # Errors
    /// One of them is not let in.
    pub async fn join(addr: SocketAddr, name: &str, number: usize) -> Result<Self> {
        let joining = (0..number).map(|index| async move {
            let user = format!("{name} {}", index / 2);
            enter(addr, &user, &[channel(index)]).await
        });
        let joined: Vec<_> = stream::iter(joining)
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        let mut listening = JoinSet::new();
        let mut clients = BTreeSet::new();
        for (client, socket) in joined {
            clients.insert(client);
            listening.spawn(listen(socket, |_| {}));
        }
        Ok(Self {
            clients,
            _listening: listening,
        })
    }
}

/// Hears who leaves the channels.
#[derive(Debug)]
pub struct Witness {
    heard: Arc<Heard>,
    _listening: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Heard {
    leaves: Mutex<Vec<(Instant, String)>>,
    more: Notify,
}

impl Witness {
    /// Connects to a node.
    ///
    /// # Errors
    /// It is not let in.
    pub async fn listen(addr: SocketAddr) -> Result<Self> {
        let channels: Vec<_> = (0..CHANNELS).map(channel).collect();
        let (_, socket) = enter(addr, "witness", &channels).await?;
        let heard = Arc::new(Heard::default());
        let hears = Arc::clone(&heard);
        let mut listening = JoinSet::new();
        listening.spawn(listen(socket, move |message| {
            if let Some(client) = message["push"]["leave"]["info"]["client"].as_str() {
                let leave = (Instant::now(), client.to_owned());
                hears.leaves.lock().push(leave);
                hears.more.notify_one();
            }
        }));
        Ok(Self {
            heard,
            _listening: listening,
        })
    }

    /// Waits until it has heard so many, or the time is over.
    pub async fn until(&self, number: usize, within: Duration) {
        let enough = async {
            while self.heard.leaves.lock().len() < number {
                self.heard.more.notified().await;
            }
        };
        // Whether it was enough is the judge's.
        let _ = tokio::time::timeout(within, enough).await;
    }

    /// Who left, and how long after this moment.
    pub fn heard(&self, since: Instant) -> Vec<(Duration, String)> {
        let leaves = self.heard.leaves.lock();
        let leaves = leaves.iter();
        leaves
            .map(|(at, client)| (at.saturating_duration_since(since), client.clone()))
            .collect()
    }
}

/// Whom presence names in the channels, without the witness.
///
/// # Errors
/// The node does not answer.
pub async fn present(addr: SocketAddr) -> Result<BTreeSet<String>> {
    let mut api = Api::new();
    let mut present = BTreeSet::new();
    for index in 0..CHANNELS {
        let request = json!({ "channel": channel(index) });
        let result = api.result(addr, "presence", &request).await?;
        let members = result["presence"]
            .as_object()
            .context("members by client")?;
        let others = members.iter().filter(|(_, one)| one["user"] != "witness");
        present.extend(others.map(|(client, _)| client.clone()));
    }
    Ok(present)
}

/// A session in these channels, and its client id.
async fn enter(addr: SocketAddr, user: &str, channels: &[String]) -> Result<(String, Socket)> {
    let mut socket = connect(addr, user).await?;
    let mut commands = vec![json!({ "id": 1, "connect": {} }).to_string()];
    for (index, channel) in channels.iter().enumerate() {
        let subscribe = json!({ "channel": channel, "join_leave": channels.len() > 1 });
        commands.push(json!({ "id": index + 2, "subscribe": subscribe }).to_string());
    }
    socket.send(Message::text(commands.join("\n"))).await?;
    let mut client = None;
    let mut subscribed = 0;
    let answers = async {
        while subscribed < channels.len() {
            let frame = socket.next().await.context("the connection ended")??;
            for message in messages(&frame) {
                if !message["error"].is_null() {
                    bail!("{user} is not let in: {message}");
                }
                if let Some(id) = message["connect"]["client"].as_str() {
                    client = Some(id.to_owned());
                }
                subscribed += usize::from(!message["subscribe"].is_null());
            }
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE, answers)
        .await
        .context("the node does not answer")??;
    Ok((client.context("no client id")?, socket))
}

async fn connect(addr: SocketAddr, user: &str) -> Result<Socket> {
    let mut last = None;
    for _ in 0..TRIES {
        let mut request = format!("ws://{addr}/connection/websocket").into_client_request()?;
        let user = HeaderValue::from_str(user)?;
        request.headers_mut().insert(USER_HEADER, user);
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        match client_async(request, stream).await {
            Ok((socket, _)) => return Ok(socket),
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(last.context("no try")?.into())
}

/// Answers pings and hands over all else, until the connection ends.
async fn listen(mut socket: Socket, mut hear: impl FnMut(&Value) + Send) {
    while let Some(Ok(frame)) = socket.next().await {
        for message in messages(&frame) {
            let is_ping = message.as_object().is_some_and(serde_json::Map::is_empty);
            if is_ping && socket.send(Message::text("{}")).await.is_err() {
                return;
            }
            hear(&message);
        }
    }
}

fn messages(frame: &Message) -> Vec<Value> {
    let text = frame.to_text().unwrap_or_default();
    text.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}
