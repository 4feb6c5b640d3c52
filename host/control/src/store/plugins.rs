//! Plugins and their versions. Which one is active is in [`super::activations`].

use std::sync::Arc;

use super::{
    Change, Store,
    apps::check_app,
    db::{Row, Transaction, params},
};
use crate::{
    Actor, AppName, Digest, Hook, MAX_ARTIFACT_BYTES, MAX_PAGE, NewVersion, Page, Plugin,
    PluginName, StoreError, Timestamp, Uploaded, Version,
};

/// Longest note of a version, in bytes.
const MAX_NOTE_BYTES: usize = 512;

/// Most imports remembered of a version; a world has a few dozen.
const MAX_IMPORTS: usize = 256;

const VERSION_COLUMNS: &str =
    "v.number, v.digest, v.size, v.hooks, v.imports, v.note, v.created_at,
     v.number IS NOT DISTINCT FROM (SELECT a.version FROM plugins p JOIN activations a ON a.id = p.activation WHERE p.id = v.plugin)";

const PLUGIN_COLUMNS: &str = "p.app, p.name, p.created_at,
     (SELECT a.version FROM activations a WHERE a.id = p.activation),
     (SELECT max(v.number) FROM versions v WHERE v.plugin = p.id),
     (SELECT count(*) FROM bindings b WHERE b.plugin = p.id)";

impl Store {
    /// Adds a version under the next number, making the plugin if absent. The newest version with the same
    /// digest is answered again, so that a retried upload is no second one.
    ///
    /// # Errors
    /// [`StoreError::Invalid`], [`StoreError::NotFound`] when the app does not exist, [`StoreError::Full`].
    pub fn add_version(
        &self,
        actor: &Actor,
        app: &AppName,
        plugin: &PluginName,
        new: NewVersion<'_>,
    ) -> Result<Uploaded, StoreError> {
        check_version(&new)?;
        let digest = Digest::of(new.artifact);
        self.mutate(actor, |transaction| {
            check_app(transaction, app)?;
            let id = ensure_plugin(transaction, app, plugin)?;
            let newest = newest_version(transaction, id)?;
            if let Some(version) = newest.as_ref().filter(|newest| newest.digest == digest) {
                let version = version.clone();
                return Ok((
                    Uploaded {
                        version,
                        is_new: false,
                    },
                    None,
                ));
            }
            let number = next_number(transaction, app, plugin)?;
            insert_version(transaction, id, number, digest, &new)?;
            let version = find_version(transaction, id, number)?
                .ok_or_else(|| StoreError::corrupt("a version vanished"))?;
            let change = Change::new(
                Some(app),
                "plugin.upload",
                format!("plugin/{plugin}/versions/{number}"),
            )
            .digests(newest.map(|newest| newest.digest), Some(digest));
            Ok((
                Uploaded {
                    version,
                    is_new: true,
                },
                Some(change),
            ))
        })
    }

    /// Plugins of an app by name, those after `after`, at most [`MAX_PAGE`].
    pub fn plugins(&self, app: &AppName, after: Option<&str>) -> Result<Vec<Plugin>, StoreError> {
        self.read(|transaction| {
            check_app(transaction, app)?;
            let limit = i64::try_from(MAX_PAGE).expect("a page is small");
            let rows = transaction.query(
                &format!(
                    "SELECT {PLUGIN_COLUMNS} FROM plugins p WHERE p.app = ?1 AND p.name > ?2 ORDER BY p.name LIMIT ?3"
                ),
                params![app.as_str(), after.unwrap_or(""), limit],
            )?;
            rows.iter().map(read_plugin).collect()
        })
    }

    /// # Errors
    /// [`StoreError::NotFound`].
    pub fn plugin(&self, app: &AppName, plugin: &PluginName) -> Result<Plugin, StoreError> {
        self.read(|transaction| {
            let row = transaction.query_opt(
                &format!("SELECT {PLUGIN_COLUMNS} FROM plugins p WHERE p.app = ?1 AND p.name = ?2"),
                params![app.as_str(), plugin.as_str()],
            )?;
            match row {
                Some(row) => read_plugin(&row),
                None => Err(no_plugin(plugin)),
            }
        })
    }

