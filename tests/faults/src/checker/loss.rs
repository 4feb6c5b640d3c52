//! I5: what was acked is in the history, but for what the row lets the store forget.

use std::{collections::BTreeSet, time::Duration};

use super::{Id, Invariant, Verdict, audits, id};
use crate::record::{Attempt, Outcome, Record};

/// Whether acked publications may be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckedLoss {
    Never,
    /// With the stream that held them: then there is a new epoch.
    WithTheEpoch(Forgotten),
    /// With the older part of the history, which was deleted on purpose; the epoch may stay.
    WithTheHistory(Forgotten),
}

/// Which publications a store may forget. An answer is seen late on a busy machine, never early: so the bounds are
/// of the time of the answer before the fault, and of the time of sending after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forgotten {
    /// The oldest was acked no longer than this before the fault.
    pub lag: Duration,
    /// The youngest was sent no longer than this after the fault.
    pub window: Duration,
    /// No more than this of everything that was acked.
    pub percent: u64,
}

/// A stream that got a new epoch may have kept its entries: those are not lost.
pub(super) fn acked_loss(record: &Record, allowed: AckedLoss, verdict: &mut Verdict) {
    let kept: BTreeSet<(u32, Id)> = record
        .audits
        .iter()
        .flat_map(|audit| {
            let entries = audit.entries.iter();
            entries.map(|(_, body)| (audit.channel, id(body)))
        })
        .collect();
    let audits = audits(record);
    for attempt in &record.attempts {
        let Outcome::Acked { epoch, offset } = &attempt.outcome else {
            continue;
        };
        if kept.contains(&(attempt.channel, id(&attempt.body))) {
            continue;
        }
        let (before, after) = distance(record, attempt);
        let figures = &mut verdict.figures;
        figures.acked_lost += 1;
        figures.lost_before = figures.lost_before.max(Some(before));
        figures.lost_after = figures.lost_after.max(Some(after));
        let is_new_epoch = audits
            .get(&attempt.channel)
            .is_some_and(|audit| audit.epoch != *epoch);
        let is_before_the_rest = audits.get(&attempt.channel).is_some_and(|audit| {
            audit
                .entries
                .first()
                .is_none_or(|(first, _)| offset < first)
        });
        let is_in_time = |bounds: Forgotten| before <= bounds.lag && after <= bounds.window;
        let is_allowed = match allowed {
            AckedLoss::Never => false,
            AckedLoss::WithTheEpoch(bounds) => is_new_epoch && is_in_time(bounds),
            AckedLoss::WithTheHistory(bounds) => {
                (is_new_epoch || is_before_the_rest) && is_in_time(bounds)
            }
        };
        if !is_allowed {
            let what = format!(
                "{:?} was acked as {offset} of epoch {epoch:?} in channel {}, {before:?} before the fault, sent \
                 {after:?} after it, and is not there",
                id(&attempt.body),
                attempt.channel
            );
            verdict.add(Invariant::AckedLoss, what);
        }
    }
    share(allowed, verdict);
}

/// How long before the fault it was acked, and how long after the fault it was sent.
fn distance(record: &Record, attempt: &Attempt) -> (Duration, Duration) {
    let before = record.fault_at.saturating_sub(attempt.done_at);
    let after = attempt.body.sent_at.saturating_sub(record.fault_at);
    (before, after)
}

fn share(allowed: AckedLoss, verdict: &mut Verdict) {
    let (AckedLoss::WithTheEpoch(bounds) | AckedLoss::WithTheHistory(bounds)) = allowed else {
        return;
    };
    let (lost, acked) = (verdict.figures.acked_lost, verdict.figures.acked);
    if lost * 100 > acked * bounds.percent {
        let what = format!(
            "{lost} of {acked} acked publications are not there, {} % are the most",
            bounds.percent
        );
        verdict.add(Invariant::AckedLoss, what);
    }
}
