//! Runs by the clock, on nodes that share their leases.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::mpsc;

use super::*;
use crate::{
    broker::BrokerError,
    config::RealtimeConfig,
    hooks::{
        Answered, Draft, Effect, FilteringVerdict, HookFailure, Hooks, Outcome, Progress, ready,
    },
    hub::{Hub, HubConfig},
    leases::{Fence, Leases, MemoryLeases},
    node::{NodeParts, Shared},
};

/// A plugin that tells when it ran, and where.
struct Running {
    node: &'static str,
    ran: mpsc::Sender<(&'static str, Arc<str>, u64)>,
    fails: bool,
    /// What a run takes.
    takes: Duration,
    /// What comes of it.
    effects: Vec<Effect>,
    /// Nothing can be published.
    is_away: bool,
}

impl Running {
    fn new(node: &'static str, ran: mpsc::Sender<(&'static str, Arc<str>, u64)>) -> Self {
        Self {
            node,
            ran,
            fails: false,
            takes: Duration::ZERO,
            effects: Vec::new(),
            is_away: false,
        }
    }
}

impl Hooks for Running {
    fn filter(&self, draft: Box<Draft>) -> Answered<FilteringVerdict> {
        if self.is_away {
            return Progress::Ready(Err(HookFailure::overload("t-2".into())));
        }
        ready(FilteringVerdict::Pass(draft))
    }

    fn scheduled(&self, question: ScheduleQuestion) -> Answered<()> {
        let _ = self
            .ran
            .try_send((self.node, question.period, question.due_ms));
        let (fails, takes, effects) = (self.fails, self.takes, self.effects.clone());
        Progress::Pending(Box::pin(async move {
            tokio::time::sleep(takes).await;
            if fails {
                return Err(HookFailure::new("t-1".into()));
            }
            Ok(Outcome {
                verdict: (),
                effects,
            })
        }))
    }
}

/// Leases that nobody can be asked for while they are away.
#[derive(Default)]
struct Leaving {
    leases: MemoryLeases,
    is_away: AtomicBool,
}

impl Leases for Leaving {
    fn take(
        &self,
        name: &LeaseName,
        for_: Duration,
    ) -> Progress<Result<Option<Fence>, BrokerError>> {
        if self.is_away.load(Ordering::Relaxed) {
            return Progress::Ready(Err(BrokerError::Unavailable));
        }
        self.leases.take(name, for_)
    }

    fn give_back(&self, name: &LeaseName, fence: Fence) -> Progress<Result<(), BrokerError>> {
        self.leases.give_back(name, fence)
    }
}

