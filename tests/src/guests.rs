//! Plugins built to wasm before the tests run.

use std::path::{Path, PathBuf};

/// Path of a built plugin or test guest, by its package name.
///
/// # Panics
/// When it was not built, saying how to.
pub fn wasm(package: &str) -> PathBuf {
    let path = folder().join(format!("{}.wasm", package.replace('-', "_")));
    assert!(
        path.exists(),
        "{} is missing; `cargo xtask test` builds it, or: cargo build -p {package} --target wasm32-unknown-unknown --profile plugin",
        path.display()
    );
    path
}

fn folder() -> PathBuf {
    #[expect(
        clippy::disallowed_methods,
        reason = "a test harness has no configuration module"
    )]
    if let Some(folder) = std::env::var_os("TIDEGATE_PLUGINS") {
        return folder.into();
    }
    let executable = std::env::current_exe().expect("a process knows its own path");
    let target = executable.ancestors().nth(3).map(Path::to_owned);
    target
        .expect("a test runs from target/PROFILE/deps")
        .join("wasm32-unknown-unknown/plugin")
}
