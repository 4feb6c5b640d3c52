//! What this node listens to, and what each connection still has to say about it.
//!
//! Pure: no sockets, no clock, no locks of its own. A name is wanted or not; its line was told the one or the other; the
//! server has answered or not. Whatever is lost or moves, the next [`Registry::take`] of a line says what brings the
//! three together. Invariants: a name is queued once, so the queues are bounded by what is listened to; a name is
//! reported as live when the server has confirmed it on the connection that stands.

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LINE: LineId = LineId(1);
    const OTHER: LineId = LineId(2);

    fn connected() -> Registry {
        let mut registry = Registry::default();
        registry.open_line(LINE);
        registry.open_line(OTHER);
        assert!(!registry.connected(LINE), "nothing to bring back");
        registry.connected(OTHER);
        registry
    }

    fn names(names: &[Name]) -> Vec<&str> {
        names.iter().map(|name| &**name).collect()
    }

    /// Wants, says and confirms.
    fn live(registry: &mut Registry, name: &str) {
        registry.want(name, Some(LINE));
        assert_eq!(names(&registry.take(LINE, 10).subscribe), [name]);
        registry.on_subscribed(LINE, name);
        assert!(matches!(registry.want(name, Some(LINE)), Wanted::Live));
    }

    #[test]
    fn a_subscribe_is_answered_when_the_server_has_confirmed_it() {
        let mut registry = connected();
        let Wanted::Waits(mut first) = registry.want("a", Some(LINE)) else {
            panic!("nothing was confirmed");
        };
        let Wanted::Waits(mut second) = registry.want("a", Some(LINE)) else {
            panic!("nothing was confirmed");
        };
        assert_eq!(names(&registry.take(LINE, 10).subscribe), ["a"]);
        assert_eq!(registry.take(LINE, 10), Batch::default(), "said once");
        assert!(first.try_recv().is_err());
        let confirmed = registry.on_subscribed(LINE, "a");
        assert!(!confirmed.has_lapsed && !registry.take_doubt(LINE));
        for waiter in confirmed.waiters {
            waiter.send(()).unwrap();
        }
        assert!(first.try_recv().is_ok() && second.try_recv().is_ok());
    }

    #[test]
    fn a_name_that_is_wanted_again_before_it_was_given_up_stays() {
        let mut registry = connected();
        live(&mut registry, "a");
        registry.unwant("a");
        registry.want("a", Some(LINE));
        assert_eq!(registry.take(LINE, 10), Batch::default());
        // And afterwards: both are said, and the last one counts.
        registry.unwant("a");
        assert_eq!(names(&registry.take(LINE, 10).unsubscribe), ["a"]);
        assert!(matches!(registry.want("a", Some(LINE)), Wanted::Waits(_)));
        assert_eq!(names(&registry.take(LINE, 10).subscribe), ["a"]);
        assert!(registry.on_unsubscribed(LINE, "a"), "it was asked for");
        registry.on_subscribed(LINE, "a");
        assert!(matches!(registry.want("a", Some(LINE)), Wanted::Live));
        registry.unwant("a");
        registry.take(LINE, 10);
        registry.on_unsubscribed(LINE, "a");
        assert_eq!(registry.len(), 0, "nothing is kept of it");
    }

    #[test]
    fn r4_a_new_connection_is_told_everything_and_says_when_it_is_back() {
        let mut registry = connected();
        for name in ["a", "b", "c"] {
            live(&mut registry, name);
        }
        registry.unwant("c");
        registry.disconnected(LINE);
        assert!(matches!(registry.want("a", Some(LINE)), Wanted::Waits(_)));
        assert_eq!(registry.take(LINE, 10), Batch::default(), "nobody to tell");
        assert!(registry.connected(LINE));
        let mut said = names(&registry.take(LINE, 10).subscribe)
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<Vec<_>>();
        said.sort_unstable();
        assert_eq!(said, ["a", "b"]);
        registry.on_subscribed(LINE, "a");
        assert!(!registry.take_doubt(LINE), "b is not back");
        registry.on_subscribed(LINE, "b");
        assert!(registry.take_doubt(LINE));
        assert!(!registry.take_doubt(LINE), "told once");
        assert_eq!(registry.len(), 2);
    }

    /// Two names that come back, one of them confirmed.
    fn half_back() -> Registry {
        let mut registry = connected();
        live(&mut registry, "a");
        live(&mut registry, "b");
        registry.disconnected(LINE);
        assert!(registry.connected(LINE));
        registry.take(LINE, 10);
        registry.on_subscribed(LINE, "a");
        assert!(!registry.take_doubt(LINE));
        registry
    }

    #[test]
    fn r4_a_name_that_nobody_wants_any_more_does_not_hold_the_doubt_back() {
        let mut registry = half_back();
        assert_eq!(registry.unwant("b"), Some(LINE), "the line has to look");
        assert!(registry.take_doubt(LINE));
        // Also one that was never said on the new connection.
        live(&mut registry, "c");
        registry.disconnected(LINE);
        registry.connected(LINE);
        registry.unwant("a");
        registry.unwant("c");
        assert!(registry.take_doubt(LINE));
    }

    #[test]
    fn r4_a_name_that_moves_while_it_returns_is_in_doubt_by_itself() {
        let mut registry = half_back();
        registry.rehouse("b", Some(OTHER));
        assert!(registry.take_doubt(LINE));
        registry.take(OTHER, 10);
        assert!(registry.on_subscribed(OTHER, "b").has_lapsed);
        assert!(!registry.take_doubt(OTHER), "one name moved there, no more");
    }

    #[test]
    fn r4_a_name_that_is_refused_while_it_returns_is_in_doubt_when_it_is_back() {
        let mut registry = half_back();
        registry.on_refused(OTHER, "b");
        assert!(!registry.take_doubt(LINE), "that was another line's word");
        registry.on_refused(LINE, "b");
        assert!(registry.take_doubt(LINE));
        registry.want("b", Some(LINE));
        registry.take(LINE, 10);
        assert!(registry.on_subscribed(LINE, "b").has_lapsed);
    }

    #[test]
    fn a_connection_that_ends_while_names_return_has_still_lost_something() {
        let mut registry = connected();
        live(&mut registry, "a");
        registry.disconnected(LINE);
        assert!(registry.connected(LINE));
        registry.take(LINE, 10);
        registry.disconnected(LINE);
        assert!(registry.connected(LINE));
        registry.take(LINE, 10);
        registry.on_subscribed(LINE, "a");
        assert!(registry.take_doubt(LINE));
    }

    #[test]
    fn a_moved_name_is_subscribed_elsewhere_and_in_doubt() {
        let mut registry = connected();
        live(&mut registry, "a");
        assert!(!registry.on_unsubscribed(LINE, "a"), "nobody had asked");
        registry.rehouse("a", None);
        assert_eq!(registry.house(|_| None), []);
        assert_eq!(registry.house(|_| Some(OTHER)), [OTHER]);
        assert_eq!(registry.take(LINE, 10), Batch::default());
        assert_eq!(names(&registry.take(OTHER, 10).subscribe), ["a"]);
        assert!(registry.on_subscribed(OTHER, "a").has_lapsed);
        registry.close_line(OTHER);
        assert_eq!(registry.house(|_| Some(LINE)), [LINE]);
        registry.take(LINE, 10);
        assert!(registry.on_subscribed(LINE, "a").has_lapsed);
    }

    #[test]
    fn a_refused_name_ends_the_wait_and_comes_again_with_the_next_connection() {
        let mut registry = connected();
        let Wanted::Waits(mut waits) = registry.want("a", Some(LINE)) else {
            panic!("nothing was confirmed");
        };
        registry.take(LINE, 10);
        registry.on_refused(LINE, "a");
        assert_eq!(waits.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        registry.disconnected(LINE);
        registry.connected(LINE);
        assert_eq!(names(&registry.take(LINE, 10).subscribe), ["a"]);
    }

    proptest! {
        /// Whatever happens in whatever order, in the end the server hears what is wanted, and whoever listened before
        /// a reconnect was told once that something may have been lost, when the names were back and not before.
        #[test]
        fn what_the_server_knows_comes_to_what_is_wanted(
            steps in proptest::collection::vec((0_u8..8, 0_usize..3), 0..60),
        ) {
            const NAMES: [&str; 3] = ["a", "b", "c"];
            let mut registry = connected();
            let mut wanted = [false; 3];
            // What the server has, and what it has not answered yet.
            let mut server = std::collections::BTreeSet::new();
            let mut answers = VecDeque::new();
            // Doubts since the last reconnect, and how many there must be in the end.
            let (mut num_doubts, mut num_due) = (0, 0);
            let serve = |registry: &mut Registry,
                         server: &mut std::collections::BTreeSet<Name>,
                         answers: &mut VecDeque<(bool, Name)>| {
                let batch = registry.take(LINE, 2);
                let is_idle = batch == Batch::default();
                for name in batch.subscribe {
                    server.insert(Arc::clone(&name));
                    answers.push_back((true, name));
                }
                for name in batch.unsubscribe {
                    server.remove(&name);
                    answers.push_back((false, name));
                }
                is_idle
            };
            let answer = |registry: &mut Registry, answers: &mut VecDeque<(bool, Name)>| {
                match answers.pop_front() {
                    Some((true, name)) => { registry.on_subscribed(LINE, &name); }
                    Some((false, name)) => { registry.on_unsubscribed(LINE, &name); }
                    None => {}
                }
            };
            for (step, index) in steps {
                match step {
                    0 => { registry.want(NAMES[index], Some(LINE)); wanted[index] = true; }
                    1 => { registry.unwant(NAMES[index]); wanted[index] = false; }
                    2 => { serve(&mut registry, &mut server, &mut answers); }
                    3 => answer(&mut registry, &mut answers),
                    4 => {
                        registry.disconnected(LINE);
                        server.clear();
                        answers.clear();
                        num_doubts = 0;
                        num_due = u32::from(registry.connected(LINE));
                    }
                    5 | 6 => {
                        // The server refuses, or says where else it is.
                        if let Some((true, name)) = answers.front().cloned()
                            && answers.iter().filter(|(_, other)| *other == name).count() == 1 {
                            answers.pop_front();
                            server.remove(&name);
                            if step == 5 {
                                registry.on_refused(LINE, &name);
                            } else {
                                registry.rehouse(&name, Some(LINE));
                            }
                        }
                    }
                    _ => {
                        // The slot moves away and comes back.
                        if answers.is_empty() && server.remove(NAMES[index])
                            && !registry.on_unsubscribed(LINE, NAMES[index]) {
                            registry.rehouse(NAMES[index], Some(LINE));
                        }
                    }
                }
                if registry.take_doubt(LINE) {
                    num_doubts += 1;
                    prop_assert!(registry.entries.values().all(|entry| !entry.is_returning));
                }
            }
            // What was refused is tried again when it is wanted anew.
            for index in 0..3 {
                if wanted[index] {
                    registry.want(NAMES[index], Some(LINE));
                }
            }
            while !serve(&mut registry, &mut server, &mut answers) {}
            while !answers.is_empty() {
                answer(&mut registry, &mut answers);
            }
            num_doubts += u32::from(registry.take_doubt(LINE));
            prop_assert_eq!(num_doubts, num_due);
            let expected: Vec<_> = (0..3).filter(|index| wanted[*index]).map(|index| NAMES[index]).collect();
            let heard: Vec<_> = server.iter().map(|name| &**name).collect();
            prop_assert_eq!(&heard, &expected);
            for name in &expected {
                prop_assert!(matches!(registry.want(name, Some(LINE)), Wanted::Live));
            }
            prop_assert_eq!(registry.len(), expected.len());
        }
    }
}
