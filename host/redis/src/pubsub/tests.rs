//! Subscriptions to real servers: what is heard, and what is told when it may not have been.

mod faults;
mod topologies;

use std::time::Duration;

use tidegate_realtime::ids::AppId;
use tidegate_test_redis::{RedisOptions, RedisServer};

use super::*;
use crate::{
    config::{Login, Topology},
    keys::Prefix,
};

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// Remembers what was heard.
#[derive(Default)]
struct Ear {
    heard: Mutex<Vec<(String, Bytes)>>,
    /// Names, or `*`.
    lapses: Mutex<Vec<String>>,
    changed: Notify,
}

impl PubSubEvents for Ear {
    fn on_payload(&self, name: &str, payload: Bytes) {
        self.heard.lock().push((name.to_owned(), payload));
        self.changed.notify_waiters();
    }

    fn on_lapse(&self, lapse: Lapse<'_>) {
        self.lapses.lock().push(match lapse {
            Lapse::Name(name) => name.to_owned(),
            Lapse::Everything => "*".to_owned(),
        });
        self.changed.notify_waiters();
    }
}

/// The receiving side of a node.
struct World {
    subscriptions: Subscriptions,
    shards: Shards,
    keys: Keys,
    ear: Arc<Ear>,
    metrics: PubSubMetrics,
    stop: CancellationToken,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn on_port(port: u16, login: Login) -> Topology {
    let address = Address::new("127.0.0.1", port);
    Topology::Standalone { address, login }
}

impl World {
    fn start(topology: Topology) -> Self {
        let ear = Arc::new(Ear::default());
        Self::start_with(topology, Arc::clone(&ear) as _, ear)
    }

    /// Its own ear hears nothing.
    fn with_events(port: u16, events: Arc<dyn PubSubEvents>) -> Self {
        let topology = on_port(port, Login::default());
        Self::start_with(topology, events, Arc::default())
    }

    fn start_with(topology: Topology, events: Arc<dyn PubSubEvents>, ear: Arc<Ear>) -> Self {
        let config = RedisConfig::new(topology);
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let shards = Shards::start(&config, &tracker, &stop);
        let keys = Keys::new(Prefix::default());
        let metrics = PubSubMetrics::default();
        let subscriptions = Subscriptions::start(SubscriptionParts {
            config: &config,
            shards: &shards,
            keys: keys.clone(),
            node: "test",
            events,
            metrics: metrics.clone(),
            tracker: &tracker,
            stop: &stop,
        });
        Self {
            subscriptions,
            shards,
            keys,
            ear,
            metrics,
            stop,
        }
    }

    fn on(port: u16) -> Self {
        Self::start(on_port(port, Login::default()))
    }

    async fn subscribe(&self, name: &str) -> ChannelKey {
        let key = key(name);
        let subscribed = self.subscriptions.subscribe(&key).wait().await;
        assert_eq!(subscribed, Ok(()), "{name}");
        key
    }

    async fn subscribe_all(&self, num_names: usize) -> Vec<ChannelKey> {
        let keys: Vec<_> = (0..num_names).map(|n| key(&format!("n{n}"))).collect();
        let asked: Vec<_> = keys
            .iter()
            .map(|key| self.subscriptions.subscribe(key))
            .collect();
        for subscribed in asked {
            assert_eq!(subscribed.wait().await, Ok(()));
        }
        keys
    }

