//! A client of the protocol for both codecs: one socket, commands with ids, pushes kept in order.

use std::collections::VecDeque;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::json;
use tidegate_protocol::{
    Codec, Command, ConnectRequest, HistoryRequest, PublishRequest, Push, Raw, RefreshRequest,
    Reply, RpcRequest, StreamPosition, SubscribeRequest, UnsubscribeRequest, decode_replies,
    encode_commands,
};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, client::IntoClientRequest as _, http::HeaderValue},
};

use crate::{Node, token, within};

/// How the server ended the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    pub code: u16,
    pub reason: String,
}

/// A connected socket. Answers pings by itself.
#[derive(Debug)]
pub struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    codec: Codec,
    last_id: u32,
    /// Arrived and not asked for yet.
    backlog: VecDeque<Reply>,
    closed: Option<Closed>,
}

impl Client {
    /// Opens a socket at the node's usual path; nothing is sent yet.
    ///
    /// # Panics
    /// When the upgrade is refused.
    pub async fn open(node: &Node, codec: Codec) -> Self {
        Self::open_at(
            &format!("ws://{}/connection/websocket", node.client_addr()),
            codec,
        )
        .await
    }

    /// Opens a socket at a URL.
    ///
    /// # Panics
    /// When the upgrade is refused.
    pub async fn open_at(url: &str, codec: Codec) -> Self {
        let mut request = url.into_client_request().expect("the URL is valid");
        if codec == Codec::Protobuf {
            request.headers_mut().insert(
                "Sec-WebSocket-Protocol",
                HeaderValue::from_static("centrifuge-protobuf"),
            );
        }
        let (socket, _) = within("the upgrade", Box::pin(connect_async(request)))
            .await
            .expect("the node accepts the upgrade");
        Self {
            socket,
            codec,
            last_id: 0,
            backlog: VecDeque::new(),
            closed: None,
        }
    }

    /// Whether an upgrade at a URL is taken; the HTTP status when it is not.
    ///
    /// # Errors
    /// The status of the refusal.
    pub async fn try_open_at(url: &str) -> Result<(), u16> {
        match within("the upgrade", Box::pin(connect_async(url))).await {
            Ok(_) => Ok(()),
            Err(tokio_tungstenite::tungstenite::Error::Http(response)) => {
                Err(response.status().as_u16())
            }
            Err(error) => panic!("no HTTP answer: {error}"),
        }
    }

    /// Opens a socket and connects with this request.
    ///
    /// # Panics
    /// When the connect command does not succeed.
    pub async fn connect(node: &Node, codec: Codec, request: ConnectRequest) -> Self {
        let mut client = Self::open(node, codec).await;
        let reply = client.connect_with(request).await;
        assert!(reply.connect.is_some(), "connect answered {reply:?}");
        client
    }

    /// Opens a socket and connects as this user, in JSON, to a node that knows [`token::SECRET`].
    ///
    /// # Panics
    /// When the connect command does not succeed.
    pub async fn connect_as(node: &Node, user: &str) -> Self {
        let token = token::mint(&json!({ "sub": user }));
        Self::connect(node, Codec::Json, with_token(&token)).await
    }

    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// Sends commands in one frame; ids of 0 are filled in (not for `send`).
    ///
    /// # Panics
    /// When the socket is gone.
    pub async fn send_commands(&mut self, mut commands: Vec<Command>) -> Vec<u32> {
        for command in &mut commands {
            if command.id == 0 && command.send.is_none() {
                self.last_id += 1;
                command.id = self.last_id;
            }
        }
        let frame = encode_commands(self.codec, &commands).expect("the test sends valid data");
        self.send_frame(frame).await;
        commands.iter().map(|command| command.id).collect()
    }

    /// Sends bytes as they are, in a frame of the codec's kind.
    ///
    /// # Panics
    /// When the socket is gone.
    pub async fn send_frame(&mut self, frame: Vec<u8>) {
        let message = match self.codec {
            Codec::Json => Message::text(String::from_utf8(frame).expect("the test sends text")),
            Codec::Protobuf => Message::binary(frame),
        };
        let sent = within("sending", self.socket.send(message)).await;
        sent.expect("the socket takes the frame");
    }

