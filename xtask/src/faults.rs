//! `cargo xtask faults`: every fault at full size, its table into docs/faults.md.

use anyhow::Result;

use crate::steps::{self, Steps};
use crate::workspace::Workspace;
use crate::{demo, toolchain};

pub(crate) fn run(steps: &mut Steps, workspace: &Workspace, options: &[String]) -> Result<()> {
    toolchain::rust(steps, workspace)?;
    toolchain::redis(steps)?;
    demo::build_server(steps, workspace)?;
    steps.command(
        "building the program that plays faults",
        "read the compiler's message above",
        workspace
            .cargo()
            .args(["build", "--workspace", "--bin", "faults"]),
    )?;
    let commit = line_of("git", &["rev-parse", "--short", "HEAD"], workspace)?;
    let date = line_of("date", &["--utc", "+%Y-%m-%d"], workspace)?;
    let mut faults = std::process::Command::new(workspace.target.join("debug/faults"));
    faults
        .current_dir(&workspace.root)
        .env("TIDEGATE_BIN", workspace.server())
        .args(options);
    // A table of some rows, or of small ones, is not the one that the documentation shows.
    if options.is_empty() {
        faults.args([
            "--markdown",
            "docs/faults.md",
            "--commit",
            &commit,
            "--date",
            &date,
        ]);
    }
    steps.command(
        "playing faults (half an hour for all of them)",
        "read the lines above: each violation says which invariant it breaks; `cargo xtask faults F3` plays one row",
        &mut faults,
    )?;
    steps.print_summary();
    Ok(())
}

fn line_of(program: &str, arguments: &[&str], workspace: &Workspace) -> Result<String> {
    let mut command = std::process::Command::new(program);
    command.args(arguments).current_dir(&workspace.root);
    Ok(steps::output(&mut command)?.trim().to_owned())
}
