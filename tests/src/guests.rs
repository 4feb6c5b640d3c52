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
    if let Some(folder) = std::env::var_os("TEST_PLUGINS") {
        return folder.into();
    }
    let executable = std::env::current_exe().expect("a process knows its own path");
    let target = executable.ancestors().nth(3).map(Path::to_owned);
    target
        .expect("a test runs from target/PROFILE/deps")
        .join("wasm32-unknown-unknown/plugin")
}

/// Writes a copy of a built plugin whose bytes differ and whose behaviour does not: a custom section that says
/// `mark` is appended. The file lives as long as the folder.
///
/// # Panics
/// When the plugin was not built or the folder cannot be written.
pub fn variant(package: &str, mark: &str, folder: &Path) -> PathBuf {
    const CUSTOM_SECTION: u8 = 0;
    const NAME: &[u8] = b"mark";
    let mut bytes = std::fs::read(wasm(package)).expect("the plugin is readable");
    let content_len = 1 + NAME.len() + mark.len();
    assert!(content_len < 128, "a mark is short: lengths take one byte");
    bytes.push(CUSTOM_SECTION);
    bytes.extend([content_len, NAME.len()].map(|len| u8::try_from(len).unwrap_or_default()));
    bytes.extend(NAME);
    bytes.extend(mark.as_bytes());
    let path = folder.join(format!("{package}-{mark}.wasm"));
    std::fs::write(&path, bytes).expect("the folder is writable");
    path
}
