//! What a node ran by last, on its own disk: it can start from that when the database is away.
//!
//! Owns one folder of the data directory: `state.json`, which is replaced in one step, the artifacts that it names, each
//! under its digest and checked against it, and `heard.json`, when the database last said that the state is its own.
//! Holds what a store of one node holds in its file (hashes of keys, secrets of apps), for the same eyes. Invariants:
//! what is loaded was kept whole, for this very database, and is not older than it may be; a disk that fails costs the
//! next start without the database and nothing now.

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::time::Instant;

use super::state::State;
use crate::{
    AppName, AppSecret, DesiredBinding, DesiredState, Digest, Revision, Secret, Timestamp,
    Verified, key::Ring,
};

/// Name of the folder in the data directory.
const FOLDER: &str = "control-copy";
const STATE_FILE: &str = "state.json";
const HEARD_FILE: &str = "heard.json";

/// Of the file; one of another format is not read.
const FORMAT: u32 = 2;

/// Between two notes that the state still is the database's.
const NOTE_INTERVAL: Duration = Duration::from_secs(60);

/// The folder.
#[derive(Debug)]
pub(super) struct LastGood {
    folder: PathBuf,
    /// Which database the state is of.
    place: String,
    /// How old the state may be for a start from it.
    max_age: Option<Duration>,
    known: Mutex<Known>,
}

/// What this process knows of the folder, so that it is not read again and again.
#[derive(Debug, Default)]
struct Known {
    /// Of the state on disk.
    revision: Option<Revision>,
    /// When the database last said what runs here, and how long before that it really was: after a start from the copy.
    heard: Option<(Instant, Duration)>,
    /// When that was last written down.
    noted_at: Option<Instant>,
    /// Artifacts that are there and whole.
    whole: HashSet<Digest>,
}

/// Why there is nothing to start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoCopy {
    /// There is none, or none that can be used; the log says why.
    Absent,
    /// It is older than it may be.
    TooOld { age: Duration, limit: Duration },
}

/// What every format says.
#[derive(Deserialize)]
struct Heading {
    format: u32,
    place: String,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    format: u32,
    place: String,
    /// Milliseconds since 1970.
    kept_at: i64,
    revision: Revision,
    apps: Vec<KeptApp>,
    keys: Vec<KeptKey>,
    bindings: Vec<DesiredBinding>,
}

#[derive(Serialize, Deserialize)]
struct KeptApp {
    name: AppName,
    token_secret: String,
}

#[derive(Serialize, Deserialize)]
struct KeptKey {
    hash: Digest,
    #[serde(flatten)]
    verified: Verified,
}

/// Says that the state of this revision was the database's at this time.
#[derive(Serialize, Deserialize)]
struct Note {
    revision: Revision,
    /// Milliseconds since 1970.
    heard_at: i64,
}

impl LastGood {
    /// The folder in this data directory, for this database.
    pub(super) fn new(data_dir: &Path, place: String, max_age: Option<Duration>) -> Self {
        Self {
            folder: data_dir.join(FOLDER),
            place,
            max_age,
            known: Mutex::default(),
        }
    }

    /// Keeps a state in place of the one before, and no artifacts but its own. Whether it is on disk.
    pub(super) fn keep(&self, state: &State, ring: &Ring) -> bool {
        let kept = self.try_keep(state, ring);
        if let Err(error) = &kept {
            tracing::warn!(
                %error, folder = %self.folder.display(),
                "what runs could not be kept on disk; this node cannot start while the control store is away"
            );
        }
        kept.is_ok()
    }

    fn try_keep(&self, state: &State, ring: &Ring) -> io::Result<()> {
        let State {
            revision,
            apps,
            desired,
        } = state;
        let apps = apps.iter().map(|app| KeptApp {
            name: app.name.clone(),
            token_secret: app.token_secret.reveal().to_owned(),
        });
        let keys = ring.entries().map(|(hash, verified)| KeptKey {
            hash: (*hash).into(),
            verified: verified.clone(),
        });
        self.replace_by(
            STATE_FILE,
            &Kept {
                format: FORMAT,
                place: self.place.clone(),
                kept_at: Timestamp::now().unix_millis(),
                revision: revision.clone(),
                apps: apps.collect(),
                keys: keys.collect(),
                bindings: desired.bindings.clone(),
            },
        )?;
        {
            let mut known = self.known.lock();
            known.revision = Some(revision.clone());
            known.noted_at = Some(Instant::now());
        }
        self.prune(desired)
    }

