//! The breaker: stops asking a plugin that keeps failing, and tries it again now and then.
//!
//! One per app, plugin, hook and version, shared by all workers, made of atomics alone. It is a pure machine:
//! outcomes and the time go in, permits and openings come out; what an opening means to a message is the
//! binding's policy, and nothing here is the plugin's to choose.
//!
//! While nothing failed lately the gate holds [`Gate::CLEAN`], so a call costs one relaxed load and its success
//! is not written down at all. The first failure makes it *watched*: from then on every outcome goes into the
//! window, until two hundred calls in a row went well. That skips nothing that counts, because a window without
//! a failure looks the same however many successes pass through it.

mod window;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use self::window::Window;

/// Interrupts within [`INTERRUPT_SPAN_MILLIS`] that open the breaker. An interrupt held a thread for a whole
/// deadline, so few of them are many.
const INTERRUPTS: usize = 3;
const INTERRUPT_SPAN_MILLIS: u64 = 10_000;
/// Failures in a row that open it.
const FAILURES_IN_ROW: u32 = 5;
/// Failures among the last 200 calls (the window) that open it: a fifth of them.
const FAILURES_IN_WINDOW: i32 = 40;
/// Time beyond deadlines, summed over a second, that opens it.
const OVERRUN_MICROS_PER_SECOND: u64 = 50_000;
/// How long it stays open first, and at most.
const FIRST_OPEN_MILLIS: u64 = 1_000;
const LONGEST_OPEN_MILLIS: u64 = 60_000;
/// After this long a probe that told nothing is given up; longer than any call can take.
const PROBE_PATIENCE_MILLIS: u64 = 10_000;

/// Leave to make one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "the breaker waits for the outcome of a probe"]
pub(crate) enum Permit {
    Plain,
    /// The one call that decides whether the breaker closes again.
    Probe,
}

/// How a call failed, as far as the breaker cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strike {
    /// The deadline ended it.
    Interrupt,
    Other,
}

/// Why the breaker opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    Interrupts,
    Row,
    Share,
    Overrun,
    Probe,
}

/// The breaker opened just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Opening {
    pub(crate) cause: Cause,
    /// How often it has opened so far, this time included.
    pub(crate) count: u32,
    pub(crate) open_for: Duration,
}

/// A breaker as statistics show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Calls are made.
    Closed,
    /// No calls are made; the binding's policy answers.
    Open,
    /// The next call, or the one under way, decides.
    HalfOpen,
}

impl BreakerState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupts => "3 calls within 10 s ran into their deadline",
            Self::Row => "5 calls in a row failed",
            Self::Share => "a fifth of the last 200 calls failed",
            Self::Overrun => "calls ran more than 50 ms over their deadlines within a second",
            Self::Probe => "the call that tried it again failed",
        })
    }
}

/// Whether calls are let through, in one word: bits 0 and 1 the state, 2 to 7 how often the open time doubled,
/// the rest the moment until which it is open (or a probe is waited for).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Gate(u64);

impl Gate {
    /// Nothing failed among the last two hundred calls.
    const CLEAN: Self = Self(0);
    /// Something failed lately; outcomes are written down.
    const WATCHED: Self = Self(1);
    const OPEN: u64 = 2;
    const PROBING: u64 = 3;

    fn open(doublings: u32, until: u64) -> Self {
        Self(Self::OPEN | u64::from(doublings) << 2 | until << 8)
    }

    fn probing(doublings: u32, until: u64) -> Self {
        Self(Self::PROBING | u64::from(doublings) << 2 | until << 8)
    }

    fn lets_all_through(self) -> bool {
        self.0 & 3 < Self::OPEN
    }

    fn is_probing(self) -> bool {
        self.0 & 3 == Self::PROBING
    }

    fn doublings(self) -> u32 {
        u32::try_from(self.0 >> 2 & 0x3f).unwrap_or(0)
    }

    fn until(self) -> u64 {
        self.0 >> 8
    }
}

