//! Times of calls in a fixed number of buckets, from which any share can be read back with a bounded error.
//!
//! Log-linear, as HdrHistogram does it: sixteen buckets of equal width between two powers of two nanoseconds. What is
//! read back is the middle of a bucket, so it is off by one part in 32 at most. Writers add with relaxed atomics;
//! a reader may miss what is being written, never more.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Buckets between two powers of two, as a power of two.
const STEP_BITS: u32 = 4;
const STEPS: usize = 1 << STEP_BITS;
/// Times below 64 ns, less than a call can take, share a bucket.
const FIRST_BITS: u32 = 6;
/// Times from 17 s on share the last one; no deadline is as long.
const END_BITS: u32 = 34;
const N_BUCKETS: usize = 1 + (END_BITS - FIRST_BITS) as usize * STEPS;

/// Times, 3.6 KiB of them whatever was counted.
pub(crate) struct Histogram {
    buckets: [AtomicU64; N_BUCKETS],
    /// Times that were written, each once.
    samples: AtomicU64,
    /// Nanoseconds of all calls that the samples stand for.
    total_nanos: AtomicU64,
    max_nanos: AtomicU64,
}

/// What a histogram of durations says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Durations {
    /// Calls that were timed: all that ran aside or got half-way to their deadline, one in 64 of the others.
    pub samples: u64,
    /// Time of all calls together, those included that were not timed.
    pub total: Duration,
    pub mean: Duration,
    pub p50: Duration,
    pub p99: Duration,
    pub p999: Duration,
    pub max: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: [const { AtomicU64::new(0) }; N_BUCKETS],
            samples: AtomicU64::new(0),
            total_nanos: AtomicU64::new(0),
            max_nanos: AtomicU64::new(0),
        }
    }
}

impl std::fmt::Debug for Histogram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Histogram").field(&self.read()).finish()
    }
}

impl Histogram {
    /// Writes a call's time down, for as many calls as it stands for.
    pub(crate) fn record(&self, took: Duration, stands_for: u64) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let total = nanos.saturating_mul(stands_for);
        self.buckets[index(nanos)].fetch_add(stands_for, Ordering::Relaxed);
        self.samples.fetch_add(1, Ordering::Relaxed);
        self.total_nanos.fetch_add(total, Ordering::Relaxed);
        self.max_nanos.fetch_max(nanos, Ordering::Relaxed);
    }

    /// All the time that was recorded.
    pub(crate) fn total(&self) -> Duration {
        Duration::from_nanos(self.total_nanos.load(Ordering::Relaxed))
    }

    pub(crate) fn read(&self) -> Durations {
        let counts = self
            .buckets
            .each_ref()
            .map(|bucket| bucket.load(Ordering::Relaxed));
        let calls: u64 = counts.iter().sum();
        let max_nanos = self.max_nanos.load(Ordering::Relaxed);
        let total = self.total_nanos.load(Ordering::Relaxed);
        let share = |per_mille: u64| {
            let nanos = middle(quantile(&counts, calls, per_mille));
            // The middle of the last bucket in use may lie beyond everything that was seen.
            Duration::from_nanos(nanos.min(max_nanos))
        };
        Durations {
            samples: self.samples.load(Ordering::Relaxed),
            total: Duration::from_nanos(total),
            mean: Duration::from_nanos(total.checked_div(calls).unwrap_or(0)),
            p50: share(500),
            p99: share(990),
            p999: share(999),
            max: Duration::from_nanos(max_nanos),
        }
    }
}

/// The bucket of the smallest time that so many thousandths of all do not exceed.
fn quantile(counts: &[u64; N_BUCKETS], calls: u64, per_mille: u64) -> usize {
    let rank = u128::from(calls) * u128::from(per_mille);
    let rank = u64::try_from(rank.div_ceil(1_000)).unwrap_or(u64::MAX);
    let mut seen = 0;
    for (index, count) in counts.iter().enumerate() {
        seen += count;
        if seen >= rank.max(1) {
            return index;
        }
    }
    0
}

