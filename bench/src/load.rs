//! The load client: many WebSocket connections in one thread, one epoll, one read buffer.
//!
//! A [`Rig`] opens subscribers and one publisher and walks each through its script; then any number of measurements
//! follow on the open connections. One thread on purpose: on a machine of two cores the server gets the other one,
//! and a publication's timestamp and its arrival are read from the same clock.

mod plan;

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

pub use plan::{Opened, Pace, Plan, RigConfig, Sample, Step};

use crate::frame::{self, opcode};
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
    /// Subscribers first, the publisher last.
    connections: Vec<Connection>,
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
        ensure!(
            config.address.ip().is_loopback(),
            "the load client talks to this machine only"
        );
        let mut rig = Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("no epoll")?,
            connections: Vec::with_capacity(config.subscribers + 1),
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
            rig.connect(&rig.config.subscriber_path.clone())?;
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
            rig.connect(&path)?;
            rig.wait_until(|rig| rig.opening == 0)?;
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
        let mut begun: Option<(Totals, Instant, Duration, Duration)> = None;
        let mut due = start;
        let (mut moved, mut moved_at) = (self.totals.delivered, start);
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
                ));
            }
            if now >= end_at {
                break;
            }
            let under_way = self.under_way(before, plan);
            let wait = match plan.pace {
                Pace::Window(window) => {
                    for _ in under_way..window {
                        self.publish(plan)?;
                    }
                    TICK
                }
                Pace::Rate(rate) => {
                    while due <= now {
                        self.publish(plan)?;
                        due += Duration::from_secs_f64(1.0 / rate);
                    }
                    TICK.min(due.saturating_duration_since(now))
                }
            };
            self.turn(wait)?;
            if self.totals.delivered != moved {
                (moved, moved_at) = (self.totals.delivered, Instant::now());
            } else if moved_at.elapsed() > PATIENCE {
                bail!(
                    "nothing was delivered for {} s; {} publications were refused",
                    PATIENCE.as_secs(),
                    self.totals.refused - before.refused
                );
            }
        }
        let (first, begun_at, server_cpu, client_cpu) =
            begun.context("the warm-up is longer than the measurement")?;
        let (last, seconds) = (self.totals, begun_at.elapsed().as_secs_f64());
        let server_cpu = process::cpu_time(self.config.server_pid)?
            .saturating_sub(server_cpu)
            .as_secs_f64();
        let client_cpu = process::cpu_time(me)?
            .saturating_sub(client_cpu)
            .as_secs_f64();
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
            bytes_per_delivery: (last.bytes - first.bytes) as f64 / delivered.max(1) as f64,
            mean_us: latency.mean() / 1e3,
            p50_us: us(latency.quantile(0.5)),
            p99_us: us(latency.quantile(0.99)),
            p999_us: us(latency.quantile(0.999)),
            max_us: us(latency.max()),
        })
    }

    fn under_way(&self, before: Totals, plan: &Plan) -> u64 {
        let done =
            (self.totals.delivered - before.delivered) / plan.deliveries_per_publication.max(1);
        (self.totals.published - before.published).saturating_sub(done)
    }

    /// Lets what is under way arrive.
    fn drain(&mut self, before: Totals, plan: &Plan) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while self.under_way(before, plan) > 0 && Instant::now() < until {
            self.turn(TICK)?;
        }
        Ok(())
    }

    fn publish(&mut self, plan: &Plan) -> Result<()> {
        self.totals.published += 1;
        let sequence = self.totals.published;
        let values = Values {
            sequence,
            timestamp: self.now(),
            // Above the ids of any script.
            id: sequence + 100,
            group: usize::try_from(sequence).unwrap_or(0) % self.config.groups.max(1),
        };
        let mut text = Vec::with_capacity(256);
        plan.message.render(values, &mut text);
        let publisher = self.config.subscribers;
        self.send(publisher, opcode::TEXT, &text)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn connect(&mut self, path: &str) -> Result<()> {
        let index = self.connections.len();
        let address = self.config.address;
        let mut stream = TcpStream::connect(address).with_context(|| {
            format!(
                "connection {index} of {} to {address} was refused",
                self.config.subscribers
            )
        })?;
        stream.set_nodelay(true)?;
        stream.write_all(&frame::upgrade_request(path, &address.to_string()))?;
        stream.set_nonblocking(true)?;
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP;
        self.epoll
            .add(&stream, EpollEvent::new(interest, index as u64))?;
        self.connections.push(Connection {
            stream,
            sequence: 0,
            awaited: 0,
            step: 0,
            state: State::Upgrading,
            has_rest: false,
        });
        self.opening += 1;
        Ok(())
    }

    fn wait_until(&mut self, is_met: impl Fn(&Self) -> bool) -> Result<()> {
        let (mut opening, mut moved_at) = (self.opening, Instant::now());
        while !is_met(self) {
            self.turn(TICK)?;
            if self.opening != opening {
                (opening, moved_at) = (self.opening, Instant::now());
            } else if moved_at.elapsed() > PATIENCE {
                bail!(
                    "{opening} connections wait for an answer since {} s",
                    PATIENCE.as_secs()
                );
            }
        }
        Ok(())
    }

    /// Handles what has arrived, or waits for it.
    fn turn(&mut self, wait: Duration) -> Result<()> {
        let mut events = [EpollEvent::empty(); 512];
        // Rounded up: a wait of less than a millisecond would be a busy loop on a core that the server needs.
        let timeout = u8::try_from(wait.as_micros().div_ceil(1_000)).unwrap_or(u8::MAX);
        let count = match self.epoll.wait(&mut events, EpollTimeout::from(timeout)) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        for event in &events[..count] {
            self.read(usize::try_from(event.data()).unwrap_or(usize::MAX))?;
        }
        Ok(())
    }

    fn read(&mut self, index: usize) -> Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = self.read_into(index, &mut buffer);
        self.buffer = buffer;
        result.with_context(|| format!("connection {index}"))
    }

    fn read_into(&mut self, index: usize, buffer: &mut [u8]) -> Result<()> {
        let mut have = 0;
        if std::mem::take(&mut self.connections[index].has_rest) {
            let rest = self.rests.remove(&index).unwrap_or_default();
            ensure!(
                rest.len() < buffer.len(),
                "a frame is longer than {READ_BUFFER_BYTES} bytes"
            );
            buffer[..rest.len()].copy_from_slice(&rest);
            have = rest.len();
        }
        let len = match (&self.connections[index].stream).read(&mut buffer[have..]) {
            Ok(0) => bail!("closed by the server"),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error.into()),
        };
        self.totals.bytes += len as u64;
        let bytes = &buffer[..have + len];
        let used = self.consume(index, bytes)?;
        if used < bytes.len() {
            self.rests.insert(index, bytes[used..].to_vec());
            self.connections[index].has_rest = true;
        }
        Ok(())
    }

    /// Takes whole frames off the front; returns how many bytes are done with.
    fn consume(&mut self, index: usize, bytes: &[u8]) -> Result<usize> {
        let mut at = 0;
        if self.connections[index].state == State::Upgrading {
            let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
                return Ok(0);
            };
            let line = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]);
            ensure!(
                bytes.starts_with(b"HTTP/1.1 101"),
                "the upgrade was refused: {line}"
            );
            at = end + 4;
            self.connections[index].state = State::Scripted;
            self.advance(index)?;
        }
        let now = if self.latency.is_some() {
            self.now()
        } else {
            0
        };
        while let Some(head) = frame::header(&bytes[at..]) {
            let start = at + head.len;
            let Some(payload) = bytes.get(start..start + head.payload) else {
                break;
            };
            match head.opcode {
                opcode::CLOSE => {
                    self.connections[index].state = State::Closed;
                    let code = payload
                        .first_chunk()
                        .map_or(1005, |code| u16::from_be_bytes(*code));
                    bail!(
                        "closed with {code} {}",
                        String::from_utf8_lossy(payload.get(2..).unwrap_or_default())
                    );
                }
                opcode::PING => self.send(index, opcode::PONG, payload)?,
                opcode::PONG => {}
                _ => self.message(index, payload, now)?,
            }
            at = start + head.payload;
        }
        Ok(at)
    }

    /// One message, or several joined by newlines.
    fn message(&mut self, index: usize, payload: &[u8], now: u64) -> Result<()> {
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', payload).chain([payload.len()]) {
            self.line(index, &payload[start..end], now)?;
            start = end + 1;
        }
        Ok(())
    }

    fn line(&mut self, index: usize, line: &[u8], now: u64) -> Result<()> {
        if line == b"{}" {
            return self.send(index, opcode::TEXT, b"{}");
        }
        let is_publisher = index == self.config.subscribers;
        if self.connections[index].state == State::Scripted {
            if memchr::memmem::find(line, b"\"error\"").is_some() {
                bail!(
                    "the script was answered with {}",
                    String::from_utf8_lossy(line)
                );
            }
            let connection = &mut self.connections[index];
            connection.awaited = connection.awaited.saturating_sub(1);
            return if connection.awaited == 0 {
                self.advance(index)
            } else {
                Ok(())
            };
        }
        if is_publisher {
            self.totals.answered += 1;
            self.totals.refused += u64::from(memchr::memmem::find(line, b"\"error\"").is_some());
            return Ok(());
        }
        if !line.starts_with(self.config.delivery_prefix.as_bytes()) {
            return Ok(());
        }
        self.totals.delivered += 1;
        if let Some(sequence) = self.sequence_field.read(line) {
            let last = std::mem::replace(&mut self.connections[index].sequence, sequence);
            self.totals.disordered +=
                u64::from(last != 0 && sequence != last + self.config.groups.max(1) as u64);
        }
        if let Some(latency) = &mut self.latency
            && let Some(sent) = self.timestamp_field.read(line)
        {
            latency.add(now.saturating_sub(sent));
        }
        Ok(())
    }

    /// Runs the script until it has to wait.
    fn advance(&mut self, index: usize) -> Result<()> {
        loop {
            let script = match &self.config.publisher {
                Some((_, script)) if index == self.config.subscribers => script,
                Some(_) | None => &self.config.subscriber_script,
            };
            let step = script
                .get(usize::from(self.connections[index].step))
                .cloned();
            self.connections[index].step += 1;
            match step {
                Some(Step::Send(template)) => {
                    let mut text = Vec::new();
                    template.render(
                        Values {
                            id: index as u64,
                            group: index % self.config.groups.max(1),
                            ..Values::default()
                        },
                        &mut text,
                    );
                    self.send(index, opcode::TEXT, &text)?;
                }
                Some(Step::SendEach(text)) => {
                    self.send(index, opcode::TEXT, text(index).as_bytes())?
                }
                Some(Step::Expect(lines)) => {
                    self.connections[index].awaited = lines;
                    return Ok(());
                }
                None => {
                    self.connections[index].state = State::Ready;
                    self.opening -= 1;
                    return Ok(());
                }
            }
        }
    }

    fn send(&mut self, index: usize, opcode: u8, payload: &[u8]) -> Result<()> {
        self.frame.clear();
        frame::append(&mut self.frame, opcode, payload);
        let mut stream = &self.connections[index].stream;
        let mut rest = self.frame.as_slice();
        while !rest.is_empty() {
            match stream.write(rest) {
                Ok(len) => rest = &rest[len..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let fd = std::os::fd::AsFd::as_fd(stream);
                    poll(
                        &mut [PollFd::new(fd, PollFlags::POLLOUT)],
                        PollTimeout::from(WRITE_PATIENCE_MILLIS),
                    )?;
                }
                Err(error) => return Err(error).context("cannot write"),
            }
        }
        Ok(())
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
