//! Schedule: plugins that run by the clock, each run on one node of the cluster.
//!
//! Owns when a run is due and who does it; what it does is the plugin's business. Runs come at multiples of their
//! period since 1970 by the wall clock, without jitter, so that operators can tell when: that is the same moment on
//! all nodes, and the lease decides among them. It is taken for nearly the whole period. So a node whose clock is behind
//! finds the run of the others taken, a node that died has lost its lease when the next run is due, and nothing needs
//! to be given back. A run that takes long has it renewed for as long as it takes.
//!
//! Invariants. A period runs once at a time, on whatever node: one that is due while the last one still runs is left
//! out. Missed runs are not made up for. No run happens while the store of the leases cannot be asked.

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use parking_lot::Mutex;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use tokio::{sync::Notify, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    hooks::{Period, ScheduleQuestion, Timetable},
    ids::AppId,
    leases::{LeaseName, Renewals, Tenure},
    node::Node,
    publish::{EffectsOutcome, run_effects},
    session::Now,
};

/// The clock is looked at this often, however far away the next run is: it may be set.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// What a lease ends before the next run is due, at most; a tenth of the period otherwise. Clocks of nodes differ by
/// less.
const LONGEST_MARGIN: Duration = Duration::from_secs(5);

/// The wall clock, in Unix milliseconds.
type WallClock = Box<dyn Fn() -> u64 + Send + Sync>;

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunOutcome {
    /// It is under way.
    Running,
    /// This node did it.
    Done,
    /// This node tried; the trace leads to the story.
    Failed { trace_id: Arc<str> },
    /// This node did it, and what the plugin made of it could not be published.
    Unpublished,
    /// Another node has the lease.
    Elsewhere,
    /// The store of the leases could not be asked, so nobody knows.
    Unknown,
    /// The one before it still ran.
    LeftOut,
}

impl RunOutcome {
    /// The word in answers and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed { .. } => "failed",
            Self::Unpublished => "unpublished",
            Self::Elsewhere => "elsewhere",
            Self::Unknown => "unknown",
            Self::LeftOut => "left_out",
        }
    }
}

/// A run that was due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastRun {
    /// The moment for which it ran, in Unix milliseconds.
    pub due_ms: u64,
    pub outcome: RunOutcome,
    /// Of a run that this node did or tried, and that has ended.
    pub took: Option<Duration>,
}

/// A period of a plugin, as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    pub plugin: Arc<str>,
    pub period: Arc<str>,
    pub every: Duration,
    /// When it is due next, in Unix milliseconds.
    pub next_ms: u64,
    /// `None` until the first run that was due while this node knew the period.
    pub last: Option<LastRun>,
}

/// Counters of runs. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct ScheduleMetrics {
    runs: Family<RunLabel, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RunLabel {
    outcome: &'static str,
}

impl ScheduleMetrics {
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("tidegate_schedule");
        registry.register(
            "runs",
            "Runs of plugins by the clock that were due, by what this node did about them",
            self.runs.clone(),
        );
    }

    fn count(&self, outcome: &RunOutcome) {
        let outcome = outcome.as_str();
        self.runs.get_or_create(&RunLabel { outcome }).inc();
    }

    #[cfg(test)]
    fn number(&self, outcome: &RunOutcome) -> u64 {
        let outcome = outcome.as_str();
        self.runs.get_or_create(&RunLabel { outcome }).get()
    }
}

/// The runs of a node.
pub struct Schedule {
    plans: Mutex<BTreeMap<PlanId, Plan>>,
    changed: Notify,
    clock: WallClock,
    metrics: ScheduleMetrics,
}

/// App, plugin, name of the period.
type PlanId = (AppId, Arc<str>, Arc<str>);

#[derive(Debug)]
struct Plan {
    every: Duration,
    next_ms: u64,
    last: Option<LastRun>,
}

impl Plan {
    fn new(every: Duration, now_ms: u64) -> Self {
        Self {
            every,
            next_ms: next_after(now_ms, every),
            last: None,
        }
    }

