//! One running server process and its end.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        mpsc::{Receiver, sync_channel},
    },
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{SOON, api::Http, log::Log, metrics::Metrics};

/// Path of the server under test: `TIDEGATE_BIN`, or beside the test's own target folder.
///
/// # Panics
/// When there is none, saying how to build it.
pub fn binary() -> PathBuf {
    #[expect(
        clippy::disallowed_methods,
        reason = "a test harness has no configuration module"
    )]
    if let Some(path) = std::env::var_os("TIDEGATE_BIN") {
        return path.into();
    }
    let executable = std::env::current_exe().expect("a process knows its own path");
    let profile_dir = executable
        .parent()
        .and_then(Path::parent)
        .expect("a test runs from target/PROFILE/deps");
    let path = profile_dir.join("tidegate");
    assert!(
        path.exists(),
        "{} is missing; build it: cargo build --bin tidegate",
        path.display()
    );
    path
}

/// A node about to start.
#[derive(Debug)]
pub struct NodeBuilder {
    config: Value,
    data_dir: Option<PathBuf>,
}

impl NodeBuilder {
    /// Sets a key of the configuration by its dotted path.
    #[must_use]
    pub fn set(mut self, path: &str, value: Value) -> Self {
        let mut place = &mut self.config;
        for part in path.split('.') {
            if place.is_null() {
                *place = json!({});
            }
            place = &mut place[part];
        }
        *place = value;
        self
    }

    /// Adds a namespace with these options.
    #[must_use]
    pub fn namespace(mut self, options: Value) -> Self {
        let place = &mut self.config["channel"]["namespaces"];
        match place {
            Value::Array(list) => list.push(options),
            _ => *place = json!([options]),
        }
        self
    }

    /// Uses a data directory that outlives the node.
    #[must_use]
    pub fn data_dir(mut self, dir: &Path) -> Self {
        self.data_dir = Some(dir.to_owned());
        self
    }

    /// Starts the process and waits until it listens.
    ///
    /// # Panics
    /// When it does not come up; its log is on the test's output.
    pub fn start(self) -> Node {
        let scratch = tempfile::tempdir().expect("a temporary folder can be made");
        let data_dir = self.data_dir.unwrap_or_else(|| scratch.path().join("data"));
        let config = scratch.path().join("config.json");
        std::fs::write(&config, self.config.to_string()).expect("the folder is writable");
        let mut child = Command::new(binary())
            .args(["serve", "--announce", "json", "--config"])
            .arg(&config)
            .arg("--data-dir")
            .arg(&data_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server can be executed");
        let label = std::thread::current().name().unwrap_or("test").to_owned();
        let stderr = child.stderr.take().expect("stderr is piped");
        let log = Arc::new(Log::default());
        let writer = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                #[expect(clippy::print_stderr, reason = "the test runner shows it on failure")]
                {
                    eprintln!("[{label}] {}", String::from_utf8_lossy(&line));
                }
                writer.push(line);
            }
        });
        let (announce, announced) = sync_channel(64);
        let stdout = child.stdout.take().expect("stdout is piped");
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Ok(event) = serde_json::from_str::<Value>(&line) {
                    // The test may have ended; then nobody wants the rest.
                    if announce.send(event).is_err() {
                        return;
                    }
                }
            }
        });
        let mut node = Node {
            child: Some(child),
            client_addr: String::new(),
            admin_addr: String::new(),
            admin_key: None,
            api_key: None,
            data_dir,
            announced,
            log,
            _scratch: scratch,
        };
        node.wait_until_listening();
        node
    }
}

/// A running node; stopped for good on drop.
#[derive(Debug)]
pub struct Node {
    child: Option<Child>,
    client_addr: String,
    admin_addr: String,
    admin_key: Option<String>,
    api_key: Option<String>,
    data_dir: PathBuf,
    announced: Receiver<Value>,
    log: Arc<Log>,
    _scratch: TempDir,
}

impl Node {
    /// A node on free ports with pings off the clock's way and API keys of its own making.
    pub fn builder() -> NodeBuilder {
        NodeBuilder {
            config: json!({
                "http_server": { "address": "127.0.0.1", "port": 0 },
                "admin_api": { "port": 0 },
                "log": { "level": "info" },
                // The most that there may be: a test is about what a plugin does, not about how busy its machine is.
                "plugins": { "deadline": { "filtering": "20ms", "routing": "20ms" } },
            }),
            data_dir: None,
        }
    }

