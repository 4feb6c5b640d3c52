//! What every broker is held to, whatever it keeps its streams in.
//!
//! One function per promise of [`Broker`]; an implementation's tests call [`check_all`] with a fresh broker
//! and the [`Recorder`] it reports to. Compiled for tests and with the feature `testing`.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tidegate_protocol::{ClientInfo, Publication, Raw, StreamPosition};
use tokio::sync::Notify;

use crate::{
    broker::{
        Broker, BrokerEvents, Doubt, HistoryLimit, HistoryOptions, HistoryOrder, HistoryPage,
        HistoryQuery, JoinLeave, PublishRequest, Published,
    },
    ids::{AppId, ChannelKey},
};

/// Remembers what a broker published.
#[derive(Debug, Default)]
pub struct Recorder {
    seen: Mutex<Vec<Seen>>,
    arrivals: Mutex<Vec<(ChannelKey, JoinLeave)>>,
    arrived: Notify,
}

#[derive(Debug)]
struct Seen {
    key: ChannelKey,
    /// 0 outside a stream.
    offset: u64,
}

impl BrokerEvents for Recorder {
    fn on_publication(
        &self,
        key: &ChannelKey,
        publication: &Arc<Publication>,
        position: Option<&StreamPosition>,
    ) {
        let offset = position.map_or(0, |position| position.offset);
        assert_eq!(publication.offset, offset, "publication and position agree");
        let key = key.clone();
        self.seen.lock().push(Seen { key, offset });
        self.arrived.notify_one();
    }

    fn on_join_leave(&self, key: &ChannelKey, event: &JoinLeave) {
        self.arrivals.lock().push((key.clone(), event.clone()));
    }

    fn is_followed(&self, _: &ChannelKey) -> bool {
        false
    }

    fn on_doubt(&self, _: Doubt<'_>) {}
}

impl Recorder {
    /// The offsets seen in a channel, in order.
    fn offsets(&self, key: &ChannelKey) -> Vec<u64> {
        let seen = self.seen.lock();
        let of_channel = seen.iter().filter(|seen| seen.key == *key);
        of_channel.map(|seen| seen.offset).collect()
    }
}

impl Recorder {
    /// The joins and leaves seen in a channel, in order.
    fn arrivals(&self, key: &ChannelKey) -> Vec<JoinLeave> {
        let arrivals = self.arrivals.lock();
        let of_channel = arrivals.iter().filter(|(of, _)| of == key);
        of_channel.map(|(_, event)| event.clone()).collect()
    }
}

/// How long an event may take from the answer to those who follow the channel.
const EVENT_LIMIT: Duration = Duration::from_secs(10);

/// A broker under test.
struct Subject<'a> {
    broker: &'a dyn Broker,
    events: &'a Recorder,
    prefix: &'a str,
}

const OPTIONS: HistoryOptions = HistoryOptions {
    size: 5,
    ttl: Duration::from_secs(60),
    meta_ttl: Duration::from_secs(600),
};

const EVERYTHING: HistoryLimit = HistoryLimit::AtMost(usize::MAX);

/// Runs every check. `prefix` keeps runs on a shared store apart.
pub async fn check_all(broker: &dyn Broker, events: &Recorder, prefix: &str) {
    let subject = Subject {
        broker,
        events,
        prefix,
    };
    subject.without_history_nothing_is_kept().await;
    subject.offsets_rise_by_one_and_events_come_in_order().await;
    subject.history_is_bounded_and_read_both_ways().await;
    subject.an_idempotency_key_publishes_once().await;
    subject.an_old_version_is_suppressed().await;
    subject.removing_history_keeps_the_position().await;
    subject.another_epoch_reads_nothing().await;
    subject.the_first_publication_carries_the_epoch().await;
    subject.a_renewed_epoch_is_renewed_once().await;
    subject.apps_with_the_same_channel_are_apart().await;
    subject
        .joins_and_leaves_arrive_whole_and_leave_no_trace()
        .await;
}

