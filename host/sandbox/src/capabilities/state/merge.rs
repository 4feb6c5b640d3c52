//! What nodes agree on without asking: how two nodes' knowledge of a key becomes one.
//!
//! Pure: no locks, no I/O, no clock. Invariant, shown by property tests: merging is commutative, associative and
//! idempotent, so that messages may come in any order, twice, or late, and all nodes that heard the same hold the same.
//!
//! A *counter* is a share for each node, which that node alone writes and whose newest version wins; the count is the
//! sum. Each share ends by itself. A share that is begun while a counter lives takes the counter's end. Where two
//! nodes began at the same time, the earlier beginning stands: whoever learns of it gives its own share that end.
//! A *value* is written by the last writer, by time and then by node. A *deletion* is a value that is not there.
//! Between a counter and a value or a deletion: shares that were begun after it stand, the others go.

use std::cmp::Ordering;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Who writes: one life of one node. Random, so that no two are alike.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub(crate) struct Origin(pub(crate) u64);

/// When something was written, in the nodes' common milliseconds, and by whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub(crate) struct Stamp {
    pub(crate) at: u64,
    pub(crate) origin: Origin,
}

/// What one node added to a counter. The order is that of its versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub(crate) struct Share {
    /// When the node first added to this life of the counter.
    pub(crate) begun: u64,
    /// Rises with each change.
    pub(crate) seq: u64,
    pub(crate) net: i64,
    /// Zero where there is no share.
    pub(crate) end: u64,
}

/// A counter: the own share, and those of others as far as they have arrived.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Counter {
    /// Shares that were begun before are gone.
    pub(crate) since: u64,
    pub(crate) own: Share,
    /// By origin, none twice, never the own.
    pub(crate) others: Vec<(Origin, Share)>,
}

/// What is known of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Known {
    Value {
        stamp: Stamp,
        value: Bytes,
        end: u64,
    },
    Gone(Stamp),
    Counter(Counter),
}

impl Share {
    fn is_live(&self, now: u64) -> bool {
        self.end > now
    }
}

impl Counter {
    /// A counter that this node begins.
    pub(crate) fn begin(by: i64, now: u64, end: u64, since: u64) -> Self {
        Self {
            since,
            own: Share {
                begun: now.max(since),
                seq: 1,
                net: by,
                end,
            },
            others: Vec::new(),
        }
    }

    fn shares(&self) -> impl Iterator<Item = &Share> {
        std::iter::once(&self.own).chain(self.others.iter().map(|(_, share)| share))
    }

    /// When the last share is over.
    pub(crate) fn end(&self) -> u64 {
        self.shares().map(|share| share.end).max().unwrap_or(0)
    }

    /// When the last share was begun.
    pub(crate) fn last_begun(&self) -> u64 {
        self.shares().map(|share| share.begun).max().unwrap_or(0)
    }

    pub(crate) fn count(&self, now: u64) -> i64 {
        let live = self.shares().filter(|share| share.is_live(now));
        clamp(live.map(|share| i128::from(share.net)).sum())
    }

    /// When the counter is over: the earliest beginning says.
    pub(crate) fn life_end(&self, own: Origin, now: u64) -> Option<u64> {
        let all = std::iter::once((own, &self.own));
        let all = all.chain(self.others.iter().map(|(origin, share)| (*origin, share)));
        let live = all.filter(|(_, share)| share.is_live(now));
        let first = live.min_by_key(|(origin, share)| (share.begun, *origin))?;
        Some(first.1.end)
    }

    /// Adds to a counter that lives, and answers the new count, which stays within its range.
    pub(crate) fn add(&mut self, by: i64, own: Origin, now: u64) -> i64 {
        let count = self.count(now);
        let after = count.saturating_add(by);
        if !self.own.is_live(now) {
            self.own = Share {
                begun: now.max(self.since).max(self.own.begun.saturating_add(1)),
                seq: 0,
                net: 0,
                end: self.life_end(own, now).unwrap_or(0),
            };
        }
        self.own.seq += 1;
        self.own.net = self.own.net.saturating_add(after.saturating_sub(count));
        after
    }

    /// Gives the own share the end of a beginning before it; whether that changed it.
    pub(crate) fn take_end(&mut self, own: Origin, now: u64) -> bool {
        match self.life_end(own, now) {
            Some(end) if self.own.is_live(now) && self.own.end != end => {
                self.own.end = end;
                self.own.seq += 1;
                true
            }
            Some(_) | None => false,
        }
    }

