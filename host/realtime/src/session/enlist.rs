//! Subscriptions that the server API makes for sessions that are there already (client-protocol section 5.6).
//!
//! Owns their turn: one at a time, when nothing else is waited for, so that what the session does has one order.
//! The client is told by a `subscribe` push before anything of the channel reaches it. What cannot be subscribed,
//! or is already, is passed over: the call was answered long ago.

use std::{collections::VecDeque, sync::Arc};

use serde::{Deserialize, Serialize};
use tidegate_protocol::{
    DisconnectCode, Push, Reply, StreamPosition, Subscribe, server_api::Position,
};

use super::{
    Ask, Context, EnlistAsk, Failure, Joining, PendingKind, Seat, Seated, Session, Sink, Step,
    Terms, Wishes, close,
    subscribe::{Beginning, merge_limits},
    terms,
};
use crate::{
    cluster::Blob, hooks::Grant, hub::Activation, ids::ChannelKey, namespace::NamespaceOptions,
};

/// A subscription that somebody outside wants a session to have.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Enlistment {
    pub(crate) channel: String,
    /// Shown to others.
    pub(crate) info: Blob,
    /// For the client.
    pub(crate) data: Blob,
    /// Unix seconds.
    pub(crate) expires_at: Option<u64>,
    pub(crate) recover_since: Option<Position>,
    /// Options of the namespace that are replaced.
    pub(crate) presence: Option<bool>,
    pub(crate) join_leave: Option<bool>,
    pub(crate) force_push_join_leave: Option<bool>,
    pub(crate) force_positioning: Option<bool>,
    pub(crate) force_recovery: Option<bool>,
}

impl Enlistment {
    /// What the subscription is to be.
    ///
    /// # Errors
    /// The namespace cannot give it, or it is over already.
    pub(crate) fn terms(
        &self,
        options: &NamespaceOptions,
        now_unix: u64,
    ) -> Result<Terms, Failure> {
        let grant = Grant {
            presence: self.presence,
            join_leave: self.join_leave,
            force_push_join_leave: self.force_push_join_leave,
            force_positioning: self.force_positioning,
            force_recovery: self.force_recovery,
            info: self.info.0.clone(),
            data: self.data.0.clone(),
            expires_at: self.expires_at,
            ..Grant::default()
        };
        let since = self.recover_since.as_ref();
        let wishes = Wishes {
            recover_from: since.map(|since| StreamPosition {
                offset: since.offset,
                epoch: since.epoch.clone(),
            }),
            ..Wishes::default()
        };
        terms::granted(options, grant, &wishes, now_unix)
    }
}

impl<S: Seat> Session<S> {
    /// Lines a subscription up.
    pub(super) fn enlist(&mut self, enlistment: &Arc<Enlistment>, context: &Context<'_>) {
        let limit = context.settings.client.channel_limit;
        let is_connected = self.is_connected();
        let waiting = self.enlistments.get_or_insert_default();
        if is_connected && waiting.len() + self.subscriptions.len() < limit {
            waiting.push_back(Arc::clone(enlistment));
        } else {
            passed_over("the session has as many subscriptions as it may");
        }
    }

    /// Whether [`Session::enlist_next`] has something to do.
    pub fn has_enlistments(&self) -> bool {
        self.enlistments
            .as_ref()
            .is_some_and(|waiting| !waiting.is_empty())
    }

    /// Begins the next subscription that is lined up. Must not be called while an ask waits for its answer.
    pub fn enlist_next(&mut self, context: &Context<'_>, _: &mut dyn Sink) -> Step {
        while let Some(enlistment) = self.enlistments.as_mut().and_then(|all| all.pop_front()) {
            if self.find(&enlistment.channel).is_some() {
                continue;
            }
            let channel: Arc<str> = enlistment.channel.as_str().into();
            let Ok(resolved) = context.settings.channel.resolve(&channel) else {
                passed_over("its namespace is gone");
                continue;
            };
            let options = Arc::clone(resolved.options);
            let Ok(terms) = enlistment.terms(&options, context.now.unix()) else {
                passed_over("its namespace does not give it any more, or it is over");
                continue;
            };
            let joining = Joining {
                channel: Arc::clone(&channel),
                taken: None,
            };
            self.wait(0, PendingKind::Enlist(joining));
            return Step::Ask(Ask::Enlist(Box::new(EnlistAsk {
                key: ChannelKey::new(&self.peer.app, &channel),
                channel,
                options,
                terms,
            })));
        }
        self.enlistments = None;
        Step::Done
    }

    /// Pushes the news and goes live, in one step.
    pub(super) fn enlisted(
        &mut self,
        joining: &Joining,
        answer: Result<Box<Seated<S>>, Failure>,
        context: &Context<'_>,
        sink: &mut dyn Sink,
    ) -> Step {
        let mut seated = match answer {
            Ok(seated) if joining.taken.is_none() => *seated,
            // Taken away before the client knew of it.
            Ok(_) => return Step::Done,
            Err(failure) => {
                tracing::debug!(?failure, "a subscription of the server API failed");
                return Step::Done;
            }
        };
        let page = seated.page.take();
        let (seat, terms) = (&seated.seat, &seated.terms);
        let limits = merge_limits(&context.settings.client);
        let beginning = Beginning::of(terms, page, &seat.open(), limits);
        let Some(result) = beginning.result() else {
            seat.go_live(&Activation::Withdraw);
            return close(DisconnectCode::InsufficientState);
        };
        let channel = Arc::clone(&seated.channel);
        sink.reply(&Reply::from_push(Push {
            channel: channel.as_ref().to_owned(),
            subscribe: Some(Box::new(Subscribe {
                recoverable: result.recoverable,
                epoch: result.epoch,
                offset: result.offset,
                positioned: result.positioned,
                data: result.data,
            })),
            ..Push::default()
        }));
        // The push has no room for what was recovered; the client takes its position from what follows.
        for publication in &result.publications {
            sink.publication(&channel, publication);
        }
        beginning.push_live(&channel, sink);
        seat.go_live(&beginning.activation());
        self.admit(seated, context);
        Step::Done
    }

    /// Takes a channel, or all, off the line.
    pub(super) fn strike(&mut self, channel: &str) {
        if let Some(waiting) = &mut self.enlistments {
            waiting.retain(|enlistment| !channel.is_empty() && enlistment.channel != channel);
        }
    }
}

fn passed_over(reason: &'static str) {
    tracing::debug!(reason, "a subscription of the server API was passed over");
}

/// Subscriptions that are lined up; few sessions ever have any.
pub(super) type Enlistments = Option<Box<VecDeque<Arc<Enlistment>>>>;
