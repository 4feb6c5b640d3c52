//! What a publish with history costs through a real Redis: our CPU, that of Redis, publishes a second.
//!
//! A program rather than a criterion bench, since the costs of two processes are asked for at a given number in flight.
//! `cargo bench -p tidegate-redis --bench publish -- [seconds] [in flight]` starts a `redis-server` of its own (it has
//! to be on the PATH), publishes messages of 100 bytes to 1,000 channels with a history of 100, and has one subscriber
//! of Redis hear them all, as one other node would; and with `publish.ack = "replicated"` and a replica.

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::registry::Registry;
use rustix::time::{ClockId, clock_gettime};
use tidegate_protocol::{Publication, Raw, StreamPosition};
use tidegate_realtime::{
    broker::{Broker, BrokerEvents, Doubt, HistoryOptions, JoinLeave, PublishRequest},
    ids::{AppId, ChannelKey},
};
use tidegate_redis::{
    EngineParts, RedisConfig, RedisEngine, Topology,
    config::{Ack, Address, Login},
};
use tidegate_test_redis::{RedisOptions, RedisServer};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const CHANNELS: usize = 1_000;
const DATA: &str = r#"{"input":"a message of ordinary length, a hundred bytes or so, as they are in chats and feeds."}"#;

/// Counts what is heard.
#[derive(Default)]
struct Counter(AtomicU64);

impl BrokerEvents for Counter {
    fn on_publication(&self, _: &ChannelKey, _: &Arc<Publication>, _: Option<&StreamPosition>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn on_join_leave(&self, _: &ChannelKey, _: &JoinLeave) {}

    fn is_followed(&self, _: &ChannelKey) -> bool {
        true
    }

    fn on_doubt(&self, _: Doubt<'_>) {}
}

#[tokio::main(worker_threads = 2)]
#[expect(clippy::print_stdout, reason = "figures are this program's answer")]
async fn main() -> ExitCode {
    // Cargo adds `--bench`.
    let numbers = std::env::args()
        .skip(1)
        .filter_map(|word| word.parse().ok());
    let numbers: Vec<u64> = numbers.collect();
    let run = Run {
        time: Duration::from_secs(numbers.first().copied().unwrap_or(5)),
        in_flight: numbers.get(1).copied().unwrap_or(128),
    };
    println!("| to whom | publishes/s | our CPU, us | CPU of Redis, us |");
    println!("| --- | --- | --- | --- |");
    let server = RedisServer::start(&RedisOptions::default());
    let mut replica = None;
    for (name, to) in [
        ("nobody", To::Nobody),
        ("one node", To::Node),
        ("a replica that confirms", To::Replica),
    ] {
        if to == To::Replica {
            let options = RedisOptions {
                replica_of: Some(server.port()),
                ..RedisOptions::default()
            };
            server.wait_for(replica.insert(RedisServer::start(&options)));
        }
        let figures = run.measure(&server, to).await;
        let Figures {
            per_second,
            our_micros,
            redis_micros,
        } = figures;
        println!("| {name} | {per_second:.0} | {our_micros:.1} | {redis_micros:.1} |");
    }
    ExitCode::SUCCESS
}

/// Who has what is published.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    Nobody,
    Node,
    Replica,
}

struct Run {
    time: Duration,
    in_flight: u64,
}

struct Figures {
    per_second: f64,
    our_micros: f64,
    redis_micros: f64,
}

impl Run {
    async fn measure(&self, server: &RedisServer, to: To) -> Figures {
        let is_heard = to == To::Node;
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let topology = Topology::Standalone {
            address: Address::new("127.0.0.1", server.port()),
            login: Login::default(),
        };
        let config = RedisConfig {
            ack: match to {
                To::Nobody | To::Node => Ack::Primary,
                To::Replica => Ack::Replicated,
            },
            ..RedisConfig::new(topology)
        };
        let events = Arc::new(Counter::default());
        let engine = RedisEngine::start(EngineParts {
            config: &config,
            node: "bench",
            events: Arc::clone(&events) as Arc<_>,
            registry: &mut Registry::default(),
            tracker: &tracker,
            stop: &stop,
        });
        engine.shards().first().connected().await;
        let keys: Arc<[ChannelKey]> = (0..CHANNELS)
            .map(|number| ChannelKey::new(&AppId::default_app(), &format!("chat:{number}")))
            .collect();
        if is_heard {
            for key in &*keys {
                let subscribed = engine.broker().subscribe(key).wait().await;
                subscribed.expect("subscribed");
            }
        }
        let before = (own_cpu(), redis_cpu(server), Instant::now());
        let until = before.2 + self.time;
        let mut publishers = tokio::task::JoinSet::new();
        for number in 0..self.in_flight {
            let (broker, keys) = (engine.broker().clone(), Arc::clone(&keys));
            publishers.spawn(async move {
                let mut published = 0_u64;
                let mut next = usize::try_from(number).unwrap_or_default();
                while Instant::now() < until {
                    next = (next + 7) % keys.len();
                    let answer = broker.publish(request(&keys[next])).wait().await;
                    answer.expect("published");
                    published += 1;
                }
                published
            });
        }
        let published: u64 = publishers.join_all().await.into_iter().sum();
        let after = (own_cpu(), redis_cpu(server), Instant::now());
        stop.cancel();
        tracker.close();
        tracker.wait().await;
        let heard = events.0.load(Ordering::Relaxed);
        assert!(!is_heard || heard > 0, "nobody heard anything");
        let published = precise(published);
        Figures {
            per_second: published / (after.2 - before.2).as_secs_f64(),
            our_micros: (after.0 - before.0) * 1e6 / published,
            redis_micros: (after.1 - before.1) * 1e6 / published,
        }
    }
}

fn request(key: &ChannelKey) -> PublishRequest {
    PublishRequest {
        key: key.clone(),
        publication: Publication {
            data: Raw::from(DATA),
            ..Publication::default()
        },
        history: Some(HistoryOptions {
            size: 100,
            ttl: Duration::from_secs(300),
            meta_ttl: Duration::from_secs(30 * 24 * 3600),
        }),
        idempotency_key: None,
        version: 0,
        version_epoch: Box::default(),
    }
}

/// Seconds of CPU that this process has used.
fn own_cpu() -> f64 {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    let used = Duration::try_from(used).expect("time does not run backwards");
    used.as_secs_f64()
}

/// Seconds of CPU that the server has used.
fn redis_cpu(server: &RedisServer) -> f64 {
    let seconds = |field| -> f64 { server.info("cpu", field).parse().expect("seconds") };
    seconds("used_cpu_user") + seconds("used_cpu_sys")
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn precise(count: u64) -> f64 {
    count as f64
}
