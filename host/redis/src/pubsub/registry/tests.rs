//! Names come and go, connections break, and what is wanted is heard in the end.

use proptest::prelude::*;

use super::*;

const LINE: LineId = LineId(1);
const OTHER: LineId = LineId(2);

fn connected() -> Registry {
    let mut registry = Registry::default();
    registry.open_line(LINE);
    registry.open_line(OTHER);
    assert!(!registry.connected(LINE), "nothing to bring back");
    registry.connected(OTHER);
    registry
}

fn names(names: &[Name]) -> Vec<&str> {
    names.iter().map(|name| &**name).collect()
}

/// Wants, says and confirms.
fn live(registry: &mut Registry, name: &str) {
    registry.want(name, Some(LINE));
    assert_eq!(names(&registry.take(LINE, 10).subscribe), [name]);
    registry.on_subscribed(LINE, name);
    assert!(matches!(registry.want(name, Some(LINE)), Wanted::Live));
}

#[test]
fn a_subscribe_is_answered_when_the_server_has_confirmed_it() {
    let mut registry = connected();
    let Wanted::Waits(mut first) = registry.want("a", Some(LINE)) else {
        panic!("nothing was confirmed");
    };
    let Wanted::Waits(mut second) = registry.want("a", Some(LINE)) else {
        panic!("nothing was confirmed");
    };
    assert_eq!(names(&registry.take(LINE, 10).subscribe), ["a"]);
    assert_eq!(registry.take(LINE, 10), Batch::default(), "said once");
    assert!(first.try_recv().is_err());
    let confirmed = registry.on_subscribed(LINE, "a");
    assert!(!confirmed.has_lapsed && !registry.take_doubt(LINE));
    for waiter in confirmed.waiters {
        waiter.send(()).unwrap();
    }
    assert!(first.try_recv().is_ok() && second.try_recv().is_ok());
}

#[test]
fn a_name_that_is_wanted_again_before_it_was_given_up_stays() {
    let mut registry = connected();
    live(&mut registry, "a");
    registry.unwant("a");
    registry.want("a", Some(LINE));
    assert_eq!(registry.take(LINE, 10), Batch::default());
    // And afterwards: both are said, and the last one counts.
    registry.unwant("a");
    assert_eq!(names(&registry.take(LINE, 10).unsubscribe), ["a"]);
    assert!(matches!(registry.want("a", Some(LINE)), Wanted::Waits(_)));
    assert_eq!(names(&registry.take(LINE, 10).subscribe), ["a"]);
    assert!(registry.on_unsubscribed(LINE, "a"), "it was asked for");
    registry.on_subscribed(LINE, "a");
    assert!(matches!(registry.want("a", Some(LINE)), Wanted::Live));
    registry.unwant("a");
    registry.take(LINE, 10);
    registry.on_unsubscribed(LINE, "a");
    assert_eq!(registry.len(), 0, "nothing is kept of it");
}

#[test]
fn r4_a_new_connection_is_told_everything_and_says_when_it_is_back() {
    let mut registry = connected();
    for name in ["a", "b", "c"] {
        live(&mut registry, name);
    }
    registry.unwant("c");
    registry.disconnected(LINE);
    assert!(matches!(registry.want("a", Some(LINE)), Wanted::Waits(_)));
    assert_eq!(registry.take(LINE, 10), Batch::default(), "nobody to tell");
    assert!(registry.connected(LINE));
    let mut said = names(&registry.take(LINE, 10).subscribe)
        .iter()
        .map(|name| (*name).to_owned())
        .collect::<Vec<_>>();
    said.sort_unstable();
    assert_eq!(said, ["a", "b"]);
    registry.on_subscribed(LINE, "a");
    assert!(!registry.take_doubt(LINE), "b is not back");
    registry.on_subscribed(LINE, "b");
    assert!(registry.take_doubt(LINE));
    assert!(!registry.take_doubt(LINE), "told once");
    assert_eq!(registry.len(), 2);
}

/// Two names that come back, one of them confirmed.
fn half_back() -> Registry {
    let mut registry = connected();
    live(&mut registry, "a");
    live(&mut registry, "b");
    registry.disconnected(LINE);
    assert!(registry.connected(LINE));
    registry.take(LINE, 10);
    registry.on_subscribed(LINE, "a");
    assert!(!registry.take_doubt(LINE));
    registry
}

#[test]
fn r4_a_name_that_nobody_wants_any_more_does_not_hold_the_doubt_back() {
    let mut registry = half_back();
    assert_eq!(registry.unwant("b"), Some(LINE), "the line has to look");
    assert!(registry.take_doubt(LINE));
    // Also one that was never said on the new connection.
    live(&mut registry, "c");
    registry.disconnected(LINE);
    registry.connected(LINE);
    registry.unwant("a");
    registry.unwant("c");
    assert!(registry.take_doubt(LINE));
}

#[test]
fn r4_a_name_that_moves_while_it_returns_is_in_doubt_by_itself() {
    let mut registry = half_back();
    registry.rehouse("b", Some(OTHER));
    assert!(registry.take_doubt(LINE));
    registry.take(OTHER, 10);
    assert!(registry.on_subscribed(OTHER, "b").has_lapsed);
    assert!(!registry.take_doubt(OTHER), "one name moved there, no more");
}

#[test]
fn r4_a_name_that_is_refused_while_it_returns_is_in_doubt_when_it_is_back() {
    let mut registry = half_back();
    registry.on_refused(OTHER, "b");
    assert!(!registry.take_doubt(LINE), "that was another line's word");
    registry.on_refused(LINE, "b");
    assert!(registry.take_doubt(LINE));
    registry.want("b", Some(LINE));
    registry.take(LINE, 10);
    assert!(registry.on_subscribed(LINE, "b").has_lapsed);
}

