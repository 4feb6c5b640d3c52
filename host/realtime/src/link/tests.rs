use tidegate_protocol::{Codec, Frame, Framing, Publication};

use super::*;
use crate::test_wire::TestWire;

fn link(wire: &TestWire, outbox_bytes: usize) -> Arc<Link> {
    let identity = LinkIdentity {
        client: ClientId::random(),
        shard: ShardId(0),
        codec: Codec::Json,
        framing: Framing::WebSocket,
        outbox_bytes,
    };
    Link::new(identity, wire.clone())
}

fn frame(len: usize) -> Frame {
    let publication = Publication {
        data: Bytes::from(format!("\"{}\"", "x".repeat(len))).into(),
        ..Publication::default()
    };
    Frame::publication(Codec::Json, Framing::WebSocket, "c", &publication).unwrap()
}

#[test]
fn an_outbox_over_its_bound_makes_the_link_slow_once() {
    let link = link(&TestWire::with_room(0), 1_000);
    assert_eq!(link.push(frame(800)), PushOutcome::Queued);
    assert_eq!(link.push(frame(800)), PushOutcome::Overflow);
    assert_eq!(link.push(frame(1)), PushOutcome::Closing);
    assert_eq!(
        link.num_queued_bytes(),
        0,
        "a slow reader's queue is dropped"
    );
    assert!(matches!(link.take_signals().as_slice(), [Signal::Slow]));
}

#[test]
fn one_message_larger_than_the_bound_is_sent_to_an_idle_client() {
    let wire = TestWire::default();
    let link = link(&wire, 1_000);
    assert_eq!(link.push(frame(5_000)), PushOutcome::Queued);
    assert_eq!(link.flush(), FlushOutcome::Flushed);
    assert_eq!(wire.messages().len(), 1);
}

#[test]
fn nothing_follows_the_closing_frame() {
    let wire = TestWire::default();
    let link = link(&wire, 1_000);
    assert_eq!(link.push(frame(1)), PushOutcome::Queued);
    link.finish(Some(Bytes::from_static(&[0x88, 0])));
    link.finish(Some(Bytes::from_static(&[0x88, 0])));
    assert_eq!(link.push(frame(1)), PushOutcome::Closing);
    assert_eq!(link.flush(), FlushOutcome::Flushed);
    assert_eq!(wire.messages().len(), 1);
    assert!(wire.bytes().ends_with(&[0x88, 0]));
}

#[test]
fn a_blocked_link_is_left_to_its_task_until_that_resumes() {
    let wire = TestWire::with_room(3);
    let link = link(&wire, 10_000);
    assert_eq!(link.push(frame(100)), PushOutcome::Queued);
    assert_eq!(link.flush(), FlushOutcome::Blocked);
    let since = link.blocked_since().expect("the link is blocked");
    wire.set_room(None);
    assert_eq!(
        link.flush(),
        FlushOutcome::Blocked,
        "a flusher does not try"
    );
    assert_eq!(link.blocked_since(), Some(since));
    assert_eq!(link.resume(), FlushOutcome::Flushed);
    assert_eq!(link.blocked_since(), None);
    assert_eq!(wire.messages().len(), 1);
}

#[test]
fn a_broken_wire_takes_nothing_more() {
    let wire = TestWire::default();
    let link = link(&wire, 10_000);
    wire.break_it();
    assert_eq!(link.push(frame(1)), PushOutcome::Queued);
    assert_eq!(link.flush(), FlushOutcome::Broken);
    assert_eq!(link.push(frame(1)), PushOutcome::Closing);
    assert_eq!(link.num_queued_bytes(), 0);
}

#[test]
fn a_flood_of_signals_is_bounded() {
    let link = link(&TestWire::default(), 1_000);
    for _ in 0..5_000 {
        link.signal(Signal::Disconnect {
            code: 3000,
            reason: "x".into(),
        });
    }
    assert!(matches!(link.take_signals().as_slice(), [Signal::Slow]));
}
