//! Publish, history, presence and RPC: what is checked before anybody is asked, and what the answers become.

use std::sync::Arc;

use tidegate_protocol::{
    ErrorCode, HistoryRequest, HistoryResult, PresenceStatsResult, PublishRequest, Reply,
    RpcRequest, RpcResult,
};

use super::{
    Ask, Context, Failure, HistoryAsk, MAX_LABEL_BYTES, MAX_METHOD_BYTES, Outcome, PendingKind,
    PublishAsk, Seat, Session,
};
use crate::{
    broker::{HistoryLimit, HistoryOrder, HistoryPage, HistoryQuery},
    channel::BadName,
    config::MAX_PAGE_BYTES,
    hooks::{Draft, Origin, RpcQuestion, RpcVerdict},
    ids::ChannelKey,
    presence::PresenceStats,
};

impl From<BadName> for Failure {
    fn from(bad: BadName) -> Self {
        Self::error(bad.code(), bad.to_string())
    }
}

impl<S: Seat> Session<S> {
    pub(super) fn publish(
        &mut self,
        id: u32,
        request: PublishRequest,
        context: &Context<'_>,
    ) -> Result<Outcome, Failure> {
        let resolved = context
            .settings
            .channel
            .resolve_for_client(&request.channel)?;
        if request.r#type != 0 {
            return Err(ErrorCode::NotAvailable.into());
        }
        let format = resolved.options.publication_data_format;
        if !format.accepts(&request.data) {
            return Err(Failure::error(ErrorCode::BadRequest, format.complaint()));
        }
        let subscription = self.find(&request.channel);
        let applicant = self.applicant(subscription.is_some(), context);
        if !resolved.options.publish.allows(applicant) {
            return Err(ErrorCode::PermissionDenied.into());
        }
        let key = subscription.map(|subscription| subscription.seat.key().clone());
        let chan_info = subscription
            .and_then(|subscription| subscription.rare.as_ref())
            .map(|rare| rare.info.clone())
            .unwrap_or_default();
        let draft = Box::new(Draft {
            app: self.peer.app.clone(),
            channel: request.channel.into(),
            origin: Origin::Client(Arc::clone(&self.peer)),
            data: request.data.as_bytes().clone(),
            tags: Vec::new(),
            skip_history: false,
            idempotency_key: None,
            delta: None,
            hops: 0,
        });
        self.wait(id, PendingKind::Publish);
        Ok(Outcome::Ask(Ask::Publish(PublishAsk {
            draft,
            data: request.data,
            key,
            chan_info,
        })))
    }

    pub(super) fn history(
        &mut self,
        id: u32,
        request: HistoryRequest,
        context: &Context<'_>,
    ) -> Result<Outcome, Failure> {
        let resolved = context
            .settings
            .channel
            .resolve_for_client(&request.channel)?;
        let options = Arc::clone(resolved.options);
        if options.history.is_none() {
            return Err(ErrorCode::NotAvailable.into());
        }
        let is_subscribed = self.find(&request.channel).is_some();
        if !options
            .read_history
            .allows(self.applicant(is_subscribed, context))
        {
            return Err(ErrorCode::PermissionDenied.into());
        }
        let since = request.since.map(|since| *since);
        if since
            .as_ref()
            .is_some_and(|since| since.epoch.len() > MAX_LABEL_BYTES)
        {
            return Err(Failure::error(
                ErrorCode::BadRequest,
                "bad request: the epoch is too long",
            ));
        }
        let is_before_all = since.as_ref().is_some_and(|since| since.offset == 0);
        if request.reverse && is_before_all {
            return Err(Failure::error(
                ErrorCode::BadRequest,
                "bad request: nothing comes before offset 0",
            ));
        }
        let most = context.settings.client.history_max_publications;
        let limit = match usize::try_from(request.limit) {
            Ok(0) => HistoryLimit::PositionOnly,
            Ok(limit) => HistoryLimit::AtMost(limit.min(most)),
            Err(_) => HistoryLimit::AtMost(most),
        };
        let order = if request.reverse {
            HistoryOrder::NewestFirst
        } else {
            HistoryOrder::OldestFirst
        };
        self.wait(id, PendingKind::History);
        Ok(Outcome::Ask(Ask::History(Box::new(HistoryAsk {
            key: ChannelKey::new(&self.peer.app, &request.channel),
            query: HistoryQuery {
                limit,
                since,
                order,
                meta_ttl: options.meta_ttl,
            },
        }))))
    }

    pub(super) fn presence(
        &mut self,
        id: u32,
        channel: &str,
        context: &Context<'_>,
    ) -> Result<Outcome, Failure> {
        let key = self.readable_presence(channel, context)?;
        self.wait(id, PendingKind::Presence);
        Ok(Outcome::Ask(Ask::Presence(key)))
    }

    pub(super) fn presence_stats(
        &mut self,
        id: u32,
        channel: &str,
        context: &Context<'_>,
    ) -> Result<Outcome, Failure> {
        let key = self.readable_presence(channel, context)?;
        self.wait(id, PendingKind::PresenceStats);
        Ok(Outcome::Ask(Ask::PresenceStats(key)))
    }

    /// The channel, if it keeps presence and this client may read it.
    fn readable_presence(
        &self,
        channel: &str,
        context: &Context<'_>,
    ) -> Result<ChannelKey, Failure> {
        let resolved = context.settings.channel.resolve_for_client(channel)?;
        if !resolved.options.presence {
            return Err(ErrorCode::NotAvailable.into());
        }
        let is_subscribed = self.find(channel).is_some();
        let applicant = self.applicant(is_subscribed, context);
        if !resolved.options.read_presence.allows(applicant) {
            return Err(ErrorCode::PermissionDenied.into());
        }
        Ok(ChannelKey::new(&self.peer.app, channel))
    }

    pub(super) fn rpc(&mut self, id: u32, request: RpcRequest) -> Result<Outcome, Failure> {
        if request.method.len() > MAX_METHOD_BYTES {
            return Err(Failure::error(
                ErrorCode::BadRequest,
                "bad request: the method's name is too long",
            ));
        }
        self.wait(id, PendingKind::Rpc);
        Ok(Outcome::Ask(Ask::Rpc(Box::new(RpcQuestion {
            peer: Arc::clone(&self.peer),
            method: request.method.into(),
            data: request.data.into_bytes(),
        }))))
    }
}

pub(super) fn rpc_outcome(answer: Result<RpcVerdict, Failure>) -> Result<Outcome, Failure> {
    match answer? {
        RpcVerdict::NotMine => Err(ErrorCode::MethodNotFound.into()),
        RpcVerdict::Refuse(refusal) => Err(refusal.into()),
        RpcVerdict::Reply(data) => Ok(Outcome::Reply(Reply {
            rpc: Some(Box::new(RpcResult { data: data.into() })),
            ..Reply::default()
        })),
    }
}

pub(super) fn presence_stats_outcome(stats: PresenceStats) -> Outcome {
    let count = |number| u32::try_from(number).unwrap_or(u32::MAX);
    Outcome::Reply(Reply {
        presence_stats: Some(Box::new(PresenceStatsResult {
            num_clients: count(stats.num_clients),
            num_users: count(stats.num_users),
        })),
        ..Reply::default()
    })
}

/// A page within the limit in bytes.
pub(super) fn history_reply(page: HistoryPage) -> Reply {
    let HistoryPage { publications, top } = page.within(MAX_PAGE_BYTES);
    Reply {
        history: Some(Box::new(HistoryResult {
            publications,
            epoch: top.epoch,
            offset: top.offset,
        })),
        ..Reply::default()
    }
}
