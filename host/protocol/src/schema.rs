//! From one table of fields to a struct and its two codecs.
//!
//! Owns what a field of each type looks like on the wire. Adding a message is a row in [`crate::messages`];
//! adding a *type* of field is an `impl Field` here. Zero values are not written, except members marked
//! `always`, and those only in JSON.

use std::sync::Arc;

mod maps;
mod scalars;

pub use scalars::{TextBytes, ZigZag};

use self::scalars::text_of;

use crate::{
    codec::DecodeReason,
    json::{self, JsonReader},
    protobuf::{self, ProtobufReader, WireType},
    raw::InvalidJson,
};

/// A message of the protocol, as the codecs see it.
pub(crate) trait Schema: Default {
    fn protobuf_len(&self) -> usize;
    fn write_protobuf(&self, out: &mut Vec<u8>);
    /// Merges the rest of `reader`; `depth_left` counts the messages that may still nest inside.
    fn merge_protobuf(
        &mut self,
        reader: &mut ProtobufReader<'_>,
        depth_left: usize,
    ) -> Result<(), DecodeReason>;
    fn write_json(&self, out: &mut Vec<u8>) -> Result<(), InvalidJson>;
    fn read_json(&mut self, reader: &mut JsonReader<'_>) -> Result<(), DecodeReason>;
}

/// A value inside a message.
pub(crate) trait Field {
    /// JSON `null` is a value of this type instead of "not set".
    const KEEPS_NULL: bool = false;

