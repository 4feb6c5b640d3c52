//! What a store promises that nodes share: one order, no node that waits for ever, nodes of two releases at once.

use std::iter;

use tidegate_test_redis::until;
use tokio::runtime::Builder;

use super::*;

pub(super) fn is_away<T: std::fmt::Debug>(result: Result<T, StoreError>) -> bool {
    match result {
        Err(error) if error.is_away() => true,
        Err(error) => panic!("{error:?}"),
        Ok(_) => false,
    }
}

/// A store on a server of its own, for a test that ends it.
pub(super) fn alone() -> (PostgresServer, Store, TempDir) {
    let server = PostgresServer::start();
    let dir = TempDir::new().unwrap();
    let store = Store::connect(postgres(&server.url(), "tidegate"), dir.path()).unwrap();
    (server, store, dir)
}

#[test]
fn what_one_node_changes_another_hears_of_and_follows() {
    let here = Bench::new(Database::Postgres);
    let there = here.another_node();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let shop = AppName::parse("shop").unwrap();
    let mut seen = there.store.follow().unwrap().revision;
    here.store.create_app(&actor(), &shop).unwrap();
    let key = here
        .store
        .create_key(&actor(), KeyRole::Api, Some(&shop), &[], "")
        .unwrap();
    assert!(there.store.verify(key.secret.reveal()).is_none());
    // A hint may be of the connection itself; then there is another.
    let state = until("the other node to follow", || {
        let hint =
            async { tokio::time::timeout(Duration::from_secs(20), there.store.changed()).await };
        runtime.block_on(hint).expect("a change is told of");
        let state = there.store.follow().unwrap();
        let is_new = state.revision != seen && state.apps.len() == 1;
        seen = state.revision.clone();
        is_new.then_some(state)
    });
    assert_eq!(state.apps[0].name, shop);
    until("the key to be known", || {
        there.store.follow().unwrap();
        there.store.verify(key.secret.reveal())
    });
    here.store.revoke_key(&actor(), None, &key.key.id).unwrap();
    there.store.follow().unwrap();
    assert!(there.store.verify(key.secret.reveal()).is_none());
}

#[test]
fn changes_of_two_nodes_at_once_are_one_order() {
    const UPLOADS: u8 = 12;
    let here = Bench::new(Database::Postgres);
    let there = here.another_node();
    let numbers: Vec<u32> = thread::scope(|scope| {
        let nodes = [(1_u8, &here), (2, &there)];
        let workers = nodes.map(|(node, bench)| {
            scope.spawn(move || {
                (0..UPLOADS)
                    .map(|upload| {
                        let uploaded = bench.upload("filter", &[node, upload], &[Hook::Filtering]);
                        bench.activate("filter", uploaded.version.number).unwrap();
                        uploaded.version.number
                    })
                    .collect::<Vec<_>>()
            })
        });
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap())
            .collect()
    });
    let distinct: BTreeSet<_> = numbers.iter().copied().collect();
    assert_eq!(distinct, (1..=2 * u32::from(UPLOADS)).collect());
    // Every activation lies on top of the one before it, whichever node it came from.
    let depth = iter::from_fn(|| there.rollback("filter").ok()).count();
    assert_eq!(depth, 2 * usize::from(UPLOADS) - 1);
    here.store.check().unwrap();
}

#[test]
fn nodes_that_start_at_once_make_one_schema_and_one_pair_of_first_keys() {
    let url = SERVER.create_database("at_once");
    let made: usize = thread::scope(|scope| {
        let starts = [(); 4].map(|()| {
            scope.spawn(|| {
                let dir = TempDir::new().unwrap();
                let store = Store::connect(postgres(&url, "tidegate"), dir.path()).unwrap();
                store.ensure_first_keys(&actor()).unwrap().iter().count()
            })
        });
        starts.into_iter().map(|start| start.join().unwrap()).sum()
    });
    assert_eq!(made, 1);
    let rows = SERVER.sql(
        "at_once",
        "SELECT version, min_compatible FROM tidegate.control",
    );
    assert_eq!(rows, format!("{}|1", ours()));
}

#[test]
fn a_database_that_is_away_refuses_changes_and_comes_back_by_itself() {
    let (mut server, store, _dir) = alone();
    let app = AppName::default_app();
    let make = || store.create_key(&actor(), KeyRole::Api, Some(&app), &[], "");
    let key = make().unwrap();
    server.kill();
    assert!(is_away(make()));
    assert!(is_away(store.apps()));
    assert!(store.problem().is_some());
    assert!(store.verify(key.secret.reveal()).is_some(), "keys go on");
    server.restart();
    let second = until("the store to be back", || make().ok());
    assert!(store.verify(second.secret.reveal()).is_some());
    assert_eq!(store.problem(), None);
    assert_eq!(store.keys(Some(&app)).unwrap().len(), 2);
}

#[test]
fn a_database_that_does_not_answer_keeps_nobody_waiting_for_ever() {
    let (server, store, _dir) = alone();
    let app = AppName::default_app();
    server.pause();
    assert!(is_away(store.create_key(
        &actor(),
        KeyRole::Api,
        Some(&app),
        &[],
        ""
    )));
    assert!(is_away(store.revision()));
    server.resume();
    until("the store to be back", || store.revision().ok());
}

