//! Who of this node's sessions is a member where: heartbeats for all of them, and the order of comings and goings.
//!
//! Owns what this node has put into the presence store and tells other subscribers of who comes and goes. A session
//! holds an [`Attendance`]; dropping it takes the member out and tells that it left. Engines that answer at once are
//! done with it there and then; what is pending goes through one queue, so that a session's end waits for nobody.
//!
//! Invariants. A join is published before the leave of the same attendance, and a member is out of the store before
//! its leave is published. The directory hears that a seat was given up when the others were told so, so that a survivor
//! tells them if this node dies first. Heartbeats cost one request for each [`BATCH`] of members, however many channels they are
//! in, spread over the whole interval. A heartbeat that meets a leave on its way is taken back.

mod errands;
#[cfg(test)]
mod tests;

use std::{hash::BuildHasher as _, pin::Pin, sync::Arc, time::Duration};

use hashbrown::{DefaultHashBuilder, HashMap};
use parking_lot::Mutex;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use self::errands::{Errand, Errands};
use super::{Member, Presence, Present};
use crate::{
    broker::{Broker, BrokerError, JoinLeave},
    directory::{Registrar, registrar::ANEW_PAUSE},
    events::EventId,
    hooks::Progress,
    ids::{ChannelKey, ClientId},
    metrics::PresenceMetrics,
};

/// Most members in one refresh: a request that a store answers within a millisecond or two.
pub const BATCH: usize = 512;

/// Most bytes of members in one refresh.
const BATCH_BYTES: usize = 256 * 1024;

/// Parts that lock apart, and that are refreshed one after the other in the course of an interval.
const PARTS: usize = 64;

/// A task of the roster; see [`Roster::services`].
pub type RosterService = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Who an attendance is of: a session is in a channel once.
type Id = (ChannelKey, ClientId);

/// Attendances by who they are of.
type Own = HashMap<Id, Attending>;

/// Who others see in a channel, and how.
#[derive(Debug, Clone)]
pub(crate) struct Attending {
    pub(crate) member: Arc<Member>,
    pub(crate) visibility: Visibility,
    /// The event of its end, on this node or on one that outlives it.
    pub(crate) end: EventId,
}

impl Attending {
    /// The same, of which others know nothing any more.
    pub(crate) fn hidden(&self) -> Self {
        Self {
            visibility: Visibility::default(),
            ..self.clone()
        }
    }
}

/// The members that this node answers for.
pub struct Roster {
    store: Arc<dyn Presence>,
    broker: Arc<dyn Broker>,
    parts: Box<[Mutex<Own>]>,
    /// Of parts; keyed anew for each node, so that clients cannot choose names that all fall into one.
    hasher: DefaultHashBuilder,
    errands: Errands,
    metrics: PresenceMetrics,
    /// Where a survivor finds who was seen here; `None` on a node that stands alone.
    registrar: Option<Arc<Registrar>>,
}

/// What others learn of a subscription.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Visibility {
    /// The session is in the channel's presence.
    pub is_present: bool,
    /// Others are told that it joins and leaves.
    pub is_announced: bool,
}

impl Visibility {
    pub fn is_hidden(self) -> bool {
        self == Self::default()
    }
}

