//! What plugins want done with sessions; and presence, where there is a node to be seen and where there is none.

use std::sync::Arc;

use tidegate_realtime::{
    hooks::{Effect, FilteringVerdict, Hooks, SessionTarget},
    ids::{AppId, ClientId},
    presence::{Member, NoView, PresenceStats, PresenceView},
};
use tidegate_sandbox::{Hook, Sandbox};

use crate::guests::{
    PASS, bind, binding, compile, draft, filter, filtering, passed, ready, refuse, sandbox,
    with_filter,
};

const DISCONNECT: &str = "(import \"tidegate:plugin/sessions@0.1.0\" \"disconnect\" (func $disconnect (param i32 i32 i32 i32 i32 i32 i32)))";
const UNSUBSCRIBE: &str = "(import \"tidegate:plugin/sessions@0.1.0\" \"unsubscribe\" (func $unsubscribe (param i32 i32 i32 i32 i32 i32)))";
/// `ann` 0..3, `room` 3..7, `no` 7..9.
const TEXT: &str = "(data (i32.const 1024) \"annroomno\")";
/// The user `ann`, code 4010, reason `no`; then her subscriptions to `room`.
const CALLS: &str = "
    (call $disconnect (i32.const 0) (i32.const 1024) (i32.const 3) (i32.const 4010) (i32.const 1031) (i32.const 2) (i32.const 64))
    (if (i32.load8_u (i32.const 64)) (then unreachable))
    (call $unsubscribe (i32.const 0) (i32.const 1024) (i32.const 3) (i32.const 1027) (i32.const 4) (i32.const 64))
    (if (i32.load8_u (i32.const 64)) (then unreachable))";

#[track_caller]
fn effects(sandbox: &Sandbox) -> Vec<Effect> {
    ready(sandbox.filter(draft("room", b"{}"))).unwrap().effects
}

