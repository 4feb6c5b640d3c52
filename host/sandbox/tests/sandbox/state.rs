//! What plugins remember from call to call, through real calls.

use std::{sync::Arc, thread, time::Duration};

use prometheus_client::registry::Registry;
use tidegate_sandbox::{Binding, Class, Clock, Hook, Sandbox, SandboxConfig, StateQuotas};

use crate::guests::{
    PASS, bind, binding, compile, filter, filtering, passed, sandbox, with_filter,
};

const INCREMENT: &str = "(import \"tidegate:plugin/state@0.1.0\" \"increment\" (func $increment (param i32 i32 i64 i64 i32)))";
const SET: &str =
    "(import \"tidegate:plugin/state@0.1.0\" \"set\" (func $set (param i32 i32 i32 i32 i64 i32)))";
const GET: &str =
    "(import \"tidegate:plugin/state@0.1.0\" \"get\" (func $get (param i32 i32 i32)))";
const SWAP: &str = "(import \"tidegate:plugin/state@0.1.0\" \"compare-and-set\" (func $swap (param i32 i32 i32 i32 i32 i32 i32 i64 i32)))";

/// Adds 1 to the counter that the message names, for an hour.
const COUNT_DATA: &str = "(call $increment (local.get 4) (local.get 5) (i64.const 1) (i64.const 3600000) (i32.const 64))";

/// Answers the count at 72 as eight bytes, or the text of the error.
const COUNTED: &str = "
    (i32.store8 (i32.const 16) (i32.const 1))
    (if (i32.load8_u (i32.const 64))
      (then (i32.store (i32.const 20) (i32.load (i32.const 76))) (i32.store (i32.const 24) (i32.load (i32.const 80))))
      (else (i32.store (i32.const 20) (i32.const 72)) (i32.store (i32.const 24) (i32.const 8))))
    (i32.const 16)";

/// Adds 1 to the counter that the message names and answers with the count.
fn counter() -> Vec<u8> {
    filtering(&format!("{INCREMENT}\n{COUNT_DATA}\n{COUNTED}"))
}

#[track_caller]
fn count(sandbox: &Sandbox, key: &str) -> i64 {
    let answer = passed(sandbox, key.as_bytes());
    match answer.as_ref().try_into() {
        Ok(count) => i64::from_le_bytes(count),
        Err(_) => panic!("{}", String::from_utf8_lossy(&answer)),
    }
}

#[test]
fn workers_versions_and_instances_share_a_plugins_keys_and_nobody_else_does() {
    let sandbox = sandbox();
    let compiled = compile(&sandbox, &counter());
    let bind = |change: &dyn Fn(&mut Binding)| {
        let mut binding = binding(&compiled, Hook::Filtering);
        change(&mut binding);
        bind(&sandbox, vec![binding]);
    };
    bind(&|_| {});
    assert_eq!(count(&sandbox, "k"), 1);
    let elsewhere = Arc::clone(&sandbox);
    let counted = thread::spawn(move || count(&elsewhere, "k"));
    assert_eq!(counted.join().unwrap(), 2);
    bind(&|binding| binding.version = 2);
    assert_eq!(count(&sandbox, "k"), 3);
    bind(&|binding| binding.plugin = "other".into());
    assert_eq!(count(&sandbox, "k"), 1);
    bind(&|binding| binding.config = "{\"again\":true}".into());
    assert_eq!(count(&sandbox, "k"), 4);
}

