//! Server-to-client framing: a message is encoded and framed once, then shared by everybody it goes to.
//!
//! Pure. Owns the bytes around messages on every transport, and the joining of several messages into one
//! WebSocket frame. Server frames are never masked, so that a frame is the same for every connection.

use std::cell::RefCell;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::{
    codec::{self, Codec, EncodeError},
    codes,
    messages::{Publication, Push, Reply},
};

/// What a transport wraps around messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Framing {
    /// One WebSocket frame, text or binary by the codec.
    WebSocket,
    /// One server-sent event each: `data: `, JSON, blank line.
    EventStream,
    /// A stream of messages: JSON lines, or Protobuf behind lengths.
    HttpStream,
}

impl Framing {
    /// Whether what the client says after its first frame comes by requests of their own, which name the
    /// session and the node.
    pub fn is_emulated(self) -> bool {
        match self {
            Self::WebSocket => false,
            Self::EventStream | Self::HttpStream => true,
        }
    }
}

/// A WebSocket ping frame without payload, for clients that chose it over empty messages.
pub const NATIVE_PING: &[u8] = &[OP_PING, 0];

/// Most messages in one joined WebSocket frame.
pub const MAX_JOINED_MESSAGES: usize = 16;

/// Most bytes in one joined WebSocket frame, unless a single message is larger.
pub const MAX_JOINED_BYTES: usize = 16 * 1024;

/// Complete wire bytes of one protocol message, or of several joined ones. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    bytes: Bytes,
    /// Bytes before and after the payload: WebSocket header, event syntax, newline.
    payload_start: u8,
    trailer: u8,
    /// Messages inside.
    count: u16,
}

/// Longest unmasked WebSocket header: two bytes and a 64-bit length.
const MAX_HEADER_BYTES: usize = 10;

/// FIN and opcode.
const OP_TEXT: u8 = 0x81;
const OP_BINARY: u8 = 0x82;
const OP_CLOSE: u8 = 0x88;
const OP_PING: u8 = 0x89;
const OP_PONG: u8 = 0x8a;

/// Capacity above which the scratch buffer is given back after use.
const MAX_KEPT_SCRATCH: usize = 64 * 1024;

thread_local! {
    /// Messages are encoded here and then copied into an allocation of exactly their size: frames wait in
    /// outboxes, where slack would be paid for by every idle byte.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Frame {
    /// Frames one reply.
    ///
    /// # Errors
    /// JSON only: embedded data that is not JSON.
    pub fn reply(codec: Codec, framing: Framing, reply: &Reply) -> Result<Self, EncodeError> {
        Self::build(codec, framing, |out| {
            codec::write_message(codec, reply, out)
        })
    }

    /// Frames a bare push, as unidirectional transports send it.
    ///
    /// # Errors
    /// JSON only: embedded data that is not JSON.
    pub fn bare_push(codec: Codec, framing: Framing, push: &Push) -> Result<Self, EncodeError> {
        Self::build(codec, framing, |out| codec::write_message(codec, push, out))
    }

    /// Frames the push of a publication. The bytes are those of [`Frame::reply`] with
    /// [`Reply::from_push`], made without building these messages.
    ///
    /// # Errors
    /// JSON only: embedded data that is not JSON.
    pub fn publication(
        codec: Codec,
        framing: Framing,
        channel: &str,
        publication: &Publication,
    ) -> Result<Self, EncodeError> {
        Self::build(codec, framing, |out| {
            codec::write_publication_push(codec, channel, publication, out)
        })
    }

    /// Frames the empty reply that asks a client whether it is there.
    pub fn ping(codec: Codec, framing: Framing) -> Self {
        let bytes: &'static [u8] = match (codec, framing) {
            (Codec::Json, Framing::WebSocket) => &[OP_TEXT, 2, b'{', b'}'],
            (Codec::Protobuf, Framing::WebSocket) => &[OP_BINARY, 1, 0],
            (Codec::Json, Framing::EventStream) => b"data: {}\n\n",
            (Codec::Json, Framing::HttpStream) => b"{}\n",
            (Codec::Protobuf, Framing::EventStream | Framing::HttpStream) => &[0],
        };
        Self {
            bytes: Bytes::from_static(bytes),
            payload_start: match framing {
                Framing::WebSocket => 2,
                Framing::EventStream | Framing::HttpStream => lead(framing),
            },
            trailer: trail(codec, framing),
            count: 1,
        }
    }

    /// Everything, as it goes to the socket.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Never: a frame has at least its header.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The protocol bytes inside: JSON without the last newline; Protobuf with the messages' lengths.
    pub fn payload(&self) -> &[u8] {
        let end = self.bytes.len() - usize::from(self.trailer);
        &self.bytes[usize::from(self.payload_start)..end]
    }

    /// Messages inside.
    pub fn count(&self) -> u16 {
        self.count
    }

    /// One frame with the messages of all `frames`, for receivers of the same run of messages. The caller
    /// keeps to [`joinable`].
    pub fn joined(codec: Codec, framing: Framing, frames: &[Self]) -> Self {
        if let [only] = frames {
            return only.clone();
        }
        let header = match framing {
            Framing::WebSocket => header_len(joined_payload_len(codec, frames)),
            Framing::EventStream | Framing::HttpStream => lead(framing),
        };
        let mut bytes = Vec::with_capacity(frames.iter().map(Self::len).sum());
        join(codec, framing, frames, &mut bytes);
        Self {
            bytes: bytes.into(),
            payload_start: header,
            trailer: trail(codec, framing),
            count: frames
                .iter()
                .fold(0, |count, frame| count.saturating_add(frame.count)),
        }
    }

    fn build(
        codec: Codec,
        framing: Framing,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
    ) -> Result<Self, EncodeError> {
        let (bytes, payload_start) = SCRATCH.with_borrow_mut(|out| {
            out.clear();
            out.resize(MAX_HEADER_BYTES, 0);
            if framing == Framing::EventStream {
                out.extend_from_slice(EVENT_LEAD);
            }
            write(out)?;
            let (start, payload_start) = match framing {
                Framing::WebSocket => {
                    let header = header(opcode(codec), out.len() - MAX_HEADER_BYTES);
                    let start = MAX_HEADER_BYTES - header.len();
                    out[start..MAX_HEADER_BYTES].copy_from_slice(&header);
                    (start, header_len(out.len() - MAX_HEADER_BYTES))
                }
                Framing::EventStream | Framing::HttpStream => (MAX_HEADER_BYTES, lead(framing)),
            };
            out.extend_from_slice(trailer(codec, framing));
            let bytes = Bytes::copy_from_slice(&out[start..]);
            if out.capacity() > MAX_KEPT_SCRATCH {
                *out = Vec::new();
            }
            Ok::<_, EncodeError>((bytes, payload_start))
        })?;
        Ok(Self {
            bytes,
            payload_start,
            trailer: trail(codec, framing),
            count: 1,
        })
    }
}

