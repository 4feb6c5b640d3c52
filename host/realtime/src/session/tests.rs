//! The machine without sockets: a fake seat, and rules by example.

mod model;
mod positions;
mod time;

use std::cell::{Cell, RefCell};

use tidegate_protocol::{
    Codec, ConnectRequest, Limits, StreamPosition, UnsubscribeCode, decode_frame,
};
use tokio::time::Duration;

use super::*;
use crate::{
    broker::HistoryPage,
    config::{HistoryConfig, HmacSecret, MAX_PAGE_BYTES, NamespaceOptions, Permission},
    hooks::{AuthenticationVerdict, AuthorizationVerdict, Grant, Identity, RpcVerdict},
    hub::BufferedPublication,
    ids::{AppId, ClientId},
    session::terms::decide,
};

const UNIX: u64 = 1_700_000_000;

/// A seat that hands over what a test kept back for it.
#[derive(Debug)]
struct FakeSeat {
    key: ChannelKey,
    buffered: RefCell<Vec<BufferedPublication>>,
    activation: RefCell<Option<Activation>>,
    is_live: Cell<bool>,
    /// Says that so many more publications were delivered than the activation accounts for.
    delivered: Cell<u64>,
}

impl FakeSeat {
    fn new(channel: &str) -> Self {
        Self {
            key: ChannelKey::new(&AppId::default_app(), channel),
            buffered: RefCell::default(),
            activation: RefCell::default(),
            is_live: Cell::new(false),
            delivered: Cell::new(0),
        }
    }
}

impl Seat for FakeSeat {
    fn key(&self) -> &ChannelKey {
        &self.key
    }

    fn open(&self) -> Buffered {
        Buffered {
            publications: self.buffered.take(),
            has_overflowed: false,
        }
    }

    fn go_live(&self, activation: &Activation) {
        self.is_live
            .set(!matches!(activation, Activation::Withdraw));
        self.activation.replace(Some(activation.clone()));
    }

    fn standing(&self, top: &StreamPosition) -> Standing {
        let activation = self.activation.borrow();
        let Some(Activation::After(position)) = &*activation else {
            return Standing::Confirmed;
        };
        let at = position.offset + self.delivered.get();
        if position.epoch != top.epoch {
            Standing::OtherStream
        } else if at == top.offset {
            Standing::Confirmed
        } else {
            Standing::Differs { at }
        }
    }
}

#[derive(Debug, PartialEq)]
enum Sent {
    Reply(Box<Reply>),
    Publication(String, u64),
    Ping,
    NativePing,
}

#[derive(Default)]
struct Recorder(Vec<Sent>);

impl Sink for Recorder {
    fn reply(&mut self, reply: &Reply) {
        self.0.push(Sent::Reply(Box::new(reply.clone())));
    }

    fn publication(&mut self, channel: &str, publication: &Publication) {
        self.0
            .push(Sent::Publication(channel.to_owned(), publication.offset));
    }

    fn ping(&mut self) {
        self.0.push(Sent::Ping);
    }

    fn native_ping(&mut self) {
        self.0.push(Sent::NativePing);
    }
}

struct Harness {
    session: Session<FakeSeat>,
    settings: RealtimeConfig,
    now: Now,
    sent: Recorder,
    has_rpc: bool,
}

fn open_namespace() -> NamespaceOptions {
    NamespaceOptions {
        subscribe: Permission::EVERYBODY,
        publish: Permission::EVERYBODY,
        read_history: Permission::EVERYBODY,
        history: Some(HistoryConfig {
            size: 10,
            ttl: Duration::from_secs(60),
        }),
        allow_recovery: true,
        ..NamespaceOptions::default()
    }
}

fn settings() -> RealtimeConfig {
    let mut settings = RealtimeConfig::default();
    settings.client.allow_anonymous_connect_without_token = true;
    settings.channel.without_namespace = Arc::new(open_namespace());
    settings
}

