//! Entry points of the codecs: frames of commands in, replies out.
//!
//! Owns what surrounds messages on the wire (newlines, lengths) and the limits; the messages themselves are read
//! and written by the private module `schema`.

use crate::{
    json::{self, JsonReader},
    messages::{Command, Publication, Reply},
    protobuf::{self, ProtobufReader, WireType},
    schema::Schema,
};

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    Json,
    Protobuf,
}

/// What a decoder tolerates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Commands in one frame.
    pub max_commands: usize,
    /// Open containers in JSON, the command itself and embedded data included.
    pub json_depth: usize,
    /// Messages inside messages, the command itself included.
    pub protobuf_depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_commands: 256,
            json_depth: 32,
            protobuf_depth: 16,
        }
    }
}

/// What is wrong with a frame. A closed set: metrics are labelled by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum DecodeReason {
    #[error("the frame is empty")]
    EmptyFrame,
    #[error("the frame has an empty line")]
    EmptyLine,
    #[error("the frame holds more commands than allowed")]
    TooManyCommands,
    #[error("the frame is not valid UTF-8")]
    NotUtf8,
    #[error("the command is not valid JSON")]
    Syntax,
    #[error("the command nests deeper than allowed")]
    TooDeep,
    #[error("a member appears twice")]
    DuplicateMember,
    #[error("a member has the wrong type or is out of range")]
    WrongType,
    #[error("a length or value runs past the end of the frame")]
    Truncated,
    #[error("the frame is not valid protobuf")]
    BadWireFormat,
}

impl DecodeReason {
    /// Label for metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::EmptyFrame => "empty_frame",
            Self::EmptyLine => "empty_line",
            Self::TooManyCommands => "too_many_commands",
            Self::NotUtf8 => "not_utf8",
            Self::Syntax => "syntax",
            Self::TooDeep => "too_deep",
            Self::DuplicateMember => "duplicate_member",
            Self::WrongType => "wrong_type",
            Self::Truncated => "truncated",
            Self::BadWireFormat => "bad_wire_format",
        }
    }
}

/// A frame could not be decoded; the connection ends with 3501.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct DecodeError {
    pub reason: DecodeReason,
    /// The command's id, when it was read before the fault.
    pub id: Option<u32>,
}

/// A message cannot be written in this codec: data that is not JSON for a JSON client. The connection ends
/// with 3506.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the message cannot be sent over this codec: {0}")]
pub struct EncodeError(#[from] pub crate::InvalidJson);

impl EncodeError {
    pub const fn disconnect(self) -> crate::DisconnectCode {
        crate::DisconnectCode::InappropriateProtocol
    }
}

/// The commands of one frame, decoded one by one: what stands before a fault can be carried out.
#[derive(Debug)]
pub struct Commands<'a> {
    messages: Messages<'a>,
    commands_left: usize,
}

impl<'a> Commands<'a> {
    /// # Errors
    /// The frame is empty or not text.
    pub fn new(codec: Codec, frame: &'a [u8], limits: &Limits) -> Result<Self, DecodeError> {
        Ok(Self {
            messages: Messages::new(codec, frame, limits)?,
            commands_left: limits.max_commands,
        })
    }
}

impl Iterator for Commands<'_> {
    type Item = Result<Command, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut command = Command::default();
        let decoded = self.messages.next_into(&mut command)?;
        let Some(commands_left) = self.commands_left.checked_sub(1) else {
            self.messages.stop();
            return Some(Err(DecodeReason::TooManyCommands.into()));
        };
        self.commands_left = commands_left;
        Some(match decoded {
            Ok(()) => Ok(command),
            Err(reason) => Err(DecodeError {
                reason,
                id: Some(command.id).filter(|id| *id != 0),
            }),
        })
    }
}

/// Decodes a frame of commands, all or nothing.
///
/// # Errors
/// Anything that ends the connection with 3501.
pub fn decode_frame(
    codec: Codec,
    frame: &[u8],
    limits: &Limits,
) -> Result<Vec<Command>, DecodeError> {
    Commands::new(codec, frame, limits)?.collect()
}

