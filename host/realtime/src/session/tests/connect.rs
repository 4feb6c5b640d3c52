//! Who may connect, what the connect result says, and the subscriptions that come with it.

use tidegate_protocol::ConnectRequest;

use super::*;
use crate::config::MAX_PAGE_BYTES;

#[test]
fn who_may_connect_without_a_hook() {
    let without_token = r#"{"id":1,"connect":{}}"#;
    Harness::new(with_tokens()).closes(without_token, 3501);
    Harness::new(with_tokens()).closes(r#"{"id":1,"connect":{"token":"x"}}"#, 3500);
    // Without keys no token is good.
    Harness::new(settings()).closes(&connect_with(r#"{"sub":"1"}"#), 3500);
    let mut insecure = with_tokens();
    insecure.client.is_insecure = true;
    assert!(matches!(
        Harness::new(insecure.clone()).run(without_token),
        Step::Done
    ));
    assert!(matches!(
        Harness::new(insecure).run(&connect_with(r#"{"sub":"1","exp":1}"#)),
        Step::Done
    ));
    let mut named_only = with_tokens();
    named_only.token.disallow_anonymous = true;
    Harness::new(named_only).closes(&connect_with("{}"), 3507);
}

#[test]
fn a_connect_result_says_who_and_how_long() {
    let mut harness = Harness::new(with_tokens());
    let claims = format!(r#"{{"sub":"42","exp":{},"info":{{"a":1}}}}"#, UNIX + 60);
    assert!(matches!(harness.run(&connect_with(&claims)), Step::Done));
    let result = harness.reply().connect.unwrap();
    assert_eq!((result.expires, result.ttl), (true, 60));
    assert_eq!((result.ping, result.pong), (25, true));
    assert_eq!(result.client, harness.session.peer().client.to_string());
    assert_eq!(&*harness.session.peer().user, "42");
    assert_eq!(harness.session.peer().info, r#"{"a":1}"#);
}

#[test]
fn server_side_subscriptions_come_with_the_connect_result() {
    let mut harness = Harness::new(with_tokens());
    let claims = r#"{"sub":"42","channels":["a","b"]}"#;
    assert!(matches!(harness.run(&connect_with(claims)), Step::Done));
    let result = harness.reply().connect.unwrap();
    assert_eq!(result.subs.keys().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(harness.session.num_subscriptions(), 2);
    // The client cannot end them, and a lost position ends the connection.
    harness.run(r#"{"id":2,"unsubscribe":{"channel":"a"}}"#);
    assert_eq!(harness.session.num_subscriptions(), 2);
    let gap = Signal::Gap(ChannelKey::new(&AppId::default_app(), "a"));
    let step = harness.with(|session, context, sink| session.on_signal(&gap, context, sink));
    assert!(matches!(step, Step::Close(closing) if closing.code == 3010));
}

#[test]
fn labels_of_a_client_are_bounded() {
    let long = "x".repeat(65);
    for text in [
        format!(r#"{{"id":1,"connect":{{"name":"{long}"}}}}"#),
        format!(r#"{{"id":1,"connect":{{"subs":{{"a":{{"recover":true,"epoch":"{long}"}}}}}}}}"#),
    ] {
        Harness::new(settings()).fails(&text, 107);
    }
}

#[test]
fn a_connect_that_asks_for_too_many_channels_is_closed() {
    let mut request = ConnectRequest::default();
    for index in 0..129 {
        request.subs.insert(format!("c{index}"), Default::default());
    }
    let mut harness = Harness::new(settings());
    let command = Command {
        id: 1,
        connect: Some(Box::new(request)),
        ..Command::default()
    };
    let step = harness.with(|session, context, sink| session.handle(command, context, sink));
    assert!(matches!(step, Step::Close(closing) if closing.code == 3505));
}

#[test]
fn an_unknown_delta_in_a_connect_is_a_bad_request() {
    let text = r#"{"id":1,"connect":{"subs":{"a":{"delta":"xor"}}}}"#;
    Harness::new(settings()).closes(text, 3501);
}

#[test]
fn channels_made_on_request_do_not_count_as_the_tokens() {
    let mut harness = Harness::new(with_tokens());
    let claims = format!(r#"{{"sub":"42","exp":{},"channels":["a"]}}"#, UNIX + 50);
    let Step::Ask(Ask::Connect(ask)) = harness.say(&connect_with(&claims)) else {
        panic!("asks");
    };
    let seats = [("a", MadeBy::Identity), ("b", MadeBy::Request)];
    let seats = seats.map(|(channel, made_by)| Seated {
        channel: channel.into(),
        made_by,
        seat: FakeSeat::new(channel),
        terms: Terms::default(),
        attendance: None,
        page: None,
    });
    harness.answer(Answer::Connect(Ok(Box::new(Admission {
        identity: *ask.builtin.unwrap(),
        is_by_hook: false,
        seats: seats.into(),
    }))));
    let subs = harness.reply().connect.unwrap().subs;
    assert_eq!(subs.keys().collect::<Vec<_>>(), ["a", "b"]);
    // The client cannot end either of them.
    harness.run(r#"{"id":2,"unsubscribe":{"channel":"b"}}"#);
    harness.take();
    assert_eq!(harness.session.num_subscriptions(), 2);
    harness.run(&format!(
        r#"{{"id":3,"refresh":{{"token":"{}"}}}}"#,
        token(&claims)
    ));
    assert!(harness.reply().refresh.is_some());
}

#[test]
fn recoveries_of_one_connect_share_its_limit_in_bytes() {
    let mut harness = Harness::new(settings());
    harness.say(r#"{"id":1,"connect":{}}"#);
    let half = MAX_PAGE_BYTES / 2;
    let seats = ["a", "b", "c"].map(|channel| Seated {
        channel: channel.into(),
        made_by: MadeBy::Request,
        seat: FakeSeat::new(channel),
        terms: Terms {
            is_positioned: true,
            is_recoverable: true,
            recover_from: Some(StreamPosition {
                offset: 6,
                epoch: "epoch".to_owned(),
            }),
            ..Terms::default()
        },
        attendance: None,
        page: Some(HistoryPage {
            publications: vec![Arc::new(Publication {
                offset: 7,
                data: bytes::Bytes::from(vec![b'1'; half]).into(),
                ..Publication::default()
            })],
            ..page(7)
        }),
    });
    harness.answer(Answer::Connect(Ok(Box::new(Admission {
        identity: Identity::default(),
        is_by_hook: false,
        seats: seats.into(),
    }))));
    let subs = harness.reply().connect.unwrap().subs;
    // One and its overhead leave less than half.
    assert!(subs["a"].recovered && subs["a"].publications.len() == 1);
    for channel in ["b", "c"] {
        let lost = &subs[channel];
        assert!(lost.was_recovering && !lost.recovered && lost.publications.is_empty());
        assert_eq!(lost.offset, 7);
    }
}
