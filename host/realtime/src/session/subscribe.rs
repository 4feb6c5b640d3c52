//! Subscribe: the decision order of client-protocol section 5.1, and how a subscription goes live.

use std::sync::Arc;

use tidegate_protocol::{
    DisconnectCode, ErrorCode, Publication, Reply, StreamPosition, SubscribeRequest,
    SubscribeResult,
};

use super::{
    Ask, Context, Expiry, Failure, Joining, MAX_LABEL_BYTES, Outcome, PendingKind, Rare, Seat,
    Seated, Session, Sink, SubscribeAsk, Subscription, Terms, Wishes, terms,
};
use crate::{
    broker::{HistoryPage, publication_cost},
    config::{ClientConfig, DEFAULT_PAGE_LIMIT, MAX_PAGE_BYTES},
    hub::{Activation, Buffered},
    ids::ChannelKey,
    recovery::{Merged, RecoveryLimits, merge},
};

/// Flag of a subscribe request: error 112 in place of `recovered: false`.
const FLAG_MUST_RECOVER: i64 = 2;

/// Publications that may be broadcast while a history is read and come on top of it.
const MAX_MEANWHILE: usize = 10 * DEFAULT_PAGE_LIMIT;

/// The limits of a merge. The history was read within the app's own limit.
pub(super) fn merge_limits(client: &ClientConfig) -> RecoveryLimits {
    RecoveryLimits {
        max_publications: client
            .recovery_max_publications
            .saturating_add(MAX_MEANWHILE),
        max_bytes: MAX_PAGE_BYTES,
    }
}

impl<S: Seat> Session<S> {
    pub(super) fn subscribe(
        &mut self,
        id: u32,
        request: SubscribeRequest,
        context: &Context<'_>,
    ) -> Result<Outcome, Failure> {
        if !matches!(request.delta.as_str(), "" | "fossil") || request.channel.is_empty() {
            return Err(DisconnectCode::BadRequest.into());
        }
        if request.channel.len() > context.settings.channel.max_name_bytes {
            return Err(crate::channel::BadName::TooLong.into());
        }
        if self.find(&request.channel).is_some() {
            return Err(ErrorCode::AlreadySubscribed.into());
        }
        if self.subscriptions.len() >= context.settings.client.channel_limit {
            return Err(ErrorCode::LimitExceeded.into());
        }
        let resolved = context
            .settings
            .channel
            .resolve_for_client(&request.channel)?;
        if request.r#type != 0 {
            return Err(ErrorCode::PermissionDenied.into());
        }
        if request.tf.is_some() {
            return Err(Failure::error(
                ErrorCode::BadRequest,
                "bad request: the namespace does not allow tags filters",
            ));
        }
        if request.epoch.len() > MAX_LABEL_BYTES {
            return Err(Failure::error(
                ErrorCode::BadRequest,
                "bad request: the epoch is too long",
            ));
        }
        if !request.token.is_empty() {
            return Err(Failure::error(
                ErrorCode::NotAvailable,
                "not available: subscription tokens",
            ));
        }
        let applicant = self.applicant(false, context);
        let is_in_list = resolved.lists(&self.peer.user);
        let is_allowed = if resolved.is_private {
            false
        } else if resolved.is_user_limited() {
            is_in_list || applicant.is_insecure
        } else {
            resolved.options.subscribe.allows(applicant)
        };
        // The name decides before any plugin: private names need a token, a list of users is one.
        let is_hook_asked = !resolved.is_private && !resolved.is_user_limited();
        let wishes = terms::permitted(
            resolved.options,
            applicant,
            Wishes {
                is_positioned: request.positioned,
                is_recoverable: request.recoverable,
                hears_joins: request.join_leave,
                recover_from: request.recover.then_some(StreamPosition {
                    offset: request.offset,
                    epoch: request.epoch,
                }),
                must_recover: request.flag & FLAG_MUST_RECOVER != 0,
            },
        );
        let ask = SubscribeAsk {
            key: ChannelKey::new(&self.peer.app, &request.channel),
            options: Arc::clone(resolved.options),
            is_hook_asked,
            builtin: if is_allowed {
                Ok(())
            } else {
                Err(ErrorCode::PermissionDenied.into())
            },
            data: request.data.into_bytes(),
            wishes,
            channel: request.channel.into(),
        };
        let joining = Joining {
            channel: Arc::clone(&ask.channel),
            taken: None,
        };
        self.wait(id, PendingKind::Subscribe(joining));
        Ok(Outcome::Ask(Ask::Subscribe(Box::new(ask))))
    }

    /// Pushes the reply and goes live, in one step.
    pub(super) fn seat(
        &mut self,
        id: u32,
        mut seated: Seated<S>,
        context: &Context<'_>,
        sink: &mut dyn Sink,
    ) -> Result<(), Failure> {
        let page = seated.page.take();
        let (seat, terms) = (&seated.seat, &seated.terms);
        let limits = merge_limits(&context.settings.client);
        let beginning = Beginning::of(terms, page, &seat.open(), limits);
        let Some(result) = beginning.result() else {
            seat.go_live(&Activation::Withdraw);
            return Err(DisconnectCode::InsufficientState.into());
        };
        if terms.must_recover && result.was_recovering && !result.recovered {
            seat.go_live(&Activation::Withdraw);
            return Err(ErrorCode::UnrecoverablePosition.into());
        }
        sink.reply(&Reply {
            id,
            subscribe: Some(Box::new(result)),
            ..Reply::default()
        });
        beginning.push_live(&seated.channel, sink);
        seat.go_live(&beginning.activation());
        self.admit(seated, context);
        Ok(())
    }

    /// Takes a live seat among the session's subscriptions, and tells of it.
    pub(super) fn admit(&mut self, seated: Seated<S>, context: &Context<'_>) {
        let Seated {
            channel: _,
            made_by,
            seat,
            terms,
            mut attendance,
            page: _,
        } = seated;
        let now = context.now;
        if let Some(attendance) = &mut attendance {
            attendance.arrive();
        }
        let expiry = terms
            .expires_at
            .map(|at| Expiry::by_host(now.instant_of(at), now.instant));
        self.note(seat.key(), None, None);
        let has_rare = expiry.is_some() || !terms.info.is_empty() || attendance.is_some();
        self.subscriptions.push(Subscription {
            seat,
            made_by,
            rare: has_rare.then(|| {
                Box::new(Rare {
                    expiry,
                    info: terms.info.into(),
                    attendance,
                })
            }),
        });
    }
}

