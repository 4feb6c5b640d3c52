//! What has to be on the machine: Rust with the wasm target, Node with the packages of a folder, Chromium.
//!
//! What can be added without asking is added; for the rest the one command that does it is printed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::steps::{self, Steps};
use crate::workspace::Workspace;

/// The oldest compiler the workspace builds with, as in `rust-version`.
const RUST: (u32, u32) = (1, 95);

/// What plugins are compiled to.
pub(crate) const WASM_TARGET: &str = "wasm32-unknown-unknown";

/// The oldest Node with the test runner features the tests use.
const NODE_MAJOR: u32 = 20;

/// Checks the compiler and adds the wasm target when it is missing.
pub(crate) fn rust(steps: &mut Steps, workspace: &Workspace) -> Result<()> {
    steps.step(
        "checking Rust and its wasm target",
        "rustup update stable && rustup target add wasm32-unknown-unknown",
        || {
            let version = steps::output(
                Command::new("rustc")
                    .arg("--version")
                    .current_dir(&workspace.root),
            )?;
            let found = rust_version(&version)
                .with_context(|| format!("`{}` is no version", version.trim()))?;
            if found < RUST {
                bail!(
                    "Rust {}.{} or newer is needed, this is {}",
                    RUST.0,
                    RUST.1,
                    version.trim()
                );
            }
            println!("    {}", version.trim());
            if has_wasm_target(workspace)? {
                return Ok(());
            }
            println!("    the target {WASM_TARGET} is missing and is added now");
            steps::run(
                Command::new("rustup")
                    .args(["target", "add", WASM_TARGET])
                    .current_dir(&workspace.root),
            )
        },
    )
}

fn rust_version(line: &str) -> Option<(u32, u32)> {
    let mut numbers = line.split_whitespace().nth(1)?.split(['.', '-']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn has_wasm_target(workspace: &Workspace) -> Result<bool> {
    let libdir = steps::output(
        Command::new("rustc")
            .args(["--print", "target-libdir", "--target", WASM_TARGET])
            .current_dir(&workspace.root),
    )?;
    Ok(Path::new(libdir.trim()).is_dir())
}

/// Installs the packages of a folder's lock file, unless they are there already.
pub(crate) fn node_packages(steps: &mut Steps, folder: &Path) -> Result<()> {
    let name = folder
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    steps.step(
        &format!("installing the Node packages of {name}"),
        "install Node 20 or newer with npm (Debian: apt-get install nodejs npm), then run this again",
        || {
            let version = steps::output(Command::new("node").arg("--version"))?;
            let major = version.trim().trim_start_matches('v').split('.').next().and_then(|major| major.parse::<u32>().ok());
            if major.is_none_or(|major| major < NODE_MAJOR) {
                bail!("Node {NODE_MAJOR} or newer is needed, this is {}", version.trim());
            }
            println!("    node {}", version.trim());
            if is_installed(folder) {
                println!("    they are there and match the lock file");
                return Ok(());
            }
            steps::run(Command::new("npm").args(["ci", "--no-audit", "--no-fund", "--loglevel", "error"]).current_dir(folder))?;
            std::fs::copy(folder.join("package-lock.json"), stamp(folder)).context("cannot note what was installed")?;
            Ok(())
        },
    )
}

/// The lock file as it was when the packages were installed.
fn stamp(folder: &Path) -> PathBuf {
    folder.join("node_modules/.installed-lock.json")
}

fn is_installed(folder: &Path) -> bool {
    match (
        std::fs::read(folder.join("package-lock.json")),
        std::fs::read(stamp(folder)),
    ) {
        (Ok(lock), Ok(installed)) => lock == installed,
        (Err(_), _) | (_, Err(_)) => false,
    }
}

/// Finds Chromium; installs Debian's package where that is possible without asking (as root).
pub(crate) fn chromium(steps: &mut Steps) -> Result<PathBuf> {
    steps.step(
        "looking for Chromium",
        "apt-get update && apt-get install -y chromium   (or set CHROMIUM to a Chromium or Chrome binary)",
        || {
            if let Some(found) = find_chromium() {
                println!("    {}", found.display());
                return Ok(found);
            }
            if rustix::process::geteuid().is_root() && on_path("apt-get").is_some() {
                println!("    there is none; Debian's package is installed now");
                steps::run(Command::new("apt-get").args(["update", "-qq"]))?;
                steps::run(
                    Command::new("apt-get")
                        .args(["install", "-y", "-qq", "--no-install-recommends", "chromium"])
                        .env("DEBIAN_FRONTEND", "noninteractive")
                        .stdin(Stdio::null()),
                )?;
            }
            find_chromium().context("there is no Chromium on this machine")
        },
    )
}

fn find_chromium() -> Option<PathBuf> {
    if let Ok(named) = std::env::var("CHROMIUM") {
        return Some(PathBuf::from(named));
    }
    ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find_map(on_path)
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_stable_and_nightly_compilers() {
        assert_eq!(
            rust_version("rustc 1.95.0 (59807616e 2026-04-14)"),
            Some((1, 95))
        );
        assert_eq!(
            rust_version("rustc 1.97.0-nightly (abc 2026-05-01)"),
            Some((1, 97))
        );
        assert_eq!(rust_version("clang 19"), None);
    }
}
