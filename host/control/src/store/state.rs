//! What nodes follow: everything that decides what they do, read at one moment.

use std::sync::Arc;

use super::{Store, apps::created_apps, bindings::desired_state, db::Transaction, keys::load_ring};
use crate::{AppSecret, DesiredState, StoreError};

/// All that a node runs by.
#[derive(Debug)]
pub struct State {
    /// Changes with every change of the store, from whichever node. Says no more: after a backup was restored it can
    /// be smaller than before.
    pub revision: i64,
    pub apps: Vec<AppSecret>,
    pub desired: DesiredState,
}

impl Store {
    /// Which change was the last; what [`State::revision`] says.
    pub fn revision(&self) -> Result<i64, StoreError> {
        self.read(revision)
    }

    /// Reads all that a node runs by. [`Self::verify`] knows the keys of the same moment from then on.
    pub fn follow(&self) -> Result<State, StoreError> {
        self.backend.read_between_changes(
            |transaction| {
                let state = State {
                    revision: revision(transaction)?,
                    apps: created_apps(transaction)?,
                    desired: desired_state(transaction)?,
                };
                Ok((state, load_ring(transaction)?))
            },
            |(state, ring)| {
                self.ring.store(Arc::new(ring));
                state
            },
        )
    }

    /// Keeps what [`Self::follow`] answered on this node's disk, for a start at which the database is away. Does
    /// nothing for a store of one node. A disk that does not take it is told of in the log.
    pub fn remember(&self, state: &State) {
        if let Some(last_good) = &self.last_good {
            last_good.keep(state, &self.ring.load());
        }
    }

    /// What was remembered last, for a node whose database is away; [`Self::verify`] knows the keys of that moment
    /// already. `None` when nothing was, for another database, or for a store of one node.
    pub fn remembered(&self) -> Option<State> {
        Some(self.last_good.as_ref()?.load()?.0)
    }
}

/// The audit log has an entry for every change, and only grows.
pub(super) fn revision(transaction: &Transaction<'_>) -> Result<i64, StoreError> {
    let row = transaction.query_one("SELECT coalesce(max(id), 0) FROM audit", &[])?;
    row.get(0)
}
