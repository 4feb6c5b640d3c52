//! Asks that wait for answers, and orders that were carried out already.
//!
//! Pure: the time and the answers come in, what to send again goes out. Owns who is still waited for. Invariants: an
//! ask is concluded once, when all have answered or at its deadline; an order lives on until all have answered, have
//! left, or its time is over. A node that was forgotten has not left: should it be heard again before that, it is told.
//! Work per ask does not grow with the number of asks.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use hashbrown::{HashMap, HashSet};
use tokio::{sync::oneshot, time::Instant};

use super::{
    ASK_TIMEOUT, MAX_ASK_BYTES, MAX_ASKS, NodeUid, ORDER_LIFE, RESEND_AFTER, Reply,
    message::NodeAnswer,
};
use crate::broker::BrokerError;

/// Parts of one node's answer.
const MAX_PARTS: u32 = 10_000;

/// Orders of one node that are remembered, so that one that comes again is not carried out again. It comes within
/// [`ORDER_LIFE`], and a node has at most [`MAX_ASKS`] under way.
const REMEMBERED: usize = MAX_ASKS;

/// What came of asking everybody.
#[derive(Debug, Default)]
pub(crate) struct Surveyed {
    /// The nodes that answered in time, and the parts of their answers.
    pub(crate) replies: Vec<(NodeUid, Vec<Reply>)>,
    /// Those that did not.
    pub(crate) silent: Vec<NodeUid>,
}

/// An ask that has begun.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) id: u64,
    /// To be sent to everyone.
    pub(super) payload: Bytes,
    pub(super) surveyed: oneshot::Receiver<Surveyed>,
}

#[derive(Debug, Default)]
pub(super) struct Asks {
    last_id: u64,
    under_way: HashMap<u64, UnderWay>,
    /// When each ask has something to do, the soonest first.
    dues: BTreeSet<(Instant, u64)>,
    /// Of all payloads.
    num_bytes: usize,
}

#[derive(Debug)]
struct UnderWay {
    payload: Bytes,
    is_order: bool,
    waiting: Vec<Waiting>,
    /// Of an order: nodes that were forgotten before they answered.
    lost: Vec<NodeUid>,
    replies: Vec<(NodeUid, Vec<Reply>)>,
    deadline: Instant,
    /// Of an order: when it is sent again to those that are waited for.
    resend_at: Instant,
    ends: Instant,
    /// `None` once it is concluded.
    told: Option<oneshot::Sender<Surveyed>>,
    /// Its place among the dues.
    due: Instant,
}

/// A node that is waited for.
#[derive(Debug)]
struct Waiting {
    uid: NodeUid,
    parts: Vec<Option<Reply>>,
    num_missing: usize,
}

impl Waiting {
    fn new(uid: NodeUid) -> Self {
        Self {
            uid,
            parts: Vec::new(),
            num_missing: 0,
        }
    }
}

impl Asks {
    pub(super) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Begins the ask of the last id.
    pub(super) fn begin(
        &mut self,
        payload: Bytes,
        others: Vec<NodeUid>,
        is_order: bool,
        now: Instant,
    ) -> Result<Begun, BrokerError> {
        if self.under_way.len() >= MAX_ASKS || self.num_bytes + payload.len() > MAX_ASK_BYTES {
            return Err(BrokerError::Overloaded);
        }
        let (told, surveyed) = oneshot::channel();
        let mut under_way = UnderWay {
            payload: payload.clone(),
            is_order,
            waiting: others.into_iter().map(Waiting::new).collect(),
            lost: Vec::new(),
            replies: Vec::new(),
            deadline: now + ASK_TIMEOUT,
            resend_at: now + RESEND_AFTER,
            ends: now + if is_order { ORDER_LIFE } else { ASK_TIMEOUT },
            told: Some(told),
            due: now,
        };
        let id = self.last_id;
        if under_way.waiting.is_empty() {
            under_way.conclude();
        } else {
            self.num_bytes += payload.len();
            under_way.queue(id, &mut self.dues);
            self.under_way.insert(id, under_way);
        }
        Ok(Begun {
            id,
            payload,
            surveyed,
        })
    }

    /// Forgets an ask that was not sent.
    pub(super) fn withdraw(&mut self, id: u64) {
        self.take(id);
    }

    fn take(&mut self, id: u64) -> Option<UnderWay> {
        let under_way = self.under_way.remove(&id)?;
        self.num_bytes -= under_way.payload.len();
        self.dues.remove(&(under_way.due, id));
        Some(under_way)
    }