    fn is_zero(&self) -> bool;
    /// Bytes that [`Field::write_protobuf`] appends; 0 for a zero value.
    fn protobuf_len(&self, number: u32) -> usize;
    fn write_protobuf(&self, number: u32, out: &mut Vec<u8>);
    fn merge_protobuf(
        &mut self,
        wire: WireType,
        reader: &mut ProtobufReader<'_>,
        depth_left: usize,
    ) -> Result<(), DecodeReason>;
    fn write_json(&self, out: &mut Vec<u8>) -> Result<(), InvalidJson>;
    fn read_json(&mut self, reader: &mut JsonReader<'_>) -> Result<(), DecodeReason>;
}

/// The name on the wire of a field that Rust may want to see escaped.
pub(crate) const fn wire_name(field: &'static str) -> &'static str {
    match field.as_bytes() {
        [b'r', b'#', ..] => field.split_at(2).1,
        _ => field,
    }
}

/// Declares message structs: `number[, marker] => name: Type`. Members marked `always` are present in JSON even
/// when zero; those marked `secret` are not shown by `Debug`, so that no log can hold them.
macro_rules! messages {
    ($(
        $(#[$message_attribute:meta])*
        struct $message:ident {
            $(
                $(#[$field_attribute:meta])*
                $number:literal $(, $marker:ident)? => $field:ident: $kind:ty,
            )*
        }
    )*) => {$(
        $(#[$message_attribute])*
        #[derive(Clone, PartialEq, Eq, Default)]
        pub struct $message {
            $(
                $(#[$field_attribute])*
                pub $field: $kind,
            )*
        }

        /// Members that are set.
        impl std::fmt::Debug for $message {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let mut shown = f.debug_struct(stringify!($message));
                $(
                    let is_secret = false $(|| stringify!($marker) == "secret")?;
                    if crate::schema::Field::is_zero(&self.$field) {
                        // Not set.
                    } else if is_secret {
                        shown.field(stringify!($field), &"(secret)");
                    } else {
                        shown.field(stringify!($field), &self.$field);
                    }
                )*
                shown.finish()
            }
        }

        impl crate::schema::Schema for $message {
            fn protobuf_len(&self) -> usize {
                0 $(+ crate::schema::Field::protobuf_len(&self.$field, $number))*
            }

            fn write_protobuf(&self, out: &mut Vec<u8>) {
                $(crate::schema::Field::write_protobuf(&self.$field, $number, out);)*
                let _ = out;
            }

            fn merge_protobuf(
                &mut self,
                reader: &mut crate::protobuf::ProtobufReader<'_>,
                depth_left: usize,
            ) -> Result<(), crate::codec::DecodeReason> {
                let _ = depth_left;
                while let Some((number, wire)) = reader.key()? {
                    match number {
                        $($number => crate::schema::Field::merge_protobuf(
                            &mut self.$field, wire, reader, depth_left,
                        )?,)*
                        _ => reader.skip(wire)?,
                    }
                }
                Ok(())
            }

            fn write_json(&self, out: &mut Vec<u8>) -> Result<(), crate::raw::InvalidJson> {
                out.push(b'{');
                $(
                    let is_always = false $(|| stringify!($marker) == "always")?;
                    if is_always || !crate::schema::Field::is_zero(&self.$field) {
                        crate::json::write_member(
                            const { crate::schema::wire_name(stringify!($field)) },
                            out,
                        );
                        crate::schema::Field::write_json(&self.$field, out)?;
                    }
                )*
                out.push(b'}');
                Ok(())
            }

            fn read_json(
                &mut self,
                reader: &mut crate::json::JsonReader<'_>,
            ) -> Result<(), crate::codec::DecodeReason> {
                reader.object(|reader, key, seen| {
                    let _ = (key, &seen);
                    $(
                        if key == const { crate::schema::wire_name(stringify!($field)) } {
                            seen.once($number)?;
                            return reader.field(&mut self.$field);
                        }
                    )*
                    reader.skip()
                })
            }
        }

        impl $message {
            /// Writes the message alone: no newline, no length.
            ///
            /// # Errors
            /// JSON only: embedded data that is not JSON.
            pub fn encode(
                &self,
                codec: crate::codec::Codec,
            ) -> Result<Vec<u8>, crate::codec::EncodeError> {
                crate::codec::encode_alone(codec, self)
            }

            /// Reads the message alone: no newline, no length.
            ///
            /// # Errors
            /// The bytes are not such a message, or nest deeper than the limits.
            pub fn decode(
                codec: crate::codec::Codec,
                bytes: &[u8],
                limits: &crate::codec::Limits,
            ) -> Result<Self, crate::codec::DecodeReason> {
                crate::codec::decode_alone(codec, bytes, limits)
            }
        }
    )*};
}
pub(crate) use messages;

fn delimited_message_len<M: Schema>(message: &M, number: u32) -> usize {
    protobuf::delimited_len(number, message.protobuf_len())
}

fn write_delimited_message<M: Schema>(message: &M, number: u32, out: &mut Vec<u8>) {
    protobuf::write_key(number, WireType::Delimited, out);
    protobuf::write_varint(message.protobuf_len() as u64, out);
    message.write_protobuf(out);
}

fn merge_delimited_message<M: Schema>(
    message: &mut M,
    wire: WireType,
    reader: &mut ProtobufReader<'_>,
    depth_left: usize,
) -> Result<(), DecodeReason> {
    wire.expect(WireType::Delimited)?;
    let depth_left = depth_left.checked_sub(1).ok_or(DecodeReason::TooDeep)?;
    message.merge_protobuf(&mut ProtobufReader::new(reader.delimited()?), depth_left)
}

impl<M: Schema> Schema for Box<M> {
    fn protobuf_len(&self) -> usize {
        M::protobuf_len(self)
    }

    fn write_protobuf(&self, out: &mut Vec<u8>) {
        M::write_protobuf(self, out);
    }

    fn merge_protobuf(
        &mut self,
        reader: &mut ProtobufReader<'_>,
        depth_left: usize,
    ) -> Result<(), DecodeReason> {
        M::merge_protobuf(self, reader, depth_left)
    }

    fn write_json(&self, out: &mut Vec<u8>) -> Result<(), InvalidJson> {
        M::write_json(self, out)
    }

    fn read_json(&mut self, reader: &mut JsonReader<'_>) -> Result<(), DecodeReason> {
        M::read_json(self, reader)
    }
}

impl<M: Schema + Clone> Schema for Arc<M> {
    fn protobuf_len(&self) -> usize {
        M::protobuf_len(self)
    }

    fn write_protobuf(&self, out: &mut Vec<u8>) {
        M::write_protobuf(self, out);
    }

    fn merge_protobuf(
        &mut self,
        reader: &mut ProtobufReader<'_>,
        depth_left: usize,
    ) -> Result<(), DecodeReason> {
        M::merge_protobuf(Self::make_mut(self), reader, depth_left)
    }

    fn write_json(&self, out: &mut Vec<u8>) -> Result<(), InvalidJson> {
        M::write_json(self, out)
    }

    fn read_json(&mut self, reader: &mut JsonReader<'_>) -> Result<(), DecodeReason> {
        M::read_json(Self::make_mut(self), reader)
    }
}

/// A sub-message: an empty one that is set is written all the same, because clients look for it.
impl<M: Schema> Field for Option<M> {
    fn is_zero(&self) -> bool {
        self.is_none()
    }

    fn protobuf_len(&self, number: u32) -> usize {
        self.as_ref()
            .map_or(0, |message| delimited_message_len(message, number))
    }

    fn write_protobuf(&self, number: u32, out: &mut Vec<u8>) {
        if let Some(message) = self {
            write_delimited_message(message, number, out);
        }
    }

    fn merge_protobuf(
        &mut self,
        wire: WireType,
        reader: &mut ProtobufReader<'_>,
        depth_left: usize,
    ) -> Result<(), DecodeReason> {
        merge_delimited_message(self.get_or_insert_default(), wire, reader, depth_left)
    }

    fn write_json(&self, out: &mut Vec<u8>) -> Result<(), InvalidJson> {
        match self {
            Some(message) => message.write_json(out),
            None => {
                out.extend_from_slice(b"null");
                Ok(())
            }
        }
    }

    fn read_json(&mut self, reader: &mut JsonReader<'_>) -> Result<(), DecodeReason> {
        self.get_or_insert_default().read_json(reader)
    }
}

impl<M: Schema> Field for Vec<M> {
    fn is_zero(&self) -> bool {
        self.is_empty()
    }

    fn protobuf_len(&self, number: u32) -> usize {
        self.iter()
            .map(|message| delimited_message_len(message, number))
            .sum()
    }

    fn write_protobuf(&self, number: u32, out: &mut Vec<u8>) {
        for message in self {
            write_delimited_message(message, number, out);
        }
    }

    fn merge_protobuf(
        &mut self,
        wire: WireType,
        reader: &mut ProtobufReader<'_>,
        depth_left: usize,
    ) -> Result<(), DecodeReason> {
        let mut message = M::default();
        merge_delimited_message(&mut message, wire, reader, depth_left)?;
        self.push(message);
        Ok(())
    }

    fn write_json(&self, out: &mut Vec<u8>) -> Result<(), InvalidJson> {
        json::write_array(self, out, |message, out| message.write_json(out))
    }

    fn read_json(&mut self, reader: &mut JsonReader<'_>) -> Result<(), DecodeReason> {
        reader.array(|reader| {
            let mut message = M::default();
            message.read_json(reader)?;
            self.push(message);
            Ok(())
        })
    }
}

impl Field for Vec<String> {
    fn is_zero(&self) -> bool {
        self.is_empty()
    }

    fn protobuf_len(&self, number: u32) -> usize {
        self.iter()
            .map(|text| protobuf::delimited_len(number, text.len()))
            .sum()
    }

    fn write_protobuf(&self, number: u32, out: &mut Vec<u8>) {
        for text in self {
            protobuf::write_bytes(number, text.as_bytes(), out);
        }
    }

    fn merge_protobuf(
        &mut self,
        wire: WireType,
        reader: &mut ProtobufReader<'_>,
        _depth_left: usize,
    ) -> Result<(), DecodeReason> {
        wire.expect(WireType::Delimited)?;
        self.push(text_of(reader.delimited()?)?);
        Ok(())
    }

    fn write_json(&self, out: &mut Vec<u8>) -> Result<(), InvalidJson> {
        json::write_array(self, out, |text, out| {
            json::write_string(text, out);
            Ok(())
        })
    }

    fn read_json(&mut self, reader: &mut JsonReader<'_>) -> Result<(), DecodeReason> {
        reader.array(|reader| {
            self.push(reader.string()?.into_owned());
            Ok(())
        })
    }
}