#[test]
fn what_a_failed_or_refused_call_wrote_stays() {
    // Counts, then traps if the message is a `t`, and refuses if it is longer than one byte.
    let body = format!(
        "{INCREMENT}
         (data (i32.const 1024) \"no\")
         (call $increment (i32.const 1024) (i32.const 2) (i64.const 1) (i64.const 3600000) (i32.const 64))
         (if (i32.eq (i32.load8_u (local.get 4)) (i32.const 116)) (then unreachable))
         (if (i32.gt_u (local.get 5) (i32.const 1))
           (then (i32.store8 (i32.const 16) (i32.const 3)) (i32.store8 (i32.const 20) (i32.const 0))
             (i32.store (i32.const 24) (i32.const 0)) (i32.store (i32.const 28) (i32.const 1024))
             (i32.store (i32.const 32) (i32.const 2)) (return (i32.const 16))))
         {COUNTED}"
    );
    let sandbox = with_filter(&filtering(&body));
    assert!(filter(&sandbox, b"t").is_err());
    assert!(filter(&sandbox, b"refused").is_ok());
    assert_eq!(count(&sandbox, "x"), 3);
}

#[test]
fn the_thirty_third_operation_of_a_call_is_an_error_that_the_guest_sees() {
    let body = format!(
        "{INCREMENT}
         (loop $again
           {COUNT_DATA}
           (local.set $x (i32.add (local.get $x) (i32.const 1)))
           (br_if $again (i32.and (i32.lt_u (local.get $x) (i32.const 40)) (i32.eqz (i32.load8_u (i32.const 64))))))
         ;; The third case, at the thirty-third turn.
         (if (i32.ne (i32.load8_u (i32.const 72)) (i32.const 2)) (then unreachable))
         (if (i32.ne (local.get $x) (i32.const 33)) (then unreachable))
         {COUNTED}"
    );
    let sandbox = with_filter(&filtering(&body));
    assert_eq!(
        passed(&sandbox, b"k"),
        "32 operations were made in this call already"
    );
    // The next call has its own.
    assert_eq!(
        passed(&sandbox, b"k"),
        "32 operations were made in this call already"
    );
}

#[test]
fn w6_operations_count_towards_the_calls_into_the_host() {
    let body = format!(
        "{INCREMENT}
         (loop $again {COUNT_DATA} (local.set $x (i32.add (local.get $x) (i32.const 1)))
           (br_if $again (i32.lt_u (local.get $x) (i32.const 101))))
         {PASS}"
    );
    assert!(filter(&with_filter(&filtering(&body)), b"k").is_err());
}

/// Sets a value of `len` bytes and answers with the error's case as a digit, or `-`.
fn setter(len: usize) -> Vec<u8> {
    filtering(&format!(
        "{SET}
         (call $set (local.get 4) (local.get 5) (i32.const 0) (i32.const {len}) (i64.const 3600000) (i32.const 64))
         (i32.store8 (i32.const 2048)
           (if (result i32) (i32.load8_u (i32.const 64))
             (then (i32.add (i32.load8_u (i32.const 68)) (i32.const 48))) (else (i32.const 45))))
         (i32.store8 (i32.const 16) (i32.const 1)) (i32.store (i32.const 20) (i32.const 2048))
         (i32.store (i32.const 24) (i32.const 1)) (i32.const 16)"
    ))
}

#[test]
fn a_value_of_more_than_64_kib_is_too_large() {
    assert_eq!(passed(&with_filter(&setter(65_536)), b"k"), "-");
    assert_eq!(passed(&with_filter(&setter(65_537)), b"k"), "1");
}

#[test]
fn a_key_that_a_quota_forbids_is_an_error_and_the_others_stay() {
    let sandbox = Sandbox::new(SandboxConfig {
        state: StateQuotas {
            keys_per_app: 1,
            ..StateQuotas::default()
        },
        ..SandboxConfig::default()
    })
    .unwrap();
    let compiled = compile(&sandbox, &counter());
    bind(&sandbox, vec![binding(&compiled, Hook::Filtering)]);
    assert_eq!(count(&sandbox, "one"), 1);
    let refused = passed(&sandbox, b"two");
    assert!(refused.starts_with(b"the app has as many keys as it may"));
    assert_eq!(count(&sandbox, "one"), 2);

    let mut registry = Registry::default();
    sandbox.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for line in [
        "tidegate_plugin_state_keys{app=\"default\"} 1",
        "tidegate_plugin_state_refused_total{app=\"default\",quota=\"app-keys\"} 1",
    ] {
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn w8_the_time_of_keys_stands_still_during_a_call() {
    // Sets a value for a millisecond, burns some, and traps if the value is gone.
    let body = format!(
        "{SET}\n{GET}
         (call $set (local.get 4) (local.get 5) (local.get 4) (local.get 5) (i64.const 1) (i32.const 64))
         (loop $burn (local.set $x (i32.add (local.get $x) (i32.const 1)))
           (br_if $burn (i32.lt_u (local.get $x) (i32.const 2000000))))
         (call $get (local.get 4) (local.get 5) (i32.const 64))
         (if (i32.eqz (i32.load8_u (i32.const 68))) (then unreachable))
         {PASS}"
    );
    let sandbox = sandbox();
    let compiled = compile(&sandbox, &filtering(&body));
    let mut binding = binding(&compiled, Hook::Filtering);
    binding.limits.deadline = Some(Hook::Filtering.deadline_cap(Class::Immediate));
    bind(&sandbox, vec![binding]);
    passed(&sandbox, b"k");
}

#[test]
fn a_key_ends_with_its_time() {
    // Takes the key if nobody holds it, for a millisecond, and answers 1 or 0.
    let body = format!(
        "{SWAP}
         (call $swap (local.get 4) (local.get 5) (i32.const 0) (i32.const 0) (i32.const 0)
           (local.get 4) (local.get 5) (i64.const 1) (i32.const 64))
         (i32.store8 (i32.const 2048) (i32.add (i32.load8_u (i32.const 68)) (i32.const 48)))
         (i32.store8 (i32.const 16) (i32.const 1)) (i32.store (i32.const 20) (i32.const 2048))
         (i32.store (i32.const 24) (i32.const 1)) (i32.const 16)"
    );
    let clock = Clock::manual();
    let sandbox = Sandbox::new(SandboxConfig {
        clock: clock.clone(),
        ..SandboxConfig::default()
    })
    .unwrap();
    let compiled = compile(&sandbox, &filtering(&body));
    bind(&sandbox, vec![binding(&compiled, Hook::Filtering)]);
    assert_eq!(passed(&sandbox, b"k"), "1");
    assert_eq!(passed(&sandbox, b"k"), "0");
    clock.advance(Duration::from_millis(1));
    assert_eq!(passed(&sandbox, b"k"), "1");
}
