//! How asks are carried out: which hook, then which store, in which order.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use tidegate_protocol::{Codec, DisconnectCode, ErrorCode, Raw, StreamPosition};

use super::Resolved;
use crate::{
    app::App,
    broker::HistoryPage,
    channel::BadName,
    config::RealtimeConfig,
    entrance::Entering,
    hooks::{
        AuthenticationQuestion, AuthenticationVerdict, AuthorizationQuestion, AuthorizationReason,
        AuthorizationVerdict, Effect, Grant, Hooks, Identity, Peer, Progress, RpcQuestion,
        RpcVerdict, TokenCheck,
    },
    hub::Membership,
    ids::{AppId, ChannelKey},
    link::Link,
    namespace::{Applicant, NamespaceOptions},
    node::Node,
    presence::{Attendance, Member},
    publish::run_effects,
    reads,
    session::{
        Admission, Answer, ConnectAsk, EnlistAsk, Failure, HistoryAsk, MadeBy, Now, Requested,
        Seated, SubscribeAsk, Terms, Wishes, terms,
    },
    token::LEEWAY_SECONDS,
};

/// Effects of a call that was not about a message start a chain of their own.
fn run(node: &Arc<Node>, app: &Arc<App>, effects: Vec<Effect>) {
    if !effects.is_empty()
        && let Progress::Pending(rest) = run_effects(node, app, effects, 0)
    {
        node.spawn(async move {
            rest.await;
        });
    }
}

pub(super) async fn connect(
    node: Arc<Node>,
    app: Arc<App>,
    link: Arc<Link>,
    entering: Entering,
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
        entry: registration.map(|registration| (registration, entering)),
    }
}

