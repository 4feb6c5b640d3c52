//! Measuring a whole server: a load client, a ceiling to compare with, and what the system says about a process.
//!
//! `load` holds thousands of WebSocket connections in one thread with little state each, so that on a small machine
//! the server stays the subject. `ceiling` is the least a server with the same socket design can cost: everything a
//! real server does beyond that is the difference. The programs in `src/bin` put both together.
//!
//! Loopback only, bounded in count and time, and everything that was started is stopped.

#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "measures with the real clock and its own threads; no test steers its time"
)]

pub mod ceiling;
pub mod criterion;
pub mod frame;
pub mod histogram;
pub mod http;
pub mod identity;
pub mod load;
pub mod plugins;
pub mod process;
pub mod report;
pub mod run;
pub mod server;
pub mod subject;
pub mod template;
pub mod unsteady;
pub mod yardstick;
