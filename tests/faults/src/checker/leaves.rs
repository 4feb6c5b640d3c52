//! I11: who was on a node that died leaves, once, and nobody else does.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Invariant, Verdict};
use crate::record::Leaves;

/// How the leaves have to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeavesBar {
    /// Fault to the last of them.
    pub within: Duration,
    /// In any one second: the end of a large node is no storm for the others.
    pub most_per_second: usize,
}

pub(super) fn judge(leaves: &Leaves, bar: LeavesBar, verdict: &mut Verdict) {
    if leaves.lost.is_empty() {
        let what = "nobody was on the node that died".to_owned();
        verdict.add(Invariant::Vacuous, what);
    }
    let mut heard: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, client) in &leaves.heard {
        *heard.entry(client).or_default() += 1;
    }
    let missing = leaves
        .lost
        .iter()
        .filter(|lost| !heard.contains_key(lost.as_str()));
    let missing = missing.count();
    if missing > 0 {
        let of = leaves.lost.len();
        let what = format!("{missing} of {of} who were on the node did not leave");
        verdict.add(Invariant::Leave, what);
    }
    for (client, times) in heard {
        if !leaves.lost.contains(client) {
            let what = format!("{client} left, and was not on the node that died");
            verdict.add(Invariant::Leave, what);
        } else if times > 1 {
            verdict.add(Invariant::Leave, format!("{client} left {times} times"));
        }
    }
    let mut times: Vec<Duration> = leaves.heard.iter().map(|(at, _)| *at).collect();
    times.sort_unstable();
    if let Some(last) = times.last().filter(|last| **last > bar.within) {
        let what = format!("the last left after {last:?}, {:?} is the bar", bar.within);
        verdict.add(Invariant::Leave, what);
    }
    let most = busiest_second(&times);
    if most > bar.most_per_second {
        let what = format!(
            "{most} left in one second, {} is the bar",
            bar.most_per_second
        );
        verdict.add(Invariant::Leave, what);
    }
    presence(leaves, verdict);
}

/// The most that came within a second of each other; in order.
fn busiest_second(times: &[Duration]) -> usize {
    let mut first = 0;
    let mut most = 0;
    for (index, time) in times.iter().enumerate() {
        while *time - times[first] >= Duration::from_secs(1) {
            first += 1;
        }
        most = most.max(index + 1 - first);
    }
    most
}

/// At the end presence has whoever lives, and nobody else.
fn presence(leaves: &Leaves, verdict: &mut Verdict) {
    let stale: BTreeSet<_> = leaves.present.difference(&leaves.living).collect();
    if !stale.is_empty() {
        let what = format!("presence names {} who are not there", stale.len());
        verdict.add(Invariant::Leave, what);
    }
    let unseen: BTreeSet<_> = leaves.living.difference(&leaves.present).collect();
    if !unseen.is_empty() {
        let what = format!("presence does not name {} who are there", unseen.len());
        verdict.add(Invariant::Leave, what);
    }
}
