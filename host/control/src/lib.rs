//! The control store: what an operator decided, and who decided it.
//!
//! Owns apps, keys, plugins and their immutable versions, bindings, which version is active, and the audit
//! log: of one node in an SQLite file of its data directory, of a cluster in a PostgreSQL database. Knows neither the sandbox nor HTTP: hooks and scopes are
//! words here, artifacts are bytes.
//!
//! Invariants:
//! - every change is one transaction together with its audit entry, on disk before the call returns, and the changes
//!   of all nodes that share a database are in one order;
//! - a version never changes, numbers of a plugin only rise, the audit log only grows (the schema enforces all three);
//! - no key is stored, only its hash; the secret that signs an app's tokens is, and leaves for the node alone.
//!
//! All calls block, on the disk or on the network for a bounded time; async callers go through `spawn_blocking`. The
//! exceptions are [`Store::verify`], which only reads memory, and [`Store::changed`].

mod error;
mod key;
mod names;
mod revision;
mod schema;
mod store;
mod time;
mod values;

pub use self::{
    error::{OpenError, StoreError},
    key::{Key, KeyRole, NewKey, Secret, Verified},
    names::{AppName, FailurePolicy, Hook, Isolation, PluginName, Scope},
    revision::Revision,
    store::{
        BadPostgres, Copied, DATABASE_FILE, FirstKeys, Heard, NodeReport, PostgresConfig,
        PostgresSettings, Snapshot, State, Store,
    },
    time::Timestamp,
    values::{
        Activation, Actor, App, AppSecret, AuditEntry, AuditQuery, Binding, BindingRequest, Bound,
        DesiredBinding, DesiredState, Digest, MAX_APPS, MAX_ARTIFACT_BYTES, MAX_PAGE, NewApp,
        NewVersion, Page, Plugin, Uploaded, Version,
    },
};
