//! Guests that misbehave: each has its stated outcome, its effects are discarded, and the next call works.

use std::time::Duration;

use crate::guests::{
    self, PASS, bind, binding, compile, draft, filter, filtering, guest, passed, ready, refuse,
    replace, sandbox, with_filter,
};
use tidegate_realtime::hooks::{FilteringVerdict, Hooks, Refusal};
use tidegate_sandbox::{
    Class, CompileError, FailureKind, FailurePolicy, Hook, Lane, Sandbox, StepEnd, Took,
};

/// Messages whose data starts so make the guests of these tests misbehave.
const BAD: &[u8] = b"!bad";
const GOOD: &[u8] = b"\"good\"";

/// A filter that does `misdeed` for [`BAD`] and passes everything else.
fn misbehaving(misdeed: &str) -> Vec<u8> {
    let (imports, rest): (Vec<&str>, Vec<&str>) = misdeed.lines().partition(|line| {
        let line = line.trim_start();
        line.starts_with("(import") || line.starts_with("(data")
    });
    filtering(&format!(
        "{}\n(if (i32.eq (i32.load8_u (local.get 4)) (i32.const 33)) (then (local.set $x (block (result i32)\n{}\n)) (return (local.get $x))))\n{PASS}",
        imports.join("\n"),
        rest.join("\n")
    ))
}

/// The kind and detail of the failure, from its story.
#[track_caller]
fn failure(sandbox: &Sandbox) -> (FailureKind, String) {
    let failure = filter(sandbox, BAD).expect_err("the call must fail");
    let story = sandbox
        .explain(&failure.trace_id)
        .expect("a failure has a story");
    assert_eq!((story.hook, &*story.subject), (Hook::Filtering, "room"));
    match &story.steps[..] {
        [step] => match &step.ended {
            StepEnd::Failed { kind, detail, .. } => (*kind, detail.to_string()),
            StepEnd::Answered(word) => panic!("the step answered {word}"),
        },
        steps => panic!("expected one step, got {steps:?}"),
    }
}

/// The misdeed fails so, and the node is none the worse for it: before, after, and twice in a row.
#[track_caller]
fn check(misdeed: &str, expected: FailureKind) -> String {
    let sandbox = sandbox();
    let mut bound = binding(&compile(&sandbox, &misbehaving(misdeed)), Hook::Filtering);
    // Some misdeeds take a while on a busy machine, and it is not the deadline that shall end them.
    bound.limits.deadline = Some(std::time::Duration::from_millis(20));
    bind(&sandbox, vec![bound]);
    let is_passed = || matches!(filter(&sandbox, GOOD), Ok(FilteringVerdict::Pass(_)));
    assert!(is_passed());
    let (kind, detail) = failure(&sandbox);
    assert_eq!(kind, expected, "{detail}");
    assert!(is_passed(), "the call after the failure must work");
    assert_eq!(failure(&sandbox).0, expected);
    assert!(is_passed());
    detail
}

#[test]
fn w5_a_trap_fails_the_call_alone() {
    check("unreachable", FailureKind::Trap);
}

#[test]
fn w5_an_endless_loop_meets_the_deadline() {
    check("(loop $l (br $l)) unreachable", FailureKind::Timeout);
}

#[test]
fn w5_endless_recursion_ends_at_the_stack() {
    let wasm = guest(
        &[Hook::Filtering],
        &format!(
            "(func $f (param i32) (result i32) (i32.add (call $f (local.get 0)) (i32.const 1)))\n{}",
            guests::filter_function(&format!(
                "(if (i32.eq (i32.load8_u (local.get 4)) (i32.const 33)) (then (return (call $f (i32.const 0)))))\n{PASS}"
            ))
        ),
    );
    let sandbox = with_filter(&wasm);
    assert_eq!(failure(&sandbox).0, FailureKind::Trap);
    assert!(filter(&sandbox, GOOD).is_ok());
}

#[test]
fn w5_a_memory_bomb_is_denied() {
    // Grows a megabyte at a time until it is told no, then traps as allocators do.
    check(
        "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable",
        FailureKind::Memory,
    );
}

#[test]
fn a_denial_that_a_guest_lived_with_is_not_said_of_a_later_trap() {
    let wasm = filtering(&format!(
        "(if (i32.eq (i32.load8_u (local.get 4)) (i32.const 33)) (then unreachable))
         (drop (memory.grow (i32.const 60000)))\n{PASS}"
    ));
    // One thread, so that both calls would have the same instance.
    let config = tidegate_sandbox::SandboxConfig {
        plugin_threads: std::num::NonZeroUsize::new(1),
        ..Default::default()
    };
    let sandbox = Sandbox::new(config).unwrap();
    let compiled = compile(&sandbox, &wasm);
    bind(&sandbox, vec![binding(&compiled, Hook::Filtering)]);
    guests::passed(&sandbox, GOOD);
    assert_eq!(failure(&sandbox).0, FailureKind::Trap);
}

