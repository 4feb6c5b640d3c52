//! How many lines there may be in a second.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bits that hold the number of lines; the rest hold the second.
const COUNT_BITS: u32 = 16;

/// Lines that may be written in the second at hand.
#[derive(Debug)]
pub(crate) struct LineBudget {
    per_second: u64,
    /// The second since 1970 and how many lines were written in it, in one word, so that one compare-and-swap
    /// keeps both.
    window: AtomicU64,
}

impl LineBudget {
    pub(super) const fn new(per_second: u16) -> Self {
        Self {
            per_second: per_second as u64,
            window: AtomicU64::new(0),
        }
    }

    /// Whether one more line may be written at this time, in milliseconds since 1970; then it is counted.
    pub(crate) fn admit(&self, at_millis: u64) -> bool {
        let second = at_millis / 1_000;
        let counted = self
            .window
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |seen| {
                let used = if seen >> COUNT_BITS == second {
                    seen & ((1 << COUNT_BITS) - 1)
                } else {
                    0
                };
                (used < self.per_second).then_some((second << COUNT_BITS) | (used + 1))
            });
        counted.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_its_number_of_lines_and_the_next_one_as_many() {
        let budget = LineBudget::new(100);
        let admitted = |at| (0..150).filter(|_| budget.admit(at)).count();
        assert_eq!(
            (admitted(7_000), admitted(7_999), admitted(8_000)),
            (100, 0, 100)
        );
    }
}