impl Roster {
    pub fn new(
        store: Arc<dyn Presence>,
        broker: Arc<dyn Broker>,
        metrics: PresenceMetrics,
        registrar: Option<Arc<Registrar>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            broker,
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            hasher: DefaultHashBuilder::default(),
            errands: Errands::default(),
            metrics,
            registrar,
        })
    }

    pub fn store(&self) -> &Arc<dyn Presence> {
        &self.store
    }

    /// What must run for as long as the roster is used: heartbeats every `interval`, and what is pending. Both end
    /// with `stop`; what was pending then has a moment to be done.
    pub fn services(
        self: &Arc<Self>,
        interval: Duration,
        stop: &CancellationToken,
    ) -> Vec<(&'static str, RosterService)> {
        let beating = Arc::clone(self).beat(interval, stop.clone());
        let (errands, stop) = (Arc::clone(self), stop.clone());
        let running = async move { errands.errands.run(&stop).await };
        vec![
            ("presence heartbeat", Box::pin(beating)),
            ("presence errands", Box::pin(running)),
        ]
    }

    /// Puts a session into the channel, as far as it is to be seen there.
    ///
    /// # Errors
    /// The store's; then it is as if nothing had been asked.
    ///
    /// # Cancel safety
    /// Dropped in between, the member is taken out again.
    pub async fn attend(
        self: &Arc<Self>,
        key: &ChannelKey,
        member: Member,
        visibility: Visibility,
    ) -> Result<Attendance, BrokerError> {
        let member = Arc::new(member);
        // Made first: its end is the cleanup from here on.
        let attendance = Attendance {
            roster: Arc::clone(self),
            key: key.clone(),
            shown: Attending {
                member: Arc::clone(&member),
                visibility,
                end: EventId::random(),
            },
            has_joined: false,
        };
        if visibility.is_present || self.registrar.is_some() {
            let mut members = self.part(&attendance.id()).lock();
            members.insert(attendance.id(), attendance.shown.clone());
        }
        if let Some(registrar) = &self.registrar {
            registrar.seat(key, attendance.shown.clone());
        }
        if visibility.is_present {
            self.metrics.members.inc();
            let added = self.store.add(key, &member).wait().await;
            self.metrics.count(added.is_ok());
            added?;
        }
        Ok(attendance)
    }

    fn part(&self, id: &Id) -> &Mutex<Own> {
        let hash = self.hasher.hash_one(id);
        // The map uses the low bits for its own buckets.
        let index = usize::try_from(hash >> 32).unwrap_or_default() % PARTS;
        &self.parts[index]
    }

    fn has(&self, id: &Id) -> bool {
        self.part(id).lock().contains_key(id)
    }

    /// Whether the session is in the channel, or the others are about to be told that it left.
    pub(crate) fn answers_for(&self, key: &ChannelKey, client: ClientId) -> bool {
        let id = (key.clone(), client);
        self.has(&id) || self.errands.has(&id)
    }

    /// Does what is answered at once, and has the rest done in order.
    fn run(&self, id: Id, answer: Progress<Result<(), BrokerError>>) {
        match answer {
            Progress::Ready(done) => self.metrics.count(done.is_ok()),
            Progress::Pending(rest) => {
                let metrics = self.metrics.clone();
                let work = async move { metrics.count(rest.await.is_ok()) };
                self.hand_over(Errand {
                    id,
                    work: Box::pin(work),
                });
            }
        }
    }

    /// False when there is no room.
    fn hand_over(&self, errand: Errand) -> bool {
        let is_added = self.errands.add(errand);
        if !is_added {
            // The store's TTL takes the member out.
            self.metrics.dropped.inc();
        }
        is_added
    }

    fn publish(&self, id: Id, event: JoinLeave) {
        let answer = self.broker.publish_join_leave(&id.0, event);
        self.run(id, answer);
    }

    /// Takes a member out of the store, if it is to be in, and tells the others, if they are to be told.
    fn depart(self: &Arc<Self>, id: &Id, shown: Attending, leave: Option<JoinLeave>) {
        let is_present = shown.visibility.is_present;
        let removal = if is_present {
            self.store.remove(&id.0, id.1)
        } else {
            Progress::Ready(Ok(()))
        };
        let removed = match removal {
            Progress::Ready(removed) => removed.is_ok(),
            Progress::Pending(removal) => {
                let (roster, gone) = (Arc::clone(self), id.clone());
                let rest = async move {
                    // Who has come back meanwhile stays in.
                    let mut is_told = true;
                    if !roster.has(&gone) {
                        is_told = removal.await.is_ok();
                        roster.metrics.count(is_told);
                    }
                    if let Some(leave) = leave {
                        let told = roster.broker.publish_join_leave(&gone.0, leave);
                        let told = told.wait().await;
                        roster.metrics.count(told.is_ok());
                        is_told &= told.is_ok();
                    }
                    is_told
                };
                return self.depart_later(id, shown, rest);
            }
        };
        if is_present {
            self.metrics.count(removed);
        }
        let told = leave.map(|leave| self.broker.publish_join_leave(&id.0, leave));
        match told {
            None => self.departed(id, shown, removed),
            Some(Progress::Ready(told)) => {
                self.metrics.count(told.is_ok());
                self.departed(id, shown, removed && told.is_ok());
            }
            Some(Progress::Pending(told)) => {
                let metrics = self.metrics.clone();
                self.depart_later(id, shown, async move {
                    let told = told.await;
                    metrics.count(told.is_ok());
                    removed && told.is_ok()
                });
            }
        }
    }

    fn depart_later(
        self: &Arc<Self>,
        id: &Id,
        shown: Attending,
        rest: impl Future<Output = bool> + Send + 'static,
    ) {
        let (roster, gone, of) = (Arc::clone(self), id.clone(), shown.clone());
        let work = async move {
            let is_told = rest.await;
            roster.departed(&gone, of, is_told);
        };
        let errand = Errand {
            id: id.clone(),
            work: Box::pin(work),
        };
        if !self.hand_over(errand) {
            self.departed(id, shown, false);
        }
    }

    /// A line in the book stands until the others were told. Of who was not, it says so to whoever looks next.
    fn departed(&self, id: &Id, shown: Attending, is_told: bool) {
        let Some(registrar) = &self.registrar else {
            return;
        };
        if !is_told {
            registrar.leave_seat_untold(&id.0, id.1);
            return;
        }
        // Under the lock, so that the line of who has come back since is written after this, or this is not.
        let members = self.part(id).lock();
        if !members.contains_key(id) {
            registrar.leave_seat(&id.0, shown);
        }
    }

    /// Refreshes part after part, each once in an interval.
    async fn beat(self: Arc<Self>, interval: Duration, stop: CancellationToken) {
        let parts = u32::try_from(PARTS).unwrap_or(u32::MAX);
        let mut ticks = tokio::time::interval(interval / parts);
        // A store that was slow is not hurried afterwards.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            for part in 0..PARTS {
                tokio::select! {
                    biased; // Stop wins, so that shutdown is prompt.
                    () = stop.cancelled() => return,
                    () = async {
                        ticks.tick().await;
                        self.refresh(part).await;
                    } => {}
                }
            }
        }
    }

    /// Refreshes everybody now.
    #[cfg(test)]
    pub(crate) async fn refresh_all(&self) {
        for part in 0..PARTS {
            self.refresh(part).await;
        }
    }

    /// The node was taken for dead and is not: its members are put in again, and others, who were told that they
    /// left, are told that they are there.
    pub(crate) async fn come_back(&self) {
        for part in 0..PARTS {
            self.refresh(part).await;
            for ((key, client), attending) in self.attending(part) {
                if attending.visibility.is_announced && self.has(&(key.clone(), client)) {
                    let join = JoinLeave::Join(attending.member.to_info());
                    self.publish((key, client), join);
                }
            }
        }
    }

    /// Enters every attendance into the directory anew.
    pub(crate) async fn seat_all(&self, registrar: &Registrar) {
        for part in 0..PARTS {
            for (id, attending) in self.attending(part) {
                // Who has left since the list was made is not entered again.
                let members = self.parts[part].lock();
                if members.contains_key(&id) {
                    registrar.seat(&id.0, attending);
                }
            }
            tokio::time::sleep(ANEW_PAUSE).await;
        }
    }

    fn attending(&self, part: usize) -> Vec<(Id, Attending)> {
        let members = self.parts[part].lock();
        let members = members.iter();
        members
            .map(|(id, attending)| (id.clone(), attending.clone()))
            .collect()
    }

    async fn refresh(&self, part: usize) {
        let members: Vec<Present> = {
            let members = self.parts[part].lock();
            let present = members
                .iter()
                .filter(|(_, attending)| attending.visibility.is_present);
            let present = present.map(|((key, _), attending)| Present {
                key: key.clone(),
                member: Arc::clone(&attending.member),
            });
            present.collect()
        };
        let mut rest = members.as_slice();
        while !rest.is_empty() {
            let (batch, others) = rest.split_at(batch_len(rest));
            let refreshed = self.store.refresh(batch.to_vec()).wait().await;
            self.metrics.count(refreshed.is_ok());
            // Who left while it was on its way is out again.
            for present in batch {
                let id = (present.key.clone(), present.member.client);
                if !self.has(&id) {
                    let removed = self.store.remove(&id.0, id.1).wait().await;
                    self.metrics.count(removed.is_ok());
                }
            }
            rest = others;
            tokio::task::yield_now().await;
        }
    }
}