/// Decodes a frame of replies: the client's half, for tests and tools.
///
/// # Errors
/// The frame does not hold replies.
pub fn decode_replies(codec: Codec, frame: &[u8]) -> Result<Vec<Reply>, DecodeError> {
    let limits = Limits {
        json_depth: 1_000,
        ..Limits::default()
    };
    let mut messages = Messages::new(codec, frame, &limits)?;
    let mut replies = Vec::new();
    loop {
        let mut reply = Reply::default();
        match messages.next_into(&mut reply) {
            None => return Ok(replies),
            Some(decoded) => decoded?,
        }
        replies.push(reply);
    }
}

/// Encodes a reply as it travels: JSON without a newline, Protobuf behind its length.
///
/// # Errors
/// JSON only: embedded data that is not JSON.
pub fn encode_reply(codec: Codec, reply: &Reply) -> Result<Vec<u8>, EncodeError> {
    let mut out = Vec::new();
    write_message(codec, reply, &mut out)?;
    Ok(out)
}

/// Encodes a frame of commands: the client's half, for tests and tools.
///
/// # Errors
/// JSON only: embedded data that is not JSON.
pub fn encode_commands(codec: Codec, commands: &[Command]) -> Result<Vec<u8>, EncodeError> {
    let mut out = Vec::new();
    for (index, command) in commands.iter().enumerate() {
        if index > 0 && codec == Codec::Json {
            out.push(b'\n');
        }
        write_message(codec, command, &mut out)?;
    }
    Ok(out)
}

/// Appends a message as it travels.
pub(crate) fn write_message<M: Schema>(
    codec: Codec,
    message: &M,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    match codec {
        Codec::Json => message.write_json(out)?,
        Codec::Protobuf => {
            let len = message.protobuf_len();
            out.reserve(protobuf::varint_len(len as u64) + len);
            protobuf::write_varint(len as u64, out);
            message.write_protobuf(out);
        }
    }
    Ok(())
}

/// Appends the push of a publication without building the messages around it: this is the server's hottest
/// path. The bytes are those of [`Reply::from_push`].
pub(crate) fn write_publication_push(
    codec: Codec,
    channel: &str,
    publication: &Publication,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    const REPLY_PUSH: u32 = 4;
    const PUSH_CHANNEL: u32 = 2;
    const PUSH_PUBLICATION: u32 = 4;
    match codec {
        Codec::Json => {
            out.reserve(64 + channel.len() + publication.data.len());
            out.extend_from_slice(b"{\"push\":{");
            if !channel.is_empty() {
                out.extend_from_slice(b"\"channel\":");
                json::write_string(channel, out);
                out.push(b',');
            }
            out.extend_from_slice(b"\"pub\":");
            publication.write_json(out)?;
            out.extend_from_slice(b"}}");
        }
        Codec::Protobuf => {
            let publication_len = publication.protobuf_len();
            let channel_len = match channel.len() {
                0 => 0,
                len => protobuf::delimited_len(PUSH_CHANNEL, len),
            };
            let push_len = channel_len + protobuf::delimited_len(PUSH_PUBLICATION, publication_len);
            let reply_len = protobuf::delimited_len(REPLY_PUSH, push_len);
            out.reserve(protobuf::varint_len(reply_len as u64) + reply_len);
            protobuf::write_varint(reply_len as u64, out);
            protobuf::write_key(REPLY_PUSH, WireType::Delimited, out);
            protobuf::write_varint(push_len as u64, out);
            if !channel.is_empty() {
                protobuf::write_bytes(PUSH_CHANNEL, channel.as_bytes(), out);
            }
            protobuf::write_key(PUSH_PUBLICATION, WireType::Delimited, out);
            protobuf::write_varint(publication_len as u64, out);
            publication.write_protobuf(out);
        }
    }
    Ok(())
}

