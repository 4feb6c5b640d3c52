//! What outlives instances: the state and the metrics of every plugin, shared by all its instances on the node.
//!
//! One [`Kept`] per plugin and app, which its units hold for their instances. So a host function needs no key to find
//! its plugin's things, and a plugin has no way to name another's (threat model W5).

use std::sync::{Arc, OnceLock};

use prometheus_client::registry::Registry;
use tidegate_realtime::{ids::AppId, presence::PresenceView};

use super::{
    metrics::{
        CustomCollector,
        series::{CustomMetrics, PluginMetrics},
    },
    state::{
        StateCollector,
        store::{PluginState, StateStore},
    },
    store::{PluginStore, StoreDoor},
};
use crate::{clock::Clock, limits::StateQuotas};

/// The things of one plugin in one app.
pub(crate) struct Kept {
    pub(crate) state: Arc<PluginState>,
    pub(crate) metrics: Arc<PluginMetrics>,
    pub(crate) presence: PresenceWindow,
    pub(crate) store: PluginStore,
}

/// Where the node's presence is seen, once there is a node.
pub(crate) type PresenceWindow = Arc<OnceLock<Arc<dyn PresenceView>>>;

/// The things of all plugins.
pub(crate) struct Keeper {
    pub(crate) state: Arc<StateStore>,
    pub(crate) metrics: Arc<CustomMetrics>,
    pub(crate) presence: PresenceWindow,
    pub(crate) store: StoreDoor,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").finish_non_exhaustive()
    }
}

impl Keeper {
    pub(crate) fn new(clock: &Clock, quotas: StateQuotas) -> Self {
        Self {
            state: Arc::new(StateStore::new(clock.clone(), quotas)),
            metrics: Arc::default(),
            presence: Arc::default(),
            store: StoreDoor::default(),
        }
    }

    pub(crate) fn of(&self, app: &AppId, plugin: &Arc<str>) -> Kept {
        Kept {
            state: self.state.of(app, plugin),
            metrics: self.metrics.of(app, plugin),
            presence: Arc::clone(&self.presence),
            store: PluginStore::new(&self.store, app, plugin),
        }
    }

    /// Adds what plugins keep to a registry.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(StateCollector(Arc::clone(&self.state))));
        registry.register_collector(Box::new(CustomCollector(Arc::clone(&self.metrics))));
    }
}
