//! Breakers and failure policies: a plugin that keeps failing is left alone, tried again, and taken back.

use std::{sync::Arc, time::Duration};

use crate::guests::{self, PASS, bind, binding, compile, draft, filter, filtering, ready};
use tidegate_realtime::hooks::{FilteringVerdict, Hooks};
use tidegate_sandbox::{
    Binding, BreakerState, Clock, FailureKind, FailurePolicy, Hook, Sandbox, SandboxConfig,
    StepEnd, UnfitVersion,
};
use tokio::sync::mpsc;

const BAD: &[u8] = b"!bad";
const GOOD: &[u8] = b"\"good\"";

/// Traps for [`BAD`]. `salt` makes another component of it.
fn trapping(salt: u32) -> Vec<u8> {
    filtering(&format!(
        "(data (i32.const 2048) \"{salt}\")
         (if (i32.eq (i32.load8_u (local.get 4)) (i32.const 33)) (then unreachable))\n{PASS}"
    ))
}

struct Bench {
    sandbox: Arc<Sandbox>,
    clock: Clock,
    unfit: mpsc::Receiver<UnfitVersion>,
}

impl Bench {
    fn new() -> Self {
        let clock = Clock::manual();
        let (sender, unfit) = mpsc::channel(8);
        let config = SandboxConfig {
            clock: clock.clone(),
            unfit: Some(sender),
            ..SandboxConfig::default()
        };
        Self {
            sandbox: Sandbox::new(config).unwrap(),
            clock,
            unfit,
        }
    }

    fn binding(&self, version: u32) -> Binding {
        let mut binding = binding(&compile(&self.sandbox, &trapping(version)), Hook::Filtering);
        binding.version = version;
        binding
    }

    fn activate(&self, version: u32) {
        bind(&self.sandbox, vec![self.binding(version)]);
    }

    /// The kind of the failure, and the trace id.
    #[track_caller]
    fn fail(&self, data: &[u8]) -> (FailureKind, Arc<str>) {
        let failure = filter(&self.sandbox, data).expect_err("the message must not pass");
        let story = self
            .sandbox
            .explain(&failure.trace_id)
            .expect("a failure has a story");
        match &story.steps[0].ended {
            StepEnd::Failed { kind, .. } => (*kind, failure.trace_id),
            StepEnd::Answered(word) => panic!("the step answered {word}"),
        }
    }

    fn passes(&self) -> bool {
        matches!(filter(&self.sandbox, GOOD), Ok(FilteringVerdict::Pass(_)))
    }

    fn breaker(&self) -> BreakerState {
        self.sandbox.statistics().hooks[0].breaker
    }

    /// Opens the breaker by failures in a row, then fails each probe until it has opened `times` times.
    #[track_caller]
    fn open(&self, times: u32) {
        for _ in 0..5 {
            assert_eq!(self.fail(BAD).0, FailureKind::Trap);
        }
        for _ in 1..times {
            self.clock.advance(Duration::from_secs(60));
            assert_eq!(self.fail(BAD).0, FailureKind::Trap);
        }
        assert_eq!(self.breaker(), BreakerState::Open);
    }
}

#[test]
fn after_five_traps_the_plugin_is_not_called_and_a_good_probe_brings_it_back() {
    let bench = Bench::new();
    bench.activate(1);
    assert!(bench.passes());
    bench.open(1);
    let made = bench.sandbox.statistics().instances_made;
    let (kind, trace) = bench.fail(GOOD);
    assert_eq!(kind, FailureKind::BreakerOpen);
    let statistics = bench.sandbox.statistics();
    assert_eq!(
        statistics.instances_made, made,
        "no instance was made for it"
    );
    assert_eq!(
        statistics.hooks[0].failed,
        [(FailureKind::Trap, 5), (FailureKind::BreakerOpen, 1)]
    );
    // Thousands of messages may meet an open breaker: they share a story, which says what the matter is.
    assert_eq!(bench.fail(GOOD).1, trace);
    let story = bench.sandbox.explain(&trace).unwrap();
    let StepEnd::Failed { detail, .. } = &story.steps[0].ended else {
        panic!("{story:?}");
    };
    assert!(
        detail.starts_with("not called: 5 calls in a row failed"),
        "{detail}"
    );

    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(bench.breaker(), BreakerState::HalfOpen);
    assert!(bench.passes());
    assert_eq!(bench.breaker(), BreakerState::Closed);
    assert!(bench.passes());
}

