//! A copy that is read by the clock, and what it holds at most.

use tokio::task::JoinSet;

use super::*;
use crate::{
    ids::{AppId, ClientId},
    presence::{Member, MemoryPresence},
};

/// A store that this node has to ask.
struct Far(MemoryPresence);

impl Presence for Far {
    fn add(
        &self,
        key: &ChannelKey,
        member: &Arc<Member>,
    ) -> crate::hooks::Progress<Result<(), BrokerError>> {
        self.0.add(key, member)
    }
    fn refresh(
        &self,
        members: Vec<crate::presence::Present>,
    ) -> crate::hooks::Progress<Result<(), BrokerError>> {
        self.0.refresh(members)
    }
    fn remove(
        &self,
        key: &ChannelKey,
        client: ClientId,
    ) -> crate::hooks::Progress<Result<(), BrokerError>> {
        self.0.remove(key, client)
    }
    fn members(
        &self,
        key: &ChannelKey,
        limit: usize,
    ) -> crate::hooks::Progress<Result<Members, BrokerError>> {
        self.0.members(key, limit)
    }
    fn stats(
        &self,
        key: &ChannelKey,
    ) -> crate::hooks::Progress<Result<PresenceStats, BrokerError>> {
        self.0.stats(key)
    }
}

fn key(name: &str) -> ChannelKey {
    ChannelKey::new(&AppId::default_app(), name)
}

fn ann() -> Arc<Member> {
    Arc::new(Member {
        client: ClientId::random(),
        user: "ann".into(),
        conn_info: Default::default(),
        chan_info: Default::default(),
    })
}

