//! Statistics of plugins: per app, plugin, hook and version.
//!
//! Kept while the version is bound, and for a while after: the last few versions of a plugin, so that one can be
//! compared with the one before, and a bounded number of others. What is dropped stays in the sums that Prometheus
//! reads, while the plugin is there at all: a counter that went back would be taken for a restart.
//! Labels come from the control store and from enums, never from a guest.

mod export;
mod histogram;
mod memory;
mod tally;

use std::{
    cmp::Reverse,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use prometheus_client::metrics::histogram::Histogram;
use rustc_hash::{FxHashMap, FxHashSet};
use tidegate_realtime::ids::AppId;

use self::tally::Totals;
pub(crate) use self::{
    export::Sources,
    memory::{MemoryGuard, MemoryUse},
    tally::{Also, ShardGuard, Tally},
};
pub use self::{histogram::Durations, memory::MemoryStatistics};
use crate::{
    binding::Hook, breaker::BreakerState, failure::FailureKind, lane::Lane, unit::Unit,
    verdict::Verdict,
};

/// Versions of a plugin at a hook that are kept after they were bound.
const FORMER_VERSIONS: usize = 3;
/// Versions of all plugins that are kept after they were bound.
const FORMER_IN_ALL: usize = 256;

/// What a call came to, for counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallEnd {
    Answered(Verdict),
    Failed(FailureKind),
    /// Counted beside `Failed` when the policy let the question go on.
    PassedOver,
}

impl CallEnd {
    const N: usize = Verdict::ALL.len() + FailureKind::ALL.len() + 1;

    #[inline]
    fn index(self) -> usize {
        match self {
            Self::Answered(verdict) => verdict as usize,
            Self::Failed(kind) => Verdict::ALL.len() + kind as usize,
            Self::PassedOver => Self::N - 1,
        }
    }
}

/// What one version of a plugin did at one hook of one app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookStatistics {
    pub app: AppId,
    pub plugin: Arc<str>,
    pub hook: Hook,
    pub version: u32,
    /// Whether it is asked now, or was before.
    pub is_bound: bool,
    /// All calls that ended with an answer, refusals among them.
    pub answered: u64,
    pub refused: u64,
    /// Answers by what they said, verdicts that never occurred left out.
    pub verdicts: Vec<(Verdict, u64)>,
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
    pub durations: Durations,
    pub memory: MemoryStatistics,
    /// Where it runs.
    pub lane: Lane,
    pub breaker: BreakerState,
    /// How often its breaker has opened.
    pub breaker_openings: u32,
}

/// App, plugin, hook.
type Place = (AppId, Arc<str>, Hook);

/// The versions of a plugin at a hook.
#[derive(Debug)]
struct Versions {
    /// In which order places came to be, so that those that are shown stay the same.
    since: u64,
    kept: Vec<Kept>,
    /// Of versions that are not kept any more.
    dropped: Totals,
}

#[derive(Debug)]
struct Kept {
    tally: Arc<Tally>,
    /// Set when the version was bound no more: which one it was to leave, counted from the start.
    left_at: Option<u64>,
}

#[derive(Debug, Default)]
struct Places {
    all: FxHashMap<Place, Versions>,
    /// Places that there ever were.
    n_places: u64,
    /// Versions that were bound no more so far.
    n_left: u64,
}

/// The sandbox's metrics.
#[derive(Debug)]
pub(crate) struct Metrics {
    places: Mutex<Places>,
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
            places: Mutex::default(),
            log_lines_dropped: Arc::default(),
            breaker_openings: AtomicU64::new(0),
            durations: Histogram::new(buckets),
        }
    }
}

impl Metrics {
    /// Where a version is counted that is about to be bound.
    pub(crate) fn tally(
        &self,
        app: &AppId,
        plugin: &Arc<str>,
        hook: Hook,
        version: u32,
    ) -> Arc<Tally> {
        let mut places = self.places.lock();
        let Places { all, n_places, .. } = &mut *places;
        let place = (app.clone(), Arc::clone(plugin), hook);
        let versions = all.entry(place).or_insert_with(|| {
            *n_places += 1;
            Versions {
                since: *n_places,
                kept: Vec::new(),
                dropped: Totals::default(),
            }
        });
        let found = versions
            .kept
            .iter_mut()
            .find(|kept| kept.tally.version() == version);
        if let Some(kept) = found {
            kept.left_at = None;
            return Arc::clone(&kept.tally);
        }
        let tally = Tally::new(app.clone(), Arc::clone(plugin), hook, version);
        let tally = Arc::new(tally);
        versions.kept.push(Kept {
            tally: Arc::clone(&tally),
            left_at: None,
        });
        tally
    }

