//! Deadlines that tell a slow guest from a slow machine.
//!
//! Ticks are wall time, but a worker that the operating system took off its core for five milliseconds has done
//! nothing wrong. So a deadline is looked at twice: half-way the thread's processor time is read, and at the end
//! it is compared. A guest that really ran is ended there and then; one that mostly waited goes on for what it
//! lacks and no more, and not beyond [`longest`]. Reading costs a system call, but only calls that are slow anyway
//! get here.
//!
//! A call that may wait for other machines has its deadline by the clock alone: its waiting is its own doing, its
//! deadline is long, and the ticks stand still when nobody calls a guest for a while. What it computes meanwhile is held to
//! [`MOST_WORK_OF_WAITING`]: there are more threads to wait on than cores to work on.
//!
//! And at each tick but the first the guest gives way: whoever waits for the core, a worker with messages above all,
//! has it before the guest goes on. Otherwise a guest that spins keeps it for a whole slice of the scheduler, several
//! milliseconds.

use std::{thread, time::Duration};

use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;
use wasmtime::{StoreContextMut, Trap, UpdateDeadline};

use crate::{
    guest::GuestState,
    ticker::{TICK, Ticker},
};

/// Second halves that a call may take beyond its own because it was kept waiting. With the first it makes the
/// longest call about three times its deadline in wall time.
const GRANTS: u64 = 4;

/// Processor time of one call that may wait; as much as other calls may be given at most.
const MOST_WORK_OF_WAITING: Duration = Duration::from_millis(100);

/// Where a call stands with its deadline.
#[derive(Debug, Default)]
pub(crate) struct Deadline {
    /// All ticks that the call may take; one more than its milliseconds, see [`ticker::ticks`].
    ticks: u64,
    /// What the ticker showed when the call began.
    armed_at: u64,
    /// What it shows when the call is looked at next.
    look_at: u64,
    /// The thread's processor time at the first look; none before.
    half_way: Option<Duration>,
    /// Of a call that may wait; the ticks are not looked at then.
    by_the_clock: Option<ByTheClock>,
}

/// The end of a call that may wait.
#[derive(Debug, Clone, Copy)]
struct ByTheClock {
    until: Instant,
    /// The thread's processor time when the call began.
    worked_before: Duration,
}

impl Deadline {
    pub(crate) fn new(ticks: u64, armed_at: u64) -> Self {
        Self {
            ticks,
            armed_at,
            look_at: armed_at + first_half(ticks),
            half_way: None,
            by_the_clock: None,
        }
    }

    /// One that waiting counts towards.
    pub(crate) fn by_the_clock(ticks: u64, armed_at: u64) -> Self {
        let millis = u32::try_from(ticks.saturating_sub(1)).unwrap_or(u32::MAX);
        Self {
            by_the_clock: Some(ByTheClock {
                until: Instant::now() + TICK * millis,
                worked_before: processor_time(),
            }),
            ..Self::new(ticks, armed_at)
        }
    }

    /// What is left of a call that may wait; nothing of any other.
    pub(crate) fn time_to_wait(&self) -> Duration {
        self.by_the_clock.map_or(Duration::ZERO, |clock| {
            clock.until.saturating_duration_since(Instant::now())
        })
    }

    /// The whole milliseconds that are left when the ticker shows `now`.
    pub(crate) fn remaining_millis(&self, now: u64) -> u64 {
        if self.by_the_clock.is_some() {
            return u64::try_from(self.time_to_wait().as_millis()).unwrap_or(u64::MAX);
        }
        let used = now.saturating_sub(self.armed_at);
        self.ticks.saturating_sub(1).saturating_sub(used)
    }

    /// What the call has taken less than, when the ticker shows `now`.
    pub(crate) fn under(&self, now: u64) -> Duration {
        let ticks = now.saturating_sub(self.armed_at) + 1;
        TICK.saturating_mul(u32::try_from(ticks).unwrap_or(u32::MAX))
    }

    /// The time that the call took, if it got as far as the first look: up to there by the ticks, from there on by
    /// the thread's processor time, so that a machine without a core for it does not count against the plugin.
    /// Other calls are not timed, since reading a clock would cost them a tenth of their time.
    #[inline]
    pub(crate) fn used(&self) -> Option<Duration> {
        let half_way = self.half_way?;
        let before = TICK * u32::try_from(first_half(self.ticks) - 1).unwrap_or(u32::MAX);
        Some(before + processor_time().saturating_sub(half_way))
    }
}

