//! Bindings: order, what may be bound, what follows for the desired state.

use super::*;

pub(super) fn binding_again_changes_the_binding_and_positions_stay_dense(on: Database) {
    let bench = Bench::new(on);
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
    changed.failure_policy = Some(FailurePolicy::Open);
    let bound = bench.store.bind(&actor(), &bench.app, &changed).unwrap();
    assert!(!bound.is_new);

    // What is not named stays, until it is named.
    let settings = bound.binding.config;
    changed.config = None;
    changed.failure_policy = None;
    let bound = bench.store.bind(&actor(), &bench.app, &changed).unwrap();
    assert_eq!(
        (&bound.binding.config, bound.binding.failure_policy),
        (&settings, FailurePolicy::Open)
    );
    changed.config = Some("{}".to_owned());
    let bound = bench.store.bind(&actor(), &bench.app, &changed).unwrap();
    assert_eq!(bound.binding.config, "{}");
    assert_eq!(order(), expect(["c", "a", "b"]));

    bench
        .store
        .unbind(&actor(), &bench.app, &bound.binding.id, "")
        .unwrap();
    assert_eq!(order(), [("c".to_owned(), 0), ("b".to_owned(), 1)]);
}

pub(super) fn only_filtering_may_fail_open_and_only_valid_json_is_a_config(on: Database) {
    let bench = Bench::new(on);
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
        |request| request.failure_policy = Some(FailurePolicy::Open),
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

pub(super) fn a_plugin_without_an_active_version_is_not_desired(on: Database) {
    let bench = Bench::new(on);
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

pub(super) fn restoring_a_snapshot_undoes_bindings_and_activations_but_not_the_log(on: Database) {
    let bench = Bench::new(on);
    bench.upload("filter", b"a", &[Hook::Filtering]);
    bench.upload("filter", b"b", &[Hook::Filtering]);
    bench.activate("filter", 1).unwrap();
    bench.bind("filter", Hook::Filtering, None).unwrap();
    let before = bench.store.desired_state().unwrap();
    let restore = |snapshot| {
        let cause = "trial instantiation trapped";
        bench.store.restore(&actor(), &snapshot, cause).unwrap();
        assert_eq!(bench.store.desired_state().unwrap(), before);
    };

    let snapshot = bench.store.snapshot(&bench.app).unwrap();
    let id = bench.store.bindings(&bench.app).unwrap()[0].id.clone();
    bench.store.unbind(&actor(), &bench.app, &id, "").unwrap();
    restore(snapshot);
    let snapshot = bench.store.snapshot(&bench.app).unwrap();
    bench.activate("filter", 2).unwrap();
    restore(snapshot);
    let last = bench.actions().pop().unwrap();
    assert_eq!(last, "app.restore app/default trial instantiation trapped");
    is_conflict(bench.rollback("filter"), "no version");
}
