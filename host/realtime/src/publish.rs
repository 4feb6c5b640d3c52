//! Publishing: the one way of a message from clients, the server API and plugins to the broker.
//!
//! Owns the order filter → route → broker and what happens with the plugins' effects. Permissions were checked
//! by who came here. Nothing is allocated for waiting while hooks and broker answer at once. Invariants: a
//! message is published only after every stage said so; effects run only after the message was carried out, and
//! a message that plugins made [`MAX_HOPS`] times in a row goes nowhere.

mod effects;

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use smallvec::SmallVec;
use tidegate_protocol::{
    ClientInfo, Codec, ErrorCode, Frame, Framing, Message, Publication, Push, Raw, Reply,
    StreamPosition,
};
use tokio::sync::oneshot;

pub(crate) use self::effects::{EffectsOutcome, run_effects};
use crate::{
    app::App,
    broker::{BrokerError, PublishRequest, Published},
    cluster::{Blob, Order},
    entrance::Selection,
    events::{Event, EventKind},
    hooks::{
        Destination, Draft, Effect, FilteringVerdict, HookFailure, MAX_HOPS, Origin, Outcome,
        Progress, RoutingVerdict, Target,
    },
    ids::{ChannelKey, ClientId},
    link::Link,
    node::Node,
    session::{Failure, MAX_LABEL_BYTES},
};

/// Destinations of one message; what a plugin may name in one call.
pub const MAX_DESTINATIONS: usize = 64;

/// A message to publish.
#[derive(Debug)]
pub struct Publishing {
    pub draft: Box<Draft>,
    /// The draft's data as it was decoded.
    pub data: Raw,
    /// The draft's channel, if somebody has its key already.
    pub key: Option<ChannelKey>,
    /// What others see of the publisher in this channel.
    pub chan_info: Raw,
    /// See [`PublishRequest::version`].
    pub version: u64,
    pub version_epoch: Box<str>,
}

/// The position in the channel that was named, if it has history and the message went there.
pub type Outlet = Progress<Result<Option<StreamPosition>, Failure>>;

impl Publishing {
    /// A message by a plugin.
    fn by_plugin(app: &App, channel: Arc<str>, data: Bytes, hops: u8) -> Self {
        Self {
            draft: Box::new(Draft {
                app: app.id().clone(),
                channel,
                origin: Origin::Plugin,
                data: data.clone(),
                tags: Vec::new(),
                skip_history: false,
                idempotency_key: None,
                delta: None,
                hops,
            }),
            data: data.into(),
            key: None,
            chan_info: Raw::default(),
            version: 0,
            version_epoch: Box::default(),
        }
    }
}

/// A message under way: what the stages hand on.
struct Job {
    node: Arc<Node>,
    app: Arc<App>,
    data: Raw,
    key: Option<ChannelKey>,
    channel: Arc<str>,
    chan_info: Raw,
    version: u64,
    version_epoch: Box<str>,
    effects: Vec<Effect>,
    hops: u8,
}

/// What goes to one destination, checked as far as it can be before it is sent.
enum Consignment {
    Channel(Box<PublishRequest>),
    /// A `message` push to the sessions that are meant, wherever they are.
    Sessions(Box<Selection>, Bytes),
}

impl From<PublishRequest> for Consignment {
    fn from(request: PublishRequest) -> Self {
        Self::Channel(Box::new(request))
    }
}

/// Publishes a message in the name of its origin.
pub fn publish(node: &Arc<Node>, app: &Arc<App>, publishing: Publishing) -> Outlet {
    let Publishing {
        draft,
        data,
        key,
        chan_info,
        version,
        version_epoch,
    } = publishing;
    if draft.delta == Some(true) {
        return Progress::Ready(Err(Failure::error(
            ErrorCode::NotAvailable,
            "not available: delta compression; publish without `delta`",
        )));
    }
    if draft.hops >= MAX_HOPS {
        node.metrics().hop_limit.inc();
        app.note_refused_answer("a publication in a circle; the message was refused");
        return Progress::Ready(Err(Failure::error(
            ErrorCode::LimitExceeded,
            format!("limit exceeded: plugins made this message {MAX_HOPS} times in a row"),
        )));
    }
    let job = Job {
        node: Arc::clone(node),
        app: Arc::clone(app),
        data,
        key,
        channel: Arc::clone(&draft.channel),
        chan_info,
        version,
        version_epoch,
        effects: Vec::new(),
        hops: draft.hops,
    };
    node.hooks()
        .filter(draft)
        .and_then(move |answer| job.filtered(answer))
}

