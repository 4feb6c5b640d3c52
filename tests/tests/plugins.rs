//! The plugins of `plugins/` and the guests of `tests/guests/`, run by the sandbox as a node runs them.
//!
//! Their logic is tested natively, beside it. Here it is about the way in and out: what is built is admitted, the
//! hooks are the ones it says, and settings, facts, verdicts and failures cross the border whole.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use tidegate_realtime::{
    hooks::{
        Answered, AuthenticationQuestion, AuthenticationReason, AuthenticationVerdict,
        AuthorizationQuestion, AuthorizationReason, AuthorizationVerdict, Draft, Effect,
        FilteringVerdict, HookFailure, Hooks, Origin, Outcome, Peer, Progress, Refusal,
        RoutingVerdict, RpcQuestion, RpcVerdict, SessionTarget, Target, TokenCheck,
    },
    ids::{AppId, ClientId},
};
use tidegate_sandbox::{
    Binding, Bindings, FailurePolicy, Hook, Isolation, PluginLimits, Sandbox, SandboxConfig, Scope,
};
use tidegate_tests::guests;

/// The hooks that answer somebody; the guest exports no others.
const ASKED: [Hook; 5] = [
    Hook::Authentication,
    Hook::Authorization,
    Hook::Filtering,
    Hook::Routing,
    Hook::Rpc,
];

const SECRET: &str = "a secret of the tests, long enough";

/// A sandbox with one package bound to all its hooks.
struct Bound {
    sandbox: Arc<Sandbox>,
    meta: Value,
}

impl Bound {
    #[track_caller]
    fn new(package: &str, hooks: &[Hook], config: &Value) -> Self {
        let wasm = std::fs::read(guests::wasm(package)).expect("the package is readable");
        let sandbox = Sandbox::new(SandboxConfig::default()).expect("the sandbox starts");
        let admitted = match sandbox.admit(&wasm) {
            Ok(admitted) => admitted,
            Err(refused) => panic!("{package}: {refused:?}"),
        };
        let mut exported = admitted.hooks.clone();
        exported.sort_unstable();
        assert_eq!(exported, hooks, "of {package}");
        let compiled = sandbox.compile(&admitted).expect("the package compiles");
        let bindings = hooks.iter().map(|hook| Binding {
            plugin: package.into(),
            version: 3,
            compiled: compiled.clone(),
            hook: *hook,
            scope: Scope::App,
            position: 0,
            config: config.to_string().into(),
            failure_policy: FailurePolicy::Closed,
            isolation: Isolation::default(),
            limits: PluginLimits::default(),
        });
        let bindings = Bindings {
            apps: [(AppId::default_app(), bindings.collect())].into(),
        };
        sandbox.apply(&bindings).expect("the bindings are applied");
        Self {
            sandbox,
            meta: Value::Null,
        }
    }

    fn with_meta(mut self, meta: Value) -> Self {
        self.meta = meta;
        self
    }

    fn peer(&self) -> Arc<Peer> {
        let meta = match &self.meta {
            Value::Null => Bytes::new(),
            meta => meta.to_string().into(),
        };
        Arc::new(Peer {
            app: AppId::default_app(),
            client: ClientId::random(),
            user: "ann".into(),
            transport: "websocket",
            name: "js".into(),
            version: "5".into(),
            remote_addr: "192.0.2.1".into(),
            headers: [("x-test".into(), "seen".into())].into(),
            meta,
            info: Bytes::new(),
        })
    }

    fn draft(&self, data: &str) -> Box<Draft> {
        Box::new(Draft {
            app: AppId::default_app(),
            channel: "chat:lobby".into(),
            origin: Origin::Client(self.peer()),
            data: Bytes::copy_from_slice(data.as_bytes()),
            tags: Vec::new(),
            skip_history: false,
            idempotency_key: None,
            delta: None,
            hops: 0,
        })
    }

    fn connect(&self, data: &Value) -> Result<Outcome<AuthenticationVerdict>, HookFailure> {
        ready(self.sandbox.authenticate(AuthenticationQuestion {
            reason: AuthenticationReason::Connect,
            peer: self.peer(),
            token: "".into(),
            token_check: TokenCheck::NotConfigured,
            data: data.to_string().into(),
        }))
    }

