//! A subscriber of a real node over a real Redis: whatever happens to what Redis holds, it is told of what it missed,
//! and never that it has everything when it has not (rows F4 and F12, threat model R3, R5 and R7).

use std::{io, sync::Arc};

use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tidegate_faults::proxy::{Mode, Proxy};
use tidegate_protocol::{Codec, Framing, server_api::PublishRequest};
use tidegate_realtime::{
    config::{HistoryConfig, NamespaceOptions, Permission, RealtimeConfig},
    driver::{Budget, Driver, Turn},
    hooks::NoHooks,
    hub::{Hub, HubConfig},
    ids::AppId,
    link::Wire,
    metrics::RealtimeMetrics,
    node::{Node, NodeParts, PeerInfo, Shared},
    presence::MemoryPresence,
    session::Pings,
};
use tidegate_redis::{
    EngineParts, RedisConfig, RedisEngine, Topology,
    config::{Address, Login},
};
use tidegate_test_redis::{RedisOptions, RedisServer};
use tokio::time::Duration;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Remembers what was written.
#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Wire for Paper {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }
}

/// A node and its engine.
struct World {
    node: Arc<Node>,
    registry: Registry,
    stop: CancellationToken,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl World {
    async fn on(port: u16) -> Self {
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let hub = Hub::new(HubConfig::default());
        let config = RedisConfig::new(Topology::Standalone {
            address: Address::new("127.0.0.1", port),
            login: Login::default(),
        });
        let mut registry = Registry::default();
        let engine = RedisEngine::start(EngineParts {
            config: &config,
            node: "test",
            events: Arc::clone(&hub) as Arc<_>,
            registry: &mut registry,
            tracker: &tracker,
            stop: &stop,
        });
        for pipe in engine.shards().all() {
            within(pipe.connected()).await;
        }
        let node = Node::new(NodeParts {
            hub,
            broker: Arc::new(engine.broker().clone()),
            presence: Arc::new(MemoryPresence::default()),
            hooks: Arc::new(NoHooks),
            metrics: RealtimeMetrics::register(&mut registry),
            shared: Shared::default(),
            tracker: tracker.clone(),
            name: "test".into(),
            version: "1".into(),
        });
        let mut settings = RealtimeConfig::default();
        settings.client.is_insecure = true;
        settings.client.ping_interval = Duration::from_secs(1_000);
        settings.channel.without_namespace = Arc::new(NamespaceOptions {
            subscribe: Permission::EVERYBODY,
            history: Some(HistoryConfig {
                size: 100,
                ttl: Duration::from_secs(600),
            }),
            force_recovery: true,
            ..NamespaceOptions::default()
        });
        node.set_app(&AppId::default_app(), settings);
        for (_, service) in node.services(&stop) {
            tracker.spawn(service);
        }
        Self {
            node,
            registry,
            stop,
        }
    }

    /// Publishes, until Redis takes it.
    async fn publish(&self, data: &str) {
        let publishing = async {
            loop {
                let request = PublishRequest {
                    channel: "news".into(),
                    data: data.to_owned().into(),
                    ..PublishRequest::default()
                };
                let app = AppId::default_app();
                if self.node.publish(&app, request).wait().await.is_ok() {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        within(Box::pin(publishing)).await;
    }

    /// A connected client.
    async fn client(&self) -> Client {
        let paper = Paper::default();
        let peer = PeerInfo {
            user: "".into(),
            app: AppId::default_app(),
            transport: "websocket",
            remote_addr: "127.0.0.1:1".into(),
            headers: Vec::new().into(),
            codec: Codec::Json,
            framing: Framing::WebSocket,
            pings: Pings::Messages,
        };
        let (_, driver) = self.node.open(peer, paper.clone()).expect("an open node");
        let mut client = Client { driver, paper };
        client.say(r#"{"id":1,"connect":{}}"#).await;
        client
    }

    /// A client that has seen three publications, and where it is.
    async fn follower(&self) -> (Client, String) {
        let mut client = self.client().await;
        let reply = client
            .say(r#"{"id":2,"subscribe":{"channel":"news"}}"#)
            .await;
        let epoch = text_after(&reply, "\"epoch\":\"").expect("an epoch");
        for data in ["1", "2", "3"] {
            self.publish(data).await;
        }
        client
            .until("three", |seen| seen.contains("\"offset\":3"))
            .await;
        (client, epoch)
    }

    /// What a client that comes back with offset 1 is answered.
    async fn recover(&self, epoch: &str) -> String {
        let mut client = self.client().await;
        let request = format!(
            r#"{{"id":2,"subscribe":{{"channel":"news","recover":true,"offset":1,"epoch":"{epoch}"}}}}"#
        );
        client.say(&request).await
    }
}

struct Client {
    driver: Driver,
    paper: Paper,
}

impl Client {
    /// Says a frame and answers what was sent until it was carried out.
    async fn say(&mut self, frame: &str) -> String {
        let before = self.seen().len();
        let mut turn = self
            .driver
            .on_frame(frame.as_bytes(), &mut Budget::default());
        if turn == Turn::Wait {
            turn = std::future::poll_fn(|context| {
                self.driver.poll_answer(context, &mut Budget::default())
            })
            .await;
        }
        assert_eq!(turn, Turn::Read);
        self.driver.link().flush();
        self.seen().split_off(before)
    }

    /// Everything sent so far; the heads of frames stand in it as what they are.
    fn seen(&self) -> String {
        String::from_utf8_lossy(&self.paper.0.lock()).into_owned()
    }

    async fn until(&mut self, what: &str, is_it: impl Fn(&str) -> bool) {
        let waiting = async {
            loop {
                assert_eq!(self.driver.on_signals(), Turn::Read);
                self.driver.link().flush();
                if is_it(&self.seen()) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(tidegate_test_redis::PATIENCE, waiting).await;
        assert!(waited.is_ok(), "{what}: {}", self.seen());
    }

    async fn until_told(&mut self) {
        let is_told = |seen: &str| seen.contains(r#""unsubscribe":{"code":2500"#);
        self.until("2500", is_told).await;
    }
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(tidegate_test_redis::PATIENCE, work).await;
    done.expect("in time")
}

/// What stands between this and the next quotation mark.
fn text_after(text: &str, start: &str) -> Option<String> {
    let (_, rest) = text.split_once(start)?;
    Some(rest.split('"').next()?.to_owned())
}

fn standalone_server() -> RedisServer {
    RedisServer::start(&RedisOptions::default())
}

const META: &str = "tg:meta:{07defaultnews}";
const STREAM: &str = "tg:stream:{07defaultnews}";
const CHANNEL: &str = "tg:client:{07defaultnews}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f12_what_was_wiped_is_told_and_never_called_recovered() {
    for damage in [&["FLUSHALL"][..], &["DEL", META], &["DEL", META, STREAM]] {
        let server = standalone_server();
        let world = World::on(server.port()).await;
        let (mut client, epoch) = world.follower().await;
        server.command(damage);
        world.publish("4").await;
        client.until_told().await;
        let reply = world.recover(&epoch).await;
        assert!(
            reply.contains("\"was_recovering\":true"),
            "{damage:?} {reply}"
        );
        assert!(!reply.contains("\"recovered\""), "{damage:?} {reply}");
        assert_ne!(text_after(&reply, "\"epoch\":\"").as_ref(), Some(&epoch));
        // A wiped stream is not another one's beginning: who comes now stays.
        let mut fresh = world.client().await;
        fresh
            .say(r#"{"id":2,"subscribe":{"channel":"news"}}"#)
            .await;
        world.publish("\"new\"").await;
        fresh
            .until("what is new", |seen| seen.contains("\"new\""))
            .await;
        assert!(!fresh.seen().contains("2500"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f12_a_wiped_stream_that_is_quiet_is_found_by_the_position_check() {
    let server = standalone_server();
    let world = World::on(server.port()).await;
    let (mut client, epoch) = world.follower().await;
    server.command(&["FLUSHALL"]);
    client.until_told().await;
    assert!(!world.recover(&epoch).await.contains("\"recovered\""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f12_missing_entries_are_a_hole_to_those_who_want_them_and_to_nobody_else() {
    let server = standalone_server();
    let world = World::on(server.port()).await;
    let (mut client, epoch) = world.follower().await;
    server.command(&["DEL", STREAM]);
    let reply = world.recover(&epoch).await;
    assert!(reply.contains("\"was_recovering\":true"), "{reply}");
    assert!(!reply.contains("\"recovered\""), "{reply}");
    world.publish("4").await;
    client
        .until("the next", |seen| seen.contains("\"offset\":4"))
        .await;
    assert!(!client.seen().contains("2500"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f4_a_restart_without_a_file_is_a_new_epoch_and_told() {
    let mut server = standalone_server();
    let world = World::on(server.port()).await;
    let (mut client, epoch) = world.follower().await;
    server.kill();
    server.restart();
    client.until_told().await;
    world.publish("1").await;
    assert!(!world.recover(&epoch).await.contains("\"recovered\""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r3_a_rolled_back_stream_gives_no_offset_out_twice_in_one_epoch() {
    let server = standalone_server();
    let world = World::on(server.port()).await;
    let (mut client, epoch) = world.follower().await;
    // As a replica that lacked the last one would have it, but for its generation.
    let before = server.command(&["GET", META]).text();
    let rolled_back = format!("{}2", before.strip_suffix('3').expect("the top"));
    server.command(&["SET", META, &rolled_back]);
    server.command(&["XDEL", STREAM, "3-0"]);
    client.until_told().await;
    let after = server.command(&["GET", META]).text();
    assert!(!after.contains(&epoch), "{after}");
    assert!(!world.recover(&epoch).await.contains("\"recovered\""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r5_what_is_lost_on_the_way_is_told_before_the_connection_is_given_up() {
    let server = standalone_server();
    let proxy = Proxy::to_port(server.port()).await.expect("a port");
    let world = World::on(proxy.addr().port()).await;
    let (mut client, epoch) = world.follower().await;
    proxy.set(Mode::StallSubscribers);
    world.publish("4").await;
    client.until_told().await;
    // And everything is there for those who come back.
    proxy.set(Mode::Pass);
    let reply = world.recover(&epoch).await;
    assert!(reply.contains("\"recovered\":true"), "{reply}");
    for offset in 2..=4 {
        assert!(reply.contains(&format!("\"offset\":{offset}")), "{reply}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r7_poisoned_payloads_reach_nobody_and_end_nothing() {
    let server = standalone_server();
    let world = World::on(server.port()).await;
    let (mut client, epoch) = world.follower().await;
    let mut publisher = server.connect().expect("a connection");
    let forged = format!("p{epoch}99999999999999999999:x");
    for payload in [&b""[..], b"garbage", b"p", b"n\xff\xff", forged.as_bytes()] {
        let command = [&b"PUBLISH"[..], CHANNEL.as_bytes(), payload];
        publisher.call(&command).expect("a reply");
    }
    world.publish("4").await;
    client
        .until("the next", |seen| seen.contains("\"offset\":4"))
        .await;
    // The poison was looked into, and has come to nothing.
    let registry = &world.registry;
    let is_confirmed = |_: &str| {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, registry).expect("text");
        text.contains("doubts_total{scope=\"channel\"}")
            && text.contains("position_checks_total{outcome=\"confirmed\"}")
    };
    client.until("a look at it", is_confirmed).await;
    assert!(!client.seen().contains("2500"), "{}", client.seen());
}
