//! Guests that are components by hand: what the way from a core module to a component would not let through.

use tidegate_sandbox::{
    FailureKind::{self, BadValue, Trap},
    Hook,
};

use super::{Outcome, Row};
use crate::wat::{Guest, answer, parse};

pub(crate) fn rows() -> Vec<Row> {
    let handles = "(local.set $x (i32.const 0))
        (loop $l (drop (call $new (i32.const 1))) (br $l)) (unreachable)";
    vec![
        by_hand(
            "handle-bomb",
            &filter(RESOURCE, HANDLE_IMPORTS, handles),
            &[Trap, BadValue],
            "",
        ),
        by_hand(
            "handle-dropped-twice",
            &filter(
                RESOURCE,
                HANDLE_IMPORTS,
                "(local.set $x (call $new (i32.const 1))) (call $drop (local.get $x)) (call $drop (local.get $x)) (i32.const 16)",
            ),
            &[Trap, BadValue],
            "unknown handle",
        ),
        by_hand(
            "handle-that-was-never-given",
            &filter(
                RESOURCE,
                HANDLE_IMPORTS,
                "(call $drop (i32.const 77)) (i32.const 16)",
            ),
            &[Trap, BadValue],
            "unknown handle",
        ),
        by_hand(
            "calls-itself-from-outside",
            &reentrant(),
            &[Trap],
            "cannot enter component instance",
        ),
        row(
            "touches-wasi",
            wasi(),
            Hook::Rpc,
            &[Trap, BadValue],
            "monotonic-clock",
        ),
    ]
}

fn by_hand(
    name: &'static str,
    text: &str,
    kinds: &'static [FailureKind],
    says: &'static str,
) -> Row {
    row(name, parse(text), Hook::Filtering, kinds, says)
}

fn row(
    name: &'static str,
    wasm: Vec<u8>,
    hook: Hook,
    kinds: &'static [FailureKind],
    says: &'static str,
) -> Row {
    Row {
        name,
        wasm,
        outcome: Outcome::Fails { hook, kinds, says },
    }
}

/// A plugin that imports a clock of WASI, as one of wasip2 does without meaning to, and looks at it.
fn wasi() -> Vec<u8> {
    let guest = Guest::new(Hook::Rpc, format!("(drop (call $ticks)) {}", answer()));
    guest
        .imported(
            "(import \"wasi:clocks/monotonic-clock@0.2.6\" \"now\" (func $ticks (result i64)))",
        )
        .wasm_in(
            "package tidegate:plugin@0.1.0;
             world test { import wasi:clocks/monotonic-clock@0.2.6; export rpc; }
             package wasi:clocks@0.2.6 { interface monotonic-clock { now: func() -> u64; } }",
        )
}

/// A resource of the guest's own, of which it can make handles.
const RESOURCE: &str = "(type $thing (resource (rep i32)))
    (core func $new (canon resource.new $thing))
    (core func $drop (canon resource.drop $thing))
    (core instance $host (export \"new\" (func $new)) (export \"drop\" (func $drop)))";
const HANDLE_IMPORTS: &str = "(import \"host\" \"new\" (func $new (param i32) (result i32)))
    (import \"host\" \"drop\" (func $drop (param i32)))";

/// A core module that filters.
fn module(imports: &str, body: &str) -> String {
    format!(
        "(core module $m {imports} (memory (export \"memory\") 2)
           (func (export \"realloc\") (param i32 i32 i32 i32) (result i32) (i32.const 65536))
           (func (export \"filter\") (param i32 i32 i32 i32 i32 i32) (result i32) (local $x i32) {body}))"
    )
}

/// The parameters and the result of the hook's function, over types of these names.
fn signature(verdict: &str) -> String {
    format!(
        "(param \"channel\" string) (param \"user\" string) (param \"data\" (list u8)) (result {verdict})"
    )
}

const KIND: &str = "(enum \"error\" \"disconnect\")";

fn refusal(kind: &str) -> String {
    format!("(record (field \"kind\" {kind}) (field \"code\" u32) (field \"reason\" string))")
}

fn verdict(refusal: &str) -> String {
    format!(
        "(variant (case \"pass\") (case \"replace\" (list u8)) (case \"drop\") (case \"refuse\" {refusal}))"
    )
}

/// The types of the hook's function, for its own component.
fn types() -> String {
    format!(
        "(type $kind {KIND}) (type $refusal {}) (type $verdict {}) (type $ty (func {}))",
        refusal("$kind"),
        verdict("$refusal"),
        signature("$verdict")
    )
}

/// Exports the function `$filter` as the hook: through a component that does nothing but name its types.
fn exported() -> String {
    format!(
        "(component $names
           (type $kind' {KIND}) (import \"kind\" (type $kind (eq $kind')))
           (type $refusal' {}) (import \"refusal\" (type $refusal (eq $refusal')))
           (type $verdict' {}) (import \"verdict\" (type $verdict (eq $verdict')))
           (import \"filter\" (func $filter {}))
           (export $kind-out \"refusal-kind\" (type $kind))
           (type $refusal-in {}) (export $refusal-out \"refusal\" (type $refusal-in))
           (type $verdict-in {}) (export $verdict-out \"verdict\" (type $verdict-in))
           (export \"filter\" (func $filter) (func {})))
         (instance $hook (instantiate $names
           (with \"kind\" (type $kind)) (with \"refusal\" (type $refusal)) (with \"verdict\" (type $verdict))
           (with \"filter\" (func $filter))))
         (export \"tidegate:plugin/filtering@0.1.0\" (instance $hook))",
        refusal("$kind"),
        verdict("$refusal"),
        signature("$verdict"),
        refusal("$kind-out"),
        verdict("$refusal-out"),
        signature("$verdict-out"),
    )
}

/// A filter whose module has these imports, out of an instance `$host` that the fields make.
fn filter(fields: &str, imports: &str, body: &str) -> String {
    format!(
        "(component {fields} {}
           (core instance $i (instantiate $m (with \"host\" (instance $host))))
           (alias core export $i \"memory\" (core memory $memory))
           (alias core export $i \"realloc\" (core func $realloc))
           {}
           (func $filter (type $ty) (canon lift (core func $i \"filter\") (memory $memory) (realloc $realloc)))
           {})",
        module(imports, body),
        types(),
        exported()
    )
}

/// A filter that is asked, and asks the same component again while it is being asked.
fn reentrant() -> String {
    format!(
        "(component {}
           (core instance $i (instantiate $m))
           (alias core export $i \"memory\" (core memory $memory))
           (alias core export $i \"realloc\" (core func $realloc))
           {}
           (func $inner (type $ty) (canon lift (core func $i \"filter\") (memory $memory) (realloc $realloc)))
           (core func $again (canon lower (func $inner) (memory $memory) (realloc $realloc)))
           (core module $outer
             (import \"host\" \"again\" (func $again (param i32 i32 i32 i32 i32 i32 i32)))
             (func (export \"filter\") (param i32 i32 i32 i32 i32 i32) (result i32)
               (call $again (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 64))
               (i32.const 64)))
           (core instance $o (instantiate $outer (with \"host\" (instance (export \"again\" (func $again))))))
           (func $filter (type $ty) (canon lift (core func $o \"filter\") (memory $memory) (realloc $realloc)))
           {})",
        module("", "(i32.const 16)"),
        types(),
        exported()
    )
}
