//! Entry points of the codecs: frames of commands in, replies out.

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
