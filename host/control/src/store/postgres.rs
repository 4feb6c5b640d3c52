//! The store that many nodes share: a PostgreSQL database.
//!
//! Owns the connections: one for changes, one for reads, one that hears of other nodes' changes, each opened when it is
//! needed and again after it broke. Invariants: changes of all nodes come one after the other, since each locks one row
//! first; every call ends within seconds, whatever the database does, but for migrations and copies, which have
//! minutes; a call is repeated by itself only where it had not begun.

mod config;
mod schema;
mod session;
mod tls;

use std::{sync::Arc, time::Duration};

use parking_lot::{Mutex, MutexGuard};
use tokio::{
    runtime::{Builder, Runtime},
    sync::Notify,
    time::Instant,
};

pub use self::config::{BadPostgres, PostgresConfig, PostgresSettings};
pub(super) use self::schema::{MIGRATIONS, Migration};
pub(super) use self::session::Session;
use self::session::{Mode, Purpose};
use super::db::Transaction;
use crate::{OpenError, StoreError};

/// Longest wait for other calls of this node.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);

/// After a failed attempt to connect, others within this time fail at once: calls do not queue up behind attempts.
const CONNECT_PAUSE: Duration = Duration::from_millis(500);

/// Between two attempts to hear of changes again.
const LISTEN_PAUSE: Duration = Duration::from_secs(1);

/// A database and the connections to it.
#[derive(Debug)]
pub(super) struct Postgres {
    config: PostgresConfig,
    migrations: &'static [schema::Migration],
    writer: Mutex<Slot>,
    reader: Mutex<Slot>,
    away: Mutex<Option<Away>>,
    /// Told when another node may have changed something.
    pub(super) changed: Arc<Notify>,
    /// Moves the bytes of the connections. Last, so that they are gone by then; taken when the store is dropped.
    runtime: Option<Runtime>,
}

/// A connection, if there is one.
#[derive(Debug, Default)]
struct Slot {
    session: Option<Session>,
}

/// Why the database could not be reached.
#[derive(Debug)]
struct Away {
    tried_at: Instant,
    why: String,
}

