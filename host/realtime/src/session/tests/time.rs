//! What happens by itself: pings, expiry, rates.

use super::*;
use crate::hooks::{HookFailure, Refusal};

#[test]
fn a_failed_connect_leaves_nothing_but_the_stale_close() {
    let mut harness = Harness::new(with_tokens());
    harness.fails(&connect_with(r#"{"sub":"42","exp":1}"#), 109);
    harness.closes(r#"{"id":2,"connect":{}}"#, 3501);
    assert!(matches!(
        harness.advance(Duration::from_secs(9)),
        Step::Done
    ));
    let step = harness.advance(Duration::from_secs(1));
    assert!(matches!(step, Step::Close(closing) if closing.code == 3502));
}

#[test]
fn a_client_refreshes_in_time_or_goes() {
    let claims =
        |seconds: u64, user: &str| format!(r#"{{"sub":"{user}","exp":{}}}"#, UNIX + seconds);
    let refresh = |token: &str| format!(r#"{{"id":2,"refresh":{{"token":"{token}"}}}}"#);
    let connected = || {
        let mut harness = Harness::new(with_tokens());
        assert!(matches!(
            harness.run(&connect_with(&claims(5, "42"))),
            Step::Done
        ));
        harness.take();
        harness
    };
    let mut harness = connected();
    harness.run(&refresh(&token(&claims(100, "42"))));
    let result = harness.reply().refresh.unwrap();
    assert_eq!((result.expires, result.ttl), (true, 100));
    connected().closes(&refresh(""), 3501);
    connected().closes(&refresh("x"), 3500);
    connected().closes(&refresh(&token(&claims(100, "43"))), 3500);
    connected().closes(&refresh(&token(r#"{"sub":"42","exp":1}"#)), 3005);
    let other_channels = format!(r#"{{"sub":"42","exp":{},"channels":["a"]}}"#, UNIX + 100);
    connected().closes(&refresh(&token(&other_channels)), 3010);
    let mut silent = connected();
    silent.settings.client.ping_interval = Duration::from_secs(1000);
    silent.session.next_ping += Duration::from_secs(1000);
    assert!(matches!(
        silent.advance(Duration::from_secs(29)),
        Step::Done
    ));
    let step = silent.advance(Duration::from_secs(1));
    assert!(matches!(step, Step::Close(closing) if closing.code == 3005));
}

#[test]
fn pings_are_answered_or_the_connection_ends() {
    let mut harness = Harness::connected();
    // The jitter of zero puts the first ping at half of the interval.
    assert!(matches!(
        harness.advance(Duration::from_secs(12)),
        Step::Done
    ));
    assert!(harness.take().is_empty());
    assert!(matches!(
        harness.advance(Duration::from_secs(1)),
        Step::Done
    ));
    assert_eq!(harness.take(), [Sent::Ping]);
    assert!(matches!(harness.run("{}"), Step::Done));
    harness.closes("{}", 3501);
    let mut harness = Harness::connected();
    harness.advance(Duration::from_secs(13));
    assert!(matches!(
        harness.advance(Duration::from_secs(7)),
        Step::Done
    ));
    let step = harness.advance(Duration::from_secs(1));
    assert!(matches!(step, Step::Close(closing) if closing.code == 3012));
}

#[test]
fn native_pings_take_the_place_of_empty_messages() {
    let connected = || {
        let mut harness = Harness::new(settings());
        harness.session = Session::new(peer(), harness.now.instant, 0).with_pings(Pings::Native);
        harness.run(r#"{"id":1,"connect":{}}"#);
        let result = harness.reply().connect.unwrap();
        assert_eq!((result.ping, result.pong), (0, false));
        harness.advance(Duration::from_secs(13));
        assert_eq!(harness.take(), [Sent::NativePing]);
        harness
    };
    let mut harness = connected();
    harness.session.on_native_pong();
    assert!(matches!(
        harness.advance(Duration::from_secs(9)),
        Step::Done
    ));
    // Nobody asked, and nobody minds.
    harness.session.on_native_pong();
    // An empty command answers no ping of this kind.
    connected().closes("{}", 3501);
    let step = connected().advance(Duration::from_secs(8));
    assert!(matches!(step, Step::Close(closing) if closing.code == 3012));
}

#[test]
fn an_identity_of_a_hook_is_asked_for_again_before_it_ends() {
    let mut harness = Harness::new(settings());
    let Step::Ask(Ask::Connect(_)) = harness.say(r#"{"id":1,"connect":{}}"#) else {
        panic!("asks");
    };
    let identity = |user: &str, seconds| Identity {
        user: user.into(),
        expires_at: Some(UNIX + seconds),
        ..Identity::default()
    };
    harness.answer(Answer::Connect(Ok(Box::new(Admission {
        identity: identity("42", 60),
        is_by_hook: true,
        seats: Vec::new(),
    }))));
    let result = harness.reply().connect.unwrap();
    assert_eq!((result.expires, result.ttl), (false, 0));
    harness.closes(r#"{"id":2,"refresh":{"token":"x"}}"#, 3501);
    assert!(matches!(
        harness.advance(Duration::from_secs(49)),
        Step::Done
    ));
    harness.run("{}");
    let step = harness.advance(Duration::from_secs(1));
    assert!(
        matches!(step, Step::Ask(Ask::RefreshIdentity(_))),
        "{step:?}"
    );
    let accept = AuthenticationVerdict::Accept(Box::new(identity("42", 200)));
    let step = harness.answer(Answer::RefreshIdentity(Ok(accept)));
    assert!(matches!(step, Step::Done));
    harness.session.pong_due = None;
    let step = harness.advance(Duration::from_secs(140));
    assert!(
        matches!(step, Step::Ask(Ask::RefreshIdentity(_))),
        "{step:?}"
    );
    let refusal = Refusal::Error {
        code: 403,
        reason: "gone".into(),
    };
    let refused = AuthenticationVerdict::Refuse(refusal);
    let step = harness.answer(Answer::RefreshIdentity(Ok(refused)));
    assert!(matches!(step, Step::Close(closing) if closing.code == 3005));
}

/// A session without pings whose identity a hook gave for `seconds`.
fn known_to_a_hook(seconds: u64) -> Harness {
    let mut harness = Harness::new(settings());
    harness.settings.client.ping_interval = Duration::from_secs(100_000);
    harness.say(r#"{"id":1,"connect":{}}"#);
    harness.answer(Answer::Connect(Ok(Box::new(Admission {
        identity: Identity {
            user: "42".into(),
            expires_at: Some(UNIX + seconds),
            ..Identity::default()
        },
        is_by_hook: true,
        seats: Vec::new(),
    }))));
    harness.take();
    harness
}

#[test]
fn an_identity_that_nobody_renews_lives_to_its_end_and_is_asked_for_once() {
    let mut harness = known_to_a_hook(60);
    let step = harness.advance(Duration::from_secs(50));
    assert!(
        matches!(step, Step::Ask(Ask::RefreshIdentity(_))),
        "{step:?}"
    );
    let step = harness.answer(Answer::RefreshIdentity(Ok(AuthenticationVerdict::NotMine)));
    assert!(matches!(step, Step::Done), "{step:?}");
    let end = harness.now.instant + Duration::from_secs(10);
    let next = harness.session.next_deadline(&harness.settings.client);
    assert_eq!(next, end);
    for _ in 0..9 {
        let step = harness.advance(Duration::from_secs(1));
        assert!(matches!(step, Step::Done), "{step:?}");
    }
    assert!(harness.take().is_empty());
    // The time of grace is for clients that bring tokens.
    let step = harness.advance(Duration::from_secs(1));
    assert!(matches!(step, Step::Close(closing) if closing.code == 3005));
}

#[test]
fn an_identity_whose_hook_fails_is_asked_for_until_its_end() {
    let mut harness = known_to_a_hook(60);
    let failed = || Answer::RefreshIdentity(Err(HookFailure::new("t-1".into())));
    for wait in [50, 5] {
        let step = harness.advance(Duration::from_secs(wait));
        assert!(
            matches!(step, Step::Ask(Ask::RefreshIdentity(_))),
            "{step:?}"
        );
        assert!(matches!(harness.answer(failed()), Step::Done));
    }
    let step = harness.advance(Duration::from_secs(5));
    assert!(matches!(step, Step::Close(closing) if closing.code == 3005));
}

/// A session without pings with a subscription to `news` that a hook granted for four seconds.
fn granted_for_four_seconds() -> Harness {
    let mut harness = Harness::connected();
    harness.session.next_ping += Duration::from_secs(100_000);
    let Step::Ask(Ask::Subscribe(ask)) = harness.say(r#"{"id":2,"subscribe":{"channel":"news"}}"#)
    else {
        panic!("asks");
    };
    let grant = Grant {
        expires_at: Some(UNIX + 4),
        ..Grant::default()
    };
    let verdict = AuthorizationVerdict::Allow(Box::new(grant));
    let terms = decide(&ask, verdict, UNIX).unwrap();
    harness.answer(Answer::Subscribe(Ok(Box::new(seated(
        &ask,
        terms,
        page(0),
    )))));
    assert!(!harness.reply().subscribe.unwrap().expires);
    let step = harness.advance(Duration::from_secs(2));
    assert!(matches!(step, Step::Ask(Ask::RefreshSubscription(_))));
    harness
}

#[test]
fn a_granted_subscription_is_asked_for_again_and_ends_with_2501_when_refused() {
    let mut harness = granted_for_four_seconds();
    let refusal = Refusal::Error {
        code: 403,
        reason: "gone".into(),
    };
    let refused = AuthorizationVerdict::Refuse(refusal);
    harness.answer(Answer::RefreshSubscription(Ok(refused)));
    let push = harness.reply().push.unwrap();
    assert_eq!(push.unsubscribe.unwrap().code, 2501);
}

#[test]
fn a_subscription_that_nobody_renews_lives_to_its_end_and_is_asked_for_once() {
    let mut harness = granted_for_four_seconds();
    let step = harness.answer(Answer::RefreshSubscription(Ok(
        AuthorizationVerdict::NotMine,
    )));
    assert!(matches!(step, Step::Done), "{step:?}");
    let end = harness.now.instant + Duration::from_secs(2);
    let next = harness.session.next_deadline(&harness.settings.client);
    assert_eq!(next, end);
    let step = harness.advance(Duration::from_millis(1_999));
    assert!(matches!(step, Step::Done), "{step:?}");
    assert!(harness.take().is_empty());
    let step = harness.advance(Duration::from_millis(1));
    assert!(matches!(step, Step::Done), "{step:?}");
    let push = harness.reply().push.unwrap();
    assert_eq!(push.unsubscribe.unwrap().code, 2501);
}

#[test]
fn a_flood_gets_111_and_then_3013() {
    let mut settings = settings();
    settings.client.command_rate = Some(crate::config::DEFAULT_COMMAND_RATE);
    let mut harness = Harness::connected_with(settings);
    let text = r#"{"id":2,"unsubscribe":{"channel":"x"}}"#;
    let mut refused = 0;
    for _ in 0..60_000 {
        harness.now.instant += Duration::from_micros(100);
        match harness.run(text) {
            Step::Done => {
                let error = harness.reply().error;
                refused += usize::from(error.is_some_and(|error| error.code == 111));
            }
            Step::Close(closing) => {
                assert_eq!(closing.code, 3013);
                assert!(refused > 1_000);
                return;
            }
            Step::Ask(_) => panic!("asks nothing"),
        }
    }
    panic!("the flood was never stopped");
}

#[test]
fn a_client_in_a_loop_of_errors_is_closed() {
    let mut harness = Harness::connected();
    for _ in 0..100 {
        harness.fails(r#"{"id":2,"presence":{"channel":"news"}}"#, 108);
    }
    harness.closes(r#"{"id":2,"presence":{"channel":"news"}}"#, 3509);
}

#[test]
fn what_is_sent_without_an_id_is_not_answered_beyond_the_rate_either() {
    let mut settings = settings();
    settings.client.command_rate = std::num::NonZeroU32::new(1);
    let mut harness = Harness::connected_with(settings);
    let mut num_replies = 0;
    // The connect command took one of the four.
    for _ in 0..4 {
        assert!(matches!(
            harness.run(r#"{"id":2,"unsubscribe":{"channel":"x"}}"#),
            Step::Done
        ));
        num_replies += harness.take().len();
    }
    assert_eq!(num_replies, 4);
    assert!(matches!(harness.run(r#"{"send":{"data":1}}"#), Step::Done));
    assert!(harness.take().is_empty());
}
