//! From one table of fields to a struct and its two codecs.
//!
//! Owns what a field of each type looks like on the wire. Adding a message is a row in [`crate::messages`];
//! adding a *type* of field is an `impl Field` here. Zero values are not written, except members marked
//! `always`, and those only in JSON.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use crate::{
    codec::DecodeReason,
    json::{self, JsonReader},
    protobuf::{self, ProtobufReader, WireType},
    raw::{InvalidJson, Raw},
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

/// A signed integer that Protobuf writes in zig-zag form (`sint64`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ZigZag(pub i64);

/// Bytes that JSON carries as a string and Protobuf as they are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TextBytes(pub Bytes);

impl ZigZag {
    const fn encoded(self) -> u64 {
        (self.0 as u64) << 1 ^ (self.0 >> 63) as u64
    }
}

/// Integers: how a value becomes a varint and back.
macro_rules! integer_fields {
    ($($kind:ty: $to_varint:expr, $from_varint:expr;)*) => {$(
        impl Field for $kind {
            fn is_zero(&self) -> bool {
                *self == Self::default()
            }

            fn protobuf_len(&self, number: u32) -> usize {
                if self.is_zero() {
                    return 0;
                }
                let to_varint: fn($kind) -> u64 = $to_varint;
                protobuf::key_len(number) + protobuf::varint_len(to_varint(*self))
            }

            fn write_protobuf(&self, number: u32, out: &mut Vec<u8>) {
                if self.is_zero() {
                    return;
                }
                let to_varint: fn($kind) -> u64 = $to_varint;
                protobuf::write_key(number, WireType::Varint, out);
                protobuf::write_varint(to_varint(*self), out);
            }

            fn merge_protobuf(
                &mut self,
                wire: WireType,
                reader: &mut ProtobufReader<'_>,
                _depth_left: usize,
            ) -> Result<(), DecodeReason> {
                wire.expect(WireType::Varint)?;
                let from_varint: fn(u64) -> Option<$kind> = $from_varint;
                *self = from_varint(reader.varint()?).ok_or(DecodeReason::WrongType)?;
                Ok(())
            }

            fn write_json(&self, out: &mut Vec<u8>) -> Result<(), InvalidJson> {
                json::JsonInteger::write(*self, out);
                Ok(())
            }

            fn read_json(&mut self, reader: &mut JsonReader<'_>) -> Result<(), DecodeReason> {
                *self = json::JsonInteger::parse(reader.number()?)
                    .ok_or(DecodeReason::WrongType)?;
                Ok(())
            }
        }
    )*};
}

integer_fields! {
    u32: |value| value.into(), |varint| varint.try_into().ok();
    u64: |value| value, Some;
    // Negative numbers are sign-extended to 64 bits on the wire, whatever their type.
    i32: |value| i64::from(value) as u64, |varint| (varint as i64).try_into().ok();
    i64: |value| value as u64, |varint| Some(varint as i64);
    ZigZag: ZigZag::encoded, |varint| Some(ZigZag((varint >> 1) as i64 ^ -((varint & 1) as i64)));
}

impl Field for bool {
    fn is_zero(&self) -> bool {
        !*self
    }

    fn protobuf_len(&self, number: u32) -> usize {
        if *self {
            protobuf::key_len(number) + 1
        } else {
            0
        }
    }

    fn write_protobuf(&self, number: u32, out: &mut Vec<u8>) {
        if *self {
            protobuf::write_key(number, WireType::Varint, out);
            out.push(1);
        }
    }

    fn merge_protobuf(
        &mut self,
        wire: WireType,
        reader: &mut ProtobufReader<'_>,
        _depth_left: usize,
    ) -> Result<(), DecodeReason> {
        wire.expect(WireType::Varint)?;
        *self = reader.varint()? != 0;
        Ok(())
    }

    fn write_json(&self, out: &mut Vec<u8>) -> Result<(), InvalidJson> {
        out.extend_from_slice(if *self { b"true" } else { b"false" });
        Ok(())
    }

