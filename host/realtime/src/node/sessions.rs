//! Who is where: the connected sessions of an app, on whatever node they are.
//!
//! Every node knows its own sessions and is asked: such an answer is as true as the sessions are, and names the nodes
//! that did not answer. The sessions of one user are in the directory too, where there is one, and no other node has to
//! be asked: such an answer is at most a moment old, and marks the sessions of nodes that are silent.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidegate_protocol::DisconnectCode;

use super::Node;
use crate::{
    app::App,
    broker::BrokerError,
    cluster::{NodeUid, Order, Query, Reply},
    directory::{
        User,
        entry::{SessionEntry, decode_session},
    },
    entrance::Selection,
    hooks::{Peer, Progress},
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
    /// Nothing was heard of the node for a while: it may be dead, and the session gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub silent: bool,
}

impl SessionPlace {
    pub(crate) fn of(peer: &Peer, since_ms: u64, node: &str) -> Self {
        Self {
            client: peer.client.to_string(),
            user: peer.user.as_ref().to_owned(),
            node: node.to_owned(),
            since_ms,
            transport: peer.transport.to_owned(),
            name: peer.name.as_ref().to_owned(),
            version: peer.version.as_ref().to_owned(),
            address: peer.remote_addr.as_ref().to_owned(),
            silent: false,
        }
    }
}

/// The sessions that were found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionsFound {
    /// Newest first.
    pub sessions: Vec<SessionPlace>,
    /// There are more than were asked for.
    pub has_more: bool,
    /// Nodes that did not answer in time, or whose sessions are marked.
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
        if let (Some(registrar), Some(user), None) = (self.registrar(), &filter.user, filter.client)
            && !user.is_empty()
        {
            let (registrar, node) = (Arc::clone(registrar), Arc::clone(self));
            let user = User {
                app: id.clone(),
                name: user.as_str().into(),
            };
            return Progress::Pending(Box::pin(async move {
                let id = user.app.clone();
                match registrar.store().sessions(&user, most + 1).wait().await {
                    Ok(values) => Ok(node.with_entered(&user, own, &values, most)),
                    // The nodes themselves may still be there to be asked.
                    Err(_) => node.survey_sessions(&id, filter, own, most).wait().await,
                }
            }));
        }
        self.survey_sessions(id, filter, own, most)
    }

    /// What the directory says, in which this node's part may be a moment old.
    fn with_entered(
        &self,
        user: &User,
        own: Vec<SessionPlace>,
        values: &[Bytes],
        most: usize,
    ) -> SessionsFound {
        let silent = self
            .registrar()
            .map(|registrar| registrar.silent_nodes())
            .unwrap_or_default();
        let mut sessions = own;
        let mut silent_here = BTreeSet::new();
        for entry in values.iter().filter_map(|value| decode_session(value)) {
            let SessionEntry { app, mut place } = entry;
            let is_of_user = app == user.app && place.user == *user.name;
            let Some(node) = NodeUid::parse(&place.node).filter(|_| is_of_user) else {
                continue;
            };
            if node == self.uid {
                continue;
            }
            place.silent = silent.contains(&node);
            if place.silent {
                silent_here.insert(node);
            }
            sessions.push(place);
        }
        let silent_here: Vec<_> = silent_here.into_iter().collect();
        found(sessions, &silent_here, most)
    }

    fn survey_sessions(
        self: &Arc<Self>,
        id: &AppId,
        filter: SessionFilter,
        own: Vec<SessionPlace>,
        most: usize,
    ) -> Progress<Result<SessionsFound, BrokerError>> {
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
        .map(|(peer, since_ms)| SessionPlace::of(&peer, since_ms, node))
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
