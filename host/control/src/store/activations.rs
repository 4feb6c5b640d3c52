//! Which version of a plugin is active, and which ones were before.
//!
//! The activations of a plugin are a stack: activating pushes onto it, rolling back walks down.

use super::{
    Change, Store,
    db::{Row, Transaction, params},
    plugins::{find_version, no_version, plugin_id, read_hook},
};
use crate::{Activation, Actor, AppName, PluginName, StoreError, Timestamp, Version};

impl Store {
    /// Makes a version the active one. `past` is what is known of the one that goes, for the audit log.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Conflict`] when a binding needs a hook that it does not export.
    pub fn activate(
        &self,
        actor: &Actor,
        app: &AppName,
        plugin: &PluginName,
        number: u32,
        past: &str,
    ) -> Result<Activation, StoreError> {
        self.mutate(actor, |transaction| {
            let id = plugin_id(transaction, app, plugin)?;
            let version =
                find_version(transaction, id, number)?.ok_or_else(|| no_version(plugin, number))?;
            let current = current_activation(transaction, id)?;
            let under = current.as_ref().map(|current| current.row);
            switch(
                transaction,
                (app, plugin, id),
                current.as_ref(),
                &version,
                under,
                "plugin.activate",
            )
            .map(|(activation, change)| (activation, change.map(|change| change.past(past))))
        })
    }

    /// The version that [`Self::rollback`] would activate.
    ///
    /// # Errors
    /// As [`Self::rollback`].
    pub fn rollback_target(
        &self,
        app: &AppName,
        plugin: &PluginName,
    ) -> Result<Version, StoreError> {
        self.read(|transaction| {
            let id = plugin_id(transaction, app, plugin)?;
            let current = current_activation(transaction, id)?;
            let target = activation_under(transaction, plugin, current.as_ref())?;
            find_version(transaction, id, target.version)?
                .ok_or_else(|| no_version(plugin, target.version))
        })
    }

    /// Makes the version active that was so before the present one. Repeated, it walks further back: the
    /// history is a stack, and activating pushes onto it. `past` is what is known of the version that goes.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Conflict`] when no version was active before.
    pub fn rollback(
        &self,
        actor: &Actor,
        app: &AppName,
        plugin: &PluginName,
        past: &str,
    ) -> Result<Activation, StoreError> {
        self.mutate(actor, |transaction| {
            let id = plugin_id(transaction, app, plugin)?;
            let current = current_activation(transaction, id)?;
            let target = activation_under(transaction, plugin, current.as_ref())?;
            let version = find_version(transaction, id, target.version)?
                .ok_or_else(|| no_version(plugin, target.version))?;
            switch(
                transaction,
                (app, plugin, id),
                current.as_ref(),
                &version,
                target.under,
                "plugin.rollback",
            )
            .map(|(activation, change)| (activation, change.map(|change| change.past(past))))
        })
    }

    /// Makes the former version active again because `unfit` keeps failing, of which `past` is known. Does nothing when another version
    /// is active by now: somebody was quicker.
    ///
    /// # Errors
    /// As [`Self::rollback`].
    pub fn return_to_former(
        &self,
        actor: &Actor,
        app: &AppName,
        plugin: &PluginName,
        unfit: u32,
        (cause, past): (&str, &str),
    ) -> Result<Option<Activation>, StoreError> {
        self.mutate(actor, |transaction| {
            let id = plugin_id(transaction, app, plugin)?;
            let current = current_activation(transaction, id)?;
            if current.as_ref().map(|current| current.version) != Some(unfit) {
                return Ok((None, None));
            }
            let target = activation_under(transaction, plugin, current.as_ref())?;
            let version = find_version(transaction, id, target.version)?
                .ok_or_else(|| no_version(plugin, target.version))?;
            let (activation, change) = switch(
                transaction,
                (app, plugin, id),
                current.as_ref(),
                &version,
                target.under,
                "plugin.return",
            )?;
            let change = change.map(|change| change.result(cause).past(past));
            Ok((Some(activation), change))
        })
    }
}

/// One row of `activations`.
#[derive(Debug)]
pub(super) struct ActivationRow {
    pub(super) row: i64,
    pub(super) version: u32,
    /// The activation that a rollback brings back.
    pub(super) under: Option<i64>,
}

pub(super) fn current_activation(
    transaction: &Transaction<'_>,
    plugin: i64,
) -> Result<Option<ActivationRow>, StoreError> {
    let row = transaction.query_opt(
        "SELECT a.id, a.version, a.under FROM plugins p JOIN activations a ON a.id = p.activation
         WHERE p.id = ?1",
        params![plugin],
    )?;
    row.as_ref().map(read_activation).transpose()
}

fn activation_under(
    transaction: &Transaction<'_>,
    plugin: &PluginName,
    current: Option<&ActivationRow>,
) -> Result<ActivationRow, StoreError> {
    let Some(under) = current.and_then(|current| current.under) else {
        return Err(StoreError::conflict(format!(
            "no version of plugin {plugin} was active before; activate one by its number"
        )));
    };
    let row = transaction.query_one(
        "SELECT id, version, under FROM activations WHERE id = ?1",
        params![under],
    )?;
    read_activation(&row)
}

fn switch(
    transaction: &Transaction<'_>,
    (app, plugin, id): (&AppName, &PluginName, i64),
    current: Option<&ActivationRow>,
    version: &Version,
    under: Option<i64>,
    action: &'static str,
) -> Result<(Activation, Option<Change>), StoreError> {
    let old = match current {
        Some(current) => find_version(transaction, id, current.version)?,
        None => None,
    };
    let activation = Activation {
        plugin: plugin.clone(),
        version: version.number,
        digest: version.digest,
        previous_version: current.map(|current| current.version),
        is_changed: current.is_none_or(|current| current.version != version.number),
    };
    if !activation.is_changed {
        return Ok((activation, None));
    }
    check_bound_hooks(transaction, plugin, id, version)?;
    let made = transaction.query_one(
        "INSERT INTO activations (plugin, version, under, at) VALUES (?1, ?2, ?3, ?4) RETURNING id",
        params![id, version.number, under, Timestamp::now().unix_millis()],
    )?;
    transaction.execute(
        "UPDATE plugins SET activation = ?1 WHERE id = ?2",
        params![made.get::<i64>(0)?, id],
    )?;
    let change = Change::new(
        Some(app),
        action,
        format!("plugin/{plugin}/versions/{}", version.number),
    )
    .digests(old.map(|old| old.digest), Some(version.digest));
    Ok((activation, Some(change)))
}

fn check_bound_hooks(
    transaction: &Transaction<'_>,
    plugin: &PluginName,
    id: i64,
    version: &Version,
) -> Result<(), StoreError> {
    let rows = transaction.query(
        "SELECT hook, scope FROM bindings WHERE plugin = ?1",
        params![id],
    )?;
    for row in &rows {
        let hook = read_hook(row, 0)?;
        if !version.hooks.contains(&hook) {
            return Err(StoreError::conflict(format!(
                "version {} of {plugin} does not export {hook}, for which the plugin is bound in scope {}; unbind it there first, or activate a version that exports it",
                version.number,
                row.get::<String>(1)?,
            )));
        }
    }
    Ok(())
}

pub(super) fn read_activation(row: &Row) -> Result<ActivationRow, StoreError> {
    Ok(ActivationRow {
        row: row.get(0)?,
        version: row.get(1)?,
        under: row.get(2)?,
    })
}
