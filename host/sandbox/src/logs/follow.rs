//! Following a plugin's log.

use std::{
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{LogFilter, LogItem, Loss, PluginLog};

/// Lines copied out under the ring's lock at a time.
const BATCH: usize = 256;
/// How long lines are being dropped until their number is told without a line after them: the second that a plugin's
/// budget is for.
const GAP_REST: Duration = Duration::from_secs(1);

/// A place in a plugin's log that moves on with it. Costs the plugin a wakeup for each call that says something, and
/// nothing else: a follower that does not ask is told how many lines it missed when it does.
#[derive(Debug)]
pub struct LogFollower {
    pub(super) log: Arc<PluginLog>,
    filter: LogFilter,
    /// Number of the line that comes next.
    cursor: u64,
}

impl LogFollower {
    pub(crate) fn new(log: Arc<PluginLog>, filter: LogFilter, recent: usize) -> Self {
        // Pairs with the load in `write`: a writer that does not see us was done before we read.
        log.followers.fetch_add(1, Ordering::SeqCst);
        log.shared.followers.fetch_add(1, Ordering::Relaxed);
        let cursor = log.ring.lock().begin(&filter, recent);
        Self {
            log,
            filter,
            cursor,
        }
    }

    /// Waits for what comes next; never empty.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Vec<LogItem> {
        loop {
            let log = Arc::clone(&self.log);
            let mut grown = pin!(log.grown.notified());
            // From here on a write is noticed, so nothing falls between the look and the wait.
            grown.as_mut().enable();
            let (items, gap) = {
                let ring = log.ring.lock();
                let items = ring.read(&mut self.cursor, &self.filter, BATCH);
                (items, ring.trailing_gap(self.cursor))
            };
            if !items.is_empty() {
                return items;
            }
            if gap == 0 {
                grown.await;
            } else if tokio::time::timeout(GAP_REST, grown).await.is_err()
                && let Some(item) = self.take_gap()
            {
                return vec![item];
            }
        }
    }

    /// The lines that were dropped since the last one, if no line came after them meanwhile.
    fn take_gap(&mut self) -> Option<LogItem> {
        let ring = self.log.ring.lock();
        let gap = ring.trailing_gap(self.cursor);
        if gap == 0 || self.cursor + gap != ring.next() {
            return None;
        }
        self.cursor = ring.next();
        Some(LogItem::Dropped {
            count: gap,
            why: Loss::RateLimit,
        })
    }
}

impl Drop for LogFollower {
    fn drop(&mut self) {
        self.log.followers.fetch_sub(1, Ordering::SeqCst);
        self.log.shared.followers.fetch_sub(1, Ordering::Relaxed);
    }
}
