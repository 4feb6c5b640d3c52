//! What plugins know of other nodes, and how soon: a count in `state`, and that somebody came or went.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tidegate_bench::frame::{self, opcode};
use tidegate_bench::histogram::Histogram;
use tidegate_bench::identity::{TOKEN_SECRET, connect_command_with};
use tidegate_bench::report::at_most;

use super::Goals;
use super::cluster::Cluster;

/// Increments on one node that are waited for on the other.
const INCREMENTS: usize = 500;

/// How often somebody comes and goes.
const ROUNDS: usize = 30;

/// Within what time the others know.
const STATE_MILLIS: f64 = 250.0;
const STATUS_MILLIS: f64 = 2_000.0;

/// The longest that anything is waited for.
const SILENCE: Duration = Duration::from_secs(30);

impl Goals {
    pub(crate) fn plugins(&mut self) -> Result<()> {
        let Some(folder) = self.options.plugins.clone() else {
            println!("plugins: left out, since `--plugins` does not say where the guests are");
            return Ok(());
        };
        let cluster = Cluster::start(&self.options.server, 2)?;
        let binds = [
            ("guest_rpc_echo", "keeper", "rpc"),
            ("presence_board", "board", "events"),
        ];
        for (file, name, hook) in binds {
            let wasm = folder.join(format!("{file}.wasm"));
            let wasm = wasm.to_str().context("a path that is no text")?;
            for nth in 0..cluster.nodes.len() {
                let push = ["plugin", "push", wasm, "--name", name, "--activate"];
                cluster.command_line(&self.options.server, nth, &push)?;
                cluster.command_line(&self.options.server, nth, &["plugin", "bind", name, hook])?;
            }
        }
        self.state(&cluster)?;
        self.statuses(&cluster)
    }

    fn state(&mut self, cluster: &Cluster) -> Result<()> {
        let increments = self.count(INCREMENTS);
        println!("state: {increments} increments, each waited for on the other node");
        let mut one = Talk::open(cluster.nodes[0].client, "one")?;
        let mut other = Talk::open(cluster.nodes[1].client, "other")?;
        let mut took = Histogram::default();
        for nth in 1..=increments {
            let began = Instant::now();
            one.rpc("add", &json!({ "key": "k", "by": 1 }))?;
            while other.rpc("add", &json!({ "key": "k", "by": 0 }))? < Some(nth as u64) {
                ensure!(began.elapsed() < SILENCE, "an increment does not arrive");
            }
            took.add(nanos(began));
        }
        let how = format!(
            "{increments} increments, p99; median {:.0} ms",
            millis(took.quantile(0.5))
        );
        let found = millis(took.quantile(0.99));
        let bar = (found, STATE_MILLIS, "ms");
        self.run
            .add(at_most("`state` of one node known on the other", bar, how));
        Ok(())
    }

    fn statuses(&mut self, cluster: &Cluster) -> Result<()> {
        let rounds = self.count(ROUNDS);
        println!("status: somebody comes and goes {rounds} times, a friend is on the other node");
        let mut friend = Talk::open(cluster.nodes[1].client, "friend")?;
        friend.subscribe("status:alice")?;
        let (mut came, mut went) = (Histogram::default(), Histogram::default());
        for _ in 0..rounds {
            let began = Instant::now();
            let alice = Talk::open(cluster.nodes[0].client, "alice")?;
            friend.until_status("online")?;
            came.add(nanos(began));
            let began = Instant::now();
            drop(alice);
            friend.until_status("offline")?;
            went.add(nanos(began));
        }
        for (what, took) in [("came online", came), ("went offline", went)] {
            let what = format!("a friend on the other node hears who {what}");
            let how = format!(
                "{rounds} times, the longest; median {:.0} ms",
                millis(took.quantile(0.5))
            );
            let bar = (millis(took.max()), STATUS_MILLIS, "ms");
            self.run.add(at_most(&what, bar, how));
        }
        Ok(())
    }
}

