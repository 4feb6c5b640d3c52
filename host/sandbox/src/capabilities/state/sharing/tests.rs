//! Nodes on a bus that loses what it is told to. Time moves by hand: a turn is a turn.

use proptest::prelude::*;
use tidegate_realtime::ids::AppId;

use super::{super::store::Counts, *};
use crate::{clock::Clock, limits::StateQuotas};

const HOUR: u64 = 3_600_000;

struct TestNode {
    uid: NodeUid,
    store: Arc<StateStore>,
    sharing: Arc<Sharing>,
    _inbox: Inbox,
}

struct World {
    clock: Clock,
    quotas: StateQuotas,
    nodes: Vec<TestNode>,
}

impl TestNode {
    fn plugin(&self, name: &str) -> Arc<PluginState> {
        self.store.of(&AppId::default_app(), &name.into())
    }

    fn guard(&self) -> Arc<PluginState> {
        self.plugin("guard")
    }

    fn add(&self, key: &str, by: i64, ttl: u64) -> i64 {
        let guard = self.guard();
        guard.increment(key, by, ttl, guard.now()).unwrap()
    }

    fn count(&self, key: &str) -> i64 {
        let guard = self.guard();
        guard.count(key, guard.now()).unwrap()
    }

    fn set(&self, key: &str, value: &str, ttl: u64) {
        let (guard, value) = (self.guard(), Bytes::copy_from_slice(value.as_bytes()));
        guard.set(key, value, ttl, guard.now()).unwrap();
    }

    fn get(&self, key: &str) -> Option<Bytes> {
        let guard = self.guard();
        guard.get(key, guard.now()).unwrap()
    }

    fn delete(&self, key: &str) -> bool {
        let guard = self.guard();
        guard.delete(key, guard.now()).unwrap()
    }

    fn counts(&self, read: fn(&Counts) -> u64) -> u64 {
        read(&self.store.shared().counts)
    }
}

impl World {
    fn new(number: usize) -> Self {
        let mut world = Self {
            clock: Clock::manual(),
            quotas: StateQuotas::default(),
            nodes: Vec::new(),
        };
        world.clock.advance(Duration::from_secs(100));
        for _ in 0..number {
            world.join();
        }
        // They ask each other for everything.
        for _ in 0..4 {
            world.turn();
        }
        world
    }

    fn join(&mut self) {
        let store = Arc::new(StateStore::new(self.clock.clone(), self.quotas));
        let (sharing, inbox) = Sharing::new(Arc::clone(&store));
        let node = TestNode {
            uid: NodeUid::random(),
            store,
            sharing,
            _inbox: inbox,
        };
        for other in &self.nodes {
            other.sharing.on_joined(&node.uid);
            node.sharing.on_joined(&other.uid);
        }
        self.nodes.push(node);
    }

    /// Cuts a node off for so long that nobody knows anybody on the other side any more.
    fn cut_off(&mut self, index: usize) -> TestNode {
        let node = self.leave(index);
        for other in &self.nodes {
            node.sharing.on_gone(&other.uid);
        }
        node
    }

    /// The node hears the others again, and they hear it.
    fn come_back(&mut self, node: TestNode) {
        for other in &self.nodes {
            other.sharing.on_joined(&node.uid);
            node.sharing.on_joined(&other.uid);
        }
        self.nodes.push(node);
        for _ in 0..20 {
            self.turn();
        }
    }

    fn leave(&mut self, index: usize) -> TestNode {
        let node = self.nodes.remove(index);
        for other in &self.nodes {
            other.sharing.on_gone(&node.uid);
        }
        node
    }

    /// A turn of every node, in which everything arrives; answers the bytes of each message.
    fn turn(&self) -> Vec<usize> {
        self.turn_losing(|| false)
    }

