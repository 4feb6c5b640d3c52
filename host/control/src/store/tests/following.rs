//! What nodes follow: one state of one moment, and what each says of itself.

use super::*;

pub(super) fn a_state_is_all_that_a_node_runs_by_and_its_revision_tells_every_change(on: Database) {
    let bench = Bench::new(on);
    let mut revisions = HashSet::from([bench.store.revision().unwrap()]);
    let mut changed = || assert!(revisions.insert(bench.store.revision().unwrap()));
    bench.upload("filter", b"a", &[Hook::Filtering]);
    changed();
    bench.activate("filter", 1).unwrap();
    changed();
    bench.bind("filter", Hook::Filtering, None).unwrap();
    changed();
    let shop = AppName::parse("shop").unwrap();
    let made = bench.store.create_app(&actor(), &shop).unwrap();
    changed();
    bench
        .store
        .create_key(&actor(), KeyRole::Api, Some(&shop), &[], "")
        .unwrap();
    changed();
    let state = bench.store.follow().unwrap();
    assert_eq!(state.revision, bench.store.revision().unwrap());
    assert_eq!(state.desired, bench.store.desired_state().unwrap());
    assert_eq!(state.desired.bindings[0].version, 1);
    assert_eq!(state.apps.len(), 1);
    assert_eq!(
        state.apps[0].token_secret.reveal(),
        made.token_secret.reveal()
    );
}

pub(super) fn states_that_are_equally_many_changes_old_have_different_revisions(on: Database) {
    let bench = Bench::new(on);
    let make = |name| {
        let app = AppName::parse(name).unwrap();
        bench.store.create_app(&actor(), &app).unwrap();
        bench.store.revision().unwrap().to_string()
    };
    let before = bench.store.revision().unwrap().to_string();
    let (number, word) = before.split_once('-').unwrap();
    let lost = make("shop");
    // What a backup puts back, or a replica that had not heard of the last change.
    let restored = format!("UPDATE control SET revision = {number}, change = '{word}'");
    bench.execute(&restored).unwrap();
    assert_eq!(bench.store.revision().unwrap().to_string(), before);
    let now = make("mall");
    let number_of = |revision: &str| revision.split_once('-').unwrap().0.to_owned();
    assert_eq!(number_of(&lost), number_of(&now));
    assert_ne!(lost, now);
}

pub(super) fn a_node_says_what_it_runs_until_it_takes_it_back(on: Database) {
    let bench = Bench::new(on);
    let store = &bench.store;
    let revision = store.revision().unwrap();
    let said = || {
        let reports = store.reports(Duration::from_secs(60)).unwrap();
        let reports = reports.into_iter();
        reports
            .map(|report| format!("{}={}", report.node, report.report))
            .collect::<Vec<_>>()
    };
    store.report("b", "{}").unwrap();
    store.report("a", "one").unwrap();
    store.report("a", "two").unwrap();
    assert_eq!(said(), ["a=two", "b={}"]);
    store.withdraw_report("a").unwrap();
    assert_eq!(said(), ["b={}"]);
    assert_eq!(store.revision().unwrap(), revision, "a report is no change");
}

pub(super) fn a_restore_does_not_undo_what_somebody_else_changed_meanwhile(on: Database) {
    let bench = Bench::new(on);
    bench.upload("filter", b"a", &[Hook::Filtering]);
    bench.upload("other", b"b", &[Hook::Filtering]);
    let snapshot = bench.store.snapshot(&bench.app).unwrap();
    bench.activate("filter", 1).unwrap();
    bench.activate("other", 1).unwrap();
    let restored = bench.store.restore(&actor(), &snapshot, "trapped");
    is_conflict(restored, "was changed from another node");
    assert_eq!(bench.active("filter"), Some(1));
}
