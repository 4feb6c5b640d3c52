//! Strict reading of a token's JSON objects: no member twice at any depth, exact names, exact types.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::Fault;

/// The members of an object, each as its JSON text.
#[derive(Debug)]
pub(super) struct Members<'a>(BTreeMap<String, &'a RawValue>);

impl<'a> Members<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, Fault> {
        serde_json::from_str::<NoDuplicates>(text).map_err(|_| Fault::Json)?;
        serde_json::from_str(text)
            .map(Self)
            .map_err(|_| Fault::Json)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The JSON text of a member; `null` is a value like any other.
    pub(super) fn raw(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).map(|value| value.get())
    }

    /// A member that must be a string where it is there at all.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>, Fault> {
        self.typed(name)
    }

    /// A member of an exact type where it is there at all.
    pub(super) fn typed<T: Deserialize<'a>>(&self, name: &str) -> Result<Option<T>, Fault> {
        self.raw(name)
            .map(|text| serde_json::from_str(text).map_err(|_| Fault::Claim))
            .transpose()
    }

    /// A point in time in whole unix seconds.
    pub(super) fn seconds(&self, name: &str) -> Result<Option<u64>, Fault> {
        self.typed(name)
    }

    pub(super) fn object(&self, name: &str) -> Result<Option<Members<'a>>, Fault> {
        self.raw(name).map(Members::parse).transpose()
    }
}

/// Any JSON value without a repeated member; the value itself is thrown away. Depth is bounded by the parser.
struct NoDuplicates;

impl<'de> Deserialize<'de> for NoDuplicates {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NoDuplicatesVisitor)
    }
}

struct NoDuplicatesVisitor;

impl<'de> Visitor<'de> for NoDuplicatesVisitor {
    type Value = NoDuplicates;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without repeated members")
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<NoDuplicates, E> {
        Ok(NoDuplicates)
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<NoDuplicates, E> {
        Ok(NoDuplicates)
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<NoDuplicates, E> {
        Ok(NoDuplicates)
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<NoDuplicates, E> {
        Ok(NoDuplicates)
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<NoDuplicates, E> {
        Ok(NoDuplicates)
    }

    fn visit_unit<E: de::Error>(self) -> Result<NoDuplicates, E> {
        Ok(NoDuplicates)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<NoDuplicates, A::Error> {
        while elements.next_element::<NoDuplicates>()?.is_some() {}
        Ok(NoDuplicates)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<NoDuplicates, A::Error> {
        let mut names = std::collections::BTreeSet::new();
        while let Some((name, _)) = members.next_entry::<String, NoDuplicates>()? {
            if !names.insert(name) {
                return Err(de::Error::custom("a member appears twice"));
            }
        }
        Ok(NoDuplicates)
    }
}