    fn turn_losing(&self, mut is_lost: impl FnMut() -> bool) -> Vec<usize> {
        let mut sizes = Vec::new();
        for sender in &self.nodes {
            for Outgoing { to, text } in sender.sharing.turn() {
                sizes.push(text.get().len());
                for node in &self.nodes {
                    let is_meant = match &to {
                        Recipient::Everyone => node.uid != sender.uid,
                        Recipient::Node(uid) => node.uid == *uid,
                    };
                    if is_meant && !is_lost() {
                        node.sharing.hear(&sender.uid, text.get().as_bytes());
                    }
                }
            }
        }
        self.clock.advance(TURN);
        sizes
    }

    fn counted(&self, key: &str) -> Vec<i64> {
        self.nodes.iter().map(|node| node.count(key)).collect()
    }

    fn held(&self, key: &str) -> Vec<Option<Bytes>> {
        self.nodes.iter().map(|node| node.get(key)).collect()
    }
}

fn text(text: &str) -> Option<Bytes> {
    Some(Bytes::copy_from_slice(text.as_bytes()))
}

#[test]
fn a_turn_leaves_room_for_the_way_within_what_plugins_are_promised() {
    assert!(2 * TURN < Duration::from_millis(250));
}

#[test]
fn what_all_nodes_count_is_known_to_each_after_a_turn() {
    let world = World::new(3);
    for (by, node) in (1..).zip(&world.nodes) {
        assert_eq!(node.add("k", by, HOUR), by);
        node.add("k", 10 * by, HOUR);
    }
    world.turn();
    assert_eq!(world.counted("k"), [66; 3]);
    // Said again, nothing changes; and an answer holds what has arrived.
    world.turn();
    assert_eq!(world.nodes[1].add("k", -6, HOUR), 60);
    world.turn();
    assert_eq!(world.counted("k"), [60; 3]);
}

#[test]
fn a_counter_that_two_nodes_begin_at_once_is_one_and_ends_with_the_earlier_beginning() {
    let world = World::new(2);
    world.nodes[0].add("k", 1, 1_000);
    world.clock.advance(Duration::from_millis(40));
    world.nodes[1].add("k", 2, 1_000);
    world.turn();
    world.turn();
    assert_eq!(world.counted("k"), [3; 2]);
    let left = |node: &TestNode| node.guard().time_left("k", node.guard().now()).unwrap();
    assert_eq!(left(&world.nodes[0]), Some(1_000 - 40 - 150));
    assert_eq!(left(&world.nodes[1]), left(&world.nodes[0]));
    world.clock.advance(Duration::from_millis(810));
    assert_eq!(world.counted("k"), [0; 2]);
    // The next life begins with nothing of this one.
    assert_eq!(world.nodes[1].add("k", 5, 1_000), 5);
    world.turn();
    assert_eq!(world.counted("k"), [5; 2]);
}

#[test]
fn the_last_writer_wins_and_what_is_deleted_stays_away() {
    let world = World::new(3);
    world.nodes[0].set("k", "one", HOUR);
    world.turn();
    world.nodes[1].set("k", "two", HOUR);
    world.nodes[2].set("other", "three", HOUR);
    world.turn();
    assert_eq!(world.held("k"), [text("two"), text("two"), text("two")]);
    assert_eq!(world.held("other")[0], text("three"));
    assert!(world.nodes[2].delete("k"));
    world.turn();
    assert_eq!(world.held("k"), [None, None, None]);
    // A deleted counter begins anew, with no share of before.
    for node in &world.nodes {
        node.add("c", 1, HOUR);
    }
    world.turn();
    assert!(world.nodes[0].delete("c"));
    world.nodes[0].add("c", 7, HOUR);
    world.turn();
    assert_eq!(world.counted("c"), [7; 3]);
}

