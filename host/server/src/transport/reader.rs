//! Reading WebSocket messages out of whatever bytes came.
//!
//! Owns the meeting of tungstenite's parser with our bounds. tungstenite judges frames; what it does not bound
//! (fragments of a message, the declared sum of a fragmented message) is bounded here, by following the headers
//! of the frames that go past: length, FIN and opcode. Invariants: the parser is fed frame by frame and never
//! sees a header that breaks a bound, so nothing is allocated for it and nothing behind it is processed; the
//! reader never waits and owns no socket.

use std::io;

use bytes::Bytes;
use tokio_tungstenite::tungstenite::{
    self, Message,
    protocol::{Role, WebSocketConfig, WebSocketContext, frame::coding::CloseCode},
};

/// Most fragments of one message; more is a flood (1008).
pub const MAX_FRAGMENTS: u16 = 1024;

/// Longest payload of a control frame, by RFC 6455.
const MAX_CONTROL_PAYLOAD: u64 = 125;

/// Longest header of a client's frame: two bytes, a 64-bit length, a mask.
const MAX_HEADER: usize = 14;

/// What the parser keeps between reads. Frames up to this size need no other buffer.
const READ_BUFFER: usize = 64;

/// After a frame longer than this the parser is made anew, so that its buffer does not stay.
const KEPT_FRAME: u64 = 256;

/// Reason of the closing frame that tungstenite makes out of one with a forbidden code.
const PARSERS_REASON: &str = "Protocol violation";

/// What went wrong with the bytes. The code is the one of the close frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("the frame breaks the WebSocket protocol")]
    Protocol,
    #[error("the text is not valid UTF-8")]
    NotUtf8,
    #[error("the message is larger than allowed")]
    TooBig,
    #[error("the message has too many fragments")]
    TooManyFragments,
}

impl Violation {
    /// Label for metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Protocol => "websocket_protocol",
            Self::NotUtf8 => "websocket_text_not_utf8",
            Self::TooManyFragments => "websocket_too_many_fragments",
            Self::TooBig => "websocket_too_big",
        }
    }

    /// The close code of RFC 6455.
    pub const fn code(self) -> u16 {
        match self {
            Self::Protocol => 1002,
            Self::NotUtf8 => 1007,
            Self::TooManyFragments => 1008,
            Self::TooBig => 1009,
        }
    }
}

/// What a read brought.
#[derive(Debug)]
pub enum Input {
    /// One whole text or binary message.
    Message(Payload),
    Ping,
    Pong,
    /// The peer closes; the answer is in [`Answers::close`].
    Close,
    /// The bytes are used up.
    NeedMore,
    Violation(Violation),
}

/// A message as the parser made it.
#[derive(Debug)]
pub enum Payload {
    Text(tungstenite::Utf8Bytes),
    Binary(Bytes),
}

impl Payload {
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }
}

/// Control frames that have to be sent in answer.
#[derive(Debug, Default)]
pub struct Answers {
    /// The answer to the last ping. RFC 6455 lets one pong answer several pings.
    pub pong: Option<Bytes>,
    pub close: Option<Bytes>,
}

/// The reading half of a WebSocket session.
#[derive(Debug)]
pub struct Reader {
    context: WebSocketContext,
    follower: Follower,
}

impl Reader {
    pub fn new(max_message_bytes: usize) -> Self {
        Self {
            context: context(max_message_bytes),
            follower: Follower::new(max_message_bytes),
        }
    }

    /// Reads the next message out of `bytes` and takes what it used off their front.
    pub fn read(&mut self, bytes: &mut &[u8], answers: &mut Answers) -> Input {
        let mut feed = Feed {
            bytes,
            follower: &mut self.follower,
            answers,
            violation: None,
        };
        let result = self.context.read(&mut feed);
        match result {
            Ok(Message::Text(text)) => Input::Message(Payload::Text(text)),
            Ok(Message::Binary(bytes)) => Input::Message(Payload::Binary(bytes)),
            Ok(Message::Ping(_)) => {
                // The pong leaves when the parser is asked for more; it shall not wait for that.
                let _ = self.context.flush(&mut feed);
                Input::Ping
            }
            Ok(Message::Pong(_)) => Input::Pong,
            // The parser puts this in the place of a code that no peer may send.
            Ok(Message::Close(Some(frame)))
                if frame.code == CloseCode::Protocol && frame.reason == PARSERS_REASON =>
            {
                Input::Violation(Violation::Protocol)
            }
            Ok(Message::Close(_)) => {
                // Sends the answer; that the connection is closed then is what was wanted.
                let _ = self.context.flush(&mut feed);
                Input::Close
            }
            Ok(Message::Frame(_)) => Input::Violation(Violation::Protocol),
            Err(error) => feed.input_of(&error),
        }
    }

    /// Gives back a buffer that a large frame has left, if no frame is under way. To be called when all bytes
    /// were read.
    pub fn shrink(&mut self) {
        if self.follower.largest_frame > KEPT_FRAME && self.follower.is_between_messages() {
            self.context = context(self.follower.max_message);
            self.follower.largest_frame = 0;
        }
    }
}

fn context(max_message_bytes: usize) -> WebSocketContext {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_message_size(Some(max_message_bytes))
        .max_frame_size(Some(max_message_bytes));
    WebSocketContext::new(Role::Server, Some(config))
}

