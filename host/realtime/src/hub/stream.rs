//! What this node knows of a channel's stream: its epoch and how far it has come.
//!
//! The node's side of the fork guard (threat model R3). Pure. Invariant: within one epoch the numbers only rise; an
//! event that goes behind an earlier one says that the store was rolled back and gives offsets out again, and
//! nothing of that stream is delivered until it has begun a new epoch.

use tidegate_protocol::StreamPosition;

/// A stream as far as anybody on this node was told of it.
#[derive(Debug, Default)]
pub(crate) struct KnownStream {
    /// `None` until a position was seen; boxed, since channels without history never see one.
    known: Option<Box<Known>>,
    /// Turns of the routine since the members' places were last confirmed.
    turns: u8,
}

/// What is known of one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) epoch: Box<str>,
    /// The highest offset that came as an event, 0 before the first.
    live: u64,
    /// What `live` was at the routine's last turn.
    live_at_turn: u64,
    /// The highest offset seen in any way. A store that shows less has lost what it had acknowledged.
    pub(crate) highest: u64,
    /// An offset came a second time.
    pub(crate) is_forked: bool,
}

/// What a stream position says about the epoch that the channel had so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Epoch {
    Same,
    Changed,
}

/// What an event's position means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Advance {
    Deliver(Epoch),
    /// The stream is forked: the event belongs to no epoch that anybody may rely on.
    Forked,
}

impl Known {
    fn of(position: &StreamPosition, live: u64) -> Box<Self> {
        Box::new(Self {
            epoch: position.epoch.as_str().into(),
            live,
            live_at_turn: 0,
            highest: position.offset,
            is_forked: false,
        })
    }
}

impl KnownStream {
    pub(crate) fn known(&self) -> Option<&Known> {
        self.known.as_deref()
    }

    /// Takes note of an event.
    pub(crate) fn advance(&mut self, position: &StreamPosition) -> Advance {
        match &mut self.known {
            Some(known) if *known.epoch == *position.epoch => {
                known.is_forked |= position.offset <= known.live;
                if known.is_forked {
                    return Advance::Forked;
                }
                known.live = position.offset;
                known.highest = known.highest.max(position.offset);
                Advance::Deliver(Epoch::Same)
            }
            known => {
                let epoch = if known.is_some() {
                    Epoch::Changed
                } else {
                    Epoch::Same
                };
                *known = Some(Known::of(position, position.offset));
                Advance::Deliver(epoch)
            }
        }
    }

    /// Compares a position that was read from the history with what came as events.
    pub(crate) fn check(&mut self, position: &StreamPosition) -> Epoch {
        match &mut self.known {
            // A stream without an epoch yet; its first publication brings one. One that has an epoch and no
            // publication is told from another one, too: what it had since may have been lost on its way here.
            _ if position.epoch.is_empty() => Epoch::Same,
            Some(known) if *known.epoch == *position.epoch => {
                known.highest = known.highest.max(position.offset);
                Epoch::Same
            }
            Some(_) => Epoch::Changed,
            known @ None => {
                *known = Some(Known::of(position, 0));
                Epoch::Same
            }
        }
    }

    /// A turn of the routine check. Answers whether the top has to be read, after this many turns without a sign: an
    /// event is one, since every member that has a place got it as its next one, or was told.
    pub(crate) fn turn(&mut self, num_turns: u8) -> bool {
        if let Some(known) = &mut self.known {
            let has_moved = known.live != known.live_at_turn;
            known.live_at_turn = known.live;
            if has_moved && !known.is_forked {
                self.turns = 0;
                return false;
            }
        }
        self.turns += 1;
        let is_due = self.turns >= num_turns;
        if is_due {
            self.turns = 0;
        }
        is_due
    }

    /// The stream is another one now, and this is its top.
    pub(crate) fn replace(&mut self, top: &StreamPosition) {
        self.known = (!top.epoch.is_empty()).then(|| Known::of(top, 0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: &str, offset: u64) -> StreamPosition {
        StreamPosition {
            offset,
            epoch: epoch.to_owned(),
        }
    }

    #[test]
    fn r5_a_check_is_due_when_nothing_came_for_so_many_turns() {
        let mut stream = KnownStream::default();
        let turns = |stream: &mut KnownStream, num: usize| -> Vec<bool> {
            (0..num).map(|_| stream.turn(3)).collect()
        };
        assert_eq!(
            turns(&mut stream, 6),
            [false, false, true, false, false, true]
        );
        stream.advance(&at("e", 7));
        assert_eq!(turns(&mut stream, 4), [false, false, false, true]);
        for offset in 8..20 {
            stream.advance(&at("e", offset));
            assert_eq!(turns(&mut stream, 1), [false], "delivered");
        }
        assert_eq!(turns(&mut stream, 3), [false, false, true], "quiet again");
        // What was read from the store confirms nobody's place, nor does what nobody gets.
        stream.check(&at("e", 30));
        stream.advance(&at("e", 19));
        assert_eq!(turns(&mut stream, 3), [false, false, true]);
    }

    #[test]
    fn r3_an_offset_that_comes_again_stops_the_stream_until_it_is_another_one() {
        const SAME: Advance = Advance::Deliver(Epoch::Same);
        let mut stream = KnownStream::default();
        assert_eq!(stream.advance(&at("e", 7)), SAME);
        assert_eq!(stream.advance(&at("e", 8)), SAME);
        assert_eq!(stream.advance(&at("e", 8)), Advance::Forked);
        assert_eq!(stream.advance(&at("e", 9)), Advance::Forked, "until told");
        stream.replace(&at("f", 9));
        assert_eq!(stream.advance(&at("f", 10)), SAME);
    }

    #[test]
    fn a_stream_that_was_empty_is_told_from_the_one_in_its_place() {
        let mut stream = KnownStream::default();
        assert_eq!(stream.check(&at("", 0)), Epoch::Same);
        assert_eq!(stream.check(&at("e", 0)), Epoch::Same);
        assert_eq!(stream.check(&at("f", 0)), Epoch::Changed);
        let changed = Advance::Deliver(Epoch::Changed);
        assert_eq!(stream.advance(&at("f", 1)), changed);
    }

    #[test]
    fn an_event_behind_the_history_is_late_and_no_fork() {
        let mut stream = KnownStream::default();
        assert_eq!(stream.check(&at("e", 9)), Epoch::Same);
        assert_eq!(
            stream.advance(&at("e", 8)),
            Advance::Deliver(Epoch::Same),
            "it was on its way when the history was read"
        );
        assert_eq!(stream.known().unwrap().highest, 9);
        assert_eq!(stream.check(&at("f", 1)), Epoch::Changed);
        assert_eq!(
            stream.advance(&at("f", 1)),
            Advance::Deliver(Epoch::Changed)
        );
        assert_eq!(stream.known().unwrap().highest, 1);
    }
}
