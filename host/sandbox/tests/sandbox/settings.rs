//! Settings are tried before they are bound: the plugin's words, and what becomes of one that misbehaves meanwhile.

use tidegate_sandbox::{FailureKind, Hook, Sandbox, SettingsProblem};

use crate::guests::{PASS, compile, filter_function, filtering, guest_in_world, sandbox};

/// A filter that is asked about settings and does this; it has a result at 16.
fn asked(body: &str) -> Vec<u8> {
    guest_in_world(
        "include capabilities;\nexport filtering;\nexport settings;",
        &format!(
            "(import \"tidegate:plugin/budget@0.1.0\" \"remaining\" (func $remaining (result i32)))
             {}
             (func (export \"tidegate:plugin/settings@0.1.0#check\") (param i32 i32 i32 i32) (result i32)
               {body}
               (i32.const 16))",
            filter_function(PASS)
        ),
    )
}

fn check(sandbox: &Sandbox, body: &str, settings: &str) -> Result<(), SettingsProblem> {
    let compiled = compile(sandbox, &asked(body));
    sandbox.check_settings(&compiled, Hook::Filtering, settings)
}

/// Says no to all but two bytes, in the words that are at these places.
fn says(pointer: &str, length: &str) -> String {
    format!(
        "(i32.store8 (i32.const 16) (i32.ne (local.get 3) (i32.const 2)))
         (i32.store (i32.const 20) {pointer}) (i32.store (i32.const 24) {length})"
    )
}

#[test]
fn a_plugin_says_which_settings_it_can_use_and_one_that_says_nothing_can_use_any() {
    let sandbox = sandbox();
    let echo = says("(local.get 2)", "(local.get 3)");
    assert_eq!(check(&sandbox, &echo, "{}"), Ok(()));
    let refused = |words: &str| Err(SettingsProblem::Refused(words.to_owned()));
    assert_eq!(check(&sandbox, &echo, "[1]"), refused("[1]"));
    assert_eq!(
        check(&sandbox, &echo, "a\u{7}b"),
        refused("a\\u{7}b"),
        "escaped"
    );
    let hook = says("(local.get 0)", "(local.get 1)");
    assert_eq!(check(&sandbox, &hook, "[1]"), refused("filtering"));
    let silent = compile(&sandbox, &filtering(PASS));
    assert_eq!(
        sandbox.check_settings(&silent, Hook::Filtering, "[1]"),
        Ok(())
    );
}

#[test]
fn w5_a_plugin_that_fails_while_it_is_asked_refuses_and_harms_nobody() {
    let sandbox = sandbox();
    for (body, expected) in [
        ("(unreachable)", FailureKind::Trap),
        ("(loop $ever (br $ever))", FailureKind::Timeout),
        ("(drop (call $remaining))", FailureKind::Limit),
        (
            &says("(i32.const -9)", "(i32.const 8)"),
            FailureKind::BadValue,
        ),
    ] {
        match check(&sandbox, body, "[1]") {
            Err(SettingsProblem::Failed { kind, .. }) => assert_eq!(kind, expected, "{body}"),
            other => panic!("{body}: {other:?}"),
        }
    }
    assert_eq!(sandbox.statistics().instances, 0, "none is left behind");
    assert!(sandbox.statistics().hooks.is_empty(), "none was a call");
}

#[test]
fn w1_the_export_is_admitted_beside_hooks_and_in_its_own_type_alone() {
    let sandbox = sandbox();
    let admitted = sandbox.admit(&asked("")).unwrap();
    assert_eq!(admitted.hooks, [Hook::Filtering]);
    assert!(admitted.checks_settings);
    assert!(!sandbox.admit(&filtering(PASS)).unwrap().checks_settings);
    let function = "(func (export \"tidegate:plugin/settings@0.1.0#check\") (param i32 i32 i32 i32) (result i32)
                      (i32.const 16))";
    let alone = sandbox.admit(&guest_in_world("export settings;", function));
    assert_eq!(alone.unwrap_err().rule, "no-hook");
}
