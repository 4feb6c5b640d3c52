//! What outlives instances: the state and the metrics of every plugin, shared by all its instances on the node.
//!
//! One [`Kept`] per plugin and app, which its units hold for their instances. So a host function needs no key to find
//! its plugin's things, and a plugin has no way to name another's (threat model W5).

use std::sync::Arc;

use prometheus_client::registry::Registry;
use tidegate_realtime::ids::AppId;

use super::{
    metrics::{
        CustomCollector,
        series::{CustomMetrics, PluginMetrics},
    },
    state::{
        StateCollector,
        store::{PluginState, StateStore},
    },
};
use crate::{clock::Clock, limits::StateQuotas};

/// The things of one plugin in one app.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) state: Arc<PluginState>,
    pub(crate) metrics: Arc<PluginMetrics>,
}

/// The things of all plugins.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) state: Arc<StateStore>,
    pub(crate) metrics: Arc<CustomMetrics>,
}

impl Keeper {
    pub(crate) fn new(clock: &Clock, quotas: StateQuotas) -> Self {
        Self {
            state: Arc::new(StateStore::new(clock.clone(), quotas)),
            metrics: Arc::default(),
        }
    }

    pub(crate) fn of(&self, app: &AppId, plugin: &Arc<str>) -> Kept {
        Kept {
            state: self.state.of(app, plugin),
            metrics: self.metrics.of(app, plugin),
        }
    }

    /// Adds what plugins keep to a registry.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(StateCollector(Arc::clone(&self.state))));
        registry.register_collector(Box::new(CustomCollector(Arc::clone(&self.metrics))));
    }
}
