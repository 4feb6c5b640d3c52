//! What the store promises, claim by claim, on both databases; here is what all claims use.
//!
//! The contract is the list at the end: each claim is a test on SQLite and one on a real PostgreSQL. What one of the
//! two alone promises is in `files`, `closing`, `shared`, `copies` and `moving`.

mod apps;
mod audit;
mod bindings;
mod closing;
mod copies;
mod files;
mod following;
mod keys;
mod moving;
mod plugins;
mod retention;
mod shared;

use std::{
    collections::{BTreeSet, HashSet},
    os::unix::fs::PermissionsExt as _,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use proptest::prelude::*;
use rusqlite::Connection;
use tempfile::TempDir;
use tidegate_test_postgres::PostgresServer;
use tidegate_tls::TlsFiles;

use super::{postgres::Migration, *};
use crate::{
    AppName, AuditQuery, BindingRequest, Digest, FailurePolicy, Hook, KeyRole, NewVersion, Page,
    PluginName, Scope, Secret, Uploaded, schema,
};

/// One server for all tests; it ends with the process. Each test has a schema.
static SERVER: LazyLock<PostgresServer> = LazyLock::new(PostgresServer::start);

/// How old a copy may be.
const MAX_COPY_AGE: Duration = Duration::from_secs(3_600);

/// Where the store of a test is.
#[derive(Debug, Clone, Copy)]
enum Database {
    Sqlite,
    Postgres,
}

struct Bench {
    store: Arc<Store>,
    app: AppName,
    dir: TempDir,
    /// In PostgreSQL.
    schema: Option<String>,
}

impl Bench {
    fn new(on: Database) -> Self {
        static SCHEMAS: AtomicU32 = AtomicU32::new(0);
        let dir = TempDir::new().unwrap();
        let (store, schema) = match on {
            Database::Sqlite => (Store::open(dir.path()).unwrap(), None),
            Database::Postgres => {
                let schema = format!("t{}", SCHEMAS.fetch_add(1, Ordering::Relaxed));
                let config = postgres(&SERVER.url(), &schema);
                (Store::connect(config, dir.path()).unwrap(), Some(schema))
            }
        };
        Self {
            store: Arc::new(store),
            app: AppName::default_app(),
            dir,
            schema,
        }
    }

    /// As after a restart of the node.
    fn reopened(self) -> Self {
        let Self {
            store,
            app,
            dir,
            schema,
        } = self;
        drop(store);
        let store = match &schema {
            None => Store::open(dir.path()).unwrap(),
            Some(schema) => Store::connect(postgres(&SERVER.url(), schema), dir.path()).unwrap(),
        };
        Self {
            store: Arc::new(store),
            app,
            dir,
            schema,
        }
    }

    /// As after a restart of a node with a server of its own.
    fn reopened_from(self, server: &PostgresServer) -> Self {
        let Self {
            store,
            app,
            dir,
            schema,
        } = self;
        drop(store);
        let store = Store::connect(postgres(&server.url(), "tidegate"), dir.path()).unwrap();
        Self {
            store: Arc::new(store),
            app,
            dir,
            schema,
        }
    }

    /// The store of another node on the same database.
    fn another_node(&self) -> Self {
        let dir = TempDir::new().unwrap();
        let schema = self.schema.clone().unwrap();
        let store = Store::connect(postgres(&SERVER.url(), &schema), dir.path()).unwrap();
        Self {
            store: Arc::new(store),
            app: self.app.clone(),
            dir,
            schema: Some(schema),
        }
    }

    fn sqlite(&self) -> &Sqlite {
        match &self.store.backend {
            Backend::Sqlite(sqlite) => sqlite,
            Backend::Postgres(_) => panic!("this is a claim about files"),
        }
    }

    /// Does something to the database that the store does not.
    fn execute(&self, sql: &str) -> Result<u64, StoreError> {
        let backend = &self.store.backend;
        backend.write(|transaction| transaction.execute(sql, &[]), |count| count)
    }

    /// The files, and the rows of keys.
    fn everything_stored(&self) -> Vec<u8> {
        let mut stored = Vec::new();
        let copy = self.dir.path().join("control-copy");
        for folder in [self.dir.path(), &copy] {
            for entry in std::fs::read_dir(folder).into_iter().flatten() {
                stored.extend(std::fs::read(entry.unwrap().path()).unwrap_or_default());
            }
        }
        if let Some(schema) = &self.schema {
            let rows = SERVER.sql("postgres", &format!("SELECT k::text FROM {schema}.keys k"));
            stored.extend(rows.into_bytes());
        }
        stored
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
            .activate(&actor(), &self.app, &name(plugin), number, "")
            .map(|activation| activation.version)
    }

    fn rollback(&self, plugin: &str) -> Result<u32, StoreError> {
        self.store
            .rollback(&actor(), &self.app, &name(plugin), "")
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

fn postgres(url: &str, schema: &str) -> PostgresConfig {
    PostgresConfig::parse(PostgresSettings {
        url: Secret::stored(url.to_owned()),
        schema: schema.to_owned(),
        tls: TlsFiles::default(),
        max_copy_age: Some(MAX_COPY_AGE),
    })
    .unwrap()
}

/// The newest schema of this release.
fn ours() -> u32 {
    postgres::MIGRATIONS.len().try_into().unwrap()
}

/// Our migrations and one more, as a later release has them.
fn after_ours(sql: &'static str, min_compatible: u32) -> &'static [Migration] {
    let next = Migration {
        sql,
        min_compatible: min_compatible.into(),
    };
    [postgres::MIGRATIONS, &[next]].concat().leak()
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
        failure_policy: Some(FailurePolicy::Closed),
        isolation: None,
    }
}

#[track_caller]
fn is_conflict<T: std::fmt::Debug>(result: Result<T, StoreError>, says: &str) {
    match result {
        Err(StoreError::Conflict { why }) => assert!(why.contains(says), "{why}"),
        other => panic!("expected a conflict about {says:?}, got {other:?}"),
    }
}

/// A test of each claim on each database.
macro_rules! contract {
    ($($module:ident :: $claim:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[test]
            fn $claim() {
                super::$module::$claim(super::Database::Sqlite);
            })*
        }
        mod on_postgres {
            $(#[test]
            fn $claim() {
                super::$module::$claim(super::Database::Postgres);
            })*
        }
    };
}

contract! {
    apps::an_app_has_a_token_secret_of_its_own_and_goes_for_good,
    apps::an_app_is_deleted_with_its_plugins_and_not_while_one_is_bound,
    audit::m7_every_change_leaves_one_audit_entry_that_nobody_can_edit,
    audit::m7_a_refused_change_leaves_neither_state_nor_entry,
    bindings::binding_again_changes_the_binding_and_positions_stay_dense,
    bindings::only_filtering_may_fail_open_and_only_valid_json_is_a_config,
    bindings::a_plugin_without_an_active_version_is_not_desired,
    bindings::restoring_a_snapshot_undoes_bindings_and_activations_but_not_the_log,
    keys::a8_first_keys_are_made_once_and_only_their_hashes_are_stored,
    keys::a8_two_keys_overlap_until_one_is_revoked_and_both_survive_a_restart,
    keys::the_last_operator_key_cannot_be_revoked,
    keys::n2_a_key_of_another_app_cannot_be_revoked_from_this_one,
    plugins::n1_apps_do_not_see_each_others_plugins,
    plugins::w4_versions_rise_and_never_change,
    plugins::w4_a_deleted_plugins_numbers_are_not_given_again,
    plugins::m8_pages_have_at_most_200_entries_and_follow_each_other,
    plugins::rollback_walks_back_through_what_was_active,
    plugins::a_version_without_a_bound_hook_cannot_become_active,
    plugins::a_bound_plugin_cannot_be_deleted_and_the_refusal_names_the_binding,
    plugins::concurrent_uploads_get_distinct_rising_numbers_and_one_plugin,
    retention::the_newest_versions_stay_and_their_bytes_go_with_the_others,
    retention::the_active_version_and_the_way_back_stay_however_old,
    retention::of_a_deep_stack_of_activations_the_bottom_goes,
    retention::bytes_that_another_plugin_has_too_stay,
    apps::a_fresh_store_has_app_default_and_no_keys,
    plugins::activations_behave_like_a_stack,
    following::a_state_is_all_that_a_node_runs_by_and_its_revision_tells_every_change,
    following::states_that_are_equally_many_changes_old_have_different_revisions,
    following::a_node_says_what_it_runs_until_it_takes_it_back,
    following::a_restore_does_not_undo_what_somebody_else_changed_meanwhile,
}
