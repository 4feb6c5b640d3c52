//! Presence in Redis: who is in which channel, over all nodes.
//!
//! Owns three keys of each channel (entries, ends, users) and the scripts that keep them in step, so that counting
//! costs the same however many there are. Invariants. Who is over is taken out before anybody is told of it. Reading
//! a channel keeps Redis for no longer than a page; nothing that is read there is believed before it was parsed.
//! Ends are by the clock of Redis, so that the clocks of nodes do not matter.

mod entry;

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use redis::{Cmd, Value};
use tidegate_realtime::{
    broker::BrokerError,
    hooks::Progress,
    ids::{ChannelKey, ClientId},
    presence::{Member, Members, Presence, PresenceStats, Present},
};

use crate::{
    commands::{
        Pipe, RedisFailure, Route, Script, Shards,
        value::{number, text},
    },
    keys::Keys,
    metrics::{CommandKind, EngineMetrics},
};

/// Clients taken out by one script whose time was over: less than a millisecond of Redis.
const OVER_AT_ONCE: usize = 128;

/// Members of one channel put in by one script: as long.
const PUT_AT_ONCE: usize = 128;

/// Members that come with the numbers in one answer; a page of a larger channel.
const PAGE: usize = 512;

/// Pages that reading one channel may take. With a page that holds less than was asked for, Redis may be walking
/// through a table that it has just made larger.
const MAX_PAGES: usize = 4_096;

/// Channels refreshed at the same time for one batch.
const REFRESHES_IN_FLIGHT: usize = 128;

/// Presence in Redis. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RedisPresence {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    shards: Shards,
    keys: Keys,
    ttl: Duration,
    metrics: EngineMetrics,
    put: Script,
    remove: Script,
    read: Script,
}

impl RedisPresence {
    /// `ttl` is how long a member outlives its last refresh.
    pub fn new(shards: Shards, keys: Keys, ttl: Duration, metrics: EngineMetrics) -> Self {
        Self {
            shared: Arc::new(Shared {
                shards,
                keys,
                ttl,
                metrics,
                put: Script::new(concat!(
                    include_str!("scripts/presence_head.lua"),
                    include_str!("scripts/presence_put.lua")
                )),
                remove: Script::new(concat!(
                    include_str!("scripts/presence_head.lua"),
                    include_str!("scripts/presence_remove.lua")
                )),
                read: Script::new(concat!(
                    include_str!("scripts/presence_head.lua"),
                    include_str!("scripts/presence_read.lua")
                )),
            }),
        }
    }
}

impl RedisPresence {
    fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, RedisFailure>> + Send + 'static,
    ) -> Progress<Result<T, BrokerError>> {
        self.shared.metrics.timed(CommandKind::Presence, work)
    }
}

/// What Redis says of a channel.
struct Read {
    stats: PresenceStats,
    /// Some more were over than are taken out at once.
    has_more: bool,
    /// Everybody, where they are few.
    entries: Vec<Arc<Member>>,
}

impl Shared {
    fn pipe(&self, key: &ChannelKey) -> &Pipe {
        self.shards.of(key)
    }

    async fn invoke(
        &self,
        script: &Script,
        key: &ChannelKey,
        arguments: impl Fn(&mut Cmd),
    ) -> Result<Value, RedisFailure> {
        let clients = self.keys.presence_clients(key);
        let (expiry, users) = (
            self.keys.presence_expiry(key),
            self.keys.presence_users(key),
        );
        let build = |command: &mut Cmd, _: &_| {
            command.arg(3).arg(&clients).arg(&expiry).arg(&users);
            arguments(command);
        };
        let route = Route::Key(&clients);
        self.pipe(key).invoke(script, route, build).await
    }

