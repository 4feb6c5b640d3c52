//! What a rig is asked to do, and what it found.

use std::net::SocketAddr;
use std::time::Duration;

use crate::template::Template;

/// What a connection does after its upgrade.
#[derive(Debug, Clone)]
pub enum Step {
    /// Sends one text frame; `{group}` and `{id}` are filled in.
    Send(Template),
    /// Sends one text frame that depends on the connection's index, such as a token of its own.
    SendEach(fn(usize) -> String),
    /// Waits for this many messages (lines).
    Expect(u32),
}

impl Step {
    pub fn send(text: &str) -> Self {
        Self::Send(Template::new(text))
    }
}

/// The connections of a rig.
#[derive(Debug, Clone)]
pub struct RigConfig {
    pub address: SocketAddr,
    pub server_pid: u32,
    pub subscriber_path: String,
    pub subscriber_script: Vec<Step>,
    pub subscribers: usize,
    /// Subscriber n belongs to group n modulo this.
    pub groups: usize,
    /// The path of the publishers' upgrade, and their script; `None` for no publishers.
    pub publisher: Option<(String, Vec<Step>)>,
    /// Where each of them connects. Several publish in turn, and each waits for its answer.
    pub publishers: Vec<SocketAddr>,
    /// Further processes whose CPU is read.
    pub beside: Vec<u32>,
    /// A message that starts like this is a delivery.
    pub delivery_prefix: String,
}

/// How publications follow each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// This many are under way at any time, all of the first publisher.
    Window(u64),
    /// Each publisher has one that is not answered.
    Answered,
    /// This many each second, whatever the server does.
    Rate(f64),
}

/// One measurement.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What the publisher sends.
    pub message: Template,
    pub pace: Pace,
    /// 0 where nobody subscribes: then the answer ends a publication.
    pub deliveries_per_publication: u64,
    pub warmup: Duration,
    pub time: Duration,
}

/// What opening the connections took.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Opened {
    pub seconds: f64,
    pub server_cpu_us_per_connection: f64,
}

/// What one measurement found.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Sample {
    pub published: u64,
    pub delivered: u64,
    pub lost: u64,
    pub disordered: u64,
    pub refused: u64,
    pub seconds: f64,
    pub deliveries_per_second: f64,
    pub server_ns_per_delivery: f64,
    pub server_ns_per_publication: f64,
    pub server_cores: f64,
    pub client_cores: f64,
    /// Of the further processes.
    pub beside_cores: Vec<f64>,
    pub bytes_per_delivery: f64,
    pub mean_us: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
}
