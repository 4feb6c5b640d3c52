//! Writing: what was noted goes to the store, in batches and one after the other.
//!
//! Owns the order. Who comes is written before others leave, so that a user who changes over has not gone; a line
//! stands in the book until everything that its end means was told. Nothing is written into the book of a node that the
//! store has not heard of lately: it may be closed, and nobody would look into it.

use std::sync::{Arc, Weak, atomic::Ordering};

use hashbrown::HashSet;
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use super::{Awaited, Departed, Entry, GRACE, MAX_NOTES, Note, Notes, Registrar};
use crate::{
    broker::BrokerError,
    directory::{
        Answer, BATCH, Change, Moment, Record, Slot, Turn, User,
        entry::{encode_seat, encode_session},
    },
    events::EventKind,
    ids::ClientId,
    node::Node,
};

/// Time in which notes are gathered. With the time of a write or two, who came is known everywhere within 200 ms.
const GATHERING: Duration = Duration::from_millis(50);

/// Time after which what could not be written is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How long it is remembered who went: longer than a replica that takes over is behind.
const DEPARTED_LIFE: Duration = Duration::from_secs(10);

/// How many of them.
const MAX_DEPARTED: usize = 16 * 1024;

/// What is still to be written when the node stops has this long; survivors do the rest.
const FAREWELL: Duration = Duration::from_secs(5);

impl Registrar {
    /// Writes what is noted until `stop`, and what was there then.
    pub(super) async fn run(self: Arc<Self>, node: Weak<Node>, stop: CancellationToken) {
        loop {
            let due = self.next_due();
            tokio::select! {
                biased; // Stop wins, so that shutdown is prompt.
                () = stop.cancelled() => break,
                () = self.noted.notified() => {}
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
            tokio::select! {
                biased; // Stop wins, so that shutdown is prompt.
                () = stop.cancelled() => break,
                () = tokio::time::sleep(GATHERING) => {}
            }
            if !self.flush(&node).await {
                self.noted.notify_one();
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep(RETRY_AFTER) => {}
                }
            }
        }
        let rest = async {
            while !self.is_idle() {
                if !self.flush(&node).await {
                    tokio::time::sleep(RETRY_AFTER).await;
                } else if let Some(due) = self.next_due() {
                    tokio::time::sleep_until(due).await;
                }
            }
            // From now on whoever looks finds that nobody is here.
            let condemned = self.store.condemn(&self.uid, Duration::ZERO).wait().await;
            self.metrics.count(condemned.is_ok());
            let retired = self.store.retire(&self.uid).wait().await;
            self.metrics.count(retired.is_ok());
        };
        let _ = tokio::time::timeout(FAREWELL, rest).await;
    }

    fn next_due(&self) -> Option<Instant> {
        self.awaited.lock().front().map(|first| first.until)
    }

    /// Writes what is noted, and ends graces. False if some of it has to be tried again.
    async fn flush(&self, node: &Weak<Node>) -> bool {
        let _writing = self.writing.lock().await;
        let notes: Notes = std::mem::take(&mut *self.notes.lock())
            .into_iter()
            .collect();
        let (came, gone): (Notes, Notes) = notes
            .into_iter()
            .partition(|(_, note)| !note.is_of_an_end());
        let mut is_written = true;
        for some in batches(came) {
            is_written &= self.enter_batch(node, some).await;
        }
        for some in batches(gone) {
            is_written &= self.leave_batch(node, some).await;
        }
        // Also when something could not be written: that may be another shard's.
        is_written &= self.settle(node).await;
        if self.is_idle() {
            self.idle.notify_waiters();
        }
        is_written
    }

