//! Who said what so far, and what of it did not arrive.
//!
//! Pure: batches' numbers come in, questions go out. Owns no keys. Invariant: as long as a node lives and has said
//! something that did not arrive, it is asked for it, again and again, at most once per [`PULL_AGAIN`].

use std::collections::BTreeMap;

use tidegate_realtime::cluster::NodeUid;

/// Milliseconds after which a question is asked again that was not answered to its end.
pub(super) const PULL_AGAIN: u64 = 1_000;

/// The other nodes.
#[derive(Debug, Default)]
pub(super) struct Peers {
    peers: BTreeMap<NodeUid, Peer>,
    /// What nodes know that are gone by now is asked of one that is there.
    whole: Whole,
    /// Nodes that have joined so far.
    num_joined: u64,
}

#[derive(Debug, Default)]
struct Peer {
    /// All batches up to this one have arrived.
    heard: u64,
    /// The batches that arrived without a gap after one: first and last.
    run: (u64, u64),
    /// The last one that it is known to have said.
    last: u64,
    pull: Option<Pull>,
    /// Its place in the order of joining: who has been there for longest knows most.
    nth: u64,
}

#[derive(Debug)]
struct Pull {
    since: u64,
    is_whole: bool,
    /// When it was asked, or the last part of its answer came.
    at: u64,
    next_part: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Whole {
    /// Nobody was asked, or not to the end, since this node came or another one went: what that one said last may not
    /// have arrived here, and if this node was cut off it may have missed much more.
    #[default]
    Wanted,
    Had,
}

/// A question to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) to: NodeUid,
    pub(super) since: u64,
    pub(super) is_whole: bool,
}

impl Peers {
    pub(super) fn joined(&mut self, uid: &NodeUid) {
        let nth = self.num_joined;
        self.num_joined += 1;
        self.peers.entry(uid.clone()).or_insert_with(|| Peer {
            nth,
            ..Peer::default()
        });
    }