    /// The database says that what runs is what it has. Written down once a minute.
    pub(super) fn confirm(&self, revision: &Revision) {
        let now = Instant::now();
        {
            let mut known = self.known.lock();
            known.heard = Some((now, Duration::ZERO));
            let is_due = known
                .noted_at
                .is_none_or(|noted| now.duration_since(noted) >= NOTE_INTERVAL);
            if !is_due || known.revision.as_ref() != Some(revision) {
                return;
            }
            known.noted_at = Some(now);
        }
        let note = Note {
            revision: revision.clone(),
            heard_at: Timestamp::now().unix_millis(),
        };
        if let Err(error) = self.replace_by(HEARD_FILE, &note) {
            tracing::warn!(%error, folder = %self.folder.display(), "the age of what is kept could not be written down");
        }
    }

    /// How long ago the database last said that what runs is what it has.
    pub(super) fn age(&self) -> Option<Duration> {
        let (at, before) = self.known.lock().heard?;
        Some(at.elapsed() + before)
    }

    /// How old that may be for a start.
    pub(super) fn max_age(&self) -> Option<Duration> {
        self.max_age
    }

    /// What was kept last, if it is whole, of this database and not too old.
    pub(super) fn load(&self) -> Result<(State, Ring), NoCopy> {
        let path = self.folder.join(STATE_FILE);
        let heading: Heading = read(&path).ok_or(NoCopy::Absent)?;
        if heading.format != FORMAT || heading.place != self.place {
            tracing::info!(path = %path.display(), "the kept state is of another database or release and not used");
            return Err(NoCopy::Absent);
        }
        let kept: Kept = read(&path).ok_or(NoCopy::Absent)?;
        let note: Option<Note> = read(&self.folder.join(HEARD_FILE));
        // A note of another state is of the one before.
        let noted = note.filter(|note| note.revision == kept.revision);
        let heard_at = noted.map_or(kept.kept_at, |note| note.heard_at.max(kept.kept_at));
        let age = Timestamp::now().unix_millis().saturating_sub(heard_at);
        let age = Duration::from_millis(u64::try_from(age).unwrap_or(0));
        if let Some(limit) = self.max_age.filter(|limit| age > *limit) {
            return Err(NoCopy::TooOld { age, limit });
        }
        {
            let mut known = self.known.lock();
            known.revision = Some(kept.revision.clone());
            if known.heard.is_none() {
                known.heard = Some((Instant::now(), age));
            }
        }
        Ok(kept.into_state())
    }

    /// Says which plugins will not run for want of their code.
    pub(super) fn tell_of_missing(&self, desired: &DesiredState) {
        let bindings = desired.bindings.iter();
        let plugins: BTreeMap<_, _> = bindings
            .map(|binding| ((&binding.app, &binding.plugin), binding))
            .collect();
        for (
            (app, plugin),
            DesiredBinding {
                version, digest, ..
            },
        ) in plugins
        {
            if !self.has(digest) && self.artifact(digest).is_none() {
                tracing::error!(
                    %app, %plugin, version, %digest,
                    "the code of a plugin is missing in what was kept, or damaged; it cannot run before the control store is back"
                );
            }
        }
    }

    /// Whether an artifact is here; that it is whole was seen before, in this process.
    pub(super) fn has(&self, digest: &Digest) -> bool {
        self.known.lock().whole.contains(digest) && self.folder.join(file_of(digest)).is_file()
    }

    /// The bytes of an artifact, if they are here and whole.
    pub(super) fn artifact(&self, digest: &Digest) -> Option<Arc<[u8]>> {
        let bytes = fs::read(self.folder.join(file_of(digest))).ok()?;
        let is_whole = Digest::of(&bytes) == *digest;
        let mut known = self.known.lock();
        if is_whole {
            known.whole.insert(*digest);
        } else {
            known.whole.remove(digest);
        }
        is_whole.then(|| bytes.into())
    }

    /// Keeps the bytes of an artifact.
    pub(super) fn keep_artifact(&self, digest: &Digest, bytes: &[u8]) {
        match self.replace(&file_of(digest), bytes) {
            Ok(()) => {
                self.known.lock().whole.insert(*digest);
            }
            Err(error) => {
                tracing::warn!(%error, folder = %self.folder.display(), "an artifact could not be kept on disk");
            }
        }
    }

