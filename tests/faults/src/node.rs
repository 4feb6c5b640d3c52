//! One running server process, and the balancer in front of several.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::sync_channel,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use parking_lot::RwLock;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// Longest start of a server on a busy machine.
const START: Duration = Duration::from_secs(60);

/// Bytes of its log that are shown when a run fails.
const LOG_TAIL_BYTES: usize = 8 * 1024;

/// Path of the server under test: `TIDEGATE_BIN`, or beside the folder of the running program.
///
/// # Errors
/// There is none; says how to build it.
pub fn binary() -> Result<PathBuf> {
    #[expect(
        clippy::disallowed_methods,
        reason = "a test harness has no configuration module"
    )]
    if let Some(path) = std::env::var_os("TIDEGATE_BIN") {
        return Ok(path.into());
    }
    let executable = std::env::current_exe().context("a process knows its own path")?;
    let mut folders = executable.ancestors().skip(1).take(2);
    let found = folders.find_map(|folder| {
        let path = folder.join("tidegate");
        path.is_file().then_some(path)
    });
    found.context("there is no tidegate beside this program; build it: cargo build --bin tidegate")
}

/// A server; killed by its id on drop.
#[derive(Debug)]
pub struct NodeProcess {
    child: Option<Child>,
    addr: SocketAddr,
    admin: SocketAddr,
    config: Value,
    scratch: TempDir,
}

impl NodeProcess {
    /// Starts a server with this configuration and waits until it listens.
    ///
    /// # Errors
    /// It does not come up; the end of its log is in the error.
    pub fn start(config: Value) -> Result<Self> {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut node = Self {
            child: None,
            addr: nowhere,
            admin: nowhere,
            config,
            scratch: tempfile::tempdir().context("a temporary folder")?,
        };
        node.restart()?;
        Ok(node)
    }

    /// Kills it, if it runs, and starts it again with what it had on disk; it may listen elsewhere.
    ///
    /// # Errors
    /// It does not come up; the end of its log is in the error.
    pub fn restart(&mut self) -> Result<()> {
        self.kill();
        let config = self.scratch.path().join("config.json");
        std::fs::write(&config, self.config.to_string()).context("the folder is writable")?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .context("the folder is writable")?;
        let mut child = Command::new(binary()?)
            .args(["serve", "--announce", "json", "--config"])
            .arg(&config)
            .arg("--data-dir")
            .arg(self.scratch.path().join("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("the server can be executed")?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        self.child = Some(child);
        let (announce, announced) = sync_channel(64);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Ok(event) = serde_json::from_str::<Value>(&line) {
                    // Nobody waits any more: the rest is read so that the server is not held up.
                    let _ = announce.try_send(event);
                }
            }
        });
        loop {
            let Ok(event) = announced.recv_timeout(START) else {
                bail!("the server does not come up:\n{}", self.log_tail());
            };
            if event["event"] == "listening" {
                let addr = |name: &str| event[name].as_str().unwrap_or_default().parse();
                self.addr = addr("client").context("the client address is announced")?;
                self.admin = addr("admin").context("the admin address is announced")?;
                return Ok(());
            }
        }
    }

    fn log_path(&self) -> PathBuf {
        self.scratch.path().join("log")
    }

    /// The end of what it logged.
    pub fn log_tail(&self) -> String {
        let log = std::fs::read(self.log_path()).unwrap_or_default();
        let from = log.len().saturating_sub(LOG_TAIL_BYTES);
        String::from_utf8_lossy(&log[from..]).into_owned()
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where metrics are.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin
    }

    /// The folder of its files.
    pub fn directory(&self) -> &Path {
        self.scratch.path()
    }

    /// Resident memory in bytes; 0 when it is gone.
    pub fn resident_bytes(&self) -> u64 {
        let pid = self.child.as_ref().map_or(0, Child::id);
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kibibytes.unwrap_or_default() * 1024
    }

    /// Ends it without warning (SIGKILL) and waits until it is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("the process is ours");
            child.wait().expect("the process was started by us");
        }
    }

    /// Stops it where it is (SIGSTOP).
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Asks it to drain (SIGTERM) and waits until it has ended; its exit code.
    ///
    /// # Errors
    /// It is not running.
    pub async fn drained(&mut self) -> Result<Option<i32>> {
        self.signal(Signal::TERM);
        let mut child = self.child.take().context("it is running")?;
        let waiting = tokio::task::spawn_blocking(move || child.wait());
        Ok(waiting.await.context("waiting does not panic")??.code())
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().map(|child| child.id().cast_signed());
        if let Some(pid) = child.and_then(Pid::from_raw) {
            kill_process(pid, signal).expect("the process is ours and not waited for");
        }
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Knows where the nodes are, as a load balancer does; a node that refuses is skipped by who asks.
#[derive(Debug, Default)]
pub struct Balancer {
    nodes: RwLock<Vec<Option<SocketAddr>>>,
}

impl Balancer {
    /// Puts a node in, moves it, or takes it out.
    pub fn set(&self, node: usize, addr: Option<SocketAddr>) {
        let mut nodes = self.nodes.write();
        if nodes.len() <= node {
            nodes.resize(node + 1, None);
        }
        nodes[node] = addr;
    }

    /// All nodes that are in, the wanted one first.
    pub fn nodes_from(&self, wanted: usize) -> Vec<(usize, SocketAddr)> {
        let nodes = self.nodes.read();
        let count = nodes.len().max(1);
        let order = (0..nodes.len()).map(|index| (index + wanted) % count);
        order
            .filter_map(|node| Some((node, nodes[node]?)))
            .collect()
    }

    /// How many there are, in or out.
    pub fn len(&self) -> usize {
        self.nodes.read().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
