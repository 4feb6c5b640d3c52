//! The store itself: files, connections, and the one way to change anything.
//!
//! Each folder module adds the calls of one kind of object. None of them commits: a change goes through
//! [`Store::mutate`], which writes the audit entry in the same transaction.

mod activations;
mod apps;
mod audit;
mod bindings;
mod check;
mod keys;
mod plugins;
mod retention;
#[cfg(test)]
mod tests;

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use self::audit::Change;
pub use self::{bindings::Snapshot, keys::FirstKeys};
use crate::{Actor, OpenError, StoreError, key::Ring, schema};

/// Name of the database in the data directory.
pub const DATABASE_FILE: &str = "control.db";

/// Held locked while a node runs; its content means nothing.
const LOCK_FILE: &str = "control.lock";

/// Longest wait for the other connection of this process. Writes take milliseconds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// A write-ahead log that grew beyond this is cut back at the next checkpoint.
const WAL_LIMIT_BYTES: i64 = 16 * 1024 * 1024;

/// Handle to the control state of a node. Share it in an `Arc`.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    /// All changes; held for the length of one transaction.
    writer: Mutex<Connection>,
    /// Reads, which do not wait for a writer's fsync. Read-only by its open flags.
    reader: Mutex<Connection>,
    /// Valid keys; swapped under the writer's lock after keys changed.
    ring: ArcSwap<Ring>,
    /// Keeps the advisory lock until the store is dropped or the process dies.
    _lock: File,
}

impl Store {
    /// Opens the store in a data directory, making both if absent, and brings the schema up to date.
    ///
    /// # Errors
    /// [`OpenError`]: the path cannot be used, another node uses it, or what is there is not (any more) ours.
    pub fn open(data_dir: &Path) -> Result<Self, OpenError> {
        let at = |path: &Path| {
            let path = path.display().to_string();
            move |source| OpenError::Path { path, source }
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(data_dir)
            .map_err(at(data_dir))?;
        let lock = lock(&data_dir.join(LOCK_FILE))?;
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

        let ring = keys::load_ring(&writer)?;
        let store = Self {
            path,
            writer: Mutex::new(writer),
            reader: Mutex::new(reader),
            ring: ArcSwap::from_pointee(ring),
            _lock: lock,
        };
        store.quick_check()?;
        Ok(store)
    }

    /// Where the database lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves what the write-ahead log holds into the database file, so that the file alone is a whole copy. Waits
    /// for the writer; a reader in another process can keep a part of it in the log.
    ///
    /// # Errors
    /// [`StoreError`] when the disk fails; nothing is lost then.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        let writer = self.writer.lock();
        // The answer says how many pages were moved, which nobody needs to know.
        writer.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()))?;
        Ok(())
    }

    /// Makes a change and writes it down, both or neither. A closure that answers no [`Change`] found nothing
    /// to do and must have done nothing.
    fn mutate<T>(
        &self,
        actor: &Actor,
        change: impl FnOnce(&Transaction<'_>) -> Result<(T, Option<Change>), StoreError>,
    ) -> Result<T, StoreError> {
        let mut writer = self.writer.lock();
        let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let value = apply(&transaction, actor, change)?;
        transaction.commit()?;
        Ok(value)
    }

    /// As [`Self::mutate`] for changes of keys: [`Self::verify`] knows of the change before this returns.
    fn mutate_keys<T>(
        &self,
        actor: &Actor,
        change: impl FnOnce(&Transaction<'_>) -> Result<(T, Option<Change>), StoreError>,
    ) -> Result<T, StoreError> {
        let mut writer = self.writer.lock();
        let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let value = apply(&transaction, actor, change)?;
        // Read before the commit, so that nothing can fail between the commit and the swap.
        let ring = keys::load_ring(&transaction)?;
        transaction.commit()?;
        // Still under the writer's lock: an older ring never replaces a newer one.
        self.ring.store(Arc::new(ring));
        Ok(value)
    }

    /// Runs reads that must agree with each other.
    fn read<T>(
        &self,
        query: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut reader = self.reader.lock();
        let transaction = reader.transaction_with_behavior(TransactionBehavior::Deferred)?;
        query(&transaction)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // SQLite does this when its last connection closes, but ours is the reader's, which may not write. The next
        // start finds everything in the log otherwise.
        let _ = self.checkpoint();
    }
}

fn apply<T>(
    transaction: &Transaction<'_>,
    actor: &Actor,
    change: impl FnOnce(&Transaction<'_>) -> Result<(T, Option<Change>), StoreError>,
) -> Result<T, StoreError> {
    let (value, change) = change(transaction)?;
    if let Some(change) = change {
        change.record(transaction, actor)?;
    }
    Ok(value)
}

fn lock(path: &Path) -> Result<File, OpenError> {
    let at = |source| OpenError::Path {
        path: path.display().to_string(),
        source,
    };
    let file = owner_only(path).map_err(at)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(OpenError::InUse {
            path: path.parent().unwrap_or(path).display().to_string(),
        }),
        Err(fs::TryLockError::Error(source)) => Err(at(source)),
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
