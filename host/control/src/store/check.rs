//! Whether the file is whole.

use super::Store;
use crate::{Digest, StoreError};

impl Store {
    /// What every start pays for: the b-trees hold together. Does not read artifacts; their digests are
    /// checked whenever they are.
    pub(super) fn quick_check(&self) -> Result<(), StoreError> {
        self.pragma_check("quick_check")
    }

    /// Everything: pages, indexes, references, and every artifact against its digest. Reads the whole file.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] with the first thing found.
    pub fn check(&self) -> Result<(), StoreError> {
        self.pragma_check("integrity_check")?;
        self.read(|transaction| {
            let mut statement = transaction.prepare("PRAGMA foreign_key_check")?;
            if statement.query(())?.next()?.is_some() {
                return Err(StoreError::corrupt("a row points at one that is missing"));
            }
            let mut statement = transaction.prepare("SELECT digest, bytes FROM artifacts")?;
            let mut rows = statement.query(())?;
            while let Some(row) = rows.next()? {
                let digest: Digest = row.get::<_, [u8; 32]>(0)?.into();
                let bytes = row.get_ref(1)?;
                let bytes = bytes
                    .as_blob()
                    .map_err(|_| StoreError::corrupt("an artifact is not bytes"))?;
                if Digest::of(bytes) != digest {
                    return Err(StoreError::corrupt(format!(
                        "artifact {digest} has other bytes"
                    )));
                }
            }
            Ok(())
        })
    }

    /// The digest of every version that is stored, active or not.
    pub fn digests(&self) -> Result<Vec<Digest>, StoreError> {
        self.read(|transaction| {
            let mut statement = transaction.prepare("SELECT DISTINCT digest FROM versions")?;
            let digests = statement.query_map((), |row| row.get::<_, [u8; 32]>(0))?;
            digests.map(|digest| Ok(Digest::from(digest?))).collect()
        })
    }

    fn pragma_check(&self, pragma: &str) -> Result<(), StoreError> {
        self.read(|transaction| {
            let found: String = transaction.pragma_query_value(None, pragma, |row| row.get(0))?;
            if found == "ok" {
                Ok(())
            } else {
                Err(StoreError::corrupt("SQLite's own check failed"))
            }
        })
    }
}
