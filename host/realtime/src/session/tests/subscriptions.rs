//! How subscriptions begin, and how others end them.

use tidegate_protocol::UnsubscribeCode;

use super::*;

#[test]
fn a_subscription_recovers_or_says_that_it_did_not() {
    let text = r#"{"id":2,"subscribe":{"channel":"news","recover":true,"recoverable":true,"offset":5,"epoch":"epoch"}}"#;
    let publication = |offset| {
        Arc::new(Publication {
            offset,
            ..Publication::default()
        })
    };
    let mut harness = Harness::connected();
    let Step::Ask(Ask::Subscribe(ask)) = harness.say(text) else {
        panic!("asks");
    };
    let terms = decide(&ask, AuthorizationVerdict::NotMine, UNIX).unwrap();
    let mut whole = page(7);
    whole.publications = vec![publication(6), publication(7)];
    harness.answer(Answer::Subscribe(Ok(Box::new(seated(&ask, terms, whole)))));
    let result = harness.reply().subscribe.unwrap();
    assert!(result.recovered && result.was_recovering && result.positioned);
    assert_eq!((result.offset, result.publications.len()), (5, 2));

    let mut harness = Harness::connected();
    harness.run(text);
    let result = harness.reply().subscribe.unwrap();
    assert!(!result.recovered && result.was_recovering);
    assert_eq!((result.offset, result.publications.len()), (7, 0));

    let must = text.replace(r#""recover""#, r#""flag":2,"recover""#);
    let mut harness = Harness::connected();
    harness.fails(&must, 112);
    assert_eq!(harness.session.num_subscriptions(), 0);
}

#[test]
fn a_reply_precedes_what_was_published_meanwhile() {
    let mut harness = Harness::connected();
    let Step::Ask(Ask::Subscribe(ask)) = harness.say(r#"{"id":2,"subscribe":{"channel":"news"}}"#)
    else {
        panic!("asks");
    };
    let terms = decide(&ask, AuthorizationVerdict::NotMine, UNIX).unwrap();
    let seated = seated(&ask, terms, page(0));
    seated.seat.buffered.borrow_mut().push(BufferedPublication {
        publication: Arc::default(),
        position: None,
    });
    harness.answer(Answer::Subscribe(Ok(Box::new(seated))));
    let sent = harness.take();
    assert!(matches!(&sent[0], Sent::Reply(reply) if reply.subscribe.is_some()));
    assert_eq!(sent[1], Sent::Publication("news".into(), 0));
}

#[test]
fn a_gap_ends_a_clients_subscription_so_that_it_comes_back() {
    let mut harness = Harness::connected();
    harness.run(r#"{"id":2,"subscribe":{"channel":"news"}}"#);
    harness.take();
    let gap = Signal::Gap(ChannelKey::new(&AppId::default_app(), "news"));
    harness.with(|session, context, sink| session.on_signal(&gap, context, sink));
    let push = harness.reply().push.unwrap();
    let code = UnsubscribeCode::InsufficientState.code();
    assert_eq!(push.unsubscribe.unwrap().code, code);
    assert_eq!(harness.session.num_subscriptions(), 0);
}

/// Asks for `news` and leaves the question open.
fn asks(harness: &mut Harness) -> Box<SubscribeAsk> {
    match harness.say(r#"{"id":2,"subscribe":{"channel":"news"}}"#) {
        Step::Ask(Ask::Subscribe(ask)) => ask,
        step => panic!("{step:?}"),
    }
}

fn unsubscribe(channel: &str) -> Signal {
    Signal::Unsubscribe {
        channel: channel.into(),
        code: 2000,
        reason: "server unsubscribe".into(),
    }
}

#[test]
fn a_subscription_taken_away_while_it_is_asked_about_ends_when_it_is_there() {
    for named in ["news", ""] {
        let mut harness = Harness::connected();
        let ask = asks(&mut harness);
        assert!(matches!(harness.signal(&unsubscribe(named)), Step::Done));
        assert!(harness.take().is_empty());
        let answer = harness.answer_of(Ask::Subscribe(ask));
        assert!(matches!(harness.answer(answer), Step::Done));
        let sent = harness.take();
        let [Sent::Reply(reply), Sent::Reply(push)] = &sent[..] else {
            panic!("{sent:?}");
        };
        assert!(reply.subscribe.is_some());
        let push = push.push.as_ref().unwrap();
        assert_eq!(push.channel, "news");
        assert_eq!(push.unsubscribe.as_ref().unwrap().code, 2000);
        assert_eq!(harness.session.num_subscriptions(), 0);
    }
}

#[test]
fn a_subscription_that_was_refused_or_not_meant_needs_no_taking_away() {
    let mut harness = Harness::connected();
    asks(&mut harness);
    harness.signal(&unsubscribe("news"));
    let refused = Err(ErrorCode::PermissionDenied.into());
    harness.answer(Answer::Subscribe(refused));
    assert_eq!(harness.reply().error.unwrap().code, 103);
    let ask = asks(&mut harness);
    harness.signal(&unsubscribe("other"));
    let answer = harness.answer_of(Ask::Subscribe(ask));
    harness.answer(answer);
    assert!(harness.reply().subscribe.is_some());
    assert_eq!(harness.session.num_subscriptions(), 1);
}

#[test]
fn more_than_three_thousand_publications_recover_where_they_are_allowed() {
    let recovered = |limit: usize| {
        let mut settings = settings();
        settings.client.recovery_max_publications = limit;
        let mut harness = Harness::connected_with(settings);
        let text = r#"{"id":2,"subscribe":{"channel":"news","recover":true,"recoverable":true,"epoch":"epoch"}}"#;
        let Step::Ask(Ask::Subscribe(ask)) = harness.say(text) else {
            panic!("asks");
        };
        let terms = decide(&ask, AuthorizationVerdict::NotMine, UNIX).unwrap();
        let mut whole = page(5_000);
        whole.publications = (1..=5_000)
            .map(|offset| {
                Arc::new(Publication {
                    offset,
                    ..Publication::default()
                })
            })
            .collect();
        harness.answer(Answer::Subscribe(Ok(Box::new(seated(&ask, terms, whole)))));
        harness.reply().subscribe.unwrap().recovered
    };
    assert!(recovered(5_000));
    assert!(!recovered(300));
}
