//! Who was on a node that died leaves, once.

use std::time::Duration;

use tidegate_faults::{
    checker::{Expectation, Invariant, LeavesBar, Verdict, check},
    record::{Leaves, Record},
};

use crate::{breaks, expectations::strict, records};

const LOST: usize = 40;

fn client(index: usize) -> String {
    format!("client {index}")
}

fn millis(millis: usize) -> Duration {
    Duration::from_millis(millis as u64)
}

/// Everybody on the node leaves 10 s after it died, one each 100 ms, and two live.
fn good() -> Leaves {
    Leaves {
        lost: (0..LOST).map(client).collect(),
        heard: (0..LOST)
            .map(|index| (millis(10_000 + 100 * index), client(index)))
            .collect(),
        living: [client(100), client(101)].into(),
        present: [client(100), client(101)].into(),
    }
}

fn record(leaves: Leaves) -> Record {
    Record {
        leaves: Some(leaves),
        ..records::good()
    }
}

fn expected() -> Expectation {
    Expectation {
        leaves: Some(LeavesBar {
            within: Duration::from_secs(20),
            most_per_second: 15,
        }),
        ..strict()
    }
}

#[test]
fn everybody_who_leaves_once_passes() {
    let Verdict { violations, .. } = check(&record(good()), &expected());
    assert!(violations.is_empty(), "{violations:?}");
}

#[test]
fn i11_each_way_to_be_wrong_is_caught() {
    let mut missing = good();
    missing.heard.pop();
    let mut twice = good();
    twice.heard.push((millis(16_000), client(3)));
    let mut alive = good();
    alive.heard.push((millis(16_000), client(100)));
    let mut late = good();
    late.heard[LOST - 1].0 = millis(20_001);
    let mut storm = good();
    for (at, _) in &mut storm.heard[..16] {
        *at = millis(10_000);
    }
    let mut stale = good();
    stale.present.insert(client(3));
    let mut unseen = good();
    unseen.present.remove(&client(100));
    for bad in [missing, twice, alive, late, storm, stale, unseen] {
        breaks(Invariant::Leave, &record(bad), &expected());
    }
}

#[test]
fn a_node_without_anybody_proves_nothing() {
    breaks(Invariant::Vacuous, &record(Leaves::default()), &expected());
}
