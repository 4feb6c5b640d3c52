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
    directory::{BEAT_INTERVAL, Beat, SILENT_AFTER, Standing, USER_LIFE, survivor},
    hooks::Peer,
    node::Node,
};

/// Sessions entered anew between two pauses: some 5,000 a second, so that a large node keeps the store free for others.
const ANEW_AT_ONCE: usize = 256;

/// See [`ANEW_AT_ONCE`].
pub(crate) const ANEW_PAUSE: Duration = Duration::from_millis(50);

/// The least time between two looks through the book for lines that nobody has in hand, and the longest that follows
/// when what was found could not be ended.
const LOOK_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_LOOK_PAUSE: Duration = Duration::from_secs(60);

/// Nodes whose heartbeats are over.
#[derive(Debug, Default)]
pub(super) struct Overdue {
    nodes: HashSet<NodeUid>,
    /// When the last heartbeat of this node was sent.
    beaten_at: Option<Instant>,
    /// When the last one was sent that was answered.
    heard_at: Option<Instant>,
    /// Since when all heartbeats of this node were answered in time: the others may have had the same trouble as it
    /// until then.
    steady_since: Option<Instant>,
}

impl Registrar {
    pub(super) async fn keep_beating(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(BEAT_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut num_lapses = self.store.num_lapses();
        loop {
            tokio::select! {
                biased; // Stop wins, so that shutdown is prompt.
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.beat() => {}
            }
            let lapses = self.store.num_lapses();
            if lapses != num_lapses {
                num_lapses = lapses;
                tracing::info!(
                    "the directory may have lost what was written; sessions are entered anew"
                );
                self.note_departed_again();
                self.anew.notify_one();
            }
        }
    }

    /// Says that the node lives, and hears who may not.
    async fn beat(&self) {
        let began = Instant::now();
        let beat = self.store.beat(&self.uid, SILENT_AFTER).wait().await;
        self.metrics.count(beat.is_ok());
        let beat = beat.ok();
        self.note_overdue(beat.as_ref(), began);
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

    /// Whether the store has heard of this node lately; one that has slept says first that it lives.
    pub(super) async fn is_heard(&self) -> bool {
        if !self.was_heard() {
            self.beat().await;
        }
        self.was_heard()
    }

    fn was_heard(&self) -> bool {
        let heard_at = self.overdue.lock().heard_at;
        heard_at.is_some_and(|at| at.elapsed() < SILENT_AFTER)
    }

    /// Enters everybody anew, every now and then and when the store has lost them, and ends what nobody has in hand.
    pub(super) async fn keep_entered(self: Arc<Self>, node: Weak<Node>, stop: CancellationToken) {
        let entering = async {
            let mut next_round = Instant::now() + USER_LIFE / 3;
            let (mut pause, mut next_look) = (LOOK_PAUSE, Instant::now());
            loop {
                let is_round = tokio::select! {
                    () = self.anew.notified() => true,
                    () = tokio::time::sleep_until(next_round) => true,
                    () = async {
                        tokio::time::sleep_until(next_look).await;
                        self.orphaned.notified().await;
                    } => false,
                };
                let Some(node) = node.upgrade() else {
                    return;
                };
                if is_round {
                    if self.is_back.swap(false, Ordering::Relaxed) {
                        node.roster().come_back().await;
                    }
                    self.enter_all(&node).await;
                    next_round = Instant::now() + USER_LIFE / 3;
                }
                if survivor::end_orphans(&self, &node).await {
                    pause = LOOK_PAUSE;
                } else {
                    self.note_untold();
                    pause = (pause * 2).min(LONGEST_LOOK_PAUSE);
                }
                next_look = Instant::now() + pause;
            }
        };
        stop.run_until_cancelled(entering).await;
    }

    fn note_overdue(&self, beat: Option<&Beat>, began: Instant) {
        let mut overdue = self.overdue.lock();
        let beaten_at = overdue.beaten_at.replace(began);
        let Some(beat) = beat else {
            overdue.steady_since = None;
            return;
        };
        overdue.heard_at = Some(began);
        // A late one is as good as none: the node may have been stopped in between.
        let is_late = beaten_at.is_some_and(|last| began > last + 2 * BEAT_INTERVAL);
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
