//! Runs of known contents, and what they are made of.

use std::time::Duration;

use tidegate_faults::record::{
    Attempt, Audit, Body, Entry, Event, Health, Outcome, Position, Record, Subscribed,
    SubscriberLog,
};

const CHANNEL: u32 = 7;

pub(crate) fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn body(sequence: u64) -> Body {
    Body {
        publisher: 1,
        sequence,
        sent_at: at(sequence),
        hash: 1_000 + sequence,
    }
}

pub(crate) fn acked(sequence: u64, epoch: &str, offset: u64) -> Attempt {
    Attempt {
        channel: CHANNEL,
        body: body(sequence),
        done_at: at(sequence),
        outcome: Outcome::Acked {
            epoch: epoch.to_owned(),
            offset,
        },
    }
}

pub(crate) fn without_ack(sequence: u64, outcome: Outcome) -> Attempt {
    Attempt {
        outcome,
        ..acked(sequence, "", 0)
    }
}

pub(crate) fn publication(sequence: u64, offset: u64) -> Entry {
    Entry {
        at: at(sequence),
        event: Event::Publication {
            offset,
            epoch: String::new(),
            body: body(sequence),
        },
    }
}

/// Subscribed without asking to recover.
pub(crate) fn begun(seconds: u64, epoch: &str, offset: u64) -> Entry {
    answered(
        seconds,
        Subscribed {
            epoch: epoch.to_owned(),
            offset,
            ..Subscribed::default()
        },
    )
}

/// Asked for what comes after this position, and was told that this is what follows.
pub(crate) fn recovered(seconds: u64, epoch: &str, offset: u64) -> Entry {
    let position = position(epoch, offset);
    answered(
        seconds,
        Subscribed {
            asked: Some(position),
            was_recovering: true,
            recovered: true,
            epoch: epoch.to_owned(),
            offset,
        },
    )
}

/// Asked for what comes after a position, and was told that the stream is at another one.
pub(crate) fn not_recovered(seconds: u64, asked: Position, epoch: &str, offset: u64) -> Entry {
    answered(
        seconds,
        Subscribed {
            asked: Some(asked),
            was_recovering: true,
            recovered: false,
            epoch: epoch.to_owned(),
            offset,
        },
    )
}

pub(crate) fn answered(seconds: u64, result: Subscribed) -> Entry {
    Entry {
        at: at(seconds),
        event: Event::Subscribed(result),
    }
}

pub(crate) fn position(epoch: &str, offset: u64) -> Position {
    Position {
        epoch: epoch.to_owned(),
        offset,
    }
}

pub(crate) fn ended(seconds: u64, code: u16) -> Entry {
    Entry {
        at: at(seconds),
        event: Event::Disconnected { code },
    }
}

pub(crate) fn look(node: usize, seconds: u64, is_ready: bool) -> Health {
    Health {
        node,
        at: at(seconds),
        is_ready,
    }
}

/// Six publications in one stream; the fault cuts the subscriber after the third, it comes back and recovers.
pub(crate) fn good() -> Record {
    Record {
        attempts: (1..=6).map(|n| acked(n, "one", n)).collect(),
        subscribers: vec![SubscriberLog {
            channel: CHANNEL,
            entries: vec![
                begun(0, "one", 0),
                publication(1, 1),
                publication(2, 2),
                publication(3, 3),
                ended(3, 1006),
                recovered(4, "one", 3),
                publication(4, 4),
                publication(5, 5),
                publication(6, 6),
            ],
        }],
        audits: vec![Audit {
            channel: CHANNEL,
            epoch: "one".to_owned(),
            top: 6,
            entries: (1..=6).map(|n| (n, body(n))).collect(),
        }],
        health: vec![look(0, 1, true), look(0, 4, false), look(0, 6, true)],
        fault_at: at(3),
        healed_at: at(5),
        effects: 1,
        leaves: None,
    }
}

/// The store forgets everything after the third: a second stream begins, and the subscriber is told.
pub(crate) fn forgetful() -> Record {
    Record {
        attempts: vec![
            acked(1, "one", 1),
            acked(2, "one", 2),
            acked(3, "one", 3),
            acked(4, "two", 1),
            acked(5, "two", 2),
        ],
        subscribers: vec![SubscriberLog {
            channel: CHANNEL,
            entries: vec![
                begun(0, "one", 0),
                publication(1, 1),
                publication(2, 2),
                publication(3, 3),
                Entry {
                    at: at(4),
                    event: Event::Unsubscribed { code: 2500 },
                },
                not_recovered(4, position("one", 3), "two", 1),
                publication(5, 2),
            ],
        }],
        audits: vec![Audit {
            channel: CHANNEL,
            epoch: "two".to_owned(),
            top: 2,
            entries: vec![(1, body(4)), (2, body(5))],
        }],
        ..good()
    }
}
