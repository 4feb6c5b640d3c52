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

use tidegate_realtime::ids::AppId;

use super::{Also, CallEnd, Metrics, Tally, tally::Totals};
use crate::{
    binding::Hook,
    breaker::BreakerState,
    clock::Clock,
    failure::FailureKind,
    instances::Instances,
    lane::{Aside, Lane},
    verdict::Verdict,
};

/// Plugins at hooks that are shown, each with up to forty series; a thousand apps with two hooks each. Those that
/// came later are counted in `tidegate_plugin_left_out`, and have their statistics in the admin API.
pub(super) const MOST_PLACES: usize = 2_048;

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

/// A plugin at a hook, as it is shown.
struct Shown {
    app: AppId,
    plugin: Arc<str>,
    hook: Hook,
    /// The version that is bound.
    bound: Option<Arc<Tally>>,
    /// Of all versions.
    totals: Totals,
}

type Labels<'a> = [(&'static str, &'a str); 3];

impl Shown {
    fn labels(&self) -> Labels<'_> {
        [
            ("app", self.app.as_str()),
            ("plugin", &self.plugin),
            ("hook", self.hook.as_str()),
        ]
    }

    fn labels_and(&self, name: &'static str, value: &'static str) -> [(&'static str, &str); 4] {
        let [app, plugin, hook] = self.labels();
        [app, plugin, hook, (name, value)]
    }
}

impl Metrics {
    /// What is shown, and how many plugins at hooks are left out.
    fn shown(&self) -> (Vec<Shown>, usize) {
        let places = self.places.lock();
        let mut ordered: Vec<_> = places.all.iter().collect();
        ordered.sort_unstable_by_key(|(_, versions)| versions.since);
        let left_out = ordered.len().saturating_sub(MOST_PLACES);
        ordered.truncate(MOST_PLACES);
        let shown = ordered.into_iter().map(|((app, plugin, hook), versions)| {
            let mut totals = versions.dropped;
            for kept in &versions.kept {
                totals.add(&kept.tally.totals());
            }
            let mut kept = versions.kept.iter();
            Shown {
                app: app.clone(),
                plugin: Arc::clone(plugin),
                hook: *hook,
                bound: kept
                    .rfind(|kept| kept.left_at.is_none())
                    .map(|kept| Arc::clone(&kept.tally)),
                totals,
            }
        });
        (shown.collect(), left_out)
    }
}

