//! Reads of history that many sessions want at the same time: after an outage a channel's subscribers all come back.
//!
//! Owns who waits for which read. What a session needs is a read that *began* after it had joined its channel; so
//! while a read of a stream is under way whoever comes waits for the next one, and that one serves all who wait. An
//! engine in this process needs none of this. Invariants: of a stream one read is under way at a time, whatever
//! positions are asked for; nobody is handed a read that began before they asked; and nobody loses what a read of their
//! own would have given them because others miss more, or because the stream goes on meanwhile.

use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;
use tidegate_protocol::StreamPosition;
use tokio::{sync::oneshot, time::Duration};

use crate::{
    broker::{Broker, BrokerError, HistoryLimit, HistoryOrder, HistoryPage, HistoryQuery},
    ids::ChannelKey,
    node::Node,
};

type Answer = Result<HistoryPage, BrokerError>;

/// The reads of a node.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    /// An entry for each stream that is being read.
    under_way: Mutex<HashMap<Stream, Vec<Waiting>>>,
}

/// What one read can serve: a channel, an epoch, and how much is wanted at most.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Stream {
    key: ChannelKey,
    /// `None` for who wants the top alone.
    recovery: Option<(String, usize)>,
    meta_ttl: Duration,
}

#[derive(Debug)]
struct Waiting {
    /// The offset that is held already.
    held: u64,
    told: oneshot::Sender<Answer>,
}

/// Reads what comes after a position, oldest first, or the top alone: in one read with others where the engine is far.
pub(crate) async fn read_after(
    node: &Arc<Node>,
    key: &ChannelKey,
    since: Option<StreamPosition>,
    limit: usize,
    meta_ttl: Duration,
) -> Answer {
    let broker = node.broker();
    if !broker.is_far() {
        let query = query(since, limit, meta_ttl);
        return broker.history(key, query).wait().await;
    }
    let held = since.as_ref().map_or(0, |since| since.offset);
    let stream = Stream {
        key: key.clone(),
        recovery: since.map(|since| (since.epoch, limit)),
        meta_ttl,
    };
    let (told, answer) = oneshot::channel();
    let is_first = {
        let mut under_way = node.reads().under_way.lock();
        match under_way.get_mut(&stream) {
            Some(waiting) => {
                waiting.push(Waiting { held, told });
                false
            }
            None => {
                under_way.insert(stream.clone(), vec![Waiting { held, told }]);
                true
            }
        }
    };
    if is_first {
        // Not by whoever came first, who may go away while others wait.
        let reading = Reading {
            node: Arc::clone(node),
            stream,
            is_over: false,
        };
        node.spawn(reading.until_nobody_waits());
    }
    // The node stops when nobody answers.
    answer.await.unwrap_or(Err(BrokerError::Unavailable))
}

fn query(since: Option<StreamPosition>, limit: usize, meta_ttl: Duration) -> HistoryQuery {
    HistoryQuery {
        limit: match since {
            Some(_) => HistoryLimit::AtMost(limit),
            None => HistoryLimit::PositionOnly,
        },
        since,
        order: HistoryOrder::OldestFirst,
        meta_ttl,
    }
}

/// The reads of a stream. If they fall, those who wait are told so by losing their senders.
struct Reading {
    node: Arc<Node>,
    stream: Stream,
    /// Nobody waits, and somebody else may have begun anew.
    is_over: bool,
}

impl Reading {
    async fn until_nobody_waits(mut self) {
        while let Some(waiting) = self.next() {
            serve(&**self.node.broker(), &self.stream, waiting).await;
        }
    }

    fn next(&mut self) -> Option<Vec<Waiting>> {
        let mut under_way = self.node.reads().under_way.lock();
        let waiting = under_way.get_mut(&self.stream).map(std::mem::take);
        let waiting = waiting.filter(|waiting| !waiting.is_empty());
        if waiting.is_none() {
            under_way.remove(&self.stream);
            self.is_over = true;
        }
        waiting
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if !self.is_over {
            self.node.reads().under_way.lock().remove(&self.stream);
        }
    }
}

