//! What other nodes order and ask, and what this one says of itself.
//!
//! Owns the meaning of an order on this node. Invariant: an order means the same sessions here and elsewhere, those
//! that are being let in included.

use std::{collections::BTreeMap, sync::Arc};

use tidegate_protocol::UnsubscribeCode;

use super::{Node, calls::is_match, count};
use crate::{
    app::App,
    broker::BrokerError,
    cluster::{Announcement, AppCounts, Greeting, Order, Query, Reply},
    entrance::Selection,
    hooks::Progress,
    ids::AppId,
    link::Signal,
    publish::send_to_links,
};

/// Apps whose numbers a node tells the others, those with most clients: with more, a message every three seconds
/// would be a large one.
const MAX_ANNOUNCED_APPS: usize = 1_000;

/// Channels in one part of an answer: some hundred kilobytes at most.
const CHANNELS_IN_PART: usize = 1_000;

/// Channels matched with a pattern between two yields.
const CHANNELS_AT_ONCE: usize = 256;

impl Node {
    /// Carries an order out on this node and has the others do so. The answer is there at once on a node that is
    /// alone.
    pub(super) fn order(
        self: &Arc<Self>,
        app: &App,
        order: Order,
    ) -> Progress<Result<(), BrokerError>> {
        carry_out(app, &order);
        match self.cluster() {
            Some(cluster) => cluster.order(app.id(), order),
            None => Progress::Ready(Ok(())),
        }
    }

    /// The same for who does not wait for the others.
    pub(crate) fn tell_in_background(&self, app: &App, order: Order) {
        carry_out(app, &order);
        if let Some(reverse) = reverse_of(app, &order) {
            carry_out(app, &reverse);
        }
        let Some(cluster) = self.cluster() else {
            return;
        };
        let told = cluster.tell(app.id(), order);
        let told = told.map(|told| {
            if let Err(error) = told {
                tracing::debug!(%error, "the other nodes were not told of an order");
            }
        });
        if let Progress::Pending(rest) = told {
            self.spawn(rest);
        }
    }

    /// Carries out what another node ordered.
    pub(crate) fn carry_out(&self, app: &AppId, order: &Order) {
        let Some(app) = self.app(app) else {
            return;
        };
        carry_out(&app, order);
        if let Some(reverse) = reverse_of(&app, order) {
            self.tell_in_background(&app, reverse);
        }
    }

    /// Answers another node, in parts.
    pub(crate) async fn answer_query(&self, app: &AppId, query: Query) -> Vec<Reply> {
        match query {
            Query::Sessions(filter) => vec![Reply::Sessions(self.own_sessions(app, &filter))],
            Query::Runs => vec![Reply::Runs(self.own_runs(app))],
            Query::Channels { pattern } => {
                let mut channels = self.own_channels(app, &pattern).await;
                let mut parts = Vec::new();
                while channels.len() > CHANNELS_IN_PART {
                    let middle = channels.keys().nth(CHANNELS_IN_PART).cloned();
                    let rest = middle.map(|middle| channels.split_off(&middle));
                    parts.push(Reply::Channels(channels));
                    channels = rest.unwrap_or_default();
                }
                parts.push(Reply::Channels(channels));
                parts
            }
        }
    }

    /// The app's channels on this node that match.
    pub(super) async fn own_channels(&self, app: &AppId, pattern: &str) -> BTreeMap<String, u32> {
        let found = self.hub().channels_of(app.as_str()).await;
        let mut channels = BTreeMap::new();
        for (index, (key, members)) in found.into_iter().enumerate() {
            if pattern.is_empty() || is_match(pattern, key.channel()) {
                channels.insert(key.channel().to_owned(), count(members));
            }
            if index % CHANNELS_AT_ONCE == CHANNELS_AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
        }
        channels
    }

    /// What this node says of itself.
    pub(crate) fn announcement(&self, greeting: Greeting) -> Announcement {
        let apps = self.apps();
        let counted = apps.iter().map(|app| (app.id(), self.own_counts(app)));
        let mut apps: Vec<_> = counted
            .filter(|(_, counts)| *counts != AppCounts::default())
            .collect();
        apps.sort_by_key(|(_, counts)| std::cmp::Reverse(counts.clients));
        apps.truncate(MAX_ANNOUNCED_APPS);
        Announcement {
            name: self.parts.name.clone(),
            version: self.parts.version.clone(),
            uptime: self.uptime(),
            apps: apps
                .into_iter()
                .map(|(id, counts)| (id.as_str().to_owned(), counts))
                .collect(),
            process: self.process(),
            metrics: self.own_metrics(),
            greeting,
        }
    }

    pub(super) fn own_counts(&self, app: &App) -> AppCounts {
        let (clients, users) = app.num_clients_and_users();
        let (channels, subs) = self.hub().num_channels_and_members_of(app.id().as_str());
        AppCounts {
            clients: count(clients),
            users: count(users),
            subs: count(subs),
            channels: count(channels),
        }
    }

    pub(super) fn uptime(&self) -> u32 {
        u32::try_from(self.started.elapsed().as_secs()).unwrap_or(u32::MAX)
    }
}

/// Where a session came to end the others of its user and one of those stays: the order that it is the one to go.
fn reverse_of(app: &App, order: &Order) -> Option<Order> {
    let Order::Disconnect { of, code, reason } = order else {
        return None;
    };
    let came = of.before?;
    of.is_outlived(app).then(|| Order::Disconnect {
        of: Selection::of_client(came.client),
        code: *code,
        reason: reason.clone(),
    })
}

/// Leaves what is ordered with the sessions that are meant.
fn carry_out(app: &App, order: &Order) {
    let signal = match order {
        Order::Disconnect { code, reason, .. } => Signal::Disconnect {
            code: *code,
            reason: reason.as_str().into(),
        },
        Order::Unsubscribe { channel, .. } => {
            let code = UnsubscribeCode::Server;
            Signal::Unsubscribe {
                channel: channel.as_str().into(),
                code: code.code(),
                reason: code.text().into(),
            }
        }
        Order::Refresh {
            is_expired,
            expires_at,
            info,
            ..
        } => Signal::Refresh {
            is_expired: *is_expired,
            expires_at: *expires_at,
            info: info.0.clone(),
        },
        Order::Subscribe { enlistment, .. } => Signal::Subscribe(Arc::new(enlistment.clone())),
        Order::Message { of, data } => {
            let sent = send_to_links(&of.find(app), data.0.clone());
            if let Err(failure) = sent {
                tracing::debug!(app = %app.id(), ?failure, "a message of another node was not sent");
            }
            return;
        }
    };
    app.entrance().tell(app, order.selection(), &signal);
}
