//! Old versions go.
//!
//! Who pushes for every commit has a new version every few minutes, and each is stored with its bytes. Kept are the
//! newest ones and those that a rollback can reach; of a stack of activations that is deeper than that the bottom goes,
//! too. Invariant: the active version and the one that a rollback would activate stay, whatever the number.

use std::{collections::BTreeSet, num::NonZeroU32};

use super::{
    Change, Store,
    activations::{ActivationRow, current_activation, read_activation},
    db::{Transaction, params},
    plugins::plugin_id,
};
use crate::{Actor, AppName, PluginName, StoreError};

impl Store {
    /// Removes the versions of a plugin that are neither among its newest `keep` nor among the last `keep` that were
    /// active, and at least the one before the active one. Answers which.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub fn prune_versions(
        &self,
        actor: &Actor,
        app: &AppName,
        plugin: &PluginName,
        keep: NonZeroU32,
    ) -> Result<Vec<u32>, StoreError> {
        self.mutate(actor, |transaction| {
            let id = plugin_id(transaction, app, plugin)?;
            let stack = stack(transaction, id, keep)?;
            let gone = superseded(transaction, id, keep, &stack)?;
            if gone.is_empty() {
                return Ok((gone, None));
            }
            forget_activations(transaction, id, &stack)?;
            for number in &gone {
                transaction.execute(
                    "DELETE FROM versions WHERE plugin = ?1 AND number = ?2",
                    params![id, *number],
                )?;
            }
            transaction.execute(
                "DELETE FROM artifacts WHERE digest NOT IN (SELECT digest FROM versions)",
                &[],
            )?;
            let numbers: Vec<String> = gone.iter().map(u32::to_string).collect();
            let change = Change::new(Some(app), "plugin.prune", format!("plugin/{plugin}"))
                .result(&format!("removed version {}", numbers.join(", ")));
            Ok((gone, Some(change)))
        })
    }
}

/// The activations that stay, the present one first.
fn stack(
    transaction: &Transaction<'_>,
    plugin: i64,
    keep: NonZeroU32,
) -> Result<Vec<ActivationRow>, StoreError> {
    // One more than is kept at least: the version to go back to.
    let depth = usize::try_from(keep.get().max(2)).unwrap_or(usize::MAX);
    let mut stack = Vec::new();
    let mut next = current_activation(transaction, plugin)?;
    while let Some(activation) = next {
        let under = activation.under;
        stack.push(activation);
        next = match under {
            Some(under) if stack.len() < depth => {
                let row = transaction.query_opt(
                    "SELECT id, version, under FROM activations WHERE id = ?1",
                    params![under],
                )?;
                row.as_ref().map(read_activation).transpose()?
            }
            Some(_) | None => None,
        };
    }
    Ok(stack)
}

/// The versions that nothing speaks for, the oldest first.
fn superseded(
    transaction: &Transaction<'_>,
    plugin: i64,
    keep: NonZeroU32,
    stack: &[ActivationRow],
) -> Result<Vec<u32>, StoreError> {
    let active: BTreeSet<u32> = stack.iter().map(|activation| activation.version).collect();
    let rows = transaction.query(
        "SELECT number FROM versions WHERE plugin = ?1 AND number NOT IN
             (SELECT number FROM versions WHERE plugin = ?1 ORDER BY number DESC LIMIT ?2)
         ORDER BY number",
        params![plugin, keep.get()],
    )?;
    let mut gone = Vec::new();
    for row in &rows {
        let number = row.get(0)?;
        if !active.contains(&number) {
            gone.push(number);
        }
    }
    Ok(gone)
}

/// Forgets the activations that are not on the stack, and what lay under its bottom.
fn forget_activations(
    transaction: &Transaction<'_>,
    plugin: i64,
    stack: &[ActivationRow],
) -> Result<(), StoreError> {
    // Rows point at each other, so the order of deletion is left to the commit.
    transaction.defer_references()?;
    if let Some(bottom) = stack.last() {
        transaction.execute(
            "UPDATE activations SET under = NULL WHERE id = ?1",
            params![bottom.row],
        )?;
    }
    let kept: BTreeSet<i64> = stack.iter().map(|activation| activation.row).collect();
    let rows = transaction.query(
        "SELECT id FROM activations WHERE plugin = ?1",
        params![plugin],
    )?;
    for row in rows {
        let id: i64 = row.get(0)?;
        if !kept.contains(&id) {
            transaction.execute("DELETE FROM activations WHERE id = ?1", params![id])?;
        }
    }
    Ok(())
}
