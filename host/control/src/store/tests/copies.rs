//! What a node keeps on its disk of a store that nodes share: whole, and not older than it may be.

use std::path::Path;

use tidegate_test_redis::until;

use super::{
    shared::{alone, is_away},
    *,
};
use crate::Timestamp;

/// A bench on the store of [`alone`].
fn bench(store: Store, dir: TempDir) -> Bench {
    Bench {
        store: Arc::new(store),
        app: AppName::default_app(),
        dir,
        schema: None,
    }
}

fn kept(dir: &Path) -> serde_json::Value {
    let file = std::fs::read(dir.join("control-copy/state.json")).unwrap();
    serde_json::from_slice(&file).unwrap()
}

#[test]
fn a_node_starts_from_its_copy_while_the_database_is_away() {
    let (mut server, store, dir) = alone();
    let app = AppName::default_app();
    let shop = store.create_app(&actor(), &AppName::parse("shop").unwrap());
    let key = store
        .create_key(
            &actor(),
            KeyRole::Api,
            Some(&app),
            &["publish".to_owned()],
            "",
        )
        .unwrap();
    let bench = Bench {
        store: Arc::new(store),
        app,
        dir,
        schema: None,
    };
    let uploaded = bench.upload("filter", b"component", &[Hook::Filtering]);
    bench.activate("filter", 1).unwrap();
    bench.bind("filter", Hook::Filtering, None).unwrap();
    let digest = uploaded.version.digest;
    let state = bench.store.follow().unwrap();
    assert!(bench.store.remember(&state));
    let Bench { store, dir, .. } = bench;
    drop(store);
    let copy = dir.path().join("control-copy");
    for entry in std::fs::read_dir(&copy).unwrap() {
        let mode = entry.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "the copy is the owner's alone");
    }

    server.kill();
    let store = Store::connect(postgres(&server.url(), "tidegate"), dir.path()).unwrap();
    let verified = store.verify(key.secret.reveal()).unwrap();
    assert_eq!((&*verified.id, verified.methods.len()), (&*key.key.id, 1));
    let last_good = store.last_good.as_ref().unwrap();
    assert!(!last_good.has(&digest), "nobody needs it yet");
    let kept = store.remembered().unwrap();
    assert!(
        last_good.has(&digest),
        "who takes it is told what is missing"
    );
    assert_eq!(
        (&kept.revision, &kept.desired),
        (&state.revision, &state.desired)
    );
    assert_eq!(
        kept.apps[0].token_secret.reveal(),
        shop.unwrap().token_secret.reveal()
    );
    assert_eq!(&*store.artifact(&digest).unwrap(), b"component");
    assert!(is_away(store.follow()));
    server.restart();
    until("the store to be back", || store.follow().ok());
    drop(store);

    // A copy with a damaged artifact has none; one of another database is no copy.
    std::fs::write(copy.join(format!("{digest}.wasm")), b"other").unwrap();
    server.kill();
    let store = Store::connect(postgres(&server.url(), "tidegate"), dir.path()).unwrap();
    assert!(is_away(store.artifact(&digest)));
    drop(store);
    let refused = Store::connect(postgres(&server.url(), "elsewhere"), dir.path());
    let refused = refused.unwrap_err();
    assert!(matches!(refused, OpenError::NoCopy { .. }), "{refused:?}");
}

#[test]
fn a_copy_that_is_too_old_is_nothing_to_start_from() {
    let (mut server, store, dir) = alone();
    let state = store.follow().unwrap();
    assert!(store.remember(&state));
    store.confirm(&state.revision);
    assert!(!store.heard().unwrap().is_too_long);
    drop(store);
    let mut old = kept(dir.path());
    let age = i64::try_from(2 * MAX_COPY_AGE.as_millis()).unwrap();
    old["kept_at"] = (Timestamp::now().unix_millis() - age).into();
    std::fs::write(dir.path().join("control-copy/state.json"), old.to_string()).unwrap();

    server.kill();
    let start = || Store::connect(postgres(&server.url(), "tidegate"), dir.path());
    let refused = start().unwrap_err();
    assert!(
        matches!(refused, OpenError::CopyTooOld { .. }),
        "{refused:?}"
    );
    let text = refused.to_string();
    assert!(
        text.contains("cannot be reached (") && !text.contains("goes on"),
        "{text}"
    );
    assert!(
        text.contains("is 2 h old") && text.contains("max_copy_age allows (60 min)"),
        "{text}"
    );
    server.restart();
    Store::connect(postgres(&server.url(), "tidegate"), dir.path()).unwrap();
}

