//! `cargo xtask bench`: criterion for the hot paths, then the programs for the bars.

use anyhow::{Result, bail};

use crate::steps::Steps;
use crate::workspace::Workspace;
use crate::{guests, toolchain};

/// The criterion benches, each in its crate's `benches/`.
const CRITERION: &[&str] = &["codec", "session", "fanout", "hook_call"];

pub(crate) fn run(steps: &mut Steps, workspace: &Workspace, options: &[String]) -> Result<()> {
    let (ours, passed_on) = match options.iter().position(|option| option == "--") {
        Some(at) => (&options[..at], &options[at + 1..]),
        None => (options, [].as_slice()),
    };
    let mut ours = ours.to_vec();
    let compares = ours.iter().any(|option| option == "--compare");
    ours.retain(|option| option != "--compare");
    let (criterion, load) = match &*ours {
        [] => (true, true),
        [only] if only == "--load" => (false, true),
        [only] if only == "--criterion" && !compares => (true, false),
        [only] if only == "--cluster" && !compares => return cluster(steps, workspace, passed_on),
        _ => bail!(
            "`cargo xtask bench` knows --load, --criterion, --cluster and --compare; arguments after `--` go to the \
             side-by-side program, those after `--cluster --` to that of clusters"
        ),
    };
    toolchain::rust(steps, workspace)?;
    guests::build(steps, workspace, guests::FOLDERS)?;
    if criterion {
        let benches = CRITERION.iter().flat_map(|name| ["--bench", name]);
        steps.command(
            "running the criterion benches (long: each is built as what is shipped)",
            "read the compiler's or the bench's message above",
            workspace
                .cargo()
                .args(["bench", "--quiet", "--workspace"])
                .args(benches)
                .env("TEST_PLUGINS", workspace.guests()),
        )?;
    }
    if load {
        build(steps, workspace)?;
        let mut found = vec![
            workspace.target.join("plugin-goals.json"),
            workspace.target.join("cluster-goals.json"),
        ];
        let mut goals = std::process::Command::new(workspace.target.join("release/plugin_goals"));
        goals
            .arg("--plugins")
            .arg(workspace.guests())
            .arg("--out")
            .arg(&found[0]);
        steps.command(
            "measuring what plugins cost",
            "read the program's message above",
            &mut goals,
        )?;
        let mut cluster = cluster_goals(workspace);
        cluster.arg("--out").arg(&found[1]);
        steps.command(CLUSTER, CLUSTER_HELP, &mut cluster)?;
        if compares {
            let out = workspace.target.join("compare.json");
            steps.command(
                "measuring other ways to call somebody's code (the first time builds extism: ten minutes)",
                "read the compiler's message above",
                workspace
                    .cargo()
                    .args(["run", "--quiet", "--release", "--manifest-path", "bench/compare/Cargo.toml"])
                    .args(["--", "--out"])
                    .arg(&out)
                    // Another lock, other features: the two would undo each other's builds.
                    .env("CARGO_TARGET_DIR", workspace.target.join("compare")),
            )?;
            found.push(out);
        }
        let mut side_by_side =
            std::process::Command::new(workspace.target.join("release/side_by_side"));
        side_by_side
            .current_dir(&workspace.root)
            .arg("--server")
            .arg(workspace.release_server())
            .arg("--plugins")
            .arg(workspace.guests())
            .args(["--report", "docs/performance.md"]);
        for path in found {
            side_by_side.arg("--join").arg(path);
        }
        if criterion {
            // Only what was measured just now: older results may be of other code.
            side_by_side
                .arg("--criterion")
                .arg(workspace.target.join("criterion"));
        }
        side_by_side.args(passed_on);
        steps.command(
            "measuring side by side with the ceiling",
            "a missed bar is named in the table above; close other programs and run it again before you believe it",
            &mut side_by_side,
        )?;
    }
    steps.print_summary();
    Ok(())
}

const CLUSTER: &str = "measuring nodes that share a Redis";
const CLUSTER_HELP: &str = "a missed bar is named in the table above; close other programs and run it again before you \
                            believe it. Without redis-server on the PATH, name it in REDIS_SERVER";

/// Only what several nodes on one Redis cost; prints it and writes nothing.
fn cluster(steps: &mut Steps, workspace: &Workspace, options: &[String]) -> Result<()> {
    toolchain::rust(steps, workspace)?;
    guests::build(steps, workspace, guests::FOLDERS)?;
    build(steps, workspace)?;
    let mut goals = cluster_goals(workspace);
    goals.args(options);
    steps.command(CLUSTER, CLUSTER_HELP, &mut goals)?;
    steps.print_summary();
    Ok(())
}

fn cluster_goals(workspace: &Workspace) -> std::process::Command {
    let mut goals = std::process::Command::new(workspace.target.join("release/cluster_goals"));
    goals.arg("--server").arg(workspace.release_server());
    goals.arg("--plugins").arg(workspace.guests());
    goals
}

fn build(steps: &mut Steps, workspace: &Workspace) -> Result<()> {
    steps.command(
        "building server, ceiling and load client as they are shipped (long: whole-program optimisation)",
        "read the compiler's message above",
        workspace
            .cargo()
            .args(["build", "--quiet", "--release", "--workspace", "--bins"]),
    )
}
