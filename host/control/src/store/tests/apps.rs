//! Apps come and go; their names do not come again.

use super::*;

pub(super) fn a_fresh_store_has_app_default_and_no_keys(on: Database) {
    let bench = Bench::new(on);
    let apps: Vec<_> = bench.store.apps().unwrap();
    assert_eq!(apps.len(), 1);
    assert_eq!(apps[0].name.as_str(), "default");
    assert!(bench.store.keys(None).unwrap().is_empty());
    let state = bench.store.follow().unwrap();
    assert!(state.apps.is_empty() && state.desired.bindings.is_empty());
    bench.store.check().unwrap();
}

pub(super) fn an_app_has_a_token_secret_of_its_own_and_goes_for_good(on: Database) {
    let bench = Bench::new(on);
    let (shop, game) = (
        AppName::parse("shop").unwrap(),
        AppName::parse("game").unwrap(),
    );
    let made = bench.store.create_app(&actor(), &shop).unwrap();
    let other = bench.store.create_app(&actor(), &game).unwrap();
    assert_ne!(made.token_secret.reveal(), other.token_secret.reveal());
    assert!(made.token_secret.reveal().len() >= 32);
    let stored = bench.store.created_apps().unwrap();
    assert_eq!(
        (stored.len(), stored[1].token_secret.reveal()),
        (2, made.token_secret.reveal())
    );
    is_conflict(bench.store.create_app(&actor(), &shop), "exists already");

    let key = bench
        .store
        .create_key(&actor(), KeyRole::Api, Some(&shop), &[], "")
        .unwrap();
    bench.store.delete_app(&actor(), &shop).unwrap();
    assert!(bench.store.verify(key.secret.reveal()).is_none());
    assert!(bench.store.app(&shop).is_err());
    assert_eq!(bench.store.apps().unwrap().len(), 2);
    assert_eq!(bench.store.created_apps().unwrap().len(), 1);
    is_conflict(bench.store.create_app(&actor(), &shop), "was deleted");
    assert!(matches!(
        bench.store.delete_app(&actor(), &shop),
        Err(StoreError::NotFound { .. })
    ));
    is_conflict(
        bench.store.delete_app(&actor(), &AppName::default_app()),
        "cannot be deleted",
    );
}

pub(super) fn an_app_is_deleted_with_its_plugins_and_not_while_one_is_bound(on: Database) {
    let mut bench = Bench::new(on);
    let default = std::mem::replace(&mut bench.app, AppName::parse("shop").unwrap());
    bench.store.create_app(&actor(), &bench.app).unwrap();
    bench.upload("filter", b"one", &[Hook::Filtering]);
    bench.activate("filter", 1).unwrap();
    let id = bench.bind("filter", Hook::Filtering, None).unwrap();
    is_conflict(
        bench.store.delete_app(&actor(), &bench.app),
        "unbind them first",
    );
    bench.store.unbind(&actor(), &bench.app, &id, "").unwrap();
    bench.store.delete_app(&actor(), &bench.app).unwrap();
    assert!(
        bench
            .store
            .plugins(&bench.app, None)
            .map_or(true, |all| all.is_empty())
    );
    assert!(bench.store.artifact(&Digest::of(b"one")).is_err());
    assert!(bench.store.app(&default).is_ok());
}
