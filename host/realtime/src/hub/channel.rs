//! A channel on this node and its members, one list per shard.
//!
//! Owns what each member may get next. Invariant: after `Members::remove` returned, nothing more is appended to
//! that link for this membership, because appending happens under the list's lock.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering},
};

use parking_lot::Mutex;
use slab::Slab;
use tidegate_protocol::{EncodeError, StreamPosition};

use super::{
    delivery::Delivery,
    membership::Buffer,
    stream::{Advance, Epoch, Known, KnownStream},
};
use crate::{
    ids::ChannelKey,
    link::{Appended, Link, Signal},
    outbox::Item,
};

/// A channel with members, or that had some a moment ago.
pub(crate) struct Channel {
    pub(crate) key: ChannelKey,
    /// Of all channels of the app; this channel counts in it as long as it has members.
    of_app: Arc<AppCounters>,
    num_members: AtomicUsize,
    /// The broker was asked for this channel and agreed. Set by a membership that was confirmed.
    is_carried: AtomicBool,
    /// The channel is on the hub's list of vacant ones. Written under that list's lock.
    is_lingering: AtomicBool,
    /// Some member has a position, or had one at the last check.
    is_positioned: AtomicBool,
    /// On the hub's list of doubtful channels. Written under that list's lock.
    is_doubted: AtomicBool,
    /// The position check will come back to it. Written by that check alone.
    awaits_second_look: AtomicBool,
    stream: Mutex<KnownStream>,
    /// By shard; made when the shard's first member joins.
    members: Box<[OnceLock<Box<Members>>]>,
}

/// What an app has on this node. Signed, because a channel's last member may be taken off before the first one
/// of another thread is put on.
#[derive(Debug, Default)]
pub(crate) struct AppCounters {
    /// Channels with members.
    num_channels: AtomicIsize,
    num_members: AtomicIsize,
}

impl AppCounters {
    /// Channels and members.
    pub(crate) fn read(&self) -> (usize, usize) {
        // Relaxed: counters.
        let read = |counter: &AtomicIsize| usize::try_from(counter.load(Ordering::Relaxed));
        (
            read(&self.num_channels).unwrap_or(0),
            read(&self.num_members).unwrap_or(0),
        )
    }
}

/// A channel's members in one shard.
#[derive(Default)]
pub(crate) struct Members {
    /// Everything a flusher and a joining session both touch. Held over memory operations alone.
    pub(crate) list: Mutex<Slab<Member>>,
    /// The size of `list`, readable without its lock.
    count: AtomicUsize,
    /// An event was not queued; read and written under the shard's queue lock.
    is_lost: AtomicBool,
}

/// A link's membership in one channel.
pub(crate) struct Member {
    pub(crate) link: Arc<Link>,
    /// What [`MemberPosition::At`] says; of no meaning otherwise.
    offset: u64,
    place: Place,
    /// Gets joins and leaves, once it is live.
    is_listening: bool,
    /// Present until the membership is activated.
    pub(crate) buffer: Option<Box<Buffer>>,
}

/// A [`MemberPosition`] without its offset: together with the flag beside it no larger than that was alone.
#[derive(Debug, Clone, Copy)]
enum Place {
    Unpositioned,
    At,
    Stopped,
}

/// How far a member has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MemberPosition {
    /// Gets whatever comes.
    Unpositioned,
    /// Has everything up to this offset and must get the next one.
    At(u64),
    /// Missed something: gets nothing until it joins anew.
    Stopped,
}

impl Channel {
    pub(crate) fn new(key: ChannelKey, of_app: Arc<AppCounters>, num_shards: usize) -> Self {
        Self {
            key,
            of_app,
            num_members: AtomicUsize::new(0),
            is_carried: AtomicBool::new(false),
            is_lingering: AtomicBool::new(false),
            is_positioned: AtomicBool::new(false),
            is_doubted: AtomicBool::new(false),
            awaits_second_look: AtomicBool::new(false),
            stream: Mutex::default(),
            members: (0..num_shards).map(|_| OnceLock::new()).collect(),
        }
    }

    pub(crate) fn members(&self, shard: usize) -> &Members {
        self.members[shard].get_or_init(Box::default)
    }

    pub(crate) fn existing_members(&self, shard: usize) -> Option<&Members> {
        self.members[shard].get().map(AsRef::as_ref)
    }

    pub(crate) fn num_members(&self) -> usize {
        // Pairs with the counting in `add_member`, which happens under the map's lock.
        self.num_members.load(Ordering::Acquire)
    }