#[test]
fn w5_a_host_call_flood_is_cut_at_a_hundred() {
    let detail = check(
        "(import \"tidegate:plugin/clock@0.1.0\" \"now\" (func $now (result i64)))
         (loop $l (drop (call $now)) (br $l)) unreachable",
        FailureKind::Limit,
    );
    assert!(detail.contains("more than 100 calls"), "{detail}");
}

#[test]
fn w5_more_bytes_than_the_fuel_allows_are_not_copied() {
    // Claims 16 MiB, which it has made by growing.
    check(
        "(drop (memory.grow (i32.const 300)))
         (i32.store8 (i32.const 16) (i32.const 1)) (i32.store (i32.const 20) (i32.const 1024))
         (i32.store (i32.const 24) (i32.const 16777216)) (i32.const 16)",
        FailureKind::BadValue,
    );
}

#[test]
fn w7_a_replacement_larger_than_a_message_fails() {
    let detail = check(&replace(70_000), FailureKind::BadValue);
    assert!(detail.contains("more than the 65536"), "{detail}");
}

#[test]
fn w7_a_pointer_outside_of_memory_fails() {
    check(
        "(i32.store8 (i32.const 16) (i32.const 1)) (i32.store (i32.const 20) (i32.const -8))
         (i32.store (i32.const 24) (i32.const 2147483647)) (i32.const 16)",
        FailureKind::BadValue,
    );
}

#[test]
fn w7_a_verdict_that_does_not_exist_fails() {
    check(
        "(i32.store8 (i32.const 16) (i32.const 9)) (i32.const 16)",
        FailureKind::BadValue,
    );
}

#[test]
fn w7_a_code_out_of_range_fails() {
    let detail = check(&refuse(0, 100, 0), FailureKind::BadValue);
    assert!(detail.contains("error code 100"), "{detail}");
    check(&refuse(1, 3000, 0), FailureKind::BadValue);
}

#[test]
fn w7_a_reason_that_is_not_utf8_fails() {
    let body = format!(
        "(data (i32.const 1024) \"\\ff\\fe\")\n{}",
        refuse(0, 400, 2)
    );
    check(&body, FailureKind::BadValue);
}

#[test]
fn w7_json_may_not_become_something_else() {
    let body = format!("(data (i32.const 1024) \"{{nonsense\")\n{}", replace(9));
    let sandbox = with_filter(&filtering(&body));
    assert!(filter(&sandbox, b"{}").is_err());
    // A binary message may become another one.
    assert!(filter(&sandbox, b"\x00binary").is_ok());
}

