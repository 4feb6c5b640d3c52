//! The messages of the client protocol: one table of names, field numbers and types.
//!
//! Both codecs are made from this table by the `messages!` macro (see the private module `schema`), so that they cannot
//! disagree about a field. Owns no behaviour beyond questions about a message itself. A number left out is
//! reserved in the protocol or belongs to the compression dictionary, which this server never switches on.
//!
//! Field names are those on the wire (`r#type`, `r#pub` where Rust wants the escape). Maps are `BTreeMap`s, so
//! that encoding is the same every time.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    raw::Raw,
    schema::{TextBytes, ZigZag, messages},
};

messages! {
    /// Client to server: an id and one request. The first request that is set, in the order of the fields, decides.
    struct Command {
        /// 0 for `send` and for a pong.
        1 => id: u32,
        4 => connect: Option<Box<ConnectRequest>>,
        5 => subscribe: Option<Box<SubscribeRequest>>,
        6 => unsubscribe: Option<Box<UnsubscribeRequest>>,
        7 => publish: Option<Box<PublishRequest>>,
        8 => presence: Option<Box<PresenceRequest>>,
        9 => presence_stats: Option<Box<PresenceStatsRequest>>,
        10 => history: Option<Box<HistoryRequest>>,
        11 => ping: Option<Box<PingRequest>>,
        12 => send: Option<Box<SendRequest>>,
        13 => rpc: Option<Box<RpcRequest>>,
        14 => refresh: Option<Box<RefreshRequest>>,
        15 => sub_refresh: Option<Box<SubRefreshRequest>>,
    }

    /// Server to client: the answer to a command, a push (`id` 0), or a ping (nothing set).
    struct Reply {
        1 => id: u32,
        2 => error: Option<Box<Error>>,
        4 => push: Option<Box<Push>>,
        5 => connect: Option<Box<ConnectResult>>,
        6 => subscribe: Option<Box<SubscribeResult>>,
        7 => unsubscribe: Option<Box<UnsubscribeResult>>,
        8 => publish: Option<Box<PublishResult>>,
        9 => presence: Option<Box<PresenceResult>>,
        10 => presence_stats: Option<Box<PresenceStatsResult>>,
        11 => history: Option<Box<HistoryResult>>,
        12 => ping: Option<Box<PingResult>>,
        13 => rpc: Option<Box<RpcResult>>,
        14 => refresh: Option<Box<RefreshResult>>,
        15 => sub_refresh: Option<Box<SubRefreshResult>>,
    }

    /// Why a command failed; see [`crate::ErrorCode`].
    struct Error {
        1 => code: u32,
        2 => message: String,
        /// Whether the client may simply try again.
        3 => temporary: bool,
    }

    /// What the server says unasked.
    struct Push {
        /// Channel number of channel compaction; this server never sets it.
        1 => id: i64,
        2 => channel: String,
        4 => r#pub: Option<Arc<Publication>>,
        5 => join: Option<Box<Join>>,
        6 => leave: Option<Box<Leave>>,
        7 => unsubscribe: Option<Box<Unsubscribe>>,
        8 => message: Option<Box<Message>>,
        9 => subscribe: Option<Box<Subscribe>>,
        10 => connect: Option<Box<Connect>>,
        11 => disconnect: Option<Box<Disconnect>>,
        12 => refresh: Option<Box<Refresh>>,
    }

    /// One message in a channel.
    struct Publication {
        4 => data: Raw,
        /// The publisher, when it was a client.
        5 => info: Option<Box<ClientInfo>>,
        /// 0 in channels without history.
        6 => offset: u64,
        7 => tags: BTreeMap<String, String>,
        8 => delta: bool,
        /// Unix milliseconds; not filled in ordinary pushes.
        9 => time: i64,
        /// Only in wildcard-style subscriptions.
        10 => channel: String,
        /// Map and shared-poll subscriptions only, like `removed`, `score` and `version`.
        11 => key: String,
        12 => removed: bool,
        13 => score: ZigZag,
        /// Set only on the first publication of a stream.
        14 => epoch: String,
        /// Never sent to clients.
        15 => prev_data: Raw,
        16 => version: u64,
    }

    /// Who a client is, as other clients see it.
    struct ClientInfo {
        1, always => user: String,
        2, always => client: String,
        3 => conn_info: Raw,
        4 => chan_info: Raw,
    }

    /// A place in a stream.
    struct StreamPosition {
        1 => offset: u64,
        2 => epoch: String,
    }

    /// A predicate on the tags of a publication; see [`crate::Filter`].
    struct FilterNode {
        1 => op: String,
        2 => key: String,
        3 => cmp: String,
        4 => val: String,
        5 => vals: Vec<String>,
        6 => nodes: Vec<FilterNode>,
    }

    struct ConnectRequest {
        1, secret => token: String,
        2 => data: Raw,
        3 => subs: BTreeMap<String, SubscribeRequest>,
        /// Name and version of the client's library or application.
        4 => name: String,
        5 => version: String,
        /// Emulated headers: said by the client, therefore untrusted.
        6 => headers: BTreeMap<String, String>,
        7 => flag: i64,
    }

    struct ConnectResult {
        1 => client: String,
        2 => version: String,
        3 => expires: bool,
        /// Seconds.
        4 => ttl: u32,
        5 => data: Raw,
        6 => subs: BTreeMap<String, SubscribeResult>,
        /// Seconds between pings; 0 when the server sends none.
        7 => ping: u32,
        8 => pong: bool,
        9, secret => session: String,
        10 => node: String,
        /// Unix milliseconds.
        11 => time: i64,
    }

    struct SubscribeRequest {
        1 => channel: String,
        2, secret => token: String,
        3 => recover: bool,
        6 => epoch: String,
        7 => offset: u64,
        8 => data: Raw,
        9 => positioned: bool,
        10 => recoverable: bool,
        11 => join_leave: bool,
        12 => delta: String,
        /// Tags filter.
        13 => tf: Option<Box<FilterNode>>,
        /// Bit 1: channel compaction wanted. Bit 2: answer error 112 instead of `recovered: false`.
        14 => flag: i64,
        /// 0 stream, 1 map, 2 map of clients, 3 map of users, 4 shared poll.
        15 => r#type: i32,
        /// Maps only: 2 state, 1 stream, 0 live.
        16 => phase: i32,
        17 => cursor: String,
        18 => limit: i32,
        19 => asc: bool,
    }

    struct SubscribeResult {
        1 => expires: bool,
        /// Seconds.
        2 => ttl: u32,
        3 => recoverable: bool,
        6 => epoch: String,
        7 => publications: Vec<Arc<Publication>>,
        8 => recovered: bool,
        9 => offset: u64,
        10 => positioned: bool,
        11 => data: Raw,
        12 => was_recovering: bool,
        13 => delta: bool,
        14 => id: i64,
        15 => r#type: i32,
        16 => phase: i32,
        17 => cursor: String,
        18 => state: Vec<Arc<Publication>>,
        /// Milliseconds.
        19 => publish_debounce: u32,
    }

    struct UnsubscribeRequest {
        1 => channel: String,
    }

    struct UnsubscribeResult {}

    struct PublishRequest {
        1 => channel: String,
        2 => data: Raw,
        /// 1 = write to a map.
        3 => r#type: i32,
        4 => key: String,
        5 => removed: bool,
    }

    struct PublishResult {}

    /// A message to the server that is never answered.
    struct SendRequest {
        1 => data: Raw,
    }

    struct RpcRequest {
        1 => data: Raw,
        2 => method: String,
    }

    struct RpcResult {
        1 => data: Raw,
    }

    struct PresenceRequest {
        1 => channel: String,
    }

    struct PresenceResult {
        /// Keyed by client id.
        1, always => presence: BTreeMap<String, ClientInfo>,
    }

    struct PresenceStatsRequest {
        1 => channel: String,
    }

    struct PresenceStatsResult {
        1, always => num_clients: u32,
        2, always => num_users: u32,
    }

    struct HistoryRequest {
        1 => channel: String,
        /// 0 asks for the position only; below 0 for as many as allowed.
        7 => limit: i32,
        8 => since: Option<Box<StreamPosition>>,
        9 => reverse: bool,
    }

    struct HistoryResult {
        1, always => publications: Vec<Arc<Publication>>,
        2, always => epoch: String,
        3, always => offset: u64,
    }

    /// Present in the schema, not routed: a command with nothing but this ends the connection with 3501.
    struct PingRequest {}

    struct PingResult {}

    struct RefreshRequest {
        1, secret => token: String,
    }

    struct RefreshResult {
        1 => client: String,
        2 => version: String,
        3 => expires: bool,
        /// Seconds.
        4 => ttl: u32,
    }

    struct SubRefreshRequest {
        1 => channel: String,
        2, secret => token: String,
        /// 0 refresh, 1 track, 2 untrack.
        3 => r#type: i32,
        4 => track: Vec<TrackBatch>,
        5 => untrack: Vec<String>,
    }

    struct SubRefreshResult {
        1 => expires: bool,
        /// Seconds.
        2 => ttl: u32,
        3 => items: Vec<Arc<Publication>>,
    }

    struct TrackBatch {
        1, secret => signature: String,
        2 => items: Vec<KeyedItem>,
    }

    struct KeyedItem {
        1 => key: String,
        2 => version: u64,
    }

    /// Push: someone subscribed.
    struct Join {
        1 => info: Option<Box<ClientInfo>>,
    }

    /// Push: someone unsubscribed.
    struct Leave {
        1 => info: Option<Box<ClientInfo>>,
    }

    /// Push: the server removed this subscription; see [`crate::UnsubscribeCode`].
    struct Unsubscribe {
        2 => code: u32,
        3 => reason: String,
    }

    /// Push: a message to one connection, in no channel.
    struct Message {
        1 => data: Raw,
    }

    /// Push: a server-side subscription was added to a live connection.
    struct Subscribe {
        1 => recoverable: bool,
        4 => epoch: String,
        5 => offset: u64,
        6 => positioned: bool,
        7 => data: Raw,
    }

    /// Push: first message of a unidirectional connection.
    struct Connect {
        1 => client: String,
        2 => version: String,
        3 => data: Raw,
        4 => subs: BTreeMap<String, SubscribeResult>,
        5 => expires: bool,
        6 => ttl: u32,
        7 => ping: u32,
        8 => pong: bool,
        9, secret => session: String,
        10 => node: String,
        11 => time: i64,
    }

    /// Push: the connection ends; on HTTP transports and unidirectional ones only.
    struct Disconnect {
        1 => code: u32,
        2 => reason: String,
        /// Legacy, ignored by current libraries.
        3 => reconnect: bool,
    }

    /// Push: the server API changed the connection's lifetime.
    struct Refresh {
        1 => expires: bool,
        2 => ttl: u32,
    }

    /// Client to server half of the HTTP transports.
    struct EmulationRequest {
        1 => node: String,
        2, secret => session: String,
        /// A frame of commands; in JSON it travels as a string.
        3 => data: TextBytes,
    }
}