#[test]
fn disconnects_and_unsubscribes_are_effects() {
    let sandbox = with_filter(&filtering(&format!(
        "{DISCONNECT}\n{UNSUBSCRIBE}\n{TEXT}\n{CALLS}\n{PASS}"
    )));
    let ann = SessionTarget::User("ann".into());
    match &effects(&sandbox)[..] {
        [
            Effect::Disconnect {
                target,
                code: 4010,
                reason,
            },
            Effect::Unsubscribe {
                target: from,
                channel,
            },
        ] => {
            assert_eq!((target, from), (&ann, &ann));
            assert_eq!((&**reason, &**channel), ("no", "room"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn effects_of_failed_and_refused_calls_are_discarded() {
    let failing = with_filter(&filtering(&format!(
        "{DISCONNECT}\n{UNSUBSCRIBE}\n{TEXT}\n{CALLS}\nunreachable"
    )));
    assert!(filter(&failing, b"{}").is_err());
    let refusing = with_filter(&filtering(&format!(
        "{DISCONNECT}\n{UNSUBSCRIBE}\n{TEXT}\n{CALLS}\n{}",
        refuse(0, 403, 2)
    )));
    let outcome = ready(refusing.filter(draft("room", b"{}"))).unwrap();
    assert!(matches!(outcome.verdict, FilteringVerdict::Refuse(_)));
    assert!(outcome.effects.is_empty());
}

/// Disconnects with these arguments and answers the error's case as a digit, or `-`.
fn disconnecting(arguments: &str) -> String {
    let sandbox = with_filter(&filtering(&format!(
        "{DISCONNECT}\n{TEXT}
         (call $disconnect {arguments} (i32.const 64))
         (i32.store8 (i32.const 2048)
           (if (result i32) (i32.load8_u (i32.const 64))
             (then (i32.add (i32.load8_u (i32.const 68)) (i32.const 48))) (else (i32.const 45))))
         (i32.store8 (i32.const 16) (i32.const 1)) (i32.store (i32.const 20) (i32.const 2048))
         (i32.store (i32.const 24) (i32.const 1)) (i32.const 16)"
    )));
    // Not JSON, or the answer would have to be.
    String::from_utf8(passed(&sandbox, b"\x01").to_vec()).unwrap()
}

#[test]
fn w7_codes_targets_and_reasons_out_of_range_are_errors() {
    let user = "(i32.const 0) (i32.const 1024)";
    let reason = "(i32.const 1031) (i32.const 2)";
    let of =
        |code: u32| disconnecting(&format!("{user} (i32.const 3) (i32.const {code}) {reason}"));
    assert_eq!(
        (of(0), of(4_000), of(4_999)),
        ("-".into(), "-".into(), "-".into())
    );
    for code in [1, 3_500, 3_999, 5_000] {
        assert_eq!(of(code), "0", "{code}");
    }
    let nobody = format!("{user} (i32.const 0) (i32.const 0) {reason}");
    assert_eq!(disconnecting(&nobody), "0");
    let no_client_id =
        format!("(i32.const 1) (i32.const 1024) (i32.const 3) (i32.const 0) {reason}");
    assert_eq!(disconnecting(&no_client_id), "0");
    let long = format!("{user} (i32.const 3) (i32.const 0) (i32.const 1024) (i32.const 124)");
    assert_eq!(disconnecting(&long), "0");
}

#[test]
fn a_call_queues_thirty_two_effects_of_all_kinds() {
    let sandbox = with_filter(&filtering(&format!(
        "{DISCONNECT}
         (import \"tidegate:plugin/publishing@0.1.0\" \"publish\" (func $publish (param i32 i32 i32 i32 i32)))
         {TEXT}
         (loop $again
           (call $publish (i32.const 1027) (i32.const 4) (i32.const 1027) (i32.const 4) (i32.const 64))
           (call $disconnect (i32.const 0) (i32.const 1024) (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 64))
           (local.set $x (i32.add (local.get $x) (i32.const 1)))
           (br_if $again (i32.lt_u (local.get $x) (i32.const 20))))
         ;; `limit`
         (if (i32.ne (i32.load8_u (i32.const 68)) (i32.const 1)) (then unreachable))
         {PASS}"
    )));
    assert_eq!(effects(&sandbox).len(), 32);
}

#[test]
fn presence_is_unavailable_and_says_so() {
    let sandbox = with_filter(&filtering(&format!(
        "(import \"tidegate:plugin/presence@0.1.0\" \"count\" (func $count (param i32 i32 i32)))
         (import \"tidegate:plugin/presence@0.1.0\" \"members\" (func $members (param i32 i32 i32 i32)))
         (import \"tidegate:plugin/presence@0.1.0\" \"is-present\" (func $present (param i32 i32 i32 i32 i32)))
         {TEXT}
         (call $count (i32.const 1027) (i32.const 4) (i32.const 64))
         (call $members (i32.const 1027) (i32.const 4) (i32.const 10) (i32.const 128))
         (call $present (i32.const 1027) (i32.const 4) (i32.const 1024) (i32.const 3) (i32.const 192))
         ;; Each an error, the first case of it.
         (if (i32.ne (i32.const 0x1010100) (i32.or (i32.shl (i32.load8_u (i32.const 64)) (i32.const 24))
               (i32.or (i32.shl (i32.load8_u (i32.const 128)) (i32.const 16)) (i32.shl (i32.load8_u (i32.const 192)) (i32.const 8)))))
           (then unreachable))
         (if (i32.or (i32.load8_u (i32.const 68)) (i32.or (i32.load8_u (i32.const 132)) (i32.load8_u (i32.const 196))))
           (then unreachable))
         {PASS}"
    )));
    passed(&sandbox, b"{}");
}

/// Ann is in `room`, and nothing else is kept.
struct Room;

impl Room {
    fn check(app: &AppId, channel: &str) -> Result<(), NoView> {
        assert_eq!(app.as_str(), "default", "the plugin's own app");
        if channel == "room" {
            Ok(())
        } else {
            Err(NoView::NotKept)
        }
    }
}

impl PresenceView for Room {
    fn stats(&self, app: &AppId, channel: &str) -> Result<PresenceStats, NoView> {
        Self::check(app, channel)?;
        Ok(PresenceStats {
            num_clients: 2,
            num_users: 1,
        })
    }

    fn members(
        &self,
        app: &AppId,
        channel: &str,
        limit: usize,
    ) -> Result<Vec<Arc<Member>>, NoView> {
        Self::check(app, channel)?;
        let member = |_| {
            Arc::new(Member {
                client: ClientId::random(),
                user: "ann".into(),
                conn_info: "{}".into(),
                chan_info: "".into(),
            })
        };
        Ok((0..2.min(limit)).map(member).collect())
    }

    fn is_present(&self, app: &AppId, channel: &str, user: &str) -> Result<bool, NoView> {
        Self::check(app, channel)?;
        Ok(user == "ann")
    }
}

#[test]
fn presence_is_that_of_the_node_for_the_plugins_app() {
    let sandbox = with_filter(&filtering(&format!(
        "(import \"tidegate:plugin/presence@0.1.0\" \"count\" (func $count (param i32 i32 i32)))
         (import \"tidegate:plugin/presence@0.1.0\" \"members\" (func $members (param i32 i32 i32 i32)))
         (import \"tidegate:plugin/presence@0.1.0\" \"is-present\" (func $present (param i32 i32 i32 i32 i32)))
         {TEXT}
         ;; Two clients of one user.
         (call $count (i32.const 1027) (i32.const 4) (i32.const 64))
         (if (i32.or (i32.load8_u (i32.const 64)) (i32.or (i32.ne (i32.load (i32.const 68)) (i32.const 2)) (i32.ne (i32.load (i32.const 72)) (i32.const 1))))
           (then unreachable))
         ;; At most one of them was asked for.
         (call $members (i32.const 1027) (i32.const 4) (i32.const 1) (i32.const 128))
         (if (i32.or (i32.load8_u (i32.const 128)) (i32.ne (i32.load (i32.const 136)) (i32.const 1))) (then unreachable))
         ;; Ann is there, `no` is not.
         (call $present (i32.const 1027) (i32.const 4) (i32.const 1024) (i32.const 3) (i32.const 192))
         (if (i32.or (i32.load8_u (i32.const 192)) (i32.ne (i32.load8_u (i32.const 196)) (i32.const 1))) (then unreachable))
         (call $present (i32.const 1027) (i32.const 4) (i32.const 1031) (i32.const 2) (i32.const 192))
         (if (i32.or (i32.load8_u (i32.const 192)) (i32.load8_u (i32.const 196))) (then unreachable))
         ;; The channel `no`: not enabled. No limit, and more than the most: invalid.
         (call $count (i32.const 1031) (i32.const 2) (i32.const 64))
         (if (i32.or (i32.ne (i32.load8_u (i32.const 64)) (i32.const 1)) (i32.ne (i32.load8_u (i32.const 68)) (i32.const 1))) (then unreachable))
         (call $members (i32.const 1027) (i32.const 4) (i32.const 0) (i32.const 128))
         (if (i32.or (i32.ne (i32.load8_u (i32.const 128)) (i32.const 1)) (i32.ne (i32.load8_u (i32.const 132)) (i32.const 2))) (then unreachable))
         (call $members (i32.const 1027) (i32.const 4) (i32.const 1001) (i32.const 128))
         (if (i32.or (i32.ne (i32.load8_u (i32.const 128)) (i32.const 1)) (i32.ne (i32.load8_u (i32.const 132)) (i32.const 2))) (then unreachable))
         {PASS}"
    )));
    sandbox.watch_presence(Arc::new(Room));
    passed(&sandbox, b"{}");
}

#[test]
fn w6_every_capability_counts_towards_the_calls_into_the_host() {
    for (import, arguments) in [
        (
            "(import \"tidegate:plugin/json@0.1.0\" \"kind-of\" (func $call (param i32 i32 i32)))",
            2,
        ),
        (
            "(import \"tidegate:plugin/presence@0.1.0\" \"count\" (func $call (param i32 i32 i32)))",
            2,
        ),
        (
            "(import \"tidegate:plugin/sessions@0.1.0\" \"unsubscribe\" (func $call (param i32 i32 i32 i32 i32 i32)))",
            5,
        ),
        (
            "(import \"tidegate:plugin/state@0.1.0\" \"delete\" (func $call (param i32 i32 i32)))",
            2,
        ),
    ] {
        for (calls, is_ok) in [(100, true), (101, false)] {
            let sandbox = sandbox();
            let body = format!(
                "{import}
                 (loop $again
                   (call $call {} (i32.const 64))
                   (local.set $x (i32.add (local.get $x) (i32.const 1)))
                   (br_if $again (i32.lt_u (local.get $x) (i32.const {calls}))))
                 {PASS}",
                "(i32.const 0) ".repeat(arguments)
            );
            let compiled = compile(&sandbox, &filtering(&body));
            bind(&sandbox, vec![binding(&compiled, Hook::Filtering)]);
            assert_eq!(filter(&sandbox, b"{}").is_ok(), is_ok, "{import}");
        }
    }
}