#[test]
fn a_connection_that_ends_while_names_return_has_still_lost_something() {
    let mut registry = connected();
    live(&mut registry, "a");
    registry.disconnected(LINE);
    assert!(registry.connected(LINE));
    registry.take(LINE, 10);
    registry.disconnected(LINE);
    assert!(registry.connected(LINE));
    registry.take(LINE, 10);
    registry.on_subscribed(LINE, "a");
    assert!(registry.take_doubt(LINE));
}

#[test]
fn a_moved_name_is_subscribed_elsewhere_and_in_doubt() {
    let mut registry = connected();
    live(&mut registry, "a");
    assert!(!registry.on_unsubscribed(LINE, "a"), "nobody had asked");
    registry.rehouse("a", None);
    assert_eq!(registry.house(|_| None), []);
    assert_eq!(registry.house(|_| Some(OTHER)), [OTHER]);
    assert_eq!(registry.take(LINE, 10), Batch::default());
    assert_eq!(names(&registry.take(OTHER, 10).subscribe), ["a"]);
    assert!(registry.on_subscribed(OTHER, "a").has_lapsed);
    registry.close_line(OTHER);
    assert_eq!(registry.house(|_| Some(LINE)), [LINE]);
    registry.take(LINE, 10);
    assert!(registry.on_subscribed(LINE, "a").has_lapsed);
}

#[test]
fn a_refused_name_ends_the_wait_and_comes_again_with_the_next_connection() {
    let mut registry = connected();
    let Wanted::Waits(mut waits) = registry.want("a", Some(LINE)) else {
        panic!("nothing was confirmed");
    };
    registry.take(LINE, 10);
    registry.on_refused(LINE, "a");
    assert_eq!(waits.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    registry.disconnected(LINE);
    registry.connected(LINE);
    assert_eq!(names(&registry.take(LINE, 10).subscribe), ["a"]);
}

proptest! {
    /// Whatever happens in whatever order, in the end the server hears what is wanted, and whoever listened before
    /// a reconnect was told once that something may have been lost, when the names were back and not before.
    #[test]
    fn what_the_server_knows_comes_to_what_is_wanted(
        steps in proptest::collection::vec((0_u8..8, 0_usize..3), 0..60),
    ) {
        const NAMES: [&str; 3] = ["a", "b", "c"];
        let mut registry = connected();
        let mut wanted = [false; 3];
        // What the server has, and what it has not answered yet.
        let mut server = std::collections::BTreeSet::new();
        let mut answers = VecDeque::new();
        // Doubts since the last reconnect, and how many there must be in the end.
        let (mut num_doubts, mut num_due) = (0, 0);
        let serve = |registry: &mut Registry,
                     server: &mut std::collections::BTreeSet<Name>,
                     answers: &mut VecDeque<(bool, Name)>| {
            let batch = registry.take(LINE, 2);
            let is_idle = batch == Batch::default();
            for name in batch.subscribe {
                server.insert(Arc::clone(&name));
                answers.push_back((true, name));
            }
            for name in batch.unsubscribe {
                server.remove(&name);
                answers.push_back((false, name));
            }
            is_idle
        };
        let answer = |registry: &mut Registry, answers: &mut VecDeque<(bool, Name)>| {
            match answers.pop_front() {
                Some((true, name)) => { registry.on_subscribed(LINE, &name); }
                Some((false, name)) => { registry.on_unsubscribed(LINE, &name); }
                None => {}
            }
        };
        for (step, index) in steps {
            match step {
                0 => { registry.want(NAMES[index], Some(LINE)); wanted[index] = true; }
                1 => { registry.unwant(NAMES[index]); wanted[index] = false; }
                2 => { serve(&mut registry, &mut server, &mut answers); }
                3 => answer(&mut registry, &mut answers),
                4 => {
                    registry.disconnected(LINE);
                    server.clear();
                    answers.clear();
                    num_doubts = 0;
                    num_due = u32::from(registry.connected(LINE));
                }
                5 | 6 => {
                    // The server refuses, or says where else it is.
                    if let Some((true, name)) = answers.front().cloned()
                        && answers.iter().filter(|(_, other)| *other == name).count() == 1 {
                        answers.pop_front();
                        server.remove(&name);
                        if step == 5 {
                            registry.on_refused(LINE, &name);
                        } else {
                            registry.rehouse(&name, Some(LINE));
                        }
                    }
                }
                _ => {
                    // The slot moves away and comes back.
                    if answers.is_empty() && server.remove(NAMES[index])
                        && !registry.on_unsubscribed(LINE, NAMES[index]) {
                        registry.rehouse(NAMES[index], Some(LINE));
                    }
                }
            }
            if registry.take_doubt(LINE) {
                num_doubts += 1;
                prop_assert!(registry.entries.values().all(|entry| !entry.is_returning));
            }
        }
        // What was refused is tried again when it is wanted anew.
        for index in 0..3 {
            if wanted[index] {
                registry.want(NAMES[index], Some(LINE));
            }
        }
        while !serve(&mut registry, &mut server, &mut answers) {}
        while !answers.is_empty() {
            answer(&mut registry, &mut answers);
        }
        num_doubts += u32::from(registry.take_doubt(LINE));
        prop_assert_eq!(num_doubts, num_due);
        let expected: Vec<_> = (0..3).filter(|index| wanted[*index]).map(|index| NAMES[index]).collect();
        let heard: Vec<_> = server.iter().map(|name| &**name).collect();
        prop_assert_eq!(&heard, &expected);
        for name in &expected {
            prop_assert!(matches!(registry.want(name, Some(LINE)), Wanted::Live));
        }
        prop_assert_eq!(registry.len(), expected.len());
    }
}
