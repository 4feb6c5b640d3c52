//! The outcomes of the last two hundred calls, one bit each.
//!
//! Writers take a place each and set or clear its bit; the number of failures moves only with bits that really
//! changed, so that it always is the number of bits set, whoever wrote at the same time.

use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

/// Calls that the window holds.
pub(super) const CALLS: u32 = 200;

const WORDS: usize = CALLS.div_ceil(u64::BITS) as usize;

#[derive(Debug, Default)]
pub(super) struct Window {
    /// A set bit is a failure.
    bits: [AtomicU64; WORDS],
    next: AtomicU32,
    /// Signed: for a moment a bit may be cleared by one writer before the other has counted it.
    failures: AtomicI32,
}

impl Window {
    /// Answers the failures in the window now.
    pub(super) fn record_failure(&self) -> i32 {
        let (word, bit) = self.place();
        if word.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
            self.failures.fetch_add(1, Ordering::Relaxed) + 1
        } else {
            self.failures()
        }
    }

    /// Answers the failures in the window now.
    pub(super) fn record_success(&self) -> i32 {
        let (word, bit) = self.place();
        if word.fetch_and(!bit, Ordering::Relaxed) & bit == 0 {
            self.failures()
        } else {
            self.failures.fetch_sub(1, Ordering::Relaxed) - 1
        }
    }

    pub(super) fn failures(&self) -> i32 {
        self.failures.load(Ordering::Relaxed)
    }

    pub(super) fn clear(&self) {
        for word in &self.bits {
            let cleared = word.swap(0, Ordering::Relaxed).count_ones();
            let cleared = i32::try_from(cleared).unwrap_or(0);
            self.failures.fetch_sub(cleared, Ordering::Relaxed);
        }
    }

    fn place(&self) -> (&AtomicU64, u64) {
        let place = self.next.fetch_add(1, Ordering::Relaxed) % CALLS;
        let word = &self.bits[(place / u64::BITS) as usize];
        (word, 1 << (place % u64::BITS))
    }
}
