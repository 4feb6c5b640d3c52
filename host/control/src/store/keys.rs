//! Keys: made, listed, revoked, verified.

use std::sync::Arc;

use super::{
    Change, Store,
    apps::check_app,
    db::{Row, Transaction, params},
};
use crate::{
    Actor, AppName, Key, KeyRole, NewKey, Secret, StoreError, Timestamp, Verified,
    key::{Ring, random_id},
};

/// Longest label, in bytes.
const MAX_LABEL_BYTES: usize = 128;

/// Most methods that a key can be narrowed to; there are fewer.
const MAX_METHODS: usize = 64;

const COLUMNS: &str = "id, role, app, methods, label, created_at, revoked_at";

/// The keys of a store that had none.
#[derive(Debug)]
pub struct FirstKeys {
    pub operator: NewKey,
    /// For the server API of app `default`.
    pub api: NewKey,
}

impl Store {
    /// Makes an operator key and an API key of app `default`, once in the life of a store: `None` if it ever
    /// had keys, revoked ones included.
    pub fn ensure_first_keys(&self, actor: &Actor) -> Result<Option<FirstKeys>, StoreError> {
        self.mutate_keys(actor, |transaction| {
            let keys = transaction.query_one("SELECT count(*) FROM keys", &[])?;
            if keys.get::<i64>(0)? > 0 {
                return Ok((None, None));
            }
            let app = AppName::default_app();
            let operator = insert(transaction, KeyRole::Operator, None, &[], "first start")?;
            let api = insert(transaction, KeyRole::Api, Some(&app), &[], "first start")?;
            let object = format!("key/{} key/{}", operator.key.id, api.key.id);
            let change = Change::new(None, "key.create", object);
            Ok((Some(FirstKeys { operator, api }), Some(change)))
        })
    }

    /// Makes a key. `app` is `None` for operators alone; `methods` narrows an API key, empty allows all.
    ///
    /// # Errors
    /// [`StoreError::Invalid`], or [`StoreError::NotFound`] when the app does not exist.
    pub fn create_key(
        &self,
        actor: &Actor,
        role: KeyRole,
        app: Option<&AppName>,
        methods: &[String],
        label: &str,
    ) -> Result<NewKey, StoreError> {
        check_key(role, app, methods, label)?;
        self.mutate_keys(actor, |transaction| {
            if let Some(app) = app {
                check_app(transaction, app)?;
            }
            let made = insert(transaction, role, app, methods, label)?;
            let change = Change::new(app, "key.create", format!("key/{}", made.key.id));
            Ok((made, Some(change)))
        })
    }

    /// Revokes a key of an app, or any key where `within` is `None`. Takes effect before the call returns;
    /// revoking twice is fine.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Conflict`] for the last operator key.
    pub fn revoke_key(
        &self,
        actor: &Actor,
        within: Option<&AppName>,
        id: &str,
    ) -> Result<Key, StoreError> {
        self.mutate_keys(actor, |transaction| {
            let mut key = find(transaction, within, id)?;
            if key.revoked_at.is_some() {
                return Ok((key, None));
            }
            let operators = transaction.query_one(
                "SELECT count(*) FROM keys WHERE role = 'operator' AND revoked_at IS NULL",
                &[],
            )?;
            if key.role == KeyRole::Operator && operators.get::<i64>(0)? == 1 {
                return Err(StoreError::conflict(
                    "this is the last operator key; create another one first, then revoke it",
                ));
            }
            let now = Timestamp::now();
            transaction.execute(
                "UPDATE keys SET revoked_at = ?1 WHERE id = ?2",
                params![now.unix_millis(), id],
            )?;
            key.revoked_at = Some(now);
            let change = Change::new(key.app.as_ref(), "key.revoke", format!("key/{id}"));
            Ok((key, Some(change)))
        })
    }

    /// Keys of an app, or all of them where `within` is `None`; oldest first, revoked ones included.
    pub fn keys(&self, within: Option<&AppName>) -> Result<Vec<Key>, StoreError> {
        self.read(|transaction| {
            let rows = transaction.query(
                &format!(
                    "SELECT {COLUMNS} FROM keys WHERE ?1 IS NULL OR app = ?1 ORDER BY created_at, id"
                ),
                params![within.map(AppName::as_str)],
            )?;
            rows.iter().map(read_key).collect()
        })
    }

    /// Whom a presented secret belongs to, if anybody. Never touches the disk.
    pub fn verify(&self, presented: &str) -> Option<Arc<Verified>> {
        self.ring.load().verify(presented)
    }