#[test]
fn what_a_deleted_plugin_or_app_kept_goes_on_every_node() {
    let world = World::new(2);
    let count = || {
        let there = world.nodes[1].plugin("other");
        (
            world.nodes[1].count("k"),
            there.count("k", there.now()).unwrap(),
        )
    };
    world.nodes[0].add("k", 1, HOUR);
    let other = world.nodes[0].plugin("other");
    other.increment("k", 2, HOUR, other.now()).unwrap();
    world.turn();
    assert_eq!(count(), (1, 2));
    world.nodes[0]
        .store
        .forget_plugin(&AppId::default_app(), "guard");
    world.turn();
    assert_eq!(count(), (0, 2));
    world.nodes[0].store.forget_app(&AppId::default_app());
    world.turn();
    assert_eq!(count(), (0, 0));
}

#[test]
fn a_node_that_was_cut_off_learns_what_those_wrote_who_died_meanwhile() {
    let mut world = World::new(3);
    world.nodes[0].add("k", 1, HOUR);
    world.turn();
    let alone = world.cut_off(0);
    world.nodes[1].add("k", 10, HOUR);
    world.nodes[1].set("v", "late", HOUR);
    world.turn();
    world.leave(1);
    alone.add("k", 100, HOUR);
    world.come_back(alone);
    assert_eq!(world.counted("k"), [111; 2]);
    assert_eq!(world.held("v"), [text("late"), text("late")]);
}

#[test]
fn what_a_node_said_last_and_one_of_the_others_missed_is_asked_of_the_rest() {
    let mut world = World::new(3);
    world.nodes[2].add("k", 1, HOUR);
    let mut nth = 0;
    world.turn_losing(|| {
        nth += 1;
        nth == 1
    });
    assert_eq!(world.counted("k"), [0, 1, 1]);
    world.leave(2);
    for _ in 0..4 {
        world.turn();
    }
    assert_eq!(world.counted("k"), [1, 1]);
}

#[test]
fn what_was_deleted_while_a_node_was_cut_off_stays_deleted() {
    let mut world = World::new(3);
    world.nodes[0].set("session", "ann", HOUR);
    world.nodes[0].add("quota", 7, HOUR);
    world.turn();
    let alone = world.cut_off(0);
    assert!(world.nodes[0].delete("session") && world.nodes[0].delete("quota"));
    world.turn();
    // Who deleted it goes; the one that has heard of it keeps that in mind as long as it matters.
    world.leave(0);
    world.clock.advance(Duration::from_secs(1_800));
    world.nodes[0].store.sweep();
    world.come_back(alone);
    assert_eq!(world.held("session"), [None, None]);
    assert_eq!(world.counted("quota"), [0, 0]);
    // Not for longer than that.
    world.clock.advance(Duration::from_secs(1_800));
    for node in &world.nodes {
        node.store.sweep();
        assert!(node.store.usage().iter().all(|usage| usage.bytes == 0));
    }
}

#[test]
fn a_plugin_that_was_deleted_while_a_node_was_cut_off_is_forgotten_and_its_successor_is_not() {
    let mut world = World::new(2);
    world.nodes[0].add("k", 1, HOUR);
    world.turn();
    let alone = world.cut_off(0);
    alone.add("k", 1, HOUR);
    world.clock.advance(Duration::from_millis(5));
    world.nodes[0]
        .store
        .forget_plugin(&AppId::default_app(), "guard");
    world.clock.advance(Duration::from_secs(600));
    world.nodes[0].add("new", 3, HOUR);
    world.come_back(alone);
    assert_eq!(world.counted("k"), [0, 0]);
    assert_eq!(world.counted("new"), [3, 3]);
    // Whoever comes later hears of it from any of them.
    world.join();
    for _ in 0..4 {
        world.turn();
    }
    world.leave(0);
    let (app, plugin) = (AppId::default_app(), "guard");
    for node in &world.nodes {
        let known = node.store.shared().all_forgotten();
        assert!(
            known
                .iter()
                .any(|one| one.app == app && one.plugin.as_deref() == Some(plugin))
        );
    }
}