    /// Forgets others' shares that are over.
    pub(crate) fn expire(&mut self, now: u64) {
        self.others.retain(|(_, share)| share.is_live(now));
    }

    /// Takes the shares away that were begun before; whether any is left.
    pub(crate) fn begin_at(&mut self, since: u64) -> bool {
        self.since = self.since.max(since);
        let since = self.since;
        if self.own.begun < since {
            self.own = Share::default();
        }
        self.others.retain(|(_, share)| share.begun >= since);
        self.own.end > 0 || !self.others.is_empty()
    }

    fn merge(&mut self, theirs: Self, own: Origin) {
        for (origin, share) in theirs.others {
            if origin == own {
                // Nobody knows it better than this node does.
                continue;
            }
            match self
                .others
                .binary_search_by_key(&origin, |(known, _)| *known)
            {
                Ok(index) => {
                    let known = &mut self.others[index].1;
                    *known = share.max(*known);
                }
                Err(index) => self.others.insert(index, (origin, share)),
            }
        }
        self.begin_at(theirs.since);
    }
}

impl Known {
    /// Puts both together. What comes from elsewhere has no `own` share.
    pub(crate) fn merge(self, theirs: Self, own: Origin) -> Self {
        match (self, theirs) {
            (Self::Counter(mut mine), Self::Counter(theirs)) => {
                mine.merge(theirs, own);
                Self::Counter(mine)
            }
            (Self::Counter(mut counter), written) | (written, Self::Counter(mut counter)) => {
                counter.others.retain(|(origin, _)| *origin != own);
                if counter.begin_at(written.at().saturating_add(1)) {
                    Self::Counter(counter)
                } else {
                    written
                }
            }
            (mine, theirs) => match mine.written().cmp(&theirs.written()) {
                Ordering::Less => theirs,
                Ordering::Equal | Ordering::Greater => mine,
            },
        }
    }

    /// Of what is written: when, and for the same moment an order that everybody agrees on.
    fn written(&self) -> (Stamp, Option<(&Bytes, u64)>) {
        match self {
            Self::Value { stamp, value, end } => (*stamp, Some((value, *end))),
            Self::Gone(stamp) => (*stamp, None),
            Self::Counter(_) => (Stamp::default(), None),
        }
    }

    /// When it was last written.
    pub(crate) fn at(&self) -> u64 {
        match self {
            Self::Value { stamp, .. } | Self::Gone(stamp) => stamp.at,
            Self::Counter(counter) => counter.last_begun(),
        }
    }
}

