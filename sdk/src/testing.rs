//! The test kit: `cargo test` runs a plugin natively, against a host that the test makes up.
//!
//! ```
//! use serde_json::json;
//! use tidegate_sdk::{Filtering, Message, Refusal, context, filtering::Verdict, log, testing::Host};
//!
//! struct Door;
//!
//! impl Filtering for Door {
//!     fn filter(message: Message) -> Result<Verdict, Refusal> {
//!         message.set_tag("from", message.user());
//!         log::debug!("version {}", context::version());
//!         Ok(Verdict::Pass)
//!     }
//! }
//!
//! let mut host = Host::new().user("ann").version(3).config(json!({ "strict": true }));
//! assert_eq!(host.filter::<Door>("room", r#"{"text":"hi"}"#), Ok(Verdict::Pass));
//! assert_eq!(host.tags()["from"], "ann");
//! assert_eq!(host.log()[0].text, "version 3");
//! ```
//!
//! Every call is that of a new instance, and what it did replaces what the one before did; only what it left in
//! [`state`](crate::state) and [`store`](crate::store) is there for the next, and [`metrics`](crate::metrics) add up. The contract's limits
//! hold: what would fail the hook call on a node panics in the test and says why.

mod done;
mod facts;
mod hooks;

pub use self::done::{Disconnect, LogLine, Publication, Unsubscribe};
use crate::host::State;

/// What is left of a call of a new host: the deadline of the quickest hooks.
const DEFAULT_REMAINING_MS: u32 = 5;

/// The moment of a new host's clock: 2026-01-01 00:00 UTC.
const DEFAULT_NOW_MS: u64 = 1_767_225_600_000;

/// A node that is not there: what it tells the plugin, and what the plugin did to it.
#[derive(Debug, Clone)]
#[must_use = "a host does nothing until one of its hooks is called"]
pub struct Host {
    state: State,
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    /// A host of app `default` that runs version 1 of the plugin without settings, for an anonymous client over a
    /// WebSocket.
    pub fn new() -> Self {
        let mut state = State::default();
        state.facts.app = "default".to_owned();
        state.facts.version = 1;
        state.facts.trace_id = "test".to_owned();
        state.facts.client_id = "00000000-0000-4000-8000-000000000000".to_owned();
        state.facts.transport = "websocket".to_owned();
        state.facts.now_ms = DEFAULT_NOW_MS;
        state.facts.remaining_ms = DEFAULT_REMAINING_MS;
        Self { state }
    }
}
