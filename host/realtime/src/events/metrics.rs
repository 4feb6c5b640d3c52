//! What is counted of events. No label names an app or a plugin: those are in the plugins' own statistics.

use std::sync::Arc;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{EventKind, queue::Entry};

/// Counters of events. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct EventsMetrics {
    /// Events that wait for a plugin or are under way to one.
    pub(super) queued: Gauge,
    pub(super) delivered: Counter,
    pub(super) retries: Counter,
    /// Events that found no room and are offered again.
    pub(super) deferred: Counter,
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
            "deferred",
            "Events that found no room and are offered again",
            self.deferred.clone(),
        );
        registry.register(
            "dropped",
            "Events that a plugin did not get, by class (kept: who left, who is online) and reason",
            self.dropped.clone(),
        );
    }

    fn drop(&self, is_kept: bool, reason: &'static str, number: usize) {
        if number > 0 {
            let class = class(is_kept);
            let counter = self.dropped.get_or_create(&DropLabel { class, reason });
            counter.inc_by(number as u64);
        }
    }

    /// An event that found no room.
    pub(super) fn dropped_full(&self, kind: EventKind) {
        self.drop(kind.is_kept(), "full", 1);
    }

    /// Events of calls that failed: news, or handed over often enough.
    pub(super) fn dropped_failed(&self, entries: &[Arc<Entry>]) {
        self.drop_all(entries, "failed");
    }

    /// Events of a plugin that observes no more.
    pub(super) fn dropped_unbound(&self, entries: &[Arc<Entry>]) {
        self.drop_all(entries, "unbound");
    }

    fn drop_all(&self, entries: &[Arc<Entry>], reason: &'static str) {
        let kept = entries.iter().filter(|entry| entry.event.kind.is_kept());
        let num_kept = kept.count();
        self.drop(true, reason, num_kept);
        self.drop(false, reason, entries.len() - num_kept);
        self.leave(entries.len());
    }

    pub(super) fn taken(&self, number: usize) {
        self.delivered.inc_by(number as u64);
        self.leave(number);
    }

    /// Events that wait no more.
    pub(super) fn leave(&self, number: usize) {
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
