//! How asks are carried out: which hook, then which store, in which order.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_protocol::{Codec, DisconnectCode, ErrorCode, Raw, StreamPosition};

use super::Resolved;
use crate::{
    app::App,
    broker::{HistoryLimit, HistoryOrder, HistoryPage, HistoryQuery},
    hooks::{
        AuthenticationQuestion, AuthenticationVerdict, AuthorizationQuestion, AuthorizationReason,
        AuthorizationVerdict, Effect, Identity, Peer, Progress, RpcQuestion, RpcVerdict,
    },
    hub::Membership,
    ids::ChannelKey,
    link::Link,
    namespace::NamespaceOptions,
    node::Node,
    publish::run_effects,
    session::{
        Admission, Answer, ConnectAsk, Failure, HistoryAsk, Now, Seated, SubscribeAsk, Terms,
        Wishes, terms,
    },
    token::LEEWAY_SECONDS,
};

/// Effects of a call that was not about a message start a chain of their own.
fn run(node: &Arc<Node>, app: &Arc<App>, effects: Vec<Effect>) {
    if !effects.is_empty() {
        run_effects(node, app, effects, 0);
    }
}

pub(super) async fn connect(
    node: Arc<Node>,
    app: Arc<App>,
    link: Arc<Link>,
    ask: ConnectAsk,
    now: Now,
) -> Resolved {
    let mut registration = None;
    let mut effects = Vec::new();
    let admitted = admit(
        &node,
        &app,
        &link,
        ask,
        now,
        (&mut registration, &mut effects),
    )
    .await;
    if admitted.is_ok() {
        run(&node, &app, effects);
    } else {
        registration = None;
    }
    Resolved {
        answer: Answer::Connect(admitted.map(Box::new)),
        registration,
    }
}

async fn admit(
    node: &Arc<Node>,
    app: &Arc<App>,
    link: &Arc<Link>,
    ask: ConnectAsk,
    now: Now,
    (registration, effects): (&mut Option<super::Registration>, &mut Vec<Effect>),
) -> Result<Admission<Membership>, Failure> {
    let ConnectAsk {
        question,
        builtin,
        held,
    } = ask;
    let outcome = node.hooks().authenticate(question).wait().await?;
    *effects = outcome.effects;
    let (mut identity, is_by_hook): (Identity, bool) = match outcome.verdict {
        AuthenticationVerdict::Accept(identity) => {
            check_json(link, &identity.info, &identity.data)?;
            for subscription in &identity.subscriptions {
                check_json(link, &subscription.grant.info, &subscription.grant.data)?;
            }
            (*identity, true)
        }
        AuthenticationVerdict::NotMine => (*builtin?, false),
        AuthenticationVerdict::Refuse(refusal) => return Err(refusal.into()),
    };
    // A token is good a little beyond its end; so is what it says about the connection.
    let leeway = if is_by_hook { 0 } else { LEEWAY_SECONDS };
    let is_over = |at: u64| at.saturating_add(leeway) <= now.unix();
    if identity.expires_at.is_some_and(is_over) {
        return Err(ErrorCode::Expired.into());
    }
    if node.is_draining() {
        return Err(DisconnectCode::Shutdown.into());
    }
    let settings = app.settings().clone();
    *registration = Some(
        app.reserve(
            &identity.user,
            link.client(),
            settings.client.user_connection_limit,
        )
        .map_err(|_| DisconnectCode::ConnectionLimit)?,
    );
    let wanted = std::mem::take(&mut identity.subscriptions);
    if wanted.len() > settings.client.channel_limit {
        return Err(DisconnectCode::ChannelLimit.into());
    }
    let mut seats: Vec<Seated<Membership>> = Vec::with_capacity(wanted.len());
    for subscription in wanted {
        let channel = subscription.channel;
        if seats.iter().any(|seated| seated.channel == channel) {
            continue;
        }
        let options = Arc::clone(settings.channel.resolve(&channel)?.options);
        let position = held.iter().find(|(held, _)| **held == *channel);
        let wishes = Wishes {
            recover_from: position.map(|(_, position)| position.clone()),
            ..Wishes::default()
        };
        let terms = terms::granted(&options, subscription.grant, &wishes, now.unix())?;
        let key = ChannelKey::new(app.id(), &channel);
        let limit = settings.client.recovery_max_publications;
        let (seat, page) = take_seat(node, link, &key, &options, &terms, limit).await?;
        seats.push(Seated {
            channel,
            seat,
            terms,
            page,
        });
    }
    Ok(Admission {
        identity,
        is_by_hook,
        seats,
    })
}

pub(super) async fn subscribe(
    node: Arc<Node>,
    app: Arc<App>,
    link: Arc<Link>,
    peer: Arc<Peer>,
    ask: SubscribeAsk,
    now: Now,
) -> Resolved {
    let seated = seat(&node, &app, &link, peer, ask, now).await;
    Answer::Subscribe(seated.map(Box::new)).into()
}

