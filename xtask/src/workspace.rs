//! Where things are: the workspace's root, its target directory, its members and the packages under them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::steps;

/// What `cargo metadata` says, and the paths everything else asks for.
#[derive(Debug)]
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    pub(crate) target: PathBuf,
    /// The whole answer, for the rules on dependencies.
    pub(crate) metadata: Value,
}

impl Workspace {
    /// Asks cargo.
    pub(crate) fn find() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
        let text = steps::output(
            cargo()
                .args(["metadata", "--format-version", "1", "--manifest-path"])
                .arg(manifest),
        )
        .context("cargo cannot read the workspace; is Cargo.lock in step with the manifests?")?;
        let metadata: Value = serde_json::from_str(&text).context("cargo metadata is not JSON")?;
        let path = |key: &str| -> Result<PathBuf> {
            Ok(PathBuf::from(
                metadata[key]
                    .as_str()
                    .with_context(|| format!("cargo metadata has no {key}"))?,
            ))
        };
        Ok(Self {
            root: path("workspace_root")?,
            target: path("target_directory")?,
            metadata,
        })
    }

    /// `cargo`, in the workspace's root.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = cargo();
        command.current_dir(&self.root);
        command
    }

    /// Every package cargo knows of: ours and what we depend on.
    pub(crate) fn packages(&self) -> impl Iterator<Item = &Value> {
        self.metadata["packages"].as_array().into_iter().flatten()
    }

    /// Our packages that live below a folder of the tree, such as `plugins`.
    pub(crate) fn members_under(&self, folder: &str) -> Vec<String> {
        self.names_under(folder, |_| true)
    }

    /// Those of them that become a wasm file of their own; the others are what they share.
    pub(crate) fn wasm_members_under(&self, folder: &str) -> Vec<String> {
        self.names_under(folder, |package| {
            let targets = package["targets"].as_array().into_iter().flatten();
            targets
                .filter_map(|target| target["crate_types"].as_array())
                .flatten()
                .any(|kind| kind == "cdylib")
        })
    }

    fn names_under(&self, folder: &str, is_wanted: impl Fn(&Value) -> bool) -> Vec<String> {
        let folder = self.root.join(folder);
        let mut names: Vec<String> = self
            .packages()
            .filter(|package| package["source"].is_null())
            .filter(|package| {
                package["manifest_path"]
                    .as_str()
                    .is_some_and(|path| Path::new(path).starts_with(&folder))
            })
            .filter(|package| is_wanted(package))
            .filter_map(|package| package["name"].as_str().map(str::to_owned))
            .collect();
        names.sort();
        names
    }

    /// The server of the development profile.
    pub(crate) fn server(&self) -> PathBuf {
        self.target.join("debug/tidegate")
    }

    /// The server as it is shipped and measured.
    pub(crate) fn release_server(&self) -> PathBuf {
        self.target.join("release/tidegate")
    }

    /// Where the example plugins are once they are built.
    pub(crate) fn guests(&self) -> PathBuf {
        self.target.join("wasm32-unknown-unknown/plugin")
    }
}

/// The cargo that runs us, so that a chosen toolchain stays chosen; without what it says about our own package.
/// Dependencies that look at that (`ring`) would be built anew each time that `cargo xtask` and `cargo` take turns.
fn cargo() -> Command {
    let mut command = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_is_not_told_which_package_of_ours_calls_it() {
        let command = cargo();
        let is_removed = |name: &str| {
            command
                .get_envs()
                .any(|(key, value)| key == name && value.is_none())
        };
        assert!(is_removed("CARGO_MANIFEST_DIR") && is_removed("CARGO_PKG_NAME"));
    }
}
