//! Plugins that are told what happened: by whom, in which order, and how often.

mod taken;

use std::collections::{BTreeMap, VecDeque};

use tokio::sync::mpsc;

use super::*;
use crate::{
    events::{Event, EventKind, EventsMetrics, Observer},
    hooks::{Duties, EventsQuestion, Watch},
};

/// Plugins that tell a test what they were told, and fail as it says.
struct Observing {
    observers: Vec<Observer>,
    told: mpsc::Sender<(Arc<str>, Vec<Event>)>,
    fails: Box<dyn Fn(&EventsQuestion) -> bool + Send + Sync>,
    effects: Vec<Effect>,
}

impl Observing {
    fn new(observers: &[(&str, &[EventKind])]) -> (Self, Told) {
        let (tell, told) = mpsc::channel(1_000);
        let observers = observers.iter().map(|(plugin, kinds)| Observer {
            plugin: (*plugin).into(),
            kinds: kinds.iter().copied().collect(),
        });
        let observing = Self {
            observers: observers.collect(),
            told: tell,
            fails: Box::new(|_| false),
            effects: Vec::new(),
        };
        let told = Told {
            told,
            rest: VecDeque::new(),
        };
        (observing, told)
    }

    fn failing(self, fails: impl Fn(&EventsQuestion) -> bool + Send + Sync + 'static) -> Self {
        Self {
            fails: Box::new(fails),
            ..self
        }
    }
}

/// What was taken, one event after the other.
struct Told {
    told: mpsc::Receiver<(Arc<str>, Vec<Event>)>,
    rest: VecDeque<Event>,
}

impl Told {
    async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.rest.pop_front() {
                return event;
            }
            let batch = tokio::time::timeout(Duration::from_secs(3_600), self.told.recv());
            let (_, batch) = batch.await.unwrap().unwrap();
            self.rest.extend(batch);
        }
    }

    async fn kinds(&mut self, number: usize) -> Vec<EventKind> {
        let mut kinds = Vec::new();
        for _ in 0..number {
            kinds.push(self.next().await.kind);
        }
        kinds
    }
}

impl Hooks for Observing {
    fn authenticate(&self, question: AuthenticationQuestion) -> Answered<AuthenticationVerdict> {
        Scripted::default().authenticate(question)
    }

    fn events(&self, question: EventsQuestion) -> Answered<()> {
        assert!(!question.batch.is_empty());
        if (self.fails)(&question) {
            return Progress::Ready(Err(HookFailure::new("t-1".into())));
        }
        let _ = self.told.try_send((question.plugin, question.batch));
        Progress::Ready(Ok(Outcome {
            verdict: (),
            effects: self.effects.clone(),
        }))
    }

    fn watch_duties(&self, watch: Arc<dyn Watch>) {
        let duties = Duties {
            observers: self.observers.clone(),
            ..Duties::default()
        };
        watch.on_duties(&BTreeMap::from([(AppId::default_app(), duties)]));
    }
}

/// A world whose events are delivered.
fn world(hooks: Observing) -> World {
    delivering(World::new(hooks))
}

fn delivering(world: World) -> World {
    let running = crate::events::run(Arc::clone(&world.node), world.stop.clone());
    world.node.spawn(running);
    world
}

/// All that a session does; who is online is another matter.
const ALL: &[EventKind] = EventKind::ALL.split_at(7).0;

