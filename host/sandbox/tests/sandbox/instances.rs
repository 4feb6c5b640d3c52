//! The life of an instance: how long it serves, what ends it, and how many there are.

use std::{num::NonZeroUsize, sync::Arc, thread};

use crate::guests::{
    self, PASS, bind, binding, compile, draft, filter, filtering, ready, with_filter,
};
use tidegate_realtime::{hooks::Hooks, ids::AppId};
use tidegate_sandbox::{Bindings, FailureKind, Hook, Isolation, Sandbox, SandboxConfig, StepEnd};

fn small(max_instances: usize) -> Arc<Sandbox> {
    let config = SandboxConfig {
        max_instances: NonZeroUsize::new(max_instances),
        plugin_threads: NonZeroUsize::new(2),
        ..SandboxConfig::default()
    };
    Sandbox::new(config).unwrap()
}

/// Answers with how often the instance was called, as a digit, in an instance of its own or not.
fn counting() -> Vec<u8> {
    filtering(&format!(
        "(i32.store (i32.const 2048) (i32.add (i32.load (i32.const 2048)) (i32.const 1)))
         (i32.store8 (i32.const 1024) (i32.add (i32.const 48) (i32.load (i32.const 2048))))
         {}",
        guests::replace(1)
    ))
}

#[test]
fn an_instance_is_made_anew_after_ten_thousand_calls_give_or_take_a_fifth() {
    let sandbox = with_filter(&filtering(PASS));
    let mut calls = 0;
    // One thread of the lanes after the other may make one; the first that is replaced tells.
    let made = |sandbox: &Sandbox| sandbox.statistics().instances_made;
    while calls < 7_999 {
        guests::passed(&sandbox, b"1");
        calls += 1;
    }
    let threads = sandbox.statistics().aside.threads as u64 + 1;
    assert!(
        made(&sandbox) <= 1 + threads,
        "{} after {calls}",
        made(&sandbox)
    );
    while calls < 12_001 * (threads + 1) {
        guests::passed(&sandbox, b"1");
        calls += 1;
    }
    assert!(made(&sandbox) > threads, "{} after {calls}", made(&sandbox));
    assert!(sandbox.statistics().instances <= usize::try_from(threads).unwrap());
}

#[test]
fn an_instance_that_grew_past_half_its_memory_is_made_anew() {
    // 32 MiB are 512 pages. Grows by 128 in the first call, by 160 in the second.
    let growing =
        |pages: u32| filtering(&format!("(drop (memory.grow (i32.const {pages})))\n{PASS}"));
    let calls_of_one = |pages| {
        let sandbox = small(8);
        let mut binding = binding(&compile(&sandbox, &growing(pages)), Hook::Filtering);
        binding.limits.deadline = Some(std::time::Duration::from_millis(20));
        bind(&sandbox, vec![binding]);
        let mut answered = 0;
        while answered < 12 {
            if filter(&sandbox, b"1").is_ok() {
                answered += 1;
            }
        }
        let statistics = sandbox.statistics();
        (statistics.instances_made, statistics.hooks[0].near_memory)
    };
    // After two calls 258 pages are in use: more than half, less than seven tenths.
    let (made, near) = calls_of_one(128);
    assert!((6..=9).contains(&made), "{made} instances for 12 calls");
    assert_eq!(near, 0);
    // After one call 402 pages: the author should know.
    let (made, near) = calls_of_one(400);
    assert!((12..=14).contains(&made), "{made} instances for 12 calls");
    assert_eq!(near, 12);
}

#[test]
fn per_call_isolation_gives_every_call_an_instance_of_its_own() {
    let sandbox = small(8);
    let compiled = compile(&sandbox, &counting());
    let answers = |isolation| {
        let mut binding = binding(&compiled, Hook::Filtering);
        binding.isolation = isolation;
        bind(&sandbox, vec![binding]);
        let answers: Vec<_> = (0..5).map(|_| guests::passed(&sandbox, b"0")).collect();
        answers
    };
    assert!(answers(Isolation::PerCall).iter().all(|data| data == "1"));
    assert_eq!(sandbox.statistics().instances, 0);
    // Two threads and five calls: somebody was called twice.
    assert!(answers(Isolation::Shared).iter().any(|data| data != "1"));
}

