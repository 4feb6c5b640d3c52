//! What is in one stream: its position, its entries, what idempotent publishes came to.
//!
//! Pure: no locks, no clock, no other stream. Invariant: the offsets of the entries follow each other and end at the
//! stream's own, so that a page is found by arithmetic and not by looking.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tidegate_protocol::{Publication, StreamPosition};
use tokio::time::Instant;

use super::{Entries, share::Line};
use crate::{
    broker::{
        HistoryLimit, HistoryOptions, HistoryOrder, HistoryPage, HistoryQuery, IDEMPOTENCY_TTL,
        Published,
    },
    ids::ChannelKey,
};

/// Results remembered per channel. A publisher that retries does so within seconds; the oldest go first.
const MAX_RESULTS: usize = 1_000;

/// What a stream takes beside its contents and its key: the slot, its places in map and timeline, the epoch.
const STREAM_BYTES: usize = 384;

/// What an entry takes beside data, tags and info: the publication with its reference counts, its place.
const ENTRY_BYTES: usize = size_of::<Publication>() + 3 * size_of::<usize>();

#[derive(Debug)]
pub(super) struct Stream {
    epoch: String,
    offset: u64,
    /// Oldest first.
    entries: Entries,
    /// Bytes that `entries` hold.
    entries_bytes: usize,
    entries_expire_at: Instant,
    /// Life of offset and epoch beyond their last use.
    pub(super) meta_ttl: Duration,
    version: u64,
    version_epoch: Box<str>,
    /// Oldest first.
    results: VecDeque<Repeatable>,
    results_bytes: usize,
    /// Somebody was in the channel when the engine last wanted to forget the stream.
    pub(super) was_followed: bool,
    /// Bytes that the engine's counters know of. Written when it settles the stream.
    pub(super) num_accounted: usize,
    /// Where the stream stands in its share's timeline. `None` only while somebody who holds the lock moves it.
    pub(super) place: Option<(Line, Instant)>,
    /// Taken off the map while somebody waited for the lock: look again.
    pub(super) is_forgotten: bool,
}

/// A result that a repeated publish gets again.
#[derive(Debug)]
struct Repeatable {
    key: Box<str>,
    position: Option<StreamPosition>,
    expires_at: Instant,
}

impl Stream {
    pub(super) fn new(epoch: String, now: Instant) -> Self {
        Self {
            epoch,
            offset: 0,
            entries: VecDeque::new(),
            entries_bytes: 0,
            entries_expire_at: now,
            meta_ttl: Duration::ZERO,
            version: 0,
            version_epoch: Box::default(),
            results: VecDeque::new(),
            results_bytes: 0,
            was_followed: false,
            num_accounted: 0,
            place: None,
            is_forgotten: false,
        }
    }

    pub(super) fn position(&self) -> StreamPosition {
        StreamPosition {
            offset: self.offset,
            epoch: self.epoch.clone(),
        }
    }

    /// Goes on in another epoch. Results of idempotent publishes name positions of the old one.
    pub(super) fn renew(&mut self, epoch: String) {
        self.epoch = epoch;
        self.results.clear();
        self.results_bytes = 0;
    }

    pub(super) fn num_bytes(&self, key: &ChannelKey) -> usize {
        STREAM_BYTES + key.as_str().len() + self.entries_bytes + self.results_bytes
    }

    /// Streams that nothing was ever written to, and that nobody was seen to follow, can be forgotten at no loss.
    pub(super) fn line(&self) -> Line {
        let is_unwritten = self.offset == 0 && self.version == 0 && self.results.is_empty();
        if is_unwritten && !self.was_followed {
            Line::Blank
        } else {
            Line::Used
        }
    }

    /// When the next of its contents ends; `None` without any.
    pub(super) fn contents_end_at(&self) -> Option<Instant> {
        let entries = (!self.entries.is_empty()).then_some(self.entries_expire_at);
        let results = self.results.front().map(|result| result.expires_at);
        entries.into_iter().chain(results).min()
    }

    /// Takes off what has ended; the entries are for the caller to free.
    pub(super) fn expire(&mut self, now: Instant) -> Entries {
        while self
            .results
            .front()
            .is_some_and(|result| result.expires_at <= now)
        {
            self.forget_result();
        }
        if self.entries_expire_at <= now {
            self.clear()
        } else {
            Entries::new()
        }
    }

    /// Takes all entries off; the position stays.
    pub(super) fn clear(&mut self) -> Entries {
        self.entries_bytes = 0;
        std::mem::take(&mut self.entries)
    }

