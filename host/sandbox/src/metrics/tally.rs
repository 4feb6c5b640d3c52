//! What is counted of one version at one hook.
//!
//! Counters are written by workers without contention: each has a shard of its own, and reading sums the shards.
//! Times of a sample of calls go into one histogram, which is made at the first of them.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tidegate_realtime::ids::AppId;

use super::{
    CallEnd, HookStatistics,
    histogram::{Durations, Histogram},
    memory::MemoryUse,
};
use crate::{
    binding::Hook,
    breaker::{Breaker, BreakerState},
    conduct::Conduct,
    failure::FailureKind,
    lane::Lane,
    verdict::Verdict,
};

/// What is counted beside a call's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Also {
    /// It ran aside.
    Aside,
    /// It used seven tenths of its deadline or more.
    NearDeadline,
    /// It left its instance with seven tenths of its memory used or more.
    NearMemory,
}

const N_ALSO: usize = 3;

/// One worker's counts. Written by that worker alone, hence load and store instead of add.
#[derive(Debug, Default)]
struct Shard {
    ends: [AtomicU64; CallEnd::N],
    also: [AtomicU64; N_ALSO],
}

#[inline]
fn add_one(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// All counts of a version at a hook of an app, over all bindings and workers.
#[derive(Debug)]
pub(crate) struct Tally {
    app: AppId,
    plugin: Arc<str>,
    hook: Hook,
    version: u32,
    shards: Mutex<Shards>,
    /// That of the version as it was bound last.
    conduct: Mutex<Option<Arc<Conduct>>>,
    /// There from the first call that was timed, since many of a thousand apps' plugins are hardly called.
    durations: OnceLock<Box<Histogram>>,
    memory: Arc<MemoryUse>,
}

#[derive(Debug, Default)]
struct Shards {
    all: Vec<Arc<Shard>>,
    /// Given back by workers, their counts kept.
    free: Vec<Arc<Shard>>,
}

/// A worker's hold on a shard; gives it back when dropped.
#[derive(Debug)]
pub(crate) struct ShardGuard {
    tally: Arc<Tally>,
    shard: Arc<Shard>,
}

impl ShardGuard {
    #[inline]
    pub(crate) fn count(&self, end: CallEnd) {
        add_one(&self.shard.ends[end.index()]);
    }

    pub(crate) fn count_also(&self, also: Also) {
        add_one(&self.shard.also[also as usize]);
    }
}

impl Drop for ShardGuard {
    fn drop(&mut self) {
        let shard = Arc::clone(&self.shard);
        self.tally.shards.lock().free.push(shard);
    }
}

/// Sums of counters, of one tally or of several.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Totals {
    ends: [u64; CallEnd::N],
    also: [u64; N_ALSO],
    pub(super) time: Duration,
}

impl Totals {
    pub(super) fn of(&self, end: CallEnd) -> u64 {
        self.ends[end.index()]
    }

    pub(super) fn of_also(&self, also: Also) -> u64 {
        self.also[also as usize]
    }

    pub(super) fn refused(&self) -> u64 {
        self.of(CallEnd::Answered(Verdict::Refuse))
    }

    /// Answers of every kind.
    pub(super) fn answered(&self) -> u64 {
        let answers = Verdict::ALL.into_iter().map(CallEnd::Answered);
        answers.map(|end| self.of(end)).sum()
    }

    pub(super) fn add(&mut self, other: &Self) {
        let Self { ends, also, time } = other;
        for (sum, more) in self.ends.iter_mut().zip(ends) {
            *sum += more;
        }
        for (sum, more) in self.also.iter_mut().zip(also) {
            *sum += more;
        }
        self.time += *time;
    }
}

impl Tally {
    pub(super) fn new(app: AppId, plugin: Arc<str>, hook: Hook, version: u32) -> Self {
        Self {
            app,
            plugin,
            hook,
            version,
            shards: Mutex::default(),
            conduct: Mutex::default(),
            durations: OnceLock::new(),
            memory: Arc::default(),
        }
    }

    /// A tally that is in no list, for trials.
    pub(crate) fn unlisted() -> Self {
        Self::new(AppId::default_app(), "".into(), Hook::Filtering, 0)
    }

    pub(crate) fn shard(self: &Arc<Self>) -> ShardGuard {
        let mut shards = self.shards.lock();
        let shard = shards.free.pop().unwrap_or_else(|| {
            let made = Arc::new(Shard::default());
            shards.all.push(Arc::clone(&made));
            made
        });
        drop(shards);
        ShardGuard {
            tally: Arc::clone(self),
            shard,
        }
    }

