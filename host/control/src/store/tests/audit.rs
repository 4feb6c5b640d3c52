//! The audit log: every change leaves one entry, a refused one leaves none.

use super::*;

pub(super) fn m7_every_change_leaves_one_audit_entry_that_nobody_can_edit(on: Database) {
    let bench = Bench::new(on);
    bench.upload("filter", b"a", &[Hook::Filtering]);
    bench.upload("filter", b"a", &[Hook::Filtering]); // Changes nothing, says nothing.
    bench.activate("filter", 1).unwrap();
    bench.activate("filter", 1).unwrap(); // Nor does this.
    let id = bench.bind("filter", Hook::Filtering, None).unwrap();
    bench.store.unbind(&actor(), &bench.app, &id, "").unwrap();
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

    for sql in ["UPDATE audit SET who = 'nobody'", "DELETE FROM audit"] {
        assert!(bench.execute(sql).is_err(), "{sql}");
    }
}

pub(super) fn m7_a_refused_change_leaves_neither_state_nor_entry(on: Database) {
    let bench = Bench::new(on);
    bench.upload("filter", b"a", &[Hook::Filtering]);
    let before = bench.actions();
    is_conflict(bench.bind("filter", Hook::Rpc, None), "does not export rpc");
    assert!(bench.activate("filter", 9).is_err());
    assert!(bench.rollback("filter").is_err());
    assert_eq!(bench.actions(), before);
    assert!(bench.store.bindings(&bench.app).unwrap().is_empty());
}
