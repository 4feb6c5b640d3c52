//! Files that are no plugin, or one that breaks a rule of admission: none is ever compiled.

use tidegate_sandbox::Hook;
use tidegate_test_contract as contract;

use super::{Row, refused, too_large};
use crate::wat::{Guest, answer, parse};

pub(crate) fn rows() -> Vec<Row> {
    [foreign(), shapes(), sizes(), features(), interfaces()]
        .into_iter()
        .flatten()
        .collect()
}

fn good() -> Guest {
    Guest::new(Hook::Filtering, answer())
}

fn foreign() -> Vec<Row> {
    let mut half = good().wasm();
    half.truncate(half.len() / 2);
    let flipped = good().wasm().iter().map(|byte| byte ^ 0x55).collect();
    let magic = |rest: &[u8]| [b"\0asm", rest].concat();
    let wasi_command = "(module (import \"wasi_snapshot_preview1\" \"fd_write\" (func (param i32 i32 i32 i32) (result i32)))
        (memory (export \"memory\") 1) (func (export \"_start\")))";
    vec![
        refused("empty", Vec::new(), "not-wasm"),
        refused("text", b"this is no plugin\n".repeat(1_000), "not-wasm"),
        refused(
            "zip",
            [b"PK\x03\x04\x14\0\0\0".as_slice(), &[0; 4_096]].concat(),
            "not-wasm",
        ),
        // Nothing unpacks it.
        refused(
            "gzip-bomb",
            [b"\x1f\x8b\x08\0\0\0\0\0".as_slice(), &[0; 100_000]].concat(),
            "not-wasm",
        ),
        refused(
            "elf",
            [b"\x7fELF\x02\x01\x01".as_slice(), &[0; 4_096]].concat(),
            "native-code",
        ),
        refused("all-bits-turned", flipped, "not-wasm"),
        refused("wasm-of-the-future", magic(b"\x63\0\0\0"), "not-wasm"),
        refused("truncated", half, "invalid-wasm"),
        refused(
            "section-of-absurd-length",
            magic(b"\x01\0\0\0\x01\xff\xff\xff\xff\x0f"),
            "invalid-wasm",
        ),
        too_large("four-mebibytes-of-nothing", magic(&[0; 4 << 20])),
        refused("wasi-command", parse(wasi_command), "wasi-preview1"),
        refused(
            "core-module-without-a-contract",
            parse("(module (func (export \"filter\")))"),
            "no-contract",
        ),
    ]
}

fn shapes() -> Vec<Row> {
    let component = |fields: &str| parse(&format!("(component {fields})"));
    let twice = "(component $c (core module $m (memory 1)) (core instance (instantiate $m)))
        (instance (instantiate $c)) (instance (instantiate $c))";
    vec![
        refused("component-without-anything", component(""), "no-hook"),
        refused(
            "components-a-thousand-deep",
            nested(1_000),
            "component-depth",
        ),
        refused(
            "components-by-the-hundred",
            component(&"(component)".repeat(100)),
            "components",
        ),
        refused(
            "modules-by-the-hundred",
            component(&"(core module)".repeat(100)),
            "modules",
        ),
        refused(
            "core-instances-by-the-thousand",
            component(&format!(
                "(core module $m) {}",
                "(core instance (instantiate $m))".repeat(10_000)
            )),
            "core-instances",
        ),
        refused(
            "instances-by-the-hundred",
            component(&format!(
                "(component $c) {}",
                "(instance (instantiate $c))".repeat(100)
            )),
            "component-instances",
        ),
        // What is instantiated twice is read once: that there are two memories shows in the end.
        refused("memory-instantiated-twice", component(twice), "no-hook"),
    ]
}

/// Components within components; the parser of the text stops long before the depth that is wanted here.
fn nested(depth: usize) -> Vec<u8> {
    const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";
    const COMPONENT_SECTION: u8 = 4;
    let mut whole = COMPONENT.to_vec();
    for _ in 1..depth {
        let mut outer = COMPONENT.to_vec();
        outer.push(COMPONENT_SECTION);
        let mut len = whole.len();
        while len > 0x7f {
            outer.push(u8::try_from(len & 0x7f).unwrap_or_default() | 0x80);
            len >>= 7;
        }
        outer.push(u8::try_from(len).unwrap_or_default());
        outer.append(&mut whole);
        whole = outer;
    }
    whole
}

fn sizes() -> Vec<Row> {
    let with = |fields: &str| good().fields(fields).wasm();
    let body = format!("(func {})", "(drop (i32.const 1234567))".repeat(30_000));
    vec![
        refused(
            "fifty-thousand-functions",
            with(&"(func)".repeat(50_000)),
            "functions",
        ),
        refused(
            "function-of-a-quarter-of-a-mebibyte",
            with(&body),
            "body-size",
        ),
        refused(
            "function-of-a-hundred-thousand-locals",
            with(&format!("(func {})", "(local i32)".repeat(40_000))),
            "locals",
        ),
        refused(
            "memory-of-four-gibibytes",
            good().memory("(memory (export \"memory\") 65536)").wasm(),
            "memory-size",
        ),
        refused(
            "memories-by-the-hundred",
            with(&"(memory 1)".repeat(100)),
            "memories",
        ),
        refused(
            "table-of-ten-million",
            with("(table 10000000 funcref)"),
            "table-size",
        ),
        refused(
            "tables-by-the-hundred",
            with(&"(table 1 funcref)".repeat(100)),
            "tables",
        ),
    ]
}

fn features() -> Vec<Row> {
    let component = |fields: &str| parse(&format!("(component {fields})"));
    let with = |fields: &str| good().fields(fields).wasm();
    vec![
        refused(
            "shared-memory",
            component("(core module (memory 1 2 shared))"),
            "shared-memory",
        ),
        refused(
            "memory-of-64-bits",
            component("(core module (memory i64 1))"),
            "memory64",
        ),
        refused(
            "memory-of-pages-of-one-byte",
            component("(core module (memory 1 2 (pagesize 1)))"),
            "page-size",
        ),
        refused(
            "atomics",
            with("(func (result i32) (i32.atomic.rmw.add (i32.const 0) (i32.const 1)))"),
            "invalid-wasm",
        ),
        refused(
            "exceptions",
            with("(tag $t) (func (throw $t))"),
            "invalid-wasm",
        ),
        refused(
            "tail-calls",
            with("(func $f (return_call $f))"),
            "invalid-wasm",
        ),
        refused(
            "garbage-collection",
            with("(type (struct (field i32)))"),
            "invalid-wasm",
        ),
        refused(
            "async-export",
            component(
                "(core module $m (func (export \"f\") (result i32) i32.const 0))
                 (core instance $i (instantiate $m))
                 (func (export \"f\") async (canon lift (core func $i \"f\") async))",
            ),
            "async",
        ),
        refused(
            "async-tasks",
            component("(core func (canon task.cancel))"),
            "async",
        ),
        refused(
            "async-type",
            component("(type (func async (result u32)))"),
            "async",
        ),
    ]
}

fn interfaces() -> Vec<Row> {
    // One import of a function without parameters, of an interface that the text declares.
    let importing = |interface: &str, package: &str| {
        let imported = format!("(import \"{interface}\" \"open\" (func $open))");
        let module = format!(
            "(module {imported} (memory (export \"memory\") 1)
               (func (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
               (func (export \"tidegate:plugin/filtering@0.1.0#filter\") (param i32 i32 i32 i32 i32 i32) (result i32)
                 (call $open) (i32.const 16)))"
        );
        contract::embed_beside(
            parse(&module),
            &format!(
                "package tidegate:plugin@0.1.0;
                 world test {{ import {interface}; export filtering; }}
                 {package}"
            ),
        )
    };
    // A plugin of a package of ours that somebody else wrote.
    let forged = |version: &str, interface: &str, function: &str, module: &str| {
        contract::embed_foreign(
            parse(module),
            &format!(
                "package tidegate:plugin@{version};
                 interface {interface} {{ {function} }}
                 world test {{ export {interface}; }}"
            ),
        )
    };
    let exporting = |name: &str, ty: &str| {
        format!(
            "(module (memory (export \"memory\") 1)
               (func (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
               (func (export \"{name}\") {ty}))"
        )
    };
    let mistyped_log = "(module (import \"tidegate:plugin/log@0.1.0\" \"log\" (func $log (param i64)))
        (memory (export \"memory\") 1) (func (export \"tidegate:plugin/filtering@0.1.0#filter\") (call $log (i64.const 0))))";
    vec![
        refused(
            "imports-files",
            importing(
                "wasi:filesystem/preopens@0.2.6",
                "package wasi:filesystem@0.2.6 { interface preopens { open: func(); } }",
            ),
            "import",
        ),
        refused(
            "imports-sockets",
            importing(
                "wasi:sockets/tcp@0.2.6",
                "package wasi:sockets@0.2.6 { interface tcp { open: func(); } }",
            ),
            "import",
        ),
        refused(
            "imports-http",
            importing(
                "wasi:http/outgoing-handler@0.2.6",
                "package wasi:http@0.2.6 { interface outgoing-handler { open: func(); } }",
            ),
            "import",
        ),
        refused(
            "imports-what-somebody-made-up",
            importing(
                "evil:host/root@1.0.0",
                "package evil:host@1.0.0 { interface root { open: func(); } }",
            ),
            "import",
        ),
        refused(
            "imports-a-capability-that-does-not-exist",
            contract::embed_foreign(
                parse(
                    "(module (import \"tidegate:plugin/secrets@0.1.0\" \"open\" (func $open)) (func (export \"tidegate:plugin/filtering@0.1.0#filter\") (call $open)))",
                ),
                "package tidegate:plugin@0.1.0;
                 interface secrets { open: func(); }
                 interface filtering { filter: func(); }
                 world test { import secrets; export filtering; }",
            ),
            "import",
        ),
        refused(
            "imports-a-capability-of-another-version",
            importing(
                "tidegate:plugin/log@9.0.0",
                "package tidegate:plugin@9.0.0 { interface log { open: func(); } }",
            ),
            "contract-version",
        ),
        refused(
            "imports-a-capability-of-another-type",
            contract::embed_foreign(
                parse(mistyped_log),
                "package tidegate:plugin@0.1.0;
                 interface log { log: func(message: u64); }
                 interface filtering { filter: func(); }
                 world test { import log; export filtering; }",
            ),
            "import-type",
        ),
        refused(
            "exports-a-hook-of-another-type",
            forged(
                "0.1.0",
                "filtering",
                "filter: func(channel: string) -> bool;",
                &exporting(
                    "tidegate:plugin/filtering@0.1.0#filter",
                    "(param i32 i32) (result i32) (i32.const 1)",
                ),
            ),
            "export-type",
        ),
        refused(
            "exports-a-hook-of-another-version",
            forged(
                "7.0.0",
                "filtering",
                "filter: func();",
                &exporting("tidegate:plugin/filtering@7.0.0#filter", ""),
            ),
            "contract-version",
        ),
        refused(
            "exports-a-hook-that-does-not-exist",
            forged(
                "0.1.0",
                "root",
                "become: func();",
                &exporting("tidegate:plugin/root@0.1.0#become", ""),
            ),
            "export",
        ),
    ]
}
