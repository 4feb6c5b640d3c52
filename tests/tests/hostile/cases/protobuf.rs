//! Commands in Protobuf, over a connection that has connected.

use tidegate_tests::raw::{BINARY, frame};

use super::{
    Answer::{Closed, Error, Undecodable},
    Row,
};

pub(crate) fn rows() -> Vec<Row> {
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
        ("an empty frame", binary(&[]), Undecodable("empty_frame")),
        (
            "a length above the bytes",
            binary(&[9, 8, 2]),
            Undecodable("truncated"),
        ),
        (
            "a length of 2^63",
            binary(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1]),
            Undecodable("truncated"),
        ),
        (
            "a varint of eleven bytes",
            binary(&[
                0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0,
            ]),
            Undecodable("bad_wire_format"),
        ),
        (
            "a request that says it has 4 GiB",
            binary(&[7, 0x3a, 0xff, 0xff, 0xff, 0xff, 0x0f, 0]),
            Undecodable("truncated"),
        ),
        (
            "an id as bytes",
            binary(&[2, 0x0a, 0]),
            Undecodable("wrong_type"),
        ),
        (
            "a request as number",
            binary(&[4, 8, 2, 0x38, 0]),
            Undecodable("wrong_type"),
        ),
        (
            "a group",
            binary(&[2, 0x0b, 0x0c]),
            Undecodable("bad_wire_format"),
        ),
        (
            "a wire type that does not exist",
            binary(&[1, 0x0f]),
            Undecodable("bad_wire_format"),
        ),
        (
            "field number 0",
            binary(&[2, 2, 0]),
            Undecodable("bad_wire_format"),
        ),
        (
            "an id of 2^32 + 1",
            binary(&[6, 8, 0x81, 0x80, 0x80, 0x80, 0x10]),
            Undecodable("wrong_type"),
        ),
        (
            "a channel that is not UTF-8",
            binary(&[7, 8, 2, 0x2a, 3, 0x0a, 1, 0xff]),
            Undecodable("not_utf8"),
        ),
        (
            "recursion 17 deep",
            binary(&nested_filter(15)),
            Undecodable("too_deep"),
        ),
        (
            "recursion 10,000 deep",
            binary(&nested_filter(10_000)),
            Undecodable("too_deep"),
        ),
        (
            "JSON",
            binary(br#"{"id":2,"rpc":{}}"#),
            Undecodable("truncated"),
        ),
        (
            "257 commands",
            binary(&[7, 8, 2, 0x32, 3, 0x0a, 1, b'x'].repeat(257)),
            Undecodable("too_many_commands"),
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