    /// Publishes over the path of commands, until that works.
    async fn publish(&self, channel: &ChannelKey, payload: &str) {
        let name = self.keys.channel(channel);
        let pipe = self.shards.of(channel);
        let verb = if pipe.is_cluster() {
            "SPUBLISH"
        } else {
            "PUBLISH"
        };
        let mut command = redis::cmd(verb);
        command.arg(&name).arg(payload);
        let publishing = async {
            let route = crate::commands::Route::Key(&name);
            while pipe.run(&command, route).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        let published = tokio::time::timeout(PATIENCE, publishing).await;
        published.expect("Redis is back");
    }

    /// The payloads heard on a channel so far.
    fn heard(&self, channel: &ChannelKey) -> Vec<String> {
        let name = self.keys.channel(channel);
        let heard = self.ear.heard.lock();
        let of_name = heard.iter().filter(|(heard, _)| *heard == name);
        of_name
            .map(|(_, payload)| String::from_utf8_lossy(payload).into_owned())
            .collect()
    }

    /// Whether everything came into doubt: once, or more often on a machine that stalls.
    fn all_lapsed(&self) -> bool {
        self.lapses().iter().any(|lapse| lapse == "*")
    }

    fn lapses(&self) -> Vec<String> {
        self.ear.lapses.lock().clone()
    }

    /// Waits until it holds; looked at whenever something was heard, and now and then.
    async fn until(&self, what: &str, mut is_it: impl FnMut() -> bool) {
        let waiting = async {
            loop {
                let changed = self.ear.changed.notified();
                if is_it() {
                    return;
                }
                let _ = tokio::time::timeout(Duration::from_millis(50), changed).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(waited.is_ok(), "{what}: {:?}", self.lapses());
    }

    async fn until_healthy(&self) {
        self.until("delivery", || self.lines_deliver()).await;
    }

    /// The same of all lines but those to these ports.
    async fn until_healthy_but(&self, ports: &[u16]) {
        let deliver = || {
            let lines = self.subscriptions.shards[0].lines.lock();
            let mut others = lines.values().filter(|line| {
                let address = line.address.as_ref();
                !address.is_some_and(|address| ports.contains(&address.port))
            });
            others.all(|line| line.delivers())
        };
        self.until("delivery", deliver).await;
    }

    /// Whether every line has had a probe back since it last was in doubt.
    fn lines_deliver(&self) -> bool {
        let mut shards = self.subscriptions.shards.iter();
        shards.all(|shard| {
            let lines = shard.lines.lock();
            !lines.is_empty() && lines.values().all(|line| line.delivers())
        })
    }
}

fn key(name: &str) -> ChannelKey {
    ChannelKey::new(&AppId::default_app(), name)
}

fn standalone() -> RedisServer {
    RedisServer::start(&RedisOptions::default())
}

/// The pub/sub channels that the server knows subscribers of, without the probes'.
fn num_channels(server: &RedisServer) -> usize {
    let channels = server.command(&["PUBSUB", "CHANNELS", "tg:client:*"]);
    channels.list().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_heard_in_order_from_the_answer_to_the_subscribe_on() {
    let server = standalone();
    let world = World::on(server.port());
    let (a, b) = (world.subscribe("a").await, world.subscribe("b").await);
    let mut publisher = server.connect().unwrap();
    let names = [world.keys.channel(&a), world.keys.channel(&b)];
    for number in 0..2_000 {
        let name = &names[number % 2];
        let payload = number.to_string();
        publisher.call(&["PUBLISH", name, &payload]).unwrap();
    }
    world
        .until("messages", || world.heard(&b).len() == 1_000)
        .await;
    let even: Vec<_> = (0..2_000).step_by(2).map(|n: u32| n.to_string()).collect();
    assert_eq!(world.heard(&a), even);
    assert!(world.lapses().is_empty(), "{:?}", world.lapses());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_wants_any_more_is_unsubscribed_and_forgotten() {
    let server = standalone();
    let world = World::on(server.port());
    let keys = world.subscribe_all(3_000).await;
    assert_eq!(num_channels(&server), 3_000);
    for key in &keys[1..] {
        world.subscriptions.unsubscribe(key);
    }
    world
        .until("the others", || world.subscriptions.num_names() == 1)
        .await;
    assert_eq!(num_channels(&server), 1);
    // Given up and wanted again, many times over.
    for _ in 0..100 {
        world.subscriptions.unsubscribe(&keys[0]);
        let subscribed = world.subscriptions.subscribe(&keys[0]).wait().await;
        assert_eq!(subscribed, Ok(()));
        world.publish(&keys[0], "x").await;
    }
    world
        .until("all", || world.heard(&keys[0]).len() == 100)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_payloads_and_names_are_handed_on_or_left_alone() {
    let server = standalone();
    let world = World::on(server.port());
    let a = world.subscribe("a").await;
    let name = world.keys.channel(&a);
    let mut publisher = server.connect().unwrap();
    let large = vec![b'x'; 4 * 1024 * 1024];
    for payload in [&b""[..], b"\r\n$-1\r\n*3\r\n", &large, b"\xff\xfe"] {
        publisher
            .call(&[b"PUBLISH", name.as_bytes(), payload])
            .unwrap();
    }
    world.until("all", || world.heard(&a).len() == 4).await;
    let heard = world.ear.heard.lock();
    assert_eq!(heard[1].1, &b"\r\n$-1\r\n*3\r\n"[..]);
    assert_eq!(heard[2].1.len(), large.len());
}
