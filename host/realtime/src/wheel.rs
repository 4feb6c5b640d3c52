//! The timing wheel: one coarse clock for the deadlines of all sessions of a shard.
//!
//! Owns who is looked at in which tick. A session has one deadline; pings, time-outs and expiries are whatever
//! comes first, which the session works out. Moving a deadline away costs a store, not a search: the link stays
//! in its old slot and is put on when that slot comes up. Invariant: an armed link is in a slot no later than
//! its deadline, so a deadline fires at most one tick late and never early.

#[cfg(test)]
mod tests;

use std::sync::{
    Arc, Weak,
    atomic::{AtomicU32, Ordering},
};

use parking_lot::Mutex;
use tokio::time::{Duration, Instant};

use crate::link::{Link, Signal};

/// Length of a tick. Heartbeats are counted in seconds; a quarter of one is exact enough and four wake-ups a
/// second cost nothing.
pub const TICK: Duration = Duration::from_millis(250);

/// Slots of the wheel, 64 seconds. Deadlines beyond are looked at once a turn.
const NUM_SLOTS: u32 = 256;

/// Deadlines of a shard's sessions.
#[derive(Debug)]
pub struct Wheel {
    origin: Instant,
    /// The last tick that was processed. Written under the lock of that tick's slot.
    now: AtomicU32,
    /// Links to look at, by tick modulo [`NUM_SLOTS`].
    slots: Box<[Mutex<Vec<Weak<Link>>>]>,
}

impl Wheel {
    pub fn new(origin: Instant) -> Self {
        Self {
            origin,
            now: AtomicU32::new(0),
            slots: (0..NUM_SLOTS).map(|_| Mutex::default()).collect(),
        }
    }

    /// Has `link` get [`Signal::Deadline`] at `at`, in place of the deadline it had before.
    pub fn schedule(&self, link: &Arc<Link>, at: Instant) {
        let wanted = self.tick_of(at);
        let placed = wanted.min(self.farthest());
        let must_place = link.with_timer(|timer| {
            timer.wanted = wanted;
            let must_place = timer.placed == 0 || timer.placed > placed;
            if must_place {
                timer.placed = placed;
            }
            must_place
        });
        if must_place {
            self.place(Arc::downgrade(link), placed);
        }
    }

    /// Takes the deadline of `link` away.
    pub fn cancel(&self, link: &Link) {
        link.with_timer(|timer| timer.wanted = 0);
    }

    /// Moves on to `now` and takes the links to look at. Called by one task.
    pub(crate) fn due(&self, now: Instant) -> Vec<Weak<Link>> {
        let target = self.ticks_until(now);
        let mut links = Vec::new();
        let mut tick = self.now.load(Ordering::Relaxed);
        while tick < target {
            tick += 1;
            let mut slot = self.slots[slot_of(tick)].lock();
            self.now.store(tick, Ordering::Relaxed);
            links.append(&mut slot);
        }
        links
    }

    /// Looks at one link whose slot came up.
    pub(crate) fn look_at(&self, link: &Weak<Link>) {
        let Some(link) = link.upgrade() else { return };
        let now = self.now.load(Ordering::Relaxed);
        let (is_due, again) = link.with_timer(|timer| {
            if timer.placed == 0 || timer.placed > now {
                // Left over from a deadline that was moved forward: another slot has this link.
                return (false, 0);
            }
            if timer.wanted == 0 || timer.wanted <= now {
                let is_due = timer.wanted != 0;
                *timer = crate::link::Timer::default();
                return (is_due, 0);
            }
            timer.placed = timer.wanted.min(self.farthest());
            (false, timer.placed)
        });
        if is_due {
            link.signal(Signal::Deadline);
        } else if again != 0 {
            self.place(Arc::downgrade(&link), again);
        }
    }

    /// Puts a link into the slot of `tick`, or into the next one when that has passed.
    fn place(&self, link: Weak<Link>, tick: u32) {
        loop {
            let tick = tick.max(self.now.load(Ordering::Relaxed) + 1);
            let mut slot = self.slots[slot_of(tick)].lock();
            // The slot may have been emptied since `now` was read; then the tick is in the past.
            if self.now.load(Ordering::Relaxed) < tick {
                slot.push(link);
                return;
            }
        }
    }

    /// The last tick that has a slot of its own now.
    fn farthest(&self) -> u32 {
        self.now.load(Ordering::Relaxed) + NUM_SLOTS - 1
    }

    /// The first tick that is not before `at`; never zero, which means none.
    fn tick_of(&self, at: Instant) -> u32 {
        let since = at.saturating_duration_since(self.origin);
        let ticks = since.as_millis().div_ceil(TICK.as_millis());
        u32::try_from(ticks).unwrap_or(u32::MAX).max(1)
    }

    /// Ticks that have passed at `now`.
    fn ticks_until(&self, now: Instant) -> u32 {
        let since = now.saturating_duration_since(self.origin);
        u32::try_from(since.as_millis() / TICK.as_millis()).unwrap_or(u32::MAX)
    }
}

fn slot_of(tick: u32) -> usize {
    (tick % NUM_SLOTS) as usize
}
