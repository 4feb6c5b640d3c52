use std::{
    collections::HashSet,
    pin::pin,
    task::{Context, Waker},
};

use proptest::prelude::*;
use tidegate_protocol::{Raw, StreamPosition};

use super::*;
use crate::{
    broker::{Doubt, HistoryLimit, HistoryOptions, HistoryOrder},
    broker_contract::{Recorder, check_all},
    ids::AppId,
};

const HOUR: Duration = Duration::from_secs(3600);

/// Channels that have members, and nobody who listens.
#[derive(Default)]
struct Followed(Mutex<HashSet<ChannelKey>>);

impl BrokerEvents for Followed {
    fn on_publication(&self, _: &ChannelKey, _: &Arc<Publication>, _: Option<&StreamPosition>) {}

    fn on_join_leave(&self, _: &ChannelKey, _: &JoinLeave) {}

    fn is_followed(&self, key: &ChannelKey) -> bool {
        self.0.lock().contains(key)
    }

    fn on_doubt(&self, _: Doubt<'_>) {}
}

struct World {
    broker: MemoryBroker,
    followed: Arc<Followed>,
}

impl World {
    fn new() -> Self {
        Self::with(MemoryConfig::default())
    }

    fn with(config: MemoryConfig) -> Self {
        let followed = Arc::new(Followed::default());
        let broker = MemoryBroker::with_config(Arc::clone(&followed) as _, config);
        Self { broker, followed }
    }

    fn with_max_bytes(max_bytes: usize) -> Self {
        Self::with(MemoryConfig {
            max_bytes,
            ..MemoryConfig::default()
        })
    }

    fn advance(&self, by: Duration) {
        *self.broker.clock.ahead.lock() += by;
    }

    fn follow(&self, key: &ChannelKey) {
        self.followed.0.lock().insert(key.clone());
    }

    fn leave(&self, key: &ChannelKey) {
        self.followed.0.lock().remove(key);
        self.broker.unsubscribe(key);
    }

    /// One publication of this size that stays for `ttl`, in a stream that stays for an hour more.
    fn publish(&self, key: &ChannelKey, size: usize, ttl: Duration) -> StreamPosition {
        self.publish_with(
            key,
            size,
            HistoryOptions {
                size: 1_000,
                ttl,
                meta_ttl: ttl + HOUR,
            },
        )
    }

    fn publish_with(
        &self,
        key: &ChannelKey,
        size: usize,
        history: HistoryOptions,
    ) -> StreamPosition {
        let published = self.broker.publish_now(PublishRequest {
            key: key.clone(),
            publication: Publication {
                data: Raw::from("x".repeat(size)),
                ..Publication::default()
            },
            history: Some(history),
            idempotency_key: None,
            version: 0,
            version_epoch: Box::default(),
        });
        published.position.unwrap()
    }

    fn read(&self, key: &ChannelKey, meta_ttl: Duration) -> HistoryPage {
        self.broker.history_now(
            key,
            &HistoryQuery {
                limit: HistoryLimit::AtMost(usize::MAX),
                since: None,
                order: HistoryOrder::OldestFirst,
                meta_ttl,
            },
        )
    }

    fn offsets(&self, key: &ChannelKey) -> Vec<u64> {
        offsets(&self.read(key, 2 * HOUR))
    }

    fn num_bytes(&self) -> usize {
        self.broker.statistics().num_bytes
    }

    fn num_streams(&self) -> usize {
        self.broker.statistics().num_streams
    }

