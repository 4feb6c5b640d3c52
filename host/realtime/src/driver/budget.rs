//! How much of a worker's time a session takes at once.
//!
//! Owns the arithmetic: the driver spends it command by command, the transport read by read, and who has none
//! left lets the worker's other sessions have their turn. One is made for each poll of a session's future.
//! Invariant: a fresh budget pays for at least one command, so that every poll gets on.

use tokio::time::{Duration, Instant};

/// Commands and reads of one poll. Far more than a client has under way, few enough that thousands of sessions
/// wait no longer than a millisecond for one that pipelines.
const UNITS: u16 = 64;

/// The time of one poll, for commands that are slow by themselves: plugins may take milliseconds for one.
const TIME: Duration = Duration::from_micros(500);

/// Units between two looks at the clock, which costs about as much as a hundredth of a command.
const UNITS_PER_LOOK: u16 = 4;

/// What is left for one poll of a session.
#[derive(Debug)]
pub struct Budget {
    units: u16,
    /// When the first unit was spent.
    since: Option<Instant>,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            units: UNITS,
            since: None,
        }
    }
}

impl Budget {
    /// Takes what one command costs; answers whether there was enough.
    pub fn spend(&mut self) -> bool {
        self.spend_by(Instant::now)
    }

    fn spend_by(&mut self, clock: impl FnOnce() -> Instant) -> bool {
        if self.units.is_multiple_of(UNITS_PER_LOOK) {
            if self.units == 0 {
                return false;
            }
            let now = clock();
            let since = *self.since.get_or_insert(now);
            if now.duration_since(since) >= TIME {
                self.units = 0;
                return false;
            }
        }
        self.units -= 1;
        true
    }

    /// Whether nothing is left: the future wakes itself and gives way.
    pub fn is_spent(&self) -> bool {
        self.units == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_ends_after_so_many_commands() {
        let now = Instant::now();
        let mut budget = Budget::default();
        for _ in 0..UNITS {
            assert!(!budget.is_spent() && budget.spend_by(|| now));
        }
        assert!(budget.is_spent() && !budget.spend_by(|| now));
    }

    #[test]
    fn slow_commands_end_a_budget_sooner() {
        let mut now = Instant::now();
        let mut budget = Budget::default();
        let mut spent = 0;
        while budget.spend_by(|| now) {
            spent += 1;
            now += TIME;
        }
        assert_eq!(spent, UNITS_PER_LOOK);
        assert!(budget.is_spent());
    }
}
