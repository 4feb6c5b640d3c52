//! A tenure: a lease that is held for as long as its work takes, and renewed beside it.
//!
//! Owns when the holder has to stop. Invariant: by the clock of this node a tenure is over before its lease can be
//! another's, so whoever looks at [`Tenure::is_mine`] before each thing that others see does nothing twice, but for what
//! was on its way when the machine stopped.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::{Duration, Instant};

use super::{Fence, LeaseName, Leases};
use crate::broker::BrokerError;

/// When a tenure renews its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Renewals {
    /// At each third of its life, one of which may fail without harm: the work takes as long as it takes.
    Steady,
    /// After two thirds of its life, and then at each sixth: most work is over by then and renews nothing.
    Late,
}

impl Renewals {
    fn first(self, life: Duration) -> Duration {
        match self {
            Self::Steady => life / 3,
            Self::Late => life / 3 * 2,
        }
    }

    fn next(self, life: Duration) -> Duration {
        match self {
            Self::Steady => life / 3,
            Self::Late => life / 6,
        }
    }
}

/// See the module.
pub(crate) struct Tenure {
    leases: Arc<dyn Leases>,
    name: LeaseName,
    life: Duration,
    fence: Fence,
    until: Mutex<Instant>,
}

impl Tenure {
    /// Takes the lease; `None` when it is another's.
    ///
    /// # Errors
    /// [`BrokerError`]: nobody answers, so it may be anybody's.
    pub(crate) async fn begin(
        leases: Arc<dyn Leases>,
        name: LeaseName,
        life: Duration,
    ) -> Result<Option<Self>, BrokerError> {
        // The life begins when the store takes it, which is after this.
        let until = Instant::now() + life;
        let fence = leases.take(&name, life).wait().await?;
        Ok(fence.map(|fence| Self {
            leases,
            name,
            life,
            fence,
            until: Mutex::new(until),
        }))
    }

    pub(crate) fn name(&self) -> &LeaseName {
        &self.name
    }

    /// Whether the lease cannot be another's.
    pub(crate) fn is_mine(&self) -> bool {
        Instant::now() < *self.until.lock()
    }

    /// Renews the lease for as long as it is polled; ends when it is over.
    ///
    /// # Cancel safety
    /// The lease stays as long as it was last taken for.
    pub(crate) async fn over(&self, renewals: Renewals) {
        let mut wait = renewals.first(self.life);
        loop {
            tokio::time::sleep(wait).await;
            wait = renewals.next(self.life);
            let (asked, until) = (Instant::now(), *self.until.lock());
            let taken = self.leases.take(&self.name, self.life).wait();
            match tokio::time::timeout_at(until, taken).await {
                Ok(Ok(Some(fence))) if fence == self.fence => {
                    *self.until.lock() = asked + self.life;
                }
                // It has ended, and is another's or a new one.
                Ok(Ok(_)) => *self.until.lock() = asked,
                // Tried again before it ends.
                Ok(Err(error)) => {
                    tracing::debug!(name = %self.name, %error, "a lease could not be renewed");
                }
                // It has ended.
                Err(_) => {}
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
        let begun = Tenure::begin(Arc::new(leases.clone()), name.clone(), LIFE).await;
        begun.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn it_lasts_as_long_as_the_work_and_is_free_afterwards() {
        let one = MemoryLeases::default();
        let (other, name) = (one.other_holder(), LeaseName::DeadNode(NodeUid::random()));
        let tenure = begin(&one, &name).await.unwrap();
        let work = tokio::time::timeout(LIFE * 4, tenure.over(Renewals::Steady));
        assert!(work.await.is_err(), "nobody took it");
        assert!(tenure.is_mine());
        assert!(begin(&other, &name).await.is_none());
        tenure.end().await;
        assert!(begin(&other, &name).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_is_over_soon_leaves_its_lease_to_end() {
        let one = MemoryLeases::default();
        let (other, name) = (one.other_holder(), LeaseName::DeadNode(NodeUid::random()));
        let tenure = begin(&one, &name).await.unwrap();
        let work = tokio::time::timeout(LIFE / 2, tenure.over(Renewals::Late));
        assert!(work.await.is_err(), "nobody took it");
        drop(tenure);
        assert!(begin(&other, &name).await.is_none());
        tokio::time::advance(LIFE / 2).await;
        assert!(begin(&other, &name).await.is_some(), "it was renewed");
    }

    #[tokio::test(start_paused = true)]
    async fn who_slept_through_its_end_does_nothing_more() {
        let one = MemoryLeases::default();
        let (other, name) = (one.other_holder(), LeaseName::DeadNode(NodeUid::random()));
        let tenure = begin(&one, &name).await.unwrap();
        tokio::time::advance(LIFE).await;
        assert!(!tenure.is_mine());
        assert!(begin(&other, &name).await.is_some());
        tenure.over(Renewals::Steady).await;
        assert!(!tenure.is_mine());
    }
}
