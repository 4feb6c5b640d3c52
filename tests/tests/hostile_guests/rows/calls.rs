//! Guests that turn on the host: storms of calls, and calls with arguments that make no sense.

use tidegate_sandbox::{
    FailureKind::{BadValue, Limit},
    Hook,
};

use super::{Row, answers, fails};
use crate::wat::{Guest, LARGE, TEXT, answer, for_ever, says, times};

/// Pointer and length of the text of so many bytes at [`TEXT`].
fn text(len: u32) -> String {
    format!("(i32.const {TEXT}) (i32.const {len})")
}

/// Any text, as long as that.
fn zeros(len: u32) -> String {
    format!("(i32.const {LARGE}) (i32.const {len})")
}

const NOWHERE: &str = "(i32.const -4096) (i32.const 8192)";
/// Where results of the host go.
const RESULT: &str = "(i32.const 512)";
/// Data of a destination that is that of the message.
const SAME: &str = "(i32.const 0) (i32.const 0) (i32.const 0)";

pub(crate) fn rows() -> Vec<Row> {
    [storms(), arguments(), messages()]
        .into_iter()
        .flatten()
        .collect()
}

fn storms() -> Vec<Row> {
    let storm = |hook, what: &str| Guest::new(hook, for_ever(what));
    vec![
        fails("clock-storm", &storm(Hook::Rpc, "(drop (call $now))"), &[Limit], "more than 100 calls"),
        fails(
            "publish-storm",
            &storm(Hook::Rpc, &format!("(call $publish {} {} {RESULT})", text(9), text(9)))
                .text("open:room"),
            &[Limit],
            "more than 100 calls",
        ),
        fails(
            "state-storm",
            &storm(
                Hook::Filtering,
                &format!("(call $increment {} (i64.const 1) (i64.const 1000) {RESULT})", text(4)),
            )
            .text("key!"),
            &[Limit],
            "more than 100 calls",
        ),
        fails(
            "random-storm",
            &storm(Hook::Routing, &format!("(call $random (i32.const 1024) {RESULT})")),
            &[Limit],
            "more than 100 calls",
        ),
        fails(
            "disconnect-storm",
            &storm(
                Hook::Rpc,
                &format!("(call $disconnect (i32.const 0) {} (i32.const 4500) {} {RESULT})", text(3), text(3)),
            )
            .text("ann"),
            &[Limit],
            "more than 100 calls",
        ),
        fails(
            "tag-storm",
            &storm(Hook::Filtering, &format!("(call $tag {} {})", text(3), text(3))).text("tag"),
            &[Limit],
            "more than 100 calls",
        ),
        fails(
            "json-storm",
            &storm(Hook::Filtering, &format!("(call $kind-of {} {RESULT})", text(2))).text("/a"),
            &[Limit],
            "more than 100 calls",
        ),
        answers(
            // Each message makes 32 others, and each of those: ends at the third hop.
            "publications-that-make-publications",
            &Guest::new(
                Hook::Filtering,
                format!(
                    "{}(memory.fill (i32.const 16) (i32.const 0) (i32.const 4)){}",
                    times(40, &format!("(call $publish {} {} {RESULT})", text(6), zeros_json())),
                    answer()
                ),
            )
            .text("open:x\\00\\00{}"),
            1,
            None,
        ),
        answers(
            // A series for each value of a label: refused from the 129th on, which is counted.
            "metrics-bomb",
            &Guest::new(
                Hook::Rpc,
                format!(
                    "{}(memory.fill (i32.const 16) (i32.const 0) (i32.const 4)){}",
                    times(
                        99,
                        &format!(
                            "(i32.store (i32.const 2000) (i32.const {TEXT})) (i32.store (i32.const 2004) (i32.const 1))
                             (i32.store (i32.const 2008) (i32.const 2100)) (i32.store (i32.const 2012) (i32.const 2))
                             (i32.store8 (i32.const 2100) (i32.add (i32.const 33) (i32.rem_u (local.get $y) (i32.const 90))))
                             (i32.store8 (i32.const 2101) (i32.add (i32.const 35) (i32.load (i32.const 1000))))
                             (call $observe {} (i32.const 2000) (i32.const 1) (i64.const 1) {RESULT})",
                            text(1)
                        )
                    ),
                    format_args!(
                        "(i32.store (i32.const 1000) (i32.add (i32.load (i32.const 1000)) (i32.const 1))) {}",
                        answer()
                    )
                ),
            )
            .text("k"),
            3,
            Some("tidegate_plugin_metrics_refused_total"),
        ),
    ]
}

