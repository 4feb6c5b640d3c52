use std::{sync::Arc, task::Waker};

use bytes::Bytes;
use tidegate_protocol::{Codec, Frame, Framing, Publication, StreamPosition};
use tokio::time::Duration;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::*;
use crate::{
    ids::{AppId, ChannelKey, ClientId},
    link::{PushOutcome, Signal},
    test_wire::TestWire,
};

mod turns;

/// A hub with its tasks running; they stop when it is dropped.
struct Running {
    hub: Arc<Hub>,
    stop: CancellationToken,
}

impl Running {
    fn start(config: HubConfig) -> Self {
        let hub = Hub::new(config);
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        hub.run(&tracker, &stop);
        Self { hub, stop }
    }

    fn with_shards(shards: usize) -> Self {
        Self::start(HubConfig {
            shards,
            ..HubConfig::default()
        })
    }

    fn link(&self) -> (TestWire, Arc<Link>) {
        self.link_with(Codec::Json)
    }

    fn link_with(&self, codec: Codec) -> (TestWire, Arc<Link>) {
        let wire = TestWire::default();
        let framing = Framing::WebSocket;
        let link = self
            .hub
            .link(ClientId::random(), codec, framing, wire.clone());
        (wire, link)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn key(channel: &str) -> ChannelKey {
    ChannelKey::new(&AppId::default_app(), channel)
}

fn publication(data: &str) -> Arc<Publication> {
    Arc::new(Publication {
        data: Bytes::from(data.to_owned()).into(),
        ..Publication::default()
    })
}

fn positioned(offset: u64) -> (Arc<Publication>, StreamPosition) {
    let publication = Publication {
        data: Bytes::from_static(b"{}").into(),
        offset,
        ..Publication::default()
    };
    (Arc::new(publication), position(offset))
}

fn position(offset: u64) -> StreamPosition {
    StreamPosition {
        offset,
        epoch: "e".to_owned(),
    }
}

fn marker(name: &str, offset: u64) -> Frame {
    let publication = Publication {
        offset,
        ..Publication::default()
    };
    Frame::publication(Codec::Json, Framing::WebSocket, name, &publication).unwrap()
}

fn live(hub: &Arc<Hub>, key: &ChannelKey, link: &Arc<Link>) -> Membership {
    let membership = hub.join(key, link).membership;
    membership.activate(|_| Activation::Unpositioned);
    membership
}

fn is_gap(signals: &[Signal]) -> bool {
    signals
        .iter()
        .any(|signal| matches!(signal, Signal::Gap(_)))
}

#[tokio::test]
async fn every_member_gets_a_publication_in_its_own_codec() {
    let running = Running::with_shards(3);
    let members: Vec<_> = (0..600)
        .map(|index| {
            let codec = if index % 2 == 0 {
                Codec::Json
            } else {
                Codec::Protobuf
            };
            let (wire, link) = running.link_with(codec);
            let membership = live(&running.hub, &key("news"), &link);
            (codec, wire, link, membership)
        })
        .collect();
    running
        .hub
        .broadcast(&key("news"), &publication("{\"a\":1}"), None);
    let expected = r#"{"push":{"channel":"news","pub":{"data":{"a":1}}}}"#;
    members[598].1.until(|messages| !messages.is_empty()).await;
    let binary = Frame::publication(
        Codec::Protobuf,
        Framing::WebSocket,
        "news",
        &publication("{\"a\":1}"),
    )
    .unwrap();
    for (codec, wire, ..) in &members {
        match codec {
            Codec::Json => assert_eq!(wire.until(|m| !m.is_empty()).await, [expected]),
            Codec::Protobuf => {
                until(|| !wire.bytes().is_empty()).await;
                assert_eq!(wire.bytes(), binary.bytes().to_vec());
            }
        }
    }
}

/// Lets other tasks run until `is_it` holds.
async fn until(is_it: impl Fn() -> bool) {
    let wait = async {
        while !is_it() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .expect("the condition holds in time");
}

#[tokio::test]
async fn publications_of_one_batch_arrive_joined_and_in_order() {
    let running = Running::with_shards(1);
    let (wire, link) = running.link();
    let _membership = live(&running.hub, &key("news"), &link);
    for number in 0..40 {
        running
            .hub
            .broadcast(&key("news"), &publication(&number.to_string()), None);
    }
    let messages = wire.until(|messages| messages.len() == 40).await;
    for (number, message) in messages.iter().enumerate() {
        assert!(
            message.contains(&format!("\"data\":{number}}}")),
            "{message}"
        );
    }
    assert!(wire.num_writes() <= 2, "{} writes", wire.num_writes());
}

#[tokio::test]
async fn a_link_in_several_channels_gets_one_write_for_one_batch() {
    let running = Running::with_shards(1);
    let (wire, link) = running.link();
    let channels: Vec<_> = (0..10).map(|n| key(&format!("c{n}"))).collect();
    let _memberships: Vec<_> = channels
        .iter()
        .map(|key| live(&running.hub, key, &link))
        .collect();
    for key in &channels {
        running.hub.broadcast(key, &publication("1"), None);
    }
    wire.until(|messages| messages.len() == 10).await;
    assert_eq!(wire.num_writes(), 1);
}

#[tokio::test]
async fn what_is_published_before_the_reply_follows_it() {
    let running = Running::with_shards(1);
    let (wire, link) = running.link();
    let key = key("news");
    let joined = running.hub.join(&key, &link);
    assert!(joined.is_first);
    for offset in 1..=3 {
        let (publication, position) = positioned(offset);
        running.hub.broadcast(&key, &publication, Some(&position));
    }
    let (_, other) = running.link();
    let witness = live(&running.hub, &key, &other);
    running
        .hub
        .broadcast(&key, &positioned(4).0, Some(&position(4)));
    until(|| running.hub.statistics().deliveries > 0).await;
    drop(witness);
    joined.membership.activate(|buffered| {
        assert!(!buffered.has_overflowed);
        let offsets: Vec<_> = buffered
            .publications
            .iter()
            .map(|kept| kept.publication.offset)
            .collect();
        assert_eq!(offsets, [1, 2, 3, 4]);
        assert_eq!(link.push(marker("reply", 2)), PushOutcome::Queued);
        for kept in &buffered.publications[2..] {
            let frame =
                Frame::publication(Codec::Json, Framing::WebSocket, "news", &kept.publication);
            assert_eq!(link.push(frame.unwrap()), PushOutcome::Queued);
        }
        // The history had one more.
        assert_eq!(link.push(marker("news", 5)), PushOutcome::Queued);
        Activation::After(position(5))
    });
    let _ = link.flush();
    running
        .hub
        .broadcast(&key, &positioned(5).0, Some(&position(5)));
    running
        .hub
        .broadcast(&key, &positioned(6).0, Some(&position(6)));
    let messages = wire.until(|messages| messages.len() == 5).await;
    assert!(messages[0].contains("reply"));
    for (message, offset) in messages[1..].iter().zip(3..) {
        assert!(
            message.contains(&format!("\"offset\":{offset}")),
            "{message}"
        );
    }
}

#[tokio::test]
async fn a_missing_offset_stops_the_member_and_tells_it() {
    let running = Running::with_shards(1);
    let (wire, link) = running.link();
    let membership = running.hub.join(&key("news"), &link).membership;
    membership.activate(|_| Activation::After(position(1)));
    running
        .hub
        .broadcast(&key("news"), &positioned(2).0, Some(&position(2)));
    running
        .hub
        .broadcast(&key("news"), &positioned(4).0, Some(&position(4)));
    running
        .hub
        .broadcast(&key("news"), &positioned(5).0, Some(&position(5)));
    until(|| running.hub.statistics().gaps == 1).await;
    assert!(is_gap(&link.take_signals()));
    assert_eq!(wire.until(|messages| !messages.is_empty()).await.len(), 1);
}

#[tokio::test]
async fn a_new_epoch_stops_positioned_members_only() {
    let running = Running::with_shards(1);
    let (_, positioned_link) = running.link();
    let (wire, plain_link) = running.link();
    let positioned_member = running.hub.join(&key("news"), &positioned_link).membership;
    positioned_member.activate(|_| Activation::After(position(7)));
    let _plain = live(&running.hub, &key("news"), &plain_link);
    let new_epoch = StreamPosition {
        offset: 1,
        epoch: "f".to_owned(),
    };
    running
        .hub
        .broadcast(&key("news"), &positioned(1).0, Some(&new_epoch));
    wire.until(|messages| messages.len() == 1).await;
    until(|| running.hub.statistics().gaps == 1).await;
    assert!(is_gap(&positioned_link.take_signals()));
    assert!(!is_gap(&plain_link.take_signals()));
}

#[tokio::test]
async fn a_full_queue_stops_the_channels_members_and_later_members_get_what_follows() {
    let running = Running::start(HubConfig {
        shards: 1,
        queue_bytes: 1,
        ..HubConfig::default()
    });
    let (wire, link) = running.link();
    let membership = live(&running.hub, &key("news"), &link);
    // The flusher has not run yet: this test is one thread.
    for number in 0..3 {
        running
            .hub
            .broadcast(&key("news"), &publication(&number.to_string()), None);
    }
    assert_eq!(running.hub.statistics().queue_overflows, 2);
    until(|| running.hub.statistics().gaps == 1).await;
    assert!(is_gap(&link.take_signals()));
    assert_eq!(
        wire.messages().len(),
        1,
        "what was queued before is delivered"
    );
    drop(membership);
    let _again = live(&running.hub, &key("news"), &link);
    running.hub.broadcast(&key("news"), &publication("9"), None);
    wire.until(|messages| messages.len() == 2).await;
}

#[tokio::test]
async fn a_loss_while_joining_is_reported_to_the_closure() {
    let running = Running::start(HubConfig {
        shards: 1,
        queue_bytes: 1,
        ..HubConfig::default()
    });
    let (_, link) = running.link();
    let membership = running.hub.join(&key("news"), &link).membership;
    for _ in 0..2 {
        running.hub.broadcast(&key("news"), &publication("1"), None);
    }
    let (_, witness) = running.link();
    let _witness = live(&running.hub, &key("news"), &witness);
    until(|| running.hub.statistics().gaps == 1).await;
    membership.activate(|buffered| {
        assert!(buffered.has_overflowed);
        Activation::Withdraw
    });
}

#[tokio::test]
async fn slow_reader_is_signalled_and_others_still_receive() {
    let running = Running::start(HubConfig {
        shards: 1,
        outbox_bytes: 2_000,
        ..HubConfig::default()
    });
    let stuck_wire = TestWire::with_room(10);
    let stuck = running.hub.link(
        ClientId::random(),
        Codec::Json,
        Framing::WebSocket,
        stuck_wire.clone(),
    );
    let stuck: Arc<Link> = stuck;
    let (wire, link) = running.link();
    let _memberships = [
        live(&running.hub, &key("news"), &stuck),
        live(&running.hub, &key("news"), &link),
    ];
    for number in 0..100 {
        running
            .hub
            .broadcast(&key("news"), &publication(&number.to_string()), None);
        wire.until(|messages| messages.len() == number + 1).await;
    }
    let signals = stuck.take_signals();
    assert!(matches!(signals.as_slice(), [Signal::Slow]), "{signals:?}");
    assert!(stuck.num_queued_bytes() < 200, "only the cut frame is kept");
}

#[tokio::test]
async fn data_that_is_not_json_disconnects_json_members_only() {
    let running = Running::with_shards(1);
    let (_, json) = running.link();
    let (binary_wire, binary) = running.link_with(Codec::Protobuf);
    let _memberships = [
        live(&running.hub, &key("news"), &json),
        live(&running.hub, &key("news"), &binary),
    ];
    running
        .hub
        .broadcast(&key("news"), &publication("\u{1}not json"), None);
    until(|| !binary_wire.bytes().is_empty()).await;
    let signals = json.take_signals();
    assert!(
        matches!(signals.as_slice(), [Signal::Disconnect { code: 3506, .. }]),
        "{signals:?}"
    );
}

#[tokio::test]
async fn a_vacant_channel_lingers_and_is_then_given_back() {
    let running = Running::start(HubConfig {
        shards: 1,
        linger: Duration::ZERO,
        ..HubConfig::default()
    });
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&told);
    running
        .hub
        .when_vacant(move |key| heard.lock().push(key.clone()));
    let (_, link) = running.link();
    let joined = running.hub.join(&key("news"), &link);
    joined.membership.confirm();
    drop(joined);
    assert!(
        !running.hub.join(&key("news"), &link).is_first,
        "the channel lingers"
    );
    assert_eq!(running.hub.num_channels(), 1);
    until(|| told.lock().len() == 1).await;
    assert_eq!(*told.lock(), [key("news")]);
    assert_eq!(running.hub.num_channels(), 0);
    assert!(running.hub.join(&key("news"), &link).is_first);
}

/// A broker in a few lines: a stream whose appends and broadcasts are one step.
#[derive(Default)]
struct Stream {
    top: Mutex<u64>,
}

impl Stream {
    fn publish(&self, hub: &Hub, key: &ChannelKey) {
        let mut top = self.top.lock();
        *top += 1;
        let (publication, position) = positioned(*top);
        hub.broadcast(key, &publication, Some(&position));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn racing_subscribers_see_every_offset_once_and_in_order() {
    const SUBSCRIBERS: usize = 24;
    const ROUNDS: usize = 150;
    // Publications follow the subscribers' progress: in all fewer than one membership keeps back, so that a
    // subscriber that the machine puts aside in the middle of its hand-over cannot be told of a gap.
    const ROUNDS_PER_PUBLICATION: usize = 4;
    let progress = Arc::new(AtomicUsize::new(0));
    let running = Running::with_shards(3);
    let stream = Arc::new(Stream::default());
    let key = key("race");
    let is_over = CancellationToken::new();
    let tracker = TaskTracker::new();
    for _ in 0..2 {
        let (hub, stream, key) = (Arc::clone(&running.hub), Arc::clone(&stream), key.clone());
        let (is_over, progress) = (is_over.clone(), Arc::clone(&progress));
        tracker.spawn(async move {
            while !is_over.is_cancelled() {
                let due = progress.load(Ordering::Relaxed) / ROUNDS_PER_PUBLICATION;
                if *stream.top.lock() < due as u64 {
                    stream.publish(&hub, &key);
                }
                tokio::task::yield_now().await;
            }
        });
    }
    let mut subscribers = tokio::task::JoinSet::new();
    for _ in 0..SUBSCRIBERS {
        let progress = Arc::clone(&progress);
        let (wire, link) = running.link();
        let (hub, stream, key) = (Arc::clone(&running.hub), Arc::clone(&stream), key.clone());
        subscribers.spawn(async move {
            for round in 0..ROUNDS {
                let membership = hub.join(&key, &link).membership;
                tokio::task::yield_now().await;
                let top = *stream.top.lock();
                tokio::task::yield_now().await;
                membership.activate(|buffered| {
                    if buffered.has_overflowed {
                        return Activation::Withdraw;
                    }
                    // As a session does: the reply says where the client is, then what was kept back follows.
                    let mut have = top;
                    assert_eq!(link.push(marker("reply", top)), PushOutcome::Queued);
                    for kept in buffered.publications {
                        let offset = kept.publication.offset;
                        if offset > have {
                            assert_eq!(
                                offset,
                                have + 1,
                                "nothing is missing from what was kept back"
                            );
                            have = offset;
                            assert_eq!(link.push(marker("race", offset)), PushOutcome::Queued);
                        }
                    }
                    Activation::After(position(have))
                });
                let _ = link.flush();
                for _ in 0..round % 7 {
                    tokio::task::yield_now().await;
                }
                drop(membership);
                progress.fetch_add(1, Ordering::Relaxed);
                assert_eq!(link.push(marker("left", 0)), PushOutcome::Queued);
                let _ = link.flush();
            }
            let signals = link.take_signals();
            assert!(signals.is_empty(), "{signals:?}");
            wire
        });
    }
    let mut num_live = 0;
    while let Some(wire) = subscribers.join_next().await {
        num_live += check_story(&wire.unwrap());
    }
    is_over.cancel();
    assert!(num_live > 0, "the race delivered something");
}

/// Between `reply` and `left` offsets follow each other; after `left` there are none. Answers how many there were.
fn check_story(wire: &TestWire) -> usize {
    let mut next = None;
    let mut num_live = 0;
    for message in wire.messages() {
        let offset = offset_of(&message);
        if message.contains(r#""channel":"reply""#) {
            next = Some(offset + 1);
        } else if message.contains(r#""channel":"left""#) {
            next = None;
        } else {
            assert_eq!(Some(offset), next, "in {message}");
            next = Some(offset + 1);
            num_live += 1;
        }
    }
    num_live
}

fn offset_of(message: &str) -> u64 {
    let Some((_, rest)) = message.split_once("\"offset\":") else {
        return 0;
    };
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

#[test]
fn the_size_of_what_a_session_keeps_here_is_known() {
    let link = size_of::<Link<tokio::net::TcpStream>>();
    let member = size_of::<channel::Member>();
    let membership = size_of::<Membership>();
    println!("Link<TcpStream> {link}, Member {member}, Membership {membership} bytes");
    assert!(link <= 256, "{link}");
    assert!(member <= 48, "{member}");
    assert!(membership <= 24, "{membership}");
}

#[test]
fn a_waker_that_is_registered_before_looking_misses_nothing() {
    let hub = Hub::new(HubConfig::default());
    let link: Arc<Link> = hub.link(
        ClientId::random(),
        Codec::Json,
        Framing::WebSocket,
        TestWire::default(),
    );
    link.signal(Signal::Deadline);
    link.register_waker(Waker::noop());
    link.signal(Signal::Deadline);
    assert_eq!(
        link.take_signals().len(),
        1,
        "a deadline is remembered once"
    );
}

impl Wire for tokio::net::TcpStream {
    fn try_write(&self, bytes: &[u8]) -> std::io::Result<usize> {
        tokio::net::TcpStream::try_write(self, bytes)
    }
}
