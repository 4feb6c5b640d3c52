//! The delivery probe: whether what is published arrives (threat model R4).
//!
//! Pure: the line says what happened and asks what to do. A probe goes out over the path of commands every few
//! seconds and has to come back over the subscriptions, so that it stands for what a client's message goes through.
//! Messages that arrive meanwhile excuse a late probe for a while: a backlog is no stall.

use tokio::time::{Duration, Instant};

/// Time between two probes, from the answer to the last one.
pub(super) const INTERVAL: Duration = Duration::from_secs(5);

/// Time a probe has, from the first try to publish it.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Time it has when messages arrive; long enough for any backlog that Redis keeps for a client.
const PATIENCE_WITH_TRAFFIC: Duration = Duration::from_secs(15);

/// A publish that failed is tried again after this.
const RETRY: Duration = Duration::from_secs(1);

/// A line that has not delivered for so long cannot: the node is not ready.
pub(super) const UNREADY_AFTER: Duration = Duration::from_secs(10);

/// The state of one connection's probe.
#[derive(Debug)]
pub(super) struct Probe {
    /// When the next try is due.
    next_at: Instant,
    /// When the probe that has not come back was first tried.
    since: Option<Instant>,
    last_message: Instant,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Publish,
    /// The connection does not deliver.
    GiveUp,
    Nothing,
}

impl Probe {
    /// The connection stands; what it delivers is found out at once.
    pub(super) fn start(now: Instant) -> Self {
        Self {
            next_at: now,
            since: None,
            last_message: now,
        }
    }

    pub(super) fn on_message(&mut self, now: Instant) {
        self.last_message = now;
    }

    /// What was published so far need not have been heard: it is tried again at once.
    pub(super) fn try_now(&mut self, now: Instant) {
        self.next_at = now;
    }

    /// The probe came back.
    pub(super) fn on_answer(&mut self, now: Instant) {
        self.since = None;
        self.next_at = now + INTERVAL;
    }

    /// When something may be due; while a probe is out, as often as it is tried again.
    pub(super) fn wake_at(&self) -> Instant {
        self.next_at
    }

    pub(super) fn due(&mut self, now: Instant) -> Due {
        if let Some(since) = self.since {
            let has_traffic = now < self.last_message + PATIENCE;
            let patience = if has_traffic {
                PATIENCE_WITH_TRAFFIC
            } else {
                PATIENCE
            };
            if now >= since + patience {
                return Due::GiveUp;
            }
        }
        if now < self.next_at {
            return Due::Nothing;
        }
        self.since.get_or_insert(now);
        self.next_at = now + RETRY;
        Due::Publish
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn r4_a_probe_that_does_not_come_back_ends_the_connection() {
        let start = Instant::now();
        let mut probe = Probe::start(start);
        assert_eq!(probe.due(start), Due::Publish);
        probe.on_answer(start);
        assert_eq!(probe.due(after(start, 4)), Due::Nothing);
        assert_eq!(probe.due(after(start, 5)), Due::Publish);
        for second in 6..10 {
            assert_eq!(probe.due(after(start, second)), Due::Publish, "again");
        }
        assert_eq!(probe.due(after(start, 10)), Due::GiveUp);
    }

    #[test]
    fn messages_excuse_a_late_probe_and_not_a_lost_one() {
        let start = Instant::now();
        let mut probe = Probe::start(start);
        for second in 0..15 {
            assert_eq!(probe.due(after(start, second)), Due::Publish);
            probe.on_message(after(start, second));
        }
        assert_eq!(probe.due(after(start, 15)), Due::GiveUp);
    }
}
