//! The flusher: one task per shard that carries broadcasts into outboxes and outboxes onto wires.
//!
//! Owns the order of a shard's work. It takes all that is queued, groups it by channel, joins each group into
//! bytes shared by all members, appends them under the member list's lock, and writes each link once after the
//! lock is gone. Invariants: nothing here waits for a peer; nothing is allocated per member; after 256 members
//! the other tasks of the thread get their turn.
//!
//! Lost channels come last. What was queued before the loss is delivered, then every member is stopped and
//! told; what was published after the flusher took the batch reaches only members that joined since.

use std::sync::Arc;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use tidegate_protocol::{
    Codec, EncodeError, Frame, Framing,
    frame::{MAX_JOINED_BYTES, MAX_JOINED_MESSAGES},
};
use tokio_util::sync::CancellationToken;

use crate::{
    hub::{
        Batch, Channel, Delivery, Hub, MemberPosition, NUM_ENCODINGS, Reception, Run, Shard,
        encoding_index,
    },
    ids::ChannelKey,
    link::{Appended, FlushOutcome, Link, Signal},
    outbox::Item,
};

/// Members served between two yields: at 2.5 microseconds a write, the others wait 0.6 ms at most.
const YIELD_EVERY: usize = 256;

/// Empty slots walked between two yields.
const YIELD_SLOTS: usize = 16 * 1024;

/// Links appended to before they are written, when several channels are served: a link that is in more than
/// one of them then gets one write.
const MAX_DIRTY: usize = 4096;

/// Most bytes of joined frames that are prepared once for all members.
const GROUP_BYTES: usize = 64 * 1024;

/// Serves a shard until `stop`.
pub(crate) async fn run(hub: Arc<Hub>, shard: usize, stop: CancellationToken) {
    let mut flusher = Flusher {
        shard,
        batch: Batch::default(),
        groups: Vec::new(),
        dirty: Vec::new(),
        missing: Vec::new(),
        delivered: 0,
    };
    loop {
        flusher.queue(&hub).take(shard, &mut flusher.batch);
        if flusher.batch.events.is_empty() && flusher.batch.lost.is_empty() {
            tokio::select! {
                biased; // Stop wins, so that shutdown is prompt.
                () = stop.cancelled() => return,
                () = flusher.queue(&hub).wake.notified() => {}
            }
            continue;
        }
        flusher.serve(&hub).await;
        tokio::task::yield_now().await;
    }
}

/// A shard's worker and the vectors that it uses again and again.
struct Flusher {
    shard: usize,
    batch: Batch,
    groups: Vec<Group>,
    /// Appended to and not written yet.
    dirty: Vec<Arc<Link>>,
    /// Members that were stopped because of a gap, to be told when the list's lock is gone.
    missing: Vec<Arc<Link>>,
    delivered: u64,
}

/// Events of one channel that are delivered together.
struct Group {
    deliveries: SmallVec<[Arc<Delivery>; 1]>,
    num_bytes: usize,
    run: Run,
    /// What all members get that get everything; made when the first such member is met.
    shared: [Option<Result<Item, EncodeError>>; NUM_ENCODINGS],
}

