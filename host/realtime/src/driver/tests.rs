//! Connections on wires in memory, with hub, memory broker and hooks of closures.

mod cluster;
mod destinations;
mod directory;
mod events;
mod fairness;
mod pending;
mod positions;
mod presence;
mod reconnect;
mod selectors;
mod sessions;

use std::{sync::Arc, task::Waker};

use bytes::Bytes;
use parking_lot::Mutex;
use tidegate_protocol::{Codec, Framing, server_api};
use tokio::time::Duration;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::*;
use crate::{
    config::{HistoryConfig, NamespaceOptions, Permission, RealtimeConfig},
    hooks::{
        Answered, AuthenticationQuestion, AuthenticationVerdict, AuthorizationQuestion,
        AuthorizationVerdict, Destination, Draft, Effect, FilteringVerdict, HookFailure, Hooks,
        Identity, NoHooks, Outcome, Refusal, RoutingVerdict, RpcQuestion, RpcVerdict,
    },
    hub::{Hub, HubConfig},
    ids::AppId,
    memory::MemoryBroker,
    node::{NodeParts, OpenRefused, PeerInfo, Shared},
    presence::MemoryPresence,
    test_wire::TestWire,
};

struct World {
    node: Arc<Node>,
    stop: CancellationToken,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn settings() -> RealtimeConfig {
    let mut settings = RealtimeConfig::default();
    settings.client.is_insecure = true;
    let open = NamespaceOptions {
        subscribe: Permission::EVERYBODY,
        publish: Permission::EVERYBODY,
        ..NamespaceOptions::default()
    };
    let kept = NamespaceOptions {
        history: Some(HistoryConfig {
            size: 100,
            ttl: Duration::from_secs(60),
        }),
        force_recovery: true,
        ..open.clone()
    };
    settings.channel.without_namespace = Arc::new(open);
    settings
        .channel
        .namespaces
        .insert("kept".into(), Arc::new(kept));
    settings
}

impl World {
    fn new(hooks: impl Hooks) -> Self {
        Self::with_settings(hooks, settings())
    }

    fn with_settings(hooks: impl Hooks, settings: RealtimeConfig) -> Self {
        let hub = Hub::new(HubConfig {
            shards: 2,
            ..HubConfig::default()
        });
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        hub.run(&tracker, &stop);
        let node = Node::new(NodeParts {
            tracker,
            ..NodeParts::in_memory(hub, Arc::new(hooks))
        });
        node.set_app(&AppId::default_app(), settings);
        Self { node, stop }
    }

    fn try_open(&self) -> Result<Client, OpenRefused> {
        self.try_open_with(Framing::WebSocket)
    }

    fn try_open_with(&self, framing: Framing) -> Result<Client, OpenRefused> {
        let wire = TestWire::default();
        let peer = PeerInfo {
            user: "".into(),
            app: AppId::default_app(),
            transport: "websocket",
            remote_addr: "127.0.0.1:1".into(),
            headers: Vec::new().into(),
            codec: Codec::Json,
            framing,
            pings: Pings::Messages,
        };
        let (_, driver) = self.node.open(peer, wire.clone())?;
        Ok(Client { driver, wire })
    }

    fn open(&self) -> Client {
        self.try_open().unwrap()
    }

    /// A connected client.
    async fn join(&self) -> Client {
        let mut client = self.open();
        client.say(r#"{"id":1,"connect":{}}"#).await;
        client
    }

    async fn publish(&self, channel: &str, data: &'static str) -> server_api::PublishResult {
        let request = server_api::PublishRequest {
            channel: channel.into(),
            data: data.into(),
            ..server_api::PublishRequest::default()
        };
        let app = AppId::default_app();
        self.node.publish(&app, request).wait().await.unwrap()
    }
}

struct Client {
    driver: Driver,
    wire: TestWire,
}

impl Client {
    /// Says a frame and waits until everything in it was carried out.
    async fn say(&mut self, frame: &str) -> Turn {
        let mut turn = self
            .driver
            .on_frame(frame.as_bytes(), &mut Budget::default());
        if turn == Turn::Wait {
            turn = std::future::poll_fn(|context| {
                self.driver.poll_answer(context, &mut Budget::default())
            })
            .await;
        }
        self.driver.link().flush();
        turn
    }

    /// Says a frame and answers whether it is still waited for after one poll.
    fn begins(&mut self, frame: &str) -> bool {
        let mut budget = Budget::default();
        let turn = self.driver.on_frame(frame.as_bytes(), &mut budget);
        let mut context = task::Context::from_waker(Waker::noop());
        turn == Turn::Wait
            && self
                .driver
                .poll_answer(&mut context, &mut budget)
                .is_pending()
    }

