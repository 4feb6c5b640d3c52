//! What outlives instances: the state of every plugin, shared by all its instances on the node.
//!
//! One [`Kept`] per plugin and app, handed to each instance when it is made. So a host function needs no key to find
//! its plugin's things, and a plugin has no way to name another's (threat model W5).

use std::sync::Arc;

use tidegate_realtime::ids::AppId;

use super::state::store::{PluginState, StateStore};
use crate::{clock::Clock, limits::StateQuotas};

/// The things of one plugin in one app.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) state: Arc<PluginState>,
}

/// The things of all plugins.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) state: Arc<StateStore>,
}

impl Keeper {
    pub(crate) fn new(clock: &Clock, quotas: StateQuotas) -> Self {
        Self {
            state: Arc::new(StateStore::new(clock.clone(), quotas)),
        }
    }

    pub(crate) fn of(&self, app: &AppId, plugin: &Arc<str>) -> Kept {
        Kept {
            state: self.state.of(app, plugin),
        }
    }
}