    /// What counters and timelines must say, looked up stream by stream.
    fn check_books(&self) {
        let (mut num_streams, mut num_bytes) = (0, 0);
        for part in &self.broker.parts {
            for (key, slot) in part.read().iter() {
                let stream = slot.stream.lock();
                num_streams += 1;
                num_bytes += stream.num_bytes(key);
                assert!(!stream.is_forgotten);
                let (line, at) = stream.place.expect("a stream has a place");
                assert_eq!(line, stream.line());
                assert!(at <= self.broker.ends_at(slot, &stream));
            }
        }
        let shares = self.broker.shares.all();
        let statistics = self.broker.statistics();
        assert_eq!(statistics.num_streams, num_streams);
        assert_eq!(statistics.num_bytes, num_bytes);
        let num_places: usize = shares.iter().map(|share| share.num_places()).sum();
        assert_eq!(num_places, num_streams, "each stream stands in line once");
        let of_shares: usize = shares.iter().map(|share| share.num_bytes()).sum();
        assert_eq!(of_shares, num_bytes);
    }
}

fn key(name: &str) -> ChannelKey {
    ChannelKey::new(&AppId::default_app(), name)
}

fn key_in(app: &str, name: &str) -> ChannelKey {
    ChannelKey::new(&AppId::parse(app).unwrap(), name)
}

fn offsets(page: &HistoryPage) -> Vec<u64> {
    page.publications.iter().map(|one| one.offset).collect()
}

#[tokio::test]
async fn the_memory_broker_keeps_the_contract() {
    let events = Arc::new(Recorder::default());
    let broker = MemoryBroker::new(Arc::clone(&events) as _);
    check_all(&broker, &events, "").await;
}

#[tokio::test]
async fn n1_a_stream_forgotten_elsewhere_changes_nothing_for_an_empty_channel() {
    let world = World::new();
    let epoch = world.read(&key("empty"), HOUR).top.epoch;
    for other in [key("other"), key_in("another-app", "empty")] {
        let at_once = HistoryOptions {
            size: 1,
            ttl: Duration::ZERO,
            meta_ttl: Duration::ZERO,
        };
        let before = world.publish_with(&other, 1, at_once);
        world.advance(Duration::from_secs(1));
        world.broker.sweep().await;
        let after = world.read(&other, Duration::ZERO).top;
        assert_ne!(before.epoch, after.epoch, "the other one was forgotten");
    }
    assert_eq!(world.read(&key("empty"), HOUR).top.epoch, epoch);
}

#[tokio::test]
async fn an_epoch_lives_as_long_as_somebody_relies_on_it_and_no_longer() {
    const LIFE: Duration = Duration::from_secs(10);
    let world = World::new();
    let key = key("empty");
    world.follow(&key);
    let epoch = world.read(&key, LIFE).top.epoch;
    for _ in 0..100 {
        world.advance(LIFE / 3);
        world.broker.sweep().await;
    }
    world.leave(&key);
    world.advance(LIFE * 9 / 10);
    world.broker.sweep().await;
    let now = world.read(&key, LIFE).top.epoch;
    assert_eq!(now, epoch, "those who left may come back");
    world.advance(LIFE + SWEEP_INTERVAL);
    world.broker.sweep().await;
    assert_eq!(world.num_streams(), 0);
    assert_eq!(world.num_bytes(), 0);
    assert_ne!(world.read(&key, LIFE).top.epoch, epoch);
}

#[tokio::test]
async fn p2_every_history_that_ended_is_freed_however_many_channels_there_are() {
    // More than any number that a sweep might stop at.
    const CHANNELS: usize = 80_000;
    let world = World::new();
    let short = Duration::from_secs(1);
    for number in 0..CHANNELS {
        world.publish(&key(&format!("c{number}")), 100, short);
    }
    let full = world.num_bytes();
    world.advance(short);
    world.broker.sweep().await;
    let freed = full - world.num_bytes();
    assert!(freed > CHANNELS * 100, "{freed} of {full}");
    assert_eq!(world.num_streams(), CHANNELS, "the positions stay");
    world.advance(short + HOUR);
    world.broker.sweep().await;
    assert_eq!((world.num_streams(), world.num_bytes()), (0, 0));
    assert_eq!(world.broker.statistics().dropped_streams, 0);
}

#[tokio::test]
async fn a_sweep_gives_way_often_and_frees_long_histories_step_by_step() {
    let world = World::new();
    for number in 0..10 * SWEEP_STREAMS {
        world.publish(&key(&format!("c{number}")), 1, Duration::ZERO);
    }
    for _ in 0..1_000 {
        world.publish(&key("long"), 1, Duration::from_secs(1));
    }
    world.advance(Duration::from_secs(1));
    let mut sweep = pin!(world.broker.sweep());
    let mut context = Context::from_waker(Waker::noop());
    let mut num_turns = 0;
    while sweep.as_mut().poll(&mut context).is_pending() {
        num_turns += 1;
    }
    assert!(num_turns >= 10 + 1_000 / STEP_ENTRIES, "{num_turns} turns");
}

#[tokio::test]
async fn p2_over_the_bound_the_oldest_go_and_recovery_can_tell() {
    let world = World::with_max_bytes(100_000);
    let (old, new) = (key("old"), key("new"));
    for _ in 0..20 {
        world.publish(&old, 1_000, HOUR);
    }
    world.advance(Duration::from_secs(1));
    for _ in 0..80 {
        world.publish(&new, 1_000, HOUR);
        assert!(world.num_bytes() <= 100_000, "{}", world.num_bytes());
    }
    let (of_old, of_new) = (world.offsets(&old), world.offsets(&new));
    assert!(of_old.len() < 20, "{of_old:?}");
    // What is left ends at the top: whoever misses more sees that it is not whole.
    assert_eq!(of_old.last().copied().unwrap_or(20), 20);
    assert_eq!(of_new.last(), Some(&80));
    let num_kept = of_old.len() + of_new.len();
    let dropped = world.broker.statistics().dropped_publications;
    assert_eq!(dropped, 100 - num_kept as u64);
    assert!(of_old.is_empty() || of_new.len() == 80, "the oldest first");
    assert_eq!(world.read(&old, HOUR).top.offset, 20, "positions stay");
    world.check_books();
}

#[tokio::test]
async fn n3_an_app_that_floods_costs_no_other_app_its_history() {
    let world = World::with_max_bytes(200_000);
    let quiet = key_in("quiet", "news");
    world.publish(&quiet, 1_000, HOUR);
    for number in 0..1_000 {
        world.publish(&key_in("loud", &format!("c{number}")), 1_000, HOUR);
    }
    assert!(world.num_bytes() <= 200_000);
    assert_eq!(world.offsets(&quiet), [1]);
    world.check_books();
}

#[tokio::test]
async fn n3_a_created_app_is_held_to_its_quota_and_the_default_app_is_not() {
    let quota = AppQuota {
        max_bytes: 50_000,
        max_streams: 10,
    };
    let world = World::with(MemoryConfig {
        created_apps: quota,
        ..MemoryConfig::default()
    });
    let kept = key_in("made", "kept");
    world.publish(&kept, 1, HOUR);
    world.follow(&kept);
    for number in 0..50 {
        world.advance(Duration::from_millis(1));
        world.publish(&key_in("made", &format!("c{number}")), 1, HOUR);
        world.publish(&key(&format!("c{number}")), 1, HOUR);
    }
    assert_eq!(world.num_streams(), 10 + 50);
    assert_eq!(
        world.offsets(&key_in("made", "c49")),
        [1],
        "the newest stay"
    );
    assert_eq!(world.offsets(&kept), [1], "those with members stay");
    assert_eq!(world.broker.statistics().dropped_streams, 41);
    for _ in 0..100 {
        world.publish(&kept, 1_000, HOUR);
        world.publish(&key("c1"), 1_000, HOUR);
    }
    let shares = world.broker.shares.all();
    let num_bytes: Vec<_> = shares.iter().map(|share| share.num_bytes()).collect();
    assert!(num_bytes.iter().any(|bytes| *bytes <= 50_000));
    assert!(num_bytes.iter().any(|bytes| *bytes > 100_000));
    world.check_books();
}

#[tokio::test]
async fn names_that_are_only_read_cost_no_history() {
    let world = World::with_max_bytes(100_000);
    let news = key("news");
    world.publish(&news, 1_000, HOUR);
    let held = key("held");
    world.follow(&held);
    let epoch = world.read(&held, HOUR).top.epoch;
    for number in 0..10_000 {
        world.read(&key(&format!("c{number}")), 720 * HOUR);
    }
    assert!(world.num_bytes() <= 100_000);
    assert_eq!(world.offsets(&news), [1]);
    assert_eq!(world.read(&held, HOUR).top.epoch, epoch);
    assert!(world.broker.statistics().dropped_streams > 9_000);
    world.check_books();
}

#[derive(Debug, Clone)]
enum Step {
    Publish {
        channel: u8,
        size: u16,
        ttl: u8,
        is_once: bool,
    },
    Read(u8),
    Remove(u8),
    Follow(u8),
    Leave(u8),
    Wait(u8),
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    let channel = 0_u8..12;
    prop_oneof![
        6 => (channel.clone(), 0_u16..3_000, 0_u8..20, any::<bool>()).prop_map(
            |(channel, size, ttl, is_once)| Step::Publish { channel, size, ttl, is_once }
        ),
        2 => channel.clone().prop_map(Step::Read),
        1 => channel.clone().prop_map(Step::Remove),
        1 => channel.clone().prop_map(Step::Follow),
        1 => channel.prop_map(Step::Leave),
        2 => (0_u8..30).prop_map(Step::Wait),
        2 => Just(Step::Sweep),
    ]
}

proptest! {
    /// Whatever happens: the counters say what is there, each stream stands in line once, the bounds hold, what is
    /// in a history ends at its top without a hole, and a followed epoch does not change.
    #[test]
    fn p2_the_books_are_right_and_the_bounds_hold(steps in proptest::collection::vec(step(), 1..80)) {
        const MAX_BYTES: usize = 40_000;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let result: Result<(), TestCaseError> = runtime.block_on(async {
            let world = World::with(MemoryConfig {
                max_bytes: MAX_BYTES,
                created_apps: AppQuota { max_bytes: 20_000, max_streams: 4 },
            });
            let apps = ["default", "one", "two"];
            let of = |channel: u8| key_in(apps[usize::from(channel) % 3], &format!("c{channel}"));
            let mut epochs: HashMap<ChannelKey, String> = HashMap::new();
            for step in steps {
                match step {
                    Step::Publish { channel, size, ttl, is_once } => {
                        let ttl = Duration::from_secs(u64::from(ttl));
                        world.broker.publish_now(PublishRequest {
                            key: of(channel),
                            publication: Publication {
                                data: Raw::from("x".repeat(usize::from(size))),
                                ..Publication::default()
                            },
                            history: Some(HistoryOptions { size: 5, ttl, meta_ttl: ttl * 2 }),
                            idempotency_key: is_once.then(|| size.to_string().into()),
                            version: 0,
                            version_epoch: Box::default(),
                        });
                    }
                    Step::Read(channel) => {
                        let page = world.read(&of(channel), Duration::from_secs(20));
                        let found = offsets(&page);
                        let first = page.top.offset + 1 - found.len() as u64;
                        prop_assert_eq!(found, (first..=page.top.offset).collect::<Vec<_>>());
                        if let Some(epoch) = epochs.get(&of(channel)) {
                            prop_assert_eq!(epoch, &page.top.epoch);
                        }
                    }
                    Step::Remove(channel) => {
                        let _ = world.broker.remove_history(&of(channel));
                    }
                    Step::Follow(channel) => {
                        world.follow(&of(channel));
                        let epoch = world.read(&of(channel), Duration::from_secs(20)).top.epoch;
                        epochs.insert(of(channel), epoch);
                    }
                    Step::Leave(channel) => {
                        epochs.remove(&of(channel));
                        world.leave(&of(channel));
                    }
                    Step::Wait(seconds) => world.advance(Duration::from_secs(u64::from(seconds))),
                    Step::Sweep => world.broker.sweep().await,
                }
                world.check_books();
                prop_assert!(world.num_bytes() <= MAX_BYTES, "{}", world.num_bytes());
            }
            Ok(())
        });
        result?;
    }

    /// A page that is computed is the page that looking at each entry finds.
    #[test]
    fn a_page_is_what_looking_at_every_entry_finds(
        published in 0_u64..30,
        size in 0_usize..20,
        since in proptest::option::of(0_u64..40),
        limit in 0_usize..25,
        is_reverse in any::<bool>(),
    ) {
        let mut stream = Stream::new("e".to_owned(), Instant::now());
        let options = HistoryOptions { size, ttl: HOUR, meta_ttl: HOUR };
        for _ in 0..published {
            let offset = stream.advance().offset;
            let publication = Arc::new(Publication { offset, ..Publication::default() });
            stream.append(publication, options, Instant::now());
        }
        let first = published + 1 - (size as u64).min(published);
        let mut expected: Vec<u64> = (first..=published)
            .filter(|offset| since.is_none_or(|since| {
                if is_reverse { *offset < since } else { *offset > since }
            }))
            .collect();
        if is_reverse {
            expected.reverse();
        }
        expected.truncate(limit);
        let page = stream.page(&HistoryQuery {
            limit: HistoryLimit::AtMost(limit),
            since: since.map(|offset| StreamPosition { offset, epoch: String::new() }),
            order: if is_reverse { HistoryOrder::NewestFirst } else { HistoryOrder::OldestFirst },
            meta_ttl: HOUR,
        });
        prop_assert_eq!(offsets(&page), expected);
    }
}
