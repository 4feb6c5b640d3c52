//! What has to be on the machine: Rust with the wasm target, Node with the packages of a folder, Chromium, Redis.
//!
//! What can be added without asking is added; for the rest the one command that does it is printed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;

use anyhow::{Context, Result, bail};

use crate::steps::{self, Steps};
use crate::workspace::Workspace;

/// The oldest compiler the workspace builds with, as in `rust-version`.
const RUST: (u32, u32) = (1, 95);

/// What plugins are compiled to.
pub(crate) const WASM_TARGET: &str = "wasm32-unknown-unknown";

/// The oldest Node with the test runner features the tests use.
const NODE_MAJOR: u32 = 20;

/// The oldest Redis with what the tests use.
const REDIS_MAJOR: u32 = 7;

/// The oldest PostgreSQL with what the tests use.
const POSTGRES_MAJOR: u32 = 15;

/// Checks the compiler and adds the wasm target when it is missing.
pub(crate) fn rust(steps: &mut Steps, workspace: &Workspace) -> Result<()> {
    steps.step(
        "checking Rust and its wasm target",
        "rustup update stable && rustup target add wasm32-unknown-unknown",
        || {
            let version = steps::output(
                Command::new("rustc")
                    .arg("--version")
                    .current_dir(&workspace.root),
            )?;
            let found = rust_version(&version)
                .with_context(|| format!("`{}` is no version", version.trim()))?;
            if found < RUST {
                bail!(
                    "Rust {}.{} or newer is needed, this is {}",
                    RUST.0,
                    RUST.1,
                    version.trim()
                );
            }
            println!("    {}", version.trim());
            if has_wasm_target(workspace)? {
                return Ok(());
            }
            println!("    the target {WASM_TARGET} is missing and is added now");
            steps::run(
                Command::new("rustup")
                    .args(["target", "add", WASM_TARGET])
                    .current_dir(&workspace.root),
            )
        },
    )
}

fn rust_version(line: &str) -> Option<(u32, u32)> {
    let mut numbers = line.split_whitespace().nth(1)?.split(['.', '-']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn has_wasm_target(workspace: &Workspace) -> Result<bool> {
    let libdir = steps::output(
        Command::new("rustc")
            .args(["--print", "target-libdir", "--target", WASM_TARGET])
            .current_dir(&workspace.root),
    )?;
    Ok(Path::new(libdir.trim()).is_dir())
}

/// Installs the packages of a folder's lock file, unless they are there already.
pub(crate) fn node_packages(steps: &mut Steps, folder: &Path) -> Result<()> {
    let name = folder
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    steps.step(
        &format!("installing the Node packages of {name}"),
        "install Node 20 or newer with npm (Debian: apt-get install nodejs npm), then run this again",
        || {
            let version = steps::output(Command::new("node").arg("--version"))?;
            let major = version.trim().trim_start_matches('v').split('.').next().and_then(|major| major.parse::<u32>().ok());
            if major.is_none_or(|major| major < NODE_MAJOR) {
                bail!("Node {NODE_MAJOR} or newer is needed, this is {}", version.trim());
            }
            println!("    node {}", version.trim());
            if is_installed(folder) {
                println!("    they are there and match the lock file");
                return Ok(());
            }
            steps::run(Command::new("npm").args(["ci", "--no-audit", "--no-fund", "--loglevel", "error"]).current_dir(folder))?;
            std::fs::copy(folder.join("package-lock.json"), stamp(folder)).context("cannot note what was installed")?;
            Ok(())
        },
    )
}

/// The lock file as it was when the packages were installed.
fn stamp(folder: &Path) -> PathBuf {
    folder.join("node_modules/.installed-lock.json")
}

fn is_installed(folder: &Path) -> bool {
    match (
        std::fs::read(folder.join("package-lock.json")),
        std::fs::read(stamp(folder)),
    ) {
        (Ok(lock), Ok(installed)) => lock == installed,
        (Err(_), _) | (_, Err(_)) => false,
    }
}

/// Finds Chromium; installs Debian's package where that is possible without asking (as root).
pub(crate) fn chromium(steps: &mut Steps) -> Result<PathBuf> {
    steps.step(
        "looking for Chromium",
        "apt-get update && apt-get install -y chromium   (or set CHROMIUM to a Chromium or Chrome binary)",
        || {
            if let Some(found) = find_chromium() {
                println!("    {}", found.display());
                return Ok(found);
            }
            install_from_debian("chromium")?;
            find_chromium().context("there is no Chromium on this machine")
        },
    )
}

fn find_chromium() -> Option<PathBuf> {
    if let Ok(named) = std::env::var("CHROMIUM") {
        return Some(PathBuf::from(named));
    }
    ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find_map(on_path)
}

/// Installs a package of Debian where that is possible without asking (as root); elsewhere does nothing.
fn install_from_debian(package: &str) -> Result<()> {
    if !rustix::process::geteuid().is_root() || on_path("apt-get").is_none() {
        return Ok(());
    }
    println!("    there is none; Debian's package {package} is installed now");
    static LISTS: Once = Once::new();
    LISTS.call_once(|| {
        // A source that does not answer is no reason to give up: the package may be in another one.
        if let Err(error) = steps::run(apt_get().args(["update", "-qq"])) {
            println!("    the lists of packages may be old: {error:#}");
        }
    });
    steps::run(apt_get().args(["install", "-y", "-qq", "--no-install-recommends", package]))
}

/// Asks nothing, and waits for whoever else installs something: a machine that was just started updates itself.
fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(["-o", "DPkg::Lock::Timeout=300"])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null());
    command
}

