//! Values that the server carries without reading: opaque bytes in Protobuf, embedded JSON in JSON.
//!
//! Owns the knowledge of what was already checked. Invariant: a [`Raw`] whose shape is `CleanJson` holds exactly
//! one valid JSON value without raw newlines, so that encoding it for a JSON client is a plain copy.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use serde_json::value::RawValue;

use crate::json_lexer::{self, JsonFault};

/// Bytes of an application: raw bytes in Protobuf, embedded JSON in JSON. Cheap to clone.
///
/// Equality is that of the bytes. `Debug` shows the length only, because payloads do not belong in logs.
#[derive(Clone, Default)]
pub struct Raw {
    bytes: Bytes,
    shape: Shape,
}

/// What is known about the bytes of a [`Raw`].
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Shape {
    /// Nothing was checked yet.
    #[default]
    Unchecked,
    /// One valid JSON value without raw newlines.
    CleanJson,
}

/// Nesting that embedded JSON may have when it is encoded; the reference's own limit. What clients send is
/// held to [`crate::Limits::json_depth`] long before.
pub(crate) const MAX_EMBEDDED_DEPTH: usize = 10_000;

impl Raw {
    /// Bytes that a decoder has just proved to be one JSON value; `has_newline` is what it saw on the way.
    pub(crate) fn from_checked_json(bytes: Bytes, has_newline: bool) -> Self {
        let shape = if has_newline {
            Shape::Unchecked
        } else {
            Shape::CleanJson
        };
        Self { bytes, shape }
    }

    /// Checks that `bytes` hold one JSON value and remembers it, so that encoding does not check again.
    ///
    /// # Errors
    /// [`InvalidJson`] when they do not.
    pub fn parse_json(bytes: impl Into<Bytes>) -> Result<Self, InvalidJson> {
        let bytes = bytes.into();
        let seen = json_lexer::check_document(&bytes, MAX_EMBEDDED_DEPTH)?;
        Ok(Self::from_checked_json(bytes, seen.has_newline))
    }

    pub const fn from_static(bytes: &'static [u8]) -> Self {
        Self {
            bytes: Bytes::from_static(bytes),
            shape: Shape::Unchecked,
        }
    }

    pub fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether the value is absent: JSON `null` is a value, no bytes at all is none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether the bytes can be sent to a JSON client.
    pub fn is_json(&self) -> bool {
        match self.shape {
            Shape::CleanJson => true,
            Shape::Unchecked => json_lexer::check_document(&self.bytes, MAX_EMBEDDED_DEPTH).is_ok(),
        }
    }

    /// Whether the bytes are one JSON object (`publication_data_format: json_object`).
    pub fn is_json_object(&self) -> bool {
        let first = self.bytes.iter().find(|byte| !byte.is_ascii_whitespace());
        first == Some(&b'{') && self.is_json()
    }

    /// Appends the value as embedded JSON: checked unless that was done before, raw newlines removed, because
    /// they would break the framing.
    pub(crate) fn write_json(&self, out: &mut Vec<u8>) -> Result<(), InvalidJson> {
        if self.shape == Shape::CleanJson {
            out.extend_from_slice(&self.bytes);
            return Ok(());
        }
        let seen = json_lexer::check_document(&self.bytes, MAX_EMBEDDED_DEPTH)?;
        if seen.has_newline {
            out.extend(self.bytes.iter().filter(|byte| **byte != b'\n'));
        } else {
            out.extend_from_slice(&self.bytes);
        }
        Ok(())
    }
}

/// The bytes are not one JSON value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the data is not valid JSON")]
pub struct InvalidJson;

impl From<JsonFault> for InvalidJson {
    fn from(_: JsonFault) -> Self {
        Self
    }
}

impl PartialEq for Raw {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Raw {}

impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Raw({} bytes)", self.bytes.len())
    }
}

impl AsRef<[u8]> for Raw {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl From<Bytes> for Raw {
    fn from(bytes: Bytes) -> Self {
        Self {
            bytes,
            shape: Shape::Unchecked,
        }
    }
}

impl From<Vec<u8>> for Raw {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<&'static str> for Raw {
    fn from(text: &'static str) -> Self {
        Self::from_static(text.as_bytes())
    }
}

impl From<String> for Raw {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

/// As embedded JSON, for the server API.
impl Serialize for Raw {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = std::str::from_utf8(&self.bytes).map_err(ser::Error::custom)?;
        let value: &RawValue = serde_json::from_str(text).map_err(ser::Error::custom)?;
        value.serialize(serializer)
    }
}

/// From embedded JSON, for the server API.
impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Box::<RawValue>::deserialize(deserializer)?;
        let text: Box<str> = value.into();
        Self::parse_json(Bytes::from(text.into_boxed_bytes())).map_err(de::Error::custom)
    }
}
