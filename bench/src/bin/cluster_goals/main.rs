//! The goals of several nodes on one Redis, measured through real sockets: what a publish with history costs, how long
//! it takes to another node, how fast a node hears everything again, what an idle node asks of Redis, and whether
//! presence holds anybody up.
//!
//! Started by `cargo xtask bench --cluster`. Starts a `redis-server` of its own for each part, and nodes from the
//! server's binary; everything is stopped at the end. What it leaves joins `docs/performance.md`.

#![expect(clippy::print_stdout, reason = "its result is its output")]
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "measures with the real clock and its own threads"
)]

mod cluster;
mod presence;
mod publish;
mod subscriptions;

use std::{fs, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use clap::Parser;
use tidegate_bench::{
    process,
    report::{Bar, Report},
};

/// Measures nodes that share a Redis.
#[derive(Debug, Parser)]
struct Options {
    /// The server's release binary.
    #[arg(long)]
    server: PathBuf,
    /// Where the result is left for the report.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Only this part; may be given several times.
    #[arg(long)]
    only: Vec<Part>,
    /// A tenth of everything: to see that it works, not to believe.
    #[arg(long)]
    quick: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Publish with history, one node and two.
    Publish,
    /// From one node to the other, at half load.
    Latency,
    /// Subscribing, and doing so again after a lost connection.
    Subscriptions,
    /// What a node without clients asks of Redis.
    Idle,
    /// Ten thousand members read and refreshed.
    Presence,
}

struct Goals {
    options: Options,
    report: Report,
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    process::raise_file_limit();
    println!(
        "{}; load average {:.1}",
        process::machine(),
        process::load_average()
    );
    let mut goals = Goals {
        options,
        report: Report::default(),
    };
    if goals.wants(Part::Publish) {
        goals.publish()?;
    }
    if goals.wants(Part::Latency) {
        goals.latency()?;
    }
    if goals.wants(Part::Subscriptions) {
        goals.subscriptions()?;
    }
    if goals.wants(Part::Idle) {
        goals.idle()?;
    }
    if goals.wants(Part::Presence) {
        goals.presence()?;
    }
    goals.finish()
}

impl Goals {
    fn wants(&self, part: Part) -> bool {
        self.options.only.is_empty() || self.options.only.contains(&part)
    }

    fn seconds(&self, seconds: f64) -> Duration {
        Duration::from_secs_f64(if self.options.quick {
            seconds / 10.0
        } else {
            seconds
        })
    }

    fn count(&self, count: usize) -> usize {
        if self.options.quick {
            count / 10
        } else {
            count
        }
    }

    fn samples(&self, samples: usize) -> usize {
        if self.options.quick { 1 } else { samples }
    }

    fn add(&mut self, bar: Bar) {
        println!("    {}", self.report.add(bar));
    }

    fn section(&mut self, title: &str, text: String) {
        println!("\n{text}");
        self.report.sections.push((title.to_owned(), text));
    }

    /// Missed bars are the report's to tell; alone they end the program with status 1.
    fn finish(self) -> Result<ExitCode> {
        println!("\n| What | Found | Bar | |\n|---|---|---|---|");
        for bar in &self.report.bars {
            let verdict = if bar.is_met { "met" } else { "**missed**" };
            println!("| {} | {} | {} | {verdict} |", bar.what, bar.found, bar.bar);
        }
        let missed = self.report.missed();
        println!("{} bars, {missed} missed", self.report.bars.len());
        if let Some(out) = &self.options.out {
            let text = serde_json::to_vec_pretty(&self.report)?;
            fs::write(out, text).with_context(|| format!("cannot write {}", out.display()))?;
            return Ok(ExitCode::SUCCESS);
        }
        Ok(if missed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}