    fn is_running(&self) -> bool {
        let last = self.last.as_ref();
        last.is_some_and(|last| last.outcome == RunOutcome::Running)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// The first multiple of the period after a moment.
fn next_after(now_ms: u64, every: Duration) -> u64 {
    (now_ms / millis(every))
        .saturating_add(1)
        .saturating_mul(millis(every))
}

/// How long a lease is taken for.
fn lease_time(every: Duration) -> Duration {
    every - (every / 10).min(LONGEST_MARGIN)
}

/// A run that has to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Due {
    id: PlanId,
    every: Duration,
    due_ms: u64,
}

impl Schedule {
    pub fn new(metrics: ScheduleMetrics) -> Arc<Self> {
        Self::with_clock(metrics, Box::new(|| Now::read().unix_millis))
    }

    fn with_clock(metrics: ScheduleMetrics, clock: WallClock) -> Arc<Self> {
        Arc::new(Self {
            plans: Mutex::default(),
            changed: Notify::new(),
            clock,
            metrics,
        })
    }

    /// Takes over which plugins run and when. Periods that stay keep their place.
    pub fn replace_timetables(&self, timetables: &BTreeMap<AppId, Vec<Timetable>>) {
        let now_ms = (self.clock)();
        let mut plans = self.plans.lock();
        let mut before = std::mem::take(&mut *plans);
        for (app, timetables) in timetables {
            for Timetable { plugin, periods } in timetables {
                for Period { name, every } in periods.iter() {
                    let id = (app.clone(), Arc::clone(plugin), Arc::clone(name));
                    let known = before.remove(&id).filter(|plan| plan.every == *every);
                    let plan = known.unwrap_or_else(|| Plan::new(*every, now_ms));
                    plans.insert(id, plan);
                }
            }
        }
        drop(plans);
        self.changed.notify_one();
    }

    /// The periods of an app's plugins.
    pub fn list(&self, app: &str) -> Vec<Planned> {
        let plans = self.plans.lock();
        plans
            .iter()
            .filter(|((of, ..), _)| of.as_str() == app)
            .map(|((_, plugin, period), plan)| Planned {
                plugin: Arc::clone(plugin),
                period: Arc::clone(period),
                every: plan.every,
                next_ms: plan.next_ms,
                last: plan.last.clone(),
            })
            .collect()
    }

    /// Takes out what is due, and says how long to wait for what comes next.
    fn take_due(&self) -> (Vec<Due>, Duration) {
        let now_ms = (self.clock)();
        let mut due = Vec::new();
        let mut wait = LONGEST_SLEEP;
        for (id, plan) in self.plans.lock().iter_mut() {
            let every_ms = millis(plan.every);
            // The clock was set back: the next run is not a period away any more.
            if plan.next_ms > now_ms.saturating_add(every_ms) {
                plan.next_ms = next_after(now_ms, plan.every);
            }
            if plan.next_ms <= now_ms {
                // Those before it were missed.
                let due_ms = now_ms / every_ms * every_ms;
                plan.next_ms = next_after(now_ms, plan.every);
                if plan.is_running() {
                    self.metrics.count(&RunOutcome::LeftOut);
                } else {
                    plan.last = Some(LastRun {
                        due_ms,
                        outcome: RunOutcome::Running,
                        took: None,
                    });
                    due.push(Due {
                        id: id.clone(),
                        every: plan.every,
                        due_ms,
                    });
                }
            }
            wait = wait.min(Duration::from_millis(plan.next_ms - now_ms));
        }
        (due, wait)
    }

