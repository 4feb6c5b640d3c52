//! A tenure: a lease that is held for as long as its work takes, and renewed beside it.
//!
//! Owns when the holder has to stop. Invariant: by the clock of this node a tenure is over before its lease can be
//! another's, so whoever looks at [`Tenure::is_mine`] before each thing that others see does nothing twice, but for what
//! was on its way when the machine stopped.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::{Duration, Instant};

use super::{Fence, LeaseName, Leases};

/// Renewals in the life of a lease: one may fail without harm.
const RENEWALS: u32 = 3;

/// See the module.
pub(crate) struct Tenure {
    leases: Arc<dyn Leases>,
    name: LeaseName,
    life: Duration,
    fence: Fence,
    until: Mutex<Instant>,
}

impl Tenure {
    /// Takes the lease; `None` when it is another's, or nobody answers.
    pub(crate) async fn begin(
        leases: Arc<dyn Leases>,
        name: LeaseName,
        life: Duration,
    ) -> Option<Self> {
        // The life begins when the store takes it, which is after this.
        let until = Instant::now() + life;
        let fence = leases.take(&name, life).wait().await.ok().flatten()?;
        Some(Self {
            leases,
            name,
            life,
            fence,
            until: Mutex::new(until),
        })
    }

    /// Whether the lease cannot be another's.
    pub(crate) fn is_mine(&self) -> bool {
        Instant::now() < *self.until.lock()
    }

    /// Renews the lease for as long as it is polled; ends when it is over.
    ///
    /// # Cancel safety
    /// The lease stays as long as it was last taken for.
    pub(crate) async fn over(&self) {
        loop {
            tokio::time::sleep(self.life / RENEWALS).await;
            let (asked, until) = (Instant::now(), *self.until.lock());
            let taken = self.leases.take(&self.name, self.life).wait();
            match tokio::time::timeout_at(until, taken).await {
                Ok(Ok(Some(fence))) if fence == self.fence => {
                    *self.until.lock() = asked + self.life;
                }
                // It has ended, and is another's or a new one.
                Ok(Ok(_)) => *self.until.lock() = asked,
                Ok(Err(_)) | Err(_) => {}
            }
            if !self.is_mine() {
                return;
            }
        }
    }

    /// Gives the lease back. If that cannot be done, it ends.
    pub(crate) async fn end(self) {
        let _ = self.leases.give_back(&self.name, self.fence).wait().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cluster::NodeUid, leases::MemoryLeases};

    const LIFE: Duration = Duration::from_secs(15);

    async fn begin(leases: &MemoryLeases, name: &LeaseName) -> Option<Tenure> {
        Tenure::begin(Arc::new(leases.clone()), name.clone(), LIFE).await
    }

    #[tokio::test(start_paused = true)]
    async fn it_lasts_as_long_as_the_work_and_is_free_afterwards() {
        let one = MemoryLeases::default();
        let (other, name) = (one.other_holder(), LeaseName::DeadNode(NodeUid::random()));
        let tenure = begin(&one, &name).await.unwrap();
        let work = tokio::time::timeout(LIFE * 4, tenure.over());
        assert!(work.await.is_err(), "nobody took it");
        assert!(tenure.is_mine());
        assert!(begin(&other, &name).await.is_none());
        tenure.end().await;
        assert!(begin(&other, &name).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_slept_through_its_end_does_nothing_more() {
        let one = MemoryLeases::default();
        let (other, name) = (one.other_holder(), LeaseName::DeadNode(NodeUid::random()));
        let tenure = begin(&one, &name).await.unwrap();
        tokio::time::advance(LIFE).await;
        assert!(!tenure.is_mine());
        assert!(begin(&other, &name).await.is_some());
        tenure.over().await;
        assert!(!tenure.is_mine());
    }
}
