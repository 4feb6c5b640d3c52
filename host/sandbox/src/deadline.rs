//! Deadlines that tell a slow guest from a slow machine.
//!
//! Ticks are wall time, but a worker that the operating system took off its core for five milliseconds has done
//! nothing wrong. So a deadline is looked at twice: half-way the thread's processor time is read, and at the end
//! it is compared. A guest that really ran is ended there and then; one that mostly waited gets its second half
//! again, a bounded number of times. Reading costs a system call, but only calls that are slow anyway get here.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use wasmtime::{StoreContextMut, Trap, UpdateDeadline};

use crate::{guest::GuestState, ticker::TICK};

/// Times that a second half is granted to a call that was kept waiting. With the first it makes the longest
/// call about three times its deadline in wall time.
const GRANTS: u8 = 4;

/// Where a call stands with its deadline.
#[derive(Debug, Default)]
pub(crate) struct Deadline {
    /// Processor time of the thread when the second half began; `None` in the first half.
    half_way: Option<Duration>,
    granted: u8,
}

/// Ticks of the half after the first look.
fn second_half(deadline_ticks: u64) -> u64 {
    deadline_ticks / 2
}

/// Ticks until the first look.
pub(crate) fn first_half(deadline_ticks: u64) -> u64 {
    deadline_ticks - second_half(deadline_ticks)
}

/// What happens when the ticks are used up; installed in every store.
pub(crate) fn on_expiry(
    mut store: StoreContextMut<'_, GuestState>,
) -> wasmtime::Result<UpdateDeadline> {
    let ticks = second_half(store.data().unit.deadline_ticks);
    let deadline = &mut store.data_mut().call.deadline;
    let used = processor_time();
    match deadline.half_way {
        None => deadline.half_way = Some(used),
        Some(before) => {
            let ran = used.saturating_sub(before);
            if deadline.granted >= GRANTS || ran >= must_run(ticks) {
                return Err(Trap::Interrupt.into());
            }
            deadline.granted += 1;
        }
    }
    Ok(UpdateDeadline::Continue(ticks.max(1)))
}

/// Processor time that counts as having run for so many ticks. A tick less, because the first may come at once,
/// and a quarter less, because the machine may be somewhat busy.
fn must_run(ticks: u64) -> Duration {
    let whole = u32::try_from(ticks.saturating_sub(1)).unwrap_or(u32::MAX);
    TICK.saturating_mul(whole) * 3 / 4
}

fn processor_time() -> Duration {
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
    fn a_guest_that_ran_is_told_from_one_that_waited() {
        assert!(must_run(3) <= Duration::from_millis(2));
        assert_eq!(must_run(1), Duration::ZERO);
    }
}
