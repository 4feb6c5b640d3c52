//! Losses between the store and the node: who has missed something is told, and nobody else.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use tidegate_protocol::{Publication, StreamPosition};

use super::*;
use crate::{
    broker::{
        Broker, BrokerError, BrokerEvents, Doubt, HistoryPage, HistoryQuery, JoinLeave,
        PublishRequest, Published,
    },
    ids::ChannelKey,
};

/// The way from the store to the hub, which can be shut.
struct Way {
    hub: Arc<Hub>,
    is_shut: AtomicBool,
}

impl BrokerEvents for Way {
    fn on_publication(
        &self,
        key: &ChannelKey,
        publication: &Arc<Publication>,
        position: Option<&StreamPosition>,
    ) {
        if !self.is_shut.load(Ordering::Relaxed) {
            self.hub.on_publication(key, publication, position);
        }
    }

    fn on_join_leave(&self, key: &ChannelKey, event: &JoinLeave) {
        self.hub.on_join_leave(key, event);
    }

    fn is_followed(&self, key: &ChannelKey) -> bool {
        self.hub.is_followed(key)
    }

    fn on_doubt(&self, doubt: Doubt<'_>) {
        self.hub.on_doubt(doubt);
    }
}

/// A store that can lose what it had, and be away.
struct Store {
    memory: MemoryBroker,
    /// What the store shows less of every stream than there was.
    lost: AtomicU64,
    is_away: AtomicBool,
    num_reads: AtomicUsize,
    num_renewed: AtomicUsize,
}

impl Broker for Store {
    fn publish(&self, request: PublishRequest) -> Progress<Result<Published, BrokerError>> {
        self.memory.publish(request)
    }

    fn history(
        &self,
        key: &ChannelKey,
        query: HistoryQuery,
    ) -> Progress<Result<HistoryPage, BrokerError>> {
        self.num_reads.fetch_add(1, Ordering::Relaxed);
        if self.is_away.load(Ordering::Relaxed) {
            return Progress::Ready(Err(BrokerError::Unavailable));
        }
        let lost = self.lost.load(Ordering::Relaxed);
        self.memory.history(key, query).map(move |page| {
            page.map(|mut page| {
                page.top.offset = page.top.offset.saturating_sub(lost);
                page
            })
        })
    }

    fn publish_join_leave(
        &self,
        key: &ChannelKey,
        event: JoinLeave,
    ) -> Progress<Result<(), BrokerError>> {
        self.memory.publish_join_leave(key, event)
    }

    fn remove_history(&self, key: &ChannelKey) -> Progress<Result<(), BrokerError>> {
        self.memory.remove_history(key)
    }

    fn subscribe(&self, key: &ChannelKey) -> Progress<Result<(), BrokerError>> {
        self.memory.subscribe(key)
    }

    fn unsubscribe(&self, key: &ChannelKey) {
        self.memory.unsubscribe(key);
    }

    fn renew_epoch(
        &self,
        key: &ChannelKey,
        epoch: &str,
    ) -> Progress<Result<StreamPosition, BrokerError>> {
        if self.is_away.load(Ordering::Relaxed) {
            return Progress::Ready(Err(BrokerError::Unavailable));
        }
        self.num_renewed.fetch_add(1, Ordering::Relaxed);
        self.memory.renew_epoch(key, epoch)
    }

    fn max_unconfirmed(&self) -> Duration {
        Duration::from_secs(10)
    }
}

/// A node whose store is somewhere else.
struct Apart {
    world: World,
    way: Arc<Way>,
    store: Arc<Store>,
}

