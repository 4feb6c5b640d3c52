//! Whether what is stored is whole.

use super::{Backend, Store};
use crate::{Digest, StoreError};

impl Store {
    /// Everything: pages, indexes, references (of a file; PostgreSQL keeps its own), and every artifact against its
    /// digest. Reads all there is.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] with the first thing found.
    pub fn check(&self) -> Result<(), StoreError> {
        match &self.backend {
            Backend::Sqlite(sqlite) => sqlite.check()?,
            Backend::Postgres(_) => {}
        }
        let stored = self.read(|transaction| {
            let rows = transaction.query("SELECT digest FROM artifacts", &[])?;
            let digests = rows.iter().map(|row| Ok(row.get::<[u8; 32]>(0)?.into()));
            digests.collect::<Result<Vec<Digest>, StoreError>>()
        })?;
        // One at a time: together they may be more than fits into memory.
        for digest in stored {
            self.stored_artifact(&digest)?;
        }
        Ok(())
    }

    /// The digest of every version that is stored, active or not.
    pub fn digests(&self) -> Result<Vec<Digest>, StoreError> {
        self.read(|transaction| {
            let rows = transaction.query("SELECT DISTINCT digest FROM versions", &[])?;
            let digests = rows.iter().map(|row| Ok(row.get::<[u8; 32]>(0)?.into()));
            digests.collect()
        })
    }
}