fn check_format(
    format: crate::namespace::PublicationDataFormat,
    data: &Raw,
) -> Result<(), Failure> {
    if format.accepts(data) {
        Ok(())
    } else {
        Err(Failure::error(ErrorCode::BadRequest, format.complaint()))
    }
}

impl Job {
    fn filtered(mut self, answer: Result<Outcome<FilteringVerdict>, HookFailure>) -> Outlet {
        let outcome = match answer {
            Ok(outcome) => outcome,
            Err(failure) => return Progress::Ready(Err(failure.into())),
        };
        self.effects = outcome.effects;
        match outcome.verdict {
            FilteringVerdict::Refuse(refusal) => Progress::Ready(Err(refusal.into())),
            FilteringVerdict::Drop => {
                self.node.metrics().dropped_by_plugin.inc();
                self.finish(Ok(None))
            }
            FilteringVerdict::Pass(draft) => {
                let node = Arc::clone(&self.node);
                node.hooks()
                    .route(draft)
                    .and_then(move |answer| self.routed(answer))
            }
        }
    }

    fn routed(mut self, answer: Result<Outcome<RoutingVerdict>, HookFailure>) -> Outlet {
        let outcome = match answer {
            Ok(outcome) => outcome,
            Err(failure) => return Progress::Ready(Err(failure.into())),
        };
        if self.effects.is_empty() {
            self.effects = outcome.effects;
        } else {
            self.effects.extend(outcome.effects);
        }
        match outcome.verdict {
            RoutingVerdict::Refuse(refusal) => Progress::Ready(Err(refusal.into())),
            RoutingVerdict::Keep(draft) => {
                let sent = self.send_to_channel(&draft);
                sent.and_then(move |sent| {
                    let outcome = sent.map(|published| published.position);
                    self.finish(outcome)
                })
            }
            RoutingVerdict::Routed(draft, destinations) => self.send_to_all(&draft, destinations),
        }
    }

    /// Every destination is served, and any failure is the message's failure. What can be known before is looked at
    /// before: a message with a destination that there is not, or that does not take its data, goes nowhere at all.
    fn send_to_all(self, draft: &Draft, destinations: Vec<Destination>) -> Outlet {
        if destinations.len() > MAX_DESTINATIONS {
            self.app
                .note_refused_answer("too many destinations; the message was refused");
            return Progress::Ready(Err(ErrorCode::Internal.into()));
        }
        let mut origin = None;
        let mut consignments: SmallVec<[Consignment; 4]> = SmallVec::new();
        for (index, Destination { target, data }) in destinations.into_iter().enumerate() {
            let is_origin = match &target {
                Target::Origin => true,
                Target::Channel(channel) => *channel == self.channel,
                Target::User(_) | Target::Session(_) => false,
            };
            if is_origin {
                origin = Some(index);
            }
            match self.consignment(draft, target, data) {
                Ok(consignment) => consignments.push(consignment),
                Err(failure) => {
                    tracing::debug!(app = %self.app.id(), ?failure, "a destination was refused");
                    self.app.note_refused_answer(
                        "a destination that there is not; the message was refused",
                    );
                    return Progress::Ready(Err(of_many(failure)));
                }
            }
        }
        let sent = consignments.into_iter().map(|one| self.send(one));
        let sent: SmallVec<[_; 4]> = sent.collect();
        if sent.iter().all(|one| matches!(one, Progress::Ready(_))) {
            let answers = sent.into_iter().filter_map(|one| match one {
                Progress::Ready(answer) => Some(answer),
                Progress::Pending(_) => None,
            });
            let outcome = position_of(answers.collect(), origin);
            return self.finish(outcome);
        }
        Progress::Pending(Box::pin(async move {
            let answers = join_all(sent.into_iter().map(Progress::wait)).await;
            let outcome = position_of(answers, origin);
            self.finish(outcome).wait().await
        }))
    }

    /// What goes to one destination.
    fn consignment(
        &self,
        draft: &Draft,
        target: Target,
        data: Option<Bytes>,
    ) -> Result<Consignment, Failure> {
        let for_sessions = |of, data: Option<Bytes>| {
            let data = data.unwrap_or_else(|| draft.data.clone());
            Ok(Consignment::Sessions(Box::new(of), data))
        };
        match target {
            Target::Origin => self.request(draft, None, data).map(Consignment::from),
            Target::Channel(channel) => {
                let other = (channel != self.channel).then_some(&*channel);
                self.request(draft, other, data).map(Consignment::from)
            }
            Target::User(user) => for_sessions(Selection::of_user(&user), data),
            Target::Session(client) => {
                let client = ClientId::parse(&client);
                let of = client.map(Selection::of_client);
                for_sessions(of.unwrap_or_default(), data)
            }
        }
    }

