//! The goals of one call.

#[path = "../../guests/typed-json/src/order.rs"]
mod parsed;

use std::{
    fs,
    hint::black_box,
    path::Path,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use rustix::time::{ClockId, clock_gettime};
use tidegate_realtime::hooks::{AuthenticationQuestion, AuthenticationReason, Hooks, TokenCheck};
use tidegate_sandbox::{Hook, Isolation};

use self::parsed::Order;
use super::{Effort, Filter, each, guests, lean_guest, order};
use crate::{
    histogram::Histogram,
    report::{Bar, at_least, at_most},
};

/// A lean filter, 128 bytes.
pub fn lean(effort: Effort) -> Histogram {
    let mut filter = Filter::new(&lean_guest(), Isolation::Shared, &[b'1'; 128]);
    each(effort.quick_calls, || filter.call())
}

/// A part of the goals: its name, and what measures it. The folder has the guests that were built to wasm.
type Part = (&'static str, fn(Effort, &Path) -> Result<Vec<Bar>>);

const PARTS: [Part; 8] = [
    ("empty", |effort, _| empty(effort)),
    ("lean", |effort, _| Ok(lean_bars(effort))),
    ("context", |effort, _| Ok(with_context(effort))),
    ("replace", |effort, _| Ok(vec![replace(effort)])),
    ("json", |effort, folder| {
        Ok(vec![
            typed_json(effort, folder)?,
            host_json(effort, folder)?,
        ])
    }),
    ("authenticate", |effort, _| authenticate(effort)),
    ("rate", |effort, _| Ok(throughput(effort).into())),
    ("fresh", |effort, _| {
        let mut bars: Vec<Bar> = fresh_instances(effort).into();
        bars.push(after_a_trap(effort));
        Ok(bars)
    }),
];

/// The goals of one call: those of these parts, or all of them if none is named.
///
/// # Errors
/// When a guest is missing, or there is no such part.
pub fn bars(effort: Effort, folder: &Path, only: &[String]) -> Result<Vec<Bar>> {
    let names = PARTS.map(|(name, _)| name);
    for part in only {
        ensure!(
            names.contains(&&**part),
            "there is no part `{part}`; the parts are {}",
            names.join(", ")
        );
    }
    let mut bars = Vec::new();
    for (name, measure) in PARTS {
        if only.is_empty() || only.iter().any(|part| part == name) {
            bars.extend(measure(effort, folder)?);
        }
    }
    Ok(bars)
}

/// What no call can be quicker than: a function without arguments, called by the engine alone.
fn empty(effort: Effort) -> Result<Vec<Bar>> {
    let text = wat::parse_str(
        r#"(component
             (core module $m (func (export "f")))
             (core instance $i (instantiate $m))
             (func (export "f") (canon lift (core func $i "f"))))"#,
    )?;
    let mut config = wasmtime::Config::new();
    config.epoch_interruption(true);
    config.allocation_strategy(wasmtime::InstanceAllocationStrategy::pooling());
    let made = || -> wasmtime::Result<_> {
        let engine = wasmtime::Engine::new(&config)?;
        let component = wasmtime::component::Component::new(&engine, &text)?;
        let mut store = wasmtime::Store::new(&engine, ());
        let instance =
            wasmtime::component::Linker::new(&engine).instantiate(&mut store, &component)?;
        let function = instance.get_typed_func::<(), ()>(&mut store, "f")?;
        Ok((store, function))
    };
    let (mut store, function) = made().map_err(|error| anyhow!("no empty component: {error}"))?;
    let found = each(effort.quick_calls, || {
        store.set_epoch_deadline(1);
        if let Err(error) = function.call(&mut store, ()) {
            panic!("an empty function does not fail: {error}");
        }
    });
    Ok(vec![at_most(
        "Empty hook call, by the engine alone, p50",
        (found.quantile(0.5) as f64, 130.0, "ns"),
        format!(
            "{} calls of a component's function without arguments, each timed and with a deadline; the floor of every hook",
            found.count()
        ),
    )])
}

fn lean_bars(effort: Effort) -> Vec<Bar> {
    let found = lean(effort);
    let calls = format!("{} calls, each timed", found.count());
    vec![
        at_most(
            "Filter, lean, 128 B, p50",
            (found.quantile(0.5) as f64, 350.0, "ns"),
            calls.clone(),
        ),
        at_most(
            "Filter, lean, 128 B, p99",
            (found.quantile(0.99) as f64, 600.0, "ns"),
            calls,
        ),
    ]
}

/// A filter that looks at its caller and at a tag, as one that decides by either must.
fn with_context(effort: Effort) -> Vec<Bar> {
    let guest = guests::filtering(&format!(
        "(import \"tidegate:plugin/context@0.1.0\" \"client-id\" (func $client (param i32)))
         (import \"tidegate:plugin/context@0.1.0\" \"tag\" (func $tag (param i32 i32 i32)))
         (data (i32.const 1024) \"tier\")
         (call $client (i32.const 64))
         (call $tag (i32.const 1024) (i32.const 4) (i32.const 96))
         {}",
        guests::PASS
    ));
    let mut filter = Filter::new(&guest, Isolation::Shared, &[b'1'; 128]).tagged("tier", "gold");
    let found = each(effort.quick_calls, || filter.call());
    let how = format!(
        "{} calls, each timed, of a guest that asks for the client's id and a tag of the message",
        found.count()
    );
    vec![
        at_most(
            "Filter, with context and a tag, 128 B, p50",
            (found.quantile(0.5) as f64, 800.0, "ns"),
            how.clone(),
        ),
        at_most(
            "Filter, with context and a tag, 128 B, p99",
            (found.quantile(0.99) as f64, 1_200.0, "ns"),
            how,
        ),
    ]
}

/// Authentication runs on plugin threads, so what counts is the processor time of the call there.
fn authenticate(effort: Effort) -> Result<Vec<Bar>> {
    let guest = guests::guest(
        &[Hook::Authentication],
        "(func (export \"tidegate:plugin/authentication@0.1.0#authenticate\")
           (param i32 i32 i32 i32 i32) (result i32)
           (i64.store (i32.const 16) (i64.const 0)) (i32.const 16))",
    );
    let sandbox = guests::sandbox();
    let compiled = guests::compile(&sandbox, &guest);
    guests::bind(
        &sandbox,
        vec![guests::binding(&compiled, Hook::Authentication)],
    );
    let question = || AuthenticationQuestion {
        reason: AuthenticationReason::Connect,
        peer: guests::peer(""),
        token: "a-token-of-some-length".into(),
        token_check: TokenCheck::Absent,
        data: Bytes::from_static(br#"{"ticket":"1234"}"#),
    };
    let hop = each(effort.slow_calls, || {
        let answer = guests::ready(sandbox.authenticate(question()));
        assert!(answer.is_ok(), "an empty plugin answers");
    });
    // What reading the thread's clock twice costs is in the plugin's time; it is a system call.
    let clock = each_of(1_000, || {
        let before = processor_time();
        processor_time().saturating_sub(before)
    });
    let rows = sandbox.statistics_of(guests::app().as_str());
    let row = rows.first().context("statistics of what was just called")?;
    Ok(vec![at_most(
        "Authenticate, processor time of the call, p50",
        (
            row.durations.p50.saturating_sub(clock).as_nanos() as f64,
            500.0,
            "ns",
        ),
        format!(
            "{} calls, as the plugin's own statistics tell, without the {} ns of reading the thread's clock; from question to answer {:.1} µs, with the way to a plugin thread and back",
            row.durations.samples,
            clock.as_nanos(),
            hop.quantile(0.5) as f64 / 1e3
        ),
    )])
}

/// Processor time of this thread.
fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// The median of so many.
fn each_of(count: u32, mut measure: impl FnMut() -> Duration) -> Duration {
    let mut found = Histogram::default();
    for _ in 0..count {
        found.add(u64::try_from(measure().as_nanos()).unwrap_or(u64::MAX));
    }
    Duration::from_nanos(found.quantile(0.5))
}

fn replace(effort: Effort) -> Bar {
    // The replacement is the message itself, so the guest has no work of its own.
    let guest = guests::filtering(
        "(i32.store8 (i32.const 16) (i32.const 1)) (i32.store (i32.const 20) (local.get 4))
         (i32.store (i32.const 24) (local.get 5)) (i32.const 16)",
    );
    let p50 = |data: &[u8]| {
        let mut filter = Filter::new(&guest, Isolation::Shared, data);
        each(effort.quick_calls / 4, || filter.call()).quantile(0.5)
    };
    let (binary, json) = (p50(&[0xFF; 4 << 10]), p50(&order(4 << 10)));
    at_most(
        "Filter, replaces 4 KiB, p50",
        (binary as f64, 700.0, "ns"),
        format!(
            "{} calls, each timed, of binary data; of JSON, which is checked to be JSON still, {json} ns",
            effort.quick_calls / 4
        ),
    )
}

fn built(folder: &Path, name: &str) -> Result<Vec<u8>> {
    let path = folder.join(name);
    fs::read(&path).with_context(|| {
        format!(
            "{} is missing; `cargo xtask build --guests` makes it",
            path.display()
        )
    })
}

fn typed_json(effort: Effort, folder: &Path) -> Result<Bar> {
    let guest = built(folder, "bench_typed_json.wasm")?;
    let data = order(4 << 10);
    let mut filter = Filter::new(&guest, Isolation::Shared, &data);
    let found = each(effort.slow_calls, || filter.call());
    let native = each(effort.slow_calls, || {
        let order = serde_json::from_slice::<Order<'_>>(black_box(&data));
        assert!(order.is_ok_and(|order| order.is_whole()), "it is an order");
    });
    Ok(at_most(
        "Filter, parses 4 KiB of JSON into types, p50",
        (found.quantile(0.5) as f64 / 1e3, 11.0, "µs"),
        format!(
            "{} calls, each timed; serde in the guest; the same code without a sandbox, in this process: p50 {:.1} µs",
            found.count(),
            native.quantile(0.5) as f64 / 1e3
        ),
    ))
}

fn host_json(effort: Effort, folder: &Path) -> Result<Bar> {
    let guest = built(folder, "bench_host_json.wasm")?;
    let mut filter = Filter::new(&guest, Isolation::Shared, &order(4 << 10));
    let found = each(effort.slow_calls, || filter.call());
    Ok(at_most(
        "Filter, one field of 4 KiB by the host's parser, p50",
        (found.quantile(0.5) as f64 / 1e3, 6.0, "µs"),
        format!("{} calls, each timed; capability `json`", found.count()),
    ))
}

/// Calls a second of so many threads together, each with its own instance.
fn rate(filter: &Filter, threads: usize, time: Duration) -> f64 {
    let begin = Barrier::new(threads);
    let is_over = AtomicBool::new(false);
    let total: f64 = thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|_| {
                let mut own = Filter::of(filter.sandbox(), &[b'1'; 128]);
                let (begin, is_over) = (&begin, &is_over);
                scope.spawn(move || {
                    // The instance is made before the clock runs.
                    own.call();
                    begin.wait();
                    let started = Instant::now();
                    let mut calls = 0_u64;
                    while !is_over.load(Ordering::Relaxed) {
                        for _ in 0..64 {
                            own.call();
                        }
                        calls += 64;
                    }
                    calls as f64 / started.elapsed().as_secs_f64()
                })
            })
            .collect();
        thread::sleep(time);
        is_over.store(true, Ordering::Relaxed);
        running
            .into_iter()
            .map(|thread| thread.join().expect("a caller does not panic"))
            .sum()
    });
    total
}

