//! One Redis and the nodes on it, and what Redis says it did.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;
use tempfile::TempDir;
use tidegate_bench::http::Http;
use tidegate_bench::identity::TOKEN_SECRET;
use tidegate_bench::server::{self, Pages, Workers};
use tidegate_bench::subject::Subject;
use tidegate_test_redis::{Connection, RedisOptions, RedisServer};

/// How long a node may take until it is ready.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How often members are refreshed: often enough to happen several times while it is looked at.
const PRESENCE_UPDATE: &str = "5s";

pub(crate) struct Cluster {
    // Before Redis, so that nodes do not end in a storm of complaints.
    pub(crate) nodes: Vec<Subject>,
    pub(crate) redis: RedisServer,
    folders: Vec<TempDir>,
}

impl Cluster {
    /// Starts them and waits until every node is ready.
    pub(crate) fn start(binary: &Path, num_nodes: usize) -> Result<Self> {
        let redis = RedisServer::start(&RedisOptions::default());
        let mut cluster = Self {
            nodes: Vec::new(),
            redis,
            folders: Vec::new(),
        };
        for _ in 0..num_nodes {
            let engine = json!({ "type": "redis", "redis": { "address": [cluster.redis.url()] } });
            let (node, folder) = start_node(binary, &engine)?;
            cluster.nodes.push(node);
            cluster.folders.push(folder);
        }
        for node in &cluster.nodes {
            ready(node)?;
        }
        Ok(cluster)
    }

    /// The server API of a node.
    pub(crate) fn api(&self, nth: usize) -> Result<Http> {
        let file = self.folders[nth].path().join("data/api.key");
        let key = std::fs::read_to_string(&file)
            .with_context(|| format!("{} is missing", file.display()))?;
        Http::open(self.nodes[nth].client, Some(key.trim()))
    }

    /// Runs a command of the server's command line against a node.
    pub(crate) fn command_line(&self, binary: &Path, nth: usize, args: &[&str]) -> Result<String> {
        server::command_line(binary, &self.nodes[nth], self.folders[nth].path(), args)
    }

    /// A connection of our own to Redis.
    pub(crate) fn ask_redis(&self) -> Result<Connection> {
        self.redis.connect().context("Redis is gone")
    }

    /// Calls of each command so far, those of scripts included.
    pub(crate) fn commands(&self) -> Result<Commands> {
        let info = self.ask_redis()?.call(&["INFO", "commandstats"])?.text();
        Ok(Commands::parse(&info))
    }
}

/// Calls by the name of the command.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Commands(BTreeMap<String, f64>);

impl Commands {
    fn parse(info: &str) -> Self {
        let calls = info.lines().filter_map(|line| {
            let (name, stats) = line.strip_prefix("cmdstat_")?.split_once(':')?;
            let calls = stats.strip_prefix("calls=")?.split(',').next()?;
            Some((name.to_owned(), calls.parse().ok()?))
        });
        Self(calls.collect())
    }

    /// Calls of one command since.
    pub(crate) fn calls(&self, name: &str, before: &Self) -> f64 {
        let calls = |of: &Self| of.0.get(name).copied().unwrap_or(0.0);
        calls(self) - calls(before)
    }

    /// What came since, for each of so many; most frequent first, what hardly ever happens and our own asking left out.
    pub(crate) fn since(&self, before: &Self, per: f64, least: f64) -> String {
        let mut each: Vec<(&str, f64)> = self
            .0
            .iter()
            .map(|(name, calls)| {
                let before = before.0.get(name).copied().unwrap_or(0.0);
                let own = if name == "info" { 1.0 } else { 0.0 };
                (name.as_str(), (calls - before - own) / per.max(1.0))
            })
            .filter(|(_, each)| *each >= least)
            .collect();
        each.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        let texts = each
            .iter()
            .map(|(name, each)| format!("{name} {}", (each * 100.0).round() / 100.0));
        texts.collect::<Vec<_>>().join(", ")
    }
}

/// A node that keeps everything in its own memory, ready to serve.
pub(crate) fn alone(binary: &Path) -> Result<(Subject, TempDir)> {
    let (node, folder) = start_node(binary, &json!({ "type": "memory" }))?;
    ready(&node)?;
    Ok((node, folder))
}

fn start_node(binary: &Path, engine: &serde_json::Value) -> Result<(Subject, TempDir)> {
    let members = json!({
        "engine": engine,
        "client": {
            "token": { "hmac_secret_key": TOKEN_SECRET },
            "connection_rate_limit": 1_000_000,
            "presence_update_interval": PRESENCE_UPDATE,
        },
        "channel": { "namespaces": [
            namespace("chat", json!({ "history_size": 100, "history_ttl": "300s" })),
            namespace("plain", json!({})),
            namespace("room", json!({ "presence": true })),
            namespace("status", json!({ "history_size": 1, "history_ttl": "300s" })),
        ] },
    });
    server::start(binary, Workers::AsShipped, Pages::AsShipped, members)
}

fn namespace(name: &str, options: serde_json::Value) -> serde_json::Value {
    let mut all = json!({
        "name": name,
        "allow_subscribe_for_client": true,
        "allow_publish_for_client": true,
    });
    if let (Some(all), serde_json::Value::Object(options)) = (all.as_object_mut(), options) {
        all.extend(options);
    }
    all
}

fn ready(node: &Subject) -> Result<()> {
    let until = Instant::now() + START_TIMEOUT;
    while Instant::now() < until {
        let (status, _) = Http::open(node.client, None)?.get("/health/ready")?;
        if status == 200 {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(20));
    }
    bail!("a node is not ready after {} s", START_TIMEOUT.as_secs());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_counted_for_each_and_our_own_question_is_not() {
        let info = |evalsha: u32, info: u32| {
            Commands::parse(&format!(
                "# Commandstats\r\ncmdstat_evalsha:calls={evalsha},usec=9,usec_per_call=1.00\r\n\
                 cmdstat_info:calls={info},usec=3,usec_per_call=1.00\r\n\
                 cmdstat_script|load:calls=1,usec=3,usec_per_call=1.00\r\n"
            ))
        };
        assert_eq!(info(210, 2).since(&info(10, 1), 100.0, 0.01), "evalsha 2");
        assert_eq!(
            info(210, 52).since(&info(10, 1), 100.0, 0.01),
            "evalsha 2, info 0.5"
        );
    }
}
