//! What a hook call costs a session's worker: snapshot, pipeline, instance, crossing, checks.
//!
//! `cargo bench -p tidegate-sandbox`. The guest is written in WebAssembly text, so the numbers are the host's.

#[path = "../tests/sandbox/guests.rs"]
#[expect(
    dead_code,
    clippy::unwrap_used,
    reason = "made for tests; the bench needs a few of them"
)]
mod guests;

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use guests::{PASS, bind, binding, compile, draft, filtering, sandbox};
use tidegate_realtime::hooks::{FilteringVerdict, Hooks, Progress};
use tidegate_sandbox::{Hook, Sandbox};

/// Filters a draft again and again: a passed draft is the next input, so no allocation is measured.
fn run(criterion: &mut Criterion, name: &str, sandbox: &Sandbox, len: usize) {
    let data = vec![b'1'; len];
    let mut held = Some(draft("room", &data));
    criterion.bench_function(name, |bencher| {
        bencher.iter(|| {
            let draft = held.take().expect("the draft came back");
            match sandbox.filter(black_box(draft)) {
                Progress::Ready(Ok(outcome)) => match outcome.verdict {
                    FilteringVerdict::Pass(draft) => held = Some(draft),
                    other => panic!("{other:?}"),
                },
                other => panic!("{other:?}"),
            }
        });
    });
}

fn hook_call(criterion: &mut Criterion) {
    let sandbox = sandbox();
    run(criterion, "hook_call/128B/unbound", &sandbox, 128);
    let pass = compile(&sandbox, &filtering(PASS));
    bind(&sandbox, vec![binding(&pass, Hook::Filtering)]);
    run(criterion, "hook_call/128B/filter_lean", &sandbox, 128);
    run(criterion, "hook_call/4KiB/filter_lean", &sandbox, 4 << 10);
    let replace = compile(
        &sandbox,
        &filtering(
            "(i32.store8 (i32.const 16) (i32.const 1)) (i32.store (i32.const 20) (local.get 4))
             (i32.store (i32.const 24) (local.get 5)) (i32.const 16)",
        ),
    );
    bind(&sandbox, vec![binding(&replace, Hook::Filtering)]);
    run(criterion, "hook_call/128B/filter_replace", &sandbox, 128);
    let trap = compile(&sandbox, &filtering("unreachable"));
    bind(&sandbox, vec![binding(&trap, Hook::Filtering)]);
    criterion.bench_function("hook_call/128B/filter_trap", |bencher| {
        bencher.iter_batched(
            || draft("room", b"{}"),
            |draft| sandbox.filter(draft),
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, hook_call);
criterion_main!(benches);
