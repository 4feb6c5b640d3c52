use std::time::Duration;

use tidegate_protocol::server_api::Position;

use super::*;
use crate::{
    config::{HistoryConfig, NamespaceOptions, RealtimeConfig},
    hooks::NoHooks,
    hub::{Hub, HubConfig},
    node::NodeParts,
};

fn node() -> Arc<Node> {
    let hub = Hub::new(HubConfig::default());
    let node = Node::new(NodeParts::in_memory(hub, Arc::new(NoHooks)));
    let mut settings = RealtimeConfig::default();
    settings.channel.without_namespace = Arc::new(NamespaceOptions {
        history: Some(HistoryConfig {
            size: 10_000,
            ttl: Duration::from_secs(60),
        }),
        ..NamespaceOptions::default()
    });
    node.set_app(&AppId::default_app(), settings);
    node
}

async fn publish(node: &Arc<Node>, channel: &str, size: usize) {
    let request = PublishRequest {
        channel: channel.into(),
        data: Raw::from(format!("\"{}\"", "x".repeat(size))),
        ..PublishRequest::default()
    };
    let published = node.publish(&AppId::default_app(), request).wait().await;
    published.unwrap();
}

async fn page(node: &Arc<Node>, channel: &str, limit: i32, since: Option<u64>) -> Vec<u64> {
    let request = HistoryRequest {
        channel: channel.into(),
        limit,
        since: since.map(|offset| Position {
            offset,
            ..Position::default()
        }),
        ..HistoryRequest::default()
    };
    let result = node.history(&AppId::default_app(), request).wait().await;
    let publications = result.unwrap().publications;
    publications.iter().map(|one| one.offset).collect()
}

#[tokio::test]
async fn p2_a_history_page_of_the_server_api_has_its_bounds_and_goes_on() {
    let node = node();
    for _ in 0..700 {
        publish(&node, "many", 1).await;
    }
    for limit in [-1, 1_000] {
        let mut found = page(&node, "many", limit, None).await;
        assert_eq!(found.len(), 300);
        while let Some(last) = found.last().copied() {
            let next = page(&node, "many", limit, Some(last)).await;
            if next.is_empty() {
                break;
            }
            found.extend(next);
        }
        assert_eq!(found, (1..=700).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn p2_a_history_page_of_the_server_api_has_a_bound_in_bytes() {
    let node = node();
    for _ in 0..40 {
        publish(&node, "large", 60_000).await;
    }
    let found = page(&node, "large", -1, None).await;
    assert_eq!(found, (1..=17).collect::<Vec<_>>(), "what fits into 1 MiB");
    publish(&node, "huge", 3 << 20).await;
    publish(&node, "huge", 3 << 20).await;
    assert_eq!(page(&node, "huge", -1, None).await, [1], "never nothing");
    assert_eq!(page(&node, "huge", -1, Some(1)).await, [2]);
}