/// Reads once, from the lowest position that is held, or, where that is too far back, once more for the others.
async fn serve(broker: &dyn Broker, stream: &Stream, waiting: Vec<Waiting>) {
    let Stream {
        key,
        recovery,
        meta_ttl,
    } = stream;
    let lowest = waiting.iter().map(|one| one.held).min().unwrap_or(0);
    let read = async |held: u64| {
        let (since, limit) = match recovery {
            Some((epoch, limit)) => {
                let (offset, epoch) = (held, epoch.clone());
                (Some(StreamPosition { offset, epoch }), *limit)
            }
            None => (None, 0),
        };
        let query = query(since, limit, *meta_ttl);
        broker.history(key, query).wait().await
    };
    let first = read(lowest).await;
    let reaches_top = |page: &HistoryPage| {
        let last = page.publications.last();
        last.is_none_or(|last| last.offset >= page.top.offset)
    };
    let (Ok(page), Some((_, limit))) = (&first, recovery) else {
        return tell(waiting, &first);
    };
    if reaches_top(page) {
        return tell(waiting, &first);
    }
    // Whoever misses more than the limit cannot be given it, and learns so from a page that ends before the top.
    let reachable = page
        .top
        .offset
        .saturating_sub(u64::try_from(*limit).unwrap_or(u64::MAX));
    let (near, lost): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|one| one.held >= reachable);
    tell(lost, &first);
    if let Some(lowest) = near.iter().map(|one| one.held).min() {
        let second = read(lowest).await;
        tell(near, &second.map(|second| as_of(second, &page.top)));
    }
}

/// A page that does not come up to the top any more, as it was when its last publication was the top. If that was not
/// before `seen` it is whole for everybody who asked before `seen` was read: what came after it they hear themselves.
fn as_of(mut page: HistoryPage, seen: &StreamPosition) -> HistoryPage {
    if let Some(last) = page.publications.last()
        && page.top.epoch == seen.epoch
        && (seen.offset..page.top.offset).contains(&last.offset)
    {
        page.top.offset = last.offset;
    }
    page
}

