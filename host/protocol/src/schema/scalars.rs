//! Numbers, text and bytes as fields.

use bytes::Bytes;

use super::Field;
use crate::{
    codec::DecodeReason,
    json::{self, JsonReader},
    protobuf::{self, ProtobufReader, WireType},
    raw::{InvalidJson, Raw},
};

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

pub(super) fn text_of(bytes: &[u8]) -> Result<String, DecodeReason> {
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