    async fn enter_batch(&self, node: &Weak<Node>, notes: Notes) -> bool {
        if !self.is_heard().await {
            self.put_back(notes, |entry| entry);
            return false;
        }
        self.holds.reopen(notes.iter().map(|(slot, _)| slot));
        let term = self.term.load(Ordering::Relaxed);
        let mut records = Vec::with_capacity(notes.len());
        let (mut came, mut changes) = (Vec::new(), Vec::new());
        for (slot, note) in &notes {
            let value = match note {
                Note::Session {
                    app,
                    peer,
                    since_ms,
                    entry,
                } => {
                    let value = encode_session(app, (peer, *since_ms), self.uid.as_str(), term);
                    if !peer.user.is_empty() {
                        let user = User {
                            app: app.clone(),
                            name: Arc::clone(&peer.user),
                        };
                        came.push((user.clone(), slot.clone()));
                        let came = Change::Came {
                            client: peer.client,
                            value: value.clone(),
                            answer: match entry {
                                Entry::Fresh | Entry::Booked | Entry::Anew => Answer::Known,
                                Entry::Again => Answer::Missing,
                            },
                        };
                        changes.push((user, came));
                    }
                    value
                }
                Note::Seat(attending) => encode_seat(attending, term),
                Note::SessionGone { .. } | Note::SeatGone(_) | Note::LineGone => continue,
            };
            let slot = slot.clone();
            records.push(Record { slot, value });
        }
        // First into the book: the user's entry of a node that dies in between would be nobody's to take out.
        let written = self.store.write(&self.uid, records).wait().await;
        self.metrics.count(written.is_ok());
        if written.is_err() {
            self.put_back(notes, |entry| match entry {
                Entry::Fresh | Entry::Booked => Entry::Booked,
                Entry::Anew | Entry::Again => entry,
            });
            return false;
        }
        let turns = self.change(changes).await;
        let mut failed = HashSet::new();
        for ((user, slot), turn) in came.into_iter().zip(turns) {
            match turn {
                Ok(Turn::First(at)) => {
                    told(node, |node| node.user_came(&user, at));
                }
                Ok(Turn::Neither | Turn::Last(_)) => {}
                Err(_) => {
                    failed.insert(slot);
                }
            }
        }
        self.put_back_of(notes, &failed)
    }

    async fn leave_batch(&self, node: &Weak<Node>, notes: Notes) -> bool {
        let (mut leaving, mut changes) = (Vec::new(), Vec::new());
        for (slot, note) in &notes {
            if let (Slot::Session(client), Note::SessionGone { user }) = (slot, note)
                && !user.name.is_empty()
            {
                let client = *client;
                let is_wanted = told(node, |node| {
                    node.events()
                        .is_wanted(user.app.as_str(), EventKind::Offline)
                });
                // Where nobody is told, nobody is awaited.
                let is_told = is_wanted == Some(true);
                let change = if is_told && self.awaited.lock().len() < MAX_NOTES {
                    Change::Away { client }
                } else {
                    Change::Left { client }
                };
                leaving.push((user.clone(), client, is_told));
                changes.push((user.clone(), change));
            }
        }
        let graces: Vec<_> = changes
            .iter()
            .map(|(_, change)| matches!(change, Change::Away { .. }))
            .collect();
        self.remember(&leaving);
        let turns = self.change(changes).await;
        let (mut awaited, mut failed) = (HashSet::new(), HashSet::new());
        for (((user, client, is_told), has_grace), turn) in
            leaving.into_iter().zip(graces).zip(turns)
        {
            match turn {
                Ok(Turn::Last(_)) if has_grace => {
                    awaited.insert(Slot::Session(client));
                    self.awaited.lock().push_back(Awaited {
                        until: Instant::now() + GRACE,
                        user,
                        client,
                    });
                }
                Ok(Turn::Last(at)) if is_told => {
                    self.tell_last(node, &user, client, at);
                }
                Ok(Turn::Neither | Turn::First(_) | Turn::Last(_)) => {}
                Err(_) => {
                    failed.insert(Slot::Session(client));
                }
            }
        }
        let is_over = |slot: &Slot| !awaited.contains(slot) && !failed.contains(slot);
        let slots = notes.iter().map(|(slot, _)| slot);
        let over = slots.filter(|slot| is_over(slot)).cloned().collect();
        self.keep_for_plugins(&notes).await;
        let unstruck = self.strike(over).await;
        let is_struck = unstruck.is_empty();
        self.put_back_lines(unstruck);
        self.put_back_of(notes, &failed) && is_struck
    }

    /// Ends the graces that are over.
    async fn settle(&self, node: &Weak<Node>) -> bool {
        loop {
            let now = Instant::now();
            let due: Vec<Awaited> = {
                let mut awaited = self.awaited.lock();
                let due = std::iter::from_fn(|| awaited.pop_front_if(|one| one.until <= now));
                due.take(BATCH).collect()
            };
            if due.is_empty() {
                return true;
            }
            let changes = due.iter().map(|one| {
                let client = one.client;
                (one.user.clone(), Change::Settle { client })
            });
            let turns = self.change(changes.collect()).await;
            let mut is_written = true;
            let mut over = Vec::new();
            for (one, turn) in due.into_iter().zip(turns) {
                match turn {
                    Ok(turn) => {
                        if let Turn::Last(at) = turn {
                            self.tell_last(node, &one.user, one.client, at);
                        }
                        over.push(Slot::Session(one.client));
                    }
                    Err(_) => {
                        is_written = false;
                        let until = now + RETRY_AFTER;
                        self.awaited.lock().push_back(Awaited { until, ..one });
                    }
                }
            }
            let unstruck = self.strike(over).await;
            is_written &= unstruck.is_empty();
            self.put_back_lines(unstruck);
            if !is_written {
                return false;
            }
        }
    }

