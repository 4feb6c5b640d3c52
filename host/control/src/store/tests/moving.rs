//! A whole store that is copied, and what may take minutes.

use super::*;

#[test]
fn the_store_of_one_node_moves_into_the_database_of_many_with_everything() {
    let file = Bench::new(Database::Sqlite);
    let first = file.store.ensure_first_keys(&actor()).unwrap().unwrap();
    let shop = AppName::parse("shop").unwrap();
    let made = file.store.create_app(&actor(), &shop).unwrap();
    for artifact in [b"a", b"b", b"c"] {
        file.upload("filter", artifact, &[Hook::Filtering]);
    }
    file.activate("filter", 1).unwrap();
    file.activate("filter", 2).unwrap();
    file.bind("filter", Hook::Filtering, None).unwrap();

    let many = Bench::new(Database::Postgres);
    let copied = file.store.copy_into(&many.store, &actor()).unwrap();
    assert_eq!(copied.artifacts, 3);
    many.store.check().unwrap();
    assert!(many.store.verify(first.api.secret.reveal()).is_some());
    assert!(many.store.ensure_first_keys(&actor()).unwrap().is_none());
    let state = many.store.follow().unwrap();
    assert_eq!(state.desired, file.store.desired_state().unwrap());
    assert_eq!(
        state.apps[0].token_secret.reveal(),
        made.token_secret.reveal()
    );
    let mut actions = many.actions();
    assert_eq!(actions.pop().unwrap(), "store.copy store ok");
    assert_eq!(actions, file.actions());
    // And it goes on from there.
    assert_eq!(many.rollback("filter").unwrap(), 1);
    let next = many.upload("filter", b"d", &[Hook::Filtering]);
    assert_eq!(next.version.number, 4);
    many.activate("filter", 4).unwrap();
    many.upload("other", b"e", &[Hook::Filtering]);
    is_conflict(
        file.store.copy_into(&many.store, &actor()),
        "an empty database",
    );
}

#[test]
fn the_database_of_many_moves_into_the_file_of_one_node() {
    let many = Bench::new(Database::Postgres);
    let first = many.store.ensure_first_keys(&actor()).unwrap().unwrap();
    for artifact in [b"a", b"b"] {
        many.upload("filter", artifact, &[Hook::Filtering]);
    }
    many.activate("filter", 1).unwrap();
    many.activate("filter", 2).unwrap();
    many.bind("filter", Hook::Filtering, None).unwrap();
    let file = Bench::new(Database::Sqlite);
    many.store.copy_into(&file.store, &actor()).unwrap();
    file.store.check().unwrap();
    assert!(file.store.verify(first.operator.secret.reveal()).is_some());
    let desired = many.store.desired_state().unwrap();
    assert_eq!(file.store.desired_state().unwrap(), desired);
    assert_eq!(file.actions().len(), many.actions().len() + 1);
    assert_eq!(file.rollback("filter").unwrap(), 1);
}

#[test]
fn an_audit_log_of_many_pages_arrives_whole_and_in_order() {
    const ENTRIES: i64 = 2_345;
    let file = Bench::new(Database::Sqlite);
    // As after years, some numbers missing.
    let filled = format!(
        "WITH RECURSIVE entry (id) AS (SELECT 7 UNION ALL SELECT id + 3 FROM entry WHERE id < 7 + 3 * ({ENTRIES} - 1))
         INSERT INTO audit (id, at, who, action, object, result) SELECT id, id, 'then', 'a', 'o' || id, 'ok' FROM entry"
    );
    file.execute(&filled).unwrap();
    let many = Bench::new(Database::Postgres);
    let copied = file.store.copy_into(&many.store, &actor()).unwrap();
    let apps = 1;
    assert_eq!(copied.rows, u64::try_from(ENTRIES).unwrap() + apps);
    let schema = many.schema.as_deref().unwrap();
    let found = SERVER.sql(
        "postgres",
        &format!(
            "SELECT count(*), min(id), max(id), bool_and(object = 'o' || id AND at = id)
             FROM {schema}.audit WHERE who = 'then'"
        ),
    );
    assert_eq!(found, format!("{ENTRIES}|7|{}|t", 7 + 3 * (ENTRIES - 1)));
    assert_eq!(many.actions().len(), 200, "the newest page");
}

#[test]
fn a_copy_may_take_longer_than_a_change_may() {
    let file = Bench::new(Database::Sqlite);
    file.upload("filter", b"a", &[Hook::Filtering]);
    let many = Bench::new(Database::Postgres);
    let schema = many.schema.as_deref().unwrap();
    // Longer than a statement of a change, and two of them longer than its transaction.
    SERVER.sql(
        "postgres",
        &format!(
            "SET search_path TO {schema};
             CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(5.5); RETURN NULL; END $$;
             CREATE TRIGGER slow AFTER INSERT ON audit FOR EACH STATEMENT EXECUTE FUNCTION slow();"
        ),
    );
    file.store.copy_into(&many.store, &actor()).unwrap();
    assert_eq!(many.actions().len(), 2);
}

#[test]
fn a_migration_may_take_longer_than_a_call_and_other_nodes_wait_for_it() {
    let url = SERVER.create_database("slow");
    let slow = after_ours("SELECT pg_sleep(7)", 1);
    thread::scope(|scope| {
        let starts = [(); 2].map(|()| {
            scope.spawn(|| {
                let dir = TempDir::new().unwrap();
                Store::connect_with(postgres(&url, "tidegate"), dir.path(), slow).map(drop)
            })
        });
        for start in starts {
            start.join().unwrap().unwrap();
        }
    });
    let rows = SERVER.sql("slow", "SELECT version FROM tidegate.control");
    assert_eq!(rows, (ours() + 1).to_string());
}
