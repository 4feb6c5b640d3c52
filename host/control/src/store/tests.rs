//! What the store promises, claim by claim.

mod apps;

use std::{collections::BTreeSet, sync::Arc, thread};

use proptest::prelude::*;
use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::{
    AppName, AuditQuery, BindingRequest, Digest, FailurePolicy, Hook, KeyRole, NewVersion, Page,
    PluginName, Scope, Uploaded,
};

struct Bench {
    store: Arc<Store>,
    app: AppName,
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        Self {
            store: Arc::new(Store::open(dir.path()).unwrap()),
            app: AppName::default_app(),
            dir,
        }
    }

    fn upload(&self, plugin: &str, artifact: &[u8], hooks: &[Hook]) -> Uploaded {
        self.store
            .add_version(
                &actor(),
                &self.app,
                &name(plugin),
                NewVersion {
                    artifact,
                    hooks,
                    imports: &["tidegate:plugin/log@0.1.0".to_owned()],
                    note: "",
                },
            )
            .unwrap()
    }

    fn bind(&self, plugin: &str, hook: Hook, position: Option<u32>) -> Result<String, StoreError> {
        self.store
            .bind(&actor(), &self.app, &request(plugin, hook, position))
            .map(|bound| bound.binding.id)
    }

    fn active(&self, plugin: &str) -> Option<u32> {
        self.store
            .plugin(&self.app, &name(plugin))
            .unwrap()
            .active_version
    }

    fn activate(&self, plugin: &str, number: u32) -> Result<u32, StoreError> {
        self.store
            .activate(&actor(), &self.app, &name(plugin), number)
            .map(|activation| activation.version)
    }

    fn rollback(&self, plugin: &str) -> Result<u32, StoreError> {
        self.store
            .rollback(&actor(), &self.app, &name(plugin))
            .map(|activation| activation.version)
    }

    fn actions(&self) -> Vec<String> {
        let page = Page {
            size: 200,
            before: None,
        };
        let entries = self.store.audit(&AuditQuery { app: None, page }).unwrap();
        entries
            .into_iter()
            .rev()
            .map(|entry| format!("{} {} {}", entry.action, entry.object, entry.result))
            .collect()
    }
}

fn actor() -> Actor {
    Actor {
        who: "test".to_owned(),
        ip: Some([127, 0, 0, 1].into()),
    }
}

fn name(text: &str) -> PluginName {
    PluginName::parse(text).unwrap()
}

