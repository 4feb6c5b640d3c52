//! What guests may ask of the host and do with a message.

use crate::guests::{
    self, PASS, bind, binding, compile, draft, filter, filtering, guest, ready, sandbox,
};
use tidegate_realtime::hooks::{
    AuthenticationQuestion, AuthenticationReason, AuthenticationVerdict, AuthorizationQuestion,
    AuthorizationReason, AuthorizationVerdict, Effect, FilteringVerdict, Hooks, Origin,
    RoutingVerdict, RpcQuestion, RpcVerdict, Target, TokenCheck,
};
use tidegate_sandbox::{Class, FailureKind, Hook, Sandbox, Scope, StepEnd};

/// A filter that answers the text that an import returned through a pointer at 64.
fn telling(import: &str) -> Vec<u8> {
    filtering(&format!(
        "{import}
         (call $get (i32.const 64))
         (i32.store8 (i32.const 16) (i32.const 1)) (i32.store (i32.const 20) (i32.load (i32.const 64)))
         (i32.store (i32.const 24) (i32.load (i32.const 68))) (i32.const 16)"
    ))
}

#[test]
fn config_is_the_bindings_own() {
    let sandbox = sandbox();
    let compiled = compile(
        &sandbox,
        &telling("(import \"tidegate:plugin/config@0.1.0\" \"get\" (func $get (param i32)))"),
    );
    for config in ["{\"loud\":true}", "{\"loud\":false}"] {
        let mut binding = binding(&compiled, Hook::Filtering);
        binding.config = config.into();
        bind(&sandbox, vec![binding]);
        assert_eq!(guests::passed(&sandbox, b"{}"), config);
    }
}

#[test]
fn context_names_the_app_and_explains_itself() {
    let sandbox = sandbox();
    let app = compile(
        &sandbox,
        &telling("(import \"tidegate:plugin/context@0.1.0\" \"app\" (func $get (param i32)))"),
    );
    bind(&sandbox, vec![binding(&app, Hook::Filtering)]);
    assert_eq!(guests::passed(&sandbox, b"\x01"), "default");
    let trace = compile(
        &sandbox,
        &telling("(import \"tidegate:plugin/context@0.1.0\" \"trace-id\" (func $get (param i32)))"),
    );
    bind(&sandbox, vec![binding(&trace, Hook::Filtering)]);
    let id = guests::passed(&sandbox, b"\x01");
    let story = sandbox.explain(std::str::from_utf8(&id).unwrap()).unwrap();
    assert_eq!(story.steps[0].ended, StepEnd::Answered("replace"));
}

