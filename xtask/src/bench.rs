//! `cargo xtask bench`: criterion for the hot paths, then the side-by-side program for the bars.

use anyhow::{Result, bail};

use crate::steps::Steps;
use crate::workspace::Workspace;
use crate::{guests, toolchain};

/// Our crates with criterion benches of their own.
const CRITERION: &[&str] = &["tidegate-protocol", "tidegate-realtime", "tidegate-sandbox"];

pub(crate) fn run(steps: &mut Steps, workspace: &Workspace, options: &[String]) -> Result<()> {
    let (ours, passed_on) = match options.iter().position(|option| option == "--") {
        Some(at) => (&options[..at], &options[at + 1..]),
        None => (options, [].as_slice()),
    };
    let (criterion, load) = match ours {
        [] => (true, true),
        [only] if only == "--load" => (false, true),
        [only] if only == "--criterion" => (true, false),
        _ => bail!(
            "`cargo xtask bench` knows --load and --criterion; arguments after `--` go to the side-by-side program"
        ),
    };
    toolchain::rust(steps, workspace)?;
    guests::build(steps, workspace)?;
    if criterion {
        for name in CRITERION.iter().filter(|name| has_benches(workspace, name)) {
            steps.command(
                &format!("running the criterion benches of {name}"),
                "read the compiler's or the bench's message above",
                workspace
                    .cargo()
                    .args(["bench", "--quiet", "--package", name, "--benches"])
                    .env("TEST_PLUGINS", workspace.guests()),
            )?;
        }
    }
    if load {
        steps.command(
            "building server, ceiling and load client as they are shipped (long: whole-program optimisation)",
            "read the compiler's message above",
            workspace.cargo().args(["build", "--quiet", "--release", "--package", "tidegate", "--package", "tidegate-bench"]),
        )?;
        let mut side_by_side =
            std::process::Command::new(workspace.target.join("release/side_by_side"));
        side_by_side
            .current_dir(&workspace.root)
            .arg("--server")
            .arg(workspace.release_server())
            .arg("--plugins")
            .arg(workspace.guests())
            .args(["--report", "docs/performance.md"])
            .args(passed_on);
        steps.command(
            "measuring side by side with the ceiling",
            "a missed bar is named in the table above; close other programs and run it again before you believe it",
            &mut side_by_side,
        )?;
    }
    steps.print_summary();
    Ok(())
}

fn has_benches(workspace: &Workspace, name: &str) -> bool {
    workspace
        .packages()
        .filter(|package| package["name"] == name)
        .any(|package| {
            package["targets"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|target| {
                    target["kind"]
                        .as_array()
                        .is_some_and(|kinds| kinds.iter().any(|kind| kind == "bench"))
                })
        })
}