/// The most wall time that a call with so many ticks can take, if the machine keeps it waiting as often as that is
/// not held against it.
pub(crate) fn longest(ticks: u64) -> Duration {
    TICK * u32::try_from(longest_ticks(ticks)).unwrap_or(u32::MAX)
}

/// The same in ticks.
fn longest_ticks(deadline_ticks: u64) -> u64 {
    first_half(deadline_ticks) + second_half(deadline_ticks) * (1 + GRANTS)
}

/// Ticks of the half after the first look.
fn second_half(deadline_ticks: u64) -> u64 {
    deadline_ticks / 2
}

/// Ticks until the first look.
fn first_half(deadline_ticks: u64) -> u64 {
    deadline_ticks - second_half(deadline_ticks)
}

/// Ticks that a store is armed with, at first and each time that it goes on.
pub(crate) const STRETCH: u64 = 1;

/// What happens at a tick; installed in every store.
pub(crate) fn on_expiry(
    mut store: StoreContextMut<'_, GuestState>,
) -> wasmtime::Result<UpdateDeadline> {
    let state = store.data_mut();
    let deadline = &mut state.call.deadline;
    if deadline.may_go_on(state.ticker) {
        // Not at the first tick, which comes to a short call by chance.
        if state.ticker.now() > deadline.armed_at + 1 {
            thread::yield_now();
        }
        Ok(UpdateDeadline::Continue(STRETCH))
    } else {
        Err(Trap::Interrupt.into())
    }
}

impl Deadline {
    /// Whether a call may go on at a tick: it is looked at only where its ticks are used up.
    fn may_go_on(&mut self, ticker: Ticker) -> bool {
        let now = ticker.now();
        if let Some(ByTheClock {
            until,
            worked_before,
        }) = self.by_the_clock
        {
            let worked = processor_time().saturating_sub(worked_before);
            if Instant::now() >= until || worked >= MOST_WORK_OF_WAITING {
                return false;
            }
        } else if now >= self.look_at {
            match self.look(processor_time(), now) {
                Some(more) => self.look_at = now + more,
                None => return false,
            }
        }
        // Nobody else may be calling plugins, and the ticker parks when it is not asked for.
        ticker.arm();
        true
    }

    /// Looks at a call whose ticks are used up, when the ticker shows `now`; `used` is the thread's processor time.
    /// Answers the ticks that it may go on for, or that it ends.
    fn look(&mut self, used: Duration, now: u64) -> Option<u64> {
        let ticks = second_half(self.ticks).max(1);
        let Some(half_way) = self.half_way else {
            self.half_way = Some(used);
            return Some(ticks);
        };
        let lacks = must_run(ticks).saturating_sub(used.saturating_sub(half_way));
        let is_over = now >= self.armed_at + longest_ticks(self.ticks);
        if lacks.is_zero() || is_over {
            return None;
        }
        // Whole ticks, of which the first may come at once; who then lacks a little more is looked at again.
        let lacks = lacks.as_nanos().div_ceil(TICK.as_nanos());
        Some(u64::try_from(lacks).unwrap_or(ticks).min(ticks))
    }
}

/// Processor time that counts as having run for so many ticks. A tick less, because the first may come at once,
/// and a quarter less, because the machine may be somewhat busy.
fn must_run(ticks: u64) -> Duration {
    let whole = u32::try_from(ticks.saturating_sub(1)).unwrap_or(u32::MAX);
    TICK.saturating_mul(whole) * 3 / 4
}