impl Flusher {
    fn queue<'a>(&self, hub: &'a Hub) -> &'a Shard {
        &hub.shards[self.shard]
    }

    async fn serve(&mut self, hub: &Hub) {
        self.group_events();
        let max_dirty = if self.groups.len() > 1 { MAX_DIRTY } else { 1 };
        let mut groups = std::mem::take(&mut self.groups);
        let mut budget = Budget::default();
        for group in &mut groups {
            let mut next = Some(0);
            while let Some(start) = next {
                next = self.append_some(group, start, &mut budget);
                self.tell_missing(hub, &group.channel().key);
                if self.dirty.len() >= max_dirty {
                    self.write_dirty(&mut budget).await;
                }
                budget.pause_if_spent().await;
            }
        }
        self.write_dirty(&mut budget).await;
        groups.clear();
        self.groups = groups;
        let mut lost = std::mem::take(&mut self.batch.lost);
        for channel in lost.drain(..) {
            self.stop_members(hub, &channel).await;
        }
        self.batch.lost = lost;
        let delivered = std::mem::take(&mut self.delivered);
        hub.count_deliveries(delivered);
    }

    /// Splits the batch by channel; within a channel the order stays.
    fn group_events(&mut self) {
        let mut open: FxHashMap<*const Channel, usize> = FxHashMap::default();
        let is_single = self.batch.events.len() == 1;
        for delivery in self.batch.events.drain(..) {
            let channel = Arc::as_ptr(&delivery.channel);
            if !is_single {
                if let Some(group) = open.get(&channel).map(|index| &mut self.groups[*index])
                    && group.takes(&delivery)
                {
                    group.add(delivery);
                    continue;
                }
                open.insert(channel, self.groups.len());
            }
            self.groups.push(Group::new(delivery));
        }
    }

    /// Appends a group to the next members from slot `start` on; answers where to go on.
    fn append_some(
        &mut self,
        group: &mut Group,
        start: usize,
        budget: &mut Budget,
    ) -> Option<usize> {
        let channel = Arc::clone(group.channel());
        let members = channel.existing_members(self.shard)?;
        let mut list = members.list.lock();
        let end = list.capacity();
        for slot in start..end {
            let Some(member) = list.get_mut(slot) else {
                if budget.spend_slot() {
                    return Some(slot + 1);
                }
                continue;
            };
            if member.buffer.is_some() {
                for delivery in &group.deliveries {
                    member.keep_back(delivery);
                }
                if budget.spend_member() {
                    return Some(slot + 1);
                }
                continue;
            }
            let was = member.position();
            let appended = match member.receive(&group.run) {
                Reception::Known => Appended::Nothing,
                Reception::All => {
                    self.delivered += group.deliveries.len() as u64;
                    match group.shared_for(member.link.codec(), member.link.framing()) {
                        Ok(item) => member.link.append_for_flusher(item),
                        Err(error) => {
                            member.refuse(error);
                            Appended::Nothing
                        }
                    }
                }
                Reception::OneByOne => {
                    let mut appended = Appended::Nothing;
                    for delivery in &group.deliveries {
                        self.delivered += 1;
                        if member.deliver(delivery) == Appended::NowDirty {
                            appended = Appended::NowDirty;
                        }
                    }
                    if member.position() == MemberPosition::Stopped
                        && was != MemberPosition::Stopped
                    {
                        self.missing.push(Arc::clone(&member.link));
                    }
                    appended
                }
            };
            if appended == Appended::NowDirty {
                self.dirty.push(Arc::clone(&member.link));
            }
            if budget.spend_member() {
                return Some(slot + 1);
            }
        }
        None
    }

    /// Writes every dirty link once.
    async fn write_dirty(&mut self, budget: &mut Budget) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for link in dirty.drain(..) {
            match link.flush() {
                // Blocked and broken links have woken their session's task.
                FlushOutcome::Flushed | FlushOutcome::Blocked | FlushOutcome::Broken => {}
            }
            // Dropping the last reference would close the socket here, which is as good as anywhere.
            drop(link);
            if budget.spend_member() {
                budget.pause_if_spent().await;
            }
        }
        self.dirty = dirty;
    }

    /// Stops every member of a channel of which an event was lost, and tells them.
    async fn stop_members(&mut self, hub: &Hub, channel: &Arc<Channel>) {
        let Some(members) = channel.existing_members(self.shard) else {
            return;
        };
        let mut budget = Budget::default();
        let mut next = Some(0);
        while let Some(start) = next.take() {
            {
                let mut list = members.list.lock();
                for slot in start..list.capacity() {
                    if let Some(member) = list.get_mut(slot) {
                        if let Some(buffer) = &mut member.buffer {
                            buffer.overflow();
                        } else if member.position() != MemberPosition::Stopped {
                            member.set_position(MemberPosition::Stopped);
                            self.missing.push(Arc::clone(&member.link));
                        }
                    }
                    if budget.spend_member() {
                        next = Some(slot + 1);
                        break;
                    }
                }
            }
            self.tell_missing(hub, &channel.key);
            budget.pause_if_spent().await;
        }
    }

    fn tell_missing(&mut self, hub: &Hub, key: &ChannelKey) {
        for link in self.missing.drain(..) {
            hub.count_gap();
            link.signal(Signal::Gap(key.clone()));
        }
    }
}

