//! What nodes follow: everything that decides what they do, read at one moment.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{Store, apps::created_apps, bindings::desired_state, db::Transaction, keys::load_ring};
use crate::{AppSecret, DesiredState, Revision, StoreError};

/// All that a node runs by.
#[derive(Debug)]
pub struct State {
    /// Which state it is.
    pub revision: Revision,
    pub apps: Vec<AppSecret>,
    pub desired: DesiredState,
}

/// How well a node knows what a shared store says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// How long ago the store last said that what runs is what it has.
    pub ago: Duration,
    /// Keys that were revoked meanwhile, apps that were deleted, count for longer than the operator allows.
    pub is_too_long: bool,
}

impl Store {
    /// Which change was the last; what [`State::revision`] says.
    pub fn revision(&self) -> Result<Revision, StoreError> {
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

    /// Keeps what [`Self::follow`] answered on this node's disk, with every artifact that it names, for a start at which
    /// the database is away. Does nothing for a store of one node. Answers whether such a start finds all of it; if not,
    /// the log says why, and what was kept before is kept still.
    pub fn remember(&self, state: &State) -> bool {
        let Some(last_good) = &self.last_good else {
            return true;
        };
        let bindings = state.desired.bindings.iter();
        let named: BTreeMap<_, _> = bindings.map(|binding| (binding.digest, binding)).collect();
        for (digest, binding) in named {
            if last_good.has(&digest) {
                continue;
            }
            match self.artifact(&digest) {
                Ok(_) if last_good.has(&digest) => {}
                // The disk did not take it, which was told of.
                Ok(_) => return false,
                Err(error) if error.is_away() => {
                    tracing::debug!(%error, "what runs is not kept on disk yet");
                    return false;
                }
                // The store has no better one, so nothing is gained by a copy that is old.
                Err(error) => tracing::error!(
                    %error, app = %binding.app, plugin = %binding.plugin, version = binding.version,
                    "the code of a plugin cannot be kept on disk"
                ),
            }
        }
        last_good.keep(state, &self.ring.load())
    }

    /// What runs is what the store says now. For a store of one node it always is.
    pub fn confirm(&self, revision: &Revision) {
        if let Some(last_good) = &self.last_good {
            last_good.confirm(revision);
        }
    }

    /// How long ago [`Self::confirm`] was called last, also before this start. `None` for a store of one node, and
    /// while a node starts.
    pub fn heard(&self) -> Option<Heard> {
        let last_good = self.last_good.as_ref()?;
        let ago = last_good.age()?;
        let is_too_long = last_good.max_age().is_some_and(|limit| ago > limit);
        Some(Heard { ago, is_too_long })
    }

    /// What was remembered last, for a node whose database is away; [`Self::verify`] knows the keys of that moment
    /// already. `None` when nothing was, for another database, for a store of one node, or when it is too old. The log
    /// names the plugins whose code is missing.
    pub fn remembered(&self) -> Option<State> {
        let last_good = self.last_good.as_ref()?;
        let (state, _) = last_good.load().ok()?;
        last_good.tell_of_missing(&state.desired);
        Some(state)
    }
}

/// The schema makes a new one with every entry of the audit log, which every change has.
fn revision(transaction: &Transaction<'_>) -> Result<Revision, StoreError> {
    let row = transaction.query_one("SELECT revision, change FROM control", &[])?;
    Ok(Revision::new(row.get(0)?, row.get(1)?))
}
