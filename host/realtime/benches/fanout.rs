//! Fan-out: one publication to many members, from broadcast to the last byte on a wire in memory.
//!
//! The wires count bytes and do nothing, so what is measured is the hub and the flusher without the kernel.

use std::{
    hint::black_box,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tidegate_protocol::{Codec, Framing, Publication};
use tidegate_realtime::{
    hub::{Activation, Hub, HubConfig, Membership},
    ids::{AppId, ChannelKey, ClientId},
    link::{Link, Wire},
};
use tokio::runtime::{Builder, Runtime};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Counts bytes.
#[derive(Clone, Default)]
struct Sink(Arc<AtomicU64>);

impl Wire for Sink {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .fetch_add(black_box(bytes).len() as u64, Ordering::Relaxed);
        Ok(bytes.len())
    }
}

/// A channel with members, served by one thread.
struct Room {
    runtime: Runtime,
    hub: Arc<Hub>,
    key: ChannelKey,
    sink: Sink,
    members: Vec<(Membership, Arc<Link<Sink>>)>,
    stop: CancellationToken,
}

impl Room {
    fn withmembers(nummembers: usize) -> Self {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime can be made");
        let hub = Hub::new(HubConfig {
            shards: 1,
            ..HubConfig::default()
        });
        let stop = CancellationToken::new();
        let key = ChannelKey::new(&AppId::default_app(), "bench");
        let sink = Sink::default();
        let members = (0..nummembers)
            .map(|_| {
                let client = ClientId::random();
                let link = hub.link(client, Codec::Json, Framing::WebSocket, sink.clone());
                let shared: Arc<Link> = Arc::clone(&link) as Arc<Link>;
                let membership = hub.join(&key, &shared).membership;
                membership.activate(|_| Activation::Unpositioned);
                (membership, link)
            })
            .collect();
        runtime.block_on(async { hub.run(&TaskTracker::new(), &stop) });
        Self {
            runtime,
            hub,
            key,
            sink,
            members,
            stop,
        }
    }

    /// Broadcasts `count` publications at once and waits until all bytes are out.
    fn publish(&self, publication: &Arc<Publication>, count: u64) {
        let deliveries = self.hub.statistics().deliveries + count * self.members.len() as u64;
        for _ in 0..count {
            self.hub.broadcast(&self.key, publication, None);
        }
        self.runtime.block_on(async {
            while self.hub.statistics().deliveries < deliveries {
                tokio::task::yield_now().await;
            }
        });
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A publication whose push is about `len` bytes long.
fn publication(len: usize) -> Arc<Publication> {
    const ENVELOPE: usize = 52;
    let text = "x".repeat(len.saturating_sub(ENVELOPE));
    Arc::new(Publication {
        data: Bytes::from(format!("\"{text}\"")).into(),
        ..Publication::default()
    })
}

fn fanout(criterion: &mut Criterion) {
    for (name, nummembers) in [("1k", 1_000), ("10k", 10_000)] {
        let room = Room::withmembers(nummembers);
        let mut group = criterion.benchmark_group(format!("fanout/{name}"));
        for (variant, count) in [("140B/one", 1), ("140B/joined", 16)] {
            let publication = publication(140);
            group.throughput(Throughput::Elements(count * nummembers as u64));
            group.bench_function(variant, |bencher| {
                bencher.iter(|| room.publish(&publication, count));
            });
        }
        group.finish();
        assert!(
            room.sink.0.load(Ordering::Relaxed) > 0,
            "bytes were written"
        );
    }
}

criterion_group!(benches, fanout);
criterion_main!(benches);
