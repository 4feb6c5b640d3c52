//! Time is what each operation is told; nothing here waits.

use std::{sync::Barrier, thread};

use super::*;

const SMALL: StateQuotas = StateQuotas {
    keys_per_app: 4,
    bytes_per_app: 4 * (KEY_OVERHEAD + 100),
    bytes_in_all: 6 * (KEY_OVERHEAD + 100),
};

fn store(quotas: StateQuotas) -> StateStore {
    StateStore::new(Clock::manual(), quotas)
}

fn plugin(store: &StateStore, app: &str, plugin: &str) -> Arc<PluginState> {
    store.of(&AppId::parse(app).unwrap(), &plugin.into())
}

fn state() -> Arc<PluginState> {
    plugin(&store(StateQuotas::default()), "default", "guard")
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

#[test]
fn a_value_lives_for_its_time_and_not_a_moment_longer() {
    let state = state();
    state.set("k", bytes("one"), 10, 5).unwrap();
    assert_eq!(state.get("k", 14).unwrap(), Some(bytes("one")));
    assert_eq!(state.time_left("k", 14).unwrap(), Some(1));
    assert_eq!(state.get("k", 15).unwrap(), None);
    assert_eq!(state.time_left("k", 15).unwrap(), None);
    assert!(!state.delete("k", 15).unwrap());
}

#[test]
fn what_a_deleted_plugin_or_app_kept_is_given_back_at_once() {
    let store = store(StateQuotas::default());
    let states = [("a", "one"), ("a", "two"), ("b", "one")].map(|(app, name)| {
        let state = plugin(&store, app, name);
        for key in 0..1_000 {
            state.set(&key.to_string(), bytes("v"), MAX_TTL, 0).unwrap();
        }
        state
    });
    let counts = || {
        states
            .each_ref()
            .map(|state| state.get("7", 0).unwrap().is_some())
    };
    let app = AppId::parse("a").unwrap();
    store.forget_plugin(&app, "one");
    assert_eq!(counts(), [false, true, true]);
    store.forget_app(&app);
    assert_eq!(counts(), [false, false, true]);
    let usage: Vec<usize> = store.usage().iter().map(|usage| usage.keys).collect();
    assert_eq!(usage, [0, 1_000]);
    // What is not there is no trouble.
    store.forget_plugin(&app, "three");
    store.forget_app(&AppId::parse("c").unwrap());
}

#[test]
fn setting_a_value_again_begins_its_time_anew() {
    let state = state();
    state.set("k", bytes("one"), 10, 0).unwrap();
    state.set("k", bytes("two"), 10, 9).unwrap();
    assert_eq!(state.get("k", 18).unwrap(), Some(bytes("two")));
    state.set("k", bytes("three"), 1, 18).unwrap();
    assert_eq!(state.get("k", 19).unwrap(), None);
}

#[test]
fn a_counter_ends_when_its_first_increment_said() {
    let state = state();
    assert_eq!(state.increment("k", 1, 10, 0).unwrap(), 1);
    assert_eq!(state.increment("k", 5, 1_000, 9).unwrap(), 6);
    assert_eq!(state.count("k", 9).unwrap(), 6);
    assert_eq!(state.count("k", 10).unwrap(), 0);
    assert_eq!(state.increment("k", -2, 10, 10).unwrap(), -2);
}

#[test]
fn a_count_stays_within_its_range() {
    let state = state();
    state.increment("k", i64::MAX, 10, 0).unwrap();
    assert_eq!(state.increment("k", 1, 10, 0).unwrap(), i64::MAX);
    state.increment("m", i64::MIN, 10, 0).unwrap();
    assert_eq!(state.increment("m", -1, 10, 0).unwrap(), i64::MIN);
}

#[test]
fn compare_and_set_changes_only_what_was_expected() {
    let state = state();
    let swap = |expected: Option<&[u8]>, value, now| {
        state
            .compare_and_set("k", expected, bytes(value), 10, now)
            .unwrap()
    };
    assert!(!swap(Some(b"one"), "two", 0));
    assert!(swap(None, "one", 0));
    assert!(!swap(None, "two", 0));
    assert!(!swap(Some(b"other"), "two", 0));
    assert!(swap(Some(b"one"), "two", 0));
    assert_eq!(state.get("k", 0).unwrap(), Some(bytes("two")));
    // What is over is not there.
    assert!(swap(None, "three", 10));
}

#[test]
fn a_key_is_a_value_or_a_counter_until_it_is_over() {
    let state = state();
    state.set("v", bytes(""), 10, 0).unwrap();
    state.increment("c", 1, 10, 0).unwrap();
    assert_eq!(state.increment("v", 1, 10, 0), Err(Refused::HoldsValue));
    assert_eq!(state.count("v", 0), Err(Refused::HoldsValue));
    assert_eq!(state.get("c", 0), Err(Refused::HoldsCounter));
    assert_eq!(state.set("c", bytes(""), 10, 0), Err(Refused::HoldsCounter));
    assert_eq!(
        state.compare_and_set("c", None, bytes(""), 10, 0),
        Err(Refused::HoldsCounter)
    );
    assert!(state.delete("c", 0).unwrap());
    state.set("c", bytes(""), 10, 0).unwrap();
    assert_eq!(state.increment("v", 1, 10, 10), Ok(1));
}

#[test]
fn arguments_out_of_their_range_are_refused() {
    let state = state();
    let set = |key: &str, len, ttl| state.set(key, Bytes::from(vec![0; len]), ttl, 0);
    assert_eq!(set("", 0, 1), Err(Refused::KeyLength));
    assert_eq!(
        set(&"k".repeat(KEY_BYTES + 1), 0, 1),
        Err(Refused::KeyLength)
    );
    assert_eq!(set("k", VALUE_BYTES + 1, 1), Err(Refused::ValueLength));
    assert_eq!(set("k", 0, 0), Err(Refused::TimeToLive));
    assert_eq!(set("k", 0, MAX_TTL + 1), Err(Refused::TimeToLive));
    assert_eq!(set(&"k".repeat(KEY_BYTES), VALUE_BYTES, MAX_TTL), Ok(()));
}

#[test]
fn w5_plugins_and_apps_do_not_see_each_others_keys() {
    let store = store(StateQuotas::default());
    let ours = plugin(&store, "default", "guard");
    ours.set("k", bytes("ours"), 10, 0).unwrap();
    for (app, name) in [("default", "other"), ("other", "guard")] {
        let theirs = plugin(&store, app, name);
        assert_eq!(theirs.get("k", 0).unwrap(), None, "{app} {name}");
        assert!(!theirs.delete("k", 0).unwrap());
    }
    let same = plugin(&store, "default", "guard");
    assert_eq!(same.get("k", 0).unwrap(), Some(bytes("ours")));
}

#[test]
fn an_app_holds_no_more_keys_than_it_may_and_loses_none_for_it() {
    let store = store(SMALL);
    let (one, two) = (
        plugin(&store, "default", "one"),
        plugin(&store, "default", "two"),
    );
    for key in ["a", "b"] {
        one.set(key, bytes("x"), 10, 0).unwrap();
        two.increment(key, 1, 10, 0).unwrap();
    }
    let full = Err(Refused::Quota(Quota::AppKeys));
    assert_eq!(one.set("c", bytes("x"), 10, 0), full);
    assert_eq!(two.increment("c", 1, 10, 0).map(|_| ()), full);
    // What is there can still change, and an app beside has its own quota.
    assert_eq!(one.set("a", bytes("y"), 10, 0), Ok(()));
    assert_eq!(two.increment("a", 1, 10, 0), Ok(2));
    assert_eq!(
        plugin(&store, "other", "one").set("c", bytes("x"), 10, 0),
        Ok(())
    );
    assert_eq!(store.usage()[0].refused, [2, 0, 0]);
    one.delete("a", 0).unwrap();
    assert_eq!(two.set("c", bytes("x"), 10, 0), Ok(()));
}

#[test]
fn a_value_that_does_not_fit_leaves_the_old_one() {
    let store = store(SMALL);
    let state = plugin(&store, "default", "guard");
    state.set("k", bytes("old"), 10, 0).unwrap();
    let large = Bytes::from(vec![b'x'; SMALL.bytes_per_app]);
    assert_eq!(
        state.set("k", large, 10, 0),
        Err(Refused::Quota(Quota::AppBytes))
    );
    assert_eq!(state.get("k", 9).unwrap(), Some(bytes("old")));
}

#[test]
fn all_apps_together_are_bounded_too() {
    let store = store(SMALL);
    let value = || Bytes::from(vec![b'x'; 99]);
    let (one, two) = (plugin(&store, "one", "p"), plugin(&store, "two", "p"));
    for key in ["a", "b", "c", "d"] {
        one.set(key, value(), 10, 0).unwrap();
    }
    two.set("a", value(), 10, 0).unwrap();
    two.set("b", value(), 10, 0).unwrap();
    assert_eq!(
        two.set("c", value(), 10, 0),
        Err(Refused::Quota(Quota::NodeBytes))
    );
    assert_eq!(store.usage()[1].keys, 2);
}

#[test]
fn what_is_over_makes_room_and_the_sweep_takes_the_rest() {
    let store = store(SMALL);
    let state = plugin(&store, "default", "guard");
    for key in ["a", "b", "c", "d"] {
        state.set(key, bytes("x"), 10, 0).unwrap();
    }
    store.sweep_at(9);
    assert_eq!(store.usage()[0].keys, 4);
    store.sweep_at(10);
    let usage = &store.usage()[0];
    assert_eq!((usage.keys, usage.bytes), (0, 0));
    assert_eq!(store.bytes.load(Ordering::Relaxed), 0);
    for key in ["e", "f", "g", "h"] {
        state.set(key, bytes("x"), 10, 10).unwrap();
    }
}

#[test]
fn operations_alone_shrink_a_shard_in_use() {
    let state = state();
    for index in 0..1_000 {
        state.set(&format!("k{index}"), bytes("x"), 10, 0).unwrap();
    }
    for _ in 0..1_000 {
        for index in 0..SHARDS * 8 {
            state.get(&format!("other{index}"), 10).unwrap();
        }
        if state.usage.keys.load(Ordering::Relaxed) == 0 {
            return;
        }
    }
    panic!("{:?} keys are left", state.usage.keys);
}

#[test]
fn usage_is_exact_after_anything() {
    for is_shared in [false, true] {
        let store = store(StateQuotas::default());
        if is_shared {
            store.share();
        }
        check_usage(&store);
    }
}

fn check_usage(store: &StateStore) {
    let state = plugin(store, "default", "guard");
    for round in 0..2_000_u64 {
        let key = format!("k{}", round * 7 % 50);
        let now = round / 4;
        let _ = match round % 5 {
            0 => state.set(
                &key,
                Bytes::from(vec![0; (round % 97) as usize]),
                1 + round % 40,
                now,
            ),
            1 => state.increment(&key, 1, 1 + round % 30, now).map(|_| ()),
            2 => state
                .compare_and_set(&key, None, bytes("swapped"), 20, now)
                .map(|_| ()),
            3 => state.delete(&key, now).map(|_| ()),
            _ => state.get(&key, now).map(|_| ()),
        };
    }
    let counted: usize = state.shards.iter().map(|shard| shard.lock().bytes()).sum();
    assert_eq!(store.usage()[0].bytes, counted);
    assert!(counted > 0);
    store.sweep_at(u64::MAX);
    assert_eq!((store.usage()[0].keys, store.usage()[0].bytes), (0, 0));
    assert_eq!(state.usage.long_gone.load(Ordering::Relaxed), 0);
}

#[test]
fn deletions_that_others_may_not_have_heard_of_leave_room_for_what_is_kept() {
    let quotas = StateQuotas {
        keys_per_app: 1_000,
        bytes_per_app: 1_000 * (KEY_OVERHEAD + 10),
        bytes_in_all: usize::MAX,
    };
    let store = store(quotas);
    store.share();
    let state = plugin(&store, "default", "guard");
    for number in 0..900 {
        let key = format!("k{number:05}");
        state.set(&key, bytes("v"), MAX_TTL, 0).unwrap();
        assert!(state.delete(&key, 0).unwrap());
    }
    let used = || store.usage()[0].bytes;
    assert_eq!(used(), 900 * (KEY_OVERHEAD + 6), "each for a minute");
    store.sweep_at(shard::GONE_LIFE);
    let long = quotas.bytes_per_app / LONG_GONE_PART;
    assert!((long / 2..=long).contains(&used()), "{}", used());
    // As long as the keys had left, and no longer.
    store.sweep_at(MAX_TTL - 1);
    assert!(used() > 0);
    store.sweep_at(MAX_TTL);
    assert_eq!(used(), 0);
}

#[test]
fn increments_of_many_threads_are_all_counted() {
    let state = state();
    let start = Barrier::new(4);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                start.wait();
                for _ in 0..1_000 {
                    state.increment("k", 1, 1_000, 0).unwrap();
                }
            });
        }
    });
    assert_eq!(state.count("k", 0).unwrap(), 4_000);
}

#[test]
fn of_many_threads_that_swap_one_wins_each_time() {
    let state = state();
    state.set("k", bytes("0"), 1_000, 0).unwrap();
    let start = Barrier::new(4);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                start.wait();
                for _ in 0..250 {
                    while {
                        let seen = state.get("k", 0).unwrap().unwrap();
                        let number: u64 = std::str::from_utf8(&seen).unwrap().parse().unwrap();
                        let next = bytes(&(number + 1).to_string());
                        !state
                            .compare_and_set("k", Some(&seen), next, 1_000, 0)
                            .unwrap()
                    } {}
                }
            });
        }
    });
    assert_eq!(state.get("k", 0).unwrap(), Some(bytes("1000")));
}

#[test]
fn a_plugin_that_nobody_runs_is_forgotten_with_its_last_key() {
    let store = store(StateQuotas::default());
    let state = plugin(&store, "default", "guard");
    state.set("k", bytes("x"), 10, 0).unwrap();
    drop(state);
    store.sweep_at(9);
    assert_eq!(
        plugin(&store, "default", "guard").get("k", 9).unwrap(),
        Some(bytes("x"))
    );
    store.sweep_at(10);
    assert!(store.apps.lock().is_empty());
}
