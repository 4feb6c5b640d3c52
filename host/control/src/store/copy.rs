//! A whole store copied into an empty one: from the file of one node to the database of many, or back.
//!
//! Everything keeps its numbers: keys go on opening, versions keep their names, the audit log goes on where it was.
//! Invariant: the target has everything or, but for artifacts that nothing names, nothing.

use std::sync::Arc;

use super::{
    Store, apply,
    audit::{Change, last_entry},
    db::{Cell, Row, Transaction, Value, params},
    keys::load_ring,
};
use crate::{Actor, StoreError};

/// What a column holds; a NULL has to be sent as one of these, too.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Int,
    Text,
    Bytes,
}

/// A table: its name, its columns, and whether the database numbers its rows.
struct Table {
    name: &'static str,
    columns: &'static [(&'static str, Kind)],
    is_numbered: bool,
    /// By which rows that refer to others of the table come after these.
    order: &'static str,
}

const fn table(
    name: &'static str,
    order: &'static str,
    columns: &'static [(&'static str, Kind)],
) -> Table {
    Table {
        name,
        columns,
        is_numbered: false,
        order,
    }
}

const fn numbered(name: &'static str, columns: &'static [(&'static str, Kind)]) -> Table {
    Table {
        name,
        columns,
        is_numbered: true,
        order: "id",
    }
}

use Kind::{Bytes, Int, Text};

/// All but artifacts and the audit log; a row comes after those that it refers to, or its reference is checked at the end.
const TABLES: &[Table] = &[
    table(
        "apps",
        "name",
        &[
            ("name", Text),
            ("created_at", Int),
            ("token_secret", Text),
            ("deleted_at", Int),
        ],
    ),
    table(
        "keys",
        "id",
        &[
            ("id", Text),
            ("role", Text),
            ("app", Text),
            ("methods", Text),
            ("hash", Bytes),
            ("label", Text),
            ("created_at", Int),
            ("revoked_at", Int),
        ],
    ),
    numbered(
        "plugins",
        &[
            ("id", Int),
            ("app", Text),
            ("name", Text),
            ("created_at", Int),
            ("activation", Int),
        ],
    ),
    table(
        "numbers",
        "app, name",
        &[("app", Text), ("name", Text), ("last", Int)],
    ),
    table(
        "versions",
        "plugin, number",
        &[
            ("plugin", Int),
            ("number", Int),
            ("digest", Bytes),
            ("size", Int),
            ("hooks", Text),
            ("imports", Text),
            ("note", Text),
            ("created_at", Int),
        ],
    ),
    numbered(
        "activations",
        &[
            ("id", Int),
            ("plugin", Int),
            ("version", Int),
            ("under", Int),
            ("at", Int),
        ],
    ),
    table(
        "bindings",
        "id",
        &[
            ("id", Text),
            ("plugin", Int),
            ("app", Text),
            ("hook", Text),
            ("scope", Text),
            ("position", Int),
            ("config", Text),
            ("failure_policy", Text),
            ("created_at", Int),
            ("isolation", Text),
        ],
    ),
];

/// The audit log. It only grows, and is copied in pages.
const AUDIT: Table = numbered(
    "audit",
    &[
        ("id", Int),
        ("at", Int),
        ("who", Text),
        ("ip", Text),
        ("app", Text),
        ("action", Text),
        ("object", Text),
        ("old", Bytes),
        ("new", Bytes),
        ("result", Text),
    ],
);

/// Rows of one statement.
const ROWS_AT_ONCE: usize = 200;

/// Entries of the audit log in memory at a time.
const PAGE: i64 = 1_000;

/// How much was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    pub rows: u64,
    pub artifacts: u64,
}

impl Store {
    /// Copies everything into an empty store. The actor of the entry that says so is named in the target.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the target is not empty; whatever either database says. Nothing was decided in the
    /// target then.
    pub fn copy_into(&self, target: &Self, actor: &Actor) -> Result<Copied, StoreError> {
        target.read(check_empty)?;
        let digests = self.digests()?;
        // One transaction each: together they may take longer than one may take.
        for digest in &digests {
            let bytes = self.stored_artifact(digest)?;
            target.backend.write(
                |to| {
                    to.execute(
                        "INSERT INTO artifacts (digest, bytes) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
                        params![digest.as_bytes(), &*bytes],
                    )
                },
                |_| (),
            )?;
        }
        let (tables, last_entry) = self.read(|from| {
            let tables = TABLES.iter().map(|table| Ok((table, read(from, table)?)));
            let tables = tables.collect::<Result<Vec<_>, StoreError>>()?;
            Ok((tables, last_entry(from)?))
        })?;
        let copied = target.backend.write_at_length(
            |to| {
                let rows = apply(to, actor, |to| {
                    check_empty(to)?;
                    let mut num_rows = 0;
                    for (table, rows) in &tables {
                        write(to, table, rows)?;
                        num_rows += rows.len() as u64;
                    }
                    num_rows += self.copy_audit_log(to, last_entry)?;
                    let change = Change::new(None, "store.copy", "store".to_owned());
                    Ok((num_rows, Some(change)))
                })?;
                Ok((rows, load_ring(to)?))
            },
            |(rows, ring)| {
                target.ring.store(Arc::new(ring));
                rows
            },
        );
        let rows = copied?;
        Ok(Copied {
            rows,
            artifacts: digests.len() as u64,
        })
    }

    /// Copies the entries up to this one, page by page: there can be more than fits into memory.
    fn copy_audit_log(&self, to: &Transaction<'_>, last: i64) -> Result<u64, StoreError> {
        let sql = format!(
            "SELECT {} FROM audit WHERE id > ?1 AND id <= ?2 ORDER BY id LIMIT ?3",
            names(&AUDIT)
        );
        let (mut copied, mut num_rows) = (0_i64, 0);
        loop {
            let page = self.read(|from| from.query(&sql, params![copied, last, PAGE]))?;
            let Some(newest) = page.last() else {
                return Ok(num_rows);
            };
            copied = newest.get(0)?;
            num_rows += page.len() as u64;
            write(to, &AUDIT, &page)?;
        }
    }
}

fn check_empty(target: &Transaction<'_>) -> Result<(), StoreError> {
    let row = target.query_one(
        "SELECT CAST(EXISTS (SELECT 1 FROM keys) OR EXISTS (SELECT 1 FROM plugins) OR EXISTS (SELECT 1 FROM audit) AS INTEGER)",
        &[],
    )?;
    if row.get::<i64>(0)? == 0 {
        Ok(())
    } else {
        Err(StoreError::conflict(
            "the store to copy into has keys, plugins or an audit log already; name an empty database, schema or data directory, on which no node has been started yet",
        ))
    }
}

fn names(table: &Table) -> String {
    let names: Vec<&str> = table.columns.iter().map(|(name, _)| *name).collect();
    names.join(", ")
}

fn read(from: &Transaction<'_>, table: &Table) -> Result<Vec<Row>, StoreError> {
    let sql = format!(
        "SELECT {} FROM {} ORDER BY {}",
        names(table),
        table.name,
        table.order
    );
    from.query(&sql, &[])
}

fn write(to: &Transaction<'_>, table: &Table, rows: &[Row]) -> Result<(), StoreError> {
    // Only app `default` is there already.
    let otherwise = match table.name {
        "apps" => " ON CONFLICT DO NOTHING",
        _ => "",
    };
    let width = table.columns.len();
    for rows in rows.chunks(ROWS_AT_ONCE) {
        let place = |at: usize| format!("?{}", at + 1);
        let places = (0..rows.len()).map(|row| {
            let places: Vec<String> = (row * width..(row + 1) * width).map(place).collect();
            format!("({})", places.join(", "))
        });
        let places: Vec<String> = places.collect();
        let sql = format!(
            "INSERT INTO {} ({}) VALUES {}{otherwise}",
            table.name,
            names(table),
            places.join(", ")
        );
        let values = rows
            .iter()
            .flat_map(|Row(cells)| cells.iter().zip(table.columns));
        let values = values.map(|(cell, (_, kind))| value(cell, *kind));
        to.execute(&sql, &values.collect::<Result<Vec<_>, _>>()?)?;
    }
    if table.is_numbered {
        to.number_on(table.name)?;
    }
    Ok(())
}

fn value(cell: &Cell, kind: Kind) -> Result<Value<'_>, StoreError> {
    Ok(match (cell, kind) {
        (Cell::Int(number), Kind::Int) => Value::Int(Some(*number)),
        (Cell::Text(text), Kind::Text) => Value::from(text),
        (Cell::Bytes(bytes), Kind::Bytes) => Value::Bytes(Some(bytes)),
        (Cell::Null, Kind::Int) => Value::Int(None),
        (Cell::Null, Kind::Text) => Value::Text(None),
        (Cell::Null, Kind::Bytes) => Value::Bytes(None),
        (Cell::Int(_) | Cell::Text(_) | Cell::Bytes(_), _) => {
            return Err(StoreError::corrupt("a row has a bad value"));
        }
    })
}
