//! A primary, its replicas and the Sentinels that watch them.

use std::{path::Path, time::Duration};

use crate::{
    resp::Reply,
    server::{Mode, RedisOptions, RedisServer},
    wait::until,
};

const REPLICAS: usize = 2;
const SENTINELS: usize = 3;

/// How the group is to run.
#[derive(Debug, Clone)]
pub struct SentinelOptions {
    /// Silence after which a Sentinel holds a server for dead.
    pub down_after: Duration,
    /// For the primary and its replicas (`replica_of` is filled in).
    pub redis: RedisOptions,
}

impl Default for SentinelOptions {
    fn default() -> Self {
        Self {
            down_after: Duration::from_secs(1),
            redis: RedisOptions::default(),
        }
    }
}

/// One primary, two replicas and three Sentinels that agree about them; all killed on drop.
#[derive(Debug)]
pub struct Sentinels {
    /// The first primary, then the replicas; who is what changes with every failover.
    servers: Vec<RedisServer>,
    sentinels: Vec<RedisServer>,
}

impl Sentinels {
    /// The name by which Sentinels know the group.
    pub const NAME: &str = "tidegate";

    /// Starts the group and waits until every Sentinel knows every other and both replicas.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start(options: &SentinelOptions) -> Self {
        let SentinelOptions { down_after, redis } = options;
        let primary = RedisServer::start(redis);
        let port = primary.port();
        let replica = RedisOptions {
            replica_of: Some(port),
            ..redis.clone()
        };
        let mut servers = vec![primary];
        servers.extend((0..REPLICAS).map(|_| RedisServer::start(&replica)));
        for replica in &servers[1..] {
            until("the replica to be in sync", || {
                (replica.info("replication", "master_link_status") == "up").then_some(())
            });
        }
        let config = |directory: &Path, own_port: u16| {
            let name = Self::NAME;
            let auth = redis
                .password
                .as_ref()
                .map_or_else(String::new, |password| {
                    format!("sentinel auth-pass {name} {password}\n")
                });
            format!(
                "port {own_port}\nbind 127.0.0.1\ndir {}\nsentinel monitor {name} 127.0.0.1 {port} 2\n{auth}\
                 sentinel down-after-milliseconds {name} {}\nsentinel failover-timeout {name} 10000\n\
                 sentinel parallel-syncs {name} {REPLICAS}\n",
                directory.display(),
                down_after.as_millis()
            )
        };
        let sentinels: Vec<_> = (0..SENTINELS)
            .map(|_| RedisServer::start_as(Mode::Sentinel, None, config))
            .collect();
        let group = Self { servers, sentinels };
        for sentinel in &group.sentinels {
            until("the Sentinels to know the group", || {
                let fields = fields(&sentinel.ask(&["SENTINEL", "MASTER", Self::NAME]).ok()?);
                let is = |name: &str, value: usize| {
                    let found = fields.iter().find(|(field, _)| field == name);
                    found.is_some_and(|(_, text)| *text == value.to_string())
                };
                let knows_all =
                    is("num-slaves", REPLICAS) && is("num-other-sentinels", SENTINELS - 1);
                knows_all.then_some(())
            });
        }
        group
    }

    /// Ports of the Sentinels.
    pub fn ports(&self) -> Vec<u16> {
        self.sentinels.iter().map(RedisServer::port).collect()
    }

    /// The Sentinels' processes.
    pub fn sentinels(&mut self) -> &mut [RedisServer] {
        &mut self.sentinels
    }

    /// The servers' processes, whatever each is now.
    pub fn servers(&mut self) -> &mut [RedisServer] {
        &mut self.servers
    }

    /// The port of the primary, as a majority of the Sentinels has it and as it says itself.
    ///
    /// # Panics
    /// When there is none for a minute.
    pub fn primary_port(&self) -> u16 {
        until("a primary that the Sentinels agree on", || {
            let named = self.sentinels.iter().filter_map(|sentinel| {
                let command = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", Self::NAME];
                let reply = sentinel.ask(&command).ok()?;
                reply.list().get(1)?.text().parse::<u16>().ok()
            });
            let named: Vec<_> = named.collect();
            let port = *named.first()?;
            let agree = named.iter().filter(|named| **named == port).count();
            let server = self.servers.iter().find(|server| server.port() == port)?;
            let role = server.ask(&["ROLE"]).ok()?;
            let is_primary = role
                .list()
                .first()
                .is_some_and(|role| role.text() == "master");
            (agree > SENTINELS / 2 && is_primary).then_some(port)
        })
    }

    /// The process that is primary now.
    ///
    /// # Panics
    /// When there is none for a minute.
    pub fn primary(&mut self) -> &mut RedisServer {
        let port = self.primary_port();
        let mut servers = self.servers.iter_mut();
        servers
            .find(|server| server.port() == port)
            .expect("the primary is one of ours")
    }

    /// Kills the primary (SIGKILL); the port that it had.
    ///
    /// # Panics
    /// When there is none for a minute.
    pub fn kill_primary(&mut self) -> u16 {
        let primary = self.primary();
        primary.kill();
        primary.port()
    }

    /// Waits until another server than the one on this port is primary; its port.
    ///
    /// # Panics
    /// When there is none for a minute.
    pub fn failed_over_from(&self, port: u16) -> u16 {
        until("the failover", || {
            let now = self.primary_port();
            (now != port).then_some(now)
        })
    }
}

/// The pairs of a flat list.
fn fields(reply: &Reply) -> Vec<(String, String)> {
    let pairs = reply.list().chunks_exact(2);
    pairs.map(|pair| (pair[0].text(), pair[1].text())).collect()
}
