//! The length of our files: one file, one idea, and no second one in the hundreds of lines behind it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

/// Most lines of a Rust file. Past 600 it has a second idea already; the rest is leeway for tables, and for whoever
/// did not come to split it.
const MAX_LINES: usize = 650;

/// Folders with nothing that we wrote.
const FOREIGN: [&str; 2] = ["target", "node_modules"];

/// Checks every Rust file of the tree.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let files = rust_files(&workspace.root)?;
    let mut too_long = Vec::new();
    for file in &files {
        let text =
            fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let name = file.strip_prefix(&workspace.root).unwrap_or(file);
        too_long.extend(fault(name, &text));
    }
    if !too_long.is_empty() {
        bail!(
            "files of more than {MAX_LINES} lines:\n  {}",
            too_long.join("\n  ")
        );
    }
    println!(
        "    {} Rust files have at most {MAX_LINES} lines each",
        files.len()
    );
    Ok(())
}

fn fault(name: &Path, text: &str) -> Option<String> {
    let lines = text.lines().count();
    (lines > MAX_LINES).then(|| format!("{}: {lines} lines", name.display()))
}

/// Those below a folder, in the order of their names.
fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries =
            fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in entries {
            let entry = entry?;
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            // Not through links, which may lead in a circle.
            let kind = entry.file_type()?;
            if kind.is_dir() && !name.starts_with('.') && !FOREIGN.contains(&&*name) {
                folders.push(path);
            } else if kind.is_file() && name.ends_with(".rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_too_long_from_one_line_more_on() {
        let name = Path::new("host/a.rs");
        assert_eq!(fault(name, &"line\n".repeat(MAX_LINES)), None);
        let fault = fault(name, &"line\n".repeat(MAX_LINES + 1));
        let told = format!("host/a.rs: {} lines", MAX_LINES + 1);
        assert_eq!(fault, Some(told));
    }

    #[test]
    fn our_own_files_are_found_and_what_is_built_is_not() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let files = rust_files(root).unwrap();
        assert!(files.contains(&root.join("src/lengths.rs")), "{files:?}");
        assert!(
            !files
                .iter()
                .any(|file| file.starts_with(root.join("target")))
        );
    }
}