    /// Takes a part of an answer. Answers of nodes that nobody waits for mean nothing.
    pub(super) fn answered(&mut self, from: &NodeUid, answer: NodeAnswer) {
        let NodeAnswer {
            id,
            part,
            parts,
            reply,
        } = answer;
        if parts == 0 || parts > MAX_PARTS || part >= parts {
            return;
        }
        let Some(under_way) = self.under_way.get_mut(&id) else {
            return;
        };
        let found = under_way
            .waiting
            .iter()
            .position(|waiting| waiting.uid == *from);
        let Some(index) = found else { return };
        let waiting = &mut under_way.waiting[index];
        if waiting.parts.is_empty() {
            waiting.parts.resize_with(parts as usize, || None);
            waiting.num_missing = waiting.parts.len();
        }
        if let Some(slot) = waiting.parts.get_mut(part as usize)
            && slot.replace(reply).is_none()
        {
            waiting.num_missing -= 1;
        }
        if waiting.num_missing > 0 {
            return;
        }
        let Waiting { uid, parts, .. } = under_way.waiting.swap_remove(index);
        let parts = parts.into_iter().flatten().collect();
        under_way.replies.push((uid, parts));
        self.conclude_if_answered(id);
    }

    /// Waits for this node no longer: it said that it leaves.
    pub(super) fn left(&mut self, uid: &NodeUid) {
        self.no_longer(uid, |_| {});
    }

    /// Waits for this node no longer; should it come back, it is told what it was ordered meanwhile.
    pub(super) fn forgotten(&mut self, uid: &NodeUid) {
        self.no_longer(uid, |under_way| {
            if under_way.is_order {
                under_way.lost.push(uid.clone());
            }
        });
    }

    fn no_longer(&mut self, uid: &NodeUid, waited: impl Fn(&mut UnderWay)) {
        let mut answered = Vec::new();
        for (id, under_way) in &mut self.under_way {
            let before = under_way.waiting.len();
            under_way.lost.retain(|lost| lost != uid);
            under_way.waiting.retain(|waiting| waiting.uid != *uid);
            if under_way.waiting.len() < before {
                waited(under_way);
            }
            if under_way.waiting.is_empty() {
                answered.push(*id);
            }
        }
        for id in answered {
            self.conclude_if_answered(id);
        }
    }

    /// A node that was forgotten is heard again: what it has not acknowledged is sent to it.
    pub(super) fn is_back(&mut self, uid: &NodeUid, now: Instant) {
        for (id, under_way) in &mut self.under_way {
            let before = under_way.lost.len();
            under_way.lost.retain(|lost| lost != uid);
            if under_way.lost.len() < before {
                under_way.waiting.push(Waiting::new(uid.clone()));
                under_way.resend_at = now;
                under_way.queue(*id, &mut self.dues);
            }
        }
    }

    /// Concludes what is due; answers the orders to be sent again.
    pub(super) fn tick(&mut self, now: Instant) -> Vec<(NodeUid, Bytes)> {
        let mut resent = Vec::new();
        while let Some((due, id)) = self.dues.first().copied().filter(|(due, _)| *due <= now) {
            self.dues.remove(&(due, id));
            let Some(under_way) = self.under_way.get_mut(&id) else {
                continue;
            };
            if under_way.deadline <= now {
                under_way.conclude();
            }
            if under_way.ends <= now {
                self.num_bytes -= under_way.payload.len();
                self.under_way.remove(&id);
                continue;
            }
            if under_way.is_order && under_way.resend_at <= now {
                // Nobody waits for the answer any more after the deadline, and the node is in trouble.
                let is_late = under_way.deadline <= now;
                under_way.resend_at = now + if is_late { ASK_TIMEOUT } else { RESEND_AFTER };
                resent.extend(
                    under_way
                        .waiting
                        .iter()
                        .map(|waiting| (waiting.uid.clone(), under_way.payload.clone())),
                );
            }
            under_way.queue(id, &mut self.dues);
        }
        resent
    }

    /// When [`Asks::tick`] has something to do.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.dues.first().map(|(due, _)| *due)
    }

    fn conclude_if_answered(&mut self, id: u64) {
        let Some(under_way) = self.under_way.get_mut(&id) else {
            return;
        };
        if !under_way.waiting.is_empty() {
            return;
        }
        if under_way.lost.is_empty() {
            if let Some(mut under_way) = self.take(id) {
                under_way.conclude();
            }
            return;
        }
        // It waits for those that may come back, and whoever asked does not.
        under_way.conclude();
        under_way.queue(id, &mut self.dues);
    }
}

