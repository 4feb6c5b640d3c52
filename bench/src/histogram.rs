//! A log-linear histogram of nanoseconds: fixed memory, about 1.6 % resolution, exact mean.

/// 2^6 steps within each power of two.
const STEP_BITS: u32 = 6;

/// Counts of durations.
#[derive(Debug, Clone)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    sum: u128,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: vec![0; 64 << STEP_BITS],
            count: 0,
            sum: 0,
            max: 0,
        }
    }
}

impl Histogram {
    #[inline]
    pub fn add(&mut self, nanos: u64) {
        self.buckets[index(nanos)] += 1;
        self.count += 1;
        self.sum += u128::from(nanos);
        self.max = self.max.max(nanos);
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn max(&self) -> u64 {
        self.max
    }

    pub fn mean(&self) -> f64 {
        if self.count == 0 {
            0.0
        } else {
            self.sum as f64 / self.count as f64
        }
    }

    /// The smallest value that at least this share of all values does not exceed.
    pub fn quantile(&self, share: f64) -> u64 {
        let wanted = self.count as f64 * share;
        let mut seen = 0;
        for (at, count) in self.buckets.iter().enumerate() {
            seen += count;
            if *count > 0 && seen as f64 >= wanted {
                return lower_bound(at).min(self.max);
            }
        }
        self.max
    }
}

#[inline]
fn index(nanos: u64) -> usize {
    let exponent = nanos.max(1).ilog2();
    if exponent <= STEP_BITS {
        return usize::try_from(nanos).unwrap_or(usize::MAX);
    }
    let step = (nanos >> (exponent - STEP_BITS)) & ((1 << STEP_BITS) - 1);
    usize::try_from((u64::from(exponent - STEP_BITS + 1) << STEP_BITS) + step).unwrap_or(usize::MAX)
}

fn lower_bound(index: usize) -> u64 {
    let (power, step) = (index >> STEP_BITS, (index & ((1 << STEP_BITS) - 1)) as u64);
    if power <= 1 {
        index as u64
    } else {
        ((1 << STEP_BITS) + step) << (power - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_and_mean_of_an_even_spread_are_close() {
        let mut histogram = Histogram::default();
        (1..=1_000_000).for_each(|value| histogram.add(value));
        for share in [0.01, 0.5, 0.9, 0.99, 0.999] {
            let (wanted, got) = (1e6 * share, histogram.quantile(share) as f64);
            assert!(
                (got - wanted).abs() / wanted < 0.02,
                "{share}: {got} instead of {wanted}"
            );
        }
        assert!((histogram.mean() - 500_000.5).abs() < 1.0);
        assert_eq!(histogram.max(), 1_000_000);
    }

    #[test]
    fn an_empty_histogram_answers_zero() {
        assert_eq!(Histogram::default().quantile(0.99), 0);
    }
}