    /// Says what is bound now; what has not been for the longest time is dropped.
    pub(crate) fn keep(&self, units: &[Arc<Unit>]) {
        let bound: FxHashSet<*const Tally> =
            units.iter().map(|unit| Arc::as_ptr(&unit.tally)).collect();
        self.places
            .lock()
            .keep(|tally| bound.contains(&Arc::as_ptr(tally)));
    }

    /// What was counted of a deleted plugin, or of all plugins of a deleted app: another one of the name begins anew.
    pub(crate) fn forget(&self, app: &AppId, plugin: Option<&str>) {
        let is_meant =
            |of: &AppId, name: &str| of == app && plugin.is_none_or(|plugin| plugin == name);
        self.places
            .lock()
            .all
            .retain(|(of, name, _), _| !is_meant(of, name));
    }

    pub(crate) fn count_opening(&self) {
        self.breaker_openings.fetch_add(1, Ordering::Relaxed);
    }

    /// Of these apps, by app, plugin and hook; the bound version first, then the newest.
    pub(crate) fn statistics(
        &self,
        apps: impl Fn(&AppId) -> bool,
        now_millis: u64,
    ) -> Vec<HookStatistics> {
        let tallies: Vec<_> = {
            let places = self.places.lock();
            let of_apps = places.all.iter().filter(|((app, ..), _)| apps(app));
            let kept = of_apps.flat_map(|(_, versions)| &versions.kept);
            kept.map(|kept| (Arc::clone(&kept.tally), kept.left_at.is_none()))
                .collect()
        };
        let mut all: Vec<_> = tallies
            .iter()
            .map(|(tally, is_bound)| tally.statistics(*is_bound, now_millis))
            .collect();
        all.sort_by(|a, b| {
            let key = |row: &HookStatistics| (row.hook, !row.is_bound, Reverse(row.version));
            (&a.app, &a.plugin, key(a)).cmp(&(&b.app, &b.plugin, key(b)))
        });
        all
    }
}

impl Places {
    fn keep(&mut self, is_bound: impl Fn(&Arc<Tally>) -> bool) {
        let mut former = Vec::new();
        for versions in self.all.values_mut() {
            for kept in &mut versions.kept {
                if is_bound(&kept.tally) {
                    kept.left_at = None;
                } else if kept.left_at.is_none() {
                    self.n_left += 1;
                    kept.left_at = Some(self.n_left);
                }
            }
            let mut left: Vec<u64> = versions
                .kept
                .iter()
                .filter_map(|kept| kept.left_at)
                .collect();
            left.sort_unstable_by_key(|left_at| Reverse(*left_at));
            if let Some(oldest) = left.get(FORMER_VERSIONS - 1) {
                versions.drop_before(*oldest);
                left.truncate(FORMER_VERSIONS);
            }
            former.append(&mut left);
        }
        if former.len() > FORMER_IN_ALL {
            former.sort_unstable_by_key(|left_at| Reverse(*left_at));
            let oldest = former[FORMER_IN_ALL - 1];
            for versions in self.all.values_mut() {
                versions.drop_before(oldest);
            }
        }
        self.all.retain(|_, versions| !versions.kept.is_empty());
    }
}

