//! Presence: who is in which channel, over all nodes.
//!
//! Owns the trait and its values; the store of a node that stands alone is [`memory`], who of this node's sessions
//! is a member where, and how the others hear of it, is [`roster`]. Redis joins in its own crate.
//!
//! Invariants. A member is in the store before its subscribe reply is queued and out of it before anybody is told
//! that it left. What a store holds of a node that died ends by itself, [`DEFAULT_TTL`] after the last refresh.
//! Reading a channel with any number of members keeps no thread for longer than a page.

#[cfg(any(test, feature = "testing"))]
pub mod contract;
pub mod memory;
pub mod roster;
pub mod view;
pub(crate) mod watched;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use tidegate_protocol::ClientInfo;

use crate::{
    broker::BrokerError,
    hooks::Progress,
    ids::{ChannelKey, ClientId},
};

pub use self::{
    memory::MemoryPresence,
    roster::{Attendance, Roster},
    view::{NoView, PresenceView},
    watched::MAX_AGE as MAX_VIEW_AGE,
};

/// How long a member outlives its last refresh; the reference's value. Two refreshes may get lost.
pub const DEFAULT_TTL: Duration = Duration::from_secs(60);

/// How often a node refreshes its members; the reference's value.
pub const DEFAULT_UPDATE_INTERVAL: Duration = Duration::from_secs(27);

/// Bytes of members in one reply to a client: half of an outbox, so that what is published meanwhile still fits.
pub const MAX_REPLY_BYTES: usize = 512 * 1024;

/// Members in one answer of the server API.
pub const MAX_API_MEMBERS: usize = 100_000;

/// Bytes of members in one answer of the server API.
pub const MAX_API_BYTES: usize = 32 * 1024 * 1024;

/// Members read, or looked at, between two yields: about 0.1 ms.
pub(crate) const PAGE: usize = 1024;

/// A session in a channel, as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub client: ClientId,
    /// Empty for an anonymous client.
    pub user: Arc<str>,
    /// JSON; empty when none.
    pub conn_info: Bytes,
    /// JSON; empty when none.
    pub chan_info: Bytes,
}

impl Member {
    pub fn to_info(&self) -> ClientInfo {
        ClientInfo {
            user: self.user.as_ref().to_owned(),
            client: self.client.to_string(),
            conn_info: self.conn_info.clone().into(),
            chan_info: self.chan_info.clone().into(),
        }
    }

    /// Bytes of a member without a name and without anything to show, in JSON and rounded up.
    pub const MIN_COST: usize = 128;

    /// Bytes that it is accounted with in replies and batches: about what it takes in JSON.
    pub fn cost(&self) -> usize {
        Self::MIN_COST + self.user.len() + self.conn_info.len() + self.chan_info.len()
    }
}

/// A member and its channel.
#[derive(Debug, Clone)]
pub struct Present {
    pub key: ChannelKey,
    pub member: Arc<Member>,
}

/// How many are in a channel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PresenceStats {
    pub num_clients: usize,
    /// Different users; the anonymous ones are one.
    pub num_users: usize,
}

/// Members of a channel, in no particular order, none of them twice.
#[derive(Debug, Clone, Default)]
pub struct Members {
    pub members: Vec<Arc<Member>>,
    /// The limit left nobody out.
    pub is_whole: bool,
}

/// A channel has more members than an answer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "limit exceeded: the channel has more members than an answer holds; ask presence_stats for their number"
)]
pub struct TooManyMembers;

/// The members in the form of an answer, by client id. Other tasks run after each [`PAGE`].
///
/// # Errors
/// [`TooManyMembers`] if some are left out already, or if they have more than `max_bytes`.
pub(crate) async fn by_client<T>(
    members: &Members,
    max_bytes: usize,
    form: impl Fn(&Member) -> T,
) -> Result<BTreeMap<String, T>, TooManyMembers> {
    if !members.is_whole {
        return Err(TooManyMembers);
    }
    let mut found = BTreeMap::new();
    let mut num_bytes = 0;
    for page in members.members.chunks(PAGE) {
        num_bytes += page.iter().map(|member| member.cost()).sum::<usize>();
        if num_bytes > max_bytes {
            return Err(TooManyMembers);
        }
        found.extend(
            page.iter()
                .map(|member| (member.client.to_string(), form(member))),
        );
        tokio::task::yield_now().await;
    }
    Ok(found)
}

/// Who is in which channel. What cannot be answered at once is pending; nothing waits for longer than the store's
/// own time limits.
///
/// A member stays until it is removed, or for the store's TTL after it was last added or refreshed.
pub trait Presence: Send + Sync + 'static {
    /// Puts a member into the channel; one that is there already is replaced.
    fn add(&self, key: &ChannelKey, member: &Arc<Member>) -> Progress<Result<(), BrokerError>>;
    /// Prolongs the life of a node's members, at most [`roster::BATCH`] at a time. One that the store has lost, or
    /// knows in another form, is put in as it is given here.
    fn refresh(&self, members: Vec<Present>) -> Progress<Result<(), BrokerError>>;
    fn remove(&self, key: &ChannelKey, client: ClientId) -> Progress<Result<(), BrokerError>>;
    /// At most `limit` members.
    fn members(&self, key: &ChannelKey, limit: usize) -> Progress<Result<Members, BrokerError>>;
    /// Costs the same however many there are.
    fn stats(&self, key: &ChannelKey) -> Progress<Result<PresenceStats, BrokerError>>;
    /// The store for callers that cannot wait, if it is in this process.
    fn local(&self) -> Option<&MemoryPresence> {
        None
    }
}
