//! Old versions go, and nothing that somebody may still need goes with them.

use std::num::NonZeroU32;

use super::*;

fn bench_with(on: Database, versions: u8) -> Bench {
    let bench = Bench::new(on);
    for number in 1..=versions {
        bench.upload("p", &[number], &[Hook::Filtering]);
    }
    bench
}

fn prune(bench: &Bench, keep: u32) -> Vec<u32> {
    let keep = NonZeroU32::new(keep).unwrap();
    bench
        .store
        .prune_versions(&actor(), &bench.app, &name("p"), keep)
        .unwrap()
}

fn numbers(bench: &Bench) -> Vec<u32> {
    let page = Page {
        size: 100,
        before: None,
    };
    let versions = bench.store.versions(&bench.app, &name("p"), page).unwrap();
    versions.iter().map(|version| version.number).collect()
}

pub(super) fn the_newest_versions_stay_and_their_bytes_go_with_the_others(on: Database) {
    let bench = bench_with(on, 5);
    let digest = |number: u8| Digest::of(&[number]);
    assert_eq!(prune(&bench, 3), [1, 2]);
    assert_eq!(numbers(&bench), [5, 4, 3]);
    assert!(bench.store.artifact(&digest(1)).is_err());
    assert!(bench.store.artifact(&digest(3)).is_ok());
    assert!(prune(&bench, 3).is_empty());
    let last = bench.actions().pop().unwrap();
    assert_eq!(last, "plugin.prune plugin/p removed version 1, 2");
    // A number is never given twice.
    assert_eq!(
        bench.upload("p", &[9], &[Hook::Filtering]).version.number,
        6
    );
}

pub(super) fn the_active_version_and_the_way_back_stay_however_old(on: Database) {
    let bench = bench_with(on, 6);
    bench.activate("p", 1).unwrap();
    bench.activate("p", 2).unwrap();
    bench.bind("p", Hook::Filtering, None).unwrap();
    assert_eq!(prune(&bench, 1), [3, 4, 5]);
    assert_eq!(numbers(&bench), [6, 2, 1]);
    assert_eq!(bench.active("p"), Some(2));
    assert_eq!(bench.rollback("p").unwrap(), 1);
    is_conflict(
        bench.rollback("p"),
        "no version of plugin p was active before",
    );
}

pub(super) fn of_a_deep_stack_of_activations_the_bottom_goes(on: Database) {
    let bench = bench_with(on, 8);
    for number in 1..=8 {
        bench.activate("p", number).unwrap();
    }
    assert_eq!(prune(&bench, 3), [1, 2, 3, 4, 5]);
    assert_eq!(bench.rollback("p").unwrap(), 7);
    assert_eq!(bench.rollback("p").unwrap(), 6);
    is_conflict(bench.rollback("p"), "was active before");
    // What was there before is still consistent for whoever opens the file next.
    bench.activate("p", 8).unwrap();
    bench
        .store
        .delete_plugin(&actor(), &bench.app, &name("p"))
        .unwrap();
}

pub(super) fn bytes_that_another_plugin_has_too_stay(on: Database) {
    let bench = bench_with(on, 3);
    bench.upload("q", &[1], &[Hook::Filtering]);
    assert_eq!(prune(&bench, 1), [1, 2]);
    assert!(bench.store.artifact(&Digest::of(&[1])).is_ok());
    assert!(bench.store.artifact(&Digest::of(&[2])).is_err());
}
