//! PostgreSQL's programs, and who may run them.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::{
    fs::{Gid, Uid, chown},
    process::geteuid,
};

/// Where Debian keeps the programs of each release; they are not on PATH.
const DEBIAN: &str = "/usr/lib/postgresql";

/// Users that a server may run as when root starts it, the first that there is.
const USERS: [&str; 2] = ["postgres", "nobody"];

/// Path of a program: below what `POSTGRES_BIN` names, else the newest of Debian's, else the one on PATH.
pub(crate) fn binary(name: &str) -> PathBuf {
    #[expect(
        clippy::disallowed_methods,
        reason = "a test harness has no configuration module"
    )]
    if let Some(folder) = std::env::var_os("POSTGRES_BIN") {
        return Path::new(&folder).join(name);
    }
    let releases = fs::read_dir(DEBIAN).into_iter().flatten().flatten();
    let found = releases.filter_map(|release| {
        let number: u32 = release.file_name().to_str()?.parse().ok()?;
        let program = release.path().join("bin").join(name);
        program.is_file().then_some((number, program))
    });
    found
        .max_by_key(|(number, _)| *number)
        .map_or_else(|| name.into(), |(_, program)| program)
}

/// A command that runs as the user who has the server.
pub(crate) fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    if let Some((user, group)) = other_user() {
        command.uid(user).gid(group);
    }
    command
}

/// Gives a folder to the user who has the server.
pub(crate) fn hand_over(folder: &Path) {
    if let Some((user, group)) = other_user() {
        let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
        chown(folder, Some(user), Some(group)).expect("root gives its folders away");
    }
}

/// `None` where this process may run the server itself.
fn other_user() -> Option<(u32, u32)> {
    if !geteuid().is_root() {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").expect("there are users");
    let found = USERS.iter().find_map(|user| {
        let line = passwd
            .lines()
            .find(|line| line.split(':').next() == Some(user))?;
        let mut fields = line.split(':').skip(2);
        let id = fields.next()?.parse().ok()?;
        Some((id, fields.next()?.parse().ok()?))
    });
    Some(
        found.expect(
            "PostgreSQL does not run as root, and there is neither a user postgres nor nobody",
        ),
    )
}

pub(crate) fn missing(program: &str, error: &std::io::Error) -> String {
    format!(
        "{program} cannot be executed ({error}); install PostgreSQL 15 or newer (Debian: apt-get install postgresql; its \
         service is not needed), or set POSTGRES_BIN to the folder of its programs"
    )
}
