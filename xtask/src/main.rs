//! The project's commands: `cargo xtask run | build | test | ci | bench | faults`.
//!
//! Everything a person or the CI does with this tree starts here, so that "works here" and "works there" are one
//! sentence. Each step says what it is doing and how long it took; a failed step ends with the one thing to do.
//! Owns no product code and depends on none, so that it builds in seconds on a fresh machine.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line program talks to its user"
)]
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "no async runtime here: threads, the real clock and the environment are what a build tool works with"
)]

mod bench;
mod ci;
mod demo;
mod dependencies;
mod faults;
mod guests;
mod lengths;
mod licence;
mod server;
mod steps;
mod test;
mod toolchain;
mod workspace;

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::steps::Steps;
use crate::workspace::Workspace;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  run     start a server with the demo page and the example plugins; ctrl-c stops it
  build   the server and everything that is built to wasm
            --guests                      only what is built to wasm
  test    every test: Rust, the official JavaScript SDK in Node, the page in Chromium
            --rust | --node | --browser   only that part (may be given more than once)
  ci      what the CI runs: format, lints, documentation, dependency rules, licences, every test
            --lint                        only what needs no test run
  bench   criterion benches, then the side-by-side program; writes docs/performance.md
            --load                        only the side-by-side program (arguments after `--` go to it)
            --criterion                   only the criterion benches
            --cluster                     only nodes on a Redis; prints and writes nothing (arguments after `--` go
                                          to that program: --quick, --only publish|latency|subscriptions|idle|presence)
            --compare                     extism and a hook over HTTP as well (builds extism: ten minutes)
  faults  every fault at full size; writes docs/faults.md
            ROW... | --quarter ROW...     only these, as F3 F9; writes nothing
";

fn main() -> ExitCode {
    let mut steps = Steps::new();
    match dispatch(&mut steps) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            steps.print_summary();
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(steps: &mut Steps) -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (command, options) = match args.split_first() {
        Some((command, options)) => (command.as_str(), options),
        None => ("help", [].as_slice()),
    };
    if matches!(command, "help" | "--help" | "-h") {
        print!("{USAGE}");
        return Ok(());
    }
    let workspace = Workspace::find()?;
    match command {
        "run" => demo::run(steps, &workspace, options),
        "build" => test::build(steps, &workspace, options),
        "test" => test::run(steps, &workspace, options),
        "ci" => ci::run(steps, &workspace, options),
        "bench" => bench::run(steps, &workspace, options),
        "faults" => faults::run(steps, &workspace, options),
        other => bail!("there is no command `{other}`\n\n{USAGE}"),
    }
}
