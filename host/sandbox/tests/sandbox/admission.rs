//! What may be uploaded: each refusal names its rule and says what to do.

use crate::guests::{
    PASS, embed, filter_function, filtering, guest, guest_in_world, module, sandbox,
};
use tidegate_sandbox::{Hook, MAX_UPLOAD_BYTES};
use wit_parser::SourceMap;

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
fn w1_what_is_not_wasm_is_refused() {
    refused(b"", "not-wasm");
    refused(b"#!/bin/sh", "not-wasm");
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
    let mut sources = SourceMap::new();
    for (name, text) in [
        ("hooks.wit", include_str!("../../../../wit/hooks.wit")),
        (
            "capabilities.wit",
            include_str!("../../../../wit/capabilities.wit"),
        ),
        ("worlds.wit", include_str!("../../../../wit/worlds.wit")),
    ] {
        sources.push_str(name, text);
    }
    sources.push_str(
        "test.wit",
        format!(
            "package tidegate:plugin@0.1.0;\nworld test {{\n{world}\n}}\npackage wasi:sockets@0.2.0 {{ interface tcp {{ open: func(); }} }}"
        ),
    );
    let functions = format!(
        "(import \"wasi:sockets/tcp@0.2.0\" \"open\" (func $open))\n{}",
        filter_function(&format!("(call $open)\n{PASS}"))
    );
    refused(&embed(sources, &functions), "import");
}

#[test]
fn w1_a_hook_of_the_wrong_type_is_named() {
    let mut sources = SourceMap::new();
    sources.push_str(
        "test.wit",
        "package tidegate:plugin@0.1.0;
         interface filtering { filter: func(channel: string, user: string, data: list<u8>) -> bool; }
         world test { export filtering; }",
    );
    let functions = "(func (export \"tidegate:plugin/filtering@0.1.0#filter\")
        (param i32 i32 i32 i32 i32 i32) (result i32) (i32.const 0))";
    let wasm = embed(sources, functions);
    refused(&wasm, "export-type");
    let refusal = sandbox().admit(&wasm).unwrap_err();
    assert!(refusal.detail.contains("`filtering`"), "{refusal}");
}

#[test]
fn w1_unknown_exports_and_other_versions_are_refused() {
    let mut sources = SourceMap::new();
    sources.push_str(
        "test.wit",
        "package tidegate:plugin@0.2.0;
         interface filtering { filter: func(); }
         world test { export filtering; }",
    );
    let newer = embed(
        sources,
        "(func (export \"tidegate:plugin/filtering@0.2.0#filter\"))",
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
