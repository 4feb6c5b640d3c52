//! Properties of the decoders and encoders, with prost and serde_json as independent judges.

use std::{collections::BTreeMap, sync::Arc};

use proptest::{collection, option, prelude::*};
use tidegate_protocol::{
    ClientInfo, Codec, Command, ConnectRequest, ConnectResult, DecodeReason, FilterNode, Frame,
    Framing, HistoryResult, Join, Limits, Publication, PublishRequest, Push, Raw, Reply, RpcResult,
    SendRequest, StreamPosition, SubscribeRequest, SubscribeResult, ZigZag, decode_frame,
    decode_replies, encode_commands, encode_reply,
};

/// Some of the messages as prost sees them, numbers and types written down a second time.
mod judge {
    use std::collections::BTreeMap;

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct ClientInfo {
        #[prost(string, tag = "1")]
        pub(crate) user: String,
        #[prost(string, tag = "2")]
        pub(crate) client: String,
        #[prost(bytes = "vec", tag = "3")]
        pub(crate) conn_info: Vec<u8>,
        #[prost(bytes = "vec", tag = "4")]
        pub(crate) chan_info: Vec<u8>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Publication {
        #[prost(bytes = "vec", tag = "4")]
        pub(crate) data: Vec<u8>,
        #[prost(message, optional, tag = "5")]
        pub(crate) info: Option<ClientInfo>,
        #[prost(uint64, tag = "6")]
        pub(crate) offset: u64,
        #[prost(btree_map = "string, string", tag = "7")]
        pub(crate) tags: BTreeMap<String, String>,
        #[prost(bool, tag = "8")]
        pub(crate) delta: bool,
        #[prost(int64, tag = "9")]
        pub(crate) time: i64,
        #[prost(string, tag = "10")]
        pub(crate) channel: String,
        #[prost(string, tag = "11")]
        pub(crate) key: String,
        #[prost(bool, tag = "12")]
        pub(crate) removed: bool,
        #[prost(sint64, tag = "13")]
        pub(crate) score: i64,
        #[prost(string, tag = "14")]
        pub(crate) epoch: String,
        #[prost(bytes = "vec", tag = "15")]
        pub(crate) prev_data: Vec<u8>,
        #[prost(uint64, tag = "16")]
        pub(crate) version: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct FilterNode {
        #[prost(string, tag = "1")]
        pub(crate) op: String,
        #[prost(string, tag = "2")]
        pub(crate) key: String,
        #[prost(string, tag = "3")]
        pub(crate) cmp: String,
        #[prost(string, tag = "4")]
        pub(crate) val: String,
        #[prost(string, repeated, tag = "5")]
        pub(crate) vals: Vec<String>,
        #[prost(message, repeated, tag = "6")]
        pub(crate) nodes: Vec<FilterNode>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct SubscribeRequest {
        #[prost(string, tag = "1")]
        pub(crate) channel: String,
        #[prost(string, tag = "2")]
        pub(crate) token: String,
        #[prost(bool, tag = "3")]
        pub(crate) recover: bool,
        #[prost(string, tag = "6")]
        pub(crate) epoch: String,
        #[prost(uint64, tag = "7")]
        pub(crate) offset: u64,
        #[prost(bytes = "vec", tag = "8")]
        pub(crate) data: Vec<u8>,
        #[prost(bool, tag = "9")]
        pub(crate) positioned: bool,
        #[prost(bool, tag = "10")]
        pub(crate) recoverable: bool,
        #[prost(bool, tag = "11")]
        pub(crate) join_leave: bool,
        #[prost(string, tag = "12")]
        pub(crate) delta: String,
        #[prost(message, optional, tag = "13")]
        pub(crate) tf: Option<FilterNode>,
        #[prost(int64, tag = "14")]
        pub(crate) flag: i64,
        #[prost(int32, tag = "15")]
        pub(crate) r#type: i32,
        #[prost(int32, tag = "16")]
        pub(crate) phase: i32,
        #[prost(string, tag = "17")]
        pub(crate) cursor: String,
        #[prost(int32, tag = "18")]
        pub(crate) limit: i32,
        #[prost(bool, tag = "19")]
        pub(crate) asc: bool,
    }
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        "[a-z:#$]{1,12}",
        any::<String>(),
        "[\\x00-\\x7f\"\\\\]{0,8}",
    ]
}

fn json_value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        // Exact in binary, so that every reader gives back the same number.
        any::<i32>().prop_map(|eighths| (f64::from(eighths) / 8.0).into()),
        text().prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            collection::btree_map(text(), inner, 0..4)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Data that both codecs can carry; pretty-printed data loses its newlines, so it is not made here.
fn raw() -> impl Strategy<Value = Raw> {
    prop_oneof![
        Just(Raw::default()),
        json_value().prop_map(|value| Raw::from(value.to_string())),
    ]
}

fn tags() -> impl Strategy<Value = BTreeMap<String, String>> {
    collection::btree_map(text(), text(), 0..3)
}

fn client_info() -> impl Strategy<Value = ClientInfo> {
    (text(), text(), raw(), raw()).prop_map(|(user, client, conn_info, chan_info)| ClientInfo {
        user,
        client,
        conn_info,
        chan_info,
    })
}

fn publication() -> impl Strategy<Value = Publication> {
    (
        (raw(), option::of(client_info()), any::<u64>(), tags()),
        (any::<bool>(), any::<i64>(), text(), text()),
        (any::<bool>(), any::<i64>(), text(), raw(), any::<u64>()),
    )
        .prop_map(
            |(
                (data, info, offset, tags),
                (delta, time, channel, key),
                (removed, score, epoch, prev_data, version),
            )| Publication {
                data,
                info: info.map(Box::new),
                offset,
                tags,
                delta,
                time,
                channel,
                key,
                removed,
                score: ZigZag(score),
                epoch,
                prev_data,
                version,
            },
        )
}

fn filter_node() -> impl Strategy<Value = FilterNode> {
    let leaf = (
        text(),
        text(),
        text(),
        text(),
        collection::vec(text(), 0..3),
    )
        .prop_map(|(op, key, cmp, val, vals)| FilterNode {
            op,
            key,
            cmp,
            val,
            vals,
            nodes: Vec::new(),
        });
    leaf.prop_recursive(4, 12, 3, |inner| {
        (text(), collection::vec(inner, 1..3)).prop_map(|(op, nodes)| FilterNode {
            op,
            nodes,
            ..FilterNode::default()
        })
    })
}

fn subscribe_request() -> impl Strategy<Value = SubscribeRequest> {
    (
        (text(), text(), any::<bool>(), text(), any::<u64>(), raw()),
        (any::<bool>(), any::<bool>(), any::<bool>(), text()),
        (option::of(filter_node()), any::<i64>(), any::<i32>()),
        (any::<i32>(), text(), any::<i32>(), any::<bool>()),
    )
        .prop_map(
            |(
                (channel, token, recover, epoch, offset, data),
                (positioned, recoverable, join_leave, delta),
                (tf, flag, r#type),
                (phase, cursor, limit, asc),
            )| SubscribeRequest {
                channel,
                token,
                recover,
                epoch,
                offset,
                data,
                positioned,
                recoverable,
                join_leave,
                delta,
                tf: tf.map(Box::new),
                flag,
                r#type,
                phase,
                cursor,
                limit,
                asc,
            },
        )
}

fn command() -> impl Strategy<Value = Command> {
    let connect = (
        text(),
        raw(),
        collection::btree_map(text(), subscribe_request(), 0..3),
        tags(),
    )
        .prop_map(|(token, data, subs, headers)| ConnectRequest {
            token,
            data,
            subs,
            headers,
            ..ConnectRequest::default()
        });
    let publish = (text(), raw()).prop_map(|(channel, data)| PublishRequest {
        channel,
        data,
        ..PublishRequest::default()
    });
    let send = raw().prop_map(|data| SendRequest { data });
    (
        any::<u32>(),
        option::of(connect),
        option::of(subscribe_request()),
        option::of(publish),
        option::of(send),
    )
        .prop_map(|(id, connect, subscribe, publish, send)| Command {
            id,
            connect: connect.map(Box::new),
            subscribe: subscribe.map(Box::new),
            publish: publish.map(Box::new),
            send: send.map(Box::new),
            ..Command::default()
        })
}

fn subscribe_result() -> impl Strategy<Value = SubscribeResult> {
    (
        collection::vec(publication().prop_map(Arc::new), 0..3),
        any::<bool>(),
        any::<u32>(),
        text(),
        any::<u64>(),
        raw(),
    )
        .prop_map(
            |(publications, expires, ttl, epoch, offset, data)| SubscribeResult {
                expires,
                ttl,
                epoch,
                publications,
                offset,
                data,
                ..SubscribeResult::default()
            },
        )
}

fn reply() -> impl Strategy<Value = Reply> {
    let push = (text(), publication(), option::of(client_info())).prop_map(
        |(channel, publication, info)| Push {
            channel,
            r#pub: Some(publication.into()),
            join: Some(Box::new(Join {
                info: info.map(Box::new),
            })),
            ..Push::default()
        },
    );
    let connect = (
        text(),
        collection::btree_map(text(), subscribe_result(), 0..3),
        any::<i64>(),
    )
        .prop_map(|(client, subs, time)| ConnectResult {
            client,
            subs,
            time,
            ..ConnectResult::default()
        });
    let history =
        collection::vec(publication().prop_map(Arc::new), 0..3).prop_map(|publications| {
            HistoryResult {
                publications,
                ..HistoryResult::default()
            }
        });
    let rpc = raw().prop_map(|data| RpcResult { data });
    (
        any::<u32>(),
        option::of(push),
        option::of(connect),
        option::of(history),
        option::of(rpc),
    )
        .prop_map(|(id, push, connect, history, rpc)| Reply {
            id,
            push: push.map(Box::new),
            connect: connect.map(Box::new),
            history: history.map(Box::new),
            rpc: rpc.map(Box::new),
            ..Reply::default()
        })
}

const CODECS: [Codec; 2] = [Codec::Json, Codec::Protobuf];

fn roomy() -> Limits {
    Limits {
        json_depth: 64,
        protobuf_depth: 64,
        ..Limits::default()
    }
}

/// Bytes that look enough like frames to get past the first check.
fn nearly_a_frame() -> impl Strategy<Value = Vec<u8>> {
    let token = prop_oneof![
        Just("{"),
        Just("}"),
        Just("["),
        Just("]"),
        Just(","),
        Just(":"),
        Just("\n"),
        Just("\"id\""),
        Just("\"publish\""),
        Just("\"subscribe\""),
        Just("\"tf\""),
        Just("\"nodes\""),
        Just("\"data\""),
        Just("1"),
        Just("-0.5e+7"),
        Just("null"),
        Just("true"),
        Just("\"\\ud83d\\ude00\""),
        Just("\"\\u"),
    ];
    let json = collection::vec(token, 0..24).prop_map(|tokens| tokens.concat().into_bytes());
    let binary = collection::vec(
        prop_oneof![0u8..0x20, Just(0x3a), Just(0x2a), Just(0x80), any::<u8>()],
        0..48,
    );
    prop_oneof![json, binary]
}

proptest! {
    #[test]
    fn commands_come_back_in_both_codecs(commands in collection::vec(command(), 1..4)) {
        for codec in CODECS {
            let frame = encode_commands(codec, &commands).unwrap();
            prop_assert_eq!(&decode_frame(codec, &frame, &roomy()).unwrap(), &commands);
        }
    }

    #[test]
    fn replies_come_back_in_both_codecs(reply in reply()) {
        for codec in CODECS {
            let bytes = encode_reply(codec, &reply).unwrap();
            prop_assert_eq!(&decode_replies(codec, &bytes).unwrap(), std::slice::from_ref(&reply));
            let frame = Frame::reply(codec, Framing::WebSocket, &reply).unwrap();
            prop_assert_eq!(frame.payload(), bytes);
        }
    }

    #[test]
    fn encoded_json_is_one_line_that_another_reader_understands(reply in reply()) {
        let bytes = encode_reply(Codec::Json, &reply).unwrap();
        prop_assert!(!bytes.contains(&b'\n'));
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        prop_assert_eq!(value["id"].as_u64().unwrap_or(0), u64::from(reply.id));
        if let Some(push) = &reply.push {
            let offset = value["push"]["pub"]["offset"].as_u64().unwrap_or(0);
            prop_assert_eq!(offset, push.r#pub.as_ref().unwrap().offset);
        }
    }

    #[test]
    fn prost_reads_what_we_write_and_writes_what_we_read(
        publication in publication(),
        request in subscribe_request(),
    ) {
        use prost::Message as _;

        let bytes = publication.encode(Codec::Protobuf).unwrap();
        let judged = judge::Publication::decode(bytes.as_slice()).unwrap();
        prop_assert_eq!(judged.score, publication.score.0);
        prop_assert_eq!(&judged.tags, &publication.tags);
        let back = judged.encode_to_vec();
        let back = Publication::decode(Codec::Protobuf, &back, &roomy()).unwrap();
        prop_assert_eq!(back, publication);

        let bytes = request.encode(Codec::Protobuf).unwrap();
        let judged = judge::SubscribeRequest::decode(bytes.as_slice()).unwrap();
        prop_assert_eq!(judged.encoded_len(), bytes.len());
        let back = judged.encode_to_vec();
        let back = SubscribeRequest::decode(Codec::Protobuf, &back, &roomy()).unwrap();
        prop_assert_eq!(back, request);
    }

    #[test]
    fn the_json_checker_agrees_with_serde_json(bytes in prop_oneof![
        nearly_a_frame(),
        json_value().prop_map(|value| value.to_string().into_bytes()),
        json_value().prop_map(|value| serde_json::to_vec_pretty(&value).unwrap()),
        collection::vec(any::<u8>(), 0..16),
        "[ -~]{0,24}\"?[ -~]{0,8}".prop_map(String::into_bytes),
    ]) {
        let judged = std::str::from_utf8(&bytes)
            .is_ok_and(|text| serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok());
        prop_assert_eq!(Raw::parse_json(bytes).is_ok(), judged);
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in prop_oneof![
        collection::vec(any::<u8>(), 0..64),
        nearly_a_frame(),
    ]) {
        for codec in CODECS {
            let _ = decode_frame(codec, &bytes, &Limits::default());
            let _ = decode_replies(codec, &bytes);
            let _ = StreamPosition::decode(codec, &bytes, &Limits::default());
        }
    }

    #[test]
    fn cutting_a_frame_short_never_panics_and_never_invents(
        command in command(),
        cut in any::<prop::sample::Index>(),
    ) {
        for codec in CODECS {
            let frame = encode_commands(codec, std::slice::from_ref(&command)).unwrap();
            let cut = &frame[..cut.index(frame.len())];
            prop_assert!(decode_frame(codec, cut, &roomy()).is_err());
        }
    }

    #[test]
    fn a_trailing_newline_changes_nothing(frame in prop_oneof![
        nearly_a_frame(),
        collection::vec(command(), 1..3)
            .prop_map(|commands| encode_commands(Codec::Json, &commands).unwrap()),
    ]) {
        prop_assume!(!frame.ends_with(b"\n"));
        let with_newline = [frame.as_slice(), b"\n"].concat();
        prop_assert_eq!(
            decode_frame(Codec::Json, &frame, &Limits::default()),
            decode_frame(Codec::Json, &with_newline, &Limits::default())
        );
    }

    #[test]
    fn pretty_printed_data_arrives_whole_on_one_line(value in json_value()) {
        let publication = Publication {
            data: serde_json::to_vec_pretty(&value).unwrap().into(),
            ..Publication::default()
        };
        let bytes = publication.encode(Codec::Json).unwrap();
        prop_assert!(!bytes.contains(&b'\n'));
        let back: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        prop_assert_eq!(&back["data"], &value);
    }
}

#[test]
fn the_reason_labels_are_distinct() {
    let reasons = [
        DecodeReason::EmptyFrame,
        DecodeReason::EmptyLine,
        DecodeReason::TooManyCommands,
        DecodeReason::NotUtf8,
        DecodeReason::Syntax,
        DecodeReason::TooDeep,
        DecodeReason::DuplicateMember,
        DecodeReason::WrongType,
        DecodeReason::Truncated,
        DecodeReason::BadWireFormat,
    ];
    let labels: std::collections::BTreeSet<_> =
        reasons.iter().map(|reason| reason.label()).collect();
    assert_eq!(labels.len(), reasons.len());
}
