//! What may be uploaded: each refusal names its rule and says what to do.

use crate::guests::{PASS, filter_function, filtering, guest, guest_in_world, module, sandbox};
use tidegate_sandbox::{Hook, MAX_UPLOAD_BYTES};
use tidegate_test_contract::{embed_beside, embed_foreign};

#[track_caller]
fn refused(wasm: &[u8], rule: &str) {
    match sandbox().admit(wasm) {
        Err(refusal) => {
            assert_eq!(refusal.rule, rule, "{refusal}");
            assert!(!refusal.detail.is_empty() && !refusal.help.is_empty());
        }
        Ok(admitted) => panic!(
            "expected {rule}, but it was admitted with {:?}",
            admitted.hooks
        ),
    }
}

#[test]
fn a_core_module_of_the_sdk_becomes_a_component_and_stays_the_same() {
    let sandbox = sandbox();
    let first = sandbox.admit(&filtering(PASS)).unwrap();
    assert_eq!(first.hooks, [Hook::Filtering]);
    assert!(first.imports.is_empty());
    let second = sandbox.admit(&first.component).unwrap();
    assert_eq!(
        (second.digest, second.component),
        (first.digest, first.component)
    );
}

#[test]
fn imports_are_listed() {
    let body = format!(
        "(import \"tidegate:plugin/clock@0.1.0\" \"now\" (func $now (result i64)))\n(drop (call $now))\n{PASS}"
    );
    let admitted = sandbox().admit(&filtering(&body)).unwrap();
    assert_eq!(admitted.imports, ["tidegate:plugin/clock@0.1.0"]);
}

#[test]
fn every_capability_of_the_contract_is_admitted_and_listed() {
    let functions = [
        ("json", "kind-of", "i32 i32 i32"),
        ("metrics", "observe", "i32 i32 i32 i32 f64 i32"),
        ("presence", "count", "i32 i32 i32"),
        ("sessions", "unsubscribe", "i32 i32 i32 i32 i32 i32"),
        ("state", "time-left", "i32 i32 i32"),
    ];
    let mut body = String::new();
    for (interface, function, params) in functions {
        body += &format!(
            "(import \"tidegate:plugin/{interface}@0.1.0\" \"{function}\" (func ${interface} (param {params})))\n"
        );
    }
    for (interface, _, params) in functions {
        let zeros = params.split(' ').map(|ty| format!("({ty}.const 0)"));
        body += &format!("(call ${interface} {})\n", zeros.collect::<String>());
    }
    let admitted = sandbox()
        .admit(&filtering(&format!("{body}{PASS}")))
        .unwrap();
    let expected = functions.map(|(interface, ..)| format!("tidegate:plugin/{interface}@0.1.0"));
    assert_eq!(admitted.imports, expected);
}

#[test]
fn w1_what_is_not_wasm_is_refused() {
    // A gzip bomb: small, and nothing unpacks it.
    let gzip = [b"\x1f\x8b\x08\0\0\0\0\0".as_slice(), &[0; 4_096]].concat();
    for (bytes, kind) in [
        (&b""[..], "empty"),
        (b"#!/bin/sh", "script"),
        (&gzip, "gzip"),
        (b"PK\x03\x04\x14\0\0\0", "zip"),
        (b"\x28\xb5\x2f\xfd\0\0\0\0", "zstd"),
        (b"MZ\x90\0\x03\0\0\0", "Windows"),
        (b"(component (core module))", "text"),
        (b"(module (func))", "text"),
        (b"\0asm\x02\0\0\0", "version"),
        (b"\0asm\x0d\0\x02\0", "version"),
        (b"\0as", "something else"),
        (b"{\"json\": true}", "something else"),
    ] {
        refused(bytes, "not-wasm");
        let detail = sandbox().admit(bytes).unwrap_err().detail;
        assert!(detail.contains(kind), "{detail}");
    }
    refused(b"\x7fELF\x02\x01\x01", "native-code");
    refused(&vec![0; MAX_UPLOAD_BYTES + 1], "upload-size");
}

#[test]
fn w1_truncated_and_flipped_binaries_never_panic() {
    let sandbox = sandbox();
    let component = sandbox.admit(&filtering(PASS)).unwrap().component;
    let mut harmless = 0;
    for len in 8..component.len() {
        // What is lost without harm is a trailing note, such as the name of the tool.
        if let Ok(admitted) = sandbox.admit(&component[..len]) {
            assert_eq!(admitted.hooks, [Hook::Filtering], "cut at {len}");
            harmless += 1;
        }
    }
    assert!(harmless < 5, "{harmless} cuts were taken for the whole");
    for at in (8..component.len()).step_by(3) {
        let mut mutant = component.clone();
        mutant[at] ^= 0x55;
        // Either it is refused or it is still a plugin; what it must not do is end the process.
        let _ = sandbox.admit(&mutant);
    }
}

#[test]
fn w1_a_core_module_without_the_contract_is_refused() {
    refused(&module(""), "no-contract");
    refused(
        &module("(import \"wasi_snapshot_preview1\" \"proc_exit\" (func (param i32)))"),
        "wasi-preview1",
    );
}

#[test]
fn w1_imports_outside_the_list_are_refused() {
    let world = "import wasi:sockets/tcp@0.2.0;\ninclude capabilities;\nexport filtering;";
    let text = format!(
        "package tidegate:plugin@0.1.0;\nworld test {{\n{world}\n}}\npackage wasi:sockets@0.2.0 {{ interface tcp {{ open: func(); }} }}"
    );
    let functions = format!(
        "(import \"wasi:sockets/tcp@0.2.0\" \"open\" (func $open))\n{}",
        filter_function(&format!("(call $open)\n{PASS}"))
    );
    refused(&embed_beside(module(&functions), &text), "import");
}

