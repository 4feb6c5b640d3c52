//! The load client: many WebSocket connections in one thread, one epoll, one read buffer.
//!
//! A [`Rig`] opens subscribers and publishers and walks each through its script; then any number of measurements
//! follow on the open connections. One thread on purpose: on a machine of two cores the server gets the other one,
//! and a publication's timestamp and its arrival are read from the same clock.

mod plan;
mod wire;

use std::collections::{HashMap, VecDeque};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags};

pub use plan::{Opened, Pace, Plan, RigConfig, Sample, Step};

use crate::frame::opcode;
use crate::histogram::Histogram;
use crate::process;
use crate::template::{Field, Values};

/// Handshakes under way at once; more would only measure the listener's backlog.
const HANDSHAKES: usize = 200;

/// One `read` at most; joined frames of a busy channel fit.
const READ_BUFFER_BYTES: usize = 256 * 1024;

/// Without any progress for this long a run has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a full socket is waited for before its write is tried again.
const WRITE_PATIENCE_MILLIS: u8 = 250;

/// The longest wait for events, so that deadlines are looked at.
const TICK: Duration = Duration::from_millis(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Upgrading,
    Scripted,
    Ready,
    Closed,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    /// The last sequence number seen; 0 before the first.
    sequence: u64,
    awaited: u32,
    step: u16,
    state: State,
    /// A frame was cut by a read; its head is in `Rig::rests`.
    has_rest: bool,
}

/// Running totals; measurements are differences of two copies.
#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    published: u64,
    delivered: u64,
    disordered: u64,
    /// Lines for the publisher: replies.
    answered: u64,
    /// Those of them that are errors.
    refused: u64,
    bytes: u64,
}

impl Totals {
    /// Grows while anything moves.
    fn arrived(&self) -> u64 {
        self.delivered + self.answered
    }
}

/// Replies to what a rig asked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Answers {
    pub answered: u64,
    /// Those of them that are errors.
    pub refused: u64,
}

/// Open connections, ready to measure with.
#[derive(Debug)]
pub struct Rig {
    config: RigConfig,
    epoll: Epoll,
    /// Subscribers first, then publishers.
    connections: Vec<Connection>,
    /// Publishers that wait for no answer, where there are several.
    free: VecDeque<usize>,
    rests: HashMap<usize, Vec<u8>>,
    buffer: Vec<u8>,
    frame: Vec<u8>,
    opening: usize,
    totals: Totals,
    clock: Instant,
    sequence_field: Field,
    timestamp_field: Field,
    latency: Option<Histogram>,
    opened: Opened,
}