fn request(plugin: &str, hook: Hook, position: Option<u32>) -> BindingRequest {
    BindingRequest {
        plugin: name(plugin),
        hook,
        scope: Scope::App,
        position,
        config: Some(r#"{"words":["a"]}"#.to_owned()),
        failure_policy: FailurePolicy::Closed,
    }
}

#[track_caller]
fn is_conflict<T: std::fmt::Debug>(result: Result<T, StoreError>, says: &str) {
    match result {
        Err(StoreError::Conflict { why }) => assert!(why.contains(says), "{why}"),
        other => panic!("expected a conflict about {says:?}, got {other:?}"),
    }
}

#[test]
fn a_fresh_store_has_app_default_and_no_keys() {
    let bench = Bench::new();
    let apps: Vec<_> = bench.store.apps().unwrap();
    assert_eq!(apps.len(), 1);
    assert_eq!(apps[0].name.as_str(), "default");
    assert!(bench.store.keys(None).unwrap().is_empty());
}

#[test]
fn a8_first_keys_are_made_once_and_only_their_hashes_are_stored() {
    let bench = Bench::new();
    let first = bench.store.ensure_first_keys(&actor()).unwrap().unwrap();
    assert!(bench.store.ensure_first_keys(&actor()).unwrap().is_none());
    let verified = bench.store.verify(first.api.secret.reveal()).unwrap();
    assert_eq!(verified.role, KeyRole::Api);
    assert_eq!(verified.app.as_ref().unwrap().as_str(), "default");
    let operator = bench.store.verify(first.operator.secret.reveal()).unwrap();
    assert_eq!((operator.role, &operator.app), (KeyRole::Operator, &None));

    for entry in std::fs::read_dir(bench.dir.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        for secret in [&first.api.secret, &first.operator.secret] {
            let random = &secret.reveal().as_bytes()[4..];
            assert!(!bytes.windows(random.len()).any(|window| window == random));
        }
    }
}

#[test]
fn a8_two_keys_overlap_until_one_is_revoked_and_both_survive_a_restart() {
    let bench = Bench::new();
    let make = |label: &str| {
        bench
            .store
            .create_key(&actor(), KeyRole::Api, Some(&bench.app), &[], label)
            .unwrap()
    };
    let (old, new) = (make("old"), make("new"));
    assert!(bench.store.verify(old.secret.reveal()).is_some());
    assert!(bench.store.verify(new.secret.reveal()).is_some());
    bench.store.revoke_key(&actor(), None, &old.key.id).unwrap();
    assert!(bench.store.verify(old.secret.reveal()).is_none());

    let Bench { store, dir, .. } = bench;
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    assert!(store.verify(old.secret.reveal()).is_none());
    assert!(store.verify(new.secret.reveal()).is_some());
}

#[test]
fn the_last_operator_key_cannot_be_revoked() {
    let bench = Bench::new();
    let first = bench.store.ensure_first_keys(&actor()).unwrap().unwrap();
    let revoke = |id: &str| bench.store.revoke_key(&actor(), None, id);
    is_conflict(revoke(&first.operator.key.id), "create another one first");
    bench
        .store
        .create_key(&actor(), KeyRole::Operator, None, &[], "second")
        .unwrap();
    revoke(&first.operator.key.id).unwrap();
}

#[test]
fn n2_a_key_of_another_app_cannot_be_revoked_from_this_one() {
    let bench = Bench::new();
    let other = AppName::parse("other").unwrap();
    bench.store.create_app(&actor(), &other).unwrap();
    let key = bench
        .store
        .create_key(&actor(), KeyRole::Api, Some(&other), &[], "")
        .unwrap();
    let refused = bench
        .store
        .revoke_key(&actor(), Some(&bench.app), &key.key.id);
    assert!(matches!(refused, Err(StoreError::NotFound { .. })));
    assert!(bench.store.verify(key.secret.reveal()).is_some());
}

#[test]
fn n1_apps_do_not_see_each_others_plugins() {
    let bench = Bench::new();
    let other = AppName::parse("other").unwrap();
    bench.store.create_app(&actor(), &other).unwrap();
    bench.upload("filter", b"one", &[Hook::Filtering]);
    bench.activate("filter", 1).unwrap();
    let id = bench.bind("filter", Hook::Filtering, None).unwrap();

    assert!(bench.store.plugins(&other, None).unwrap().is_empty());
    assert!(bench.store.plugin(&other, &name("filter")).is_err());
    assert!(bench.store.bindings(&other).unwrap().is_empty());
    assert!(matches!(
        bench.store.unbind(&actor(), &other, &id),
        Err(StoreError::NotFound { .. })
    ));
    assert!(matches!(
        bench.store.activate(&actor(), &other, &name("filter"), 1),
        Err(StoreError::NotFound { .. })
    ));
}

#[test]
fn w4_versions_rise_and_never_change() {
    let bench = Bench::new();
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

    let writer = bench.store.writer.lock();
    for sql in [
        "UPDATE versions SET note = 'x'",
        "UPDATE artifacts SET bytes = x'00'",
    ] {
        assert!(writer.execute(sql, ()).is_err(), "{sql}");
    }
}

#[test]
fn w4_a_deleted_plugins_numbers_are_not_given_again() {
    let bench = Bench::new();
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

#[test]
fn m7_every_change_leaves_one_audit_entry_that_nobody_can_edit() {
    let bench = Bench::new();
    bench.upload("filter", b"a", &[Hook::Filtering]);
    bench.upload("filter", b"a", &[Hook::Filtering]); // Changes nothing, says nothing.
    bench.activate("filter", 1).unwrap();
    bench.activate("filter", 1).unwrap(); // Nor does this.
    let id = bench.bind("filter", Hook::Filtering, None).unwrap();
    bench.store.unbind(&actor(), &bench.app, &id).unwrap();
    bench
        .store
        .record_refusal(
            &actor(),
            &bench.app,
            "plugin.upload",
            "plugin/x",
            "refused:\nsize",
        )
        .unwrap();
    assert_eq!(
        bench.actions(),
        [
            "plugin.upload plugin/filter/versions/1 ok".to_owned(),
            "plugin.activate plugin/filter/versions/1 ok".to_owned(),
            format!("binding.set binding/{id} ok"),
            format!("binding.remove binding/{id} ok"),
            "plugin.upload plugin/x refused: size".to_owned(),
        ]
    );
    let entry = &bench.store.audit(&AuditQuery::default()).unwrap()[3];
    assert_eq!(entry.who, "test");
    assert_eq!(entry.ip.as_deref(), Some("127.0.0.1"));
    assert_eq!(entry.new, Some(Digest::of(b"a")));

    let writer = bench.store.writer.lock();
    for sql in ["UPDATE audit SET who = 'nobody'", "DELETE FROM audit"] {
        assert!(writer.execute(sql, ()).is_err(), "{sql}");
    }
}

#[test]
fn m7_a_refused_change_leaves_neither_state_nor_entry() {
    let bench = Bench::new();
    bench.upload("filter", b"a", &[Hook::Filtering]);
    let before = bench.actions();
    is_conflict(bench.bind("filter", Hook::Rpc, None), "does not export rpc");
    assert!(bench.activate("filter", 9).is_err());
    assert!(bench.rollback("filter").is_err());
    assert_eq!(bench.actions(), before);
    assert!(bench.store.bindings(&bench.app).unwrap().is_empty());
}

#[test]
fn m8_pages_have_at_most_200_entries_and_follow_each_other() {
    let bench = Bench::new();
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

#[test]
fn rollback_walks_back_through_what_was_active() {
    let bench = Bench::new();
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

#[test]
fn a_version_without_a_bound_hook_cannot_become_active() {
    let bench = Bench::new();
    bench.upload("filter", b"a", &[Hook::Filtering]);
    bench.upload("filter", b"b", &[Hook::Rpc]);
    bench.activate("filter", 1).unwrap();
    bench.bind("filter", Hook::Filtering, None).unwrap();
    is_conflict(bench.activate("filter", 2), "does not export filtering");
    assert_eq!(bench.active("filter"), Some(1));
}

#[test]
fn a_bound_plugin_cannot_be_deleted_and_the_refusal_names_the_binding() {
    let bench = Bench::new();
    bench.upload("filter", b"a", &[Hook::Filtering]);
    let id = bench.bind("filter", Hook::Filtering, None).unwrap();
    let delete = || {
        bench
            .store
            .delete_plugin(&actor(), &bench.app, &name("filter"))
    };
    is_conflict(delete(), &id);
    bench.store.unbind(&actor(), &bench.app, &id).unwrap();
    delete().unwrap();
}

#[test]
fn binding_again_changes_the_binding_and_positions_stay_dense() {
    let bench = Bench::new();
    for plugin in ["a", "b", "c"] {
        bench.upload(plugin, plugin.as_bytes(), &[Hook::Filtering]);
        bench.activate(plugin, 1).unwrap();
        bench.bind(plugin, Hook::Filtering, None).unwrap();
    }
    let order = || {
        let state = bench.store.desired_state().unwrap();
        state
            .bindings
            .into_iter()
            .map(|binding| (binding.plugin.as_str().to_owned(), binding.position))
            .collect::<Vec<_>>()
    };
    let expect = |plugins: [&str; 3]| {
        plugins
            .iter()
            .zip(0..)
            .map(|(plugin, position)| ((*plugin).to_owned(), position))
            .collect::<Vec<_>>()
    };
    assert_eq!(order(), expect(["a", "b", "c"]));
    bench.bind("c", Hook::Filtering, Some(0)).unwrap();
    assert_eq!(order(), expect(["c", "a", "b"]));

    let mut changed = request("a", Hook::Filtering, None);
    changed.failure_policy = FailurePolicy::Open;
    let bound = bench.store.bind(&actor(), &bench.app, &changed).unwrap();
    assert!(!bound.is_new);
    assert_eq!(order(), expect(["c", "a", "b"]));

    bench
        .store
        .unbind(&actor(), &bench.app, &bound.binding.id)
        .unwrap();
    assert_eq!(order(), [("c".to_owned(), 0), ("b".to_owned(), 1)]);
}

#[test]
fn only_filtering_may_fail_open_and_only_valid_json_is_a_config() {
    let bench = Bench::new();
    bench.upload("p", b"a", &[Hook::Routing, Hook::Rpc]);
    let check = |change: fn(&mut BindingRequest), field: &str| {
        let mut request = request("p", Hook::Routing, None);
        change(&mut request);
        match bench.store.bind(&actor(), &bench.app, &request) {
            Err(StoreError::Invalid { field: found, .. }) => assert_eq!(found, field),
            other => panic!("{field}: {other:?}"),
        }
    };
    check(
        |request| request.failure_policy = FailurePolicy::Open,
        "failure_policy",
    );
    check(|request| request.config = Some("{".to_owned()), "config");
    check(
        |request| request.config = Some(" ".repeat(70_000)),
        "config",
    );
    check(
        |request| request.scope = "rpc:user.".parse().unwrap(),
        "scope",
    );
}

#[test]
fn a_plugin_without_an_active_version_is_not_desired() {
    let bench = Bench::new();
    bench.upload("filter", b"a", &[Hook::Filtering]);
    bench.bind("filter", Hook::Filtering, None).unwrap();
    assert!(bench.store.desired_state().unwrap().bindings.is_empty());
    bench.activate("filter", 1).unwrap();
    let state = bench.store.desired_state().unwrap();
    let binding = &state.bindings[0];
    assert_eq!(binding.digest, Digest::of(b"a"));
    assert_eq!(binding.config, r#"{"words":["a"]}"#);
    assert_eq!(&*bench.store.artifact(&binding.digest).unwrap(), b"a");
}

#[test]
fn restoring_a_snapshot_undoes_bindings_and_activations_but_not_the_log() {
    let bench = Bench::new();
    bench.upload("filter", b"a", &[Hook::Filtering]);
    bench.upload("filter", b"b", &[Hook::Filtering]);
    bench.activate("filter", 1).unwrap();
    bench.bind("filter", Hook::Filtering, None).unwrap();
    let before = bench.store.desired_state().unwrap();
    let snapshot = bench.store.snapshot(&bench.app).unwrap();

    bench.activate("filter", 2).unwrap();
    let id = bench.store.bindings(&bench.app).unwrap()[0].id.clone();
    bench.store.unbind(&actor(), &bench.app, &id).unwrap();
    bench
        .store
        .restore(&actor(), &snapshot, "trial instantiation trapped")
        .unwrap();
    assert_eq!(bench.store.desired_state().unwrap(), before);
    let last = bench.actions().pop().unwrap();
    assert_eq!(last, "app.restore app/default trial instantiation trapped");
    is_conflict(bench.rollback("filter"), "no version");
}

#[test]
fn r9_a_full_disk_refuses_changes_keeps_reads_and_recovers_without_a_restart() {
    let bench = Bench::new();
    bench.upload("filter", b"a", &[Hook::Filtering]);
    let pages: i64 = {
        let writer = bench.store.writer.lock();
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
        .store
        .writer
        .lock()
        .pragma_update(None, "max_page_count", pages + 1000)
        .unwrap();
    assert_eq!(upload().unwrap().version.number, 2);
    bench.store.check().unwrap();
}

#[test]
fn r9_an_artifact_with_other_bytes_is_never_handed_out() {
    let bench = Bench::new();
    bench.upload("filter", b"genuine", &[Hook::Filtering]);
    {
        let writer = bench.store.writer.lock();
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
    let bench = Bench::new();
    bench.upload("filter", b"first", &[Hook::Filtering]);
    let wal = bench.dir.path().join("control.db-wal");
    let whole = std::fs::metadata(&wal).unwrap().len();
    bench.upload("filter", &[7; 200_000], &[Hook::Filtering]);
    // What a crash in the middle of the second upload leaves: a copy whose log ends anywhere in it.
    let log = std::fs::read(&wal).unwrap();
    let database = std::fs::read(bench.store.path()).unwrap();
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
    let bench = Bench::new();
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
    let bench = Bench::new();
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
    let bench = Bench::new();
    bench
        .store
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

#[test]
fn concurrent_uploads_get_distinct_rising_numbers_and_one_plugin() {
    const THREADS: u8 = 4;
    const UPLOADS: u8 = 10;
    let bench = Bench::new();
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is activated and rolled back in whatever order, the store agrees with a stack.
    #[test]
    fn activations_behave_like_a_stack(steps in prop::collection::vec(prop::option::of(1_u32..4), 1..24)) {
        let bench = Bench::new();
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
    }
}