impl Apart {
    fn new(mut settings: RealtimeConfig) -> Self {
        // Time is made to pass, and nobody answers.
        settings.client.ping_interval = Duration::from_secs(1_000_000);
        let hub = Hub::new(HubConfig {
            shards: 2,
            ..HubConfig::default()
        });
        let way = Arc::new(Way {
            hub: Arc::clone(&hub),
            is_shut: AtomicBool::new(false),
        });
        let store = Arc::new(Store {
            memory: MemoryBroker::new(Arc::clone(&way) as _),
            lost: AtomicU64::new(0),
            is_away: AtomicBool::new(false),
            num_reads: AtomicUsize::new(0),
            num_renewed: AtomicUsize::new(0),
        });
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let node = Node::new(NodeParts {
            broker: Arc::clone(&store) as _,
            tracker: tracker.clone(),
            ..NodeParts::in_memory(hub, Arc::new(NoHooks))
        });
        node.set_app(&AppId::default_app(), settings);
        for (_, service) in node.services(&stop) {
            tracker.spawn(service);
        }
        Self {
            world: World { node, stop },
            way,
            store,
        }
    }

    /// A client that is subscribed to these, and where it begins in the last of them.
    async fn subscriber(&self, channels: &[&str]) -> Client {
        let mut client = self.world.join().await;
        for channel in channels {
            client
                .say(&format!(
                    r#"{{"id":2,"subscribe":{{"channel":"{channel}"}}}}"#
                ))
                .await;
            assert!(client.last().contains("positioned"), "{}", client.last());
        }
        client
    }

    /// Publishes, and loses the event.
    async fn lose(&self, channel: &str) {
        self.way.is_shut.store(true, Ordering::Relaxed);
        self.world.publish(channel, "0").await;
        self.way.is_shut.store(false, Ordering::Relaxed);
    }

    fn reads(&self) -> usize {
        self.store.num_reads.swap(0, Ordering::Relaxed)
    }
}

