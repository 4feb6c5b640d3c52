//! A membership: the guard that keeps a session in a channel, and its way from joining to live delivery.
//!
//! Owns the hand-over between what a subscribe reply says and what is delivered afterwards. Invariant: every
//! publication broadcast after [`Hub::join`] is either handed to the closure of [`Membership::activate`],
//! appended behind what the closure pushed, or reported as missing.

use std::sync::Arc;

use tidegate_protocol::{Publication, StreamPosition};

use super::{
    Hub,
    channel::{Channel, Member, MemberPosition},
    delivery::{Content, Delivery},
    stream::Epoch,
};
use crate::{
    ids::ChannelKey,
    link::{Link, Signal},
    recovery::is_torn,
};

/// Most publications kept back for one membership. A subscribe takes one broker round trip.
const BUFFER_LEN: usize = 1_000;

/// Most bytes kept back for one membership.
const BUFFER_BYTES: usize = 1024 * 1024;

/// The outcome of [`Hub::join`].
#[derive(Debug)]
pub struct Joined {
    pub membership: Membership,
    /// Nobody has confirmed yet that the broker carries the channel: subscribe it, then call
    /// [`Membership::confirm`]. Several joins at once may all be first.
    pub is_first: bool,
}

/// Keeps a link in a channel; dropping it leaves. After the drop nothing more is appended for it.
#[must_use = "dropping the membership leaves the channel"]
pub struct Membership {
    hub: Arc<Hub>,
    channel: Arc<Channel>,
    shard: u16,
    slot: u32,
}

/// What was broadcast between joining and activation.
#[derive(Debug)]
pub struct Buffered {
    /// In the order of the broadcasts.
    pub publications: Vec<BufferedPublication>,
    /// More was broadcast than is kept back; `publications` is empty and recovery must not claim to be whole.
    pub has_overflowed: bool,
}

#[derive(Debug, Clone)]
pub struct BufferedPublication {
    pub publication: Arc<Publication>,
    /// `None` in channels without history.
    pub position: Option<StreamPosition>,
}

/// How a membership goes on after its reply was pushed.
#[derive(Debug, Clone)]
pub enum Activation {
    /// Everything broadcast from now on, with no claim about positions.
    Unpositioned,
    /// The reply accounts for everything up to this position: the next offset is delivered next, and a missing
    /// one stops the membership with [`Signal::Gap`].
    After(StreamPosition),
    /// Nothing is delivered; the caller is about to drop the membership.
    Withdraw,
}

/// Publications kept back for a member that is not active yet.
#[derive(Default)]
pub(crate) struct Buffer {
    deliveries: Vec<Arc<Delivery>>,
    num_bytes: usize,
    has_overflowed: bool,
}

impl Buffer {
    fn publications(&self) -> Vec<BufferedPublication> {
        let publications = self.deliveries.iter().filter_map(|delivery| {
            let Content::Publication(publication) = &delivery.content else {
                return None;
            };
            Some(BufferedPublication {
                publication: Arc::clone(publication),
                position: delivery.position.clone(),
            })
        });
        publications.collect()
    }
}

impl Membership {
    pub(super) fn new(hub: Arc<Hub>, channel: Arc<Channel>, shard: u16, slot: u32) -> Self {
        Self {
            hub,
            channel,
            shard,
            slot,
        }
    }

    pub fn key(&self) -> &ChannelKey {
        &self.channel.key
    }

    /// Takes note that the broker carries the channel; later joins are no longer first.
    pub fn confirm(&self) {
        self.channel.set_carried();
    }

    /// Goes from keeping back to live delivery. `then` gets what was kept back and pushes the subscribe reply,
    /// and what has to follow it, onto the link; no lock is held meanwhile. What is broadcast while it runs
    /// is appended behind. A second activation starts from an empty buffer and is harmless.
    pub fn activate(&self, then: impl FnOnce(Buffered) -> Activation) {
        let activation = then(self.open());
        self.go_live(&activation);
    }

