//! Who is where: the connected sessions of an app, on whatever node they are.
//!
//! Nothing is kept for it: every node knows its own sessions and is asked. So an answer is as true as the sessions are,
//! and names the nodes that did not answer.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidegate_protocol::DisconnectCode;

use super::Node;
use crate::{
    app::App,
    broker::BrokerError,
    cluster::{NodeUid, Order, Query, Reply},
    entrance::Selection,
    hooks::Progress,
    ids::{AppId, ClientId},
};

/// Most sessions in an answer.
pub const MAX_SESSIONS: usize = 1_000;

/// Which sessions are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionFilter {
    /// Of this user alone; empty is the anonymous ones.
    #[serde(default)]
    pub user: Option<String>,
    /// This session alone.
    #[serde(default)]
    pub client: Option<ClientId>,
    /// At most [`MAX_SESSIONS`].
    #[serde(default)]
    pub most: usize,
}

/// A session and where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionPlace {
    pub client: String,
    pub user: String,
    /// The uid of its node.
    pub node: String,
    /// Unix milliseconds.
    pub since_ms: u64,
    pub transport: String,
    /// Name and version that the client says of itself.
    pub name: String,
    pub version: String,
    pub address: String,
}

/// The sessions that were found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionsFound {
    /// Newest first.
    pub sessions: Vec<SessionPlace>,
    /// There are more than were asked for.
    pub has_more: bool,
    /// Nodes that did not answer in time.
    pub silent_nodes: Vec<String>,
}

impl Node {
    /// Finds connected sessions of an app on all nodes.
    ///
    /// # Errors
    /// The other nodes cannot be asked.
    pub fn sessions(
        self: &Arc<Self>,
        id: &AppId,
        filter: SessionFilter,
    ) -> Progress<Result<SessionsFound, BrokerError>> {
        let most = filter.most.min(MAX_SESSIONS);
        // One more than wanted tells whether there are more.
        let filter = SessionFilter {
            most: most + 1,
            ..filter
        };
        let own = self.own_sessions(id, &filter);
        let Some(cluster) = self.cluster() else {
            return Progress::Ready(Ok(found(own, &[], most)));
        };
        let surveyed = cluster.survey(id, Query::Sessions(filter));
        surveyed.map(move |surveyed| {
            let surveyed = surveyed?;
            let mut sessions = own;
            for reply in surveyed.replies.into_iter().flat_map(|(_, parts)| parts) {
                if let Reply::Sessions(theirs) = reply {
                    sessions.extend(theirs);
                }
            }
            Ok(found(sessions, &surveyed.silent, most))
        })
    }

    /// Ends one session, wherever it is (3503).
    pub fn kick(
        self: &Arc<Self>,
        id: &AppId,
        client: ClientId,
    ) -> Progress<Result<(), BrokerError>> {
        let Some(app) = self.app(id) else {
            return Progress::Ready(Ok(()));
        };
        let code = DisconnectCode::ForceNoReconnect;
        let order = Order::Disconnect {
            of: Selection::of_client(client),
            code: code.code(),
            reason: code.text().to_owned(),
        };
        self.order(&app, order)
    }

    pub(super) fn own_sessions(&self, id: &AppId, filter: &SessionFilter) -> Vec<SessionPlace> {
        let app = self.app(id);
        app.map(|app| places(&app, filter, self.uid()))
            .unwrap_or_default()
    }
}

fn places(app: &App, filter: &SessionFilter, node: &str) -> Vec<SessionPlace> {
    let most = filter.most.min(MAX_SESSIONS + 1);
    let entered = match (&filter.client, &filter.user) {
        (Some(client), _) => app.seen(*client).into_iter().collect(),
        (None, Some(user)) => app.seen_of(user, most),
        (None, None) => app.seen_some(most),
    };
    let is_meant = |user: &str| filter.user.as_deref().is_none_or(|wanted| wanted == user);
    entered
        .into_iter()
        .filter(|(peer, _)| is_meant(&peer.user))
        .map(|(peer, since_ms)| SessionPlace {
            client: peer.client.to_string(),
            user: peer.user.as_ref().to_owned(),
            node: node.to_owned(),
            since_ms,
            transport: peer.transport.to_owned(),
            name: peer.name.as_ref().to_owned(),
            version: peer.version.as_ref().to_owned(),
            address: peer.remote_addr.as_ref().to_owned(),
        })
        .collect()
}

fn found(mut sessions: Vec<SessionPlace>, silent: &[NodeUid], most: usize) -> SessionsFound {
    sessions.sort_by(|one, other| {
        let newest = other.since_ms.cmp(&one.since_ms);
        newest.then_with(|| one.client.cmp(&other.client))
    });
    let has_more = sessions.len() > most;
    sessions.truncate(most);
    SessionsFound {
        sessions,
        has_more,
        silent_nodes: silent.iter().map(NodeUid::to_string).collect(),
    }
}
