//! The Centrifugo client protocol: messages, both codecs, frames and codes.
//!
//! Pure: bytes in, values out. Knows no sockets, no clock, no channels. Everything that can be got wrong about
//! the wire is decided here, so that it can be tested without a server. Invariant: no input, however hostile,
//! panics, recurses deeper than [`Limits`] says, or allocates more than a small multiple of its own length.

pub mod codec;
pub mod codes;
pub mod filter;
pub mod frame;
mod json;
mod json_lexer;
pub mod messages;
mod protobuf;
mod raw;
mod schema;
pub mod server_api;

pub use codec::*;
pub use codes::{ApiErrorCode, DisconnectCode, ErrorCode, UnsubscribeCode};
pub use filter::{Filter, FilterError};
pub use frame::{Frame, Framing};
pub use json_lexer::plain_prefix;
pub use messages::*;
pub use raw::{InvalidJson, Raw};
pub use schema::{TextBytes, ZigZag};
