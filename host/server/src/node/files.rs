//! Files that nobody else may read.

use std::{
    fs::{DirBuilder, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

/// Only the owner: list, enter, change.
const PRIVATE_DIR: u32 = 0o700;

/// Only the owner: read, write.
const PRIVATE_FILE: u32 = 0o600;

/// Makes the directory and those above it, unless it is there.
pub(super) fn make_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(PRIVATE_DIR)
        .create(path)
}

/// Writes a line to a new file; one that is there is replaced.
pub(super) fn write_private(path: &Path, line: &str) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(PRIVATE_FILE)
        .open(path)?;
    writeln!(file, "{line}")?;
    file.sync_all()
}