    pub(super) fn gone(&mut self, uid: &NodeUid) {
        if self.peers.remove(uid).is_none() {
            return;
        }
        self.whole = Whole::Wanted;
        // An answer under way may have begun before the others heard the last of it.
        for pull in self
            .peers
            .values_mut()
            .filter_map(|peer| peer.pull.as_mut())
        {
            pull.is_whole = false;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// A batch arrived.
    pub(super) fn heard(&mut self, from: &NodeUid, batch: u64) {
        let Some(peer) = self.peers.get_mut(from) else {
            return;
        };
        peer.last = peer.last.max(batch);
        peer.run = match peer.run {
            (first, last) if last.saturating_add(1) == batch => (first, batch),
            _ => (batch, batch),
        };
        peer.close();
    }

    /// A node says which batch was its last.
    pub(super) fn last(&mut self, from: &NodeUid, batch: u64) {
        if let Some(peer) = self.peers.get_mut(from) {
            peer.last = peer.last.max(batch);
        }
    }

    /// A part of an answer arrived.
    pub(super) fn repeated(
        &mut self,
        from: &NodeUid,
        since: u64,
        part: u32,
        upto: Option<u64>,
        now: u64,
    ) {
        let Some(peer) = self.peers.get_mut(from) else {
            return;
        };
        let Some(pull) = peer.pull.as_mut().filter(|pull| pull.since == since) else {
            return;
        };
        if part != pull.next_part {
            // One is missing; the whole question is asked again.
            return;
        }
        pull.next_part += 1;
        pull.at = now;
        let Some(upto) = upto else { return };
        if pull.is_whole {
            self.whole = Whole::Had;
        }
        peer.pull = None;
        peer.heard = peer.heard.max(upto);
        peer.last = peer.last.max(upto);
        peer.close();
    }

    /// What is to be asked now.
    pub(super) fn questions(&mut self, now: u64) -> Vec<Question> {
        let mut is_whole_asked = self.whole == Whole::Had
            || self.peers.values().any(|peer| {
                let pull = peer.pull.as_ref();
                pull.is_some_and(|pull| pull.is_whole && !pull.is_late(now))
            });
        let mut questions = Vec::new();
        let mut peers: Vec<_> = self.peers.iter_mut().collect();
        peers.sort_unstable_by_key(|(_, peer)| peer.nth);
        for (uid, peer) in peers {
            if peer.pull.as_ref().is_some_and(|pull| !pull.is_late(now)) {
                continue;
            }
            let is_whole = !is_whole_asked;
            if peer.heard >= peer.last && !is_whole {
                peer.pull = None;
                continue;
            }
            is_whole_asked = true;
            let since = if is_whole { 0 } else { peer.heard };
            peer.pull = Some(Pull {
                since,
                is_whole,
                at: now,
                next_part: 0,
            });
            questions.push(Question {
                to: uid.clone(),
                since,
                is_whole,
            });
        }
        questions
    }
}

impl Peer {
    /// What arrived in a row after what was heard has been heard.
    fn close(&mut self) {
        let (first, last) = self.run;
        if first <= self.heard.saturating_add(1) {
            self.heard = self.heard.max(last);
        }
    }
}

impl Pull {
    fn is_late(&self, now: u64) -> bool {
        now >= self.at.saturating_add(PULL_AGAIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met() -> (Peers, NodeUid) {
        let (mut peers, uid) = (Peers::default(), NodeUid::random());
        peers.joined(&uid);
        (peers, uid)
    }

    fn settled() -> (Peers, NodeUid) {
        let (mut peers, uid) = met();
        assert!(peers.questions(0)[0].is_whole);
        peers.repeated(&uid, 0, 0, Some(7), 0);
        assert!(peers.questions(0).is_empty());
        (peers, uid)
    }

    #[test]
    fn one_node_is_asked_for_everything_and_the_others_for_what_they_wrote() {
        let (mut peers, one) = met();
        let other = NodeUid::random();
        peers.joined(&other);
        peers.last(&one, 3);
        peers.last(&other, 4);
        let questions = peers.questions(0);
        assert_eq!(questions.len(), 2);
        assert_eq!(questions.iter().filter(|asked| asked.is_whole).count(), 1);
        assert!(questions.iter().all(|asked| asked.since == 0));
        // Whoever was asked for everything goes before it has answered: the other one is asked.
        let asked = questions.iter().find(|asked| asked.is_whole).unwrap();
        peers.gone(&asked.to);
        let left = if asked.to == one { &other } else { &one };
        assert!(peers.questions(1).is_empty(), "its own answer is under way");
        peers.repeated(left, 0, 0, Some(4), 2);
        let again = peers.questions(2);
        assert_eq!((again.len(), again[0].is_whole), (1, true));
        peers.repeated(left, 0, 0, Some(4), 3);
        assert!(peers.questions(10_000).is_empty());
    }

    #[test]
    fn a_batch_that_did_not_arrive_is_asked_for_until_it_has() {
        let (mut peers, uid) = settled();
        peers.heard(&uid, 8);
        assert!(peers.questions(0).is_empty());
        peers.heard(&uid, 10);
        let asked = peers.questions(5);
        assert_eq!((asked[0].since, asked[0].is_whole), (8, false));
        assert!(peers.questions(5 + PULL_AGAIN - 1).is_empty());
        assert_eq!(peers.questions(5 + PULL_AGAIN)[0].since, 8);
        // What is said meanwhile is not asked for again.
        peers.heard(&uid, 11);
        peers.heard(&uid, 12);
        peers.repeated(&uid, 8, 0, None, 2_000);
        assert!(peers.questions(2_000 + PULL_AGAIN - 1).is_empty());
        peers.repeated(&uid, 8, 1, Some(10), 2_500);
        assert!(peers.questions(9_000).is_empty());
    }

    #[test]
    fn the_last_batch_is_missed_too_and_a_part_that_is_lost_is_asked_for() {
        let (mut peers, uid) = settled();
        peers.last(&uid, 8);
        assert_eq!(peers.questions(0)[0].since, 7);
        peers.repeated(&uid, 7, 0, None, 10);
        peers.repeated(&uid, 7, 2, Some(8), 20);
        assert_eq!(peers.questions(10 + PULL_AGAIN)[0].since, 7);
        // The answer to what nobody asked means nothing.
        peers.repeated(&uid, 3, 0, Some(99), 30);
        peers.repeated(&NodeUid::random(), 7, 0, Some(99), 30);
        peers.repeated(&uid, 7, 0, Some(8), 40);
        assert!(peers.questions(99_000).is_empty());
    }

    #[test]
    fn a_node_that_comes_back_has_said_nothing_yet() {
        let (mut peers, uid) = settled();
        peers.gone(&uid);
        peers.heard(&uid, 9);
        assert!(peers.is_empty() && peers.questions(0).is_empty());
        peers.joined(&uid);
        peers.heard(&uid, 9);
        assert_eq!(peers.questions(0)[0].since, 0);
    }
}