#[test]
fn a_node_that_is_cut_off_knows_for_how_long_and_when_that_is_too_long() {
    let server = PostgresServer::start();
    let dir = TempDir::new().unwrap();
    let config = PostgresConfig::parse(PostgresSettings {
        url: Secret::stored(server.url()),
        schema: "tidegate".to_owned(),
        tls: TlsFiles::default(),
        max_copy_age: Some(Duration::from_millis(1)),
    });
    let store = Store::connect(config.unwrap(), dir.path()).unwrap();
    assert_eq!(store.heard(), None);
    store.confirm(&store.revision().unwrap());
    until("that to be too long", || {
        store.heard()?.is_too_long.then_some(())
    });
}

#[test]
fn a_copy_is_replaced_by_a_whole_one_alone() {
    let (mut server, store, dir) = alone();
    let bench = bench(store, dir);
    let first = bench.upload("filter", b"first", &[Hook::Filtering]);
    let second = bench.upload("filter", b"second", &[Hook::Filtering]);
    bench.activate("filter", 1).unwrap();
    bench.bind("filter", Hook::Filtering, None).unwrap();
    assert!(bench.store.remember(&bench.store.follow().unwrap()));
    bench.activate("filter", 2).unwrap();
    let state = bench.store.follow().unwrap();
    // Nobody has asked for the new code yet.
    server.kill();
    assert!(!bench.store.remember(&state));
    let bench = bench.reopened_from(&server);
    let kept = bench.store.remembered().unwrap();
    assert_eq!(kept.desired.bindings[0].version, 1);
    let digest = first.version.digest;
    assert_eq!(&*bench.store.artifact(&digest).unwrap(), b"first");

    // What is damaged on disk is had again, also by a node that need not compile it.
    let file = bench.dir.path().join(format!("control-copy/{digest}.wasm"));
    std::fs::write(&file, b"other").unwrap();
    server.restart();
    let bench = bench.reopened_from(&server);
    bench.activate("filter", 1).unwrap();
    assert!(bench.store.remember(&bench.store.follow().unwrap()));
    assert_eq!(std::fs::read(&file).unwrap(), b"first");

    // What is damaged in the store holds nothing up: a key that was revoked shall not count.
    bench.activate("filter", 2).unwrap();
    let digest = second.version.digest;
    server.sql(
        "postgres",
        &format!(
            "SET search_path TO tidegate; ALTER TABLE artifacts DISABLE TRIGGER ALL;
             UPDATE artifacts SET bytes = 'x' WHERE digest = '\\x{digest}'"
        ),
    );
    let state = bench.store.follow().unwrap();
    assert!(bench.store.remember(&state));
    let revision = self::kept(bench.dir.path())["revision"].clone();
    assert_eq!(revision, state.revision.to_string());
}

#[test]
fn a_database_that_goes_away_in_the_middle_of_a_start_is_away() {
    let url = SERVER.create_database("between");
    let dir = TempDir::new().unwrap();
    let store = Store::connect(postgres(&url, "tidegate"), dir.path()).unwrap();
    let key = store.ensure_first_keys(&actor()).unwrap().unwrap();
    assert!(store.remember(&store.follow().unwrap()));
    drop(store);
    // It gets the first connection, with which a start begins, and not the second.
    SERVER.sql(
        "between",
        "CREATE ROLE single LOGIN PASSWORD 'one' CONNECTION LIMIT 1;
         GRANT USAGE ON SCHEMA tidegate TO single;
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA tidegate TO single;",
    );
    let port = SERVER.port();
    let single = format!("postgresql://single:one@127.0.0.1:{port}/between");
    let store = Store::connect(postgres(&single, "tidegate"), dir.path()).unwrap();
    assert!(store.problem().is_some());
    assert!(store.verify(key.api.secret.reveal()).is_some());
}