/// How a subscription begins: what its result says and what follows it.
#[derive(Debug)]
pub(super) struct Beginning {
    /// `None` when history and live messages cannot be joined.
    result: Option<SubscribeResult>,
    live: Vec<Arc<Publication>>,
    /// `None` where positions are not tracked.
    position: Option<StreamPosition>,
}

impl Beginning {
    pub(super) fn of(
        terms: &Terms,
        page: Option<HistoryPage>,
        buffered: &Buffered,
        limits: RecoveryLimits,
    ) -> Self {
        let result = SubscribeResult {
            recoverable: terms.is_recoverable,
            positioned: terms.is_positioned,
            data: terms.data.clone().into(),
            was_recovering: terms.recover_from.is_some(),
            ..SubscribeResult::default()
        };
        let Some(page) = page else {
            let live = buffered.publications.iter();
            return Self {
                result: Some(result),
                live: live.map(|kept| Arc::clone(&kept.publication)).collect(),
                position: None,
            };
        };
        match merge(terms.recover_from.as_ref(), page, buffered, limits) {
            Merged::Recovered {
                publications,
                live,
                position,
            } => {
                // The reference repeats the requested offset; clients advance through the publications.
                let offset = terms.recover_from.as_ref().map_or(0, |held| held.offset);
                Self {
                    result: Some(SubscribeResult {
                        recovered: true,
                        publications,
                        epoch: position.epoch.clone(),
                        offset,
                        ..result
                    }),
                    live,
                    position: Some(position),
                }
            }
            Merged::Lost {
                top,
                live,
                position,
            } => Self {
                result: Some(SubscribeResult {
                    epoch: top.epoch,
                    offset: top.offset,
                    ..result
                }),
                live,
                position: Some(position),
            },
            Merged::Torn => Self {
                result: None,
                live: Vec::new(),
                position: None,
            },
        }
    }

    /// What the reply says; `None` when the subscription must start over.
    pub(super) fn result(&self) -> Option<SubscribeResult> {
        self.result.clone()
    }

    /// What these limits leave for the other subscriptions of the same reply.
    pub(super) fn leaves_of(&self, limits: RecoveryLimits) -> RecoveryLimits {
        let recovered = self.result.iter().flat_map(|result| &result.publications);
        let num_bytes: usize = recovered
            .map(|publication| publication_cost(publication))
            .sum();
        RecoveryLimits {
            max_bytes: limits.max_bytes.saturating_sub(num_bytes),
            ..limits
        }
    }

    /// What was broadcast after the position in the reply.
    pub(super) fn push_live(&self, channel: &str, sink: &mut dyn Sink) {
        for publication in &self.live {
            sink.publication(channel, publication);
        }
    }

    pub(super) fn activation(&self) -> Activation {
        match (&self.result, &self.position) {
            (None, _) => Activation::Withdraw,
            (Some(_), Some(position)) => Activation::After(position.clone()),
            (Some(_), None) => Activation::Unpositioned,
        }
    }
}
