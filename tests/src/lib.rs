//! Harness for tests of the whole: the real binary, driven from outside.
//!
//! Owns starting and stopping nodes, a client for both codecs, the two HTTP APIs and the command line. Knows the
//! server by its surfaces alone. Each wait is for an event, or for what another process says (`cluster`), inside [`within`].

pub mod api;
pub mod bombs;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod guests;
pub mod log;
pub mod metrics;
pub mod node;
pub mod raw;
pub mod reply;
pub mod token;

pub use client::Client;
pub use node::{Node, NodeBuilder};

use std::{future::Future, time::Duration};

/// Longest wait for anything that should happen at once. Generous, since CI shares two cores.
pub const SOON: Duration = Duration::from_secs(20);

/// Waits for `future`, at most [`SOON`].
///
/// # Panics
/// When the time is up, naming what was awaited.
#[track_caller]
pub fn within<F: Future>(what: &str, future: F) -> impl Future<Output = F::Output> {
    let caller = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(SOON, future).await {
            Ok(value) => value,
            Err(_) => panic!("{what} did not happen within {SOON:?} ({caller})"),
        }
    }
}