/// Processor time of this thread.
pub(crate) fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ticker;

    #[test]
    fn both_halves_make_the_deadline() {
        for millis in 1..=100 {
            let ticks = ticker::ticks(Duration::from_millis(millis));
            assert_eq!(first_half(ticks) + second_half(ticks), ticks);
            assert!(first_half(ticks) >= 1 && second_half(ticks) >= 1);
        }
    }

    #[test]
    fn the_longest_call_takes_about_three_deadlines() {
        for millis in [1, 5, 20, 100] {
            let deadline = Duration::from_millis(millis);
            let longest = longest(ticker::ticks(deadline));
            assert!(longest >= 3 * deadline && longest <= 3 * deadline + 4 * TICK);
        }
    }

    #[test]
    fn what_is_left_goes_down_to_nothing() {
        let deadline = Deadline::new(ticker::ticks(Duration::from_millis(20)), 7);
        let left = [7, 8, 26, 27, 1_000].map(|now| deadline.remaining_millis(now));
        assert_eq!(left, [20, 19, 1, 0, 0]);
        assert_eq!(deadline.used(), None);
    }

    #[test]
    fn a_call_that_waits_has_what_the_clock_leaves_although_no_tick_comes() {
        let ticker = Ticker::start(|| true).unwrap();
        ticker.wait_until_parked();
        let now = ticker.now();
        let mut deadline = Deadline::by_the_clock(ticker::ticks(Duration::from_millis(40)), now);
        assert!(deadline.remaining_millis(now) <= 40);
        assert!(deadline.may_go_on(ticker));
        let began = Instant::now();
        while !deadline.time_to_wait().is_zero() {
            std::thread::yield_now();
        }
        assert!(began.elapsed() >= Duration::from_millis(30));
        assert_eq!(deadline.remaining_millis(now), 0);
        assert!(!deadline.may_go_on(ticker), "whatever the ticks say");
        assert_eq!(deadline.used(), None);
        let other = Deadline::new(ticker::ticks(Duration::from_millis(40)), now);
        assert_eq!(other.time_to_wait(), Duration::ZERO);
    }

    #[test]
    fn a_call_that_may_wait_ends_when_it_has_worked_for_long() {
        let ticker = Ticker::start(|| true).unwrap();
        let ticks = ticker::ticks(Duration::from_secs(3_600));
        let before = processor_time();
        let mut deadline = Deadline::by_the_clock(ticks, ticker.now());
        while deadline.may_go_on(ticker) {}
        assert!(processor_time() - before >= MOST_WORK_OF_WAITING);
        assert!(deadline.time_to_wait() > Duration::from_secs(60));
    }

    #[test]
    fn a_deadline_that_is_put_off_wakes_the_ticker_again() {
        let ticker = Ticker::start(|| true).unwrap();
        let mut deadline = Deadline::new(ticker::ticks(Duration::from_millis(100)), ticker.now());
        ticker.wait_until_parked();
        assert!(deadline.may_go_on(ticker), "it is the first look");
        let before = ticker.now();
        while ticker.now() < before + 3 {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_guest_that_was_kept_waiting_goes_on_for_what_it_lacks() {
        let ran = |micros| Duration::from_millis(10) + Duration::from_micros(micros);
        let mut deadline = Deadline::new(ticker::ticks(Duration::from_millis(5)), 100);
        assert_eq!(deadline.look(ran(0), 103), Some(3));
        // Of its three ticks a quarter; then it has its core for itself again.
        assert_eq!(deadline.look(ran(750), 106), Some(1));
        assert_eq!(deadline.look(ran(1_700), 107), None);
    }

    #[test]
    fn a_guest_that_never_has_a_core_is_ended_too() {
        let ticks = ticker::ticks(Duration::from_millis(5));
        let mut deadline = Deadline::new(ticks, 100);
        let mut now = 103;
        while let Some(more) = deadline.look(Duration::ZERO, now) {
            now += more;
        }
        let took = TICK * u32::try_from(now - 100).unwrap();
        assert!(took >= longest(ticks) && took <= longest(ticks) + 3 * TICK);
    }

    #[test]
    fn a_call_is_looked_at_when_its_ticks_are_used_up_and_not_before() {
        let ticker = Ticker::start(|| true).unwrap();
        ticker.arm();
        let mut deadline = Deadline::new(ticker::ticks(Duration::from_millis(50)), ticker.now());
        while deadline.half_way.is_none() {
            assert!(deadline.may_go_on(ticker), "it had no processor time");
        }
        assert!(ticker.now() >= deadline.armed_at + 26);
        assert!(deadline.look_at >= deadline.armed_at + 26 + 25);
    }

    #[test]
    fn a_guest_that_ran_is_told_from_one_that_waited() {
        assert!(must_run(3) <= Duration::from_millis(2));
        assert_eq!(must_run(1), Duration::ZERO);
    }
}