fn nanos(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

fn millis(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

/// One client that waits for each answer.
struct Talk {
    stream: TcpStream,
    buffer: Vec<u8>,
    lines: VecDeque<Value>,
    last_id: u32,
}

impl Talk {
    fn open(address: SocketAddr, user: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("no {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        let mut talk = Self {
            stream,
            buffer: Vec::new(),
            lines: VecDeque::new(),
            last_id: 1,
        };
        let request = frame::upgrade_request("/connection/websocket", &address.to_string());
        talk.stream.write_all(&request)?;
        let end = loop {
            let mut windows = talk.buffer.windows(4);
            if let Some(at) = windows.position(|bytes| bytes == b"\r\n\r\n") {
                break at + 4;
            }
            talk.fill()?;
        };
        ensure!(talk.buffer.starts_with(b"HTTP/1.1 101"), "no upgrade");
        talk.buffer.drain(..end);
        talk.send(&connect_command_with(TOKEN_SECRET, user))?;
        talk.reply()?;
        Ok(talk)
    }

    fn subscribe(&mut self, channel: &str) -> Result<()> {
        self.ask(&json!({ "subscribe": { "channel": channel } }))?;
        Ok(())
    }

    /// The number that a method answers.
    fn rpc(&mut self, method: &str, data: &Value) -> Result<Option<u64>> {
        let reply = self.ask(&json!({ "rpc": { "method": method, "data": data } }))?;
        Ok(reply["rpc"]["data"].as_u64())
    }

    fn until_status(&mut self, expected: &str) -> Result<()> {
        let began = Instant::now();
        while self.line()?["push"]["pub"]["data"]["status"] != expected {
            ensure!(began.elapsed() < SILENCE, "nobody is {expected}");
        }
        Ok(())
    }

    fn ask(&mut self, command: &Value) -> Result<Value> {
        self.last_id += 1;
        let mut command = command.clone();
        command["id"] = self.last_id.into();
        self.send(&command.to_string())?;
        self.reply()
    }

    fn reply(&mut self) -> Result<Value> {
        loop {
            let line = self.line()?;
            if line["id"] == self.last_id {
                ensure!(line["error"].is_null(), "refused: {line}");
                return Ok(line);
            }
        }
    }

    fn send(&mut self, text: &str) -> Result<()> {
        let mut bytes = Vec::new();
        frame::append(&mut bytes, opcode::TEXT, text.as_bytes());
        self.stream.write_all(&bytes)?;
        Ok(())
    }

    /// The next reply or push; pings are answered.
    fn line(&mut self) -> Result<Value> {
        loop {
            let Some(line) = self.lines.pop_front() else {
                self.frame()?;
                continue;
            };
            if line.as_object().is_some_and(serde_json::Map::is_empty) {
                self.send("{}")?;
                continue;
            }
            return Ok(line);
        }
    }

    fn frame(&mut self) -> Result<()> {
        let header = loop {
            if let Some(header) = frame::header(&self.buffer)
                && self.buffer.len() >= header.len + header.payload
            {
                break header;
            }
            self.fill()?;
        };
        let frame: Vec<u8> = self.buffer.drain(..header.len + header.payload).collect();
        if header.opcode == opcode::CLOSE {
            bail!("the node closed the connection");
        }
        if header.opcode == opcode::TEXT {
            for line in frame[header.len..].split(|byte| *byte == b'\n') {
                if !line.is_empty() {
                    self.lines.push_back(serde_json::from_slice(line)?);
                }
            }
        }
        Ok(())
    }

    fn fill(&mut self) -> Result<()> {
        let mut bytes = [0; 16 * 1024];
        let read = self.stream.read(&mut bytes)?;
        ensure!(read > 0, "the connection ended");
        self.buffer.extend_from_slice(&bytes[..read]);
        Ok(())
    }
}
