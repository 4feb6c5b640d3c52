use super::*;

const MAX: usize = 65_536;
const MASK: [u8; 4] = [0x1f, 0x2e, 0x3d, 0x4c];

/// A client's frame; `first` is FIN, RSV and opcode.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(first, payload.len() as u64);
    let masked = payload.iter().zip(MASK.iter().cycle());
    frame.extend(masked.map(|(byte, mask)| byte ^ mask));
    frame
}

fn header(first: u8, len: u64) -> Vec<u8> {
    let mut header = vec![first];
    match len {
        0..=125 => header.push(0x80 | u8::try_from(len).unwrap()),
        126..=0xffff => {
            header.push(0x80 | 126);
            header.extend_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
        }
        _ => {
            header.push(0x80 | 127);
            header.extend_from_slice(&len.to_be_bytes());
        }
    }
    header.extend_from_slice(&MASK);
    header
}

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Text(String),
    Ping,
    Close,
    Violation(Violation),
}

/// Reads `bytes` in pieces of `piece` bytes, to the end or the first violation.
fn read_all(bytes: &[u8], piece: usize) -> (Vec<Seen>, Answers) {
    let mut reader = Reader::new(MAX);
    let (mut seen, mut answers) = (Vec::new(), Answers::default());
    for mut piece in bytes.chunks(piece) {
        loop {
            match reader.read(&mut piece, &mut answers) {
                Input::Message(payload) => {
                    let text = String::from_utf8(payload.as_bytes().to_vec()).unwrap();
                    seen.push(Seen::Text(text));
                }
                Input::Ping => seen.push(Seen::Ping),
                Input::Pong => {}
                Input::NeedMore => break,
                Input::Close => {
                    seen.push(Seen::Close);
                    return (seen, answers);
                }
                Input::Violation(violation) => {
                    seen.push(Seen::Violation(violation));
                    return (seen, answers);
                }
            }
        }
        reader.shrink();
    }
    (seen, answers)
}

#[track_caller]
fn check(frames: &[Vec<u8>], expected: &[Seen]) {
    let bytes = frames.concat();
    for piece in [1, 3, 64, bytes.len()] {
        assert_eq!(
            read_all(&bytes, piece.max(1)).0,
            expected,
            "in pieces of {piece}"
        );
    }
}

fn text(text: &str) -> Seen {
    Seen::Text(text.to_owned())
}

#[test]
fn whole_and_fragmented_messages_are_read_whatever_the_pieces() {
    check(
        &[
            frame(0x81, b"one"),
            frame(0x01, b"t"),
            frame(0x00, b"w"),
            frame(0x80, b"o"),
            frame(0x81, b""),
            frame(0x81, &[b'x'; 300]),
        ],
        &[text("one"), text("two"), text(""), text(&"x".repeat(300))],
    );
}

#[test]
fn t3a_control_frames_are_answered_inside_a_fragmented_message() {
    let bytes = [
        frame(0x01, b"t"),
        frame(0x89, b"1"),
        frame(0x89, b"2"),
        frame(0x80, b"wo"),
    ]
    .concat();
    let (seen, answers) = read_all(&bytes, bytes.len());
    assert_eq!(seen, [Seen::Ping, Seen::Ping, text("two")]);
    assert_eq!(
        answers.pong.as_deref(),
        Some(&[0x8a, 1, b'2'][..]),
        "one pong answers both"
    );
}

#[test]
fn t3a_nothing_behind_a_violation_is_processed() {
    check(
        &[
            frame(0x81, b"before"),
            frame(0x83, b""),
            frame(0x81, b"after"),
        ],
        &[text("before"), Seen::Violation(Violation::Protocol)],
    );
}

#[test]
fn t3a_broken_frames_are_protocol_errors() {
    let mut unmasked = frame(0x81, b"x");
    unmasked[1] &= 0x7f;
    unmasked.drain(2..6);
    for broken in [
        unmasked,
        frame(0xc1, b"x"),
        frame(0xa1, b"x"),
        frame(0x91, b"x"),
        frame(0x83, b"x"),
        frame(0x8b, b"x"),
        frame(0x09, b"x"),
        frame(0x89, &[b'x'; 126]),
        frame(0x80, b"x"),
        frame(0x88, b"x"),
    ] {
        check(&[broken], &[Seen::Violation(Violation::Protocol)]);
    }
    check(
        &[frame(0x01, b"x"), frame(0x81, b"y")],
        &[Seen::Violation(Violation::Protocol)],
    );
}

#[test]
fn t3a_text_is_checked_across_fragments() {
    check(
        &[frame(0x81, &[0xff])],
        &[Seen::Violation(Violation::NotUtf8)],
    );
    check(
        &[frame(0x01, &[0xe2, 0x82]), frame(0x80, &[0xac])],
        &[text("\u{20ac}")],
    );
    check(
        &[frame(0x01, &[0xe2, 0x82]), frame(0x80, b"x")],
        &[Seen::Violation(Violation::NotUtf8)],
    );
    check(
        &[frame(0x81, &[0xed, 0xa0, 0x80])],
        &[Seen::Violation(Violation::NotUtf8)],
    );
    check(
        &[frame(0x88, &[0x03, 0xe8, 0xff])],
        &[Seen::Violation(Violation::NotUtf8)],
    );
}

#[test]
fn c1_a_length_bites_when_it_is_declared() {
    for len in [65_537, 1 << 32, 1 << 62, u64::MAX] {
        check(&[header(0x81, len)], &[Seen::Violation(Violation::TooBig)]);
    }
    // The sum of the fragments is over the limit before the last one's payload has come.
    check(
        &[frame(0x01, &[b'x'; 40_000]), header(0x80, 40_000)],
        &[Seen::Violation(Violation::TooBig)],
    );
}

#[test]
fn a_message_of_exactly_the_limit_is_read() {
    let bytes = frame(0x81, &[b'x'; MAX]);
    let (seen, _) = read_all(&bytes, 16_384);
    assert_eq!(seen, [text(&"x".repeat(MAX))]);
}

#[test]
fn t3a_a_flood_of_fragments_is_cut() {
    let start = frame(0x01, b"");
    let more = frame(0x00, b"");
    let bytes = [start, more.repeat(1_023)].concat();
    assert_eq!(read_all(&bytes, 4_096).0, []);
    let bytes = [bytes, more].concat();
    let (seen, _) = read_all(&bytes, 4_096);
    assert_eq!(seen, [Seen::Violation(Violation::TooManyFragments)]);
}

#[test]
fn a_closing_frame_is_answered_with_its_code() {
    let bytes = frame(0x88, &[0x03, 0xe8]);
    let (seen, answers) = read_all(&bytes, bytes.len());
    assert_eq!(seen, [Seen::Close]);
    assert_eq!(answers.close.as_deref(), Some(&[0x88, 2, 0x03, 0xe8][..]));
}

#[test]
fn a_closing_frame_with_a_code_that_is_none_is_answered_with_1002() {
    let bytes = frame(0x88, &[0x03, 0xed]);
    let (seen, _) = read_all(&bytes, bytes.len());
    assert_eq!(seen, [Seen::Violation(Violation::Protocol)]);
    assert_eq!(Violation::Protocol.code(), 1002);
}