impl UnderWay {
    fn conclude(&mut self) {
        if let Some(told) = self.told.take() {
            let silent = self.waiting.iter().map(|waiting| &waiting.uid);
            // Whoever asked may have gone away.
            let _ = told.send(Surveyed {
                replies: std::mem::take(&mut self.replies),
                silent: silent.chain(&self.lost).cloned().collect(),
            });
        }
    }

    /// Takes its place among the dues: when there is something to do for it next.
    fn queue(&mut self, id: u64, dues: &mut BTreeSet<(Instant, u64)>) {
        dues.remove(&(self.due, id));
        let deadline = self.told.is_some().then_some(self.deadline);
        let is_resent = self.is_order && !self.waiting.is_empty();
        let resend = is_resent.then_some(self.resend_at);
        let next = [deadline, resend].into_iter().flatten();
        self.due = next.fold(self.ends, Instant::min);
        dues.insert((self.due, id));
    }
}

/// The orders that this node has carried out of late.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    by_node: HashMap<NodeUid, Remembered>,
}

#[derive(Debug, Default)]
struct Remembered {
    ids: HashSet<u64>,
    /// Oldest first.
    order: VecDeque<u64>,
    /// When the node was forgotten, if it was.
    forgotten_at: Option<Instant>,
}

impl Repeats {
    /// Whether the order comes for the first time.
    pub(super) fn is_first(&mut self, from: &NodeUid, id: u64) -> bool {
        let remembered = self.by_node.entry(from.clone()).or_default();
        if !remembered.ids.insert(id) {
            return false;
        }
        remembered.order.push_back(id);
        if remembered.order.len() > REMEMBERED
            && let Some(oldest) = remembered.order.pop_front()
        {
            remembered.ids.remove(&oldest);
        }
        true
    }

    pub(super) fn left(&mut self, uid: &NodeUid) {
        self.by_node.remove(uid);
    }

    /// Should the node come back, it may send again what was carried out.
    pub(super) fn forgotten(&mut self, uid: &NodeUid, now: Instant) {
        if let Some(remembered) = self.by_node.get_mut(uid) {
            remembered.forgotten_at = Some(now);
        }
    }

    pub(super) fn is_back(&mut self, uid: &NodeUid) {
        if let Some(remembered) = self.by_node.get_mut(uid) {
            remembered.forgotten_at = None;
        }
    }

