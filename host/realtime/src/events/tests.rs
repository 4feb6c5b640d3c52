//! Queues and their bounds; what is delivered is tested with sessions, in the driver's tests.

use std::sync::atomic::AtomicUsize;

use super::*;

fn observers(of: &[(&str, &[EventKind])]) -> BTreeMap<AppId, Vec<Observer>> {
    let of = of.iter().map(|(plugin, kinds)| Observer {
        plugin: (*plugin).into(),
        kinds: kinds.iter().copied().collect(),
    });
    BTreeMap::from([(AppId::default_app(), of.collect())])
}

fn observed(of: &[(&str, &[EventKind])]) -> (Arc<Events>, Arc<Desk>) {
    let events = Events::new(EventsMetrics::default());
    events.replace_observers(&observers(of));
    let desk = events.desk(&AppId::default_app());
    (events, desk)
}

/// Takes everything that waits for a plugin off its queue, as if it had been delivered.
fn take_all(desk: &Desk, plugin: &str) -> Vec<Event> {
    let posts = desk.posts.load();
    let post = posts.iter().find(|post| &*post.plugin == plugin).unwrap();
    let mut taken = Vec::new();
    while let Some(batch) = post.take() {
        assert!(batch.len() <= BATCH);
        taken.extend(batch.iter().map(|entry| entry.event.clone()));
        post.finish(&batch, &desk.shared.room);
    }
    taken
}

#[test]
fn i3_a_flood_of_news_is_dropped_at_its_bound_and_never_costs_the_word_that_somebody_left() {
    let (events, desk) = observed(&[("a", &[EventKind::Published, EventKind::Offline])]);
    let num_fitting = MAX_BYTES / Event::new(EventKind::Published).cost();
    for _ in 0..num_fitting + 100 {
        desk.offer(Event::new(EventKind::Published));
    }
    let metrics = &events.shared.metrics;
    assert_eq!(metrics.num_dropped(false, "full"), 100);
    desk.offer(Event::of_user(EventKind::Offline, "ann"));
    assert_eq!(metrics.num_dropped(true, "full"), 0);
    assert!(events.shared.room.used() <= MAX_KEPT_BYTES);
    let told = take_all(&desk, "a");
    assert_eq!(told.len(), num_fitting + 1);
    assert_eq!(told.last().unwrap().kind, EventKind::Offline);
    assert_eq!(events.shared.room.used(), 0);
}

#[test]
fn i3_what_is_kept_has_a_bound_too_and_what_is_beyond_is_counted() {
    let (events, desk) = observed(&[("a", &[EventKind::Offline])]);
    let large = "x".repeat(64 << 10);
    let num_fitting = MAX_KEPT_BYTES / Event::of_user(EventKind::Offline, &large).cost();
    for _ in 0..=num_fitting {
        desk.offer(Event::of_user(EventKind::Offline, &large));
    }
    assert_eq!(events.shared.metrics.num_dropped(true, "full"), 1);
    assert_eq!(events.num_queued(), num_fitting);
}

#[test]
fn each_plugin_is_told_what_it_wants_and_what_nobody_wants_costs_no_queue() {
    let (events, desk) = observed(&[
        ("a", &[EventKind::Connected]),
        ("b", &[EventKind::Connected, EventKind::Vacated]),
    ]);
    for kind in EventKind::ALL {
        assert_eq!(
            desk.wants(kind),
            matches!(kind, EventKind::Connected | EventKind::Vacated)
        );
        desk.offer(Event::new(kind));
    }
    assert_eq!(take_all(&desk, "a").len(), 1);
    assert_eq!(take_all(&desk, "b").len(), 2);
    // The plugins are unbound; what waits goes with them.
    desk.offer(Event::new(EventKind::Vacated));
    events.replace_observers(&BTreeMap::new());
    desk.offer(Event::new(EventKind::Connected));
    assert_eq!(events.num_queued(), 0);
    assert_eq!(events.shared.room.used(), 0);
    assert_eq!(events.shared.metrics.num_dropped(false, "unbound"), 1);
}

#[test]
fn what_follows_an_event_is_done_once_and_after_its_last_reader() {
    let (_, desk) = observed(&[("a", &[EventKind::Offline]), ("b", &[EventKind::Offline])]);
    let num_done = Arc::new(AtomicUsize::new(0));
    let then = || {
        let num_done = Arc::clone(&num_done);
        Box::new(move || {
            num_done.fetch_add(1, Ordering::Relaxed);
        })
    };
    desk.offer_then(Event::of_user(EventKind::Offline, "ann"), then());
    take_all(&desk, "a");
    assert_eq!(
        num_done.load(Ordering::Relaxed),
        0,
        "the other one is not told yet"
    );
    take_all(&desk, "b");
    assert_eq!(num_done.load(Ordering::Relaxed), 1);
    desk.offer_then(Event::new(EventKind::Connected), then());
    assert_eq!(
        num_done.load(Ordering::Relaxed),
        2,
        "nobody wants it, so nobody is waited for"
    );
}

#[test]
fn a_batch_holds_events_that_plugins_caused_equally_often() {
    let (_, desk) = observed(&[("a", &[EventKind::Published])]);
    for hops in [0, 0, 1, 0] {
        desk.offer(Event {
            hops,
            ..Event::new(EventKind::Published)
        });
    }
    let posts = desk.posts.load();
    let sizes: Vec<_> = std::iter::from_fn(|| posts[0].take())
        .map(|batch| batch.len())
        .collect();
    assert_eq!(sizes, [2, 1, 1]);
}

#[test]
fn ids_of_one_thing_are_one_and_of_others_are_others() {
    let client = ClientId::random();
    assert_eq!(
        EventId::of_disconnect(client),
        EventId::of_disconnect(client)
    );
    assert_ne!(
        EventId::of_disconnect(client),
        EventId::of_disconnect(ClientId::random())
    );
    assert_eq!(EventId::of(&["a", "b"]), EventId::of(&["a", "b"]));
    assert_ne!(EventId::of(&["a", "b"]), EventId::of(&["ab", ""]));
    assert_eq!(EventId::of(&[]).to_string().len(), 32);
}