/// Nodes whose wall clock is tokio's, from a moment that is no multiple of anything.
struct World {
    leases: MemoryLeases,
    tell: mpsc::Sender<(&'static str, Arc<str>, u64)>,
    ran: mpsc::Receiver<(&'static str, Arc<str>, u64)>,
    stop: CancellationToken,
}

const START_MS: u64 = 1_000_000_300;

/// How far the wall clock of a node is ahead, and may be set.
type Ahead = Arc<AtomicU64>;

impl World {
    fn new() -> Self {
        let (tell, ran) = mpsc::channel(1_000);
        Self {
            leases: MemoryLeases::default(),
            tell,
            ran,
            stop: CancellationToken::new(),
        }
    }

    fn node(&self, name: &'static str, ahead_ms: u64) -> (Arc<Schedule>, Ahead) {
        self.node_with(|ran| Running::new(name, ran), ahead_ms)
    }

    fn node_with(
        &self,
        hooks: impl FnOnce(mpsc::Sender<(&'static str, Arc<str>, u64)>) -> Running,
        ahead_ms: u64,
    ) -> (Arc<Schedule>, Ahead) {
        let leases = Arc::new(self.leases.other_holder());
        self.node_on(leases, hooks(self.tell.clone()), ahead_ms)
    }

    fn node_on(
        &self,
        leases: Arc<dyn Leases>,
        hooks: Running,
        ahead_ms: u64,
    ) -> (Arc<Schedule>, Ahead) {
        let hub = Hub::new(HubConfig::default());
        let node = Node::new(NodeParts {
            shared: Shared {
                leases,
                ..Shared::default()
            },
            ..NodeParts::in_memory(hub, Arc::new(hooks))
        });
        node.set_app(&AppId::default_app(), RealtimeConfig::default());
        let ahead: Ahead = Arc::new(AtomicU64::new(ahead_ms));
        let (started, by) = (tokio::time::Instant::now(), Arc::clone(&ahead));
        let clock = move || START_MS + by.load(Ordering::Relaxed) + millis(started.elapsed());
        let schedule = Schedule::with_clock(ScheduleMetrics::default(), Box::new(clock));
        schedule.replace_timetables(&timetables(&[("tick", 1), ("minute", 60)]));
        let running = run(Arc::clone(&schedule), Arc::clone(&node), self.stop.clone());
        node.spawn(running);
        (schedule, ahead)
    }

    /// The runs of a time.
    async fn runs_of(&mut self, time: Duration) -> Vec<(&'static str, String, u64)> {
        tokio::time::sleep(time).await;
        let mut runs = Vec::new();
        while let Ok((node, period, due_ms)) = self.ran.try_recv() {
            runs.push((node, period.to_string(), due_ms));
        }
        runs
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn timetables(periods: &[(&str, u64)]) -> BTreeMap<AppId, Vec<Timetable>> {
    let periods = periods.iter().map(|(name, seconds)| Period {
        name: (*name).into(),
        every: Duration::from_secs(*seconds),
    });
    let timetable = Timetable {
        plugin: "gong".into(),
        periods: periods.collect(),
    };
    BTreeMap::from([(AppId::default_app(), vec![timetable])])
}

#[tokio::test(start_paused = true)]
async fn runs_come_at_multiples_of_their_period_and_once_each() {
    let mut world = World::new();
    let (schedule, _) = world.node("one", 0);
    let runs = world.runs_of(Duration::from_secs(120)).await;
    let ticks: Vec<_> = runs
        .iter()
        .filter(|(_, period, _)| period == "tick")
        .collect();
    assert_eq!(ticks.len(), 120);
    assert_eq!(ticks[0].2, 1_000_001_000);
    assert!(ticks.windows(2).all(|two| two[1].2 == two[0].2 + 1_000));
    let minutes: Vec<_> = runs
        .iter()
        .filter(|(_, period, _)| period == "minute")
        .collect();
    assert_eq!(minutes.len(), 2);
    assert!(minutes.iter().all(|(.., due_ms)| due_ms % 60_000 == 0));
    let planned = schedule.list("default");
    assert_eq!(planned.len(), 2);
    assert_eq!(&*planned[1].period, "tick");
    let last = planned[1].last.as_ref().unwrap();
    assert_eq!(last.outcome, RunOutcome::Done);
    assert_eq!(last.due_ms + 1_000, planned[1].next_ms);
    assert!(schedule.list("other").is_empty());
}

#[tokio::test(start_paused = true)]
async fn of_nodes_whose_clocks_differ_one_runs_and_another_goes_on_when_it_dies() {
    let mut world = World::new();
    let other = World {
        stop: CancellationToken::new(),
        leases: world.leases.clone(),
        tell: world.tell.clone(),
        ran: mpsc::channel(1).1,
    };
    let (_, _) = other.node("first", 40);
    let (schedule, _) = world.node("second", 0);
    let runs = world.runs_of(Duration::from_secs(30)).await;
    let mut due: Vec<_> = runs
        .iter()
        .map(|(_, period, due_ms)| (period, due_ms))
        .collect();
    let num_runs = due.len();
    due.dedup();
    assert_eq!(due.len(), num_runs, "no run twice: {runs:?}");
    assert!((29..=31).contains(&num_runs), "none left out: {num_runs}");
    assert!(runs.iter().all(|(node, ..)| *node == "first"));
    assert!(schedule.metrics.number(&RunOutcome::Elsewhere) >= 29);
    drop(other);
    let runs = world.runs_of(Duration::from_secs(10)).await;
    assert!(runs.len() >= 8, "{runs:?}");
    assert!(runs.iter().all(|(node, ..)| *node == "second"));
}

#[tokio::test(start_paused = true)]
async fn what_was_missed_is_not_made_up_for_and_a_clock_that_is_set_back_stops_nothing() {
    let mut world = World::new();
    let (schedule, ahead) = world.node("one", 3_600_000);
    world.runs_of(Duration::from_secs(2)).await;
    // An hour passes at once.
    ahead.store(7_200_000, Ordering::Relaxed);
    let runs = world.runs_of(Duration::from_secs(3)).await;
    let ticks = runs
        .iter()
        .filter(|(_, period, _)| period == "tick")
        .count();
    assert!((3..=4).contains(&ticks), "{runs:?}");
    // And back.
    ahead.store(0, Ordering::Relaxed);
    let runs = world.runs_of(Duration::from_secs(5)).await;
    assert!(runs.len() >= 3, "{runs:?}");
    assert_eq!(schedule.metrics.number(&RunOutcome::LeftOut), 0);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_takes_longer_than_its_period_is_not_joined_by_the_next() {
    let mut world = World::new();
    let (schedule, _) = world.node_with(
        |ran| Running {
            fails: true,
            takes: Duration::from_millis(2_500),
            ..Running::new("slow", ran)
        },
        0,
    );
    let runs = world.runs_of(Duration::from_secs(9)).await;
    assert_eq!(runs.len(), 3, "{runs:?}");
    assert_eq!(schedule.metrics.number(&RunOutcome::LeftOut), 6);
    // The third is under way, and none but one that ended took a time.
    let last = |schedule: &Schedule| schedule.list("default")[1].last.clone().unwrap();
    assert_eq!(
        (last(&schedule).outcome, last(&schedule).took),
        (RunOutcome::Running, None)
    );
    world.runs_of(Duration::from_millis(500)).await;
    assert!(matches!(last(&schedule).outcome, RunOutcome::Failed { .. }));
    let took = last(&schedule).took.unwrap().as_millis();
    assert!((2_500..2_510).contains(&took), "{took} ms");
    let failed = RunOutcome::Failed {
        trace_id: "t-1".into(),
    };
    assert!(schedule.metrics.number(&failed) >= 2);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_takes_longer_than_its_period_is_not_joined_on_another_node() {
    let mut world = World::new();
    let slow = |name| {
        move |ran| Running {
            takes: Duration::from_millis(2_500),
            ..Running::new(name, ran)
        }
    };
    let (one, _) = world.node_with(slow("one"), 0);
    let (other, _) = world.node_with(slow("other"), 40);
    let runs = world.runs_of(Duration::from_secs(30)).await;
    let ticks: Vec<_> = runs
        .iter()
        .filter(|(_, period, _)| period == "tick")
        .collect();
    assert!((8..=11).contains(&ticks.len()), "{ticks:?}");
    let are_apart = |two: &[&(&str, String, u64)]| two[1].2 >= two[0].2 + 3_000;
    assert!(ticks.windows(2).all(are_apart), "{ticks:?}");
    let elsewhere = [&one, &other].map(|node| node.metrics.number(&RunOutcome::Elsewhere));
    assert!(elsewhere.iter().sum::<u64>() > 20, "{elsewhere:?}");
}

#[tokio::test(start_paused = true)]
async fn while_nobody_can_be_asked_no_run_begins_and_one_goes_on() {
    let mut world = World::new();
    let leases = Arc::new(Leaving::default());
    let slow = Running {
        takes: Duration::from_millis(2_500),
        ..Running::new("slow", world.tell.clone())
    };
    let (schedule, _) = world.node_on(Arc::clone(&leases) as Arc<dyn Leases>, slow, 0);
    // One is under way from 0.7 s to 3.2 s; its lease ends before.
    assert_eq!(world.runs_of(Duration::from_secs(1)).await.len(), 1);
    leases.is_away.store(true, Ordering::Relaxed);
    assert_eq!(world.runs_of(Duration::from_secs(4)).await, []);
    let number = |outcome| schedule.metrics.number(&outcome);
    assert_eq!(number(RunOutcome::Done), 1);
    assert_eq!(number(RunOutcome::LeftOut), 2);
    assert_eq!(number(RunOutcome::Unknown), 2);
    leases.is_away.store(false, Ordering::Relaxed);
    assert_eq!(world.runs_of(Duration::from_secs(1)).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_run_whose_messages_could_not_be_published_is_not_done() {
    let mut world = World::new();
    let publish = Effect::Publish {
        channel: "room".into(),
        data: "1".into(),
        version: 0,
    };
    let (schedule, _) = world.node_with(
        |ran| Running {
            effects: vec![publish],
            is_away: true,
            ..Running::new("one", ran)
        },
        0,
    );
    world.runs_of(Duration::from_secs(3)).await;
    assert_eq!(schedule.metrics.number(&RunOutcome::Done), 0);
    assert_eq!(schedule.metrics.number(&RunOutcome::Unpublished), 3);
    let planned = schedule.list("default");
    let last = planned[1].last.as_ref().unwrap();
    assert_eq!(last.outcome.as_str(), "unpublished");
}

#[tokio::test(start_paused = true)]
async fn a_plugin_that_is_unbound_runs_no_more() {
    let mut world = World::new();
    let (schedule, _) = world.node("one", 0);
    assert!(!world.runs_of(Duration::from_secs(3)).await.is_empty());
    schedule.replace_timetables(&BTreeMap::new());
    assert!(world.runs_of(Duration::from_secs(3)).await.is_empty());
    schedule.replace_timetables(&timetables(&[("other", 2)]));
    let runs = world.runs_of(Duration::from_secs(4)).await;
    assert_eq!(runs.len(), 2);
    assert!(
        runs.iter()
            .all(|(_, period, due_ms)| period == "other" && due_ms % 2_000 == 0)
    );
}
