//! Plays rows and prints a line for each: `faults [--quarter] [--markdown FILE] [ROW…]`.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line program talks to its user"
)]

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use tidegate_faults::{
    rows::{Report, Row},
    stage::Size,
};

/// Plays faults against real nodes and judges what their clients saw.
#[derive(Debug, Parser)]
struct Options {
    /// A quarter of the load and short waits, as in every CI run.
    #[arg(long)]
    quarter: bool,
    /// Writes the table between the marks of this file.
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// The commit that the table is of.
    #[arg(long, default_value = "unknown")]
    commit: String,
    /// The day of the run.
    #[arg(long, default_value = "unknown")]
    date: String,
    /// The rows to play, as F1; none means all.
    rows: Vec<String>,
}

/// The table stands between these lines.
const BEGIN: &str = "<!-- measured: begin -->";
const END: &str = "<!-- measured: end -->";

fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let result = runtime
        .context("no runtime")
        .and_then(|runtime| runtime.block_on(play(&options)));
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn play(options: &Options) -> Result<bool> {
    let known: Vec<&str> = Row::ALL.iter().map(|row| row.id()).collect();
    for wanted in &options.rows {
        let is_known = known.iter().any(|id| id.eq_ignore_ascii_case(wanted));
        ensure!(is_known, "there is no row {wanted}; there are {known:?}");
    }
    let is_wanted = |row: &Row| {
        let mut wanted = options.rows.iter();
        options.rows.is_empty() || wanted.any(|wanted| row.id().eq_ignore_ascii_case(wanted))
    };
    let size = match options.quarter {
        true => Size::Quarter,
        false => Size::Full,
    };
    let mut table =
        String::from("| Row | Fault | Size | Result | Seen |\n| --- | --- | --- | --- | --- |\n");
    let mut all_passed = true;
    for row in Row::ALL.into_iter().filter(is_wanted) {
        println!("=== {} {}", row.id(), row.fault());
        let (result, seen) = match row.run(size).await {
            Ok(report) => {
                println!("{report}");
                for violation in report.verdict.violations.iter().take(10) {
                    println!("    {violation}");
                }
                all_passed &= report.verdict.passed();
                words(&report)
            }
            Err(error) => {
                println!("{} NOT PLAYED: {error:#}", row.id());
                all_passed = false;
                ("not played", "-".to_owned())
            }
        };
        let (id, fault) = (row.id(), row.fault());
        let line = format!("| {id} | {fault} | {size} | {result} | `{seen}` |\n");
        table.push_str(&line);
        // After each row: who stops the program keeps what it has shown.
        if let Some(path) = &options.markdown {
            write(path, options, &table)?;
        }
    }
    Ok(all_passed)
}

fn words(report: &Report) -> (&'static str, String) {
    let result = match report.verdict.passed() {
        true => "passed",
        false => "**failed**",
    };
    let seen = format!("{} effects={}", report.verdict.figures, report.effects);
    (result, seen)
}

fn write(path: &PathBuf, options: &Options, table: &str) -> Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let (before, rest) = text
        .split_once(BEGIN)
        .context("the file has no begin mark")?;
    let (_, after) = rest.split_once(END).context("the file has no end mark")?;
    let Options { commit, date, .. } = options;
    let text = format!(
        "{before}{BEGIN}\n\nMeasured on {date} at commit {commit}.\n\n{table}\n{END}{after}"
    );
    std::fs::write(path, text).with_context(|| path.display().to_string())
}
