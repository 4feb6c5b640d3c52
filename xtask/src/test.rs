//! `cargo xtask build` and `test`: every test of the tree, with the binary and the plugins built before.

use anyhow::{Result, bail};

use crate::steps::Steps;
use crate::workspace::Workspace;
use crate::{demo, guests, toolchain};

/// What to run; nothing chosen means everything.
#[derive(Debug, Default, PartialEq, Eq)]
struct Parts {
    rust: bool,
    node: bool,
    browser: bool,
}

impl Parts {
    fn parse(options: &[String]) -> Result<Self> {
        let mut parts = Self::default();
        for option in options {
            match option.as_str() {
                "--rust" => parts.rust = true,
                "--node" => parts.node = true,
                "--browser" => parts.browser = true,
                other => {
                    bail!("`cargo xtask test` knows --rust, --node and --browser, not `{other}`")
                }
            }
        }
        if parts == Self::default() {
            parts = Self {
                rust: true,
                node: true,
                browser: true,
            };
        }
        Ok(parts)
    }
}

/// `cargo xtask build`: what tests and demonstration run.
pub(crate) fn build(steps: &mut Steps, workspace: &Workspace, options: &[String]) -> Result<()> {
    let with_server = match options {
        [] => true,
        [option] if option == "--guests" => false,
        _ => bail!("`cargo xtask build` knows only --guests"),
    };
    toolchain::rust(steps, workspace)?;
    if with_server {
        demo::build_server(steps, workspace)?;
    }
    guests::build(steps, workspace, guests::FOLDERS)?;
    steps.print_summary();
    Ok(())
}

pub(crate) fn run(steps: &mut Steps, workspace: &Workspace, options: &[String]) -> Result<()> {
    let parts = Parts::parse(options)?;
    toolchain::rust(steps, workspace)?;
    if parts.rust {
        toolchain::redis(steps)?;
        toolchain::postgres(steps)?;
        build_everything(steps, workspace)?;
    } else {
        demo::build_server(steps, workspace)?;
    }
    guests::build(steps, workspace, guests::FOLDERS)?;
    if parts.rust {
        rust(steps, workspace)?;
        steps.command(
            "checking the demonstration's configuration",
            "correct demo/tidegate.toml as the lines above say",
            std::process::Command::new(workspace.server())
                .args(["config", "check", "--config", "demo/tidegate.toml"])
                .current_dir(&workspace.root)
                .env("TIDEGATE_DEMO_TICKET_SECRET", demo::secret()?)
                .stdout(std::process::Stdio::null()),
        )?;
    }
    if parts.node || parts.browser {
        toolchain::node_packages(steps, &workspace.root.join("tests/js"))?;
        demo::page(steps, workspace)?;
    }
    if parts.node {
        javascript(
            steps,
            workspace,
            "the official JavaScript SDK in Node",
            "sdk",
            None,
        )?;
    }
    if parts.browser {
        let chromium = toolchain::chromium(steps)?;
        javascript(
            steps,
            workspace,
            "the SDK and the page in Chromium",
            "browser",
            Some(&chromium),
        )?;
    }
    steps.print_summary();
    Ok(())
}

/// Server, tests and benches in one selection: chosen apart, cargo would give their dependencies different features
/// and compile the WebAssembly engine twice.
fn build_everything(steps: &mut Steps, workspace: &Workspace) -> Result<()> {
    steps.command(
        "building server, tests and benches (minutes the first time, because of the WebAssembly engine)",
        "fix what the compiler says above; a C compiler is needed for SQLite (Debian: apt-get install build-essential)",
        workspace.cargo().args(["build", "--workspace", "--all-targets"]),
    )
}

fn rust(steps: &mut Steps, workspace: &Workspace) -> Result<()> {
    steps.command(
        "running the Rust tests (unit, behaviour of the whole, documentation examples)",
        "read the failing test's name and message above; `cargo test -p CRATE NAME` runs it alone",
        workspace
            .cargo()
            .args(["test", "--workspace", "--no-fail-fast"])
            .env("TIDEGATE_BIN", workspace.server()),
    )
}

fn javascript(
    steps: &mut Steps,
    workspace: &Workspace,
    what: &str,
    suite: &str,
    chromium: Option<&std::path::Path>,
) -> Result<()> {
    let mut npm = std::process::Command::new("npm");
    npm.args(["run", "--silent", suite])
        .current_dir(workspace.root.join("tests/js"))
        .env("TIDEGATE_BIN", workspace.server());
    if let Some(chromium) = chromium {
        npm.env("CHROMIUM", chromium);
    }
    steps.command(
        &format!("testing {what}"),
        &format!("read the failing test above; `cd tests/js && npm run {suite}` runs this suite alone (TIDEGATE_BIN names the server)"),
        &mut npm,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_option_means_every_part() {
        assert_eq!(
            Parts::parse(&[]).unwrap(),
            Parts {
                rust: true,
                node: true,
                browser: true
            }
        );
    }

    #[test]
    fn parts_are_chosen_one_by_one_and_others_are_refused() {
        assert_eq!(
            Parts::parse(&["--node".to_owned()]).unwrap(),
            Parts {
                node: true,
                ..Parts::default()
            }
        );
        assert!(Parts::parse(&["--fast".to_owned()]).is_err());
    }
}
