//! Errors of the store: one variant for each thing a caller can do about it.

use std::{error::Error, io, time::Duration};

use rusqlite::ErrorCode;

/// What to do about a database that nobody reaches.
const LOOK_AT: &str = "see that the database runs and takes connections from this machine, and that control.postgres.url is right";

/// The store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory or file cannot be made or read.
    #[error(
        "cannot use {path} for the control store: check that the directory exists and belongs to this user"
    )]
    Path {
        path: String,
        #[source]
        source: std::io::Error,
    },
    /// Another process holds the data directory.
    #[error("{path} is in use by another node: stop it, or give this one its own data directory")]
    InUse { path: String },
    /// The file is somebody else's database.
    #[error("{path} is not a control store: move it away, or name another data directory")]
    Foreign { path: String },
    /// The file was written by a later release.
    #[error(
        "the control store has schema {found}, this release knows up to {known}: run the newer release, or restore a backup"
    )]
    TooNew { found: u32, known: u32 },
    /// The database cannot be brought to the schema of this release.
    #[error(
        "the schema of the control store cannot be made or brought forward ({why}); where it is a right that is missing, a role that may create in the database runs one node of this release once"
    )]
    Migration { why: String },
    /// The database is away, and this node has kept nothing of it to begin with.
    #[error(
        "the control store cannot be reached ({why}), and nothing is kept here to start from: {LOOK_AT}"
    )]
    NoCopy { why: String },
    /// The database is away, and a command has nothing to go on with.
    #[error("the control store cannot be reached ({why}); nothing was changed: {LOOK_AT}")]
    Unreached { why: String },
    /// The database is away, and what this node ran by last is too old to begin with.
    #[error(
        "the control store cannot be reached ({why}), and what this node ran by last is {} old, more than control.postgres.max_copy_age allows ({}): keys that were revoked since would count. Start it when the database answers, or set a larger age",
        hours(.age), hours(.limit)
    )]
    CopyTooOld {
        why: String,
        age: Duration,
        limit: Duration,
    },
    /// The system has no thread for the connections.
    #[error("the connections of the control store cannot be served")]
    Runtime(#[source] io::Error),
    #[error("the control store cannot be opened")]
    Store(#[from] StoreError),
}

/// A call on the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The object does not exist in this app.
    #[error("{what} does not exist")]
    NotFound { what: String },
    /// The request contradicts the present state; the text says what to do first.
    #[error("{why}")]
    Conflict { why: String },
    /// A value is not one that the field may have.
    #[error("{field}: {why}")]
    Invalid { field: &'static str, why: String },
    /// The disk is full. Nothing was changed; reads go on; the next write tries again.
    #[error("the disk of the control store is full; nothing was changed")]
    Full,
    /// What is stored contradicts itself or its checksum.
    #[error("the control store is damaged ({why}): restore it from a backup")]
    Corrupt { why: String },
    /// The database that the nodes share cannot be reached. Nothing was changed; what runs goes on.
    #[error(
        "the control store cannot be reached ({why}); nothing was changed, and what runs goes on"
    )]
    Away { why: String },
    /// A change was stored, or perhaps was; then something failed.
    #[error(
        "the control store failed while the change was stored or right after ({why}): look whether it took place before it is repeated"
    )]
    Unknown { why: String },
    /// The store could not be asked; the same call may succeed later.
    #[error("the control store is unavailable")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
}

impl StoreError {
    pub(crate) fn not_found(what: impl Into<String>) -> Self {
        Self::NotFound { what: what.into() }
    }

    pub(crate) fn conflict(why: impl Into<String>) -> Self {
        Self::Conflict { why: why.into() }
    }

    pub(crate) fn invalid(field: &'static str, why: impl Into<String>) -> Self {
        Self::Invalid {
            field,
            why: why.into(),
        }
    }

    pub(crate) fn away(why: impl Into<String>) -> Self {
        Self::Away { why: why.into() }
    }

    /// What the failure of a call means that came after a change was stored: whatever the call says, something was
    /// changed.
    #[must_use]
    pub fn after_a_change(self) -> Self {
        match self {
            unknown @ Self::Unknown { .. } => unknown,
            Self::Away { why } => Self::Unknown { why },
            other => Self::Unknown {
                why: other.to_string(),
            },
        }
    }

    /// Whether the database may answer the same call later, on its own.
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Away { .. } | Self::Unknown { .. })
    }

    pub(crate) fn corrupt(why: impl Into<String>) -> Self {
        Self::Corrupt { why: why.into() }
    }
}

/// For people: a part of an hour does not matter among days.
fn hours(age: &Duration) -> String {
    let minutes = age.as_secs() / 60;
    if minutes < 120 {
        format!("{minutes} min")
    } else {
        format!("{} h", minutes / 60)
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::corrupt("SQLite finds the file malformed")
            }
            _ => match error {
                // A value in a row is not of the type that the schema promises.
                rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
                | rusqlite::Error::InvalidColumnType(..) => Self::corrupt("a row has a bad value"),
                other => Self::Unavailable(Box::new(other)),
            },
        }
    }
}
