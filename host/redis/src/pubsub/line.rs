//! One connection for subscriptions, kept alive.
//!
//! Owns what is known of its delivery and the pauses between two tries to connect. What is said and heard on a
//! connection that stands is the `conversation`'s; how one comes to stand is `open`'s.

mod conversation;
mod open;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rand::RngExt as _;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use self::{
    conversation::Conversation,
    open::{open, report},
};
use super::{
    Shard,
    probe::{INTERVAL, UNREADY_AFTER},
    registry::LineId,
};
use crate::config::Address;

/// Pauses between two tries to connect: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What a line is to those outside its task.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) id: LineId,
    /// A server of a Cluster; `None` for the primary, wherever it is.
    pub(super) address: Option<Address>,
    /// There is something to say.
    pub(super) wake: Notify,
    pub(super) stop: CancellationToken,
    /// Whether it delivers. Written by the line's task.
    proof: Mutex<Proof>,
    /// How many times in a row the server was no primary. Written by the Cluster's task.
    misses: AtomicU32,
}

/// What is known of a line's delivery.
#[derive(Debug, Clone, Copy)]
struct Proof {
    /// When it was last shown, or the line was made.
    at: Instant,
    /// Since when it is in doubt.
    deaf_since: Option<Instant>,
}

/// The oldest proof that a task which is at its work has: one probe's interval, and then the doubt's time.
const STALE_AFTER: Duration = INTERVAL.saturating_add(UNREADY_AFTER);

impl Line {
    pub(super) fn new(id: LineId, address: Option<Address>, stop: CancellationToken) -> Self {
        let now = Instant::now();
        Self {
            id,
            address,
            wake: Notify::new(),
            stop,
            proof: Mutex::new(Proof {
                at: now,
                deaf_since: Some(now),
            }),
            misses: AtomicU32::new(0),
        }
    }

    /// Whether it has not delivered for so long that the node is not ready. Also when its task does not say so any more:
    /// then the last proof gets old.
    pub(super) fn is_deaf(&self, now: Instant) -> bool {
        let Proof { at, deaf_since } = *self.proof.lock();
        let is_over = deaf_since.is_some_and(|since| now.duration_since(since) >= UNREADY_AFTER);
        is_over || now.duration_since(at) >= STALE_AFTER
    }

    /// Whether the last doubt was followed by a proof.
    #[cfg(test)]
    pub(super) fn delivers(&self) -> bool {
        self.proof.lock().deaf_since.is_none()
    }

    /// Takes note whether the server is a primary; answers how many times it has not been.
    pub(super) fn miss(&self, is_primary: bool) -> u32 {
        if is_primary {
            self.misses.store(0, Ordering::Relaxed);
            return 0;
        }
        self.misses.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn doubt(&self, since: Instant) {
        self.proof.lock().deaf_since.get_or_insert(since);
    }

    fn is_heard(&self) {
        *self.proof.lock() = Proof {
            at: Instant::now(),
            deaf_since: None,
        };
    }
}

/// Connects, serves, and connects again until the line stops.
pub(super) async fn keep(shard: Arc<Shard>, line: Arc<Line>) {
    let mut pause = FIRST_PAUSE;
    let mut is_reported = false;
    let mut evicted_at = None;
    loop {
        let opened = tokio::select! {
            biased; // A stop is not delayed by a server that is away.
            () = line.stop.cancelled() => return,
            opened = open(&shard, &line) => opened,
        };
        match opened {
            Ok((socket, address)) => {
                is_reported = false;
                evicted_at = None;
                let end = Conversation::new(&shard, &line)
                    .hold(socket, &address)
                    .await;
                clean_up(&shard, &line);
                shard.metrics.count_end(end.reason);
                if line.stop.is_cancelled() {
                    return;
                }
                tracing::warn!(reason = ?end.reason, "a connection for subscriptions is lost");
                if end.has_delivered {
                    pause = FIRST_PAUSE;
                }
            }
            Err(error) => {
                // Once per outage.
                if !is_reported {
                    report(&error);
                    is_reported = true;
                }
                // These names may be elsewhere by now; looked for once for each map, since that takes a while under
                // a lock that every subscribe needs.
                let map = shard.pipe.num_changes();
                if line.address.is_some() && evicted_at != Some(map) {
                    evicted_at = Some(map);
                    shard.registry.lock().evict(line.id);
                    shard.has_homeless.notify_one();
                }
            }
        }
        let jittered = pause.mul_f64(rand::rng().random_range(0.5..1.0));
        tokio::select! {
            () = line.stop.cancelled() => return,
            () = tokio::time::sleep(jittered) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// The line has no connection any more: it ended, or its task fell.
pub(super) fn clean_up(shard: &Shard, line: &Line) {
    line.doubt(Instant::now());
    shard.registry.lock().disconnected(line.id);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i9_a_line_whose_task_says_nothing_more_is_deaf_by_the_age_of_its_last_proof() {
        let line = Line::new(LineId(1), None, CancellationToken::new());
        let before = Instant::now();
        line.is_heard();
        let after = Instant::now();
        assert!(!line.is_deaf(before + STALE_AFTER - Duration::from_millis(1)));
        assert!(line.is_deaf(after + STALE_AFTER));
    }
}
