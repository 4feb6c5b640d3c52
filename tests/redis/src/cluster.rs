//! A Redis Cluster: three primaries with a replica each.

use std::{
    collections::BTreeSet,
    process::{Command, Output, Stdio},
    time::Duration,
};

use crate::{
    server::{FREE_PORT, RedisOptions, RedisServer, binary, missing},
    wait::until,
};

const PRIMARIES: usize = 3;
const NODES: usize = 2 * PRIMARIES;

/// How the cluster is to run.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Silence after which a node is held for dead.
    pub node_timeout: Duration,
    /// For every node.
    pub redis: RedisOptions,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            node_timeout: Duration::from_secs(2),
            redis: RedisOptions::default(),
        }
    }
}

/// Six nodes that know each other, able to fail over; all killed on drop.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<RedisServer>,
    password: Option<String>,
}

/// A line of `CLUSTER NODES`.
#[derive(Debug)]
struct Member {
    id: String,
    port: u16,
    flags: Vec<String>,
    is_linked: bool,
    slots: Vec<(u16, u16)>,
}

impl RedisCluster {
    /// Starts six nodes, makes them a cluster and waits until it would survive the loss of a primary.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start(options: &ClusterOptions) -> Self {
        let ClusterOptions {
            node_timeout,
            redis,
        } = options;
        let nodes: Vec<_> = (0..NODES)
            .map(|_| {
                let mut redis = redis.clone();
                redis.lines.extend([
                    "cluster-enabled yes".to_owned(),
                    "cluster-config-file nodes.conf".to_owned(),
                    format!("cluster-port {FREE_PORT}"),
                    format!("cluster-node-timeout {}", node_timeout.as_millis()),
                    // A replica whose link was down for long stands for election all the same.
                    "cluster-replica-validity-factor 0".to_owned(),
                ]);
                RedisServer::start(&redis)
            })
            .collect();
        let cluster = Self {
            nodes,
            password: redis.password.clone(),
        };
        let mut arguments = vec!["--cluster".to_owned(), "create".to_owned()];
        arguments.extend(cluster.nodes.iter().map(RedisServer::addr));
        arguments.extend(["--cluster-replicas", "1", "--cluster-yes"].map(str::to_owned));
        cluster.redis_cli(&arguments);
        cluster.wait_until_able_to_fail_over();
        cluster
    }

    /// Runs `redis-cli` with these arguments.
    fn redis_cli(&self, arguments: &[String]) {
        let mut command = Command::new(binary("redis-cli"));
        if let Some(password) = &self.password {
            command.args(["--no-auth-warning", "-a", password]);
        }
        let output = command.args(arguments).stdin(Stdio::null()).output();
        let Output {
            status,
            stdout,
            stderr,
        } = output.unwrap_or_else(|error| panic!("{}", missing(&error)));
        assert!(
            status.success(),
            "redis-cli {} ended with {status}:\n{}{}",
            arguments.join(" "),
            String::from_utf8_lossy(&stdout),
            String::from_utf8_lossy(&stderr)
        );
    }

    /// Waits until every living node sees the same whole: all slots served, every replica in sync with its primary,
    /// every link up and nobody suspected. Before that, an election may be lost and is not repeated for long.
    ///
    /// # Panics
    /// When that does not come within a minute.
    pub fn wait_until_able_to_fail_over(&self) {
        let living = || self.nodes.iter().filter(|node| node.is_running());
        until("a cluster that is able to fail over", || {
            let is_settled = living().all(|node| {
                let state = node.ask(&["CLUSTER", "INFO"]).ok();
                let is_ok = state.is_some_and(|text| text.text().contains("cluster_state:ok"));
                let members = members_as_seen_by(node);
                let living_members = members.iter().filter(|member| !member.has("fail"));
                let are_linked = living_members.clone().all(|member| {
                    member.is_linked && !member.has("handshake") && !member.has("fail?")
                });
                let replicas = living_members.filter(|member| member.has("slave")).count();
                let enough_replicas = replicas + PRIMARIES == living().count();
                is_ok && are_linked && enough_replicas
            });
            let are_in_sync = living().all(|node| {
                node.info("replication", "role") == "master"
                    || node.info("replication", "master_link_status") == "up"
            });
            // Primaries know of their replicas too: they vote only for a replica of a primary they know.
            let epochs: BTreeSet<_> = living()
                .filter_map(|node| {
                    let info = node.ask(&["CLUSTER", "INFO"]).ok()?.text();
                    let epoch = info
                        .lines()
                        .find_map(|line| line.strip_prefix("cluster_current_epoch:"));
                    epoch.map(str::to_owned)
                })
                .collect();
            (is_settled && are_in_sync && epochs.len() == 1).then_some(())
        });
    }

    /// Addresses of all nodes.
    pub fn addrs(&self) -> Vec<String> {
        self.nodes.iter().map(RedisServer::addr).collect()
    }

    /// Ports of all nodes.
    pub fn ports(&self) -> Vec<u16> {
        self.nodes.iter().map(RedisServer::port).collect()
    }

    /// The processes.
    pub fn nodes(&mut self) -> &mut [RedisServer] {
        &mut self.nodes
    }

    /// The node that serves the slot of this key now, as a majority of the living nodes sees it.
    ///
    /// # Panics
    /// When the living nodes do not agree on one for a minute.
    pub fn primary_of(&mut self, key: &str) -> &mut RedisServer {
        let port = self.primary_port_of(key);
        let mut nodes = self.nodes.iter_mut();
        nodes
            .find(|node| node.port() == port)
            .expect("the primary is one of ours")
    }

    /// The port of the node that serves the slot of this key.
    ///
    /// # Panics
    /// When the living nodes do not agree on one for a minute.
    pub fn primary_port_of(&self, key: &str) -> u16 {
        until("a primary that the nodes agree on", || {
            let slot = self.slot_of(key)?;
            let living: Vec<_> = self.nodes.iter().filter(|node| node.is_running()).collect();
            let owners = living.iter().filter_map(|node| {
                let members = members_as_seen_by(node);
                let owner = members.iter().find(|member| {
                    let mut slots = member.slots.iter();
                    slots.any(|(first, last)| (*first..=*last).contains(&slot))
                        && !member.has("fail")
                });
                owner.map(|owner| owner.port)
            });
            let owners: Vec<_> = owners.collect();
            let port = *owners.first()?;
            let agree = owners.iter().filter(|owner| **owner == port).count();
            let is_alive = living.iter().any(|node| node.port() == port);
            (is_alive && agree * 2 > living.len()).then_some(port)
        })
    }

    fn slot_of(&self, key: &str) -> Option<u16> {
        let node = self.nodes.iter().find(|node| node.is_running())?;
        let reply = node.ask(&["CLUSTER", "KEYSLOT", key]).ok()?;
        reply.text().parse().ok()
    }

    /// Kills the primary of this key's slot (SIGKILL); the port that it had.
    ///
    /// # Panics
    /// When there is none for a minute.
    pub fn kill_primary_of(&mut self, key: &str) -> u16 {
        let primary = self.primary_of(key);
        primary.kill();
        primary.port()
    }

    /// Waits until another node than the one on this port serves the slot of this key; its port.
    ///
    /// # Panics
    /// When there is none for a minute.
    pub fn failed_over_from(&self, port: u16, key: &str) -> u16 {
        until("the failover", || {
            let now = self.primary_port_of(key);
            (now != port).then_some(now)
        })
    }

    /// Moves this many slots from the primary of this key to another primary: its lowest, be the key's own among them or
    /// not.
    ///
    /// # Panics
    /// When `redis-cli` fails.
    pub fn reshard_from(&self, key: &str, slots: u16) {
        let from_port = self.primary_port_of(key);
        let node = self.nodes.iter().find(|node| node.port() == from_port);
        let members = members_as_seen_by(node.expect("the primary is one of ours"));
        let from = members.iter().find(|member| member.port == from_port);
        let to = members
            .iter()
            .find(|member| member.has("master") && member.port != from_port && !member.has("fail"));
        let (from, to) = (from.expect("it knows itself"), to.expect("there are three"));
        self.redis_cli(&[
            "--cluster".to_owned(),
            "reshard".to_owned(),
            format!("127.0.0.1:{from_port}"),
            "--cluster-from".to_owned(),
            from.id.clone(),
            "--cluster-to".to_owned(),
            to.id.clone(),
            "--cluster-slots".to_owned(),
            slots.to_string(),
            "--cluster-yes".to_owned(),
        ]);
    }
}

impl Member {
    fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|found| found == flag)
    }

    /// `ID HOST:PORT@BUS FLAGS PRIMARY PING PONG EPOCH LINK SLOT…`.
    fn parse(line: &str) -> Option<Self> {
        let words: Vec<_> = line.split(' ').collect();
        let (address, _) = words.get(1)?.split_once('@')?;
        let (_, port) = address.rsplit_once(':')?;
        let slots = words.iter().skip(8).filter_map(|slots| {
            let (first, last) = slots.split_once('-').unwrap_or((*slots, *slots));
            Some((first.parse().ok()?, last.parse().ok()?))
        });
        Some(Self {
            id: (*words.first()?).to_owned(),
            port: port.parse().ok()?,
            flags: words.get(2)?.split(',').map(str::to_owned).collect(),
            is_linked: *words.get(7)? == "connected",
            slots: slots.collect(),
        })
    }
}

fn members_as_seen_by(node: &RedisServer) -> Vec<Member> {
    let Ok(reply) = node.ask(&["CLUSTER", "NODES"]) else {
        return Vec::new();
    };
    reply.text().lines().filter_map(Member::parse).collect()
}
