//! Lanes: who runs on the session's worker and who on plugin threads, and what that means for everybody else.

use std::{num::NonZeroUsize, sync::Arc};

use crate::guests::{
    self, PASS, bind, binding, compile, draft, filter, filtering, guest, peer, ready,
};
use bytes::Bytes;
use tidegate_realtime::{
    hooks::{
        AuthenticationQuestion, AuthenticationReason, AuthenticationVerdict, FilteringVerdict,
        Hooks, Progress, RpcQuestion, RpcVerdict, TokenCheck,
    },
    ids::AppId,
};
use tidegate_sandbox::{
    Binding, Bindings, Clock, FailureKind, Hook, HookStatistics, Lane, Sandbox, SandboxConfig,
    StepEnd,
};

/// Passes, and loops without end for messages that begin with `!`.
fn looping_if_bad() -> Vec<u8> {
    filtering(&format!(
        "(if (i32.eq (i32.load8_u (local.get 4)) (i32.const 33)) (then (loop $l (br $l))))\n{PASS}"
    ))
}

/// Passes after so many steps.
fn working(steps: u32) -> Vec<u8> {
    filtering(&format!(
        "(local.set $x (i32.const {steps}))
         (loop $l (br_if $l (local.tee $x (i32.sub (local.get $x) (i32.const 1)))))\n{PASS}"
    ))
}

fn with_threads(n: usize) -> Arc<Sandbox> {
    let config = SandboxConfig {
        plugin_threads: NonZeroUsize::new(n),
        // Time stands still, so that no breaker closes by itself.
        clock: Clock::manual(),
        ..SandboxConfig::default()
    };
    Sandbox::new(config).unwrap()
}

fn row(sandbox: &Sandbox) -> HookStatistics {
    sandbox.statistics().hooks[0].clone()
}

/// Passes messages until the version has earned the inline lane. Nothing is asserted about how many that takes:
/// an interrupt by a busy machine starts the thousand anew.
#[track_caller]
fn earn(sandbox: &Sandbox) {
    for _ in 0..20_000 {
        if row(sandbox).lane == Lane::Inline {
            return;
        }
        guests::passed(sandbox, b"1");
    }
    panic!("the version never moved inline: {:?}", row(sandbox));
}

#[test]
fn a_fresh_version_starts_aside_and_earns_the_inline_lane() {
    let sandbox = with_threads(2);
    let compiled = compile(&sandbox, &filtering(PASS));
    bind(&sandbox, vec![binding(&compiled, Hook::Filtering)]);
    assert!(matches!(
        sandbox.filter(draft("room", b"1")),
        Progress::Pending(_)
    ));
    for _ in 0..900 {
        guests::passed(&sandbox, b"1");
    }
    assert_eq!(row(&sandbox).lane, Lane::Aside);
    earn(&sandbox);
    let aside = row(&sandbox).aside;
    assert!(aside >= 1_000, "{aside}");
    match sandbox.filter(draft("room", b"1")) {
        Progress::Ready(answer) => assert!(answer.is_ok()),
        Progress::Pending(_) => panic!("an inline version answers at once"),
    }
    assert_eq!(
        row(&sandbox).aside,
        aside,
        "inline calls are not counted aside"
    );
    // The next version has to earn it again.
    let mut next = binding(&compile(&sandbox, &working(3)), Hook::Filtering);
    next.version = 2;
    bind(&sandbox, vec![next]);
    assert_eq!(row(&sandbox).lane, Lane::Aside);
}

#[test]
fn one_interrupt_moves_a_version_back() {
    let sandbox = with_threads(2);
    let compiled = compile(&sandbox, &looping_if_bad());
    bind(&sandbox, vec![binding(&compiled, Hook::Filtering)]);
    earn(&sandbox);
    assert!(filter(&sandbox, b"!").is_err());
    assert_eq!(row(&sandbox).lane, Lane::Aside);
    assert!(matches!(
        sandbox.filter(draft("room", b"1")),
        Progress::Pending(_)
    ));
}

#[test]
fn a_version_that_takes_long_stays_aside() {
    let sandbox = with_threads(2);
    // About a millisecond of work.
    let compiled = compile(&sandbox, &working(3_000_000));
    let mut slow = binding(&compiled, Hook::Filtering);
    slow.limits.deadline = Some(std::time::Duration::from_millis(20));
    bind(&sandbox, vec![slow]);
    for _ in 0..1_100 {
        guests::passed(&sandbox, b"1");
    }
    assert_eq!(row(&sandbox).lane, Lane::Aside);
}

