//! What nodes say of themselves, so that every node can tell what the others run.
//!
//! A report is no decision: it has no audit entry and waits for no change. It is a text that whoever wrote it
//! understands.

use std::time::Duration;

use super::{
    Backend, Store,
    db::{Transaction, params},
};
use crate::{StoreError, Timestamp};

/// A report older than this is removed when another is written: its node is gone for good.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3_600);

/// What a node said last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeReport {
    pub node: String,
    pub at: Timestamp,
    pub report: String,
}

impl Store {
    /// Replaces what a node says of itself.
    pub fn report(&self, node: &str, report: &str) -> Result<(), StoreError> {
        let write = |transaction: &Transaction<'_>| {
            let now = transaction.now()?.unix_millis();
            transaction.execute(
                "INSERT INTO node_reports (node, at, report) VALUES (?1, ?2, ?3)
                 ON CONFLICT (node) DO UPDATE SET at = ?2, report = ?3",
                params![node, now, report],
            )?;
            transaction.execute(
                "DELETE FROM node_reports WHERE at < ?1",
                params![now - millis(FORGOTTEN_AFTER)],
            )?;
            Ok(())
        };
        match &self.backend {
            Backend::Sqlite(sqlite) => sqlite.write(write, |()| ()),
            Backend::Postgres(postgres) => postgres.note(write),
        }
    }

    /// Takes back what a node said of itself: it ends.
    pub fn withdraw_report(&self, node: &str) -> Result<(), StoreError> {
        let write = |transaction: &Transaction<'_>| {
            transaction.execute("DELETE FROM node_reports WHERE node = ?1", params![node])?;
            Ok(())
        };
        match &self.backend {
            Backend::Sqlite(sqlite) => sqlite.write(write, |()| ()),
            Backend::Postgres(postgres) => postgres.note(write),
        }
    }

    /// What nodes said within this time, by node.
    pub fn reports(&self, within: Duration) -> Result<Vec<NodeReport>, StoreError> {
        self.read(|transaction| {
            let since = transaction.now()?.unix_millis() - millis(within);
            let rows = transaction.query(
                "SELECT node, at, report FROM node_reports WHERE at >= ?1 ORDER BY node",
                params![since],
            )?;
            let reports = rows.iter().map(|row| {
                Ok(NodeReport {
                    node: row.get(0)?,
                    at: Timestamp::from_millis(row.get(1)?),
                    report: row.get(2)?,
                })
            });
            reports.collect()
        })
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