#[test]
fn the_word_that_a_plugin_was_deleted_is_asked_for_when_it_is_lost() {
    let world = World::new(2);
    world.nodes[0].add("k", 1, HOUR);
    world.turn();
    world.nodes[0]
        .store
        .forget_plugin(&AppId::default_app(), "guard");
    world.turn_losing(|| true);
    assert_eq!(world.counted("k"), [0, 1]);
    for _ in 0..17 {
        world.turn();
    }
    assert_eq!(world.counted("k"), [0, 0]);
}

#[test]
fn a_message_that_is_lost_is_asked_for() {
    let world = World::new(2);
    world.nodes[0].add("k", 1, HOUR);
    world.turn_losing(|| true);
    assert_eq!(world.counted("k"), [1, 0]);
    // Nothing follows it; the next word on what was the last tells.
    for _ in 0..17 {
        world.turn();
    }
    assert_eq!(world.counted("k"), [1, 1]);
    assert!(world.nodes[1].counts(|counts| counts.pulls.load(Ordering::Relaxed)) > 1);
}

#[test]
fn a_node_that_joins_is_told_what_those_wrote_who_are_gone() {
    let mut world = World::new(2);
    for key in 0..500 {
        world.nodes[0].add(&format!("k{key}"), 1, HOUR);
        world.nodes[1].set(&format!("v{key}"), "value", HOUR);
    }
    world.turn();
    world.leave(0);
    world.join();
    for _ in 0..4 {
        world.turn();
    }
    for key in 0..500 {
        assert_eq!(world.counted(&format!("k{key}")), [1, 1]);
        assert_eq!(world.held(&format!("v{key}"))[1], text("value"));
    }
}

#[test]
fn a_node_that_is_alone_sends_nothing_and_tells_whoever_comes() {
    let mut world = World::new(1);
    world.nodes[0].add("k", 3, HOUR);
    for _ in 0..20 {
        assert!(world.turn().is_empty());
    }
    world.join();
    for _ in 0..3 {
        world.turn();
    }
    assert_eq!(world.counted("k"), [3, 3]);
}

#[test]
fn nodes_with_nothing_new_to_say_say_little() {
    let world = World::new(2);
    world.nodes[0].add("k", 1, HOUR);
    world.turn();
    let said: Vec<usize> = (0..40).flat_map(|_| world.turn()).collect();
    // Three seconds, one node that has said something: a few bytes a second.
    assert!((1..=4).contains(&said.len()), "{said:?}");
    assert!(said.iter().all(|bytes| *bytes < 100), "{said:?}");
}

#[test]
fn more_than_fits_a_turn_goes_in_later_ones_and_holds_no_other_plugin_up() {
    let world = World::new(2);
    let (busy, calm) = (world.nodes[0].guard(), world.nodes[0].plugin("calm"));
    for key in 0..20_000 {
        busy.increment(&format!("key:{key}"), 1, HOUR, busy.now())
            .unwrap();
    }
    calm.increment("k", 1, HOUR, calm.now()).unwrap();
    let mut num_turns = 0;
    while world.nodes[1].count("key:0") == 0
        || (0..20_000).any(|key| world.nodes[1].count(&format!("key:{key}")) == 0)
    {
        let sizes = world.turn();
        let most = TURN_BYTES + 2 * MESSAGE_BYTES;
        assert!(sizes.iter().sum::<usize>() < most, "{sizes:?}");
        assert!(
            sizes.iter().all(|bytes| *bytes < 2 * MESSAGE_BYTES),
            "{sizes:?}"
        );
        let there = world.nodes[1].plugin("calm");
        assert_eq!(there.count("k", there.now()).unwrap(), 1);
        num_turns += 1;
        assert!(num_turns < 60);
    }
    assert!(num_turns > 3);
    assert!(world.nodes[0].counts(|counts| counts.deferred_keys.load(Ordering::Relaxed)) > 0);
}

#[test]
fn a_key_that_changes_a_thousand_times_in_a_turn_is_told_once() {
    let world = World::new(2);
    for _ in 0..1_000 {
        world.nodes[0].add("k", 1, HOUR);
    }
    let before = world.nodes[0].counts(|counts| counts.sent_keys.load(Ordering::Relaxed));
    world.turn();
    let after = world.nodes[0].counts(|counts| counts.sent_keys.load(Ordering::Relaxed));
    assert_eq!(after - before, 1);
    assert_eq!(world.counted("k"), [1_000; 2]);
}

