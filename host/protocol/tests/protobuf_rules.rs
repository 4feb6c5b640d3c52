//! What Protobuf looks like on the wire: lengths, presence, limits, hostile bytes.

use tidegate_protocol::{
    Codec, Command, DecodeReason, FilterNode, Limits, Publication, PublishResult, Reply, Request,
    SubscribeRequest, ZigZag, decode_frame, encode_commands, encode_reply,
};

fn decode(frame: &[u8]) -> Result<Vec<Command>, DecodeReason> {
    decode_frame(Codec::Protobuf, frame, &Limits::default()).map_err(|error| error.reason)
}

#[test]
fn a_ping_is_one_zero_byte_both_ways() {
    assert_eq!(encode_reply(Codec::Protobuf, &Reply::ping()).unwrap(), [0]);
    assert!(decode(&[0]).unwrap()[0].is_pong());
}

#[test]
fn an_empty_result_is_written_because_clients_look_for_it() {
    let reply = Reply {
        id: 3,
        publish: Some(Box::new(PublishResult {})),
        ..Reply::default()
    };
    // Length, id = 3, publish (field 8) of length 0.
    let bytes = encode_reply(Codec::Protobuf, &reply).unwrap();
    assert_eq!(bytes, [4, 0x08, 3, 0x42, 0]);
}

#[test]
fn a_score_is_written_in_zig_zag_form() {
    let publication = Publication {
        score: ZigZag(-1),
        ..Publication::default()
    };
    assert_eq!(publication.encode(Codec::Protobuf).unwrap(), [0x68, 1]);
}

#[test]
fn c1_a_declared_length_is_compared_before_anything_is_allocated() {
    for frame in [
        &[5, 8, 1][..],
        // 2^63 bytes.
        &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1],
        // A publish command (field 7) that says it has 4 GiB.
        &[7, 0x3a, 0xff, 0xff, 0xff, 0xff, 0x0f, 0],
    ] {
        assert_eq!(decode(frame), Err(DecodeReason::Truncated), "{frame:?}");
    }
}

#[test]
fn broken_wire_format_is_refused() {
    for (frame, reason) in [
        (&[][..], DecodeReason::EmptyFrame),
        (&[0x80], DecodeReason::Truncated),
        // A varint of eleven bytes.
        (
            &[
                0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0,
            ],
            DecodeReason::BadWireFormat,
        ),
        // A group (wire type 3), its end (4), and types that do not exist.
        (&[1, 0x0b], DecodeReason::BadWireFormat),
        (&[1, 0x0c], DecodeReason::BadWireFormat),
        (&[1, 0x0e], DecodeReason::BadWireFormat),
        (&[1, 0x0f], DecodeReason::BadWireFormat),
        // Field number 0.
        (&[2, 0x02, 0], DecodeReason::BadWireFormat),
        // The id as bytes, a request as a varint.
        (&[2, 0x0a, 0], DecodeReason::WrongType),
        (&[2, 0x38, 0], DecodeReason::WrongType),
        // An id of 2^32 + 1.
        (
            &[6, 0x08, 0x81, 0x80, 0x80, 0x80, 0x10],
            DecodeReason::WrongType,
        ),
        // A channel that is not UTF-8.
        (&[5, 0x3a, 3, 0x0a, 1, 0xff], DecodeReason::NotUtf8),
        // JSON on a protobuf connection.
        (b"{\"id\":1,\"connect\":{}}", DecodeReason::Truncated),
    ] {
        assert_eq!(decode(frame), Err(reason), "{frame:?}");
    }
}

#[test]
fn unknown_fields_are_skipped() {
    // Fields 100 as varint, fixed64, bytes and fixed32, then id = 1.
    let frame = [
        &[0xa0, 0x06, 5][..],
        &[0xa1, 0x06, 1, 2, 3, 4, 5, 6, 7, 8],
        &[0xa2, 0x06, 2, 0, 0],
        &[0xa5, 0x06, 1, 2, 3, 4],
        &[8, 1],
    ]
    .concat();
    let frame = [&[u8::try_from(frame.len()).unwrap()][..], &frame].concat();
    assert_eq!(decode(&frame).unwrap()[0].id, 1);
}

#[test]
fn c3_an_error_names_the_command_when_its_id_was_read() {
    // id = 7, then a request as a varint.
    let error = decode_frame(Codec::Protobuf, &[4, 8, 7, 0x38, 0], &Limits::default());
    assert_eq!(error.unwrap_err().id, Some(7));
}

#[test]
fn messages_may_nest_16_deep_and_no_deeper() {
    let command = |nodes: usize| {
        let tf = (1..nodes).fold(FilterNode::default(), |inner, _| FilterNode {
            nodes: vec![inner],
            ..FilterNode::default()
        });
        Command {
            id: 1,
            subscribe: Some(Box::new(SubscribeRequest {
                tf: Some(Box::new(tf)),
                ..SubscribeRequest::default()
            })),
            ..Command::default()
        }
    };
    let encode = |nodes| encode_commands(Codec::Protobuf, &[command(nodes)]).unwrap();
    // The command and the request are two of them.
    assert!(decode(&encode(14)).is_ok());
    assert_eq!(decode(&encode(15)), Err(DecodeReason::TooDeep));
}

#[test]
fn deep_recursion_in_a_small_frame_is_refused() {
    // Filter nodes inside each other, each of the length that is left.
    let mut node: Vec<u8> = Vec::new();
    for _ in 0..5_000 {
        let mut outer = vec![0x32];
        let mut len = node.len();
        while len >= 0x80 {
            outer.push(u8::try_from(len & 0x7f).unwrap() | 0x80);
            len >>= 7;
        }
        outer.push(u8::try_from(len).unwrap());
        outer.extend_from_slice(&node);
        node = outer;
    }
    let node = FilterNode::decode(Codec::Protobuf, &node, &Limits::default());
    assert_eq!(node, Err(DecodeReason::TooDeep));
}

#[test]
fn the_first_request_in_the_order_of_the_table_decides() {
    // rpc (13), then publish (7).
    let command = decode(&[6, 8, 1, 0x6a, 0, 0x3a, 0]).unwrap().remove(0);
    assert!(matches!(command.into_request(), Some(Request::Publish(_))));
}

#[test]
fn a_frame_holds_256_commands_at_most() {
    assert_eq!(decode(&[0; 256]).unwrap().len(), 256);
    assert_eq!(decode(&[0; 257]), Err(DecodeReason::TooManyCommands));
}