    /// Versions of a plugin, newest first.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Invalid`] for a page above [`MAX_PAGE`].
    pub fn versions(
        &self,
        app: &AppName,
        plugin: &PluginName,
        page: Page,
    ) -> Result<Vec<Version>, StoreError> {
        if !(1..=MAX_PAGE).contains(&page.size) {
            return Err(StoreError::invalid(
                "limit",
                format!("a page has 1 to {MAX_PAGE} entries"),
            ));
        }
        self.read(|transaction| {
            let id = plugin_id(transaction, app, plugin)?;
            let before = page
                .before
                .map_or(i64::MAX, |number| i64::try_from(number).unwrap_or(i64::MAX));
            let limit = i64::try_from(page.size).expect("a page is small");
            let rows = transaction.query(
                &format!(
                    "SELECT {VERSION_COLUMNS} FROM versions v
                     WHERE v.plugin = ?1 AND v.number < ?2 ORDER BY v.number DESC LIMIT ?3"
                ),
                params![id, before, limit],
            )?;
            rows.iter().map(read_version).collect()
        })
    }

    /// # Errors
    /// [`StoreError::NotFound`].
    pub fn version(
        &self,
        app: &AppName,
        plugin: &PluginName,
        number: u32,
    ) -> Result<Version, StoreError> {
        self.read(|transaction| {
            let id = plugin_id(transaction, app, plugin)?;
            find_version(transaction, id, number)?.ok_or_else(|| no_version(plugin, number))
        })
    }

    /// The bytes of an artifact as uploaded, checked against their digest. A node of a cluster keeps a copy of those
    /// that it was asked for.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Corrupt`] when the bytes are not those that were stored.
    pub fn artifact(&self, digest: &Digest) -> Result<Arc<[u8]>, StoreError> {
        let Some(last_good) = &self.last_good else {
            return self.stored_artifact(digest);
        };
        if let Some(bytes) = last_good.artifact(digest) {
            return Ok(bytes);
        }
        let bytes = self.stored_artifact(digest)?;
        last_good.keep_artifact(digest, &bytes);
        Ok(bytes)
    }

    /// As [`Self::artifact`], from the database.
    pub(super) fn stored_artifact(&self, digest: &Digest) -> Result<Arc<[u8]>, StoreError> {
        let bytes: Arc<[u8]> = self.read(|transaction| {
            let row = transaction.query_opt(
                "SELECT bytes FROM artifacts WHERE digest = ?1",
                params![digest.as_bytes()],
            )?;
            let row = row.ok_or_else(|| StoreError::not_found("the artifact"))?;
            Ok(row.get::<Vec<u8>>(0)?.into())
        })?;
        if Digest::of(&bytes) == *digest {
            Ok(bytes)
        } else {
            Err(StoreError::corrupt(format!(
                "artifact {digest} has other bytes"
            )))
        }
    }

    /// Deletes a plugin with its versions. An active version of a plugin that is bound nowhere runs nowhere,
    /// so bindings alone stand in the way. Its numbers are never given again.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Conflict`] naming the bindings to remove first.
    pub fn delete_plugin(
        &self,
        actor: &Actor,
        app: &AppName,
        plugin: &PluginName,
    ) -> Result<(), StoreError> {
        self.mutate(actor, |transaction| {
            let id = plugin_id(transaction, app, plugin)?;
            let bound = bound_places(transaction, id)?;
            if !bound.is_empty() {
                return Err(StoreError::conflict(format!(
                    "plugin {plugin} is still bound ({}); unbind it first, then delete it",
                    bound.join(", ")
                )));
            }
            let newest = newest_version(transaction, id)?.map(|version| version.digest);
            transaction.execute(
                "UPDATE plugins SET activation = NULL WHERE id = ?1",
                params![id],
            )?;
            // Rows point at each other within the table, so the order of deletion is left to the commit.
            transaction.defer_references()?;
            transaction.execute("DELETE FROM activations WHERE plugin = ?1", params![id])?;
            transaction.execute("DELETE FROM versions WHERE plugin = ?1", params![id])?;
            transaction.execute("DELETE FROM plugins WHERE id = ?1", params![id])?;
            transaction.execute(
                "DELETE FROM artifacts WHERE digest NOT IN (SELECT digest FROM versions)",
                &[],
            )?;
            let change = Change::new(Some(app), "plugin.delete", format!("plugin/{plugin}"))
                .digests(newest, None);
            Ok(((), Some(change)))
        })
    }
}