    /// Makes this the conduct that statistics show.
    pub(crate) fn attach(&self, conduct: &Arc<Conduct>) {
        let before = self.conduct.lock().replace(Arc::clone(conduct));
        drop(before);
    }

    /// A call took so long, and so did the others that it stands for.
    pub(crate) fn timed(&self, took: Duration, stands_for: u64) {
        let durations = self.durations.get_or_init(Box::default);
        durations.record(took, stands_for);
    }

    /// Where instances show their memory.
    pub(crate) fn memory(&self) -> &Arc<MemoryUse> {
        &self.memory
    }

    pub(super) fn version(&self) -> u32 {
        self.version
    }

    pub(super) fn conduct(&self) -> Option<Arc<Conduct>> {
        self.conduct.lock().clone()
    }

    pub(super) fn durations(&self) -> Durations {
        self.durations
            .get()
            .map_or_else(Durations::default, |durations| durations.read())
    }

    pub(super) fn totals(&self) -> Totals {
        let mut totals = Totals {
            time: self
                .durations
                .get()
                .map_or(Duration::ZERO, |durations| durations.total()),
            ..Totals::default()
        };
        for shard in &self.shards.lock().all {
            for (total, counter) in totals.ends.iter_mut().zip(&shard.ends) {
                *total += counter.load(Ordering::Relaxed);
            }
            for (total, counter) in totals.also.iter_mut().zip(&shard.also) {
                *total += counter.load(Ordering::Relaxed);
            }
        }
        totals
    }

    pub(super) fn statistics(&self, is_bound: bool, now_millis: u64) -> HookStatistics {
        let conduct = self.conduct();
        let breaker = conduct.as_ref().map(|conduct| &conduct.breaker);
        let totals = self.totals();
        HookStatistics {
            app: self.app.clone(),
            plugin: Arc::clone(&self.plugin),
            hook: self.hook,
            version: self.version,
            is_bound,
            answered: totals.answered(),
            refused: totals.refused(),
            verdicts: Verdict::ALL
                .into_iter()
                .map(|verdict| (verdict, totals.of(CallEnd::Answered(verdict))))
                .filter(|(_, count)| *count > 0)
                .collect(),
            failed: FailureKind::ALL
                .into_iter()
                .map(|kind| (kind, totals.of(CallEnd::Failed(kind))))
                .filter(|(_, count)| *count > 0)
                .collect(),
            passed_over: totals.of(CallEnd::PassedOver),
            aside: totals.of_also(Also::Aside),
            near_deadline: totals.of_also(Also::NearDeadline),
            near_memory: totals.of_also(Also::NearMemory),
            durations: self.durations(),
            memory: self.memory.read(),
            lane: conduct
                .as_ref()
                .map_or(Lane::Aside, |conduct| conduct.lane()),
            breaker: breaker.map_or(BreakerState::Closed, |breaker| breaker.state(now_millis)),
            breaker_openings: breaker.map_or(0, Breaker::openings),
        }
    }

    #[cfg(test)]
    pub(super) fn n_shards(&self) -> usize {
        self.shards.lock().all.len()
    }
}

impl HookStatistics {
    /// Calls that were made or at least tried: everything but what the breaker refused.
    pub fn calls(&self) -> u64 {
        let failed = self.failed.iter();
        let tried = failed.filter(|(kind, _)| *kind != FailureKind::BreakerOpen);
        self.answered + tried.map(|(_, count)| count).sum::<u64>()
    }

    /// Calls that failed, those among them that the breaker refused left out.
    pub fn failures(&self) -> u64 {
        self.calls() - self.answered
    }

    /// Questions that the plugin was not asked because its breaker was open.
    pub fn breaker_refusals(&self) -> u64 {
        self.failed_by(FailureKind::BreakerOpen)
    }

    /// Calls that ran on the asking worker.
    pub fn inline(&self) -> u64 {
        let not_begun = self.failed_by(FailureKind::NoSlot);
        self.calls().saturating_sub(self.aside + not_begun)
    }

    fn failed_by(&self, wanted: FailureKind) -> u64 {
        let found = self.failed.iter().find(|(kind, _)| *kind == wanted);
        found.map_or(0, |(_, count)| *count)
    }
}
