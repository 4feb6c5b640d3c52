//! The goals of what happens around calls: a swap, an upload, a start, memory.

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tidegate_realtime::{hooks::Hooks, ids::AppId};
use tidegate_sandbox::{
    Bindings, CacheConfig, Compilation, CompileChild, Hook, Isolation, Sandbox, SandboxConfig,
};

use super::{Effort, Filter, each, guests, lean_guest};
use crate::{
    histogram::Histogram,
    process::memory,
    report::{Bar, at_most, median},
};

/// With this argument the program is the compile child.
pub const COMPILE_CHILD: &str = "--compile-child";

/// All of them. `folder` has the plugins that were built to wasm.
///
/// # Errors
/// When a plugin is missing, or the system does not tell what this process holds.
pub fn bars(effort: Effort, folder: &Path) -> Result<Vec<Bar>> {
    let mut bars = Vec::from(swaps(effort));
    bars.push(upload(folder)?);
    bars.extend(start_and_memory()?);
    bars.push(instances()?);
    Ok(bars)
}

/// Swaps every ten milliseconds while another thread calls.
fn swaps(effort: Effort) -> [Bar; 2] {
    let mut filter = Filter::new(&lean_guest(), Isolation::Shared, &[b'1'; 128]);
    let sandbox = Arc::clone(filter.sandbox());
    let compiled = guests::compile(&sandbox, &lean_guest());
    let quiet = each(effort.quick_calls, || filter.call());
    let is_over = AtomicBool::new(false);
    let (took, beside) = thread::scope(|scope| {
        let swapping = scope.spawn(|| {
            let mut took = Histogram::default();
            let mut version = 1;
            while !is_over.load(Ordering::Relaxed) {
                version += 1;
                let mut binding = guests::binding(&compiled, Hook::Filtering);
                // Settings, not the version: a new version would first run on threads of its own.
                binding.config = format!("{{\"n\":{version}}}").into();
                let before = Instant::now();
                guests::bind(&sandbox, vec![binding]);
                took.add(u64::try_from(before.elapsed().as_nanos()).unwrap_or(u64::MAX));
                thread::sleep(Duration::from_millis(10));
            }
            took
        });
        let beside = each(effort.quick_calls, || filter.call());
        is_over.store(true, Ordering::Relaxed);
        (swapping.join().expect("a swap does not panic"), beside)
    });
    [
        at_most(
            "Swap of what is bound, p50",
            (took.quantile(0.5) as f64 / 1e6, 1.0, "ms"),
            format!(
                "{} swaps, one every 10 ms, while another thread calls; at most {:.2} ms",
                took.count(),
                took.max() as f64 / 1e6
            ),
        ),
        at_most(
            "p99 of a lean call during swaps, as a multiple of that without",
            (
                beside.quantile(0.99) as f64 / quiet.quantile(0.99).max(1) as f64,
                1.5,
                "x",
            ),
            format!(
                "{} ns against {} ns",
                beside.quantile(0.99),
                quiet.quantile(0.99)
            ),
        ),
    ]
}

/// From the bytes to the first possible call, compiled in a process of its own as on a server.
fn upload(folder: &Path) -> Result<Bar> {
    let path = folder.join("word_filter.wasm");
    let upload = fs::read(&path).with_context(|| {
        format!(
            "{} is missing; `cargo xtask build --guests` makes it",
            path.display()
        )
    })?;
    let mut took = Vec::new();
    for _ in 0..9 {
        let child = CompileChild {
            // As the server does: its allocator takes address space by the gibibyte unless told otherwise.
            environment: vec![("MIMALLOC_ARENA_RESERVE".into(), "65536".into())],
            ..CompileChild::this_program([COMPILE_CHILD.into()])?
        };
        let sandbox = Sandbox::new(SandboxConfig {
            compilation: Compilation::Child(child),
            ..SandboxConfig::default()
        })?;
        let before = Instant::now();
        let admitted = sandbox.admit(&upload)?;
        let compiled = sandbox.compile(&admitted)?;
        guests::bind(&sandbox, vec![guests::binding(&compiled, Hook::Filtering)]);
        took.push(before.elapsed().as_secs_f64() * 1e3);
    }
    Ok(at_most(
        "Upload to live",
        (median(took), 200.0, "ms"),
        format!(
            "median of 9: a plugin of {} KiB, checked, compiled in a process of its own, tried and bound",
            upload.len() >> 10
        ),
    ))
}

/// Different components, as many.
fn many(n: usize) -> Vec<Vec<u8>> {
    (0..n)
        .map(|n| {
            let mut body = String::new();
            // Writing to a string cannot fail.
            let _ = writeln!(body, "(data (i32.const 2048) \"plugin {n}\")");
            body.push_str(guests::PASS);
            guests::filtering(&body)
        })
        .collect()
}