    /// Whether the key of this id is there and not revoked, as far as this node has heard. Never touches the disk.
    pub fn is_valid(&self, id: &str) -> bool {
        let ring = self.ring.load();
        ring.entries().any(|(_, verified)| &*verified.id == id)
    }
}

/// Every valid key, as a transaction sees it.
pub(super) fn load_ring(transaction: &Transaction<'_>) -> Result<Ring, StoreError> {
    let rows = transaction.query(
        &format!("SELECT {COLUMNS}, hash FROM keys WHERE revoked_at IS NULL"),
        &[],
    )?;
    let mut valid = Vec::new();
    for row in &rows {
        let key = read_key(row)?;
        let verified = Verified {
            id: key.id.into(),
            role: key.role,
            app: key.app,
            methods: key.methods.into_iter().map(Into::into).collect(),
        };
        valid.push((row.get::<[u8; 32]>(7)?, verified));
    }
    Ok(Ring::new(valid))
}

fn check_key(
    role: KeyRole,
    app: Option<&AppName>,
    methods: &[String],
    label: &str,
) -> Result<(), StoreError> {
    match (role, app) {
        (KeyRole::Operator, Some(_)) => {
            return Err(StoreError::invalid(
                "app",
                "an operator key belongs to no app; leave the field out",
            ));
        }
        (KeyRole::Api | KeyRole::Deploy | KeyRole::AppAdmin, None) => {
            return Err(StoreError::invalid("app", "name the app of the key"));
        }
        (KeyRole::Operator, None)
        | (KeyRole::Api | KeyRole::Deploy | KeyRole::AppAdmin, Some(_)) => {}
    }
    if role != KeyRole::Api && !methods.is_empty() {
        return Err(StoreError::invalid(
            "methods",
            "only keys of role api are narrowed to methods",
        ));
    }
    let is_method = |method: &String| {
        (1..=64).contains(&method.len())
            && method
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'_'))
    };
    if methods.len() > MAX_METHODS || !methods.iter().all(is_method) {
        return Err(StoreError::invalid(
            "methods",
            "a list of at most 64 server API methods such as publish",
        ));
    }
    if label.len() > MAX_LABEL_BYTES || label.chars().any(char::is_control) {
        return Err(StoreError::invalid(
            "label",
            format!("at most {MAX_LABEL_BYTES} bytes without control characters"),
        ));
    }
    Ok(())
}

fn insert(
    transaction: &Transaction<'_>,
    role: KeyRole,
    app: Option<&AppName>,
    methods: &[String],
    label: &str,
) -> Result<NewKey, StoreError> {
    let secret = Secret::random(role)?;
    let key = Key {
        id: random_id("key_")?,
        role,
        app: app.cloned(),
        methods: methods.to_vec(),
        label: label.to_owned(),
        created_at: Timestamp::now(),
        revoked_at: None,
    };
    transaction.execute(
        "INSERT INTO keys (id, role, app, methods, hash, label, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            &key.id,
            role.as_str(),
            app.map(AppName::as_str),
            serde_json::to_string(methods).expect("a list of strings is JSON"),
            &secret.hash(),
            label,
            key.created_at.unix_millis(),
        ],
    )?;
    Ok(NewKey { key, secret })
}

fn find(
    transaction: &Transaction<'_>,
    within: Option<&AppName>,
    id: &str,
) -> Result<Key, StoreError> {
    let row = transaction.query_opt(
        &format!("SELECT {COLUMNS} FROM keys WHERE id = ?1 AND (?2 IS NULL OR app = ?2)"),
        params![id, within.map(AppName::as_str)],
    )?;
    match row {
        Some(row) => read_key(&row),
        None => Err(StoreError::not_found("the key")),
    }
}

fn read_key(row: &Row) -> Result<Key, StoreError> {
    let app: Option<String> = row.get(2)?;
    let methods: String = row.get(3)?;
    Ok(Key {
        id: row.get(0)?,
        role: KeyRole::parse(&row.get::<String>(1)?)
            .map_err(|_| StoreError::corrupt("a key's role"))?,
        app: app
            .map(|app| AppName::parse(&app))
            .transpose()
            .map_err(|_| StoreError::corrupt("a key's app"))?,
        methods: serde_json::from_str(&methods)
            .map_err(|_| StoreError::corrupt("a key's methods"))?,
        label: row.get(4)?,
        created_at: Timestamp::from_millis(row.get(5)?),
        revoked_at: row.get::<Option<i64>>(6)?.map(Timestamp::from_millis),
    })
}
