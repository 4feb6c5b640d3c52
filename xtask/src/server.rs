//! A server process that xtask started: waits for its announcements, stops it when dropped.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// A cold start opens a database and binds two ports; far more means that it hangs.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The server drains for at most ten seconds by default; then we stop being polite.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// How often an exit is looked for.
const POLL: Duration = Duration::from_millis(50);

/// A running `tidegate serve`.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    /// Where clients connect, `host:port`.
    pub(crate) client: String,
    /// Where the admin API is, `host:port`.
    pub(crate) admin: String,
}

impl Server {
    /// Starts the server and waits until it says that it listens.
    pub(crate) fn start(binary: &Path, arguments: &mut dyn FnMut(&mut Command)) -> Result<Self> {
        let mut command = Command::new(binary);
        command
            .arg("serve")
            .args(["--announce", "json"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // Ctrl-c in the terminal reaches us alone; we pass it on as the signal that drains.
            .process_group(0);
        arguments(&mut command);
        println!("    $ {}", crate::steps::line(&command));
        let mut child = command
            .spawn()
            .with_context(|| format!("{} could not be started", binary.display()))?;
        let stdout = child.stdout.take().context("the server has no output")?;
        let (announce, announced) = sync_channel(8);
        // Reads for as long as the server writes: a full pipe would stop it.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Ok(event) = serde_json::from_str::<Value>(&line) {
                    // Nobody listens once the server is up.
                    let _ = announce.try_send(event);
                }
            }
        });
        let mut server = Self {
            child,
            client: String::new(),
            admin: String::new(),
        };
        server.wait_until_it_listens(&announced)?;
        Ok(server)
    }

    fn wait_until_it_listens(&mut self, announced: &Receiver<Value>) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            match announced.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(event) if event["event"] == "listening" => {
                    let address = |key: &str| event[key].as_str().map(str::to_owned);
                    self.client = address("client")
                        .context("the server did not say where clients connect")?;
                    self.admin = address("admin")
                        .context("the server did not say where the admin API is")?;
                    return Ok(());
                }
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => bail!(
                    "the server did not start within {} s",
                    START_TIMEOUT.as_secs()
                ),
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self
                        .child
                        .wait()
                        .context("the server cannot be waited for")?;
                    bail!("the server ended with {status}; its own message is above");
                }
            }
        }
    }

    /// From now on ctrl-c drains the server; pressed again, the server does not wait for its clients.
    pub(crate) fn stop_on_ctrl_c(&self) -> Result<()> {
        let pid = self.pid();
        ctrlc::set_handler(move || {
            println!("\nstopping: the server drains its connections; ctrl-c again does not wait");
            if let Some(pid) = pid {
                // It may have ended in between; then there is nothing to stop.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
        })
        .context("cannot listen for ctrl-c")
    }

    /// Waits until the server has ended.
    pub(crate) fn wait(&mut self) -> Result<std::process::ExitStatus> {
        self.child.wait().context("the server cannot be waited for")
    }

    /// The process, for signals.
    pub(crate) fn pid(&self) -> Option<rustix::process::Pid> {
        rustix::process::Pid::from_raw(i32::try_from(self.child.id()).ok()?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        if let Some(pid) = self.pid() {
            // It may have ended in between; then there is nothing to stop.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(POLL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