fn check_version(new: &NewVersion<'_>) -> Result<(), StoreError> {
    if new.artifact.is_empty() || new.artifact.len() > MAX_ARTIFACT_BYTES {
        return Err(StoreError::invalid(
            "artifact",
            format!("an artifact has 1 to {MAX_ARTIFACT_BYTES} bytes"),
        ));
    }
    if new.note.len() > MAX_NOTE_BYTES || new.note.chars().any(char::is_control) {
        return Err(StoreError::invalid(
            "note",
            format!("at most {MAX_NOTE_BYTES} bytes without control characters"),
        ));
    }
    if new.imports.len() > MAX_IMPORTS {
        return Err(StoreError::invalid(
            "imports",
            format!("at most {MAX_IMPORTS} imports"),
        ));
    }
    Ok(())
}

fn ensure_plugin(
    transaction: &Transaction<'_>,
    app: &AppName,
    plugin: &PluginName,
) -> Result<i64, StoreError> {
    if let Some(id) = find_plugin(transaction, app, plugin)? {
        return Ok(id);
    }
    let made = transaction.query_one(
        "INSERT INTO plugins (app, name, created_at) VALUES (?1, ?2, ?3) RETURNING id",
        params![
            app.as_str(),
            plugin.as_str(),
            Timestamp::now().unix_millis()
        ],
    )?;
    made.get(0)
}

fn next_number(
    transaction: &Transaction<'_>,
    app: &AppName,
    plugin: &PluginName,
) -> Result<u32, StoreError> {
    let row = transaction.query_one(
        "INSERT INTO numbers (app, name, last) VALUES (?1, ?2, 1)
         ON CONFLICT (app, name) DO UPDATE SET last = numbers.last + 1 RETURNING last",
        params![app.as_str(), plugin.as_str()],
    )?;
    row.get(0)
}

fn insert_version(
    transaction: &Transaction<'_>,
    plugin: i64,
    number: u32,
    digest: Digest,
    new: &NewVersion<'_>,
) -> Result<(), StoreError> {
    transaction.execute(
        "INSERT INTO artifacts (digest, bytes) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
        params![digest.as_bytes(), new.artifact],
    )?;
    transaction.execute(
        "INSERT INTO versions (plugin, number, digest, size, hooks, imports, note, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            plugin,
            number,
            digest.as_bytes(),
            i64::try_from(new.artifact.len()).expect("an artifact is small"),
            serde_json::to_string(new.hooks).expect("a list of words is JSON"),
            serde_json::to_string(new.imports).expect("a list of strings is JSON"),
            new.note,
            Timestamp::now().unix_millis(),
        ],
    )?;
    Ok(())
}

fn find_plugin(
    transaction: &Transaction<'_>,
    app: &AppName,
    plugin: &PluginName,
) -> Result<Option<i64>, StoreError> {
    let row = transaction.query_opt(
        "SELECT id FROM plugins WHERE app = ?1 AND name = ?2",
        params![app.as_str(), plugin.as_str()],
    )?;
    row.map(|row| row.get(0)).transpose()
}

