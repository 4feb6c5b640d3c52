use bytes::Bytes;
use tidegate_protocol::Publication;

use super::*;
use crate::test_wire::TestWire;

const JSON: (Codec, Framing) = (Codec::Json, Framing::WebSocket);

fn message(number: usize, len: usize) -> Item {
    let publication = Publication {
        data: Bytes::from(format!("\"{number}:{}\"", "x".repeat(len))).into(),
        ..Publication::default()
    };
    Item::Message(Frame::publication(JSON.0, JSON.1, "c", &publication).unwrap())
}

fn assert_in_order(messages: &[String], expected: usize) {
    assert_eq!(messages.len(), expected);
    for (number, message) in messages.iter().enumerate() {
        assert!(
            message.contains(&format!("\"{number}:")),
            "{number}: {message}"
        );
    }
}

#[test]
fn an_idle_outbox_holds_no_allocation() {
    let mut outbox = Outbox::default();
    let wire = TestWire::default();
    for number in 0..100 {
        outbox.push(message(number, 50));
    }
    assert_eq!(outbox.write_to(&wire, JSON).unwrap(), Written::All);
    assert!(outbox.is_empty());
    assert!(matches!(outbox.queue, Queue::Empty));
    assert_eq!(outbox.num_bytes(), 0);
    assert_in_order(&wire.messages(), 100);
}

#[test]
fn queued_messages_leave_in_one_write_and_sixteen_to_a_frame() {
    let mut outbox = Outbox::default();
    let wire = TestWire::default();
    for number in 0..33 {
        outbox.push(message(number, 10));
    }
    outbox.write_to(&wire, JSON).unwrap();
    assert_eq!(wire.num_writes(), 1);
    assert_eq!(wire.frame_sizes(), [16, 16, 1]);
}

#[test]
fn a_frame_holds_at_most_sixteen_kilobytes_of_joined_messages() {
    let mut outbox = Outbox::default();
    let wire = TestWire::default();
    for number in 0..4 {
        outbox.push(message(number, 7_000));
    }
    outbox.write_to(&wire, JSON).unwrap();
    assert_eq!(wire.frame_sizes(), [2, 2]);
}

#[test]
fn a_control_frame_stands_alone_between_joined_messages() {
    let mut outbox = Outbox::default();
    let wire = TestWire::default();
    outbox.push(message(0, 1));
    outbox.push(message(1, 1));
    outbox.push(Item::Raw(Bytes::from_static(&[0x8a, 0])));
    outbox.push(message(2, 1));
    outbox.write_to(&wire, JSON).unwrap();
    assert_in_order(&wire.messages(), 3);
    assert_eq!(wire.frame_sizes(), [2, 0, 1]);
}

#[test]
fn any_cut_of_the_wire_keeps_every_byte_in_order() {
    for room in [1, 7, 100, 5_000] {
        let mut outbox = Outbox::default();
        let wire = TestWire::with_room(room);
        for number in 0..50 {
            outbox.push(message(number, number * 3));
            let written = outbox.write_to(&wire, JSON).unwrap();
            assert!(matches!(written, Written::Blocked { .. } | Written::All));
            wire.set_room(Some(room));
        }
        for _ in 0..20_000 {
            if outbox.write_to(&wire, JSON).unwrap() == Written::All {
                break;
            }
            wire.set_room(Some(room));
        }
        assert_eq!(outbox.num_bytes(), 0, "room {room}");
        assert_in_order(&wire.messages(), 50);
    }
}

#[test]
fn clearing_keeps_the_rest_of_a_frame_that_has_begun() {
    let mut outbox = Outbox::default();
    let wire = TestWire::with_room(5);
    for number in 0..3 {
        outbox.push(message(number, 10));
    }
    outbox.write_to(&wire, JSON).unwrap();
    outbox.clear();
    outbox.push(Item::Raw(Bytes::from_static(&[0x88, 0])));
    wire.set_room(None);
    assert_eq!(outbox.write_to(&wire, JSON).unwrap(), Written::All);
    assert!(wire.bytes().ends_with(&[0x88, 0]));
    assert_in_order(&wire.messages(), 3);
}

#[test]
fn clearing_before_anything_left_drops_everything() {
    let mut outbox = Outbox::default();
    outbox.push(message(0, 10));
    outbox.clear();
    assert!(outbox.is_empty());
    assert_eq!(outbox.num_bytes(), 0);
}