    fn wait_until_listening(&mut self) {
        loop {
            let event = self
                .announced
                .recv_timeout(SOON)
                .expect("the server announces that it listens");
            let text = |name: &str| event[name].as_str().map(str::to_owned);
            match event["event"].as_str() {
                Some("keys") => {
                    self.admin_key = text("admin_key");
                    self.api_key = text("api_key");
                }
                Some("listening") => {
                    self.client_addr = text("client").expect("the client address is announced");
                    self.admin_addr = text("admin").unwrap_or_default();
                    return;
                }
                _ => {}
            }
        }
    }

    /// `HOST:PORT` of the client listener.
    pub fn client_addr(&self) -> &str {
        &self.client_addr
    }

    /// `HOST:PORT` of the admin listener.
    pub fn admin_addr(&self) -> &str {
        &self.admin_addr
    }

    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The admin key of the first start; afterwards from the data directory.
    pub fn admin_key(&self) -> String {
        self.admin_key
            .clone()
            .unwrap_or_else(|| self.key_file("admin.key"))
    }

    /// The API key of app `default`.
    pub fn api_key(&self) -> String {
        self.api_key
            .clone()
            .unwrap_or_else(|| self.key_file("api.key"))
    }

    /// Uses the keys that another node of the cluster made.
    pub fn take_keys_of(&mut self, other: &Self) {
        self.admin_key = Some(other.admin_key());
        self.api_key = Some(other.api_key());
    }

    fn key_file(&self, name: &str) -> String {
        let path = self.data_dir.join(name);
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|err| panic!("{}: {err}", path.display()));
        text.trim().to_owned()
    }

    /// The server API with the node's key.
    pub fn api(&self) -> Http {
        Http::new(&self.client_addr).header("X-API-Key", &self.api_key())
    }

    /// The admin API with the node's key.
    pub fn admin(&self) -> Http {
        Http::new(&self.admin_addr).header("Authorization", &format!("Bearer {}", self.admin_key()))
    }

    /// What the process has logged.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The counters and gauges of the process, as its admin listener shows them.
    pub async fn metrics(&self) -> Metrics {
        let answer = Http::new(&self.admin_addr).get("/metrics").await;
        Metrics::parse(&String::from_utf8_lossy(&answer.body))
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Resident memory in bytes.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn resident_bytes(&self) -> u64 {
        const PAGE_BYTES: u64 = 4096;
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.pid()))
            .expect("the process is alive");
        let pages = statm
            .split(' ')
            .nth(1)
            .and_then(|text| text.parse::<u64>().ok());
        pages.expect("statm has a second field") * PAGE_BYTES
    }

    /// Resident memory that belongs to the process alone, in bytes: its heap and stacks, without the pages of the
    /// executable, which come and go with the machine's page cache.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn own_bytes(&self) -> u64 {
        self.status_bytes("RssAnon:")
    }

    /// The most resident memory that the process ever had, in bytes.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn peak_bytes(&self) -> u64 {
        self.status_bytes("VmHWM:")
    }

    fn status_bytes(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))
            .expect("the process is alive");
        let value = status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"));
        let kibibytes = value.and_then(|text| text.parse::<u64>().ok());
        kibibytes.expect("the status has it in kB") * 1024
    }

    /// Asks the process to drain (SIGTERM).
    pub fn terminate(&self) {
        if let Some(pid) = self
            .child
            .as_ref()
            .and_then(|child| rustix::process::Pid::from_raw(child.id().cast_signed()))
        {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)
                .expect("the process is ours and alive");
        }
    }

    /// Ends the process without warning (SIGKILL) and waits until it is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("the process is ours");
            child.wait().expect("the process was started by us");
        }
    }

    /// Waits for the process to end by itself; its exit code.
    pub async fn ended(&mut self) -> Option<i32> {
        let mut child = self.child.take()?;
        let waiting = tokio::task::spawn_blocking(move || child.wait());
        let status = waiting.await.expect("waiting does not panic");
        status.expect("the process was started by us").code()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}
