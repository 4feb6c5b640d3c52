//! What the apps' keys use, for Prometheus.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use super::store::{AppUsage, Quota, StateStore};

/// Reads the store when metrics are asked for.
#[derive(Debug)]
pub(crate) struct StateCollector(pub(crate) Arc<StateStore>);

impl Collector for StateCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let all = self.0.usage();
        let mut gauge = |name: &str, help: &str, read: fn(&AppUsage) -> usize| {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for usage in &all {
                let value = ConstGauge::new(i64::try_from(read(usage)).unwrap_or(i64::MAX));
                value.encode(family.encode_family(&[("app", usage.app.as_str())])?)?;
            }
            Ok(())
        };
        gauge(
            "tidegate_plugin_state_keys",
            "Keys that plugins keep in `state`",
            |usage| usage.keys,
        )?;
        gauge(
            "tidegate_plugin_state_bytes",
            "Bytes of the keys that plugins keep in `state`",
            |usage| usage.bytes,
        )?;
        let mut family = encoder.encode_descriptor(
            "tidegate_plugin_state_refused",
            "Operations on `state` refused because a quota was used up",
            None,
            MetricType::Counter,
        )?;
        for usage in &all {
            for (quota, refused) in Quota::ALL.into_iter().zip(usage.refused) {
                if refused > 0 {
                    let labels = [("app", usage.app.as_str()), ("quota", quota.as_str())];
                    ConstCounter::new(refused).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        let counts = &self.0.shared().counts;
        let shared = [
            (
                "sent_keys",
                "Changed keys told to the other nodes",
                &counts.sent_keys,
            ),
            (
                "received_keys",
                "Keys that other nodes told of",
                &counts.received_keys,
            ),
            (
                "deferred_keys",
                "Changed keys that had to wait for another turn to be told to the other nodes, once for each turn",
                &counts.deferred_keys,
            ),
            (
                "unkept_keys",
                "Keys of other nodes, and deletions to tell them of, that the quotas had no room for",
                &counts.unkept,
            ),
            (
                "bad_messages",
                "Messages of other nodes about keys that were not understood, or not believed for their time",
                &counts.bad_messages,
            ),
            (
                "lost_messages",
                "Messages about keys that could not be sent, or came faster than they were merged; they are asked for",
                &counts.lost_messages,
            ),
            (
                "pulls",
                "Questions to other nodes for what did not arrive",
                &counts.pulls,
            ),
        ];
        for (name, help, count) in shared {
            let name = format!("tidegate_plugin_state_{name}");
            let family = encoder.encode_descriptor(&name, help, None, MetricType::Counter)?;
            ConstCounter::new(count.load(Ordering::Relaxed)).encode(family)?;
        }
        Ok(())
    }
}
