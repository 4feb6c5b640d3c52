//! What the realtime core counts.
//!
//! Labels are closed sets: codes and kinds of this crate, never a user's or a channel's name (threat model N4).

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::{events::EventsMetrics, notices::Notices, schedule::ScheduleMetrics};

/// Counters of sessions, commands and publications. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct RealtimeMetrics {
    /// Open connections.
    pub sessions: Gauge,
    /// Connects that were answered.
    pub connects: Outcomes,
    pub subscribes: Outcomes,
    pub publishes: Outcomes,
    /// Recoveries asked for, by whether everything missed was there.
    pub recoveries: Outcomes,
    /// Connections that this node ended, by code.
    pub disconnects: Family<CodeLabel, Counter>,
    /// Commands answered with an error, by code.
    pub errors: Family<CodeLabel, Counter>,
    /// Frames that end a connection, by what was wrong.
    pub bad_frames: Family<ReasonLabel, Counter>,
    /// Messages refused because plugins publish in a circle.
    pub hop_limit: Counter,
    /// Messages that a filtering plugin dropped.
    pub dropped_by_plugin: Counter,
    /// Messages that plugins queued and that were not published, by reason.
    pub effects_failed: Family<ReasonLabel, Counter>,
    /// Connections refused before they began, by reason.
    pub refused: Family<ReasonLabel, Counter>,
    /// Connects with a token that never ends (threat model A4).
    pub tokens_without_exp: Counter,
    pub positions: PositionMetrics,
    pub presence: PresenceMetrics,
    pub events: EventsMetrics,
    pub directory: DirectoryMetrics,
    pub schedule: ScheduleMetrics,
    /// What was said lately of connections that were refused; no metric, but told in the same places.
    pub notices: Notices,
}

/// What the roster of this node counts.
#[derive(Debug, Clone, Default)]
pub struct PresenceMetrics {
    /// Members that this node answers for.
    pub members: Gauge,
    /// Requests to the presence store, and joins and leaves handed to the broker.
    requests: Outcomes,
    /// Removals and leaves that found the queue full.
    pub dropped: Counter,
}

impl PresenceMetrics {
    pub(crate) fn count(&self, is_ok: bool) {
        self.requests.count(is_ok);
    }
}

/// What this node's part in the directory comes to.
#[derive(Debug, Clone, Default)]
pub struct DirectoryMetrics {
    requests: Outcomes,
    /// Notes that found no room.
    pub(crate) dropped: Counter,
    /// Sessions of dead nodes that this one has ended.
    pub(crate) ended: Counter,
    /// Lines of dead nodes' books that no node has written.
    pub(crate) foreign: Counter,
}

impl DirectoryMetrics {
    pub(crate) fn count(&self, is_ok: bool) {
        self.requests.count(is_ok);
    }

    fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("tidegate_directory");
        registry.register(
            "requests",
            "Batches of comings and goings, and heartbeats, given to the directory",
            self.requests.family.clone(),
        );
        registry.register(
            "dropped",
            "Comings and goings that were not written because too many waited",
            self.dropped.clone(),
        );
        registry.register(
            "ended_sessions",
            "Sessions of dead nodes that this node has ended for them",
            self.ended.clone(),
        );
        registry.register(
            "foreign_lines",
            "Lines in the books of dead nodes that no node has written",
            self.foreign.clone(),
        );
    }
}

/// A counter of what went well and one of what did not, resolved once.
#[derive(Debug, Clone)]
pub struct Outcomes {
    family: Family<OutcomeLabel, Counter>,
    ok: Counter,
    failed: Counter,
}

impl Default for Outcomes {
    fn default() -> Self {
        let family = Family::<OutcomeLabel, Counter>::default();
        let resolve = |outcome| family.get_or_create(&OutcomeLabel { outcome }).clone();
        let (ok, failed) = (resolve(OutcomeKind::ok), resolve(OutcomeKind::failed));
        Self { family, ok, failed }
    }
}

