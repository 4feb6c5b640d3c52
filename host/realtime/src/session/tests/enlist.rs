//! Subscriptions that the server API makes.

use tidegate_protocol::server_api::Position;

use super::*;

fn enlistment(channel: &str) -> Enlistment {
    serde_json::from_str(&format!(
        r#"{{"channel":"{channel}","info":"","data":"MQ==","expires_at":null,"recover_since":null,
            "presence":null,"join_leave":null,"force_push_join_leave":null,"force_positioning":null,"force_recovery":true}}"#
    ))
    .unwrap()
}

impl Harness {
    /// Orders subscriptions and carries out what is asked for them.
    fn enlist(&mut self, enlistment: Enlistment) -> Step {
        self.signal(&Signal::Subscribe(Arc::new(enlistment)));
        self.enlist_all()
    }

    fn enlist_all(&mut self) -> Step {
        while self.session.has_enlistments() {
            if let Step::Ask(ask) = self.with(Session::enlist_next) {
                let answer = self.answer_of(ask);
                let step = self.answer(answer);
                if !matches!(step, Step::Done) {
                    return step;
                }
            }
        }
        Step::Done
    }

    fn channels_pushed(&mut self) -> Vec<String> {
        let subscribed = |sent: Sent| match sent {
            Sent::Reply(reply) => {
                let push = reply.push?;
                push.subscribe.is_some().then_some(push.channel)
            }
            _ => None,
        };
        self.take().into_iter().filter_map(subscribed).collect()
    }
}

#[test]
fn the_client_is_told_and_the_subscription_is_the_servers() {
    let mut harness = Harness::connected();
    harness.enlist(enlistment("news"));
    let push = harness.reply().push.unwrap();
    assert_eq!(push.channel, "news");
    let told = push.subscribe.unwrap();
    assert!(told.recoverable && told.positioned);
    assert_eq!((told.offset, told.epoch.as_str()), (7, "epoch"));
    assert_eq!(told.data.as_bytes(), "1");
    harness.run(r#"{"id":2,"unsubscribe":{"channel":"news"}}"#);
    assert_eq!(harness.session.num_subscriptions(), 1);
    let gap = Signal::Gap(ChannelKey::new(&AppId::default_app(), "news"));
    let step = harness.signal(&gap);
    assert!(matches!(step, Step::Close(closing) if closing.code == 3010));
}

#[test]
fn what_was_missed_since_a_position_follows_the_news() {
    let mut harness = Harness::connected();
    let since = Position {
        offset: 6,
        epoch: "epoch".to_owned(),
    };
    let order = Enlistment {
        recover_since: Some(since),
        ..enlistment("news")
    };
    harness.signal(&Signal::Subscribe(Arc::new(order)));
    let Step::Ask(Ask::Enlist(ask)) = harness.with(Session::enlist_next) else {
        panic!("asks");
    };
    let mut seated = enlisted(*ask);
    let missed = Publication {
        offset: 7,
        ..Publication::default()
    };
    seated.page.as_mut().unwrap().publications = vec![Arc::new(missed)];
    harness.answer(Answer::Enlist(Ok(Box::new(seated))));
    let sent = harness.take();
    let Sent::Reply(told) = &sent[0] else {
        panic!("{sent:?}");
    };
    let told = told.push.as_ref().unwrap().subscribe.as_ref().unwrap();
    assert_eq!(told.offset, 6, "the client advances by what follows");
    assert_eq!(sent[1], Sent::Publication("news".into(), 7));
}

#[test]
fn several_wait_for_their_turn_and_for_the_command_in_hand() {
    let mut harness = Harness::connected();
    let step = harness.say(r#"{"id":2,"subscribe":{"channel":"own"}}"#);
    let Step::Ask(ask) = step else {
        panic!("asks");
    };
    for channel in ["a", "b", "own"] {
        let order = Arc::new(enlistment(channel));
        assert!(matches!(
            harness.signal(&Signal::Subscribe(order)),
            Step::Done
        ));
    }
    let answer = harness.answer_of(ask);
    harness.answer(answer);
    harness.enlist_all();
    // The client has one of them by itself.
    assert_eq!(harness.channels_pushed(), ["a", "b"]);
    assert_eq!(harness.session.num_subscriptions(), 3);
}

#[test]
fn what_is_taken_away_before_its_turn_never_comes() {
    let mut harness = Harness::connected();
    let unsubscribe = |channel: &str| Signal::Unsubscribe {
        channel: channel.into(),
        code: 2000,
        reason: "x".into(),
    };
    for channel in ["a", "b", "c"] {
        harness.signal(&Signal::Subscribe(Arc::new(enlistment(channel))));
    }
    let Step::Ask(ask) = harness.with(Session::enlist_next) else {
        panic!("asks");
    };
    harness.signal(&unsubscribe("a"));
    harness.signal(&unsubscribe("b"));
    let answer = harness.answer_of(ask);
    harness.answer(answer);
    harness.enlist_all();
    assert_eq!(harness.channels_pushed(), ["c"]);
}

#[test]
fn a_subscription_ends_when_it_was_said_to_and_the_limit_holds() {
    let mut harness = Harness::connected();
    harness.enlist(Enlistment {
        expires_at: Some(UNIX + 60),
        ..enlistment("news")
    });
    let mut step = harness.advance(Duration::from_secs(59));
    if let Step::Ask(ask) = step {
        let answer = harness.answer_of(ask);
        step = harness.answer(answer);
    }
    assert!(matches!(step, Step::Done));
    let step = harness.advance(Duration::from_secs(1));
    assert!(matches!(step, Step::Close(closing) if closing.code == 3006));

    let mut limited = settings();
    limited.client.channel_limit = 1;
    let mut harness = Harness::connected_with(limited);
    harness.enlist(enlistment("a"));
    harness.enlist(enlistment("b"));
    assert_eq!(harness.channels_pushed(), ["a"]);
}
