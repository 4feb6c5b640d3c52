use std::{
    collections::VecDeque,
    sync::atomic::{AtomicUsize, Ordering},
};

use tidegate_protocol::StreamPosition;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::*;
use crate::{
    broker::{HistoryPage, HistoryQuery, PublishRequest, Published},
    ids::AppId,
    presence::{Members, MemoryPresence, PresenceStats},
};

/// What reached the engine, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Done {
    Added(ClientId),
    Refreshed(usize),
    Removed(ClientId),
    Join(String),
    Leave(String),
}

/// An engine whose answers wait until they are let go, if it is slow.
struct Engine {
    done: Mutex<Vec<Done>>,
    /// `None`: everything is answered at once.
    gate: Option<Arc<Semaphore>>,
    under_way: Arc<AtomicUsize>,
    store: MemoryPresence,
}

impl Engine {
    fn new(gate: Option<Arc<Semaphore>>) -> Arc<Self> {
        Arc::new(Self {
            done: Mutex::default(),
            gate,
            under_way: Arc::default(),
            store: MemoryPresence::default(),
        })
    }

    fn quick() -> Arc<Self> {
        Self::new(None)
    }

    /// Nothing gets through until permits are added.
    fn slow() -> (Arc<Self>, Arc<Semaphore>) {
        let gate = Arc::new(Semaphore::new(0));
        (Self::new(Some(Arc::clone(&gate))), gate)
    }

    fn take(&self) -> Vec<Done> {
        std::mem::take(&mut self.done.lock())
    }
}

/// A handle by which both halves of the engine are one.
struct Handle(Arc<Engine>);

impl Handle {
    fn act(
        &self,
        done: Done,
        act: impl FnOnce(&MemoryPresence) -> Progress<Result<(), BrokerError>> + Send + 'static,
    ) -> Progress<Result<(), BrokerError>> {
        let engine = Arc::clone(&self.0);
        let Some(gate) = engine.gate.clone() else {
            engine.done.lock().push(done);
            return act(&engine.store);
        };
        Progress::Pending(Box::pin(async move {
            engine.under_way.fetch_add(1, Ordering::SeqCst);
            gate.acquire().await.unwrap().forget();
            engine.under_way.fetch_sub(1, Ordering::SeqCst);
            engine.done.lock().push(done);
            act(&engine.store).wait().await
        }))
    }
}

impl Presence for Handle {
    fn add(&self, key: &ChannelKey, member: &Arc<Member>) -> Progress<Result<(), BrokerError>> {
        let (key, member) = (key.clone(), Arc::clone(member));
        self.act(Done::Added(member.client), move |store| {
            store.add(&key, &member)
        })
    }

    fn refresh(&self, members: Vec<Present>) -> Progress<Result<(), BrokerError>> {
        self.act(Done::Refreshed(members.len()), move |store| {
            store.refresh(members)
        })
    }

    fn remove(&self, key: &ChannelKey, client: ClientId) -> Progress<Result<(), BrokerError>> {
        let key = key.clone();
        self.act(Done::Removed(client), move |store| {
            store.remove(&key, client)
        })
    }

    fn members(&self, key: &ChannelKey, limit: usize) -> Progress<Result<Members, BrokerError>> {
        self.0.store.members(key, limit)
    }

    fn stats(&self, key: &ChannelKey) -> Progress<Result<PresenceStats, BrokerError>> {
        self.0.store.stats(key)
    }
}

impl Broker for Handle {
    fn publish(&self, _: PublishRequest) -> Progress<Result<Published, BrokerError>> {
        Progress::Ready(Err(BrokerError::Unavailable))
    }

    fn history(
        &self,
        _: &ChannelKey,
        _: HistoryQuery,
    ) -> Progress<Result<HistoryPage, BrokerError>> {
        Progress::Ready(Err(BrokerError::Unavailable))
    }

    fn publish_join_leave(
        &self,
        _: &ChannelKey,
        event: JoinLeave,
    ) -> Progress<Result<(), BrokerError>> {
        let done = match event {
            JoinLeave::Join(info) => Done::Join(info.user),
            JoinLeave::Leave(info) => Done::Leave(info.user),
        };
        self.act(done, |_| Progress::Ready(Ok(())))
    }