impl Outcomes {
    pub fn count(&self, is_ok: bool) {
        if is_ok { &self.ok } else { &self.failed }.inc();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: OutcomeKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
enum OutcomeKind {
    #[expect(
        non_camel_case_types,
        reason = "label values are written as they are named"
    )]
    ok,
    #[expect(
        non_camel_case_types,
        reason = "label values are written as they are named"
    )]
    failed,
}

/// What the position check found, and why it looked.
#[derive(Debug, Clone, Default)]
pub struct PositionMetrics {
    checks: Family<CheckLabel, Counter>,
    doubts: Family<DoubtLabel, Counter>,
    /// Streams that were rolled back and begin anew.
    pub epochs_renewed: Counter,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CheckLabel {
    outcome: CheckOutcome,
}

/// What a look at one channel came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum CheckOutcome {
    Confirmed,
    /// Something was on its way, and the channel is looked at again.
    Behind,
    /// Members were told.
    Lost,
    RolledBack,
    Unanswered,
}

impl EncodeLabelValue for CheckOutcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(
            &match self {
                Self::Confirmed => "confirmed",
                Self::Behind => "behind",
                Self::Lost => "lost",
                Self::RolledBack => "rolled_back",
                Self::Unanswered => "unanswered",
            },
            encoder,
        )
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DoubtLabel {
    scope: DoubtScope,
}

/// What was in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum DoubtScope {
    Channel,
    Everything,
}

impl EncodeLabelValue for DoubtScope {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(
            &match self {
                Self::Channel => "channel",
                Self::Everything => "everything",
            },
            encoder,
        )
    }
}

impl PositionMetrics {
    fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("tidegate_engine");
        registry.register(
            "position_checks",
            "Channels whose members were compared with the top of their stream",
            self.checks.clone(),
        );
        registry.register(
            "doubts",
            "Times that something may have been lost on its way from the store",
            self.doubts.clone(),
        );
        registry.register(
            "epochs_renewed",
            "Streams that the store had rolled back, and that this node gave a new epoch",
            self.epochs_renewed.clone(),
        );
    }

    pub(crate) fn count_check(&self, outcome: CheckOutcome) {
        self.checks.get_or_create(&CheckLabel { outcome }).inc();
    }

    pub(crate) fn count_doubt(&self, scope: DoubtScope, number: usize) {
        if number > 0 {
            let doubts = self.doubts.get_or_create(&DoubtLabel { scope });
            doubts.inc_by(number as u64);
        }
    }
}

/// A code of the protocol's registry; 0 for those that plugins and the API choose.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CodeLabel {
    pub code: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    pub reason: &'static str,
}

