//! The counts as Prometheus reads them.

use std::{
    fmt,
    sync::{Arc, Weak, atomic::Ordering},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use super::{Also, CallEnd, Metrics, Tally};
use crate::{
    breaker::BreakerState,
    clock::Clock,
    instances::Instances,
    lane::{Aside, Lane},
};

/// Everything in the sandbox that has something to show.
#[derive(Debug, Clone)]
pub(crate) struct Sources {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clock: Clock,
    pub(crate) instances: Arc<Instances>,
    /// Weak, so that a registry does not keep the threads.
    pub(crate) aside: Weak<Aside>,
}

impl Sources {
    pub(crate) fn register(self, registry: &mut Registry) {
        registry.register(
            "tidegate_plugin_call_duration_seconds",
            "Time of a sample of one in 64 plugin calls",
            self.metrics.durations.clone(),
        );
        registry.register_collector(Box::new(self));
    }
}

/// A counter without labels.
fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    ConstCounter::new(value).encode(metric)
}

/// A gauge without labels.
fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: usize) -> fmt::Result {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(metric)
}

/// A gauge per plugin and hook of what is bound, 1 or 0.
fn flags(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    tallies: &[Arc<Tally>],
    is_set: impl Fn(&crate::conduct::Conduct) -> bool,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for tally in tallies {
        if let Some(conduct) = tally.conduct() {
            let gauge = ConstGauge::new(i64::from(is_set(&conduct)));
            gauge.encode(family.encode_family(&tally.labels())?)?;
        }
    }
    Ok(())
}

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Self {
            metrics,
            clock,
            instances,
            aside,
        } = self;
        let tallies: Vec<_> = metrics.tallies.lock().values().cloned().collect();
        calls(&mut encoder, &tallies)?;
        let now = clock.now_millis();
        let encoder = &mut encoder;
        flags(
            encoder,
            (
                "tidegate_plugin_breaker_open",
                "Whether the breaker keeps the plugin from being called: 1 open, 0 not",
            ),
            &tallies,
            |conduct| conduct.breaker.state(now) != BreakerState::Closed,
        )?;
        flags(
            encoder,
            (
                "tidegate_plugin_inline",
                "Whether the plugin is asked on the session's worker: 1 inline, 0 aside",
            ),
            &tallies,
            |conduct| conduct.lane() == Lane::Inline,
        )?;
        counter(
            encoder,
            "tidegate_plugin_breaker_openings",
            "Breakers that opened because a plugin kept failing",
            metrics.breaker_openings.load(Ordering::Relaxed),
        )?;
        if let Some(aside) = aside.upgrade().map(|aside| aside.statistics()) {
            gauge(
                encoder,
                "tidegate_plugin_aside_threads",
                "Threads that run plugins aside",
                aside.threads,
            )?;
            gauge(
                encoder,
                "tidegate_plugin_aside_waiting",
                "Questions that wait for a plugin thread",
                aside.waiting,
            )?;
            counter(
                encoder,
                "tidegate_plugin_aside_shed",
                "Questions refused because too many of their app waited for a plugin thread",
                aside.shed,
            )?;
        }
        gauge(
            encoder,
            "tidegate_plugin_instances",
            "Plugin instances alive",
            instances.alive(),
        )?;
        gauge(
            encoder,
            "tidegate_plugin_instances_max",
            "Plugin instances that there may be at once",
            instances.capacity(),
        )?;
        counter(
            encoder,
            "tidegate_plugin_instances_made",
            "Plugin instances made",
            instances.made(),
        )?;
        counter(
            encoder,
            "tidegate_plugin_instances_evicted",
            "Plugin instances that made room for others",
            instances.evicted(),
        )?;
        counter(
            encoder,
            "tidegate_plugin_log_lines_dropped",
            "Log lines of plugins over their hundred a second",
            metrics.log_lines_dropped.load(Ordering::Relaxed),
        )
    }
}

/// What is counted per plugin and hook.
fn calls(encoder: &mut DescriptorEncoder<'_>, tallies: &[Arc<Tally>]) -> fmt::Result {
    let mut family = encoder.encode_descriptor(
        "tidegate_plugin_calls",
        "Plugin calls by how they ended",
        None,
        MetricType::Counter,
    )?;
    for tally in tallies {
        for (index, total) in tally.totals().into_iter().enumerate() {
            if total > 0 {
                let [app, plugin, hook] = tally.labels();
                let labels = [app, plugin, hook, ("end", CallEnd::word(index))];
                ConstCounter::new(total).encode(family.encode_family(&labels)?)?;
            }
        }
    }
    let mut family = encoder.encode_descriptor(
        "tidegate_plugin_calls_aside",
        "Plugin calls that ran on plugin threads",
        None,
        MetricType::Counter,
    )?;
    for tally in tallies {
        let total = ConstCounter::new(tally.total_also(Also::Aside));
        total.encode(family.encode_family(&tally.labels())?)?;
    }
    let mut family = encoder.encode_descriptor(
        "tidegate_plugin_near_limit",
        "Calls that used seven tenths of a limit or more",
        None,
        MetricType::Counter,
    )?;
    for tally in tallies {
        for (limit, also) in [
            ("deadline", Also::NearDeadline),
            ("memory", Also::NearMemory),
        ] {
            let [app, plugin, hook] = tally.labels();
            let total = ConstCounter::new(tally.total_also(also));
            total.encode(family.encode_family(&[app, plugin, hook, ("limit", limit)])?)?;
        }
    }
    Ok(())
}
