//! The doors of a node: what is served at which listener, and how each is bound.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use axum::{
    Router,
    extract::{ConnectInfo, Request},
};
use prometheus_client::registry::Registry;
use tidegate_control::Store;
use tidegate_realtime::{ids::AppId, node::Node as RealtimeNode};
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use super::BuildError;
use crate::{
    admin::Admin,
    api::{self, ApiConfig, ConfiguredKey},
    config::{self, Config},
    demo,
    health::{self, Readiness},
    metrics,
    transport::{
        address::ClientAddress,
        admission::{Admission, AdmissionConfig},
        handshake::WebSocketEndpoint,
        listener::{self, Listener},
        refusal::TransportMetrics,
    },
};

/// Connections of the admin listener; operators and tools, never clients.
const ADMIN_CONNECTIONS: usize = 1_024;

#[derive(Debug)]
pub(super) struct Bound {
    pub(super) socket: TcpListener,
    pub(super) address: SocketAddr,
    pub(super) listener: Listener,
}

pub(super) fn admission_config(config: &Config) -> AdmissionConfig {
    let defaults = AdmissionConfig::default();
    AdmissionConfig {
        max_connections: config.client.connection_limit,
        max_connections_per_address: u32::try_from(config.client.ip_connection_limit)
            .unwrap_or(u32::MAX),
        handshakes_per_second: config
            .client
            .connection_rate_limit
            .unwrap_or(defaults.handshakes_per_second),
        handshakes_per_address: config.client.ip_connection_rate_limit.get(),
    }
}

pub(super) fn client_router(
    config: &Config,
    store: &Arc<Store>,
    realtime: &Arc<RealtimeNode>,
    readiness: &Readiness,
    registry: &Arc<Registry>,
    endpoint: Arc<WebSocketEndpoint>,
) -> Result<Router, BuildError> {
    let mut router = Router::new();
    if config.health.is_enabled {
        let prefix = &config.health.handler_prefix;
        router = router.merge(health::router(prefix, readiness.clone()));
    }
    if config.websocket.is_enabled {
        router = router.merge(endpoint.router(&config.websocket.handler_prefix));
    }
    if config.http_api.is_enabled {
        let keys = config.http_api.key.iter();
        let keys = keys.map(|key| ConfiguredKey::new(AppId::default_app(), key.expose()));
        let api_config = ApiConfig {
            prefix: config.http_api.handler_prefix.clone(),
            error_mode: match config.http_api.error_mode {
                config::ErrorMode::Envelope => api::ErrorMode::Envelope,
                config::ErrorMode::Transport => api::ErrorMode::Transport,
            },
            is_insecure: config.http_api.is_insecure,
            keys: keys.collect(),
        };
        let realtime = Arc::new(Arc::clone(realtime));
        router = router.merge(api::router(api_config, Arc::clone(store), realtime));
    }
    if config.prometheus.is_enabled {
        let path = &config.prometheus.handler_prefix;
        router = router.merge(metrics::router(path, Arc::clone(registry)));
    }
    if let Some(demo) = &config.demo {
        router = router.merge(demo::router(demo)?);
    }
    Ok(router)
}

pub(super) fn admin_listener(
    config: &Config,
    admin: &Arc<Admin>,
    readiness: &Readiness,
    registry: &Arc<Registry>,
    metrics: TransportMetrics,
    tracker: &TaskTracker,
) -> Result<Bound, BuildError> {
    let router = admin
        .router()
        .merge(health::router("/health", readiness.clone()))
        .merge(crate::metrics::router("/metrics", Arc::clone(registry)))
        .layer(axum::middleware::map_request(name_peer));
    let listener = Listener {
        router,
        admission: Admission::new(AdmissionConfig {
            max_connections: ADMIN_CONNECTIONS,
            ..AdmissionConfig::default()
        }),
        proxies: Arc::default(),
        metrics,
        tracker: tracker.clone(),
    };
    let address = SocketAddr::new(config.admin_api.address, config.admin_api.port);
    bind("admin_api.port", address, listener)
}

/// Gives the admin API the peer's address in the form it looks for.
async fn name_peer(mut request: Request) -> Request {
    if let Some(address) = request.extensions().get::<ClientAddress>().copied() {
        request.extensions_mut().insert(ConnectInfo(address.peer));
    }
    request
}

pub(super) fn bind(
    setting: &'static str,
    address: SocketAddr,
    listener: Listener,
) -> Result<Bound, BuildError> {
    let socket = listener::bind(address).map_err(|source| BuildError::Bind {
        setting,
        address,
        source,
    })?;
    bound(setting, socket, listener)
}

pub(super) fn bound(
    setting: &'static str,
    socket: TcpListener,
    listener: Listener,
) -> Result<Bound, BuildError> {
    let address = socket.local_addr().map_err(|source| BuildError::Bind {
        setting,
        address: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        source,
    })?;
    Ok(Bound {
        socket,
        address,
        listener,
    })
}
