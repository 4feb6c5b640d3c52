//! The thresholds one by one, then the whole machine beside a model that keeps everything and forgets nothing.

use std::{
    collections::VecDeque,
    sync::{Barrier, atomic::AtomicUsize},
    thread,
};

use proptest::prelude::*;

use super::*;

fn fail(breaker: &Breaker, strike: Strike, now: u64) -> Option<Opening> {
    breaker.failed(Permit::Plain, strike, now)
}

/// A breaker that opened at `now`.
fn opened(now: u64) -> Breaker {
    let breaker = Breaker::default();
    for _ in 0..4 {
        assert_eq!(fail(&breaker, Strike::Other, now), None);
    }
    let opening = fail(&breaker, Strike::Other, now).expect("five in a row open it");
    assert_eq!((opening.cause, opening.count), (Cause::Row, 1));
    breaker
}

#[test]
fn three_interrupts_within_ten_seconds_open_it() {
    let breaker = Breaker::default();
    for now in [0, 4_000] {
        assert_eq!(fail(&breaker, Strike::Interrupt, now), None);
        let _ = breaker.succeeded(Permit::Plain);
    }
    let opening = fail(&breaker, Strike::Interrupt, 10_000).unwrap();
    assert_eq!(opening.cause, Cause::Interrupts);
    assert_eq!(opening.open_for, Duration::from_secs(1));
}

#[test]
fn three_interrupts_over_a_longer_time_do_not() {
    let breaker = Breaker::default();
    for now in [0, 5_001, 10_001, 15_002, 20_002] {
        assert_eq!(fail(&breaker, Strike::Interrupt, now), None, "at {now}");
        let _ = breaker.succeeded(Permit::Plain);
    }
}

#[test]
fn a_success_ends_the_row() {
    let breaker = Breaker::default();
    for round in 0..9 {
        for _ in 0..4 {
            assert_eq!(fail(&breaker, Strike::Other, 0), None, "round {round}");
        }
        let _ = breaker.succeeded(Permit::Plain);
    }
    // The row would be the tenth fourfold: forty failures in the window come first.
    for _ in 0..3 {
        assert_eq!(fail(&breaker, Strike::Other, 0), None);
    }
    assert_eq!(
        fail(&breaker, Strike::Other, 0).map(|opening| opening.cause),
        Some(Cause::Share)
    );
}

#[test]
fn failures_leave_the_window_after_two_hundred_calls_and_it_is_clean_again() {
    let breaker = Breaker::default();
    assert_eq!(fail(&breaker, Strike::Other, 0), None);
    for _ in 0..199 {
        assert!(!breaker.is_clean());
        let _ = breaker.succeeded(Permit::Plain);
    }
    assert!(!breaker.is_clean());
    let _ = breaker.succeeded(Permit::Plain);
    assert!(breaker.is_clean());
}

#[test]
fn overruns_are_summed_over_a_second() {
    let breaker = Breaker::default();
    let over = Duration::from_millis(30);
    assert_eq!(breaker.overran(over, 500), None);
    assert_eq!(breaker.overran(over, 1_100), None, "another second");
    let opening = breaker.overran(over, 1_900).unwrap();
    assert_eq!(opening.cause, Cause::Overrun);
}

#[test]
fn while_open_nothing_passes_and_then_one_probe_does() {
    let breaker = opened(0);
    assert_eq!(breaker.admit(0), None);
    assert_eq!(breaker.admit(999), None);
    assert_eq!(breaker.state(999), BreakerState::Open);
    assert!(breaker.is_shut(999) && !breaker.is_shut(1_000));
    assert_eq!(breaker.state(1_000), BreakerState::HalfOpen);
    assert_eq!(breaker.admit(1_000), Some(Permit::Probe));
    assert_eq!(breaker.admit(1_000), None, "one probe at a time");
    assert!(breaker.succeeded(Permit::Probe));
    assert_eq!(breaker.admit(1_000), Some(Permit::Plain));
    assert!(breaker.is_clean());
}

#[test]
fn each_failed_probe_doubles_the_time_up_to_a_minute() {
    let breaker = opened(0);
    let mut now = 1_000;
    for (nth, seconds) in (2..).zip([2, 4, 8, 16, 32, 60, 60, 60]) {
        assert_eq!(breaker.admit(now), Some(Permit::Probe));
        let opening = breaker.failed(Permit::Probe, Strike::Other, now).unwrap();
        assert_eq!(opening.open_for, Duration::from_secs(seconds));
        assert_eq!((opening.cause, opening.count), (Cause::Probe, nth));
        now += seconds * 1_000;
        assert_eq!(breaker.admit(now - 1), None);
    }
    // A success forgets the doublings.
    assert_eq!(breaker.admit(now), Some(Permit::Probe));
    assert!(breaker.succeeded(Permit::Probe));
    for _ in 0..5 {
        let _ = fail(&breaker, Strike::Other, now);
    }
    assert_eq!(breaker.admit(now + 999), None);
    assert_eq!(breaker.admit(now + 1_000), Some(Permit::Probe));
}

