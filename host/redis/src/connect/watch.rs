//! Watches where the primary is, beside the connections that stand.
//!
//! A primary that has lost its sentinels and replicas goes on to call itself one, and a connection to it stands: only
//! the sentinels know that there is another. Owns asking them every two seconds, and at once when something looks odd.
//! Invariant: a connection is left only for an answer that more than half of all configured sentinels gave after it was
//! made.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::Connector;
use crate::{config::Address, keeper};

/// How often the sentinels are asked.
const INTERVAL: Duration = Duration::from_secs(2);

/// The least time between two looks, however odd things look.
const PAUSE: Duration = Duration::from_millis(100);

/// What the sentinels agree on, asked again and again.
#[derive(Debug)]
pub struct PrimaryWatch {
    shared: Arc<Shared>,
    /// Ends the asking with the last who listens.
    _stop: DropGuard,
}

#[derive(Debug)]
struct Shared {
    connector: Connector,
    /// The last word; sent with every look, also when it is the same.
    word: watch::Sender<Option<Address>>,
    /// Something looks odd.
    odd: Notify,
}

impl PrimaryWatch {
    /// Starts to ask, on `tracker` until `stop` or until it is dropped.
    pub fn start(connector: Connector, tracker: &TaskTracker, stop: &CancellationToken) -> Self {
        let shared = Arc::new(Shared {
            connector,
            word: watch::Sender::new(None),
            odd: Notify::new(),
        });
        let stop = stop.child_token();
        let (kept, stopped) = (Arc::clone(&shared), stop.clone());
        tracker.spawn(keeper::keep(
            "sentinels",
            stop.clone(),
            move || Arc::clone(&kept).look_on(stopped.clone()),
            // The word that was heard last stands.
            || {},
        ));
        Self {
            shared,
            _stop: stop.drop_guard(),
        }
    }

    /// Asks at once.
    pub fn look(&self) {
        self.shared.odd.notify_one();
    }

    /// Ends when another server than this one is the primary.
    ///
    /// # Cancel safety
    /// Nothing is lost but the time.
    pub async fn left(&self, address: &Address) {
        let mut word = self.shared.word.subscribe();
        loop {
            if word.changed().await.is_err() {
                // Nobody asks any more: the node stops.
                return std::future::pending().await;
            }
            let is_other = word
                .borrow_and_update()
                .as_ref()
                .is_some_and(|named| named != address);
            if is_other {
                return;
            }
        }
    }
}

impl Shared {
    async fn look_on(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let next = Instant::now() + INTERVAL;
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(PAUSE) => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.odd.notified() => {}
                () = tokio::time::sleep_until(next) => {}
            }
            let agreed = tokio::select! {
                () = stop.cancelled() => return,
                agreed = self.connector.agreed_primary() => agreed,
            };
            if agreed.is_some() {
                self.word.send_replace(agreed);
            }
        }
    }
}

/// Ends when the primary is another one, as the watch has it; without a watch it never is.
pub async fn left(watch: Option<&PrimaryWatch>, address: &Address) {
    match watch {
        Some(watch) => watch.left(address).await,
        None => std::future::pending().await,
    }
}