#[derive(Debug)]
pub(crate) struct Breaker {
    /// A [`Gate`]. Everything else is written only while it lets calls through.
    gate: AtomicU64,
    window: Window,
    in_row: AtomicU32,
    /// Moments of the last interrupts plus one, so that 0 means none; written in turn.
    interrupts: [AtomicU64; INTERRUPTS],
    n_interrupts: AtomicU32,
    /// The second at hand (upper half) and the microseconds of overrun in it.
    overrun: AtomicU64,
    openings: AtomicU32,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            gate: AtomicU64::new(Gate::CLEAN.0),
            window: Window::default(),
            in_row: AtomicU32::new(0),
            interrupts: Default::default(),
            n_interrupts: AtomicU32::new(0),
            overrun: AtomicU64::new(0),
            openings: AtomicU32::new(0),
        }
    }
}

fn open_millis(doublings: u32) -> u64 {
    FIRST_OPEN_MILLIS
        .checked_shl(doublings)
        .map_or(LONGEST_OPEN_MILLIS, |open| open.min(LONGEST_OPEN_MILLIS))
}

impl Breaker {
    /// One that stays open: there is nothing to call.
    pub(crate) fn open_for_good() -> Self {
        let gate = AtomicU64::new(Gate::open(0, u64::MAX >> 8).0);
        Self {
            gate,
            ..Self::default()
        }
    }

    /// Whether calls are made and their successes need not be told.
    #[inline]
    pub(crate) fn is_clean(&self) -> bool {
        self.gate.load(Ordering::Relaxed) == Gate::CLEAN.0
    }

    /// Leave to make a call now, if the breaker gives it.
    pub(crate) fn admit(&self, now_millis: u64) -> Option<Permit> {
        let gate = self.gate();
        if gate.lets_all_through() {
            return Some(Permit::Plain);
        }
        if now_millis < gate.until() {
            return None;
        }
        let probing = Gate::probing(gate.doublings(), now_millis + PROBE_PATIENCE_MILLIS);
        // Who loses the exchange is not the probe.
        self.exchange(gate, probing).then_some(Permit::Probe)
    }

    /// Whether [`Self::admit`] would refuse; gives nothing away.
    pub(crate) fn is_shut(&self, now_millis: u64) -> bool {
        let gate = self.gate();
        !gate.lets_all_through() && now_millis < gate.until()
    }

    /// The call went well. A closed breaker that is clean need not be told. Answers whether this closed it.
    pub(crate) fn succeeded(&self, permit: Permit) -> bool {
        let gate = self.gate();
        match permit {
            Permit::Probe => {
                if !gate.is_probing() {
                    return false;
                }
                self.forget();
                self.exchange(gate, Gate::CLEAN)
            }
            Permit::Plain => {
                if gate == Gate::WATCHED {
                    self.in_row.store(0, Ordering::Relaxed);
                    let is_clear = self.window.record_success() == 0;
                    if is_clear && self.exchange(Gate::WATCHED, Gate::CLEAN) {
                        // A failure that came between is still in the window.
                        if self.window.failures() > 0 {
                            self.exchange(Gate::CLEAN, Gate::WATCHED);
                        }
                    }
                }
                false
            }
        }
    }

    /// The call failed. Answers whether that opened the breaker.
    pub(crate) fn failed(
        &self,
        permit: Permit,
        strike: Strike,
        now_millis: u64,
    ) -> Option<Opening> {
        let gate = self.gate();
        if permit == Permit::Probe {
            return self.probe_failed(gate, now_millis);
        }
        if !gate.lets_all_through() {
            // It began before the breaker opened; that is known already.
            return None;
        }
        self.exchange(Gate::CLEAN, Gate::WATCHED);
        let is_third = strike == Strike::Interrupt && self.is_third_interrupt(now_millis);
        let in_row = self.in_row.fetch_add(1, Ordering::Relaxed) + 1;
        let failures = self.window.record_failure();
        let cause = if is_third {
            Cause::Interrupts
        } else if in_row >= FAILURES_IN_ROW {
            Cause::Row
        } else if failures >= FAILURES_IN_WINDOW {
            Cause::Share
        } else {
            return None;
        };
        self.open(cause, now_millis)
    }