    /// Sends one command and waits for its reply.
    ///
    /// # Panics
    /// When the connection ends first.
    pub async fn call(&mut self, command: Command) -> Reply {
        let ids = self.send_commands(vec![command]).await;
        self.reply(ids[0]).await
    }

    /// Waits for the reply to a command; what arrives before it is kept.
    ///
    /// # Panics
    /// When the connection ends first.
    pub async fn reply(&mut self, id: u32) -> Reply {
        match self.reply_or_close(id).await {
            Ok(reply) => reply,
            Err(closed) => panic!("closed before reply {id}: {closed:?}"),
        }
    }

    /// Waits for the reply to a command, or for the end of the connection, whichever comes first.
    ///
    /// # Errors
    /// The connection ended.
    pub async fn reply_or_close(&mut self, id: u32) -> Result<Reply, Closed> {
        self.first("a reply", |reply| reply.id == id).await
    }

    /// Waits for the next push.
    ///
    /// # Panics
    /// When the connection ends first.
    pub async fn push(&mut self) -> Push {
        match self.first("a push", |reply| reply.push.is_some()).await {
            Ok(reply) => *reply.push.expect("it was chosen by its push"),
            Err(closed) => panic!("closed before a push: {closed:?}"),
        }
    }

    /// The users of whom pushes say that they left, in order, until a publication comes.
    ///
    /// # Panics
    /// When the connection ends first.
    pub async fn who_left_before_a_publication(&mut self) -> Vec<String> {
        let mut left = Vec::new();
        loop {
            let push = self.push().await;
            if let Some(leave) = push.leave {
                left.push(leave.info.expect("of somebody").user);
            } else if push.r#pub.is_some() {
                return left;
            }
        }
    }

    /// The first message that is the wanted one; what arrives before it is kept in order.
    async fn first(
        &mut self,
        what: &str,
        is_wanted: impl Fn(&Reply) -> bool,
    ) -> Result<Reply, Closed> {
        loop {
            if let Some(index) = self.backlog.iter().position(&is_wanted) {
                let wanted = self.backlog.remove(index);
                return Ok(wanted.expect("the index was just found"));
            }
            within(what, self.receive()).await?;
        }
    }

    /// Data and offset of the next publication.
    ///
    /// # Panics
    /// When something else is pushed, or the connection ends.
    pub async fn publication(&mut self) -> (serde_json::Value, u64) {
        let push = self.push().await;
        let Some(publication) = push.r#pub else {
            panic!("not a publication: {push:?}");
        };
        let data = serde_json::from_slice(publication.data.as_bytes());
        (data.expect("tests publish JSON"), publication.offset)
    }

    /// Data of the next message that came to this user or session over no channel.
    ///
    /// # Panics
    /// When something else is pushed, or the connection ends.
    pub async fn message(&mut self) -> serde_json::Value {
        let push = self.push().await;
        let message = push.message.unwrap_or_else(|| panic!("not a message"));
        serde_json::from_slice(message.data.as_bytes()).expect("tests publish JSON")
    }

    /// Waits until the server closes the connection.
    pub async fn closed(&mut self) -> Closed {
        if let Some(closed) = &self.closed {
            return closed.clone();
        }
        loop {
            if let Err(closed) = within("the end", self.receive()).await {
                return closed;
            }
        }
    }

    /// Cuts the connection without a word.
    pub fn cut(self) {
        drop(self.socket);
    }

    /// Takes what arrives next into the backlog: a frame, which may hold many messages.
    async fn receive(&mut self) -> Result<(), Closed> {
        if let Some(closed) = &self.closed {
            return Err(closed.clone());
        }
        let closed = match self.socket.next().await {
            Some(Ok(Message::Text(text))) => {
                self.take(text.as_bytes()).await;
                return Ok(());
            }
            Some(Ok(Message::Binary(bytes))) => {
                self.take(&bytes).await;
                return Ok(());
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => return Ok(()),
            Some(Ok(Message::Close(frame))) => Closed {
                code: frame.as_ref().map_or(1005, |frame| frame.code.into()),
                reason: frame.map_or_else(String::new, |frame| frame.reason.to_string()),
            },
            Some(Err(error)) => Closed {
                code: 1006,
                reason: error.to_string(),
            },
            None => Closed {
                code: 1006,
                reason: "the stream ended".to_owned(),
            },
        };
        self.closed = Some(closed.clone());
        Err(closed)
    }

    /// Takes a frame apart: pings are answered, the rest is kept.
    async fn take(&mut self, frame: &[u8]) {
        let replies = decode_replies(self.codec, frame).expect("the server sends valid frames");
        for reply in replies {
            if reply == Reply::default() {
                let pong = encode_commands(self.codec, &[Command::default()]);
                self.send_frame(pong.expect("a pong has no data")).await;
            } else {
                self.backlog.push_back(reply);
            }
        }
    }

    pub async fn connect_with(&mut self, request: ConnectRequest) -> Reply {
        let connect = Some(Box::new(request));
        self.call(Command {
            connect,
            ..Command::default()
        })
        .await
    }

    pub async fn subscribe(&mut self, channel: &str) -> Reply {
        let request = SubscribeRequest {
            channel: channel.to_owned(),
            ..SubscribeRequest::default()
        };
        self.subscribe_with(request).await
    }

    /// Subscribes from a position on.
    pub async fn recover(&mut self, channel: &str, since: &StreamPosition) -> Reply {
        let request = SubscribeRequest {
            channel: channel.to_owned(),
            recover: true,
            offset: since.offset,
            epoch: since.epoch.clone(),
            ..SubscribeRequest::default()
        };
        self.subscribe_with(request).await
    }

    pub async fn subscribe_with(&mut self, request: SubscribeRequest) -> Reply {
        let subscribe = Some(Box::new(request));
        self.call(Command {
            subscribe,
            ..Command::default()
        })
        .await
    }

    pub async fn unsubscribe(&mut self, channel: &str) -> Reply {
        let unsubscribe = Some(Box::new(UnsubscribeRequest {
            channel: channel.to_owned(),
        }));
        self.call(Command {
            unsubscribe,
            ..Command::default()
        })
        .await
    }

    pub async fn publish(&mut self, channel: &str, data: &serde_json::Value) -> Reply {
        let publish = Some(Box::new(PublishRequest {
            channel: channel.to_owned(),
            data: raw(data),
            ..PublishRequest::default()
        }));
        self.call(Command {
            publish,
            ..Command::default()
        })
        .await
    }

    pub async fn rpc(&mut self, method: &str, data: &serde_json::Value) -> Reply {
        let rpc = Some(Box::new(RpcRequest {
            method: method.to_owned(),
            data: raw(data),
        }));
        self.call(Command {
            rpc,
            ..Command::default()
        })
        .await
    }

    pub async fn refresh(&mut self, token: &str) -> Reply {
        let refresh = Some(Box::new(RefreshRequest {
            token: token.to_owned(),
        }));
        self.call(Command {
            refresh,
            ..Command::default()
        })
        .await
    }

    pub async fn history(&mut self, request: HistoryRequest) -> Reply {
        let history = Some(Box::new(request));
        self.call(Command {
            history,
            ..Command::default()
        })
        .await
    }
}

/// JSON as data of a command.
pub fn raw(data: &serde_json::Value) -> Raw {
    Raw::from(bytes::Bytes::from(data.to_string()))
}

/// A connect request with a token.
pub fn with_token(token: &str) -> ConnectRequest {
    ConnectRequest {
        token: token.to_owned(),
        ..ConnectRequest::default()
    }
}

/// A connect request with data for the plugins.
pub fn with_data(data: &serde_json::Value) -> ConnectRequest {
    ConnectRequest {
        data: raw(data),
        ..ConnectRequest::default()
    }
}