    fn subscribe(&self, data: &Value) -> Result<Outcome<AuthorizationVerdict>, HookFailure> {
        ready(self.sandbox.authorize(AuthorizationQuestion {
            reason: AuthorizationReason::Subscribe,
            peer: self.peer(),
            channel: "chat:lobby".into(),
            data: data.to_string().into(),
        }))
    }

    fn filter(&self, data: &str) -> Result<Outcome<FilteringVerdict>, HookFailure> {
        ready(self.sandbox.filter(self.draft(data)))
    }

    fn route(&self, data: &str) -> Result<Outcome<RoutingVerdict>, HookFailure> {
        ready(self.sandbox.route(self.draft(data)))
    }

    fn call(&self, method: &str, data: &Value) -> Result<Outcome<RpcVerdict>, HookFailure> {
        ready(self.sandbox.rpc(RpcQuestion {
            peer: self.peer(),
            method: method.into(),
            data: data.to_string().into(),
        }))
    }

    /// The data of a message that the filter let pass.
    #[track_caller]
    fn filtered(&self, data: &str) -> String {
        match self.filter(data).expect("the filter answers").verdict {
            FilteringVerdict::Pass(draft) => {
                String::from_utf8(draft.data.to_vec()).expect("data is text")
            }
            other => panic!("expected the message to pass, got {other:?}"),
        }
    }
}

/// The answer, from whichever lane.
#[track_caller]
fn ready<V>(answered: Answered<V>) -> Result<Outcome<V>, HookFailure> {
    match answered {
        Progress::Ready(answer) => answer,
        Progress::Pending(answer) => tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime for one answer")
            .block_on(answer),
    }
}

fn error(code: u32, reason: &str) -> Refusal {
    Refusal::Error {
        code,
        reason: reason.into(),
    }
}

fn ticket(payload: &Value) -> String {
    let payload = URL_SAFE_NO_PAD.encode(payload.to_string());
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("any key does");
    mac.update(payload.as_bytes());
    let mac = URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes());
    format!("{payload}.{mac}")
}

#[test]
fn ticket_auth_tells_who_the_bearer_is() {
    let config = json!({ "secrets": [{ "id": "tests", "secret": SECRET }] });
    let bound = Bound::new("ticket-auth", &[Hook::Authentication], &config);
    let payload = json!({ "kid": "tests", "user": "ann", "exp": 4_000_000_000_u64, "role": "operator", "channels": ["ops"] });

    let connected = bound.connect(&json!({ "ticket": ticket(&payload) }));
    let AuthenticationVerdict::Accept(identity) = connected.expect("it answers").verdict else {
        panic!("expected an identity");
    };
    assert_eq!(&*identity.user, "ann");
    assert_eq!(identity.expires_at, Some(4_000_000_000));
    let meta: Value = serde_json::from_slice(&identity.meta).expect("meta is JSON");
    assert_eq!(meta, json!({ "name": "ann", "role": "operator" }));
    assert_eq!(&*identity.subscriptions[0].channel, "ops");

    let refused = bound.connect(&json!({ "ticket": "forged.ticket" }));
    let verdict = refused.expect("it answers").verdict;
    let AuthenticationVerdict::Refuse(Refusal::Error { code: 401, .. }) = verdict else {
        panic!("expected error 401, got {verdict:?}");
    };
    let verdict = bound.connect(&json!({})).expect("it answers").verdict;
    assert!(matches!(verdict, AuthenticationVerdict::NotMine));
}

#[test]
fn ticket_auth_lets_nobody_in_without_settings() {
    let bound = Bound::new("ticket-auth", &[Hook::Authentication], &json!({}));
    let answer = bound.connect(&json!({ "ticket": "a.b" }));
    let failure = answer.expect_err("it must not guess");
    let story = bound.sandbox.explain(&failure.trace_id);
    assert!(story.is_some(), "the node remembers why");
}