/// Tells the operator, now and then, of clients that are not let in for want of a good token: the first thing that
/// goes wrong where a node is set up. Tokens that ended are everyday life.
fn note_refusal(node: &Node, peer: &Peer, token_check: &TokenCheck) {
    let (reason, hint) = match token_check {
        TokenCheck::Absent => (
            "token_absent",
            "send a token, or set client.allow_anonymous_connect_without_token",
        ),
        TokenCheck::NotConfigured => (
            "token_not_configured",
            "set client.token.hmac_secret_key, or bind a plugin to authentication",
        ),
        TokenCheck::Invalid => (
            "token_invalid",
            "compare the secret and the claims; at log.level = debug the line `token refused` has the cause",
        ),
        TokenCheck::Expired | TokenCheck::Valid { .. } => return,
    };
    if let Some(suppressed) = node.metrics().notices.due(reason) {
        tracing::info!(
            app = %peer.app, client.addr = %peer.remote_addr, reason, hint, suppressed,
            "a connection was refused"
        );
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
        mut requested,
    } = ask;
    let (peer, token_check) = (Arc::clone(&question.peer), question.token_check.clone());
    let outcome = node.hooks().authenticate(question).wait().await?;
    *effects = outcome.effects;
    let (mut identity, is_by_hook): (Identity, bool) = match outcome.verdict {
        AuthenticationVerdict::Accept(identity) => {
            check_json((app, link), &identity.info, &identity.data)?;
            for subscription in &identity.subscriptions {
                check_json(
                    (app, link),
                    &subscription.grant.info,
                    &subscription.grant.data,
                )?;
            }
            (*identity, true)
        }
        AuthenticationVerdict::NotMine => {
            let identity = builtin.inspect_err(|_| note_refusal(node, &peer, &token_check))?;
            let is_endless = identity.expires_at.is_none() && !app.settings().client.is_insecure;
            if is_endless && matches!(token_check, TokenCheck::Valid { .. }) {
                node.metrics().tokens_without_exp.inc();
            }
            (*identity, false)
        }
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
    let granted = std::mem::take(&mut identity.subscriptions);
    if granted.len() > settings.client.channel_limit {
        return Err(DisconnectCode::ChannelLimit.into());
    }
    let mut wanted: Vec<Wanted> = Vec::with_capacity(granted.len());
    for subscription in granted {
        let channel = subscription.channel;
        if wanted.iter().any(|wanted| wanted.channel == channel) {
            continue;
        }
        let options = Arc::clone(settings.channel.resolve(&channel)?.options);
        let said = requested.remove(&*channel);
        wanted.push(Wanted {
            channel,
            options,
            grant: subscription.grant,
            recover_from: said.and_then(|said| said.recover_from),
            made_by: MadeBy::Identity,
        });
    }
    if let Some(personal) = &settings.client.personal_channel
        && !identity.user.is_empty()
    {
        let channel = settings
            .channel
            .personal(&personal.namespace, &identity.user);
        if !wanted.iter().any(|wanted| *wanted.channel == *channel) {
            let said = requested.remove(channel.as_str());
            wanted.push(Wanted {
                options: Arc::clone(settings.channel.resolve(&channel)?.options),
                channel: channel.into(),
                grant: Grant::default(),
                recover_from: said.and_then(|said| said.recover_from),
                made_by: MadeBy::Node,
            });
        }
    }
    // Whom a plugin let in gets what the plugin said.
    if !is_by_hook {
        let hooks = node.hooks();
        wanted.extend(on_request(
            &settings,
            app.id(),
            &**hooks,
            &identity.user,
            requested,
        )?);
    }
    if wanted.len() > settings.client.channel_limit {
        return Err(DisconnectCode::ChannelLimit.into());
    }
    let mut seats: Vec<Seated<Membership>> = Vec::with_capacity(wanted.len());
    for wanted in wanted {
        let Wanted {
            channel,
            options,
            grant,
            recover_from,
            made_by,
        } = wanted;
        let wishes = Wishes {
            recover_from,
            ..Wishes::default()
        };
        let terms = terms::granted(&options, grant, &wishes, now.unix())?;
        let key = ChannelKey::new(app.id(), &channel);
        let limit = settings.client.recovery_max_publications;
        let (seat, page) = take_seat(node, link, &key, &options, &terms, limit).await?;
        let attendance = attend(node, link, &key, &terms, (&identity.user, &identity.info)).await?;
        seats.push(Seated {
            channel,
            made_by,
            seat,
            terms,
            attendance,
            page,
        });
    }
    Ok(Admission {
        identity,
        is_by_hook,
        seats,
    })
}

/// A server-side subscription to be.
struct Wanted {
    channel: Arc<str>,
    options: Arc<NamespaceOptions>,
    grant: Grant,
    recover_from: Option<StreamPosition>,
    made_by: MadeBy,
}

/// The channels of a connect request that the client could subscribe to by itself. Those that it could not, or
/// about which a plugin would have to be asked, are left out without a word.
fn on_request(
    settings: &RealtimeConfig,
    app: &AppId,
    hooks: &dyn Hooks,
    user: &str,
    requested: BTreeMap<Box<str>, Requested>,
) -> Result<Vec<Wanted>, Failure> {
    let applicant = Applicant {
        is_anonymous: user.is_empty(),
        is_subscribed: false,
        is_insecure: settings.client.is_insecure,
    };
    let mut wanted = Vec::new();
    for (channel, requested) in requested {
        let resolved = match settings.channel.resolve_for_client(&channel) {
            Ok(resolved) => resolved,
            Err(BadName::Pattern) => continue,
            Err(
                BadName::UnknownNamespace
                | BadName::Empty
                | BadName::TooLong
                | BadName::NotPrintable,
            ) => return Err(DisconnectCode::BadRequest.into()),
        };
        let is_allowed = if resolved.is_private {
            false
        } else if resolved.is_user_limited() {
            resolved.lists(user) || applicant.is_insecure
        } else {
            resolved.options.subscribe.allows(applicant) && !hooks.has_authorization(app, &channel)
        };
        if !is_allowed || !requested.is_plain {
            continue;
        }
        wanted.push(Wanted {
            options: Arc::clone(resolved.options),
            grant: Grant::default(),
            recover_from: requested.recover_from,
            made_by: MadeBy::Request,
            channel: channel.into(),
        });
    }
    Ok(wanted)
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
            peer: Arc::clone(&peer),
            channel: Arc::clone(&ask.channel),
            data: ask.data.clone(),
        };
        let outcome = node.hooks().authorize(question).wait().await?;
        effects = outcome.effects;
        if let AuthorizationVerdict::Allow(grant) = &outcome.verdict {
            check_json((app, link), &grant.info, &grant.data)?;
        }
        outcome.verdict
    } else {
        AuthorizationVerdict::NotMine
    };
    let terms = terms::decide(&ask, verdict, now.unix())?;
    let limit = app.settings().client.recovery_max_publications;
    let (seat, page) = take_seat(node, link, &ask.key, &ask.options, &terms, limit).await?;
    let attendance = attend(node, link, &ask.key, &terms, (&peer.user, &peer.info)).await?;
    run(node, app, effects);
    Ok(Seated {
        channel: ask.channel,
        made_by: MadeBy::Client,
        seat,
        terms,
        attendance,
        page,
    })
}