fn peer() -> Arc<Peer> {
    Arc::new(Peer {
        app: AppId::default_app(),
        client: ClientId::random(),
        user: "".into(),
        transport: "websocket",
        name: "".into(),
        version: "".into(),
        remote_addr: "127.0.0.1".into(),
        headers: Vec::new().into(),
        meta: bytes::Bytes::new(),
        info: bytes::Bytes::new(),
    })
}

impl Harness {
    fn new(settings: RealtimeConfig) -> Self {
        let now = Now {
            instant: Instant::now(),
            unix_millis: UNIX * 1000,
        };
        Self {
            session: Session::new(peer(), now.instant, 0),
            settings,
            now,
            sent: Recorder::default(),
            has_rpc: false,
        }
    }

    fn connected() -> Self {
        Self::connected_with(settings())
    }

    fn connected_with(settings: RealtimeConfig) -> Self {
        let mut harness = Self::new(settings);
        assert!(matches!(
            harness.run(r#"{"id":1,"connect":{}}"#),
            Step::Done
        ));
        assert!(harness.session.is_connected());
        harness.take();
        harness
    }

    fn with<R>(
        &mut self,
        act: impl FnOnce(&mut Session<FakeSeat>, &Context<'_>, &mut dyn Sink) -> R,
    ) -> R {
        let context = Context {
            now: self.now,
            settings: &self.settings,
            version: "test",
            address: None,
        };
        act(&mut self.session, &context, &mut self.sent)
    }

    /// One command, without answering what it asks.
    fn say(&mut self, text: &str) -> Step {
        let mut commands = decode_frame(Codec::Json, text.as_bytes(), &Limits::default()).unwrap();
        assert_eq!(commands.len(), 1);
        let command = commands.remove(0);
        self.with(|session, context, sink| session.handle(command, context, sink))
    }

    /// One command; what it asks is answered as a node without plugins does.
    fn run(&mut self, text: &str) -> Step {
        match self.say(text) {
            Step::Ask(ask) => {
                let answer = self.answer_of(ask);
                self.answer(answer)
            }
            step => step,
        }
    }

    fn answer(&mut self, answer: Answer<FakeSeat>) -> Step {
        self.with(|session, context, sink| session.answer(answer, context, sink))
    }

    fn answer_of(&self, ask: Ask) -> Answer<FakeSeat> {
        match ask {
            Ask::Connect(ask) => Answer::Connect(ask.builtin.map(|identity| {
                let seats = identity.subscriptions.iter().map(|subscription| Seated {
                    channel: Arc::clone(&subscription.channel),
                    made_by: MadeBy::Identity,
                    seat: FakeSeat::new(&subscription.channel),
                    terms: Terms::default(),
                    page: None,
                });
                let seats = seats.collect();
                Box::new(Admission {
                    identity: *identity,
                    is_by_hook: false,
                    seats,
                })
            })),
            Ask::Subscribe(ask) => {
                let terms = decide(&ask, AuthorizationVerdict::NotMine, UNIX);
                Answer::Subscribe(terms.map(|terms| Box::new(seated(&ask, terms, page(7)))))
            }
            Ask::Publish(_) => Answer::Publish(Ok(())),
            Ask::Rpc(_) if self.has_rpc => Answer::Rpc(Ok(RpcVerdict::NotMine)),
            Ask::Rpc(_) => Answer::Rpc(Err(ErrorCode::NotAvailable.into())),
            Ask::History(_) => Answer::History(Ok(Box::new(page(7)))),
            Ask::ReadTops(keys) => {
                Answer::ReadTops(keys.into_iter().map(|key| (key, page(7).top)).collect())
            }
            Ask::RefreshIdentity(_) => Answer::RefreshIdentity(Ok(AuthenticationVerdict::NotMine)),
            Ask::RefreshSubscription(_) => {
                Answer::RefreshSubscription(Ok(AuthorizationVerdict::NotMine))
            }
        }
    }

    fn take(&mut self) -> Vec<Sent> {
        std::mem::take(&mut self.sent.0)
    }

    fn reply(&mut self) -> Reply {
        match self.take().as_mut_slice() {
            [Sent::Reply(reply)] => std::mem::take(reply),
            other => panic!("{other:?}"),
        }
    }

    fn advance(&mut self, by: Duration) -> Step {
        self.now.instant += by;
        self.now.unix_millis += u64::try_from(by.as_millis()).unwrap();
        self.with(Session::on_deadline)
    }

    #[track_caller]
    fn closes(&mut self, text: &str, code: u32) {
        match self.run(text) {
            Step::Close(closing) => assert_eq!(closing.code, code, "{text}"),
            step => panic!("{text}: {step:?}"),
        }
    }

    #[track_caller]
    fn fails(&mut self, text: &str, code: u32) {
        let step = self.run(text);
        assert!(matches!(step, Step::Done), "{text}: {step:?}");
        let error = self.reply().error;
        assert_eq!(error.map(|error| error.code), Some(code), "{text}");
    }
}

fn page(top: u64) -> HistoryPage {
    HistoryPage {
        publications: Vec::new(),
        top: StreamPosition {
            offset: top,
            epoch: "epoch".into(),
        },
    }
}

fn seated(ask: &SubscribeAsk, terms: Terms, page: HistoryPage) -> Seated<FakeSeat> {
    Seated {
        channel: Arc::clone(&ask.channel),
        made_by: MadeBy::Client,
        seat: FakeSeat::new(&ask.channel),
        page: terms.is_positioned.then_some(page),
        terms,
    }
}

fn token(claims: &str) -> String {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use hmac::{Hmac, KeyInit, Mac};
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(signed.as_bytes());
    format!(
        "{signed}.{}",
        URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
    )
}

const SECRET: &str = "a secret of at least thirty-two bytes";

fn with_tokens() -> RealtimeConfig {
    let mut settings = settings();
    settings.token.hmac_secret = Some(HmacSecret::new(SECRET));
    settings.client.allow_anonymous_connect_without_token = false;
    settings
}

fn connect_with(claims: &str) -> String {
    format!(r#"{{"id":1,"connect":{{"token":"{}"}}}}"#, token(claims))
}

#[test]
fn what_comes_before_connect_or_makes_no_sense_ends_the_connection() {
    for text in [
        r#"{"id":1,"publish":{"channel":"news","data":1}}"#,
        r#"{"id":1}"#,
        r#"{"id":1,"ping":{}}"#,
        r#"{}"#,
        r#"{"connect":{}}"#,
    ] {
        Harness::new(settings()).closes(text, 3501);
    }
    for text in [
        r#"{"id":2,"connect":{}}"#,
        r#"{"id":2}"#,
        r#"{"id":2,"ping":{}}"#,
        r#"{}"#,
        r#"{"id":2,"subscribe":{"channel":""}}"#,
        r#"{"id":2,"subscribe":{"channel":"news","delta":"brotli"}}"#,
    ] {
        Harness::connected().closes(text, 3501);
    }
    Harness::connected().closes(r#"{"send":{"data":1}}"#, 3508);
}

#[test]
fn commands_have_the_errors_of_the_reference() {
    let mut settings = settings();
    let closed = NamespaceOptions::default();
    settings
        .channel
        .namespaces
        .insert("closed".into(), Arc::new(closed));
    let mut harness = Harness::connected_with(settings);
    let long = format!(
        r#"{{"id":2,"subscribe":{{"channel":"{}"}}}}"#,
        "x".repeat(256)
    );
    let epoch = format!(
        r#"{{"id":2,"subscribe":{{"channel":"news","epoch":"{}"}}}}"#,
        "x".repeat(65)
    );
    for (text, code) in [
        (r#"{"id":2,"subscribe":{"channel":"other:x"}}"#, 102),
        (r#"{"id":2,"subscribe":{"channel":"closed:x"}}"#, 103),
        (r#"{"id":2,"subscribe":{"channel":"$news"}}"#, 103),
        (r#"{"id":2,"subscribe":{"channel":"news","type":1}}"#, 103),
        (
            r#"{"id":2,"subscribe":{"channel":"news","token":"x"}}"#,
            108,
        ),
        (
            r#"{"id":2,"subscribe":{"channel":"news","tf":{"op":"x"}}}"#,
            107,
        ),
        (long.as_str(), 107),
        (epoch.as_str(), 107),
        (r#"{"id":2,"publish":{"channel":"news"}}"#, 107),
        (r#"{"id":2,"publish":{"channel":"","data":1}}"#, 107),
        (r#"{"id":2,"publish":{"channel":"closed:x","data":1}}"#, 103),
        (r#"{"id":2,"publish":{"channel":"other:x","data":1}}"#, 102),
        (
            r#"{"id":2,"publish":{"channel":"news","data":1,"type":1}}"#,
            108,
        ),
        (r#"{"id":2,"history":{"channel":"closed:x"}}"#, 108),
        (
            r#"{"id":2,"history":{"channel":"news","reverse":true,"since":{"offset":0}}}"#,
            107,
        ),
        (r#"{"id":2,"rpc":{"method":"x"}}"#, 108),
        (r#"{"id":2,"presence":{"channel":"news"}}"#, 108),
        (r#"{"id":2,"presence_stats":{"channel":"news"}}"#, 108),
        (
            r#"{"id":2,"sub_refresh":{"channel":"news","token":"x"}}"#,
            103,
        ),
    ] {
        harness.fails(text, code);
    }
    harness.has_rpc = true;
    harness.fails(r#"{"id":2,"rpc":{"method":"x"}}"#, 104);
    assert!(matches!(
        harness.run(r#"{"id":3,"subscribe":{"channel":"news"}}"#),
        Step::Done
    ));
    harness.take();
    harness.fails(r#"{"id":4,"subscribe":{"channel":"news"}}"#, 105);
}

#[test]
fn who_may_connect_without_a_hook() {
    let without_token = r#"{"id":1,"connect":{}}"#;
    Harness::new(with_tokens()).closes(without_token, 3501);
    Harness::new(with_tokens()).closes(r#"{"id":1,"connect":{"token":"x"}}"#, 3500);
    // Without keys no token is good.
    Harness::new(settings()).closes(&connect_with(r#"{"sub":"1"}"#), 3500);
    let mut insecure = with_tokens();
    insecure.client.is_insecure = true;
    assert!(matches!(
        Harness::new(insecure.clone()).run(without_token),
        Step::Done
    ));
    assert!(matches!(
        Harness::new(insecure).run(&connect_with(r#"{"sub":"1","exp":1}"#)),
        Step::Done
    ));
    let mut named_only = with_tokens();
    named_only.token.disallow_anonymous = true;
    Harness::new(named_only).closes(&connect_with("{}"), 3507);
}

#[test]
fn a_connect_result_says_who_and_how_long() {
    let mut harness = Harness::new(with_tokens());
    let claims = format!(r#"{{"sub":"42","exp":{},"info":{{"a":1}}}}"#, UNIX + 60);
    assert!(matches!(harness.run(&connect_with(&claims)), Step::Done));
    let result = harness.reply().connect.unwrap();
    assert_eq!((result.expires, result.ttl), (true, 60));
    assert_eq!((result.ping, result.pong), (25, true));
    assert_eq!(result.client, harness.session.peer().client.to_string());
    assert_eq!(&*harness.session.peer().user, "42");
    assert_eq!(harness.session.peer().info, r#"{"a":1}"#);
}

#[test]
fn a_subscription_recovers_or_says_that_it_did_not() {
    let text = r#"{"id":2,"subscribe":{"channel":"news","recover":true,"recoverable":true,"offset":5,"epoch":"epoch"}}"#;
    let publication = |offset| {
        Arc::new(Publication {
            offset,
            ..Publication::default()
        })
    };
    let mut harness = Harness::connected();
    let Step::Ask(Ask::Subscribe(ask)) = harness.say(text) else {
        panic!("asks");
    };
    let terms = decide(&ask, AuthorizationVerdict::NotMine, UNIX).unwrap();
    let mut whole = page(7);
    whole.publications = vec![publication(6), publication(7)];
    harness.answer(Answer::Subscribe(Ok(Box::new(seated(&ask, terms, whole)))));
    let result = harness.reply().subscribe.unwrap();
    assert!(result.recovered && result.was_recovering && result.positioned);
    assert_eq!((result.offset, result.publications.len()), (5, 2));

    let mut harness = Harness::connected();
    harness.run(text);
    let result = harness.reply().subscribe.unwrap();
    assert!(!result.recovered && result.was_recovering);
    assert_eq!((result.offset, result.publications.len()), (7, 0));

    let must = text.replace(r#""recover""#, r#""flag":2,"recover""#);
    let mut harness = Harness::connected();
    harness.fails(&must, 112);
    assert_eq!(harness.session.num_subscriptions(), 0);
}

#[test]
fn a_reply_precedes_what_was_published_meanwhile() {
    let mut harness = Harness::connected();
    let Step::Ask(Ask::Subscribe(ask)) = harness.say(r#"{"id":2,"subscribe":{"channel":"news"}}"#)
    else {
        panic!("asks");
    };
    let terms = decide(&ask, AuthorizationVerdict::NotMine, UNIX).unwrap();
    let seated = seated(&ask, terms, page(0));
    seated.seat.buffered.borrow_mut().push(BufferedPublication {
        publication: Arc::default(),
        position: None,
    });
    harness.answer(Answer::Subscribe(Ok(Box::new(seated))));
    let sent = harness.take();
    assert!(matches!(&sent[0], Sent::Reply(reply) if reply.subscribe.is_some()));
    assert_eq!(sent[1], Sent::Publication("news".into(), 0));
}

#[test]
fn server_side_subscriptions_come_with_the_connect_result() {
    let mut harness = Harness::new(with_tokens());
    let claims = r#"{"sub":"42","channels":["a","b"]}"#;
    assert!(matches!(harness.run(&connect_with(claims)), Step::Done));
    let result = harness.reply().connect.unwrap();
    assert_eq!(result.subs.keys().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(harness.session.num_subscriptions(), 2);
    // The client cannot end them, and a lost position ends the connection.
    harness.run(r#"{"id":2,"unsubscribe":{"channel":"a"}}"#);
    assert_eq!(harness.session.num_subscriptions(), 2);
    let gap = Signal::Gap(ChannelKey::new(&AppId::default_app(), "a"));
    let step = harness.with(|session, context, sink| session.on_signal(&gap, context, sink));
    assert!(matches!(step, Step::Close(closing) if closing.code == 3010));
}

#[test]
fn a_gap_ends_a_clients_subscription_so_that_it_comes_back() {
    let mut harness = Harness::connected();
    harness.run(r#"{"id":2,"subscribe":{"channel":"news"}}"#);
    harness.take();
    let gap = Signal::Gap(ChannelKey::new(&AppId::default_app(), "news"));
    harness.with(|session, context, sink| session.on_signal(&gap, context, sink));
    let push = harness.reply().push.unwrap();
    let code = UnsubscribeCode::InsufficientState.code();
    assert_eq!(push.unsubscribe.unwrap().code, code);
    assert_eq!(harness.session.num_subscriptions(), 0);
}

#[test]
fn labels_of_a_client_are_bounded() {
    let long = "x".repeat(65);
    for text in [
        format!(r#"{{"id":1,"connect":{{"name":"{long}"}}}}"#),
        format!(r#"{{"id":1,"connect":{{"subs":{{"a":{{"recover":true,"epoch":"{long}"}}}}}}}}"#),
    ] {
        Harness::new(settings()).fails(&text, 107);
    }
}

#[test]
fn the_size_of_a_session_is_known() {
    let session = std::mem::size_of::<Session>();
    let peer = std::mem::size_of::<Peer>();
    let subscription = std::mem::size_of::<Subscription<Membership>>();
    let driver = std::mem::size_of::<crate::driver::Driver>();
    println!(
        "session {session} B, of it a subscription {subscription} B; peer {peer} B; driver {driver} B"
    );
    assert!(driver + peer <= 900, "{driver} + {peer}");
}

#[test]
fn a_connect_that_asks_for_too_many_channels_is_closed() {
    let mut request = ConnectRequest::default();
    for index in 0..129 {
        request.subs.insert(format!("c{index}"), Default::default());
    }
    let mut harness = Harness::new(settings());
    let command = Command {
        id: 1,
        connect: Some(Box::new(request)),
        ..Command::default()
    };
    let step = harness.with(|session, context, sink| session.handle(command, context, sink));
    assert!(matches!(step, Step::Close(closing) if closing.code == 3505));
}

#[test]
fn an_unknown_delta_in_a_connect_is_a_bad_request() {
    let text = r#"{"id":1,"connect":{"subs":{"a":{"delta":"xor"}}}}"#;
    Harness::new(settings()).closes(text, 3501);
}

#[test]
fn channels_made_on_request_do_not_count_as_the_tokens() {
    let mut harness = Harness::new(with_tokens());
    let claims = format!(r#"{{"sub":"42","exp":{},"channels":["a"]}}"#, UNIX + 50);
    let Step::Ask(Ask::Connect(ask)) = harness.say(&connect_with(&claims)) else {
        panic!("asks");
    };
    let seats = [("a", MadeBy::Identity), ("b", MadeBy::Request)];
    let seats = seats.map(|(channel, made_by)| Seated {
        channel: channel.into(),
        made_by,
        seat: FakeSeat::new(channel),
        terms: Terms::default(),
        page: None,
    });
    harness.answer(Answer::Connect(Ok(Box::new(Admission {
        identity: *ask.builtin.unwrap(),
        is_by_hook: false,
        seats: seats.into(),
    }))));
    let subs = harness.reply().connect.unwrap().subs;
    assert_eq!(subs.keys().collect::<Vec<_>>(), ["a", "b"]);
    // The client cannot end either of them.
    harness.run(r#"{"id":2,"unsubscribe":{"channel":"b"}}"#);
    harness.take();
    assert_eq!(harness.session.num_subscriptions(), 2);
    harness.run(&format!(
        r#"{{"id":3,"refresh":{{"token":"{}"}}}}"#,
        token(&claims)
    ));
    assert!(harness.reply().refresh.is_some());
}

#[test]
fn recoveries_of_one_connect_share_its_limit_in_bytes() {
    let mut harness = Harness::new(settings());
    harness.say(r#"{"id":1,"connect":{}}"#);
    let half = MAX_PAGE_BYTES / 2;
    let seats = ["a", "b", "c"].map(|channel| Seated {
        channel: channel.into(),
        made_by: MadeBy::Request,
        seat: FakeSeat::new(channel),
        terms: Terms {
            is_positioned: true,
            is_recoverable: true,
            recover_from: Some(StreamPosition {
                offset: 6,
                epoch: "epoch".to_owned(),
            }),
            ..Terms::default()
        },
        page: Some(HistoryPage {
            publications: vec![Arc::new(Publication {
                offset: 7,
                data: bytes::Bytes::from(vec![b'1'; half]).into(),
                ..Publication::default()
            })],
            ..page(7)
        }),
    });
    harness.answer(Answer::Connect(Ok(Box::new(Admission {
        identity: Identity::default(),
        is_by_hook: false,
        seats: seats.into(),
    }))));
    let subs = harness.reply().connect.unwrap().subs;
    // One and its overhead leave less than half.
    assert!(subs["a"].recovered && subs["a"].publications.len() == 1);
    for channel in ["b", "c"] {
        let lost = &subs[channel];
        assert!(lost.was_recovering && !lost.recovered && lost.publications.is_empty());
        assert_eq!(lost.offset, 7);
    }
}