fn index(nanos: u64) -> usize {
    if nanos < 1 << FIRST_BITS {
        return 0;
    }
    let bits = nanos.ilog2();
    if bits >= END_BITS {
        return N_BUCKETS - 1;
    }
    // The bits behind the first one.
    let step = usize::try_from(nanos >> (bits - STEP_BITS)).unwrap_or(usize::MAX) & (STEPS - 1);
    1 + (bits - FIRST_BITS) as usize * STEPS + step
}

/// The time in the middle of a bucket.
fn middle(index: usize) -> u64 {
    let Some(index) = index.checked_sub(1) else {
        return 1 << (FIRST_BITS - 1);
    };
    let bits = FIRST_BITS + u32::try_from(index / STEPS).unwrap_or(0);
    let width = 1 << (bits - STEP_BITS);
    (1 << bits) + (index % STEPS) as u64 * width + width / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Off by so much at most: half a bucket, of which there are sixteen to each power of two.
    const ERROR: f64 = 1.0 / 32.0;

    fn exact(sorted: &[u64], per_mille: usize) -> u64 {
        sorted[(sorted.len() * per_mille).div_ceil(1_000).max(1) - 1]
    }

    #[track_caller]
    fn assert_near(read: Duration, exact: u64) {
        let read = read.as_nanos() as f64;
        let error = (read - exact as f64).abs() / exact as f64;
        assert!(error <= ERROR, "{read} instead of {exact}: {error}");
    }

    #[test]
    fn shares_are_within_a_thirtysecond_of_the_exact_ones() {
        for round in 0..200 {
            // Times of every order from 64 ns to 17 s alike, and times that are close together.
            let orders = if round % 2 == 0 { 28 } else { 2 };
            let first = rand::random_range(FIRST_BITS..=END_BITS - orders);
            let n = rand::random_range(1..=3_000);
            let mut times: Vec<u64> = (0..n)
                .map(|_| {
                    let bits = rand::random_range(first..first + orders);
                    rand::random_range(1 << bits..2 << bits)
                })
                .collect();
            let histogram = Histogram::default();
            for nanos in &times {
                histogram.record(Duration::from_nanos(*nanos), 1);
            }
            times.sort_unstable();
            let read = histogram.read();
            assert_eq!(read.samples, n);
            assert_near(read.p50, exact(&times, 500));
            assert_near(read.p99, exact(&times, 990));
            assert_near(read.p999, exact(&times, 999));
            assert_eq!(read.max, Duration::from_nanos(times[times.len() - 1]));
            let mean = times.iter().sum::<u64>() / n;
            assert_eq!(read.mean, Duration::from_nanos(mean));
        }
    }

    #[test]
    fn every_time_lies_in_the_bucket_that_stands_for_it() {
        for bits in FIRST_BITS..END_BITS {
            for nanos in [1_u64 << bits, (3 << bits) / 2, (2 << bits) - 1] {
                let read = middle(index(nanos));
                let error = (read as f64 - nanos as f64).abs() / nanos as f64;
                assert!(error <= ERROR, "{nanos}: {read}");
            }
        }
        for (nanos, bucket) in [(0, 0), (63, 0), (64, 1), (1 << 34, N_BUCKETS - 1)] {
            assert_eq!(index(nanos), bucket, "{nanos}");
        }
        assert_eq!(index(u64::MAX), N_BUCKETS - 1);
    }

    #[test]
    fn a_sample_counts_for_the_calls_it_stands_for() {
        let histogram = Histogram::default();
        // 64 calls of a microsecond of which one was timed, and one slow call.
        histogram.record(Duration::from_micros(1), 64);
        histogram.record(Duration::from_millis(4), 1);
        let read = histogram.read();
        assert_eq!(read.samples, 2);
        assert_near(read.p50, 1_000);
        assert_near(read.p99, 4_000_000);
        assert_eq!(read.total, Duration::from_micros(4_064));
        assert_eq!(read.mean, Duration::from_nanos(4_064_000 / 65));
    }

    #[test]
    fn nothing_was_measured_yet() {
        assert_eq!(Histogram::default().read(), Durations::default());
    }
}