    /// Takes the oldest entries off until that has freed `num_bytes`, at most `most` of them; without entries, the
    /// results. Answers how many publications went.
    pub(super) fn shorten(&mut self, num_bytes: usize, most: usize) -> usize {
        if self.entries.is_empty() {
            self.results.clear();
            self.results_bytes = 0;
            return 0;
        }
        let before = self.entries_bytes;
        let mut dropped = 0;
        while dropped < most && before - self.entries_bytes < num_bytes && self.drop_first() {
            dropped += 1;
        }
        dropped
    }

    pub(super) fn repeated(&self, name: &str) -> Option<Published> {
        let result = self.results.iter().find(|result| *result.key == *name)?;
        Some(Published {
            position: result.position.clone(),
            is_repeated: true,
            ..Published::default()
        })
    }

    /// Takes note of a version if it is greater than the last one of the same epoch.
    pub(super) fn accept_version(&mut self, version: u64, version_epoch: Box<str>) -> bool {
        let is_same_epoch = version_epoch.is_empty() || version_epoch == self.version_epoch;
        if is_same_epoch && version <= self.version {
            return false;
        }
        self.version = version;
        if !version_epoch.is_empty() {
            self.version_epoch = version_epoch;
        }
        true
    }

    /// The position of the next publication.
    pub(super) fn advance(&mut self) -> StreamPosition {
        self.offset += 1;
        self.position()
    }

    /// Keeps the publication that has just got its position.
    pub(super) fn append(
        &mut self,
        publication: Arc<Publication>,
        options: HistoryOptions,
        now: Instant,
    ) {
        self.entries_bytes += held_bytes(&publication);
        self.entries.push_back(publication);
        while self.entries.len() > options.size {
            self.drop_first();
        }
        self.entries_expire_at = now + options.ttl;
    }

    pub(super) fn remember(
        &mut self,
        key: Box<str>,
        position: Option<StreamPosition>,
        now: Instant,
    ) {
        if self.results.len() == MAX_RESULTS {
            self.forget_result();
        }
        let result = Repeatable {
            key,
            position,
            expires_at: now + IDEMPOTENCY_TTL,
        };
        self.results_bytes += result.num_bytes();
        self.results.push_back(result);
    }

    pub(super) fn page(&self, query: &HistoryQuery) -> HistoryPage {
        let top = self.position();
        let limit = match query.limit {
            HistoryLimit::PositionOnly => 0,
            HistoryLimit::AtMost(limit) => limit,
        };
        let is_other_stream = query
            .since
            .as_ref()
            .is_some_and(|since| !since.epoch.is_empty() && since.epoch != top.epoch);
        let publications = if limit == 0 || is_other_stream {
            Vec::new()
        } else {
            let since = query.since.as_ref().map(|since| since.offset);
            let len = self.entries.len();
            match query.order {
                HistoryOrder::OldestFirst => {
                    let start = since.map_or(0, |since| self.num_before(since.saturating_add(1)));
                    let end = start.saturating_add(limit).min(len);
                    self.entries.range(start..end).cloned().collect()
                }
                HistoryOrder::NewestFirst => {
                    let end = since.map_or(len, |since| self.num_before(since));
                    let start = end.saturating_sub(limit);
                    self.entries.range(start..end).rev().cloned().collect()
                }
            }
        };
        HistoryPage { publications, top }
    }

    /// Entries in front of `offset`.
    fn num_before(&self, offset: u64) -> usize {
        let len = self.entries.len();
        let first = self.entries.front().map_or(0, |first| first.offset);
        usize::try_from(offset.saturating_sub(first)).map_or(len, |before| before.min(len))
    }

    fn drop_first(&mut self) -> bool {
        let Some(first) = self.entries.pop_front() else {
            return false;
        };
        self.entries_bytes -= held_bytes(&first);
        true
    }

    fn forget_result(&mut self) {
        if let Some(result) = self.results.pop_front() {
            self.results_bytes -= result.num_bytes();
        }
    }
}

impl Repeatable {
    fn num_bytes(&self) -> usize {
        let epoch = self.position.as_ref().map_or(0, |at| at.epoch.len());
        size_of::<Self>() + self.key.len() + epoch
    }
}

/// What a publication takes while it is kept; it does not change meanwhile.
fn held_bytes(publication: &Publication) -> usize {
    let tags: usize = publication
        .tags
        .iter()
        .map(|(name, value)| name.len() + value.len() + 2 * size_of::<String>())
        .sum();
    let info = publication.info.as_ref().map_or(0, |info| {
        size_of_val(&**info)
            + info.user.len()
            + info.client.len()
            + info.conn_info.as_bytes().len()
            + info.chan_info.as_bytes().len()
    });
    ENTRY_BYTES + publication.data.as_bytes().len() + tags + info
}
