//! Sessions, channels and fan-out: the realtime core of a Tidegate node.
//!
//! Knows no HTTP, no wasm and no Redis: transports hand in bytes, hooks and brokers are traits.

pub mod broker;
mod flusher;
pub mod hooks;
pub mod hub;
pub mod ids;
pub mod link;
mod outbox;
#[cfg(test)]
mod test_wire;
pub mod wheel;