/// Gives each what comes after its own position.
fn tell(waiting: Vec<Waiting>, answer: &Answer) {
    for Waiting { held, told } in waiting {
        let answer = answer.as_ref().map(|page| {
            let is_held = |one: &Arc<tidegate_protocol::Publication>| one.offset <= held;
            let from = page.publications.partition_point(is_held);
            HistoryPage {
                publications: page.publications[from..].to_vec(),
                top: page.top.clone(),
            }
        });
        // Whoever asked may have gone away.
        let _ = told.send(answer.map_err(Clone::clone));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tidegate_protocol::Publication;

    use super::*;
    use crate::{
        broker::{HistoryOptions, JoinLeave, PublishRequest, Published},
        hooks::{NoHooks, Progress},
        hub::{Hub, HubConfig},
        ids::AppId,
        memory::MemoryBroker,
        node::NodeParts,
    };

    /// A broker that counts what it is asked.
    struct Counting {
        inner: MemoryBroker,
        asked: Mutex<Vec<Option<u64>>>,
        /// Publications that come after each read.
        growth: usize,
        /// The first read falls.
        falls: AtomicBool,
    }

    impl Broker for Counting {
        fn publish(&self, request: PublishRequest) -> Progress<Result<Published, BrokerError>> {
            self.inner.publish(request)
        }
        fn history(&self, key: &ChannelKey, query: HistoryQuery) -> Progress<Answer> {
            self.asked
                .lock()
                .push(query.since.as_ref().map(|since| since.offset));
            if self.falls.swap(false, Ordering::Relaxed) {
                return Progress::Pending(Box::pin(async { panic!("a test has the read fall") }));
            }
            let answer = self.inner.history(key, query);
            for _ in 0..self.growth {
                let _ = self.inner.publish(publication());
            }
            answer
        }
        fn is_far(&self) -> bool {
            true
        }
        fn publish_join_leave(
            &self,
            key: &ChannelKey,
            event: JoinLeave,
        ) -> Progress<Result<(), BrokerError>> {
            self.inner.publish_join_leave(key, event)
        }
        fn remove_history(&self, key: &ChannelKey) -> Progress<Result<(), BrokerError>> {
            self.inner.remove_history(key)
        }
        fn subscribe(&self, key: &ChannelKey) -> Progress<Result<(), BrokerError>> {
            self.inner.subscribe(key)
        }
        fn unsubscribe(&self, key: &ChannelKey) {
            self.inner.unsubscribe(key);
        }
        fn renew_epoch(
            &self,
            key: &ChannelKey,
            epoch: &str,
        ) -> Progress<Result<StreamPosition, BrokerError>> {
            self.inner.renew_epoch(key, epoch)
        }
    }

    fn key() -> ChannelKey {
        ChannelKey::new(&AppId::default_app(), "room")
    }

    /// A stream of so many publications.
    async fn stream(number: u64) -> (Counting, String) {
        let inner = MemoryBroker::new(Hub::new(HubConfig::default()) as _);
        let mut epoch = String::new();
        for _ in 0..number {
            let published = inner.publish(publication());
            let position = published.wait().await.unwrap().position;
            epoch = position.expect("with history").epoch;
        }
        let broker = Counting {
            inner,
            asked: Mutex::default(),
            growth: 0,
            falls: AtomicBool::new(false),
        };
        (broker, epoch)
    }

    fn publication() -> PublishRequest {
        PublishRequest {
            key: key(),
            publication: Publication::default(),
            history: Some(HistoryOptions {
                size: 1_000,
                ttl: Duration::from_secs(60),
                meta_ttl: Duration::from_secs(60),
            }),
            idempotency_key: None,
            version: 0,
            version_epoch: "".into(),
        }
    }

    /// What each position is answered: first offset, how many, top.
    async fn served(
        broker: &Counting,
        recovery: Option<(String, usize)>,
        held: &[u64],
    ) -> Vec<(u64, usize, u64)> {
        let stream = Stream {
            key: key(),
            recovery,
            meta_ttl: Duration::from_secs(60),
        };
        let mut answers = Vec::new();
        let waiting = held.iter().map(|held| {
            let (told, answer) = oneshot::channel();
            answers.push(answer);
            Waiting { held: *held, told }
        });
        let waiting = waiting.collect();
        serve(broker, &stream, waiting).await;
        let mut served = Vec::new();
        for answer in answers {
            let page = answer.await.expect("told").expect("read");
            let first = page.publications.first().map_or(0, |one| one.offset);
            served.push((first, page.publications.len(), page.top.offset));
        }
        served
    }

    #[tokio::test]
    async fn one_read_serves_whatever_positions_are_held() {
        let (broker, epoch) = stream(50).await;
        let found = served(&broker, Some((epoch, 100)), &[10, 48, 50, 10]).await;
        assert_eq!(found, [(11, 40, 50), (49, 2, 50), (0, 0, 50), (11, 40, 50)]);
        assert_eq!(*broker.asked.lock(), [Some(10)]);
        assert_eq!(served(&broker, None, &[0, 0]).await, [(0, 0, 50); 2]);
        assert_eq!(*broker.asked.lock(), [Some(10), None]);
    }

    #[tokio::test]
    async fn who_missed_too_much_does_not_keep_the_others_from_what_they_missed() {
        let (broker, epoch) = stream(50).await;
        let found = served(&broker, Some((epoch.clone(), 20)), &[1, 30, 45, 29]).await;
        // Those at 1 and 29 miss more than 20: what they get ends before the top, which is refused as not whole.
        assert_eq!(found[1..3], [(31, 20, 50), (46, 5, 50)]);
        for (first, number, top) in [found[0], found[3]] {
            assert!(number == 0 || first + number as u64 - 1 < top);
        }
        assert_eq!(*broker.asked.lock(), [Some(1), Some(30)]);
        // Another epoch has nothing to give and says so with the top.
        let found = served(&broker, Some(("other".into(), 20)), &[1, 45]).await;
        assert_eq!(found, [(0, 0, 50); 2]);
    }

    #[tokio::test]
    async fn who_missed_too_much_costs_nobody_a_recovery_while_the_stream_goes_on() {
        let (broker, epoch) = stream(50).await;
        let broker = Counting {
            growth: 7,
            ..broker
        };
        let found = served(&broker, Some((epoch, 20)), &[1, 30, 45]).await;
        // The second read begins where the one at 30 misses just 20, and ends before the new top.
        assert_eq!(found[1..], [(31, 20, 50), (46, 5, 50)]);
        assert_eq!(*broker.asked.lock(), [Some(1), Some(30)]);
    }

    #[tokio::test]
    async fn a_read_that_falls_leaves_nobody_waiting_and_the_next_one_is_made() {
        let (broker, epoch) = stream(3).await;
        broker.falls.store(true, Ordering::Relaxed);
        let hub = Hub::new(HubConfig::default());
        let node = Node::new(NodeParts {
            broker: Arc::new(broker),
            ..NodeParts::in_memory(hub, Arc::new(NoHooks))
        });
        let since = StreamPosition { offset: 1, epoch };
        let read = async || {
            let (key, since) = (key(), Some(since.clone()));
            let read = read_after(&node, &key, since, 10, Duration::from_secs(60));
            tokio::time::timeout(Duration::from_secs(60), read).await
        };
        assert_eq!(read().await.unwrap(), Err(BrokerError::Unavailable));
        let page = read().await.unwrap().unwrap();
        assert_eq!((page.publications.len(), page.top.offset), (2, 3));
    }
}
