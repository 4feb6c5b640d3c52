//! The broker: publications and their history.
//!
//! Owns the trait and its values; the memory engine is in [`crate::memory`], Redis joins in its own crate. The
//! contract is what Redis can honour: every answer may be pending, a publication reaches subscribers through
//! [`BrokerEvents`] and not through the answer, and within one channel events arrive in stream order.

use std::{borrow::Cow, sync::Arc, time::Duration};

use bytes::Bytes;
use tidegate_protocol::{ClientInfo, Publication, StreamPosition};

use crate::{hooks::Progress, ids::ChannelKey};

/// What to publish and how to keep it.
#[derive(Debug, Clone)]
pub struct PublishRequest {
    pub key: ChannelKey,
    /// Data, info and tags; the broker sets offset and epoch.
    pub publication: Publication,
    /// `None` keeps no history: the publication has no offset.
    pub history: Option<HistoryOptions>,
    /// At most 64 bytes; the first result is given again for [`IDEMPOTENCY_TTL`].
    pub idempotency_key: Option<Box<str>>,
    /// Suppresses the publication unless greater than the last one stored; 0 for none.
    pub version: u64,
    pub version_epoch: Box<str>,
}

/// How long the result of an idempotent publish is remembered; the reference's five minutes.
pub const IDEMPOTENCY_TTL: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryOptions {
    /// Publications kept.
    pub size: usize,
    /// How long they are kept after the last publish.
    pub ttl: Duration,
    /// How long offset and epoch survive the last use of the stream.
    pub meta_ttl: Duration,
}