struct World {
    watched: Arc<Watched>,
    store: MemoryPresence,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            watched: Arc::default(),
            store: MemoryPresence::default(),
            stop: CancellationToken::new(),
            tasks: JoinSet::new(),
        };
        let store = Arc::new(Far(world.store.clone()));
        let watching = Arc::clone(&world.watched);
        let stop = world.stop.clone();
        world.tasks.spawn(watching.run(store, stop));
        world
    }

    fn clients(&self, name: &str) -> Result<usize, NoView> {
        let stats = self.watched.stats(&key(name), Instant::now())?;
        Ok(stats.num_clients)
    }

    async fn until(&self, expected: usize) {
        while self.clients("room") != Ok(expected) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_question_begins_to_follow_and_the_next_are_answered() {
    let world = World::new();
    let member = ann();
    world.store.add(&key("room"), &member).wait().await.unwrap();
    assert_eq!(world.clients("room"), Err(NoView::Elsewhere));
    let members = || world.watched.members(&key("room"), Instant::now());
    assert_eq!(members().unwrap_err(), NoView::Elsewhere);
    let began = Instant::now();
    world.until(1).await;
    assert!(began.elapsed() < READ_EVERY);
    assert_eq!(members().unwrap().members, [Arc::clone(&member)]);
    // What changes is seen within the age that is promised, as long as somebody asks now and then.
    world
        .store
        .remove(&key("room"), member.client)
        .wait()
        .await
        .unwrap();
    let began = Instant::now();
    world.until(0).await;
    assert!(began.elapsed() < MAX_AGE);
    tokio::time::sleep(WATCHED_FOR / 2).await;
    assert_eq!(world.clients("room"), Ok(0));
    // Nobody asked for long: it is not followed any more.
    tokio::time::sleep(WATCHED_FOR + MAX_AGE).await;
    assert_eq!(world.clients("room"), Err(NoView::Elsewhere));
    world.stop.cancel();
}

#[test]
fn what_is_too_old_is_not_answered_and_a_failed_read_is_tried_again() {
    let (watched, now) = (Watched::default(), Instant::now());
    assert_eq!(watched.stats(&key("room"), now), Err(NoView::Elsewhere));
    let (due, _) = watched.take_due(now, 1);
    assert_eq!(due, [(key("room"), What::Stats)]);
    assert!(watched.take_due(now, 1).0.is_empty(), "one read at a time");
    let end = |read| {
        let mut inner = watched.inner.lock();
        inner
            .channels
            .get_mut(&key("room"))
            .unwrap()
            .stats
            .end(read);
    };
    end(Some(PresenceStats::default()));
    let old = now + MAX_AGE - Duration::from_millis(1);
    assert!(watched.stats(&key("room"), old).is_ok());
    assert_eq!(watched.take_due(old, 1).0.len(), 1);
    end(None);
    assert_eq!(
        watched.stats(&key("room"), now + MAX_AGE),
        Err(NoView::Elsewhere)
    );
    let (due, next) = watched.take_due(now + MAX_AGE, 1);
    assert_eq!((due.len(), next), (0, Some(old + READ_EVERY)));
    assert_eq!(watched.take_due(old + READ_EVERY, 1).0.len(), 1);
}

fn key_of(app: &str, name: &str) -> ChannelKey {
    ChannelKey::new(&AppId::parse(app).unwrap(), name)
}

#[test]
fn an_app_that_asks_about_everything_shuts_no_other_out() {
    let (watched, now) = (Watched::default(), Instant::now());
    let ask = |app: &str, number: usize, now: Instant| {
        let key = key_of(app, &number.to_string());
        watched.members(&key, now).unwrap_err()
    };
    let later = now + Duration::from_secs(1);
    for app in ["a", "b", "c", "d"] {
        for number in 0..MAX_APP_CHANNELS {
            // The last one is asked about first.
            let at = if number == MAX_APP_CHANNELS - 1 {
                now
            } else {
                later
            };
            assert_eq!(ask(app, number, at), NoView::Elsewhere);
        }
        assert_eq!(ask(app, MAX_APP_CHANNELS, later), NoView::Busy);
    }
    // All places are taken, and a fifth app gets its part of them.
    let fair = MAX_CHANNELS / 5;
    for number in 0..fair {
        assert_eq!(ask("e", number, later), NoView::Elsewhere);
    }
    assert_eq!(ask("e", fair, later), NoView::Busy);
    let inner = watched.inner.lock();
    assert_eq!(inner.channels.len(), MAX_CHANNELS);
    for app in ["a", "b", "c", "d"] {
        assert_eq!(inner.num_channels(app), fair);
        let oldest = key_of(app, &(MAX_APP_CHANNELS - 1).to_string());
        assert!(
            !inner.channels.contains_key(&oldest),
            "asked about longest ago"
        );
    }
}

#[test]
fn bytes_are_bounded_for_an_app_and_in_all() {
    let (watched, now) = (Watched::default(), Instant::now());
    let large = |bytes: usize| {
        let member = Member {
            conn_info: vec![b'1'; bytes].into(),
            ..Member::clone(&ann())
        };
        Ok(Members {
            members: vec![Arc::new(member)],
            is_whole: true,
        })
    };
    let keep = |app: &str, number: usize, bytes: usize| {
        let key = key_of(app, &number.to_string());
        let _ = watched.members(&key, now);
        watched.take_due(now, MAX_CHANNELS);
        watched.keep(&key, large(bytes));
        watched.members(&key, now).map(|_| ())
    };
    assert_eq!(keep("a", 0, MAX_PAGE_BYTES), Err(NoView::TooLarge));
    let half = MAX_PAGE_BYTES / 2;
    let fitting = MAX_APP_BYTES / (half + Member::MIN_COST + "ann".len());
    for app in ["a", "b"] {
        let kept = (1..MAX_APP_CHANNELS).filter(|number| keep(app, *number, half).is_ok());
        assert_eq!(kept.count(), fitting.min(MAX_APP_CHANNELS - 1));
    }
    // Read again, it takes the place of what was read before.
    let used = watched.inner.lock().num_bytes;
    assert_eq!(keep("a", 1, half), Ok(()));
    assert_eq!(watched.inner.lock().num_bytes, used);
    // Who is not asked about any more makes room.
    watched.take_due(now + WATCHED_FOR, 0);
    let inner = watched.inner.lock();
    assert!(inner.num_bytes == 0 && inner.channels.is_empty() && inner.apps.is_empty());
}

#[test]
fn a_read_that_falls_is_made_again() {
    let (watched, now) = (Arc::new(Watched::default()), Instant::now());
    assert_eq!(watched.stats(&key("room"), now), Err(NoView::Elsewhere));
    let (mut due, _) = watched.take_due(now, 1);
    let (of, what) = due.remove(0);
    drop(Reading::new(&watched, of, what));
    assert_eq!(watched.take_due(now + READ_EVERY, 1).0.len(), 1);
    // And nobody asks any more: it is given up.
    let (of, what) = (key("room"), What::Stats);
    drop(Reading::new(&watched, of, what));
    watched.take_due(now + WATCHED_FOR, 1);
    assert!(watched.inner.lock().channels.is_empty());
}
