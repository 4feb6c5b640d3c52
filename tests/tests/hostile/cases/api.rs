//! Requests to the server API, over a connection of their own.

use super::{Answer::Failed, MARK, Row};

/// A request; `key` is the header line of an API key, or nothing.
fn request(line: &str, key: &str, body: &str) -> Vec<u8> {
    let len = body.len();
    format!("{line} HTTP/1.1\r\nHost: localhost\r\n{key}Content-Length: {len}\r\n\r\n{body}")
        .into_bytes()
}

pub(crate) fn rows(api_key: &str) -> Vec<Row> {
    let key = format!("X-API-Key: {api_key}\r\n");
    let publish = |body: &str| request("POST /api/publish", &key, body);
    let marked = format!(r#"{{"channel":"open:a","data":1,"{MARK}":1}}"#);
    vec![
        ("no key", request("POST /api/info", "", "{}"), Failed(401)),
        (
            "a8 a key that nobody has",
            request("POST /api/info", &format!("X-API-Key: {MARK}\r\n"), "{}"),
            Failed(401),
        ),
        (
            "a method that does not exist",
            request("POST /api/fly", &key, "{}"),
            Failed(404),
        ),
        ("a GET", request("GET /api/publish", &key, ""), Failed(405)),
        (
            "a path that does not exist",
            request(&format!("GET /{MARK}"), "", ""),
            Failed(404),
        ),
        ("not JSON", publish(MARK), Failed(400)),
        ("an array", publish("[]"), Failed(400)),
        ("nothing", publish(""), Failed(400)),
        ("m8 an unknown member", publish(&marked), Failed(422)),
        (
            "t2 a declared body of 4 MiB and one",
            format!(
                "POST /api/publish HTTP/1.1\r\nHost: x\r\n{key}Content-Length: 4194305\r\n\r\n"
            )
            .into_bytes(),
            Failed(413),
        ),
        (
            "n1 an app that does not exist",
            tidegate_tests::raw::upgrade_request("/apps/nobody/connection/websocket", "")
                .into_bytes(),
            super::Answer::Refused(404, "unknown_app"),
        ),
    ]
}
