//! What the nodes' talk is counted by.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::Counter, family::Family, gauge::ConstGauge},
    registry::Registry,
};

use super::Cluster;
use crate::metrics::ReasonLabel;

/// Queries of other nodes that are answered at a time; each may read all channels of an app.
const MAX_ANSWERING: usize = 64;

/// Counters of a node's part in its cluster. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct ClusterMetrics {
    /// Asks that were sent to the other nodes.
    pub(super) asks: Counter,
    /// Nodes that did not answer one in time.
    pub(super) unanswered: Counter,
    /// Orders sent again to a node.
    pub(super) resent: Counter,
    /// Messages that nobody waited for and that did not leave.
    pub(super) unsent: Counter,
    bad: Family<ReasonLabel, Counter>,
    pub(super) answering: Answering,
}

impl ClusterMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("tidegate_cluster");
        registry.register(
            "asks",
            "Orders and questions sent to the other nodes",
            metrics.asks.clone(),
        );
        registry.register(
            "unanswered",
            "Nodes that did not answer an order or a question in time",
            metrics.unanswered.clone(),
        );
        registry.register(
            "resent",
            "Orders sent again to a node that had not answered",
            metrics.resent.clone(),
        );
        registry.register(
            "unsent",
            "Messages to other nodes that could not be sent",
            metrics.unsent.clone(),
        );
        registry.register(
            "bad_messages",
            "Messages of other nodes that were not understood, by reason",
            metrics.bad.clone(),
        );
        metrics
    }

    pub(super) fn count_bad(&self, reason: &'static str) {
        self.bad.get_or_create(&ReasonLabel { reason }).inc();
    }
}

#[cfg(test)]
impl ClusterMetrics {
    pub(crate) fn unanswered(&self) -> u64 {
        self.unanswered.get()
    }

    pub(crate) fn bad(&self, reason: &'static str) -> u64 {
        self.bad.get_or_create(&ReasonLabel { reason }).get()
    }
}

/// Queries that are being answered.
#[derive(Debug, Clone, Default)]
pub(super) struct Answering(Arc<AtomicUsize>);

/// One of them.
#[must_use = "dropping it says that the query is answered"]
pub(super) struct Turn(Arc<AtomicUsize>);

impl Answering {
    pub(super) fn begin(&self) -> Option<Turn> {
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        let turn = Turn(Arc::clone(&self.0));
        (before < MAX_ANSWERING).then_some(turn)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Shows how many nodes are alive.
#[derive(Debug)]
pub struct ClusterCollector(pub Arc<Cluster>);

impl Collector for ClusterCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let nodes = i64::try_from(self.0.num_nodes()).unwrap_or(i64::MAX);
        let gauge = ConstGauge::new(nodes);
        let metric = encoder.encode_descriptor(
            "tidegate_cluster_nodes",
            "Nodes that are alive, this one included",
            None,
            gauge.metric_type(),
        )?;
        gauge.encode(metric)
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn the_rendered_text_has_conventional_names() {
        let mut registry = Registry::default();
        let metrics = ClusterMetrics::register(&mut registry);
        metrics.asks.inc();
        metrics.count_bad("syntax");
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "tidegate_cluster_asks_total 1",
            "tidegate_cluster_unanswered_total 0",
            "tidegate_cluster_resent_total 0",
            "tidegate_cluster_unsent_total 0",
            "tidegate_cluster_bad_messages_total{reason=\"syntax\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }
}
