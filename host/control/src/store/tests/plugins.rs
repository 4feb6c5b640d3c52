//! Plugins and versions: numbers that rise, pages that end, a way back.

use super::*;

pub(super) fn n1_apps_do_not_see_each_others_plugins(on: Database) {
    let bench = Bench::new(on);
    let other = AppName::parse("other").unwrap();
    bench.store.create_app(&actor(), &other).unwrap();
    bench.upload("filter", b"one", &[Hook::Filtering]);
    bench.activate("filter", 1).unwrap();
    let id = bench.bind("filter", Hook::Filtering, None).unwrap();

    assert!(bench.store.plugins(&other, None).unwrap().is_empty());
    assert!(bench.store.plugin(&other, &name("filter")).is_err());
    assert!(bench.store.bindings(&other).unwrap().is_empty());
    assert!(matches!(
        bench.store.unbind(&actor(), &other, &id, ""),
        Err(StoreError::NotFound { .. })
    ));
    assert!(matches!(
        bench
            .store
            .activate(&actor(), &other, &name("filter"), 1, ""),
        Err(StoreError::NotFound { .. })
    ));
}

pub(super) fn w4_versions_rise_and_never_change(on: Database) {
    let bench = Bench::new(on);
    let numbers: Vec<_> = [b"a", b"b", b"c"]
        .iter()
        .map(|artifact| {
            bench
                .upload("filter", *artifact, &[Hook::Filtering])
                .version
                .number
        })
        .collect();
    assert_eq!(numbers, [1, 2, 3]);

    let again = bench.upload("filter", b"c", &[Hook::Filtering]);
    assert_eq!((again.version.number, again.is_new), (3, false));
    let older = bench.upload("filter", b"a", &[Hook::Filtering]);
    assert_eq!((older.version.number, older.is_new), (4, true));

    for sql in [
        "UPDATE versions SET note = 'x'",
        "UPDATE artifacts SET bytes = digest",
    ] {
        assert!(bench.execute(sql).is_err(), "{sql}");
    }
}

pub(super) fn w4_a_deleted_plugins_numbers_are_not_given_again(on: Database) {
    let bench = Bench::new(on);
    bench.upload("filter", b"a", &[Hook::Filtering]);
    bench.upload("filter", b"b", &[Hook::Filtering]);
    bench.activate("filter", 1).unwrap();
    bench.activate("filter", 2).unwrap();
    bench
        .store
        .delete_plugin(&actor(), &bench.app, &name("filter"))
        .unwrap();
    bench.store.check().unwrap();
    assert!(bench.store.artifact(&Digest::of(b"a")).is_err());
    assert_eq!(
        bench
            .upload("filter", b"c", &[Hook::Filtering])
            .version
            .number,
        3
    );
}

pub(super) fn m8_pages_have_at_most_200_entries_and_follow_each_other(on: Database) {
    let bench = Bench::new(on);
    for artifact in 0..5_u8 {
        bench.upload("filter", &[artifact], &[Hook::Filtering]);
    }
    let page = |size, before| {
        bench
            .store
            .audit(&AuditQuery {
                app: Some(bench.app.clone()),
                page: Page { size, before },
            })
            .map(|entries| entries.iter().map(|entry| entry.id).collect::<Vec<_>>())
    };
    assert_eq!(page(2, None).unwrap(), [5, 4]);
    assert_eq!(page(2, Some(4)).unwrap(), [3, 2]);
    for size in [0, 201, usize::MAX] {
        assert!(matches!(
            page(size, None),
            Err(StoreError::Invalid { field: "limit", .. })
        ));
    }
}

pub(super) fn rollback_walks_back_through_what_was_active(on: Database) {
    let bench = Bench::new(on);
    for artifact in [b"a", b"b", b"c"] {
        bench.upload("filter", artifact, &[Hook::Filtering]);
    }
    for number in [1, 2, 3] {
        bench.activate("filter", number).unwrap();
    }
    assert_eq!(bench.rollback("filter").unwrap(), 2);
    assert_eq!(bench.rollback("filter").unwrap(), 1);
    is_conflict(bench.rollback("filter"), "activate one by its number");
    assert_eq!(bench.active("filter"), Some(1));
    bench.activate("filter", 3).unwrap();
    assert_eq!(bench.rollback("filter").unwrap(), 1);
}

pub(super) fn a_version_without_a_bound_hook_cannot_become_active(on: Database) {
    let bench = Bench::new(on);
    bench.upload("filter", b"a", &[Hook::Filtering]);
    bench.upload("filter", b"b", &[Hook::Rpc]);
    bench.activate("filter", 1).unwrap();
    bench.bind("filter", Hook::Filtering, None).unwrap();
    is_conflict(bench.activate("filter", 2), "does not export filtering");
    assert_eq!(bench.active("filter"), Some(1));
}

pub(super) fn a_bound_plugin_cannot_be_deleted_and_the_refusal_names_the_binding(on: Database) {
    let bench = Bench::new(on);
    bench.upload("filter", b"a", &[Hook::Filtering]);
    let id = bench.bind("filter", Hook::Filtering, None).unwrap();
    let delete = || {
        bench
            .store
            .delete_plugin(&actor(), &bench.app, &name("filter"))
    };
    is_conflict(delete(), &id);
    bench.store.unbind(&actor(), &bench.app, &id, "").unwrap();
    delete().unwrap();
}

pub(super) fn concurrent_uploads_get_distinct_rising_numbers_and_one_plugin(on: Database) {
    const THREADS: u8 = 4;
    const UPLOADS: u8 = 10;
    let bench = Bench::new(on);
    let numbers: Vec<u32> = thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|worker| {
                let bench = &bench;
                scope.spawn(move || {
                    (0..UPLOADS)
                        .map(|upload| {
                            bench
                                .upload("filter", &[worker, upload], &[Hook::Filtering])
                                .version
                                .number
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap())
            .collect()
    });
    let distinct: BTreeSet<_> = numbers.iter().copied().collect();
    let all = u32::from(THREADS) * u32::from(UPLOADS);
    assert_eq!(distinct, (1..=all).collect());
    assert_eq!(bench.store.plugins(&bench.app, None).unwrap().len(), 1);
    bench.store.check().unwrap();
}

/// Whatever is activated and rolled back in whatever order, the store agrees with a stack.
pub(super) fn activations_behave_like_a_stack(on: Database) {
    let cases = match on {
        Database::Sqlite => 24,
        Database::Postgres => 6,
    };
    let steps = prop::collection::vec(prop::option::of(1_u32..4), 1..24);
    proptest!(ProptestConfig::with_cases(cases), |(steps in steps)| {
        let bench = Bench::new(on);
        for artifact in [b"a", b"b", b"c"] {
            bench.upload("filter", artifact, &[Hook::Filtering]);
        }
        let mut model: Vec<u32> = Vec::new();
        for step in steps {
            match step {
                Some(number) => {
                    bench.activate("filter", number).unwrap();
                    if model.last() != Some(&number) {
                        model.push(number);
                    }
                }
                None if model.len() > 1 => {
                    model.pop();
                    prop_assert_eq!(bench.rollback("filter").unwrap(), *model.last().unwrap());
                }
                None => prop_assert!(bench.rollback("filter").is_err()),
            }
            prop_assert_eq!(bench.active("filter"), model.last().copied());
        }
    });
}
