//! What a hook call costs a session's worker: snapshot, pipeline, instance, crossing, checks.
//!
//! `cargo bench --workspace --bench hook_call`. The guest is written in WebAssembly text, so the numbers are the
//! host's. `floor` is the same guest called by nothing but the engine: no snapshot, no pipeline, no table of
//! instances, no checks, no counters. What a hook call costs beyond it is ours.

#[path = "../tests/sandbox/guests.rs"]
#[expect(
    dead_code,
    clippy::unwrap_used,
    reason = "made for tests; the bench needs a few of them"
)]
mod guests;

use std::{hint::black_box, sync::Arc};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use guests::{PASS, app, bind, binding, compile, draft, filtering, guest, peer, ready, sandbox};
use tidegate_realtime::{
    events::{Event, EventKind},
    hooks::{EventsQuestion, FilteringVerdict, Hooks, Progress, RpcQuestion},
    ids::ClientId,
    store::MemoryStore,
};
use tidegate_sandbox::{Hook, Sandbox};
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;
use wasmtime::component::{Component, ComponentType, Lift, Linker};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, Store};
use wit_component::ComponentEncoder;

/// The verdict of `filtering` as the engine alone lifts it.
#[derive(ComponentType, Lift)]
#[component(variant)]
#[expect(dead_code, reason = "the guest answers one of them")]
enum Verdict {
    #[component(name = "pass")]
    Pass,
    #[component(name = "replace")]
    Replace(Vec<u8>),
    #[component(name = "drop")]
    Drop,
    #[component(name = "refuse")]
    Refuse(Refusal),
}

#[derive(ComponentType, Lift)]
#[component(record)]
#[expect(dead_code, reason = "the guest answers none")]
struct Refusal {
    kind: RefusalKind,
    code: u32,
    reason: String,
}

#[derive(ComponentType, Lift, Clone, Copy)]
#[component(enum)]
#[repr(u8)]
#[expect(dead_code, reason = "the guest answers none")]
enum RefusalKind {
    #[component(name = "error")]
    Error,
    #[component(name = "disconnect")]
    Disconnect,
}

/// The same guest and arguments, called by the engine with the settings that cost something.
fn floor(criterion: &mut Criterion, name: &str, len: usize) {
    let mut config = Config::new();
    config.epoch_interruption(true);
    config.allocation_strategy(InstanceAllocationStrategy::pooling());
    let engine = Engine::new(&config).expect("an engine");
    let component = ComponentEncoder::default()
        .module(&filtering(PASS))
        .and_then(|mut encoder| encoder.encode())
        .expect("a component");
    let component = Component::new(&engine, component).expect("compiled");
    let mut store = Store::new(&engine, ());
    store.set_epoch_deadline(u64::MAX / 2);
    let instance = Linker::new(&engine)
        .instantiate(&mut store, &component)
        .expect("an instance");
    let interface = instance
        .get_export_index(&mut store, None, "tidegate:plugin/filtering@0.1.0")
        .expect("the interface");
    let function = instance
        .get_export_index(&mut store, Some(&interface), "filter")
        .expect("the function");
    let filter = instance
        .get_typed_func::<(&str, &str, &[u8]), (Verdict,)>(&mut store, function)
        .expect("of this type");
    let data = vec![b'1'; len];
    criterion.bench_function(name, |bencher| {
        bencher.iter(|| {
            let arguments = (
                black_box("room"),
                black_box("ann"),
                black_box(data.as_slice()),
            );
            filter.call(&mut store, arguments).expect("a verdict")
        });
    });
}

/// Filters a draft again and again: a passed draft is the next input, so no allocation is measured.
fn run(criterion: &mut Criterion, name: &str, sandbox: &Sandbox, len: usize) {
    run_on(criterion, name, sandbox, &vec![b'1'; len]);
}

/// The same with this message.
fn run_on(criterion: &mut Criterion, name: &str, sandbox: &Sandbox, data: &[u8]) {
    // A fresh version runs aside until it has earned the inline lane, which is what is measured.
    while matches!(sandbox.filter(draft("room", data)), Progress::Pending(_)) {
        for _ in 0..100 {
            let _ = ready(sandbox.filter(draft("room", data)));
        }
    }
    let mut held = Some(draft("room", data));
    criterion.bench_function(name, |bencher| {
        bencher.iter(|| {
            let draft = held.take().expect("the draft came back");
            let answer = match sandbox.filter(black_box(draft)) {
                Progress::Ready(answer) => answer,
                // On a machine that is busy with something else a version may lose its lane for a while; the time of
                // its calls tells.
                pending @ Progress::Pending(_) => ready(pending),
            };
            match answer {
                Ok(outcome) => match outcome.verdict {
                    FilteringVerdict::Pass(draft) => held = Some(draft),
                    other => panic!("{other:?}"),
                },
                other => panic!("{other:?}"),
            }
        });
    });
}

fn hook_call(criterion: &mut Criterion) {
    floor(criterion, "hook_call/128B/floor", 128);
    floor(criterion, "hook_call/4KiB/floor", 4 << 10);
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
    traps(criterion, &sandbox);
}

