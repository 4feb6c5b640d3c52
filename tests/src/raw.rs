//! A socket that says exactly what it is told, for input that no client library would send.

use tidegate_protocol::{Codec, Reply, decode_replies};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{Node, within};

/// First bytes of frames: FIN and opcode.
pub const TEXT: u8 = 0x81;
pub const BINARY: u8 = 0x82;
pub const CLOSE: u8 = 0x88;
pub const PING: u8 = 0x89;
pub const PONG: u8 = 0x8a;

/// A TCP connection to the client port.
#[derive(Debug)]
pub struct RawSocket {
    stream: TcpStream,
    /// Arrived and not taken yet.
    buffer: Vec<u8>,
}

/// A frame that the server sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFrame {
    pub first: u8,
    pub payload: Vec<u8>,
}

/// How a connection went on after some input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// A close frame with this code and reason.
    Closed(u16, String),
    /// The stream ended without a close frame.
    Cut,
}

impl RawSocket {
    /// # Panics
    /// When the port does not accept.
    pub async fn open(node: &Node) -> Self {
        let stream = within("accepting", TcpStream::connect(node.client_addr()));
        Self {
            stream: stream.await.expect("the port accepts"),
            buffer: Vec::new(),
        }
    }

    /// Opens a socket and upgrades it; what `codec` needs is offered.
    ///
    /// # Panics
    /// When the upgrade is refused.
    pub async fn upgraded(node: &Node, codec: Codec) -> Self {
        Self::upgraded_with(node, codec, "").await
    }

    /// The same with further header lines.
    ///
    /// # Panics
    /// When the upgrade is refused.
    pub async fn upgraded_with(node: &Node, codec: Codec, headers: &str) -> Self {
        let mut socket = Self::open(node).await;
        let subprotocol = match codec {
            Codec::Json => "",
            Codec::Protobuf => "Sec-WebSocket-Protocol: centrifuge-protobuf\r\n",
        };
        socket
            .send(
                upgrade_request("/connection/websocket", &format!("{subprotocol}{headers}"))
                    .as_bytes(),
            )
            .await;
        let head = socket.head().await.expect("the server answers");
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        socket
    }

    /// Opens a socket, upgrades it and connects anonymously with command id 1.
    ///
    /// # Panics
    /// When the connect is refused.
    pub async fn connected(node: &Node, codec: Codec) -> Self {
        let mut socket = Self::upgraded(node, codec).await;
        match codec {
            Codec::Json => socket.send(&frame(TEXT, br#"{"id":1,"connect":{}}"#)).await,
            // id = 1, connect (field 4) of length 0.
            Codec::Protobuf => {
                socket.send(&frame(BINARY, &[4, 0x08, 1, 0x22, 0])).await;
            }
        }
        let replies = socket.replies(codec).await.expect("connect is answered");
        assert!(replies[0].connect.is_some(), "{replies:?}");
        socket
    }

    /// Sends bytes. The server may be gone already; what it said before is what counts.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = within("sending", self.stream.write_all(bytes)).await;
    }

    /// Says that nothing more comes, and waits until the server has ended the connection too.
    pub async fn hang_up(mut self) {
        // A connection that is gone already needs no end.
        let _ = self.stream.shutdown().await;
        while self.read_more().await {
            self.buffer.clear();
        }
    }

    /// Reads an HTTP response head; `None` when the stream ends first.
    pub async fn head(&mut self) -> Option<String> {
        loop {
            let end = self.buffer.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(end) = end {
                let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
                return Some(String::from_utf8_lossy(&head).into_owned());
            }
            if !self.read_more().await {
                return None;
            }
        }
    }

    /// Status of the HTTP response; `None` when the stream ends first.
    pub async fn status(&mut self) -> Option<u16> {
        let head = self.head().await?;
        head.split(' ').nth(1)?.parse().ok()
    }

    /// The next frame; `None` when the stream ends first.
    pub async fn frame(&mut self) -> Option<ServerFrame> {
        loop {
            if let Some(frame) = self.take_frame() {
                return Some(frame);
            }
            if !self.read_more().await {
                return None;
            }
        }
    }

    /// The messages of the next data frame; `None` when the connection ends first.
    ///
    /// # Panics
    /// When the server sends what it should not.
    pub async fn replies(&mut self, codec: Codec) -> Option<Vec<Reply>> {
        loop {
            let frame = self.frame().await?;
            match frame.first {
                TEXT | BINARY => {
                    let replies = decode_replies(codec, &frame.payload);
                    return Some(replies.expect("the server sends valid frames"));
                }
                CLOSE => return None,
                PING | PONG => {}
                first => panic!("the server sent a frame of kind {first:#x}"),
            }
        }
    }

    /// The reply to the command with this id, past all others; `None` when the connection ends first.
    pub async fn reply(&mut self, codec: Codec, id: u32) -> Option<Reply> {
        loop {
            let replies = self.replies(codec).await?;
            if let Some(reply) = replies.into_iter().find(|reply| reply.id == id) {
                return Some(reply);
            }
        }
    }

    /// Waits for the end of the connection and says how it came.
    pub async fn ending(&mut self) -> Ending {
        while let Some(frame) = self.frame().await {
            if frame.first == CLOSE {
                let code = match frame.payload.as_slice() {
                    [high, low, ..] => u16::from_be_bytes([*high, *low]),
                    _ => 1005,
                };
                let reason = frame.payload.get(2..).unwrap_or_default();
                return Ending::Closed(code, String::from_utf8_lossy(reason).into_owned());
            }
        }
        Ending::Cut
    }

    fn take_frame(&mut self) -> Option<ServerFrame> {
        let (&first, &second) = (self.buffer.first()?, self.buffer.get(1)?);
        let (len, start) = match second {
            126 => {
                let bytes = self.buffer.get(2..4)?;
                (u64::from(u16::from_be_bytes([bytes[0], bytes[1]])), 4)
            }
            127 => {
                let bytes: [u8; 8] = self.buffer.get(2..10)?.try_into().ok()?;
                (u64::from_be_bytes(bytes), 10)
            }
            len => (u64::from(len), 2),
        };
        let end = start + usize::try_from(len).ok()?;
        let payload = self.buffer.get(start..end)?.to_vec();
        self.buffer.drain(..end);
        Some(ServerFrame { first, payload })
    }

    async fn read_more(&mut self) -> bool {
        let read = self.stream.read_buf(&mut self.buffer);
        // A reset is an end too.
        within("an answer", read).await.is_ok_and(|len| len > 0)
    }
}

/// A valid upgrade request; `more` are further header lines.
pub fn upgrade_request(path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    )
}

const MASK: [u8; 4] = [0x11, 0x22, 0x33, 0x44];

/// A masked frame with any first byte.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(first, payload.len() as u64);
    frame.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    frame
}

/// The header of a masked frame that declares `len` bytes.
pub fn header(first: u8, len: u64) -> Vec<u8> {
    let mut header = vec![first];
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(short), _) if short < 126 => header.push(0x80 | short),
        (_, Ok(medium)) => {
            header.push(0x80 | 126);
            header.extend_from_slice(&medium.to_be_bytes());
        }
        (_, Err(_)) => {
            header.push(0x80 | 127);
            header.extend_from_slice(&len.to_be_bytes());
        }
    }
    header.extend_from_slice(&MASK);
    header
}
