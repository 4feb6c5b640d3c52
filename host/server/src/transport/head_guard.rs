//! The socket under hyper, strict about what hyper is lenient or silent about.
//!
//! hyper takes a bare LF for the end of a line, which other parsers do not, and says nothing at all to the preface of
//! HTTP/2. Both are broken HTTP/1 and shall get the 400 that anything broken gets: the guard follows the head of a
//! connection's first request and makes the offending byte one that hyper refuses. Invariant: behind the first head,
//! in bodies and frames, every byte passes as it came.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, ReadBuf},
    net::TcpStream,
};

use super::stall::WriteStall;

/// One read of a head; most heads are shorter.
const SCRATCH_BYTES: usize = 2 * 1024;

/// A byte that no request head may hold.
const POISON: u8 = 0;

/// The method that RFC 9113 keeps for the preface of HTTP/2, which is thereby no request of HTTP/1.
const PREFACE: [u8; 4] = *b"PRI ";

/// A TCP connection whose first request head is followed.
#[derive(Debug)]
pub struct GuardedStream {
    io: TokioIo<TcpStream>,
    /// `None` behind the first head.
    head: Option<Head>,
    stall: WriteStall,
}

impl GuardedStream {
    /// `write_stall` is how long the peer may take nothing of an answer.
    pub fn new(stream: TcpStream, write_stall: Duration) -> Self {
        Self {
            io: TokioIo::new(stream),
            head: Some(Head::default()),
            stall: WriteStall::new(write_stall),
        }
    }

    pub fn into_inner(self) -> TcpStream {
        self.io.into_inner()
    }
}

/// How far into the head the bytes are.
#[derive(Debug, Default)]
struct Head {
    /// The last four bytes.
    last: [u8; 4],
    /// Bytes of the method seen, up to the preface's; empty lines before a request do not count.
    method_len: usize,
    is_preface: bool,
}

/// Where a head is after some bytes.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Inside,
    Behind,
}

impl Head {
    /// Goes along `bytes`, as far as the head goes, and spoils what must not be there.
    fn guard(&mut self, bytes: &mut [u8]) -> Place {
        for byte in bytes {
            let [_, second, third, previous] = self.last;
            self.last = [second, third, previous, *byte];
            let is_bare = *byte == b'\n' && previous != b'\r';
            if is_bare || self.ends_preface(*byte) {
                *byte = POISON;
            }
            if self.method_len > 0 && self.last == *b"\r\n\r\n" {
                return Place::Behind;
            }
        }
        Place::Inside
    }

    fn ends_preface(&mut self, byte: u8) -> bool {
        let is_empty_line = self.method_len == 0 && matches!(byte, b'\r' | b'\n');
        if is_empty_line || self.method_len == PREFACE.len() {
            return false;
        }
        let follows = self.method_len == 0 || self.is_preface;
        self.is_preface = follows && byte == PREFACE[self.method_len];
        self.method_len += 1;
        self.is_preface && self.method_len == PREFACE.len()
    }
}

impl Read for GuardedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Some(head) = &mut this.head else {
            return Pin::new(&mut this.io).poll_read(cx, buffer);
        };
        let mut scratch = [0; SCRATCH_BYTES];
        let room = buffer.remaining().min(SCRATCH_BYTES);
        let mut read = ReadBuf::new(&mut scratch[..room]);
        ready!(Pin::new(this.io.inner_mut()).poll_read(cx, &mut read))?;
        let place = head.guard(read.filled_mut());
        buffer.put_slice(read.filled());
        if place == Place::Behind {
            this.head = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl Write for GuardedStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write(cx, bytes);
        this.stall.watch(cx, written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, slices);
        this.stall.watch(cx, written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes as hyper gets them, read in steps of `step`.
    fn guarded(bytes: &[u8], step: usize) -> Vec<u8> {
        let mut head = Some(Head::default());
        let mut seen = Vec::new();
        for chunk in bytes.chunks(step) {
            let mut chunk = chunk.to_vec();
            if head.as_mut().map(|head| head.guard(&mut chunk)) == Some(Place::Behind) {
                head = None;
            }
            seen.extend(chunk);
        }
        seen
    }

    #[test]
    fn good_heads_and_all_that_follows_them_pass_unchanged() {
        let frames = b"\x81\x05a\n\nPRI * \n";
        for head in [
            "GET / HTTP/1.1\r\nhost: x\r\n\r\n",
            "\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "PR / HTTP/1.1\r\n\r\n",
            "PRINT / HTTP/1.1\r\n\r\n",
            "XPRI / HTTP/1.1\r\n\r\n",
        ] {
            let bytes = [head.as_bytes(), frames].concat();
            // A read never holds what follows a head in a later read; what it holds behind it stays as well.
            for step in [1, 3, bytes.len()] {
                assert_eq!(guarded(&bytes, step), bytes, "{head:?} by {step}");
            }
        }
    }

    #[test]
    fn a_bare_line_feed_and_the_preface_of_http2_are_spoilt_however_they_arrive() {
        for (bytes, spoilt) in [
            (
                "GET / HTTP/1.1\nhost: x\r\n\r\n",
                "GET / HTTP/1.1\0host: x\r\n\r\n",
            ),
            (
                "\r\n\r\nGET / HTTP/1.1\r\nhost: x\n\n",
                "\r\n\r\nGET / HTTP/1.1\r\nhost: x\0\0",
            ),
            ("PRI * HTTP/2.0\r\n\r\n", "PRI\0* HTTP/2.0\r\n\r\n"),
        ] {
            for step in [1, 2, bytes.len()] {
                let seen = guarded(bytes.as_bytes(), step);
                assert_eq!(
                    String::from_utf8(seen).unwrap(),
                    spoilt,
                    "{bytes:?} by {step}"
                );
            }
        }
    }
}
