//! `plugin build`: runs Cargo and finds the module it made.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::cli::{Failure, Output};

const TARGET: &str = "wasm32-unknown-unknown";

/// A crate that was compiled.
#[derive(Debug)]
pub(super) struct Built {
    /// Name of the crate's package.
    pub(super) name: String,
    pub(super) wasm: PathBuf,
}

/// Compiles the crate in `dir` as Cargo would, optimised.
pub(super) fn build(dir: &Path, output: Output) -> Result<Built, Failure> {
    let manifest = dir.join("Cargo.toml");
    if !manifest.is_file() {
        return Err(
            Failure::usage(format!("there is no Cargo.toml in {}", dir.display())).hint(
                "go to the directory of a plugin crate; `tidegate plugin new NAME` makes one",
            ),
        );
    }
    target_is_installed(dir)?;
    output.note(&format!("building {} for {TARGET}", dir.display()));
    let ran = Command::new("cargo")
        .args([
            "build",
            "--release",
            "--lib",
            "--target",
            TARGET,
            "--message-format",
            "json-render-diagnostics",
        ])
        // Its `.cargo/config.toml` counts only from inside the crate.
        .current_dir(dir)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| {
            Failure::new(format!("cargo cannot be run: {error}"))
                .hint("install Rust from https://rustup.rs")
        })?;
    if !ran.status.success() {
        return Err(Failure::new(
            "the crate does not build; the compiler's messages are above",
        ));
    }
    let manifest = manifest.canonicalize().unwrap_or(manifest);
    find_artifact(&String::from_utf8_lossy(&ran.stdout), &manifest).ok_or_else(|| {
        Failure::new("the crate built, but made no .wasm file")
            .hint("its Cargo.toml needs: [lib] crate-type = [\"cdylib\", \"rlib\"]")
    })
}

/// Without the target Cargo says "can't find crate for `core`", which helps nobody.
fn target_is_installed(dir: &Path) -> Result<(), Failure> {
    let asked = Command::new("rustc")
        .args(["--print", "sysroot"])
        .current_dir(dir)
        .output();
    let asked = asked.map_err(|error| {
        Failure::new(format!("rustc cannot be run: {error}"))
            .hint("install Rust from https://rustup.rs")
    })?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&asked.stdout).trim());
    if sysroot.join("lib/rustlib").join(TARGET).is_dir() {
        return Ok(());
    }
    Err(
        Failure::new(format!("the Rust target {TARGET} is not installed"))
            .hint(format!("run: rustup target add {TARGET}")),
    )
}

/// The module that Cargo's messages name for the package with this manifest.
fn find_artifact(messages: &str, manifest: &Path) -> Option<Built> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact")
        .filter(|message| {
            message["manifest_path"]
                .as_str()
                .is_some_and(|path| Path::new(path) == manifest)
        })
        .find_map(|message| {
            let files = message["filenames"].as_array()?;
            let wasm = files.iter().filter_map(Value::as_str).find(|path| {
                Path::new(path)
                    .extension()
                    .is_some_and(|extension| extension == "wasm")
            })?;
            Some(Built {
                name: package_name(&message),
                wasm: wasm.into(),
            })
        })
}

/// The manifest's `name`, which the messages only have with dashes turned.
fn package_name(message: &Value) -> String {
    let manifest = message["manifest_path"].as_str().unwrap_or_default();
    let text = std::fs::read_to_string(manifest).unwrap_or_default();
    let name = toml::from_str::<toml::Table>(&text)
        .ok()
        .and_then(|table| Some(table.get("package")?.get("name")?.as_str()?.to_owned()));
    name.unwrap_or_else(|| {
        message["target"]["name"]
            .as_str()
            .unwrap_or_default()
            .replace('_', "-")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crates_own_module_is_found_among_its_dependencies() {
        let messages = r#"
{"reason":"compiler-artifact","manifest_path":"/x/vendor/Cargo.toml","target":{"name":"sdk"},"filenames":["/x/target/sdk.wasm"]}
{"reason":"compiler-artifact","manifest_path":"/x/Cargo.toml","target":{"name":"my_plugin"},"filenames":["/x/target/libmy_plugin.rlib","/x/target/my_plugin.wasm"]}
{"reason":"build-finished","success":true}
"#;
        let built = find_artifact(messages, Path::new("/x/Cargo.toml")).unwrap();
        assert_eq!(built.name, "my-plugin");
        assert_eq!(built.wasm, Path::new("/x/target/my_plugin.wasm"));
        assert!(find_artifact(messages, Path::new("/y/Cargo.toml")).is_none());
    }

    #[test]
    fn a_directory_without_a_crate_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let failure = build(dir.path(), Output::new(true)).unwrap_err();
        assert!(failure.hint.contains("plugin new"));
    }
}
