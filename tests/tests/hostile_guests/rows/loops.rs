//! Guests that do not come back, in every place where a guest is entered, and guests that break off.

use tidegate_sandbox::{
    FailureKind::{Timeout, Trap},
    Hook,
};

use super::{Row, fails, refused};
use crate::wat::{Guest, LOOP, TEXT, answer, for_ever};

pub(crate) fn rows() -> Vec<Row> {
    let in_hook = |hook| Guest::new(hook, LOOP);
    let filter = || Guest::new(Hook::Filtering, answer());
    let body = |body: &str| Guest::new(Hook::Filtering, body);
    vec![
        fails("loop-in-authentication", &in_hook(Hook::Authentication), &[Timeout], ""),
        fails("loop-in-authorization", &in_hook(Hook::Authorization), &[Timeout], ""),
        fails("loop-in-filtering", &in_hook(Hook::Filtering), &[Timeout], ""),
        fails("loop-in-routing", &in_hook(Hook::Routing), &[Timeout], ""),
        fails("loop-in-rpc", &in_hook(Hook::Rpc), &[Timeout], ""),
        fails("loop-in-realloc", &filter().realloc(LOOP), &[Timeout], ""),
        fails("loop-in-post-return", &filter().post_return(LOOP), &[Timeout], ""),
        fails(
            // A bulk operation looks at the deadline only when it begins: they have to be short enough.
            "loop-of-bulk-operations",
            &Guest::new(
                Hook::Rpc,
                for_ever("(memory.fill (i32.const 65536) (i32.const 7) (i32.const 31000000))"),
            )
            .memory("(memory (export \"memory\") 480)"),
            &[Timeout],
            "",
        ),
        fails(
            "loop-of-indirect-calls",
            &Guest::new(Hook::Rpc, for_ever("(call_indirect (i32.const 0))"))
                .fields("(func $nothing) (table funcref (elem $nothing))"),
            &[Timeout],
            "",
        ),
        fails("trap-in-post-return", &filter().post_return("(unreachable)"), &[Trap], "unreachable"),
        fails("trap-in-realloc", &filter().realloc("(unreachable)"), &[Trap], "unreachable"),
        fails(
            "log-in-post-return",
            &filter()
                .import("log")
                .post_return("(call $log (i32.const 0) (i32.const 0) (i32.const 0))"),
            &[Trap],
            "cannot leave component instance",
        ),
        fails(
            "log-in-realloc",
            &filter().import("log").realloc(
                "(call $log (i32.const 0) (i32.const 0) (i32.const 0)) (i32.const 65536)",
            ),
            &[Trap],
            "cannot leave component instance",
        ),
        fails("unreachable", &body("(unreachable)"), &[Trap], "unreachable"),
        fails(
            "panic-with-message",
            &body(&format!(
                "(call $log (i32.const 4) (i32.const {TEXT}) (i32.const 62)) (unreachable)"
            ))
            // A panic that would paint a terminal and forge a line of the log.
            .text("panicked at src/lib.rs:1:\\0a\\1b[31m{\\22level\\22:\\22ERROR\\22}\\e2\\80\\ae told to   "),
            &[Trap],
            "unreachable",
        ),
        fails(
            "division-by-zero",
            &body("(i32.div_u (i32.const 1) (local.get $x))"),
            &[Trap],
            "divide by zero",
        ),
        fails(
            "access-out-of-bounds",
            &body("(i32.load (i32.const -8))"),
            &[Trap],
            "out of bounds",
        ),
        fails(
            "call-through-an-empty-table",
            &body("(call_indirect (i32.const 3)) (i32.const 16)").fields("(table 4 funcref)"),
            &[Trap],
            "",
        ),
        refused("start-loops", filter().start(LOOP).wasm(), "initialiser"),
        refused("start-traps", filter().start("(unreachable)").wasm(), "initialiser"),
        refused(
            "start-asks-the-host",
            filter().import("now").start("(drop (call $now))").wasm(),
            "initialiser",
        ),
        refused(
            "start-logs-without-end",
            filter()
                .import("log")
                .start("(loop $l (call $log (i32.const 2) (i32.const 0) (i32.const 8)) (br $l))")
                .wasm(),
            "initialiser",
        ),
        refused(
            "start-takes-all-memory",
            filter()
                .start("(loop $l (br_if $l (i32.ge_s (memory.grow (i32.const 16)) (i32.const 0)))) (unreachable)")
                .wasm(),
            "initialiser",
        ),
    ]
}
