//! What is counted of events. No label names an app or a plugin: those are in the plugins' own statistics.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::EventKind;

/// Counters of events. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct EventsMetrics {
    /// Events that wait for a plugin or are under way to one.
    pub(super) queued: Gauge,
    pub(super) delivered: Counter,
    pub(super) retries: Counter,
    dropped: Family<DropLabel, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DropLabel {
    class: &'static str,
    reason: &'static str,
}

fn class(is_kept: bool) -> &'static str {
    if is_kept { "kept" } else { "news" }
}

impl EventsMetrics {
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("tidegate_events");
        registry.register(
            "queued",
            "Events that wait for a plugin",
            self.queued.clone(),
        );
        registry.register(
            "delivered",
            "Events that a plugin took",
            self.delivered.clone(),
        );
        registry.register(
            "retries",
            "Batches of events that are handed to a plugin again",
            self.retries.clone(),
        );
        registry.register(
            "dropped",
            "Events that a plugin did not get, by class (kept: somebody left) and reason",
            self.dropped.clone(),
        );
    }

    fn drop(&self, is_kept: bool, reason: &'static str, number: usize) {
        let class = class(is_kept);
        let label = DropLabel { class, reason };
        let counter = self.dropped.get_or_create(&label);
        counter.inc_by(number as u64);
    }

    /// An event that found no room.
    pub(super) fn dropped_full(&self, kind: EventKind) {
        self.drop(kind.is_kept(), "full", 1);
    }

    /// News of a batch that failed.
    pub(super) fn dropped_failed(&self, number: usize) {
        self.drop(false, "failed", number);
        self.leave(number);
    }

    /// Kept events that were handed over often enough.
    pub(super) fn given_up(&self, number: usize) {
        self.drop(true, "failed", number);
        self.leave(number);
    }

    /// Events of a plugin that observes no more.
    pub(super) fn dropped_unbound(&self, number: usize) {
        if number > 0 {
            self.drop(false, "unbound", number);
            self.leave(number);
        }
    }

    pub(super) fn taken(&self, number: usize) {
        self.delivered.inc_by(number as u64);
        self.leave(number);
    }

    fn leave(&self, number: usize) {
        self.queued
            .dec_by(i64::try_from(number).unwrap_or_default());
    }

    #[cfg(test)]
    pub(super) fn num_dropped(&self, is_kept: bool, reason: &'static str) -> u64 {
        let class = class(is_kept);
        self.dropped
            .get_or_create(&DropLabel { class, reason })
            .get()
    }
}
