//! The outbox: what a session has still to send.
//!
//! Owns the order of frames, their count in bytes and how several of them become one write. Knows no lock and
//! no task; [`crate::link::Link`] is its only user. Invariant: an empty outbox holds no allocation, and bytes
//! leave in the order in which frames came in, whatever the wire takes at a time.

#[cfg(test)]
mod tests;

use std::{cell::RefCell, collections::VecDeque, io};

use bytes::Bytes;
use smallvec::SmallVec;
use tidegate_protocol::{
    Codec, Frame, Framing,
    frame::{MAX_JOINED_BYTES, MAX_JOINED_MESSAGES, join},
};

use crate::link::Wire;

/// Bytes gathered for one write. Larger writes bring no throughput on a socket buffer of this order.
const WRITE_BYTES: usize = 64 * 1024;

/// A scratch buffer that grew beyond this is given back after the write.
const SCRATCH_KEPT: usize = 256 * 1024;

thread_local! {
    /// Where queued frames are joined. Per thread, so that sessions own no write buffer.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Something queued. Messages may be joined with their neighbours; raw bytes stand alone.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    Message(Frame),
    /// Control frames, frames joined beforehand, and the rest of a write that was cut.
    Raw(Bytes),
}

/// Frames on their way to one client.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: Queue,
    /// Sum of the bytes in `queue`.
    num_bytes: usize,
    /// The first item is the rest of a frame whose beginning has left: it can't be dropped.
    is_cut: bool,
}

#[derive(Debug, Default)]
enum Queue {
    #[default]
    Empty,
    One(Item),
    Many(VecDeque<Item>),
}

/// How a write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    /// Nothing is left.
    All,
    /// The wire takes no more now; `progress` tells whether it took anything.
    Blocked { progress: bool },
}

impl Item {
    pub(crate) fn bytes(&self) -> &Bytes {
        match self {
            Self::Message(frame) => frame.bytes(),
            Self::Raw(bytes) => bytes,
        }
    }
}

impl Outbox {
    pub(crate) fn num_bytes(&self) -> usize {
        self.num_bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        matches!(self.queue, Queue::Empty)
    }

    pub(crate) fn push(&mut self, item: Item) {
        self.num_bytes += item.bytes().len();
        self.queue = match std::mem::take(&mut self.queue) {
            Queue::Empty => Queue::One(item),
            Queue::One(first) => Queue::Many(VecDeque::from([first, item])),
            Queue::Many(mut items) => {
                items.push_back(item);
                Queue::Many(items)
            }
        };
    }

    /// Drops everything that can still be dropped without cutting a frame.
    pub(crate) fn clear(&mut self) {
        let queue = std::mem::take(&mut self.queue);
        self.num_bytes = 0;
        if !self.is_cut {
            return;
        }
        let first = match queue {
            Queue::Empty => None,
            Queue::One(first) => Some(first),
            Queue::Many(mut items) => items.pop_front(),
        };
        if let Some(first) = first {
            self.num_bytes = first.bytes().len();
            self.queue = Queue::One(first);
        }
    }

    /// Writes until nothing is left or the wire blocks. A single item leaves straight from its shared bytes,
    /// several are joined: one copy is cheaper than a vectored write.
    pub(crate) fn write_to<W: Wire + ?Sized>(
        &mut self,
        wire: &W,
        encoding: (Codec, Framing),
    ) -> io::Result<Written> {
        let mut progress = false;
        loop {
            let blocked = match &mut self.queue {
                Queue::Empty => return Ok(Written::All),
                Queue::One(item) => {
                    let bytes = item.bytes();
                    match accepted(wire.try_write(bytes))? {
                        None => true,
                        Some(taken) => {
                            progress = true;
                            self.num_bytes -= taken;
                            if taken == bytes.len() {
                                self.queue = Queue::Empty;
                                self.is_cut = false;
                            } else {
                                *item = Item::Raw(bytes.slice(taken..));
                                self.is_cut = true;
                            }
                            false
                        }
                    }
                }
                Queue::Many(items) => match write_joined(items, wire, encoding)? {
                    None => true,
                    Some(joined) => {
                        progress = true;
                        self.num_bytes = self.num_bytes - joined.accounted + joined.rest;
                        self.is_cut = joined.rest > 0;
                        if items.is_empty() {
                            self.queue = Queue::Empty;
                        }
                        false
                    }
                },
            };
            if blocked {
                return Ok(Written::Blocked { progress });
            }
        }
    }
}

/// What a joined write took out of the queue.
struct Joined {
    /// Bytes that the written items were accounted with.
    accounted: usize,
    /// Bytes put back because the wire took only a part; zero when it took all.
    rest: usize,
}

/// Joins from the front up to [`WRITE_BYTES`] and writes once; `None` when the wire took nothing.
fn write_joined<W: Wire + ?Sized>(
    items: &mut VecDeque<Item>,
    wire: &W,
    encoding: (Codec, Framing),
) -> io::Result<Option<Joined>> {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.clear();
        let (num_items, accounted) = gather(items, encoding, scratch);
        let Some(taken) = accepted(wire.try_write(scratch))? else {
            return Ok(None);
        };
        items.drain(..num_items);
        let rest = scratch.len() - taken;
        if rest > 0 {
            items.push_front(Item::Raw(Bytes::copy_from_slice(&scratch[taken..])));
        }
        if scratch.capacity() > SCRATCH_KEPT {
            *scratch = Vec::new();
        }
        Ok(Some(Joined { accounted, rest }))
    })
}

/// Fills `scratch` from the front of `items`; answers how many items and how many of their bytes it holds.
fn gather(
    items: &VecDeque<Item>,
    (codec, framing): (Codec, Framing),
    scratch: &mut Vec<u8>,
) -> (usize, usize) {
    let (mut num_items, mut accounted) = (0, 0);
    while num_items < items.len() && scratch.len() < WRITE_BYTES {
        let run = joinable_run(items, num_items);
        if run.len() > 1 {
            join(codec, framing, &run, scratch);
        } else {
            scratch.extend_from_slice(items[num_items].bytes());
        }
        for item in items.range(num_items..num_items + run.len().max(1)) {
            accounted += item.bytes().len();
        }
        num_items += run.len().max(1);
    }
    (num_items, accounted)
}

/// The messages from `start` on that go into one protocol frame.
fn joinable_run(items: &VecDeque<Item>, start: usize) -> SmallVec<[Frame; MAX_JOINED_MESSAGES]> {
    let mut run = SmallVec::new();
    let (mut messages, mut bytes) = (0, 0);
    for item in items.range(start..) {
        let Item::Message(frame) = item else { break };
        messages += usize::from(frame.count());
        bytes += frame.len();
        if messages > MAX_JOINED_MESSAGES || bytes > MAX_JOINED_BYTES {
            break;
        }
        run.push(frame.clone());
    }
    run
}

fn accepted(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        Ok(taken) => Ok(Some(taken)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
        Err(error) => Err(error),
    }
}
