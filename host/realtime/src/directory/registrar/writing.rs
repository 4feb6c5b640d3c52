//! Writing: what was noted goes to the store, in batches and one after the other.
//!
//! Owns the order. Who comes is written before others leave, so that a user who changes over has not gone; a line
//! stands in the book until everything that its end means was told.

use std::sync::{Arc, Weak, atomic::Ordering};

use hashbrown::HashSet;
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use super::{Awaited, Entry, GRACE, MAX_NOTES, Note, Notes, Registrar};
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
        let notes: Notes = std::mem::take(&mut *self.notes.lock())
            .into_iter()
            .collect();
        let (came, gone): (Notes, Notes) = notes
            .into_iter()
            .partition(|(_, note)| matches!(note, Note::Session { .. } | Note::Seat { .. }));
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
                                Entry::Fresh | Entry::Anew => Answer::Known,
                                Entry::Again => Answer::Missing,
                            },
                        };
                        changes.push((user, came));
                    }
                    value
                }
                Note::Seat { member, visibility } => encode_seat(member, *visibility, term),
                Note::SessionGone { .. } | Note::SeatGone => continue,
            };
            let slot = slot.clone();
            records.push(Record { slot, value });
        }
        // First into the book: the user's entry of a node that dies in between would be nobody's to take out.
        let written = self.store.write(&self.uid, records).wait().await;
        self.metrics.count(written.is_ok());
        if written.is_err() {
            self.put_back(notes);
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
        let turns = self.change(changes).await;
        let (mut kept, mut failed) = (HashSet::new(), HashSet::new());
        for (((user, client, is_told), has_grace), turn) in
            leaving.into_iter().zip(graces).zip(turns)
        {
            match turn {
                Ok(Turn::Last(_)) if has_grace => {
                    kept.insert(Slot::Session(client));
                    let until = Instant::now() + GRACE;
                    let awaited = Awaited {
                        until,
                        user,
                        client,
                    };
                    self.awaited.lock().push_back(awaited);
                }
                Ok(Turn::Last(at)) if is_told => {
                    kept.insert(Slot::Session(client));
                    self.tell_last(node, &user, client, at);
                }
                Ok(Turn::Neither | Turn::First(_) | Turn::Last(_)) => {}
                Err(_) => {
                    failed.insert(Slot::Session(client));
                }
            }
        }
        let is_over = |slot: &Slot| !kept.contains(slot) && !failed.contains(slot);
        let slots = notes.iter().map(|(slot, _)| slot);
        let slots: Vec<_> = slots.filter(|slot| is_over(slot)).cloned().collect();
        if !self.strike(slots.clone()).await {
            failed.extend(slots);
        }
        self.put_back_of(notes, &failed)
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
                    Ok(Turn::Last(at)) => self.tell_last(node, &one.user, one.client, at),
                    Ok(Turn::Neither | Turn::First(_)) => over.push(Slot::Session(one.client)),
                    Err(_) => {
                        is_written = false;
                        let until = now + RETRY_AFTER;
                        self.awaited.lock().push_back(Awaited { until, ..one });
                    }
                }
            }
            if !self.strike(over.clone()).await {
                let over = over.into_iter().map(|slot| (slot, Note::SeatGone));
                self.put_back(over.collect());
                is_written = false;
            }
            if !is_written {
                return false;
            }
        }
    }

    /// The line stays until plugins were told: if this node dies before, a survivor tells them.
    fn tell_last(&self, node: &Weak<Node>, user: &User, client: ClientId, at: Moment) {
        told(node, |node| {
            let Some(registrar) = node.registrar().map(Arc::downgrade) else {
                return;
            };
            let then = move || {
                if let Some(registrar) = registrar.upgrade() {
                    registrar.note_told(Slot::Session(client));
                }
            };
            node.user_went_then(user, at, Box::new(then));
        });
    }

    async fn change(&self, changes: Vec<(User, Change)>) -> Vec<Result<Turn, BrokerError>> {
        if changes.is_empty() {
            return Vec::new();
        }
        let turns = self.store.change(changes).wait().await;
        self.metrics.count(turns.iter().all(Result::is_ok));
        turns
    }

    async fn strike(&self, slots: Vec<Slot>) -> bool {
        if slots.is_empty() {
            return true;
        }
        let struck = self.store.strike(&self.uid, slots).wait().await;
        self.metrics.count(struck.is_ok());
        struck.is_ok()
    }

    /// True if there are none.
    fn put_back_of(&self, notes: Notes, failed: &HashSet<Slot>) -> bool {
        if !failed.is_empty() {
            let failed = notes.into_iter().filter(|(slot, _)| failed.contains(slot));
            self.put_back(failed.collect());
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