#[test]
fn an_activation_drops_the_old_instances_on_threads_that_do_nothing() {
    let sandbox = small(8);
    let versions = [counting(), filtering(PASS)].map(|wasm| compile(&sandbox, &wasm));
    bind(&sandbox, vec![binding(&versions[0], Hook::Filtering)]);
    guests::passed(&sandbox, b"0");
    // The thread that answered puts its instance back after the answer is out.
    while sandbox.statistics().instances != 1 {
        thread::yield_now();
    }
    bind(&sandbox, vec![binding(&versions[1], Hook::Filtering)]);
    while sandbox.statistics().instances != 0 {
        thread::yield_now();
    }
}

/// A plugin in each of so many apps.
fn populate(sandbox: &Sandbox, apps: usize) -> Vec<AppId> {
    let compiled = compile(sandbox, &filtering(PASS));
    let apps: Vec<_> = (0..apps)
        .map(|n| AppId::parse(&format!("app-{n}")).unwrap())
        .collect();
    let bindings = Bindings {
        apps: apps
            .iter()
            .map(|app| (app.clone(), vec![binding(&compiled, Hook::Filtering)]))
            .collect(),
    };
    sandbox.apply(&bindings).unwrap();
    apps
}

/// What the question was told about slots.
fn no_slot(sandbox: &Sandbox, trace_id: &str) -> String {
    let story = sandbox.explain(trace_id);
    let steps = story.into_iter().flat_map(|story| story.steps);
    let details = steps.filter_map(|step| match step.ended {
        StepEnd::Failed {
            kind: FailureKind::NoSlot,
            detail,
            ..
        } => Some(detail.to_string()),
        StepEnd::Failed { .. } | StepEnd::Answered(_) => None,
    });
    details.collect()
}

#[test]
fn a_thousand_apps_share_a_small_pool_and_none_fails_for_want_of_a_slot() {
    const APPS: usize = 1_000;
    const CALLS: usize = 30_000;
    const CALLERS: usize = 4;
    let sandbox = small(64);
    let apps = populate(&sandbox, APPS);
    thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (sandbox, apps) = (&sandbox, &apps);
            scope.spawn(move || {
                // Zipf: the nth app is asked in proportion to 1/n. A fixed sequence, another for each caller.
                let weights: Vec<f64> = (1..=APPS).map(|rank| 1.0 / rank as f64).collect();
                let total: f64 = weights.iter().sum();
                let mut state = 88_172_645_463_325_252_u64 + caller as u64;
                for _ in 0..CALLS / CALLERS {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    let mut left = (state >> 11) as f64 / (1_u64 << 53) as f64 * total;
                    let rank = weights.iter().position(|weight| {
                        left -= weight;
                        left <= 0.0
                    });
                    let mut message = draft("room", b"1");
                    message.app = apps[rank.unwrap_or(APPS - 1)].clone();
                    if let Err(failure) = ready(sandbox.filter(message)) {
                        // A machine with more to do than it can may have let a deadline pass, nothing else.
                        let details = no_slot(sandbox, &failure.trace_id);
                        assert!(!details.contains("all instances"), "{details}");
                    }
                }
            });
        }
    });
    let statistics = sandbox.statistics();
    assert!(statistics.instances <= 64, "{statistics:?}");
    assert!(statistics.instances_evicted > 0, "the pool was never full");
    let answered: u64 = statistics.hooks.iter().map(|row| row.answered).sum();
    assert!(
        answered > u64::try_from(CALLS * 9 / 10).unwrap(),
        "{answered}"
    );
    let asked = statistics.hooks.iter().filter(|row| row.answered > 0);
    assert!(asked.count() > 500, "too few apps were asked at all");
}
