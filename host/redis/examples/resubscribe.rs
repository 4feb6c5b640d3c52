//! How long a node needs to hear everything again after its connection was lost.
//!
//! Starts a Redis of its own, listens to as many channels as are named (100,000), kills the connection and waits until
//! all are subscribed again: `cargo run -p tidegate-redis --example resubscribe -- 100000`.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for the developers of this crate"
)]

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tidegate_realtime::ids::{AppId, ChannelKey};
use tidegate_redis::{
    Keys, RedisConfig, Shards, Subscriptions, Topology,
    config::{Address, Login},
    pubsub::{Lapse, PubSubEvents, PubSubMetrics, SubscriptionParts},
};
use tidegate_test_redis::{RedisOptions, RedisServer};
use tokio::{sync::Notify, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Waits for the end of the lapse.
#[derive(Default)]
struct Ear(Notify);

impl PubSubEvents for Ear {
    fn on_payload(&self, _: &str, _: Bytes) {}

    fn on_lapse(&self, _: Lapse<'_>) {
        self.0.notify_one();
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let num_names = std::env::args()
        .nth(1)
        .map_or(100_000, |text| text.parse().unwrap());
    let server = RedisServer::start(&RedisOptions::default());
    let config = RedisConfig::new(Topology::Standalone {
        address: Address::new("127.0.0.1", server.port()),
        login: Login::default(),
    });
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let shards = Shards::start(&config, &tracker, &stop);
    let ear = Arc::new(Ear::default());
    let subscriptions = Subscriptions::start(SubscriptionParts {
        config: &config,
        shards: &shards,
        keys: Keys::new(config.prefix.clone()),
        node: "example",
        events: Arc::clone(&ear) as _,
        metrics: PubSubMetrics::default(),
        tracker: &tracker,
        stop: &stop,
    });
    let app = AppId::default_app();
    let keys: Vec<_> = (0..num_names)
        .map(|number| ChannelKey::new(&app, &format!("channel{number}")))
        .collect();
    let start = Instant::now();
    let asked: Vec<_> = keys
        .iter()
        .map(|key| subscriptions.subscribe(key))
        .collect();
    for subscribed in asked {
        subscribed.wait().await.unwrap();
    }
    println!("{num_names} subscribed in {:?}", start.elapsed());
    for _ in 0..3 {
        server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        let start = Instant::now();
        let back = tokio::time::timeout(Duration::from_secs(60), ear.0.notified());
        back.await.unwrap();
        println!("{num_names} subscribed again in {:?}", start.elapsed());
    }
    stop.cancel();
}