/// A filter that answers the text of an optional fact, or `absent`.
fn fact(function: &str) -> Vec<u8> {
    filtering(&format!(
        "(import \"tidegate:plugin/context@0.1.0\" \"{function}\" (func $get (param i32)))
         (data (i32.const 1024) \"absent\")
         (call $get (i32.const 64))
         (i32.store8 (i32.const 16) (i32.const 1))
         (if (i32.load8_u (i32.const 64))
           (then (i32.store (i32.const 20) (i32.load (i32.const 68))) (i32.store (i32.const 24) (i32.load (i32.const 72))))
           (else (i32.store (i32.const 20) (i32.const 1024)) (i32.store (i32.const 24) (i32.const 6))))
         (i32.const 16)"
    ))
}

#[test]
fn context_tells_the_facts_of_the_session_and_none_of_the_server_api() {
    let sandbox = sandbox();
    for (function, expected) in [
        ("user", "ann"),
        ("transport", "websocket"),
        ("client-name", "js"),
        ("client-version", "5.0"),
        ("remote-address", "192.0.2.1"),
        ("meta", "{\"role\":\"op\"}"),
        ("info", "absent"),
        ("claims", "absent"),
    ] {
        let wasm = fact(function);
        let compiled = compile(&sandbox, &wasm);
        bind(&sandbox, vec![binding(&compiled, Hook::Filtering)]);
        assert_eq!(guests::passed(&sandbox, b"\x01"), expected, "{function}");
        let mut from_api = draft("room", b"\x01");
        from_api.origin = Origin::ServerApi;
        match ready(sandbox.filter(from_api)).unwrap().verdict {
            FilteringVerdict::Pass(draft) => assert_eq!(draft.data, "absent", "{function}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn w8_time_stands_still_during_a_call() {
    let sandbox = sandbox();
    // Burns some milliseconds between two looks at the clock; traps if they differ.
    let compiled = compile(
        &sandbox,
        &filtering(&format!(
            "(import \"tidegate:plugin/clock@0.1.0\" \"now\" (func $now (result i64)))
             (i64.store (i32.const 128) (call $now))
             (loop $l (local.set $x (i32.add (local.get $x) (i32.const 1)))
               (br_if $l (i32.lt_u (local.get $x) (i32.const 2000000))))
             (if (i64.ne (i64.load (i32.const 128)) (call $now)) (then unreachable))
             {PASS}"
        )),
    );
    let mut binding = binding(&compiled, Hook::Filtering);
    binding.limits.deadline = Some(Hook::Filtering.deadline_cap(Class::Immediate));
    bind(&sandbox, vec![binding]);
    assert!(filter(&sandbox, b"{}").is_ok());
}

#[test]
fn w6_random_is_bounded() {
    let sandbox = sandbox();
    for (len, is_ok) in [(1_024, true), (1_025, false)] {
        let compiled = compile(
            &sandbox,
            &filtering(&format!(
                "(import \"tidegate:plugin/random@0.1.0\" \"bytes\" (func $bytes (param i32 i32)))
                 (call $bytes (i32.const {len}) (i32.const 64))
                 {PASS}"
            )),
        );
        bind(&sandbox, vec![binding(&compiled, Hook::Filtering)]);
        assert_eq!(filter(&sandbox, b"{}").is_ok(), is_ok);
    }
}

/// Text that tests put at 1024: `key` 0..3, `value` 3..8, `room` 8..12, `{}` 12..14.
const TEXT: &str = "(data (i32.const 1024) \"keyvalueroom{}\")";

#[test]
fn tags_and_options_reach_the_draft() {
    let sandbox = sandbox();
    let compiled = compile(
        &sandbox,
        &filtering(&format!(
            "(import \"tidegate:plugin/message@0.1.0\" \"set-tag\" (func $tag (param i32 i32 i32 i32)))
             (import \"tidegate:plugin/message@0.1.0\" \"remove-tag\" (func $untag (param i32 i32)))
             (import \"tidegate:plugin/message@0.1.0\" \"skip-history\" (func $skip))
             (import \"tidegate:plugin/message@0.1.0\" \"set-idempotency-key\" (func $idem (param i32 i32)))
             (import \"tidegate:plugin/message@0.1.0\" \"set-delta\" (func $delta (param i32)))
             {TEXT}
             (call $tag (i32.const 1024) (i32.const 3) (i32.const 1027) (i32.const 5))
             (call $untag (i32.const 1032) (i32.const 4))
             (call $skip) (call $idem (i32.const 1024) (i32.const 3)) (call $delta (i32.const 0))
             {PASS}"
        )),
    );
    bind(&sandbox, vec![binding(&compiled, Hook::Filtering)]);
    let mut given = draft("room", b"{}");
    given.tags = vec![("room".into(), "x".into()), ("other".into(), "y".into())];
    let FilteringVerdict::Pass(done) = ready(sandbox.filter(given)).unwrap().verdict else {
        panic!("expected the message to pass");
    };
    assert_eq!(
        done.tags,
        [("other".into(), "y".into()), ("key".into(), "value".into())]
    );
    assert!(done.skip_history);
    assert_eq!(done.idempotency_key.as_deref(), Some("key"));
    assert_eq!(done.delta, Some(false));
}

#[test]
fn message_options_that_the_node_does_not_honour_fail_the_call() {
    let sandbox = sandbox();
    let import = |name, parameters| {
        format!(
            "(import \"tidegate:plugin/message@0.1.0\" \"{name}\" (func $it (param {parameters})))\n"
        )
    };
    let key = |len: u32| {
        format!(
            "{}(call $it (i32.const 1024) (i32.const {len}))",
            import("set-idempotency-key", "i32 i32")
        )
    };
    let delta = |on: u32| format!("{}(call $it (i32.const {on}))", import("set-delta", "i32"));
    for (part, is_good) in [
        (key(64), true),
        (delta(0), true),
        (key(65), false),
        (key(0), false),
        (delta(1), false),
    ] {
        let text = format!("{part}{PASS}");
        let compiled = compile(&sandbox, &filtering(&text));
        bind(&sandbox, vec![binding(&compiled, Hook::Filtering)]);
        let answer = ready(sandbox.filter(draft("room", b"{}")));
        assert_eq!(answer.is_ok(), is_good, "{part}");
    }
}

#[test]
fn w7_tags_out_of_bounds_fail_the_call() {
    let sandbox = sandbox();
    for (key, value) in [(0, 1), (65, 1), (1, 257)] {
        let compiled = compile(
            &sandbox,
            &filtering(&format!(
                "(import \"tidegate:plugin/message@0.1.0\" \"set-tag\" (func $tag (param i32 i32 i32 i32)))
                 (call $tag (i32.const 1024) (i32.const {key}) (i32.const 1024) (i32.const {value}))
                 {PASS}"
            )),
        );
        bind(&sandbox, vec![binding(&compiled, Hook::Filtering)]);
        assert!(filter(&sandbox, b"{}").is_err(), "{key} {value}");
    }
}

const PUBLISH: &str = "(import \"tidegate:plugin/publishing@0.1.0\" \"publish\" (func $publish (param i32 i32 i32 i32 i32)))";
const CALL_PUBLISH: &str =
    "(call $publish (i32.const 1032) (i32.const 4) (i32.const 1036) (i32.const 2) (i32.const 64))";

#[test]
fn publications_are_effects_and_limited() {
    let sandbox = sandbox();
    // Publishes 40 times; traps unless exactly the first 32 are taken.
    let compiled = compile(
        &sandbox,
        &filtering(&format!(
            "{PUBLISH}
             {TEXT}
             (loop $l {CALL_PUBLISH}
               (if (i32.ne (i32.load8_u (i32.const 64)) (i32.ge_u (local.get $x) (i32.const 32))) (then unreachable))
               (local.set $x (i32.add (local.get $x) (i32.const 1)))
               (br_if $l (i32.lt_u (local.get $x) (i32.const 40))))
             {PASS}"
        )),
    );
    bind(&sandbox, vec![binding(&compiled, Hook::Filtering)]);
    let effects = ready(sandbox.filter(draft("room", b"{}"))).unwrap().effects;
    assert_eq!(effects.len(), 32);
    let Effect::Publish { channel, data, .. } = &effects[0] else {
        panic!("expected a publication, got {:?}", effects[0]);
    };
    assert_eq!((&**channel, &data[..]), ("room", &b"{}"[..]));
}

#[test]
fn plugins_cannot_publish_in_a_circle() {
    let sandbox = sandbox();
    let compiled = compile(
        &sandbox,
        &filtering(&format!("{PUBLISH}\n{TEXT}\n{CALL_PUBLISH}\n{PASS}")),
    );
    bind(&sandbox, vec![binding(&compiled, Hook::Filtering)]);
    for (hops, published) in [(0, 1), (1, 1), (2, 0)] {
        let mut made = draft("room", b"{}");
        made.hops = hops;
        let effects = ready(sandbox.filter(made)).unwrap().effects;
        assert_eq!(effects.len(), published, "at hop {hops}");
    }
}

/// A router with this body; parameters as in filtering.
fn routing(body: &str) -> Vec<u8> {
    let (imports, rest): (Vec<&str>, Vec<&str>) = body.lines().partition(|line| {
        line.trim_start().starts_with("(import") || line.trim_start().starts_with("(data")
    });
    guest(
        &[Hook::Routing],
        &format!(
            "{}\n(func (export \"tidegate:plugin/routing@0.1.0#route\")
               (param i32 i32 i32 i32 i32 i32) (result i32)\n{}\n)",
            imports.join("\n"),
            rest.join("\n")
        ),
    )
}

const ROUTED: &str = "(i32.store8 (i32.const 16) (i32.const 1)) (i32.const 16)";
const TO_CHANNEL: &str = "(import \"tidegate:plugin/message@0.1.0\" \"to-channel\" (func $channel (param i32 i32 i32 i32 i32)))";

#[test]
fn a_router_names_destinations_and_the_last_one_decides() {
    let sandbox = sandbox();
    let to_room = compile(
        &sandbox,
        &routing(&format!(
            "{TO_CHANNEL}
             (import \"tidegate:plugin/message@0.1.0\" \"to-origin\" (func $origin (param i32 i32 i32)))
             {TEXT}
             (call $channel (i32.const 1032) (i32.const 4) (i32.const 1) (i32.const 1036) (i32.const 2))
             (call $origin (i32.const 0) (i32.const 0) (i32.const 0))
             {ROUTED}"
        )),
    );
    let keep = compile(&sandbox, &routing(PASS));
    let mut second = binding(&keep, Hook::Routing);
    second.position = 1;
    bind(&sandbox, vec![binding(&to_room, Hook::Routing), second]);
    let verdict = ready(sandbox.route(draft("lobby", b"{}"))).unwrap().verdict;
    let RoutingVerdict::Routed(draft, destinations) = verdict else {
        panic!("expected destinations, got {verdict:?}");
    };
    assert_eq!(&*draft.channel, "lobby");
    assert_eq!(destinations[0].target, Target::Channel("room".into()));
    assert_eq!(destinations[0].data.as_deref(), Some(&b"{}"[..]));
    assert_eq!(destinations[1].target, Target::Origin);
    assert_eq!(destinations[1].data, None);
}

#[test]
fn only_a_router_names_destinations() {
    let sandbox = sandbox();
    let compiled = compile(
        &sandbox,
        &filtering(&format!(
            "{TO_CHANNEL}
             {TEXT}
             (call $channel (i32.const 1032) (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 0))
             {PASS}"
        )),
    );
    bind(&sandbox, vec![binding(&compiled, Hook::Filtering)]);
    let failure = filter(&sandbox, b"{}").unwrap_err();
    let story = sandbox.explain(&failure.trace_id).unwrap();
    assert!(matches!(
        story.steps[0].ended,
        StepEnd::Failed {
            kind: FailureKind::Limit,
            ..
        }
    ));
}

/// An RPC guest that replies with its data.
fn echo() -> Vec<u8> {
    guest(
        &[Hook::Rpc],
        "(func (export \"tidegate:plugin/rpc@0.1.0#call\") (param i32 i32 i32 i32 i32 i32) (result i32)
           (i32.store8 (i32.const 16) (i32.const 1)) (i32.store (i32.const 20) (local.get 4))
           (i32.store (i32.const 24) (local.get 5)) (i32.const 16))",
    )
}

fn ask_rpc(sandbox: &Sandbox, method: &str) -> RpcVerdict {
    ready(sandbox.rpc(RpcQuestion {
        peer: guests::peer("ann"),
        method: method.into(),
        data: "\"hello\"".into(),
    }))
    .unwrap()
    .verdict
}

#[test]
fn rpc_is_asked_by_prefix() {
    let sandbox = sandbox();
    assert!(!sandbox.has_rpc(&guests::app()));
    let compiled = compile(&sandbox, &echo());
    let mut orders = binding(&compiled, Hook::Rpc);
    orders.scope = Scope::RpcPrefix("orders.".to_owned());
    bind(&sandbox, vec![orders]);
    assert!(sandbox.has_rpc(&guests::app()));
    assert!(
        matches!(ask_rpc(&sandbox, "orders.list"), RpcVerdict::Reply(data) if data == "\"hello\"")
    );
    assert!(matches!(
        ask_rpc(&sandbox, "users.list"),
        RpcVerdict::NotMine
    ));
}

#[test]
fn the_first_definite_answer_wins() {
    let sandbox = sandbox();
    let answering = |verdict: u8| {
        guest(
            &[Hook::Authentication, Hook::Authorization],
            &format!(
                "(func (export \"tidegate:plugin/authentication@0.1.0#authenticate\") (param i32 i32 i32 i32 i32) (result i32)
                   (i32.store8 (i32.const 512) (i32.const {verdict})) (i32.const 512))
                 (func (export \"tidegate:plugin/authorization@0.1.0#authorize\") (param i32 i32 i32 i32 i32 i32 i32) (result i32)
                   (i32.store8 (i32.const 512) (i32.const {verdict})) (i32.const 512))"
            ),
        )
    };
    // The memory behind the tag is zero: an identity or a grant with nothing in it, or a refusal with code 0.
    let [not_mine, yes, no] = [0, 1, 2].map(|verdict| compile(&sandbox, &answering(verdict)));
    let ask = |order: [&tidegate_sandbox::Compiled; 3]| {
        let mut all = Vec::new();
        for hook in [Hook::Authentication, Hook::Authorization] {
            for (position, compiled) in order.into_iter().enumerate() {
                let mut one = binding(compiled, hook);
                one.position = position as i64;
                all.push(one);
            }
        }
        bind(&sandbox, all);
        let authentication = ready(sandbox.authenticate(AuthenticationQuestion {
            reason: AuthenticationReason::Connect,
            peer: guests::peer(""),
            token: "".into(),
            token_check: TokenCheck::Absent,
            data: "".into(),
        }));
        let authorization = ready(sandbox.authorize(AuthorizationQuestion {
            reason: AuthorizationReason::Subscribe,
            peer: guests::peer("ann"),
            channel: "room".into(),
            data: "".into(),
        }));
        (
            authentication.unwrap().verdict,
            authorization.unwrap().verdict,
        )
    };
    assert!(matches!(
        ask([&not_mine, &yes, &no]),
        (
            AuthenticationVerdict::Accept(_),
            AuthorizationVerdict::Allow(_)
        )
    ));
    assert!(matches!(
        ask([&not_mine, &no, &yes]),
        (
            AuthenticationVerdict::Refuse(_),
            AuthorizationVerdict::Refuse(_)
        )
    ));
    assert!(matches!(
        ask([&not_mine, &not_mine, &not_mine]),
        (
            AuthenticationVerdict::NotMine,
            AuthorizationVerdict::NotMine
        )
    ));
}

#[test]
fn the_budget_is_what_is_left_of_the_calls_own_deadline() {
    // Answers with the milliseconds left, as one character from '0' on.
    let body = format!(
        "(import \"tidegate:plugin/budget@0.1.0\" \"remaining\" (func $remaining (result i32)))
         (i32.store8 (i32.const 1024) (i32.add (i32.const 48) (call $remaining)))
         {}",
        guests::replace(1)
    );
    let sandbox = sandbox();
    let compiled = compile(&sandbox, &filtering(&body));
    for (millis, most) in [(5, b'5'), (9, b'9')] {
        let mut binding = binding(&compiled, Hook::Filtering);
        binding.limits.deadline = Some(std::time::Duration::from_millis(millis));
        bind(&sandbox, vec![binding]);
        // A busy machine may have used some of it up.
        let left = guests::passed(&sandbox, b"0")[0];
        assert!((b'0'..=most).contains(&left), "{left}");
        let best = (0..50).map(|_| guests::passed(&sandbox, b"0")[0]).max();
        assert_eq!(best, Some(most), "never more, and all of it at the start");
    }
}
