//! Compiled plugins on disk, so that a restart does not compile again.
//!
//! Loading compiled code is running it, so each file carries a MAC over the component's digest, the engine's
//! identity and the code, under a key that only this node has (threat model W3). A file that does not verify
//! is removed and compiled anew, never loaded. Files are written under a temporary name, synced and renamed;
//! they are never changed in place. The cache is an aid: when it fails, work goes on without it.

pub(crate) mod native;

use std::{
    collections::HashSet,
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    hash::{Hash, Hasher},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use wasmtime::{Engine, component::Component};

use self::native::Generated;
use crate::compile::ComponentDigest;

/// First bytes of a file: what it is, and the version of its layout.
const MAGIC: &[u8; 8] = b"tidegat1";
const MAC_BYTES: usize = 32;
/// Largest file read. The largest admitted component compiles to a fraction of it.
const MAX_FILE_BYTES: u64 = 128 << 20;

/// Where the cache is and what proves its files.
#[derive(Clone)]
pub struct CacheConfig {
    /// Made if absent; readable by us alone.
    pub directory: PathBuf,
    /// Secret of the node.
    pub key: [u8; 32],
}

impl std::fmt::Debug for CacheConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CacheConfig")
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

impl CacheConfig {
    /// Takes the key from `key_file`, which is made with a random one if absent.
    ///
    /// # Errors
    /// When the file can neither be read nor made, or holds no key.
    pub fn open(directory: PathBuf, key_file: &Path) -> io::Result<Self> {
        let mut key = [0; 32];
        match File::open(key_file) {
            Ok(mut file) => file.read_exact(&mut key)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                getrandom::fill(&mut key).map_err(io::Error::other)?;
                write_whole(key_file, &[&key])?;
            }
            Err(error) => return Err(error),
        }
        Ok(Self { directory, key })
    }
}

/// The cache of one node.
pub(crate) struct Cache {
    directory: PathBuf,
    key: [u8; 32],
    /// What compiled code depends on besides the component: wasmtime's version, its settings, the CPU.
    engine_id: [u8; 32],
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache")
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

impl Cache {
    pub(crate) fn open(config: CacheConfig, engine: &Engine) -> io::Result<Self> {
        let CacheConfig { directory, key } = config;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)?;
        fs::set_permissions(&directory, Permissions::from_mode(0o700))?;
        Ok(Self {
            directory,
            key,
            engine_id: engine_id(engine),
        })
    }

    /// The compiled component, if a file holds it and its MAC is right.
    pub(crate) fn load(&self, engine: &Engine, digest: &ComponentDigest) -> Option<Component> {
        let path = self.path(digest);
        let mut file = match read_bounded(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(%error, "compiled plugin could not be read; it is compiled again");
                return None;
            }
        };
        let Some(artifact) = self.authenticate(digest, &mut file) else {
            tracing::warn!(
                file = %path.display(),
                "compiled plugin in the cache is not ours or was changed; it is removed and compiled again"
            );
            self.remove(&path);
            return None;
        };
        match native::load(engine, &artifact) {
            Ok(component) => Some(component),
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "compiled plugin could not be loaded; it is compiled again"
                );
                self.remove(&path);
                None
            }
        }
    }

    /// Removes what was compiled of components that are not among `kept`, by whatever engine. Failures are logged.
    pub(crate) fn keep_only(&self, kept: &[ComponentDigest]) {
        let kept: HashSet<String> = kept.iter().map(hex::encode).collect();
        let Ok(entries) = fs::read_dir(&self.directory) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let digest = name.to_str().and_then(|name| {
                let (digest, engine) = name.split_once('-')?;
                engine.ends_with(".native").then_some(digest)
            });
            if digest.is_some_and(|digest| !kept.contains(digest)) {
                self.remove(&entry.path());
            }
        }
    }

    /// Where the files are.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Writes compiled code, with its MAC. Failures are logged: the plugin runs all the same.
    pub(crate) fn store(&self, digest: &ComponentDigest, artifact: &Generated) {
        let mac = self.mac(digest, artifact.as_bytes()).finalize();
        let mac = mac.into_bytes();
        let written = write_whole(&self.path(digest), &[MAGIC, &mac, artifact.as_bytes()]);
        if let Err(error) = written {
            tracing::warn!(%error, "compiled plugin could not be cached; the next start compiles it again");
        }
    }

    /// The code in a file, if the file is ours. Takes the bytes, since they are many.
    fn authenticate(&self, digest: &ComponentDigest, file: &mut Vec<u8>) -> Option<Generated> {
        let rest = file.strip_prefix(MAGIC)?;
        let (mac, artifact) = rest.split_at_checked(MAC_BYTES)?;
        self.mac(digest, artifact).verify_slice(mac).ok()?;
        Some(Generated::proven(file.split_off(MAGIC.len() + MAC_BYTES)))
    }

    fn mac(&self, digest: &ComponentDigest, artifact: &[u8]) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        mac.update(MAGIC);
        mac.update(digest);
        mac.update(&self.engine_id);
        mac.update(artifact);
        mac
    }

    /// The engine is part of the name, so that a downgrade finds its own files again.
    fn path(&self, digest: &ComponentDigest) -> PathBuf {
        let engine = &hex::encode(self.engine_id)[..16];
        self.directory
            .join(format!("{}-{engine}.native", hex::encode(digest)))
    }

    fn remove(&self, path: &Path) {
        if let Err(error) = fs::remove_file(path) {
            tracing::warn!(%error, directory = %self.directory.display(), "stale compiled plugin could not be removed");
        }
    }
}

/// Digest of what wasmtime says its compiled code depends on; its own version is part of that.
pub(crate) fn engine_id(engine: &Engine) -> [u8; 32] {
    struct Feed(Sha256);
    impl Hasher for Feed {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            0
        }
    }
    let mut feed = Feed(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut feed);
    feed.0.finalize().into()
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    if len > MAX_FILE_BYTES {
        return Err(io::Error::other("the file is too large"));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or_default());
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Writes under a temporary name, syncs, renames: the file is there whole or not at all.
fn write_whole(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let name: [u8; 8] = rand::random();
    let temporary = directory.join(format!(".{}.tmp", hex::encode(name)));
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        for part in parts {
            file.write_all(part)?;
        }
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(directory)?.sync_all()
    })();
    if written.is_err() {
        // The error that matters is the first one.
        let _ = fs::remove_file(&temporary);
    }
    written
}