/// JSON data that is two bytes long, right behind the channel's name.
fn zeros_json() -> String {
    format!("(i32.const {}) (i32.const 2)", TEXT + 8)
}

fn arguments() -> Vec<Row> {
    let once = |what: &str| Guest::new(Hook::Rpc, format!("{what} {}", answer()));
    vec![
        fails(
            "random-bytes-without-measure",
            &once(&format!("(call $random (i32.const -1) {RESULT})")),
            &[Limit],
            "random.bytes was asked for",
        ),
        fails(
            "log-of-bytes-that-are-no-text",
            &once(&format!("(call $log (i32.const 2) {})", text(2))).text("\\ff\\fe"),
            &[BadValue],
            "utf-8",
        ),
        fails(
            "log-with-a-level-that-does-not-exist",
            &once(&format!("(call $log (i32.const 99) {})", text(2))).text("no"),
            &[BadValue],
            "",
        ),
        fails(
            "log-from-outside-of-memory",
            &once(&format!("(call $log (i32.const 2) {NOWHERE})")),
            &[BadValue],
            "out of bounds",
        ),
        fails(
            "list-argument-of-absurd-length",
            &once(&format!(
                "(call $observe {} (i32.const 2000) (i32.const 1000000000) (i64.const 1) {RESULT})",
                text(1)
            ))
            .text("k"),
            &[BadValue],
            "",
        ),
        fails(
            "list-argument-out-of-line",
            &once(&format!(
                "(call $observe {} (i32.const 2001) (i32.const 1) (i64.const 1) {RESULT})",
                text(1)
            ))
            .text("k"),
            &[BadValue],
            "aligned",
        ),
        fails(
            "target-that-does-not-exist",
            &once(&format!(
                "(call $disconnect (i32.const 7) {} (i32.const 0) {} {RESULT})",
                text(3),
                text(3)
            ))
            .text("ann"),
            &[BadValue],
            "discriminant",
        ),
        fails(
            "result-wanted-outside-of-memory",
            &once(&format!("(call $get {} (i32.const -16))", text(1))).text("k"),
            &[BadValue],
            "",
        ),
        fails(
            "result-wanted-out-of-line",
            &once(&format!("(call $get {} (i32.const 515))", text(1))).text("k"),
            &[BadValue],
            "aligned",
        ),
        answers(
            "arguments-out-of-every-range",
            &once(&format!(
                "(call $publish (i32.const 0) (i32.const 0) {} {RESULT})
                 (call $publish {} (i32.const 0) (i32.const 0) {RESULT})
                 (call $publish {} {} {RESULT})
                 (call $publish {} {} {RESULT})
                 (call $set (i32.const 0) (i32.const 0) {} (i64.const 1) {RESULT})
                 (call $set {} {} (i64.const 1) {RESULT})
                 (call $set {} {} (i64.const -1) {RESULT})
                 (call $set {} {} (i64.const 0) {RESULT})
                 (call $increment {} (i64.const 9223372036854775807) (i64.const 1000) {RESULT})
                 (call $increment {} (i64.const 9223372036854775807) (i64.const 1000) {RESULT})
                 (call $increment {} (i64.const -9223372036854775808) (i64.const 1000) {RESULT})
                 (call $disconnect (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) {} {RESULT})
                 (call $disconnect (i32.const 0) {} (i32.const -1) {} {RESULT})
                 (call $disconnect (i32.const 1) {} (i32.const 4000) {} {RESULT})
                 (call $observe (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i64.const -1) {RESULT})
                 (call $header {} {RESULT})
                 (memory.fill (i32.const 16) (i32.const 0) (i32.const 4))",
                text(4), text(4), text(8), text(4), zeros(9_000), text(4), text(4), zeros(9_000),
                text(4), text(4), zeros(65_537), text(4), text(4), text(5), text(5), text(5),
                text(4), text(4), text(4), text(4), text(4), zeros(60_000),
            ))
            .text("key!sub"),
            2,
            None,
        ),
    ]
}

