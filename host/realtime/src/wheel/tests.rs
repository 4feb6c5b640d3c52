use tidegate_protocol::{Codec, Framing};

use super::*;
use crate::{
    hub::{Hub, HubConfig},
    ids::ClientId,
    test_wire::TestWire,
};

struct Bench {
    origin: Instant,
    wheel: Wheel,
    hub: Arc<Hub>,
}

impl Bench {
    fn new() -> Self {
        let origin = Instant::now();
        Self {
            origin,
            wheel: Wheel::new(origin),
            hub: Hub::new(HubConfig::default()),
        }
    }

    fn link(&self) -> Arc<Link> {
        let wire = TestWire::default();
        self.hub
            .link(ClientId::random(), Codec::Json, Framing::WebSocket, wire)
    }

    fn at(&self, milliseconds: u64) -> Instant {
        self.origin + Duration::from_millis(milliseconds)
    }

    fn turn_to(&self, milliseconds: u64) {
        for link in self.wheel.due(self.at(milliseconds)) {
            self.wheel.look_at(&link);
        }
    }
}

fn fired(link: &Link) -> bool {
    !link.take_signals().is_empty()
}

#[test]
fn a_deadline_fires_once_and_not_before_its_time() {
    let bench = Bench::new();
    let link = bench.link();
    bench.wheel.schedule(&link, bench.at(1_100));
    bench.turn_to(1_000);
    assert!(!fired(&link));
    bench.turn_to(1_250);
    assert!(fired(&link));
    bench.turn_to(200_000);
    assert!(!fired(&link));
}

#[test]
fn a_deadline_moved_away_fires_at_the_new_time_alone() {
    let bench = Bench::new();
    let link = bench.link();
    bench.wheel.schedule(&link, bench.at(1_000));
    bench.wheel.schedule(&link, bench.at(9_000));
    bench.turn_to(8_750);
    assert!(!fired(&link));
    bench.turn_to(9_000);
    assert!(fired(&link));
}

#[test]
fn a_deadline_moved_nearer_fires_at_the_new_time_alone() {
    let bench = Bench::new();
    let link = bench.link();
    bench.wheel.schedule(&link, bench.at(9_000));
    bench.wheel.schedule(&link, bench.at(1_000));
    bench.turn_to(1_000);
    assert!(fired(&link));
    bench.turn_to(20_000);
    assert!(!fired(&link));
}

#[test]
fn a_cancelled_deadline_does_not_fire_and_the_next_one_does() {
    let bench = Bench::new();
    let link = bench.link();
    bench.wheel.schedule(&link, bench.at(1_000));
    bench.wheel.cancel(&link);
    bench.turn_to(2_000);
    assert!(!fired(&link));
    bench.wheel.schedule(&link, bench.at(3_000));
    bench.turn_to(3_000);
    assert!(fired(&link));
}

#[test]
fn a_deadline_beyond_a_turn_of_the_wheel_fires_in_its_time() {
    let bench = Bench::new();
    let link = bench.link();
    bench.wheel.schedule(&link, bench.at(1_000_000));
    for milliseconds in (0..1_000_000).step_by(250) {
        bench.turn_to(milliseconds);
        assert!(!fired(&link), "at {milliseconds}");
    }
    bench.turn_to(1_000_000);
    assert!(fired(&link));
}

#[test]
fn a_clock_that_jumps_fires_everything_that_passed() {
    let bench = Bench::new();
    let links: Vec<_> = (1..100).map(|_| bench.link()).collect();
    for (index, link) in (1..).zip(&links) {
        bench.wheel.schedule(link, bench.at(index * 1_000));
    }
    bench.turn_to(3_600_000);
    bench.turn_to(3_601_000);
    assert!(links.iter().all(|link| fired(link)));
}

#[test]
fn a_link_that_is_gone_is_forgotten() {
    let bench = Bench::new();
    let link = bench.link();
    let weak = Arc::downgrade(&link);
    bench.wheel.schedule(&link, bench.at(1_000));
    drop(link);
    bench.turn_to(1_000);
    assert_eq!(weak.weak_count(), 0);
}
