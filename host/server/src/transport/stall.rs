//! How long a peer may take no byte of what waits for it, while a connection still speaks HTTP.
//!
//! hyper bounds the time of a head and we that of an answer's making; without this, a client that asks for much and
//! reads nothing would keep socket, answer and task for as long as it likes. Sessions have a limit of their own.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Sleep;

/// Times the writes of one connection.
#[derive(Debug)]
pub(super) struct WriteStall {
    limit: Duration,
    /// There while a write waits.
    timer: Option<Pin<Box<Sleep>>>,
}

impl WriteStall {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, timer: None }
    }

    /// Passes the outcome of a write on, unless writes have waited for too long: then `TimedOut`.
    pub(super) fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.timer = None;
            return written;
        }
        let limit = self.limit;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        match timer.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the peer reads nothing",
            ))),
            Poll::Pending => Poll::Pending,
        }
    }
}