fn messages() -> Vec<Row> {
    let filter = |what: &str| Guest::new(Hook::Filtering, format!("{what} {}", answer()));
    let route = |what: &str| Guest::new(Hook::Routing, format!("{what} {}", says("")));
    let to_channel = |name: &str| format!("(call $to-channel {name} {SAME})");
    vec![
        fails(
            "message-touched-where-there-is-none",
            &Guest::new(
                Hook::Rpc,
                format!("(call $tag {} {}) {}", text(1), text(1), answer()),
            )
            .text("k"),
            &[Limit],
            "outside filtering and routing",
        ),
        answers(
            // The subscribe brought no data: an error that the guest can handle, if it looks.
            "json-asked-of-no-data",
            &Guest::new(
                Hook::Authorization,
                format!("(call $kind-of {} {RESULT}) {}", text(1), answer()),
            )
            .text("/"),
            2,
            None,
        ),
        fails(
            "destination-named-by-a-filter",
            &filter(&to_channel(&text(9))).text("open:room"),
            &[Limit],
            "only routing",
        ),
        fails(
            "tags-without-end",
            &filter(&times(
                17,
                &format!(
                    "(i32.store8 (i32.const {TEXT}) (i32.add (i32.const 64) (local.get $y))) (call $tag {} {})",
                    text(1),
                    text(1)
                ),
            )),
            &[Limit],
            "more than 16 tags",
        ),
        fails(
            "tag-without-a-key",
            &filter(&format!("(call $tag {} {})", text(0), text(1))),
            &[BadValue],
            "1 to 64",
        ),
        fails(
            "tag-with-a-giant-key",
            &filter(&format!("(call $tag {} {})", zeros(65), text(1))),
            &[BadValue],
            "1 to 64",
        ),
        fails(
            "tag-with-a-giant-value",
            &filter(&format!("(call $tag {} {})", text(1), zeros(257))).text("k"),
            &[BadValue],
            "at most 256",
        ),
        fails(
            "idempotency-key-of-nothing",
            &filter("(call $key (i32.const 0) (i32.const 0))"),
            &[BadValue],
            "idempotency",
        ),
        fails(
            "idempotency-key-without-measure",
            &filter(&format!("(call $key {})", zeros(60_000))),
            &[BadValue],
            "idempotency",
        ),
        fails(
            "delta-that-nobody-offers",
            &filter("(call $delta (i32.const 1))"),
            &[BadValue],
            "delta",
        ),
        fails(
            "destinations-without-end",
            &route(&times(65, &to_channel(&text(9)))).text("open:room"),
            &[Limit],
            "more than 64 destinations",
        ),
        fails(
            "destination-without-a-name",
            &route(&to_channel(&text(0))),
            &[BadValue],
            "channel name",
        ),
        fails(
            "destination-with-a-giant-name",
            &route(&to_channel(&zeros(60_000))),
            &[BadValue],
            "channel name",
        ),
        fails(
            "destination-with-control-characters",
            &route(&to_channel(&text(8))).text("open:\\00\\0a\\1b"),
            &[BadValue],
            "printable",
        ),
        fails(
            "destination-to-nobody",
            &route(&format!("(call $to-user {} {SAME})", text(0))),
            &[BadValue],
            "user id",
        ),
        fails(
            "destination-to-a-giant-user",
            &route(&format!("(call $to-user {} {SAME})", zeros(256))),
            &[BadValue],
            "user id",
        ),
        fails(
            "destination-to-no-session",
            &route(&format!("(call $to-session {} {SAME})", text(4))).text("four"),
            &[BadValue],
            "client id",
        ),
        fails(
            "destination-with-data-that-is-no-json",
            &route(&format!(
                "(call $to-channel {} (i32.const 1) {})",
                text(9),
                text(4)
            ))
            .text("open:room"),
            &[BadValue],
            "not valid JSON",
        ),
    ]
}
