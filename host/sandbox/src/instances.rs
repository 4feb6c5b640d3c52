//! The instances of a sandbox: how many there may be, where they wait, and which one makes room for another.
//!
//! An instance belongs to the thread that made it, for as long as it is called. Between calls it lies on the
//! thread's [`Seat`], from where any thread may take it away: when the pool fills, when its unit was replaced,
//! when nobody used it for a minute. Taking and putting back are one atomic exchange each, so the owner takes no
//! lock. Invariant: `alive` counts exactly the [`Slot`]s that exist, and every instance holds one.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use crossbeam_utils::atomic::AtomicCell;
use parking_lot::{Condvar, Mutex};
use tokio::time::Instant;

use crate::{instance::Instance, unit::Unit};

/// Ticks (milliseconds while anything runs) after which an unused instance is dropped.
const IDLE_TICKS: u64 = 60_000;
/// Ticks between two looks for unused instances.
const SWEEP_TICKS: u64 = 5_000;
/// [`Seat::used_at`] of a seat on which nothing lies.
const EMPTY: u64 = u64::MAX;
/// Longest wait for room without looking again. Whoever makes room wakes who waits; this is for the wake that a
/// weakly ordered processor may let slip.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// How far a question has come, which decides whether it may use the last slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nothing was asked yet: it can still go elsewhere.
    First,
    /// Plugins have answered already. A few slots are kept for these.
    UnderWay,
}

/// How long to wait for a slot.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Patience {
    /// On a session's worker, which waits for nobody.
    None,
    Until(Instant),
}

/// Where a thread keeps its instance of a unit between calls.
pub(crate) struct Seat {
    pub(crate) unit: Arc<Unit>,
    idle: AtomicCell<Option<Box<Instance>>>,
    /// Tick of the last use while an instance lies here, otherwise [`EMPTY`]. A hint for who evicts; what it
    /// finds out counts.
    used_at: AtomicU64,
}

impl Seat {
    pub(crate) fn new(unit: &Arc<Unit>) -> Self {
        Self {
            unit: Arc::clone(unit),
            idle: AtomicCell::new(None),
            used_at: AtomicU64::new(EMPTY),
        }
    }

    #[inline]
    pub(crate) fn take(&self) -> Option<Box<Instance>> {
        self.used_at.store(EMPTY, Ordering::Relaxed);
        self.idle.take()
    }

    /// Puts an instance back; answers one that lay here, which is none unless somebody else used the seat.
    #[inline]
    pub(crate) fn put(&self, instance: Box<Instance>, now: u64) -> Option<Box<Instance>> {
        let displaced = self.idle.swap(Some(instance));
        self.used_at.store(now, Ordering::Relaxed);
        displaced
    }
}

/// All instances of a sandbox.
#[derive(Debug)]
pub(crate) struct Instances {
    /// Most at once.
    capacity: usize,
    alive: AtomicUsize,
    made: AtomicU64,
    evicted: AtomicU64,
    /// Seats of all threads; dead ones are swept out now and then.
    seats: Mutex<Vec<Weak<Seat>>>,
    /// Tick of the next look for unused instances.
    next_sweep: AtomicU64,
    /// Threads that wait for a slot.
    waiting: AtomicUsize,
    turn: Mutex<()>,
    freed: Condvar,
}

impl std::fmt::Debug for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seat")
            .field("unit", &self.unit.id)
            .finish_non_exhaustive()
    }
}

/// Leave to have one instance; dropped with it.
#[derive(Debug)]
pub(crate) struct Slot(Arc<Instances>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.alive.fetch_sub(1, Ordering::AcqRel);
        self.0.made_room();
    }
}