    async fn put(&self, key: &ChannelKey, members: &[Arc<Member>]) -> Result<(), RedisFailure> {
        let ttl = u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX);
        let entries: Vec<_> = members
            .iter()
            .map(|member| (member.client.to_string(), entry::encode(member)))
            .collect();
        let put = self.invoke(&self.put, key, |command| {
            command.arg(ttl);
            for (client, entry) in &entries {
                command.arg(client).arg(&entry[..]);
            }
        });
        put.await.map(|_| ())
    }

    async fn read(&self, key: &ChannelKey, at_most: usize) -> Result<Read, RedisFailure> {
        loop {
            let answer = self.invoke(&self.read, key, |command| {
                command.arg(OVER_AT_ONCE).arg(at_most);
            });
            let read = parse_read(&answer.await?).ok_or(RedisFailure::Unexpected)?;
            if !read.has_more {
                return Ok(read);
            }
        }
    }

    /// One page after the other, until everybody was seen or more than `limit`.
    async fn walk(&self, key: &ChannelKey, limit: usize) -> Result<Members, RedisFailure> {
        let clients = self.keys.presence_clients(key);
        // Redis may name somebody twice while its table grows.
        let mut found: HashMap<ClientId, Arc<Member>> = HashMap::new();
        let mut cursor = 0;
        for _ in 0..MAX_PAGES {
            let mut command = redis::cmd("HSCAN");
            command.arg(&clients).arg(cursor).arg("COUNT").arg(PAGE);
            let answer = self.pipe(key).run(&command, Route::Key(&clients)).await?;
            let (next, members) = parse_page(&answer).ok_or(RedisFailure::Unexpected)?;
            for member in members {
                if found.len() == limit && !found.contains_key(&member.client) {
                    let members = found.into_values().collect();
                    return Ok(Members {
                        members,
                        is_whole: false,
                    });
                }
                found.insert(member.client, member);
            }
            if next == 0 {
                let members = found.into_values().collect();
                return Ok(Members {
                    members,
                    is_whole: true,
                });
            }
            cursor = next;
        }
        Err(RedisFailure::Unexpected)
    }

    async fn members(&self, key: &ChannelKey, limit: usize) -> Result<Members, RedisFailure> {
        let read = self.read(key, PAGE.min(limit)).await?;
        if read.stats.num_clients <= PAGE.min(limit) {
            return Ok(Members {
                members: read.entries,
                is_whole: true,
            });
        }
        self.walk(key, limit).await
    }

    /// One script for each channel, many of them on their way together.
    async fn refresh(self: Arc<Self>, members: Vec<Present>) -> Result<(), RedisFailure> {
        let mut by_channel: HashMap<ChannelKey, Vec<Arc<Member>>> = HashMap::new();
        for Present { key, member } in members {
            by_channel.entry(key).or_default().push(member);
        }
        let puts = by_channel.iter().flat_map(|(key, members)| {
            members
                .chunks(PUT_AT_ONCE)
                .map(|some| (key.clone(), some.to_vec()))
        });
        let puts: Vec<_> = puts.collect();
        let puts = puts.into_iter().map(|(key, members)| {
            let shared = Arc::clone(&self);
            async move { shared.put(&key, &members).await }
        });
        let mut puts = stream::iter(puts).buffer_unordered(REFRESHES_IN_FLIGHT);
        let mut outcome = Ok(());
        while let Some(put) = puts.next().await {
            // Those that can be refreshed are, whatever becomes of the others.
            outcome = outcome.and(put);
        }
        outcome
    }
}

/// `[clients, users, has more, [client, entry, …]]`.
fn parse_read(answer: &Value) -> Option<Read> {
    let Value::Array(parts) = answer else {
        return None;
    };
    let [num_clients, num_users, has_more, entries] = parts.as_slice() else {
        return None;
    };
    let count = |value| usize::try_from(number(value)?).ok();
    Some(Read {
        stats: PresenceStats {
            num_clients: count(num_clients)?,
            num_users: count(num_users)?,
        },
        has_more: number(has_more)? != 0,
        entries: parse_entries(entries)?,
    })
}

/// `[cursor, [client, entry, …]]`.
fn parse_page(answer: &Value) -> Option<(u64, Vec<Arc<Member>>)> {
    let Value::Array(parts) = answer else {
        return None;
    };
    let [cursor, entries] = parts.as_slice() else {
        return None;
    };
    Some((number(cursor)?, parse_entries(entries)?))
}

/// Clients and their entries in turns; who cannot be read is left out, since nobody could be shown of them.
fn parse_entries(entries: &Value) -> Option<Vec<Arc<Member>>> {
    let member = |client: &Value, entry: &Value| {
        let Value::BulkString(entry) = entry else {
            return None;
        };
        let client = ClientId::parse(text(client)?)?;
        entry::decode(client, entry).map(Arc::new)
    };
    match entries {
        Value::Array(flat) => {
            let pairs = flat.chunks_exact(2);
            Some(
                pairs
                    .filter_map(|pair| member(&pair[0], &pair[1]))
                    .collect(),
            )
        }
        Value::Map(pairs) => {
            let pairs = pairs.iter();
            Some(
                pairs
                    .filter_map(|(client, entry)| member(client, entry))
                    .collect(),
            )
        }
        _ => None,
    }
}

impl Presence for RedisPresence {
    fn add(&self, key: &ChannelKey, member: &Arc<Member>) -> Progress<Result<(), BrokerError>> {
        let (shared, key, member) = (Arc::clone(&self.shared), key.clone(), Arc::clone(member));
        self.run(async move { shared.put(&key, &[member]).await })
    }

    fn refresh(&self, members: Vec<Present>) -> Progress<Result<(), BrokerError>> {
        let shared = Arc::clone(&self.shared);
        self.run(shared.refresh(members))
    }

    fn remove(&self, key: &ChannelKey, client: ClientId) -> Progress<Result<(), BrokerError>> {
        let (shared, key) = (Arc::clone(&self.shared), key.clone());
        self.run(async move {
            let client = client.to_string();
            let removed = shared.invoke(&shared.remove, &key, |command| {
                command.arg(&client);
            });
            removed.await.map(|_| ())
        })
    }

    fn members(&self, key: &ChannelKey, limit: usize) -> Progress<Result<Members, BrokerError>> {
        let (shared, key) = (Arc::clone(&self.shared), key.clone());
        self.run(async move { shared.members(&key, limit).await })
    }

    fn stats(&self, key: &ChannelKey) -> Progress<Result<PresenceStats, BrokerError>> {
        let (shared, key) = (Arc::clone(&self.shared), key.clone());
        self.run(async move { Ok(shared.read(&key, 0).await?.stats) })
    }
}
