use super::*;
use crate::codec::decode_replies;

const CODECS: [Codec; 2] = [Codec::Json, Codec::Protobuf];
const FRAMINGS: [Framing; 3] = [
    Framing::WebSocket,
    Framing::EventStream,
    Framing::HttpStream,
];

fn publication(len: usize) -> Publication {
    let data = format!("\"{}\"", "x".repeat(len));
    Publication {
        data: data.into(),
        offset: 7,
        ..Publication::default()
    }
}

/// Payload and opcode of a server frame, read with nothing from this module.
fn read_websocket(bytes: &[u8]) -> (u8, &[u8]) {
    let (len, start) = match bytes[1] {
        126 => (u16::from_be_bytes([bytes[2], bytes[3]]).into(), 4),
        127 => {
            let len = u64::from_be_bytes(bytes[2..10].try_into().unwrap());
            (usize::try_from(len).unwrap(), 10)
        }
        len => (len.into(), 2),
    };
    assert_eq!(bytes.len(), start + len);
    (bytes[0], &bytes[start..])
}

#[test]
fn a_websocket_frame_has_the_header_of_its_size() {
    for codec in CODECS {
        for len in [0, 60, 100, 125, 126, 1_000, 65_500, 65_536, 70_000] {
            let frame =
                Frame::publication(codec, Framing::WebSocket, "news", &publication(len)).unwrap();
            let (first, payload) = read_websocket(frame.bytes());
            assert_eq!(first, opcode(codec));
            assert_eq!(payload, frame.payload());
        }
    }
}

#[test]
fn a_framed_publication_is_the_framed_reply_with_that_push() {
    for codec in CODECS {
        for framing in FRAMINGS {
            for channel in ["", "news", "a\"b"] {
                let publication = publication(200);
                let reply = Reply::from_push(Push {
                    channel: channel.to_owned(),
                    r#pub: Some(publication.clone().into()),
                    ..Push::default()
                });
                assert_eq!(
                    Frame::publication(codec, framing, channel, &publication).unwrap(),
                    Frame::reply(codec, framing, &reply).unwrap(),
                );
            }
        }
    }
}

#[test]
fn joined_frames_hold_every_message_in_order() {
    for codec in CODECS {
        let frames: Vec<Frame> = (1..=16)
            .map(|id| {
                let reply = Reply {
                    id,
                    ..Reply::default()
                };
                Frame::reply(codec, Framing::WebSocket, &reply).unwrap()
            })
            .collect();
        let joined = Frame::joined(codec, Framing::WebSocket, &frames);
        let (_, payload) = read_websocket(joined.bytes());
        assert_eq!(payload, joined.payload());
        assert_eq!(joined.count(), 16);
        let ids: Vec<u32> = decode_replies(codec, payload)
            .unwrap()
            .iter()
            .map(|reply| reply.id)
            .collect();
        assert_eq!(ids, (1..=16).collect::<Vec<_>>());
        // Joined frames can be joined again.
        let twice = Frame::joined(codec, Framing::WebSocket, &[joined.clone(), joined]);
        assert_eq!(decode_replies(codec, twice.payload()).unwrap().len(), 32);
    }
}

#[test]
fn streams_carry_the_same_payload_in_their_own_wrapping() {
    let reply = Reply {
        id: 1,
        ..Reply::default()
    };
    let event = Frame::reply(Codec::Json, Framing::EventStream, &reply).unwrap();
    assert_eq!(event.bytes().as_ref(), b"data: {\"id\":1}\n\n");
    assert_eq!(event.payload(), b"{\"id\":1}");
    let line = Frame::reply(Codec::Json, Framing::HttpStream, &reply).unwrap();
    assert_eq!(line.bytes().as_ref(), b"{\"id\":1}\n");
    let binary = Frame::reply(Codec::Protobuf, Framing::HttpStream, &reply).unwrap();
    assert_eq!(binary.bytes().as_ref(), &[2, 8, 1]);
}

#[test]
fn a_ping_is_the_framed_empty_reply() {
    for codec in CODECS {
        for framing in FRAMINGS {
            let empty = Frame::reply(codec, framing, &Reply::ping()).unwrap();
            if (codec, framing) == (Codec::Protobuf, Framing::EventStream) {
                continue; // Event streams are text.
            }
            assert_eq!(Frame::ping(codec, framing), empty);
        }
    }
}

#[test]
fn joining_stops_at_sixteen_messages_or_sixteen_kilobytes() {
    let small = Frame::ping(Codec::Json, Framing::WebSocket);
    assert_eq!(joinable(&vec![small.clone(); 40]), MAX_JOINED_MESSAGES);
    let large = Frame::publication(
        Codec::Json,
        Framing::WebSocket,
        "news",
        &publication(MAX_JOINED_BYTES),
    )
    .unwrap();
    assert_eq!(joinable(&[large.clone(), small.clone()]), 1);
    assert_eq!(joinable(&[small, large]), 1);
}

#[test]
fn a_close_reason_is_cut_between_characters_to_123_bytes() {
    let frame = close_frame(3501, &"é".repeat(100));
    let (first, payload) = read_websocket(&frame);
    assert_eq!(first, OP_CLOSE);
    assert_eq!(&payload[..2], &3501u16.to_be_bytes());
    assert_eq!(std::str::from_utf8(&payload[2..]).unwrap().len(), 122);
}