impl Instances {
    pub(crate) fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self {
            capacity: capacity.max(2),
            alive: AtomicUsize::new(0),
            made: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
            seats: Mutex::default(),
            next_sweep: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            turn: Mutex::new(()),
            freed: Condvar::new(),
        })
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(crate) fn alive(&self) -> usize {
        self.alive.load(Ordering::Relaxed)
    }

    /// Instances made so far.
    pub(crate) fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    pub(crate) fn count_made(&self) {
        self.made.fetch_add(1, Ordering::Relaxed);
    }

    /// Instances that made room for others so far.
    pub(crate) fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    pub(crate) fn enter(&self, seat: &Arc<Seat>) {
        let mut seats = self.seats.lock();
        if seats.len() == seats.capacity() {
            seats.retain(|seat| seat.strong_count() > 0);
        }
        seats.push(Arc::downgrade(seat));
    }

    /// A slot for one more instance, and how long it had to be waited for. From nine tenths on, those that were not
    /// used for the longest time make room before it is needed.
    pub(crate) fn slot(
        self: &Arc<Self>,
        stage: Stage,
        patience: Patience,
        now: u64,
    ) -> Option<(Slot, Duration)> {
        self.drop_unused(now);
        let mut waited = Duration::ZERO;
        if self.alive() >= self.capacity * 9 / 10 {
            self.evict((self.capacity / 64).max(1));
        }
        let spare = (self.capacity / 20).max(1);
        let most = match stage {
            Stage::First => self.capacity - spare,
            Stage::UnderWay => self.capacity,
        };
        loop {
            let taken = self
                .alive
                .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |alive| {
                    (alive < most).then_some(alive + 1)
                });
            if taken.is_ok() {
                return Some((Slot(Arc::clone(self)), waited));
            }
            if self.evict(1) == 0 {
                waited += self.wait(patience, most)?;
            }
        }
    }

    /// Drops the `n` instances that were not used for the longest time. Answers how many there were.
    pub(crate) fn evict(&self, n: usize) -> usize {
        let mut seats = self.idle_seats(|_| true);
        if seats.len() > n {
            seats.select_nth_unstable_by_key(n, |(used_at, _)| *used_at);
        }
        // Some may have been taken for a call meanwhile; the next ones in the list will do as well.
        let evicted = seats.iter().filter_map(|(_, seat)| seat.take()).take(n);
        let evicted = evicted.count();
        self.evicted.fetch_add(evicted as u64, Ordering::Relaxed);
        evicted
    }

    /// Drops the instances of units that were replaced, on whatever thread they lie.
    pub(crate) fn drop_retired(&self) {
        for (_, seat) in self.idle_seats(|seat| seat.unit.is_retired()) {
            drop(seat.take());
        }
    }

    fn drop_unused(&self, now: u64) {
        let due = self.next_sweep.load(Ordering::Relaxed);
        let is_ours = now >= due
            && self
                .next_sweep
                .compare_exchange(due, now + SWEEP_TICKS, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if !is_ours {
            return;
        }
        let is_stale = |used_at: u64| now.saturating_sub(used_at) > IDLE_TICKS;
        for (used_at, seat) in self.idle_seats(|_| true) {
            if is_stale(used_at) {
                drop(seat.take());
            }
        }
    }

    fn idle_seats(&self, which: impl Fn(&Seat) -> bool) -> Vec<(u64, Arc<Seat>)> {
        let seats = self.seats.lock();
        let alive = seats.iter().filter_map(Weak::upgrade);
        alive
            .filter(|seat| which(seat))
            .map(|seat| (seat.used_at.load(Ordering::Relaxed), seat))
            .filter(|(used_at, _)| *used_at != EMPTY)
            .collect()
    }

    /// Waits until there may be room, and tells for how long. `None` when the time is over.
    fn wait(&self, patience: Patience, most: usize) -> Option<Duration> {
        let Patience::Until(until) = patience else {
            return None;
        };
        let started = Instant::now();
        let left = until.saturating_duration_since(started);
        if left.is_zero() {
            return None;
        }
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut turn = self.turn.lock();
        if self.alive() >= most {
            self.freed.wait_for(&mut turn, left.min(LOOK_AGAIN));
        }
        drop(turn);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        Some(started.elapsed())
    }

    /// Wakes who waits for room, if anybody does: a slot came free, or an instance may be evicted now.
    #[inline]
    pub(crate) fn made_room(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        let turn = self.turn.lock();
        self.freed.notify_one();
        drop(turn);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn putting_an_instance_back_takes_no_lock() {
        assert!(AtomicCell::<Option<Box<Instance>>>::is_lock_free());
    }

    #[test]
    fn the_last_slots_are_for_questions_under_way() {
        let instances = Instances::new(4);
        let slot = |stage| instances.slot(stage, Patience::None, 0);
        let held: Vec<_> = (0..3).map(|_| slot(Stage::First).unwrap()).collect();
        assert!(slot(Stage::First).is_none());
        let last = slot(Stage::UnderWay).unwrap();
        assert!(slot(Stage::UnderWay).is_none());
        drop((held, last));
        assert_eq!(instances.alive(), 0);
    }

    #[test]
    fn who_waits_gets_the_slot_that_comes_free() {
        let instances = Instances::new(2);
        let held = instances.slot(Stage::First, Patience::None, 0).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let until = Patience::Until(Instant::now() + Duration::from_secs(60));
                instances.slot(Stage::First, until, 0).is_some()
            });
            while instances.waiting.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            drop(held);
            assert!(waiter.join().unwrap());
        });
    }

    #[test]
    fn patience_ends() {
        let instances = Instances::new(2);
        let _held = instances.slot(Stage::First, Patience::None, 0).unwrap();
        let soon = Patience::Until(Instant::now() + Duration::from_millis(5));
        assert!(instances.slot(Stage::First, soon, 0).is_none());
    }
}