    fn send(&self, consignment: Consignment) -> Progress<Result<Published, Failure>> {
        match consignment {
            Consignment::Channel(request) => self.publish(*request),
            Consignment::Sessions(of, data) => self.send_to_sessions(*of, data),
        }
    }

    /// Here at once; that it left for the other nodes is waited for, that it arrived is not.
    fn send_to_sessions(&self, of: Selection, data: Bytes) -> Progress<Result<Published, Failure>> {
        if let Err(failure) = send_to_links(&of.find(&self.app), data.clone()) {
            return Progress::Ready(Err(failure));
        }
        let Some(cluster) = self.node.cluster() else {
            return Progress::Ready(Ok(Published::default()));
        };
        let data = Blob(data);
        let told = cluster.tell(self.app.id(), Order::Message { of, data });
        told.map(|told| told.map(|()| Published::default()).map_err(Failure::from))
    }

    /// Hands the message to the broker, for its own channel.
    fn send_to_channel(&self, draft: &Draft) -> Progress<Result<Published, Failure>> {
        match self.request(draft, None, None) {
            Ok(request) => self.publish(request),
            Err(failure) => {
                tracing::debug!(app = %self.app.id(), ?failure, "a message was refused");
                Progress::Ready(Err(failure))
            }
        }
    }

    fn publish(&self, request: PublishRequest) -> Progress<Result<Published, Failure>> {
        if self.app.desk().wants(EventKind::Published) {
            return self.publish_and_tell(request);
        }
        let published = self.node.broker().publish(request);
        published.map(|answer: Result<Published, BrokerError>| answer.map_err(Failure::from))
    }

    /// The same, and tells plugins of it once it was done.
    #[cold]
    fn publish_and_tell(&self, request: PublishRequest) -> Progress<Result<Published, Failure>> {
        let by = request.publication.info.as_deref();
        let event = Event {
            user: by.map_or_else(Arc::default, |info| info.user.as_str().into()),
            client: by.and_then(|info| ClientId::parse(&info.client)),
            channel: request.key.channel().into(),
            hops: self.hops,
            ..Event::new(EventKind::Published)
        };
        let desk = Arc::clone(self.app.desk());
        let published = self.node.broker().publish(request);
        published.map(move |answer: Result<Published, BrokerError>| {
            if answer.is_ok() {
                desk.offer(event);
            }
            answer.map_err(Failure::from)
        })
    }

    fn request(
        &self,
        draft: &Draft,
        other: Option<&str>,
        data: Option<Bytes>,
    ) -> Result<PublishRequest, Failure> {
        let channel = other.unwrap_or(&self.channel);
        let settings = self.app.settings();
        let options = settings.channel.resolve(channel)?.options;
        let bytes = data.unwrap_or_else(|| draft.data.clone());
        let is_untouched =
            bytes.as_ptr() == self.data.as_bytes().as_ptr() && bytes.len() == self.data.len();
        let data = if is_untouched {
            self.data.clone()
        } else {
            let changed = self.changed_data(bytes)?;
            check_format(options.publication_data_format, &changed)?;
            changed
        };
        let is_label = |key: &str| key.len() <= MAX_LABEL_BYTES;
        if !draft.idempotency_key.as_deref().is_none_or(is_label) {
            return Err(Failure::error(
                ErrorCode::BadRequest,
                "bad request: the idempotency key is too long",
            ));
        }
        let own_key = self.key.as_ref().filter(|_| other.is_none()).cloned();
        Ok(PublishRequest {
            key: own_key.unwrap_or_else(|| ChannelKey::new(self.app.id(), channel)),
            publication: Publication {
                data,
                info: publisher(&draft.origin, &self.chan_info),
                tags: draft
                    .tags
                    .iter()
                    .map(|(key, value)| (key.as_ref().to_owned(), value.as_ref().to_owned()))
                    .collect(),
                ..Publication::default()
            },
            history: options.history_options().filter(|_| !draft.skip_history),
            idempotency_key: draft.idempotency_key.clone(),
            version: self.version,
            version_epoch: self.version_epoch.clone(),
        })
    }

    /// Data that a plugin put in the place of the sender's. What was JSON stays JSON: anything else would
    /// disconnect every JSON client of the channel.
    fn changed_data(&self, bytes: Bytes) -> Result<Raw, Failure> {
        match Raw::parse_json(bytes.clone()) {
            Ok(checked) => Ok(checked),
            Err(_) if self.data.is_json() => {
                self.app.note_refused_answer(
                    "JSON data made into something else; the message was refused",
                );
                Err(ErrorCode::Internal.into())
            }
            Err(_) => Ok(bytes.into()),
        }
    }

