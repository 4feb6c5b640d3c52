//! The machine without sockets: a fake seat, and rules by example.

mod connect;
mod enlist;
mod model;
mod subscriptions;
mod time;

use std::cell::{Cell, RefCell};

use tidegate_protocol::{Codec, Limits, StreamPosition, decode_frame};
use tokio::time::Duration;

use super::*;
use crate::{
    broker::HistoryPage,
    config::{HistoryConfig, HmacSecret, NamespaceOptions, Permission, RealtimeConfig},
    hooks::{AuthenticationVerdict, AuthorizationVerdict, Grant, Identity, RpcVerdict},
    hub::BufferedPublication,
    ids::AppId,
    presence::PresenceStats,
    session::terms::decide,
    test_wire::peer,
};

const UNIX: u64 = 1_700_000_000;

/// A seat that hands over what a test kept back for it.
#[derive(Debug)]
struct FakeSeat {
    key: ChannelKey,
    buffered: RefCell<Vec<BufferedPublication>>,
    activation: RefCell<Option<Activation>>,
    is_live: Cell<bool>,
}

impl FakeSeat {
    fn new(channel: &str) -> Self {
        Self {
            key: ChannelKey::new(&AppId::default_app(), channel),
            buffered: RefCell::default(),
            activation: RefCell::default(),
            is_live: Cell::new(false),
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
                    attendance: None,
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
            Ask::Enlist(ask) => Answer::Enlist(Ok(Box::new(enlisted(*ask)))),
            Ask::Publish(_) => Answer::Publish(Ok(())),
            Ask::Rpc(_) if self.has_rpc => Answer::Rpc(Ok(RpcVerdict::NotMine)),
            Ask::Rpc(_) => Answer::Rpc(Err(ErrorCode::NotAvailable.into())),
            Ask::History(_) => Answer::History(Ok(Box::new(page(7)))),
            Ask::Presence(_) => Answer::Presence(Ok(Box::default())),
            Ask::PresenceStats(_) => Answer::PresenceStats(Ok(PresenceStats::default())),
            Ask::RefreshIdentity(_) => Answer::RefreshIdentity(Ok(AuthenticationVerdict::NotMine)),
            Ask::RefreshSubscription(_) => {
                Answer::RefreshSubscription(Ok(AuthorizationVerdict::NotMine))
            }
        }
    }

    fn signal(&mut self, signal: &Signal) -> Step {
        self.with(|session, context, sink| session.on_signal(signal, context, sink))
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
        attendance: None,
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

fn enlisted(ask: EnlistAsk) -> Seated<FakeSeat> {
    let page = ask.terms.is_positioned.then(|| page(7));
    Seated {
        made_by: MadeBy::Node,
        seat: FakeSeat::new(&ask.channel),
        channel: ask.channel,
        terms: ask.terms,
        attendance: None,
        page,
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