/// How many of these go into one request; at least one.
fn batch_len(members: &[Present]) -> usize {
    let mut num_bytes = 0;
    let fitting = members.iter().take(BATCH).take_while(|present| {
        num_bytes += present.member.cost() + present.key.as_str().len();
        num_bytes <= BATCH_BYTES
    });
    fitting.count().max(1)
}

impl std::fmt::Debug for Roster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Roster").finish_non_exhaustive()
    }
}

/// A session's place in a channel as others see it; dropping it ends that and tells them.
#[must_use = "dropping the attendance takes the member out"]
pub struct Attendance {
    roster: Arc<Roster>,
    key: ChannelKey,
    shown: Attending,
    /// The others, and the session itself, were told; they are told of the end, too.
    has_joined: bool,
}

impl Attendance {
    /// The event of its end.
    pub(crate) fn end(&self) -> EventId {
        self.shown.end
    }

    /// Tells those who listen, the session itself among them, that it has joined. To be called once its reply is
    /// queued and it gets what is published.
    pub fn arrive(&mut self) {
        if self.shown.visibility.is_announced && !self.has_joined {
            self.has_joined = true;
            let join = JoinLeave::Join(self.shown.member.to_info());
            self.roster.publish(self.id(), join);
        }
    }

    /// Shows other things of the session from the next heartbeat on, and when it leaves.
    pub fn show(&mut self, conn_info: &bytes::Bytes, chan_info: &bytes::Bytes) {
        let member = &self.shown.member;
        if member.conn_info == *conn_info && member.chan_info == *chan_info {
            return;
        }
        self.shown.member = Arc::new(Member {
            conn_info: conn_info.clone(),
            chan_info: chan_info.clone(),
            ..Member::clone(member)
        });
        let id = self.id();
        if let Some(attending) = self.roster.part(&id).lock().get_mut(&id) {
            attending.member = Arc::clone(&self.shown.member);
        }
        if let Some(registrar) = &self.roster.registrar {
            registrar.seat(&id.0, self.shown.clone());
        }
    }

    fn id(&self) -> Id {
        (self.key.clone(), self.shown.member.client)
    }
}

impl Drop for Attendance {
    fn drop(&mut self) {
        let id = self.id();
        let leave = self
            .has_joined
            .then(|| JoinLeave::Leave(self.shown.member.to_info()));
        let is_present = self.shown.visibility.is_present;
        if is_present || self.roster.registrar.is_some() {
            self.roster.part(&id).lock().remove(&id);
        }
        if is_present {
            self.roster.metrics.members.dec();
        }
        self.roster.depart(&id, self.shown.clone(), leave);
    }
}

impl std::fmt::Debug for Attendance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attendance")
            .field("key", &self.key)
            .field("client", &self.shown.member.client)
            .field("visibility", &self.shown.visibility)
            .field("has_joined", &self.has_joined)
            .finish_non_exhaustive()
    }
}
