//! Who has lost their place: the members of a channel against the top of its stream.
//!
//! Owns the list of doubtful channels and the comparison of one channel's members. When to compare, and what to do
//! about the stream, is [`crate::positions`]'s. Invariant: a member that is told is stopped first, under its list's
//! lock, so that it gets nothing behind the hole.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Channel, Hub, MAP_PARTS, MemberPosition};
use crate::link::{Link, Signal};

/// Channels in doubt one by one. Beyond it everything is: that costs one read per followed channel, and whoever has
/// thousands of doubts has lost a connection or a store.
const MAX_DOUBTS: usize = 4_096;

/// Members compared between two yields, as in the flusher.
const YIELD_EVERY: usize = 256;

/// What may have lost something, until the position check takes it.
#[derive(Default)]
pub(crate) struct Doubts {
    list: Mutex<DoubtList>,
    pub(crate) wake: Notify,
}

#[derive(Default)]
pub(crate) struct DoubtList {
    /// Every followed channel.
    pub(crate) has_everything: bool,
    /// A channel is here at most once: it is marked.
    pub(crate) channels: Vec<Arc<Channel>>,
}

/// How members are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    /// The stream is the one that members follow, and its top is here. Who had not come to `due` has lost something;
    /// who is between the two waits for what is on its way.
    SameStream { due: u64, top: u64 },
    /// The stream is not the one that members follow.
    OtherStream,
}

/// What a comparison came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Compared {
    /// Members that something may be on its way to.
    pub(crate) num_behind: usize,
    /// Members that were stopped and told.
    pub(crate) num_lost: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Kept,
    Behind,
    Lost,
}

impl Comparison {
    fn judge(self, have: u64) -> Place {
        match self {
            Self::SameStream { due, .. } if have < due => Place::Lost,
            Self::SameStream { top, .. } if have < top => Place::Behind,
            Self::SameStream { .. } => Place::Kept,
            // Also those who have nothing yet: the former stream may have had something for them.
            Self::OtherStream => Place::Lost,
        }
    }
}

impl Doubts {
    pub(crate) fn everything(&self) {
        let mut list = self.list.lock();
        list.has_everything = true;
        drop(list);
        self.wake.notify_one();
    }

    fn channel(&self, channel: &Arc<Channel>) {
        let mut list = self.list.lock();
        if list.channels.len() >= MAX_DOUBTS {
            list.has_everything = true;
        } else if channel.start_doubt() {
            list.channels.push(Arc::clone(channel));
        }
        drop(list);
        self.wake.notify_one();
    }

    /// Takes what is in doubt; what comes into doubt from now on is on the list again.
    pub(crate) fn take(&self) -> DoubtList {
        let mut list = self.list.lock();
        let taken = std::mem::take(&mut *list);
        for channel in &taken.channels {
            channel.end_doubt();
        }
        taken
    }
}

impl Hub {
    /// Has the channel's positions checked at once.
    pub(crate) fn doubt(&self, channel: &Arc<Channel>) {
        self.doubts.channel(channel);
    }

    pub(crate) fn doubts(&self) -> &Doubts {
        &self.doubts
    }

    /// Parts of the channel map, for who walks it in steps.
    pub(crate) const fn num_parts() -> usize {
        MAP_PARTS
    }

    /// The channels of a part of the map that have members with a position.
    pub(crate) fn positioned_channels(&self, part: usize) -> Vec<Arc<Channel>> {
        let part = self.channels[part].read();
        part.iter()
            .filter(|channel| channel.is_positioned())
            .map(Arc::clone)
            .collect()
    }

    /// Those of them for whom so many turns have gone by without a sign that nothing is missing.
    pub(crate) fn unconfirmed_channels(&self, part: usize, num_turns: u8) -> Vec<Arc<Channel>> {
        let part = self.channels[part].read();
        part.iter()
            .filter(|channel| channel.is_positioned() && channel.is_check_due(num_turns))
            .map(Arc::clone)
            .collect()
    }

    /// Compares every member of the channel; stops and tells those who have lost something.
    pub(crate) async fn compare(&self, channel: &Arc<Channel>, comparison: Comparison) -> Compared {
        // Unset first: a member that gets a position meanwhile sets it again.
        channel.set_positioned(false);
        let mut compared = Compared::default();
        let mut lost: Vec<Arc<Link>> = Vec::new();
        for shard in 0..self.shards.len() {
            let Some(members) = channel.existing_members(shard) else {
                continue;
            };
            let mut next = Some(0);
            while let Some(start) = next.take() {
                {
                    let mut list = members.list.lock();
                    let end = list.capacity().min(start + YIELD_EVERY);
                    if end < list.capacity() {
                        next = Some(end);
                    }
                    for slot in start..end {
                        let Some(member) = list.get_mut(slot) else {
                            continue;
                        };
                        let MemberPosition::At(have) = member.position() else {
                            continue;
                        };
                        match comparison.judge(have) {
                            Place::Kept => channel.set_positioned(true),
                            Place::Behind => {
                                channel.set_positioned(true);
                                compared.num_behind += 1;
                            }
                            Place::Lost => {
                                member.set_position(MemberPosition::Stopped);
                                lost.push(Arc::clone(&member.link));
                            }
                        }
                    }
                }
                compared.num_lost += lost.len();
                for link in lost.drain(..) {
                    self.count_gap();
                    link.signal(Signal::Gap(channel.key.clone()));
                }
                if next.is_some() {
                    tokio::task::yield_now().await;
                }
            }
        }
        compared
    }
}
