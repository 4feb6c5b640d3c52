//! Keys: made once, revoked at once, never outside their app.

use super::*;

pub(super) fn a8_first_keys_are_made_once_and_only_their_hashes_are_stored(on: Database) {
    let bench = Bench::new(on);
    let first = bench.store.ensure_first_keys(&actor()).unwrap().unwrap();
    assert!(bench.store.ensure_first_keys(&actor()).unwrap().is_none());
    let verified = bench.store.verify(first.api.secret.reveal()).unwrap();
    assert_eq!(verified.role, KeyRole::Api);
    assert_eq!(verified.app.as_ref().unwrap().as_str(), "default");
    let operator = bench.store.verify(first.operator.secret.reveal()).unwrap();
    assert_eq!((operator.role, &operator.app), (KeyRole::Operator, &None));

    bench.store.remember(&bench.store.follow().unwrap());
    let stored = bench.everything_stored();
    for secret in [&first.api.secret, &first.operator.secret] {
        let random = &secret.reveal().as_bytes()[4..];
        assert!(!stored.windows(random.len()).any(|window| window == random));
    }
    // It is looked for where it would be.
    let id = first.operator.key.id.as_bytes();
    assert!(stored.windows(id.len()).any(|window| window == id));
}

pub(super) fn a8_two_keys_overlap_until_one_is_revoked_and_both_survive_a_restart(on: Database) {
    let bench = Bench::new(on);
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

    let bench = bench.reopened();
    assert!(bench.store.verify(old.secret.reveal()).is_none());
    assert!(bench.store.verify(new.secret.reveal()).is_some());
}

pub(super) fn the_last_operator_key_cannot_be_revoked(on: Database) {
    let bench = Bench::new(on);
    let first = bench.store.ensure_first_keys(&actor()).unwrap().unwrap();
    let revoke = |id: &str| bench.store.revoke_key(&actor(), None, id);
    is_conflict(revoke(&first.operator.key.id), "create another one first");
    bench
        .store
        .create_key(&actor(), KeyRole::Operator, None, &[], "second")
        .unwrap();
    revoke(&first.operator.key.id).unwrap();
}

pub(super) fn n2_a_key_of_another_app_cannot_be_revoked_from_this_one(on: Database) {
    let bench = Bench::new(on);
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
