//! The connections of a rig: upgrades, frames and lines, in one thread over one epoll.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{EpollEvent, EpollFlags, EpollTimeout};

use super::{
    Connection, PATIENCE, READ_BUFFER_BYTES, Rig, State, Step, TICK, WRITE_PATIENCE_MILLIS,
};
use crate::frame::{self, opcode};
use crate::template::Values;

impl Rig {
    pub(super) fn connect(&mut self, address: SocketAddr, path: &str) -> Result<()> {
        let index = self.connections.len();
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

    pub(super) fn wait_until(&mut self, is_met: impl Fn(&Self) -> bool) -> Result<()> {
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
    pub(super) fn turn(&mut self, wait: Duration) -> Result<()> {
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
        let is_publisher = index >= self.config.subscribers;
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
            if self.config.publishers.len() > 1 {
                self.free.push_back(index);
            }
            return Ok(());
        }
        if !line.starts_with(self.config.delivery_prefix.as_bytes()) {
            return Ok(());
        }
        self.totals.delivered += 1;
        if let Some(sequence) = self.sequence_field.read(line) {
            let last = std::mem::replace(&mut self.connections[index].sequence, sequence);
            // Several publishers overtake each other.
            let is_ordered = self.config.publishers.len() < 2;
            self.totals.disordered += u64::from(
                is_ordered && last != 0 && sequence != last + self.config.groups.max(1) as u64,
            );
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
                Some((_, script)) if index >= self.config.subscribers => script,
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

    pub(super) fn send(&mut self, index: usize, opcode: u8, payload: &[u8]) -> Result<()> {
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
