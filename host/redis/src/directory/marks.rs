//! Marks: whether the servers still have what was entered there.
//!
//! A server that goes on running and has lost its contents (`FLUSHALL`) tells nobody. Owns a key on each of them whose
//! life each heartbeat renews, and that is missing when all else is: one on each shard, and in a Cluster one on each
//! primary. The one shard of a deployment needs none, since it has the nodes, too.
//! Invariants. A mark is set before it counts as lost, so that what is lost while sessions are entered anew is found by
//! the next heartbeat; and it counts whether or not the answers of one heartbeat came.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::{AtomicU64, Ordering},
};

use futures_util::future::join_all;
use parking_lot::Mutex;
use tidegate_realtime::{cluster::NodeUid, directory::BOOK_LIFE};
use tokio::time::{Duration, Instant};

use super::{millis, parse_bool};
use crate::{
    commands::{Pipe, RedisFailure, Route, Shards},
    keys::Keys,
    metrics::{CommandKind, EngineMetrics},
};

/// How long a heartbeat waits for servers that do not answer: no heartbeat comes late for it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Names of which each primary of a Cluster has one with near certainty; a few are enough as a rule.
const MAX_NAMES: u32 = 10_000;

/// The marks of the nodes that use one directory; in production that is one.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// By their names. What is not here was never set.
    known: Mutex<HashMap<String, Mark>>,
    num_lost: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Stands,
    /// It stood and was found missing, and that does not count yet.
    Missing,
}

impl Marks {
    /// How often a mark was found missing that had been set.
    pub(super) fn num_lost(&self) -> u64 {
        // Relaxed: a counter that is looked at now and then.
        self.num_lost.load(Ordering::Relaxed)
    }

    /// Renews all marks of a node, as part of its heartbeat. What fails says nothing, and is asked again with the next
    /// one.
    pub(super) async fn renew(
        &self,
        shards: &Shards,
        keys: &Keys,
        node: &NodeUid,
        metrics: &EngineMetrics,
    ) {
        let marks = places(shards, keys, node).await;
        let renewals = marks.into_iter().map(|(pipe, name)| async move {
            let start = Instant::now();
            let outcome = self.renew_one(pipe, name).await;
            metrics.observe(CommandKind::Directory, start.elapsed(), &outcome);
        });
        let _ = tokio::time::timeout(PATIENCE, join_all(renewals)).await;
    }

    /// # Cancel safety
    /// What was found missing counts with the next call.
    async fn renew_one(&self, pipe: &Pipe, name: String) -> Result<(), RedisFailure> {
        let mut renew = redis::cmd("PEXPIRE");
        renew.arg(&name).arg(millis(BOOK_LIFE));
        let stands = parse_bool(&pipe.run(&renew, Route::Key(&name)).await?)?;
        if !stands {
            if let Some(mark) = self.known.lock().get_mut(&name) {
                *mark = Mark::Missing;
            }
            let mut set = redis::cmd("SET");
            set.arg(&name).arg("").arg("PX").arg(millis(BOOK_LIFE));
            pipe.run(&set, Route::Key(&name)).await?;
        }
        if self.known.lock().insert(name, Mark::Stands) == Some(Mark::Missing) {
            self.num_lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Where a node's marks are, and their names.
async fn places<'a>(shards: &'a Shards, keys: &Keys, node: &NodeUid) -> Vec<(&'a Pipe, String)> {
    let mut places = Vec::new();
    for (index, pipe) in shards.all().iter().enumerate() {
        let name = |number: u32| keys.mark(&format!("{node}:{index}:{number}"));
        if !pipe.is_cluster() {
            // The heartbeat itself finds out about the first.
            if index > 0 {
                places.push((pipe, name(0)));
            }
            continue;
        }
        // Of a Cluster they are what is known, and nobody is asked.
        let primaries = pipe.primaries().await.unwrap_or_default();
        let primaries = primaries.into_iter();
        let mut bare: HashSet<_> = primaries.filter(|one| pipe.has_slots(one)).collect();
        for name in (0..MAX_NAMES).map(name) {
            if bare.is_empty() {
                break;
            }
            let address = pipe.primary_of(&name);
            if address.is_some_and(|address| bare.remove(&address)) {
                places.push((pipe, name));
            }
        }
    }
    places
}