#[test]
fn an_older_node_works_on_with_a_newer_schema_that_says_it_may() {
    let old = Bench::new(Database::Postgres);
    old.upload("filter", b"a", &[Hook::Filtering]);
    let dir = TempDir::new().unwrap();
    let config = || postgres(&SERVER.url(), old.schema.as_deref().unwrap());
    let later = after_ours(
        "ALTER TABLE bindings ADD COLUMN colour TEXT NOT NULL DEFAULT 'blue'",
        1,
    );
    let new = Store::connect_with(config(), dir.path(), later).unwrap();
    // The old node that runs, the new one, and an old one that starts now.
    old.activate("filter", 1).unwrap();
    let started = old.another_node();
    started.bind("filter", Hook::Filtering, None).unwrap();
    assert_eq!(new.bindings(&old.app).unwrap().len(), 1);
    new.create_app(&actor(), &AppName::parse("shop").unwrap())
        .unwrap();
    assert_eq!(started.store.follow().unwrap().apps.len(), 1);
}

#[test]
fn an_older_node_is_told_when_a_newer_schema_is_not_for_it() {
    let old = Bench::new(Database::Postgres);
    let dir = TempDir::new().unwrap();
    let config = || postgres(&SERVER.url(), old.schema.as_deref().unwrap());
    let key = old.store.ensure_first_keys(&actor()).unwrap().unwrap();
    let breaking = after_ours(
        "ALTER TABLE bindings RENAME COLUMN config TO settings",
        ours() + 1,
    );
    Store::connect_with(config(), dir.path(), breaking).unwrap();
    let refused = old
        .store
        .create_app(&actor(), &AppName::parse("shop").unwrap());
    is_conflict(refused, "replace this one");
    assert!(old.store.verify(key.api.secret.reveal()).is_some());
    let dir = TempDir::new().unwrap();
    let refused = Store::connect(config(), dir.path());
    assert!(
        matches!(refused, Err(OpenError::TooNew { found, known }) if (found, known) == (ours() + 1, ours())),
        "{refused:?}"
    );
}

#[test]
fn m6_a_password_is_in_no_error_and_in_no_debug_output() {
    let bench = Bench::new(Database::Postgres);
    assert!(!format!("{:?}", bench.store).contains(SERVER.password()));
    let wrong = SERVER.url().replace(SERVER.password(), "hunter2");
    let dir = TempDir::new().unwrap();
    let refused = Store::connect(postgres(&wrong, "tidegate"), dir.path()).unwrap_err();
    let mut text = format!("{refused:?}");
    let mut error: Option<&dyn std::error::Error> = Some(&refused);
    while let Some(cause) = error {
        text.push_str(&cause.to_string());
        error = cause.source();
    }
    assert!(text.contains("authentication failed"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn a_role_that_may_only_work_with_the_rows_is_enough_once_the_schema_is_there() {
    let url = SERVER.create_database("least");
    let dir = TempDir::new().unwrap();
    SERVER.sql("least", "CREATE ROLE runner LOGIN PASSWORD 'runs'");
    let port = SERVER.port();
    let as_runner = format!("postgresql://runner:runs@127.0.0.1:{port}/least");
    let refused = Store::connect(postgres(&as_runner, "tidegate"), dir.path());
    match refused {
        Err(OpenError::Migration { why }) => assert!(why.contains("permission denied"), "{why}"),
        other => panic!("{other:?}"),
    }
    drop(Store::connect(postgres(&url, "tidegate"), dir.path()).unwrap());
    // As docs/control-store.md has it.
    SERVER.sql(
        "least",
        "GRANT USAGE ON SCHEMA tidegate TO runner;
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA tidegate TO runner;",
    );
    let store = Store::connect(postgres(&as_runner, "tidegate"), dir.path()).unwrap();
    store.ensure_first_keys(&actor()).unwrap().unwrap();
    let bench = Bench {
        store: Arc::new(store),
        app: AppName::default_app(),
        dir,
        schema: None,
    };
    bench.upload("filter", b"a", &[Hook::Filtering]);
    bench.activate("filter", 1).unwrap();
    bench
        .store
        .delete_plugin(&actor(), &bench.app, &name("filter"))
        .unwrap();
    bench.store.report("node", "{}").unwrap();
}

#[test]
fn changes_of_nodes_of_the_release_before_have_revisions_too() {
    let url = SERVER.create_database("before");
    let dirs = [(); 2].map(|()| TempDir::new().unwrap());
    let config = || postgres(&url, "tidegate");
    let known = &postgres::MIGRATIONS[..1];
    let old = Store::connect_with(config(), dirs[0].path(), known).unwrap();
    let make = |name| {
        let app = AppName::parse(name).unwrap();
        old.create_app(&actor(), &app).unwrap();
    };
    make("shop");
    let new = Store::connect(config(), dirs[1].path()).unwrap();
    let before = new.follow().unwrap();
    make("mall");
    let after = new.follow().unwrap();
    assert_eq!((before.apps.len(), after.apps.len()), (1, 2));
    assert_ne!(before.revision, after.revision);
}
