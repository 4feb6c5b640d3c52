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

/// Bytes that all queues take.
fn used(events: &Events) -> usize {
    events.shared.num_bytes.load(Ordering::Relaxed)
}

fn status(kind: EventKind, user: &str) -> Event {
    Event::of_user(kind, user)
}

/// Takes everything that waits for a plugin off its queue, as if it had been delivered.
fn take_all(desk: &Desk, plugin: &str) -> Vec<Event> {
    let posts = desk.posts.load();
    let post = posts.iter().find(|post| &*post.plugin == plugin).unwrap();
    let mut taken = Vec::new();
    while let Some(batch) = post.take() {
        assert!(batch.len() <= BATCH);
        taken.extend(batch.iter().map(|entry| entry.event.clone()));
        desk.shared.metrics.taken(batch.len());
        post.finish(&batch);
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
    assert!(used(&events) <= MAX_BYTES + 1_000);
    let told = take_all(&desk, "a");
    assert_eq!(told.len(), num_fitting + 1);
    assert_eq!(told.last().unwrap().kind, EventKind::Offline);
    assert_eq!(used(&events), 0);
}

#[test]
fn i3_what_is_kept_has_a_bound_too_and_what_is_beyond_is_counted() {
    let (events, desk) = observed(&[("a", &[EventKind::Offline])]);
    let large = |number: usize| format!("{number:0>65535}");
    let num_fitting = MAX_KEPT_BYTES / status(EventKind::Offline, &large(0)).cost();
    for number in 0..=num_fitting {
        desk.offer(status(EventKind::Offline, &large(number)));
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
    assert_eq!(used(&events), 0);
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

/// Says what became of it.
struct Noted(Arc<Mutex<Vec<&'static str>>>, &'static str);

impl Drop for Noted {
    fn drop(&mut self) {
        self.0.lock().push(self.1);
    }
}

#[test]
fn i3_what_plugins_leave_lying_costs_no_other_app_and_no_other_plugin_the_word_that_somebody_left()
{
    let events = Events::new(EventsMetrics::default());
    let apps = ["a", "b", "c", "d", "well"].map(|app| AppId::parse(app).unwrap());
    let observers = |app: &AppId| {
        let of_app = observers(&[
            ("one", &[EventKind::Disconnected]),
            ("two", &[EventKind::Offline]),
        ]);
        (app.clone(), of_app.into_values().flatten().collect())
    };
    events.replace_observers(&apps.iter().map(observers).collect());
    let large = "x".repeat(64 << 10);
    let dropped = || events.shared.metrics.num_dropped(true, "full");
    for app in &apps[..4] {
        let before = dropped();
        while dropped() == before {
            events.offer(app, status(EventKind::Disconnected, &large));
        }
        assert!(used(&events) <= MAX_NODE_BYTES);
    }
    assert!(
        used(&events) > MAX_NODE_BYTES - 4 * large.len() - (1 << 20),
        "all are full"
    );
    let before = dropped();
    for number in 0..1_000 {
        // Another plugin of an app that is stuck, and another app.
        for app in [&apps[0], &apps[4]] {
            events.offer(app, status(EventKind::Offline, &number.to_string()));
        }
    }
    assert_eq!(dropped(), before);
    assert_eq!(take_all(&events.desk(&apps[4]), "two").len(), 1_000);
}

#[test]
fn what_is_to_follow_an_event_that_found_no_room_is_left_undone_so_that_it_is_offered_again() {
    let (events, desk) = observed(&[
        ("a", &[EventKind::Disconnected]),
        ("b", &[EventKind::Disconnected]),
    ]);
    let large = "x".repeat(64 << 10);
    let metrics = &events.shared.metrics;
    while metrics.num_dropped(true, "full") == 0 {
        desk.offer(status(EventKind::Disconnected, &large));
    }
    let before = metrics.num_dropped(true, "full");
    let ends = Arc::new(Mutex::new(Vec::new()));
    let offer = |name| {
        let noted = Noted(Arc::clone(&ends), name);
        let then = move || {
            noted.0.lock().push("told");
        };
        desk.offer_then(status(EventKind::Disconnected, &large), Box::new(then));
    };
    offer("first");
    assert_eq!(*ends.lock(), ["first"], "undone");
    assert!(metrics.deferred.get() > 0);
    assert_eq!(metrics.num_dropped(true, "full"), before, "it is not lost");
    for plugin in ["a", "b"] {
        take_all(&desk, plugin);
    }
    ends.lock().clear();
    offer("second");
    assert!(ends.lock().is_empty());
    take_all(&desk, "a");
    take_all(&desk, "b");
    assert_eq!(*ends.lock(), ["told", "second"]);
    assert_eq!(used(&events), 0);
}

#[test]
fn of_the_words_about_a_user_the_last_one_waits() {
    let (online, offline) = (EventKind::Online, EventKind::Offline);
    let (events, desk) = observed(&[("a", &[online, offline, EventKind::Connected])]);
    let ends = Arc::new(Mutex::new(Vec::new()));
    desk.offer(status(online, "ann"));
    desk.offer(status(online, "bob"));
    desk.offer(status(EventKind::Connected, "ann"));
    let noted = Noted(Arc::clone(&ends), "struck");
    desk.offer_then(status(offline, "ann"), Box::new(move || drop(noted)));
    desk.offer(status(online, "ann"));
    assert_eq!(
        *ends.lock(),
        ["struck"],
        "she is back: there is nothing more to tell"
    );
    desk.offer(status(offline, "bob"));
    assert_eq!(events.num_queued(), 3);
    let told = take_all(&desk, "a").into_iter();
    let told: Vec<_> = told
        .map(|event| (event.kind, event.user.to_string()))
        .collect();
    let of = |kind, user: &str| (kind, user.to_owned());
    let expected = [
        of(EventKind::Connected, "ann"),
        of(online, "ann"),
        of(offline, "bob"),
    ];
    assert_eq!(told, expected);
    // However often somebody comes and goes while a plugin does not answer.
    for _ in 0..10_000 {
        desk.offer(status(online, "ann"));
        desk.offer(status(offline, "ann"));
    }
    desk.offer(status(online, "bob"));
    assert!(desk.posts.load()[0].num_places() < 3_000);
    let told = take_all(&desk, "a").into_iter();
    let told: Vec<_> = told
        .map(|event| (event.kind, event.user.to_string()))
        .collect();
    assert_eq!(told, [of(offline, "ann"), of(online, "bob")]);
    assert_eq!((used(&events), events.shared.metrics.queued.get()), (0, 0));
}

#[test]
fn what_waits_for_a_plugin_that_is_unbound_is_counted_by_its_class() {
    let (events, desk) = observed(&[("a", &[EventKind::Offline, EventKind::Connected])]);
    desk.offer(status(EventKind::Offline, "ann"));
    desk.offer(status(EventKind::Connected, "ann"));
    desk.offer(status(EventKind::Connected, "ann"));
    events.replace_observers(&BTreeMap::new());
    let metrics = &events.shared.metrics;
    assert_eq!(metrics.num_dropped(true, "unbound"), 1);
    assert_eq!(metrics.num_dropped(false, "unbound"), 2);
    assert_eq!((used(&events), metrics.queued.get()), (0, 0));
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
