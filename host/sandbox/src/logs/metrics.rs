//! What the plugins' logs take, for Prometheus.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

use super::Shared;

/// Reads the logs' counters when metrics are asked for.
#[derive(Debug)]
pub(super) struct LogCollector(pub(super) Arc<Shared>);

impl Collector for LogCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let shared = &self.0;
        let evicted = ConstCounter::new(shared.evicted.load(Ordering::Relaxed));
        evicted.encode(encoder.encode_descriptor(
            "tidegate_plugin_log_lines_evicted",
            "Log lines of plugins that gave way to those of others",
            None,
            evicted.metric_type(),
        )?)?;
        let mut gauge = |name: &str, help: &str, value: usize| {
            let metric = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
        };
        gauge(
            "tidegate_plugin_log_bytes",
            "What the log lines of plugins that are kept take",
            shared.bytes.load(Ordering::Relaxed),
        )?;
        gauge(
            "tidegate_plugin_log_followers",
            "Followers of plugins' logs",
            shared.followers.load(Ordering::Relaxed),
        )
    }
}
