//! Connect and refresh: who the client is (client-protocol sections 4.3 and 4.5).

use std::sync::Arc;

use tidegate_protocol::{
    ConnectRequest, ConnectResult, DisconnectCode, ErrorCode, RefreshResult, Reply, StreamPosition,
};

use super::{
    Admission, Ask, ConnectAsk, Context, Expiry, Failure, MAX_LABEL_BYTES, MadeBy, Outcome,
    PendingKind, Phase, Pings, Requested, Seat, Session, Sink, Step, close,
    subscribe::{Beginning, merge_limits},
};
use crate::{
    config::RealtimeConfig,
    hooks::{AuthenticationQuestion, AuthenticationReason, Identity, Peer, TokenCheck},
    token::{Claims, TokenError},
};

impl From<TokenError> for Failure {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Expired => ErrorCode::TokenExpired.into(),
            TokenError::NotConfigured | TokenError::Invalid(_) => {
                DisconnectCode::InvalidToken.into()
            }
        }
    }
}

impl<S: Seat> Session<S> {
    pub(super) fn connect(
        &mut self,
        id: u32,
        request: ConnectRequest,
        context: &Context<'_>,
    ) -> Result<Outcome, Failure> {
        self.phase = Phase::Connecting;
        let is_label = |text: &str| text.len() <= MAX_LABEL_BYTES;
        if request.subs.len() > context.settings.client.channel_limit {
            return Err(DisconnectCode::ChannelLimit.into());
        }
        let mut deltas = request.subs.values().map(|sub| sub.delta.as_str());
        if !deltas.all(|delta| matches!(delta, "" | "fossil")) {
            return Err(DisconnectCode::BadRequest.into());
        }
        let has_labels = is_label(&request.name)
            && is_label(&request.version)
            && request.subs.values().all(|sub| is_label(&sub.epoch));
        if !has_labels {
            self.phase = Phase::Rejected;
            return Err(Failure::error(
                ErrorCode::BadRequest,
                "bad request: a name, a version or an epoch is too long",
            ));
        }
        let checked = check_token(&request.token, context);
        let token_check = token_check(&checked, context.settings);
        let peer = Arc::make_mut(&mut self.peer);
        // Hooks shall not take for proven what is only vouched for.
        let vouched = std::mem::replace(&mut peer.user, "".into());
        let builtin = builtin_outcome(checked, vouched, context.settings).map(Box::new);
        peer.name = request.name.into();
        peer.version = request.version.into();
        let requested = request.subs.into_iter().map(|(channel, sub)| {
            let is_plain = sub.r#type == 0 && sub.tf.is_none();
            let position = StreamPosition {
                offset: sub.offset,
                epoch: sub.epoch,
            };
            let requested = Requested {
                recover_from: sub.recover.then_some(position),
                is_plain,
            };
            (channel.into_boxed_str(), requested)
        });
        self.wait(id, PendingKind::Connect);
        Ok(Outcome::Ask(Ask::Connect(Box::new(ConnectAsk {
            question: AuthenticationQuestion {
                reason: AuthenticationReason::Connect,
                peer: Arc::clone(&self.peer),
                token: request.token.into(),
                token_check,
                data: request.data.into_bytes(),
            },
            builtin,
            requested: requested.collect(),
        }))))
    }

    pub(super) fn connect_answered(
        &mut self,
        id: u32,
        answer: Result<Box<Admission<S>>, Failure>,
        context: &Context<'_>,
        sink: &mut dyn Sink,
    ) -> Step {
        let admission = match answer {
            Ok(admission) => *admission,
            Err(failure) => {
                self.phase = Phase::Rejected;
                return self.conclude(id, Err(failure), context, sink);
            }
        };
        let Admission {
            identity,
            is_by_hook,
            mut seats,
        } = admission;
        let now = context.now;
        self.take_identity(&identity);
        self.expiry = identity.expires_at.map(|at| {
            let at = now.instant_of(at);
            if is_by_hook {
                Expiry::by_host(at, now.instant)
            } else {
                Expiry::by_client(at)
            }
        });
        let client = &context.settings.client;
        let mut result = ConnectResult {
            client: self.peer.client.to_string(),
            version: context.version.to_owned(),
            data: identity.data.into(),
            ..ConnectResult::default()
        };
        // Of native pings the client's library knows nothing, and it shall not expect any other.
        if self.pings == Pings::Messages {
            result.ping = u32::try_from(client.ping_interval.as_secs()).unwrap_or(u32::MAX);
            result.pong = true;
        }
        if let Some(address) = context.address {
            result.session = address.session.reveal();
            result.node = address.node.to_owned();
        }
        if let Some(ttl) = self.ttl_for_client(now.instant) {
            result.expires = true;
            result.ttl = ttl;
        }
        if client.connect_include_server_time {
            result.time = i64::try_from(now.unix_millis).unwrap_or(i64::MAX);
        }
        // All seats are opened before the reply is made, and none is live before it was pushed.
        let mut limits = merge_limits(client);
        let mut beginnings = Vec::with_capacity(seats.len());
        for seated in &mut seats {
            let buffered = seated.seat.open();
            let beginning = Beginning::of(&seated.terms, seated.page.take(), &buffered, limits);
            limits = beginning.leaves_of(limits);
            let Some(of_channel) = beginning.result() else {
                return close(DisconnectCode::InsufficientState);
            };
            result
                .subs
                .insert(seated.channel.as_ref().to_owned(), of_channel);
            beginnings.push(beginning);
        }
        sink.reply(&Reply {
            id,
            connect: Some(Box::new(result)),
            ..Reply::default()
        });
        for (seated, beginning) in seats.iter().zip(&beginnings) {
            beginning.push_live(&seated.channel, sink);
        }
        for (seated, beginning) in seats.iter().zip(&beginnings) {
            seated.seat.go_live(&beginning.activation());
        }
        self.phase = Phase::Connected;
        self.next_ping = self.first_ping(client.ping_interval, now.instant);
        for seated in seats {
            self.admit(seated, context);
        }
        Step::Done
    }