    fn remove_history(&self, _: &ChannelKey) -> Progress<Result<(), BrokerError>> {
        Progress::Ready(Err(BrokerError::Unavailable))
    }

    fn subscribe(&self, _: &ChannelKey) -> Progress<Result<(), BrokerError>> {
        Progress::Ready(Ok(()))
    }

    fn unsubscribe(&self, _: &ChannelKey) {}

    fn renew_epoch(
        &self,
        _: &ChannelKey,
        _: &str,
    ) -> Progress<Result<StreamPosition, BrokerError>> {
        Progress::Ready(Err(BrokerError::Unavailable))
    }
}

fn roster(engine: &Arc<Engine>) -> Arc<Roster> {
    let (store, broker) = (Handle(Arc::clone(engine)), Handle(Arc::clone(engine)));
    Roster::new(
        Arc::new(store),
        Arc::new(broker),
        PresenceMetrics::default(),
        None,
    )
}

/// A roster's services, which do its errands until they are ended.
struct Services {
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl Services {
    fn start(roster: &Arc<Roster>) -> Self {
        let (stop, tracker) = (CancellationToken::new(), TaskTracker::new());
        for (_, service) in roster.services(Duration::from_secs(3600), &stop) {
            tracker.spawn(service);
        }
        Self { stop, tracker }
    }

    async fn end(self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// Who the store counts in the channel `room`.
async fn num_clients(roster: &Roster) -> usize {
    let stats = roster.store.stats(&key("room")).wait().await;
    stats.unwrap().num_clients
}

fn key(channel: &str) -> ChannelKey {
    ChannelKey::new(&AppId::default_app(), channel)
}

fn member(user: &str) -> Member {
    Member {
        client: ClientId::random(),
        user: user.into(),
        conn_info: "".into(),
        chan_info: "".into(),
    }
}

const SEEN: Visibility = Visibility {
    is_present: true,
    is_announced: true,
};

/// Lets the other tasks of this thread run as far as they come.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_member_comes_and_goes_in_this_order_and_at_once() {
    let engine = Engine::quick();
    let roster = roster(&engine);
    let ann = member("ann");
    let client = ann.client;
    let mut attendance = roster.attend(&key("room"), ann, SEEN).await.unwrap();
    assert_eq!(engine.take(), [Done::Added(client)]);
    attendance.arrive();
    attendance.arrive();
    assert_eq!(engine.take(), [Done::Join("ann".into())]);
    drop(attendance);
    let left = [Done::Removed(client), Done::Leave("ann".into())];
    assert_eq!(engine.take(), left);
    assert_eq!(roster.metrics.members.get(), 0);
}

#[tokio::test]
async fn who_never_arrived_does_not_leave_and_who_is_hidden_is_not_told_of() {
    let engine = Engine::quick();
    let roster = roster(&engine);
    let ann = member("ann");
    let client = ann.client;
    drop(roster.attend(&key("room"), ann, SEEN).await.unwrap());
    assert_eq!(engine.take(), [Done::Added(client), Done::Removed(client)]);
    let unannounced = Visibility {
        is_present: true,
        is_announced: false,
    };
    let bob = member("bob");
    let client = bob.client;
    let mut attendance = roster.attend(&key("room"), bob, unannounced).await.unwrap();
    attendance.arrive();
    drop(attendance);
    assert_eq!(engine.take(), [Done::Added(client), Done::Removed(client)]);
    let announced = Visibility {
        is_present: false,
        is_announced: true,
    };
    let mut attendance = roster
        .attend(&key("room"), member("cid"), announced)
        .await
        .unwrap();
    attendance.arrive();
    drop(attendance);
    let told = [Done::Join("cid".into()), Done::Leave("cid".into())];
    assert_eq!(engine.take(), told);
}

#[tokio::test]
async fn with_a_slow_engine_a_session_waits_for_nothing_and_the_order_is_kept() {
    let (engine, gate) = Engine::slow();
    let roster = roster(&engine);
    let services = Services::start(&roster);
    gate.add_permits(1);
    let ann = member("ann");
    let client = ann.client;
    let mut attendance = roster.attend(&key("room"), ann, SEEN).await.unwrap();
    attendance.arrive();
    drop(attendance);
    settle().await;
    // The join is under way and what follows it is not.
    assert_eq!(engine.under_way.load(Ordering::SeqCst), 1);
    assert_eq!(engine.take(), [Done::Added(client)]);
    gate.add_permits(3);
    settle().await;
    let rest = [
        Done::Join("ann".into()),
        Done::Removed(client),
        Done::Leave("ann".into()),
    ];
    assert_eq!(engine.take(), rest);
    services.end().await;
}

#[tokio::test]
async fn what_is_pending_at_the_end_is_done_before_the_services_end() {
    let (engine, gate) = Engine::slow();
    let roster = roster(&engine);
    let services = Services::start(&roster);
    gate.add_permits(10);
    let mut leaving: VecDeque<Attendance> = VecDeque::new();
    for index in 0..10 {
        let user = format!("u{index}");
        leaving.push_back(
            roster
                .attend(&key("room"), member(&user), SEEN)
                .await
                .unwrap(),
        );
    }
    settle().await;
    engine.take();
    leaving.clear();
    services.stop.cancel();
    gate.add_permits(100);
    services.end().await;
    assert_eq!(engine.take().len(), 10);
    assert_eq!(num_clients(&roster).await, 0);
}

#[tokio::test]
async fn who_comes_back_before_the_removal_stays() {
    let (engine, gate) = Engine::slow();
    let roster = roster(&engine);
    let ann = member("ann");
    gate.add_permits(1);
    let first = roster
        .attend(&key("room"), ann.clone(), SEEN)
        .await
        .unwrap();
    drop(first);
    // Nobody does the errands yet.
    gate.add_permits(1);
    let again = roster.attend(&key("room"), ann, SEEN).await.unwrap();
    let services = Services::start(&roster);
    gate.add_permits(10);
    settle().await;
    assert_eq!(num_clients(&roster).await, 1);
    drop(again);
    settle().await;
    assert_eq!(num_clients(&roster).await, 0);
    services.end().await;
}

#[tokio::test]
async fn heartbeats_come_in_batches_however_many_channels_there_are() {
    let engine = Engine::quick();
    let roster = roster(&engine);
    let mut attending = Vec::new();
    for index in 0..10_000 {
        let channel = format!("room{}", index % 5_000);
        let member = member("ann");
        attending.push(roster.attend(&key(&channel), member, SEEN).await.unwrap());
    }
    engine.take();
    roster.refresh_all().await;
    let batches = engine.take();
    let refreshed = batches.iter().map(|done| match done {
        Done::Refreshed(len) => *len,
        Done::Added(_) | Done::Removed(_) | Done::Join(_) | Done::Leave(_) => 0,
    });
    assert_eq!(refreshed.sum::<usize>(), 10_000);
    assert!(batches.len() <= PARTS + 1, "{} requests", batches.len());
    drop(attending);
}

#[test]
fn a_batch_is_bounded_in_members_and_bytes() {
    let present = |bytes: usize| Present {
        key: key("room"),
        member: Arc::new(Member {
            conn_info: vec![b'1'; bytes].into(),
            ..member("ann")
        }),
    };
    assert_eq!(batch_len(&vec![present(0); 1000]), BATCH);
    assert_eq!(batch_len(&vec![present(100_000); 10]), 2);
    assert_eq!(batch_len(&[present(1_000_000)]), 1);
}

#[tokio::test]
async fn a_heartbeat_that_meets_a_leave_is_taken_back() {
    let (engine, gate) = Engine::slow();
    let roster = roster(&engine);
    gate.add_permits(1);
    let ann = member("ann");
    let client = ann.client;
    let attendance = roster.attend(&key("room"), ann, SEEN).await.unwrap();
    let id = (key("room"), client);
    let part = roster
        .parts
        .iter()
        .position(|part| part.lock().contains_key(&id));
    let refreshing = {
        let roster = Arc::clone(&roster);
        TaskTracker::new().spawn(async move { roster.refresh(part.unwrap()).await })
    };
    settle().await;
    assert_eq!(engine.under_way.load(Ordering::SeqCst), 1);
    // The leave is an errand that nobody does here, so that it is the heartbeat that takes the member out.
    drop(attendance);
    gate.add_permits(10);
    refreshing.await.unwrap();
    let done = [
        Done::Added(client),
        Done::Refreshed(1),
        Done::Removed(client),
    ];
    assert_eq!(engine.take(), done);
    assert_eq!(num_clients(&roster).await, 0);
}
