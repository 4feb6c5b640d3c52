//! What a plugin did, as its author and the operator read it: by version, verdict, kind of failure and lane.

use std::time::Duration;

use tidegate_realtime::hooks::FilteringVerdict;
use tidegate_sandbox::{
    Bindings, Class, FailureKind, Hook, HookStatistics, Isolation, Lane, Sandbox, Verdict,
};

use crate::guests::{PASS, bind, binding, compile, filter, filtering, passed, sandbox};

/// Two pages, as the prelude of every guest has them.
const GUEST_BYTES: usize = 2 << 16;

/// Passes; drops messages that begin with `d`, traps at `!`, grows by a page at `g`.
fn moody() -> Vec<u8> {
    let on = |letter: u8, then: &str| {
        format!("(if (i32.eq (i32.load8_u (local.get 4)) (i32.const {letter})) (then {then}))\n")
    };
    let drops = "(i32.store8 (i32.const 16) (i32.const 2)) (return (i32.const 16))";
    let grows = "(drop (memory.grow (i32.const 1)))";
    filtering(&format!(
        "{}{}{}{PASS}",
        on(b'd', drops),
        on(b'!', "unreachable"),
        on(b'g', grows)
    ))
}

fn rows(sandbox: &Sandbox) -> Vec<HookStatistics> {
    sandbox.statistics_of("default")
}

#[track_caller]
fn row(sandbox: &Sandbox) -> HookStatistics {
    rows(sandbox).remove(0)
}

#[test]
fn verdicts_failures_and_times_are_those_of_the_calls_that_were_made() {
    let sandbox = sandbox();
    let compiled = compile(&sandbox, &moody());
    let mut bound = binding(&compiled, Hook::Filtering);
    // Counts are exact where no deadline passes, whatever else the machine does.
    bound.limits.deadline = Some(Hook::Filtering.deadline_cap(Class::Immediate));
    bind(&sandbox, vec![bound]);
    let fresh = row(&sandbox);
    assert_eq!((fresh.calls(), fresh.durations.samples), (0, 0));
    assert!(fresh.is_bound && fresh.version == 1);
    for _ in 0..5 {
        passed(&sandbox, b"1");
    }
    for _ in 0..3 {
        let verdict = filter(&sandbox, b"d").unwrap();
        assert!(matches!(verdict, FilteringVerdict::Drop), "{verdict:?}");
    }
    for _ in 0..2 {
        assert!(filter(&sandbox, b"!").is_err());
    }
    let row = row(&sandbox);
    assert_eq!(row.verdicts, [(Verdict::Pass, 5), (Verdict::Drop, 3)]);
    assert_eq!(row.failed, [(FailureKind::Trap, 2)]);
    assert_eq!((row.calls(), row.answered, row.failures()), (10, 8, 2));
    // A fresh version runs aside, where every call is timed.
    assert_eq!((row.lane, row.aside, row.inline()), (Lane::Aside, 10, 0));
    let times = row.durations;
    assert_eq!(times.samples, 10);
    assert!(times.p50 > Duration::ZERO && times.p50 <= times.p99);
    assert!(times.p99 <= times.p999 && times.p999 <= times.max);
    assert!(times.mean <= times.max && times.total >= times.max);
}

#[test]
fn inline_calls_are_timed_by_sample_and_counted_all() {
    let sandbox = sandbox();
    let compiled = compile(&sandbox, &moody());
    bind(&sandbox, vec![binding(&compiled, Hook::Filtering)]);
    for _ in 0..20_000 {
        if row(&sandbox).lane == Lane::Inline {
            break;
        }
        passed(&sandbox, b"1");
    }
    let before = row(&sandbox);
    assert_eq!(before.lane, Lane::Inline, "{before:?}");
    for _ in 0..6_400 {
        passed(&sandbox, b"1");
    }
    let after = row(&sandbox);
    let calls = after.calls() - before.calls();
    assert!(calls >= 6_400, "{calls}");
    assert_eq!(after.inline() + after.aside, after.calls());
    // A busy machine may send the version back for a while, where every call is timed.
    let (inline, aside) = (after.inline() - before.inline(), after.aside - before.aside);
    let samples = after.durations.samples - before.durations.samples;
    assert!(samples >= aside + inline / 128, "{samples} of {calls}");
    if aside == 0 {
        assert!(samples <= inline / 32, "{samples} of {inline}");
    }
}

#[test]
fn each_version_has_a_row_of_its_own_and_the_former_ones_stay_for_a_while() {
    let sandbox = sandbox();
    let compiled = compile(&sandbox, &moody());
    for version in 1..=6 {
        let mut bound = binding(&compiled, Hook::Filtering);
        bound.version = version;
        bind(&sandbox, vec![bound]);
        for _ in 0..version {
            passed(&sandbox, b"1");
        }
    }
    let seen: Vec<_> = rows(&sandbox)
        .iter()
        .map(|row| (row.version, row.answered, row.is_bound))
        .collect();
    assert_eq!(
        seen,
        [(6, 6, true), (5, 5, false), (4, 4, false), (3, 3, false)]
    );
    // Back to one that is remembered, and to one that is not.
    for (version, answered) in [(4, 4), (1, 0)] {
        let mut bound = binding(&compiled, Hook::Filtering);
        bound.version = version;
        bind(&sandbox, vec![bound]);
        let rows = rows(&sandbox);
        let row = rows.iter().find(|row| row.is_bound).unwrap();
        assert_eq!((row.version, row.answered), (version, answered));
    }
    sandbox.apply(&Bindings::default()).unwrap();
    assert!(rows(&sandbox).iter().all(|row| !row.is_bound));
}

#[test]
fn memory_is_what_the_instances_have_and_its_peak_stays() {
    let sandbox = sandbox();
    let compiled = compile(&sandbox, &moody());
    bind(&sandbox, vec![binding(&compiled, Hook::Filtering)]);
    passed(&sandbox, b"1");
    let memory = row(&sandbox).memory;
    assert_eq!((memory.instances, memory.bytes), (1, GUEST_BYTES));
    // Whichever thread it is, its instance has one page more from now on.
    passed(&sandbox, b"g");
    let grown = row(&sandbox).memory;
    assert_eq!(grown.bytes, grown.instances * GUEST_BYTES + (1 << 16));
    assert_eq!(grown.peak_bytes, GUEST_BYTES + (1 << 16));
    sandbox.apply(&Bindings::default()).unwrap();
    let gone = row(&sandbox).memory;
    assert_eq!((gone.instances, gone.bytes), (0, 0));
    assert_eq!(gone.peak_bytes, GUEST_BYTES + (1 << 16));
}

#[test]
fn an_instance_per_call_leaves_nothing_and_every_call_is_timed() {
    let sandbox = sandbox();
    let compiled = compile(&sandbox, &moody());
    let mut bound = binding(&compiled, Hook::Filtering);
    bound.isolation = Isolation::PerCall;
    bound.limits.deadline = Some(Hook::Filtering.deadline_cap(Class::Immediate));
    bind(&sandbox, vec![bound]);
    for _ in 0..20 {
        passed(&sandbox, b"1");
    }
    let row = row(&sandbox);
    assert_eq!(row.durations.samples, row.calls());
    assert_eq!((row.memory.instances, row.memory.bytes), (0, 0));
    assert_eq!(row.memory.peak_bytes, GUEST_BYTES);
}
