//! What this node listens to, and what each connection still has to say about it.
//!
//! Pure: no sockets, no clock, no locks of its own. A name is wanted or not; its line was told the one or the other; the
//! server has answered or not. Whatever is lost or moves, the next [`Registry::take`] of a line says what brings the
//! three together. Invariants: a name is queued once, so the queues are bounded by what is listened to; a name is
//! reported as live when the server has confirmed it on the connection that stands.

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use tokio::sync::oneshot;

/// A pub/sub channel's name.
pub(super) type Name = Arc<str>;

/// A connection, over all its reconnects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct LineId(pub(super) u64);

/// Everything listened to in one shard.
#[derive(Debug, Default)]
pub(super) struct Registry {
    entries: HashMap<Name, Entry>,
    lines: HashMap<LineId, Book>,
    /// Names that no line is known for.
    homeless: VecDeque<Name>,
}

/// One name.
#[derive(Debug, Default)]
struct Entry {
    is_wanted: bool,
    line: Option<LineId>,
    /// In the line's queue, or among the homeless.
    is_queued: bool,
    /// What the line was told last.
    is_requested: bool,
    /// Answers that the server owes.
    subscribes_due: u32,
    unsubscribes_due: u32,
    /// It was live once and is being brought back; whatever came meanwhile is lost.
    has_lapsed: bool,
    /// Counts in [`Book::num_returning`].
    is_returning: bool,
    waiters: Vec<oneshot::Sender<()>>,
}

/// What one line has to do.
#[derive(Debug, Default)]
struct Book {
    is_connected: bool,
    queue: VecDeque<Name>,
    /// Names of the last connection that the new one has not confirmed yet.
    num_returning: usize,
    /// The connection brings names back, and nobody was told yet that something may have been lost.
    is_doubt_due: bool,
}

/// What somebody who wants a name has to wait for.
#[derive(Debug)]
pub(super) enum Wanted {
    Live,
    /// Ends when it is live; with an error when it was given up.
    Waits(oneshot::Receiver<()>),
}

/// What a line is to say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) subscribe: Vec<Name>,
    pub(super) unsubscribe: Vec<Name>,
}

/// What a confirmation came to.
#[derive(Debug, Default)]
pub(super) struct Confirmed {
    /// To be told, when no lock is held.
    pub(super) waiters: Vec<oneshot::Sender<()>>,
    /// The name was live before: something may have been lost.
    pub(super) has_lapsed: bool,
}

impl Entry {
    fn is_live(&self) -> bool {
        self.is_requested && self.subscribes_due == 0 && self.unsubscribes_due == 0
    }

    fn is_over(&self) -> bool {
        !self.is_wanted
            && !self.is_queued
            && !self.is_requested
            && self.subscribes_due == 0
            && self.unsubscribes_due == 0
    }

    /// The connection that it was on has gone, or will not have it.
    fn lapse(&mut self) {
        self.has_lapsed |= self.is_live() || self.is_returning;
        self.is_returning = false;
        self.is_requested = false;
        self.subscribes_due = 0;
        self.unsubscribes_due = 0;
    }
}

impl Registry {
    /// Names listened to or about to be.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Adds a line, which has no connection yet.
    pub(super) fn open_line(&mut self, line: LineId) {
        self.lines.entry(line).or_default();
    }

    /// Takes a line away; what it listened to has to be found another one.
    pub(super) fn close_line(&mut self, line: LineId) {
        self.lines.remove(&line);
        self.evict(line);
    }

    /// What a line listened to has to be found another one, or this one again.
    pub(super) fn evict(&mut self, line: LineId) {
        if let Some(book) = self.lines.get_mut(&line) {
            book.queue.clear();
            book.num_returning = 0;
            book.is_doubt_due = false;
        }
        let mut over = Vec::new();
        for (name, entry) in &mut self.entries {
            if entry.line != Some(line) {
                continue;
            }
            entry.lapse();
            entry.line = None;
            entry.is_queued = entry.is_wanted;
            if entry.is_wanted {
                self.homeless.push_back(Arc::clone(name));
            } else {
                over.push(Arc::clone(name));
            }
        }
        for name in over {
            self.entries.remove(&name);
        }
    }

