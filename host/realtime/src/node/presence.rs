//! The presence calls of the server API (client-protocol section 15.2): who is where, over all nodes.

use std::sync::{Arc, Weak};

use tidegate_protocol::{
    ApiErrorCode, ErrorCode,
    server_api::{
        ApiError, ClientInfo, PresenceRequest, PresenceResult, PresenceStatsRequest,
        PresenceStatsResult,
    },
};
use tokio::time::Instant;

use super::{
    Node,
    calls::{Called, from_broker, from_name},
    count,
};
use crate::{
    config::MAX_PAGE_BYTES,
    hooks::Progress,
    ids::{AppId, ChannelKey},
    presence::{
        MAX_API_BYTES, MAX_API_MEMBERS, Member, MemoryPresence, NoView, PresenceStats,
        PresenceView, by_client, watched::Watched,
    },
};

impl Node {
    /// What plugins can be told of who is there. Does not keep the node alive.
    pub fn presence_view(self: &Arc<Self>) -> Arc<dyn PresenceView> {
        Arc::new(View(Arc::downgrade(self)))
    }

    /// Everybody who is in the channel, or error 106 if they are more than an answer holds.
    pub fn presence(&self, id: &AppId, request: PresenceRequest) -> Called<PresenceResult> {
        let PresenceRequest { channel } = request;
        let key = match self.attended(id, &channel) {
            Ok(key) => key,
            Err(error) => return Progress::Ready(Err(error)),
        };
        let found = self.roster().store().members(&key, MAX_API_MEMBERS);
        Progress::Pending(Box::pin(async move {
            let members = found.wait().await.map_err(from_broker)?;
            let presence = by_client(&members, MAX_API_BYTES, client_info).await;
            let presence = presence.map_err(|error| ApiError {
                code: ErrorCode::LimitExceeded.code(),
                message: error.to_string(),
            })?;
            Ok(PresenceResult { presence })
        }))
    }

    pub fn presence_stats(
        &self,
        id: &AppId,
        request: PresenceStatsRequest,
    ) -> Called<PresenceStatsResult> {
        let PresenceStatsRequest { channel } = request;
        let key = match self.attended(id, &channel) {
            Ok(key) => key,
            Err(error) => return Progress::Ready(Err(error)),
        };
        self.roster().store().stats(&key).map(|stats| {
            let stats = stats.map_err(from_broker)?;
            Ok(PresenceStatsResult {
                num_clients: count(stats.num_clients),
                num_users: count(stats.num_users),
            })
        })
    }

    /// The channel, if its namespace keeps presence.
    fn attended(&self, id: &AppId, channel: &str) -> Result<ChannelKey, ApiError> {
        let app = self.app_of_call(id)?;
        let settings = app.settings();
        let resolved = settings.channel.resolve(channel).map_err(from_name)?;
        if !resolved.options.presence {
            return Err(ApiErrorCode::NotAvailable.into());
        }
        Ok(ChannelKey::new(id, channel))
    }
}

fn client_info(member: &Member) -> ClientInfo {
    ClientInfo {
        user: member.user.as_ref().to_owned(),
        client: member.client.to_string(),
        conn_info: member.conn_info.clone().into(),
        chan_info: member.chan_info.clone().into(),
    }
}

/// A node as plugins see it.
struct View(Weak<Node>);

impl View {
    /// Asks the store, or where that is not in this process what was read of it, about a channel that has presence.
    fn ask<T>(
        &self,
        app: &AppId,
        channel: &str,
        here: impl FnOnce(&MemoryPresence, &ChannelKey) -> T,
        there: impl FnOnce(&Watched, &ChannelKey, Instant) -> Result<T, NoView>,
    ) -> Result<T, NoView> {
        let node = self.0.upgrade().ok_or(NoView::NoChannel)?;
        {
            let app = node.app(app).ok_or(NoView::NoChannel)?;
            let settings = app.settings();
            let resolved = settings.channel.resolve(channel);
            let resolved = resolved.map_err(|_| NoView::NoChannel)?;
            if !resolved.options.presence {
                return Err(NoView::NotKept);
            }
        }
        let key = ChannelKey::new(app, channel);
        match node.roster().store().local() {
            Some(store) => Ok(here(store, &key)),
            None => there(node.watched(), &key, Instant::now()),
        }
    }
}

impl PresenceView for View {
    fn stats(&self, app: &AppId, channel: &str) -> Result<PresenceStats, NoView> {
        self.ask(app, channel, MemoryPresence::stats_now, Watched::stats)
    }

    fn members(
        &self,
        app: &AppId,
        channel: &str,
        limit: usize,
    ) -> Result<Vec<Arc<Member>>, NoView> {
        let here = |store: &MemoryPresence, key: &ChannelKey| store.members_now(key, limit);
        let members = self.ask(app, channel, here, |watched, key, now| {
            let read = watched.members(key, now)?;
            Ok(read.members.iter().take(limit).cloned().collect())
        })?;
        let num_bytes: usize = members.iter().map(|member| member.cost()).sum();
        if num_bytes > MAX_PAGE_BYTES {
            return Err(NoView::TooLarge);
        }
        Ok(members)
    }

    fn is_present(&self, app: &AppId, channel: &str, user: &str) -> Result<bool, NoView> {
        let here = |store: &MemoryPresence, key: &ChannelKey| store.is_present_now(key, user);
        self.ask(app, channel, here, |watched, key, now| {
            let read = watched.members(key, now)?;
            let is_read = read.members.iter().any(|member| &*member.user == user);
            if is_read || read.is_whole {
                Ok(is_read)
            } else {
                Err(NoView::NotAll)
            }
        })
    }
}
