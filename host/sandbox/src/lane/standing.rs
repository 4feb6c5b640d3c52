//! Which lane a version has earned at a hook.
//!
//! A fresh one starts aside. After a thousand calls there with a mean under a tenth of a millisecond and no
//! interrupt it moves inline; one interrupt, or a worse mean, moves it back. Pure arithmetic in one word, so that
//! a call reads its lane with one relaxed load.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Calls after which the lane is decided upon.
const CALLS: u64 = 1_000;
/// The mean that the inline lane demands.
const MEAN: Duration = Duration::from_micros(100);
/// Inline calls are timed one in 64; so many samples make a judgement, which is about as many calls as above.
const SAMPLES: u64 = 16;
/// A sample counts as no more than this. The clock also runs while the thread is off its core, and one such
/// moment shall not decide; a plugin that is really slow shows in every sample.
const LONGEST_SAMPLE: Duration = Duration::from_millis(1);
/// Calls that a version must have made before it may run inline when the aside lane is crowded.
const CALLS_UNTIL_TRUSTED: u64 = 16;

const INLINE: u64 = 1 << 63;
const COUNT_SHIFT: u32 = 48;
const SUM_MASK: u64 = (1 << COUNT_SHIFT) - 1;

/// Bit 63: inline. Bits 48 to 62: calls or samples since the last decision. The rest: their time in nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct Standing(AtomicU64);

/// A change of lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Move {
    ToInline,
    ToAside,
}

impl Standing {
    #[inline]
    pub(crate) fn is_inline(&self) -> bool {
        self.0.load(Ordering::Relaxed) & INLINE != 0
    }

    /// Whether it may run inline while the aside lane is crowded: the little that is known of it is good.
    pub(crate) fn is_trusted(&self) -> bool {
        let word = self.0.load(Ordering::Relaxed);
        let (count, sum) = parts(word);
        word & INLINE != 0 || (count >= CALLS_UNTIL_TRUSTED && sum < nanos(MEAN) * count)
    }

    /// A call made aside took so much processor time.
    pub(crate) fn called_aside(&self, took: Duration) -> Option<Move> {
        self.update(|word| {
            if word & INLINE != 0 {
                // It moved while this call ran.
                return (word, None);
            }
            match add(word, took) {
                (CALLS, sum) if sum < nanos(MEAN) * CALLS => (INLINE, Some(Move::ToInline)),
                (CALLS, _) => (0, None),
                (count, sum) => (join(count, sum), None),
            }
        })
    }

    /// A sampled call made inline took so much time.
    pub(crate) fn called_inline(&self, took: Duration) -> Option<Move> {
        self.update(|word| {
            if word & INLINE == 0 {
                return (word, None);
            }
            match add(word, took.min(LONGEST_SAMPLE)) {
                (SAMPLES, sum) if sum >= nanos(MEAN) * SAMPLES => (0, Some(Move::ToAside)),
                (SAMPLES, _) => (INLINE, None),
                (count, sum) => (INLINE | join(count, sum), None),
            }
        })
    }

    /// A call ran into its deadline: it starts again from nothing.
    pub(crate) fn interrupted(&self) -> Option<Move> {
        let before = self.0.swap(0, Ordering::Relaxed);
        (before & INLINE != 0).then_some(Move::ToAside)
    }

    /// Relaxed throughout: the word carries all there is.
    fn update(&self, change: impl Fn(u64) -> (u64, Option<Move>)) -> Option<Move> {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let (next, moved) = change(word);
            match self
                .0
                .compare_exchange_weak(word, next, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return moved,
                Err(now) => word = now,
            }
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn parts(word: u64) -> (u64, u64) {
    ((word & !INLINE) >> COUNT_SHIFT, word & SUM_MASK)
}

fn join(count: u64, sum: u64) -> u64 {
    count << COUNT_SHIFT | sum
}

fn add(word: u64, took: Duration) -> (u64, u64) {
    let (count, sum) = parts(word);
    (count + 1, sum.saturating_add(nanos(took)).min(SUM_MASK))
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_micros(10);
    const SLOW: Duration = Duration::from_millis(4);

    fn earned() -> Standing {
        let standing = Standing::default();
        for _ in 1..CALLS {
            assert_eq!(standing.called_aside(QUICK), None);
            assert!(!standing.is_inline());
        }
        assert_eq!(standing.called_aside(QUICK), Some(Move::ToInline));
        assert!(standing.is_inline());
        standing
    }

    #[test]
    fn a_thousand_quick_calls_earn_the_inline_lane_and_one_interrupt_loses_it() {
        let standing = earned();
        assert_eq!(standing.interrupted(), Some(Move::ToAside));
        assert!(!standing.is_inline());
        assert_eq!(standing.interrupted(), None);
        // All thousand again.
        for _ in 1..CALLS {
            assert_eq!(standing.called_aside(QUICK), None);
        }
        assert_eq!(standing.called_aside(QUICK), Some(Move::ToInline));
    }

    #[test]
    fn an_interrupt_on_the_way_starts_the_thousand_anew() {
        let standing = Standing::default();
        for _ in 0..999 {
            let _ = standing.called_aside(QUICK);
        }
        let _ = standing.interrupted();
        assert_eq!(standing.called_aside(QUICK), None);
        assert!(!standing.is_inline());
    }

    #[test]
    fn a_slow_mean_stays_aside() {
        let standing = Standing::default();
        for _ in 0..3 * CALLS {
            assert_eq!(standing.called_aside(Duration::from_micros(100)), None);
        }
        assert!(!standing.is_inline());
    }

    #[test]
    fn a_version_that_becomes_slow_goes_back_and_one_slow_moment_does_not_count() {
        let standing = earned();
        for _ in 0..10 {
            let _ = standing.called_inline(SLOW);
            for _ in 1..SAMPLES {
                assert_eq!(standing.called_inline(QUICK), None);
            }
        }
        assert!(standing.is_inline());
        for _ in 1..SAMPLES {
            assert_eq!(standing.called_inline(SLOW), None);
        }
        assert_eq!(standing.called_inline(SLOW), Some(Move::ToAside));
        assert!(!standing.is_inline());
    }

    #[test]
    fn trust_takes_a_few_good_calls() {
        let standing = Standing::default();
        assert!(!standing.is_trusted());
        for _ in 0..CALLS_UNTIL_TRUSTED {
            let _ = standing.called_aside(QUICK);
        }
        assert!(standing.is_trusted() && !standing.is_inline());
        let _ = standing.called_aside(SLOW);
        assert!(!standing.is_trusted());
    }
}
