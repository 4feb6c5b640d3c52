//! Frames that break WebSocket, over a connection that has connected.

use tidegate_tests::raw::{CLOSE, PING, TEXT, frame, header};

use super::{
    Answer::{Error, Violation},
    Row,
};

pub(crate) fn rows() -> Vec<Row> {
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
        (
            "an unmasked frame",
            unmasked,
            Violation("websocket_protocol"),
        ),
        (
            "RSV1 without an extension",
            frame(TEXT | 0x40, command),
            Violation("websocket_protocol"),
        ),
        (
            "RSV2",
            frame(TEXT | 0x20, command),
            Violation("websocket_protocol"),
        ),
        (
            "RSV3",
            frame(TEXT | 0x10, command),
            Violation("websocket_protocol"),
        ),
        (
            "opcode 3",
            frame(0x83, command),
            Violation("websocket_protocol"),
        ),
        (
            "opcode 7",
            frame(0x87, command),
            Violation("websocket_protocol"),
        ),
        (
            "opcode 11",
            frame(0x8b, command),
            Violation("websocket_protocol"),
        ),
        (
            "a fragmented ping",
            frame(0x09, b""),
            Violation("websocket_protocol"),
        ),
        (
            "a ping of 126 bytes",
            frame(PING, &[0; 126]),
            Violation("websocket_protocol"),
        ),
        (
            "a continuation of nothing",
            frame(0x80, command),
            Violation("websocket_protocol"),
        ),
        (
            "data between fragments",
            [fragment(0x01, b"{"), frame(TEXT, command)].concat(),
            Violation("websocket_protocol"),
        ),
        (
            "a close of one byte",
            frame(CLOSE, &[3]),
            Violation("websocket_protocol"),
        ),
        (
            "a close with code 999",
            frame(CLOSE, &999u16.to_be_bytes()),
            Violation("websocket_protocol"),
        ),
        (
            "a close with code 1005",
            frame(CLOSE, &1005u16.to_be_bytes()),
            Violation("websocket_protocol"),
        ),
        (
            "text that is not UTF-8",
            frame(TEXT, &[b'"', 0xff, b'"']),
            Violation("websocket_text_not_utf8"),
        ),
        (
            "a surrogate in UTF-8",
            frame(TEXT, &[b'"', 0xed, 0xa0, 0x80, b'"']),
            Violation("websocket_text_not_utf8"),
        ),
        (
            "a character cut by the end",
            frame(TEXT, &[b'"', 0xe2, 0x82]),
            Violation("websocket_text_not_utf8"),
        ),
        (
            "bad text across fragments",
            [fragment(0x01, &[b'"', 0xe2]), fragment(0x80, b"\"")].concat(),
            Violation("websocket_text_not_utf8"),
        ),
        (
            "c1 a frame above 64 KiB",
            header(TEXT, 65_537),
            Violation("websocket_too_big"),
        ),
        (
            "c1 a declared length of 2^40",
            header(TEXT, 1 << 40),
            Violation("websocket_too_big"),
        ),
        (
            "c1 a declared length of 2^63",
            header(TEXT, 1 << 63),
            Violation("websocket_too_big"),
        ),
        (
            "a ping flood",
            frame(PING, b"p").repeat(501),
            Violation("ping_flood"),
        ),
        (
            "c1 a declared length of 2^63 - 1",
            header(TEXT, (1 << 63) - 1),
            Violation("websocket_too_big"),
        ),
        (
            "fragments above 64 KiB together",
            [fragment(0x01, &large), fragment(0x80, &large)].concat(),
            Violation("websocket_too_big"),
        ),
        (
            "1,025 fragments of one byte",
            flood(b"x"),
            Violation("websocket_too_many_fragments"),
        ),
        (
            "1,025 empty fragments",
            flood(b""),
            Violation("websocket_too_many_fragments"),
        ),
        (
            "a message behind a violation",
            [frame(0x83, b""), frame(TEXT, command)].concat(),
            Violation("websocket_protocol"),
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
