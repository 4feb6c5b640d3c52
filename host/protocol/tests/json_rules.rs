//! What JSON looks like on the wire: zero values, always-present members, embedded data, frames.

use std::collections::BTreeMap;

use tidegate_protocol::{
    ClientInfo, Codec, Command, Commands, DecodeReason, DisconnectCode, Error, ErrorCode,
    HistoryResult, Join, Limits, PresenceResult, PresenceStatsResult, Publication, PublishRequest,
    PublishResult, Push, Raw, Reply, Request, SendRequest, SubscribeResult, ZigZag, decode_frame,
    encode_reply,
};

fn json(reply: &Reply) -> String {
    let bytes = encode_reply(Codec::Json, reply).expect("the reply can be written as JSON");
    String::from_utf8(bytes).expect("JSON is text")
}

fn push(publication: Publication) -> Reply {
    Reply::from_push(Push {
        channel: "news".to_owned(),
        r#pub: Some(publication.into()),
        ..Push::default()
    })
}

fn decode(frame: &str) -> Result<Vec<Command>, DecodeReason> {
    decode_frame(Codec::Json, frame.as_bytes(), &Limits::default()).map_err(|error| error.reason)
}

#[test]
fn zero_values_are_left_out_and_empty_results_are_not() {
    assert_eq!(json(&Reply::ping()), "{}");
    let reply = Reply {
        id: 3,
        publish: Some(Box::new(PublishResult {})),
        ..Reply::default()
    };
    assert_eq!(json(&reply), r#"{"id":3,"publish":{}}"#);
    let reply = Reply {
        id: 2,
        subscribe: Some(Box::default()),
        ..Reply::default()
    };
    assert_eq!(json(&reply), r#"{"id":2,"subscribe":{}}"#);
}

#[test]
fn an_error_reply_says_temporary_only_when_it_is() {
    let permanent = Reply::from_error(4, ErrorCode::PermissionDenied.into());
    assert_eq!(
        json(&permanent),
        r#"{"id":4,"error":{"code":103,"message":"permission denied"}}"#
    );
    let temporary = Reply::from_error(5, Error::from(ErrorCode::Internal));
    assert_eq!(
        json(&temporary),
        r#"{"id":5,"error":{"code":100,"message":"internal server error","temporary":true}}"#
    );
}

#[test]
fn members_that_clients_rely_on_are_always_present() {
    let reply = |reply: Reply| json(&Reply { id: 1, ..reply });
    assert_eq!(
        reply(Reply {
            history: Some(Box::new(HistoryResult::default())),
            ..Reply::default()
        }),
        r#"{"id":1,"history":{"publications":[],"epoch":"","offset":0}}"#
    );
    assert_eq!(
        reply(Reply {
            presence: Some(Box::new(PresenceResult::default())),
            ..Reply::default()
        }),
        r#"{"id":1,"presence":{"presence":{}}}"#
    );
    assert_eq!(
        reply(Reply {
            presence_stats: Some(Box::new(PresenceStatsResult::default())),
            ..Reply::default()
        }),
        r#"{"id":1,"presence_stats":{"num_clients":0,"num_users":0}}"#
    );
    let join = Reply::from_push(Push {
        channel: "c".to_owned(),
        join: Some(Box::new(Join {
            info: Some(Box::new(ClientInfo::default())),
        })),
        ..Push::default()
    });
    assert_eq!(
        json(&join),
        r#"{"push":{"channel":"c","join":{"info":{"user":"","client":""}}}}"#
    );
}

#[test]
fn data_is_embedded_as_it_is() {
    let publication = Publication {
        data: r#"{"a": [1, null]}"#.into(),
        offset: 7,
        tags: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
        score: ZigZag(-5),
        ..Publication::default()
    };
    assert_eq!(
        json(&push(publication)),
        r#"{"push":{"channel":"news","pub":{"data":{"a": [1, null]},"offset":7,"tags":{"k":"v"},"score":-5}}}"#
    );
}

#[test]
fn data_that_is_null_is_data() {
    let commands = decode(r#"{"id":1,"publish":{"channel":"c","data":null}}"#).unwrap();
    let publish = commands[0].publish.as_ref().unwrap();
    assert_eq!(publish.data.as_bytes().as_ref(), b"null");
    let publication = Publication {
        data: publish.data.clone(),
        ..Publication::default()
    };
    assert!(json(&push(publication)).contains(r#""pub":{"data":null}"#));
}

#[test]
fn raw_newlines_in_data_are_removed_because_they_would_break_the_frame() {
    let publication = Publication {
        data: "{\n  \"a\": \"\\n\"\n}".into(),
        ..Publication::default()
    };
    let text = json(&push(publication));
    assert!(text.contains(r#""data":{  "a": "\n"}"#), "{text}");
}

#[test]
fn data_that_is_not_json_maps_to_inappropriate_protocol() {
    for bad in [
        "",
        "{",
        "nul",
        "1 2",
        "\"\u{1}\"",
        "{\"a\":1,}",
        "[1,]",
        "01",
    ] {
        let publication = Publication {
            data: Raw::from(format!("{bad} ")),
            ..Publication::default()
        };
        let error = encode_reply(Codec::Json, &push(publication.clone())).unwrap_err();
        assert_eq!(error.disconnect(), DisconnectCode::InappropriateProtocol);
        assert!(encode_reply(Codec::Protobuf, &push(publication)).is_ok());
    }
}

#[test]
fn text_is_escaped_so_that_any_reader_gets_it_back() {
    let text: String = (0..=0x7f_u8)
        .map(char::from)
        .chain("é\u{2028}😀".chars())
        .collect();
    let reply = Reply::from_error(
        1,
        Error {
            code: 400,
            message: text.clone(),
            temporary: false,
        },
    );
    let value: serde_json::Value = serde_json::from_str(&json(&reply)).unwrap();
    assert_eq!(value["error"]["message"], text);
}

#[test]
fn unknown_members_are_ignored_and_still_must_be_json() {
    let commands = decode(r#"{"x":[{"y":1}],"id":1,"publish":{"z":"\ud800","channel":"c"}}"#);
    assert_eq!(commands.unwrap()[0].publish.as_ref().unwrap().channel, "c");
    assert_eq!(decode(r#"{"x":[1,],"id":1}"#), Err(DecodeReason::Syntax));
}

#[test]
fn a_member_may_appear_once() {
    for frame in [
        r#"{"id":1,"id":1}"#,
        r#"{"id":1,"publish":{"channel":"a","channel":"b"}}"#,
        r#"{"id":1,"publish":{},"publish":{}}"#,
        r#"{"id":1,"connect":{"headers":{"a":"1","\u0061":"2"}}}"#,
        r#"{"id":1,"connect":{"subs":{"a":{},"a":{}}}}"#,
    ] {
        assert_eq!(decode(frame), Err(DecodeReason::DuplicateMember), "{frame}");
    }
}

#[test]
fn a_null_member_is_not_set() {
    let commands = decode(r#"{"id":1,"connect":null,"publish":{"channel":null}}"#).unwrap();
    assert_eq!(commands[0].connect, None);
    assert_eq!(
        commands[0].publish,
        Some(Box::new(PublishRequest::default()))
    );
}

#[test]
fn a_value_of_the_wrong_type_is_refused() {
    for frame in [
        "[]",
        "1",
        "null",
        "\"a\"",
        r#"{"id":"1"}"#,
        r#"{"id":1.0}"#,
        r#"{"id":1e2}"#,
        r#"{"id":-1}"#,
        r#"{"id":4294967297}"#,
        r#"{"id":1,"publish":[]}"#,
        r#"{"id":1,"publish":{"channel":1}}"#,
        r#"{"id":1,"subscribe":{"recover":1}}"#,
        r#"{"id":1,"subscribe":{"offset":18446744073709551616}}"#,
        r#"{"id":1,"history":{"limit":2147483648}}"#,
        r#"{"id":1,"subscribe":{"tf":{"vals":[1]}}}"#,
    ] {
        assert_eq!(decode(frame), Err(DecodeReason::WrongType), "{frame}");
    }
}

#[test]
fn frames_are_lines_and_one_trailing_newline_is_tolerated() {
    let ids = |frame: &str| -> Result<Vec<u32>, DecodeReason> {
        Ok(decode(frame)?.iter().map(|command| command.id).collect())
    };
    assert_eq!(ids("{\"id\":1}"), Ok(vec![1]));
    assert_eq!(ids("{\"id\":1}\n"), Ok(vec![1]));
    assert_eq!(ids("{\"id\":1}\n{\"id\":2}"), Ok(vec![1, 2]));
    assert_eq!(ids("{\"id\":1}\r\n{\"id\":2}\r\n"), Ok(vec![1, 2]));
    assert_eq!(ids(""), Err(DecodeReason::EmptyFrame));
    assert_eq!(ids("\n"), Err(DecodeReason::EmptyFrame));
    assert_eq!(ids("{\"id\":1}\n\n"), Err(DecodeReason::EmptyLine));
    assert_eq!(ids("\n{\"id\":1}"), Err(DecodeReason::EmptyLine));
    assert_eq!(
        ids("{\"id\":1}\n\n{\"id\":2}"),
        Err(DecodeReason::EmptyLine)
    );
    assert_eq!(ids("{\"id\":1}{\"id\":2}"), Err(DecodeReason::Syntax));
    assert_eq!(ids("{\"id\":\n1}"), Err(DecodeReason::Syntax));
}

#[test]
fn commands_before_a_fault_can_be_carried_out() {
    let frame = b"{\"id\":1}\n{\"id\":2,x}\n{\"id\":3}";
    let mut commands = Commands::new(Codec::Json, frame, &Limits::default()).unwrap();
    assert_eq!(commands.next().unwrap().unwrap().id, 1);
    assert!(commands.next().unwrap().is_err());
    assert!(commands.next().is_none());
}

#[test]
fn c3_an_error_names_the_command_when_its_id_was_read() {
    let error = decode_frame(
        Codec::Json,
        br#"{"id":7,"publish":{"channel":1}}"#,
        &Limits::default(),
    );
    assert_eq!(error.unwrap_err().id, Some(7));
    let error = decode_frame(Codec::Json, b"{\"id\":", &Limits::default());
    assert_eq!(error.unwrap_err().id, None);
}

#[test]
fn the_first_request_in_the_order_of_the_table_decides() {
    let commands = decode(r#"{"id":1,"rpc":{},"publish":{},"history":{}}"#).unwrap();
    let request = commands.into_iter().next().unwrap().into_request();
    assert!(matches!(request, Some(Request::Publish(_))));
}

#[test]
fn an_id_of_zero_without_send_is_a_pong_whatever_else_it_holds() {
    assert!(decode("{}").unwrap()[0].is_pong());
    assert!(decode(r#"{"publish":{"channel":"c"}}"#).unwrap()[0].is_pong());
    let send = &decode(r#"{"send":{"data":1}}"#).unwrap()[0];
    assert!(!send.is_pong());
    assert_eq!(send.send, Some(Box::new(SendRequest { data: "1".into() })));
}

#[test]
fn json_may_nest_32_deep_and_no_deeper() {
    // The command and the request are two of them.
    let frame = |depth: usize| {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        format!(r#"{{"id":1,"publish":{{"channel":"c","data":{open}{close}}}}}"#)
    };
    assert!(decode(&frame(30)).is_ok());
    assert_eq!(decode(&frame(31)), Err(DecodeReason::TooDeep));
    assert_eq!(decode(&frame(10_000)), Err(DecodeReason::TooDeep));
    assert_eq!(decode(&"[".repeat(60_000)), Err(DecodeReason::TooDeep));
    let unknown = format!(r#"{{"x":{}{}}}"#, "[".repeat(32), "]".repeat(32));
    assert_eq!(decode(&unknown), Err(DecodeReason::TooDeep));
}

#[test]
fn a_frame_holds_256_commands_at_most() {
    let frame = |commands: usize| vec!["{\"id\":1}"; commands].join("\n");
    assert_eq!(decode(&frame(256)).unwrap().len(), 256);
    assert_eq!(decode(&frame(257)), Err(DecodeReason::TooManyCommands));
}

#[test]
fn lone_surrogates_are_refused_in_text_that_the_server_reads() {
    for channel in [r"\ud800", r"\udc00", r"\ud800\u0041", r"\ud800x"] {
        let frame = format!(r#"{{"id":1,"subscribe":{{"channel":"{channel}"}}}}"#);
        assert_eq!(decode(&frame), Err(DecodeReason::Syntax), "{channel}");
    }
    let commands = decode(r#"{"id":1,"subscribe":{"channel":"\ud83d\ude00\u0000\t\/"}}"#).unwrap();
    let subscribe = commands[0].subscribe.as_ref().unwrap();
    assert_eq!(subscribe.channel, "😀\0\t/");
}

#[test]
fn a_subscribe_result_keeps_the_order_and_names_of_the_protocol() {
    let result = SubscribeResult {
        recoverable: true,
        epoch: "abcd".to_owned(),
        publications: vec![Publication::default().into()],
        recovered: true,
        offset: 9,
        positioned: true,
        was_recovering: true,
        r#type: 1,
        ..SubscribeResult::default()
    };
    let reply = Reply {
        id: 1,
        subscribe: Some(Box::new(result)),
        ..Reply::default()
    };
    assert_eq!(
        json(&reply),
        r#"{"id":1,"subscribe":{"recoverable":true,"epoch":"abcd","publications":[{}],"recovered":true,"offset":9,"positioned":true,"was_recovering":true,"type":1}}"#
    );
}

#[test]
fn n4_what_a_message_shows_of_itself_holds_no_token_and_no_payload() {
    let frame = r#"{"id":1,"connect":{"token":"s3cret","data":{"p":"s3cret"},"name":"js"}}"#;
    let shown = format!("{:?}", decode(frame).unwrap()[0]);
    assert!(!shown.contains("s3cret"), "{shown}");
    assert!(
        shown.contains("js") && !shown.contains("headers"),
        "{shown}"
    );
}