/// Finds `redis-server` and `redis-cli`; installs Debian's package, but not its service, where that is possible
/// without asking (as root).
pub(crate) fn redis(steps: &mut Steps) -> Result<()> {
    steps.step(
        "looking for Redis",
        "apt-get update && apt-get install -y redis-server   (7.0 or newer; its service is not needed: systemctl \
         disable --now redis-server; or set REDIS_SERVER to the binary, with redis-cli beside it or on PATH)",
        || {
            if find_redis().is_none() {
                let _no_service = NoServices::declare()?;
                install_from_debian("redis-server")?;
            }
            let server = find_redis().context("there is no redis-server on this machine")?;
            let version = steps::output(Command::new(&server).arg("--version"))?;
            let found = redis_version(&version)
                .with_context(|| format!("`{}` is no version", version.trim()))?;
            if found < REDIS_MAJOR {
                bail!("Redis {REDIS_MAJOR} or newer is needed, this is {}", version.trim());
            }
            println!("    {}", version.trim());
            Ok(())
        },
    )
}

/// Finds the programs of PostgreSQL; installs Debian's package, but neither its service nor the database cluster that
/// it would make, where that is possible without asking (as root).
pub(crate) fn postgres(steps: &mut Steps) -> Result<()> {
    steps.step(
        "looking for PostgreSQL",
        "apt-get update && apt-get install -y postgresql   (15 or newer; its service is not needed: systemctl disable \
         --now postgresql; where the distribution has an older one, apt.postgresql.org has it; or set POSTGRES_BIN to the \
         folder of initdb, postgres and psql)",
        || {
            if find_postgres().is_none() {
                let _no_service = NoServices::declare()?;
                install_from_debian("postgresql-common")?;
                let _no_cluster = NoCluster::declare()?;
                install_from_debian("postgresql")?;
            }
            let server = find_postgres().context("there is no PostgreSQL on this machine")?;
            let version = steps::output(Command::new(&server).arg("--version"))?;
            let found = postgres_version(&version)
                .with_context(|| format!("`{}` is no version", version.trim()))?;
            if found < POSTGRES_MAJOR {
                bail!("PostgreSQL {POSTGRES_MAJOR} or newer is needed, this is {}", version.trim());
            }
            println!("    {}", version.trim());
            Ok(())
        },
    )
}