impl Client {
    /// The channels that were taken away from it so far.
    fn taken(&mut self) -> Vec<String> {
        assert_eq!(self.signals(), Turn::Read);
        let messages = self.messages();
        let pushes = messages
            .iter()
            .filter(|text| text.contains(r#""unsubscribe":{"code":2500"#));
        let channels = pushes.map(|text| {
            let push: serde_json::Value = serde_json::from_str(text).unwrap();
            push["push"]["channel"].as_str().unwrap().to_owned()
        });
        channels.collect()
    }
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn r5_a_lost_publication_is_told_to_those_who_missed_it_and_to_nobody_else() {
    let apart = Apart::new(settings());
    let mut early = apart.subscriber(&["kept:a", "kept:b"]).await;
    apart.lose("kept:a").await;
    let mut late = apart.subscriber(&["kept:a", "kept:b"]).await;
    pass(15).await;
    assert_eq!(early.taken(), ["kept:a"]);
    assert!(late.taken().is_empty(), "it had read the history");
    apart.world.publish("kept:b", "1").await;
    pass(30).await;
    assert_eq!(early.taken(), ["kept:a"], "told once");
    assert!(late.taken().is_empty());
}

#[tokio::test(start_paused = true)]
async fn r5_a_channel_is_read_once_per_interval_whatever_the_number_of_its_members() {
    let apart = Apart::new(settings());
    let mut members = Vec::new();
    for _ in 0..20 {
        members.push(apart.subscriber(&["kept:a", "kept:b"]).await);
    }
    members.push(apart.world.join().await);
    members[20]
        .say(r#"{"id":2,"subscribe":{"channel":"unkept"}}"#)
        .await;
    apart.reads();
    pass(1_000).await;
    let reads = apart.reads();
    // Two channels every ten seconds, give or take a fifth.
    assert!((166..=250).contains(&reads), "{reads}");
    members.clear();
    pass(60).await;
    apart.reads();
    pass(1_000).await;
    assert_eq!(apart.reads(), 0, "nobody follows them");
}

#[tokio::test(start_paused = true)]
async fn r5_what_was_just_delivered_is_not_read_and_what_falls_silent_is() {
    let apart = Apart::new(settings());
    let mut client = apart.subscriber(&["kept:busy"]).await;
    apart.reads();
    for _ in 0..500 {
        apart.world.publish("kept:busy", "1").await;
        tokio::time::sleep(Duration::from_millis(900)).await;
    }
    assert_eq!(apart.reads(), 0, "every delivery was a check");
    assert!(client.taken().is_empty());
    apart.lose("kept:busy").await;
    pass(16).await;
    assert_eq!(client.taken(), ["kept:busy"]);
}

#[tokio::test(start_paused = true)]
async fn the_configured_delay_is_the_longer_bound_and_zero_checks_on_doubt_alone() {
    for (delay, expected) in [(2, 416..=625), (40, 83..=125), (0, 0..=0)] {
        let mut settings = settings();
        settings.client.position_check_delay = Duration::from_secs(delay);
        let apart = Apart::new(settings);
        let mut client = apart.subscriber(&["kept:a"]).await;
        apart.reads();
        pass(1_000).await;
        let reads = apart.reads();
        assert!(expected.contains(&reads), "{reads} at {delay} s");
        apart.lose("kept:a").await;
        apart.way.on_doubt(Doubt::Everything);
        pass(2).await;
        assert_eq!(client.taken(), ["kept:a"]);
    }
}

#[tokio::test(start_paused = true)]
async fn r7_a_doubt_is_looked_into_at_once_and_many_cost_few_reads() {
    let apart = Apart::new(settings());
    let mut client = apart.subscriber(&["kept:a", "kept:b"]).await;
    apart.lose("kept:a").await;
    apart.reads();
    let key = ChannelKey::new(&AppId::default_app(), "kept:a");
    for _ in 0..10_000 {
        apart.way.on_doubt(Doubt::Channel(&key));
    }
    pass(2).await;
    assert_eq!(client.taken(), ["kept:a"]);
    let reads = apart.reads();
    assert!((2..6).contains(&reads), "{reads}");
    let unknown = ChannelKey::new(&AppId::default_app(), "kept:unknown");
    apart.way.on_doubt(Doubt::Channel(&unknown));
    pass(1).await;
    assert!(apart.reads() <= 1);
}

#[tokio::test(start_paused = true)]
async fn r5_a_publication_on_its_way_is_not_taken_for_a_lost_one() {
    let apart = Apart::new(settings());
    let mut client = apart.subscriber(&["kept:a"]).await;
    let key = ChannelKey::new(&AppId::default_app(), "kept:a");
    for round in 1..=20_u64 {
        // The store has it, and the event comes after the first look.
        apart.lose("kept:a").await;
        apart.way.on_doubt(Doubt::Channel(&key));
        tokio::time::sleep(Duration::from_millis(500)).await;
        let publication = Publication {
            data: "0".into(),
            offset: round,
            ..Publication::default()
        };
        let epoch = apart.top(&key).await.epoch;
        let position = StreamPosition {
            offset: round,
            epoch,
        };
        let publication = Arc::new(publication);
        apart
            .way
            .on_publication(&key, &publication, Some(&position));
        pass(3).await;
        assert!(client.taken().is_empty(), "round {round}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_postpones_the_check_and_ends_nothing() {
    let apart = Apart::new(settings());
    let mut client = apart.subscriber(&["kept:a"]).await;
    apart.lose("kept:a").await;
    apart.store.is_away.store(true, Ordering::Relaxed);
    apart.way.on_doubt(Doubt::Everything);
    pass(60).await;
    assert!(client.taken().is_empty());
    apart.store.is_away.store(false, Ordering::Relaxed);
    pass(3).await;
    assert_eq!(client.taken(), ["kept:a"], "the doubt was not forgotten");
}

impl Apart {
    async fn top(&self, key: &ChannelKey) -> StreamPosition {
        let query = HistoryQuery {
            limit: crate::broker::HistoryLimit::PositionOnly,
            since: None,
            order: crate::broker::HistoryOrder::OldestFirst,
            meta_ttl: Duration::from_secs(60),
        };
        let page = self.store.memory.history(key, query).wait().await;
        page.unwrap().top
    }
}

#[tokio::test(start_paused = true)]
async fn r3_a_stream_that_was_rolled_back_has_a_new_epoch_before_anybody_is_told() {
    let apart = Apart::new(settings());
    let mut client = apart.subscriber(&["kept:a", "kept:b"]).await;
    let key = ChannelKey::new(&AppId::default_app(), "kept:a");
    for _ in 0..3 {
        apart.world.publish("kept:a", "1").await;
    }
    pass(60).await;
    assert!(client.taken().is_empty());
    let before = apart.top(&key).await;
    apart.store.lost.store(1, Ordering::Relaxed);
    apart.store.is_away.store(true, Ordering::Relaxed);
    pass(30).await;
    assert!(client.taken().is_empty(), "nobody is told before");
    apart.store.is_away.store(false, Ordering::Relaxed);
    pass(15).await;
    apart.store.lost.store(0, Ordering::Relaxed);
    assert_eq!(client.taken(), ["kept:a"]);
    assert_eq!(apart.store.num_renewed.load(Ordering::Relaxed), 1);
    let after = apart.top(&key).await;
    assert_ne!(after.epoch, before.epoch);
    let (offset, epoch) = (before.offset, before.epoch);
    client
        .say(&format!(
            r#"{{"id":4,"subscribe":{{"channel":"kept:a","recover":true,"offset":{offset},"epoch":"{epoch}"}}}}"#
        ))
        .await;
    let messages = client.messages();
    let reply = messages.iter().rfind(|text| text.contains("\"id\":4"));
    let reply: serde_json::Value = serde_json::from_str(reply.unwrap()).unwrap();
    let result = &reply["subscribe"];
    assert_eq!(result["was_recovering"], true);
    assert!(result["recovered"].is_null(), "{result}");
    assert_eq!(result["epoch"], after.epoch);
    // It stays: the hub has gone over to the new epoch.
    apart.world.publish("kept:a", "2").await;
    pass(60).await;
    assert_eq!(client.taken(), ["kept:a"]);
    assert!(client.last().contains("\"offset\":4"), "{}", client.last());
}

#[tokio::test(start_paused = true)]
async fn r3_an_offset_that_comes_twice_is_delivered_once_and_renews_the_epoch() {
    let apart = Apart::new(settings());
    let mut client = apart.subscriber(&["kept:a"]).await;
    let key = ChannelKey::new(&AppId::default_app(), "kept:a");
    for _ in 0..3 {
        apart.world.publish("kept:a", "1").await;
    }
    let epoch = apart.top(&key).await.epoch;
    // A promoted replica gives 3 and 4 out again.
    for offset in [3, 4] {
        let publication = Publication {
            data: "\"forked\"".into(),
            offset,
            ..Publication::default()
        };
        let position = StreamPosition {
            offset,
            epoch: epoch.clone(),
        };
        let publication = Arc::new(publication);
        apart
            .way
            .on_publication(&key, &publication, Some(&position));
    }
    pass(1).await;
    assert_eq!(client.taken(), ["kept:a"]);
    assert!(!client.messages().iter().any(|text| text.contains("forked")));
    assert_ne!(apart.top(&key).await.epoch, epoch);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_began_anew_unheard_is_told_and_whoever_comes_back_stays() {
    let apart = Apart::new(settings());
    let mut client = apart.subscriber(&["kept:a"]).await;
    let key = ChannelKey::new(&AppId::default_app(), "kept:a");
    apart.world.publish("kept:a", "1").await;
    pass(1).await;
    let before = apart.top(&key).await;
    let renewed = apart.store.memory.renew_epoch(&key, &before.epoch);
    renewed.wait().await.unwrap();
    // Before the node has heard of it, somebody joins the new one.
    let mut other = apart.subscriber(&["kept:a"]).await;
    pass(1).await;
    assert_eq!(other.taken(), ["kept:a"], "two streams are not one");
    assert_eq!(client.taken(), ["kept:a"], "and the doubt is looked into");
    for client in [&mut client, &mut other] {
        client
            .say(r#"{"id":3,"subscribe":{"channel":"kept:a"}}"#)
            .await;
    }
    pass(60).await;
    assert_eq!((client.taken().len(), other.taken().len()), (1, 1));
}