/// Where a publication ended up.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Published {
    /// `None` without history.
    pub position: Option<StreamPosition>,
    /// The result of an earlier publish with the same idempotency key; nothing was published now.
    pub is_repeated: bool,
    /// The version was not greater than the last; nothing was published.
    pub is_suppressed: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct HistoryQuery {
    pub limit: HistoryLimit,
    /// After this position (before it when `order` is `NewestFirst`).
    pub since: Option<StreamPosition>,
    pub order: HistoryOrder,
    /// A stream seen for the first time is made with this life, so that its epoch stays true.
    pub meta_ttl: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistoryLimit {
    /// Only the position of the top.
    PositionOnly,
    AtMost(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistoryOrder {
    OldestFirst,
    NewestFirst,
}

#[derive(Debug, Clone, PartialEq)]
pub struct HistoryPage {
    pub publications: Vec<Arc<Publication>>,
    pub top: StreamPosition,
}

impl HistoryPage {
    /// The page cut to `max_bytes` at its far end: who wants the rest asks on from there. One publication always
    /// stays, or nobody could get past it.
    #[must_use]
    pub fn within(mut self, max_bytes: usize) -> Self {
        let mut num_bytes = 0;
        let fitting = self
            .publications
            .iter()
            .take_while(|publication| {
                num_bytes += publication_cost(publication);
                num_bytes <= max_bytes
            })
            .count();
        self.publications.truncate(fitting.max(1));
        self
    }
}

/// Why the broker did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// The broker could not be asked; the same request may succeed later.
    #[error("the broker is unavailable")]
    Unavailable,
    /// More requests in flight than the node allows.
    #[error("too many requests to the broker are in flight")]
    Overloaded,
    /// No replica has confirmed the publication in time: it may be stored, and may be lost with the primary.
    #[error("no replica has confirmed the publication; it may be stored")]
    Unreplicated,
}

/// Somebody came into a channel or left it. Told to who is there and wants to hear it; neither kept nor numbered.
#[derive(Debug, Clone, PartialEq)]
pub enum JoinLeave {
    Join(ClientInfo),
    Leave(ClientInfo),
}

impl JoinLeave {
    pub fn info(&self) -> &ClientInfo {
        match self {
            Self::Join(info) | Self::Leave(info) => info,
        }
    }
}

/// Receives what the broker publishes, on every node with interest in the channel. Called in stream order per
/// channel; must not block.
pub trait BrokerEvents: Send + Sync + 'static {
    fn on_publication(
        &self,
        key: &ChannelKey,
        publication: &Arc<Publication>,
        position: Option<&StreamPosition>,
    );

    /// In order with the publications of the channel, as far as the broker knows one.
    fn on_join_leave(&self, key: &ChannelKey, event: &JoinLeave);

    /// Whether anybody on this node is in the channel, or was a moment ago: the epoch of a stream that somebody
    /// relies on must not change by itself. Must not call the broker.
    fn is_followed(&self, key: &ChannelKey) -> bool;

    /// Something may have been lost on its way here: positions are compared with the streams' tops at once.
    fn on_doubt(&self, doubt: Doubt<'_>);
}

/// What may have lost something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt<'a> {
    /// An event of this channel could not be read.
    Channel(&'a ChannelKey),
    /// The way from the store to this node was interrupted.
    Everything,
}

/// Whether the engine can do its work now, for the node's readiness (threat model R4, O2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineHealth {
    Able,
    /// What it cannot do, in a sentence for the operator that names no address and no secret.
    Unable(Cow<'static, str>),
}

/// Publications and history. A query whose `since` epoch differs from the stream's answers with no
/// publications and the present top; the caller compares.
pub trait Broker: Send + Sync + 'static {
    fn publish(&self, request: PublishRequest) -> Progress<Result<Published, BrokerError>>;
    fn history(
        &self,
        key: &ChannelKey,
        query: HistoryQuery,
    ) -> Progress<Result<HistoryPage, BrokerError>>;
    /// Tells who is in the channel, on all nodes. Nothing is kept; who is not there then does not hear of it.
    fn publish_join_leave(
        &self,
        key: &ChannelKey,
        event: JoinLeave,
    ) -> Progress<Result<(), BrokerError>>;
    /// Removes entries; offset and epoch stay.
    fn remove_history(&self, key: &ChannelKey) -> Progress<Result<(), BrokerError>>;
    /// The node's first subscriber of a channel is about to join: events must flow once this is answered.
    fn subscribe(&self, key: &ChannelKey) -> Progress<Result<(), BrokerError>>;
    /// The node's last subscriber of a channel left.
    fn unsubscribe(&self, key: &ChannelKey);

    /// The stream has lost what was acknowledged, and gives offsets out again: unless its epoch is not `epoch` any
    /// more, it gets a new one, in one step. Answers the top afterwards. Nothing of the old epoch is an event after
    /// the answer.
    fn renew_epoch(
        &self,
        key: &ChannelKey,
        epoch: &str,
    ) -> Progress<Result<StreamPosition, BrokerError>>;

    /// How long a position may go without being compared with the stream's top. An engine whose events cannot get
    /// lost between it and the node needs no limit.
    fn max_unconfirmed(&self) -> Duration {
        Duration::MAX
    }

    /// Whether each read is a way to another machine, so that those who want the same share one.
    fn is_far(&self) -> bool {
        false
    }

    /// Whether publications can be taken and delivered now. Cheap: it is asked by every health check.
    fn health(&self) -> EngineHealth {
        EngineHealth::Able
    }
}

/// Offset, epoch and the envelope, rounded up.
const OVERHEAD: usize = 64;

/// Size in bytes that a publication is accounted with in outboxes, history limits and pages.
pub fn publication_cost(publication: &Publication) -> usize {
    let tags: usize = publication
        .tags
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    let data: &Bytes = publication.data.as_bytes();
    OVERHEAD + data.len() + tags
}

/// Size in bytes that what others are shown of a client is accounted with.
pub fn client_info_cost(info: &ClientInfo) -> usize {
    let ClientInfo {
        user,
        client,
        conn_info,
        chan_info,
    } = info;
    let infos = conn_info.as_bytes().len() + chan_info.as_bytes().len();
    OVERHEAD + user.len() + client.len() + infos
}