/// `postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)`.
fn postgres_version(line: &str) -> Option<u32> {
    let (_, number) = line.split_once("(PostgreSQL) ")?;
    number
        .split(|c: char| !c.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

/// Where the tests look for it.
fn find_postgres() -> Option<PathBuf> {
    let has_all = |folder: &Path| {
        let mut programs = ["initdb", "postgres", "psql"].iter();
        programs.all(|program| folder.join(program).is_file())
    };
    if let Ok(named) = std::env::var("POSTGRES_BIN") {
        return Some(Path::new(&named).join("postgres"));
    }
    let releases = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    let found = releases.flatten().filter_map(|release| {
        let number: u32 = release.file_name().to_str()?.parse().ok()?;
        let folder = release.path().join("bin");
        has_all(&folder).then(|| (number, folder.join("postgres")))
    });
    let newest = found.max_by_key(|(number, _)| *number);
    newest
        .map(|(_, server)| server)
        .or_else(|| on_path("postgres").filter(|server| server.parent().is_some_and(has_all)))
}

/// Debian's way to say that a server which is installed now shall make no database cluster: a line of a file, there
/// while this value lives. Tests make clusters of their own.
struct NoCluster(Option<String>);

impl NoCluster {
    const FILE: &str = "/etc/postgresql-common/createcluster.conf";

    /// Does nothing where there is no such file: nothing was installed.
    fn declare() -> Result<Self> {
        let Ok(before) = std::fs::read_to_string(Self::FILE) else {
            return Ok(Self(None));
        };
        if !rustix::process::geteuid().is_root() {
            return Ok(Self(None));
        }
        let with_line = format!("{before}\ncreate_main_cluster = false\n");
        std::fs::write(Self::FILE, with_line)
            .with_context(|| format!("cannot write {}", Self::FILE))?;
        Ok(Self(Some(before)))
    }
}

impl Drop for NoCluster {
    fn drop(&mut self) {
        if let Some(before) = &self.0
            && let Err(error) = std::fs::write(Self::FILE, before)
        {
            println!("    {} keeps a line of ours: {error}", Self::FILE);
        }
    }
}

/// `Redis server v=7.0.15 sha=…`.
fn redis_version(line: &str) -> Option<u32> {
    line.split_once("v=")?.1.split('.').next()?.parse().ok()
}

fn find_redis() -> Option<PathBuf> {
    if let Ok(named) = std::env::var("REDIS_SERVER") {
        return Some(PathBuf::from(named));
    }
    on_path("redis-cli")?;
    on_path("redis-server")
}

/// Debian's way to say that packages which are installed now shall not start their services: a script that
/// forbids it, there while this value lives. Tests start servers of their own; one more on Redis' usual port would
/// only be in somebody's way.
struct NoServices(Option<&'static Path>);

impl NoServices {
    const SCRIPT: &str = "/usr/sbin/policy-rc.d";

    /// Does nothing where there is such a script already, as in most containers, or where nothing can be installed.
    fn declare() -> Result<Self> {
        use std::os::unix::fs::PermissionsExt as _;
        let script = Path::new(Self::SCRIPT);
        if !rustix::process::geteuid().is_root() || script.exists() || on_path("apt-get").is_none()
        {
            return Ok(Self(None));
        }
        let guard = Self(Some(script));
        std::fs::write(script, "#!/bin/sh\nexit 101\n")
            .and_then(|()| std::fs::set_permissions(script, std::fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("cannot write {}", script.display()))?;
        Ok(guard)
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Some(script) = self.0
            && let Err(error) = std::fs::remove_file(script)
        {
            println!("    {} is left behind: {error}", script.display());
        }
    }
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_stable_and_nightly_compilers() {
        assert_eq!(
            rust_version("rustc 1.95.0 (59807616e 2026-04-14)"),
            Some((1, 95))
        );
        assert_eq!(
            rust_version("rustc 1.97.0-nightly (abc 2026-05-01)"),
            Some((1, 97))
        );
        assert_eq!(rust_version("clang 19"), None);
    }
    #[test]
    fn the_version_of_postgresql_is_read_from_what_it_prints() {
        let debian = "postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)";
        assert_eq!(postgres_version(debian), Some(15));
        assert_eq!(postgres_version("postgres (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(postgres_version("psql 15"), None);
    }
    #[test]
    fn the_version_of_redis_is_read_from_what_it_prints() {
        assert_eq!(
            redis_version("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64"),
            Some(7)
        );
        assert_eq!(redis_version("redis-cli 7.0.15"), None);
    }
}
