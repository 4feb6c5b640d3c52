//! The token bucket: whether there is a token, and when there will be one.
//!
//! A bucket is one number, the moment at which it will be full again. Each token moves it by the time that a token
//! takes to grow; there is one as long as the moment is not farther away than a whole bucket. A bucket that is full is
//! no key at all.

use std::time::Duration;

use tidegate_sdk::{
    clock,
    state::{self, StateError},
};

use crate::settings::Tier;

/// So often another call may come in between. Each attempt is two operations on `state`, of which a call has 32.
const MAX_ATTEMPTS: usize = 10;

/// Takes a token; the inner error says how long until there is one.
pub(crate) fn take(key: &str, tier: &Tier) -> Result<Result<(), Duration>, StateError> {
    let now = clock::unix_millis().saturating_mul(1_000);
    for _ in 0..MAX_ATTEMPTS {
        let held = state::get(key)?;
        let full_at = held.as_deref().and_then(read).unwrap_or(0);
        let full_at = match after_one(tier, now, full_at) {
            Ok(full_at) => full_at,
            Err(wait) => return Ok(Err(wait)),
        };
        // Rounded up: a bucket that is forgotten is a full one.
        let ttl = Duration::from_millis((full_at - now).div_ceil(1_000));
        let written = full_at.to_string();
        if state::compare_and_set(key, held.as_deref(), written.as_bytes(), ttl)? {
            return Ok(Ok(()));
        }
    }
    // Many messages of this sender at the same moment: those that came through are enough for now.
    Ok(Err(tier.interval()))
}

/// When a bucket that is full at `full_at` will be full with a token less; all in microseconds.
fn after_one(tier: &Tier, now: u64, full_at: u64) -> Result<u64, Duration> {
    let interval = tier.interval_micros();
    let most = now + interval * u64::from(tier.burst());
    let next = full_at.max(now) + interval;
    if next <= most {
        Ok(next)
    } else {
        Err(Duration::from_micros(next - most))
    }
}

fn read(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_one_for_each_interval() {
        let tier = Tier::parse(r#"{"rate":4,"per":"1s","burst":3}"#);
        let mut now = 1_000_000_000;
        let mut full_at = 0;
        for _ in 0..3 {
            full_at = after_one(&tier, now, full_at).unwrap();
        }
        assert_eq!(
            after_one(&tier, now, full_at),
            Err(Duration::from_millis(250))
        );
        now += 249_000;
        assert_eq!(
            after_one(&tier, now, full_at),
            Err(Duration::from_millis(1))
        );
        now += 1_000;
        full_at = after_one(&tier, now, full_at).unwrap();
        assert_eq!(
            after_one(&tier, now, full_at),
            Err(Duration::from_millis(250))
        );
        // However long it was left alone, it holds no more than its burst.
        now += 3_600_000_000;
        for _ in 0..3 {
            full_at = after_one(&tier, now, full_at).unwrap();
        }
        assert!(after_one(&tier, now, full_at).is_err());
    }
}
