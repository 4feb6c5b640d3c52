//! The tasks without which a node is no node, watched over.
//!
//! A flusher, a wheel or an accept loop that ends while the node runs leaves it mute and, to all appearances, well.
//! So each service is run under a guard that tells when it ends early, by panicking or by returning, and
//! the node stops. Owns no decision but that.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::FutureExt as _;
use tidegate_control::Store;
use tidegate_realtime::{
    memory::{MemoryBroker, SWEEP_INTERVAL},
    presence::MemoryPresence,
    store::{MemoryStore, Store as _},
};
use tidegate_sandbox::{STATE_SWEEP_INTERVAL, Sandbox};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::config::InsecureSwitch;

/// How often expired keys of the store in memory are looked for: what a plugin uses gets rid of its own before.
const STORE_SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// How often insecure switches are warned about (threat model P5).
const INSECURE_WARNING_INTERVAL: Duration = Duration::from_secs(600);

/// The services of a node.
#[derive(Debug, Clone, Default)]
pub(super) struct Services {
    tracker: TaskTracker,
    /// Asks them to end.
    stop: CancellationToken,
    fallen: Arc<Fallen>,
}

#[derive(Debug, Default)]
struct Fallen {
    /// The first that ended before it was asked to.
    name: OnceLock<&'static str>,
    told: CancellationToken,
}

impl Services {
    /// What services stop at.
    pub(super) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Runs a service that ends with [`Self::stop`].
    pub(super) fn spawn(
        &self,
        name: &'static str,
        service: impl Future<Output = ()> + Send + 'static,
    ) {
        self.spawn_until(name, &self.stop, &self.tracker, service);
    }

    /// Runs a service that ends with `stop`, as a task of `tracker`.
    pub(super) fn spawn_until(
        &self,
        name: &'static str,
        stop: &CancellationToken,
        tracker: &TaskTracker,
        service: impl Future<Output = ()> + Send + 'static,
    ) {
        let (stop, fallen) = (stop.clone(), Arc::clone(&self.fallen));
        tracker.spawn(async move {
            // Nothing of the service is looked at after a panic: the node stops.
            let ended = AssertUnwindSafe(service).catch_unwind().await;
            let how = match ended {
                Err(_) => "panicked; the message is in the error output",
                Ok(()) if stop.is_cancelled() => return,
                Ok(()) => "ended early",
            };
            tracing::error!(
                service = name,
                how,
                "a service of the node has fallen; the node stops"
            );
            let _ = fallen.name.set(name);
            fallen.told.cancel();
        });
    }

    /// Waits until one ended that should not have; answers its name.
    pub(super) async fn fallen(&self) -> &'static str {
        self.fallen.told.cancelled().await;
        self.fallen_name().unwrap_or("service")
    }

    /// The one that ended and should not have.
    pub(super) fn fallen_name(&self) -> Option<&'static str> {
        self.fallen.name.get().copied()
    }

    /// Stops them all and waits for their ends.
    pub(super) async fn end(&self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// Leaves the control store in one file, so that copying that file is a backup.
pub(super) async fn checkpoint(store: Arc<Store>) {
    let moved = tokio::task::spawn_blocking(move || store.checkpoint()).await;
    let problem = match moved {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(panic) => panic.to_string(),
    };
    tracing::warn!(error = %problem, "control.db could not be brought up to date; control.db-wal belongs to it");
}

pub(super) async fn sweep(broker: Arc<MemoryBroker>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
    // A sweep that had much to free is not followed by those it delayed.
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased; // Stop wins, so that shutdown is prompt.
            () = stop.cancelled() => return,
            () = async {
                ticks.tick().await;
                broker.sweep().await;
            } => {}
        }
    }
}

pub(super) async fn sweep_presence(presence: MemoryPresence, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(presence.sweep_interval());
    loop {
        tokio::select! {
            biased; // Stop wins, so that shutdown is prompt.
            () = stop.cancelled() => return,
            () = async {
                ticks.tick().await;
                presence.sweep().await;
            } => {}
        }
    }
}

pub(super) async fn sweep_store(store: MemoryStore, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(STORE_SWEEP_INTERVAL);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        // All the keys of a plugin may end at the same moment.
        let store = store.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || store.sweep()).await {
            tracing::error!(%error, "the sweep of what plugins keep ended early");
        }
    }
}

pub(super) async fn sweep_state(sandbox: Arc<Sandbox>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(STATE_SWEEP_INTERVAL);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        // All the keys of an app may end at the same moment.
        let sandbox = Arc::clone(&sandbox);
        if let Err(error) = tokio::task::spawn_blocking(move || sandbox.sweep_state()).await {
            tracing::error!(%error, "the sweep of the plugins' state ended early");
        }
    }
}

pub(super) async fn warn_insecure(switches: Vec<InsecureSwitch>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(INSECURE_WARNING_INTERVAL);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        for InsecureSwitch { key, consequence } in &switches {
            tracing::warn!(key, consequence, "an insecure switch is on");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_service_that_panics_or_ends_early_is_told_by_its_name() {
        let services = Services::default();
        services.spawn("steady", services.stop().clone().cancelled_owned());
        services.spawn("rotten", async { panic!("on purpose") });
        assert_eq!(services.fallen().await, "rotten");

        let services = Services::default();
        services.spawn("hasty", async {});
        assert_eq!(services.fallen().await, "hasty");
    }

    #[tokio::test]
    async fn a_service_that_ends_when_it_is_asked_to_has_not_fallen() {
        let services = Services::default();
        services.spawn("steady", services.stop().clone().cancelled_owned());
        services.end().await;
        assert_eq!(services.fallen_name(), None);
    }
}
