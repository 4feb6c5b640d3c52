//! Counts of calls, per plugin and hook, written by workers without contention.
//!
//! Each worker has a shard of its own for each binding it calls; reading sums the shards. Labels come from
//! the control store and from enums, never from a guest.

mod export;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;
use prometheus_client::metrics::histogram::Histogram;
use rustc_hash::FxHashMap;
use tidegate_realtime::ids::AppId;

pub(crate) use self::export::Sources;
use crate::{
    binding::Hook,
    breaker::{Breaker, BreakerState},
    conduct::Conduct,
    failure::FailureKind,
    lane::Lane,
};

/// What a call came to, for counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallEnd {
    Answered,
    Refused,
    Failed(FailureKind),
    /// Counted beside `Failed` when the policy let the question go on.
    PassedOver,
}

const N_ENDS: usize = 3 + FailureKind::ALL.len();

impl CallEnd {
    fn index(self) -> usize {
        match self {
            Self::Answered => 0,
            Self::Refused => 1,
            Self::PassedOver => 2,
            Self::Failed(kind) => 3 + kind as usize,
        }
    }

    fn word(index: usize) -> &'static str {
        match index {
            0 => "answered",
            1 => "refused",
            2 => "passed-over",
            other => FailureKind::ALL
                .get(other - 3)
                .map_or("unknown", |kind| kind.as_str()),
        }
    }
}

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

/// One worker's counts for one binding. Written by that worker alone, hence load and store instead of add.
#[derive(Debug, Default)]
pub(crate) struct Shard {
    ends: [AtomicU64; N_ENDS],
    also: [AtomicU64; N_ALSO],
}

impl Shard {
    #[inline]
    pub(crate) fn count(&self, end: CallEnd) {
        add_one(&self.ends[end.index()]);
    }

    pub(crate) fn count_also(&self, also: Also) {
        add_one(&self.also[also as usize]);
    }
}

#[inline]
fn add_one(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// All counts of a plugin at a hook of an app, over all generations and workers.
#[derive(Debug)]
pub(crate) struct Tally {
    app: AppId,
    plugin: Arc<str>,
    hook: Hook,
    shards: Mutex<Shards>,
    /// That of the version bound last.
    conduct: Mutex<Option<Arc<Conduct>>>,
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
        self.shard.count(end);
    }

    pub(crate) fn count_also(&self, also: Also) {
        self.shard.count_also(also);
    }
}

impl Drop for ShardGuard {
    fn drop(&mut self) {
        let shard = Arc::clone(&self.shard);
        self.tally.shards.lock().free.push(shard);
    }
}

impl Tally {
    fn new(app: AppId, plugin: Arc<str>, hook: Hook) -> Self {
        Self {
            app,
            plugin,
            hook,
            shards: Mutex::default(),
            conduct: Mutex::default(),
        }
    }

    /// A tally that is in no list, for trials.
    pub(crate) fn unlisted() -> Self {
        Self::new(AppId::default_app(), "".into(), Hook::Filtering)
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

    fn conduct(&self) -> Option<Arc<Conduct>> {
        self.conduct.lock().clone()
    }

    fn totals(&self) -> [u64; N_ENDS] {
        let mut totals = [0; N_ENDS];
        for shard in &self.shards.lock().all {
            for (total, counter) in totals.iter_mut().zip(&shard.ends) {
                *total += counter.load(Ordering::Relaxed);
            }
        }
        totals
    }

    fn total_also(&self, also: Also) -> u64 {
        let shards = self.shards.lock();
        let counts = shards.all.iter().map(|shard| &shard.also[also as usize]);
        counts.map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

/// Counts of one plugin at one hook of one app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookStatistics {
    pub app: AppId,
    pub plugin: Arc<str>,
    pub hook: Hook,
    /// All calls that ended with an answer, refusals among them.
    pub answered: u64,
    pub refused: u64,
    /// By kind, kinds that never occurred left out.
    pub failed: Vec<(FailureKind, u64)>,
    /// Failures over which an open policy passed.
    pub passed_over: u64,
    /// Calls that ran aside.
    pub aside: u64,
    /// Answered calls that used seven tenths of their deadline or more.
    pub near_deadline: u64,
    /// Instances that were left with seven tenths of their memory used or more.
    pub near_memory: u64,
    /// Where the version bound last runs.
    pub lane: Lane,
    /// Of the version bound last.
    pub breaker: BreakerState,
    /// How often its breaker has opened.
    pub breaker_openings: u32,
}

/// App, plugin, hook.
type TallyKey = (AppId, Arc<str>, Hook);

/// The sandbox's metrics.
#[derive(Debug)]
pub(crate) struct Metrics {
    tallies: Mutex<FxHashMap<TallyKey, Arc<Tally>>>,
    pub(crate) log_lines_dropped: Arc<AtomicU64>,
    breaker_openings: AtomicU64,
    /// Time of a sample of calls.
    pub(crate) durations: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        // From a fifth of a microsecond, the floor of a call, to a tenth of a second, the longest deadline.
        let buckets = [
            250e-9, 500e-9, 1e-6, 2e-6, 5e-6, 10e-6, 25e-6, 100e-6, 500e-6, 1e-3, 5e-3, 20e-3, 0.1,
        ];
        Self {
            tallies: Mutex::default(),
            log_lines_dropped: Arc::default(),
            breaker_openings: AtomicU64::new(0),
            durations: Histogram::new(buckets),
        }
    }
}

impl Metrics {
    pub(crate) fn tally(&self, app: &AppId, plugin: &Arc<str>, hook: Hook) -> Arc<Tally> {
        let key = (app.clone(), Arc::clone(plugin), hook);
        let mut tallies = self.tallies.lock();
        let tally = tallies
            .entry(key)
            .or_insert_with(|| Arc::new(Tally::new(app.clone(), Arc::clone(plugin), hook)));
        Arc::clone(tally)
    }

