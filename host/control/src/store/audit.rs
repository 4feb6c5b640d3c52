//! The audit log (threat model M7): written with every change, never edited.

use super::{
    Store,
    db::{Transaction, params},
};
use crate::{Actor, AppName, AuditEntry, AuditQuery, Digest, MAX_PAGE, StoreError, Timestamp};

/// Longest result text kept; refusals carry details that come from outside.
const MAX_RESULT_BYTES: usize = 512;

/// What a change did, for the log.
#[derive(Debug)]
pub(super) struct Change {
    app: Option<AppName>,
    action: &'static str,
    object: String,
    old: Option<Digest>,
    new: Option<Digest>,
    result: String,
}

impl Change {
    pub(super) fn new(app: Option<&AppName>, action: &'static str, object: String) -> Self {
        Self {
            app: app.cloned(),
            action,
            object,
            old: None,
            new: None,
            result: "ok".to_owned(),
        }
    }

    pub(super) fn digests(mut self, old: Option<Digest>, new: Option<Digest>) -> Self {
        (self.old, self.new) = (old, new);
        self
    }

    pub(super) fn result(mut self, result: &str) -> Self {
        let end = result.floor_char_boundary(MAX_RESULT_BYTES.min(result.len()));
        self.result = result[..end]
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        self
    }

    /// Adds what is known of the version that goes; nothing is, if it was never asked.
    pub(super) fn past(self, past: &str) -> Self {
        if past.is_empty() {
            return self;
        }
        let result = format!("{}; {past}", self.result);
        self.result(&result)
    }

    pub(super) fn record(
        self,
        transaction: &Transaction<'_>,
        actor: &Actor,
    ) -> Result<(), StoreError> {
        transaction.execute(
            "INSERT INTO audit (at, who, ip, app, action, object, old, new, result)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![
                Timestamp::now().unix_millis(),
                &actor.who,
                actor.ip.map(|ip| ip.to_string()),
                self.app.as_ref().map(AppName::as_str),
                self.action,
                self.object,
                self.old.as_ref().map(Digest::as_bytes),
                self.new.as_ref().map(Digest::as_bytes),
                self.result,
            ],
        )?;
        Ok(())
    }
}

/// Number of the newest entry, 0 before the first.
pub(super) fn last_entry(transaction: &Transaction<'_>) -> Result<i64, StoreError> {
    let row = transaction.query_one("SELECT coalesce(max(id), 0) FROM audit", &[])?;
    row.get(0)
}

impl Store {
    /// Writes down something that changed nothing, such as a refused upload.
    pub fn record_refusal(
        &self,
        actor: &Actor,
        app: &AppName,
        action: &'static str,
        object: &str,
        result: &str,
    ) -> Result<(), StoreError> {
        self.mutate(actor, |_| {
            let change = Change::new(Some(app), action, object.to_owned()).result(result);
            Ok(((), Some(change)))
        })
    }

    /// Entries, newest first.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for a page above [`MAX_PAGE`].
    pub fn audit(&self, query: &AuditQuery) -> Result<Vec<AuditEntry>, StoreError> {
        if !(1..=MAX_PAGE).contains(&query.page.size) {
            return Err(StoreError::invalid(
                "limit",
                format!("a page has 1 to {MAX_PAGE} entries"),
            ));
        }
        let before = query
            .page
            .before
            .map_or(i64::MAX, |id| i64::try_from(id).unwrap_or(i64::MAX));
        let limit = i64::try_from(query.page.size).expect("a page is small");
        self.read(|transaction| {
            let app = query.app.as_ref().map(AppName::as_str);
            let rows = transaction.query(
                "SELECT id, at, who, ip, app, action, object, old, new, result FROM audit
                 WHERE id < ?1 AND (?2 IS NULL OR app = ?2) ORDER BY id DESC LIMIT ?3",
                params![before, app, limit],
            )?;
            let mut entries = Vec::new();
            for row in &rows {
                let id: i64 = row.get(0)?;
                entries.push(AuditEntry {
                    id: u64::try_from(id).map_err(|_| StoreError::corrupt("an audit id"))?,
                    at: Timestamp::from_millis(row.get(1)?),
                    who: row.get(2)?,
                    ip: row.get(3)?,
                    app: row
                        .get::<Option<String>>(4)?
                        .map(|app| AppName::parse(&app))
                        .transpose()?,
                    action: row.get(5)?,
                    object: row.get(6)?,
                    old: row.get::<Option<[u8; 32]>>(7)?.map(Digest::from),
                    new: row.get::<Option<[u8; 32]>>(8)?.map(Digest::from),
                    result: row.get(9)?,
                });
            }
            Ok(entries)
        })
    }
}
