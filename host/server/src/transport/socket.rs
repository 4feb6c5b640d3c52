//! The one socket type of sessions: TCP, or its twin in memory for tests.
//!
//! Owns readiness and non-blocking reads and writes, and nothing above bytes. TLS joins as another variant.
//! Invariant: no method waits; what can't go on says `WouldBlock` and the matching `poll_…_ready` wakes.

use std::{
    collections::VecDeque,
    io,
    net::Shutdown,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;
use tidegate_realtime::link::Wire;
use tokio::net::TcpStream;

/// Where a session's bytes come from and go to.
#[derive(Debug)]
pub enum Socket {
    Tcp(TcpStream),
    Memory(MemorySocket),
}

/// One end of a pipe in memory. What one end writes the other reads; each direction holds a bounded number of
/// bytes.
#[derive(Debug)]
pub struct MemorySocket {
    incoming: Arc<Mutex<Pipe>>,
    outgoing: Arc<Mutex<Pipe>>,
}

#[derive(Debug)]
struct Pipe {
    bytes: VecDeque<u8>,
    capacity: usize,
    /// The writing end said that nothing more comes, or is gone.
    is_ended: bool,
    /// The reading end is gone.
    is_abandoned: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Socket {
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx),
            Self::Memory(socket) => socket.poll_read_ready(cx),
        }
    }

    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_write_ready(cx),
            Self::Memory(socket) => socket.poll_write_ready(cx),
        }
    }

    /// # Errors
    /// `WouldBlock` when nothing is there; zero bytes are the end.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read(buffer),
            Self::Memory(socket) => socket.try_read(buffer),
        }
    }

    /// Says that nothing more will be written; reading goes on.
    pub fn end_writing(&self) {
        match self {
            Self::Tcp(stream) => {
                // A connection that is gone already needs no end.
                let _ = socket2::SockRef::from(stream).shutdown(Shutdown::Write);
            }
            Self::Memory(socket) => socket.outgoing.lock().end(),
        }
    }
}

impl Wire for Socket {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Memory(socket) => socket.try_write(bytes),
        }
    }
}

impl MemorySocket {
    /// Two ends that are connected; each direction holds `capacity` bytes.
    pub fn pair(capacity: usize) -> (Self, Self) {
        let one = Arc::new(Mutex::new(Pipe::new(capacity)));
        let other = Arc::new(Mutex::new(Pipe::new(capacity)));
        let left = Self {
            incoming: Arc::clone(&one),
            outgoing: Arc::clone(&other),
        };
        let right = Self {
            incoming: other,
            outgoing: one,
        };
        (left, right)
    }

    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.incoming.lock();
        if !pipe.bytes.is_empty() || pipe.is_ended {
            return Poll::Ready(Ok(()));
        }
        pipe.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.outgoing.lock();
        if pipe.bytes.len() < pipe.capacity || pipe.is_abandoned {
            return Poll::Ready(Ok(()));
        }
        pipe.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// # Errors
    /// `WouldBlock` when nothing is there; zero bytes are the end.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut pipe = self.incoming.lock();
        let taken = buffer.len().min(pipe.bytes.len());
        if taken == 0 {
            return match pipe.is_ended {
                true => Ok(0),
                false => Err(io::ErrorKind::WouldBlock.into()),
            };
        }
        for (place, byte) in buffer.iter_mut().zip(pipe.bytes.drain(..taken)) {
            *place = byte;
        }
        if let Some(writer) = pipe.writer.take() {
            writer.wake();
        }
        Ok(taken)
    }

    /// # Errors
    /// `WouldBlock` when the pipe is full, `BrokenPipe` when the other end is gone.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut pipe = self.outgoing.lock();
        if pipe.is_abandoned {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let taken = bytes.len().min(pipe.capacity - pipe.bytes.len());
        if taken == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        pipe.bytes.extend(&bytes[..taken]);
        if let Some(reader) = pipe.reader.take() {
            reader.wake();
        }
        Ok(taken)
    }

    /// Says that nothing more will be written; reading goes on.
    pub fn end_writing(&self) {
        self.outgoing.lock().end();
    }
}

impl Drop for MemorySocket {
    fn drop(&mut self) {
        self.outgoing.lock().end();
        let mut incoming = self.incoming.lock();
        incoming.is_abandoned = true;
        if let Some(writer) = incoming.writer.take() {
            writer.wake();
        }
    }
}

impl Pipe {
    fn new(capacity: usize) -> Self {
        Self {
            bytes: VecDeque::new(),
            capacity,
            is_ended: false,
            is_abandoned: false,
            reader: None,
            writer: None,
        }
    }

    fn end(&mut self) {
        self.is_ended = true;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}