#[test]
fn effects_of_a_failed_call_are_discarded() {
    let publish = "(import \"tidegate:plugin/publishing@0.1.0\" \"publish\" (func $publish (param i32 i32 i32 i32 i32)))
        (import \"tidegate:plugin/message@0.1.0\" \"set-tag\" (func $tag (param i32 i32 i32 i32)))
        (data (i32.const 1024) \"room{}\")";
    let act = "(call $publish (i32.const 1024) (i32.const 4) (i32.const 1028) (i32.const 2) (i32.const 64))
        (call $tag (i32.const 1024) (i32.const 4) (i32.const 1024) (i32.const 4))";
    let body = format!(
        "{publish}\n{act}\n(if (i32.eq (i32.load8_u (local.get 4)) (i32.const 33)) (then unreachable))\n{PASS}"
    );
    let sandbox = sandbox();
    let compiled = compile(&sandbox, &filtering(&body));
    let mut open = binding(&compiled, Hook::Filtering);
    open.failure_policy = FailurePolicy::Open;
    bind(&sandbox, vec![open]);

    let outcome = ready(sandbox.filter(draft("room", GOOD))).unwrap();
    assert_eq!(outcome.effects.len(), 1);
    let FilteringVerdict::Pass(done) = outcome.verdict else {
        panic!("expected the message to pass");
    };
    assert_eq!(done.tags, [("room".into(), "room".into())]);

    let mut bad = draft("room", BAD);
    bad.tags.push(("kept".into(), "yes".into()));
    let outcome = ready(sandbox.filter(bad)).unwrap();
    assert!(outcome.effects.is_empty());
    let FilteringVerdict::Pass(done) = outcome.verdict else {
        panic!("an open policy lets the message pass");
    };
    assert_eq!(done.tags, [("kept".into(), "yes".into())]);
    assert_eq!(sandbox.statistics().hooks[0].passed_over, 1);
}

#[test]
fn names_are_put_before_reasons_only_where_the_operator_wants_it() {
    let body = format!("(data (i32.const 1024) \"no\")\n{}", refuse(1, 4001, 2));
    let config = tidegate_sandbox::SandboxConfig {
        name_in_errors: true,
        ..Default::default()
    };
    let sandbox = Sandbox::new(config).unwrap();
    let compiled = compile(&sandbox, &filtering(&body));
    bind(&sandbox, vec![binding(&compiled, Hook::Filtering)]);
    let Ok(FilteringVerdict::Refuse(refusal)) = filter(&sandbox, b"{}") else {
        panic!("expected a refusal");
    };
    let expected = Refusal::Disconnect {
        code: 4001,
        reason: "guest@1: no".into(),
    };
    assert_eq!(refusal, expected);
}

#[test]
fn every_refusal_carries_a_trace_that_leads_to_its_story_where_the_operator_wants_it() {
    let reason = "x".repeat(123);
    let body = format!(
        "(data (i32.const 1024) \"{reason}\")\n{}",
        refuse(1, 4001, 123)
    );
    let config = tidegate_sandbox::SandboxConfig {
        trace_in_refusals: true,
        name_in_errors: true,
        ..Default::default()
    };
    let sandbox = Sandbox::new(config).unwrap();
    let compiled = compile(&sandbox, &filtering(&body));
    bind(&sandbox, vec![binding(&compiled, Hook::Filtering)]);
    // Right after each other: without the setting, the second would have no story.
    for _ in 0..3 {
        let Ok(FilteringVerdict::Refuse(Refusal::Disconnect { reason, .. })) =
            filter(&sandbox, b"{}")
        else {
            panic!("expected a disconnect");
        };
        assert!(reason.starts_with("guest@1: xxx"), "{reason}");
        assert_eq!(reason.len(), 123);
        let (_, trace) = reason.split_once(" (trace ").unwrap();
        let story = sandbox.explain(trace.trim_end_matches(')')).unwrap();
        assert_eq!(story.steps[0].ended, StepEnd::Answered("refuse"));
        let told = story.steps[0].reason.as_deref().unwrap();
        assert!(told.starts_with("disconnect 4001: xxx"), "{told}");
    }
}

#[test]
fn a_call_that_fails_inline_tells_its_lane_and_memory_though_no_clock_was_read() {
    let sandbox = sandbox();
    let body = format!(
        "(if (i32.eq (i32.load8_u (local.get 4)) (i32.const 120)) (then unreachable)) {PASS}"
    );
    let compiled = compile(&sandbox, &filtering(&body));
    let mut bound = binding(&compiled, Hook::Filtering);
    bound.limits.deadline = Some(Hook::Filtering.deadline_cap(Class::Immediate));
    bind(&sandbox, vec![bound]);
    passed(&sandbox, b"1");
    let mut untimed = 0;
    // On a busy machine it may lose its lane once more, and one call in 64 is timed.
    while untimed == 0 {
        while sandbox.statistics_of(guests::app().as_str())[0].lane != Lane::Inline {
            passed(&sandbox, b"1");
        }
        let failure = filter(&sandbox, b"x").unwrap_err();
        let story = sandbox.explain(&failure.trace_id).unwrap();
        let measured = story.steps[0].measured.expect("it was called");
        assert!(measured.memory_bytes >= 64 << 10, "{measured:?}");
        if let (Lane::Inline, Took::Under(under)) = (measured.lane, measured.took) {
            assert!(under >= Duration::from_millis(1));
            untimed += 1;
        }
        passed(&sandbox, b"1");
    }
}

#[test]
fn w1_an_initialiser_that_traps_spins_or_takes_all_memory_is_refused_before_activation() {
    for (start, why) in [
        ("unreachable", "unreachable"),
        ("(loop $l (br $l))", "within 50 ms"),
        (
            "(loop $l (br_if $l (i32.ge_s (memory.grow (i32.const 16)) (i32.const 0)))) unreachable",
            "bytes of memory",
        ),
    ] {
        let wasm = guest(
            &[Hook::Filtering],
            &format!(
                "(func $init {start})\n(start $init)\n{}",
                guests::filter_function(PASS)
            ),
        );
        let sandbox = sandbox();
        let admitted = sandbox.admit(&wasm).unwrap();
        match sandbox.compile(&admitted).unwrap_err() {
            CompileError::Refused(refusal) => {
                assert_eq!(refusal.rule, "initialiser", "{refusal}");
                assert!(refusal.detail.contains(why), "{refusal}");
            }
            other => panic!("{other}"),
        }
    }
}
