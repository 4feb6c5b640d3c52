//! Leases in Redis: which node does what one node at a time does.
//!
//! Owns a key for each lease, on the first shard: the fence and the holder, with the life of the lease. Time is by the
//! clock of Redis. Invariant: a lease is taken, renewed and given back in one step each, by comparing who holds it.

use std::{sync::Arc, time::Duration};

use redis::{Cmd, Value};
use tidegate_realtime::{
    broker::BrokerError,
    hooks::Progress,
    leases::{Fence, LeaseName, Leases},
};

use crate::{
    commands::{Pipe, RedisFailure, Route, Script, Shards, value::number},
    keys::Keys,
    metrics::{CommandKind, EngineMetrics},
};

/// The leases as one node takes them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RedisLeases {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    pipe: Pipe,
    keys: Keys,
    holder: Box<str>,
    metrics: EngineMetrics,
    take: Script,
    give_back: Script,
}

impl RedisLeases {
    /// `holder` is unlike that of any other node, and of the same node before a restart.
    pub fn new(shards: &Shards, keys: Keys, holder: &str, metrics: EngineMetrics) -> Self {
        Self {
            shared: Arc::new(Shared {
                pipe: shards.first().clone(),
                keys,
                holder: holder.into(),
                metrics,
                take: Script::new(include_str!("scripts/lease_take.lua")),
                give_back: Script::new(include_str!("scripts/lease_give_back.lua")),
            }),
        }
    }
}

impl Shared {
    async fn invoke(&self, script: &Script, key: &str, number: u64) -> Result<Value, RedisFailure> {
        let build = |command: &mut Cmd, _: &_| {
            command.arg(1).arg(key).arg(&*self.holder).arg(number);
        };
        self.pipe.invoke(script, Route::Key(key), build).await
    }
}

impl Leases for RedisLeases {
    fn take(
        &self,
        name: &LeaseName,
        for_: Duration,
    ) -> Progress<Result<Option<Fence>, BrokerError>> {
        let (shared, metrics) = (Arc::clone(&self.shared), &self.shared.metrics);
        let key = shared.keys.lease(name);
        // Redis takes no life of no time.
        let life = u64::try_from(for_.as_millis()).unwrap_or(u64::MAX).max(1);
        metrics.timed(CommandKind::Other, async move {
            match shared.invoke(&shared.take, &key, life).await? {
                Value::Nil => Ok(None),
                fence => {
                    let fence = number(&fence).ok_or(RedisFailure::Unexpected)?;
                    Ok(Some(Fence::new(fence)))
                }
            }
        })
    }

    fn give_back(&self, name: &LeaseName, fence: Fence) -> Progress<Result<(), BrokerError>> {
        let (shared, metrics) = (Arc::clone(&self.shared), &self.shared.metrics);
        let key = shared.keys.lease(name);
        metrics.timed(CommandKind::Other, async move {
            let given = shared.invoke(&shared.give_back, &key, fence.number());
            given.await.map(|_| ())
        })
    }
}