#[test]
fn a_probe_that_says_nothing_makes_room_for_the_next() {
    let breaker = opened(0);
    let probe = breaker.admit(1_000).unwrap();
    breaker.abandoned(probe, 1_001);
    assert_eq!(breaker.admit(1_001), Some(Permit::Probe));
    // This one never comes back.
    assert_eq!(breaker.admit(11_000), None);
    assert_eq!(breaker.admit(11_001), Some(Permit::Probe));
}

#[test]
fn calls_that_began_before_it_opened_change_nothing() {
    let breaker = opened(0);
    assert_eq!(fail(&breaker, Strike::Interrupt, 1), None);
    assert!(!breaker.succeeded(Permit::Plain));
    assert_eq!(breaker.overran(Duration::from_secs(1), 1), None);
    assert_eq!(breaker.openings(), 1);
    assert_eq!(breaker.admit(1), None);
}

#[test]
fn of_many_threads_one_opens_it_and_one_probes() {
    const THREADS: usize = 4;
    for round in 0..50 {
        let breaker = Breaker::default();
        let (openings, probes) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let together = Barrier::new(THREADS);
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    together.wait();
                    for _ in 0..5 {
                        if fail(&breaker, Strike::Other, 0).is_some() {
                            openings.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    together.wait();
                    if breaker.admit(5_000) == Some(Permit::Probe) {
                        probes.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(openings.into_inner(), 1, "round {round}");
        assert_eq!(probes.into_inner(), 1, "round {round}");
    }
}

/// What the breaker should do, written down plainly.
#[derive(Default)]
struct Model {
    /// Newest last; `true` is a failure.
    history: VecDeque<bool>,
    in_row: usize,
    interrupts: Vec<u64>,
    overruns: Vec<(u64, u64)>,
    /// Until when, and doublings so far.
    open: Option<(u64, u32)>,
    openings: u32,
}

impl Model {
    fn admit(&self, now: u64) -> Option<Permit> {
        match self.open {
            None => Some(Permit::Plain),
            Some((until, _)) => (now >= until).then_some(Permit::Probe),
        }
    }

    fn open(&mut self, now: u64, doublings: u32) {
        let open = (1_000_u64 << doublings).min(60_000);
        *self = Self {
            open: Some((now + open, doublings.min(5))),
            openings: self.openings + 1,
            ..Self::default()
        };
    }

    fn ended(&mut self, permit: Permit, failed: Option<Strike>, now: u64) {
        if permit == Permit::Probe {
            let (_, doublings) = self.open.expect("a probe comes of an open breaker");
            match failed {
                Some(_) => self.open(now, doublings + 1),
                None => {
                    *self = Self {
                        openings: self.openings,
                        ..Self::default()
                    }
                }
            }
            return;
        }
        self.history.push_back(failed.is_some());
        if self.history.len() > 200 {
            self.history.pop_front();
        }
        self.in_row = if failed.is_some() { self.in_row + 1 } else { 0 };
        if failed == Some(Strike::Interrupt) {
            self.interrupts.push(now);
        }
        let of_late = |at: &&u64| now - **at <= 10_000;
        let is_open = failed.is_some()
            && (failed == Some(Strike::Interrupt)
                && self.interrupts.iter().filter(of_late).count() >= 3
                || self.in_row >= 5
                || self.history.iter().filter(|failed| **failed).count() >= 40);
        if is_open {
            self.open(now, 0);
        }
    }

    fn overran(&mut self, millis: u64, now: u64) {
        if self.open.is_some() {
            return;
        }
        self.overruns.push((now / 1_000, millis));
        let this_second = self.overruns.iter().filter(|(at, _)| *at == now / 1_000);
        if this_second.map(|(_, millis)| millis).sum::<u64>() > 50 {
            self.open(now, 0);
        }
    }
}

#[derive(Debug, Clone)]
enum Event {
    Successes(usize),
    Failure(Strike),
    Overrun(u64),
    Wait(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (1_usize..30).prop_map(Event::Successes),
        4 => Just(Event::Failure(Strike::Other)),
        2 => Just(Event::Failure(Strike::Interrupt)),
        1 => (1_u64..40).prop_map(Event::Overrun),
        3 => (1_u64..8_000).prop_map(Event::Wait),
    ]
}

proptest! {
    #[test]
    fn it_does_what_the_model_does(events in proptest::collection::vec(event(), 1..400)) {
        let (breaker, mut model) = (Breaker::default(), Model::default());
        let mut now = 0;
        for event in events {
            match event {
                Event::Wait(millis) => now += millis,
                Event::Overrun(millis) => {
                    let _ = breaker.overran(Duration::from_millis(millis), now);
                    model.overran(millis, now);
                }
                Event::Successes(times) => {
                    for _ in 0..times {
                        let permit = breaker.admit(now);
                        prop_assert_eq!(permit, model.admit(now));
                        if let Some(permit) = permit {
                            let _ = breaker.succeeded(permit);
                            model.ended(permit, None, now);
                        }
                    }
                }
                Event::Failure(strike) => {
                    let permit = breaker.admit(now);
                    prop_assert_eq!(permit, model.admit(now));
                    if let Some(permit) = permit {
                        let _ = breaker.failed(permit, strike, now);
                        model.ended(permit, Some(strike), now);
                    }
                }
            }
            prop_assert_eq!(breaker.openings(), model.openings);
        }
    }
}