    /// A call took so much longer than its deadline, whatever came of it.
    pub(crate) fn overran(&self, by: Duration, now_millis: u64) -> Option<Opening> {
        if !self.gate().lets_all_through() {
            return None;
        }
        let second = now_millis / 1_000;
        let by = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
        let mut seen = self.overrun.load(Ordering::Relaxed);
        loop {
            let before = if seen >> 32 == second & 0xffff_ffff {
                seen & 0xffff_ffff
            } else {
                0
            };
            let sum = before.saturating_add(by).min(0xffff_ffff);
            let next = second << 32 | sum;
            match self.overrun.compare_exchange_weak(
                seen,
                next,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) if sum > OVERRUN_MICROS_PER_SECOND => {
                    return self.open(Cause::Overrun, now_millis);
                }
                Ok(_) => return None,
                Err(now) => seen = now,
            }
        }
    }

    /// The call was not made after all, or its failure was not the plugin's: it says nothing.
    pub(crate) fn abandoned(&self, permit: Permit, now_millis: u64) {
        let gate = self.gate();
        if permit == Permit::Probe && gate.is_probing() {
            self.exchange(gate, Gate::open(gate.doublings(), now_millis));
        }
    }

    pub(crate) fn state(&self, now_millis: u64) -> BreakerState {
        let gate = self.gate();
        if gate.lets_all_through() {
            BreakerState::Closed
        } else if gate.is_probing() || now_millis >= gate.until() {
            BreakerState::HalfOpen
        } else {
            BreakerState::Open
        }
    }

    pub(crate) fn openings(&self) -> u32 {
        self.openings.load(Ordering::Relaxed)
    }

    fn gate(&self) -> Gate {
        Gate(self.gate.load(Ordering::Relaxed))
    }

    /// Relaxed throughout: the word carries all that is decided by it.
    fn exchange(&self, from: Gate, to: Gate) -> bool {
        self.gate
            .compare_exchange(from.0, to.0, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    fn is_third_interrupt(&self, now_millis: u64) -> bool {
        let turn = self.n_interrupts.fetch_add(1, Ordering::Relaxed) as usize;
        self.interrupts[turn % INTERRUPTS].store(now_millis + 1, Ordering::Relaxed);
        // The slot that is written next holds the oldest of the three.
        let oldest = self.interrupts[turn.wrapping_add(1) % INTERRUPTS].load(Ordering::Relaxed);
        oldest != 0 && (now_millis + 1).saturating_sub(oldest) <= INTERRUPT_SPAN_MILLIS
    }

    fn open(&self, cause: Cause, now_millis: u64) -> Option<Opening> {
        let open = Gate::open(0, now_millis + open_millis(0));
        // Of several that found a reason at once, one opens it.
        (self.exchange(Gate::WATCHED, open) || self.exchange(Gate::CLEAN, open))
            .then(|| self.opening(cause, 0))
    }

    fn probe_failed(&self, gate: Gate, now_millis: u64) -> Option<Opening> {
        if !gate.is_probing() {
            return None;
        }
        let doublings = (gate.doublings() + 1).min(6);
        let open = Gate::open(doublings, now_millis + open_millis(doublings));
        self.exchange(gate, open)
            .then(|| self.opening(Cause::Probe, doublings))
    }

    fn opening(&self, cause: Cause, doublings: u32) -> Opening {
        Opening {
            cause,
            count: self.openings.fetch_add(1, Ordering::Relaxed) + 1,
            open_for: Duration::from_millis(open_millis(doublings)),
        }
    }

    fn forget(&self) {
        self.window.clear();
        self.in_row.store(0, Ordering::Relaxed);
        self.overrun.store(0, Ordering::Relaxed);
        for slot in &self.interrupts {
            slot.store(0, Ordering::Relaxed);
        }
    }
}
