//! Sessions, channels and fan-out: the realtime core of a Tidegate node.
//!
//! Knows no HTTP, no wasm and no Redis: transports hand in bytes, hooks and brokers are traits.

pub mod broker;
pub mod hooks;
pub mod ids;