    fn read_json(&mut self, reader: &mut JsonReader<'_>) -> Result<(), DecodeReason> {
        *self = reader.boolean()?;
        Ok(())
    }
}

/// Fields that are a run of bytes in Protobuf.
macro_rules! byte_fields {
    ($($kind:ty {
        keeps_null: $keeps_null:literal,
        bytes: $bytes:expr,
        from_bytes: $from_bytes:expr,
        write_json: $write_json:expr,
        read_json: $read_json:expr,
    })*) => {$(
        impl Field for $kind {
            const KEEPS_NULL: bool = $keeps_null;

            fn is_zero(&self) -> bool {
                let bytes: fn(&$kind) -> &[u8] = $bytes;
                bytes(self).is_empty()
            }

            fn protobuf_len(&self, number: u32) -> usize {
                let bytes: fn(&$kind) -> &[u8] = $bytes;
                match bytes(self).len() {
                    0 => 0,
                    len => protobuf::delimited_len(number, len),
                }
            }

            fn write_protobuf(&self, number: u32, out: &mut Vec<u8>) {
                let bytes: fn(&$kind) -> &[u8] = $bytes;
                if !self.is_zero() {
                    protobuf::write_bytes(number, bytes(self), out);
                }
            }

            fn merge_protobuf(
                &mut self,
                wire: WireType,
                reader: &mut ProtobufReader<'_>,
                _depth_left: usize,
            ) -> Result<(), DecodeReason> {
                wire.expect(WireType::Delimited)?;
                let from_bytes: fn(&[u8]) -> Result<$kind, DecodeReason> = $from_bytes;
                *self = from_bytes(reader.delimited()?)?;
                Ok(())
            }

            fn write_json(&self, out: &mut Vec<u8>) -> Result<(), InvalidJson> {
                let write_json: fn(&$kind, &mut Vec<u8>) -> Result<(), InvalidJson> = $write_json;
                write_json(self, out)
            }

            fn read_json(&mut self, reader: &mut JsonReader<'_>) -> Result<(), DecodeReason> {
                let read_json: fn(&mut JsonReader<'_>) -> Result<$kind, DecodeReason> = $read_json;
                *self = read_json(reader)?;
                Ok(())
            }
        }
    )*};
}

fn text_of(bytes: &[u8]) -> Result<String, DecodeReason> {
    let text = std::str::from_utf8(bytes).map_err(|_| DecodeReason::NotUtf8)?;
    Ok(text.to_owned())
}

byte_fields! {
    String {
        keeps_null: false,
        bytes: |text| text.as_bytes(),
        from_bytes: text_of,
        write_json: |text, out| {
            json::write_string(text, out);
            Ok(())
        },
        read_json: |reader| Ok(reader.string()?.into_owned()),
    }
    Raw {
        keeps_null: true,
        bytes: |raw| raw.as_bytes(),
        from_bytes: |bytes| Ok(Bytes::copy_from_slice(bytes).into()),
        write_json: Raw::write_json,
        read_json: |reader| reader.raw(),
    }
    TextBytes {
        keeps_null: false,
        bytes: |text| &text.0,
        from_bytes: |bytes| Ok(TextBytes(Bytes::copy_from_slice(bytes))),
        write_json: |text, out| {
            json::write_string(std::str::from_utf8(&text.0).map_err(|_| InvalidJson)?, out);
            Ok(())
        },
        read_json: |reader| Ok(TextBytes(reader.string()?.into_owned().into())),
    }
}

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

/// Field numbers inside the entry of a map.
const MAP_KEY: u32 = 1;
const MAP_VALUE: u32 = 2;

/// A map is a list of entry messages in Protobuf and an object in JSON.
impl<V: MapValue> Field for BTreeMap<String, V> {
    fn is_zero(&self) -> bool {
        self.is_empty()
    }

    fn protobuf_len(&self, number: u32) -> usize {
        self.iter()
            .map(|(key, value)| protobuf::delimited_len(number, entry_len(key, value)))
            .sum()
    }

    fn write_protobuf(&self, number: u32, out: &mut Vec<u8>) {
        for (key, value) in self {
            protobuf::write_key(number, WireType::Delimited, out);
            protobuf::write_varint(entry_len(key, value) as u64, out);
            key.write_protobuf(MAP_KEY, out);
            value.write_value(out);
        }
    }

    fn merge_protobuf(
        &mut self,
        wire: WireType,
        reader: &mut ProtobufReader<'_>,
        depth_left: usize,
    ) -> Result<(), DecodeReason> {
        wire.expect(WireType::Delimited)?;
        let mut entry = ProtobufReader::new(reader.delimited()?);
        let (mut key, mut value) = (String::new(), V::default());
        while let Some((number, wire)) = entry.key()? {
            match number {
                MAP_KEY => key.merge_protobuf(wire, &mut entry, depth_left)?,
                MAP_VALUE => value.merge_value(wire, &mut entry, depth_left)?,
                _ => entry.skip(wire)?,
            }
        }
        self.insert(key, value);
        Ok(())
    }

    fn write_json(&self, out: &mut Vec<u8>) -> Result<(), InvalidJson> {
        out.push(b'{');
        for (key, value) in self {
            json::separate(out);
            json::write_string(key, out);
            out.push(b':');
            value.write_value_json(out)?;
        }
        out.push(b'}');
        Ok(())
    }

    fn read_json(&mut self, reader: &mut JsonReader<'_>) -> Result<(), DecodeReason> {
        reader.object(|reader, key, _| {
            let mut value = V::default();
            value.read_value_json(reader)?;
            match self.insert(key.to_owned(), value) {
                None => Ok(()),
                Some(_) => Err(DecodeReason::DuplicateMember),
            }
        })
    }
}

fn entry_len<V: MapValue>(key: &String, value: &V) -> usize {
    key.protobuf_len(MAP_KEY) + value.value_len()
}

/// What a map may hold: text or messages.
pub(crate) trait MapValue: Default {
    fn value_len(&self) -> usize;
    fn write_value(&self, out: &mut Vec<u8>);
    fn merge_value(
        &mut self,
        wire: WireType,
        reader: &mut ProtobufReader<'_>,
        depth_left: usize,
    ) -> Result<(), DecodeReason>;
    fn write_value_json(&self, out: &mut Vec<u8>) -> Result<(), InvalidJson>;
    fn read_value_json(&mut self, reader: &mut JsonReader<'_>) -> Result<(), DecodeReason>;
}

impl MapValue for String {
    fn value_len(&self) -> usize {
        Field::protobuf_len(self, MAP_VALUE)
    }

    fn write_value(&self, out: &mut Vec<u8>) {
        Field::write_protobuf(self, MAP_VALUE, out);
    }

    fn merge_value(
        &mut self,
        wire: WireType,
        reader: &mut ProtobufReader<'_>,
        depth_left: usize,
    ) -> Result<(), DecodeReason> {
        Field::merge_protobuf(self, wire, reader, depth_left)
    }

    fn write_value_json(&self, out: &mut Vec<u8>) -> Result<(), InvalidJson> {
        Field::write_json(self, out)
    }

    fn read_value_json(&mut self, reader: &mut JsonReader<'_>) -> Result<(), DecodeReason> {
        reader.field(self)
    }
}

impl<M: Schema> MapValue for M {
    fn value_len(&self) -> usize {
        delimited_message_len(self, MAP_VALUE)
    }

    fn write_value(&self, out: &mut Vec<u8>) {
        write_delimited_message(self, MAP_VALUE, out);
    }

    fn merge_value(
        &mut self,
        wire: WireType,
        reader: &mut ProtobufReader<'_>,
        depth_left: usize,
    ) -> Result<(), DecodeReason> {
        merge_delimited_message(self, wire, reader, depth_left)
    }

    fn write_value_json(&self, out: &mut Vec<u8>) -> Result<(), InvalidJson> {
        self.write_json(out)
    }

    fn read_value_json(&mut self, reader: &mut JsonReader<'_>) -> Result<(), DecodeReason> {
        self.read_json(reader)
    }
}
