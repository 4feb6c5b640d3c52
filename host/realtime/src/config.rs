//! Settings of one app, as the rest of this crate wants them: validated, typed, with the reference's defaults.
//!
//! Owns the shapes and the numbers with their reasons; reading files is the server's business. A value of these
//! types is good as it stands; what can be wrong between settings was found by whoever built them.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use regex::Regex;

pub use crate::{
    namespace::{
        ChannelConfig, HistoryConfig, NamespaceOptions, Permission, PublicationDataFormat,
    },
    token::{HmacSecret, TokenAlgorithm, TokenConfig},
};

/// Everything an app decides about its clients and channels.
#[derive(Debug, Clone, Default)]
pub struct RealtimeConfig {
    pub client: ClientConfig,
    pub token: TokenConfig,
    pub channel: ChannelConfig,
}

/// Longest silence between server and client. Load balancers commonly cut idle connections at 60 s; less than
/// half of that leaves room for one lost ping.
pub const DEFAULT_PING_INTERVAL: Duration = Duration::from_secs(25);

/// A client that takes longer than this for an empty message is gone or useless.
pub const DEFAULT_PONG_TIMEOUT: Duration = Duration::from_secs(8);

/// Time a client has, beyond the expiry, for fetching a new token over a slow network.
pub const DEFAULT_EXPIRED_CLOSE_DELAY: Duration = Duration::from_secs(25);

/// Time from the socket's opening to a successful connect; more is somebody holding sockets.
pub const DEFAULT_STALE_CLOSE_DELAY: Duration = Duration::from_secs(10);

/// Subscriptions of one connection; each costs memory on every node it touches.
pub const DEFAULT_CHANNEL_LIMIT: usize = 128;

/// Publications in one history page or one recovery; with [`MAX_PAGE_BYTES`] it bounds a reply.
pub const DEFAULT_PAGE_LIMIT: usize = 300;

/// Bytes in one history page or one recovery, so that 300 large publications don't fill an outbox at once.
pub const MAX_PAGE_BYTES: usize = 1024 * 1024;

/// Longest time that a position goes unconfirmed, give or take a fifth. The reference's; an engine whose events can
/// get lost on their way asks for less ([`crate::broker::Broker::max_unconfirmed`]).
pub const DEFAULT_POSITION_CHECK_DELAY: Duration = Duration::from_secs(40);

/// Commands per second of one connection in apps that other people use; four seconds' worth may come at once.
pub const DEFAULT_COMMAND_RATE: NonZeroU32 = NonZeroU32::new(100).unwrap();

/// Limits and habits of client connections.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    pub ping_interval: Duration,
    /// Shorter than `ping_interval`.
    pub pong_timeout: Duration,
    pub expired_close_delay: Duration,
    pub expired_sub_close_delay: Duration,
    pub stale_close_delay: Duration,
    pub channel_limit: usize,
    /// How often positions are compared with the streams' tops at least; zero is on doubt alone.
    pub position_check_delay: Duration,
    /// Connections of the app on this node; `None`: no limit.
    pub connection_limit: Option<usize>,
    /// Connections of one user on this node; `None`: no limit.
    pub user_connection_limit: Option<usize>,
    /// Commands per second of one connection, with four times as many at once; `None`: no limit.
    pub command_rate: Option<NonZeroU32>,
    pub connect_include_server_time: bool,
    pub history_max_publications: usize,
    pub recovery_max_publications: usize,
    /// Who comes without a token and is vouched for by no plugin is let in, without a name.
    pub allow_anonymous_connect_without_token: bool,
    /// Every user who is not anonymous has a channel of their own; `None`: nobody has.
    pub personal_channel: Option<PersonalChannel>,
    /// Everybody may connect, subscribe and publish.
    pub is_insecure: bool,
}

/// The channel of a user, to which all sessions of the user are subscribed by the server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PersonalChannel {
    /// Empty: the channels without a namespace.
    pub namespace: Box<str>,
    /// A new connection of the user ends the others (3504), on every node.
    pub is_single_connection: bool,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            ping_interval: DEFAULT_PING_INTERVAL,
            pong_timeout: DEFAULT_PONG_TIMEOUT,
            expired_close_delay: DEFAULT_EXPIRED_CLOSE_DELAY,
            expired_sub_close_delay: DEFAULT_EXPIRED_CLOSE_DELAY,
            stale_close_delay: DEFAULT_STALE_CLOSE_DELAY,
            channel_limit: DEFAULT_CHANNEL_LIMIT,
            position_check_delay: DEFAULT_POSITION_CHECK_DELAY,
            connection_limit: None,
            user_connection_limit: None,
            command_rate: None,
            connect_include_server_time: false,
            history_max_publications: DEFAULT_PAGE_LIMIT,
            recovery_max_publications: DEFAULT_PAGE_LIMIT,
            allow_anonymous_connect_without_token: false,
            personal_channel: None,
            is_insecure: false,
        }
    }
}

/// What a text of a token (`aud`, `iss`) or of a channel name must be.
#[derive(Debug, Clone)]
pub enum TextRule {
    Exactly(Arc<str>),
    Matches(Regex),
}

impl TextRule {
    pub fn accepts(&self, text: &str) -> bool {
        match self {
            Self::Exactly(expected) => **expected == *text,
            Self::Matches(pattern) => pattern.is_match(text),
        }
    }
}
