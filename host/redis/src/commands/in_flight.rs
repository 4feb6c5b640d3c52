//! How many commands of this node are on their way.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::RedisFailure;

/// A count with a bound, shared by all shards.
#[derive(Debug, Clone)]
pub struct InFlight {
    shared: Arc<Counts>,
}

#[derive(Debug)]
struct Counts {
    now: AtomicUsize,
    max: usize,
}

impl InFlight {
    pub fn new(max: usize) -> Self {
        Self {
            shared: Arc::new(Counts {
                now: AtomicUsize::new(0),
                max,
            }),
        }
    }

    pub fn num(&self) -> usize {
        self.shared.now.load(Ordering::Relaxed)
    }

    pub(super) fn enter(&self) -> Result<InFlightGuard, RedisFailure> {
        let before = self.shared.now.fetch_add(1, Ordering::Relaxed);
        let guard = InFlightGuard(Arc::clone(&self.shared));
        if before >= self.shared.max {
            return Err(RedisFailure::Overloaded);
        }
        Ok(guard)
    }
}

/// One command; dropped when it has ended.
#[derive(Debug)]
pub(super) struct InFlightGuard(Arc<Counts>);

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_too_many_is_refused_and_room_comes_back() {
        let in_flight = InFlight::new(1);
        let first = in_flight.enter().unwrap();
        assert_eq!(in_flight.enter().unwrap_err(), RedisFailure::Overloaded);
        assert_eq!(in_flight.num(), 1);
        drop(first);
        assert!(in_flight.enter().is_ok());
    }
}
