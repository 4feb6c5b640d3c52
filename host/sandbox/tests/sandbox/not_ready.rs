//! Code that cannot run: its bindings answer their failure policies, say why, and are as good as new once it can.

use tidegate_realtime::hooks::HookFailure;
use tidegate_sandbox::{
    BreakerState, CompileError, Compiled, FailureKind, FailurePolicy, Hook, Sandbox, StepEnd,
};

use crate::guests::{
    self, PASS, bind, binding, compile, filter, filtering, guest, passed, sandbox,
};

/// What the story of the failed question says of the one plugin.
#[track_caller]
fn why(sandbox: &Sandbox) -> (FailureKind, String) {
    let Err(failure) = filter(sandbox, b"{}") else {
        panic!("the question fails");
    };
    told(sandbox, &failure)
}

#[track_caller]
fn told(sandbox: &Sandbox, failure: &HookFailure) -> (FailureKind, String) {
    let story = sandbox.explain(&failure.trace_id).unwrap();
    match &story.steps[..] {
        [step] => match &step.ended {
            StepEnd::Failed { kind, detail, .. } => (*kind, detail.to_string()),
            StepEnd::Answered(word) => panic!("answered {word}"),
        },
        steps => panic!("{steps:?}"),
    }
}

#[test]
fn w5_code_that_is_not_ready_answers_its_failure_policy_with_the_reason_until_it_is() {
    let sandbox = sandbox();
    let ready = compile(&sandbox, &filtering(PASS));
    let lost = Compiled::not_ready(*ready.digest(), "artifact: its bytes are damaged");
    let mut bound = binding(&lost, Hook::Filtering);
    bind(&sandbox, vec![bound.clone()]);
    for _ in 0..10 {
        let (kind, detail) = why(&sandbox);
        assert_eq!(kind, FailureKind::BreakerOpen);
        assert!(detail.contains("its bytes are damaged"), "{detail}");
    }
    let breaker = sandbox.statistics().hooks[0].breaker;
    assert_eq!(breaker, BreakerState::Open);

    bound.failure_policy = FailurePolicy::Open;
    bind(&sandbox, vec![bound.clone()]);
    assert_eq!(passed(&sandbox, b"{}"), "{}");

    bound.failure_policy = FailurePolicy::Closed;
    bound.compiled = ready.clone();
    bind(&sandbox, vec![bound.clone()]);
    while let Err(failure) = filter(&sandbox, b"{}") {
        // A busy machine may not let it answer in time; that it is not ready it says no more.
        let (kind, detail) = told(&sandbox, &failure);
        assert!(
            matches!(kind, FailureKind::Timeout | FailureKind::NoSlot),
            "{kind:?}: {detail}"
        );
    }
    let breaker = sandbox.statistics().hooks[0].breaker;
    assert_eq!(breaker, BreakerState::Closed);

    bound.compiled = Compiled::not_ready(*ready.digest(), "once more");
    bind(&sandbox, vec![bound]);
    assert!(why(&sandbox).1.contains("once more"));
}

#[test]
fn w1_an_initialiser_that_asks_the_host_for_anything_is_refused() {
    let with_start = |import: &str, call: &str| {
        guest(
            &[Hook::Filtering],
            &format!(
                "{import}\n(func $init {call})\n(start $init)\n{}",
                guests::filter_function(PASS)
            ),
        )
    };
    for (import, call) in [
        (
            "(import \"tidegate:plugin/clock@0.1.0\" \"now\" (func $ask (result i64)))",
            "(drop (call $ask))",
        ),
        (
            "(import \"tidegate:plugin/random@0.1.0\" \"number\" (func $ask (result i64)))",
            "(drop (call $ask))",
        ),
        (
            "(import \"tidegate:plugin/context@0.1.0\" \"version\" (func $ask (result i32)))",
            "(drop (call $ask))",
        ),
    ] {
        let sandbox = sandbox();
        let admitted = sandbox.admit(&with_start(import, call)).unwrap();
        match sandbox.compile(&admitted).unwrap_err() {
            CompileError::Refused(refusal) => {
                assert_eq!(refusal.rule, "initialiser", "{refusal}");
                assert!(refusal.detail.contains("may use `log`"), "{refusal}");
            }
            other => panic!("{other}"),
        }
    }
}