impl Rig {
    /// Opens every connection and walks it through its script.
    ///
    /// # Errors
    /// When a connection is refused, closed early, or nothing moves for ten seconds.
    pub fn open(config: RigConfig) -> Result<Self> {
        for address in config.publishers.iter().chain([&config.address]) {
            ensure!(
                address.ip().is_loopback(),
                "the load client talks to this machine only"
            );
        }
        let mut rig = Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("no epoll")?,
            connections: Vec::with_capacity(config.subscribers + config.publishers.len()),
            free: VecDeque::new(),
            rests: HashMap::new(),
            buffer: vec![0; READ_BUFFER_BYTES],
            frame: Vec::with_capacity(1024),
            opening: 0,
            totals: Totals::default(),
            clock: Instant::now(),
            sequence_field: Field::sequence(),
            timestamp_field: Field::timestamp(),
            latency: None,
            opened: Opened {
                seconds: 0.0,
                server_cpu_us_per_connection: 0.0,
            },
            config,
        };
        let (start, cpu) = (Instant::now(), process::cpu_time(rig.config.server_pid)?);
        for _ in 0..rig.config.subscribers {
            rig.connect(rig.config.address, &rig.config.subscriber_path.clone())?;
            rig.wait_until(|rig| rig.opening < HANDSHAKES)?;
        }
        rig.wait_until(|rig| rig.opening == 0)?;
        let used = process::cpu_time(rig.config.server_pid)?.saturating_sub(cpu);
        rig.opened = Opened {
            seconds: start.elapsed().as_secs_f64(),
            server_cpu_us_per_connection: used.as_secs_f64() * 1e6
                / rig.config.subscribers.max(1) as f64,
        };
        if let Some((path, _)) = rig.config.publisher.clone() {
            for address in rig.config.publishers.clone() {
                rig.connect(address, &path)?;
            }
            rig.wait_until(|rig| rig.opening == 0)?;
            rig.free = (rig.config.subscribers..rig.connections.len()).collect();
        }
        Ok(rig)
    }

    /// What opening took.
    pub fn opened(&self) -> Opened {
        self.opened
    }

    /// Sends one message and tells whether it was refused.
    ///
    /// # Errors
    /// When a connection is closed.
    pub fn is_refused(&mut self, text: &str) -> Result<bool> {
        Ok(self.refused_after(text)?.is_some())
    }

    /// Sends one message and tells how long it took until it was refused; `None` when it was not within a second.
    ///
    /// # Errors
    /// When a connection is closed.
    pub fn refused_after(&mut self, text: &str) -> Result<Option<Duration>> {
        let (refused, sent_at) = (self.totals.refused, Instant::now());
        let publisher = self.config.subscribers;
        self.send(publisher, opcode::TEXT, text.as_bytes())?;
        while self.totals.refused == refused {
            if sent_at.elapsed() > Duration::from_secs(1) {
                return Ok(None);
            }
            self.turn(TICK)?;
        }
        Ok(Some(sent_at.elapsed()))
    }

    /// Has the publisher send so many messages a second until it is over; `text` makes the nth.
    ///
    /// # Errors
    /// When a connection is closed.
    pub fn ask_at(
        &mut self,
        rate: f64,
        is_over: &AtomicBool,
        text: impl Fn(usize) -> String,
    ) -> Result<Answers> {
        let (before, start) = (self.totals, Instant::now());
        let publisher = self.config.subscribers;
        let mut sent = 0;
        while !is_over.load(Ordering::Acquire) {
            while start.elapsed().as_secs_f64() * rate > sent as f64 {
                self.send(publisher, opcode::TEXT, text(sent).as_bytes())?;
                sent += 1;
            }
            self.turn(TICK)?;
        }
        Ok(Answers {
            answered: self.totals.answered - before.answered,
            refused: self.totals.refused - before.refused,
        })
    }

    /// Keeps the connections alive, answering pings, for a while.
    ///
    /// # Errors
    /// When a connection is closed.
    pub fn idle(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.turn(TICK)?;
        }
        Ok(())
    }

    /// Publishes as planned and reports what arrived.
    ///
    /// # Errors
    /// When a connection is closed or nothing moves for ten seconds.
    pub fn measure(&mut self, plan: &Plan) -> Result<Sample> {
        ensure!(self.config.publisher.is_some(), "this rig has no publisher");
        let start = Instant::now();
        let (measure_at, end_at) = (start + plan.warmup, start + plan.warmup + plan.time);
        let before = self.totals;
        let mut begun: Option<(Totals, Instant, Duration, Duration, Vec<Duration>)> = None;
        let mut due = start;
        let (mut moved, mut moved_at) = (self.totals.arrived(), start);
        let me = std::process::id();
        loop {
            let now = Instant::now();
            if begun.is_none() && now >= measure_at {
                self.latency = Some(Histogram::default());
                begun = Some((
                    self.totals,
                    now,
                    process::cpu_time(self.config.server_pid)?,
                    process::cpu_time(me)?,
                    self.cpu_beside()?,
                ));
            }
            if now >= end_at {
                break;
            }
            let under_way = self.under_way(before, plan);
            let wait = match plan.pace {
                Pace::Window(window) => {
                    for _ in under_way..window {
                        self.publish(plan, self.config.subscribers, now)?;
                    }
                    TICK
                }
                Pace::Answered => {
                    while let Some(publisher) = self.free.pop_front() {
                        self.publish(plan, publisher, now)?;
                    }
                    TICK
                }
                Pace::Rate(rate) => {
                    while due <= now {
                        let Some(publisher) = self.next_publisher() else {
                            break;
                        };
                        self.publish(plan, publisher, due)?;
                        due += Duration::from_secs_f64(1.0 / rate);
                    }
                    match due.saturating_duration_since(now) {
                        // All wait for answers, which wake us.
                        Duration::ZERO => TICK,
                        wait => wait.min(TICK),
                    }
                }
            };
            self.turn(wait)?;
            if self.totals.arrived() != moved {
                (moved, moved_at) = (self.totals.arrived(), Instant::now());
            } else if moved_at.elapsed() > PATIENCE {
                bail!(
                    "nothing arrived for {} s; {} publications were refused",
                    PATIENCE.as_secs(),
                    self.totals.refused - before.refused
                );
            }
        }
        let (first, begun_at, server_cpu, client_cpu, beside) =
            begun.context("the warm-up is longer than the measurement")?;
        let (last, seconds) = (self.totals, begun_at.elapsed().as_secs_f64());
        let server_cpu = process::cpu_time(self.config.server_pid)?
            .saturating_sub(server_cpu)
            .as_secs_f64();
        let client_cpu = process::cpu_time(me)?
            .saturating_sub(client_cpu)
            .as_secs_f64();
        let beside = self.cpu_beside()?.into_iter().zip(beside);
        let beside_cores = beside
            .map(|(now, before)| now.saturating_sub(before).as_secs_f64() / seconds)
            .collect();
        let latency = self.latency.take().unwrap_or_default();
        self.drain(before, plan)?;

        let (delivered, published) = (
            last.delivered - first.delivered,
            last.published - first.published,
        );
        let expected = (self.totals.published - before.published) * plan.deliveries_per_publication;
        let us = |nanos: u64| nanos as f64 / 1e3;
        Ok(Sample {
            published,
            delivered,
            lost: expected.saturating_sub(self.totals.delivered - before.delivered),
            disordered: self.totals.disordered - before.disordered,
            refused: self.totals.refused - before.refused,
            seconds,
            deliveries_per_second: delivered as f64 / seconds,
            server_ns_per_delivery: server_cpu * 1e9 / delivered.max(1) as f64,
            server_ns_per_publication: server_cpu * 1e9 / published.max(1) as f64,
            server_cores: server_cpu / seconds,
            client_cores: client_cpu / seconds,
            beside_cores,
            bytes_per_delivery: (last.bytes - first.bytes) as f64 / delivered.max(1) as f64,
            mean_us: latency.mean() / 1e3,
            p50_us: us(latency.quantile(0.5)),
            p99_us: us(latency.quantile(0.99)),
            p999_us: us(latency.quantile(0.999)),
            max_us: us(latency.max()),
        })
    }

    fn cpu_beside(&self) -> Result<Vec<Duration>> {
        let pids = self.config.beside.iter();
        pids.map(|pid| process::cpu_time(*pid)).collect()
    }

    fn under_way(&self, before: Totals, plan: &Plan) -> u64 {
        let done = match plan.deliveries_per_publication {
            0 => self.totals.answered - before.answered,
            each => (self.totals.delivered - before.delivered) / each,
        };
        (self.totals.published - before.published).saturating_sub(done)
    }

    /// The only publisher, or one of several that waits for nothing.
    fn next_publisher(&mut self) -> Option<usize> {
        match self.config.publishers.len() {
            1 => Some(self.config.subscribers),
            _ => self.free.pop_front(),
        }
    }

    /// Lets what is under way arrive.
    fn drain(&mut self, before: Totals, plan: &Plan) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while self.under_way(before, plan) > 0 && Instant::now() < until {
            self.turn(TICK)?;
        }
        Ok(())
    }

    /// Has a publisher send the next publication, which was `due` then.
    fn publish(&mut self, plan: &Plan, publisher: usize, due: Instant) -> Result<()> {
        self.totals.published += 1;
        let sequence = self.totals.published;
        // Who found no publisher free has waited, and that counts; the rest of a tick is this client's own.
        let late = due.elapsed();
        let late = if late > TICK { late } else { Duration::ZERO };
        let values = Values {
            sequence,
            timestamp: self
                .now()
                .saturating_sub(u64::try_from(late.as_nanos()).unwrap_or(0)),
            // Above the ids of any script.
            id: sequence + 100,
            group: usize::try_from(sequence).unwrap_or(0) % self.config.groups.max(1),
        };
        let mut text = Vec::with_capacity(256);
        plan.message.render(values, &mut text);
        self.send(publisher, opcode::TEXT, &text)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for connection in &self.connections {
            // A reset leaves no TIME_WAIT behind; where it cannot be had, an orderly close is as good.
            let _ = socket2::SockRef::from(&connection.stream).set_linger(Some(Duration::ZERO));
        }
    }
}
