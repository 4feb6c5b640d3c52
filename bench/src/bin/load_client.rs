//! The load client as a program: drives any server on this machine that speaks WebSocket text, prints one JSON line.
//!
//! A server of the Centrifugo protocol, a thousand subscribers, one publication under way:
//!
//! ```text
//! load_client --address 127.0.0.1:8000 --pid PID --path /connection/websocket --connections 1000 --window 1 \
//!   --step 'send:{"id":1,"connect":{}}' --step expect:1 --step 'send:{"id":2,"subscribe":{"channel":"b"}}' --step expect:1 \
//!   --publisher-path /connection/websocket --publisher-step 'send:{"id":1,"connect":{}}' --publisher-step expect:1 \
//!   --prefix '{"push"' --message '{"id":{id},"publish":{"channel":"b","data":{data}}}'
//! ```

#![expect(clippy::print_stdout, reason = "its result is its output")]

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use tidegate_bench::load::{Pace, Plan, Rig, RigConfig, Step};
use tidegate_bench::process;
use tidegate_bench::template::Template;

/// Holds WebSocket connections to a server on this machine and measures what it delivers.
#[derive(Debug, Parser)]
struct Options {
    /// Where the server listens; loopback only.
    #[arg(long, default_value = "127.0.0.1:8000")]
    address: SocketAddr,
    /// The server's process, whose CPU and memory are read.
    #[arg(long)]
    pid: u32,
    /// Path of the subscribers' upgrade.
    #[arg(long, default_value = "/ws")]
    path: String,
    /// How many subscribers.
    #[arg(long, default_value_t = 1000)]
    connections: usize,
    /// Groups of subscribers, `{group}` in steps and message.
    #[arg(long, default_value_t = 1)]
    groups: usize,
    /// What a subscriber does: `send:TEXT` or `expect:LINES`. May be repeated.
    #[arg(long = "step")]
    steps: Vec<StepOption>,
    /// Path of the publisher's upgrade.
    #[arg(long, default_value = "/pub")]
    publisher_path: String,
    /// What the publisher does before it publishes.
    #[arg(long = "publisher-step")]
    publisher_steps: Vec<StepOption>,
    /// What is published; `{data}` becomes an object of `--size` bytes with sequence number and timestamp.
    #[arg(long, default_value = "{data}")]
    message: String,
    /// Bytes of the data.
    #[arg(long, default_value_t = 140)]
    size: usize,
    /// Deliveries start like this.
    #[arg(long, default_value = "{")]
    prefix: String,
    /// Publications under way at any time.
    #[arg(long, conflicts_with = "rate")]
    window: Option<u64>,
    /// Publications each second.
    #[arg(long)]
    rate: Option<f64>,
    /// Only hold the connections and report memory.
    #[arg(long)]
    idle: bool,
    /// Seconds before measuring, and of measuring.
    #[arg(long, default_value_t = 1.0)]
    warmup: f64,
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
}

#[derive(Debug, Clone)]
struct StepOption(Step);

impl FromStr for StepOption {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(':') {
            Some(("send", text)) => Ok(Self(Step::send(text))),
            Some(("expect", lines)) => Ok(Self(Step::Expect(
                lines.parse().context("expect:LINES takes a number")?,
            ))),
            Some(_) | None => bail!("a step is send:TEXT or expect:LINES"),
        }
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    process::raise_file_limit();
    let steps = |steps: Vec<StepOption>| steps.into_iter().map(|step| step.0).collect::<Vec<_>>();
    let before = process::memory(options.pid)?;
    let mut rig = Rig::open(RigConfig {
        address: options.address,
        server_pid: options.pid,
        subscriber_path: options.path,
        subscriber_script: steps(options.steps),
        subscribers: options.connections,
        groups: options.groups,
        publisher: (!options.idle)
            .then(|| (options.publisher_path, steps(options.publisher_steps))),
        publishers: vec![options.address],
        beside: Vec::new(),
        delivery_prefix: options.prefix,
    })?;
    rig.idle(Duration::from_millis(500))?;
    let idle = process::memory(options.pid)?;
    let mut result = serde_json::json!({
        "opened": rig.opened(),
        "anonymous_bytes_per_connection": idle.anonymous.saturating_sub(before.anonymous) / options.connections.max(1) as u64,
        "resident_bytes_per_connection": idle.resident.saturating_sub(before.resident) / options.connections.max(1) as u64,
    });
    if options.idle {
        rig.idle(Duration::from_secs_f64(options.seconds))?;
    } else {
        let sample = rig.measure(&Plan {
            message: Template::new(
                &options
                    .message
                    .replace("{data}", &Template::data(options.size)),
            ),
            pace: options
                .rate
                .map_or(Pace::Window(options.window.unwrap_or(1)), Pace::Rate),
            deliveries_per_publication: (options.connections / options.groups.max(1)) as u64,
            warmup: Duration::from_secs_f64(options.warmup),
            time: Duration::from_secs_f64(options.seconds),
        })?;
        result["sample"] = serde_json::to_value(sample)?;
    }
    println!("{result}");
    Ok(())
}
