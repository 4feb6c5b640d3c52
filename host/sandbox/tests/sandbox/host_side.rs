//! What happens when the host itself is short of something or fails: address space, and a function that panics.
//! And guests that import WASI without meaning to.

use std::process::Command;

use crate::guests::{
    PASS, bind, binding, compile, filter, filter_function, filtering, module, passed, sandbox,
    with_filter,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tidegate_sandbox::{Allocation, FailureKind, Hook, Sandbox, StepEnd};
use tidegate_test_contract::embed_beside;
use tracing::{Event, Metadata, Subscriber, field, span};

const GOOD: &[u8] = b"\"good\"";
const BAD: &[u8] = b"!bad";
const GIB: u64 = 1 << 30;

/// Less than the smallest pool reserves, and enough for instances one by one.
const NO_POOL_BYTES: u64 = 64 * GIB;

/// Less than the usual pool reserves, and enough for a smaller one.
const SMALL_POOL_BYTES: u64 = 2_048 * GIB;

/// Runs one test of this program, alone in a process, since the engine is the process's.
#[track_caller]
fn run_alone(test: &str) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{test} does not exist: {said}");
}

/// What the engine of a process with this address space is made of; a plugin works in it.
fn allocation_within(bytes: u64) -> Allocation {
    let limit = Rlimit {
        current: Some(bytes),
        ..getrlimit(Resource::As)
    };
    setrlimit(Resource::As, limit).unwrap();
    let sandbox = with_filter(&filtering(PASS));
    assert_eq!(passed(&sandbox, GOOD), GOOD);
    sandbox.statistics().allocation
}

#[test]
#[ignore = "runs alone, started by the next test"]
fn without_room_for_a_pool() {
    assert_eq!(allocation_within(NO_POOL_BYTES), Allocation::OnDemand);
}

#[test]
fn a_pool_that_cannot_be_reserved_is_done_without_and_plugins_work() {
    run_alone("host_side::without_room_for_a_pool");
}

#[test]
#[ignore = "runs alone, started by the next test"]
fn with_room_for_a_small_pool() {
    let Allocation::Pool { slots } = allocation_within(SMALL_POOL_BYTES) else {
        panic!("a smaller pool has room");
    };
    assert!((64..1_024).contains(&slots), "{slots}");
}

#[test]
fn a_pool_is_made_smaller_until_it_fits() {
    run_alone("host_side::with_room_for_a_small_pool");
}

/// What plugins write is handed on; this one line is the end of whoever hands it on.
const FATAL_LINE: &str = "the host panics at this line";

/// A subscriber that panics at [`FATAL_LINE`], as a host function with a mistake in it would.
struct Panicking;

struct FindFatal;

impl field::Visit for FindFatal {
    fn record_debug(&mut self, _: &field::Field, value: &dyn std::fmt::Debug) {
        assert!(!format!("{value:?}").contains(FATAL_LINE), "as asked");
    }
}