#[test]
fn quotas_hold_for_what_comes_from_others() {
    let mut world = World::new(1);
    world.quotas.keys_per_app = 3;
    world.join();
    for _ in 0..4 {
        world.turn();
    }
    for key in 0..5 {
        world.nodes[0].add(&format!("k{key}"), 1, HOUR);
    }
    world.turn();
    let kept = (0..5).filter(|key| world.nodes[1].count(&format!("k{key}")) == 1);
    assert_eq!(kept.count(), 3);
    let unkept = world.nodes[1].counts(|counts| counts.unkept.load(Ordering::Relaxed));
    assert_eq!(unkept, 2);
}

#[test]
fn hostile_messages_are_counted_and_change_nothing() {
    let world = World::new(2);
    let (node, from) = (&world.nodes[0], &world.nodes[1].uid);
    let now = node.store.shared().now();
    let message = |now: u64, key: &str| {
        format!(
            r#"{{"now":{now},"said":{{"changes":{{"batch":1,"plugins":[{{"app":"default","plugin":"guard",
            "keys":[{{"k":"{key}","c":[0,[[9,{now},1,5,{}]]]}}]}}]}}}}}}"#,
            now + 1_000
        )
    };
    let bad = || node.counts(|counts| counts.bad_messages.load(Ordering::Relaxed));
    for (nth, text) in [
        String::new(),
        "{}".to_owned(),
        r#"{"now":1,"said":"dance"}"#.to_owned(),
        message(now + 60_000, "future"),
        message(0, "past"),
        message(now, &"k".repeat(300)),
    ]
    .iter()
    .enumerate()
    {
        node.sharing.hear(from, text.as_bytes());
        assert_eq!(bad(), nth as u64 + 1, "{text}");
    }
    assert_eq!(node.count("future") + node.count("past"), 0);
    node.sharing.hear(from, message(now, "sound").as_bytes());
    assert_eq!((node.count("sound"), bad()), (5, 6));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_the_bus_loses_all_nodes_come_to_hold_the_same(
        steps in proptest::collection::vec((0..3_usize, 0..6_u8, 0..4_u8, any::<bool>()), 1..150),
        losses in proptest::collection::vec(any::<bool>(), 1..50),
    ) {
        let mut world = World::new(2);
        let mut losses = losses.into_iter().cycle();
        for (nth, (node, key, what, is_turn)) in steps.into_iter().enumerate() {
            if nth == 20 {
                world.join();
            }
            let node = &world.nodes[node % world.nodes.len()];
            let (counter, value) = (format!("c{key}"), format!("v{key}"));
            match what {
                0 => { node.add(&counter, 1 + i64::from(key), HOUR); }
                1 => node.set(&value, &nth.to_string(), HOUR),
                2 => { node.delete(&value); }
                _ => { node.delete(&counter); }
            }
            if is_turn {
                world.turn_losing(|| losses.next().unwrap_or_default());
            }
        }
        // Seconds in which nothing is lost.
        for _ in 0..60 {
            world.turn();
        }
        for key in 0..6 {
            let (counter, value) = (format!("c{key}"), format!("v{key}"));
            let counted = world.counted(&counter);
            prop_assert!(counted.windows(2).all(|pair| pair[0] == pair[1]), "{} {:?}", key, counted);
            let held = world.held(&value);
            prop_assert!(held.windows(2).all(|pair| pair[0] == pair[1]), "{} {:?}", key, held);
        }
        let keys: Vec<_> = world.nodes.iter().map(|node| node.store.usage()).collect();
        prop_assert!(keys.windows(2).all(|pair| pair[0].iter().map(|usage| usage.keys).eq(pair[1].iter().map(|usage| usage.keys))));
    }
}
