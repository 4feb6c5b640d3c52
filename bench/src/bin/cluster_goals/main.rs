//! The goals of several nodes on one Redis, measured through real sockets: what a publish with history costs, how long
//! it takes to another node, how fast a node hears everything again, what an idle node asks of Redis, whether
//! presence holds anybody up, and how soon plugins know what happened on another node.
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
mod plugins;
mod presence;
mod publish;
mod subscriptions;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Parser;
use tidegate_bench::{
    process,
    run::{Run, Thoroughness},
};

/// Measures nodes that share a Redis.
#[derive(Debug, Parser)]
struct Options {
    /// The server's release binary.
    #[arg(long)]
    server: PathBuf,
    /// The folder of the guests; without it the part about plugins is left out.
    #[arg(long)]
    plugins: Option<PathBuf>,
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
    /// What plugins know of the other node.
    Plugins,
}

struct Goals {
    options: Options,
    run: Run,
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    process::raise_file_limit();
    println!(
        "{}; load average {:.1}",
        process::machine(),
        process::load_average()
    );
    let run = Run::new(Thoroughness::of_option(options.quick));
    let mut goals = Goals { options, run };
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
    if goals.wants(Part::Plugins) {
        goals.plugins()?;
    }
    goals.finish()
}

impl Goals {
    fn wants(&self, part: Part) -> bool {
        self.options.only.is_empty() || self.options.only.contains(&part)
    }

    fn count(&self, count: usize) -> usize {
        self.run.thoroughness.or(count, count / 10)
    }

    fn samples(&self, samples: usize) -> usize {
        self.run.thoroughness.or(samples, 1)
    }

    fn section(&mut self, title: &str, text: String) {
        println!("\n{text}");
        self.run.report.sections.push((title.to_owned(), text));
    }

    /// Missed bars are the report's to tell; alone they end the program with status 1.
    fn finish(self) -> Result<ExitCode> {
        print!("\n{}", self.run.report.table());
        let verdict = self.run.finish();
        let Some(out) = &self.options.out else {
            return Ok(verdict);
        };
        self.run.report.leave(out)?;
        Ok(ExitCode::SUCCESS)
    }
}
