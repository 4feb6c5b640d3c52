//! The time that the nodes of a cluster have in common: that of the clock that is furthest ahead.
//!
//! Keys end, and writes are compared, by time; so the nodes must agree on it better than their clocks do. Each follows
//! whoever is ahead of it, up to [`MAX_AHEAD`], and none ever goes back. A node that is alone follows nobody.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Clock;

/// How far another node's clock may be ahead: far more than any machine that keeps time, and little enough that one
/// that does not cannot end the others' keys.
pub(super) const MAX_AHEAD: u64 = 10_000;

/// How old a message may be by the common time: one that waited longer was not on its way.
const MAX_BEHIND: u64 = 60_000;

#[derive(Debug)]
pub(super) struct CommonTime {
    clock: Clock,
    /// How far the common time is ahead of the clock.
    ahead: AtomicU64,
}

impl CommonTime {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            clock,
            ahead: AtomicU64::new(0),
        }
    }

    /// Milliseconds; since 1970 with a clock of the system.
    pub(super) fn now(&self) -> u64 {
        self.clock.unix_millis() + self.ahead.load(Ordering::Relaxed)
    }

    /// Follows the time of another node; whether it can be believed.
    pub(super) fn follow(&self, theirs: u64) -> bool {
        let own = self.clock.unix_millis();
        let ahead = theirs.saturating_sub(own);
        if ahead > MAX_AHEAD || theirs.saturating_add(MAX_BEHIND) < self.now() {
            return false;
        }
        self.ahead.fetch_max(ahead, Ordering::Relaxed);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_clock_that_is_ahead_is_followed_within_reason_and_never_back() {
        let clock = Clock::manual();
        clock.advance(Duration::from_secs(1_000));
        let time = CommonTime::new(clock.clone());
        assert!(time.follow(1_004_000));
        assert_eq!(time.now(), 1_004_000);
        assert!(time.follow(999_000), "a late message");
        assert!(!time.follow(1_010_001), "a clock that is wrong");
        assert!(!time.follow(900_000), "a clock that is wrong");
        assert_eq!(time.now(), 1_004_000);
        clock.advance(Duration::from_secs(1));
        assert_eq!(time.now(), 1_005_000);
    }
}