    pub(super) fn refresh(
        &mut self,
        token: &str,
        context: &Context<'_>,
    ) -> Result<Outcome, Failure> {
        let is_by_host = matches!(self.expiry, Some(Expiry::ByHost { .. }));
        if token.is_empty() || is_by_host {
            return Err(DisconnectCode::BadRequest.into());
        }
        let claims = match verify(token, context) {
            Ok(claims) => claims,
            Err(TokenError::Expired) => return Err(DisconnectCode::Expired.into()),
            Err(error) => return Err(error.into()),
        };
        if claims.user != self.peer.user {
            return Err(DisconnectCode::InvalidToken.into());
        }
        if claims.expires_at.is_some_and(|at| at <= context.now.unix()) {
            return Err(DisconnectCode::Expired.into());
        }
        if !self.has_server_channels(&claims) {
            return Err(DisconnectCode::InsufficientState.into());
        }
        if !claims.info.is_empty() {
            self.take_info(&claims.info);
        }
        let at = claims.expires_at;
        self.expiry = at.map(|at| Expiry::by_client(context.now.instant_of(at)));
        let ttl = self.ttl_for_client(context.now.instant);
        Ok(Outcome::Reply(Reply {
            refresh: Some(Box::new(RefreshResult {
                expires: ttl.is_some(),
                ttl: ttl.unwrap_or_default(),
                ..RefreshResult::default()
            })),
            ..Reply::default()
        }))
    }

    /// Whether the token's server-side channels are the ones that the session has by its identity.
    fn has_server_channels(&self, claims: &Claims) -> bool {
        let own = self
            .subscriptions
            .iter()
            .filter(|subscription| subscription.made_by == MadeBy::Identity);
        own.clone().count() == claims.subscriptions.len()
            && own
                .map(|subscription| subscription.seat.key().channel())
                .all(|channel| {
                    claims
                        .subscriptions
                        .iter()
                        .any(|claimed| *claimed.channel == *channel)
                })
    }

    pub(super) fn take_identity(&mut self, identity: &Identity) {
        let peer: &mut Peer = Arc::make_mut(&mut self.peer);
        peer.user = Arc::clone(&identity.user);
        peer.meta = identity.meta.clone();
        self.take_info(&identity.info);
    }

    /// Shows this of the session from now on, where it is seen.
    pub(super) fn take_info(&mut self, info: &bytes::Bytes) {
        if *info == self.peer.info {
            return;
        }
        Arc::make_mut(&mut self.peer).info = info.clone();
        for subscription in &mut self.subscriptions {
            subscription.show(info);
        }
    }
}

fn verify(token: &str, context: &Context<'_>) -> Result<Claims, TokenError> {
    let RealtimeConfig {
        client,
        token: keys,
        ..
    } = context.settings;
    let now = context.now.unix();
    let checked = if client.is_insecure {
        keys.verify_ignoring_expiry(token, now)
    } else {
        keys.verify(token, now)
    };
    if let Err(error) = &checked {
        tracing::debug!(%error, "token refused");
    }
    checked
}

fn check_token(token: &str, context: &Context<'_>) -> Option<Result<Claims, TokenError>> {
    (!token.is_empty()).then(|| verify(token, context))
}

/// What the authentication hook is told.
fn token_check(
    checked: &Option<Result<Claims, TokenError>>,
    settings: &RealtimeConfig,
) -> TokenCheck {
    match checked {
        None => TokenCheck::Absent,
        Some(Ok(claims)) => TokenCheck::Valid {
            claims: Arc::clone(&claims.text),
        },
        Some(Err(TokenError::Expired)) => TokenCheck::Expired,
        Some(Err(_)) if !settings.token.has_keys() => TokenCheck::NotConfigured,
        Some(Err(_)) => TokenCheck::Invalid,
    }
}

/// What holds if no plugin decides: the token; without one, anonymous clients where they are allowed; last, the
/// user that the transport vouches for.
fn builtin_outcome(
    checked: Option<Result<Claims, TokenError>>,
    vouched: Arc<str>,
    settings: &RealtimeConfig,
) -> Result<Identity, Failure> {
    let Some(checked) = checked else {
        let client = &settings.client;
        return if client.allow_anonymous_connect_without_token || client.is_insecure {
            Ok(Identity::default())
        } else if vouched.is_empty() {
            Err(DisconnectCode::BadRequest.into())
        } else {
            Ok(Identity {
                user: vouched,
                ..Identity::default()
            })
        };
    };
    let claims = checked?;
    if claims.user.is_empty() && settings.token.disallow_anonymous {
        return Err(DisconnectCode::PermissionDenied.into());
    }
    Ok(Identity {
        user: claims.user,
        expires_at: claims.expires_at.filter(|_| !settings.client.is_insecure),
        info: claims.info,
        data: bytes::Bytes::new(),
        meta: claims.meta,
        subscriptions: claims.subscriptions,
    })
}
