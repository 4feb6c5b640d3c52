//! What the engine is told: where Redis is, how to log in, how long to wait.
//!
//! Owns validated values; the texts of the configuration file are read by the server's configuration module.
//! Secrets do not show in `Debug`.

use std::{fmt, time::Duration};

use tidegate_tls::Tls;

use crate::keys::Prefix;

/// The reference's; a connection that takes longer is not one to build a node on.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The reference's. A stalled connection is found out within it (threat model R2: no command takes over 5 s).
pub const DEFAULT_IO_TIMEOUT: Duration = Duration::from_secs(4);

/// The longest that `io_timeout` may be: with [`MAX_CONNECT_TIMEOUT`] it makes the five seconds of threat model R2.
pub const MAX_IO_TIMEOUT: Duration = Duration::from_secs(4);

pub const MAX_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The reference's: how long a session stays present without a sign of life.
pub const DEFAULT_PRESENCE_TTL: Duration = Duration::from_secs(60);

/// Commands sent or waiting on one node (threat model R2); the next one is refused.
pub const MAX_IN_FLIGHT: usize = 10_000;

/// The engine's configuration.
#[derive(Debug, Clone)]
pub struct RedisConfig {
    pub prefix: Prefix,
    /// At least one; channels are spread over them by consistent hash.
    pub shards: Vec<Topology>,
    /// At most [`MAX_CONNECT_TIMEOUT`].
    pub connect_timeout: Duration,
    /// At most [`MAX_IO_TIMEOUT`].
    pub io_timeout: Duration,
    pub presence_ttl: Duration,
    pub max_in_flight: usize,
    pub ack: Ack,
}

impl RedisConfig {
    /// One shard and the defaults.
    pub fn new(shard: Topology) -> Self {
        Self {
            prefix: Prefix::default(),
            shards: vec![shard],
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            io_timeout: DEFAULT_IO_TIMEOUT,
            presence_ttl: DEFAULT_PRESENCE_TTL,
            max_in_flight: MAX_IN_FLIGHT,
            ack: Ack::default(),
        }
    }

    /// Whether `insecure_skip_verify` is on for a connection that is made with TLS.
    pub fn trusts_anybody(&self) -> bool {
        self.shards.iter().any(Topology::trusts_anybody)
    }
}

/// Who has a publication with history before its publisher is told that it is published (threat model R8).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ack {
    /// The primary.
    #[default]
    Primary,
    /// The primary and at least one replica.
    Replicated,
}

/// What a shard is.
#[derive(Debug, Clone)]
pub enum Topology {
    /// One server.
    Standalone { address: Address, login: Login },
    /// A primary that the sentinels name.
    Sentinel {
        sentinels: Vec<Address>,
        sentinel_login: Login,
        master_name: Box<str>,
        login: Login,
    },
    /// Redis Cluster, found from any of its nodes.
    Cluster { seeds: Vec<Address>, login: Login },
}

impl Topology {
    pub fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster { .. })
    }

    /// Whether a connection of it is by TLS with whoever answers.
    fn trusts_anybody(&self) -> bool {
        let logins = match self {
            Self::Standalone { login, .. } | Self::Cluster { login, .. } => [Some(login), None],
            Self::Sentinel {
                sentinel_login,
                login,
                ..
            } => [Some(login), Some(sentinel_login)],
        };
        let mut tls = logins
            .into_iter()
            .flatten()
            .filter_map(|login| login.tls.as_ref());
        tls.any(|tls| !tls.is_checked())
    }
}

/// Where a server is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Address {
    pub host: Box<str>,
    pub port: u16,
}

impl Address {
    pub fn new(host: impl Into<Box<str>>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// How a connection introduces itself.
#[derive(Clone, Default)]
pub struct Login {
    /// Empty for the user `default`.
    pub user: Box<str>,
    /// Empty for none.
    pub password: Box<str>,
    pub db: i64,
    /// Shown by `CLIENT LIST`; empty for none.
    pub client_name: Box<str>,
    pub tls: Option<Tls>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            user,
            password,
            db,
            client_name,
            tls,
        } = self;
        f.debug_struct("Login")
            .field("user", user)
            .field("has_password", &!password.is_empty())
            .field("db", db)
            .field("client_name", client_name)
            .field("tls", tls)
            .finish()
    }
}
