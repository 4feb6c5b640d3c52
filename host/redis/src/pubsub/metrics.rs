//! What the receiving side counts.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Counters of all connections for subscriptions. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct PubSubMetrics {
    /// Connections that stand.
    pub(super) connections: Gauge,
    pub(super) reconnects: Family<EndLabel, Counter>,
    pub(super) probes: Family<ProbeLabel, Counter>,
    pub(super) messages: Counter,
    pub(super) refused: Counter,
    pub(super) moved: Counter,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct EndLabel {
    pub(super) reason: End,
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(
    non_camel_case_types,
    reason = "label values are written as they are named"
)]
pub(super) enum End {
    /// The server or the network closed it.
    closed,
    /// A probe did not come back.
    stalled,
    /// It said something that is not pub/sub.
    nonsense,
    /// The sentinels name another primary.
    replaced,
    /// The server has left the Cluster, or the node stops.
    released,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ProbeLabel {
    pub(super) outcome: ProbeOutcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(
    non_camel_case_types,
    reason = "label values are written as they are named"
)]
pub(super) enum ProbeOutcome {
    published,
    refused,
    answered,
    lost,
}

impl PubSubMetrics {
    /// Names start with `tidegate_engine`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("tidegate_engine");
        registry.register(
            "pubsub_connections",
            "Connections to Redis that hear subscriptions",
            metrics.connections.clone(),
        );
        registry.register(
            "pubsub_disconnects",
            "Connections for subscriptions that ended; each is made anew",
            metrics.reconnects.clone(),
        );
        registry.register(
            "probes",
            "Delivery probes: published, refused by Redis, back, or lost with their connection",
            metrics.probes.clone(),
        );
        registry.register(
            "pubsub_messages",
            "Messages heard from Redis",
            metrics.messages.clone(),
        );
        registry.register(
            "pubsub_refused",
            "Subscribe commands that Redis refused",
            metrics.refused.clone(),
        );
        registry.register(
            "pubsub_moved",
            "Subscriptions that moved with their slot to another server",
            metrics.moved.clone(),
        );
        metrics
    }

    pub(super) fn count_end(&self, reason: End) {
        self.reconnects.get_or_create(&EndLabel { reason }).inc();
    }

    pub(super) fn count_probe(&self, outcome: ProbeOutcome) {
        self.probes.get_or_create(&ProbeLabel { outcome }).inc();
    }
}
