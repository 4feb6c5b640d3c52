//! Tidegate's lean hook beside other ways to put somebody else's code into a message's way, in one run: extism (a
//! plugin system on wasmtime) and a hook over loopback HTTP.
//!
//! `cargo xtask bench --compare` builds and runs it, and puts the table into `docs/performance.md`. Each way gets the
//! least work that it can be given: extism's guest does not even read its input.

use std::{fmt::Write as _, fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use clap::Parser;
use extism::{Manifest, Plugin, PluginBuilder, Wasm};
use tidegate_bench::{
    histogram::Histogram,
    plugins::{Effort, Filter, each, http_hook, lean_guest},
    report::Report,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Of a filtering call.
const DEADLINE: Duration = Duration::from_millis(5);

/// Measures the ways beside one another.
#[derive(Debug, Parser)]
struct Options {
    /// Where the result is left for the report.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Few calls: to see that it works, not to believe.
    #[arg(long)]
    quick: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let effort = if options.quick {
        Effort::QUICK
    } else {
        Effort::FULL
    };
    let mut rows: Vec<(String, Histogram)> = Vec::new();
    for (len, size) in [(128, "128 B"), (4 << 10, "4 KiB")] {
        let data = vec![b'1'; len];
        let mut filter = Filter::new(&lean_guest(), Default::default(), &data);
        let found = each(effort.quick_calls, || filter.call());
        rows.push((
            format!("Tidegate, filter, {size} (deadline, breaker, counters, checks)"),
            found,
        ));
        for timeout in [None, Some(DEADLINE)] {
            let mut plugin = plugin(timeout)?;
            let found = each(effort.slow_calls, || {
                plugin
                    .call::<&[u8], &[u8]>("filter", &data)
                    .map(|_| ())
                    .expect("the guest answers");
            });
            let with = match timeout {
                Some(_) => "with a timeout",
                None => "without a timeout",
            };
            rows.push((format!("extism 1.30, {size}, {with}"), found));
        }
    }
    let http = http_hook::measure(effort.slow_calls)?;
    rows.push((
        "HTTP hook on the loopback, 128 B, one at a time".to_owned(),
        http.one_at_a_time,
    ));
    let mut table = String::from("| Way | p50, µs | p99, µs | mean, µs |\n|---|---|---|---|\n");
    for (way, found) in &rows {
        writeln!(
            table,
            "| {way} | {:.2} | {:.2} | {:.2} |",
            found.quantile(0.5) as f64 / 1e3,
            found.quantile(0.99) as f64 / 1e3,
            found.mean() / 1e3
        )?;
    }
    writeln!(
        table,
        "\nOne process, one run, calls from one thread, each timed; `cargo xtask bench --compare`. extism's guest \
         returns at once without reading its input. The HTTP hook is hyper on both sides, a kept-alive connection and \
         JSON both ways; 64 at a time, one request takes {:.1} µs of processor time, both sides together.",
        http.cpu_ns / 1e3
    )?;
    println!("{table}");
    let report = Report {
        bars: Vec::new(),
        sections: vec![("Against other ways to call somebody's code".to_owned(), table)],
    };
    if let Some(out) = options.out {
        fs::write(&out, serde_json::to_vec_pretty(&report)?)
            .with_context(|| format!("cannot write {}", out.display()))?;
    }
    Ok(())
}

fn plugin(timeout: Option<Duration>) -> Result<Plugin> {
    let guest = wat::parse_str(
        r#"(module (memory (export "memory") 1) (func (export "filter") (result i32) (i32.const 0)))"#,
    )?;
    let mut manifest = Manifest::new([Wasm::data(guest)]);
    if let Some(timeout) = timeout {
        manifest = manifest.with_timeout(timeout);
    }
    PluginBuilder::new(manifest).with_wasi(false).build()
}