    /// Counts a member; the caller holds the map's lock.
    pub(crate) fn add_member(&self) {
        if self.num_members.fetch_add(1, Ordering::AcqRel) == 0 {
            self.of_app.num_channels.fetch_add(1, Ordering::Relaxed);
        }
        self.of_app.num_members.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether these are the counters of the channel's app.
    pub(crate) fn is_of(&self, app: &Arc<AppCounters>) -> bool {
        Arc::ptr_eq(&self.of_app, app)
    }

    /// Counts a member less; answers whether it was the last.
    pub(crate) fn remove_member(&self) -> bool {
        let was_last = self.num_members.fetch_sub(1, Ordering::AcqRel) == 1;
        if was_last {
            self.of_app.num_channels.fetch_sub(1, Ordering::Relaxed);
        }
        self.of_app.num_members.fetch_sub(1, Ordering::Relaxed);
        was_last
    }

    pub(crate) fn is_carried(&self) -> bool {
        // Pairs with `set_carried`: who sees true may rely on the broker's answer.
        self.is_carried.load(Ordering::Acquire)
    }

    pub(crate) fn set_carried(&self) {
        self.is_carried.store(true, Ordering::Release);
    }

    /// Answers whether the channel has to be put on the list of vacant ones.
    pub(crate) fn start_lingering(&self) -> bool {
        !self.is_lingering.swap(true, Ordering::Relaxed)
    }

    pub(crate) fn stop_lingering(&self) {
        self.is_lingering.store(false, Ordering::Relaxed);
    }

    /// A turn of the routine check; as [`KnownStream::turn`].
    pub(crate) fn is_check_due(&self, num_turns: u8) -> bool {
        self.stream.lock().turn(num_turns)
    }

    /// Takes note of an event's position.
    pub(crate) fn advance(&self, position: &StreamPosition) -> Advance {
        self.stream.lock().advance(position)
    }

    /// Compares a position that was read from the history with what has been delivered since.
    pub(crate) fn check_epoch(&self, position: &StreamPosition) -> Epoch {
        self.stream.lock().check(position)
    }

    /// What is known of the stream now.
    pub(crate) fn known(&self) -> Option<Known> {
        self.stream.lock().known().cloned()
    }

    /// Takes note that the stream is another one, if nobody has learned anything since it was `before`.
    pub(crate) fn replace_stream(&self, before: Option<&Known>, top: &StreamPosition) -> bool {
        let mut stream = self.stream.lock();
        let is_unchanged =
            stream.known().map(|known| &known.epoch) == before.map(|known| &known.epoch);
        if is_unchanged {
            stream.replace(top);
        }
        is_unchanged
    }

    pub(crate) fn is_positioned(&self) -> bool {
        // Pairs with `set_positioned`.
        self.is_positioned.load(Ordering::Acquire)
    }

    /// Says whether some member has a position. Set under the lock of that member's list, behind its position, so
    /// that who unsets it first and looks at the members afterwards overlooks none.
    pub(crate) fn set_positioned(&self, is_positioned: bool) {
        self.is_positioned.store(is_positioned, Ordering::Release);
    }

    /// Answers whether the channel has to be put on the list of doubtful ones.
    pub(crate) fn start_doubt(&self) -> bool {
        !self.is_doubted.swap(true, Ordering::Relaxed)
    }

    pub(crate) fn end_doubt(&self) {
        self.is_doubted.store(false, Ordering::Relaxed);
    }

    /// Answers whether nobody has planned a second look yet.
    pub(crate) fn plan_second_look(&self) -> bool {
        !self.awaits_second_look.swap(true, Ordering::Relaxed)
    }

    pub(crate) fn begin_second_look(&self) {
        self.awaits_second_look.store(false, Ordering::Relaxed);
    }
}

impl Members {
    pub(crate) fn is_empty(&self) -> bool {
        // Pairs with `insert`: a session that joined before it read a history sees every later publication.
        self.count.load(Ordering::SeqCst) == 0
    }

    pub(crate) fn insert(&self, link: Arc<Link>) -> u32 {
        let mut list = self.list.lock();
        let slot = list.insert(Member {
            link,
            offset: 0,
            place: Place::Unpositioned,
            is_listening: false,
            buffer: Some(Box::default()),
        });
        self.count.store(list.len(), Ordering::SeqCst);
        u32::try_from(slot).expect("a node has fewer sessions than 32 bits count")
    }

    pub(crate) fn remove(&self, slot: u32) {
        let mut list = self.list.lock();
        let member = list.try_remove(slot as usize);
        if list.is_empty() {
            // Slots of a peak are not walked, nor kept, for ever.
            *list = Slab::new();
        }
        self.count.store(list.len(), Ordering::SeqCst);
        drop(list);
        // The last reference to a link closes its socket; not under the lock.
        drop(member);
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Relaxed)
    }

    pub(crate) fn mark_lost(&self) {
        self.is_lost.store(true, Ordering::Relaxed);
    }

    pub(crate) fn unmark_lost(&self) {
        self.is_lost.store(false, Ordering::Relaxed);
    }
}

/// What a member does with the next publications of its channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reception {
    /// Takes all of them; its position has moved behind them.
    All,
    /// Takes none, because it has them.
    Known,
    /// They have to be looked at one by one.
    OneByOne,
}

