//! The clock by which the sandbox judges plugins: when a breaker opens, when it tries again.
//!
//! Deadlines of guests do not come from here (see `ticker`). Milliseconds are exact enough for everything that
//! does, and a clock that is moved by hand lets tests walk through minutes without waiting for one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

/// A clock that only goes forward. Cheap to clone; clones show the same time.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    System {
        start: Instant,
        /// Milliseconds since 1970 at the start. A step of the system's time later on is not followed.
        unix: u64,
    },
    /// Milliseconds; moved by [`Clock::advance`] alone.
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// The system's monotonic clock.
    pub fn system() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH);
        Self(Source::System {
            start: Instant::now(),
            unix: unix.map_or(0, whole_millis),
        })
    }

    /// A clock that stands still until [`Self::advance`] moves it.
    pub fn manual() -> Self {
        Self(Source::Manual(Arc::default()))
    }

    /// Moves a manual clock on; the system's goes by itself and ignores this.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(millis) = &self.0 {
            millis.fetch_add(whole_millis(by), Ordering::SeqCst);
        }
    }

    /// Milliseconds since the clock was made.
    pub(crate) fn now_millis(&self) -> u64 {
        match &self.0 {
            Source::System { start, .. } => whole_millis(start.elapsed()),
            Source::Manual(millis) => millis.load(Ordering::SeqCst),
        }
    }

    /// Milliseconds since 1970, for what several machines compare; a manual clock begins there.
    pub(crate) fn unix_millis(&self) -> u64 {
        let since = match &self.0 {
            Source::System { unix, .. } => *unix,
            Source::Manual(_) => 0,
        };
        since + self.now_millis()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_when_told_and_its_clones_agree() {
        let clock = Clock::manual();
        let same = clock.clone();
        assert_eq!(same.now_millis(), 0);
        clock.advance(Duration::from_secs(2));
        assert_eq!(same.now_millis(), 2_000);
    }
}