/// A start with a hundred plugins in the cache, and what they take in memory.
fn start_and_memory() -> Result<[Bar; 2]> {
    const PLUGINS: usize = 100;
    let directory = tempfile::tempdir()?;
    let config = || -> Result<SandboxConfig> {
        let cache = CacheConfig::open(
            directory.path().to_owned(),
            &directory.path().join("artifact.key"),
        )?;
        Ok(SandboxConfig {
            cache: Some(cache),
            ..SandboxConfig::default()
        })
    };
    let uploads = many(PLUGINS);
    let first = Sandbox::new(config()?)?;
    let mut admitted = Vec::new();
    for upload in &uploads {
        let one = first.admit(upload)?;
        first.compile(&one)?;
        admitted.push(one);
    }
    drop(first);
    let second = Sandbox::new(config()?)?;
    let before = memory(process::id())?.resident;
    let started = Instant::now();
    let mut compiled = Vec::new();
    for one in &admitted {
        compiled.push(second.compile(one)?);
    }
    let took = started.elapsed().as_secs_f64() * 1e3;
    let grown = memory(process::id())?.resident.saturating_sub(before);
    drop(compiled);
    Ok([
        at_most(
            "Load 100 plugins from the cache",
            (took, 30.0, "ms"),
            "100 different components; each read, its MAC checked, mapped and tried".to_owned(),
        ),
        at_most(
            "Memory of a loaded plugin",
            (grown as f64 / PLUGINS as f64 / 1024.0, 512.0, "KiB"),
            "resident memory, 100 different components, loaded and not called".to_owned(),
        ),
    ])
}

/// Live instances, each of an app of its own.
fn instances() -> Result<Bar> {
    const APPS: usize = 500;
    let sandbox = guests::sandbox();
    let compiled = guests::compile(&sandbox, &lean_guest());
    let apps: Vec<AppId> = (0..APPS)
        .map(|n| AppId::parse(&format!("app-{n}")).context("the name of an app"))
        .collect::<Result<_>>()?;
    let bindings = Bindings {
        apps: apps
            .iter()
            .map(|app| {
                (
                    app.clone(),
                    vec![guests::binding(&compiled, Hook::Filtering)],
                )
            })
            .collect(),
    };
    sandbox.apply(&bindings).context("bindings that hold")?;
    let before = memory(process::id())?.resident;
    let alive = sandbox.statistics().instances;
    for app in apps {
        let mut draft = guests::draft("room", &[b'1'; 128]);
        draft.app = app;
        let _ = guests::ready(sandbox.filter(draft));
    }
    let grown = memory(process::id())?.resident.saturating_sub(before);
    let made = sandbox.statistics().instances - alive;
    Ok(at_most(
        "Memory of a live instance",
        (grown as f64 / made.max(1) as f64 / 1024.0, 64.0, "KiB"),
        format!("resident memory, {made} instances of {APPS} apps after one call each"),
    ))
}

/// Millions of calls and hundreds of swaps: memory must not follow them. Answers the resident bytes after each of
/// ten parts.
///
/// # Errors
/// When the system does not tell what this process holds.
pub fn long_run(calls: u64, swaps: u32) -> Result<Vec<u64>> {
    let mut filter = Filter::new(&lean_guest(), Isolation::Shared, &[b'1'; 128]);
    let sandbox = Arc::clone(filter.sandbox());
    let compiled = guests::compile(&sandbox, &lean_guest());
    let per_swap = calls / u64::from(swaps.max(1));
    let mut resident = Vec::new();
    for swap in 0..swaps {
        let mut binding = guests::binding(&compiled, Hook::Filtering);
        // Settings and versions in turn: a new version has a breaker, a lane, counts and a log of its own.
        binding.version = 1 + swap / 2;
        binding.config = format!("{{\"n\":{swap}}}").into();
        guests::bind(&sandbox, vec![binding]);
        for _ in 0..per_swap {
            filter.call();
        }
        if (swap + 1) % (swaps / 10).max(1) == 0 {
            resident.push(memory(process::id())?.resident);
        }
    }
    Ok(resident)
}

/// Traps, one after the other: each costs an instance and leaves a story and a line in the log. Every fifth is the last
/// of its version, because then a breaker opens and nothing would be called any more. Answers the resident bytes
/// after each of ten parts.
///
/// # Errors
/// When the system does not tell what this process holds.
pub fn many_traps(traps: u32) -> Result<Vec<u64>> {
    const UNTIL_THE_BREAKER_OPENS: u32 = 5;
    let sandbox = guests::sandbox();
    let compiled = guests::compile(&sandbox, &guests::filtering("unreachable"));
    let versions = traps / UNTIL_THE_BREAKER_OPENS;
    let mut resident = Vec::new();
    for version in 1..=versions {
        let mut binding = guests::binding(&compiled, Hook::Filtering);
        binding.version = version;
        guests::bind(&sandbox, vec![binding]);
        for _ in 0..UNTIL_THE_BREAKER_OPENS {
            let trapped = guests::ready(sandbox.filter(guests::draft("room", b"{}")));
            assert!(trapped.is_err(), "it should have trapped");
        }
        if version % (versions / 10).max(1) == 0 {
            resident.push(memory(process::id())?.resident);
        }
    }
    Ok(resident)
}
