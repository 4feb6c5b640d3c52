//! What the engine counts.
//!
//! Labels are closed sets (threat model N4): commands and failures by kind.

use std::time::Duration;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _},
    metrics::{counter::Counter, family::Family, gauge::ConstGauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use tidegate_realtime::{
    broker::{Broker as _, BrokerError, EngineHealth},
    hooks::Progress,
};
use tokio::time::Instant;

use crate::{
    broker::RedisBroker,
    commands::{InFlight, RedisFailure},
    envelope::BadEnvelope,
};

/// A round trip on one machine is a tenth of a millisecond; no command outlasts five seconds.
const BUCKETS: [f64; 10] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0,
];

/// Counters of the engine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EngineMetrics {
    publish: Histogram,
    history: Histogram,
    presence: Histogram,
    store: Histogram,
    directory: Histogram,
    other: Histogram,
    failures: Family<FailureLabel, Counter>,
    bad_envelopes: Family<ReasonLabel, Counter>,
}

/// What a command was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandKind {
    Publish,
    History,
    Presence,
    Store,
    Directory,
    Other,
}

impl CommandKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::History => "history",
            Self::Presence => "presence",
            Self::Store => "store",
            Self::Directory => "directory",
            Self::Other => "other",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CommandLabel {
    command: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabel {
    command: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

impl EngineMetrics {
    /// Makes the counters and, with a registry, shows them.
    pub fn register(registry: &mut Registry) -> Self {
        let new: fn() -> Histogram = || Histogram::new(BUCKETS);
        let durations = Family::<CommandLabel, Histogram>::new_with_constructor(new);
        let resolve = |kind: CommandKind| {
            let command = kind.as_str();
            durations.get_or_create(&CommandLabel { command }).clone()
        };
        let metrics = Self {
            publish: resolve(CommandKind::Publish),
            history: resolve(CommandKind::History),
            presence: resolve(CommandKind::Presence),
            store: resolve(CommandKind::Store),
            directory: resolve(CommandKind::Directory),
            other: resolve(CommandKind::Other),
            failures: Family::default(),
            bad_envelopes: Family::default(),
        };
        // One of each is there from the start: an alert on a name that is not printed says nothing.
        let _ = metrics.failures.get_or_create(&FailureLabel {
            command: CommandKind::Publish.as_str(),
            reason: RedisFailure::Away.as_str(),
        });
        let _ = metrics.bad_envelopes.get_or_create(&ReasonLabel {
            reason: BadEnvelope::Truncated.as_str(),
        });
        registry.register_with_unit(
            "tidegate_engine_command_duration",
            "Time from a command to Redis to its answer or failure",
            Unit::Seconds,
            durations,
        );
        registry.register(
            "tidegate_engine_command_failures",
            "Commands to Redis without an answer that helps",
            metrics.failures.clone(),
        );
        registry.register(
            "tidegate_engine_bad_envelopes",
            "Payloads from Redis that no node of ours has sent",
            metrics.bad_envelopes.clone(),
        );
        metrics
    }

    /// A payload or an entry of a stream that cannot be read.
    pub fn count_bad_envelope(&self, error: BadEnvelope) {
        let reason = error.as_str();
        self.bad_envelopes
            .get_or_create(&ReasonLabel { reason })
            .inc();
    }

    /// What a command comes to, with its time observed.
    pub(crate) fn timed<T: Send + 'static>(
        &self,
        kind: CommandKind,
        work: impl Future<Output = Result<T, RedisFailure>> + Send + 'static,
    ) -> Progress<Result<T, BrokerError>> {
        let metrics = self.clone();
        Progress::Pending(Box::pin(async move {
            let start = Instant::now();
            let outcome = work.await;
            metrics.observe(kind, start.elapsed(), &outcome);
            outcome.map_err(BrokerError::from)
        }))
    }

    pub(crate) fn observe<T>(
        &self,
        kind: CommandKind,
        took: Duration,
        outcome: &Result<T, RedisFailure>,
    ) {
        let histogram = match kind {
            CommandKind::Publish => &self.publish,
            CommandKind::History => &self.history,
            CommandKind::Presence => &self.presence,
            CommandKind::Store => &self.store,
            CommandKind::Directory => &self.directory,
            CommandKind::Other => &self.other,
        };
        histogram.observe(took.as_secs_f64());
        if let Err(failure) = outcome {
            let label = FailureLabel {
                command: kind.as_str(),
                reason: failure.as_str(),
            };
            self.failures.get_or_create(&label).inc();
        }
    }
}

/// Reads how many commands are on their way when metrics are asked for.
#[derive(Debug)]
pub struct InFlightCollector(pub InFlight);

impl Collector for InFlightCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let num = i64::try_from(self.0.num()).unwrap_or(i64::MAX);
        let gauge = ConstGauge::new(num);
        let encoder = encoder.encode_descriptor(
            "tidegate_engine_in_flight",
            "Commands to Redis that have no answer yet",
            None,
            gauge.metric_type(),
        )?;
        gauge.encode(encoder)
    }
}

/// Reads whether the engine can do its work when metrics are asked for.
#[derive(Debug)]
pub struct AbleCollector(pub RedisBroker);

impl Collector for AbleCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let gauge = ConstGauge::new(match self.0.health() {
            EngineHealth::Able => 1_i64,
            EngineHealth::Unable(_) => 0,
        });
        let encoder = encoder.encode_descriptor(
            "tidegate_engine_able",
            "Whether what is published through Redis arrives at this node: 1, or 0",
            None,
            gauge.metric_type(),
        )?;
        gauge.encode(encoder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_with_its_reason() {
        let mut registry = Registry::default();
        let metrics = EngineMetrics::register(&mut registry);
        registry.register_collector(Box::new(InFlightCollector(InFlight::new(1))));
        let failed: Result<(), _> = Err(RedisFailure::Away);
        metrics.observe(CommandKind::Publish, Duration::from_millis(2), &failed);
        metrics.count_bad_envelope(BadEnvelope::Truncated);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "tidegate_engine_command_failures_total{command=\"publish\",reason=\"away\"} 1",
            "tidegate_engine_command_duration_seconds_count{command=\"publish\"} 1",
            "tidegate_engine_command_duration_seconds_bucket{le=\"0.0025\",command=\"publish\"} 1",
            "tidegate_engine_bad_envelopes_total{reason=\"truncated\"} 1",
            "tidegate_engine_in_flight 0",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}
