//! JSON: fields of the data in hand, read by the node, and errors that fit a hook's answer.
//!
//! A plugin that looks at a few fields need not parse the data: the node parses it once, at the first question of
//! a call, and answers each out of that. For messages that are read as a whole there is
//! [`Message::json`](crate::Message::json).
//!
//! Fields are named by JSON pointers (RFC 6901) of at most 256 bytes: `/order/items/0/price`; the empty pointer is
//! the whole. Where an object has a name twice the last one counts, as it does for the clients. A field that is not
//! there is `None`; so is `null`, except for [`kind`] and [`raw`]. The functions answer in every hook, out of the data
//! that it was given: a message's, or that of a command.
//!
//! ```
//! use tidegate_sdk::{Filtering, Message, Refusal, filtering::Verdict, json, testing::Host};
//!
//! struct NoSelling;
//!
//! impl Filtering for NoSelling {
//!     fn filter(_: Message) -> Result<Verdict, Refusal> {
//!         if json::text("/order/side")?.as_deref() == Some("sell") {
//!             let amount = json::number("/order/amount")?.unwrap_or(0.0);
//!             return Err(Refusal::error(403, format!("nobody sells {amount} here")));
//!         }
//!         Ok(Verdict::Pass)
//!     }
//! }
//!
//! let mut host = Host::new();
//! let order = r#"{"order":{"side":"sell","amount":2.5}}"#;
//! assert_eq!(host.filter::<NoSelling>("room", order).unwrap_err().reason(), "nobody sells 2.5 here");
//! assert_eq!(host.filter::<NoSelling>("room", "{}"), Ok(Verdict::Pass));
//! // What is of another kind than asked for is refused, by `?`.
//! let odd = host.filter::<NoSelling>("room", r#"{"order":{"side":1}}"#).unwrap_err();
//! assert_eq!((odd.code(), odd.reason()), (Some(400), "`/order/side` is a number, which is not what belongs there"));
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Refusal, host};

/// What a field is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `null`.
    Null,
    /// `true` or `false`.
    Boolean,
    /// A number.
    Number,
    /// Text in quotes.
    Text,
    /// A list in brackets.
    Array,
    /// Members in braces.
    Object,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Null => "null",
            Self::Boolean => "a boolean",
            Self::Number => "a number",
            Self::Text => "a text",
            Self::Array => "an array",
            Self::Object => "an object",
        })
    }
}

/// A field could not be read.
///
/// With `?` in a hook it becomes a refusal with code [`BAD_DATA_CODE`], whose reason tells the client what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldError {
    /// The data is not JSON text, or is nested more than 32 deep.
    NotJson(String),
    /// The pointer is not one.
    BadPointer(String),
    /// The field is there, and of another kind than asked for.
    WrongKind {
        /// The field.
        pointer: String,
        /// What it is.
        kind: Kind,
    },
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotJson(reason) | Self::BadPointer(reason) => f.write_str(reason),
            Self::WrongKind { pointer, kind } => {
                write!(f, "`{pointer}` is {kind}, which is not what belongs there")
            }
        }
    }
}

impl std::error::Error for FieldError {}

impl From<FieldError> for Refusal {
    fn from(error: FieldError) -> Self {
        Self::error(BAD_DATA_CODE, error.to_string())
    }
}

/// What the field is; `None` if it is not there.
///
/// # Errors
///
/// When the data is not JSON, or the pointer is not one.
pub fn kind(pointer: &str) -> Result<Option<Kind>, FieldError> {
    host::json_kind(pointer)
}

/// A text.
///
/// # Errors
///
/// As [`kind`]; and when the field is something else.
pub fn text(pointer: &str) -> Result<Option<String>, FieldError> {
    host::json_text(pointer)
}

/// A number as clients in JavaScript read it: the nearest one of 64 bits, infinite beyond their range.
///
/// # Errors
///
/// As [`kind`]; and when the field is something else.
pub fn number(pointer: &str) -> Result<Option<f64>, FieldError> {
    host::json_number(pointer)
}

/// A number without a fraction, exactly.
///
/// # Errors
///
/// As [`kind`]; and when the field is something else, or another number.
pub fn integer(pointer: &str) -> Result<Option<i64>, FieldError> {
    host::json_integer(pointer)
}

/// `true` or `false`.
///
/// # Errors
///
/// As [`kind`]; and when the field is something else.
pub fn boolean(pointer: &str) -> Result<Option<bool>, FieldError> {
    host::json_boolean(pointer)
}

/// How many elements an array has, or members an object, a name that is there twice counting twice.
///
/// # Errors
///
/// As [`kind`]; and when the field is something else.
pub fn length(pointer: &str) -> Result<Option<u32>, FieldError> {
    host::json_length(pointer)
}

/// The JSON text of the field, as it was sent.
///
/// # Errors
///
/// As [`kind`].
pub fn raw(pointer: &str) -> Result<Option<Vec<u8>>, FieldError> {
    host::json_raw(pointer)
}

/// The code of the refusal that a [`JsonError`] turns into: the client sent what the plugin cannot read.
pub const BAD_DATA_CODE: u32 = 400;

/// Data does not have the form that the plugin expects.
///
/// With `?` in a hook it becomes a refusal with code [`BAD_DATA_CODE`], whose reason tells the client what is
/// wrong and where.
#[derive(Debug)]
pub struct JsonError {
    what: &'static str,
    source: serde_json::Error,
}

impl JsonError {
    /// Reads JSON; `what` is its name in the error.
    pub(crate) fn parse<'d, T: Deserialize<'d>>(
        what: &'static str,
        data: &'d [u8],
    ) -> Result<T, Self> {
        serde_json::from_slice(data).map_err(|source| Self { what, source })
    }

    /// Writes JSON; `what` is its name in the error.
    pub(crate) fn print<T: Serialize + ?Sized>(
        what: &'static str,
        value: &T,
    ) -> Result<Vec<u8>, Self> {
        serde_json::to_vec(value).map_err(|source| Self { what, source })
    }
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} cannot be used as JSON of the expected form: {}",
            self.what, self.source
        )
    }
}

impl std::error::Error for JsonError {}

impl From<JsonError> for Refusal {
    fn from(error: JsonError) -> Self {
        Self::error(BAD_DATA_CODE, error.to_string())
    }
}

/// Writes what a builder was given (`info`, `data`, `meta`).
///
/// # Panics
///
/// When the value cannot be written, such as a map whose keys are not text. That is a mistake in the plugin, and
/// no client can cause it.
#[track_caller]
pub(crate) fn print<T: Serialize + ?Sized>(what: &'static str, value: &T) -> Vec<u8> {
    match JsonError::print(what, value) {
        Ok(json) => json,
        Err(error) => panic!("{error}"),
    }
}
