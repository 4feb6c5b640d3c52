//! Who is subscribed to a channel of the app, in namespaces with `presence`.
//!
//! An answer is given at once or not at all. On the memory engine it is that of this moment. On the Redis engine it is at
//! most two seconds old, and the first question about a channel answers [`PresenceError::Unavailable`] and begins to
//! follow it: the plugin decides without presence then. In the test kit that is so for every channel that
//! [`Host::with_presence`](crate::testing::Host::with_presence) did not name.
//!
//! ```
//! use tidegate_sdk::{Refusal, Rpc, presence, rpc, testing::Host};
//!
//! struct Crowd;
//!
//! impl Rpc for Crowd {
//!     fn call(_: rpc::Request) -> Result<rpc::Verdict, Refusal> {
//!         match presence::count("room") {
//!             Ok(stats) => rpc::Verdict::json(&stats.users),
//!             Err(error) => Err(Refusal::error(503, error.to_string())),
//!         }
//!     }
//! }
//!
//! assert_eq!(Host::new().call::<Crowd>("crowd", "").unwrap_err().code(), Some(503));
//! let mut host = Host::new().with_presence("room", &["ann", "bob", "ann"]);
//! assert_eq!(host.call::<Crowd>("crowd", ""), Ok(rpc::Verdict::Reply(b"2".to_vec())));
//! ```

use std::fmt;

use crate::host;

/// There is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PresenceError {
    /// The node cannot say. A plugin that decides by presence must decide without it.
    Unavailable(String),
    /// The namespace of the channel keeps no presence.
    NotEnabled(String),
    /// The channel's name, the user or the limit is out of its range.
    Invalid(String),
}

impl fmt::Display for PresenceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(reason) | Self::NotEnabled(reason) | Self::Invalid(reason) => {
                f.write_str(reason)
            }
        }
    }
}

impl std::error::Error for PresenceError {}

/// How many are subscribed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Sessions.
    pub clients: u32,
    /// Different users; the anonymous ones are one.
    pub users: u32,
}

/// A subscriber.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The public id of the session.
    pub client_id: String,
    /// Empty for an anonymous client.
    pub user: String,
    /// What the session shows to others, as JSON.
    pub info: Option<Vec<u8>>,
    /// What the subscription shows to others, as JSON.
    pub channel_info: Option<Vec<u8>>,
}

/// How many are subscribed to the channel.
///
/// # Errors
///
/// See [`PresenceError`].
pub fn count(channel: &str) -> Result<Stats, PresenceError> {
    host::presence_count(channel)
}

/// At most `limit` subscribers, 1 to 1,000, in no particular order.
///
/// # Errors
///
/// See [`PresenceError`].
pub fn members(channel: &str, limit: u32) -> Result<Vec<Member>, PresenceError> {
    host::presence_members(channel, limit)
}

/// Whether the user is subscribed to the channel.
///
/// # Errors
///
/// See [`PresenceError`].
pub fn is_present(channel: &str, user: &str) -> Result<bool, PresenceError> {
    host::presence_is_present(channel, user)
}
