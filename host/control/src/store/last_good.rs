//! What a node ran by last, on its own disk: it can start from that when the database is away.
//!
//! Owns one folder of the data directory: `state.json`, which is replaced in one step, and the artifacts that it names,
//! each under its digest and checked against it. Holds what a store of one node holds in its file (hashes of keys,
//! secrets of apps), for the same eyes. Invariants: what is loaded was kept whole, for this very database; a disk that
//! fails costs the next start without the database and nothing now.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::state::State;
use crate::{
    AppName, AppSecret, DesiredBinding, DesiredState, Digest, KeyRole, PluginName, Secret,
    StoreError, Verified, key::Ring,
};

/// Name of the folder in the data directory.
const FOLDER: &str = "control-copy";
const STATE_FILE: &str = "state.json";

/// Of the file; one of another format is not read.
const FORMAT: u32 = 1;

/// The folder.
#[derive(Debug)]
pub(super) struct LastGood {
    folder: PathBuf,
    /// Which database the state is of.
    place: String,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    format: u32,
    place: String,
    revision: i64,
    apps: Vec<KeptApp>,
    keys: Vec<KeptKey>,
    bindings: Vec<KeptBinding>,
}

#[derive(Serialize, Deserialize)]
struct KeptApp {
    name: String,
    token_secret: String,
}

#[derive(Serialize, Deserialize)]
struct KeptKey {
    hash: String,
    id: String,
    role: String,
    app: Option<String>,
    methods: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct KeptBinding {
    id: String,
    app: String,
    plugin: String,
    version: u32,
    digest: String,
    hook: String,
    scope: String,
    position: u32,
    config: String,
    failure_policy: String,
    isolation: String,
}

impl LastGood {
    /// The folder in this data directory, for this database.
    pub(super) fn new(data_dir: &Path, place: String) -> Self {
        Self {
            folder: data_dir.join(FOLDER),
            place,
        }
    }

    /// Keeps a state in place of the one before, and no artifacts but its own.
    pub(super) fn keep(&self, state: &State, ring: &Ring) {
        if let Err(error) = self.try_keep(state, ring) {
            tracing::warn!(
                %error, folder = %self.folder.display(),
                "what runs could not be kept on disk; this node cannot start while the control store is away"
            );
        }
    }

    fn try_keep(&self, state: &State, ring: &Ring) -> io::Result<()> {
        let State {
            revision,
            apps,
            desired,
        } = state;
        let keys = ring.entries().map(|(hash, verified)| KeptKey {
            hash: hex::encode(hash),
            id: verified.id.to_string(),
            role: verified.role.as_str().to_owned(),
            app: verified.app.as_ref().map(|app| app.as_str().to_owned()),
            methods: verified
                .methods
                .iter()
                .map(|method| method.to_string())
                .collect(),
        });
        let bindings = desired.bindings.iter().map(|binding| KeptBinding {
            id: binding.id.clone(),
            app: binding.app.as_str().to_owned(),
            plugin: binding.plugin.as_str().to_owned(),
            version: binding.version,
            digest: binding.digest.to_string(),
            hook: binding.hook.as_str().to_owned(),
            scope: binding.scope.to_string(),
            position: binding.position,
            config: binding.config.clone(),
            failure_policy: binding.failure_policy.as_str().to_owned(),
            isolation: binding.isolation.as_str().to_owned(),
        });
        let kept = Kept {
            format: FORMAT,
            place: self.place.clone(),
            revision: *revision,
            apps: apps
                .iter()
                .map(|app| KeptApp {
                    name: app.name.as_str().to_owned(),
                    token_secret: app.token_secret.reveal().to_owned(),
                })
                .collect(),
            keys: keys.collect(),
            bindings: bindings.collect(),
        };
        let bytes = serde_json::to_vec(&kept).map_err(io::Error::other)?;
        self.replace(STATE_FILE, &bytes)?;
        self.prune(desired)
    }

