//! Numbers that plugins record, as the operator's monitoring reads them.

use prometheus_client::registry::Registry;
use tidegate_sandbox::{Bindings, Hook, Sandbox};

use crate::guests::{bind, binding, compile, filter, filtering, passed, sandbox, with_filter};

const INCREMENT: &str = "(import \"tidegate:plugin/metrics@0.1.0\" \"increment\" (func $increment (param i32 i32 i32 i32 i64 i32)))";
const GAUGE: &str = "(import \"tidegate:plugin/metrics@0.1.0\" \"set-gauge\" (func $gauge (param i32 i32 i32 i32 f64 i32)))";
const OBSERVE: &str = "(import \"tidegate:plugin/metrics@0.1.0\" \"observe\" (func $observe (param i32 i32 i32 i32 f64 i32)))";

/// Answers the error's case as a digit, or `-`.
const OUTCOME: &str = "
    (i32.store8 (i32.const 2048)
      (if (result i32) (i32.load8_u (i32.const 64))
        (then (i32.add (i32.load8_u (i32.const 68)) (i32.const 48))) (else (i32.const 45))))
    (i32.store8 (i32.const 16) (i32.const 1)) (i32.store (i32.const 20) (i32.const 2048))
    (i32.store (i32.const 24) (i32.const 1)) (i32.const 16)";

/// Adds 2 to the counter that the message names.
fn counter() -> Vec<u8> {
    filtering(&format!(
        "{INCREMENT}
         (call $increment (local.get 4) (local.get 5) (i32.const 0) (i32.const 0) (i64.const 2) (i32.const 64))
         {OUTCOME}"
    ))
}

fn rendered(sandbox: &Sandbox) -> String {
    let mut registry = Registry::default();
    sandbox.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    text
}

#[track_caller]
fn assert_has(text: &str, line: &str) {
    assert!(
        text.lines().any(|one| one == line),
        "no `{line}` in\n{text}"
    );
}

#[test]
fn counters_add_up_and_name_their_app_and_plugin() {
    let sandbox = with_filter(&counter());
    assert_eq!(passed(&sandbox, b"orders"), "-");
    assert_eq!(passed(&sandbox, b"orders"), "-");
    assert_has(
        &rendered(&sandbox),
        "tidegate_plugin_custom_counter_orders_total{app=\"default\",plugin=\"guest\"} 4",
    );
}

#[test]
fn labels_gauges_and_histograms_are_rendered() {
    // One of each, with the label `tier` = `gold`.
    let sandbox = with_filter(&filtering(&format!(
        "{INCREMENT}\n{GAUGE}\n{OBSERVE}
         (data (i32.const 1024) \"tiergoldamount\")
         (i32.store (i32.const 3000) (i32.const 1024)) (i32.store (i32.const 3004) (i32.const 4))
         (i32.store (i32.const 3008) (i32.const 1028)) (i32.store (i32.const 3012) (i32.const 4))
         (call $increment (local.get 4) (local.get 5) (i32.const 3000) (i32.const 1) (i64.const 1) (i32.const 64))
         (if (i32.load8_u (i32.const 64)) (then unreachable))
         ;; The name is a counter already.
         (call $gauge (local.get 4) (local.get 5) (i32.const 3000) (i32.const 1) (f64.const 2.5) (i32.const 64))
         (if (i32.eqz (i32.load8_u (i32.const 64))) (then unreachable))
         (call $gauge (i32.const 1028) (i32.const 4) (i32.const 0) (i32.const 0) (f64.const 2.5) (i32.const 64))
         (if (i32.load8_u (i32.const 64)) (then unreachable))
         (call $observe (i32.const 1032) (i32.const 6) (i32.const 0) (i32.const 0) (f64.const 3) (i32.const 64))
         {OUTCOME}"
    )));
    assert_eq!(passed(&sandbox, b"gold_orders"), "-");
    let text = rendered(&sandbox);
    let labels = "app=\"default\",plugin=\"guest\"";
    for line in [
        format!("tidegate_plugin_custom_counter_gold_orders_total{{{labels},tier=\"gold\"}} 1"),
        format!("tidegate_plugin_custom_gauge_gold{{{labels}}} 2.5"),
        format!("tidegate_plugin_custom_histogram_amount_sum{{{labels}}} 3.0"),
        format!("tidegate_plugin_custom_histogram_amount_count{{{labels}}} 1"),
        format!("tidegate_plugin_custom_histogram_amount_bucket{{le=\"2.0\",{labels}}} 0"),
        format!("tidegate_plugin_custom_histogram_amount_bucket{{le=\"5.0\",{labels}}} 1"),
        format!("tidegate_plugin_custom_histogram_amount_bucket{{le=\"+Inf\",{labels}}} 1"),
        format!("tidegate_plugin_metrics_refused_total{{{labels}}} 1"),
    ] {
        assert_has(&text, &line);
    }
}

#[test]
fn n4_names_and_series_are_bounded_and_what_is_there_goes_on() {
    let sandbox = with_filter(&counter());
    for bad in ["Orders", "1st", "order total", "x\ny", "orders_total", ""] {
        if !bad.is_empty() {
            assert_eq!(passed(&sandbox, bad.as_bytes()), "0", "{bad:?}");
        }
    }
    assert_eq!(passed(&sandbox, "o".repeat(49).as_bytes()), "0");
    for index in 0..32 {
        assert_eq!(passed(&sandbox, format!("n{index}").as_bytes()), "-");
    }
    assert_eq!(passed(&sandbox, b"n32"), "1");
    assert_eq!(passed(&sandbox, b"n31"), "-");
}

#[test]
fn what_a_failed_call_recorded_stays_and_an_unbound_plugins_numbers_go() {
    let sandbox = sandbox();
    let compiled = compile(
        &sandbox,
        &filtering(&format!(
            "{INCREMENT}
             (call $increment (local.get 4) (local.get 5) (i32.const 0) (i32.const 0) (i64.const 1) (i32.const 64))
             unreachable"
        )),
    );
    bind(&sandbox, vec![binding(&compiled, Hook::Filtering)]);
    assert!(filter(&sandbox, b"tried").is_err());
    let line = "tidegate_plugin_custom_counter_tried_total{app=\"default\",plugin=\"guest\"} 1";
    assert_has(&rendered(&sandbox), line);
    let mut next = binding(&compiled, Hook::Filtering);
    next.version = 2;
    bind(&sandbox, vec![next]);
    assert_has(&rendered(&sandbox), line);
    sandbox.apply(&Bindings::default()).unwrap();
    assert!(!rendered(&sandbox).contains("tidegate_plugin_custom"));
}
