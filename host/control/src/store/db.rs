//! The seam between the store's queries and the database that answers them.
//!
//! Every query is written once, in the SQL that SQLite and PostgreSQL share, with `?1` for its first parameter. Owns
//! the values that go in and come out. Invariant: nothing outside [`super::sqlite`] and [`super::postgres`] knows which
//! of the two it talks to.

use std::borrow::Cow;

use super::{postgres::Session, sqlite};
use crate::{StoreError, Timestamp};

/// A parameter of a query; each kind has its NULL, since PostgreSQL wants to know the type of that too.
#[derive(Debug)]
pub(super) enum Value<'a> {
    Int(Option<i64>),
    Text(Option<Cow<'a, str>>),
    Bytes(Option<&'a [u8]>),
}

/// A value of a row, whatever the database calls its type.
#[derive(Debug)]
pub(super) enum Cell {
    Null,
    Int(i64),
    Text(String),
    Bytes(Vec<u8>),
}

/// A row of an answer; columns are counted from 0.
#[derive(Debug)]
pub(super) struct Row(pub(super) Vec<Cell>);

/// What a column may be read as.
pub(super) trait FromCell: Sized {
    /// `None`: the value is of another type.
    fn from_cell(cell: &Cell) -> Option<Self>;
}

/// A transaction under way on one of the databases.
#[derive(Debug)]
pub(super) enum Transaction<'c> {
    Sqlite(rusqlite::Transaction<'c>),
    Postgres(&'c Session),
}

/// Parameters of a query.
macro_rules! params {
    ($($value:expr),* $(,)?) => {
        &[$($crate::store::db::Value::from($value)),*]
    };
}
pub(super) use params;

impl Transaction<'_> {
    /// Runs a statement; how many rows it changed.
    pub(super) fn execute(&self, sql: &str, params: &[Value<'_>]) -> Result<u64, StoreError> {
        match self {
            Self::Sqlite(transaction) => sqlite::execute(transaction, sql, params),
            Self::Postgres(session) => session.execute(sql, params),
        }
    }

    /// Runs a query; all its rows.
    pub(super) fn query(&self, sql: &str, params: &[Value<'_>]) -> Result<Vec<Row>, StoreError> {
        match self {
            Self::Sqlite(transaction) => sqlite::query(transaction, sql, params),
            Self::Postgres(session) => session.query(sql, params),
        }
    }

    /// Runs a query that has a row at most.
    pub(super) fn query_opt(
        &self,
        sql: &str,
        params: &[Value<'_>],
    ) -> Result<Option<Row>, StoreError> {
        Ok(self.query(sql, params)?.into_iter().next())
    }

    /// Runs a query that always has a row, such as a count.
    pub(super) fn query_one(&self, sql: &str, params: &[Value<'_>]) -> Result<Row, StoreError> {
        self.query_opt(sql, params)?
            .ok_or_else(|| StoreError::corrupt("a query has no answer"))
    }

    /// Leaves the checks of references to the commit, for rows that point at each other.
    pub(super) fn defer_references(&self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(transaction) => {
                transaction.pragma_update(None, "defer_foreign_keys", true)?;
                Ok(())
            }
            Self::Postgres(session) => session.batch("SET CONSTRAINTS ALL DEFERRED"),
        }
    }

    /// Has the rows that come be numbered behind those that were written with numbers of their own.
    pub(super) fn number_on(&self, table: &str) -> Result<(), StoreError> {
        match self {
            // It looks at the highest number by itself.
            Self::Sqlite(_) => Ok(()),
            Self::Postgres(_) => {
                self.query(
                    &format!(
                        "SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table} HAVING max(id) > 0"
                    ),
                    &[],
                )?;
                Ok(())
            }
        }
    }

    /// Has the other nodes hear of the change once it is committed.
    pub(super) fn announce(&self) -> Result<(), StoreError> {
        match self {
            // There is no other.
            Self::Sqlite(_) => Ok(()),
            Self::Postgres(session) => session.notify(),
        }
    }

    /// The time of the machine that has the database, for what several nodes compare.
    pub(super) fn now(&self) -> Result<Timestamp, StoreError> {
        match self {
            Self::Sqlite(_) => Ok(Timestamp::now()),
            Self::Postgres(_) => {
                let row = self.query_one(
                    "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)",
                    &[],
                )?;
                Ok(Timestamp::from_millis(row.get(0)?))
            }
        }
    }
}

impl Row {
    /// The value of a column.
    pub(super) fn get<T: FromCell>(&self, column: usize) -> Result<T, StoreError> {
        self.0
            .get(column)
            .and_then(T::from_cell)
            .ok_or_else(|| StoreError::corrupt("a row has a bad value"))
    }
}

impl FromCell for i64 {
    fn from_cell(cell: &Cell) -> Option<Self> {
        match cell {
            Cell::Int(number) => Some(*number),
            Cell::Null | Cell::Text(_) | Cell::Bytes(_) => None,
        }
    }
}

impl FromCell for u32 {
    fn from_cell(cell: &Cell) -> Option<Self> {
        i64::from_cell(cell)?.try_into().ok()
    }
}

impl FromCell for bool {
    fn from_cell(cell: &Cell) -> Option<Self> {
        Some(i64::from_cell(cell)? != 0)
    }
}

impl FromCell for String {
    fn from_cell(cell: &Cell) -> Option<Self> {
        match cell {
            Cell::Text(text) => Some(text.clone()),
            Cell::Null | Cell::Int(_) | Cell::Bytes(_) => None,
        }
    }
}

impl FromCell for Vec<u8> {
    fn from_cell(cell: &Cell) -> Option<Self> {
        match cell {
            Cell::Bytes(bytes) => Some(bytes.clone()),
            Cell::Null | Cell::Int(_) | Cell::Text(_) => None,
        }
    }
}

impl FromCell for [u8; 32] {
    fn from_cell(cell: &Cell) -> Option<Self> {
        match cell {
            Cell::Bytes(bytes) => bytes.as_slice().try_into().ok(),
            Cell::Null | Cell::Int(_) | Cell::Text(_) => None,
        }
    }
}

impl<T: FromCell> FromCell for Option<T> {
    fn from_cell(cell: &Cell) -> Option<Self> {
        match cell {
            Cell::Null => Some(None),
            Cell::Int(_) | Cell::Text(_) | Cell::Bytes(_) => T::from_cell(cell).map(Some),
        }
    }
}

impl From<i64> for Value<'_> {
    fn from(number: i64) -> Self {
        Self::Int(Some(number))
    }
}

impl From<Option<i64>> for Value<'_> {
    fn from(number: Option<i64>) -> Self {
        Self::Int(number)
    }
}

impl From<u32> for Value<'_> {
    fn from(number: u32) -> Self {
        Self::Int(Some(number.into()))
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(Some(text.into()))
    }
}

impl<'a> From<&'a String> for Value<'a> {
    fn from(text: &'a String) -> Self {
        Self::Text(Some(text.as_str().into()))
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Self::Text(Some(text.into()))
    }
}

impl<'a> From<Option<&'a str>> for Value<'a> {
    fn from(text: Option<&'a str>) -> Self {
        Self::Text(text.map(Cow::from))
    }
}

impl From<Option<String>> for Value<'_> {
    fn from(text: Option<String>) -> Self {
        Self::Text(text.map(Cow::from))
    }
}

impl<'a> From<&'a [u8]> for Value<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Bytes(Some(bytes))
    }
}

impl<'a> From<&'a [u8; 32]> for Value<'a> {
    fn from(bytes: &'a [u8; 32]) -> Self {
        Self::Bytes(Some(bytes))
    }
}

impl<'a> From<Option<&'a [u8; 32]>> for Value<'a> {
    fn from(bytes: Option<&'a [u8; 32]>) -> Self {
        Self::Bytes(bytes.map(|bytes| bytes.as_slice()))
    }
}
