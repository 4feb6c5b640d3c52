//! The survivor: does what a dead node cannot do any more.
//!
//! Whoever finds a node overdue takes the lease of its book, has it condemned, and goes through the book page by page
//! at a bounded rate: takes the seats out of presence and tells the channels that somebody left, takes the sessions
//! out of their users', tells plugins. A line is erased when all of that is done for it, so that nothing is lost when
//! the survivor dies too: the lease ends, the next one goes on with what is left.
//!
//! Of its own book a node does the same for lines that nobody has in hand any more.
//!
//! Invariants. A node that is heard of, by heartbeat or by message, is left alone, also when it comes back in the
//! middle. Each line is done at least once; twice only if a survivor died between doing and erasing, or a node came
//! back in that moment. Nothing is told to others once the lease may be another's.

use std::sync::{Arc, Weak};

use futures_util::{StreamExt, stream};
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use super::{
    BATCH, Change, Page, Record, Registrar, SILENT_AFTER, Slot, Turn, User,
    entry::{SeatEntry, SessionEntry, decode_seat, decode_session},
};
use crate::{
    broker::{BrokerError, JoinLeave},
    cluster::NodeUid,
    ids::{AppId, ChannelKey, ClientId},
    leases::{LeaseName, Renewals, Tenure},
    node::{LostSession, Node},
};

/// Life of the lease of a book, which is renewed for as long as the work takes; so long the others wait when a survivor
/// dies.
const LEASE: Duration = Duration::from_secs(15);

/// Time between two pages: with [`BATCH`] lines on each some 2,500 lines a second, so that the end of a large node is
/// no storm for the others, their stores and their plugins.
const PAUSE: Duration = Duration::from_millis(50);

/// What plugins are told of a session that ended with its node.
const NODE_DIED: &str = "the node died";

/// The same of one whose end was not told in its time.
const TOLD_LATE: &str = "the connection ended; it is told late";

/// Seats of a page given up at the same time.
const SEATS_AT_ONCE: usize = 32;

/// Why a book was left for later.
#[derive(Debug, thiserror::Error)]
enum Left {
    #[error("the store does not answer")]
    Store(#[from] BrokerError),
    #[error("a plugin has not taken the events of the sessions that ended")]
    Plugin,
    #[error("the lease is over")]
    Lease,
}

/// How going through a book ended.
enum Outcome {
    Closed,
    /// The node is heard of again.
    Back,
}

/// Cares for dead nodes until `stop`.
pub(super) async fn run(registrar: Arc<Registrar>, node: Weak<Node>, stop: CancellationToken) {
    let caring = async {
        loop {
            for dead in registrar.overdue().await {
                let Some(node) = node.upgrade() else {
                    return;
                };
                let is_heard = node.cluster().is_some_and(|cluster| cluster.hears(&dead));
                if !is_heard {
                    close_book(&registrar, &node, dead).await;
                }
            }
        }
    };
    // A survivor that is stopped leaves its lease to end: the rest of the book is another node's.
    stop.run_until_cancelled(caring).await;
}

async fn close_book(registrar: &Arc<Registrar>, node: &Arc<Node>, dead: NodeUid) {
    let name = LeaseName::DeadNode(dead.clone());
    let leases = Arc::clone(node.leases());
    let Ok(Some(tenure)) = Tenure::begin(leases, name, LEASE).await else {
        return;
    };
    let survivor = Survivor {
        registrar: Arc::clone(registrar),
        node: Arc::clone(node),
        dead,
        tenure: Some(&tenure),
        reason: NODE_DIED,
    };
    let began = Instant::now();
    let ended = tokio::select! {
        biased; // Nothing more is done under a lease that is over.
        () = tenure.over(Renewals::Steady) => Err(Left::Lease),
        ended = survivor.go_through() => ended,
    };
    let dead = &survivor.dead;
    match ended {
        Ok((Outcome::Closed, num_sessions)) => {
            tracing::warn!(
                node.id = %dead, sessions = num_sessions, took = ?began.elapsed(),
                "the sessions of a node that died were ended for it"
            );
        }
        Ok((Outcome::Back, _)) => {
            tracing::info!(node.id = %dead, "a node that was silent is back");
        }
        Err(error) => {
            tracing::debug!(node.id = %dead, %error, "the book of a dead node is not closed yet");
        }
    }
    tenure.end().await;
}

/// Ends what this node's own book has and nobody has in hand; false if some of it is left.
pub(super) async fn end_orphans(registrar: &Arc<Registrar>, node: &Arc<Node>) -> bool {
    let survivor = Survivor {
        registrar: Arc::clone(registrar),
        node: Arc::clone(node),
        dead: registrar.uid().clone(),
        tenure: None,
        reason: TOLD_LATE,
    };
    let mut is_ended = true;
    let mut from = Some(0);
    while let Some(at) = from {
        let Ok(page) = registrar.orphans(node, at).await else {
            return false;
        };
        from = page.next;
        if !page.records.is_empty() {
            tracing::debug!(
                lines = page.records.len(),
                "ends are told that were not told in time"
            );
            is_ended &= survivor.end(page).await.is_ok();
        }
        tokio::time::sleep(PAUSE).await;
    }
    is_ended
}

struct Survivor<'a> {
    registrar: Arc<Registrar>,
    node: Arc<Node>,
    dead: NodeUid,
    /// Of the dead node's book; a node's own is nobody else's.
    tenure: Option<&'a Tenure>,
    reason: &'static str,
}

