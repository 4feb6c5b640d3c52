//! What goes into the store and what comes out.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    AppName, FailurePolicy, Hook, Isolation, PluginName, Scope, Secret, StoreError, Timestamp,
    names::as_text,
};

/// Largest artifact: an upload has at most 4 MiB (threat model W1), and a core module grows a little when it
/// becomes the component that is kept.
pub const MAX_ARTIFACT_BYTES: usize = 5 * 1024 * 1024;

/// Largest page of any list (threat model M8).
pub const MAX_PAGE: usize = 200;

/// Most apps at a time: each costs every node memory, whether it is used or not.
pub const MAX_APPS: u32 = 1_000;

/// SHA-256 of an artifact or of a description.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

/// Who asks for a change; goes into the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// Key id, `config`, `node` …; never a secret.
    pub who: String,
    pub ip: Option<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct App {
    pub name: AppName,
    pub created_at: Timestamp,
}

/// An app just created.
#[derive(Debug)]
pub struct NewApp {
    pub app: App,
    /// Signs the connection tokens of its clients.
    pub token_secret: Secret,
}

/// What a node needs to know of an app that was created.
#[derive(Debug)]
pub struct AppSecret {
    pub name: AppName,
    /// Signs the connection tokens of its clients.
    pub token_secret: Secret,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plugin {
    pub app: AppName,
    pub name: PluginName,
    pub created_at: Timestamp,
    /// Number of the version that runs where the plugin is bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active_version: Option<u32>,
    pub newest_version: u32,
    pub bindings: u32,
}

/// An artifact as somebody uploaded it, at a moment, under a number. Never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Version {
    pub number: u32,
    pub digest: Digest,
    pub size: u64,
    pub hooks: Vec<Hook>,
    pub imports: Vec<String>,
    pub note: String,
    pub created_at: Timestamp,
    pub is_active: bool,
}

/// An artifact that passed admission.
#[derive(Debug, Clone, Copy)]
pub struct NewVersion<'a> {
    pub artifact: &'a [u8],
    pub hooks: &'a [Hook],
    pub imports: &'a [String],
    pub note: &'a str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uploaded {
    pub version: Version,
    /// `false` when the newest version had the same digest already and was answered again.
    pub is_new: bool,
}

/// A change of the active version that took place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Activation {
    pub plugin: PluginName,
    pub version: u32,
    pub digest: Digest,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_version: Option<u32>,
    /// `false` when the version was active already.
    pub is_changed: bool,
}

/// Asks that a plugin answer a hook in a scope.
#[derive(Debug, Clone)]
pub struct BindingRequest {
    pub plugin: PluginName,
    pub hook: Hook,
    pub scope: Scope,
    /// Place in the pipeline, counted from 0; `None` keeps the place or appends.
    pub position: Option<u32>,
    /// JSON text handed to the plugin; `None` keeps what an existing binding has.
    pub config: Option<String>,
    /// `None` keeps what an existing binding has; a new one is closed.
    pub failure_policy: Option<FailurePolicy>,
    /// `None` keeps what an existing binding has; a new one is shared.
    pub isolation: Option<Isolation>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    pub id: String,
    pub app: AppName,
    pub plugin: PluginName,
    pub hook: Hook,
    pub scope: Scope,
    pub position: u32,
    /// JSON text, empty for none.
    pub config: String,
    pub failure_policy: FailurePolicy,
    pub isolation: Isolation,
    pub created_at: Timestamp,
    /// `None` while the plugin has no active version: the binding then does nothing.
    pub active_version: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    pub binding: Binding,
    /// `false` when the plugin was bound there before and the binding was changed.
    pub is_new: bool,
}

/// All that should run, in pipeline order: sorted by app, hook, scope and position.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DesiredState {
    pub bindings: Vec<DesiredBinding>,
}

/// One binding whose plugin has an active version. The artifact is at [`crate::Store::artifact`], by digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredBinding {
    pub id: String,
    pub app: AppName,
    pub plugin: PluginName,
    pub version: u32,
    pub digest: Digest,
    pub hook: Hook,
    pub scope: Scope,
    pub position: u32,
    /// JSON text, empty for none.
    pub config: String,
    pub failure_policy: FailurePolicy,
    pub isolation: Isolation,
}

/// A line of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditEntry {
    pub id: u64,
    pub at: Timestamp,
    pub who: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<AppName>,
    pub action: String,
    pub object: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old: Option<Digest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<Digest>,
    pub result: String,
}

/// Which entries, newest first.
#[derive(Debug, Clone, Default)]
pub struct AuditQuery {
    pub app: Option<AppName>,
    pub page: Page,
}

/// A page of a list. `before` is the cursor of the page before: the last id on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    pub size: usize,
    pub before: Option<u64>,
}

impl Default for Page {
    fn default() -> Self {
        Self {
            size: 50,
            before: None,
        }
    }
}

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for Digest {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{self}")
    }
}

impl FromStr for Digest {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes)
            .map_err(|_| StoreError::invalid("digest", "a digest is 64 hexadecimal digits"))?;
        Ok(Self(bytes))
    }
}

as_text!(Digest);

impl Actor {
    /// The node itself, at start.
    pub fn node() -> Self {
        Self {
            who: "node".to_owned(),
            ip: None,
        }
    }
}
