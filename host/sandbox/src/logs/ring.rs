//! The last lines of one plugin, and where lines are missing.
//!
//! Every line that was asked for has a number, those that were dropped too: what is missing shows as a gap between
//! numbers, and a reader, who knows the number it wants next, is told of every line exactly once, by itself
//! or in a count. No marker is kept anywhere. Pure: no lock, no clock.

use std::{collections::VecDeque, sync::Arc};

use super::{LogFilter, LogItem, LogLine, Loss};

/// Lines kept of a plugin: the last minutes of one that says something now and then.
pub(super) const LINES: usize = 1_000;
/// What they may take; lines of ordinary length reach [`LINES`] first.
pub(super) const BYTES: usize = 512 << 10;

#[derive(Debug)]
pub(super) struct Ring {
    lines: VecDeque<Numbered>,
    /// Number of the line that comes next.
    next: u64,
    /// Lines below this number were kept once, or not even that, and are gone.
    first: u64,
    /// Lines from this number up to `first` were given up all at once, to make room for others.
    evicted_from: Option<u64>,
    bytes: usize,
}

#[derive(Debug)]
struct Numbered {
    number: u64,
    line: Arc<LogLine>,
}

impl Default for Ring {
    fn default() -> Self {
        Self {
            lines: VecDeque::new(),
            next: 1,
            first: 1,
            evicted_from: None,
            bytes: 0,
        }
    }
}

impl Ring {
    /// Keeps a line; the oldest make room.
    pub(super) fn push(&mut self, line: Arc<LogLine>) {
        self.bytes += line.cost();
        self.lines.push_back(Numbered {
            number: self.next,
            line,
        });
        self.next += 1;
        while self.lines.len() > LINES || self.bytes > BYTES {
            let Some(oldest) = self.lines.pop_front() else {
                return;
            };
            self.bytes -= oldest.line.cost();
            self.first = oldest.number + 1;
            self.evicted_from = None;
        }
    }

    /// Counts a line that is not kept. Answers whether it is the first since the last one that was.
    pub(super) fn skip(&mut self) -> bool {
        let is_first = self.trailing_gap(0) == 0;
        self.next += 1;
        is_first
    }

    /// Gives up every line.
    pub(super) fn clear(&mut self) {
        *self = Self {
            first: self.next,
            next: self.next,
            ..Self::default()
        };
    }

    /// Gives up every line to make room for other plugins, which readers are told.
    pub(super) fn evict(&mut self) {
        let from = self.evicted_from.unwrap_or(self.first);
        self.clear();
        // What was never there is not missed.
        self.evicted_from = (from < self.first).then_some(from);
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }

    /// Number at which the last `count` lines that the filter lets through begin.
    pub(super) fn begin(&self, filter: &LogFilter, count: usize) -> u64 {
        if count == 0 {
            return self.next;
        }
        let mut matching = self.lines.iter().rev();
        let found = matching
            .by_ref()
            .filter(|kept| filter.admits(&kept.line))
            .nth(count - 1);
        found.map_or(self.evicted_from.unwrap_or(self.first), |kept| kept.number)
    }

    /// What there is from `cursor` on, until about `most` items; moves the cursor behind it. A gap after the last
    /// line is left, since it may be growing: see [`Self::trailing_gap`].
    pub(super) fn read(&self, cursor: &mut u64, filter: &LogFilter, most: usize) -> Vec<LogItem> {
        let mut items = Vec::new();
        if let Some(evicted_from) = self.evicted_from {
            gone(&mut items, cursor, evicted_from, Loss::Overrun);
            gone(&mut items, cursor, self.first, Loss::Evicted);
        } else {
            gone(&mut items, cursor, self.first, Loss::Overrun);
        }
        let start = self.lines.partition_point(|kept| kept.number < *cursor);
        for kept in self.lines.range(start..) {
            if items.len() >= most {
                break;
            }
            if kept.number > *cursor {
                items.push(LogItem::Dropped {
                    count: kept.number - *cursor,
                    why: Loss::RateLimit,
                });
            }
            *cursor = kept.number + 1;
            if filter.admits(&kept.line) {
                items.push(LogItem::Line {
                    number: kept.number,
                    line: Arc::clone(&kept.line),
                });
            }
        }
        items
    }

    /// How many lines were dropped since the last one that was kept, and that a reader at `cursor` was not told of.
    pub(super) fn trailing_gap(&self, cursor: u64) -> u64 {
        let end = self.lines.back().map_or(self.first, |last| last.number + 1);
        self.next - cursor.max(end)
    }

    /// Number of the line that comes next.
    pub(super) fn next(&self) -> u64 {
        self.next
    }
}

/// Tells a reader at `cursor` that the lines up to `end` are gone.
fn gone(items: &mut Vec<LogItem>, cursor: &mut u64, end: u64, why: Loss) {
    if *cursor < end {
        let count = end - *cursor;
        items.push(LogItem::Dropped { count, why });
        *cursor = end;
    }
}

#[cfg(test)]
mod tests;
