//! Takes away what deleted plugins kept in the store.
//!
//! The store may be another machine and may be away when a plugin is deleted, and deleting does not wait for it. So
//! the owners wait in a line, and each is tried until the store has answered. Invariant: another plugin of the name
//! finds nothing, unless the node ended before the store came back, which is logged.

use std::{sync::Arc, time::Duration};

use tidegate_realtime::store::{Owner, Store};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Owners that may wait. Deleting is done by hand.
const LINE: usize = 1_024;

/// The pause after the first attempt that failed; the next ones are longer.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause. So long after the store is back a plugin that was installed again under the name meanwhile may
/// lose what it has written by then: an attempt is cheap, and keys carry the name of their plugin and nothing else.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Where deleted plugins are named.
#[derive(Debug, Clone)]
pub struct Forgotten {
    line: mpsc::Sender<Owner>,
}

/// Where they are read.
pub type ForgottenOwners = mpsc::Receiver<Owner>;

impl Forgotten {
    pub fn new() -> (Self, ForgottenOwners) {
        let (line, owners) = mpsc::channel(LINE);
        (Self { line }, owners)
    }

    /// Has everything of an owner taken away, soon.
    pub(super) fn forget(&self, owner: Owner) {
        if let Err(refused) = self.line.try_send(owner) {
            give_up(&refused.into_inner());
        }
    }
}

fn give_up(owner: &Owner) {
    tracing::warn!(
        app = owner.app(),
        plugin = owner.plugin(),
        "what a deleted plugin kept in the store could not be taken away; a plugin of the same name will find it"
    );
}

/// Takes away what owners kept, one after the other, until `stop`.
pub async fn forget(store: Arc<dyn Store>, mut owners: ForgottenOwners, stop: CancellationToken) {
    loop {
        let owner = tokio::select! {
            () = stop.cancelled() => break,
            owner = owners.recv() => match owner {
                Some(owner) => owner,
                // Nobody can name any more.
                None => return stop.cancelled().await,
            },
        };
        let mut pause = FIRST_PAUSE;
        while store.forget(&owner).wait().await.is_err() {
            tokio::select! {
                () = stop.cancelled() => {
                    give_up(&owner);
                    break;
                }
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
            }
        }
    }
    while let Ok(owner) = owners.try_recv() {
        give_up(&owner);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use parking_lot::Mutex;
    use tidegate_realtime::{
        hooks::Progress,
        ids::AppId,
        store::{Life, StoreError, StoreKey, StoreValue, Stored, Swap},
    };

    use super::*;

    /// Refuses so many times, then notes whom it forgot.
    struct Flaky {
        refusals: Mutex<usize>,
        forgotten: mpsc::Sender<Owner>,
    }

    impl Store for Flaky {
        fn get(&self, _: &Owner, _: &StoreKey) -> Stored<Option<Bytes>> {
            Progress::Ready(Err(StoreError::Unavailable))
        }

        fn set(&self, _: &Owner, _: &StoreKey, _: StoreValue, _: Life) -> Stored<()> {
            Progress::Ready(Err(StoreError::Unavailable))
        }

        fn compare_and_set(&self, _: &Owner, _: &StoreKey, _: Swap) -> Stored<bool> {
            Progress::Ready(Err(StoreError::Unavailable))
        }

        fn increment(&self, _: &Owner, _: &StoreKey, _: i64, _: Life) -> Stored<i64> {
            Progress::Ready(Err(StoreError::Unavailable))
        }

        fn count(&self, _: &Owner, _: &StoreKey) -> Stored<i64> {
            Progress::Ready(Err(StoreError::Unavailable))
        }

        fn delete(&self, _: &Owner, _: &StoreKey) -> Stored<bool> {
            Progress::Ready(Err(StoreError::Unavailable))
        }

        fn forget(&self, owner: &Owner) -> Stored<()> {
            let mut refusals = self.refusals.lock();
            if *refusals > 0 {
                *refusals -= 1;
                return Progress::Ready(Err(StoreError::Unavailable));
            }
            self.forgotten.try_send(owner.clone()).unwrap();
            Progress::Ready(Ok(()))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_deleted_while_the_store_was_away_is_forgotten_once_it_is_back() {
        let (done, mut forgotten) = mpsc::channel(8);
        let store = Arc::new(Flaky {
            refusals: Mutex::new(5),
            forgotten: done,
        });
        let (deleted, owners) = Forgotten::new();
        let stop = CancellationToken::new();
        let app = AppId::default_app();
        let names = ["one", "two"].map(|plugin| Owner::new(&app, plugin));
        for owner in &names {
            deleted.forget(owner.clone());
        }
        let seen = async {
            let seen = [forgotten.recv().await, forgotten.recv().await];
            stop.cancel();
            seen
        };
        let ((), seen) = tokio::join!(forget(store, owners, stop.clone()), seen);
        assert_eq!(seen, names.map(Some));
    }
}
