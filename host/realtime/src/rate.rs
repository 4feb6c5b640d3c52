//! Limits on how fast one connection may talk.
//!
//! Owns the arithmetic of a token bucket and of a counting window in a few bytes; the clock is passed in.

use std::num::NonZeroU32;

use tokio::time::{Duration, Instant};

/// Commands that may come at once, in seconds' worth of the rate: clients resubscribe in bursts.
const BURST_SECONDS: u32 = 4;

/// How long a client may stay over its rate before the connection ends.
pub const OVER_RATE_GRACE: Duration = Duration::from_secs(5);

/// Errors of one connection in one [`ERROR_WINDOW`]; a client in a loop ends here (threat model section 3).
pub const MAX_ERRORS: u16 = 100;

pub const ERROR_WINDOW: Duration = Duration::from_secs(60);

/// What becomes of a command under the rate limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateVerdict {
    Within,
    /// Too many; the command is refused.
    Over,
    /// Over the rate for longer than [`OVER_RATE_GRACE`].
    Abuse,
}

/// A token bucket. Refilled by the rate it is asked with, so that a changed setting applies at once.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    /// Missing from the full bucket, in millionths of a command.
    debt: u64,
    at: Instant,
    over_since: Option<Instant>,
}

const MILLION: u64 = 1_000_000;

impl Bucket {
    pub fn new(now: Instant) -> Self {
        Self {
            debt: 0,
            at: now,
            over_since: None,
        }
    }

    /// Counts one command.
    pub fn take(&mut self, rate: NonZeroU32, now: Instant) -> RateVerdict {
        let rate = u64::from(rate.get());
        let burst = rate * u64::from(BURST_SECONDS) * MILLION;
        let elapsed = now.saturating_duration_since(self.at);
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        self.debt = self.debt.saturating_sub(micros.saturating_mul(rate));
        self.at = now;
        if self.debt + MILLION <= burst {
            self.debt += MILLION;
            // A client that has calmed down starts anew; one that takes each token at once does not.
            if self.debt <= burst / 2 {
                self.over_since = None;
            }
            return RateVerdict::Within;
        }
        let since = *self.over_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= OVER_RATE_GRACE {
            RateVerdict::Abuse
        } else {
            RateVerdict::Over
        }
    }
}

/// Counts errors in windows of [`ERROR_WINDOW`].
#[derive(Debug, Clone, Copy)]
pub struct ErrorWindow {
    started: Instant,
    errors: u16,
}

impl ErrorWindow {
    pub fn new(now: Instant) -> Self {
        Self {
            started: now,
            errors: 0,
        }
    }

    /// Counts an error; `false` when there were too many.
    #[must_use]
    pub fn count(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.started) >= ERROR_WINDOW {
            *self = Self::new(now);
        }
        self.errors = self.errors.saturating_add(1);
        self.errors <= MAX_ERRORS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DEFAULT_COMMAND_RATE;

    #[test]
    fn a_burst_passes_and_the_rate_holds_after_it() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        for _ in 0..400 {
            assert_eq!(
                bucket.take(DEFAULT_COMMAND_RATE, start),
                RateVerdict::Within
            );
        }
        assert_eq!(bucket.take(DEFAULT_COMMAND_RATE, start), RateVerdict::Over);
        let later = start + Duration::from_secs(1);
        let passed = (0..200)
            .filter(|_| bucket.take(DEFAULT_COMMAND_RATE, later) == RateVerdict::Within)
            .count();
        assert_eq!(passed, 100);
    }

    #[test]
    fn a_flood_of_five_seconds_is_abuse() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        let mut first_abuse = None;
        for milli in 0..20_000 {
            let now = start + Duration::from_millis(milli);
            if bucket.take(DEFAULT_COMMAND_RATE, now) == RateVerdict::Abuse {
                first_abuse = Some(milli);
                break;
            }
        }
        // The burst lasts 0.44 s at 1,000 a second, then five seconds are granted.
        let first_abuse = first_abuse.unwrap();
        assert!((5_400..5_600).contains(&first_abuse), "{first_abuse}");
    }

    #[test]
    fn a_client_that_pauses_is_forgiven() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        for _ in 0..401 {
            bucket.take(DEFAULT_COMMAND_RATE, start);
        }
        let later = start + Duration::from_secs(10);
        assert_eq!(
            bucket.take(DEFAULT_COMMAND_RATE, later),
            RateVerdict::Within
        );
        for _ in 0..400 {
            assert_ne!(bucket.take(DEFAULT_COMMAND_RATE, later), RateVerdict::Abuse);
        }
    }

    #[test]
    fn a_hundred_errors_a_minute_are_tolerated() {
        let start = Instant::now();
        let mut window = ErrorWindow::new(start);
        assert!((0..100).all(|_| window.count(start)));
        assert!(!window.count(start));
        assert!(window.count(start + ERROR_WINDOW));
    }
}