#[test]
fn endless_loops_open_it_at_the_third() {
    let bench = Bench::new();
    let wasm = filtering("(loop $l (br $l)) unreachable");
    bind(
        &bench.sandbox,
        vec![binding(&compile(&bench.sandbox, &wasm), Hook::Filtering)],
    );
    for _ in 0..3 {
        assert_eq!(bench.fail(BAD).0, FailureKind::Timeout);
    }
    assert_eq!(bench.fail(BAD).0, FailureKind::BreakerOpen);
}

#[test]
fn an_open_policy_passes_messages_on_while_the_breaker_is_open() {
    let bench = Bench::new();
    let mut open = bench.binding(1);
    open.failure_policy = FailurePolicy::Open;
    bind(&bench.sandbox, vec![open]);
    for _ in 0..5 {
        assert!(filter(&bench.sandbox, BAD).is_ok());
    }
    assert_eq!(bench.breaker(), BreakerState::Open);
    let mut message = draft("room", BAD);
    message.tags.push(("kept".into(), "yes".into()));
    let outcome = ready(bench.sandbox.filter(message)).unwrap();
    let FilteringVerdict::Pass(message) = outcome.verdict else {
        panic!("an open policy lets the message pass");
    };
    assert_eq!(message.tags, [("kept".into(), "yes".into())]);
    let row = &bench.sandbox.statistics().hooks[0];
    assert_eq!(row.passed_over, 6);
    assert_eq!(
        row.failed,
        [(FailureKind::Trap, 5), (FailureKind::BreakerOpen, 1)]
    );
}

#[test]
fn a_breaker_belongs_to_one_app_and_one_hook_and_one_version() {
    let bench = Bench::new();
    bench.activate(1);
    bench.open(1);
    // Other settings do not make the version better.
    let mut changed = bench.binding(1);
    changed.config = "{\"x\":1}".into();
    bind(&bench.sandbox, vec![changed]);
    assert_eq!(bench.fail(GOOD).0, FailureKind::BreakerOpen);
    bench.activate(2);
    assert!(bench.passes(), "another version is judged anew");
}

#[test]
fn a_fresh_version_that_opens_its_breaker_three_times_is_reported_once() {
    let mut bench = Bench::new();
    bench.activate(1);
    assert!(bench.passes());
    bench.activate(2);
    bench.open(2);
    assert!(bench.unfit.try_recv().is_err(), "twice is not enough");
    bench.clock.advance(Duration::from_secs(60));
    assert_eq!(bench.fail(BAD).0, FailureKind::Trap);
    let report = bench.unfit.try_recv().expect("three openings are reported");
    assert_eq!((report.version, report.former), (2, 1));
    assert_eq!((&*report.plugin, report.hook), ("guest", Hook::Filtering));
    assert_eq!(report.app, guests::app());
    assert!(
        report.cause.contains("tried it again failed"),
        "{}",
        report.cause
    );
    bench.clock.advance(Duration::from_secs(60));
    assert_eq!(bench.fail(BAD).0, FailureKind::Trap);
    assert!(bench.unfit.try_recv().is_err(), "once is enough");
}

#[test]
fn only_a_version_that_replaced_an_older_one_lately_is_reported() {
    // The first version has nothing to go back to.
    let mut bench = Bench::new();
    bench.activate(1);
    bench.open(4);
    assert!(bench.unfit.try_recv().is_err());
    // Going back is not undone by going forth again.
    bench.activate(2);
    bench.activate(1);
    bench.open(4);
    assert!(bench.unfit.try_recv().is_err());
    // After ten minutes a version is not fresh any more.
    bench.activate(2);
    bench.clock.advance(Duration::from_secs(601));
    bench.open(4);
    assert!(bench.unfit.try_recv().is_err());
}