impl Group {
    fn new(delivery: Arc<Delivery>) -> Self {
        Self {
            num_bytes: delivery.cost,
            run: Run::of(&delivery),
            deliveries: SmallVec::from_iter([delivery]),
            shared: Default::default(),
        }
    }

    fn channel(&self) -> &Arc<Channel> {
        &self.deliveries[0].channel
    }

    /// Joins and leaves go to other members than publications do, so the two never share bytes.
    fn takes(&self, delivery: &Delivery) -> bool {
        let is_same_kind = (self.run == Run::JoinLeave) == delivery.is_join_leave();
        is_same_kind && self.num_bytes + delivery.cost <= GROUP_BYTES
    }

    fn add(&mut self, delivery: Arc<Delivery>) {
        self.num_bytes += delivery.cost;
        self.run = self.run.followed_by(Run::of(&delivery));
        self.deliveries.push(delivery);
    }

    /// The bytes of the whole group in one encoding.
    fn shared_for(&mut self, codec: Codec, framing: Framing) -> Result<Item, EncodeError> {
        let index = encoding_index(codec, framing);
        if let Some(shared) = &self.shared[index] {
            return shared.clone();
        }
        let made = self.join(codec, framing);
        self.shared[index] = Some(made.clone());
        made
    }

    fn join(&self, codec: Codec, framing: Framing) -> Result<Item, EncodeError> {
        if let [only] = self.deliveries.as_slice() {
            return only.encoded(codec, framing).cloned().map(Item::Message);
        }
        let mut frames: SmallVec<[Frame; MAX_JOINED_MESSAGES]> = SmallVec::new();
        let mut joined = Vec::new();
        let mut num_bytes = 0;
        for delivery in &self.deliveries {
            let frame = delivery.encoded(codec, framing)?;
            let is_full =
                frames.len() == MAX_JOINED_MESSAGES || num_bytes + frame.len() > MAX_JOINED_BYTES;
            if is_full && !frames.is_empty() {
                joined.push(Frame::joined(codec, framing, &frames));
                frames.clear();
                num_bytes = 0;
            }
            num_bytes += frame.len();
            frames.push(frame.clone());
        }
        let last = Frame::joined(codec, framing, &frames);
        if joined.is_empty() {
            return Ok(Item::Message(last));
        }
        joined.push(last);
        let mut bytes = Vec::with_capacity(joined.iter().map(Frame::len).sum());
        for frame in &joined {
            bytes.extend_from_slice(frame.bytes());
        }
        Ok(Item::Raw(Bytes::from(bytes)))
    }
}

/// Work done since the other tasks of this thread had their turn.
#[derive(Default)]
struct Budget {
    members: usize,
    slots: usize,
}

impl Budget {
    /// Counts a member; answers whether it is time to pause.
    fn spend_member(&mut self) -> bool {
        self.members += 1;
        self.members >= YIELD_EVERY
    }

    fn spend_slot(&mut self) -> bool {
        self.slots += 1;
        self.slots >= YIELD_SLOTS
    }

    async fn pause_if_spent(&mut self) {
        if self.members >= YIELD_EVERY || self.slots >= YIELD_SLOTS {
            *self = Self::default();
            tokio::task::yield_now().await;
        }
    }
}
