//! Guests that want more than there is: memory, tables, stack, and room on the host's side.

use tidegate_sandbox::{
    FailureKind::{BadValue, Memory, Timeout, Trap},
    Hook,
};

use super::{Row, answers, fails};
use crate::wat::{Guest, LARGE, TEXT, answer, fill, for_ever, hands_out, times};

pub(crate) fn rows() -> Vec<Row> {
    let body = |body: &str| Guest::new(Hook::Rpc, body);
    vec![
        fails(
            "memory-bomb",
            &body("(loop $l (br_if $l (i32.ge_s (memory.grow (i32.const 16)) (i32.const 0)))) (unreachable)"),
            &[Memory],
            "unreachable",
        ),
        fails(
            "memory-bomb-at-once",
            &body("(if (i32.lt_s (memory.grow (i32.const 65000)) (i32.const 0)) (then unreachable)) (i32.const 16)"),
            &[Memory],
            "unreachable",
        ),
        fails(
            // Touches each page that it gets, so it has to be given back; on a slow machine its time ends first.
            "memory-bomb-that-writes",
            &body(
                "(loop $l
                   (local.set $x (memory.grow (i32.const 16)))
                   (if (i32.lt_s (local.get $x) (i32.const 0)) (then unreachable))
                   (memory.fill (i32.mul (local.get $x) (i32.const 65536)) (i32.const 7) (i32.const 1048576))
                   (br $l)) (unreachable)",
            ),
            &[Memory, Timeout],
            "",
        ),
        answers(
            // Made anew whenever it has grown past half of what it may.
            "memory-leak",
            &body(&format!("(drop (memory.grow (i32.const 64))) {}", answer())),
            40,
            None,
        ),
        fails(
            "table-bomb",
            &body(
                "(loop $l (br_if $l (i32.ge_s (table.grow $t (ref.null func) (i32.const 1000)) (i32.const 0)))) (unreachable)",
            )
            .fields("(table $t 1 funcref)"),
            &[Trap],
            "unreachable",
        ),
        answers(
            "table-bomb-that-asks-for-all",
            &body(&format!(
                "(drop (table.grow $t (ref.null func) (i32.const -2))) {}",
                answer()
            ))
            .fields("(table $t 1 funcref)"),
            2,
            None,
        ),
        fails(
            "recursion",
            &body("(call $deeper (i32.const 1))").fields(
                "(func $deeper (param i32) (result i32)
                   (i32.add (call $deeper (i32.add (local.get 0) (i32.const 1))) (local.get 0)))",
            ),
            &[Trap],
            "stack",
        ),
        fails(
            "recursion-with-large-frames",
            &body("(call $deeper (i32.const 1)) (i32.wrap_i64)").fields(wide_function()),
            &[Trap],
            "stack",
        ),
        fails(
            "reply-bomb-of-16-mib",
            &body(&format!(
                "(drop (memory.grow (i32.const 300))) {}",
                hands_out((LARGE, 16 << 20))
            )),
            &[BadValue],
            "fuel",
        ),
        fails(
            "reply-larger-than-a-message",
            &body(&format!(
                "{}{}",
                fill(LARGE, b'1', 65_537),
                hands_out((LARGE, 65_537))
            )),
            &[BadValue],
            "more than the 65536",
        ),
        fails(
            "log-bomb-of-one-line",
            &body(&format!(
                "(call $log (i32.const 2) (i32.const {LARGE}) (i32.const 380000)) {}",
                answer()
            )),
            &[BadValue],
            "fuel",
        ),
        fails(
            "log-bomb-without-end",
            &body(&for_ever(&format!(
                "(call $log (i32.const 2) (i32.const {TEXT}) (i32.const 60000))"
            ))),
            &[tidegate_sandbox::FailureKind::Limit],
            "more than 100 calls",
        ),
        answers(
            "log-bomb-within-its-calls",
            &body(&format!(
                "{}{}",
                times(
                    99,
                    &format!("(call $log (i32.const 2) (i32.const {TEXT}) (i32.const 2000))")
                ),
                answer()
            )),
            3,
            Some("tidegate_plugin_log_lines_dropped_total"),
        ),
        answers(
            // Two mebibytes a call, until the app's part is full; from then on the guest is told so.
            "state-bomb",
            &state_bomb(),
            45,
            Some("tidegate_plugin_state_refused_total"),
        ),
    ]
}

/// Keeps a new part of two mebibytes in every call.
pub(crate) fn state_bomb() -> Guest {
    let set = format!(
        "(i32.store (i32.const {TEXT}) (i32.add (local.get $y) (i32.shl (i32.load (i32.const 1000)) (i32.const 8))))
         (call $set (i32.const {TEXT}) (i32.const 4) (i32.const {LARGE}) (i32.const 65536) (i64.const 60000) (i32.const 512))"
    );
    let next_part =
        "(i32.store (i32.const 1000) (i32.add (i32.load (i32.const 1000)) (i32.const 1)))";
    Guest::new(
        Hook::Rpc,
        format!("{}{next_part}{}", times(31, &set), answer()),
    )
}

/// Calls itself with hundreds of values alive.
fn wide_function() -> String {
    const LOCALS: usize = 300;
    let locals = "(local i64)".repeat(LOCALS);
    let set: String = (1..=LOCALS)
        .map(|local| {
            format!(
                "(local.set {local} (i64.mul (i64.extend_i32_u (local.get 0)) (i64.const {local})))"
            )
        })
        .collect();
    let sum: String = (1..=LOCALS)
        .map(|local| format!("(local.get {local}) i64.xor "))
        .collect();
    format!(
        "(func $deeper (param i32) (result i64) {locals} {set}
           (call $deeper (i32.add (local.get 0) (i32.const 1))) {sum})"
    )
}