/// The better of a few tries: what the machine does beside it only ever takes away.
fn best_rate(filter: &Filter, threads: usize, time: Duration) -> f64 {
    (0..5)
        .map(|_| rate(filter, threads, time))
        .fold(0.0, f64::max)
}

fn throughput(effort: Effort) -> [Bar; 2] {
    let filter = Filter::new(&lean_guest(), Isolation::Shared, &[b'1'; 128]);
    let time = Duration::from_micros(u64::from(effort.quick_calls));
    let (one, two) = (best_rate(&filter, 1, time), best_rate(&filter, 2, time));
    let how = format!(
        "best of 5 runs; {:.2} million on one thread, {:.2} on two",
        one / 1e6,
        two / 1e6
    );
    [
        at_least(
            "Lean calls a second and core",
            (one / 1e6, 2.5, "million"),
            how.clone(),
        ),
        at_least(
            "Lean calls, two threads against one",
            (two / one, 1.8, "x"),
            how,
        ),
    ]
}

fn fresh_instances(effort: Effort) -> [Bar; 2] {
    let mut filter = Filter::new(&lean_guest(), Isolation::PerCall, &[b'1'; 128]);
    let found = each(effort.slow_calls, || filter.call());
    let time = Duration::from_micros(u64::from(effort.quick_calls));
    let (one, two) = (best_rate(&filter, 1, time), best_rate(&filter, 2, time));
    [
        at_most(
            "A fresh instance for each call, p50",
            (found.quantile(0.5) as f64 / 1e3, 12.0, "µs"),
            format!(
                "`--isolation per-call`, {} calls, each timed; p99 {:.1} µs",
                found.count(),
                found.quantile(0.99) as f64 / 1e3
            ),
        ),
        at_least(
            "Fresh instances, two threads against one",
            (two / one, 1.8, "x"),
            format!("best of 5 runs; {one:.0} calls a second on one thread, {two:.0} on two"),
        ),
    ]
}

/// The call after one that trapped: the old instance is gone, a new one is made.
fn after_a_trap(effort: Effort) -> Bar {
    let guest = guests::filtering(&format!(
        "(if (i32.eq (i32.load8_u (local.get 4)) (i32.const 120)) (then unreachable)) {}",
        guests::PASS
    ));
    let mut filter = Filter::new(&guest, Isolation::Shared, &[b'1'; 128]);
    let sandbox = Arc::clone(filter.sandbox());
    let mut found = Histogram::default();
    for _ in 0..effort.slow_calls / 20 {
        let trapped = guests::ready(sandbox.filter(guests::draft("room", b"x")));
        assert!(trapped.is_err(), "it should have trapped");
        let one = each(1, || filter.call());
        found.add(one.max());
        // One failure in twenty keeps the breaker out of it.
        for _ in 0..19 {
            filter.call();
        }
    }
    at_most(
        "The call after a trap, p50",
        (found.quantile(0.5) as f64 / 1e3, 50.0, "µs"),
        format!(
            "{} traps; with the instance that is made for it",
            found.count()
        ),
    )
}
