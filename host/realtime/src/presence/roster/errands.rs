//! What the roster has still to do with engines that take their time.
//!
//! Owns the order: errands of one attendance are done one after the other, those of different ones side by side, a
//! bounded number at a time. Invariant: adding one never waits, and what does not fit is refused, not kept.

use std::{collections::VecDeque, pin::Pin, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use hashbrown::HashSet;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Id;

/// Errands that wait: every subscription of a node that loses all its clients at once, as far as a store can be
/// expected to catch up before the members' time is over.
const MAX_WAITING: usize = 128 * 1024;

/// Errands under way, so that a wave of leaves does not take the whole connection to the store.
const MAX_UNDER_WAY: usize = 512;

/// What was pending when the node stops has this long; the store's TTL does the rest.
const FAREWELL: Duration = Duration::from_secs(5);

/// Something to be done for an attendance.
pub(super) struct Errand {
    pub(super) id: Id,
    pub(super) work: Pin<Box<dyn Future<Output = ()> + Send>>,
}

#[derive(Default)]
pub(super) struct Errands {
    waiting: Mutex<VecDeque<Errand>>,
    added: Notify,
}

impl Errands {
    /// False when there is no room.
    pub(super) fn add(&self, errand: Errand) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= MAX_WAITING {
            return false;
        }
        waiting.push_back(errand);
        drop(waiting);
        self.added.notify_one();
        true
    }

    /// Does what comes until `stop`, and what was there then.
    pub(super) async fn run(&self, stop: &CancellationToken) {
        let mut under_way = UnderWay::default();
        loop {
            under_way.begin(&mut self.waiting.lock());
            tokio::select! {
                biased; // Stop wins, so that shutdown is prompt.
                () = stop.cancelled() => break,
                id = under_way.running.next(), if !under_way.running.is_empty() => under_way.end(id),
                () = self.added.notified(), if !under_way.is_full() => {}
            }
        }
        let rest = async {
            loop {
                under_way.begin(&mut self.waiting.lock());
                let Some(id) = under_way.running.next().await else {
                    return;
                };
                under_way.end(Some(id));
            }
        };
        // Late ones are cut off: whoever asks later finds them ended by the store.
        let _ = tokio::time::timeout(FAREWELL, rest).await;
    }
}

#[derive(Default)]
struct UnderWay {
    running: FuturesUnordered<Pin<Box<dyn Future<Output = Id> + Send>>>,
    ids: HashSet<Id>,
}

impl UnderWay {
    fn is_full(&self) -> bool {
        self.running.len() >= MAX_UNDER_WAY
    }

    /// Begins what waits, up to the first whose predecessor is not done.
    fn begin(&mut self, waiting: &mut VecDeque<Errand>) {
        while !self.is_full()
            && waiting
                .front()
                .is_some_and(|errand| !self.ids.contains(&errand.id))
        {
            let Some(Errand { id, work }) = waiting.pop_front() else {
                return;
            };
            self.ids.insert(id.clone());
            self.running.push(Box::pin(async move {
                work.await;
                id
            }));
        }
    }

    fn end(&mut self, id: Option<Id>) {
        if let Some(id) = id {
            self.ids.remove(&id);
        }
    }
}
