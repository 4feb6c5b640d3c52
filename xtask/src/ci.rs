//! `cargo xtask ci`: everything that must hold before a change goes in, cheapest first.

use anyhow::{Result, bail};

use crate::steps::Steps;
use crate::workspace::Workspace;
use crate::{dependencies, guests, lengths, licence, test, toolchain};

pub(crate) fn run(steps: &mut Steps, workspace: &Workspace, options: &[String]) -> Result<()> {
    let lint_only = match options {
        [] => false,
        [option] if option == "--lint" => true,
        _ => bail!("`cargo xtask ci` knows only --lint"),
    };
    toolchain::rust(steps, workspace)?;
    steps.command(
        "checking the format",
        "cargo fmt --all",
        workspace.cargo().args(["fmt", "--all", "--check"]),
    )?;
    steps.command(
        "checking that Cargo.lock belongs to the manifests",
        "cargo check --workspace, then commit Cargo.lock",
        workspace.cargo().args(["fetch", "--quiet", "--locked"]),
    )?;
    steps.step(
        "checking the direction of dependencies",
        "move the code, or the rule in xtask/src/dependencies.rs and ARCHITECTURE.md",
        || dependencies::check(workspace),
    )?;
    steps.step(
        "checking that no file is too long",
        "move one of its ideas into a file of its own",
        || lengths::check(workspace),
    )?;
    steps.step(
        "checking licences, bans and sources",
        "choose another crate, or change deny.toml with a reason",
        || licence::check(workspace),
    )?;
    if cargo_deny_is_installed(workspace) {
        steps.command(
            "asking cargo deny as well",
            "choose another crate, or change deny.toml with a reason",
            workspace
                .cargo()
                .args(["deny", "--offline", "check", "bans", "licenses", "sources"]),
        )?;
    }
    steps.command(
        "linting with clippy (warnings are errors)",
        "fix each warning above, or write #[expect(…, reason = \"…\")] where it is wrong",
        workspace.cargo().args([
            "clippy",
            "--quiet",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]),
    )?;
    steps.command(
        "building the documentation (warnings are errors)",
        "fix each broken link or missing document above",
        workspace
            .cargo()
            .args(["doc", "--quiet", "--workspace", "--no-deps"])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    if lint_only {
        guests::build(steps, workspace, guests::FOLDERS)?;
        steps.print_summary();
        return Ok(());
    }
    test::run(steps, workspace, &[])
}

fn cargo_deny_is_installed(workspace: &Workspace) -> bool {
    workspace
        .cargo()
        .args(["deny", "--version"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