#[test]
fn word_filter_masks_stamps_and_refuses() {
    let config = json!({
        "words": ["darn"], "stamp": true, "identity": { "mode": "refuse", "code": 460, "reason": "no cards" },
    });
    let bound = Bound::new("word-filter", &[Hook::Filtering], &config);
    assert_eq!(
        bound.filtered(r#"{"text":"Darn, ann@example.org"}"#),
        r#"{"text":"****, ***************","filtered_by":"word-filter@3"}"#
    );
    let verdict = bound.filter(r#"{"text":"4111 1111 1111 1111"}"#);
    let FilteringVerdict::Refuse(refusal) = verdict.expect("it answers").verdict else {
        panic!("expected a refusal");
    };
    assert_eq!(refusal, error(460, "no cards"));
}

#[test]
fn direct_router_finds_the_readers() {
    let bound = Bound::new("direct-router", &[Hook::Routing], &json!({}));
    let verdict = bound.route(r#"{"type":"private","to":"bob","text":"psst"}"#);
    let RoutingVerdict::Routed(_, destinations) = verdict.expect("it answers").verdict else {
        panic!("expected destinations");
    };
    let targets: Vec<&Target> = destinations.iter().map(|to| &to.target).collect();
    assert_eq!(
        targets,
        [&Target::User("bob".into()), &Target::User("ann".into())]
    );
    for to in &destinations {
        let data: Value = serde_json::from_slice(to.data.as_deref().expect("with data"))
            .expect("the data is JSON");
        assert_eq!(data["from"], "ann");
        assert_eq!(data["channel"], "chat:lobby");
    }

    let system = r#"{"type":"system","text":"closing"}"#;
    let verdict = bound.route(system).expect("it answers").verdict;
    let RoutingVerdict::Refuse(Refusal::Error { code: 103, .. }) = verdict else {
        panic!("expected error 103, got {verdict:?}");
    };
    let bound = bound.with_meta(json!({ "role": "operator" }));
    let verdict = bound.route(system).expect("it answers").verdict;
    assert!(matches!(verdict, RoutingVerdict::Keep(_)));
}

#[test]
fn stamp_writes_the_version() {
    let bound = Bound::new("guest-stamp", &[Hook::Filtering], &json!({}));
    assert_eq!(bound.filtered(r#"{"s":1}"#), r#"{"s":1,"v":3}"#);
    assert_eq!(bound.filtered("[1]"), "[1]");
}

#[test]
fn rpc_echo_knows_the_facts_of_the_call() {
    let bound = Bound::new("guest-rpc-echo", &[Hook::Rpc], &json!({ "a": 1 }))
        .with_meta(json!({ "role": "member" }));
    let reply = |method: &str, data: Value| {
        let outcome = bound.call(method, &data).expect("it answers");
        let RpcVerdict::Reply(reply) = outcome.verdict else {
            panic!("expected a reply to {method}");
        };
        let reply: Value = serde_json::from_slice(&reply).expect("the reply is JSON");
        (reply, outcome.effects)
    };
    assert_eq!(reply("echo", json!([1, "é"])).0, json!([1, "é"]));
    assert_eq!(reply("settings", json!({})).0, json!({ "a": 1 }));

    let (facts, _) = reply("whoami", json!({}));
    assert_eq!(facts["user"], "ann");
    assert_eq!(facts["version"], 3);
    assert_eq!(facts["header"], "seen");
    assert_eq!(facts["meta"], json!({ "role": "member" }));
    assert_eq!(facts["random"], true);
    assert!(facts["now"].as_u64() > Some(1_700_000_000));

    reply("remember", json!("one"));
    let (remembered, _) = reply("remember", json!("two"));
    assert_eq!(
        remembered,
        json!({ "before": "\"one\"", "times": 2, "wrong_kind": true, "time_left": true })
    );

    let (measured, _) = reply("measure", json!({}));
    assert_eq!(
        measured,
        json!({ "recorded": true, "other_kind": true, "presence": true })
    );

    let (_, effects) = reply("kick", json!("bob"));
    let bob = SessionTarget::User("bob".into());
    assert!(
        matches!(
            &effects[..],
            [
                Effect::Unsubscribe { target: from, channel },
                Effect::Disconnect { target, code: 4010, .. },
            ] if *from == bob && *target == bob && &**channel == "news"
        ),
        "{effects:?}"
    );

    let (_, effects) = reply("publish", json!({ "channel": "news" }));
    let [Effect::Publish { channel, .. }] = &effects[..] else {
        panic!("expected one publication, got {effects:?}");
    };
    assert_eq!(&**channel, "news");

    let verdict = bound.call("other", &json!({})).expect("it answers").verdict;
    assert!(matches!(verdict, RpcVerdict::NotMine));
}

/// Commands of the guest `trap` that must fail the call.
const FATAL: [&str; 6] = ["panic", "loop", "allocate", "recurse", "chatter", "flood"];

#[test]
fn every_kind_of_failure_fails_its_call_and_nothing_else() {
    let bound = Bound::new("guest-trap", &ASKED, &json!({}));
    for command in FATAL {
        let data = json!({ "do": command });
        let text = data.to_string();
        let is_failed = [
            bound.connect(&data).is_err(),
            bound.subscribe(&data).is_err(),
            bound.filter(&text).is_err(),
            bound.route(&text).is_err(),
            bound.call("any", &data).is_err(),
        ];
        assert_eq!(is_failed, [true; 5], "of {command}");
        // The next call finds an instance that works.
        let verdict = bound.filter("{}").expect("it answers").verdict;
        let FilteringVerdict::Pass(draft) = verdict else {
            panic!("expected the message to pass after {command}");
        };
        assert_eq!(draft.tags, [("seen".into(), "yes".into())]);
    }
}

#[test]
fn a_failed_call_is_remembered_under_its_trace_id() {
    let bound = Bound::new("guest-trap", &ASKED, &json!({}));
    let failure = bound.filter(r#"{"do":"panic"}"#).expect_err("it panics");
    let story = bound.sandbox.explain(&failure.trace_id);
    assert!(story.is_some(), "the node remembers the call");
}

#[test]
fn refusals_keep_their_codes_and_drop_their_effects() {
    let bound = Bound::new("guest-trap", &ASKED, &json!({}));
    let outcome = bound.filter(r#"{"do":"refuse"}"#).expect("it answers");
    let FilteringVerdict::Refuse(refusal) = outcome.verdict else {
        panic!("expected a refusal");
    };
    assert_eq!(refusal, error(499, "told to"));
    assert!(outcome.effects.is_empty(), "{:?}", outcome.effects);

    let outcome = bound
        .call("any", &json!({ "do": "disconnect" }))
        .expect("it answers");
    let RpcVerdict::Refuse(refusal) = outcome.verdict else {
        panic!("expected a refusal");
    };
    let expected = Refusal::Disconnect {
        code: 4501,
        reason: "told to".into(),
    };
    assert_eq!(refusal, expected);
}

#[test]
fn every_hook_can_say_yes() {
    let bound = Bound::new("guest-trap", &ASKED, &json!({}));
    let data = json!({ "do": "accept", "to": ["one", "two"] });
    let text = data.to_string();
    let AuthenticationVerdict::Accept(identity) = bound.connect(&data).expect("it answers").verdict
    else {
        panic!("expected an identity");
    };
    assert_eq!(identity.subscriptions.len(), 2);
    assert_eq!(&identity.info[..], b"\"shown\"");
    let AuthorizationVerdict::Allow(grant) = bound.subscribe(&data).expect("it answers").verdict
    else {
        panic!("expected a grant");
    };
    assert_eq!(&grant.info[..], b"\"granted\"");
    assert_eq!(bound.filtered(&text), r#"{"accepted":true}"#);
    let RoutingVerdict::Routed(_, destinations) = bound.route(&text).expect("it answers").verdict
    else {
        panic!("expected destinations");
    };
    assert_eq!(destinations.len(), 2);
    let RpcVerdict::Reply(reply) = bound.call("any", &data).expect("it answers").verdict else {
        panic!("expected a reply");
    };
    assert_eq!(&reply[..], b"\"accepted\"");
}
