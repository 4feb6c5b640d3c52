//! `json`: fields of the data in hand, read by the host out of data that it parses once per call.

mod document;

use bytes::Bytes;

use self::document::{Document, Found, NotJson, Pointer};
use crate::{
    failure::GuestFault,
    generated::tidegate::plugin::json::{Host, JsonError, Kind},
    guest::GuestState,
};

/// The data in hand as far as the call has parsed it.
#[derive(Debug, Default)]
pub(crate) enum Parsed {
    /// Nobody asked yet.
    #[default]
    NotYet,
    Document(Box<Document>),
    NotJson(NotJson),
}

impl Parsed {
    fn document(&mut self, data: &Bytes) -> Result<&Document, NotJson> {
        if matches!(self, Self::NotYet) {
            *self = match Document::parse(data) {
                Ok(document) => Self::Document(Box::new(document)),
                Err(error) => Self::NotJson(error),
            };
        }
        match self {
            Self::Document(document) => Ok(document),
            Self::NotJson(error) => Err(*error),
            Self::NotYet => Err(NotJson::default()),
        }
    }
}

impl GuestState {
    /// Counts the host call and reads a field; what is not there is absent.
    fn field<T>(
        &mut self,
        pointer: &str,
        read: impl FnOnce(&Found<'_>) -> Option<Result<T, Kind>>,
    ) -> wasmtime::Result<Result<Option<T>, JsonError>> {
        self.call.enter_host()?;
        let Some(data) = &self.call.data else {
            return Err(
                GuestFault::limit("json was asked where the plugin was given no data").into(),
            );
        };
        let found = Pointer::parse(pointer)
            .map_err(|error| JsonError::BadPointer(error.to_string()))
            .and_then(|pointer| {
                let document = self.call.parsed.document(data);
                let document = document.map_err(|error| JsonError::NotJson(error.to_string()))?;
                Ok(document.find(data, pointer))
            });
        Ok(found.and_then(|found| {
            let read = found.as_ref().and_then(read).transpose();
            read.map_err(JsonError::WrongKind)
        }))
    }
}

/// What a reader makes of `null`: nothing.
fn unless_null<'d, T>(
    found: &Found<'d>,
    read: impl FnOnce(&Found<'d>) -> Option<T>,
) -> Option<Result<T, Kind>> {
    match found.kind() {
        Kind::Null => None,
        kind => Some(read(found).ok_or(kind)),
    }
}

impl Host for GuestState {
    fn kind_of(&mut self, pointer: String) -> wasmtime::Result<Result<Option<Kind>, JsonError>> {
        self.field(&pointer, |found| Some(Ok(found.kind())))
    }

    fn text(&mut self, pointer: String) -> wasmtime::Result<Result<Option<String>, JsonError>> {
        self.field(&pointer, |found| unless_null(found, Found::text))
    }

    fn number(&mut self, pointer: String) -> wasmtime::Result<Result<Option<f64>, JsonError>> {
        self.field(&pointer, |found| unless_null(found, Found::number))
    }

    fn integer(&mut self, pointer: String) -> wasmtime::Result<Result<Option<i64>, JsonError>> {
        self.field(&pointer, |found| unless_null(found, Found::integer))
    }

    fn boolean(&mut self, pointer: String) -> wasmtime::Result<Result<Option<bool>, JsonError>> {
        self.field(&pointer, |found| unless_null(found, Found::boolean))
    }

    fn length(&mut self, pointer: String) -> wasmtime::Result<Result<Option<u32>, JsonError>> {
        self.field(&pointer, |found| unless_null(found, Found::length))
    }

    fn raw(&mut self, pointer: String) -> wasmtime::Result<Result<Option<Vec<u8>>, JsonError>> {
        self.field(&pointer, |found| Some(Ok(found.raw().to_vec())))
    }
}
