//! Sessions, channels and fan-out: the realtime core of a Tidegate node.
//!
//! Knows no HTTP, no wasm and no Redis: transports hand in bytes, hooks and brokers are traits.

pub mod app;
pub mod broker;
#[cfg(any(test, feature = "testing"))]
pub mod broker_contract;
pub mod channel;
pub mod cluster;
pub mod config;
pub mod directory;
pub mod driver;
mod entrance;
pub mod events;
mod flusher;
pub mod hooks;
pub mod hub;
pub mod ids;
pub mod leases;
pub mod link;
pub mod memory;
pub mod metrics;
pub mod namespace;
pub mod node;
pub mod notices;
mod outbox;
mod positions;
pub mod presence;
pub mod publish;
pub mod rate;
mod reads;
pub mod recovery;
pub mod schedule;
pub mod session;
pub mod store;
#[cfg(test)]
mod test_wire;
pub mod token;
pub mod wheel;
