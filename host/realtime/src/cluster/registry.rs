//! The registry: which other nodes there are, by what they say of themselves.
//!
//! Pure: the time comes in, decisions go out. Owns how long a silent node counts as alive.

use hashbrown::HashMap;
use tokio::time::Instant;

use super::{Announcement, FORGOTTEN_AFTER, NodeUid};

/// Nodes that are kept in mind; more is somebody who makes them up.
const MAX_NODES: usize = 1_000;

/// Another node.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) uid: NodeUid,
    /// The last of its announcements.
    pub(crate) announcement: Announcement,
}

/// What an announcement says about its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    New,
    Known,
    /// There are too many; it was not taken in.
    TooMany,
}

#[derive(Debug)]
pub(super) struct Registry {
    own: NodeUid,
    known: HashMap<NodeUid, Known>,
}

#[derive(Debug)]
struct Known {
    announcement: Announcement,
    last_heard: Instant,
}

impl Registry {
    pub(super) fn new(own: NodeUid) -> Self {
        Self {
            own,
            known: HashMap::new(),
        }
    }

    pub(super) fn heard(
        &mut self,
        uid: &NodeUid,
        mut announcement: Announcement,
        now: Instant,
    ) -> Heard {
        let is_full = self.known.len() >= MAX_NODES;
        let known = self.known.get_mut(uid);
        if let (None, Some(known)) = (&announcement.metrics, known) {
            announcement.metrics = known.announcement.metrics.take();
        }
        let last = Known {
            announcement,
            last_heard: now,
        };
        match self.known.get_mut(uid) {
            Some(known) => {
                *known = last;
                Heard::Known
            }
            None if is_full || *uid == self.own => Heard::TooMany,
            None => {
                self.known.insert(uid.clone(), last);
                Heard::New
            }
        }
    }

    /// Takes a node away that said so; whether it was known.
    pub(super) fn left(&mut self, uid: &NodeUid) -> bool {
        self.known.remove(uid).is_some()
    }

    /// Takes the nodes away that were silent for too long.
    pub(super) fn forget(&mut self, now: Instant) -> Vec<Peer> {
        let is_silent = |known: &Known| now >= known.last_heard + FORGOTTEN_AFTER;
        self.known
            .extract_if(|_, known| is_silent(known))
            .map(|(uid, known)| Peer {
                uid,
                announcement: known.announcement,
            })
            .collect()
    }

    /// When [`Registry::forget`] has something to do, if nobody is heard of until then.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let last = self.known.values().map(|known| known.last_heard).min()?;
        Some(last + FORGOTTEN_AFTER)
    }

    pub(super) fn knows(&self, uid: &NodeUid) -> bool {
        self.known.contains_key(uid)
    }

    pub(super) fn num_others(&self) -> usize {
        self.known.len()
    }

    pub(super) fn alive_uids(&self) -> Vec<NodeUid> {
        self.known.keys().cloned().collect()
    }

    pub(super) fn alive(&self) -> Vec<Peer> {
        let mut alive: Vec<_> = self
            .known
            .iter()
            .map(|(uid, known)| Peer {
                uid: uid.clone(),
                announcement: known.announcement.clone(),
            })
            .collect();
        alive.sort_by(|one, other| one.uid.cmp(&other.uid));
        alive
    }
}

#[cfg(test)]
mod tests {
    use tidegate_protocol::server_api::NodeMetrics;
    use tokio::time::Duration;

    use super::*;

    #[test]
    fn a_node_is_forgotten_seven_seconds_after_it_was_last_heard_of() {
        let (own, other) = (NodeUid::random(), NodeUid::random());
        let mut registry = Registry::new(own.clone());
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let hear = |registry: &mut Registry, seconds| {
            registry.heard(&other, Announcement::default(), at(seconds))
        };
        assert_eq!(hear(&mut registry, 0), Heard::New);
        assert_eq!(hear(&mut registry, 3), Heard::Known);
        assert_eq!(registry.next_due(), Some(at(10)));
        assert!(registry.forget(at(9)).is_empty());
        assert_eq!(registry.alive_uids(), std::slice::from_ref(&other));
        assert_eq!(registry.forget(at(10))[0].uid, other);
        assert_eq!((registry.num_others(), registry.next_due()), (0, None));
        assert_eq!(hear(&mut registry, 11), Heard::New);
        assert!(registry.left(&other) && !registry.left(&other));
    }

    #[test]
    fn metrics_that_were_said_once_hold_until_newer_ones_are() {
        let (own, other) = (NodeUid::random(), NodeUid::random());
        let mut registry = Registry::new(own);
        let now = Instant::now();
        let mut hear = |interval: Option<f64>| {
            let metrics = interval.map(|interval| NodeMetrics {
                interval,
                ..NodeMetrics::default()
            });
            let announcement = Announcement {
                metrics,
                ..Announcement::default()
            };
            registry.heard(&other, announcement, now);
            let kept = registry.alive().remove(0).announcement.metrics;
            kept.map(|metrics| metrics.interval)
        };
        assert_eq!(hear(None), None);
        assert_eq!(hear(Some(60.0)), Some(60.0));
        assert_eq!(hear(None), Some(60.0));
        assert_eq!(hear(Some(61.0)), Some(61.0));
    }

    #[test]
    fn made_up_nodes_find_no_room_and_known_ones_keep_theirs() {
        let own = NodeUid::random();
        let mut registry = Registry::new(own);
        let now = Instant::now();
        let first = NodeUid::random();
        registry.heard(&first, Announcement::default(), now);
        for _ in 1..MAX_NODES {
            registry.heard(&NodeUid::random(), Announcement::default(), now);
        }
        let made_up = registry.heard(&NodeUid::random(), Announcement::default(), now);
        assert_eq!(made_up, Heard::TooMany);
        let known = registry.heard(&first, Announcement::default(), now);
        assert_eq!(known, Heard::Known);
        assert_eq!(registry.num_others(), MAX_NODES);
    }
}
