//! The clock of deadlines: a thread that advances the engine's epoch once a millisecond.
//!
//! An OS thread of its own, because a task cannot tick while all workers are inside guests. It parks when no
//! guest was entered for a while and the next [`Ticker::arm`] wakes it. Invariant: a deadline of up to
//! [`IDLE_TICKS`] that was armed for always comes; a call whose deadline is put off arms again.

use std::{
    num::NonZeroU64,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, Thread},
    time::Duration,
};

use tokio::time::Instant;

/// Length of a tick. Deadlines are whole ticks.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// Ticks without any call after which the thread parks. Longer than a deadline can be set to at once, so that
/// it cannot park under a running guest.
const IDLE_TICKS: u64 = 200;

/// Ticks that a deadline of `wall` needs: one more than it holds, since the first tick may come at once.
pub(crate) fn ticks(wall: Duration) -> u64 {
    u64::try_from(wall.as_nanos().div_ceil(TICK.as_nanos())).unwrap_or(u64::MAX - 1) + 1
}

/// What a late tick may take off the time to the next one. Ticks stay a millisecond apart on average although every
/// wake is a little late; one that is very late does not make the next ones follow on its heels, which would end
/// guests early.
const CATCH_UP: Duration = Duration::from_micros(100);
/// How late the kernel may wake the thread in order to save a wake; its usual slack is a twentieth of a tick.
const TIMER_SLACK_NANOS: NonZeroU64 = NonZeroU64::new(1_000).expect("it is not 0");

/// A handle on the thread. What it points to is never freed: there is one ticker in a process, and every instance
/// holds a handle, whose references would be counted on one cache line by all cores.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticker {
    shared: &'static Shared,
}

#[derive(Debug, Default)]
struct Shared {
    /// Set by callers, taken by the thread at every tick.
    is_armed: AtomicBool,
    /// Set by the thread alone, before it parks. Pairs with `is_armed`: each side stores its own flag, then
    /// loads the other's, all `SeqCst`, so at least one of them sees the other.
    is_parked: AtomicBool,
    /// Ticks so far; a clock of milliseconds that costs one load.
    ticks: AtomicU64,
    /// Set once, right after it was started.
    thread: OnceLock<Thread>,
}

impl Ticker {
    /// Starts the thread; `advance` is called once a tick and answers whether to go on.
    pub(crate) fn start(advance: impl Fn() -> bool + Send + 'static) -> std::io::Result<Self> {
        let shared: &'static Shared = Box::leak(Box::default());
        let handle = thread::Builder::new()
            .name("plugin-ticker".to_owned())
            .spawn(move || run(shared, &advance))?;
        shared.thread.get_or_init(|| handle.thread().clone());
        Ok(Self { shared })
    }

    /// Makes sure that ticks come; call before entering a guest.
    #[inline]
    pub(crate) fn arm(self) {
        // A stale `true` is harmless: whoever stored it keeps the thread awake for IDLE_TICKS from then on.
        if !self.shared.is_armed.load(Ordering::Relaxed) {
            self.shared.is_armed.store(true, Ordering::SeqCst);
            if self.shared.is_parked.load(Ordering::SeqCst)
                && let Some(thread) = self.shared.thread.get()
            {
                thread.unpark();
            }
        }
    }

    /// Milliseconds that the thread has counted; stands still while parked.
    pub(crate) fn now(self) -> u64 {
        self.shared.ticks.load(Ordering::Relaxed)
    }
}

fn run(shared: &Shared, advance: &dyn Fn() -> bool) {
    // A late tick is a late deadline. Needs a privilege that is often absent; without it we are only less exact.
    let _ = rustix::process::nice(-5);
    let _ = rustix::thread::set_current_timer_slack(Some(TIMER_SLACK_NANOS));
    let mut idle: u64 = 0;
    let mut due = Instant::now() + TICK;
    loop {
        due = wait_until(due);
        shared.ticks.fetch_add(1, Ordering::Relaxed);
        if !advance() {
            return;
        }
        if shared.is_armed.swap(false, Ordering::SeqCst) {
            idle = 0;
        } else {
            idle += 1;
        }
        if idle >= IDLE_TICKS {
            shared.is_parked.store(true, Ordering::SeqCst);
            while !shared.is_armed.load(Ordering::SeqCst) {
                thread::park();
            }
            shared.is_parked.store(false, Ordering::SeqCst);
            idle = 0;
            due = Instant::now() + TICK;
        }
    }
}

/// Waits, and answers when the next tick is due.
fn wait_until(due: Instant) -> Instant {
    loop {
        let now = Instant::now();
        if now >= due {
            return next_after(due, now);
        }
        // Ends early where an arm came too late to find the thread parked.
        thread::park_timeout(due - now);
    }
}

/// When the next tick is due after one that was due and came then.
fn next_after(due: Instant, came: Instant) -> Instant {
    (due + TICK).max(came + TICK - CATCH_UP)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Ticker {
        pub(crate) fn wait_until_parked(&self) {
            while !self.shared.is_parked.load(Ordering::SeqCst) {
                thread::yield_now();
            }
        }
    }

    #[test]
    fn a_deadline_is_never_shorter_than_asked() {
        assert_eq!(ticks(Duration::from_millis(5)), 6);
        assert_eq!(ticks(Duration::from_micros(1)), 2);
    }

    #[test]
    fn ticks_that_come_a_little_late_do_not_add_up_and_a_very_late_one_is_not_made_up_for() {
        let due = Instant::now();
        let late = CATCH_UP / 2;
        assert_eq!(next_after(due, due + late), due + TICK);
        // Whatever happens, so many ticks take so many milliseconds but for what may be caught up once.
        let (mut next, mut came) = (due, due);
        for nth in 1..=100_u32 {
            next = next_after(next, came);
            came = next + TICK * (nth % 7 / 3);
            assert!(came >= due + TICK * nth - CATCH_UP, "{nth}");
        }
    }

    #[test]
    fn it_parks_when_idle_and_an_arm_wakes_it() {
        let ticker = Ticker::start(|| true).unwrap();
        ticker.wait_until_parked();
        let before = ticker.now();
        ticker.arm();
        while ticker.now() < before + 3 {
            thread::yield_now();
        }
    }
}
