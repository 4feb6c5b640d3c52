//! What the host measures of its own process, for `info` and for the other nodes.
//!
//! The host measures and tells ([`Node::tell_process`], [`Node::tell_metrics`]); this keeps the last of it. Figures of
//! the process go out with every announcement; the many metrics go out once, when they are new, and the others keep
//! them.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tidegate_protocol::server_api::{NodeMetrics, ProcessInfo};

use super::Node;
use crate::ids::AppId;

/// Metrics in one report; what is beyond them in the order of their names is left out.
pub const MAX_METRICS: usize = 256;

/// Longest name of a metric in a report.
pub const MAX_METRIC_NAME_BYTES: usize = 128;

#[derive(Debug, Default)]
pub(super) struct Vitals {
    told: Mutex<Told>,
    /// Whether there are metrics that not every node was told of yet.
    has_news: AtomicBool,
}

#[derive(Debug, Clone, Default)]
struct Told {
    process: Option<ProcessInfo>,
    metrics: Option<NodeMetrics>,
}

/// Whether figures may be seen by all nodes and apps.
pub(crate) fn is_sound(metrics: &NodeMetrics) -> bool {
    metrics.items.len() <= MAX_METRICS
        && metrics
            .items
            .keys()
            .all(|name| name.len() <= MAX_METRIC_NAME_BYTES)
}

impl Node {
    /// Keeps what the process uses now.
    pub fn tell_process(&self, process: ProcessInfo) {
        self.vitals.told.lock().process = Some(process);
    }

    /// Keeps what was counted over the last interval: at most [`MAX_METRICS`], finite and with short names.
    pub fn tell_metrics(&self, mut metrics: NodeMetrics) {
        metrics
            .items
            .retain(|name, value| name.len() <= MAX_METRIC_NAME_BYTES && value.is_finite());
        if let Some(first_left_out) = metrics.items.keys().nth(MAX_METRICS).cloned() {
            metrics.items.split_off(&first_left_out);
        }
        self.vitals.told.lock().metrics = Some(metrics);
        self.vitals.has_news.store(true, Ordering::Relaxed);
    }

    pub(super) fn process(&self) -> Option<ProcessInfo> {
        self.vitals.told.lock().process.clone()
    }

    pub(super) fn own_metrics(&self) -> Option<NodeMetrics> {
        self.vitals.told.lock().metrics.clone()
    }

    /// The metrics, if they were not asked for since they were told.
    pub(crate) fn new_metrics(&self) -> Option<NodeMetrics> {
        let has_news = self.vitals.has_news.swap(false, Ordering::Relaxed);
        has_news.then(|| self.own_metrics()).flatten()
    }
}

/// Whether an app may see figures of the whole node, which are of all apps.
pub(super) fn sees_the_node(app: &AppId) -> bool {
    *app == AppId::default_app()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_report_of_strangers_has_bounds() {
        let with = |names: Vec<String>| NodeMetrics {
            interval: 60.0,
            items: names
                .into_iter()
                .map(|name| (name, 1.0))
                .collect::<BTreeMap<_, _>>(),
        };
        let many = |number: usize| (0..number).map(|index| format!("m{index}")).collect();
        assert!(is_sound(&with(many(MAX_METRICS))));
        assert!(!is_sound(&with(many(MAX_METRICS + 1))));
        assert!(is_sound(&with(vec!["n".repeat(MAX_METRIC_NAME_BYTES)])));
        assert!(!is_sound(&with(vec![
            "n".repeat(MAX_METRIC_NAME_BYTES + 1)
        ])));
    }
}
