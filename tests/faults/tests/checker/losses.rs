//! What was acknowledged and is gone, and whether that was allowed and said.

use tidegate_faults::{
    checker::{Expectation, Invariant, Recovery, check},
    record::Outcome,
};

use crate::{
    breaks,
    expectations::{bounded, lenient, strict},
    records::{
        acked, at, begun, body, forgetful, good, not_recovered, position, publication, without_ack,
    },
};

#[test]
fn what_was_acked_and_is_not_there_is_lost() {
    let mut record = good();
    record.attempts.push(acked(7, "one", 7));
    let verdict = breaks(Invariant::AckedLoss, &record, &strict());
    assert_eq!(verdict.figures.acked_lost, 1);
}

#[test]
fn what_a_stream_kept_under_a_new_epoch_is_not_lost() {
    let mut record = forgetful();
    record.attempts[3] = acked(4, "two", 4);
    record.attempts[4] = acked(5, "two", 5);
    record.audits[0].top = 5;
    record.audits[0].entries = (1..=5).map(|n| (n, body(n))).collect();
    record.subscribers[0].entries[5] = not_recovered(4, position("one", 3), "two", 4);
    record.subscribers[0].entries[6] = publication(5, 5);
    let expected = Expectation {
        recovery: Recovery::WherePossible,
        ..strict()
    };
    let verdict = check(&record, &expected);
    assert!(verdict.passed(), "{:?}", verdict.violations);
    assert_eq!(verdict.figures.acked_lost, 0);
}

#[test]
fn acked_loss_without_a_new_epoch_is_lost_where_loss_is_allowed() {
    let mut record = good();
    record.attempts.push(acked(7, "one", 7));
    breaks(Invariant::AckedLoss, &record, &lenient());
}

#[test]
fn acked_loss_with_a_new_epoch_is_lost_where_none_is_allowed() {
    let expected = Expectation {
        recovery: Recovery::WherePossible,
        ..strict()
    };
    let verdict = breaks(Invariant::AckedLoss, &forgetful(), &expected);
    assert_eq!(verdict.figures.acked_lost, 3);
}

#[test]
fn what_was_acked_long_before_the_fault_may_not_go_with_the_epoch() {
    let verdict = breaks(Invariant::AckedLoss, &forgetful(), &bounded(1, 4, 60));
    assert_eq!(verdict.violations.len(), 1, "the first of three");
    assert_eq!(verdict.figures.lost_before, Some(at(2)));
}

#[test]
fn what_was_sent_long_after_the_fault_may_not_go_with_the_epoch() {
    let mut record = forgetful();
    record.fault_at = at(1);
    let expected = Expectation {
        truth_within: None,
        unready: None,
        ..bounded(2, 1, 60)
    };
    let verdict = breaks(Invariant::AckedLoss, &record, &expected);
    assert_eq!(verdict.violations.len(), 1, "the last of three");
    assert_eq!(verdict.figures.lost_after, Some(at(2)));
}

#[test]
fn more_than_its_share_may_not_go_with_the_epoch() {
    let verdict = breaks(Invariant::AckedLoss, &forgetful(), &bounded(2, 4, 59));
    assert_eq!(verdict.violations.len(), 1, "three of five are 60 %");
    let line = verdict.figures.to_string();
    let lost = "acked_lost=3 lost_before=2.0s lost_after=0.0s lost_share=60% ";
    assert!(line.contains(lost), "{line}");
}

#[test]
fn a_stream_that_ended_without_a_word_breaks_the_signal() {
    let mut record = forgetful();
    // It began anew, and was not told that it lost something.
    record.subscribers[0].entries[5] = begun(4, "two", 1);
    breaks(Invariant::Signal, &record, &lenient());
}

#[test]
fn a_loss_that_is_told_twice_breaks_the_signal() {
    let mut record = forgetful();
    let again = not_recovered(5, position("two", 2), "two", 2);
    record.subscribers[0].entries.push(again);
    breaks(Invariant::Signal, &record, &lenient());
}

#[test]
fn what_nobody_knows_of_may_be_there_once_and_not_twice() {
    let mut record = good();
    record.attempts[5] = without_ack(6, Outcome::Unknown);
    let verdict = check(&record, &strict());
    assert!(verdict.passed(), "{:?}", verdict.violations);

    record.audits[0].top = 7;
    record.audits[0].entries.push((7, body(6)));
    record.subscribers[0].entries[8] = publication(6, 6);
    // The subscriber saw it once and then the top said nothing new: begin it anew at the top.
    record.subscribers[0].entries.push(begun(7, "one", 7));
    breaks(Invariant::Unknown, &record, &strict());
}