    fn signals(&mut self) -> Turn {
        let turn = self.driver.on_signals();
        self.driver.link().flush();
        turn
    }

    fn messages(&self) -> Vec<String> {
        self.wire.messages()
    }

    #[track_caller]
    fn last(&self) -> String {
        self.messages().pop().unwrap()
    }
}

#[tokio::test]
async fn a_frame_of_many_commands_is_answered_in_order() {
    let world = World::new(NoHooks);
    let mut client = world.open();
    let turn = client
        .say("{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"a\"}}\n{\"id\":3,\"publish\":{\"channel\":\"a\",\"data\":1}}\n{\"id\":4,\"unsubscribe\":{\"channel\":\"b\"}}")
        .await;
    assert_eq!(turn, Turn::Read);
    let ids: Vec<_> = client
        .messages()
        .iter()
        .filter_map(|text| {
            let reply: serde_json::Value = serde_json::from_str(text).unwrap();
            reply["id"].as_u64()
        })
        .collect();
    assert_eq!(ids, [1, 2, 3, 4]);
}

#[tokio::test]
async fn a_publication_reaches_every_subscriber_its_sender_included() {
    let world = World::new(NoHooks);
    let (mut one, mut two) = (world.join().await, world.join().await);
    one.say(r#"{"id":2,"subscribe":{"channel":"room"}}"#).await;
    two.say(r#"{"id":2,"subscribe":{"channel":"room"}}"#).await;
    one.say(r#"{"id":3,"publish":{"channel":"room","data":{"x":1}}}"#)
        .await;
    for client in [&one, &two] {
        let seen = client
            .wire
            .until(|messages| messages.iter().any(|text| text.contains("\"pub\"")))
            .await;
        let publication = seen.iter().find(|text| text.contains("\"pub\"")).unwrap();
        let from = one.driver.session().peer().client.to_string();
        assert!(publication.contains(r#""data":{"x":1}"#) && publication.contains(&from));
    }
    assert!(
        one.messages()
            .iter()
            .any(|text| text == r#"{"id":3,"publish":{}}"#)
    );
}

#[tokio::test]
async fn what_was_missed_comes_back() {
    let world = World::new(NoHooks);
    let mut client = world.join().await;
    client
        .say(r#"{"id":2,"subscribe":{"channel":"kept:room"}}"#)
        .await;
    let first: serde_json::Value = serde_json::from_str(&client.last()).unwrap();
    let epoch = first["subscribe"]["epoch"].as_str().unwrap().to_owned();
    drop(client);
    for data in ["1", "2", "3"] {
        world.publish("kept:room", data).await;
    }
    let mut back = world.join().await;
    back.say(&format!(
        r#"{{"id":2,"subscribe":{{"channel":"kept:room","recover":true,"offset":1,"epoch":"{epoch}"}}}}"#
    ))
    .await;
    let reply: serde_json::Value = serde_json::from_str(&back.last()).unwrap();
    let result = &reply["subscribe"];
    assert_eq!(result["recovered"], true);
    let offsets: Vec<_> = result["publications"]
        .as_array()
        .unwrap()
        .iter()
        .map(|publication| publication["offset"].as_u64().unwrap())
        .collect();
    assert_eq!(offsets, [2, 3]);
}

#[tokio::test]
async fn a_bad_frame_ends_the_connection_after_what_stood_before_it() {
    let world = World::new(NoHooks);
    let mut client = world.open();
    let turn = client.say("{\"id\":1,\"connect\":{}}\n{\"id\":").await;
    assert_eq!(turn, Turn::Close(DisconnectCode::BadRequest.into()));
    assert!(client.last().contains("\"connect\""));
}

#[tokio::test]
async fn limits_of_connections_hold_and_are_given_back() {
    let mut limited = settings();
    limited.client.connection_limit = Some(2);
    let world = World::with_settings(NoHooks, limited);
    let one = world.open();
    let _two = world.open();
    assert_eq!(world.try_open().err(), Some(OpenRefused::ConnectionLimit));
    drop(one);
    assert!(world.try_open().is_ok());
}

#[tokio::test]
async fn the_api_ends_the_sessions_it_names() {
    let world = World::new(Scripted::default());
    let (mut one, mut two) = (world.join().await, world.join().await);
    let spared = two.driver.session().peer().client.to_string();
    let app = AppId::default_app();
    let request = server_api::DisconnectRequest {
        user: "user".into(),
        whitelist: vec![spared],
        ..server_api::DisconnectRequest::default()
    };
    world.node.disconnect(&app, request).wait().await.unwrap();
    assert!(matches!(one.signals(), Turn::Close(closing) if closing.code == 3503));
    assert_eq!(two.signals(), Turn::Read);
    let info = world.node.info(&app).wait().await.unwrap();
    assert_eq!((info.nodes[0].num_clients, info.nodes[0].num_users), (2, 1));
    drop(one);
    let info = world.node.info(&app).wait().await.unwrap();
    assert_eq!(info.nodes[0].num_clients, 1);
}

#[tokio::test]
async fn a_drain_tells_everybody_within_its_time() {
    let world = World::new(NoHooks);
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(world.join().await);
    }
    world.node.drain(Duration::from_millis(300)).await;
    for client in &mut clients {
        assert!(matches!(client.signals(), Turn::Close(closing) if closing.code == 3001));
    }
    assert_eq!(world.try_open().err(), Some(OpenRefused::Draining));
}

/// Hooks by script: every client is `user`; what filtering and routing do is settable.
#[derive(Default)]
struct Scripted {
    routes: Mutex<Vec<Destination>>,
    effects: Mutex<Vec<Effect>>,
    refuses: bool,
    fails: bool,
    drops: bool,
    is_pending: bool,
    /// Leaves it to the token who somebody is.
    knows_nobody: bool,
}

impl Scripted {
    fn give<V: Send + 'static>(&self, verdict: V, effects: Vec<Effect>) -> Answered<V> {
        let answer = if self.fails {
            Err(HookFailure::new("t-1".into()))
        } else {
            Ok(Outcome { verdict, effects })
        };
        if self.is_pending {
            return Progress::Pending(Box::pin(async move {
                tokio::task::yield_now().await;
                answer
            }));
        }
        Progress::Ready(answer)
    }
}

impl Hooks for Scripted {
    fn authenticate(&self, _: AuthenticationQuestion) -> Answered<AuthenticationVerdict> {
        let identity = Identity {
            user: "user".into(),
            ..Identity::default()
        };
        let verdict = if self.knows_nobody {
            AuthenticationVerdict::NotMine
        } else {
            AuthenticationVerdict::Accept(Box::new(identity))
        };
        let outcome = Ok(Outcome {
            verdict,
            effects: Vec::new(),
        });
        if self.is_pending {
            return Progress::Pending(Box::pin(async move {
                tokio::task::yield_now().await;
                outcome
            }));
        }
        Progress::Ready(outcome)
    }

    fn authorize(&self, _: AuthorizationQuestion) -> Answered<AuthorizationVerdict> {
        self.give(AuthorizationVerdict::NotMine, Vec::new())
    }

    fn filter(&self, draft: Box<Draft>) -> Answered<FilteringVerdict> {
        let effects = self.effects.lock().clone();
        if self.refuses {
            let refusal = Refusal::Error {
                code: 451,
                reason: "not here".into(),
            };
            return self.give(FilteringVerdict::Refuse(refusal), effects);
        }
        if self.drops {
            return self.give(FilteringVerdict::Drop, Vec::new());
        }
        self.give(FilteringVerdict::Pass(draft), effects)
    }

    fn route(&self, draft: Box<Draft>) -> Answered<RoutingVerdict> {
        let routes = self.routes.lock().clone();
        if routes.is_empty() {
            return self.give(RoutingVerdict::Keep(draft), Vec::new());
        }
        self.give(RoutingVerdict::Routed(draft, routes), Vec::new())
    }

    fn rpc(&self, question: RpcQuestion) -> Answered<RpcVerdict> {
        self.give(RpcVerdict::Reply(question.data), Vec::new())
    }

    fn has_rpc(&self, _: &AppId) -> bool {
        true
    }

    fn has_authorization(&self, _: &AppId, channel: &str) -> bool {
        channel.starts_with("guarded")
    }
}

#[tokio::test]
async fn a_refused_message_goes_nowhere_and_has_no_effects() {
    let world = World::new(Scripted {
        refuses: true,
        effects: Mutex::new(vec![Effect::Publish {
            channel: "room".into(),
            data: Bytes::from_static(b"2"),
            version: 0,
        }]),
        ..Scripted::default()
    });
    let mut client = world.join().await;
    client
        .say(r#"{"id":2,"subscribe":{"channel":"room"}}"#)
        .await;
    client
        .say(r#"{"id":3,"publish":{"channel":"room","data":1}}"#)
        .await;
    assert_eq!(
        client.last(),
        r#"{"id":3,"error":{"code":451,"message":"not here"}}"#
    );
    assert_eq!(world.node.hub().statistics().broadcasts, 0);
}

#[tokio::test]
async fn a_failed_hook_is_error_100_with_its_trace() {
    let world = World::new(Scripted {
        fails: true,
        ..Scripted::default()
    });
    let mut client = world.join().await;
    for command in [
        r#""publish":{"channel":"room","data":1}"#,
        r#""subscribe":{"channel":"room"}"#,
        r#""rpc":{"method":"m"}"#,
    ] {
        client.say(&format!(r#"{{"id":2,{command}}}"#)).await;
        assert_eq!(
            client.last(),
            r#"{"id":2,"error":{"code":100,"message":"internal server error (trace t-1)","temporary":true}}"#
        );
    }
}

#[tokio::test]
async fn a_dropped_message_looks_published_to_its_sender() {
    let world = World::new(Scripted {
        drops: true,
        is_pending: true,
        ..Scripted::default()
    });
    let mut client = world.join().await;
    client
        .say(r#"{"id":3,"publish":{"channel":"room","data":1}}"#)
        .await;
    assert_eq!(client.last(), r#"{"id":3,"publish":{}}"#);
    assert_eq!(world.node.hub().statistics().broadcasts, 0);
}

#[tokio::test]
async fn plugins_that_publish_in_a_circle_are_stopped_at_the_third_hop() {
    let world = World::new(Scripted {
        effects: Mutex::new(vec![Effect::Publish {
            channel: "room".into(),
            data: Bytes::from_static(b"2"),
            version: 0,
        }]),
        ..Scripted::default()
    });
    let mut client = world.join().await;
    client
        .say(r#"{"id":3,"publish":{"channel":"room","data":1}}"#)
        .await;
    assert_eq!(client.last(), r#"{"id":3,"publish":{}}"#);
    assert_eq!(world.node.metrics().hop_limit.get(), 1);
}

#[tokio::test]
async fn the_api_hears_of_unknown_names_and_formats() {
    let world = World::new(NoHooks);
    let app = AppId::default_app();
    let publish = |channel: &str, data: &'static str| {
        let request = server_api::PublishRequest {
            channel: channel.into(),
            data: data.into(),
            ..server_api::PublishRequest::default()
        };
        world.node.publish(&app, request).wait()
    };
    assert_eq!(publish("other:x", "1").await.unwrap_err().code, 102);
    assert_eq!(publish("", "1").await.unwrap_err().code, 107);
    assert_eq!(publish("room", "").await.unwrap_err().code, 107);
    assert_eq!(publish("kept:x", "1").await.unwrap().offset, 1);
    assert_eq!(publish("room", "1").await.unwrap().offset, 0);
    let request = server_api::HistoryRequest {
        channel: "room".into(),
        ..server_api::HistoryRequest::default()
    };
    let error = world.node.history(&app, request).wait().await.unwrap_err();
    assert_eq!(error.code, 108);
}

#[tokio::test]
async fn an_unsubscribe_of_the_api_is_pushed() {
    let world = World::new(Scripted::default());
    let mut client = world.join().await;
    client
        .say(r#"{"id":2,"subscribe":{"channel":"room"}}"#)
        .await;
    let app = AppId::default_app();
    let request = server_api::UnsubscribeRequest {
        user: "user".into(),
        ..server_api::UnsubscribeRequest::default()
    };
    world.node.unsubscribe(&app, request).wait().await.unwrap();
    client.signals();
    assert_eq!(
        client.last(),
        r#"{"push":{"channel":"room","unsubscribe":{"code":2000,"reason":"server unsubscribe"}}}"#
    );
    assert_eq!(client.driver.session().num_subscriptions(), 0);
}

#[tokio::test]
async fn new_settings_reach_a_live_session() {
    let world = World::new(NoHooks);
    let mut client = world.join().await;
    let mut closed = settings();
    closed.client.is_insecure = false;
    closed.channel.without_namespace = Arc::default();
    world.node.set_app(&AppId::default_app(), closed);
    client
        .say(r#"{"id":2,"publish":{"channel":"room","data":1}}"#)
        .await;
    assert!(client.last().contains("\"code\":103"));
}

#[tokio::test]
async fn a_driver_dropped_while_it_waits_leaves_nothing_behind() {
    let world = World::new(Scripted {
        is_pending: true,
        ..Scripted::default()
    });
    let mut client = world.join().await;
    assert!(client.begins(r#"{"id":2,"subscribe":{"channel":"room"}}"#));
    drop(client);
    assert_eq!(world.node.num_open(), 0);
    let app = world.node.app(&AppId::default_app()).unwrap();
    assert_eq!(app.num_clients_and_users(), (0, 0));
}
