//! Requests for a handshake, over a connection that has said nothing.

use tidegate_tests::raw;

use super::{
    Answer::{Refused, Upgraded},
    MARK, Row,
};

/// Handshakes: the request and the status it gets.
pub(crate) fn rows() -> Vec<Row> {
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
        (
            "t3a no key",
            without("Sec-WebSocket-Key"),
            Refused(400, "bad_key"),
        ),
        ("t3a a short key", key("c2hvcnQ="), Refused(400, "bad_key")),
        (
            "t3a a key that is not base64",
            key("!!!!!!!!!!!!!!!!!!!!!!=="),
            Refused(400, "bad_key"),
        ),
        (
            "t3a no version",
            without("Sec-WebSocket-Version"),
            Refused(400, "bad_version"),
        ),
        (
            "t3a version 8",
            good.replace("Version: 13", "Version: 8"),
            Refused(400, "bad_version"),
        ),
        (
            "t3a no upgrade",
            without("Upgrade: websocket"),
            Refused(400, "no_upgrade"),
        ),
        (
            "t3a another upgrade",
            good.replace("Upgrade: websocket", "Upgrade: h2c"),
            Refused(400, "no_upgrade"),
        ),
        (
            "t3a no connection header",
            without("Connection: Upgrade"),
            Refused(400, "no_upgrade"),
        ),
        (
            "t3a HTTP/1.0",
            good.replace("HTTP/1.1", "HTTP/1.0"),
            Refused(400, "not_get"),
        ),
        (
            "t3a a POST",
            good.replace("GET ", "POST "),
            Refused(400, "not_get"),
        ),
        (
            "t3a two upgrades",
            raw::upgrade_request(path, "Upgrade: websocket\r\n"),
            Refused(400, "no_upgrade"),
        ),
        (
            "t3a two keys",
            raw::upgrade_request(path, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"),
            Refused(400, "bad_key"),
        ),
        (
            "t3a an absolute address",
            good.replace("GET /", "GET http://localhost/"),
            Refused(400, "absolute_target"),
        ),
        (
            "two ways to end a body",
            raw::upgrade_request(path, "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
            Refused(400, "has_body"),
        ),
        (
            "two lengths of a body",
            raw::upgrade_request(path, "Content-Length: 0\r\nContent-Length: 5\r\n"),
            Refused(400, "malformed"),
        ),
        (
            "bare line feeds",
            good.replace("\r\n", "\n"),
            Refused(400, "malformed"),
        ),
        (
            "one bare line feed",
            good.replacen("localhost\r\n", "localhost\n", 1),
            Refused(400, "malformed"),
        ),
        (
            "the preface of HTTP/2",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
            Refused(400, "malformed"),
        ),
        (
            "a mark with an escape",
            raw::upgrade_request(path, &format!("X-A: {MARK}\u{1b}[31m\r\n")),
            Refused(400, "malformed"),
        ),
        (
            "not HTTP",
            "hello\r\n\r\n".to_owned(),
            Refused(400, "malformed"),
        ),
        (
            "obsolete folding",
            raw::upgrade_request(path, "X-A: 1\r\n  2\r\n"),
            Refused(400, "malformed"),
        ),
        (
            "a space before the colon",
            raw::upgrade_request(path, "X-A : 1\r\n"),
            Refused(400, "malformed"),
        ),
        (
            "NUL in a header",
            raw::upgrade_request(path, "X-A: \0\r\n"),
            Refused(400, "malformed"),
        ),
        (
            "t2 100 headers",
            raw::upgrade_request(path, &headers),
            Refused(431, "head_too_large"),
        ),
        (
            "t2 a head of 64 KiB",
            raw::upgrade_request(path, &format!("X-A: {}\r\n", "a".repeat(65_536))),
            Refused(431, "head_too_large"),
        ),
        (
            "t3 another origin",
            origin("https://evil.test"),
            Refused(403, "forbidden_origin"),
        ),
        (
            "t3 a suffix of ours",
            origin("https://evil-example.com"),
            Refused(403, "forbidden_origin"),
        ),
        (
            "t3 ours as a prefix",
            origin("https://example.com.evil.test"),
            Refused(403, "forbidden_origin"),
        ),
        (
            "t3 another port",
            origin("https://example.com:8443"),
            Refused(403, "forbidden_origin"),
        ),
        (
            "t3 another scheme",
            origin("http://example.com"),
            Refused(403, "forbidden_origin"),
        ),
        ("t3 null", origin("null"), Refused(403, "forbidden_origin")),
        (
            "t3 a letter that looks like one of ours",
            origin("https://ex\u{430}mple.com"),
            Refused(403, "forbidden_origin"),
        ),
        (
            "t3 the same in ASCII",
            origin("https://xn--exmple-4nf.com"),
            Refused(403, "forbidden_origin"),
        ),
        (
            "t3 a mark",
            origin(&format!("https://{MARK}.test")),
            Refused(403, "forbidden_origin"),
        ),
        (
            "t3 two origins",
            raw::upgrade_request(
                path,
                "Origin: https://example.com\r\nOrigin: https://evil.test\r\n",
            ),
            Refused(403, "forbidden_origin"),
        ),
        (
            "t3 ours in capitals",
            origin("HTTPS://EXAMPLE.COM"),
            Upgraded,
        ),
        (
            "t3 not a URL",
            origin("example"),
            Refused(403, "forbidden_origin"),
        ),
        (
            "t3 an allowed origin",
            origin("https://example.com"),
            Upgraded,
        ),
        (
            "t3 an allowed pattern",
            origin("https://a.example.org"),
            Upgraded,
        ),
        ("t3 the host itself", origin("http://localhost"), Upgraded),
        ("t3 no origin", good.clone(), Upgraded),
    ];
    cases
        .into_iter()
        .map(|(what, request, status)| (what, request.into_bytes(), status))
        .collect()
}