/// One message without anything around it.
pub(crate) fn encode_alone<M: Schema>(codec: Codec, message: &M) -> Result<Vec<u8>, EncodeError> {
    let mut out = Vec::new();
    match codec {
        Codec::Json => message.write_json(&mut out)?,
        Codec::Protobuf => message.write_protobuf(&mut out),
    }
    Ok(out)
}

/// One message without anything around it.
pub(crate) fn decode_alone<M: Schema>(
    codec: Codec,
    bytes: &[u8],
    limits: &Limits,
) -> Result<M, DecodeReason> {
    let mut message = M::default();
    match codec {
        Codec::Json => {
            let text = std::str::from_utf8(bytes).map_err(|_| DecodeReason::NotUtf8)?;
            read_json_document(text, limits.json_depth, &mut message)?;
        }
        Codec::Protobuf => read_protobuf_message(bytes, limits.protobuf_depth, &mut message)?,
    }
    Ok(message)
}

fn read_json_document<M: Schema>(
    text: &str,
    max_depth: usize,
    message: &mut M,
) -> Result<(), DecodeReason> {
    let mut reader = JsonReader::new(text, max_depth);
    message.read_json(&mut reader)?;
    reader.finish()
}

fn read_protobuf_message<M: Schema>(
    bytes: &[u8],
    max_depth: usize,
    message: &mut M,
) -> Result<(), DecodeReason> {
    let depth_left = max_depth.checked_sub(1).ok_or(DecodeReason::TooDeep)?;
    message.merge_protobuf(&mut ProtobufReader::new(bytes), depth_left)
}

/// Splits a frame into messages.
#[derive(Debug)]
enum Messages<'a> {
    Json {
        /// `None` after the last line.
        rest: Option<&'a str>,
        max_depth: usize,
    },
    Protobuf {
        reader: ProtobufReader<'a>,
        max_depth: usize,
    },
}

impl<'a> Messages<'a> {
    fn new(codec: Codec, frame: &'a [u8], limits: &Limits) -> Result<Self, DecodeError> {
        match codec {
            Codec::Json => {
                let text = std::str::from_utf8(frame).map_err(|_| DecodeReason::NotUtf8)?;
                let text = text.strip_suffix('\n').unwrap_or(text);
                if text.is_empty() {
                    return Err(DecodeReason::EmptyFrame.into());
                }
                Ok(Self::Json {
                    rest: Some(text),
                    max_depth: limits.json_depth,
                })
            }
            Codec::Protobuf => {
                if frame.is_empty() {
                    return Err(DecodeReason::EmptyFrame.into());
                }
                Ok(Self::Protobuf {
                    reader: ProtobufReader::new(frame),
                    max_depth: limits.protobuf_depth,
                })
            }
        }
    }

    /// Nothing behind a fault is read.
    fn stop(&mut self) {
        match self {
            Self::Json { rest, .. } => *rest = None,
            Self::Protobuf { reader, .. } => *reader = ProtobufReader::new(&[]),
        }
    }

    fn next_into<M: Schema>(&mut self, message: &mut M) -> Option<Result<(), DecodeReason>> {
        let decoded = match self {
            Self::Json { rest, max_depth } => {
                let text = (*rest)?;
                let line = match memchr::memchr(b'\n', text.as_bytes()) {
                    Some(end) => {
                        *rest = text.get(end + 1..);
                        text.get(..end).unwrap_or_default()
                    }
                    None => {
                        *rest = None;
                        text
                    }
                };
                if line.is_empty() {
                    Err(DecodeReason::EmptyLine)
                } else {
                    read_json_document(line, *max_depth, message)
                }
            }
            Self::Protobuf { reader, max_depth } => {
                if reader.is_empty() {
                    return None;
                }
                reader
                    .delimited()
                    .and_then(|bytes| read_protobuf_message(bytes, *max_depth, message))
            }
        };
        if decoded.is_err() {
            self.stop();
        }
        Some(decoded)
    }
}

impl From<DecodeReason> for DecodeError {
    fn from(reason: DecodeReason) -> Self {
        Self { reason, id: None }
    }
}
