//! One connection to PostgreSQL, used like a connection to a file: a call waits for its answer.
//!
//! Owns the deadline of every call and the translation of rows and errors. Invariants: no call waits longer than its
//! connection's [`Limits`] say; a connection that missed a deadline, or whose transaction did not end in good order, is not used
//! again.

use std::{
    cell::Cell as Flag,
    future::{Future, poll_fn},
    sync::Arc,
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::Notify,
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};
use tokio_postgres::{
    AsyncMessage, Client, Error,
    error::SqlState,
    types::{ToSql, Type},
};

use super::config::{CONNECT_TIMEOUT, PostgresConfig};
use crate::{
    StoreError,
    store::db::{Cell, Row, Transaction, Value},
};

/// Hosts of one address that are waited for.
const MAX_HOSTS: u32 = 3;

/// How long things may take on a connection.
#[derive(Debug)]
struct Limits {
    /// Longest wait for the answer to a query. The server gives up on it a little earlier, and says so.
    call: Duration,
    /// Longest time from the begin of a transaction to its end.
    transaction: Duration,
    /// Longest work of the server on a query, waiting for other nodes' changes included.
    statement: &'static str,
    /// After so long without a word in the middle of a change, the server undoes it: a node that was stopped there
    /// would keep the others from changing anything.
    idle: &'static str,
}

/// Of calls, for which somebody waits.
static CALL_LIMITS: Limits = Limits {
    call: Duration::from_secs(6),
    transaction: Duration::from_secs(10),
    statement: "5s",
    idle: "10s",
};

/// Of what is done once and cannot be done in parts: a migration that rewrites a large table, a store that is copied.
/// The server's own limit is for a client that went away meanwhile.
static LONG_LIMITS: Limits = Limits {
    call: Duration::from_secs(900),
    transaction: Duration::from_secs(900),
    statement: "900s",
    idle: "60s",
};

/// What nodes tell each other of changes on.
const CHANNEL: &str = "tidegate_control";

/// What a connection is for.
#[derive(Debug)]
pub(super) enum Purpose {
    Queries,
    /// Something that may take minutes.
    Long,
    /// Hears of changes; told each time.
    Listening(Arc<Notify>),
}

/// An open connection; closed on drop.
#[derive(Debug)]
pub(in crate::store) struct Session {
    client: Client,
    runtime: Handle,
    schema: String,
    limits: &'static Limits,
    /// Moves the bytes; ends with the session, also while an answer is outstanding.
    connection: JoinHandle<()>,
    /// When the transaction has to have ended.
    deadline: Flag<Instant>,
    /// Not to be used again.
    is_broken: Flag<bool>,
}

/// How a transaction reads.
#[derive(Debug, Clone, Copy)]
pub(super) enum Mode {
    /// Each statement sees what is there by then; for changes, which come one after the other.
    Change,
    /// All see the same.
    Read,
}

impl Session {
    /// Connects and prepares the connection.
    pub(super) async fn open(
        config: &PostgresConfig,
        runtime: &Handle,
        purpose: Purpose,
    ) -> Result<Self, StoreError> {
        let connecting = async {
            let (client, mut connection) = config
                .config
                .connect(config.tls.clone())
                .await
                .map_err(away)?;
            let schema = config.schema.clone();
            let (limits, listening) = match &purpose {
                Purpose::Queries => (&CALL_LIMITS, String::new()),
                Purpose::Long => (&LONG_LIMITS, String::new()),
                Purpose::Listening(_) => (&CALL_LIMITS, format!("LISTEN {CHANNEL};")),
            };
            let ours = schema.clone();
            let task = runtime.spawn(async move {
                // Ends when the connection does, whose user learns that by itself.
                while let Some(Ok(message)) = poll_fn(|ctx| connection.poll_message(ctx)).await {
                    if let (AsyncMessage::Notification(told), Purpose::Listening(changed)) =
                        (message, &purpose)
                        && told.payload() == ours
                    {
                        changed.notify_one();
                    }
                }
                if let Purpose::Listening(changed) = &purpose {
                    // Something may have been missed.
                    changed.notify_one();
                }
            });
            let session = Self {
                client,
                runtime: runtime.clone(),
                connection: task,
                deadline: Flag::new(Instant::now() + limits.transaction),
                is_broken: Flag::new(false),
                schema,
                limits,
            };
            let Limits {
                statement, idle, ..
            } = limits;
            let settings = format!(
                "SET search_path TO \"{}\"; SET statement_timeout = '{statement}'; SET lock_timeout = 0;
                 SET idle_in_transaction_session_timeout = '{idle}';
                 SET client_min_messages = 'warning'; {listening}",
                session.schema
            );
            session
                .client
                .batch_execute(&settings)
                .await
                .map_err(away)?;
            Ok(session)
        };
        // Several hosts are tried one after the other.
        let hosts = u32::try_from(config.config.get_hosts().len()).unwrap_or(1);
        let patience = CONNECT_TIMEOUT * hosts.clamp(1, MAX_HOSTS);
        match timeout(patience, connecting).await {
            Ok(opened) => opened,
            Err(_) => Err(StoreError::away(format!(
                "no connection within {} s",
                patience.as_secs()
            ))),
        }
    }

    pub(super) fn is_usable(&self) -> bool {
        !self.is_broken.get() && !self.client.is_closed()
    }

    /// Waits until the server or the network ends the connection.
    pub(super) async fn ended(mut self) {
        // However it ended.
        let _ = (&mut self.connection).await;
    }

    pub(super) fn schema(&self) -> &str {
        &self.schema
    }