    /// Forgets what nobody sends again.
    pub(super) fn tick(&mut self, now: Instant) {
        self.by_node.retain(|_, remembered| {
            remembered
                .forgotten_at
                .is_none_or(|at| now < at + ORDER_LIFE)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(id: u64) -> NodeAnswer {
        NodeAnswer {
            id,
            part: 0,
            parts: 1,
            reply: Reply::Done,
        }
    }

    fn begin(asks: &mut Asks, others: &[&NodeUid], is_order: bool, now: Instant) -> Begun {
        asks.next_id();
        let others = others.iter().map(|uid| (*uid).clone()).collect();
        asks.begin(Bytes::from_static(b"ask"), others, is_order, now)
            .unwrap()
    }

    #[test]
    fn an_ask_ends_with_the_last_answer_or_names_the_silent_at_its_deadline() {
        let (one, two, now) = (NodeUid::random(), NodeUid::random(), Instant::now());
        let mut asks = Asks::default();
        let mut whole = begin(&mut asks, &[&one, &two], false, now);
        asks.answered(&one, done(whole.id));
        asks.answered(&one, done(whole.id));
        assert!(whole.surveyed.try_recv().is_err());
        asks.answered(&two, done(whole.id));
        let surveyed = whole.surveyed.try_recv().unwrap();
        assert_eq!((surveyed.replies.len(), surveyed.silent.len()), (2, 0));

        let mut partial = begin(&mut asks, &[&one, &two], false, now);
        asks.answered(&two, done(partial.id));
        assert_eq!(asks.next_due(), Some(now + ASK_TIMEOUT));
        assert!(asks.tick(now + ASK_TIMEOUT).is_empty());
        let surveyed = partial.surveyed.try_recv().unwrap();
        assert_eq!(surveyed.silent, [one]);
        assert_eq!(asks.next_due(), None);

        // Nobody else: nobody is waited for.
        let mut alone = begin(&mut asks, &[], true, now);
        assert!(alone.surveyed.try_recv().is_ok());
    }

    #[test]
    fn an_answer_in_parts_counts_when_the_last_of_them_is_there() {
        let (one, now) = (NodeUid::random(), Instant::now());
        let mut asks = Asks::default();
        let mut begun = begin(&mut asks, &[&one], false, now);
        let part = |part, parts| NodeAnswer {
            part,
            parts,
            ..done(begun.id)
        };
        for hostile in [part(0, 0), part(2, 2), part(0, u32::MAX)] {
            asks.answered(&one, hostile);
        }
        asks.answered(&one, part(1, 2));
        assert!(begun.surveyed.try_recv().is_err());
        asks.answered(&one, part(0, 2));
        let surveyed = begun.surveyed.try_recv().unwrap();
        assert_eq!(surveyed.replies[0].1.len(), 2);
    }

    #[test]
    fn an_order_is_sent_again_until_it_is_answered_or_its_node_is_gone() {
        let (one, two, now) = (NodeUid::random(), NodeUid::random(), Instant::now());
        let mut asks = Asks::default();
        let mut begun = begin(&mut asks, &[&one, &two], true, now);
        assert_eq!(asks.tick(now + RESEND_AFTER).len(), 2);
        asks.answered(&one, done(begun.id));
        assert_eq!(asks.tick(now + 2 * RESEND_AFTER)[0].0, two);
        let late = now + ASK_TIMEOUT + RESEND_AFTER;
        assert_eq!(asks.tick(late)[0].0, two);
        assert_eq!(
            begun.surveyed.try_recv().unwrap().silent.as_slice(),
            std::slice::from_ref(&two)
        );
        asks.left(&two);
        assert_eq!((asks.next_due(), asks.num_bytes), (None, 0));

        begin(&mut asks, &[&one], true, now);
        assert!(asks.tick(now + ORDER_LIFE).is_empty());
        assert_eq!((asks.next_due(), asks.num_bytes), (None, 0));
    }

    #[test]
    fn a_node_that_was_forgotten_and_comes_back_is_told_what_it_was_ordered() {
        let (one, two, now) = (NodeUid::random(), NodeUid::random(), Instant::now());
        let mut asks = Asks::default();
        let mut begun = begin(&mut asks, &[&one, &two], true, now);
        asks.answered(&one, done(begun.id));
        asks.forgotten(&two);
        // Whoever asked hears at once that it has not answered.
        let surveyed = begun.surveyed.try_recv().unwrap();
        assert_eq!(surveyed.silent, std::slice::from_ref(&two));
        let later = now + ORDER_LIFE / 2;
        assert!(asks.tick(later).is_empty(), "nobody hears it");
        asks.is_back(&two, later);
        assert_eq!(asks.tick(later)[0].0, two);
        asks.answered(&two, done(begun.id));
        assert_eq!((asks.next_due(), asks.num_bytes), (None, 0));

        // A question is not repeated, and an order whose time is over is not either.
        begin(&mut asks, &[&two], false, now);
        begin(&mut asks, &[&two], true, now);
        asks.forgotten(&two);
        asks.tick(now + ORDER_LIFE);
        asks.is_back(&two, now + ORDER_LIFE);
        assert_eq!((asks.next_due(), asks.num_bytes), (None, 0));
    }

    #[test]
    fn orders_under_way_are_bounded_in_bytes() {
        let (one, now) = (NodeUid::random(), Instant::now());
        let mut asks = Asks::default();
        let mut order = |payload: &Bytes| {
            asks.next_id();
            asks.begin(payload.clone(), vec![one.clone()], true, now)
                .is_ok()
        };
        let large = Bytes::from(vec![0; MAX_ASK_BYTES / 2]);
        assert!(order(&large) && order(&large) && !order(&Bytes::from_static(b"x")));
    }

    #[test]
    fn an_order_that_comes_again_is_known() {
        let (one, two) = (NodeUid::random(), NodeUid::random());
        let mut repeats = Repeats::default();
        assert!(repeats.is_first(&one, 1) && repeats.is_first(&two, 1));
        assert!(!repeats.is_first(&one, 1));
        for id in 2..=REMEMBERED as u64 + 1 {
            assert!(repeats.is_first(&one, id));
        }
        assert!(!repeats.is_first(&one, 2), "the oldest alone is forgotten");
        // A node that was forgotten may come back and send again what it had sent.
        let now = Instant::now();
        repeats.forgotten(&one, now);
        repeats.tick(now);
        assert!(!repeats.is_first(&one, 2));
        repeats.tick(now + ORDER_LIFE);
        assert!(repeats.is_first(&one, 2));
        repeats.left(&two);
        assert!(repeats.is_first(&two, 1));
    }
}
