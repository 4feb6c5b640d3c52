//! Apps.

use rusqlite::{OptionalExtension, Transaction};

use super::{Change, Store};
use crate::{Actor, App, AppName, StoreError, Timestamp};

impl Store {
    /// # Errors
    /// [`StoreError::Conflict`] when the name is taken.
    pub fn create_app(&self, actor: &Actor, app: &AppName) -> Result<App, StoreError> {
        self.mutate(actor, |transaction| {
            let created_at = Timestamp::now();
            let added = transaction.execute(
                "INSERT INTO apps (name, created_at) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
                (app.as_str(), created_at.unix_millis()),
            )?;
            if added == 0 {
                return Err(StoreError::conflict(format!(
                    "app {app} exists already; choose another name"
                )));
            }
            let created = App {
                name: app.clone(),
                created_at,
            };
            let change = Change::new(Some(app), "app.create", format!("app/{app}"));
            Ok((created, Some(change)))
        })
    }

    /// All apps, by name.
    pub fn apps(&self) -> Result<Vec<App>, StoreError> {
        self.read(|transaction| {
            let mut statement =
                transaction.prepare_cached("SELECT name, created_at FROM apps ORDER BY name")?;
            let mut rows = statement.query(())?;
            let mut apps = Vec::new();
            while let Some(row) = rows.next()? {
                apps.push(App {
                    name: AppName::parse(&row.get::<_, String>(0)?)?,
                    created_at: Timestamp::from_millis(row.get(1)?),
                });
            }
            Ok(apps)
        })
    }

    /// # Errors
    /// [`StoreError::NotFound`].
    pub fn app(&self, app: &AppName) -> Result<(), StoreError> {
        self.read(|transaction| check_app(transaction, app))
    }
}

pub(super) fn check_app(transaction: &Transaction<'_>, app: &AppName) -> Result<(), StoreError> {
    transaction
        .prepare_cached("SELECT 1 FROM apps WHERE name = ?1")?
        .query_row((app.as_str(),), |_| Ok(()))
        .optional()?
        .ok_or_else(|| StoreError::not_found(format!("app {app}")))
}
