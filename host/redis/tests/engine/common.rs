//! What the tests share: settings for servers of the test, connections to them, and sessions of a node on them.

mod engine;
mod servers;
mod session;

pub(crate) use self::{
    engine::{Engine, Kept, history_query, request},
    servers::{
        as_tidegate, cluster, documented_acl, documented_server, sentinel, shards, standalone,
        within,
    },
    session::{Paper, peer, say},
};

use tidegate_realtime::ids::{AppId, ChannelKey};

/// A channel of the default app.
pub(crate) fn key(channel: &str) -> ChannelKey {
    ChannelKey::new(&AppId::default_app(), channel)
}
