//! What one app holds of the memory engine, and in which order it ends.
//!
//! Owns the app's counters and its timeline; knows no stream. Invariant: an app over its quota, or over the node's
//! bound as the one that holds most, loses of its own: nobody's flood costs another app its history.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};
use smallvec::SmallVec;
use tokio::time::Instant;

use super::AppQuota;
use crate::ids::{ChannelKey, DEFAULT_APP};

/// The shares of all apps. An app that ever held something keeps its share: they are few.
#[derive(Debug)]
pub(super) struct Shares {
    created_apps: AppQuota,
    by_app: RwLock<HashMap<Box<str>, Arc<Share>>>,
}

/// One app's streams.
#[derive(Debug)]
pub(super) struct Share {
    quota: AppQuota,
    num_streams: AtomicUsize,
    num_bytes: AtomicUsize,
    timeline: Mutex<Timeline>,
}

/// Streams in the order in which something of them ends.
#[derive(Debug, Default)]
struct Timeline {
    blank: BTreeSet<Place>,
    used: BTreeSet<Place>,
}

/// Which streams go first when there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    /// Only asked for their position, which is that of an empty stream: nothing is lost with them.
    Blank,
    Used,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) at: Instant,
    pub(super) key: ChannelKey,
}

impl Shares {
    pub(super) fn new(created_apps: AppQuota) -> Self {
        Self {
            created_apps,
            by_app: RwLock::default(),
        }
    }

    pub(super) fn of(&self, app: &str) -> Arc<Share> {
        if let Some(share) = self.by_app.read().get(app) {
            return Arc::clone(share);
        }
        let mut by_app = self.by_app.write();
        let share = by_app.entry(app.into()).or_insert_with(|| {
            Arc::new(Share {
                quota: if app == DEFAULT_APP {
                    AppQuota::NONE
                } else {
                    self.created_apps
                },
                num_streams: AtomicUsize::new(0),
                num_bytes: AtomicUsize::new(0),
                timeline: Mutex::default(),
            })
        });
        Arc::clone(share)
    }

    pub(super) fn all(&self) -> Vec<Arc<Share>> {
        self.by_app.read().values().cloned().collect()
    }

    /// The share that holds most bytes.
    pub(super) fn largest(&self) -> Option<Arc<Share>> {
        let by_app = self.by_app.read();
        by_app.values().max_by_key(|s| s.num_bytes()).cloned()
    }
}

impl Share {
    // Relaxed throughout: counters.
    pub(super) fn num_streams(&self) -> usize {
        self.num_streams.load(Ordering::Relaxed)
    }

    pub(super) fn num_bytes(&self) -> usize {
        self.num_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn count_made(&self) {
        self.num_streams.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_forgotten(&self) {
        self.num_streams.fetch_sub(1, Ordering::Relaxed);
    }

    /// A stream's size has changed.
    pub(super) fn account(&self, before: usize, now: usize) {
        account(&self.num_bytes, before, now);
    }

    pub(super) fn has_too_many_streams(&self) -> bool {
        self.num_streams() > self.quota.max_streams
    }

    /// Bytes that the app holds beyond its quota.
    pub(super) fn excess(&self) -> usize {
        self.num_bytes().saturating_sub(self.quota.max_bytes)
    }

    /// Takes the place `held` away and gives the stream another.
    pub(super) fn move_place(
        &self,
        key: &ChannelKey,
        held: Option<(Line, Instant)>,
        next: Option<(Line, Instant)>,
    ) {
        let place = |at| Place {
            at,
            key: key.clone(),
        };
        let mut timeline = self.timeline.lock();
        if let Some((line, at)) = held {
            timeline.line(line).remove(&place(at));
        }
        if let Some((line, at)) = next {
            timeline.line(line).insert(place(at));
        }
    }

    /// Takes the places off the timeline whose time has come, at most `most` of each line.
    pub(super) fn take_ended(&self, now: Instant, most: usize) -> Vec<Place> {
        let mut timeline = self.timeline.lock();
        let mut ended = Vec::new();
        for line in [Line::Used, Line::Blank] {
            let places = timeline.line(line);
            for _ in 0..most {
                match places.first() {
                    Some(first) if first.at <= now => ended.extend(places.pop_first()),
                    Some(_) | None => break,
                }
            }
        }
        ended
    }

    /// Takes the first places of a line off the timeline, come their time or not.
    pub(super) fn take_first(&self, line: Line, most: usize) -> SmallVec<[Place; 1]> {
        let mut timeline = self.timeline.lock();
        let places = timeline.line(line);
        std::iter::from_fn(|| places.pop_first())
            .take(most)
            .collect()
    }

    #[cfg(test)]
    pub(super) fn num_places(&self) -> usize {
        let timeline = self.timeline.lock();
        timeline.blank.len() + timeline.used.len()
    }
}

impl Timeline {
    fn line(&mut self, line: Line) -> &mut BTreeSet<Place> {
        match line {
            Line::Blank => &mut self.blank,
            Line::Used => &mut self.used,
        }
    }
}

/// Moves a counter by what one of its parts has changed.
pub(super) fn account(counter: &AtomicUsize, before: usize, now: usize) {
    if now >= before {
        counter.fetch_add(now - before, Ordering::Relaxed);
    } else {
        counter.fetch_sub(before - now, Ordering::Relaxed);
    }
}
