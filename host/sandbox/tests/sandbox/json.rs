//! Fields of the data in hand, read by the host.

use tidegate_realtime::hooks::{FilteringVerdict, Hooks, RpcQuestion};
use tidegate_sandbox::{Hook, Sandbox};

use crate::guests::{
    self, PASS, bind, binding, compile, filter, filtering, guest, ready, replace, sandbox,
    with_filter,
};

/// Sets the tag `t` to the text at `/type`, `absent`, or the error's case as a digit.
fn typed() -> Vec<u8> {
    filtering(&format!(
        "(import \"tidegate:plugin/json@0.1.0\" \"text\" (func $text (param i32 i32 i32)))
         (import \"tidegate:plugin/message@0.1.0\" \"set-tag\" (func $tag (param i32 i32 i32 i32)))
         (data (i32.const 1024) \"/typeabsent\")
         (call $text (i32.const 1024) (i32.const 5) (i32.const 64))
         (if (i32.load8_u (i32.const 64))
           (then
             (i32.store8 (i32.const 2048) (i32.add (i32.load8_u (i32.const 68)) (i32.const 48)))
             (call $tag (i32.const 1026) (i32.const 1) (i32.const 2048) (i32.const 1)))
           (else (if (i32.load8_u (i32.const 68))
             (then (call $tag (i32.const 1026) (i32.const 1) (i32.load (i32.const 72)) (i32.load (i32.const 76))))
             (else (call $tag (i32.const 1026) (i32.const 1) (i32.const 1029) (i32.const 6))))))
         {PASS}"
    ))
}

#[track_caller]
fn tag(sandbox: &Sandbox, data: &str) -> String {
    match filter(sandbox, data.as_bytes()).unwrap() {
        FilteringVerdict::Pass(draft) => draft.tags[0].1.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_field_is_there_absent_or_of_another_kind() {
    let sandbox = with_filter(&typed());
    for (data, answer) in [
        (r#"{"type":"buy","more":[1,2]}"#, "buy"),
        (r#"{"\u0074ype":"sell"}"#, "sell"),
        (r#"{"types":"buy"}"#, "absent"),
        (r#"{"type":null}"#, "absent"),
        ("not json", "0"),
        (r#"{"type":5}"#, "2"),
    ] {
        assert_eq!(tag(&sandbox, data), answer, "{data}");
    }
}

#[test]
fn each_plugin_reads_what_the_one_before_made_of_the_message() {
    let sandbox = sandbox();
    let made = r#"{\"type\":\"made\"}"#;
    let first = compile(
        &sandbox,
        &filtering(&format!(
            "(data (i32.const 1024) \"{}\")\n{}",
            made,
            replace(15)
        )),
    );
    let second = compile(&sandbox, &typed());
    let mut last = binding(&second, Hook::Filtering);
    last.plugin = "last".into();
    last.position = 1;
    bind(&sandbox, vec![binding(&first, Hook::Filtering), last]);
    assert_eq!(tag(&sandbox, r#"{"type":"sent"}"#), "made");
}

#[test]
fn an_integer_comes_across_whole() {
    let sandbox = with_filter(&filtering(&format!(
        "(import \"tidegate:plugin/json@0.1.0\" \"integer\" (func $integer (param i32 i32 i32)))
         (data (i32.const 1024) \"/n\")
         (call $integer (i32.const 1024) (i32.const 2) (i32.const 64))
         (if (i32.load8_u (i32.const 64)) (then unreachable))
         (if (i32.eqz (i32.load8_u (i32.const 72))) (then unreachable))
         (if (i64.ne (i64.load (i32.const 80)) (i64.const -9007199254740993)) (then unreachable))
         {PASS}"
    )));
    assert!(filter(&sandbox, br#"{"n":-9007199254740993}"#).is_ok());
    assert!(filter(&sandbox, br#"{"n":-9007199254740992}"#).is_err());
}

#[test]
fn the_data_of_a_command_can_be_asked_about_too() {
    let sandbox = sandbox();
    let rpc = guest(
        &[Hook::Rpc],
        "(import \"tidegate:plugin/json@0.1.0\" \"kind-of\" (func $kind (param i32 i32 i32)))
         (func (export \"tidegate:plugin/rpc@0.1.0#call\") (param i32 i32 i32 i32 i32 i32) (result i32)
           (call $kind (i32.const 0) (i32.const 0) (i32.const 64))
           (if (i32.load8_u (i32.const 64)) (then unreachable))
           (i32.store8 (i32.const 16) (i32.const 0)) (i32.const 16))",
    );
    let compiled = compile(&sandbox, &rpc);
    bind(&sandbox, vec![binding(&compiled, Hook::Rpc)]);
    let ask = |data: &'static str| {
        ready(sandbox.rpc(RpcQuestion {
            peer: guests::peer("ann"),
            method: "m".into(),
            data: data.into(),
        }))
    };
    assert!(ask("{}").is_ok());
    // No data is no JSON, which this guest traps on.
    assert!(ask("").is_err());
}