impl Survivor<'_> {
    async fn go_through(&self) -> Result<(Outcome, usize), Left> {
        let store = self.registrar.store();
        let mut num_sessions = 0;
        loop {
            let mut has_failed = false;
            let mut from = Some(0);
            while let Some(at) = from {
                self.check_lease()?;
                if !store.condemn(&self.dead, SILENT_AFTER).wait().await? {
                    return Ok((Outcome::Back, num_sessions));
                }
                let page = store.read(&self.dead, at).wait().await?;
                from = page.next;
                match self.end(page).await {
                    Ok(ended) => {
                        self.registrar.metrics().ended.inc_by(ended as u64);
                        num_sessions += ended;
                    }
                    // An app whose plugin fails holds up no other app: its lines stay for the next time.
                    Err(Left::Plugin) => has_failed = true,
                    Err(error) => return Err(error),
                }
                tokio::time::sleep(PAUSE).await;
            }
            if has_failed {
                return Err(Left::Plugin);
            }
            if store.retire(&self.dead).wait().await? {
                return Ok((Outcome::Closed, num_sessions));
            }
        }
    }

    /// A machine that slept may have slept through the end of the lease.
    fn check_lease(&self) -> Result<(), Left> {
        match self.tenure {
            Some(tenure) if !tenure.is_mine() => Err(Left::Lease),
            Some(_) | None => Ok(()),
        }
    }

    /// Does what a page asks for, and erases it. Answers how many sessions it ended.
    async fn end(&self, page: Page) -> Result<usize, Left> {
        let Page {
            records,
            foreign,
            next: _,
        } = page;
        let mut done = Page {
            foreign,
            ..Page::default()
        };
        let (mut seats, mut sessions) = (Vec::new(), Vec::new());
        for record in records {
            match &record.slot {
                Slot::Seat(key, client) => match decode_seat(*client, &record.value) {
                    Some(entry) => seats.push((key.clone(), entry, record)),
                    None => done.records.push(record),
                },
                Slot::Session(client) => match decode_session(&record.value) {
                    Some(entry) => sessions.push((*client, entry, record)),
                    None => done.records.push(record),
                },
            }
        }
        let num_foreign = done.foreign.len() + done.records.len();
        self.registrar.metrics().foreign.inc_by(num_foreign as u64);
        let given_up = self.end_seats(seats, &mut done).await;
        let num_sessions = sessions.len();
        let ended = self.end_sessions(sessions, &mut done).await;
        // What is done is erased, whatever became of the rest.
        self.registrar
            .store()
            .erase(&self.dead, done)
            .wait()
            .await?;
        given_up?;
        ended?;
        Ok(num_sessions)
    }

    /// Gives seats up: out of presence first, then the channel is told, then plugins.
    async fn end_seats(
        &self,
        seats: Vec<(ChannelKey, SeatEntry, Record)>,
        done: &mut Page,
    ) -> Result<(), Left> {
        let ends = seats.into_iter().map(|(key, entry, record)| async move {
            let ended = self.end_seat(&key, &entry).await;
            (ended, (key, entry, record))
        });
        let mut ends = stream::iter(ends).buffer_unordered(SEATS_AT_ONCE);
        let mut ended = Vec::new();
        let mut outcome = Ok(());
        while let Some((end, seat)) = ends.next().await {
            match end {
                Ok(()) => ended.push(seat),
                Err(error) => outcome = Err(error),
            }
        }
        let app_of = |(key, ..): &(ChannelKey, SeatEntry, Record)| key.app().to_owned();
        ended.sort_by_cached_key(app_of);
        for of_app in ended.chunk_by(|one, other| one.0.app() == other.0.app()) {
            let lost: Vec<_> = of_app.iter().map(|(key, entry, _)| (key, entry)).collect();
            if let Ok(app) = AppId::parse(of_app[0].0.app()) {
                self.node.tell_lost_seats(&app, &lost, self.reason).await;
            }
            let records = of_app.iter().map(|(_, _, record)| record.clone());
            done.records.extend(records);
        }
        outcome
    }

    async fn end_seat(&self, key: &ChannelKey, entry: &SeatEntry) -> Result<(), Left> {
        let SeatEntry {
            member, visibility, ..
        } = entry;
        self.check_lease()?;
        if visibility.is_present {
            let store = self.node.roster().store();
            store.remove(key, member.client).wait().await?;
        }
        if visibility.is_announced {
            let leave = JoinLeave::Leave(member.to_info());
            self.check_lease()?;
            self.node
                .broker()
                .publish_join_leave(key, leave)
                .wait()
                .await?;
        }
        Ok(())
    }

    /// Takes sessions out of their users', and tells plugins, those of a user together.
    async fn end_sessions(
        &self,
        mut sessions: Vec<(ClientId, SessionEntry, Record)>,
        done: &mut Page,
    ) -> Result<(), Left> {
        let order = |entry: &SessionEntry| (entry.app.clone(), entry.place.user.clone());
        sessions.sort_by_key(|(_, entry, _)| order(entry));
        let mut outcome = Ok(());
        for of_app in sessions.chunk_by(|(_, one, _), (_, other, _)| one.app == other.app) {
            for some in of_app.chunks(BATCH) {
                match self.end_some(&some[0].1.app, some).await {
                    Ok(()) => done
                        .records
                        .extend(some.iter().map(|(_, _, record)| record.clone())),
                    Err(error) => outcome = Err(error),
                }
            }
        }
        outcome
    }

    async fn end_some(
        &self,
        app: &AppId,
        sessions: &[(ClientId, SessionEntry, Record)],
    ) -> Result<(), Left> {
        let mut changes = Vec::with_capacity(sessions.len());
        for (client, entry, record) in sessions {
            if !entry.place.user.is_empty() {
                let user = User {
                    app: app.clone(),
                    name: entry.place.user.as_str().into(),
                };
                let (client, value) = (*client, record.value.clone());
                changes.push((user, Change::Lost { client, value }));
            }
        }
        let turns = self.registrar.store().change(changes).wait().await;
        let mut turns = turns.into_iter();
        let mut lost: Vec<LostSession<'_>> = Vec::with_capacity(sessions.len());
        for (client, entry, _) in sessions {
            let user = entry.place.user.as_str();
            let turn = if user.is_empty() { None } else { turns.next() };
            lost.push(LostSession {
                client: *client,
                user,
                gone: match turn.transpose()? {
                    Some(Turn::Last(at)) => Some(at),
                    Some(Turn::Neither | Turn::First(_)) | None => None,
                },
            });
        }
        let told = self.node.tell_lost(app, &lost, self.reason).await;
        told.map_err(|_| Left::Plugin)
    }
}