    /// Somebody wants to hear a name; `line` is where, if that is known.
    pub(super) fn want(&mut self, name: &str, line: Option<LineId>) -> Wanted {
        let name = match self.entries.get_key_value(name) {
            Some((name, _)) => Arc::clone(name),
            None => Name::from(name),
        };
        let entry = self.entries.entry(Arc::clone(&name)).or_default();
        entry.is_wanted = true;
        if entry.is_live() {
            // Its place in the queue, if somebody had given it up, means nothing now.
            return Wanted::Live;
        }
        if entry.line.is_none() {
            entry.line = line.filter(|line| self.lines.contains_key(line));
        }
        let (waiter, waits) = oneshot::channel();
        if entry.waiters.len() == entry.waiters.capacity() {
            // Those who gave up; now and then, so that it costs little.
            entry.waiters.retain(|waiter| !waiter.is_closed());
        }
        entry.waiters.push(waiter);
        self.queue(&name);
        Wanted::Waits(waits)
    }

    /// Nobody wants it any more. Answers the line that has to be told.
    pub(super) fn unwant(&mut self, name: &str) -> Option<LineId> {
        let (name, entry) = self.entries.get_key_value(name)?;
        let (name, line) = (Arc::clone(name), entry.line);
        let entry = self.entries.get_mut(&name)?;
        entry.is_wanted = false;
        entry.waiters.clear();
        // Nobody waits for its return, least of all the doubt about the others.
        self.end_return(&name);
        self.queue(&name);
        line
    }

    fn queue(&mut self, name: &Name) {
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        if entry.is_queued {
            return;
        }
        entry.is_queued = true;
        match entry.line.and_then(|line| self.lines.get_mut(&line)) {
            Some(book) => book.queue.push_back(Arc::clone(name)),
            None => self.homeless.push_back(Arc::clone(name)),
        }
    }

    /// The names that no line is known for.
    pub(super) fn homeless(&self) -> Vec<Name> {
        self.homeless.iter().cloned().collect()
    }

    /// The homeless names, for whom `line_of` may know a line by now. Answers the lines that got some.
    pub(super) fn house(&mut self, line_of: impl Fn(&str) -> Option<LineId>) -> Vec<LineId> {
        let mut housed = Vec::new();
        for name in std::mem::take(&mut self.homeless) {
            let Some(entry) = self.entries.get_mut(&name) else {
                continue;
            };
            entry.is_queued = false;
            if !entry.is_wanted {
                self.entries.remove(&name);
                continue;
            }
            entry.line = line_of(&name).filter(|line| self.lines.contains_key(line));
            if let Some(line) = entry.line
                && !housed.contains(&line)
            {
                housed.push(line);
            }
            self.queue(&name);
        }
        housed
    }

    /// A name belongs to another line, or to none that is known.
    pub(super) fn rehouse(&mut self, name: &str, line: Option<LineId>) {
        let Some((name, _)) = self.entries.get_key_value(name) else {
            return;
        };
        let name = Arc::clone(name);
        if let Some(entry) = self.entries.get_mut(&name) {
            // It is in doubt by itself from here on: the others may be back long before it is.
            entry.has_lapsed |= entry.is_returning;
        }
        self.end_return(&name);
        if let Some(entry) = self.entries.get_mut(&name) {
            entry.lapse();
            entry.line = line.filter(|line| self.lines.contains_key(line));
            // A place in the queue of the former line is void: `take` looks.
            entry.is_queued = false;
            self.queue(&name);
        }
    }

    /// The line has a new connection, on which nothing was said yet. Answers whether there is anything to bring back.
    pub(super) fn connected(&mut self, line: LineId) -> bool {
        let Some(book) = self.lines.get_mut(&line) else {
            return false;
        };
        book.is_connected = true;
        book.queue.clear();
        book.num_returning = 0;
        for (name, entry) in &mut self.entries {
            if entry.line != Some(line) {
                continue;
            }
            entry.lapse();
            entry.is_queued = true;
            entry.is_returning = entry.is_wanted && entry.has_lapsed;
            // The one doubt about everything, when they are back, is for all of them.
            entry.has_lapsed = false;
            book.num_returning += usize::from(entry.is_returning);
            book.queue.push_back(Arc::clone(name));
        }
        book.is_doubt_due = book.num_returning > 0;
        book.is_doubt_due
    }

