//! Maps as fields: a list of entry messages in Protobuf, an object in JSON.

use std::collections::BTreeMap;

use super::{
    Field, Schema, delimited_message_len, merge_delimited_message, write_delimited_message,
};
use crate::{
    codec::DecodeReason,
    json::{self, JsonReader},
    protobuf::{self, ProtobufReader, WireType},
    raw::InvalidJson,
};

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
