//! What is in the database file when the store closes.

use std::fs;

use super::*;

/// A store that has only the database file of this one.
fn copy_of_the_database(bench: &Bench) -> (Store, TempDir) {
    let dir = TempDir::new().unwrap();
    let copy = dir.path().join(DATABASE_FILE);
    fs::copy(bench.dir.path().join(DATABASE_FILE), &copy).unwrap();
    (Store::open(dir.path()).unwrap(), dir)
}

#[test]
fn after_a_checkpoint_the_database_file_alone_holds_everything() {
    let bench = Bench::new(Database::Sqlite);
    let keys = bench.store.ensure_first_keys(&actor()).unwrap().unwrap();
    let uploaded = bench.upload("filter", &[7; 100_000], &[Hook::Filtering]);
    // Somebody has read, through the other connection.
    bench.store.plugins(&bench.app, None).unwrap();
    bench.store.checkpoint().unwrap();
    let (copy, _dir) = copy_of_the_database(&bench);
    assert!(copy.verify(keys.operator.secret.reveal()).is_some());
    let artifact = copy.artifact(&uploaded.version.digest).unwrap();
    assert_eq!(*artifact, [7; 100_000]);
}

#[test]
fn a_store_that_is_dropped_leaves_everything_in_the_database_file() {
    let mut bench = Bench::new(Database::Sqlite);
    bench.store.ensure_first_keys(&actor()).unwrap();
    let elsewhere = TempDir::new().unwrap();
    let store = std::mem::replace(
        &mut bench.store,
        Arc::new(Store::open(elsewhere.path()).unwrap()),
    );
    drop(store);
    let (copy, _dir) = copy_of_the_database(&bench);
    let again = copy.ensure_first_keys(&actor()).unwrap();
    assert!(again.is_none(), "it has its keys");
}
