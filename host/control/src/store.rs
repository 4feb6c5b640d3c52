//! The store itself: which database it has, and the one way to change anything.
//!
//! Each folder module adds the calls of one kind of object, in SQL that both databases know ([`db`]). None of them
//! commits: a change goes through [`Store::mutate`], which writes the audit entry in the same transaction.

mod activations;
mod apps;
mod audit;
mod bindings;
mod check;
mod copy;
mod db;
mod keys;
mod last_good;
mod plugins;
mod postgres;
mod reports;
mod retention;
mod sqlite;
mod state;
#[cfg(test)]
mod tests;

use std::{
    fs::File,
    path::Path,
    sync::{Arc, LazyLock},
};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use self::{
    audit::Change,
    db::Transaction,
    last_good::{LastGood, NoCopy},
    postgres::Postgres,
    sqlite::Sqlite,
};
pub use self::{
    bindings::Snapshot,
    copy::Copied,
    keys::FirstKeys,
    postgres::{BadPostgres, PostgresConfig, PostgresSettings},
    reports::NodeReport,
    sqlite::DATABASE_FILE,
    state::{Heard, State},
};
use crate::{Actor, OpenError, StoreError, key::Ring};

/// Handle to the control state of a node. Share it in an `Arc`.
#[derive(Debug)]
pub struct Store {
    backend: Backend,
    /// Valid keys; swapped under the writer's lock after keys changed.
    ring: ArcSwap<Ring>,
    /// What this node ran by last; for a shared store alone, since a file is never away.
    last_good: Option<LastGood>,
    /// Keeps the data directory for this process where the backend does not.
    _data_dir: Option<File>,
}

/// Where everything is stored.
#[derive(Debug)]
enum Backend {
    /// A file of this node.
    Sqlite(Box<Sqlite>),
    /// A database that nodes share.
    Postgres(Box<Postgres>),
}

impl Store {
    /// Opens the store in a data directory, making both if absent, and brings the schema up to date.
    ///
    /// # Errors
    /// [`OpenError`]: the path cannot be used, another node uses it, or what is there is not (any more) ours.
    pub fn open(data_dir: &Path) -> Result<Self, OpenError> {
        let sqlite = Sqlite::open(data_dir)?;
        let ring = sqlite.read(keys::load_ring)?;
        sqlite.quick_check()?;
        Ok(Self {
            backend: Backend::Sqlite(Box::new(sqlite)),
            ring: ArcSwap::from_pointee(ring),
            last_good: None,
            _data_dir: None,
        })
    }

    /// Connects to the store that nodes share, and brings its schema up to date. The data directory is this node's
    /// alone; a copy of what runs is kept there. While the database is away, a node that has such a copy gets its
    /// store all the same: reads and changes are refused until the database is back, [`Self::verify`],
    /// [`Self::artifact`] and [`Self::remembered`] answer from the copy.
    ///
    /// # Errors
    /// [`OpenError`]: the data directory cannot be used, the database is away and there is no copy or one that is too
    /// old, or its schema is none that this release may work with.
    pub fn connect(config: PostgresConfig, data_dir: &Path) -> Result<Self, OpenError> {
        Self::connect_with(config, data_dir, postgres::MIGRATIONS)
    }

    /// Connects to the store that nodes share, for a command: nothing is kept on disk and nothing is heard of.
    ///
    /// # Errors
    /// [`OpenError`]: the database is away, or its schema is none that this release may work with.
    pub fn connect_for_a_command(config: PostgresConfig) -> Result<Self, OpenError> {
        let postgres = Postgres::new(config, postgres::MIGRATIONS)?;
        postgres.start().map_err(|error| match error {
            OpenError::Store(StoreError::Away { why }) => OpenError::Unreached { why },
            other => other,
        })?;
        let ring = postgres.read(keys::load_ring)?;
        Ok(Self {
            backend: Backend::Postgres(Box::new(postgres)),
            ring: ArcSwap::from_pointee(ring),
            last_good: None,
            _data_dir: None,
        })
    }

