//! Linear memory of a version's instances, for statistics.
//!
//! Written when an instance grows or goes, which is rare. Invariant: `bytes` is the sum over the guards that exist.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// What the instances of a version at a hook hold.
#[derive(Debug, Default)]
pub(crate) struct MemoryUse {
    instances: AtomicUsize,
    bytes: AtomicUsize,
    /// Of the largest instance that there ever was.
    peak_bytes: AtomicUsize,
}

/// Linear memory, as statistics show it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryStatistics {
    /// Instances alive.
    pub instances: usize,
    /// Of all of them together.
    pub bytes: usize,
    /// The most that any one of them had since the version was bound.
    pub peak_bytes: usize,
}

/// One instance's share; taken back when dropped.
#[derive(Debug)]
pub(crate) struct MemoryGuard {
    of: Arc<MemoryUse>,
    bytes: usize,
}

impl MemoryUse {
    pub(crate) fn read(&self) -> MemoryStatistics {
        MemoryStatistics {
            instances: self.instances.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            peak_bytes: self.peak_bytes.load(Ordering::Relaxed),
        }
    }
}

impl MemoryGuard {
    /// An instance that has nothing yet.
    pub(crate) fn new(of: &Arc<MemoryUse>) -> Self {
        of.instances.fetch_add(1, Ordering::Relaxed);
        Self {
            of: Arc::clone(of),
            bytes: 0,
        }
    }

    /// The instance has so much now.
    pub(crate) fn set(&mut self, bytes: usize) {
        // Wraps where it shrank, and the sum wraps back.
        let more = bytes.wrapping_sub(self.bytes);
        self.of.bytes.fetch_add(more, Ordering::Relaxed);
        // Looked at first: a write takes the line away from all other cores, and fresh instances are of one size.
        if bytes > self.of.peak_bytes.load(Ordering::Relaxed) {
            self.of.peak_bytes.fetch_max(bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
    }
}

impl Drop for MemoryGuard {
    fn drop(&mut self) {
        self.of.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.of.instances.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_goes_with_its_holder_and_the_peak_stays() {
        let memory = Arc::new(MemoryUse::default());
        let mut first = MemoryGuard::new(&memory);
        let mut second = MemoryGuard::new(&memory);
        first.set(100);
        second.set(40);
        second.set(70);
        let read = memory.read();
        assert_eq!((read.instances, read.bytes), (2, 170));
        drop(first);
        second.set(10);
        let expected = MemoryStatistics {
            instances: 1,
            bytes: 10,
            peak_bytes: 100,
        };
        assert_eq!(memory.read(), expected);
    }
}
