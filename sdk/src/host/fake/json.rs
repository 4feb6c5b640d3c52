//! `json` without a node: fields of the data that the test hands over.

use std::fmt;

use serde::{
    Deserialize,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::with;
use crate::json::{FieldError, Kind};

/// Limits of `wit/capabilities.wit`.
const MAX_POINTER_BYTES: usize = 256;
const MAX_DEPTH: usize = 32;

/// The members of an object in the order in which they are written.
struct Members<'d>(Vec<(String, &'d RawValue)>);

impl<'d> Deserialize<'d> for Members<'d> {
    fn deserialize<D: serde::Deserializer<'d>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'d> Visitor<'d> for Collect {
            type Value = Members<'d>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'d>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

fn parse<'d, T: Deserialize<'d>>(text: &'d str) -> Result<T, FieldError> {
    serde_json::from_str(text).map_err(|error| FieldError::NotJson(error.to_string()))
}

fn kind_of(text: &str) -> Kind {
    match text.as_bytes().first() {
        Some(b'{') => Kind::Object,
        Some(b'[') => Kind::Array,
        Some(b'"') => Kind::Text,
        Some(b't' | b'f') => Kind::Boolean,
        Some(b'n') => Kind::Null,
        _ => Kind::Number,
    }
}

/// How deep the arrays and objects of JSON text go.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest, mut is_text, mut is_escaped) = (0_usize, 0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => is_text = !is_text,
            b'{' | b'[' if !is_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !is_text => depth -= 1,
            _ => {}
        }
    }
    deepest
}

fn segments(pointer: &str) -> Result<Vec<String>, FieldError> {
    let bad = |text: &str| Err(FieldError::BadPointer(text.to_owned()));
    if pointer.len() > MAX_POINTER_BYTES {
        return bad("a pointer has at most 256 bytes");
    }
    if !pointer.is_empty() && !pointer.starts_with('/') {
        return bad("a pointer is empty or begins with `/`");
    }
    if !pointer
        .split('~')
        .skip(1)
        .all(|rest| rest.starts_with(['0', '1']))
    {
        return bad("in a pointer `~` is written `~0`, and `/` within a name `~1`");
    }
    let segments = pointer.split('/').skip(1);
    Ok(segments
        .map(|segment| segment.replace("~1", "/").replace("~0", "~"))
        .collect())
}

fn child<'d>(text: &'d str, segment: &str) -> Result<Option<&'d str>, FieldError> {
    match kind_of(text) {
        Kind::Object => {
            let Members(members) = parse(text)?;
            let last = members.into_iter().rev().find(|(name, _)| name == segment);
            Ok(last.map(|(_, value)| value.get()))
        }
        Kind::Array => {
            let is_index = segment.bytes().all(|byte| byte.is_ascii_digit())
                && (segment == "0" || !segment.starts_with('0'));
            let Some(index) = is_index.then(|| segment.parse::<usize>().ok()).flatten() else {
                return Ok(None);
            };
            let elements: Vec<&RawValue> = parse(text)?;
            Ok(elements.get(index).map(|value| value.get()))
        }
        Kind::Null | Kind::Boolean | Kind::Number | Kind::Text => Ok(None),
    }
}

/// The JSON text of a field of the data in hand.
fn find(pointer: &str) -> Result<Option<String>, FieldError> {
    let segments = segments(pointer)?;
    let data = with(|state| state.data.clone());
    let text =
        std::str::from_utf8(&data).map_err(|error| FieldError::NotJson(error.to_string()))?;
    let whole: &RawValue = parse(text)?;
    if depth(text) > MAX_DEPTH {
        let text = format!("the data is nested more than {MAX_DEPTH} deep");
        return Err(FieldError::NotJson(text));
    }
    let mut found = whole.get();
    for segment in segments {
        match child(found, &segment)? {
            Some(inner) => found = inner,
            None => return Ok(None),
        }
    }
    Ok(Some(found.to_owned()))
}

/// What `read` makes of the field, unless it is not there or `null`.
fn read<T>(
    pointer: &str,
    read: impl FnOnce(Kind, &str) -> Option<T>,
) -> Result<Option<T>, FieldError> {
    let Some(text) = find(pointer)? else {
        return Ok(None);
    };
    match kind_of(&text) {
        Kind::Null => Ok(None),
        kind => match read(kind, &text) {
            Some(value) => Ok(Some(value)),
            None => Err(FieldError::WrongKind {
                pointer: pointer.to_owned(),
                kind,
            }),
        },
    }
}

pub(crate) fn json_kind(pointer: &str) -> Result<Option<Kind>, FieldError> {
    Ok(find(pointer)?.map(|text| kind_of(&text)))
}

pub(crate) fn json_text(pointer: &str) -> Result<Option<String>, FieldError> {
    read(pointer, |_, text| serde_json::from_str(text).ok())
}

pub(crate) fn json_number(pointer: &str) -> Result<Option<f64>, FieldError> {
    read(pointer, |kind, text| {
        (kind == Kind::Number).then(|| text.parse().ok()).flatten()
    })
}

pub(crate) fn json_integer(pointer: &str) -> Result<Option<i64>, FieldError> {
    /// Up to here every integer is a float of its own.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    read(pointer, |kind, text| {
        if kind != Kind::Number {
            return None;
        }
        text.parse().ok().or_else(|| {
            let number: f64 = text.parse().ok()?;
            (number.fract() == 0.0 && number.abs() < EXACT).then_some(number as i64)
        })
    })
}

pub(crate) fn json_boolean(pointer: &str) -> Result<Option<bool>, FieldError> {
    read(pointer, |_, text| text.parse().ok())
}

pub(crate) fn json_length(pointer: &str) -> Result<Option<u32>, FieldError> {
    read(pointer, |kind, text| {
        let length = match kind {
            Kind::Array => parse::<Vec<&RawValue>>(text).ok()?.len(),
            Kind::Object => parse::<Members<'_>>(text).ok()?.0.len(),
            Kind::Null | Kind::Boolean | Kind::Number | Kind::Text => return None,
        };
        u32::try_from(length).ok()
    })
}

pub(crate) fn json_raw(pointer: &str) -> Result<Option<Vec<u8>>, FieldError> {
    Ok(find(pointer)?.map(String::into_bytes))
}
