//! Apps: created, listed, deleted.

use super::{
    Change, Store,
    db::{Transaction, params},
};
use crate::{Actor, App, AppName, AppSecret, MAX_APPS, NewApp, Secret, StoreError, Timestamp};

impl Store {
    /// Makes an app and the secret for its connection tokens.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the name is taken, by an app that was deleted too, or there are
    /// [`MAX_APPS`].
    pub fn create_app(&self, actor: &Actor, app: &AppName) -> Result<NewApp, StoreError> {
        self.mutate(actor, |transaction| {
            let created_at = Timestamp::now();
            let token_secret = Secret::for_tokens()?;
            let count = transaction
                .query_one("SELECT count(*) FROM apps WHERE deleted_at IS NULL", &[])?;
            if count.get::<u32>(0)? >= MAX_APPS {
                return Err(StoreError::conflict(format!(
                    "there are {MAX_APPS} apps, which is the limit; delete one that is not needed"
                )));
            }
            let added = transaction.execute(
                "INSERT INTO apps (name, created_at, token_secret) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
                params![app.as_str(), created_at.unix_millis(), token_secret.reveal()],
            )?;
            if added == 0 {
                // A name says the same app for ever, in tokens, logs and history.
                let why = match check_app(transaction, app) {
                    Ok(()) => "exists already",
                    Err(_) => "existed once and was deleted",
                };
                return Err(StoreError::conflict(format!(
                    "app {app} {why}; choose another name"
                )));
            }
            let app_row = App {
                name: app.clone(),
                created_at,
            };
            let created = NewApp {
                app: app_row,
                token_secret,
            };
            let change = Change::new(Some(app), "app.create", format!("app/{app}"));
            Ok((created, Some(change)))
        })
    }

    /// Deletes an app with its plugins and revokes its keys. Its audit log stays, and its name with it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Conflict`] for the app that every store has, and while a plugin
    /// is bound.
    pub fn delete_app(&self, actor: &Actor, app: &AppName) -> Result<(), StoreError> {
        self.mutate_keys(actor, |transaction| {
            check_app(transaction, app)?;
            if app.as_str() == AppName::DEFAULT {
                return Err(StoreError::conflict(
                    "app default belongs to the configuration file and cannot be deleted",
                ));
            }
            let rows = transaction.query(
                "SELECT DISTINCT p.name FROM bindings b JOIN plugins p ON p.id = b.plugin
                 WHERE b.app = ?1 ORDER BY p.name",
                params![app.as_str()],
            )?;
            let bound = rows.iter().map(|row| row.get(0));
            let bound: Vec<String> = bound.collect::<Result<_, _>>()?;
            if !bound.is_empty() {
                return Err(StoreError::conflict(format!(
                    "plugins of app {app} are still bound ({}); unbind them first, then delete it",
                    bound.join(", ")
                )));
            }
            delete_plugins_of(transaction, app)?;
            let now = Timestamp::now().unix_millis();
            transaction.execute(
                "UPDATE keys SET revoked_at = ?1 WHERE app = ?2 AND revoked_at IS NULL",
                params![now, app.as_str()],
            )?;
            transaction.execute(
                "UPDATE apps SET deleted_at = ?1, token_secret = NULL WHERE name = ?2",
                params![now, app.as_str()],
            )?;
            let change = Change::new(Some(app), "app.delete", format!("app/{app}"));
            Ok(((), Some(change)))
        })
    }

    /// The apps that were created, with what a node needs to let their clients in.
    pub fn created_apps(&self) -> Result<Vec<AppSecret>, StoreError> {
        self.read(created_apps)
    }

    /// All apps, by name.
    pub fn apps(&self) -> Result<Vec<App>, StoreError> {
        self.read(|transaction| {
            let rows = transaction.query(
                "SELECT name, created_at FROM apps WHERE deleted_at IS NULL ORDER BY name",
                &[],
            )?;
            let apps = rows.iter().map(|row| {
                Ok(App {
                    name: AppName::parse(&row.get::<String>(0)?)?,
                    created_at: Timestamp::from_millis(row.get(1)?),
                })
            });
            apps.collect()
        })
    }

    /// # Errors
    /// [`StoreError::NotFound`].
    pub fn app(&self, app: &AppName) -> Result<(), StoreError> {
        self.read(|transaction| check_app(transaction, app))
    }
}

/// See [`Store::created_apps`].
pub(super) fn created_apps(transaction: &Transaction<'_>) -> Result<Vec<AppSecret>, StoreError> {
    let rows = transaction.query(
        "SELECT name, token_secret FROM apps
         WHERE deleted_at IS NULL AND token_secret IS NOT NULL ORDER BY name",
        &[],
    )?;
    let apps = rows.iter().map(|row| {
        Ok(AppSecret {
            name: AppName::parse(&row.get::<String>(0)?)?,
            token_secret: Secret::stored(row.get(1)?),
        })
    });
    apps.collect()
}

/// Deletes every plugin of an app; none is bound.
fn delete_plugins_of(transaction: &Transaction<'_>, app: &AppName) -> Result<(), StoreError> {
    let of_app = "(SELECT id FROM plugins WHERE app = ?1)";
    // Rows point at each other, so the order of deletion is left to the commit.
    transaction.defer_references()?;
    for table in ["activations", "versions"] {
        transaction.execute(
            &format!("DELETE FROM {table} WHERE plugin IN {of_app}"),
            params![app.as_str()],
        )?;
    }
    transaction.execute("DELETE FROM plugins WHERE app = ?1", params![app.as_str()])?;
    transaction.execute(
        "DELETE FROM artifacts WHERE digest NOT IN (SELECT digest FROM versions)",
        &[],
    )?;
    Ok(())
}

pub(super) fn check_app(transaction: &Transaction<'_>, app: &AppName) -> Result<(), StoreError> {
    let found = transaction.query_opt(
        "SELECT 1 FROM apps WHERE name = ?1 AND deleted_at IS NULL",
        params![app.as_str()],
    )?;
    match found {
        Some(_) => Ok(()),
        None => Err(StoreError::not_found(format!("app {app}"))),
    }
}
