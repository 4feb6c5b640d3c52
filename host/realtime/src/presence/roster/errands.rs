//! What the roster has still to do with engines that take their time.
//!
//! Owns the order: errands of one attendance are done one after the other, those of different ones side by side, a
//! bounded number at a time. Invariants: adding one never waits, and what does not fit is refused, not kept; nobody's
//! errands wait for those of somebody else, but for a place among those under way.

use std::{collections::VecDeque, pin::Pin, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use hashbrown::HashMap;
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

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Something to be done for an attendance.
pub(super) struct Errand {
    pub(super) id: Id,
    pub(super) work: Work,
}

#[derive(Default)]
pub(super) struct Errands {
    waiting: Mutex<Waiting>,
    added: Notify,
}

/// What waits, and behind what.
#[derive(Default)]
struct Waiting {
    /// The next ones of attendances that have none under way.
    ready: VecDeque<Errand>,
    /// The later ones of each attendance that has one ready or under way, which is in here also when it has no more.
    behind: HashMap<Id, VecDeque<Work>>,
    /// In both.
    num: usize,
}

impl Waiting {
    fn add(&mut self, errand: Errand) {
        self.num += 1;
        let Errand { id, work } = errand;
        if let Some(behind) = self.behind.get_mut(&id) {
            behind.push_back(work);
            return;
        }
        // An empty queue takes no memory of its own.
        self.behind.insert(id.clone(), VecDeque::new());
        self.ready.push_back(Errand { id, work });
    }

    fn next(&mut self) -> Option<Errand> {
        let errand = self.ready.pop_front()?;
        self.num -= 1;
        Some(errand)
    }

    /// The one under way is done: the next of its attendance may begin.
    fn end(&mut self, id: Id) {
        let Some(behind) = self.behind.get_mut(&id) else {
            return;
        };
        match behind.pop_front() {
            Some(work) => self.ready.push_back(Errand { id, work }),
            None => {
                self.behind.remove(&id);
            }
        }
    }
}

impl Errands {
    /// Whether something is to be done for the attendance, or is under way.
    pub(super) fn has(&self, id: &Id) -> bool {
        self.waiting.lock().behind.contains_key(id)
    }

    /// False when there is no room.
    pub(super) fn add(&self, errand: Errand) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.num >= MAX_WAITING {
            return false;
        }
        waiting.add(errand);
        drop(waiting);
        self.added.notify_one();
        true
    }

    /// Does what comes until `stop`, and what was there then.
    pub(super) async fn run(&self, stop: &CancellationToken) {
        let mut under_way = UnderWay::default();
        loop {
            self.begin(&mut under_way);
            tokio::select! {
                biased; // Stop wins, so that shutdown is prompt.
                () = stop.cancelled() => break,
                id = under_way.next(), if !under_way.is_empty() => self.end(id),
                () = self.added.notified(), if !is_full(&under_way) => {}
            }
        }
        let rest = async {
            loop {
                self.begin(&mut under_way);
                if under_way.is_empty() {
                    return;
                }
                let id = under_way.next().await;
                self.end(id);
            }
        };
        // Late ones are cut off: whoever asks later finds them ended by the store.
        let _ = tokio::time::timeout(FAREWELL, rest).await;
    }

    /// Begins what is ready, as far as there is room.
    fn begin(&self, under_way: &mut UnderWay) {
        let mut waiting = self.waiting.lock();
        while !is_full(under_way) {
            let Some(Errand { id, work }) = waiting.next() else {
                return;
            };
            under_way.push(Box::pin(async move {
                work.await;
                id
            }));
        }
    }

    fn end(&self, id: Option<Id>) {
        if let Some(id) = id {
            self.waiting.lock().end(id);
        }
    }
}

type UnderWay = FuturesUnordered<Pin<Box<dyn Future<Output = Id> + Send>>>;

fn is_full(under_way: &UnderWay) -> bool {
    under_way.len() >= MAX_UNDER_WAY
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use super::*;
    use crate::ids::{AppId, ChannelKey, ClientId};

    fn id(channel: &str) -> Id {
        let client = ClientId::random();
        (ChannelKey::new(&AppId::default_app(), channel), client)
    }

    /// Errands of two attendances, and what has been done of them.
    struct World {
        errands: Errands,
        gate: Arc<Semaphore>,
        done: Arc<Mutex<Vec<&'static str>>>,
    }

    impl World {
        fn new() -> Self {
            Self {
                errands: Errands::default(),
                gate: Arc::new(Semaphore::new(0)),
                done: Arc::default(),
            }
        }

        fn add(&self, id: &Id, name: &'static str, is_slow: bool) {
            let (gate, done) = (Arc::clone(&self.gate), Arc::clone(&self.done));
            let work = async move {
                if is_slow {
                    gate.acquire().await.unwrap().forget();
                }
                done.lock().push(name);
            };
            let errand = Errand {
                id: id.clone(),
                work: Box::pin(work),
            };
            assert!(self.errands.add(errand));
        }

        fn done(&self) -> Vec<&'static str> {
            self.done.lock().clone()
        }
    }

    #[tokio::test]
    async fn one_attendance_that_waits_holds_nobody_else_up_and_keeps_its_order() {
        let world = World::new();
        let (slow, other) = (id("slow"), id("other"));
        world.add(&slow, "join", true);
        world.add(&slow, "leave", false);
        world.add(&other, "other join", false);
        world.add(&other, "other leave", false);
        let stop = CancellationToken::new();
        let running = world.errands.run(&stop);
        let watching = async {
            while world.done().len() < 2 {
                tokio::task::yield_now().await;
            }
            assert_eq!(world.done(), ["other join", "other leave"]);
            world.gate.add_permits(1);
            while world.done().len() < 4 {
                tokio::task::yield_now().await;
            }
            stop.cancel();
        };
        let both = async { tokio::join!(running, watching) };
        let ended = tokio::time::timeout(Duration::from_secs(60), both).await;
        ended.expect("nobody waits for the slow one");
        assert_eq!(world.done()[2..], ["join", "leave"]);
        let waiting = world.errands.waiting.lock();
        assert!(
            waiting.behind.is_empty() && waiting.num == 0,
            "nothing is kept"
        );
    }

    #[tokio::test]
    async fn what_does_not_fit_is_refused_and_what_waits_behind_counts() {
        let world = World::new();
        let slow = id("slow");
        let errand = || Errand {
            id: slow.clone(),
            work: Box::pin(async {}),
        };
        for _ in 0..MAX_WAITING {
            assert!(world.errands.add(errand()));
        }
        assert!(!world.errands.add(errand()));
        let stop = CancellationToken::new();
        stop.cancel();
        world.errands.run(&stop).await;
        assert!(world.errands.add(errand()), "there is room again");
    }
}
