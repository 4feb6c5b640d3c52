//! One server, and what can happen to it and on the way to it.

use tidegate_faults::proxy::{Mode, Proxy};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f12_a_killed_connection_is_made_anew_and_told_when_all_is_subscribed_again() {
    let server = standalone();
    let world = World::on(server.port());
    let keys = world.subscribe_all(5_000).await;
    for round in 1..=3 {
        let before = world.lapses().len();
        server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        world
            .until("the lapse", || world.lapses().len() > before)
            .await;
        assert_eq!(num_channels(&server), 5_000, "told afterwards");
        world.publish(&keys[4_999], "again").await;
        let last = || world.heard(&keys[4_999]).len() == round;
        world.until("a message", last).await;
    }
    // One for each, or more on a machine that stalls.
    let lapses = world.lapses();
    assert!(lapses.iter().all(|lapse| lapse == "*"), "{lapses:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f3_a_server_that_comes_back_is_heard_again() {
    let mut server = standalone();
    let world = World::on(server.port());
    let a = world.subscribe("a").await;
    server.kill();
    let late = world.subscriptions.subscribe(&key("late")).wait().await;
    assert_eq!(late, Err(BrokerError::Unavailable), "within five seconds");
    server.restart();
    world.until("the lapse", || world.all_lapsed()).await;
    world.publish(&a, "again").await;
    world
        .until("a message", || !world.heard(&a).is_empty())
        .await;
    // What was asked for meanwhile, and not given up, is there too.
    world.publish(&key("late"), "late").await;
    let is_late = || !world.heard(&key("late")).is_empty();
    world.until("the late one", is_late).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i9_a_node_that_hears_nothing_says_so_and_hears_again_by_itself() {
    let server = standalone();
    let world = World::on(server.port());
    let a = world.subscribe("a").await;
    world.until_healthy().await;
    assert_eq!(world.subscriptions.health(), EngineHealth::Able);
    server.pause();
    let is_unable = || world.subscriptions.health() != EngineHealth::Able;
    world.until("the truth", is_unable).await;
    server.resume();
    world.until_healthy().await;
    assert_eq!(world.subscriptions.health(), EngineHealth::Able);
    // One or more: a connection of the pause may be taken up and given up again.
    world
        .until("the lapse", || !world.lapses().is_empty())
        .await;
    world.publish(&a, "again").await;
    world
        .until("a message", || !world.heard(&a).is_empty())
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f6_a_connection_that_only_stopped_delivering_is_found_by_the_probe() {
    let server = standalone();
    let proxy = Proxy::to_port(server.port()).await.unwrap();
    let world = World::on(proxy.addr().port());
    let a = world.subscribe("a").await;
    world.until_healthy().await;
    let accepted = proxy.accepted();
    proxy.set(Mode::StallSubscribers);
    // Commands pass, and so this is lost to us.
    world.publish(&a, "unheard").await;
    let is_unable = || world.subscriptions.health() != EngineHealth::Able;
    world.until("the truth", is_unable).await;
    assert!(proxy.accepted() > accepted, "and it has tried again");
    proxy.set(Mode::Pass);
    world
        .until("the lapse", || !world.lapses().is_empty())
        .await;
    world.until_healthy().await;
    world.publish(&a, "heard").await;
    let is_heard = || world.heard(&a).contains(&"heard".to_owned());
    world.until("a message", is_heard).await;
    assert_eq!(world.subscriptions.health(), EngineHealth::Able);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_may_not_subscribe_is_refused_and_hears_when_it_may() {
    let server = RedisServer::start(&RedisOptions {
        acl: vec![
            "user default on nopass ~* &* +@all".into(),
            "user node on >secret ~tg:* resetchannels &tg:probe:* +@all".into(),
        ],
        ..RedisOptions::default()
    });
    let login = |password: &str| Login {
        user: "node".into(),
        password: password.into(),
        ..Login::default()
    };
    let topology = |password| on_port(server.port(), login(password));
    let stranger = World::start(topology("wrong"));
    let refused = stranger.subscriptions.subscribe(&key("a")).wait().await;
    assert_eq!(refused, Err(BrokerError::Unavailable));
    let world = World::start(topology("secret"));
    let refused = world.subscriptions.subscribe(&key("a")).wait().await;
    assert_eq!(refused, Err(BrokerError::Unavailable));
    assert_eq!(world.metrics.refused.get(), 1);
    server.command(&["ACL", "SETUSER", "node", "&tg:*"]);
    server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    world.until("both", || num_channels(&server) == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_talks_nonsense_is_left_and_tried_again() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let world = World::on(listener.local_addr().unwrap().port());
    let health = world.subscriptions.health();
    assert_ne!(health, EngineHealth::Able, "nothing was ever heard");
    for _ in 0..6 {
        let accepted = tokio::time::timeout(PATIENCE, listener.accept()).await;
        let (mut socket, _) = accepted.expect("it tries again").unwrap();
        let said = b"HTTP/1.1 400 Bad Request\r\n\r\n";
        // Who has gone already does not hear it.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut socket, said).await;
    }
    assert_eq!(world.subscriptions.num_names(), 0);
}

/// Publishes one more for each that it hears: there is always something to read.
struct Flood {
    publisher: Mutex<tidegate_test_redis::Connection>,
    name: String,
    num_heard: AtomicU64,
    changed: Notify,
    stop: CancellationToken,
}

impl PubSubEvents for Flood {
    fn on_payload(&self, name: &str, payload: Bytes) {
        self.num_heard.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_waiters();
        if name == self.name && !self.stop.is_cancelled() {
            let mut publisher = self.publisher.lock();
            let message = [&b"PUBLISH"[..], name.as_bytes(), &payload];
            let _ = publisher.call(&message);
        }
    }

    fn on_lapse(&self, _: Lapse<'_>) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r4_a_flood_keeps_neither_subscriptions_nor_the_probe_from_the_server() {
    let server = standalone();
    let flooded = key("flooded");
    let keys = Keys::new(Prefix::default());
    let flood = Arc::new(Flood {
        publisher: Mutex::new(server.connect().unwrap()),
        name: keys.channel(&flooded),
        num_heard: AtomicU64::new(0),
        changed: Notify::new(),
        stop: CancellationToken::new(),
    });
    let _ends = flood.stop.clone().drop_guard();
    let world = World::with_events(server.port(), Arc::clone(&flood) as _);
    world.subscribe("flooded").await;
    let mut publisher = server.connect().unwrap();
    // More than is read at once, and less than Redis keeps for a subscriber.
    let payload = vec![b'x'; 64 * 1024];
    for _ in 0..64 {
        let message = [&b"PUBLISH"[..], flood.name.as_bytes(), &payload];
        publisher.call(&message).unwrap();
    }
    let answered = || {
        let label = metrics::ProbeLabel {
            outcome: metrics::ProbeOutcome::answered,
        };
        world.metrics.probes.get_or_create(&label).get()
    };
    let num_probes = answered();
    for n in 0..100 {
        world.subscribe(&format!("n{n}")).await;
    }
    world.until("a probe", || answered() > num_probes).await;
    assert!(flood.num_heard.load(Ordering::Relaxed) > 64);
    let lost = metrics::ProbeLabel {
        outcome: metrics::ProbeOutcome::lost,
    };
    assert_eq!(world.metrics.probes.get_or_create(&lost).get(), 0);
}

/// Falls over the first payload.
#[derive(Default)]
struct Fragile {
    has_fallen: AtomicBool,
    ear: Arc<Ear>,
}

impl PubSubEvents for Fragile {
    fn on_payload(&self, name: &str, payload: Bytes) {
        assert!(self.has_fallen.swap(true, Ordering::Relaxed), "falls once");
        self.ear.on_payload(name, payload);
    }

    fn on_lapse(&self, lapse: Lapse<'_>) {
        self.ear.on_lapse(lapse);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i9_a_line_whose_task_falls_is_kept_again_and_tells_the_doubt() {
    let server = standalone();
    let fragile = Arc::new(Fragile::default());
    let mut world = World::with_events(server.port(), Arc::clone(&fragile) as _);
    world.ear = Arc::clone(&fragile.ear);
    let a = world.subscribe("a").await;
    world.publish(&a, "poison").await;
    world.until("the lapse", || world.all_lapsed()).await;
    world.publish(&a, "again").await;
    world
        .until("a message", || world.heard(&a) == ["again"])
        .await;
    world.until_healthy().await;
    assert_eq!(world.metrics.connections.get(), 1, "not counted twice");
}