/// How the publications of a group lie in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Run {
    /// None of them has an offset.
    OutsideStream,
    /// Offsets that follow each other within one epoch.
    Contiguous { first: u64, last: u64 },
    /// Joins and leaves.
    JoinLeave,
    /// Anything else.
    Mixed,
}

impl Run {
    pub(crate) fn of(delivery: &Delivery) -> Self {
        if delivery.is_join_leave() {
            return Self::JoinLeave;
        }
        match (delivery.epoch, delivery.offset()) {
            (Epoch::Changed, _) => Self::Mixed,
            (Epoch::Same, 0) => Self::OutsideStream,
            (Epoch::Same, offset) => Self::Contiguous {
                first: offset,
                last: offset,
            },
        }
    }

    pub(crate) fn followed_by(self, next: Self) -> Self {
        match (self, next) {
            (Self::OutsideStream, Self::OutsideStream) => Self::OutsideStream,
            (Self::JoinLeave, Self::JoinLeave) => Self::JoinLeave,
            (
                Self::Contiguous { first, last },
                Self::Contiguous {
                    first: next,
                    last: end,
                },
            ) if next == last.saturating_add(1) => Self::Contiguous { first, last: end },
            _ => Self::Mixed,
        }
    }
}

impl Member {
    pub(crate) fn position(&self) -> MemberPosition {
        match self.place {
            Place::Unpositioned => MemberPosition::Unpositioned,
            Place::At => MemberPosition::At(self.offset),
            Place::Stopped => MemberPosition::Stopped,
        }
    }

    pub(crate) fn set_position(&mut self, position: MemberPosition) {
        self.place = match position {
            MemberPosition::Unpositioned => Place::Unpositioned,
            MemberPosition::At(offset) => {
                self.offset = offset;
                Place::At
            }
            MemberPosition::Stopped => Place::Stopped,
        };
    }

    pub(crate) fn listen(&mut self) {
        self.is_listening = true;
    }

    /// Appends one publication to the link if the member is to get it. A missing offset or a new epoch stops
    /// a positioned member; the caller compares the position and reports the gap.
    pub(crate) fn deliver(&mut self, delivery: &Arc<Delivery>) -> Appended {
        match self.position() {
            MemberPosition::Stopped => return Appended::Nothing,
            MemberPosition::Unpositioned => {}
            MemberPosition::At(have) => {
                let offset = delivery.offset();
                // Also at the beginning of both: what the former stream had may not have come here.
                let is_elsewhere = delivery.epoch == Epoch::Changed;
                if is_elsewhere || offset > have.saturating_add(1) {
                    self.set_position(MemberPosition::Stopped);
                    return Appended::Nothing;
                }
                if offset != 0 {
                    if offset <= have {
                        return Appended::Nothing;
                    }
                    self.set_position(MemberPosition::At(offset));
                }
            }
        }
        match delivery.encoded(self.link.codec(), self.link.framing()) {
            Ok(frame) => self.link.append_for_flusher(Item::Message(frame.clone())),
            Err(error) => {
                self.refuse(error);
                Appended::Nothing
            }
        }
    }

    /// What to do with a group of publications; moves the position when all of it is taken.
    pub(crate) fn receive(&mut self, run: &Run) -> Reception {
        match (self.position(), run) {
            (MemberPosition::Stopped, _) => Reception::Known,
            (_, Run::JoinLeave) if self.is_listening => Reception::All,
            (_, Run::JoinLeave) => Reception::Known,
            (MemberPosition::Unpositioned, _) | (_, Run::OutsideStream) => Reception::All,
            (MemberPosition::At(have), Run::Contiguous { first, last }) => {
                if *first == have.saturating_add(1) {
                    self.set_position(MemberPosition::At(*last));
                    Reception::All
                } else if *last <= have {
                    Reception::Known
                } else {
                    Reception::OneByOne
                }
            }
            (MemberPosition::At(_), Run::Mixed) => Reception::OneByOne,
        }
    }

    /// Keeps a delivery for the activation, if that has not happened yet. Joins and leaves are not for who is not
    /// there yet: what came of them is what this member finds when it asks who is there.
    pub(crate) fn keep_back(&mut self, delivery: &Arc<Delivery>) -> bool {
        match &mut self.buffer {
            Some(_) if delivery.is_join_leave() => true,
            Some(buffer) => {
                buffer.keep(delivery);
                true
            }
            None => false,
        }
    }

    /// The codec can't say this publication: the connection ends, as in the reference.
    pub(crate) fn refuse(&mut self, error: EncodeError) {
        let disconnect = error.disconnect();
        self.set_position(MemberPosition::Stopped);
        self.link.signal(Signal::Disconnect {
            code: disconnect.code(),
            reason: disconnect.text().into(),
        });
    }
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel")
            .field("key", &self.key)
            .field("num_members", &self.num_members())
            .finish_non_exhaustive()
    }
}