impl Postgres {
    /// Prepares everything; connects to nothing.
    pub(super) fn new(
        config: PostgresConfig,
        migrations: &'static [schema::Migration],
    ) -> Result<Self, OpenError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("control-store")
            .enable_all()
            .build()
            .map_err(OpenError::Runtime)?;
        let changed = Arc::new(Notify::new());
        Ok(Self {
            config,
            migrations,
            writer: Mutex::default(),
            reader: Mutex::default(),
            away: Mutex::default(),
            changed,
            runtime: Some(runtime),
        })
    }

    /// Connects, brings the schema forward and begins to hear of changes.
    pub(super) fn start(&self) -> Result<(), OpenError> {
        let mut slot = self.turn(&self.writer)?;
        let session = self.connect(Purpose::Queries)?;
        if schema::is_behind(&session, self.migrations)? {
            schema::migrate(&self.connect(Purpose::Long)?, self.migrations)?;
        }
        slot.session = Some(session);
        Ok(())
    }

    /// Hears of changes from now on, until the store is dropped.
    pub(super) fn listen(&self) {
        let runtime = self.runtime();
        let handle = runtime.handle().clone();
        let (config, changed) = (self.config.clone(), Arc::clone(&self.changed));
        // Ends with the runtime, which the store owns.
        runtime.spawn(async move {
            loop {
                let purpose = Purpose::Listening(Arc::clone(&changed));
                // A database that is away is told of by the calls; hearing is a hint, for which they do not wait.
                if let Ok(session) = Session::open(&config, &handle, purpose).await {
                    // What was changed in between was not heard of.
                    changed.notify_one();
                    session.ended().await;
                }
                tokio::time::sleep(LISTEN_PAUSE).await;
            }
        });
    }

    /// Makes a change; `committed` is called while this node can make no other one.
    pub(super) fn write<T, U>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
        committed: impl FnOnce(T) -> U,
    ) -> Result<U, StoreError> {
        let ordered = |transaction: &Transaction<'_>| {
            schema::lock(transaction, self.migrations.len())?;
            work(transaction)
        };
        self.run(&self.writer, Mode::Change, ordered, committed)
    }

    /// As [`Self::write`] for what may take minutes, on a connection of its own.
    pub(super) fn write_at_length<T, U>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
        committed: impl FnOnce(T) -> U,
    ) -> Result<U, StoreError> {
        let _turn = self.turn(&self.writer)?;
        let session = self.connect(Purpose::Long)?;
        session.begin(Mode::Change)?;
        let result = session.finish(|transaction| {
            schema::lock(transaction, self.migrations.len())?;
            work(transaction)
        });
        result.map(committed)
    }

    /// Writes something that is no change and needs no order, such as what a node runs.
    pub(super) fn note<T>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.run(&self.reader, Mode::Change, work, |value| value)
    }

    /// Runs reads that must agree with each other.
    pub(super) fn read<T>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.run(&self.reader, Mode::Read, work, |value| value)
    }

    /// As [`Self::read`]; `read` is called while this node can make no change.
    pub(super) fn read_between_changes<T, U>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
        read: impl FnOnce(T) -> U,
    ) -> Result<U, StoreError> {
        self.run(&self.writer, Mode::Read, work, read)
    }

    /// Why the database cannot be reached, if the last call could not.
    pub(super) fn problem(&self) -> Option<String> {
        self.away.lock().as_ref().map(|away| away.why.clone())
    }

    /// Which database this is.
    pub(super) fn place(&self) -> String {
        self.config.place()
    }

    /// How old a copy of it may be.
    pub(super) fn max_copy_age(&self) -> Option<Duration> {
        self.config.max_copy_age()
    }

    fn run<T, U>(
        &self,
        slot: &Mutex<Slot>,
        mode: Mode,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
        done: impl FnOnce(T) -> U,
    ) -> Result<U, StoreError> {
        let mut slot = self.turn(slot)?;
        let session = self.begun(&mut slot, mode)?;
        let result = session.finish(work);
        match &result {
            Ok(_) => *self.away.lock() = None,
            Err(StoreError::Away { why } | StoreError::Unknown { why }) => self.note_away(why),
            Err(_) => {}
        }
        Ok(done(result?))
    }

    fn turn<'a>(&self, slot: &'a Mutex<Slot>) -> Result<MutexGuard<'a, Slot>, StoreError> {
        slot.try_lock_for(TURN_TIMEOUT).ok_or_else(|| {
            StoreError::away(format!(
                "earlier calls had no answer within {} s",
                TURN_TIMEOUT.as_secs()
            ))
        })
    }

    /// A connection in whose transaction nothing has happened yet: the one there is, or a new one.
    fn begun<'a>(&self, slot: &'a mut Slot, mode: Mode) -> Result<&'a Session, StoreError> {
        let held = slot.session.take();
        if let Some(session) = held.filter(Session::is_usable)
            && session.begin(mode).is_ok()
        {
            return Ok(slot.session.insert(session));
        }
        let session = self.connect(Purpose::Queries)?;
        session.begin(mode)?;
        Ok(slot.session.insert(session))
    }

    fn connect(&self, purpose: Purpose) -> Result<Session, StoreError> {
        if let Some(away) = &*self.away.lock()
            && away.tried_at.elapsed() < CONNECT_PAUSE
        {
            return Err(StoreError::away(away.why.clone()));
        }
        let runtime = self.runtime();
        let handle = runtime.handle();
        let opened = handle.block_on(Session::open(&self.config, handle, purpose));
        if let Err(StoreError::Away { why }) = &opened {
            self.note_away(why);
        }
        opened
    }

    fn note_away(&self, why: &str) {
        *self.away.lock() = Some(Away {
            tried_at: Instant::now(),
            why: why.to_owned(),
        });
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("it is taken by drop alone")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // The last handle may go in an asynchronous task, which must not wait.
            runtime.shutdown_background();
        }
    }
}