    /// Removes the artifacts that a state does not name.
    fn prune(&self, desired: &DesiredState) -> io::Result<()> {
        let named = desired.bindings.iter().map(|binding| binding.digest);
        let named: HashSet<Digest> = named.collect();
        self.known
            .lock()
            .whole
            .retain(|digest| named.contains(digest));
        let files: HashSet<String> = named.iter().map(file_of).collect();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| name.ends_with(".wasm")) else {
                continue;
            };
            if !files.contains(name) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn replace_by(&self, name: &str, value: &impl Serialize) -> io::Result<()> {
        let bytes = serde_json::to_vec(value).map_err(io::Error::other)?;
        self.replace(name, &bytes)
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
    fn into_state(self) -> (State, Ring) {
        let apps = self.apps.into_iter().map(|app| AppSecret {
            name: app.name,
            token_secret: Secret::stored(app.token_secret),
        });
        let keys = self.keys.into_iter();
        let keys = keys.map(|key| (*key.hash.as_bytes(), key.verified));
        let ring = Ring::new(keys);
        let state = State {
            revision: self.revision,
            apps: apps.collect(),
            desired: DesiredState {
                bindings: self.bindings,
            },
        };
        (state, ring)
    }
}

/// What a file says; `None` when it is not there, or cannot be read, which the log says.
fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "what was kept cannot be read");
            return None;
        }
    };
    let value = serde_json::from_slice(&bytes).ok();
    if value.is_none() {
        // Its text holds secrets, so it is not in the log.
        tracing::warn!(path = %path.display(), "what was kept is damaged and not used");
    }
    value
}

fn file_of(digest: &Digest) -> String {
    format!("{digest}.wasm")
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn state(number: i64) -> State {
        State {
            revision: Revision::new(number, "w".to_owned()),
            apps: Vec::new(),
            desired: DesiredState::default(),
        }
    }

    /// As if that much time had gone by since the age was written down.
    fn wait(copy: &LastGood, time: Duration) {
        let mut known = copy.known.lock();
        known.noted_at = known.noted_at.map(|noted| noted - time);
    }

    #[test]
    fn the_age_is_written_down_once_a_minute_and_for_the_state_on_disk_alone() {
        let dir = TempDir::new().unwrap();
        let copy = LastGood::new(dir.path(), "here".to_owned(), None);
        let note = dir.path().join(FOLDER).join(HEARD_FILE);
        let (now, next) = (state(1), state(2));
        assert!(copy.keep(&now, &Ring::default()));
        assert_eq!(copy.age(), None, "nobody said yet that it is current");
        copy.confirm(&now.revision);
        assert!(copy.age().is_some());
        assert!(!note.exists(), "the state says when it was kept");
        wait(&copy, NOTE_INTERVAL);
        copy.confirm(&next.revision);
        assert!(!note.exists(), "what is on disk is older");
        copy.confirm(&now.revision);
        assert!(note.exists());
        fs::remove_file(&note).unwrap();
        copy.confirm(&now.revision);
        assert!(!note.exists(), "a minute has not gone by");
    }

    #[test]
    fn a_copy_is_as_old_as_the_last_word_about_it() {
        let dir = TempDir::new().unwrap();
        let limit = Duration::from_secs(3_600);
        let copy = || LastGood::new(dir.path(), "here".to_owned(), Some(limit));
        let kept = state(1);
        assert!(copy().keep(&kept, &Ring::default()));
        assert!(copy().load().is_ok());
        let path = |name| dir.path().join(FOLDER).join(name);
        let hours_ago = |hours: i64| Timestamp::now().unix_millis() - hours * 3_600_000;
        let mut file: serde_json::Value = read(&path(STATE_FILE)).unwrap();
        file["kept_at"] = hours_ago(10).into();
        fs::write(path(STATE_FILE), file.to_string()).unwrap();
        match copy().load() {
            Err(NoCopy::TooOld { age, limit: told }) => {
                assert_eq!((age.as_secs() / 3_600, told), (10, limit));
            }
            other => panic!("{:?}", other.map(|_| ())),
        }
        let note = |number: i64, heard_at: i64| {
            let revision = state(number).revision;
            copy()
                .replace_by(HEARD_FILE, &Note { revision, heard_at })
                .unwrap();
        };
        note(2, hours_ago(0));
        assert!(copy().load().is_err(), "that was another state");
        note(1, hours_ago(0));
        let loaded = copy();
        assert!(loaded.load().is_ok());
        assert!(loaded.age().unwrap() < limit);
        note(1, hours_ago(2));
        assert!(copy().load().is_err());
        let patient = LastGood::new(dir.path(), "here".to_owned(), None);
        assert!(patient.load().is_ok());
        assert_eq!(patient.age().unwrap().as_secs() / 3_600, 2);
    }
}