#[tokio::test(start_paused = true)]
async fn what_a_session_does_is_told_in_order_and_its_end_with_the_reason() {
    let (hooks, mut told) = Observing::new(&[("board", ALL)]);
    let world = world(hooks);
    let mut client = world.join().await;
    client
        .say(r#"{"id":2,"subscribe":{"channel":"room"}}"#)
        .await;
    client
        .say(r#"{"id":3,"publish":{"channel":"room","data":1}}"#)
        .await;
    client
        .say(r#"{"id":4,"unsubscribe":{"channel":"room"}}"#)
        .await;
    client
        .say(r#"{"id":5,"subscribe":{"channel":"kept:room"}}"#)
        .await;
    let id = client.driver.link().client();
    let app = AppId::default_app();
    let request = server_api::DisconnectRequest {
        user: "user".into(),
        ..server_api::DisconnectRequest::default()
    };
    world.node.disconnect(&app, request).wait().await.unwrap();
    assert!(matches!(client.signals(), Turn::Close(_)));
    drop(client);
    let mut events = Vec::new();
    while events.len() < 10 {
        let event = told.next().await;
        if event.kind != EventKind::Vacated && event.kind != EventKind::Occupied {
            assert_eq!(
                (&*event.user, event.client),
                ("user", Some(id)),
                "{event:?}"
            );
        }
        events.push((event.kind, event.channel.to_string(), event.code));
    }
    let (of_channels, of_session): (Vec<_>, Vec<_>) = events
        .into_iter()
        .partition(|(kind, ..)| matches!(kind, EventKind::Occupied | EventKind::Vacated));
    let expected = [
        (EventKind::Connected, "", 0),
        (EventKind::Subscribed, "room", 0),
        (EventKind::Published, "room", 0),
        (EventKind::Unsubscribed, "room", 0),
        (EventKind::Subscribed, "kept:room", 0),
        (EventKind::Unsubscribed, "kept:room", 1),
        (EventKind::Disconnected, "", 3503),
    ];
    let expected = expected.map(|(kind, channel, code)| (kind, channel.to_owned(), code));
    assert_eq!(of_session, expected);
    // A channel stays occupied for a second, so that who comes back at once leaves no trace.
    assert_eq!(of_channels.len(), 3, "{of_channels:?}");
    assert!(
        of_channels[..2]
            .iter()
            .all(|(kind, ..)| *kind == EventKind::Occupied)
    );
    assert_eq!(of_channels[2], (EventKind::Vacated, "room".to_owned(), 0));
}

#[tokio::test(start_paused = true)]
async fn a_plugin_that_comes_later_is_told_of_the_end_of_what_it_did_not_see_begin() {
    let (hooks, mut told) = Observing::new(&[]);
    let world = world(hooks);
    let mut client = world.join().await;
    client
        .say(r#"{"id":2,"subscribe":{"channel":"room"}}"#)
        .await;
    let kinds = [EventKind::Unsubscribed, EventKind::Disconnected];
    let observer = Observer {
        plugin: "late".into(),
        kinds: kinds.into_iter().collect(),
    };
    let observers = BTreeMap::from([(AppId::default_app(), vec![observer])]);
    world.node.events().replace_observers(&observers);
    drop(client);
    assert_eq!(told.kinds(2).await, kinds);
}

#[tokio::test(start_paused = true)]
async fn what_must_not_be_lost_is_told_again_under_its_id_and_news_is_not() {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&calls);
    let kinds = [EventKind::Connected, EventKind::Disconnected];
    let (hooks, mut told) = Observing::new(&[("board", &kinds)]);
    let hooks = hooks.failing(move |question| {
        let mut seen = seen.lock();
        seen.push(question.batch.clone());
        seen.len() <= 3
    });
    let world = world(hooks);
    drop(world.join().await);
    let event = told.next().await;
    assert_eq!(event.kind, EventKind::Disconnected);
    let calls = calls.lock();
    assert_eq!(calls.len(), 4);
    assert_eq!(calls[0].len(), 2);
    assert!(calls[1..].iter().all(|batch| batch[..] == [event.clone()]));
}

#[tokio::test(start_paused = true)]
async fn an_event_that_brings_its_plugin_down_takes_no_others_with_it_and_is_given_up() {
    let (hooks, mut told) = Observing::new(&[("board", &[EventKind::Offline])]);
    let is_poison = |event: &Event| &*event.user == "u13";
    let hooks = hooks.failing(move |question| question.batch.iter().any(is_poison));
    let world = world(hooks);
    let app = AppId::default_app();
    let mut users: Vec<String> = (0..100).map(|number| format!("u{number}")).collect();
    for user in &users {
        let event = Event::of_user(EventKind::Offline, user);
        world.node.events().offer(&app, event);
    }
    users.retain(|user| user != "u13");
    let mut seen = Vec::new();
    for _ in &users {
        seen.push(told.next().await.user.to_string());
    }
    assert_eq!(seen, users);
    // Given up, and the plugin goes on with what comes.
    let event = Event::of_user(EventKind::Offline, "later");
    world.node.events().offer(&app, event);
    assert_eq!(&*told.next().await.user, "later");
}

#[tokio::test(start_paused = true)]
async fn one_plugins_trouble_holds_up_no_other() {
    let kinds = [EventKind::Offline];
    let (hooks, mut told) = Observing::new(&[("broken", &kinds), ("well", &kinds)]);
    let hooks = hooks.failing(|question| &*question.plugin == "broken");
    let world = world(hooks);
    let app = AppId::default_app();
    for user in ["ann", "bob"] {
        let event = Event::of_user(EventKind::Offline, user);
        world.node.events().offer(&app, event);
        assert_eq!(&*told.next().await.user, user);
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_delivers_what_waits_and_does_not_wait_for_a_broken_plugin() {
    let kinds = [EventKind::Offline];
    let (hooks, mut told) = Observing::new(&[("broken", &kinds), ("well", &kinds)]);
    let hooks = hooks.failing(|question| &*question.plugin == "broken");
    let world = world(hooks);
    let event = Event::of_user(EventKind::Offline, "ann");
    world.node.events().offer(&AppId::default_app(), event);
    world.node.events().drain(Duration::from_millis(500)).await;
    let (plugin, _) = told.told.try_recv().unwrap();
    assert_eq!(&*plugin, "well");
}

#[tokio::test(start_paused = true)]
async fn a_plugin_that_publishes_what_it_is_told_of_ends_its_circle() {
    let (hooks, mut told) = Observing::new(&[("echo", &[EventKind::Published])]);
    let hooks = Observing {
        effects: vec![Effect::Publish {
            channel: "room".into(),
            data: Bytes::from_static(b"1"),
            version: 0,
        }],
        ..hooks
    };
    let world = world(hooks);
    world.publish("room", "0").await;
    let mut hops = Vec::new();
    for _ in 0..3 {
        hops.push(told.next().await.hops);
    }
    assert_eq!(hops, [0, 1, 2]);
    // The fourth would be refused; what comes next is another message.
    let refused = &world.node.metrics().hop_limit;
    while refused.get() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.publish("room", "0").await;
    assert_eq!(told.next().await.hops, 0);
}

#[tokio::test(start_paused = true)]
async fn what_another_node_can_tell_no_more_is_answered_for_and_tried_once() {
    let kinds = [EventKind::Disconnected];
    let (hooks, mut told) = Observing::new(&[("board", &kinds)]);
    let is_broken = Arc::new(Mutex::new(true));
    let breaks = Arc::clone(&is_broken);
    let hooks = hooks.failing(move |_| *breaks.lock());
    let world = world(hooks);
    let app = AppId::default_app();
    let left: Vec<_> = (0..300)
        .map(|_| Event::new(EventKind::Disconnected))
        .chain([Event::new(EventKind::Connected)])
        .collect();
    let deliver = || world.node.deliver_events(&app, left.clone()).wait();
    assert!(deliver().await.is_err());
    *is_broken.lock() = false;
    assert_eq!(deliver().await, Ok(()));
    for expected in &left[..300] {
        assert_eq!(told.next().await.id, expected.id);
    }
    assert!(told.told.try_recv().is_err(), "nobody wants the other kind");
}

#[test]
fn the_metrics_of_events_are_rendered_by_their_names() {
    let mut registry = prometheus_client::registry::Registry::default();
    EventsMetrics::default().register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for name in [
        "tidegate_events_queued 0",
        "tidegate_events_delivered_total 0",
        "tidegate_events_retries_total 0",
    ] {
        assert!(text.lines().any(|line| line == name), "{name} in {text}");
    }
}
