//! What another node decided, and a store that is not always there.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde_json::json;
use tempfile::TempDir;
use tidegate_control::{
    Actor, AppName, BindingRequest, Digest, Hook, KeyRole, NewVersion, PluginName, PostgresConfig,
    PostgresSettings, Scope, Secret, Store,
};
use tidegate_test_postgres::PostgresServer;
use tidegate_tls::TlsFiles;
use tokio::task::block_in_place;

use super::fake::{Bench, FakeApps, FakeHost};
use crate::admin::{Admin, AdminConfig, Candidate, PluginHost as _};

/// The store of a node on this server.
fn connect(server: &PostgresServer, dir: &TempDir) -> Store {
    let config = PostgresConfig::parse(PostgresSettings {
        url: Secret::stored(server.url()),
        schema: "tidegate".to_owned(),
        tls: TlsFiles::default(),
        max_copy_age: None,
    });
    block_in_place(|| Store::connect(config.unwrap(), dir.path()).unwrap())
}

/// A bench on a database, and its server.
fn shared() -> (PostgresServer, Bench) {
    let server = PostgresServer::start();
    let dir = TempDir::new().unwrap();
    let store = connect(&server, &dir);
    let bench = block_in_place(|| Bench::on(store, dir));
    (server, bench)
}

/// Stores a plugin at filtering, the way another node does it.
fn elsewhere(bench: &Bench, plugin: &str, artifact: &'static str) -> Digest {
    let (actor, app) = (Actor::node(), AppName::default_app());
    let name = PluginName::parse(plugin).unwrap();
    let new = NewVersion {
        artifact: artifact.as_bytes(),
        hooks: &[Hook::Filtering],
        imports: &[],
        note: "",
    };
    let request = BindingRequest {
        plugin: name.clone(),
        hook: Hook::Filtering,
        scope: Scope::App,
        position: None,
        config: None,
        failure_policy: None,
        isolation: None,
    };
    block_in_place(|| {
        let uploaded = bench.store.add_version(&actor, &app, &name, new).unwrap();
        bench.store.activate(&actor, &app, &name, 1, "").unwrap();
        bench.store.bind(&actor, &app, &request).unwrap();
        uploaded.version.digest
    })
}

/// The fake host knows by its artifact that it cannot run.
async fn is_unfit(bench: &Bench, plugin: &str, digest: Digest, artifact: &str) {
    let candidate = Candidate {
        app: AppName::default_app(),
        plugin: PluginName::parse(plugin).unwrap(),
        version: 1,
        digest,
        artifact: artifact.as_bytes().into(),
    };
    bench.host.prepare(candidate).await.unwrap();
}

async fn catch_up(admin: &Admin) -> bool {
    admin.try_catch_up().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_cannot_run_opens_no_app_and_is_tried_again_until_it_can() {
    const ARTIFACT: &str = "filtering; unfit";
    let bench = Bench::new();
    bench.admin.start().await.unwrap();
    let digest = elsewhere(&bench, "filter", ARTIFACT);
    is_unfit(&bench, "filter", digest, ARTIFACT).await;
    let shop = AppName::parse("shop").unwrap();
    bench.store.create_app(&Actor::node(), &shop).unwrap();
    bench.log();

    assert!(catch_up(&bench.admin).await, "there is something new");
    assert_eq!(bench.log(), ["apply filter@1"]);
    assert!(bench.apps.open.lock().is_empty(), "its plugins do not run");
    let report = bench.admin.own_report();
    assert!(report["problem"].is_string(), "{report}");
    assert_ne!(report["revision"], json!(bench.store.revision().unwrap()));
    assert!(!catch_up(&bench.admin).await);
    assert!(bench.log().is_empty(), "not with every look");

    // In its own time; by then the node can.
    bench.host.forget_artifacts();
    bench.admin.followed.lock().try_again();
    assert!(!catch_up(&bench.admin).await, "nothing was changed since");
    assert_eq!(bench.running(), ["filter@1"]);
    assert!(bench.apps.open.lock().contains_key("shop"));
    let report = bench.admin.own_report();
    assert!(report["problem"].is_null(), "{report}");
    assert_eq!(report["revision"], json!(bench.store.revision().unwrap()));
    bench.admin.followed.lock().try_again();
    assert!(!catch_up(&bench.admin).await);
    assert_eq!(bench.log(), ["apply filter@1"], "once is enough");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_followed_is_read_again_when_the_store_was_away() {
    let (mut server, bench) = shared();
    elsewhere(&bench, "filter", "filtering; one");
    bench.admin.start().await.unwrap();
    bench.log();
    assert!(!catch_up(&bench.admin).await);
    assert!(bench.log().is_empty());
    server.kill();
    assert!(bench.admin.try_catch_up().await.is_err());
    server.restart();
    // A connection that ends is found out by using it.
    let back = async {
        while bench.admin.try_catch_up().await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), back).await;
    waited.expect("the store is back");
    assert_eq!(
        bench.log(),
        ["apply filter@1"],
        "whatever the revision says"
    );
    assert!(!catch_up(&bench.admin).await);
    assert!(bench.log().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_after_a_change_was_stored_does_not_say_that_nothing_was_changed() {
    let (server, bench) = shared();
    bench.admin.start().await.unwrap();
    let server = Arc::new(Mutex::new(server));
    let doomed = Arc::clone(&server);
    let (actor, app) = (Actor::node(), AppName::default_app());
    let changed = bench.admin.change(&actor, &app, move |store, actor, app| {
        let key = store.create_key(actor, KeyRole::Api, Some(app), &[], "kept")?;
        doomed.lock().kill();
        Ok(key)
    });
    let problem = changed.await.unwrap_err();
    assert_eq!(problem.code(), "store-unavailable");
    let text = problem.to_string();
    assert!(text.contains("look whether it took place"), "{text}");
    assert!(!text.contains("nothing was changed"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_the_store_makes_the_copy_no_younger() {
    let (mut server, bench) = shared();
    elsewhere(&bench, "filter", "filtering; one");
    bench.admin.start().await.unwrap();
    server.kill();
    let dir = bench.into_data_dir();
    let copy = dir.path().join("control-copy/state.json");
    let kept = std::fs::read(&copy).unwrap();
    let store = Arc::new(connect(&server, &dir));
    let host = Arc::new(FakeHost::default());
    let config = AdminConfig::default();
    let apps = Arc::new(FakeApps::default());
    let admin = Admin::new(config, store, host.clone(), apps);
    admin.start().await.unwrap();
    assert_eq!(*host.log.lock(), ["apply filter@1"]);
    assert_eq!(std::fs::read(&copy).unwrap(), kept);
}