    /// What was kept last, if it is whole and of this database.
    pub(super) fn load(&self) -> Option<(State, Ring)> {
        let path = self.folder.join(STATE_FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "the kept state cannot be read");
                return None;
            }
        };
        let kept: Kept = match serde_json::from_slice(&bytes) {
            Ok(kept) => kept,
            Err(_) => {
                // Its text holds secrets, so it is not in the log.
                tracing::warn!(path = %path.display(), "the kept state is damaged and not used");
                return None;
            }
        };
        if kept.format != FORMAT || kept.place != self.place {
            tracing::info!(path = %path.display(), "the kept state is of another database or release and not used");
            return None;
        }
        let state = kept.into_state();
        if state.is_err() {
            tracing::warn!(path = %path.display(), "the kept state has a value that is not possible and is not used");
        }
        state.ok()
    }

    /// The bytes of an artifact, if they are here and whole.
    pub(super) fn artifact(&self, digest: &Digest) -> Option<Arc<[u8]>> {
        let bytes = fs::read(self.folder.join(file_of(digest))).ok()?;
        (Digest::of(&bytes) == *digest).then(|| bytes.into())
    }

    /// Keeps the bytes of an artifact.
    pub(super) fn keep_artifact(&self, digest: &Digest, bytes: &[u8]) {
        if let Err(error) = self.replace(&file_of(digest), bytes) {
            tracing::warn!(%error, folder = %self.folder.display(), "an artifact could not be kept on disk");
        }
    }

    /// Removes the artifacts that a state does not name.
    fn prune(&self, desired: &DesiredState) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| name.ends_with(".wasm")) else {
                continue;
            };
            let mut bindings = desired.bindings.iter();
            if !bindings.any(|binding| file_of(&binding.digest) == name) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Writes a file and puts it in the place of the one before, all or nothing.
    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)?;
        let new = self.folder.join(format!("{name}.new"));
        // Left behind by a crash, perhaps with another mode.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, self.folder.join(name))?;
        File::open(&self.folder)?.sync_all()
    }
}

impl Kept {
    fn into_state(self) -> Result<(State, Ring), StoreError> {
        let bad = || StoreError::corrupt("the kept state");
        let digest = |text: &str| {
            let mut bytes = [0; 32];
            hex::decode_to_slice(text, &mut bytes).map_err(|_| bad())?;
            Ok::<_, StoreError>(bytes)
        };
        let apps = self.apps.into_iter().map(|app| {
            Ok::<_, StoreError>(AppSecret {
                name: AppName::parse(&app.name)?,
                token_secret: Secret::stored(app.token_secret),
            })
        });
        let apps = apps.collect::<Result<_, _>>()?;
        let mut keys = Vec::new();
        for key in self.keys {
            let verified = Verified {
                id: key.id.into(),
                role: KeyRole::parse(&key.role)?,
                app: key.app.as_deref().map(AppName::parse).transpose()?,
                methods: key.methods.into_iter().map(Into::into).collect(),
            };
            keys.push((digest(&key.hash)?, verified));
        }
        let bindings = self.bindings.into_iter().map(|binding| {
            Ok::<_, StoreError>(DesiredBinding {
                app: AppName::parse(&binding.app)?,
                plugin: PluginName::parse(&binding.plugin)?,
                version: binding.version,
                digest: digest(&binding.digest)?.into(),
                hook: binding.hook.parse()?,
                scope: binding.scope.parse()?,
                position: binding.position,
                config: binding.config,
                failure_policy: binding.failure_policy.parse()?,
                isolation: binding.isolation.parse()?,
                id: binding.id,
            })
        });
        let state = State {
            revision: self.revision,
            apps,
            desired: DesiredState {
                bindings: bindings.collect::<Result<_, _>>()?,
            },
        };
        Ok((state, Ring::new(keys)))
    }
}

fn file_of(digest: &Digest) -> String {
    format!("{digest}.wasm")
}
