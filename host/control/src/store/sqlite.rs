//! The store of one node: an SQLite file in its data directory.
//!
//! Owns the files, the two connections and their settings. Invariant: one process has the data directory, and what was
//! answered is on disk.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
    time::Duration,
};

use parking_lot::Mutex;
use rusqlite::{
    Connection, OpenFlags, ToSql, TransactionBehavior,
    types::{ToSqlOutput, ValueRef},
};

use super::db::{Cell, Row, Transaction, Value};
use crate::{OpenError, StoreError, schema};

/// Name of the database in the data directory.
pub const DATABASE_FILE: &str = "control.db";

/// Held locked while a node runs; its content means nothing.
const LOCK_FILE: &str = "control.lock";

/// Longest wait for the other connection of this process. Writes take milliseconds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// A write-ahead log that grew beyond this is cut back at the next checkpoint.
const WAL_LIMIT_BYTES: i64 = 16 * 1024 * 1024;

/// The database of one node.
#[derive(Debug)]
pub(super) struct Sqlite {
    /// All changes; held for the length of one transaction.
    pub(super) writer: Mutex<Connection>,
    /// Reads, which do not wait for a writer's fsync. Read-only by its open flags.
    reader: Mutex<Connection>,
    /// Keeps the advisory lock until the store is dropped or the process dies.
    _lock: File,
}

impl Sqlite {
    pub(super) fn open(data_dir: &Path) -> Result<Self, OpenError> {
        let lock = take_data_dir(data_dir)?;
        let path = data_dir.join(DATABASE_FILE);
        // SQLite gives its -wal and -shm files the mode of the database, so this settles all three.
        let file = owner_only(&path).map_err(at(&path))?;
        drop(file);

        let mut writer = Connection::open_with_flags(
            &path,
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )
        .map_err(StoreError::from)?;
        check_ours(&writer, &path)?;
        configure(&writer)?;
        schema::migrate(&mut writer)?;
        let reader = Connection::open_with_flags(
            &path,
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )
        .map_err(StoreError::from)?;
        reader
            .busy_timeout(BUSY_TIMEOUT)
            .map_err(StoreError::from)?;
        Ok(Self {
            writer: Mutex::new(writer),
            reader: Mutex::new(reader),
            _lock: lock,
        })
    }

    /// Makes a change; `committed` is called while nobody else can make one.
    pub(super) fn write<T, U>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
        committed: impl FnOnce(T) -> U,
    ) -> Result<U, StoreError> {
        let mut writer = self.writer.lock();
        let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let transaction = Transaction::Sqlite(transaction);
        let value = work(&transaction)?;
        if let Transaction::Sqlite(transaction) = transaction {
            transaction.commit()?;
        }
        Ok(committed(value))
    }

    /// Runs reads that must agree with each other.
    pub(super) fn read<T>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut reader = self.reader.lock();
        let transaction = reader.transaction_with_behavior(TransactionBehavior::Deferred)?;
        work(&Transaction::Sqlite(transaction))
    }

    /// See [`super::Store::checkpoint`].
    pub(super) fn checkpoint(&self) -> Result<(), StoreError> {
        let writer = self.writer.lock();
        // The answer says how many pages were moved, which nobody needs to know.
        writer.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()))?;
        Ok(())
    }

    /// What every start pays for: the b-trees hold together. Does not read artifacts; their digests are checked
    /// whenever they are.
    pub(super) fn quick_check(&self) -> Result<(), StoreError> {
        self.pragma_check("quick_check")
    }

    /// Pages, indexes and references.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        self.pragma_check("integrity_check")?;
        let reader = self.reader.lock();
        let mut statement = reader.prepare("PRAGMA foreign_key_check")?;
        if statement.query(())?.next()?.is_some() {
            return Err(StoreError::corrupt("a row points at one that is missing"));
        }
        Ok(())
    }

    fn pragma_check(&self, pragma: &str) -> Result<(), StoreError> {
        let reader = self.reader.lock();
        let found: String = reader.pragma_query_value(None, pragma, |row| row.get(0))?;
        if found == "ok" {
            Ok(())
        } else {
            Err(StoreError::corrupt("SQLite's own check failed"))
        }
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        // SQLite does this when its last connection closes, but ours is the reader's, which may not write. The next
        // start finds everything in the log otherwise.
        let _ = self.checkpoint();
    }
}

impl ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Int(Some(number)) => ValueRef::Integer(*number),
            Self::Text(Some(text)) => ValueRef::Text(text.as_bytes()),
            Self::Bytes(Some(bytes)) => ValueRef::Blob(bytes),
            Self::Int(None) | Self::Text(None) | Self::Bytes(None) => ValueRef::Null,
        }))
    }
}

pub(super) fn execute(
    transaction: &rusqlite::Transaction<'_>,
    sql: &str,
    params: &[Value<'_>],
) -> Result<u64, StoreError> {
    let mut statement = transaction.prepare_cached(sql)?;
    let changed = statement.execute(rusqlite::params_from_iter(params))?;
    Ok(changed as u64)
}

pub(super) fn query(
    transaction: &rusqlite::Transaction<'_>,
    sql: &str,
    params: &[Value<'_>],
) -> Result<Vec<Row>, StoreError> {
    let mut statement = transaction.prepare_cached(sql)?;
    let columns = statement.column_count();
    let mut found = statement.query(rusqlite::params_from_iter(params))?;
    let mut rows = Vec::new();
    while let Some(row) = found.next()? {
        let cells = (0..columns).map(|column| cell(row.get_ref(column)?));
        rows.push(Row(cells.collect::<Result<_, _>>()?));
    }
    Ok(rows)
}

fn cell(value: ValueRef<'_>) -> Result<Cell, StoreError> {
    let bad = || StoreError::corrupt("a row has a bad value");
    Ok(match value {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(number) => Cell::Int(number),
        ValueRef::Text(text) => Cell::Text(String::from_utf8(text.to_vec()).map_err(|_| bad())?),
        ValueRef::Blob(bytes) => Cell::Bytes(bytes.to_vec()),
        ValueRef::Real(_) => return Err(bad()),
    })
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.display().to_string();
    move |source| OpenError::Path { path, source }
}

/// Makes the data directory if it is absent, and takes it for this process.
pub(super) fn take_data_dir(data_dir: &Path) -> Result<File, OpenError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data_dir)
        .map_err(at(data_dir))?;
    let path = data_dir.join(LOCK_FILE);
    let file = owner_only(&path).map_err(at(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(OpenError::InUse {
            path: data_dir.display().to_string(),
        }),
        Err(fs::TryLockError::Error(source)) => Err(at(&path)(source)),
    }
}

/// Opens or makes a file that only its owner may touch; narrows the mode of one that was there.
fn owner_only(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    Ok(file)
}

fn check_ours(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let foreign = || OpenError::Foreign {
        path: path.display().to_string(),
    };
    let id: i32 = connection
        .pragma_query_value(None, "application_id", |row| row.get(0))
        .map_err(|error| match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::NotADatabase) => foreign(),
            _ => StoreError::from(error).into(),
        })?;
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", (), |row| row.get(0))
        .map_err(StoreError::from)?;
    if id == schema::APPLICATION_ID || (id == 0 && tables == 0) {
        Ok(())
    } else {
        Err(foreign())
    }
}

fn configure(connection: &Connection) -> Result<(), StoreError> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // FULL: an answered change survives a power cut; NORMAL would only promise that the file stays whole.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "journal_size_limit", WAL_LIMIT_BYTES)?;
    Ok(())
}