/// The stream that the parser sees: the bytes of one read, and the answers of one read.
struct Feed<'a, 'b> {
    bytes: &'a mut &'b [u8],
    follower: &'a mut Follower,
    answers: &'a mut Answers,
    violation: Option<Violation>,
}

impl Feed<'_, '_> {
    fn input_of(&self, error: &tungstenite::Error) -> Input {
        use tungstenite::Error;
        if let Some(violation) = self.violation {
            return Input::Violation(violation);
        }
        match error {
            Error::Io(error) if error.kind() == io::ErrorKind::WouldBlock => Input::NeedMore,
            Error::ConnectionClosed | Error::AlreadyClosed => Input::Close,
            Error::Utf8(_) => Input::Violation(Violation::NotUtf8),
            Error::Capacity(_) => Input::Violation(Violation::TooBig),
            _ => Input::Violation(Violation::Protocol),
        }
    }
}

impl io::Read for Feed<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = self
            .follower
            .follow(self.bytes, buffer.len())
            .map_err(|violation| {
                self.violation = Some(violation);
                io::Error::from(io::ErrorKind::InvalidData)
            })?;
        let (now, later) = self.bytes.split_at(taken);
        buffer[..taken].copy_from_slice(now);
        *self.bytes = later;
        Ok(taken)
    }
}

impl io::Write for Feed<'_, '_> {
    /// Gets whole control frames: the parser's write buffer has no size.
    fn write(&mut self, frame: &[u8]) -> io::Result<usize> {
        const OPCODE: u8 = 0x0f;
        const CLOSE: u8 = 0x08;
        let answer = Bytes::copy_from_slice(frame);
        if frame.first().is_some_and(|byte| byte & OPCODE == CLOSE) {
            self.answers.close = Some(answer);
        } else {
            self.answers.pong = Some(answer);
        }
        Ok(frame.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where in a stream of frames the bytes are, and what was declared so far.
#[derive(Debug)]
struct Follower {
    max_message: usize,
    header: [u8; MAX_HEADER],
    /// Bytes of `header` that were seen.
    header_len: u8,
    /// Payload bytes of the current frame that are still to come.
    payload_left: u64,
    /// Fragments of the current message so far; zero between messages.
    fragments: u16,
    /// Payload bytes that the fragments so far have declared.
    declared: u64,
    /// The longest frame since the parser was made.
    largest_frame: u64,
}

impl Follower {
    fn new(max_message: usize) -> Self {
        Self {
            max_message,
            header: [0; MAX_HEADER],
            header_len: 0,
            payload_left: 0,
            fragments: 0,
            declared: 0,
            largest_frame: 0,
        }
    }

    fn is_between_messages(&self) -> bool {
        self.fragments == 0 && self.payload_left == 0 && self.header_len == 0
    }

    /// Goes along `bytes` to the end of the present header or payload, `room` bytes at most; answers how far.
    fn follow(&mut self, bytes: &[u8], room: usize) -> Result<usize, Violation> {
        if self.payload_left > 0 {
            let left = usize::try_from(self.payload_left).unwrap_or(usize::MAX);
            let taken = bytes.len().min(room).min(left);
            self.payload_left -= taken as u64;
            return Ok(taken);
        }
        let mut taken = 0;
        for byte in bytes.iter().take(room) {
            self.header[usize::from(self.header_len)] = *byte;
            self.header_len += 1;
            taken += 1;
            if let Some(len) = self.header_complete() {
                self.header_len = 0;
                self.judge(len)?;
                self.payload_left = len;
                self.largest_frame = self.largest_frame.max(len);
                break;
            }
        }
        Ok(taken)
    }

    /// The payload length, once the header is whole.
    fn header_complete(&self) -> Option<u64> {
        const MASKED: u8 = 0x80;
        let have = usize::from(self.header_len);
        if have < 2 {
            return None;
        }
        let short_len = self.header[1] & !MASKED;
        let length_bytes = match short_len {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask_bytes = if self.header[1] & MASKED == 0 { 0 } else { 4 };
        if have < 2 + length_bytes + mask_bytes {
            return None;
        }
        if length_bytes == 0 {
            return Some(u64::from(short_len));
        }
        let length = self.header[2..2 + length_bytes].iter();
        Some(length.fold(0, |sum, byte| (sum << 8) | u64::from(*byte)))
    }

    /// Checks what the header declares. What is wrong in other ways, tungstenite finds.
    fn judge(&mut self, len: u64) -> Result<(), Violation> {
        const FIN: u8 = 0x80;
        const OPCODE: u8 = 0x0f;
        const FIRST_CONTROL: u8 = 0x08;
        let is_final = self.header[0] & FIN != 0;
        let opcode = self.header[0] & OPCODE;
        if opcode >= FIRST_CONTROL {
            if len > MAX_CONTROL_PAYLOAD || !is_final {
                return Err(Violation::Protocol);
            }
            return Ok(());
        }
        let is_continuation = opcode == 0;
        if is_continuation != (self.fragments > 0) {
            // A continuation of nothing, or a message inside another.
            return Err(Violation::Protocol);
        }
        self.declared = if is_continuation {
            self.declared.saturating_add(len)
        } else {
            len
        };
        if self.declared > self.max_message as u64 {
            return Err(Violation::TooBig);
        }
        self.fragments = if is_final { 0 } else { self.fragments + 1 };
        if self.fragments > MAX_FRAGMENTS {
            return Err(Violation::TooManyFragments);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