    fn note(&self, due: &Due, outcome: RunOutcome, took: Option<Duration>) {
        self.metrics.count(&outcome);
        if let Some(plan) = self.plans.lock().get_mut(&due.id)
            && let Some(last) = &mut plan.last
            && last.due_ms == due.due_ms
        {
            last.outcome = outcome;
            last.took = took;
        }
    }
}

/// Has everything run that is due, until `stop`. A run that is under way then is not waited for.
pub(crate) async fn run(schedule: Arc<Schedule>, node: Arc<Node>, stop: CancellationToken) {
    let mut runs = JoinSet::new();
    loop {
        let (due, wait) = schedule.take_due();
        for due in due {
            runs.spawn(run_one(Arc::clone(&schedule), Arc::clone(&node), due));
        }
        tokio::select! {
            biased; // Stop wins, so that shutdown is prompt.
            () = stop.cancelled() => return,
            () = schedule.changed.notified() => {}
            () = tokio::time::sleep(wait) => {}
            Some(ended) = runs.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a run of a schedule ended early");
                }
            }
        }
    }
}

/// Says how a run ended, however it did.
struct Noting<'a> {
    schedule: &'a Schedule,
    due: &'a Due,
    outcome: RunOutcome,
    /// When the plugin was called, if it was.
    called_at: Option<Instant>,
}

impl Drop for Noting<'_> {
    fn drop(&mut self) {
        let took = self.called_at.map(|at| at.elapsed());
        self.schedule.note(self.due, self.outcome.clone(), took);
    }
}

async fn run_one(schedule: Arc<Schedule>, node: Arc<Node>, due: Due) {
    let mut noting = Noting {
        schedule: &schedule,
        due: &due,
        outcome: RunOutcome::Unknown,
        called_at: None,
    };
    let (app, plugin, period) = &due.id;
    if node.is_draining() {
        // Another node does it: this one may stop in the middle.
        noting.outcome = RunOutcome::Elsewhere;
        return;
    }
    let name = LeaseName::Schedule {
        app: app.clone(),
        plugin: Arc::clone(plugin),
        period: due.every,
    };
    let leases = Arc::clone(node.leases());
    let tenure = match Tenure::begin(leases, name, lease_time(due.every)).await {
        Ok(Some(tenure)) => tenure,
        Ok(None) => {
            noting.outcome = RunOutcome::Elsewhere;
            return;
        }
        Err(error) => {
            tracing::warn!(%app, %plugin, %period, %error, "a run is left out: who does it cannot be agreed on");
            return;
        }
    };
    noting.called_at = Some(Instant::now());
    tokio::select! {
        outcome = call(&node, &due) => noting.outcome = outcome,
        () = keep_lease(&tenure) => {}
    }
}

/// Makes the call, and does what came of it.
async fn call(node: &Arc<Node>, due: &Due) -> RunOutcome {
    let (app, plugin, period) = &due.id;
    let question = ScheduleQuestion {
        app: app.clone(),
        plugin: Arc::clone(plugin),
        period: Arc::clone(period),
        due_ms: due.due_ms,
    };
    let outcome = match node.hooks().scheduled(question).wait().await {
        Ok(outcome) => outcome,
        Err(failure) => {
            return RunOutcome::Failed {
                trace_id: failure.trace_id,
            };
        }
    };
    let Some(app) = node.app(app) else {
        return RunOutcome::Done;
    };
    match run_effects(node, &app, outcome.effects, 0).wait().await {
        EffectsOutcome::Done => RunOutcome::Done,
        EffectsOutcome::Unavailable => {
            tracing::warn!(
                app = %app.id(), %plugin, %period,
                "a run's messages could not be published; they are not made up for"
            );
            RunOutcome::Unpublished
        }
    }
}

/// Renews the lease of a run that takes long, so that no other node begins the next one beside it. Most runs are over
/// before that, and leave the lease to end before the next one is due. Never ends: a run goes on without its lease.
async fn keep_lease(tenure: &Tenure) {
    tenure.over(Renewals::Late).await;
    let name = tenure.name();
    tracing::warn!(%name, "a run of a schedule goes on without its lease; another node may run beside it");
    std::future::pending().await
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schedule")
            .field("plans", &self.plans.lock().len())
            .finish_non_exhaustive()
    }
}