    /// The line stays until plugins were told: if this node dies before, a survivor tells them.
    fn tell_last(&self, node: &Weak<Node>, user: &User, client: ClientId, at: Moment) {
        told(node, |node| {
            if let Some(registrar) = node.registrar() {
                let hold = registrar.hold(Slot::Session(client));
                node.user_went_then(user, at, hold.until_taken());
            }
        });
    }

    /// Those who may have to go again.
    fn remember(&self, leaving: &[(User, ClientId, bool)]) {
        let now = Instant::now();
        let mut departed = self.departed.lock();
        while departed
            .pop_front_if(|one| one.at + DEPARTED_LIFE <= now)
            .is_some()
        {}
        let room = MAX_DEPARTED.saturating_sub(departed.len());
        let some = leaving.iter().take(room);
        departed.extend(some.map(|(user, client, _)| Departed {
            at: now,
            user: user.clone(),
            client: *client,
        }));
    }

    /// The store may have forgotten who went lately.
    pub(super) fn note_departed_again(&self) {
        let departed = std::mem::take(&mut *self.departed.lock());
        for Departed { at, user, client } in departed {
            if at.elapsed() < DEPARTED_LIFE {
                self.note(Slot::Session(client), Note::SessionGone { user });
            }
        }
    }

    async fn change(&self, changes: Vec<(User, Change)>) -> Vec<Result<Turn, BrokerError>> {
        if changes.is_empty() {
            return Vec::new();
        }
        let turns = self.store.change(changes).wait().await;
        self.metrics.count(turns.iter().all(Result::is_ok));
        turns
    }

    /// Seats that others were told of, and a plugin was not yet: from now on their lines say so, and a survivor tells
    /// the plugin alone. If that cannot be written, the others are told again.
    async fn keep_for_plugins(&self, notes: &Notes) {
        let term = self.term.load(Ordering::Relaxed);
        let held = notes.iter().filter_map(|(slot, note)| match note {
            Note::SeatGone(attending) if self.holds.has(slot) => Some(Record {
                slot: slot.clone(),
                value: encode_seat(&attending.hidden(), term),
            }),
            Note::Session { .. }
            | Note::SessionGone { .. }
            | Note::Seat(_)
            | Note::SeatGone(_)
            | Note::LineGone => None,
        });
        let held: Vec<_> = held.collect();
        if !held.is_empty() {
            let written = self.store.write(&self.uid, held).wait().await;
            self.metrics.count(written.is_ok());
        }
    }

    /// Strikes lines of which all is done, but for those that are held. Answers those that could not be struck.
    async fn strike(&self, mut over: Vec<Slot>) -> Vec<Slot> {
        if self.holds.retain_free(&mut over) {
            self.note_untold();
        }
        if over.is_empty() {
            return over;
        }
        let struck = self.store.strike(&self.uid, over.clone()).wait().await;
        self.metrics.count(struck.is_ok());
        if struck.is_ok() {
            over.clear();
        }
        over
    }

    fn put_back_lines(&self, unstruck: Vec<Slot>) {
        let unstruck = unstruck.into_iter().map(|slot| (slot, Note::LineGone));
        self.put_back(unstruck.collect(), |entry| entry);
    }

    /// True if there are none. What came to the store may be written all the same: the answer is what is missing.
    fn put_back_of(&self, notes: Notes, failed: &HashSet<Slot>) -> bool {
        if !failed.is_empty() {
            let failed = notes.into_iter().filter(|(slot, _)| failed.contains(slot));
            self.put_back(failed.collect(), |_| Entry::Again);
        }
        failed.is_empty()
    }
}

fn told<T>(node: &Weak<Node>, tell: impl FnOnce(&Node) -> T) -> Option<T> {
    node.upgrade().map(|node| tell(&node))
}

fn batches(notes: Notes) -> Vec<Notes> {
    let mut batches = Vec::with_capacity(notes.len().div_ceil(BATCH));
    let mut notes = notes.into_iter();
    loop {
        let batch: Notes = notes.by_ref().take(BATCH).collect();
        if batch.is_empty() {
            return batches;
        }
        batches.push(batch);
    }
}