    /// Starts a transaction.
    pub(super) fn begin(&self, mode: Mode) -> Result<(), StoreError> {
        self.deadline.set(Instant::now() + self.limits.transaction);
        self.batch(match mode {
            Mode::Change => "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE",
            Mode::Read => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        })
    }

    /// Runs the work of a transaction that was begun, and ends it: by a commit when it succeeded.
    pub(super) fn finish<T>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        // A panic leaves the transaction open; so does an error that the rollback cannot follow.
        self.is_broken.set(true);
        let done = work(&Transaction::Postgres(self));
        match done {
            Ok(value) => {
                self.block_on(self.client.batch_execute("COMMIT")).map_err(
                    |error| match error {
                        // Whether the server had done it before the connection broke, nobody knows.
                        StoreError::Away { why } => StoreError::Unknown { why },
                        other => other,
                    },
                )?;
                self.is_broken.set(false);
                Ok(value)
            }
            Err(error) => {
                if !self.client.is_closed()
                    && !matches!(error, StoreError::Away { .. })
                    && self.block_on(self.client.batch_execute("ROLLBACK")).is_ok()
                {
                    self.is_broken.set(false);
                }
                Err(error)
            }
        }
    }

    /// Tells the other nodes, once the transaction is committed.
    pub(in crate::store) fn notify(&self) -> Result<(), StoreError> {
        self.query(
            "SELECT pg_notify(?1, ?2)",
            &[CHANNEL.into(), (&self.schema).into()],
        )?;
        Ok(())
    }

    /// Runs statements without parameters.
    pub(in crate::store) fn batch(&self, sql: &str) -> Result<(), StoreError> {
        self.block_on(self.client.batch_execute(sql))
    }

    pub(in crate::store) fn execute(
        &self,
        sql: &str,
        params: &[Value<'_>],
    ) -> Result<u64, StoreError> {
        let sql = sql.replace('?', "$");
        self.block_on(self.client.execute_typed(&sql, &typed(params)))
    }

    pub(in crate::store) fn query(
        &self,
        sql: &str,
        params: &[Value<'_>],
    ) -> Result<Vec<Row>, StoreError> {
        let sql = sql.replace('?', "$");
        let rows = self.block_on(self.client.query_typed(&sql, &typed(params)))?;
        rows.iter().map(row).collect()
    }

    fn block_on<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, StoreError> {
        let deadline = self.deadline.get().min(Instant::now() + self.limits.call);
        let answer = self
            .runtime
            .block_on(async { timeout_at(deadline, call).await });
        match answer {
            Ok(answer) => answer.map_err(failed),
            Err(_) => {
                self.is_broken.set(true);
                Err(StoreError::away("no answer in time"))
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Parameters with the types that the schema gives their columns.
fn typed<'a>(params: &'a [Value<'_>]) -> Vec<(&'a (dyn ToSql + Sync), Type)> {
    let params = params.iter().map(|value| match value {
        Value::Int(number) => (number as &(dyn ToSql + Sync), Type::INT8),
        Value::Text(text) => (text as _, Type::TEXT),
        Value::Bytes(bytes) => (bytes as _, Type::BYTEA),
    });
    params.collect()
}

fn row(row: &tokio_postgres::Row) -> Result<Row, StoreError> {
    let bad = |_: Error| StoreError::corrupt("a row has a bad value");
    let cells = (0..row.len()).map(|column| {
        let found = row.columns()[column].type_();
        let cell = if *found == Type::INT8 {
            row.try_get::<_, Option<i64>>(column)
                .map_err(bad)?
                .map(Cell::Int)
        } else if *found == Type::INT4 {
            let number: Option<i32> = row.try_get(column).map_err(bad)?;
            number.map(|number| Cell::Int(number.into()))
        } else if *found == Type::BOOL {
            let is: Option<bool> = row.try_get(column).map_err(bad)?;
            is.map(|is| Cell::Int(is.into()))
        } else if *found == Type::TEXT {
            row.try_get::<_, Option<String>>(column)
                .map_err(bad)?
                .map(Cell::Text)
        } else if *found == Type::BYTEA {
            row.try_get::<_, Option<Vec<u8>>>(column)
                .map_err(bad)?
                .map(Cell::Bytes)
        } else if *found == Type::VOID {
            None
        } else {
            return Err(StoreError::corrupt(format!("a column has type {found}")));
        };
        Ok(cell.unwrap_or(Cell::Null))
    });
    Ok(Row(cells.collect::<Result<_, _>>()?))
}

/// What a failed query means.
fn failed(error: Error) -> StoreError {
    let Some(code) = error.code() else {
        return away(error);
    };
    if *code == SqlState::DISK_FULL {
        return StoreError::Full;
    }
    if *code == SqlState::DATA_CORRUPTED || *code == SqlState::INDEX_CORRUPTED {
        return StoreError::corrupt("PostgreSQL finds its data damaged");
    }
    // The server ends (57P0x), has no room (53xxx), was told to read only (25006), or took too long (57014).
    let class = code.code().get(..2).unwrap_or_default();
    let is_away = ["08", "53", "57"].contains(&class)
        || *code == SqlState::READ_ONLY_SQL_TRANSACTION
        || *code == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT;
    if is_away {
        return away(error);
    }
    StoreError::Unavailable(Box::new(Told(describe(&error))))
}

/// The database cannot be worked with; the text says what it or the system said.
fn away(error: Error) -> StoreError {
    let why = describe(&error);
    drop(error);
    StoreError::away(why)
}

/// What an error says, without what was asked: that can contain values.
fn describe(error: &Error) -> String {
    if let Some(told) = error.as_db_error() {
        return format!("{} (SQLSTATE {})", told.message(), told.code().code());
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Told(String);
