//! Reading and writing JSON, with errors that fit a hook's answer.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Refusal;

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