/// The one request of a [`Command`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    Connect(Box<ConnectRequest>),
    Subscribe(Box<SubscribeRequest>),
    Unsubscribe(Box<UnsubscribeRequest>),
    Publish(Box<PublishRequest>),
    Presence(Box<PresenceRequest>),
    PresenceStats(Box<PresenceStatsRequest>),
    History(Box<HistoryRequest>),
    Ping(Box<PingRequest>),
    Send(Box<SendRequest>),
    Rpc(Box<RpcRequest>),
    Refresh(Box<RefreshRequest>),
    SubRefresh(Box<SubRefreshRequest>),
}

impl Command {
    /// An id of 0 without `send` is a pong, whatever else the command holds.
    pub fn is_pong(&self) -> bool {
        self.id == 0 && self.send.is_none()
    }

    /// The first request that is set, in the order of the protocol's table; `None` when none is.
    pub fn into_request(self) -> Option<Request> {
        let Self {
            id: _,
            connect,
            subscribe,
            unsubscribe,
            publish,
            presence,
            presence_stats,
            history,
            ping,
            send,
            rpc,
            refresh,
            sub_refresh,
        } = self;
        connect
            .map(Request::Connect)
            .or_else(|| subscribe.map(Request::Subscribe))
            .or_else(|| unsubscribe.map(Request::Unsubscribe))
            .or_else(|| publish.map(Request::Publish))
            .or_else(|| presence.map(Request::Presence))
            .or_else(|| presence_stats.map(Request::PresenceStats))
            .or_else(|| history.map(Request::History))
            .or_else(|| ping.map(Request::Ping))
            .or_else(|| send.map(Request::Send))
            .or_else(|| rpc.map(Request::Rpc))
            .or_else(|| refresh.map(Request::Refresh))
            .or_else(|| sub_refresh.map(Request::SubRefresh))
    }
}

impl Reply {
    /// A push in the form that bidirectional transports send.
    pub fn from_push(push: Push) -> Self {
        Self {
            push: Some(Box::new(push)),
            ..Self::default()
        }
    }

    /// The empty reply.
    pub fn ping() -> Self {
        Self::default()
    }

    pub fn from_error(id: u32, error: Error) -> Self {
        Self {
            id,
            error: Some(Box::new(error)),
            ..Self::default()
        }
    }
}
