//! First words of a client, over a connection that was upgraded and has not connected.

use serde_json::json;
use tidegate_tests::token;

use super::{
    Answer::{Closed, Error, Fine, Undecodable},
    MARK, Row, text,
};

fn connect(members: &serde_json::Value) -> Vec<u8> {
    text(json!({"id": 2, "connect": members}).to_string())
}

pub(crate) fn rows() -> Vec<Row> {
    let with_token = |token: &str| connect(&json!({"token": token}));
    let good = token::mint(&json!({"sub": "anna"}));
    let unsigned = {
        let mut parts =
            token::mint_with(token::SECRET, &json!({"alg": "none"}), &json!({"sub": "a"}));
        parts.truncate(parts.rfind('.').expect("a token has dots") + 1);
        parts
    };
    vec![
        ("a good token", with_token(&good), Fine),
        ("a6 no token at all", with_token(MARK), Closed(3500)),
        (
            "a6 a token without its end",
            with_token(&good[..good.len() - 4]),
            Closed(3500),
        ),
        (
            "a6 a token by another key",
            with_token(&token::mint_with(
                "another secret of more than 32 bytes",
                &json!({"alg": "HS256"}),
                &json!({"sub": MARK}),
            )),
            Closed(3500),
        ),
        (
            "a1 a token without signature",
            with_token(&unsigned),
            Closed(3500),
        ),
        (
            "a2 a token of 20 kB",
            with_token(&"a".repeat(20_000)),
            Closed(3500),
        ),
        (
            "a2 a claim of the wrong type",
            with_token(&token::mint(&json!({"sub": "anna", "exp": MARK}))),
            Closed(3500),
        ),
        (
            "a6 a token that has expired",
            with_token(&token::mint(&json!({"sub": "anna", "exp": 1_000_000_000}))),
            Error(109),
        ),
        (
            "a name of 65 bytes",
            connect(&json!({"name": "n".repeat(65)})),
            Error(107),
        ),
        (
            "more subscriptions than allowed",
            connect(
                &json!({"subs": (0..129).map(|n| (format!("open:{n}"), json!({}))).collect::<serde_json::Map<_, _>>()}),
            ),
            Closed(3505),
        ),
        (
            "a subscribe before connect",
            text(r#"{"id":2,"subscribe":{"channel":"open:a"}}"#),
            Closed(3501),
        ),
        (
            "a publish before connect",
            text(r#"{"id":2,"publish":{"channel":"open:a","data":1}}"#),
            Closed(3501),
        ),
        (
            "an rpc before connect",
            text(r#"{"id":2,"rpc":{}}"#),
            Closed(3501),
        ),
        (
            "a refresh before connect",
            text(r#"{"id":2,"refresh":{"token":"a"}}"#),
            Closed(3501),
        ),
        (
            "a send before connect",
            text(r#"{"send":{"data":1}}"#),
            Closed(3501),
        ),
        ("a pong before connect", text("{}"), Closed(3501)),
        ("text before connect", text(MARK), Undecodable("syntax")),
    ]
}
