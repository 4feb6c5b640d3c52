//! The control store: what an operator decided, and who decided it.
//!
//! Owns apps, keys, plugins and their immutable versions, bindings, which version is active, and the audit
//! log, in one SQLite file of the data directory. Knows neither the sandbox nor HTTP: hooks and scopes are
//! words here, artifacts are bytes.
//!
//! Invariants:
//! - every change is one transaction together with its audit entry, on disk before the call returns;
//! - a version never changes, numbers of a plugin only rise, the audit log only grows (the schema enforces all three);
//! - no key is stored, only its hash; the secret that signs an app's tokens is, and leaves for the node alone.
//!
//! All calls block on the disk; async callers go through `spawn_blocking`. The exception is
//! [`Store::verify`], which only reads memory.

mod error;
mod key;
mod names;
mod schema;
mod store;
mod time;
mod values;

pub use self::{
    error::{OpenError, StoreError},
    key::{Key, KeyRole, NewKey, Secret, Verified},
    names::{AppName, FailurePolicy, Hook, Isolation, PluginName, Scope},
    store::{DATABASE_FILE, FirstKeys, Snapshot, Store},
    time::Timestamp,
    values::{
        Activation, Actor, App, AppSecret, AuditEntry, AuditQuery, Binding, BindingRequest, Bound,
        DesiredBinding, DesiredState, Digest, MAX_APPS, MAX_ARTIFACT_BYTES, MAX_PAGE, NewApp,
        NewVersion, Page, Plugin, Uploaded, Version,
    },
};
