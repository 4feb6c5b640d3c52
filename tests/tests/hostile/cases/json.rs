//! Commands in JSON, over a connection that has connected.

use super::{
    Answer::{Closed, Error, Fine, Undecodable},
    MARK, Row, text,
};

/// A subscribe command with further members.
fn subscribe(channel: &str, more: &str) -> Vec<u8> {
    text(format!(
        r#"{{"id":2,"subscribe":{{"channel":"{channel}"{more}}}}}"#
    ))
}

pub(crate) fn rows() -> Vec<Row> {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let deep_filter = format!(
        "{}{}{}",
        r#"{"op":"not","nodes":["#.repeat(100),
        r#"{"key":"k","cmp":"ex"}"#,
        "]}".repeat(100)
    );
    let wide_filter = vec![r#"{"key":"k","cmp":"ex"}"#; 64].join(",");
    vec![
        ("not JSON", text("hello"), Undecodable("syntax")),
        (
            "truncated",
            text(r#"{"id":2,"publish":{"channel":"open:a""#),
            Undecodable("syntax"),
        ),
        ("a mark", text(MARK), Undecodable("syntax")),
        (
            "a mark with an escape as channel",
            subscribe(&format!(r"open:{MARK}\u001b[31m"), ""),
            Error(107),
        ),
        (
            "a mark as namespace",
            subscribe(&format!("{MARK}:a"), ""),
            Error(102),
        ),
        (
            "c4 the 129th channel",
            text(
                (0..128)
                    .map(|n| format!(r#"{{"id":{},"subscribe":{{"channel":"open:{n}"}}}}"#, n + 3))
                    .chain([r#"{"id":2,"subscribe":{"channel":"open:more"}}"#.to_owned()])
                    .collect::<Vec<_>>()
                    .join("\n"),
            ),
            Error(106),
        ),
        (
            "a channel for the second time",
            text(
                "{\"id\":1,\"subscribe\":{\"channel\":\"open:a\"}}\n{\"id\":2,\"subscribe\":{\"channel\":\"open:a\"}}",
            ),
            Error(105),
        ),
        (
            "a position of another epoch",
            text(
                r#"{"id":2,"history":{"channel":"kept:a","limit":1,"since":{"offset":5,"epoch":"other"}}}"#,
            ),
            Error(112),
        ),
        ("an empty frame", text(""), Undecodable("empty_frame")),
        ("a newline alone", text("\n"), Undecodable("empty_frame")),
        (
            "a blank line",
            text("{\"id\":2,\"unsubscribe\":{\"channel\":\"x\"}}\n\n{\"id\":3,\"rpc\":{}}"),
            Undecodable("empty_line"),
        ),
        ("an array", text("[]"), Undecodable("wrong_type")),
        ("a string", text(r#""connect""#), Undecodable("wrong_type")),
        ("null", text("null"), Undecodable("wrong_type")),
        (
            "NaN",
            text(r#"{"id":2,"publish":{"channel":"open:a","data":NaN}}"#),
            Undecodable("syntax"),
        ),
        (
            "a trailing comma",
            text(r#"{"id":2,"rpc":{},}"#),
            Undecodable("syntax"),
        ),
        (
            "a comment",
            text(r#"{"id":2/**/,"rpc":{}}"#),
            Undecodable("syntax"),
        ),
        (
            "two commands on a line",
            text(r#"{"id":2,"rpc":{}}{"id":3,"rpc":{}}"#),
            Undecodable("syntax"),
        ),
        (
            "a byte order mark",
            text("\u{feff}{\"id\":2,\"rpc\":{}}"),
            Undecodable("syntax"),
        ),
        (
            "a control character",
            text("{\"id\":2,\"rpc\":{\"method\":\"a\tb\"}}"),
            Undecodable("syntax"),
        ),
        (
            "depth 33",
            text(format!(r#"{{"id":2,"rpc":{{"data":{}}}}}"#, nested(31))),
            Undecodable("too_deep"),
        ),
        (
            "depth 10,000",
            text(nested(10_000)),
            Undecodable("too_deep"),
        ),
        (
            "open brackets only",
            text("[".repeat(60_000)),
            Undecodable("too_deep"),
        ),
        (
            "a number of 60 kB",
            text(format!(r#"{{"id":{}}}"#, "1".repeat(60_000))),
            Undecodable("wrong_type"),
        ),
        (
            "a negative id",
            text(r#"{"id":-2,"rpc":{}}"#),
            Undecodable("wrong_type"),
        ),
        (
            "a fractional id",
            text(r#"{"id":2.5,"rpc":{}}"#),
            Undecodable("wrong_type"),
        ),
        (
            "an id of 2^32 + 1",
            text(r#"{"id":4294967297,"rpc":{}}"#),
            Undecodable("wrong_type"),
        ),
        (
            "an id as text",
            text(r#"{"id":"2","rpc":{}}"#),
            Undecodable("wrong_type"),
        ),
        ("an id of 0", text(r#"{"id":0,"rpc":{}}"#), Closed(3501)),
        ("no id", text(r#"{"rpc":{}}"#), Closed(3501)),
        (
            "a member twice",
            text(r#"{"id":2,"id":2,"rpc":{}}"#),
            Undecodable("duplicate_member"),
        ),
        (
            "a channel twice",
            subscribe("open:a", r#","channel":"open:b""#),
            Undecodable("duplicate_member"),
        ),
        (
            "a lone surrogate",
            subscribe(r"\ud800", ""),
            Undecodable("syntax"),
        ),
        (
            "an unknown method",
            text(r#"{"id":2,"fly":{}}"#),
            Closed(3501),
        ),
        (
            "the ping command",
            text(r#"{"id":2,"ping":{}}"#),
            Closed(3501),
        ),
        (
            "a second connect",
            text(r#"{"id":2,"connect":{}}"#),
            Closed(3501),
        ),
        ("an empty channel", subscribe("", ""), Closed(3501)),
        (
            "a channel as number",
            text(r#"{"id":2,"subscribe":{"channel":1}}"#),
            Undecodable("wrong_type"),
        ),
        (
            "an offset of 2^64",
            subscribe("open:a", r#","offset":18446744073709551616"#),
            Undecodable("wrong_type"),
        ),
        (
            "a limit of 2^31",
            text(r#"{"id":2,"history":{"channel":"open:a","limit":2147483648}}"#),
            Undecodable("wrong_type"),
        ),
        (
            "an unknown delta",
            subscribe("open:a", r#","delta":"rsync""#),
            Closed(3501),
        ),
        (
            "a filter of depth 100",
            subscribe("open:a", &format!(r#","tf":{deep_filter}"#)),
            Undecodable("too_deep"),
        ),
        (
            "257 commands",
            text(vec![r#"{"id":2,"unsubscribe":{"channel":"x"}}"#; 257].join("\n")),
            Undecodable("too_many_commands"),
        ),
        (
            "1,000 commands",
            text(vec![r#"{"id":2,"unsubscribe":{"channel":"x"}}"#; 1_000].join("\n")),
            Undecodable("too_many_commands"),
        ),
        ("an unexpected pong", text("{}"), Closed(3501)),
        ("a send", text(r#"{"send":{"data":1}}"#), Closed(3508)),
        (
            "a channel with NUL",
            subscribe(r"open:\u0000", ""),
            Error(107),
        ),
        (
            "a channel with a newline",
            subscribe(r"open:a\nb", ""),
            Error(107),
        ),
        ("a channel not ASCII", subscribe("open:é", ""), Error(107)),
        (
            "a channel of 256 bytes",
            subscribe(&format!("open:{}", "a".repeat(251)), ""),
            Error(107),
        ),
        (
            "10,000 users in a channel",
            subscribe(&format!("open:#{}", "1,".repeat(10_000)), ""),
            Error(107),
        ),
        (
            "an unknown namespace",
            subscribe("nobody:a", ""),
            Error(102),
        ),
        (
            "an epoch of 60 kB",
            subscribe(
                "open:a",
                &format!(r#","recover":true,"epoch":"{}""#, "e".repeat(60_000)),
            ),
            Error(107),
        ),
        (
            "a filter of 64 nodes and one",
            subscribe(
                "open:a",
                &format!(r#","tf":{{"op":"and","nodes":[{wide_filter}]}}"#),
            ),
            Error(107),
        ),
        (
            "a filter that says nothing",
            subscribe("open:a", r#","tf":{}"#),
            Error(107),
        ),
        (
            "a filter with an unknown op",
            subscribe("open:a", r#","tf":{"op":"xor","nodes":[]}"#),
            Error(107),
        ),
        (
            "a publish without data",
            text(r#"{"id":2,"publish":{"channel":"open:a"}}"#),
            Error(107),
        ),
        (
            "an rpc without a plugin",
            text(r#"{"id":2,"rpc":{"method":"a"}}"#),
            Error(108),
        ),
        (
            "presence that is off",
            text(r#"{"id":2,"presence":{"channel":"open:a"}}"#),
            Error(108),
        ),
        (
            "history that is not allowed",
            text(r#"{"id":2,"history":{"channel":"open:a"}}"#),
            Error(103),
        ),
        (
            "two requests: the first of the table",
            text(r#"{"id":2,"rpc":{},"history":{"channel":"open:a"}}"#),
            Error(103),
        ),
        (
            "an offset of 2^64 - 1",
            subscribe("open:a", r#","recover":true,"offset":18446744073709551615"#),
            Fine,
        ),
        (
            "unknown members",
            subscribe("open:a", r#","colour":{"deep":[1,2]}"#),
            Fine,
        ),
        (
            "a trailing newline",
            text("{\"id\":2,\"subscribe\":{\"channel\":\"open:a\"}}\n"),
            Fine,
        ),
    ]
}