/// A trap with the instance made for it, aside as for any fresh version; then the open breaker.
fn traps(criterion: &mut Criterion, sandbox: &Sandbox) {
    let trap = compile(sandbox, &filtering("unreachable"));
    let mut version = 1;
    criterion.bench_function("hook_call/128B/filter_trap_aside", |bencher| {
        bencher.iter_batched(
            || {
                // Each version has a breaker of its own.
                version += 1;
                let mut binding = binding(&trap, Hook::Filtering);
                binding.version = version;
                bind(sandbox, vec![binding]);
                draft("room", b"{}")
            },
            |draft| ready(sandbox.filter(draft)),
            BatchSize::PerIteration,
        );
    });
    bind(sandbox, vec![binding(&trap, Hook::Filtering)]);
    for _ in 0..5 {
        let _ = ready(sandbox.filter(draft("room", b"{}")));
    }
    criterion.bench_function("hook_call/128B/breaker_open", |bencher| {
        bencher.iter_batched(
            || draft("room", b"{}"),
            |draft| sandbox.filter(draft),
            BatchSize::SmallInput,
        );
    });
}

/// What a question to the host costs: the second figure minus the first is ten more of them.
fn capabilities(criterion: &mut Criterion) {
    let sandbox = sandbox();
    let fields = |count: usize| {
        filtering(&format!(
            "(import \"tidegate:plugin/json@0.1.0\" \"text\" (func $text (param i32 i32 i32)))
             (data (i32.const 1024) \"/type\")
             {}
             {PASS}",
            "(call $text (i32.const 1024) (i32.const 5) (i32.const 64))".repeat(count)
        ))
    };
    for (len, size) in [(128, "128B"), (4 << 10, "4KiB")] {
        let padding = "x".repeat(len - r#"{"pad":"","type":"buy"}"#.len());
        let data = format!(r#"{{"pad":"{padding}","type":"buy"}}"#);
        for count in [1, 11] {
            let compiled = compile(&sandbox, &fields(count));
            bind(&sandbox, vec![binding(&compiled, Hook::Filtering)]);
            let name = format!("hook_call/{size}/filter_json_{count}");
            run_on(criterion, &name, &sandbox, data.as_bytes());
        }
    }
    for count in [1, 11] {
        let increment = "(call $increment (i32.const 1024) (i32.const 4) (i64.const 1) (i64.const 60000) (i32.const 64))";
        let compiled = compile(
            &sandbox,
            &filtering(&format!(
                "(import \"tidegate:plugin/state@0.1.0\" \"increment\" (func $increment (param i32 i32 i64 i64 i32)))
                 (data (i32.const 1024) \"sent\")
                 {}
                 {PASS}",
                increment.repeat(count)
            )),
        );
        bind(&sandbox, vec![binding(&compiled, Hook::Filtering)]);
        let name = format!("hook_call/128B/filter_state_{count}");
        run(criterion, &name, &sandbox, 128);
    }
}

/// The same for a plugin that waits, with a store that answers at once: a call on a thread for such plugins. What Redis
/// adds is its round trip.
fn waiting(criterion: &mut Criterion) {
    let sandbox = sandbox();
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    let store = Arc::new(MemoryStore::default());
    sandbox.open_store(store, runtime.handle().clone(), CancellationToken::new());
    for count in [1, 11] {
        let increment = "(call $increment (i32.const 1024) (i32.const 4) (i64.const 1) (i32.const 0) (i64.const 0) (i32.const 64))";
        let compiled = compile(
            &sandbox,
            &guest(
                &[Hook::Rpc],
                &format!(
                    "(import \"tidegate:plugin/store@0.1.0\" \"increment\" (func $increment (param i32 i32 i64 i32 i64 i32)))
                     (data (i32.const 1024) \"sent\")
                     (func (export \"tidegate:plugin/rpc@0.1.0#call\") (param i32 i32 i32 i32 i32 i32) (result i32)
                       {}
                       (i32.store8 (i32.const 16) (i32.const 0)) (i32.const 16))",
                    increment.repeat(count)
                ),
            ),
        );
        bind(&sandbox, vec![binding(&compiled, Hook::Rpc)]);
        let asker = peer("ann");
        criterion.bench_function(&format!("hook_call/0B/rpc_store_{count}"), |bencher| {
            bencher.iter(|| {
                let question = RpcQuestion {
                    peer: Arc::clone(&asker),
                    method: "m".into(),
                    data: Bytes::new(),
                };
                ready(sandbox.rpc(question)).expect("it answers")
            });
        });
    }
}

/// What telling a plugin costs, the hop to a plugin thread included: the second figure minus the first is 15 events
/// more.
fn events(criterion: &mut Criterion) {
    let sandbox = sandbox();
    let guest = guest(
        &[Hook::Events],
        "(func (export \"tidegate:plugin/events@0.1.0#wanted\") (result i32) (i32.const 16))
         (func (export \"tidegate:plugin/events@0.1.0#handle\") (param i32 i32) (result i32)
           (i32.store8 (i32.const 16) (i32.const 0)) (i32.const 16))",
    );
    let compiled = compile(&sandbox, &guest);
    bind(&sandbox, vec![binding(&compiled, Hook::Events)]);
    let event = Event {
        client: Some(ClientId::random()),
        channel: "chat:lobby".into(),
        ..Event::of_user(EventKind::Published, "ann")
    };
    for number in [1, 16] {
        let question = EventsQuestion {
            app: app(),
            plugin: "guest".into(),
            batch: vec![event.clone(); number],
        };
        criterion.bench_function(&format!("hook_call/events/{number}"), |bencher| {
            bencher.iter(|| {
                let told = ready(sandbox.events(black_box(question.clone())));
                assert!(told.is_ok(), "{told:?}");
            });
        });
    }
}

criterion_group!(benches, hook_call, capabilities, waiting, events);
criterion_main!(benches);
