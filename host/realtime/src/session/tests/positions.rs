//! The position check, by example.

use super::*;

/// Subscribed to this many streams at offset 7; pings are out of the way.
fn subscribed(channels: &[&str]) -> Harness {
    let mut settings = settings();
    settings.client.ping_interval = Duration::from_secs(10_000);
    settings.client.position_check_delay = Duration::from_secs(40);
    let mut harness = Harness::connected_with(settings);
    for channel in channels {
        harness.run(&format!(
            r#"{{"id":2,"subscribe":{{"channel":"{channel}","positioned":true,"recoverable":true}}}}"#
        ));
        assert!(harness.reply().subscribe.unwrap().positioned);
    }
    harness
}

fn top(offset: u64, epoch: &str) -> StreamPosition {
    StreamPosition {
        offset,
        epoch: epoch.to_owned(),
    }
}

impl Harness {
    /// Lets time pass; answers the channels whose tops are asked for.
    fn asked_after(&mut self, seconds: u64) -> Option<Vec<ChannelKey>> {
        match self.advance(Duration::from_secs(seconds)) {
            Step::Ask(Ask::ReadTops(keys)) => Some(keys),
            Step::Done => None,
            step => panic!("{step:?}"),
        }
    }

    fn tops(&mut self, keys: &[ChannelKey], position: &StreamPosition) -> Step {
        let tops = keys.iter().map(|key| (key.clone(), position.clone()));
        let tops = tops.collect();
        self.answer(Answer::ReadTops(tops))
    }

    /// The channel of the unsubscribe push that was sent, with its code.
    fn unsubscribed(&mut self) -> (String, u32) {
        let push = self.reply().push.unwrap();
        (push.channel, push.unsubscribe.unwrap().code)
    }
}

#[test]
fn a_session_without_positions_is_never_checked() {
    let mut harness = Harness::connected();
    harness.settings.client.ping_interval = Duration::from_secs(10_000);
    harness.run(r#"{"id":2,"subscribe":{"channel":"news"}}"#);
    assert_eq!(harness.session.position_check, None);
    let mut off = settings();
    off.client.position_check_delay = Duration::ZERO;
    let mut harness = Harness::connected_with(off);
    harness.run(r#"{"id":2,"subscribe":{"channel":"news","positioned":true}}"#);
    assert_eq!(harness.session.position_check, None);
}

#[test]
fn all_positions_of_a_session_are_checked_together_and_again() {
    let mut harness = subscribed(&["a", "b"]);
    assert_eq!(harness.asked_after(39), None);
    for wait in [1, 40, 40] {
        let keys = harness.asked_after(wait).unwrap();
        let channels: Vec<_> = keys.iter().map(ChannelKey::channel).collect();
        assert_eq!(channels, ["a", "b"]);
        assert!(matches!(harness.tops(&keys, &top(7, "epoch")), Step::Done));
        assert!(harness.take().is_empty());
        assert_eq!(harness.asked_after(0), None);
    }
    for channel in ["a", "b"] {
        harness.run(&format!(
            r#"{{"id":3,"unsubscribe":{{"channel":"{channel}"}}}}"#
        ));
    }
    assert_eq!(harness.asked_after(40), None);
    assert_eq!(harness.session.position_check, None, "nothing to check");
}

#[test]
fn another_epoch_ends_the_subscription_at_once() {
    let mut harness = subscribed(&["a", "b"]);
    let keys = harness.asked_after(40).unwrap();
    assert!(matches!(harness.tops(&keys[..1], &top(7, "z")), Step::Done));
    assert_eq!(harness.unsubscribed(), ("a".to_owned(), 2500));
    assert_eq!(harness.session.num_subscriptions(), 1);
}

#[test]
fn a_difference_counts_when_nothing_is_delivered_until_the_second_look() {
    for other in [6, 8] {
        let mut harness = subscribed(&["a", "b"]);
        let keys = harness.asked_after(40).unwrap();
        harness.tops(&keys, &top(7, "epoch"));
        let keys = harness.asked_after(40).unwrap();
        assert!(matches!(
            harness.tops(&keys[1..], &top(other, "epoch")),
            Step::Done
        ));
        assert!(harness.take().is_empty(), "it may be on its way");
        let doubtful = harness.asked_after(2).unwrap();
        assert_eq!(doubtful, keys[1..]);
        harness.tops(&doubtful, &top(other, "epoch"));
        assert_eq!(harness.unsubscribed(), ("b".to_owned(), 2500));
    }
    // Here it was on its way, and the next is by now.
    let mut harness = subscribed(&["a"]);
    let keys = harness.asked_after(40).unwrap();
    harness.tops(&keys, &top(8, "epoch"));
    harness.session.subscriptions[0].seat.delivered.set(1);
    let doubtful = harness.asked_after(2).unwrap();
    assert!(matches!(
        harness.tops(&doubtful, &top(9, "epoch")),
        Step::Done
    ));
    assert!(harness.take().is_empty());
    assert_eq!(harness.session.num_subscriptions(), 1);
}

#[test]
fn a_broker_that_does_not_answer_postpones_the_check() {
    let mut harness = subscribed(&["a"]);
    let keys = harness.asked_after(40).unwrap();
    assert!(matches!(harness.tops(&[], &top(0, "")), Step::Done));
    assert_eq!(harness.asked_after(39), None);
    assert_eq!(harness.asked_after(1), Some(keys));
}

#[test]
fn a_lost_position_of_the_servers_making_ends_the_connection() {
    let mut harness = subscribed(&["a"]);
    harness.session.subscriptions[0].made_by = MadeBy::Identity;
    let keys = harness.asked_after(40).unwrap();
    let step = harness.tops(&keys, &top(1, "other"));
    assert!(matches!(step, Step::Close(closing) if closing.code == 3010));
}
