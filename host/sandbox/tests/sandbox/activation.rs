//! Activation: once `apply` has returned, no later call on any thread runs what it replaced.

use std::{
    sync::{
        Barrier,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    thread,
};

use crate::guests::{self, bind, binding, compile, filtering, passed, sandbox};
use tidegate_sandbox::{Hook, Sandbox, Scope};

/// A guest that writes one digit into every message.
fn stamping(version: u32) -> Vec<u8> {
    filtering(&format!(
        "(data (i32.const 1024) \"{version}\")\n{}",
        guests::replace(1)
    ))
}

fn answers(sandbox: &Sandbox) -> u32 {
    let data = passed(sandbox, b"0");
    std::str::from_utf8(&data).unwrap().parse().unwrap()
}

/// A guest that writes the number of its version into every message, as four digits from 1000 on. `salt` makes
/// another component of it.
fn version_stamping(salt: u32) -> Vec<u8> {
    let digit = |at: u32, divisor: u32| {
        format!(
            "(i32.store8 (i32.const {at}) (i32.add (i32.const 48)
               (i32.rem_u (i32.div_u (local.get $x) (i32.const {divisor})) (i32.const 10))))"
        )
    };
    filtering(&format!(
        "(import \"tidegate:plugin/context@0.1.0\" \"version\" (func $version (result i32)))
         (data (i32.const 2048) \"{salt}\")
         (local.set $x (i32.add (call $version) (i32.const 1000)))
         {} {} {} {}
         {}",
        digit(1024, 1000),
        digit(1025, 100),
        digit(1026, 10),
        digit(1027, 1),
        guests::replace(4)
    ))
}

#[test]
fn no_later_call_on_any_thread_runs_the_old_version() {
    const SWAPS: u32 = 200;
    const CALLERS: usize = 4;
    let sandbox = sandbox();
    let components = [0, 1].map(|salt| compile(&sandbox, &version_stamping(salt)));
    let activate = |swap: u32| {
        let mut binding = binding(&components[swap as usize % 2], Hook::Filtering);
        binding.version = swap;
        bind(&sandbox, vec![binding]);
    };
    activate(0);
    // The last swap from which `apply` has returned.
    let applied = AtomicU32::new(0);
    let calls = AtomicUsize::new(0);
    let start = Barrier::new(CALLERS + 1);
    thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                start.wait();
                loop {
                    let before = applied.load(Ordering::SeqCst);
                    let answered = answers(&sandbox) - 1000;
                    assert!(
                        answered >= before,
                        "swap {before} was applied before a call that version {answered} answered"
                    );
                    calls.fetch_add(1, Ordering::Relaxed);
                    if before >= SWAPS {
                        break;
                    }
                }
            });
        }
        start.wait();
        for swap in 1..=SWAPS {
            activate(swap);
            applied.store(swap, Ordering::SeqCst);
            assert_eq!(answers(&sandbox) - 1000, swap);
        }
    });
    assert!(calls.load(Ordering::Relaxed) >= CALLERS);
}

#[test]
fn every_thread_answers_with_the_new_version_after_each_swap() {
    let sandbox = sandbox();
    let versions = [stamping(0), stamping(1)].map(|wasm| compile(&sandbox, &wasm));
    let rounds = 50_u32;
    let ready = Barrier::new(3);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for round in 0..rounds {
                    ready.wait(); // The swap of this round is applied.
                    assert_eq!(answers(&sandbox), round % 2);
                    ready.wait(); // Nobody swaps before all have looked.
                }
            });
        }
        for round in 0..rounds {
            bind(
                &sandbox,
                vec![binding(&versions[round as usize % 2], Hook::Filtering)],
            );
            ready.wait();
            ready.wait();
        }
    });
}

#[test]
fn applying_the_same_state_again_keeps_the_instances() {
    let sandbox = sandbox();
    let compiled = compile(&sandbox, &stamping(1));
    let state = || vec![binding(&compiled, Hook::Filtering)];
    bind(&sandbox, state());
    answers(&sandbox);
    let made = sandbox.statistics().instances_made;
    bind(&sandbox, state());
    answers(&sandbox);
    // Another plugin thread may have made one of its own.
    let threads = sandbox.statistics().aside.threads as u64;
    assert!(sandbox.statistics().instances_made < made + threads);
    // Other settings need other instances.
    let mut changed = state();
    changed[0].config = "{\"x\":1}".into();
    bind(&sandbox, changed);
    answers(&sandbox);
    assert!(sandbox.statistics().instances_made > made);
}

#[test]
fn instances_of_replaced_versions_are_dropped() {
    let sandbox = sandbox();
    let versions = [stamping(0), stamping(1)].map(|wasm| compile(&sandbox, &wasm));
    for round in 0..20 {
        let compiled = &versions[round % 2];
        bind(&sandbox, vec![binding(compiled, Hook::Filtering)]);
        answers(&sandbox);
    }
    // The thread that answered last may not have put its instance back yet.
    while sandbox.statistics().instances > sandbox.statistics().aside.threads {
        std::thread::yield_now();
    }
}

#[test]
fn positions_and_namespaces_decide_who_is_asked() {
    let sandbox = sandbox();
    let [first, second] = [stamping(1), stamping(2)].map(|wasm| compile(&sandbox, &wasm));
    let mut everywhere = binding(&first, Hook::Filtering);
    everywhere.position = 5;
    let mut chat = binding(&second, Hook::Filtering);
    chat.scope = Scope::Namespace("chat".to_owned());
    chat.position = 9;
    bind(&sandbox, vec![chat, everywhere]);
    assert_eq!(answers(&sandbox), 1);
    let in_chat = guests::ready(tidegate_realtime::hooks::Hooks::filter(
        &*sandbox,
        guests::draft("chat:room", b"0"),
    ));
    match in_chat.unwrap().verdict {
        tidegate_realtime::hooks::FilteringVerdict::Pass(draft) => assert_eq!(draft.data, "2"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_cannot_be_honoured_changes_nothing() {
    let sandbox = sandbox();
    let compiled = compile(&sandbox, &stamping(1));
    bind(&sandbox, vec![binding(&compiled, Hook::Filtering)]);
    let bad = binding(&compiled, Hook::Routing);
    let state = tidegate_sandbox::Bindings {
        apps: [(guests::app(), vec![bad])].into(),
    };
    let error = sandbox.apply(&state).unwrap_err();
    assert_eq!(
        error.problem,
        tidegate_sandbox::BindingProblem::HookNotExported
    );
    assert_eq!(answers(&sandbox), 1);
}
