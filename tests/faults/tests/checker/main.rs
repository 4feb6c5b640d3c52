//! The judge catches each thing that it is there for: a good run passes, and each way to be bad alone does not.

mod bars;
mod expectations;
mod leaves;
mod losses;
mod records;
mod streams;

use tidegate_faults::{
    checker::{Expectation, Invariant, Verdict, check},
    record::Record,
};

use self::{
    expectations::{lenient, strict},
    records::{forgetful, good},
};

/// The run breaks this invariant and no other.
#[track_caller]
pub(crate) fn breaks(invariant: Invariant, record: &Record, expected: &Expectation) -> Verdict {
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
