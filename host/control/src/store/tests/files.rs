//! The files: what they survive, who may read them, which of them are ours.

use super::*;

#[test]
fn r9_a_full_disk_refuses_changes_keeps_reads_and_recovers_without_a_restart() {
    let bench = Bench::new(Database::Sqlite);
    bench.upload("filter", b"a", &[Hook::Filtering]);
    let pages: i64 = {
        let writer = bench.sqlite().writer.lock();
        let pages = writer
            .pragma_query_value(None, "page_count", |row| row.get(0))
            .unwrap();
        writer.pragma_update(None, "max_page_count", pages).unwrap();
        pages
    };
    let big = vec![7; 256 * 1024];
    let upload = || {
        bench.store.add_version(
            &actor(),
            &bench.app,
            &name("filter"),
            NewVersion {
                artifact: &big,
                hooks: &[Hook::Filtering],
                imports: &[],
                note: "",
            },
        )
    };
    assert!(matches!(upload(), Err(StoreError::Full)));
    assert_eq!(bench.actions().len(), 1);
    assert_eq!(&*bench.store.artifact(&Digest::of(b"a")).unwrap(), b"a");

    bench
        .sqlite()
        .writer
        .lock()
        .pragma_update(None, "max_page_count", pages + 1000)
        .unwrap();
    assert_eq!(upload().unwrap().version.number, 2);
    bench.store.check().unwrap();
}

#[test]
fn r9_an_artifact_with_other_bytes_is_never_handed_out() {
    let bench = Bench::new(Database::Sqlite);
    bench.upload("filter", b"genuine", &[Hook::Filtering]);
    {
        let writer = bench.sqlite().writer.lock();
        writer
            .execute_batch(
                "DROP TRIGGER artifacts_do_not_change; UPDATE artifacts SET bytes = x'6666'",
            )
            .unwrap();
    }
    assert!(matches!(
        bench.store.artifact(&Digest::of(b"genuine")),
        Err(StoreError::Corrupt { .. })
    ));
    assert!(matches!(
        bench.store.check(),
        Err(StoreError::Corrupt { .. })
    ));
}

#[test]
fn r9_a_torn_tail_of_the_log_costs_no_answered_change() {
    let bench = Bench::new(Database::Sqlite);
    bench.upload("filter", b"first", &[Hook::Filtering]);
    let wal = bench.dir.path().join("control.db-wal");
    let whole = std::fs::metadata(&wal).unwrap().len();
    bench.upload("filter", &[7; 200_000], &[Hook::Filtering]);
    // What a crash in the middle of the second upload leaves: a copy whose log ends anywhere in it.
    let log = std::fs::read(&wal).unwrap();
    let database = std::fs::read(bench.dir.path().join(DATABASE_FILE)).unwrap();
    let start = usize::try_from(whole).unwrap();
    for cut in [
        start,
        start + 1,
        start + 4096,
        start + 100_001,
        log.len() - 1,
    ] {
        let copy = TempDir::new().unwrap();
        std::fs::write(copy.path().join(DATABASE_FILE), &database).unwrap();
        std::fs::write(copy.path().join("control.db-wal"), &log[..cut]).unwrap();
        let store = Store::open(copy.path()).unwrap();
        store.check().unwrap();
        let plugin = store.plugin(&bench.app, &name("filter")).unwrap();
        assert_eq!(plugin.newest_version, 1, "cut at {cut}");
        assert_eq!(store.audit(&AuditQuery::default()).unwrap().len(), 1);
        assert!(store.artifact(&Digest::of(&[7; 200_000])).is_err());
    }
}

#[test]
fn r9_the_files_are_the_owners_alone() {
    let bench = Bench::new(Database::Sqlite);
    bench.upload("filter", b"a", &[Hook::Filtering]);
    let mut seen = BTreeSet::new();
    for entry in std::fs::read_dir(bench.dir.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{:?}", entry.file_name());
        seen.insert(entry.file_name().into_string().unwrap());
    }
    assert!(seen.contains("control.db-wal"), "{seen:?}");
}

#[test]
fn one_data_directory_serves_one_node() {
    let bench = Bench::new(Database::Sqlite);
    assert!(matches!(
        Store::open(bench.dir.path()),
        Err(OpenError::InUse { .. })
    ));
    let Bench { store, dir, .. } = bench;
    drop(store);
    Store::open(dir.path()).unwrap();
}

#[test]
fn a_file_that_is_not_ours_is_refused_and_left_alone() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join(DATABASE_FILE);
    std::fs::write(&path, vec![b'x'; 8192]).unwrap();
    assert!(matches!(
        Store::open(dir.path()),
        Err(OpenError::Foreign { .. })
    ));
    assert_eq!(std::fs::read(&path).unwrap(), vec![b'x'; 8192]);

    std::fs::remove_file(&path).unwrap();
    Connection::open(&path)
        .unwrap()
        .execute_batch("CREATE TABLE theirs (x)")
        .unwrap();
    assert!(matches!(
        Store::open(dir.path()),
        Err(OpenError::Foreign { .. })
    ));
}

#[test]
fn an_older_schema_is_brought_forward_with_its_content() {
    let dir = TempDir::new().unwrap();
    let mut old = Connection::open(dir.path().join(DATABASE_FILE)).unwrap();
    schema::step(&mut old, 1, schema::MIGRATIONS[0]).unwrap();
    old.execute(
        "INSERT INTO audit (at, who, action, object, result) VALUES (1, 'then', 'app.create', 'app/x', 'ok')",
        (),
    )
    .unwrap();
    drop(old);

    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.audit(&AuditQuery::default()).unwrap()[0].who, "then");
    assert!(
        store
            .plugins(&AppName::default_app(), None)
            .unwrap()
            .is_empty()
    );
    store.check().unwrap();
}

#[test]
fn a_schema_of_a_later_release_is_refused() {
    let bench = Bench::new(Database::Sqlite);
    bench
        .sqlite()
        .writer
        .lock()
        .pragma_update(None, "user_version", 1000)
        .unwrap();
    let Bench { store, dir, .. } = bench;
    drop(store);
    assert!(matches!(
        Store::open(dir.path()),
        Err(OpenError::TooNew { found: 1000, .. })
    ));
}
