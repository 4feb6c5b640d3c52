//! The judge catches each thing that it is there for: a good run passes, and each way to be bad alone does not.

use std::time::Duration;

use tidegate_faults::{
    checker::{AckedLoss, Expectation, Forgotten, Invariant, Recovery, Unready, Verdict, check},
    record::{
        Attempt, Audit, Body, Entry, Event, Health, Outcome, Position, Record, Subscribed,
        SubscriberLog,
    },
};

const CHANNEL: u32 = 7;

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn body(sequence: u64) -> Body {
    Body {
        publisher: 1,
        sequence,
        sent_at: at(sequence),
        hash: 1_000 + sequence,
    }
}

fn acked(sequence: u64, epoch: &str, offset: u64) -> Attempt {
    Attempt {
        channel: CHANNEL,
        body: body(sequence),
        done_at: at(sequence),
        outcome: Outcome::Acked {
            epoch: epoch.to_owned(),
            offset,
        },
    }
}

fn without_ack(sequence: u64, outcome: Outcome) -> Attempt {
    Attempt {
        outcome,
        ..acked(sequence, "", 0)
    }
}

fn publication(sequence: u64, offset: u64) -> Entry {
    Entry {
        at: at(sequence),
        event: Event::Publication {
            offset,
            epoch: String::new(),
            body: body(sequence),
        },
    }
}

/// Subscribed without asking to recover.
fn begun(seconds: u64, epoch: &str, offset: u64) -> Entry {
    answered(
        seconds,
        Subscribed {
            epoch: epoch.to_owned(),
            offset,
            ..Subscribed::default()
        },
    )
}

/// Asked for what comes after this position, and was told that this is what follows.
fn recovered(seconds: u64, epoch: &str, offset: u64) -> Entry {
    let position = position(epoch, offset);
    answered(
        seconds,
        Subscribed {
            asked: Some(position),
            was_recovering: true,
            recovered: true,
            epoch: epoch.to_owned(),
            offset,
        },
    )
}

/// Asked for what comes after a position, and was told that the stream is at another one.
fn not_recovered(seconds: u64, asked: Position, epoch: &str, offset: u64) -> Entry {
    answered(
        seconds,
        Subscribed {
            asked: Some(asked),
            was_recovering: true,
            recovered: false,
            epoch: epoch.to_owned(),
            offset,
        },
    )
}

fn answered(seconds: u64, result: Subscribed) -> Entry {
    Entry {
        at: at(seconds),
        event: Event::Subscribed(result),
    }
}

fn position(epoch: &str, offset: u64) -> Position {
    Position {
        epoch: epoch.to_owned(),
        offset,
    }
}

fn ended(seconds: u64, code: u16) -> Entry {
    Entry {
        at: at(seconds),
        event: Event::Disconnected { code },
    }
}

fn look(node: usize, seconds: u64, is_ready: bool) -> Health {
    Health {
        node,
        at: at(seconds),
        is_ready,
    }
}

/// Six publications in one stream; the fault cuts the subscriber after the third, it comes back and recovers.
fn good() -> Record {
    Record {
        attempts: (1..=6).map(|n| acked(n, "one", n)).collect(),
        subscribers: vec![SubscriberLog {
            channel: CHANNEL,
            entries: vec![
                begun(0, "one", 0),
                publication(1, 1),
                publication(2, 2),
                publication(3, 3),
                ended(3, 1006),
                recovered(4, "one", 3),
                publication(4, 4),
                publication(5, 5),
                publication(6, 6),
            ],
        }],
        audits: vec![Audit {
            channel: CHANNEL,
            epoch: "one".to_owned(),
            top: 6,
            entries: (1..=6).map(|n| (n, body(n))).collect(),
        }],
        health: vec![look(0, 1, true), look(0, 4, false), look(0, 6, true)],
        fault_at: at(3),
        healed_at: at(5),
        effects: 1,
    }
}

/// The store forgets everything after the third: a second stream begins, and the subscriber is told.
fn forgetful() -> Record {
    Record {
        attempts: vec![
            acked(1, "one", 1),
            acked(2, "one", 2),
            acked(3, "one", 3),
            acked(4, "two", 1),
            acked(5, "two", 2),
        ],
        subscribers: vec![SubscriberLog {
            channel: CHANNEL,
            entries: vec![
                begun(0, "one", 0),
                publication(1, 1),
                publication(2, 2),
                publication(3, 3),
                Entry {
                    at: at(4),
                    event: Event::Unsubscribed { code: 2500 },
                },
                not_recovered(4, position("one", 3), "two", 1),
                publication(5, 2),
            ],
        }],
        audits: vec![Audit {
            channel: CHANNEL,
            epoch: "two".to_owned(),
            top: 2,
            entries: vec![(1, body(4)), (2, body(5))],
        }],
        ..good()
    }
}

fn strict() -> Expectation {
    Expectation {
        least_acked: 5,
        acked_loss: AckedLoss::Never,
        truth_within: Some(at(1)),
        flow_within: Some(at(1)),
        unready: Some(Unready {
            nodes: vec![0],
            within: at(2),
        }),
        connections_stay: false,
        publishes_succeed: false,
        publish_within: None,
        recovery: Recovery::SomeAndAll,
    }
}

fn lenient() -> Expectation {
    Expectation {
        acked_loss: AckedLoss::WithTheEpoch(Forgotten {
            lag: at(2),
            window: at(4),
            percent: 60,
        }),
        recovery: Recovery::WherePossible,
        ..strict()
    }
}

/// As lenient, with other bounds of what may be forgotten.
fn bounded(lag: u64, window: u64, percent: u64) -> Expectation {
    Expectation {
        acked_loss: AckedLoss::WithTheEpoch(Forgotten {
            lag: at(lag),
            window: at(window),
            percent,
        }),
        ..lenient()
    }
}

/// The run breaks this invariant and no other.
#[track_caller]
fn breaks(invariant: Invariant, record: &Record, expected: &Expectation) -> Verdict {
    let verdict = check(record, expected);
    assert!(verdict.broke(invariant), "not caught: {verdict:?}");
    let others = verdict.violations.iter();
    let others: Vec<_> = others
        .filter(|found| found.invariant != invariant)
        .collect();
    assert!(others.is_empty(), "{others:?}");
    verdict
}

#[test]
fn a_good_run_passes_and_its_line_says_what_it_saw() {
    let verdict = check(&good(), &strict());
    assert!(verdict.passed(), "{:?}", verdict.violations);
    let line = verdict.figures.to_string();
    let counts = "published=6 acked=6 refused=0 unknown=0 delivered=6 silent_gaps=0 forks=0 disorder=0 dup=0 \
                  acked_lost=0 lost_before=- lost_after=- lost_share=0% signalled=0/0 disconnects=1 asked=1 recovered=1 not_recovered=0";
    assert!(line.starts_with(counts), "{line}");
}

#[test]
fn a_loss_that_is_allowed_and_said_passes() {
    let verdict = check(&forgetful(), &lenient());
    assert!(verdict.passed(), "{:?}", verdict.violations);
    assert_eq!(verdict.figures.acked_lost, 3);
    assert_eq!(
        (verdict.figures.signalled, verdict.figures.affected),
        (1, 1)
    );
}

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
