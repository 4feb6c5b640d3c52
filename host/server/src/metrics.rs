//! Prometheus metrics of the node: the endpoint, and what hub and memory engine count.
//!
//! Each subsystem registers its own; labels come from closed sets (threat model N4).

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use tidegate_control::Store;
use tidegate_realtime::{hub::Hub, memory::MemoryBroker};

/// Reads the hub's counters when metrics are asked for.
#[derive(Debug)]
pub struct HubCollector(pub Arc<Hub>);

impl Collector for HubCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let statistics = self.0.statistics();
        let mut counter = |name: &str, help: &str, value: u64| {
            let metric = ConstCounter::new(value);
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
        };
        counter(
            "tidegate_hub_broadcasts",
            "Publications handed to the fan-out",
            statistics.broadcasts,
        )?;
        counter(
            "tidegate_hub_deliveries",
            "Publications appended to outboxes",
            statistics.deliveries,
        )?;
        counter(
            "tidegate_hub_queue_overflows",
            "Publications that found a shard's queue full",
            statistics.queue_overflows,
        )?;
        counter(
            "tidegate_hub_gaps",
            "Subscriptions told that their position is insufficient",
            statistics.gaps,
        )?;
        let mut gauge = |name: &str, help: &str, value: usize| {
            let metric = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
        };
        gauge(
            "tidegate_hub_channels",
            "Channels with members on this node",
            statistics.num_channels,
        )?;
        gauge(
            "tidegate_hub_queued_bytes",
            "Bytes that wait for the flushers",
            statistics.queued_bytes,
        )
    }
}

/// Reads what the memory engine holds when metrics are asked for.
#[derive(Debug)]
pub struct MemoryCollector(pub Arc<MemoryBroker>);

impl Collector for MemoryCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let statistics = self.0.statistics();
        let mut gauge = |name: &str, help: &str, value: usize| {
            let metric = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
        };
        gauge(
            "tidegate_memory_streams",
            "Streams whose position or history is kept",
            statistics.num_streams,
        )?;
        gauge(
            "tidegate_memory_held_bytes",
            "Bytes of streams, history and remembered results",
            statistics.num_bytes,
        )?;
        let mut counter = |name: &str, help: &str, value: u64| {
            let metric = ConstCounter::new(value);
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
        };
        counter(
            "tidegate_memory_dropped_publications",
            "Publications dropped from history before their time, for want of room",
            statistics.dropped_publications,
        )?;
        counter(
            "tidegate_memory_dropped_streams",
            "Streams forgotten before their time, for want of room",
            statistics.dropped_streams,
        )
    }
}

/// Says whether the control store answers when metrics are asked for.
#[derive(Debug)]
pub struct StoreCollector(pub Arc<Store>);

impl Collector for StoreCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let metric = ConstGauge::new(i64::from(self.0.problem().is_none()));
        metric.encode(encoder.encode_descriptor(
            "tidegate_control_store_up",
            "Whether the last call of the control store was answered",
            None,
            metric.metric_type(),
        )?)?;
        let Some(heard) = self.0.heard() else {
            return Ok(());
        };
        let metric = ConstGauge::new(i64::try_from(heard.ago.as_secs()).unwrap_or(i64::MAX));
        metric.encode(encoder.encode_descriptor(
            "tidegate_control_store_age_seconds",
            "How long ago the control store last said that what runs is what it has",
            None,
            metric.metric_type(),
        )?)
    }
}

/// Prometheus text of the registry at `path`.
pub fn router(path: &str, registry: Arc<Registry>) -> Router {
    Router::new().route(path, get(metrics)).with_state(registry)
}

async fn metrics(State(registry): State<Arc<Registry>>) -> Response {
    // With thousands of plugins this takes longer than a worker of sessions may be kept.
    let encode = move || {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).map(|()| text)
    };
    match tokio::task::spawn_blocking(encode)
        .await
        .unwrap_or(Err(std::fmt::Error))
    {
        Ok(text) => {
            let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, content_type)], text).into_response()
        }
        Err(std::fmt::Error) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use tidegate_realtime::{
        broker::{Broker, HistoryLimit, HistoryOrder, HistoryQuery},
        hub::HubConfig,
        ids::{AppId, ChannelKey},
    };

    use super::*;

    #[test]
    fn p2_what_the_memory_engine_holds_can_be_seen() {
        let hub = Hub::new(HubConfig::default());
        let broker = Arc::new(MemoryBroker::new(hub));
        let query = HistoryQuery {
            limit: HistoryLimit::PositionOnly,
            since: None,
            order: HistoryOrder::OldestFirst,
            meta_ttl: std::time::Duration::from_secs(60),
        };
        let _page = broker.history(&ChannelKey::new(&AppId::default_app(), "a"), query);
        let mut registry = Registry::default();
        registry.register_collector(Box::new(MemoryCollector(Arc::clone(&broker))));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let held = broker.statistics().num_bytes;
        assert!(held > 0);
        for line in [
            "tidegate_memory_streams 1".to_owned(),
            format!("tidegate_memory_held_bytes {held}"),
            "tidegate_memory_dropped_publications_total 0".to_owned(),
            "tidegate_memory_dropped_streams_total 0".to_owned(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }
}