    /// The plugins' effects follow a message that was carried out, and come before its answer: whoever sends one
    /// message after the other finds what plugins made of them in that order, too.
    fn finish(self, outcome: Result<Option<StreamPosition>, Failure>) -> Outlet {
        if outcome.is_err() || self.effects.is_empty() {
            return Progress::Ready(outcome);
        }
        match run_effects(&self.node, &self.app, self.effects, self.hops) {
            // The message was carried out, whatever became of them.
            Progress::Ready(EffectsOutcome::Done | EffectsOutcome::Unavailable) => {
                Progress::Ready(outcome)
            }
            Progress::Pending(rest) => {
                // On a task of the node: whoever published may go away, and the message was carried out.
                let (done, is_done) = oneshot::channel();
                self.node.spawn(async move {
                    rest.await;
                    let _ = done.send(());
                });
                Progress::Pending(Box::pin(async move {
                    let _ = is_done.await;
                    outcome
                }))
            }
        }
    }
}

/// Who published, as others see it; nobody for the server API and plugins.
fn publisher(origin: &Origin, chan_info: &Raw) -> Option<Box<ClientInfo>> {
    let Origin::Client(peer) = origin else {
        return None;
    };
    Some(Box::new(ClientInfo {
        user: peer.user.as_ref().to_owned(),
        client: peer.client.to_string(),
        conn_info: peer.info.clone().into(),
        chan_info: chan_info.clone(),
    }))
}

fn position_of(
    answers: Vec<Result<Published, Failure>>,
    origin: Option<usize>,
) -> Result<Option<StreamPosition>, Failure> {
    let mut position = None;
    for (index, answer) in answers.into_iter().enumerate() {
        let published = answer.map_err(of_many)?;
        if origin == Some(index) {
            position = published.position;
        }
    }
    Ok(position)
}

/// The failure of one destination as that of the message: its sender knows nothing of the others.
fn of_many(failure: Failure) -> Failure {
    match failure {
        Failure::Error(_) => ErrorCode::Internal.into(),
        close @ Failure::Close(_) => close,
    }
}

/// A `message` push to each session, encoded once per codec and framing. All forms are made before the first
/// is sent: a message that not everybody can be sent goes to nobody.
pub(crate) fn send_to_links(links: &[Arc<Link>], data: Bytes) -> Result<Published, Failure> {
    let reply = Reply::from_push(Push {
        message: Some(Box::new(Message { data: data.into() })),
        ..Push::default()
    });
    let mut frames: SmallVec<[((Codec, Framing), Frame); 2]> = SmallVec::new();
    let form_of = |link: &Link| (link.codec(), link.framing());
    for link in links {
        let form = form_of(link);
        if frames.iter().any(|(known, _)| *known == form) {
            continue;
        }
        let frame = Frame::reply(form.0, form.1, &reply).map_err(|error| {
            tracing::debug!(%error, "a message cannot be sent to its user");
            Failure::from(ErrorCode::Internal)
        })?;
        frames.push((form, frame));
    }
    for link in links {
        let form = form_of(link);
        if let Some((_, frame)) = frames.iter().find(|(known, _)| *known == form) {
            // A session that takes nothing more is about to be closed; there is nobody else to tell.
            let _ = link.send(frame.clone());
        }
    }
    Ok(Published::default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        hub::{Hub, HubConfig},
        test_wire::TestWire,
    };

    #[test]
    fn a_message_that_one_session_cannot_be_sent_goes_to_none() {
        let hub = Hub::new(HubConfig::default());
        let wires = [TestWire::default(), TestWire::default()];
        let codecs = [Codec::Protobuf, Codec::Json];
        let links: Vec<Arc<Link>> = codecs
            .into_iter()
            .zip(&wires)
            .map(|(codec, wire)| {
                let client = ClientId::random();
                hub.link(client, codec, Framing::WebSocket, wire.clone()) as Arc<Link>
            })
            .collect();
        let bytes_of = |wire: &TestWire| {
            links.iter().for_each(|link| {
                link.flush();
            });
            wire.bytes().len()
        };
        assert!(send_to_links(&links, Bytes::from_static(b"\xff")).is_err());
        assert_eq!(wires.each_ref().map(bytes_of), [0, 0]);
        assert!(send_to_links(&links, Bytes::from_static(b"1")).is_ok());
        assert!(wires.iter().all(|wire| bytes_of(wire) > 0));
    }
}
