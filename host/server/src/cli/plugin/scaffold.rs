//! `plugin new`: writes a crate that needs nothing but Rust and the crates its manifest names.
//!
//! The binary carries the SDK and its template; what is written where is told in `sdk/template/README.md`, and the
//! only placeholder is `{{name}}`.

use std::{fs, io, path::Path};

use include_dir::{Dir, DirEntry, include_dir};

use crate::cli::Failure;

static SDK: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../sdk");

/// Where the new crate keeps its copy of the SDK.
const VENDOR: &str = "vendor/tidegate-sdk";

/// What of the SDK a plugin needs.
const VENDORED: [&str; 5] = [
    "Cargo.toml",
    "src",
    "wit",
    "macros/Cargo.toml",
    "macros/src",
];

/// The template's files and the names they get.
const TEMPLATE: [(&str, &str); 5] = [
    ("template/Cargo.toml.in", "Cargo.toml"),
    ("template/README.md.in", "README.md"),
    ("template/gitignore.in", ".gitignore"),
    ("template/src/lib.rs", "src/lib.rs"),
    ("template/.cargo/config.toml", ".cargo/config.toml"),
];

/// Crates that a plugin links, and names that Rust keeps for itself.
const TAKEN: [&str; 10] = [
    "alloc",
    "build",
    "core",
    "proc-macro",
    "serde",
    "serde-json",
    "std",
    "test",
    "tidegate-sdk",
    "tidegate-sdk-macros",
];

/// Writes the crate `name` into `dir`, which must be empty or not there.
pub(super) fn write(name: &str, dir: &Path) -> Result<(), Failure> {
    if TAKEN.contains(&name) {
        return Err(Failure::usage(format!(
            "`{name}` cannot be the name of a plugin crate: Rust or the SDK has one of that name"
        ))
        .hint("choose another name"));
    }
    let is_empty = match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => return Err(Failure::usage(format!("{}: {error}", dir.display()))),
    };
    if !is_empty {
        return Err(Failure::usage(format!("{} is not empty", dir.display()))
            .hint("choose another name, or another place with --path"));
    }
    write_files(name, dir)
        .map_err(|error| Failure::new(format!("{} cannot be written: {error}", dir.display())))
}

fn write_files(name: &str, dir: &Path) -> io::Result<()> {
    for (from, to) in TEMPLATE {
        let file = SDK.get_file(from).expect("the binary carries the template");
        let text = file.contents_utf8().expect("the template is text");
        put(&dir.join(to), text.replace("{{name}}", name).as_bytes())?;
    }
    let vendor = dir.join(VENDOR);
    for part in VENDORED {
        let entry = SDK.get_entry(part).expect("the binary carries the SDK");
        copy(entry, &vendor)?;
    }
    Ok(())
}

fn copy(entry: &DirEntry<'_>, vendor: &Path) -> io::Result<()> {
    match entry {
        DirEntry::File(file) => put(&vendor.join(file.path()), file.contents()),
        DirEntry::Dir(dir) => dir
            .entries()
            .iter()
            .try_for_each(|entry| copy(entry, vendor)),
    }
}

fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crate_has_its_name_and_its_own_sdk() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("shout");
        write("shout", &dir).unwrap();
        let read = |path: &str| fs::read_to_string(dir.join(path)).unwrap();
        assert!(read("Cargo.toml").contains("name = \"shout\""));
        assert!(read("Cargo.toml").contains(VENDOR));
        assert!(read("README.md").contains("tidegate plugin activate shout"));
        assert!(read(".gitignore").contains("/target"));
        assert!(read(".cargo/config.toml").contains("wasm32-unknown-unknown"));
        assert!(read("vendor/tidegate-sdk/wit/hooks.wit").contains("tidegate:plugin@"));
        assert!(read("vendor/tidegate-sdk/macros/src/lib.rs").contains("proc_macro"));
        assert!(!dir.join("vendor/tidegate-sdk/tests").exists());
        assert!(!read("src/lib.rs").contains("{{"));
    }

    #[test]
    fn nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("precious"), "x").unwrap();
        let failure = write("shout", dir.path()).unwrap_err();
        assert!(failure.message.contains("not empty"));
        assert!(write("serde", &dir.path().join("serde")).is_err());
        assert!(!dir.path().join("serde").exists());
    }
}
