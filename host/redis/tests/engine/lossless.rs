//! A subscriber of a real node over a real Redis: whatever happens to what Redis holds, it is told of what it missed,
//! and never that it has everything when it has not (rows F4 and F12, threat model R3, R5 and R7).

use std::sync::Arc;

use tidegate_faults::proxy::{Mode, Proxy};
use tidegate_protocol::server_api::PublishRequest;
use tidegate_realtime::{
    config::{HistoryConfig, NamespaceOptions, Permission, RealtimeConfig},
    driver::{Driver, Turn},
    hooks::NoHooks,
    hub::{Hub, HubConfig},
    ids::AppId,
    metrics::RealtimeMetrics,
    node::{Node, NodeParts},
};
use tidegate_redis::RedisConfig;
use tidegate_test_redis::{RedisOptions, RedisServer};
use tokio::time::Duration;

use crate::common::{Engine, Paper, peer, say, standalone, within};

/// A node and its engine.
struct World {
    node: Arc<Node>,
    engine: Engine,
}

impl World {
    async fn on(port: u16) -> Self {
        let hub = Hub::new(HubConfig::default());
        let config = RedisConfig::new(standalone(port));
        let mut engine = Engine::heard_by(&config, Arc::clone(&hub) as Arc<_>).await;
        let node = Node::new(NodeParts {
            broker: Arc::new(engine.broker.clone()),
            metrics: RealtimeMetrics::register(&mut engine.registry),
            tracker: engine.tracker.clone(),
            ..NodeParts::in_memory(hub, Arc::new(NoHooks))
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
        for (_, service) in node.services(&engine.stop) {
            engine.tracker.spawn(service);
        }
        Self { node, engine }
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
        let (_, driver) = self.node.open(peer(), paper.clone()).expect("an open node");
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
        assert_eq!(say(&mut self.driver, frame).await, Turn::Read);
        self.seen().split_off(before)
    }

    fn seen(&self) -> String {
        self.paper.text()
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
    let registry = &world.engine.registry;
    let is_confirmed = |_: &str| {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, registry).expect("text");
        text.contains("doubts_total{scope=\"channel\"}")
            && text.contains("position_checks_total{outcome=\"confirmed\"}")
    };
    client.until("a look at it", is_confirmed).await;
    assert!(!client.seen().contains("2500"), "{}", client.seen());
}
