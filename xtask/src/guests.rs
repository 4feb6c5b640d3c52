//! The example plugins, built to wasm.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::steps::{self, Steps};
use crate::toolchain::WASM_TARGET;
use crate::workspace::Workspace;

/// One built example plugin.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) name: String,
    pub(crate) wasm: PathBuf,
}

/// Builds every package under `plugins/` and returns where the files are.
pub(crate) fn build(steps: &mut Steps, workspace: &Workspace) -> Result<Vec<Guest>> {
    let names = workspace.members_under("plugins");
    if names.is_empty() {
        return Ok(Vec::new());
    }
    steps.step(
        &format!("building the plugins to wasm: {}", names.join(", ")),
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
                    bail!("{} was not written; has {name} `crate-type = [\"cdylib\"]`?", wasm.display());
                };
                println!("    {name}: {} KiB", file.len().div_ceil(1024));
                guests.push(Guest { name, wasm });
            }
            Ok(guests)
        },
    )
}
