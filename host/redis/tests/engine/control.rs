//! Two nodes that talk over a real Redis.

use std::sync::Arc;

use tidegate_protocol::server_api::ChannelsRequest;
use tidegate_realtime::{
    cluster::ClusterMetrics,
    config::RealtimeConfig,
    driver::{Driver, Turn},
    hooks::NoHooks,
    hub::{Hub, HubConfig},
    ids::AppId,
    node::{Node, NodeParts, SessionFilter},
};
use tidegate_redis::{
    Keys, RedisConfig, Shards,
    control::ControlBus,
    pubsub::{Lapse, PubSubEvents, PubSubMetrics, SubscriptionParts, Subscriptions},
};
use tidegate_test_redis::{RedisOptions, RedisServer};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::common::{Paper, peer, say, standalone, within};

struct Member {
    node: Arc<Node>,
    stop: CancellationToken,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Hands what arrives to the bus, and nothing else arrives.
struct ToBus(Arc<ControlBus>);

impl PubSubEvents for ToBus {
    fn on_payload(&self, name: &str, payload: bytes::Bytes) {
        assert!(self.0.on_payload(name, &payload), "{name}");
    }

    fn on_lapse(&self, _: Lapse<'_>) {}
}

impl Member {
    fn join(config: &RedisConfig) -> Self {
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let hub = Hub::new(HubConfig::default());
        hub.run(&tracker, &stop);
        let node = Node::new(NodeParts {
            tracker: tracker.clone(),
            ..NodeParts::in_memory(hub, Arc::new(NoHooks))
        });
        let mut settings = RealtimeConfig::default();
        settings.client.is_insecure = true;
        node.set_app(&AppId::default_app(), settings);
        let shards = Shards::start(config, &tracker, &stop);
        let keys = Keys::new(config.prefix.clone());
        let bus = Arc::new(ControlBus::new(&shards, keys.clone()));
        bus.hear_by(Subscriptions::start(SubscriptionParts {
            config,
            shards: &shards,
            keys,
            node: node.uid(),
            events: Arc::new(ToBus(Arc::clone(&bus))),
            metrics: PubSubMetrics::register(&mut prometheus_client::registry::Registry::default()),
            tracker: &tracker,
            stop: &stop,
        }));
        let cluster = node.join_cluster(bus, ClusterMetrics::default());
        tracker.spawn(cluster.run(stop.clone()));
        Self { node, stop }
    }

    async fn until_nodes(&self, number: usize) {
        let known = async {
            loop {
                let info = self.node.info(&AppId::default_app()).wait().await;
                let info = info.expect("the app is there");
                if info.nodes.len() == number {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        within(known).await;
    }

    /// A connected session that is in `room`.
    async fn session(&self) -> Driver {
        let opened = self.node.open(peer(), Paper::default());
        let (_, mut driver) = opened.expect("there is room");
        let commands = "{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"room\"}}";
        say(&mut driver, commands).await;
        driver
    }
}

#[tokio::test]
async fn nodes_hear_of_each_other_ask_and_order_over_redis() {
    let redis = RedisServer::start(&RedisOptions::default());
    let config = RedisConfig::new(standalone(redis.port()));
    let (one, two) = (Member::join(&config), Member::join(&config));
    one.until_nodes(2).await;
    two.until_nodes(2).await;
    let app = AppId::default_app();
    let mut session = two.session().await;
    let channels = one.node.channels(&app, ChannelsRequest::default());
    let channels = within(channels.wait()).await.unwrap().channels;
    assert_eq!(channels["room"].num_clients, 1);
    let filter = SessionFilter {
        most: 10,
        ..SessionFilter::default()
    };
    let found = within(one.node.sessions(&app, filter).wait())
        .await
        .unwrap();
    assert_eq!(found.sessions[0].node, two.node.uid());
    let client = session.session().peer().client;
    // Answered when the other node has done it.
    within(one.node.kick(&app, client).wait()).await.unwrap();
    assert!(matches!(session.on_signals(), Turn::Close(closing) if closing.code == 3503));
    // One that stops says so; nobody waits until it is forgotten.
    drop(two);
    one.until_nodes(1).await;
}