#[test]
fn w1_a_hook_of_the_wrong_type_is_named() {
    let text = "package tidegate:plugin@0.1.0;
         interface filtering { filter: func(channel: string, user: string, data: list<u8>) -> bool; }
         world test { export filtering; }";
    let functions = "(func (export \"tidegate:plugin/filtering@0.1.0#filter\")
        (param i32 i32 i32 i32 i32 i32) (result i32) (i32.const 0))";
    let wasm = embed_foreign(module(functions), text);
    refused(&wasm, "export-type");
    let refusal = sandbox().admit(&wasm).unwrap_err();
    assert!(refusal.detail.contains("`filtering`"), "{refusal}");
}

#[test]
fn w1_unknown_exports_and_other_versions_are_refused() {
    let newer = embed_foreign(
        module("(func (export \"tidegate:plugin/filtering@0.2.0#filter\"))"),
        "package tidegate:plugin@0.2.0;
         interface filtering { filter: func(); }
         world test { export filtering; }",
    );
    refused(&newer, "contract-version");
    let extra = guest_in_world(
        "export filtering;\nexport extra: func();",
        &format!("{}\n(func (export \"extra\"))", filter_function(PASS)),
    );
    refused(&extra, "export");
    refused(&guest_in_world("include capabilities;", ""), "no-hook");
}

#[test]
fn w1_large_functions_are_refused() {
    let body = format!("{}\n{PASS}", "(drop (i32.const 1234567))\n".repeat(30_000));
    refused(&filtering(&body), "body-size");
    let locals = format!("(func {})", "(local i32)".repeat(1_001));
    refused(
        &guest(
            &[Hook::Filtering],
            &format!("{locals}\n{}", filter_function(PASS)),
        ),
        "locals",
    );
    let many = "(func)\n".repeat(20_001);
    refused(
        &guest(
            &[Hook::Filtering],
            &format!("{many}\n{}", filter_function(PASS)),
        ),
        "functions",
    );
}

#[test]
fn w1_memories_and_tables_are_bounded() {
    let with = |extra: &str| {
        guest(
            &[Hook::Filtering],
            &format!("{extra}\n{}", filter_function(PASS)),
        )
    };
    refused(&with("(memory 1)"), "memories");
    refused(&with("(table 10001 funcref)"), "table-size");
    refused(&with(&"(table 1 funcref)\n".repeat(5)), "tables");
}

#[test]
fn w1_features_that_are_off_are_refused() {
    for function in [
        "(func (param i32) (result i32) (i32.atomic.load (local.get 0)))",
        "(func (return_call 0))",
        "(tag) (func (throw 0))",
    ] {
        let wasm = guest(
            &[Hook::Filtering],
            &format!("{function}\n{}", filter_function(PASS)),
        );
        let refusal = sandbox().admit(&wasm).unwrap_err();
        assert!(
            ["invalid-wasm", "conversion"].contains(&refusal.rule),
            "{refusal}"
        );
    }
}

/// A filter with these fields besides its own.
fn filter_with(fields: &str) -> Vec<u8> {
    guest(
        &[Hook::Filtering],
        &format!("{fields}\n{}", filter_function(PASS)),
    )
}

/// A component from its text.
fn component(fields: &str) -> Vec<u8> {
    let text = format!("(component {fields})");
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

#[test]
fn w1_each_rule_about_counts_and_shapes_is_named() {
    let nested = |depth: usize| format!("{}{}", "(component ".repeat(depth), ")".repeat(depth));
    let of_modules = "(core module $m) ";
    let instances = |count: usize| "(core instance (instantiate $m))".repeat(count);
    let inner = "(component $c) ";
    for (rule, wasm) in [
        ("functions", filter_with(&"(func)\n".repeat(50_000))),
        ("memories", component("(core module (memory 1) (memory 1))")),
        (
            "memories",
            component("(core module (memory 1)) (core module (memory 1))"),
        ),
        ("memory-size", component("(core module (memory 65536))")),
        ("memory64", component("(core module (memory i64 1))")),
        (
            "memory64",
            component("(core module (import \"m\" \"m\" (memory i64 1)))"),
        ),
        (
            "shared-memory",
            component("(core module (memory 1 2 shared))"),
        ),
        (
            "page-size",
            component("(core module (memory 1 2 (pagesize 1)))"),
        ),
        (
            "tables",
            component(&format!("(core module {})", "(table 1 funcref)".repeat(5))),
        ),
        (
            "table-size",
            component("(core module (table 10000000 funcref))"),
        ),
        (
            "core-instances",
            component(&format!("{of_modules}{}", instances(9))),
        ),
        (
            "core-instances",
            component(&format!("{of_modules}{}", instances(900))),
        ),
        ("modules", component(&"(core module)".repeat(17))),
        ("components", component(&inner.replace("$c", "").repeat(65))),
        ("component-depth", component(&nested(4))),
        ("component-depth", component(&nested(90))),
        (
            "component-instances",
            component(&format!(
                "{inner}{}",
                "(instance (instantiate $c))".repeat(65)
            )),
        ),
        (
            "async",
            component(
                "(core module $m (func (export \"f\") (result i32) i32.const 0))
                 (core instance $i (instantiate $m))
                 (func (export \"f\") async (canon lift (core func $i \"f\") async))",
            ),
        ),
        ("async", component("(core func (canon task.cancel))")),
        ("async", component("(type (func async (result u32)))")),
        ("no-hook", component("")),
        ("native-code", b"\x7fELF\x02\x01\x01\0\0\0\0".to_vec()),
    ] {
        refused(&wasm, rule);
    }
}
