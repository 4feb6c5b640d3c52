//! Keys: made once, revoked at once, never outside their app.

use super::*;

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
