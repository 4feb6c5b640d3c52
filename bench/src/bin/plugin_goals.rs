//! The goals of plugins, measured in this process: one call, an instance's life, a swap, an upload, memory, and a hook
//! over loopback HTTP beside them. Started by `cargo xtask bench`; what it leaves joins `docs/performance.md`.

#![expect(clippy::print_stdout, reason = "its result is its output")]

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Parser;
use tidegate_bench::{
    plugins::{Effort, calls, http_hook, life},
    report::{Bar, Report, at_least, at_most},
};

/// The same allocator as the server, since an instance is a few allocations as well.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures what plugins cost.
#[derive(Debug, Parser)]
struct Options {
    /// The folder with the built wasm guests.
    #[arg(long)]
    plugins: PathBuf,
    /// Where the result is left for the report.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Measures only this part, for looking into it; may be given several times: `empty`, `lean`, `context`, `replace`,
    /// `json`, `authenticate`, `rate` or `fresh` of single calls, `traps` of the long runs.
    #[arg(long)]
    only: Vec<String>,
    /// Few calls: to see that it works, not to believe.
    #[arg(long)]
    quick: bool,
}

fn main() -> Result<()> {
    if std::env::args().nth(1).as_deref() == Some(life::COMPILE_CHILD) {
        return Ok(tidegate_sandbox::compile_child()?);
    }
    let options = Options::parse();
    let effort = if options.quick {
        Effort::QUICK
    } else {
        Effort::FULL
    };
    let mut report = Report::default();
    let mut add = |bars: Vec<Bar>| {
        for bar in bars {
            println!("{}", report.add(bar));
        }
    };
    let is_whole = options.only.is_empty();
    let (long, single): (Vec<_>, Vec<_>) =
        options.only.into_iter().partition(|part| part == "traps");
    if !long.is_empty() {
        add(vec![many_traps(options.quick)?]);
    }
    if is_whole || !single.is_empty() {
        add(calls::bars(effort, &options.plugins, &single)?);
    }
    if !is_whole {
        return Ok(());
    }
    add(life::bars(effort, &options.plugins)?);
    add(against_http(effort)?);
    add(vec![long_run(options.quick)?, many_traps(options.quick)?]);
    if let Some(out) = options.out {
        report.leave(&out)?;
    }
    // Missed bars are the report's to tell.
    Ok(())
}

fn against_http(effort: Effort) -> Result<Vec<Bar>> {
    let lean = calls::lean(effort);
    let http = http_hook::measure(effort.slow_calls)?;
    let one = http.one_at_a_time.quantile(0.5) as f64;
    let how = format!(
        "HTTP: p50 {:.1} µs, p99 {:.1} µs one at a time, {:.1} µs of processor time 64 at a time, both sides; \
         the plugin: p50 {} ns, mean {:.0} ns",
        one / 1e3,
        http.one_at_a_time.quantile(0.99) as f64 / 1e3,
        http.cpu_ns / 1e3,
        lean.quantile(0.5),
        lean.mean()
    );
    Ok(vec![
        at_least(
            "A hook over loopback HTTP against a lean plugin, latency",
            (one / lean.quantile(0.5).max(1) as f64, 50.0, "x"),
            how.clone(),
        ),
        at_least(
            "A hook over loopback HTTP against a lean plugin, processor time",
            (http.cpu_ns / lean.mean().max(1.0), 25.0, "x"),
            how,
        ),
    ])
}

fn long_run(is_quick: bool) -> Result<Bar> {
    let (calls, swaps) = if is_quick {
        (100_000, 100)
    } else {
        (10_000_000, 1_000)
    };
    growth(
        "Growth of memory over a long run",
        &life::long_run(calls, swaps)?,
        &format!("{calls} calls, {swaps} swaps"),
    )
}

fn many_traps(is_quick: bool) -> Result<Bar> {
    let traps = if is_quick { 2_000 } else { 100_000 };
    growth(
        "Growth of memory over a hundred thousand traps",
        &life::many_traps(traps)?,
        &format!(
            "{traps} traps, each with an instance, a story and a line in the log; a version for every five, after which its breaker opens"
        ),
    )
}

/// How far resident memory rose over the parts of a run.
fn growth(what: &str, resident: &[u64], run: &str) -> Result<Bar> {
    ensure!(resident.len() >= 3, "the run was too short");
    // The first parts warm up: allocator, tables, the first instances, stories and logs up to their bounds.
    let (first, last) = (resident[1], resident[resident.len() - 1]);
    let grown = last.saturating_sub(first) as f64 / 1024.0;
    Ok(at_most(
        what,
        (grown, 1_024.0, "KiB"),
        format!(
            "{run}; {} KiB resident after two tenths, {} KiB at the end",
            first >> 10,
            last >> 10
        ),
    ))
}
