//! The heartbeat: says that the node lives, hears who may not, and enters everybody anew when that is needed.
//!
//! Owns how sure this node is of what it hears: one that was itself away judges nobody.

use std::sync::{Arc, Weak, atomic::Ordering};

use hashbrown::HashSet;
use tokio::time::{Duration, Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{Entry, Registrar};
use crate::{
    app::App,
    cluster::NodeUid,
    directory::{BEAT_INTERVAL, Beat, SILENT_AFTER, Standing, USER_LIFE},
    hooks::Peer,
    node::Node,
};

/// Sessions entered anew between two pauses: some 5,000 a second, so that a large node keeps the store free for others.
const ANEW_AT_ONCE: usize = 256;

/// See [`ANEW_AT_ONCE`].
pub(crate) const ANEW_PAUSE: Duration = Duration::from_millis(50);

/// Nodes whose heartbeats are over.
#[derive(Debug, Default)]
pub(super) struct Overdue {
    nodes: HashSet<NodeUid>,
    /// Since when all heartbeats of this node were answered in time: the others may have had the same trouble as it
    /// until then.
    steady_since: Option<Instant>,
}

impl Registrar {
    pub(super) async fn keep_beating(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(BEAT_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last_beat = None;
        loop {
            tokio::select! {
                biased; // Stop wins, so that shutdown is prompt.
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let began = Instant::now();
            let beat = tokio::select! {
                () = stop.cancelled() => return,
                beat = self.store.beat(&self.uid, SILENT_AFTER).wait() => beat,
            };
            self.metrics.count(beat.is_ok());
            let beat = beat.ok();
            // A late one is as good as none: the node may have been stopped in between.
            let is_late = last_beat.is_some_and(|last| began > last + 2 * BEAT_INTERVAL);
            self.note_overdue(beat.as_ref(), is_late);
            last_beat = Some(began);
            match beat.map(|beat| beat.standing) {
                None | Some(Standing::Known) => {}
                Some(Standing::Unknown) => self.anew.notify_one(),
                Some(Standing::Condemned) => {
                    tracing::warn!("this node was taken for dead; it enters its sessions anew");
                    self.term.fetch_add(1, Ordering::Relaxed);
                    self.is_back.store(true, Ordering::Relaxed);
                    self.anew.notify_one();
                }
            }
        }
    }

    /// Enters everybody anew, every now and then and when the store has lost them.
    pub(super) async fn keep_entered(self: Arc<Self>, node: Weak<Node>, stop: CancellationToken) {
        let entering = async {
            loop {
                tokio::select! {
                    () = self.anew.notified() => {}
                    () = tokio::time::sleep(USER_LIFE / 3) => {}
                }
                let Some(node) = node.upgrade() else {
                    return;
                };
                if self.is_back.swap(false, Ordering::Relaxed) {
                    node.roster().come_back().await;
                }
                self.enter_all(&node).await;
            }
        };
        stop.run_until_cancelled(entering).await;
    }

    fn note_overdue(&self, beat: Option<&Beat>, is_late: bool) {
        let mut overdue = self.overdue.lock();
        let Some(beat) = beat else {
            overdue.steady_since = None;
            return;
        };
        if is_late || overdue.steady_since.is_none() {
            overdue.steady_since = Some(Instant::now());
        }
        overdue.nodes = beat.overdue.iter().cloned().collect();
        drop(overdue);
        if !beat.overdue.is_empty() {
            self.overdue_told.notify_one();
        }
    }

    /// Waits until nodes are overdue, and answers them: once this node's own heartbeats were answered for so long that
    /// it is not itself who was away.
    pub(in crate::directory) async fn overdue(&self) -> Vec<NodeUid> {
        loop {
            self.overdue_told.notified().await;
            let overdue = self.overdue.lock();
            let is_steady = overdue
                .steady_since
                .is_some_and(|since| since.elapsed() >= SILENT_AFTER);
            if is_steady {
                return overdue.nodes.iter().cloned().collect();
            }
        }
    }

    /// Nodes that were overdue when this one last asked.
    pub(crate) fn silent_nodes(&self) -> HashSet<NodeUid> {
        self.overdue.lock().nodes.clone()
    }

    /// Enters every session and every seat of the node anew.
    async fn enter_all(&self, node: &Node) {
        for app in node.apps() {
            let seen = app.seen_some(usize::MAX);
            for some in seen.chunks(ANEW_AT_ONCE) {
                for (peer, since_ms) in some {
                    self.enter_anew(&app, peer, *since_ms);
                }
                tokio::time::sleep(ANEW_PAUSE).await;
            }
        }
        node.roster().seat_all(self).await;
    }

    fn enter_anew(&self, app: &App, peer: &Arc<Peer>, since_ms: u64) {
        self.enter_as(Entry::Anew, app, (peer, since_ms));
        // It may have gone since the list was made, and said so before.
        if app.seen(peer.client).is_none() {
            self.leave(app, &peer.user, peer.client);
        }
    }
}
