//! What a row wants besides: times, readiness, connections, and that it proves something at all.

use std::time::Duration;

use tidegate_faults::{
    checker::{Expectation, Invariant, Recovery, check},
    record::{Outcome, Record},
};

use crate::{
    breaks,
    expectations::{lenient, strict},
    records::{at, forgetful, good, look, without_ack},
};

#[test]
fn a_publish_that_takes_too_long_breaks_the_row_whatever_its_answer() {
    let longest = |record: &Record| {
        let times = record.attempts.iter();
        times
            .map(|attempt| attempt.done_at - attempt.body.sent_at)
            .max()
            .expect("attempts")
    };
    let mut record = good();
    let within = |bar| Expectation {
        publish_within: Some(bar),
        ..strict()
    };
    let bar = longest(&record);
    assert!(check(&record, &within(bar)).passed());
    let attempt = &mut record.attempts[0];
    attempt.done_at = attempt.body.sent_at + bar + Duration::from_millis(1);
    breaks(Invariant::Row, &record, &within(bar));
}

#[test]
fn the_truth_must_come_in_time() {
    let mut record = good();
    record.fault_at = at(1);
    let expected = Expectation {
        unready: None,
        ..strict()
    };
    let verdict = breaks(Invariant::Truth, &record, &expected);
    assert_eq!(verdict.figures.truth, Some(at(2)));
}

#[test]
fn a_subscriber_that_is_served_late_breaks_the_flow() {
    let mut record = good();
    for entry in &mut record.subscribers[0].entries[7..] {
        entry.at += at(20);
    }
    let verdict = breaks(Invariant::Flow, &record, &strict());
    assert_eq!(verdict.figures.flow, Some(at(20)));
}

#[test]
fn readiness_must_tell_the_truth_in_time() {
    let mut record = good();
    record.health = vec![look(0, 1, true), look(0, 4, true), look(0, 6, true)];
    breaks(Invariant::Health, &record, &strict());
    record.health = vec![look(0, 1, true), look(0, 4, false), look(0, 6, false)];
    breaks(Invariant::Health, &record, &strict());
    record.health = vec![look(0, 1, true), look(0, 9, false), look(0, 10, true)];
    breaks(Invariant::Health, &record, &strict());
}

#[test]
fn connections_that_had_to_stay_and_recoveries_that_had_to_succeed_are_counted() {
    let expected = Expectation {
        connections_stay: true,
        ..strict()
    };
    breaks(Invariant::Row, &good(), &expected);
    let expected = Expectation {
        recovery: Recovery::WhoeverAsks,
        ..lenient()
    };
    breaks(Invariant::Row, &forgetful(), &expected);
}

#[test]
fn a_row_in_which_every_publish_succeeds_bears_no_refusal_and_no_silence() {
    let expected = Expectation {
        publishes_succeed: true,
        ..strict()
    };
    assert!(check(&good(), &expected).passed());
    for outcome in [Outcome::Refused { code: 100 }, Outcome::Unknown] {
        let mut record = good();
        record.attempts[4] = without_ack(5, outcome);
        breaks(Invariant::Row, &record, &expected);
        assert!(check(&record, &strict()).passed());
    }
}

#[test]
fn a_row_of_recoveries_in_which_nobody_asks_for_one_proves_nothing() {
    let mut record = good();
    record.subscribers[0].entries.drain(4..6);
    breaks(Invariant::Vacuous, &record, &strict());
    let expected = Expectation {
        recovery: Recovery::WhoeverAsks,
        ..strict()
    };
    let verdict = check(&record, &expected);
    assert!(verdict.passed(), "{:?}", verdict.violations);
}

#[test]
fn a_run_that_proves_nothing_does_not_pass() {
    let few = Expectation {
        least_acked: 10_000,
        ..strict()
    };
    breaks(Invariant::Vacuous, &good(), &few);

    let mut harmless = good();
    harmless.effects = 0;
    breaks(Invariant::Vacuous, &harmless, &strict());

    let mut unaudited = good();
    unaudited.audits[0].channel = 8;
    assert!(check(&unaudited, &strict()).broke(Invariant::Vacuous));

    let mut trimmed = good();
    trimmed.audits[0].entries.remove(0);
    assert!(check(&trimmed, &strict()).broke(Invariant::Vacuous));
}
