//! Making room: what goes when the engine, or an app, holds more than it may.
//!
//! Owns the order: positions that nobody wrote to or follows, then the oldest entries, then streams without any.
//! Invariant: what is taken is counted, and can be told from a hole by who comes back for it. A turn is bounded, since
//! a publisher pays for it.

use std::sync::{Arc, atomic::Ordering};

use super::{
    MemoryBroker, STEP_ENTRIES, has_lost,
    share::{Line, Place, Share},
};

/// Steps that one publish takes to make room for itself; the sweep takes the rest.
const ROOM_STEPS: usize = 128;

/// Streams looked at to find one that nobody follows, when an app has too many.
const STREAMS_TRIED: usize = 32;

/// What making room asks of a stream.
#[derive(Debug, Clone, Copy)]
enum Need {
    Bytes(usize),
    /// One stream less.
    Stream,
    /// Another one gave enough.
    Nothing,
}

/// What a turn of making room came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// Nothing is over its bound, or nothing more can be freed.
    Enough,
    /// Another turn is worth it.
    NotYet,
}

impl MemoryBroker {
    /// Frees until node and share are within their bounds, as far as one turn goes.
    pub(super) fn make_room(&self, share: &Arc<Share>) -> Room {
        let mut is_worth_it = false;
        for _ in 0..ROOM_STEPS {
            let over = self
                .num_bytes
                .load(Ordering::Relaxed)
                .saturating_sub(self.config.max_bytes);
            let (share, need) = if share.excess() > 0 {
                (Arc::clone(share), Need::Bytes(share.excess()))
            } else if share.has_too_many_streams() {
                (Arc::clone(share), Need::Stream)
            } else if over > 0 {
                let Some(largest) = self.shares.largest() else {
                    return Room::Enough;
                };
                (largest, Need::Bytes(over))
            } else {
                return Room::Enough;
            };
            if let [blank] = share.take_first(Line::Blank, 1).as_slice() {
                // Gone, or off this line because somebody follows it: the line gets shorter either way.
                self.give_up(blank, need);
                is_worth_it = true;
                continue;
            }
            let most = match need {
                Need::Bytes(_) | Need::Nothing => 1,
                // Those that have members cannot go.
                Need::Stream => STREAMS_TRIED,
            };
            let places = share.take_first(Line::Used, most);
            if places.is_empty() {
                return Room::Enough;
            }
            let mut need = need;
            for place in places {
                if self.give_up(&place, need) {
                    is_worth_it = true;
                    need = Need::Nothing;
                }
            }
        }
        if is_worth_it {
            Room::NotYet
        } else {
            Room::Enough
        }
    }

    /// Takes what is needed off a stream whose place was taken off the timeline, and gives it a place again unless
    /// it is gone; answers whether that freed anything.
    fn give_up(&self, place: &Place, need: Need) -> bool {
        let Some(slot) = self.find(&place.key) else {
            return false;
        };
        let mut stream = slot.stream.lock();
        if !has_lost(&mut stream, place) {
            return false;
        }
        let now = self.clock.now();
        let before = stream.num_accounted;
        let mut ended = stream.expire(now);
        // If not, it was used since it got its place, and others are older.
        let is_oldest = self.ends_at(&slot, &stream) <= place.at;
        let has_contents = stream.contents_end_at().is_some();
        match need {
            Need::Bytes(excess) if is_oldest && has_contents => {
                let dropped = stream.shorten(excess, STEP_ENTRIES);
                self.count_dropped(dropped);
                self.settle(&place.key, &slot, &mut stream);
            }
            Need::Bytes(_) | Need::Stream
                if is_oldest && !self.is_kept(&place.key, &slot, &mut stream, now) =>
            {
                let entries = stream.clear();
                self.count_dropped(entries.len());
                if !entries.is_empty() {
                    ended = entries;
                }
                self.dropped_streams.fetch_add(1, Ordering::Relaxed);
                self.forget(&place.key, &slot, &mut stream);
            }
            Need::Bytes(_) | Need::Stream | Need::Nothing => {
                self.settle(&place.key, &slot, &mut stream);
            }
        }
        let has_freed = stream.num_accounted < before;
        drop(stream);
        self.free(ended);
        has_freed
    }

    fn count_dropped(&self, publications: usize) {
        self.dropped_publications
            .fetch_add(publications as u64, Ordering::Relaxed);
    }
}
