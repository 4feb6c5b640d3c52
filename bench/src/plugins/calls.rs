//! The goals of one call.

use std::{
    fs,
    path::Path,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tidegate_realtime::hooks::Hooks;
use tidegate_sandbox::Isolation;

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

/// All goals of one call. `folder` has the guests that were built to wasm.
///
/// # Errors
/// When a guest is missing.
pub fn bars(effort: Effort, folder: &Path) -> Result<Vec<Bar>> {
    let found = lean(effort);
    let calls = format!("{} calls, each timed", found.count());
    let mut bars = vec![
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
    ];
    bars.push(replace(effort));
    bars.push(typed_json(effort, folder)?);
    bars.push(host_json(effort, folder)?);
    bars.extend(throughput(effort));
    bars.extend(fresh_instances(effort));
    bars.push(after_a_trap(effort));
    Ok(bars)
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
    let mut filter = Filter::new(&guest, Isolation::Shared, &order(4 << 10));
    let found = each(effort.slow_calls, || filter.call());
    Ok(at_most(
        "Filter, parses 4 KiB of JSON into types, p50",
        (found.quantile(0.5) as f64 / 1e3, 11.0, "µs"),
        format!("{} calls, each timed; serde in the guest", found.count()),
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
