//! Leases: work of the cluster that one node at a time does.
//!
//! Owns the trait, the names of what is leased, and the leases of a node that stands alone; Redis joins in its own
//! crate. Whoever holds a lease does the work, renews the lease well before it ends, and gives it back when the work
//! is done; the lease of a node that died ends by itself, and the next one that asks gets it.
//!
//! Invariants. Of two holders who ask, one at most is given the lease for a time. A lease is no lock: a holder that
//! was stopped (by its machine, by a long pause) wakes up after the end of its lease and does not know it, and a
//! store may lose a lease in a failover. So what is done under a lease must bear to be done twice.

#[cfg(any(test, feature = "testing"))]
pub mod contract;
mod tenure;

use std::{fmt, sync::Arc};

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::time::{Duration, Instant};

pub(crate) use self::tenure::{Renewals, Tenure};
use crate::{broker::BrokerError, cluster::NodeUid, hooks::Progress, ids::AppId};

/// What is leased.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LeaseName {
    /// The runs of a plugin that come once in a period.
    Schedule {
        app: AppId,
        plugin: Arc<str>,
        period: Duration,
    },
    /// What is left to do for the sessions of a node that died.
    DeadNode(NodeUid),
}

/// One holding of a lease: unlike those of the same name before it, and greater, as long as the clock of the store
/// does not go back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fence(u64);

impl Fence {
    pub fn new(number: u64) -> Self {
        Self(number)
    }

    pub fn number(self) -> u64 {
        self.0
    }
}

/// Distinct names have distinct texts: an app has no slash, and what may hold one comes last.
impl fmt::Display for LeaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Schedule {
                app,
                plugin,
                period,
            } => write!(f, "schedule/{app}/{}/{plugin}", period.as_millis()),
            Self::DeadNode(uid) => write!(f, "dead-node/{uid}"),
        }
    }
}

/// The leases of a cluster, as one of its nodes takes them.
pub trait Leases: Send + Sync + 'static {
    /// Takes the lease for a time, from before the answer on; `None` when another holder has it. Taking what one
    /// holds renews it, with the same fence.
    fn take(
        &self,
        name: &LeaseName,
        for_: Duration,
    ) -> Progress<Result<Option<Fence>, BrokerError>>;

    /// Ends what was taken before its time. Without effect when it has ended, whoever has it now.
    fn give_back(&self, name: &LeaseName, fence: Fence) -> Progress<Result<(), BrokerError>>;
}

/// Leases in the memory of one process. A node that stands alone is their only holder and gets every one; the nodes of
/// a test get a holder each from [`MemoryLeases::other_holder`].
#[derive(Debug, Clone, Default)]
pub struct MemoryLeases {
    table: Arc<Mutex<Table>>,
    holder: u64,
}

#[derive(Debug, Default)]
struct Table {
    held: HashMap<LeaseName, Held>,
    last_fence: u64,
    last_holder: u64,
}

#[derive(Debug)]
struct Held {
    holder: u64,
    fence: Fence,
    ends_at: Instant,
}

impl MemoryLeases {
    /// The same leases for somebody else.
    #[must_use]
    pub fn other_holder(&self) -> Self {
        let mut table = self.table.lock();
        table.last_holder += 1;
        Self {
            table: Arc::clone(&self.table),
            holder: table.last_holder,
        }
    }

    fn take_now(&self, name: &LeaseName, for_: Duration) -> Option<Fence> {
        let now = Instant::now();
        let mut table = self.table.lock();
        table.held.retain(|_, held| now < held.ends_at);
        if let Some(held) = table.held.get_mut(name) {
            if held.holder != self.holder {
                return None;
            }
            held.ends_at = now + for_;
            return Some(held.fence);
        }
        table.last_fence += 1;
        let fence = Fence(table.last_fence);
        let held = Held {
            holder: self.holder,
            fence,
            ends_at: now + for_,
        };
        table.held.insert(name.clone(), held);
        Some(fence)
    }
}

impl Leases for MemoryLeases {
    fn take(
        &self,
        name: &LeaseName,
        for_: Duration,
    ) -> Progress<Result<Option<Fence>, BrokerError>> {
        Progress::Ready(Ok(self.take_now(name, for_)))
    }

    fn give_back(&self, name: &LeaseName, fence: Fence) -> Progress<Result<(), BrokerError>> {
        let mut table = self.table.lock();
        let is_held = table
            .held
            .get(name)
            .is_some_and(|held| held.holder == self.holder && held.fence == fence);
        if is_held {
            table.held.remove(name);
        }
        Progress::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn leases_in_memory_keep_the_contract() {
        let one = MemoryLeases::default();
        contract::check_all(&one, &one.other_holder(), Duration::from_secs(2)).await;
    }

    #[test]
    fn distinct_names_have_distinct_texts() {
        let schedule = |plugin: &str, millis| LeaseName::Schedule {
            app: AppId::default_app(),
            plugin: plugin.into(),
            period: Duration::from_millis(millis),
        };
        let names = [
            schedule("1", 11),
            schedule("1/1", 1),
            schedule("11", 1),
            schedule("dead-node", 1),
            LeaseName::DeadNode(NodeUid::random()),
        ];
        let texts: std::collections::HashSet<_> = names.iter().map(LeaseName::to_string).collect();
        assert_eq!(texts.len(), names.len());
    }
}