#[test]
fn a_pipeline_runs_aside_as_long_as_one_of_its_plugins_has_to() {
    let sandbox = with_threads(2);
    let quick = compile(&sandbox, &filtering(PASS));
    bind(&sandbox, vec![binding(&quick, Hook::Filtering)]);
    earn(&sandbox);
    let mut second = binding(&compile(&sandbox, &working(3)), Hook::Filtering);
    second.plugin = "second".into();
    second.position = 1;
    bind(
        &sandbox,
        vec![binding(&quick, Hook::Filtering), second.clone()],
    );
    assert_eq!(row(&sandbox).lane, Lane::Inline, "what was earned stays");
    assert!(matches!(
        sandbox.filter(draft("room", b"1")),
        Progress::Pending(_)
    ));
    bind(&sandbox, vec![binding(&quick, Hook::Filtering)]);
    assert!(matches!(
        sandbox.filter(draft("room", b"1")),
        Progress::Ready(_)
    ));
}

fn authentication() -> Vec<u8> {
    guest(
        &[Hook::Authentication, Hook::Rpc],
        "(func (export \"tidegate:plugin/authentication@0.1.0#authenticate\")
           (param i32 i32 i32 i32 i32) (result i32)
           (i64.store (i32.const 16) (i64.const 0)) (i32.const 16))
         (func (export \"tidegate:plugin/rpc@0.1.0#call\")
           (param i32 i32 i32 i32 i32 i32) (result i32)
           (i64.store (i32.const 16) (i64.const 0)) (i32.const 16))",
    )
}

fn authenticate(sandbox: &Sandbox) -> tidegate_realtime::hooks::Answered<AuthenticationVerdict> {
    sandbox.authenticate(AuthenticationQuestion {
        reason: AuthenticationReason::Connect,
        peer: peer(""),
        token: "".into(),
        token_check: TokenCheck::Absent,
        data: Bytes::new(),
    })
}

#[test]
fn authentication_and_rpc_always_run_aside_and_answer_at_once_when_nobody_is_bound() {
    let sandbox = with_threads(2);
    let rpc = || {
        sandbox.rpc(RpcQuestion {
            peer: peer("ann"),
            method: "m".into(),
            data: Bytes::new(),
        })
    };
    assert!(matches!(authenticate(&sandbox), Progress::Ready(_)));
    assert!(matches!(rpc(), Progress::Ready(_)));
    let compiled = compile(&sandbox, &authentication());
    let hooks = [Hook::Authentication, Hook::Rpc];
    bind(
        &sandbox,
        hooks.map(|hook| binding(&compiled, hook)).to_vec(),
    );
    for _ in 0..1_100 {
        let verdict = ready(authenticate(&sandbox)).unwrap().verdict;
        assert!(matches!(verdict, AuthenticationVerdict::NotMine));
    }
    assert!(matches!(authenticate(&sandbox), Progress::Pending(_)));
    assert!(matches!(ready(rpc()).unwrap().verdict, RpcVerdict::NotMine));
    assert_eq!(row(&sandbox).lane, Lane::Aside);
}

/// Two apps: one whose plugin never ends, one that works.
fn two_apps(sandbox: &Sandbox) -> [AppId; 2] {
    let apps = ["hostile", "harmless"].map(|name| AppId::parse(name).unwrap());
    let hostile = binding(&compile(sandbox, &looping_if_bad()), Hook::Filtering);
    let harmless = binding(&compile(sandbox, &filtering(PASS)), Hook::Filtering);
    let bindings = Bindings {
        apps: [
            (apps[0].clone(), vec![hostile]),
            (apps[1].clone(), vec![harmless]),
        ]
        .into(),
    };
    sandbox.apply(&bindings).unwrap();
    apps
}

fn message(app: &AppId, data: &[u8]) -> Box<tidegate_realtime::hooks::Draft> {
    let mut draft = draft("room", data);
    draft.app = app.clone();
    draft
}

