//! What counts as taken: a call that succeeded, and with it the messages that the plugin made.

use super::*;
use crate::{
    broker::{HistoryLimit, HistoryOrder, HistoryQuery},
    events::Untold,
    hooks::{NoHooks, ready},
    ids::ChannelKey,
    metrics::ReasonLabel,
};

/// A plugin that publishes something for each batch, and a filter before that which fails as long as it is told to.
struct Publishing {
    observing: Observing,
    is_away: Arc<Mutex<bool>>,
}

impl Hooks for Publishing {
    fn filter(&self, draft: Box<Draft>) -> Answered<FilteringVerdict> {
        if *self.is_away.lock() {
            return Progress::Ready(Err(HookFailure::overload("t-2".into())));
        }
        ready(FilteringVerdict::Pass(draft))
    }

    fn events(&self, question: EventsQuestion) -> Answered<()> {
        self.observing.events(question)
    }

    fn watch_duties(&self, watch: Arc<dyn Watch>) {
        self.observing.watch_duties(watch);
    }
}

fn publishing(channel: &str) -> (Publishing, Told) {
    let (observing, told) =
        Observing::new(&[("board", &[EventKind::Offline, EventKind::Connected])]);
    let effects = vec![Effect::Publish {
        channel: channel.into(),
        data: Bytes::from_static(b"1"),
        version: 0,
    }];
    let hooks = Publishing {
        observing: Observing {
            effects,
            ..observing
        },
        is_away: Arc::default(),
    };
    (hooks, told)
}

fn failed(world: &World, reason: &'static str) -> u64 {
    let failed = &world.node.metrics().effects_failed;
    failed.get_or_create(&ReasonLabel { reason }).get()
}

fn offer(world: &World, kind: EventKind, user: &str) {
    let app = AppId::default_app();
    world.node.events().offer(&app, Event::of_user(kind, user));
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_published_of_an_event_is_not_taken_until_it_can() {
    let (hooks, mut told) = publishing("room");
    let is_away = Arc::clone(&hooks.is_away);
    *is_away.lock() = true;
    let world = delivering(World::new(hooks));
    let struck = Arc::new(Mutex::new(false));
    let strike = Arc::clone(&struck);
    let event = Event::of_user(EventKind::Offline, "ann");
    let then = move || *strike.lock() = true;
    let app = AppId::default_app();
    world.node.events().offer_then(&app, event, Box::new(then));
    offer(&world, EventKind::Connected, "bob");
    // The plugin is called again and again, and news is told once.
    let first = told.next().await;
    assert_eq!(told.next().await.kind, EventKind::Connected);
    let again = told.next().await;
    assert_eq!((again.kind, again.id), (EventKind::Offline, first.id));
    assert!(failed(&world, "unavailable") >= 2);
    assert!(!*struck.lock(), "a survivor has to find it");
    *is_away.lock() = false;
    assert_eq!(told.next().await.id, first.id);
    let events = Arc::clone(world.node.events());
    while events.num_queued() > 0 || !*struck.lock() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(told.told.try_recv().is_err(), "it is over");
}

#[tokio::test(start_paused = true)]
async fn of_messages_that_say_what_something_is_the_newest_stays_whatever_comes_late() {
    let world = World::new(NoHooks);
    let app = world.node.app(&AppId::default_app()).unwrap();
    let words = [20, 10, 20, 21, 0].map(|version: u64| Effect::Publish {
        channel: "kept:ann".into(),
        data: version.to_string().into(),
        version,
    });
    let told = crate::publish::run_effects(&world.node, &app, words.into(), 0);
    told.wait().await;
    let key = ChannelKey::new(&AppId::default_app(), "kept:ann");
    let query = HistoryQuery {
        limit: HistoryLimit::AtMost(10),
        since: None,
        order: HistoryOrder::OldestFirst,
        meta_ttl: Duration::from_secs(60),
    };
    let page = world.node.broker().history(&key, query).wait().await;
    let said = page.unwrap().publications;
    let said: Vec<_> = said
        .iter()
        .map(|one| one.data.as_bytes().to_vec())
        .collect();
    assert_eq!(said, [&b"20"[..], b"21", b"0"]);
}

#[tokio::test(start_paused = true)]
async fn what_no_channel_takes_is_counted_and_not_told_again() {
    let (hooks, mut told) = publishing("nowhere:room");
    let world = delivering(World::new(hooks));
    offer(&world, EventKind::Offline, "ann");
    assert_eq!(&*told.next().await.user, "ann");
    offer(&world, EventKind::Offline, "bob");
    assert_eq!(&*told.next().await.user, "bob");
    assert_eq!(
        (failed(&world, "refused"), failed(&world, "unavailable")),
        (2, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn somebody_who_came_is_told_of_again_too() {
    let is_broken = Arc::new(Mutex::new(true));
    let breaks = Arc::clone(&is_broken);
    let (hooks, mut told) = Observing::new(&[("board", &[EventKind::Online])]);
    let hooks = hooks.failing(move |_| std::mem::take(&mut *breaks.lock()));
    let world = world(hooks);
    offer(&world, EventKind::Online, "ann");
    assert_eq!(&*told.next().await.user, "ann");
    assert!(!*is_broken.lock());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_falls_is_one_that_failed() {
    let falls = Arc::new(Mutex::new(true));
    let fall = Arc::clone(&falls);
    let (hooks, mut told) = Observing::new(&[("board", &[EventKind::Offline])]);
    let hooks = hooks.failing(move |_| {
        assert!(
            !std::mem::take(&mut *fall.lock()),
            "a test has the call fall"
        );
        false
    });
    let world = world(hooks);
    offer(&world, EventKind::Offline, "ann");
    assert_eq!(&*told.next().await.user, "ann");
    offer(&world, EventKind::Offline, "bob");
    assert_eq!(&*told.next().await.user, "bob");
}

#[tokio::test(start_paused = true)]
async fn who_has_taken_what_another_node_can_tell_no_more_is_not_told_of_it_again() {
    let kinds = [EventKind::Disconnected];
    let is_broken = Arc::new(Mutex::new(true));
    let breaks = Arc::clone(&is_broken);
    let (hooks, mut told) = Observing::new(&[("broken", &kinds), ("well", &kinds)]);
    let hooks = hooks.failing(move |question| &*question.plugin == "broken" && *breaks.lock());
    let world = world(hooks);
    let app = AppId::default_app();
    let left: Vec<_> = (0..40)
        .map(|_| Event::new(EventKind::Disconnected))
        .collect();
    let deliver = || world.node.deliver_events(&app, left.clone()).wait();
    for _ in 0..3 {
        assert!(matches!(deliver().await, Err(Untold::Plugin(_))));
    }
    *is_broken.lock() = false;
    assert_eq!(deliver().await, Ok(()));
    let mut taken = BTreeMap::<_, Vec<_>>::new();
    while let Ok((plugin, batch)) = told.told.try_recv() {
        taken.entry(plugin).or_default().extend(batch);
    }
    assert_eq!(taken.len(), 2);
    for (plugin, batch) in &taken {
        assert_eq!(*batch, left, "once, in order, for {plugin}");
    }
    // All have taken them: whoever asks again has a reason.
    assert_eq!(deliver().await, Ok(()));
    assert!(told.told.try_recv().is_ok());
}
