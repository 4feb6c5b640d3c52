//! The rows: what is sent and what it must come to.

use tidegate_tests::raw::{self, BINARY, CLOSE, PING, TEXT, frame, header};

/// What a case must come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// A reply without error.
    Fine,
    /// A reply with this error.
    Error(u32),
    /// A close frame with this code.
    Closed(u16),
}

use Answer::{Closed, Error, Fine};

/// A case: what it is, the bytes, the answer.
pub(crate) type Case = (&'static str, Vec<u8>, Answer);

pub(crate) fn text(json: impl AsRef<[u8]>) -> Vec<u8> {
    frame(TEXT, json.as_ref())
}

/// A subscribe command with further members.
fn subscribe(channel: &str, more: &str) -> Vec<u8> {
    text(format!(
        r#"{{"id":2,"subscribe":{{"channel":"{channel}"{more}}}}}"#
    ))
}

pub(crate) fn json_cases() -> Vec<Case> {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let deep_filter = format!(
        "{}{}{}",
        r#"{"op":"not","nodes":["#.repeat(100),
        r#"{"key":"k","cmp":"ex"}"#,
        "]}".repeat(100)
    );
    let wide_filter = vec![r#"{"key":"k","cmp":"ex"}"#; 64].join(",");
    vec![
        ("not JSON", text("hello"), Closed(3501)),
        (
            "truncated",
            text(r#"{"id":2,"publish":{"channel":"open:a""#),
            Closed(3501),
        ),
        ("an empty frame", text(""), Closed(3501)),
        ("a newline alone", text("\n"), Closed(3501)),
        (
            "a blank line",
            text("{\"id\":2,\"rpc\":{}}\n\n{\"id\":3,\"rpc\":{}}"),
            Closed(3501),
        ),
        ("an array", text("[]"), Closed(3501)),
        ("a string", text(r#""connect""#), Closed(3501)),
        ("null", text("null"), Closed(3501)),
        (
            "NaN",
            text(r#"{"id":2,"publish":{"channel":"open:a","data":NaN}}"#),
            Closed(3501),
        ),
        (
            "a trailing comma",
            text(r#"{"id":2,"rpc":{},}"#),
            Closed(3501),
        ),
        ("a comment", text(r#"{"id":2/**/,"rpc":{}}"#), Closed(3501)),
        (
            "two commands on a line",
            text(r#"{"id":2,"rpc":{}}{"id":3,"rpc":{}}"#),
            Closed(3501),
        ),
        (
            "a byte order mark",
            text("\u{feff}{\"id\":2,\"rpc\":{}}"),
            Closed(3501),
        ),
        (
            "a control character",
            text("{\"id\":2,\"rpc\":{\"method\":\"a\tb\"}}"),
            Closed(3501),
        ),
        (
            "depth 33",
            text(format!(r#"{{"id":2,"rpc":{{"data":{}}}}}"#, nested(31))),
            Closed(3501),
        ),
        ("depth 10,000", text(nested(10_000)), Closed(3501)),
        ("open brackets only", text("[".repeat(60_000)), Closed(3501)),
        (
            "a number of 60 kB",
            text(format!(r#"{{"id":{}}}"#, "1".repeat(60_000))),
            Closed(3501),
        ),
        ("a negative id", text(r#"{"id":-2,"rpc":{}}"#), Closed(3501)),
        (
            "a fractional id",
            text(r#"{"id":2.5,"rpc":{}}"#),
            Closed(3501),
        ),
        (
            "an id of 2^32 + 1",
            text(r#"{"id":4294967297,"rpc":{}}"#),
            Closed(3501),
        ),
        (
            "an id as text",
            text(r#"{"id":"2","rpc":{}}"#),
            Closed(3501),
        ),
        ("an id of 0", text(r#"{"id":0,"rpc":{}}"#), Closed(3501)),
        ("no id", text(r#"{"rpc":{}}"#), Closed(3501)),
        (
            "a member twice",
            text(r#"{"id":2,"id":2,"rpc":{}}"#),
            Closed(3501),
        ),
        (
            "a channel twice",
            subscribe("open:a", r#","channel":"open:b""#),
            Closed(3501),
        ),
        ("a lone surrogate", subscribe(r"\ud800", ""), Closed(3501)),
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
            Closed(3501),
        ),
        (
            "an offset of 2^64",
            subscribe("open:a", r#","offset":18446744073709551616"#),
            Closed(3501),
        ),
        (
            "a limit of 2^31",
            text(r#"{"id":2,"history":{"channel":"open:a","limit":2147483648}}"#),
            Closed(3501),
        ),
        (
            "an unknown delta",
            subscribe("open:a", r#","delta":"rsync""#),
            Closed(3501),
        ),
        (
            "a filter of depth 100",
            subscribe("open:a", &format!(r#","tf":{deep_filter}"#)),
            Closed(3501),
        ),
        (
            "257 commands",
            text(vec![r#"{"id":2,"unsubscribe":{"channel":"x"}}"#; 257].join("\n")),
            Closed(3501),
        ),
        (
            "1,000 commands",
            text(vec![r#"{"id":2,"unsubscribe":{"channel":"x"}}"#; 1_000].join("\n")),
            Closed(3501),
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

pub(crate) fn protobuf_cases() -> Vec<Case> {
    let binary = |bytes: &[u8]| frame(BINARY, bytes);
    // A filter of `depth` nodes inside each other, in a subscribe command.
    let nested_filter = |depth: usize| {
        let wrap = |key: u8, inner: &[u8]| {
            let mut outer = vec![key];
            let mut len = inner.len();
            while len >= 0x80 {
                outer.push(u8::try_from(len & 0x7f).expect("seven bits") | 0x80);
                len >>= 7;
            }
            outer.push(u8::try_from(len).expect("seven bits"));
            outer.extend_from_slice(inner);
            outer
        };
        let filter = (0..depth).fold(Vec::new(), |inner, _| wrap(0x32, &inner));
        let command = [&[8, 2][..], &wrap(0x2a, &wrap(0x6a, &filter))].concat();
        wrap(0, &command)[1..].to_vec()
    };
    vec![
        ("an empty frame", binary(&[]), Closed(3501)),
        ("a length above the bytes", binary(&[9, 8, 2]), Closed(3501)),
        (
            "a length of 2^63",
            binary(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1]),
            Closed(3501),
        ),
        (
            "a varint of eleven bytes",
            binary(&[
                0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0,
            ]),
            Closed(3501),
        ),
        (
            "a request that says it has 4 GiB",
            binary(&[7, 0x3a, 0xff, 0xff, 0xff, 0xff, 0x0f, 0]),
            Closed(3501),
        ),
        ("an id as bytes", binary(&[2, 0x0a, 0]), Closed(3501)),
        (
            "a request as number",
            binary(&[4, 8, 2, 0x38, 0]),
            Closed(3501),
        ),
        ("a group", binary(&[2, 0x0b, 0x0c]), Closed(3501)),
        (
            "a wire type that does not exist",
            binary(&[1, 0x0f]),
            Closed(3501),
        ),
        ("field number 0", binary(&[2, 2, 0]), Closed(3501)),
        (
            "an id of 2^32 + 1",
            binary(&[6, 8, 0x81, 0x80, 0x80, 0x80, 0x10]),
            Closed(3501),
        ),
        (
            "a channel that is not UTF-8",
            binary(&[7, 8, 2, 0x2a, 3, 0x0a, 1, 0xff]),
            Closed(3501),
        ),
        (
            "recursion 17 deep",
            binary(&nested_filter(15)),
            Closed(3501),
        ),
        (
            "recursion 10,000 deep",
            binary(&nested_filter(10_000)),
            Closed(3501),
        ),
        ("JSON", binary(br#"{"id":2,"rpc":{}}"#), Closed(3501)),
        (
            "257 commands",
            binary(&[7, 8, 2, 0x32, 3, 0x0a, 1, b'x'].repeat(257)),
            Closed(3501),
        ),
        ("an unexpected pong", binary(&[0]), Closed(3501)),
        (
            "a second connect",
            binary(&[4, 8, 2, 0x22, 0]),
            Closed(3501),
        ),
        ("no request", binary(&[2, 8, 2]), Closed(3501)),
        (
            "an empty channel",
            binary(&[4, 8, 2, 0x2a, 0]),
            Closed(3501),
        ),
        (
            "an rpc without a plugin",
            binary(&[4, 8, 2, 0x6a, 0]),
            Error(108),
        ),
        (
            "an unknown field",
            binary(&[7, 8, 2, 0xa0, 6, 5, 0x6a, 0]),
            Error(108),
        ),
    ]
}

pub(crate) fn frame_cases() -> Vec<Case> {
    let command = br#"{"id":2,"rpc":{}}"#;
    let unmasked = [&[TEXT, 17][..], command].concat();
    let fragment = |first: u8, payload: &[u8]| frame(first, payload);
    let flood = |payload: &[u8]| {
        let mut bytes = fragment(0x01, payload);
        for _ in 0..1_025 {
            bytes.extend(fragment(0x00, payload));
        }
        bytes
    };
    let large = vec![b'x'; 40_000];
    vec![
        ("an unmasked frame", unmasked, Closed(1002)),
        (
            "RSV1 without an extension",
            frame(TEXT | 0x40, command),
            Closed(1002),
        ),
        ("RSV2", frame(TEXT | 0x20, command), Closed(1002)),
        ("RSV3", frame(TEXT | 0x10, command), Closed(1002)),
        ("opcode 3", frame(0x83, command), Closed(1002)),
        ("opcode 7", frame(0x87, command), Closed(1002)),
        ("opcode 11", frame(0x8b, command), Closed(1002)),
        ("a fragmented ping", frame(0x09, b""), Closed(1002)),
        ("a ping of 126 bytes", frame(PING, &[0; 126]), Closed(1002)),
        (
            "a continuation of nothing",
            frame(0x80, command),
            Closed(1002),
        ),
        (
            "data between fragments",
            [fragment(0x01, b"{"), frame(TEXT, command)].concat(),
            Closed(1002),
        ),
        ("a close of one byte", frame(CLOSE, &[3]), Closed(1002)),
        (
            "a close with code 999",
            frame(CLOSE, &999u16.to_be_bytes()),
            Closed(1002),
        ),
        (
            "a close with code 1005",
            frame(CLOSE, &1005u16.to_be_bytes()),
            Closed(1002),
        ),
        (
            "text that is not UTF-8",
            frame(TEXT, &[b'"', 0xff, b'"']),
            Closed(1007),
        ),
        (
            "a surrogate in UTF-8",
            frame(TEXT, &[b'"', 0xed, 0xa0, 0x80, b'"']),
            Closed(1007),
        ),
        (
            "a character cut by the end",
            frame(TEXT, &[b'"', 0xe2, 0x82]),
            Closed(1007),
        ),
        (
            "bad text across fragments",
            [fragment(0x01, &[b'"', 0xe2]), fragment(0x80, b"\"")].concat(),
            Closed(1007),
        ),
        (
            "c1 a frame above 64 KiB",
            header(TEXT, 65_537),
            Closed(1009),
        ),
        (
            "c1 a declared length of 2^40",
            header(TEXT, 1 << 40),
            Closed(1009),
        ),
        (
            "c1 a declared length of 2^63 - 1",
            header(TEXT, (1 << 63) - 1),
            Closed(1009),
        ),
        (
            "fragments above 64 KiB together",
            [fragment(0x01, &large), fragment(0x80, &large)].concat(),
            Closed(1009),
        ),
        ("1,025 fragments of one byte", flood(b"x"), Closed(1008)),
        ("1,025 empty fragments", flood(b""), Closed(1008)),
        (
            "a message behind a violation",
            [frame(0x83, b""), frame(TEXT, command)].concat(),
            Closed(1002),
        ),
        (
            "a good message in fragments around a ping",
            [
                fragment(0x01, &command[..7]),
                frame(0x8a, b""),
                fragment(0x80, &command[7..]),
            ]
            .concat(),
            Error(108),
        ),
    ]
}

/// Handshakes: the request and the status it gets.
pub(crate) fn handshakes() -> Vec<(&'static str, Vec<u8>, u16)> {
    let path = "/connection/websocket";
    let good = raw::upgrade_request(path, "");
    let origin = |origin: &str| raw::upgrade_request(path, &format!("Origin: {origin}\r\n"));
    let without = |line: &str| {
        let start = good.find(line).expect("the request has the line");
        let end = start + good[start..].find("\r\n").expect("lines end") + 2;
        format!("{}{}", &good[..start], &good[end..])
    };
    let key = |key: &str| good.replace("dGhlIHNhbXBsZSBub25jZQ==", key);
    let headers: String = (0..100).map(|n| format!("X-{n}: 1\r\n")).collect();
    let cases = vec![
        ("t3a no key", without("Sec-WebSocket-Key"), 400),
        ("t3a a short key", key("c2hvcnQ="), 400),
        (
            "t3a a key that is not base64",
            key("!!!!!!!!!!!!!!!!!!!!!!=="),
            400,
        ),
        ("t3a no version", without("Sec-WebSocket-Version"), 400),
        (
            "t3a version 8",
            good.replace("Version: 13", "Version: 8"),
            400,
        ),
        ("t3a no upgrade", without("Upgrade: websocket"), 400),
        (
            "t3a another upgrade",
            good.replace("Upgrade: websocket", "Upgrade: h2c"),
            400,
        ),
        (
            "t3a no connection header",
            without("Connection: Upgrade"),
            400,
        ),
        ("t3a HTTP/1.0", good.replace("HTTP/1.1", "HTTP/1.0"), 400),
        ("t3a a POST", good.replace("GET ", "POST "), 400),
        (
            "t3a two upgrades",
            raw::upgrade_request(path, "Upgrade: websocket\r\n"),
            400,
        ),
        (
            "t3a two keys",
            raw::upgrade_request(path, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"),
            400,
        ),
        (
            "t3a an absolute address",
            good.replace("GET /", "GET http://localhost/"),
            400,
        ),
        (
            "two ways to end a body",
            raw::upgrade_request(path, "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
            400,
        ),
        ("not HTTP", "hello\r\n\r\n".to_owned(), 400),
        (
            "obsolete folding",
            raw::upgrade_request(path, "X-A: 1\r\n  2\r\n"),
            400,
        ),
        (
            "a space before the colon",
            raw::upgrade_request(path, "X-A : 1\r\n"),
            400,
        ),
        (
            "NUL in a header",
            raw::upgrade_request(path, "X-A: \0\r\n"),
            400,
        ),
        ("t2 100 headers", raw::upgrade_request(path, &headers), 431),
        (
            "t2 a head of 64 KiB",
            raw::upgrade_request(path, &format!("X-A: {}\r\n", "a".repeat(65_536))),
            431,
        ),
        ("t3 another origin", origin("https://evil.test"), 403),
        (
            "t3 a suffix of ours",
            origin("https://evil-example.com"),
            403,
        ),
        (
            "t3 ours as a prefix",
            origin("https://example.com.evil.test"),
            403,
        ),
        ("t3 another port", origin("https://example.com:8443"), 403),
        ("t3 another scheme", origin("http://example.com"), 403),
        ("t3 null", origin("null"), 403),
        ("t3 not a URL", origin("example"), 403),
        ("t3 an allowed origin", origin("https://example.com"), 101),
        (
            "t3 an allowed pattern",
            origin("https://a.example.org"),
            101,
        ),
        ("t3 the host itself", origin("http://localhost"), 101),
        ("t3 no origin", good.clone(), 101),
    ];
    cases
        .into_iter()
        .map(|(what, request, status)| (what, request.into_bytes(), status))
        .collect()
}