    /// Whether now is the time to say that something may have been lost: everything that the last connection had is
    /// back, or will not come. True once for a connection that had anything to bring back.
    pub(super) fn take_doubt(&mut self, line: LineId) -> bool {
        let Some(book) = self.lines.get_mut(&line) else {
            return false;
        };
        let is_time = book.is_connected && book.is_doubt_due && book.num_returning == 0;
        book.is_doubt_due &= !is_time;
        is_time
    }

    /// The line's connection has ended.
    pub(super) fn disconnected(&mut self, line: LineId) {
        if let Some(book) = self.lines.get_mut(&line) {
            book.is_connected = false;
        }
        for entry in self.entries.values_mut() {
            if entry.line == Some(line) {
                entry.lapse();
            }
        }
    }

    /// What the line has to say next, at most `max` names.
    pub(super) fn take(&mut self, line: LineId, max: usize) -> Batch {
        let mut batch = Batch::default();
        let Some(book) = self.lines.get_mut(&line) else {
            return batch;
        };
        if !book.is_connected {
            return batch;
        }
        while batch.subscribe.len() + batch.unsubscribe.len() < max {
            let Some(name) = book.queue.pop_front() else {
                break;
            };
            let Some(entry) = self.entries.get_mut(&name) else {
                continue;
            };
            if entry.line != Some(line) {
                continue;
            }
            entry.is_queued = false;
            match (entry.is_wanted, entry.is_requested) {
                (true, false) => {
                    entry.is_requested = true;
                    entry.subscribes_due += 1;
                    batch.subscribe.push(name);
                }
                (false, true) => {
                    entry.is_requested = false;
                    entry.unsubscribes_due += 1;
                    batch.unsubscribe.push(name);
                }
                (true, true) | (false, false) => {
                    if entry.is_over() {
                        self.entries.remove(&name);
                    }
                }
            }
        }
        batch
    }

    /// The server has confirmed a subscription.
    pub(super) fn on_subscribed(&mut self, line: LineId, name: &str) -> Confirmed {
        let mut confirmed = Confirmed::default();
        let Some(entry) = self.entries.get_mut(name) else {
            return confirmed;
        };
        if entry.line != Some(line) || entry.subscribes_due == 0 {
            return confirmed;
        }
        entry.subscribes_due -= 1;
        if entry.is_live() {
            confirmed.waiters = std::mem::take(&mut entry.waiters);
            confirmed.has_lapsed = std::mem::take(&mut entry.has_lapsed);
            self.end_return(name);
        }
        confirmed
    }

    /// The server has confirmed the end of a subscription; false when nobody had asked for it.
    pub(super) fn on_unsubscribed(&mut self, line: LineId, name: &str) -> bool {
        let Some(entry) = self.entries.get_mut(name) else {
            return true;
        };
        if entry.line != Some(line) {
            return true;
        }
        if entry.unsubscribes_due == 0 {
            return false;
        }
        entry.unsubscribes_due -= 1;
        if entry.is_over() {
            self.entries.remove(name);
        }
        true
    }

    /// The server will not: whoever waits is told, and it is tried again on the next connection.
    pub(super) fn on_refused(&mut self, line: LineId, name: &str) {
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        if entry.line != Some(line) {
            return;
        }
        entry.has_lapsed |= entry.is_returning;
        self.end_return(name);
        if let Some(entry) = self.entries.get_mut(name) {
            entry.lapse();
            entry.waiters.clear();
            if entry.is_over() {
                self.entries.remove(name);
            }
        }
    }

    /// A name that was being brought back is, or will not be on this connection.
    fn end_return(&mut self, name: &str) {
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        if !std::mem::take(&mut entry.is_returning) {
            return;
        }
        if let Some(book) = entry.line.and_then(|line| self.lines.get_mut(&line)) {
            book.num_returning = book.num_returning.saturating_sub(1);
        }
    }
}
