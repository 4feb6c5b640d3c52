//! Everything that is built to wasm: the example plugins, the guests of the tests, the guest of the benches.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::steps::{self, Steps};
use crate::toolchain::WASM_TARGET;
use crate::workspace::Workspace;

/// One built package.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) name: String,
    pub(crate) wasm: PathBuf,
}

/// Where wasm packages live in the tree.
pub(crate) const FOLDERS: &[&str] = &["plugins", "tests/guests", "bench/guests"];

/// Builds every package of these folders that becomes a file of its own, and returns where the files are.
pub(crate) fn build(
    steps: &mut Steps,
    workspace: &Workspace,
    folders: &[&str],
) -> Result<Vec<Guest>> {
    let names: Vec<String> = folders
        .iter()
        .flat_map(|folder| workspace.wasm_members_under(folder))
        .collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    steps.step(
        &format!("building to wasm: {}", names.join(", ")),
        "fix what the compiler says above; `rustup target add wasm32-unknown-unknown` if the target is missing",
        || {
            let mut cargo = workspace.cargo();
            cargo.args(["build", "--quiet", "--target", WASM_TARGET, "--profile", "plugin", "--lib"]);
            for name in &names {
                cargo.args(["--package", name]);
            }
            steps::run(&mut cargo)?;
            let mut guests = Vec::new();
            for name in names {
                let wasm = workspace.guests().join(format!("{}.wasm", name.replace('-', "_")));
                let Ok(file) = wasm.metadata() else {
                    bail!("{} was not written; what does cargo say above?", wasm.display());
                };
                println!("    {name}: {} KiB", file.len().div_ceil(1024));
                guests.push(Guest { name, wasm });
            }
            Ok(guests)
        },
    )
}