/// Seats a session where the server API wants it.
pub(super) async fn enlist(
    node: Arc<Node>,
    app: Arc<App>,
    link: Arc<Link>,
    peer: Arc<Peer>,
    ask: EnlistAsk,
) -> Resolved {
    Answer::Enlist(
        seat_enlisted(&node, &app, &link, &peer, ask)
            .await
            .map(Box::new),
    )
    .into()
}

async fn seat_enlisted(
    node: &Arc<Node>,
    app: &App,
    link: &Arc<Link>,
    peer: &Peer,
    ask: EnlistAsk,
) -> Result<Seated<Membership>, Failure> {
    let EnlistAsk {
        channel,
        key,
        options,
        terms,
    } = ask;
    if link.codec() == Codec::Json && !is_json_or_nothing(&terms.data) {
        // Reading JSON, the client would be disconnected by it.
        let text = "bad request: data that is not JSON, for a client that reads JSON";
        return Err(Failure::error(ErrorCode::BadRequest, text));
    }
    let limit = app.settings().client.recovery_max_publications;
    let (seat, page) = take_seat(node, link, &key, &options, &terms, limit).await?;
    let attendance = attend(node, link, &key, &terms, (&peer.user, &peer.info)).await?;
    Ok(Seated {
        channel,
        made_by: MadeBy::Node,
        seat,
        terms,
        attendance,
        page,
    })
}

/// What a plugin shows to others is JSON, or it would disconnect those who read JSON; so is what it tells a
/// client that reads JSON.
fn check_json((app, link): (&App, &Link), info: &Bytes, data: &Bytes) -> Result<(), Failure> {
    if is_json_or_nothing(info) && (link.codec() == Codec::Protobuf || is_json_or_nothing(data)) {
        return Ok(());
    }
    app.note_refused_answer("info or data that is not JSON; the client was refused");
    Err(ErrorCode::Internal.into())
}

fn is_json_or_nothing(bytes: &Bytes) -> bool {
    bytes.is_empty() || Raw::from(bytes.clone()).is_json()
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
    let (membership, page) = try_seat(node, link, key, options, terms, limit).await?;
    let is_torn = |page: &HistoryPage| membership.is_torn(&page.top);
    if !page.as_ref().is_some_and(is_torn) {
        return Ok((membership, page));
    }
    // What came meanwhile is of another stream than the one that was read: the epoch has just changed. Once more, with
    // nothing of before; should that be torn too, the client is told to come back.
    drop((membership, page));
    try_seat(node, link, key, options, terms, limit).await
}

async fn try_seat(
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
    if terms.hears_joins {
        joined.membership.listen_to_joins();
    }
    if !terms.is_positioned {
        return Ok((joined.membership, None));
    }
    let (since, meta_ttl) = (terms.recover_from.clone(), options.meta_ttl);
    let page = reads::read_after(node, key, since, limit, meta_ttl).await?;
    Ok((joined.membership, Some(page)))
}

/// Lets others see who has the seat, as far as they are to.
async fn attend(
    node: &Node,
    link: &Link,
    key: &ChannelKey,
    terms: &Terms,
    (user, conn_info): (&Arc<str>, &Bytes),
) -> Result<Option<Attendance>, Failure> {
    // Of one that nobody sees only a survivor needs to know, where it has to tell a plugin.
    if terms.visibility.is_hidden() && !node.remembers_seats(key) {
        return Ok(None);
    }
    let member = Member {
        client: link.client(),
        user: Arc::clone(user),
        conn_info: conn_info.clone(),
        chan_info: terms.info.clone(),
    };
    let attendance = node.roster().attend(key, member, terms.visibility).await?;
    Ok(Some(attendance))
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
