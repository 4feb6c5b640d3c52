//! Client transports: the accept loop, what it admits, and sessions over WebSocket.
//!
//! Owns sockets and their limits (threat model, section 2). Does not know the client protocol: frames go to a
//! [`Conversation`](websocket::Conversation) and come back through a
//! [`Link`](tidegate_realtime::link::Link). Invariants: untrusted bytes are bounded before they are allocated;
//! one future per session and no other task; no peer can keep a place without paying for it in time.

pub mod address;
pub mod admission;
pub mod handshake;
pub mod head_guard;
pub mod listener;
pub mod origin;
pub mod reader;
pub mod refusal;
pub mod socket;
mod stall;
pub mod websocket;
