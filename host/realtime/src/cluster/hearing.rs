//! Whether this node knows the others: after the bus was away fewer may be known than there are.
//!
//! Pure: what became of the announcements and the time come in. A node that nobody hears hears nobody either, and who
//! asks it about all sessions must not be told that there are none.

use tokio::time::{Duration, Instant};

use super::ANNOUNCE_INTERVAL;

/// Whoever is there says so at each interval; a second for those whose connection is back a little later.
const UNTIL_HEARD: Duration = ANNOUNCE_INTERVAL.saturating_add(Duration::from_secs(1));

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Hearing {
    state: State,
    /// Whether nodes were forgotten since an announcement left last, or were never heard.
    has_forgotten: bool,
}

#[derive(Debug, Default, Clone, Copy)]
enum State {
    #[default]
    Whole,
    /// The last announcement could not be sent.
    Deaf,
    /// Announcements leave again; by then the others have said that they are there.
    Listening { until: Instant },
}

impl Hearing {
    /// An announcement left, or could not.
    pub(super) fn announced(&mut self, is_sent: bool, now: Instant) {
        self.state = match self.state {
            _ if !is_sent => State::Deaf,
            State::Deaf if self.has_forgotten => State::Listening {
                until: now + UNTIL_HEARD,
            },
            State::Listening { until } if now < until => State::Listening { until },
            State::Whole | State::Deaf | State::Listening { .. } => State::Whole,
        };
        if let State::Whole = self.state {
            self.has_forgotten = false;
        }
    }

    /// The bus cannot be listened to yet.
    pub(super) fn hears_nothing(&mut self) {
        self.state = State::Deaf;
        self.has_forgotten = true;
    }

    /// Nodes that were silent for too long are known no more.
    pub(super) fn forgot(&mut self) {
        self.has_forgotten = true;
    }

    /// Whether somebody who is there may be missing among those who are known.
    pub(super) fn is_partial(&self, now: Instant) -> bool {
        match self.state {
            State::Whole => false,
            State::Deaf => self.has_forgotten,
            State::Listening { until } => now < until,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_forgot_others_while_nothing_left_waits_until_they_had_time_to_say_so() {
        let (mut hearing, now) = (Hearing::default(), Instant::now());
        // It may take longer to find out that nothing leaves than to forget.
        hearing.forgot();
        hearing.announced(false, now);
        assert!(hearing.is_partial(now));
        hearing.announced(true, now);
        hearing.announced(true, now + ANNOUNCE_INTERVAL);
        assert!(hearing.is_partial(now + ANNOUNCE_INTERVAL));
        assert!(!hearing.is_partial(now + UNTIL_HEARD));
        hearing.announced(true, now + UNTIL_HEARD);
        hearing.announced(false, now + UNTIL_HEARD);
        assert!(!hearing.is_partial(now + UNTIL_HEARD), "all are known");
    }

    #[test]
    fn a_node_that_died_and_a_bus_that_was_away_for_a_moment_leave_nobody_out() {
        let (mut hearing, now) = (Hearing::default(), Instant::now());
        hearing.forgot();
        hearing.announced(true, now);
        assert!(!hearing.is_partial(now));
        hearing.announced(false, now);
        hearing.announced(true, now);
        assert!(!hearing.is_partial(now));
    }

    #[test]
    fn a_node_that_could_not_listen_from_its_start_knows_nobody_for_certain() {
        let (mut hearing, now) = (Hearing::default(), Instant::now());
        hearing.hears_nothing();
        assert!(hearing.is_partial(now));
        hearing.announced(true, now);
        assert!(hearing.is_partial(now));
        assert!(!hearing.is_partial(now + UNTIL_HEARD));
    }
}