    fn connect_with(
        config: PostgresConfig,
        data_dir: &Path,
        migrations: &'static [postgres::Migration],
    ) -> Result<Self, OpenError> {
        let held = sqlite::take_data_dir(data_dir)?;
        let postgres = Postgres::new(config, migrations)?;
        let last_good = LastGood::new(data_dir, postgres.place(), postgres.max_copy_age());
        let connected = || {
            postgres.start()?;
            Ok(postgres.read(keys::load_ring)?)
        };
        let ring = match connected() {
            Ok(ring) => ring,
            Err(OpenError::Store(StoreError::Away { why } | StoreError::Unknown { why })) => {
                match last_good.load() {
                    Ok((_, ring)) => {
                        tracing::warn!(%why, "the control store is away; the node starts with what it ran by last");
                        ring
                    }
                    Err(NoCopy::Absent) => return Err(OpenError::NoCopy { why }),
                    Err(NoCopy::TooOld { age, limit }) => {
                        return Err(OpenError::CopyTooOld { why, age, limit });
                    }
                }
            }
            Err(error) => return Err(error),
        };
        postgres.listen();
        Ok(Self {
            backend: Backend::Postgres(Box::new(postgres)),
            ring: ArcSwap::from_pointee(ring),
            last_good: Some(last_good),
            _data_dir: Some(held),
        })
    }

    /// Whether other nodes change what is stored too.
    pub fn is_shared(&self) -> bool {
        match self.backend {
            Backend::Sqlite(_) => false,
            Backend::Postgres(_) => true,
        }
    }

    /// Waits for a hint that another node changed something. Hints can get lost; who follows looks at
    /// [`Self::revision`] now and then, too. Never ends for a store of one node.
    pub async fn changed(&self) {
        static NEVER: LazyLock<Notify> = LazyLock::new(Notify::new);
        match &self.backend {
            Backend::Sqlite(_) => NEVER.notified().await,
            Backend::Postgres(postgres) => postgres.changed.notified().await,
        }
    }

    /// Why the database cannot be reached, as the last call found; `None` while all is well.
    pub fn problem(&self) -> Option<String> {
        match &self.backend {
            Backend::Sqlite(_) => None,
            Backend::Postgres(postgres) => postgres.problem(),
        }
    }

    /// Moves what the write-ahead log of a file holds into the file, so that it alone is a whole copy. Waits for the
    /// writer; a reader in another process can keep a part of it in the log.
    ///
    /// # Errors
    /// [`StoreError`] when the disk fails; nothing is lost then.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        match &self.backend {
            Backend::Sqlite(sqlite) => sqlite.checkpoint(),
            Backend::Postgres(_) => Ok(()),
        }
    }

    /// Makes a change and writes it down, both or neither. A closure that answers no [`Change`] found nothing
    /// to do and must have done nothing.
    fn mutate<T>(
        &self,
        actor: &Actor,
        change: impl FnOnce(&Transaction<'_>) -> Result<(T, Option<Change>), StoreError>,
    ) -> Result<T, StoreError> {
        self.backend.write(
            |transaction| apply(transaction, actor, change),
            |value| value,
        )
    }

    /// As [`Self::mutate`] for changes of keys: [`Self::verify`] knows of the change before this returns.
    fn mutate_keys<T>(
        &self,
        actor: &Actor,
        change: impl FnOnce(&Transaction<'_>) -> Result<(T, Option<Change>), StoreError>,
    ) -> Result<T, StoreError> {
        self.backend.write(
            |transaction| {
                let value = apply(transaction, actor, change)?;
                // Read before the commit, so that nothing can fail between the commit and the swap.
                Ok((value, keys::load_ring(transaction)?))
            },
            |(value, ring)| {
                // Still under the writer's lock: an older ring never replaces a newer one.
                self.ring.store(Arc::new(ring));
                value
            },
        )
    }

    /// Runs reads that must agree with each other.
    fn read<T>(
        &self,
        query: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match &self.backend {
            Backend::Sqlite(sqlite) => sqlite.read(query),
            Backend::Postgres(postgres) => postgres.read(query),
        }
    }
}

impl Backend {
    /// Makes a change; `committed` is called while this node can make no other one.
    fn write<T, U>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
        committed: impl FnOnce(T) -> U,
    ) -> Result<U, StoreError> {
        match self {
            Self::Sqlite(sqlite) => sqlite.write(work, committed),
            Self::Postgres(postgres) => postgres.write(work, committed),
        }
    }

    /// As [`Self::write`] for what may take minutes; who waits for it is an operator.
    fn write_at_length<T, U>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
        committed: impl FnOnce(T) -> U,
    ) -> Result<U, StoreError> {
        match self {
            Self::Sqlite(sqlite) => sqlite.write(work, committed),
            Self::Postgres(postgres) => postgres.write_at_length(work, committed),
        }
    }

    /// Runs reads that must agree with each other; `read` is called while this node can make no change.
    fn read_between_changes<T, U>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
        read: impl FnOnce(T) -> U,
    ) -> Result<U, StoreError> {
        match self {
            Self::Sqlite(sqlite) => sqlite.write(work, read),
            Self::Postgres(postgres) => postgres.read_between_changes(work, read),
        }
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
        transaction.announce()?;
    }
    Ok(value)
}
