//! The schema and its history. Migrations only go forward; one that was released is never edited.

use rusqlite::{Connection, TransactionBehavior};

use crate::{AppName, OpenError, StoreError, Timestamp};

/// `application_id` of the file: "tdgt". Tells our file from any other SQLite database.
pub(crate) const APPLICATION_ID: i32 = 0x7464_6774;

/// Each brings the schema from its index to the next number (`user_version`).
pub(crate) const MIGRATIONS: &[&str] = &[
    // 1: who may do what, and who did.
    "
    CREATE TABLE apps (
        name TEXT PRIMARY KEY,
        created_at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE keys (
        id TEXT PRIMARY KEY,
        role TEXT NOT NULL CHECK (role IN ('api', 'deploy', 'app-admin', 'operator')),
        app TEXT REFERENCES apps (name),
        methods TEXT NOT NULL DEFAULT '[]',
        hash BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
        label TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        revoked_at INTEGER,
        CHECK ((app IS NULL) = (role = 'operator'))
    ) STRICT;

    CREATE TABLE audit (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        at INTEGER NOT NULL,
        who TEXT NOT NULL,
        ip TEXT,
        app TEXT,
        action TEXT NOT NULL,
        object TEXT NOT NULL,
        old BLOB,
        new BLOB,
        result TEXT NOT NULL
    ) STRICT;
    CREATE INDEX audit_by_app ON audit (app, id);
    CREATE TRIGGER audit_is_not_edited BEFORE UPDATE ON audit
        BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END;
    CREATE TRIGGER audit_is_not_cut BEFORE DELETE ON audit
        BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END;
    ",
    // 2: what runs.
    "
    CREATE TABLE artifacts (
        digest BLOB PRIMARY KEY CHECK (length(digest) = 32),
        bytes BLOB NOT NULL
    ) STRICT;
    CREATE TRIGGER artifacts_do_not_change BEFORE UPDATE ON artifacts
        BEGIN SELECT RAISE(ABORT, 'artifacts are immutable'); END;

    CREATE TABLE plugins (
        id INTEGER PRIMARY KEY,
        app TEXT NOT NULL REFERENCES apps (name),
        name TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        activation INTEGER REFERENCES activations (id) DEFERRABLE INITIALLY DEFERRED,
        UNIQUE (app, name)
    ) STRICT;

    -- Outlives the plugin, so that a name that is used again never gives a number a second time.
    CREATE TABLE numbers (
        app TEXT NOT NULL,
        name TEXT NOT NULL,
        last INTEGER NOT NULL,
        PRIMARY KEY (app, name)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE versions (
        plugin INTEGER NOT NULL REFERENCES plugins (id),
        number INTEGER NOT NULL CHECK (number > 0),
        digest BLOB NOT NULL REFERENCES artifacts (digest),
        size INTEGER NOT NULL,
        hooks TEXT NOT NULL,
        imports TEXT NOT NULL,
        note TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        PRIMARY KEY (plugin, number)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX versions_by_digest ON versions (digest);
    CREATE TRIGGER versions_do_not_change BEFORE UPDATE ON versions
        BEGIN SELECT RAISE(ABORT, 'versions are immutable'); END;

    -- Every activation that ever was. `under` is the one that a rollback goes to.
    CREATE TABLE activations (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        plugin INTEGER NOT NULL REFERENCES plugins (id),
        version INTEGER NOT NULL,
        under INTEGER REFERENCES activations (id),
        at INTEGER NOT NULL,
        FOREIGN KEY (plugin, version) REFERENCES versions (plugin, number)
    ) STRICT;
    CREATE INDEX activations_by_plugin ON activations (plugin);
    CREATE INDEX activations_by_under ON activations (under);

    CREATE TABLE bindings (
        id TEXT PRIMARY KEY,
        plugin INTEGER NOT NULL REFERENCES plugins (id),
        app TEXT NOT NULL REFERENCES apps (name),
        hook TEXT NOT NULL,
        scope TEXT NOT NULL,
        position INTEGER NOT NULL,
        config TEXT NOT NULL,
        failure_policy TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        UNIQUE (plugin, hook, scope),
        CHECK (failure_policy = 'closed' OR (failure_policy = 'open' AND hook = 'filtering'))
    ) STRICT;
    CREATE INDEX bindings_by_pipeline ON bindings (app, hook, scope, position);
    ",
    // 3: apps that were created, each with the secret that signs its connection tokens. The row of a deleted
    // app stays, so that its name never means another one.
    "
    ALTER TABLE apps ADD COLUMN token_secret TEXT;
    ALTER TABLE apps ADD COLUMN deleted_at INTEGER;
    ",
    // 4: how long instances live.
    "
    ALTER TABLE bindings ADD COLUMN isolation TEXT NOT NULL DEFAULT 'shared'
        CHECK (isolation IN ('shared', 'per-call'));
    ",
    // 5: what nodes say that they run.
    "
    CREATE TABLE node_reports (
        node TEXT PRIMARY KEY,
        at INTEGER NOT NULL,
        report TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    ",
    // 6: which state it is: a number that rises with every change, and a word that no other change has.
    "
    CREATE TABLE control (
        only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
        revision INTEGER NOT NULL,
        change TEXT NOT NULL
    ) STRICT;
    INSERT INTO control (only_row, revision, change)
        SELECT 1, coalesce(max(id), 0), lower(hex(randomblob(8))) FROM audit;
    CREATE TRIGGER audit_makes_a_revision AFTER INSERT ON audit
        BEGIN UPDATE control SET revision = revision + 1, change = lower(hex(randomblob(8))); END;
    ",
];

/// Brings the file to the newest schema, each step in its own transaction.
pub(crate) fn migrate(connection: &mut Connection) -> Result<(), OpenError> {
    let known = u32::try_from(MIGRATIONS.len()).expect("there are few migrations");
    let found = user_version(connection)?;
    if found > known {
        return Err(OpenError::TooNew { found, known });
    }
    for (target, migration) in (1_u32..).zip(MIGRATIONS).skip(found as usize) {
        step(connection, target, migration)?;
    }
    Ok(())
}

/// Runs one migration; also what tests use to make an older file.
pub(crate) fn step(
    connection: &mut Connection,
    target: u32,
    migration: &str,
) -> Result<(), StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(migration)?;
    if target == 1 {
        transaction.execute(
            "INSERT INTO apps (name, created_at) VALUES (?1, ?2)",
            (AppName::DEFAULT, Timestamp::now().unix_millis()),
        )?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    }
    transaction.pragma_update(None, "user_version", target)?;
    transaction.commit()?;
    Ok(())
}

fn user_version(connection: &Connection) -> Result<u32, StoreError> {
    Ok(connection.pragma_query_value(None, "user_version", |row| row.get(0))?)
}