/// A gauge per plugin and hook of what is bound.
fn gauges(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    shown: &[Shown],
    value: impl Fn(&Tally) -> Option<usize>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for row in shown {
        if let Some(value) = row.bound.as_deref().and_then(&value) {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(family.encode_family(&row.labels())?)?;
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
        let (shown, left_out) = metrics.shown();
        let now = clock.now_millis();
        let encoder = &mut encoder;
        calls(encoder, &shown)?;
        times(encoder, &shown)?;
        gauge(
            encoder,
            "tidegate_plugin_left_out",
            "Plugins at hooks that are not shown here, because there are too many",
            left_out,
        )?;
        gauges(
            encoder,
            (
                "tidegate_plugin_version",
                "The version of the plugin that is bound",
            ),
            &shown,
            |tally| usize::try_from(tally.version()).ok(),
        )?;
        gauges(
            encoder,
            (
                "tidegate_plugin_memory_bytes",
                "Linear memory of all instances of the bound version",
            ),
            &shown,
            |tally| Some(tally.memory().read().bytes),
        )?;
        gauges(
            encoder,
            (
                "tidegate_plugin_memory_peak_bytes",
                "The most linear memory that an instance of the bound version had",
            ),
            &shown,
            |tally| Some(tally.memory().read().peak_bytes),
        )?;
        gauges(
            encoder,
            (
                "tidegate_plugin_breaker_open",
                "Whether the breaker keeps the plugin from being called: 1 open, 0 not",
            ),
            &shown,
            |tally| {
                let state = tally.conduct()?.breaker.state(now);
                Some(usize::from(state != BreakerState::Closed))
            },
        )?;
        gauges(
            encoder,
            (
                "tidegate_plugin_inline",
                "Whether the plugin is asked on the session's worker: 1 inline, 0 aside",
            ),
            &shown,
            |tally| Some(usize::from(tally.conduct()?.lane() == Lane::Inline)),
        )?;
        counter(
            encoder,
            "tidegate_plugin_breaker_openings",
            "Breakers that opened because a plugin kept failing",
            metrics.breaker_openings.load(Ordering::Relaxed),
        )?;
        if let Some(waiting) = aside.upgrade().map(|aside| aside.waiting_statistics()) {
            gauge(
                encoder,
                "tidegate_plugin_waiting_threads",
                "Threads for plugins that wait for other machines",
                waiting.threads,
            )?;
            gauge(
                encoder,
                "tidegate_plugin_waiting_queued",
                "Questions that wait for such a thread",
                waiting.waiting,
            )?;
            counter(
                encoder,
                "tidegate_plugin_waiting_shed",
                "Questions refused because too many of their app waited for such a thread",
                waiting.shed,
            )?;
        }
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
fn calls(encoder: &mut DescriptorEncoder<'_>, shown: &[Shown]) -> fmt::Result {
    let mut family = encoder.encode_descriptor(
        "tidegate_plugin_calls",
        "Plugin calls by how they ended",
        None,
        MetricType::Counter,
    )?;
    for row in shown {
        let totals = &row.totals;
        let ends = [
            ("answered", totals.answered() - totals.refused()),
            ("refused", totals.refused()),
            ("passed-over", totals.of(CallEnd::PassedOver)),
        ];
        let failures = FailureKind::ALL
            .into_iter()
            .map(|kind| (kind.as_str(), totals.of(CallEnd::Failed(kind))));
        for (end, total) in ends.into_iter().chain(failures) {
            if total > 0 {
                let labels = row.labels_and("end", end);
                ConstCounter::new(total).encode(family.encode_family(&labels)?)?;
            }
        }
    }
    let mut family = encoder.encode_descriptor(
        "tidegate_plugin_verdicts",
        "Answers of plugins by what they said",
        None,
        MetricType::Counter,
    )?;
    for row in shown {
        for verdict in Verdict::ALL {
            let total = row.totals.of(CallEnd::Answered(verdict));
            if total > 0 {
                let labels = row.labels_and("verdict", verdict.as_str());
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
    for row in shown {
        let total = ConstCounter::new(row.totals.of_also(Also::Aside));
        total.encode(family.encode_family(&row.labels())?)?;
    }
    let mut family = encoder.encode_descriptor(
        "tidegate_plugin_near_limit",
        "Calls that used seven tenths of a limit or more",
        None,
        MetricType::Counter,
    )?;
    for row in shown {
        for (limit, also) in [
            ("deadline", Also::NearDeadline),
            ("memory", Also::NearMemory),
        ] {
            let total = ConstCounter::new(row.totals.of_also(also));
            total.encode(family.encode_family(&row.labels_and("limit", limit))?)?;
        }
    }
    Ok(())
}

/// What is timed per plugin and hook.
fn times(encoder: &mut DescriptorEncoder<'_>, shown: &[Shown]) -> fmt::Result {
    let mut family = encoder.encode_descriptor(
        "tidegate_plugin_time_seconds",
        "Time of plugin calls, estimated from a sample of them",
        None,
        MetricType::Counter,
    )?;
    for row in shown {
        let total = ConstCounter::new(row.totals.time.as_secs_f64());
        total.encode(family.encode_family(&row.labels())?)?;
    }
    let mut family = encoder.encode_descriptor(
        "tidegate_plugin_call_quantile_seconds",
        "Time that this share of the bound version's calls did not exceed, from a sample of them",
        None,
        MetricType::Gauge,
    )?;
    for row in shown {
        let Some(durations) = row.bound.as_ref().map(|bound| bound.durations()) else {
            continue;
        };
        if durations.samples == 0 {
            continue;
        }
        for (share, time) in [
            ("0.5", durations.p50),
            ("0.99", durations.p99),
            ("0.999", durations.p999),
        ] {
            let labels = row.labels_and("quantile", share);
            ConstGauge::new(time.as_secs_f64()).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}