pub(super) fn plugin_id(
    transaction: &Transaction<'_>,
    app: &AppName,
    plugin: &PluginName,
) -> Result<i64, StoreError> {
    find_plugin(transaction, app, plugin)?.ok_or_else(|| no_plugin(plugin))
}

/// The same words whether the plugin or its app is missing (threat model N2).
fn no_plugin(plugin: &PluginName) -> StoreError {
    StoreError::not_found(format!("plugin {plugin}"))
}

pub(super) fn no_version(plugin: &PluginName, number: u32) -> StoreError {
    StoreError::not_found(format!("version {number} of plugin {plugin}"))
}

pub(super) fn newest_version(
    transaction: &Transaction<'_>,
    plugin: i64,
) -> Result<Option<Version>, StoreError> {
    one_version(
        transaction,
        &format!(
            "SELECT {VERSION_COLUMNS} FROM versions v WHERE v.plugin = ?1 AND ?2 = 0 ORDER BY v.number DESC LIMIT 1"
        ),
        plugin,
        0,
    )
}

pub(super) fn find_version(
    transaction: &Transaction<'_>,
    plugin: i64,
    number: u32,
) -> Result<Option<Version>, StoreError> {
    one_version(
        transaction,
        &format!("SELECT {VERSION_COLUMNS} FROM versions v WHERE v.plugin = ?1 AND v.number = ?2"),
        plugin,
        number,
    )
}

fn one_version(
    transaction: &Transaction<'_>,
    sql: &str,
    plugin: i64,
    number: u32,
) -> Result<Option<Version>, StoreError> {
    let row = transaction.query_opt(sql, params![plugin, number])?;
    row.as_ref().map(read_version).transpose()
}

fn bound_places(transaction: &Transaction<'_>, plugin: i64) -> Result<Vec<String>, StoreError> {
    let rows = transaction.query(
        "SELECT id, hook, scope FROM bindings WHERE plugin = ?1 ORDER BY id",
        params![plugin],
    )?;
    let mut places = Vec::new();
    for row in &rows {
        places.push(format!(
            "{}: {} in {}",
            row.get::<String>(0)?,
            row.get::<String>(1)?,
            row.get::<String>(2)?
        ));
    }
    Ok(places)
}

pub(super) fn read_hook(row: &Row, column: usize) -> Result<Hook, StoreError> {
    row.get::<String>(column)?
        .parse()
        .map_err(|_| StoreError::corrupt("a hook's name"))
}

fn read_plugin(row: &Row) -> Result<Plugin, StoreError> {
    Ok(Plugin {
        app: AppName::parse(&row.get::<String>(0)?)
            .map_err(|_| StoreError::corrupt("an app's name"))?,
        name: PluginName::parse(&row.get::<String>(1)?)
            .map_err(|_| StoreError::corrupt("a plugin's name"))?,
        created_at: Timestamp::from_millis(row.get(2)?),
        active_version: row.get(3)?,
        newest_version: row.get::<Option<u32>>(4)?.unwrap_or_default(),
        bindings: row.get(5)?,
    })
}

fn read_version(row: &Row) -> Result<Version, StoreError> {
    let hooks: Vec<String> = serde_json::from_str(&row.get::<String>(3)?)
        .map_err(|_| StoreError::corrupt("a version's hooks"))?;
    let size: i64 = row.get(2)?;
    Ok(Version {
        number: row.get(0)?,
        digest: row.get::<[u8; 32]>(1)?.into(),
        size: u64::try_from(size).map_err(|_| StoreError::corrupt("a version's size"))?,
        hooks: hooks
            .iter()
            .map(|hook| hook.parse())
            .collect::<Result<_, _>>()
            .map_err(|_| StoreError::corrupt("a version's hooks"))?,
        imports: serde_json::from_str(&row.get::<String>(4)?)
            .map_err(|_| StoreError::corrupt("a version's imports"))?,
        note: row.get(5)?,
        created_at: Timestamp::from_millis(row.get(6)?),
        is_active: row.get(7)?,
    })
}
