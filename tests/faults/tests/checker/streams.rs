//! Gaps, forks, disorder and duplicates: what a stream must not show, and a subscriber not see.

use tidegate_faults::{
    checker::{Expectation, Invariant, Recovery, check},
    record::{Body, Event, Outcome, Subscribed},
};

use crate::{
    breaks,
    expectations::{lenient, strict},
    records::{
        acked, answered, body, forgetful, good, position, publication, recovered, without_ack,
    },
};

#[test]
fn a_hole_in_a_segment_is_a_silent_gap() {
    let mut record = good();
    record.subscribers[0].entries.remove(7);
    let verdict = breaks(Invariant::Gap, &record, &strict());
    assert_eq!(verdict.figures.silent_gaps, 1);
}

#[test]
fn a_hole_that_was_called_a_recovery_is_a_silent_gap() {
    let mut record = good();
    record.subscribers[0].entries.remove(6);
    breaks(Invariant::Gap, &record, &strict());
}

#[test]
fn another_epoch_that_was_called_a_recovery_is_a_silent_gap() {
    let mut record = forgetful();
    record.subscribers[0].entries[5] = recovered(4, "two", 3);
    assert!(check(&record, &lenient()).broke(Invariant::Gap));
}

#[test]
fn a_stream_that_goes_on_without_the_subscriber_is_a_silent_gap() {
    let mut record = good();
    record.subscribers[0].entries.truncate(8);
    breaks(Invariant::Gap, &record, &strict());
}

#[test]
fn who_asked_to_recover_and_was_begun_anew_has_a_silent_gap() {
    let mut record = good();
    // The server forgot the question; from there on nothing is missing.
    record.subscribers[0].entries[5] = answered(
        4,
        Subscribed {
            asked: Some(position("one", 3)),
            epoch: "one".to_owned(),
            offset: 5,
            ..Subscribed::default()
        },
    );
    record.subscribers[0].entries.drain(6..8);
    let expected = Expectation {
        recovery: Recovery::WherePossible,
        ..strict()
    };
    let verdict = breaks(Invariant::Gap, &record, &expected);
    assert_eq!(verdict.figures.silent_gaps, 1);
    assert!(check(&record, &strict()).broke(Invariant::Row));
}

#[test]
fn a_recovery_from_another_place_than_asked_for_is_a_silent_gap() {
    // The answer names another offset.
    let mut record = good();
    let Event::Subscribed(result) = &mut record.subscribers[0].entries[5].event else {
        panic!("not the recovery");
    };
    result.offset = 4;
    breaks(Invariant::Gap, &record, &strict());

    // The client was elsewhere.
    let mut record = good();
    record.subscribers[0].entries[5] = recovered(4, "one", 4);
    breaks(Invariant::Gap, &record, &strict());

    // Nobody asked.
    let mut record = good();
    let Event::Subscribed(result) = &mut record.subscribers[0].entries[5].event else {
        panic!("not the recovery");
    };
    result.asked = None;
    let expected = Expectation {
        recovery: Recovery::WherePossible,
        ..strict()
    };
    breaks(Invariant::Gap, &record, &expected);
}

#[test]
fn one_position_with_two_contents_is_a_fork() {
    let mut record = good();
    // The subscriber saw something else at 3 than history holds.
    let other = Body { hash: 1, ..body(3) };
    record.subscribers[0].entries[3].event = Event::Publication {
        offset: 3,
        epoch: String::new(),
        body: other,
    };
    let verdict = breaks(Invariant::Fork, &record, &strict());
    assert_eq!(verdict.figures.forks, 1);
}

#[test]
fn a_publisher_whose_messages_change_places_is_disordered() {
    let mut record = good();
    record.attempts[3] = acked(4, "one", 5);
    record.attempts[4] = acked(5, "one", 4);
    record.audits[0].entries[3] = (4, body(5));
    record.audits[0].entries[4] = (5, body(4));
    record.subscribers[0].entries[6] = publication(5, 4);
    record.subscribers[0].entries[7] = publication(4, 5);
    let verdict = breaks(Invariant::Order, &record, &strict());
    assert_eq!(
        verdict.figures.disordered, 2,
        "in history and for the subscriber"
    );
}

#[test]
fn what_was_refused_and_stored_late_is_not_disordered() {
    let mut record = good();
    record.attempts[3] = without_ack(4, Outcome::Refused { code: 100 });
    record.attempts[4] = acked(5, "one", 4);
    record.audits[0].entries[3] = (4, body(5));
    record.audits[0].entries[4] = (5, body(4));
    record.subscribers[0].entries[6] = publication(5, 4);
    record.subscribers[0].entries[7] = publication(4, 5);
    let verdict = check(&record, &strict());
    assert!(verdict.passed(), "{:?}", verdict.violations);
}

#[test]
fn the_same_offset_twice_is_a_duplicate() {
    let mut record = good();
    record.subscribers[0].entries.insert(3, publication(2, 2));
    let verdict = breaks(Invariant::Duplicate, &record, &strict());
    assert_eq!(verdict.figures.duplicates, 1);
}

#[test]
fn the_same_message_at_two_offsets_is_a_duplicate() {
    let mut record = good();
    record.audits[0].top = 7;
    record.audits[0].entries.push((7, body(6)));
    record.subscribers[0].entries.push(publication(6, 7));
    let verdict = breaks(Invariant::Duplicate, &record, &strict());
    assert_eq!(
        verdict.figures.duplicates, 2,
        "in history and for the subscriber"
    );
}