/// How many of the leading `frames` may travel in one WebSocket frame: at most [`MAX_JOINED_MESSAGES`] and
/// [`MAX_JOINED_BYTES`], but never fewer than one.
pub fn joinable<'a>(frames: impl IntoIterator<Item = &'a Frame>) -> usize {
    let (mut taken, mut messages, mut bytes) = (0, 0, 0);
    for frame in frames {
        messages += usize::from(frame.count);
        bytes += frame.len();
        if taken > 0 && (messages > MAX_JOINED_MESSAGES || bytes > MAX_JOINED_BYTES) {
            break;
        }
        taken += 1;
    }
    taken
}

/// Appends one WebSocket frame that holds the messages of all `frames` (JSON lines, Protobuf in a row); other
/// framings need no joining and are written one after another. The caller keeps to [`joinable`].
pub fn join(codec: Codec, framing: Framing, frames: &[Frame], out: &mut Vec<u8>) {
    if framing != Framing::WebSocket || frames.len() == 1 {
        for frame in frames {
            out.extend_from_slice(&frame.bytes);
        }
        return;
    }
    out.extend_from_slice(&header(opcode(codec), joined_payload_len(codec, frames)));
    for (index, frame) in frames.iter().enumerate() {
        if index > 0 && codec == Codec::Json {
            out.push(b'\n');
        }
        out.extend_from_slice(frame.payload());
    }
}

/// A close frame; the reason is cut to what fits.
pub fn close_frame(code: u16, reason: &str) -> Vec<u8> {
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(codes::close_reason(reason).as_bytes());
    control_frame(OP_CLOSE, &payload)
}

/// A native ping frame. At most 125 bytes of `payload` are sent.
pub fn native_ping_frame(payload: &[u8]) -> Vec<u8> {
    control_frame(OP_PING, payload)
}

/// The answer to a native ping. At most 125 bytes of `payload` are sent.
pub fn native_pong_frame(payload: &[u8]) -> Vec<u8> {
    control_frame(OP_PONG, payload)
}

/// Longest payload of a control frame.
const MAX_CONTROL_PAYLOAD: usize = 125;

fn control_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let payload = payload.get(..MAX_CONTROL_PAYLOAD).unwrap_or(payload);
    let mut frame = header(opcode, payload.len()).to_vec();
    frame.extend_from_slice(payload);
    frame
}

const EVENT_LEAD: &[u8] = b"data: ";

fn opcode(codec: Codec) -> u8 {
    match codec {
        Codec::Json => OP_TEXT,
        Codec::Protobuf => OP_BINARY,
    }
}

/// Bytes before the payload on transports that are not WebSocket.
fn lead(framing: Framing) -> u8 {
    match framing {
        Framing::EventStream => 6,
        Framing::WebSocket | Framing::HttpStream => 0,
    }
}

fn trailer(codec: Codec, framing: Framing) -> &'static [u8] {
    match (framing, codec) {
        (Framing::EventStream, _) => b"\n\n",
        (Framing::HttpStream, Codec::Json) => b"\n",
        (Framing::WebSocket, _) | (Framing::HttpStream, Codec::Protobuf) => b"",
    }
}

fn trail(codec: Codec, framing: Framing) -> u8 {
    match trailer(codec, framing) {
        [] => 0,
        [_] => 1,
        _ => 2,
    }
}

fn joined_payload_len(codec: Codec, frames: &[Frame]) -> usize {
    let payloads: usize = frames.iter().map(|frame| frame.payload().len()).sum();
    match codec {
        Codec::Json => payloads + frames.len().saturating_sub(1),
        Codec::Protobuf => payloads,
    }
}

const fn header_len(payload_len: usize) -> u8 {
    match payload_len {
        0..=125 => 2,
        126..=0xffff => 4,
        _ => 10,
    }
}

/// The header of an unmasked frame.
#[expect(
    clippy::cast_possible_truncation,
    reason = "each arm bounds the length it casts"
)]
fn header(opcode: u8, payload_len: usize) -> SmallVec<[u8; MAX_HEADER_BYTES]> {
    let mut header = SmallVec::new();
    header.push(opcode);
    match payload_len {
        0..=125 => header.push(payload_len as u8),
        126..=0xffff => {
            header.push(126);
            header.extend_from_slice(&(payload_len as u16).to_be_bytes());
        }
        _ => {
            header.push(127);
            header.extend_from_slice(&(payload_len as u64).to_be_bytes());
        }
    }
    header
}

#[cfg(test)]
mod tests;