    /// The first half of [`Membership::activate`]: hands over what was kept back, and keeps back what comes.
    pub fn open(&self) -> Buffered {
        self.take_buffered()
    }

    /// The second half: appends what came since [`Membership::open`] and goes live.
    pub fn go_live(&self, activation: &Activation) {
        if let Some(link) = self.deliver_from(activation) {
            self.report_gap(&link);
        }
    }

    /// Whether what is kept back cannot be joined to a history that ends at `top`.
    pub fn is_torn(&self, top: &StreamPosition) -> bool {
        let kept = self.with_member(|member| {
            let buffer = member.buffer.as_ref()?;
            (!buffer.has_overflowed).then(|| buffer.publications())
        });
        kept.flatten().is_some_and(|kept| is_torn(top, &kept))
    }

    /// From its activation on, the member gets joins and leaves too.
    pub fn listen_to_joins(&self) {
        self.with_member(Member::listen);
    }

    /// The number of members of the channel on this node.
    pub fn num_members(&self) -> usize {
        self.channel.num_members()
    }

    fn take_buffered(&self) -> Buffered {
        let buffer = self.with_member(|member| {
            member
                .buffer
                .as_mut()
                .map(|buffer| std::mem::take(&mut **buffer))
        });
        let buffer = buffer.flatten().unwrap_or_default();
        Buffered {
            publications: buffer.publications(),
            has_overflowed: buffer.has_overflowed,
        }
    }

    /// Under the list's lock: delivers what came while the reply was made and sets the member live. Answers
    /// the link when something is missing.
    fn deliver_from(&self, activation: &Activation) -> Option<Arc<Link>> {
        self.with_member(|member| {
            let buffer = member.buffer.take()?;
            member.set_position(match activation {
                Activation::Unpositioned => MemberPosition::Unpositioned,
                Activation::After(position) => match self.channel.check_epoch(position) {
                    Epoch::Same => MemberPosition::At(position.offset),
                    // Which of the two streams is the older one, the broker knows.
                    Epoch::Changed => {
                        self.hub.doubt(&self.channel);
                        MemberPosition::Stopped
                    }
                },
                Activation::Withdraw => {
                    member.set_position(MemberPosition::Stopped);
                    return None;
                }
            });
            if buffer.has_overflowed {
                member.set_position(MemberPosition::Stopped);
            }
            if matches!(member.position(), MemberPosition::At(_)) {
                self.channel.set_positioned(true);
            }
            for delivery in &buffer.deliveries {
                member.deliver(delivery);
            }
            (member.position() == MemberPosition::Stopped).then(|| Arc::clone(&member.link))
        })
        .flatten()
    }

    fn report_gap(&self, link: &Link) {
        self.hub.count_gap();
        link.signal(Signal::Gap(self.channel.key.clone()));
    }

    fn with_member<R>(&self, act: impl FnOnce(&mut Member) -> R) -> Option<R> {
        let members = self.channel.members(usize::from(self.shard));
        members.list.lock().get_mut(self.slot as usize).map(act)
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.channel
            .members(usize::from(self.shard))
            .remove(self.slot);
        self.hub.leave(&self.channel);
    }
}

impl std::fmt::Debug for Membership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Membership")
            .field(&self.channel.key)
            .finish()
    }
}

impl Buffer {
    pub(super) fn keep(&mut self, delivery: &Arc<Delivery>) {
        if self.has_overflowed {
            return;
        }
        let num_bytes = self.num_bytes + delivery.cost;
        if self.deliveries.len() >= BUFFER_LEN || num_bytes > BUFFER_BYTES {
            self.overflow();
            return;
        }
        self.num_bytes = num_bytes;
        self.deliveries.push(Arc::clone(delivery));
    }

    /// Gives up: what was kept is no use without the rest.
    pub(crate) fn overflow(&mut self) {
        *self = Self {
            has_overflowed: true,
            ..Self::default()
        };
    }
}