#[test]
fn a_plugin_that_never_ends_holds_up_its_own_app_only() {
    let sandbox = with_threads(2);
    let [hostile, harmless] = two_apps(&sandbox);
    // Each holds a thread for its deadline, and there are never two of them at once.
    let stuck: Vec<_> = (0..20)
        .map(|_| sandbox.filter(message(&hostile, b"!")))
        .collect();
    for _ in 0..200 {
        let answer = ready(sandbox.filter(message(&harmless, b"1")));
        match answer {
            Ok(outcome) => assert!(matches!(outcome.verdict, FilteringVerdict::Pass(_))),
            Err(failure) => assert!(guests::is_timeout(&sandbox, &failure)),
        }
    }
    let kinds: Vec<_> = stuck
        .into_iter()
        .map(|answer| kind(&sandbox, &ready(answer).unwrap_err()))
        .collect();
    // Three run into the deadline, and what waited behind them is told the reason, not called.
    let called = kinds.iter().filter(|kind| **kind == FailureKind::Timeout);
    assert!((1..=3).contains(&called.count()), "{kinds:?}");
    assert!(
        kinds.iter().all(|kind| matches!(
            kind,
            FailureKind::Timeout | FailureKind::NoSlot | FailureKind::BreakerOpen
        )),
        "{kinds:?}"
    );
}

#[track_caller]
fn kind(sandbox: &Sandbox, failure: &tidegate_realtime::hooks::HookFailure) -> FailureKind {
    let story = sandbox
        .explain(&failure.trace_id)
        .expect("a failure has a story");
    match &story.steps[0].ended {
        StepEnd::Failed { kind, .. } => *kind,
        StepEnd::Answered(word) => panic!("the step answered {word}"),
    }
}

#[test]
fn an_app_with_a_full_queue_is_told_so_and_others_are_served() {
    let sandbox = with_threads(2);
    let [hostile, harmless] = two_apps(&sandbox);
    let mut waiting = Vec::new();
    let refused = loop {
        match sandbox.filter(message(&hostile, b"!")) {
            Progress::Ready(answer) => break answer.unwrap_err(),
            pending @ Progress::Pending(_) => waiting.push(pending),
        }
        assert!(waiting.len() < 5_000, "the queue has no bound");
    };
    assert!(refused.is_overload);
    assert_eq!(kind(&sandbox, &refused), FailureKind::NoSlot);
    let story = sandbox.explain(&refused.trace_id).unwrap();
    let StepEnd::Failed { detail, .. } = &story.steps[0].ended else {
        panic!("{story:?}");
    };
    assert!(detail.contains("1000 calls of the app wait"), "{detail}");
    assert_eq!(sandbox.statistics().aside.shed, 1);
    assert!(ready(sandbox.filter(message(&harmless, b"1"))).is_ok());
}

/// Stamps its version into messages that it has worked on for a while.
fn stamping(version: u32, steps: u32) -> Vec<u8> {
    filtering(&format!(
        "(data (i32.const 1024) \"{version}\")
         (local.set $x (i32.const {steps}))
         (loop $l (br_if $l (local.tee $x (i32.sub (local.get $x) (i32.const 1)))))
         {}",
        guests::replace(1)
    ))
}

#[test]
fn what_waited_aside_during_an_activation_is_asked_of_the_new_version() {
    let sandbox = with_threads(1);
    let versions = [stamping(1, 2_000_000), stamping(2, 1)].map(|wasm| compile(&sandbox, &wasm));
    let activate = |version: u32| {
        let mut binding: Binding = binding(&versions[version as usize - 1], Hook::Filtering);
        binding.version = version;
        binding.limits.deadline = Some(std::time::Duration::from_millis(20));
        bind(&sandbox, vec![binding]);
    };
    activate(1);
    let queued: Vec<_> = (0..20)
        .map(|_| sandbox.filter(draft("room", b"0")))
        .collect();
    activate(2);
    let mut answered_by_old = 0;
    for answer in queued {
        match ready(answer).map(|outcome| outcome.verdict) {
            Ok(FilteringVerdict::Pass(draft)) if draft.data == "1" => answered_by_old += 1,
            Ok(FilteringVerdict::Pass(draft)) => assert_eq!(draft.data, "2"),
            Ok(other) => panic!("{other:?}"),
            Err(failure) => assert!(guests::is_timeout(&sandbox, &failure)),
        }
    }
    // Twenty calls of the old version would have taken the one thread far longer than the activation did; those
    // that it answered had begun before.
    assert!(answered_by_old < 20, "queued calls ran what was replaced");
    // And one that is asked now certainly is.
    assert_eq!(guests::passed(&sandbox, b"0"), "2");
}

#[test]
fn a_sandbox_that_goes_away_answers_what_still_waits() {
    let sandbox = with_threads(1);
    let compiled = compile(&sandbox, &looping_if_bad());
    bind(&sandbox, vec![binding(&compiled, Hook::Filtering)]);
    let waiting: Vec<_> = (0..10)
        .map(|_| sandbox.filter(draft("room", b"!")))
        .collect();
    drop(sandbox);
    for answer in waiting {
        assert!(ready(answer).is_err());
    }
}