impl Subscriber for Panicking {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target() == "tidegate::plugin"
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &Event<'_>) {
        event.record(&mut FindFatal);
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// Kind and detail of the failure, from its story. Not a timeout, which a machine with more to do than it can makes of
/// any call.
#[track_caller]
fn failure(sandbox: &Sandbox) -> (FailureKind, String) {
    loop {
        let failure = filter(sandbox, BAD).expect_err("the call must fail");
        let story = sandbox.explain(&failure.trace_id).expect("a story");
        match &story.steps[..] {
            [step] => match &step.ended {
                StepEnd::Failed { kind, .. } if *kind == FailureKind::Timeout => {}
                StepEnd::Failed { kind, detail, .. } => return (*kind, detail.to_string()),
                StepEnd::Answered(word) => panic!("the step answered {word}"),
            },
            steps => panic!("expected one step, got {steps:?}"),
        }
    }
}

#[test]
fn o6_a_host_function_that_panics_costs_the_instance_and_the_call_alone() {
    tracing::subscriber::set_global_default(Panicking).expect("no other test sets one");
    let logging = filtering(&format!(
        "(import \"tidegate:plugin/log@0.1.0\" \"log\" (func $log (param i32 i32 i32)))
         (data (i32.const 2048) \"{FATAL_LINE}\")
         (if (i32.eq (i32.load8_u (local.get 4)) (i32.const 33))
           (then (call $log (i32.const 2) (i32.const 2048) (i32.const {}))))
         {PASS}",
        FATAL_LINE.len()
    ));
    let sandbox = sandbox();
    let compiled = compile(&sandbox, &logging);
    bind(&sandbox, vec![binding(&compiled, Hook::Filtering)]);
    for _ in 0..2 {
        let made_before = sandbox.statistics().instances_made;
        let (kind, detail) = failure(&sandbox);
        assert_eq!(kind, FailureKind::HostPanic, "{detail}");
        let statistics = sandbox.statistics();
        assert_eq!(statistics.instances, 0, "the instance is thrown away");
        assert!(
            statistics.instances_made > made_before,
            "and never called again"
        );
    }
    assert_eq!(passed(&sandbox, GOOD), GOOD, "the next call works");
}

/// A plugin that imports what a component of `wasm32-wasip2` does: streams, their errors, the environment, the way
/// out, a clock and randomness. It touches standard error for messages that begin with `!`.
fn wasip2() -> Vec<u8> {
    let text =
            "package tidegate:plugin@0.1.0;
             world test {
                 import wasi:cli/environment@0.2.6;
                 import wasi:cli/exit@0.2.6;
                 import wasi:cli/stderr@0.2.6;
                 import wasi:clocks/monotonic-clock@0.2.6;
                 import wasi:random/insecure-seed@0.2.6;
                 include capabilities;
                 export filtering;
             }
             package wasi:io@0.2.6 {
                 interface error { resource error { to-debug-string: func() -> string; } }
                 interface streams {
                     use error.{error};
                     variant stream-error { last-operation-failed(error), closed }
                     resource output-stream {
                         blocking-write-and-flush: func(contents: list<u8>) -> result<_, stream-error>;
                     }
                 }
             }
             package wasi:cli@0.2.6 {
                 interface environment { get-environment: func() -> list<tuple<string, string>>; }
                 interface exit { exit: func(status: result); }
                 interface stderr {
                     use wasi:io/streams@0.2.6.{output-stream};
                     get-stderr: func() -> output-stream;
                 }
             }
             package wasi:clocks@0.2.6 { interface monotonic-clock { now: func() -> u64; } }
             package wasi:random@0.2.6 { interface insecure-seed { insecure-seed: func() -> tuple<u64, u64>; } }";
    let body = format!(
        "(import \"wasi:cli/environment@0.2.6\" \"get-environment\" (func $environment (param i32)))
         (import \"wasi:cli/exit@0.2.6\" \"exit\" (func $exit (param i32)))
         (import \"wasi:cli/stderr@0.2.6\" \"get-stderr\" (func $stderr (result i32)))
         (import \"wasi:io/streams@0.2.6\" \"[method]output-stream.blocking-write-and-flush\" (func $write (param i32 i32 i32 i32)))
         (import \"wasi:io/streams@0.2.6\" \"[resource-drop]output-stream\" (func $drop (param i32)))
         (import \"wasi:clocks/monotonic-clock@0.2.6\" \"now\" (func $now (result i64)))
         (import \"wasi:random/insecure-seed@0.2.6\" \"insecure-seed\" (func $seed (param i32)))
         (if (i32.eq (i32.load8_u (local.get 4)) (i32.const 33))
           (then
             (call $write (call $stderr) (i32.const 2048) (i32.const 0) (i32.const 64))
             (call $drop (i32.const 0))
             (call $environment (i32.const 64))
             (call $seed (i32.const 64))
             (drop (call $now))
             (call $exit (i32.const 0))))
         {PASS}"
    );
    embed_beside(module(&filter_function(&body)), text)
}

#[test]
fn w1_a_wasip2_component_is_admitted_and_runs_until_it_touches_wasi() {
    let sandbox = sandbox();
    // A component, as wasip2 makes it: what core modules become takes the same way in.
    let component = sandbox.admit(&wasip2()).unwrap().component;
    let admitted = sandbox.admit(&component).unwrap();
    assert_eq!(admitted.hooks, [Hook::Filtering]);
    for import in [
        "wasi:cli/environment@0.2.6",
        "wasi:cli/stderr@0.2.6",
        "wasi:io/streams@0.2.6",
    ] {
        assert!(
            admitted.imports.iter().any(|found| found == import),
            "{:?}",
            admitted.imports
        );
    }
    let compiled = sandbox.compile(&admitted).unwrap();
    bind(&sandbox, vec![binding(&compiled, Hook::Filtering)]);
    assert_eq!(passed(&sandbox, GOOD), GOOD);
    let (_, detail) = failure(&sandbox);
    assert!(detail.contains("get-stderr"), "{detail}");
    assert_eq!(passed(&sandbox, GOOD), GOOD, "the next call works");
}