    pub(crate) fn count_opening(&self) {
        self.breaker_openings.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn statistics(&self, now_millis: u64) -> Vec<HookStatistics> {
        let tallies: Vec<_> = self.tallies.lock().values().cloned().collect();
        let mut all: Vec<_> = tallies
            .iter()
            .map(|tally| tally.statistics(now_millis))
            .collect();
        all.sort_by(|a, b| (&a.app, &a.plugin, a.hook).cmp(&(&b.app, &b.plugin, b.hook)));
        all
    }
}

impl Tally {
    fn labels(&self) -> [(&'static str, &str); 3] {
        [
            ("app", self.app.as_str()),
            ("plugin", &self.plugin),
            ("hook", self.hook.as_str()),
        ]
    }

    fn statistics(&self, now_millis: u64) -> HookStatistics {
        let conduct = self.conduct();
        let breaker = conduct.as_ref().map(|conduct| &conduct.breaker);
        let totals = self.totals();
        let of = |end: CallEnd| totals[end.index()];
        HookStatistics {
            app: self.app.clone(),
            plugin: Arc::clone(&self.plugin),
            hook: self.hook,
            answered: of(CallEnd::Answered) + of(CallEnd::Refused),
            refused: of(CallEnd::Refused),
            failed: FailureKind::ALL
                .into_iter()
                .map(|kind| (kind, of(CallEnd::Failed(kind))))
                .filter(|(_, count)| *count > 0)
                .collect(),
            passed_over: of(CallEnd::PassedOver),
            aside: self.total_also(Also::Aside),
            near_deadline: self.total_also(Also::NearDeadline),
            near_memory: self.total_also(Also::NearMemory),
            lane: conduct
                .as_ref()
                .map_or(Lane::Aside, |conduct| conduct.lane()),
            breaker: breaker.map_or(BreakerState::Closed, |breaker| breaker.state(now_millis)),
            breaker_openings: breaker.map_or(0, Breaker::openings),
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::{encoding::text::encode, registry::Registry};

    use std::sync::Weak;

    use super::*;
    use crate::{clock::Clock, instances::Instances};

    #[test]
    fn counts_survive_their_workers_and_are_rendered() {
        let metrics = Arc::new(Metrics::default());
        let mut registry = Registry::default();
        let sources = Sources {
            metrics: Arc::clone(&metrics),
            clock: Clock::manual(),
            instances: Instances::new(7),
            aside: Weak::new(),
        };
        sources.register(&mut registry);
        let tally = metrics.tally(&AppId::default_app(), &"shout".into(), Hook::Filtering);
        for _ in 0..2 {
            let shard = tally.shard();
            shard.count(CallEnd::Answered);
            shard.count(CallEnd::Failed(FailureKind::HostPanic));
            shard.count_also(Also::Aside);
        }
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let line = |end| {
            format!(
                "tidegate_plugin_calls_total{{app=\"default\",plugin=\"shout\",hook=\"filtering\",end=\"{end}\"}} 2"
            )
        };
        assert!(text.contains(&line("answered")), "{text}");
        assert!(text.contains(&line("host-panic")), "{text}");
        for expected in [
            "tidegate_plugin_calls_aside_total{app=\"default\",plugin=\"shout\",hook=\"filtering\"} 2",
            "tidegate_plugin_instances_max 7",
        ] {
            assert!(text.contains(expected), "{text}");
        }
        assert_eq!(tally.shards.lock().all.len(), 1);
        assert_eq!(
            metrics.statistics(0)[0].failed,
            [(FailureKind::HostPanic, 2)]
        );
    }
}