impl Versions {
    /// Drops what left before this one.
    fn drop_before(&mut self, oldest: u64) {
        let dropped = &mut self.dropped;
        self.kept.retain(|kept| {
            let is_kept = kept.left_at.is_none_or(|left_at| left_at >= oldest);
            if !is_kept {
                dropped.add(&kept.tally.totals());
            }
            is_kept
        });
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::{encoding::text::encode, registry::Registry};

    use std::sync::Weak;

    use super::*;
    use crate::{clock::Clock, instances::Instances};

    fn rendered(metrics: &Arc<Metrics>) -> String {
        let mut registry = Registry::default();
        let sources = Sources {
            metrics: Arc::clone(metrics),
            clock: Clock::manual(),
            instances: Instances::new(7),
            aside: Weak::new(),
        };
        sources.register(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    }

    fn shout(metrics: &Metrics, version: u32) -> Arc<Tally> {
        let app = AppId::default_app();
        metrics.tally(&app, &"shout".into(), Hook::Filtering, version)
    }

    #[test]
    fn counts_survive_their_workers_and_are_rendered() {
        let metrics = Arc::new(Metrics::default());
        let tally = shout(&metrics, 1);
        for _ in 0..2 {
            let shard = tally.shard();
            shard.count(CallEnd::Answered(Verdict::Pass));
            shard.count(CallEnd::Answered(Verdict::Drop));
            shard.count(CallEnd::Failed(FailureKind::HostPanic));
            shard.count_also(Also::Aside);
        }
        let text = rendered(&metrics);
        let labels = "app=\"default\",plugin=\"shout\",hook=\"filtering\"";
        for expected in [
            format!("tidegate_plugin_calls_total{{{labels},end=\"answered\"}} 4"),
            format!("tidegate_plugin_calls_total{{{labels},end=\"host-panic\"}} 2"),
            format!("tidegate_plugin_verdicts_total{{{labels},verdict=\"drop\"}} 2"),
            format!("tidegate_plugin_calls_aside_total{{{labels}}} 2"),
            "tidegate_plugin_instances_max 7".to_owned(),
            "tidegate_plugin_left_out 0".to_owned(),
        ] {
            assert!(text.contains(&expected), "{expected}: {text}");
        }
        assert_eq!(tally.n_shards(), 1);
        let row = &metrics.statistics(|_| true, 0)[0];
        assert_eq!(row.failed, [(FailureKind::HostPanic, 2)]);
        assert_eq!(row.verdicts, [(Verdict::Pass, 2), (Verdict::Drop, 2)]);
        assert_eq!((row.calls(), row.inline(), row.aside), (6, 4, 2));
    }

    #[test]
    fn what_was_counted_of_a_deleted_plugin_or_app_is_not_its_successors() {
        let metrics = Arc::new(Metrics::default());
        let count = |app: &str, plugin: &str| {
            let app = AppId::parse(app).unwrap();
            let tally = metrics.tally(&app, &plugin.into(), Hook::Filtering, 1);
            tally.shard().count(CallEnd::Answered(Verdict::Pass));
            tally.totals().answered()
        };
        let places = [("shop", "p"), ("shop", "q"), ("other", "p")];
        for (app, plugin) in places {
            assert_eq!(count(app, plugin), 1);
        }
        let shop = AppId::parse("shop").unwrap();
        metrics.forget(&shop, Some("p"));
        assert_eq!(places.map(|(app, plugin)| count(app, plugin)), [1, 2, 2]);
        metrics.forget(&shop, None);
        assert_eq!(places.map(|(app, plugin)| count(app, plugin)), [1, 1, 3]);
    }

    #[test]
    fn the_last_versions_stay_and_no_counter_goes_back() {
        let metrics = Arc::new(Metrics::default());
        for version in 1..=10 {
            let bound = shout(&metrics, version);
            bound.shard().count(CallEnd::Answered(Verdict::Pass));
            let mut places = metrics.places.lock();
            places.keep(|tally| Arc::ptr_eq(tally, &bound));
        }
        let rows = metrics.statistics(|_| true, 0);
        let kept: Vec<_> = rows.iter().map(|row| (row.version, row.is_bound)).collect();
        assert_eq!(kept, [(10, true), (9, false), (8, false), (7, false)]);
        let all = "tidegate_plugin_calls_total{app=\"default\",plugin=\"shout\",hook=\"filtering\",end=\"answered\"} 10";
        let text = rendered(&metrics);
        assert!(text.contains(all), "{text}");
    }

    #[test]
    fn plugins_that_were_unbound_are_remembered_up_to_a_bound() {
        let metrics = Metrics::default();
        for n in 0..2_000 {
            let app = AppId::default_app();
            let bound = metrics.tally(&app, &format!("p{n}").into(), Hook::Rpc, 1);
            let mut places = metrics.places.lock();
            places.keep(|tally| Arc::ptr_eq(tally, &bound));
        }
        let rows = metrics.statistics(|_| true, 0);
        assert_eq!(rows.len(), 1 + FORMER_IN_ALL);
        assert!(rows.iter().any(|row| &*row.plugin == "p1998"));
        assert!(!rows.iter().any(|row| &*row.plugin == "p1"));
    }

    #[test]
    fn the_number_of_places_that_are_rendered_is_bounded_and_told() {
        let metrics = Arc::new(Metrics::default());
        let app = AppId::default_app();
        for n in 0..export::MOST_PLACES + 3 {
            let tally = metrics.tally(&app, &format!("p{n}").into(), Hook::Rpc, 1);
            tally.shard().count(CallEnd::Answered(Verdict::Reply));
        }
        let text = rendered(&metrics);
        assert!(text.contains("tidegate_plugin_left_out 3"), "{text}");
        let lines = text
            .lines()
            .filter(|line| line.starts_with("tidegate_plugin_calls_total{"));
        assert_eq!(lines.count(), export::MOST_PLACES);
        // Those that were there first stay, whatever their names.
        assert!(text.contains("plugin=\"p0\""));
    }
}