impl RealtimeMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        metrics.positions.register(registry);
        metrics.events.register(registry);
        metrics.directory.register(registry);
        metrics.schedule.register(registry);
        let registry = registry.sub_registry_with_prefix("tidegate_realtime");
        registry.register("sessions", "Open connections", metrics.sessions.clone());
        registry.register(
            "tokens_without_exp",
            "Connects with a token that has no exp, so that nothing ends what it allows",
            metrics.tokens_without_exp.clone(),
        );
        registry.register(
            "connects",
            "Connect commands answered",
            metrics.connects.family.clone(),
        );
        registry.register(
            "subscribes",
            "Subscribe commands answered",
            metrics.subscribes.family.clone(),
        );
        registry.register(
            "publishes",
            "Publish commands answered",
            metrics.publishes.family.clone(),
        );
        registry.register(
            "recoveries",
            "Recoveries asked for; ok when everything missed was there",
            metrics.recoveries.family.clone(),
        );
        registry.register(
            "presence_members",
            "Sessions that this node keeps in the presence of a channel",
            metrics.presence.members.clone(),
        );
        registry.register(
            "presence_requests",
            "Requests to the presence store, and joins and leaves handed to the broker",
            metrics.presence.requests.family.clone(),
        );
        registry.register(
            "presence_dropped",
            "Removals and leaves that were given up because too many waited",
            metrics.presence.dropped.clone(),
        );
        registry.register(
            "disconnects",
            "Connections ended by this node",
            metrics.disconnects.clone(),
        );
        registry.register(
            "errors",
            "Commands answered with an error",
            metrics.errors.clone(),
        );
        registry.register(
            "bad_frames",
            "Frames that broke the protocol",
            metrics.bad_frames.clone(),
        );
        registry.register(
            "hop_limit_rejected",
            "Messages refused because plugins publish in a circle",
            metrics.hop_limit.clone(),
        );
        registry.register(
            "dropped_by_plugin",
            "Messages that a filtering plugin dropped",
            metrics.dropped_by_plugin.clone(),
        );
        registry.register(
            "effects_failed",
            "Messages of plugins that were not published: unavailable now, or refused for good",
            metrics.effects_failed.clone(),
        );
        registry.register(
            "rejected",
            "Connections refused before they began",
            metrics.refused.clone(),
        );
        metrics
    }

    pub(crate) fn count_disconnect(&self, code: u32) {
        /// Codes of RFC 6455 that transports close with.
        const OF_WEBSOCKET: [u32; 4] = [1002, 1007, 1008, 1009];
        let is_known = tidegate_protocol::DisconnectCode::from_code(code).is_some();
        let code = if is_known || OF_WEBSOCKET.contains(&code) {
            code
        } else {
            0
        };
        self.disconnects.get_or_create(&CodeLabel { code }).inc();
    }

    pub(crate) fn count_error(&self, code: u32) {
        let is_known = tidegate_protocol::ErrorCode::from_code(code).is_some();
        let code = if is_known { code } else { 0 };
        self.errors.get_or_create(&CodeLabel { code }).inc();
    }

    pub(crate) fn count_bad_frame(&self, reason: &'static str) {
        self.bad_frames.get_or_create(&ReasonLabel { reason }).inc();
    }

    pub(crate) fn count_refused(&self, reason: &'static str) {
        self.refused.get_or_create(&ReasonLabel { reason }).inc();
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn the_rendered_text_has_conventional_names_and_closed_labels() {
        let mut registry = Registry::default();
        let metrics = RealtimeMetrics::register(&mut registry);
        metrics.sessions.inc();
        metrics.connects.count(true);
        metrics.count_disconnect(3501);
        metrics.count_disconnect(4242);
        metrics.count_disconnect(1009);
        metrics.count_error(107);
        metrics.count_error(1999);
        metrics.count_bad_frame("syntax");
        metrics.count_refused("connection_limit");
        metrics.positions.count_check(CheckOutcome::RolledBack);
        metrics.positions.count_doubt(DoubtScope::Channel, 2);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "tidegate_realtime_sessions 1",
            "tidegate_realtime_connects_total{outcome=\"ok\"} 1",
            "tidegate_realtime_connects_total{outcome=\"failed\"} 0",
            "tidegate_realtime_disconnects_total{code=\"3501\"} 1",
            "tidegate_realtime_disconnects_total{code=\"0\"} 1",
            "tidegate_realtime_disconnects_total{code=\"1009\"} 1",
            "tidegate_realtime_errors_total{code=\"107\"} 1",
            "tidegate_realtime_errors_total{code=\"0\"} 1",
            "tidegate_realtime_bad_frames_total{reason=\"syntax\"} 1",
            "tidegate_realtime_hop_limit_rejected_total 0",
            "tidegate_engine_position_checks_total{outcome=\"rolled_back\"} 1",
            "tidegate_engine_doubts_total{scope=\"channel\"} 2",
            "tidegate_engine_epochs_renewed_total 0",
            "tidegate_realtime_rejected_total{reason=\"connection_limit\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }
}