impl Subject<'_> {
    async fn key(&self, name: &str) -> ChannelKey {
        self.key_in("default", name).await
    }

    async fn key_in(&self, app: &str, name: &str) -> ChannelKey {
        let app = AppId::parse(app).expect("an app id");
        let key = ChannelKey::new(&app, &format!("{}{name}", self.prefix));
        let answer = self.broker.subscribe(&key).wait().await;
        answer.expect("subscribe");
        key
    }

    async fn publish(&self, request: PublishRequest) -> Published {
        let answer = self.broker.publish(request).wait().await;
        answer.expect("publish")
    }

    async fn page(&self, key: &ChannelKey, query: HistoryQuery) -> HistoryPage {
        let answer = self.broker.history(key, query).wait().await;
        answer.expect("history")
    }

    async fn top(&self, key: &ChannelKey) -> StreamPosition {
        self.page(key, query(HistoryLimit::PositionOnly)).await.top
    }

    /// Waits for as many events as are expected: an engine may answer a publish before anybody hears of it.
    async fn heard(&self, key: &ChannelKey, expected: &[u64]) {
        let all_heard = async {
            while self.events.offsets(key).len() < expected.len() {
                self.events.arrived.notified().await;
            }
        };
        let in_time = tokio::time::timeout(EVENT_LIMIT, all_heard).await;
        let offsets = self.events.offsets(key);
        assert!(in_time.is_ok(), "{key:?} heard {offsets:?} only");
        assert_eq!(offsets, expected);
    }

    async fn without_history_nothing_is_kept(&self) {
        let key = self.key("plain").await;
        let request = PublishRequest {
            history: None,
            ..request(&key)
        };
        assert_eq!(self.publish(request).await, Published::default());
        self.heard(&key, &[0]).await;
        assert_eq!(self.top(&key).await.offset, 0);
    }

    async fn offsets_rise_by_one_and_events_come_in_order(&self) {
        let key = self.key("order").await;
        let epoch = self.top(&key).await.epoch;
        assert!(!epoch.is_empty());
        for offset in 1..=3 {
            let published = self.publish(request(&key)).await;
            let position = published.position.expect("a position");
            assert_eq!((position.offset, &position.epoch), (offset, &epoch));
        }
        self.heard(&key, &[1, 2, 3]).await;
    }

    async fn history_is_bounded_and_read_both_ways(&self) {
        let key = self.key("bounded").await;
        for _ in 0..8 {
            self.publish(request(&key)).await;
        }
        let all = self.page(&key, query(EVERYTHING)).await;
        assert_eq!(offsets(&all), [4, 5, 6, 7, 8]);
        assert_eq!(all.top.offset, 8);
        let since = |offset| {
            Some(StreamPosition {
                offset,
                epoch: all.top.epoch.clone(),
            })
        };
        let rows = [
            (
                HistoryLimit::AtMost(2),
                None,
                HistoryOrder::OldestFirst,
                vec![4, 5],
            ),
            (
                HistoryLimit::AtMost(2),
                None,
                HistoryOrder::NewestFirst,
                vec![8, 7],
            ),
            (EVERYTHING, since(6), HistoryOrder::OldestFirst, vec![7, 8]),
            (EVERYTHING, since(6), HistoryOrder::NewestFirst, vec![5, 4]),
            (EVERYTHING, since(8), HistoryOrder::OldestFirst, vec![]),
            (
                HistoryLimit::PositionOnly,
                since(1),
                HistoryOrder::OldestFirst,
                vec![],
            ),
        ];
        for (limit, since, order, expected) in rows {
            let query = HistoryQuery {
                since,
                order,
                ..query(limit)
            };
            let page = self.page(&key, query.clone()).await;
            assert_eq!(offsets(&page), expected, "{query:?}");
        }
    }

    async fn an_idempotency_key_publishes_once(&self) {
        let key = self.key("once").await;
        let again = || PublishRequest {
            idempotency_key: Some("k".into()),
            ..request(&key)
        };
        let first = self.publish(again()).await;
        let second = self.publish(again()).await;
        assert!(!first.is_repeated && second.is_repeated);
        assert_eq!(first.position, second.position);
        // Were the second one published after all, this would not be the second to be heard.
        self.publish(request(&key)).await;
        self.heard(&key, &[1, 2]).await;
    }

    async fn an_old_version_is_suppressed(&self) {
        let key = self.key("version").await;
        let version = |version, epoch: &str| PublishRequest {
            version,
            version_epoch: epoch.into(),
            ..request(&key)
        };
        for (number, epoch, is_suppressed) in [
            (2, "a", false),
            (2, "a", true),
            (1, "", true),
            (3, "a", false),
            (1, "b", false),
        ] {
            let published = self.publish(version(number, epoch)).await;
            assert_eq!(published.is_suppressed, is_suppressed, "{number} {epoch}");
            assert!(published.position.is_some());
        }
        self.heard(&key, &[1, 2, 3]).await;
    }

    async fn removing_history_keeps_the_position(&self) {
        let key = self.key("removed").await;
        self.publish(request(&key)).await;
        let before = self.top(&key).await;
        let answer = self.broker.remove_history(&key).wait().await;
        answer.expect("remove");
        let page = self.page(&key, query(EVERYTHING)).await;
        assert!(page.publications.is_empty());
        assert_eq!(page.top, before);
    }

    async fn another_epoch_reads_nothing(&self) {
        let key = self.key("epoch").await;
        self.publish(request(&key)).await;
        let since = |epoch: &str| HistoryQuery {
            since: Some(StreamPosition {
                offset: 0,
                epoch: epoch.into(),
            }),
            ..query(EVERYTHING)
        };
        let other = self.page(&key, since("not this one")).await;
        assert!(other.publications.is_empty());
        assert_eq!(other.top.offset, 1);
        // An empty epoch names whatever stream there is.
        assert_eq!(offsets(&self.page(&key, since("")).await), [1]);
    }

    async fn a_renewed_epoch_is_renewed_once(&self) {
        let key = self.key("renewed").await;
        let first = self.publish(request(&key)).await.position;
        let old = first.expect("a position").epoch;
        let renewed = self.renew(&key, &old).await;
        assert_ne!(renewed.epoch, old);
        assert_eq!(self.top(&key).await, renewed);
        // The other nodes have seen the same, and come later.
        assert_eq!(self.renew(&key, &old).await, renewed);
        let since = Some(StreamPosition {
            offset: 1,
            epoch: old.clone(),
        });
        let query = HistoryQuery {
            since,
            ..query(EVERYTHING)
        };
        let page = self.page(&key, query).await;
        assert!(page.publications.is_empty(), "nobody is recovered over it");
        let next = self.publish(request(&key)).await.position;
        let next = next.expect("a position");
        assert_eq!(
            (next.epoch, next.offset),
            (renewed.epoch, renewed.offset + 1)
        );
    }

    async fn renew(&self, key: &ChannelKey, epoch: &str) -> StreamPosition {
        let answer = self.broker.renew_epoch(key, epoch).wait().await;
        answer.expect("renew")
    }

    async fn the_first_publication_carries_the_epoch(&self) {
        let key = self.key("first").await;
        self.publish(request(&key)).await;
        self.publish(request(&key)).await;
        let page = self.page(&key, query(EVERYTHING)).await;
        let epochs: Vec<_> = page
            .publications
            .iter()
            .map(|one| one.epoch.as_str())
            .collect();
        assert_eq!(epochs, [page.top.epoch.as_str(), ""]);
    }

    async fn apps_with_the_same_channel_are_apart(&self) {
        let (one, two) = (
            self.key_in("one", "same").await,
            self.key_in("two", "same").await,
        );
        self.publish(request(&one)).await;
        assert_eq!(self.top(&one).await.offset, 1);
        assert_eq!(self.top(&two).await.offset, 0);
        self.publish(request(&two)).await;
        self.heard(&one, &[1]).await;
        self.heard(&two, &[1]).await;
    }

    async fn joins_and_leaves_arrive_whole_and_leave_no_trace(&self) {
        let (key, other) = (self.key("joins").await, self.key("other").await);
        let before = self.top(&key).await;
        let info = ClientInfo {
            user: "ann".into(),
            client: "c".into(),
            conn_info: Raw::from(r#"{"name":"Ann"}"#),
            chan_info: Raw::from(r#"{"role":"host"}"#),
        };
        let events = [JoinLeave::Join(info.clone()), JoinLeave::Leave(info)];
        for event in events.clone() {
            let answer = self.broker.publish_join_leave(&key, event).wait().await;
            answer.expect("publish a join or a leave");
        }
        let arrived = async {
            while self.events.arrivals(&key).len() < events.len() {
                tokio::task::yield_now().await;
            }
        };
        let arrived = tokio::time::timeout(EVENT_LIMIT, arrived).await;
        arrived.expect("the events arrive");
        assert_eq!(self.events.arrivals(&key), events);
        assert!(self.events.arrivals(&other).is_empty());
        assert!(self.events.offsets(&key).is_empty());
        assert_eq!(self.top(&key).await, before);
    }
}

fn request(key: &ChannelKey) -> PublishRequest {
    PublishRequest {
        key: key.clone(),
        publication: Publication {
            data: Raw::from("{}"),
            ..Publication::default()
        },
        history: Some(OPTIONS),
        idempotency_key: None,
        version: 0,
        version_epoch: Box::default(),
    }
}

fn query(limit: HistoryLimit) -> HistoryQuery {
    HistoryQuery {
        limit,
        since: None,
        order: HistoryOrder::OldestFirst,
        meta_ttl: OPTIONS.meta_ttl,
    }
}

fn offsets(page: &HistoryPage) -> Vec<u64> {
    page.publications.iter().map(|one| one.offset).collect()
}