fn clamp(sum: i128) -> i64 {
    i64::try_from(sum).unwrap_or(if sum < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OWN: Origin = Origin(1_000);

    fn share() -> impl Strategy<Value = Share> {
        (0..20_u64, 1..4_u64, -5..5_i64, 1..30_u64).prop_map(|(begun, seq, net, lives)| Share {
            begun,
            seq,
            net,
            end: begun + lives,
        })
    }

    /// As it comes from elsewhere: at least one share, none begun before `since`.
    fn counter() -> impl Strategy<Value = Known> {
        let shares = proptest::collection::btree_map(0..4_u64, share(), 1..4);
        (shares, 0..12_u64).prop_map(|(shares, since)| {
            let others = shares.into_iter().map(|(origin, share)| {
                let begun = share.begun + since;
                let end = share.end + since;
                (
                    Origin(origin),
                    Share {
                        begun,
                        end,
                        ..share
                    },
                )
            });
            Known::Counter(Counter {
                since,
                own: Share::default(),
                others: others.collect(),
            })
        })
    }

    fn known() -> impl Strategy<Value = Known> {
        let stamp = (0..30_u64, 0..3_u64).prop_map(|(at, origin)| Stamp {
            at,
            origin: Origin(origin),
        });
        prop_oneof![
            2 => counter(),
            1 => stamp.clone().prop_map(Known::Gone),
            1 => (stamp, 0..3_u8, 1..30_u64).prop_map(|(stamp, byte, end)| Known::Value {
                stamp,
                value: Bytes::from(vec![byte]),
                end,
            }),
        ]
    }

    fn merged(one: &Known, other: &Known) -> Known {
        one.clone().merge(other.clone(), OWN)
    }

    proptest! {
        #[test]
        fn merging_is_commutative_associative_and_idempotent(
            one in known(), two in known(), three in known(),
        ) {
            prop_assert_eq!(merged(&one, &one), one.clone());
            prop_assert_eq!(merged(&one, &two), merged(&two, &one));
            let left = merged(&merged(&one, &two), &three);
            let right = merged(&one, &merged(&two, &three));
            prop_assert_eq!(left, right);
        }

        #[test]
        fn nodes_that_add_and_tell_each_other_in_any_order_count_the_same(
            steps in proptest::collection::vec((0..3_usize, -3..7_i64, 0..3_usize, any::<bool>()), 1..60),
        ) {
            let ids = [Origin(1), Origin(2), Origin(3)];
            let mut nodes: Vec<Option<Counter>> = vec![None, None, None];
            let mut total = 0_i64;
            let tell = |nodes: &mut Vec<Option<Counter>>, from: usize, to: usize, now: u64| {
                let Some(said) = nodes[from].clone() else { return };
                let mut others = said.others.clone();
                if said.own.end > 0 {
                    others.push((ids[from], said.own));
                }
                others.sort_unstable_by_key(|(origin, _)| *origin);
                let said = Known::Counter(Counter { own: Share::default(), others, ..said });
                let heard = match nodes[to].take() {
                    Some(mine) => Known::Counter(mine).merge(said, ids[to]),
                    None => Known::Counter(Counter::default()).merge(said, ids[to]),
                };
                let Known::Counter(mut heard) = heard else { panic!("a counter") };
                heard.take_end(ids[to], now);
                nodes[to] = Some(heard);
            };
            let mut now = 0;
            for (node, by, other, is_told) in steps {
                now += 1;
                total += by;
                match &mut nodes[node] {
                    Some(counter) => { counter.add(by, ids[node], now); }
                    none => *none = Some(Counter::begin(by, now, now + 1_000, 0)),
                }
                if is_told && node != other {
                    tell(&mut nodes, node, other, now);
                }
            }
            // Twice round, so that everybody has heard of everybody's end.
            for (from, to) in [(0, 1), (1, 2), (2, 0), (0, 1), (1, 2), (2, 0), (0, 1), (1, 2)] {
                tell(&mut nodes, from, to, now);
            }
            let first = nodes[0].clone().expect("told");
            for (node, counter) in nodes.iter().enumerate() {
                let counter = counter.as_ref().expect("told");
                prop_assert_eq!(counter.count(now), total);
                prop_assert_eq!(counter.life_end(ids[node], now), first.life_end(ids[0], now));
                // From its end on there is nothing left, on any node.
                let end = counter.life_end(ids[node], now).expect("it lives");
                prop_assert_eq!(counter.count(end), 0);
            }
        }
    }

    #[test]
    fn of_two_that_begin_at_the_same_time_the_earlier_says_when_it_ends() {
        let (one, two) = (Origin(1), Origin(2));
        let mut mine = Counter::begin(3, 150, 1_150, 0);
        let theirs = Counter {
            others: vec![(one, Counter::begin(4, 100, 1_100, 0).own)],
            ..Counter::default()
        };
        mine.merge(theirs, two);
        assert!(mine.take_end(two, 160) && !mine.take_end(two, 160));
        assert_eq!((mine.count(1_099), mine.count(1_100)), (7, 0));
        assert_eq!(mine.end(), 1_100);
    }

    #[test]
    fn a_later_life_has_nothing_of_the_one_before() {
        let (one, two) = (Origin(1), Origin(2));
        let said = |counter: &Counter| Counter {
            since: counter.since,
            own: Share::default(),
            others: vec![(one, counter.own)],
        };
        let mut theirs = Counter::begin(4, 100, 200, 0);
        let mut mine = Counter::default();
        mine.merge(said(&theirs), two);
        theirs = Counter::begin(1, 200, 300, 0);
        mine.merge(said(&theirs), two);
        assert_eq!((mine.count(250), mine.life_end(two, 250)), (1, Some(300)));
        // What it said before comes again, late: the newest version stands.
        mine.merge(said(&Counter::begin(4, 100, 200, 0)), two);
        assert_eq!(mine.count(250), 1);
    }

    #[test]
    fn a_count_stays_within_its_range_whoever_adds() {
        let mut counter = Counter::begin(i64::MAX, 1, 9, 0);
        counter.others.push((Origin(2), counter.own));
        assert_eq!(counter.count(1), i64::MAX);
        assert_eq!(counter.add(5, OWN, 1), i64::MAX);
        let mut counter = Counter::begin(i64::MIN, 1, 9, 0);
        assert_eq!(counter.add(-1, OWN, 1), i64::MIN);
        assert_eq!(counter.add(2, OWN, 1), i64::MIN + 2);
    }
}
