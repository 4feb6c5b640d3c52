//! The server processes that are measured: started with their address announced, stopped when dropped.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// How long a server may take to stop by itself.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// A running server.
#[derive(Debug)]
pub struct Subject {
    child: Child,
    /// Where clients connect.
    pub client: SocketAddr,
    /// Where the admin API is, for servers that have one.
    pub admin: Option<String>,
}

impl Subject {
    /// Starts a program that announces itself as JSON lines and waits until it listens.
    ///
    /// # Errors
    /// When it cannot be started or ends before it listens.
    pub fn start(command: &mut Command) -> Result<Self> {
        let program = Path::new(command.get_program()).display().to_string();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| {
                format!("{program} could not be started; build it with `cargo xtask bench`")
            })?;
        let stdout = child.stdout.take().context("no output")?;
        let mut subject = Self {
            child,
            client: SocketAddr::from(([127, 0, 0, 1], 0)),
            admin: None,
        };
        let mut lines = BufReader::new(stdout).lines();
        for line in lines.by_ref() {
            let Ok(event) = serde_json::from_str::<Value>(&line?) else {
                continue;
            };
            if event["event"] == "listening" {
                let client = event["client"]
                    .as_str()
                    .context("no client address was announced")?;
                subject.client = client
                    .parse()
                    .with_context(|| format!("`{client}` is no address"))?;
                subject.client.set_ip([127, 0, 0, 1].into());
                subject.admin = event["admin"].as_str().map(str::to_owned);
                // Whatever comes later is read and dropped, so that a full pipe never stops the server.
                std::thread::spawn(move || lines.count());
                return Ok(subject);
            }
        }
        bail!(
            "{program} ended before it listened: {}",
            subject.child.wait()?
        );
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
        {
            // Gone already is as good.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
