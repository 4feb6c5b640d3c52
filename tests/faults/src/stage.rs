//! What a scenario plays on: nodes behind a balancer, with a load that runs.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Result;
use serde_json::{Value, json};
use tokio::task::block_in_place;

use crate::{
    checker::{AckedLoss, Expectation, Recovery},
    load::{Load, LoadOptions},
    node::{Balancer, NodeProcess},
};

/// How large a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// For every submission: a quarter of the load, short waits, bars that bear a busy machine.
    Quarter,
    /// As the rows are written.
    Full,
}

impl fmt::Display for Size {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Quarter => "quarter",
            Self::Full => "full",
        })
    }
}

impl Size {
    /// The usual load.
    pub fn load(self) -> LoadOptions {
        match self {
            Self::Quarter => LoadOptions {
                channels: 50,
                subscribers: 250,
                publishers: 5,
                rate: 250,
                backoff_cap: Duration::from_secs(4),
                settle_within: Duration::from_secs(90),
            },
            Self::Full => LoadOptions {
                channels: 200,
                subscribers: 1_000,
                publishers: 20,
                rate: 1_000,
                backoff_cap: Duration::from_secs(20),
                settle_within: Duration::from_secs(60),
            },
        }
    }

    /// Before the fault.
    pub fn before(self) -> Duration {
        match self {
            Self::Quarter => Duration::from_secs(4),
            Self::Full => Duration::from_secs(20),
        }
    }

    /// From fault to heal, where the row does not say otherwise.
    pub fn hold(self) -> Duration {
        match self {
            Self::Quarter => Duration::from_secs(4),
            Self::Full => Duration::from_secs(15),
        }
    }

    /// After the heal.
    pub fn after(self) -> Duration {
        match self {
            Self::Quarter => Duration::from_secs(6),
            Self::Full => Duration::from_secs(25),
        }
    }

    /// A bar of a row, in seconds: in the short form it only says that the thing happens at all.
    pub fn bar(self, seconds: u64) -> Duration {
        match self {
            Self::Quarter => Duration::from_secs(4 * seconds + 30),
            Self::Full => Duration::from_secs(seconds),
        }
    }

    /// What most rows expect: nothing lost, everybody served at last.
    pub fn expectation(self) -> Expectation {
        Expectation {
            least_acked: match self {
                // A busy machine publishes less; a run that does not publish is still found out.
                Self::Quarter => 500,
                Self::Full => 10_000,
            },
            acked_loss: AckedLoss::Never,
            truth_within: None,
            flow_within: None,
            unready: None,
            connections_stay: false,
            publishes_succeed: false,
            // Threat model R2, and the way to the node and back.
            publish_within: Some(self.bar(6)),
            recovery: Recovery::WherePossible,
            leaves: None,
        }
    }
}

/// Nodes and load.
#[derive(Debug)]
pub struct Stage {
    pub nodes: Vec<NodeProcess>,
    pub balancer: Arc<Balancer>,
    pub load: Load,
}

/// Who has a publication before its publisher is told so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    Primary,
    Replicated,
}

/// The configuration of a node with these settings, which name the engine.
pub fn config(settings: &Value) -> Value {
    let mut config = json!({
        "http_server": { "address": "127.0.0.1", "port": 0 },
        "admin_api": { "port": 0 },
        "http_api": { "insecure": true },
        "log": { "level": "info" },
        "client": { "allow_anonymous_connect_without_token": true },
        "channel": { "namespaces": [{
            "name": "flow",
            "history_size": 5_000,
            "history_ttl": "10m",
            "force_recovery": true,
            "allow_subscribe_for_client": true,
            "allow_subscribe_for_anonymous": true,
        }, {
            "name": "seen",
            "presence": true,
            "join_leave": true,
            "allow_subscribe_for_client": true,
            "allow_presence_for_subscriber": true,
        }] },
    });
    for (name, value) in settings.as_object().into_iter().flatten() {
        config[name] = value.clone();
    }
    config
}

/// The engine of one process.
pub fn memory() -> Value {
    json!({ "engine": { "type": "memory" } })
}

/// The engine on one Redis.
pub fn redis(addr: &str) -> Value {
    json!({ "engine": { "type": "redis", "redis": { "address": [format!("redis://{addr}")] } } })
}

/// The same with publications that count when these have them.
pub fn with_ack(mut settings: Value, ack: Ack) -> Value {
    let ack = match ack {
        Ack::Primary => "primary",
        Ack::Replicated => "replicated",
    };
    settings["publish"] = json!({ "ack": ack });
    settings
}

impl Stage {
    /// Starts this many nodes and the load.
    ///
    /// # Errors
    /// A node does not start, or not every subscriber is served.
    pub async fn open(settings: &Value, nodes: usize, load: LoadOptions) -> Result<Self> {
        Self::open_each(&vec![settings; nodes], load).await
    }

    /// Starts a node with each of these settings, and the load.
    ///
    /// # Errors
    /// A node does not start, or not every subscriber is served.
    pub async fn open_each(settings: &[&Value], load: LoadOptions) -> Result<Self> {
        let balancer = Arc::new(Balancer::default());
        let mut started = Vec::new();
        for (index, settings) in settings.iter().enumerate() {
            let node = block_in_place(|| NodeProcess::start(config(settings)))?;
            balancer.set(index, Some(node.addr()));
            started.push(node);
        }
        let load = match Load::start(load, Arc::clone(&balancer)).await {
            Ok(load) => load,
            Err(error) => {
                let logs: Vec<String> = started.iter().map(NodeProcess::log_tail).collect();
                return Err(error.context(logs.join("\n")));
            }
        };
        Ok(Self {
            nodes: started,
            balancer,
            load,
        })
    }

    /// Starts a node again; its clients and the balancer find it.
    ///
    /// # Errors
    /// It does not start.
    pub fn restart(&mut self, node: usize) -> Result<()> {
        self.balancer.set(node, None);
        block_in_place(|| self.nodes[node].restart())?;
        self.balancer.set(node, Some(self.nodes[node].addr()));
        Ok(())
    }

    /// Where the metrics of the nodes are.
    pub fn admin_addrs(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(NodeProcess::admin_addr).collect()
    }
}
