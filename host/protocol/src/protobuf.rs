//! The Protobuf wire format: varints, keys, lengths.
//!
//! Reads from a slice and copies nothing: a declared length is compared with what is there before anything is
//! allocated (threat model C1). Groups were never part of this protocol and are refused.

use crate::codec::DecodeReason;

/// How a field is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WireType {
    Varint = 0,
    Fixed64 = 1,
    Delimited = 2,
    Fixed32 = 5,
}

impl WireType {
    pub(crate) fn expect(self, expected: Self) -> Result<(), DecodeReason> {
        if self == expected {
            Ok(())
        } else {
            Err(DecodeReason::WrongType)
        }
    }
}

/// Bytes that are left to read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProtobufReader<'a> {
    rest: &'a [u8],
}

impl<'a> ProtobufReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next field's number and layout; `None` at the end.
    pub(crate) fn key(&mut self) -> Result<Option<(u32, WireType)>, DecodeReason> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = u32::try_from(self.varint()?).map_err(|_| DecodeReason::BadWireFormat)?;
        let wire = match key & 7 {
            0 => WireType::Varint,
            1 => WireType::Fixed64,
            2 => WireType::Delimited,
            5 => WireType::Fixed32,
            _ => return Err(DecodeReason::BadWireFormat),
        };
        match key >> 3 {
            0 => Err(DecodeReason::BadWireFormat),
            number => Ok(Some((number, wire))),
        }
    }

    pub(crate) fn varint(&mut self) -> Result<u64, DecodeReason> {
        // Nearly all varints here are one byte: field keys, short lengths, small ids.
        if let Some((&byte, rest)) = self.rest.split_first()
            && byte < 0x80
        {
            self.rest = rest;
            return Ok(byte.into());
        }
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let (&byte, rest) = self.rest.split_first().ok_or(DecodeReason::Truncated)?;
            self.rest = rest;
            if shift == 63 && byte > 1 {
                return Err(DecodeReason::BadWireFormat); // Above 64 bits, or longer than ten bytes.
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(DecodeReason::BadWireFormat)
    }

    /// A run of bytes behind its length.
    pub(crate) fn delimited(&mut self) -> Result<&'a [u8], DecodeReason> {
        let len = usize::try_from(self.varint()?).map_err(|_| DecodeReason::Truncated)?;
        self.take(len)
    }

    pub(crate) fn skip(&mut self, wire: WireType) -> Result<(), DecodeReason> {
        match wire {
            WireType::Varint => self.varint().map(|_| ()),
            WireType::Fixed64 => self.take(8).map(|_| ()),
            WireType::Delimited => self.delimited().map(|_| ()),
            WireType::Fixed32 => self.take(4).map(|_| ()),
        }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeReason> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(DecodeReason::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }
}

pub(crate) const fn varint_len(value: u64) -> usize {
    // Seven bits a byte, one byte at least.
    (70 - (value | 1).leading_zeros() as usize) / 7
}

pub(crate) const fn key_len(number: u32) -> usize {
    varint_len((number as u64) << 3)
}

pub(crate) const fn delimited_len(number: u32, len: usize) -> usize {
    key_len(number) + varint_len(len as u64) + len
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the value is below 128, or masked to seven bits"
)]
pub(crate) fn write_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 & 0x7f | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn write_key(number: u32, wire: WireType, out: &mut Vec<u8>) {
    write_varint(u64::from(number) << 3 | wire as u64, out);
}

pub(crate) fn write_bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    write_key(number, WireType::Delimited, out);
    write_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_come_back_and_their_length_is_known() {
        let mut values = vec![0, u64::MAX];
        values.extend((0..64).flat_map(|bit| [(1u64 << bit) - 1, 1 << bit]));
        for value in values {
            let mut bytes = Vec::new();
            write_varint(value, &mut bytes);
            assert_eq!(bytes.len(), varint_len(value), "{value}");
            assert_eq!(ProtobufReader::new(&bytes).varint(), Ok(value));
        }
    }

    #[test]
    fn varints_of_more_than_ten_bytes_or_64_bits_are_refused() {
        let eleven = [0x80; 10].into_iter().chain([0]).collect::<Vec<u8>>();
        let wide = [0xff; 9].into_iter().chain([2]).collect::<Vec<u8>>();
        for bytes in [eleven, wide] {
            let read = ProtobufReader::new(&bytes).varint();
            assert_eq!(read, Err(DecodeReason::BadWireFormat), "{bytes:?}");
        }
    }
}