async fn seat(
    node: &Arc<Node>,
    app: &Arc<App>,
    link: &Arc<Link>,
    peer: Arc<Peer>,
    ask: SubscribeAsk,
    now: Now,
) -> Result<Seated<Membership>, Failure> {
    let mut effects = Vec::new();
    let verdict = if ask.is_hook_asked {
        let question = AuthorizationQuestion {
            reason: AuthorizationReason::Subscribe,
            peer,
            channel: Arc::clone(&ask.channel),
            data: ask.data.clone(),
        };
        let outcome = node.hooks().authorize(question).wait().await?;
        effects = outcome.effects;
        if let AuthorizationVerdict::Allow(grant) = &outcome.verdict {
            check_json(link, &grant.info, &grant.data)?;
        }
        outcome.verdict
    } else {
        AuthorizationVerdict::NotMine
    };
    let terms = terms::decide(&ask, verdict, now.unix())?;
    let limit = app.settings().client.recovery_max_publications;
    let (seat, page) = take_seat(node, link, &ask.key, &ask.options, &terms, limit).await?;
    run(node, app, effects);
    Ok(Seated {
        channel: ask.channel,
        seat,
        terms,
        page,
    })
}

/// What a plugin shows to others is JSON, or it would disconnect those who read JSON; so is what it tells a
/// client that reads JSON.
fn check_json(link: &Link, info: &Bytes, data: &Bytes) -> Result<(), Failure> {
    let is_good = |bytes: &Bytes| bytes.is_empty() || Raw::from(bytes.clone()).is_json();
    if is_good(info) && (link.codec() == Codec::Protobuf || is_good(data)) {
        return Ok(());
    }
    tracing::warn!("a plugin's info or data is not JSON; the client was refused");
    Err(ErrorCode::Internal.into())
}

/// Joins the channel first and reads its history afterwards: what is published in between is kept back.
async fn take_seat(
    node: &Arc<Node>,
    link: &Arc<Link>,
    key: &ChannelKey,
    options: &NamespaceOptions,
    terms: &Terms,
    limit: usize,
) -> Result<(Membership, Option<HistoryPage>), Failure> {
    let joined = node.hub().join(key, link);
    if joined.is_first {
        node.broker().subscribe(key).wait().await?;
        joined.membership.confirm();
    }
    if !terms.is_positioned {
        return Ok((joined.membership, None));
    }
    let query = HistoryQuery {
        limit: match terms.recover_from {
            Some(_) => HistoryLimit::AtMost(limit),
            None => HistoryLimit::PositionOnly,
        },
        since: terms.recover_from.clone(),
        order: HistoryOrder::OldestFirst,
        meta_ttl: options.meta_ttl,
    };
    let page = node.broker().history(key, query).wait().await?;
    Ok((joined.membership, Some(page)))
}

pub(super) fn history(node: &Node, ask: HistoryAsk) -> Progress<Resolved> {
    let HistoryAsk { key, query } = ask;
    let since = query.since.clone();
    node.broker().history(&key, query).map(move |page| {
        let page = page.map_err(Failure::from).and_then(|page| {
            if is_same_stream(since.as_ref(), &page.top) {
                Ok(Box::new(page))
            } else {
                Err(ErrorCode::UnrecoverablePosition.into())
            }
        });
        Answer::History(page).into()
    })
}

/// An empty epoch names whatever stream there is.
fn is_same_stream(since: Option<&StreamPosition>, top: &StreamPosition) -> bool {
    since.is_none_or(|since| since.epoch.is_empty() || since.epoch == top.epoch)
}

pub(super) fn rpc(node: &Arc<Node>, app: &Arc<App>, question: RpcQuestion) -> Progress<Resolved> {
    if !node.hooks().has_rpc(app.id()) {
        return Progress::Ready(Answer::Rpc(Err(ErrorCode::NotAvailable.into())).into());
    }
    let (again, app) = (Arc::clone(node), Arc::clone(app));
    node.hooks().rpc(question).map(move |answer| {
        let verdict = answer.map_err(Failure::from).map(|outcome| {
            if !matches!(outcome.verdict, RpcVerdict::Refuse(_)) {
                run(&again, &app, outcome.effects);
            }
            outcome.verdict
        });
        Answer::Rpc(verdict).into()
    })
}

pub(super) fn refresh_identity(
    node: &Arc<Node>,
    app: &Arc<App>,
    question: AuthenticationQuestion,
) -> Progress<Resolved> {
    let (again, app) = (Arc::clone(node), Arc::clone(app));
    node.hooks().authenticate(question).map(move |answer| {
        let verdict = answer.map(|outcome| {
            if matches!(outcome.verdict, AuthenticationVerdict::Accept(_)) {
                run(&again, &app, outcome.effects);
            }
            outcome.verdict
        });
        Answer::RefreshIdentity(verdict).into()
    })
}

pub(super) fn refresh_subscription(
    node: &Arc<Node>,
    app: &Arc<App>,
    question: AuthorizationQuestion,
) -> Progress<Resolved> {
    let (again, app) = (Arc::clone(node), Arc::clone(app));
    node.hooks().authorize(question).map(move |answer| {
        let verdict = answer.map(|outcome| {
            if matches!(outcome.verdict, AuthorizationVerdict::Allow(_)) {
                run(&again, &app, outcome.effects);
            }
            outcome.verdict
        });
        Answer::RefreshSubscription(verdict).into()
    })
}
