//! API and admin keys: made here, shown once, kept as hashes (threat model A8, M6). Secrets of connection tokens are
//! made here too; those cannot be kept as hashes, since a signature is checked with the secret itself.

use std::{collections::HashMap, fmt, str::FromStr, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{AppName, StoreError, Timestamp, names::as_text};

/// Random bytes in a key: 192 bits, above the 128 that guessing needs.
const SECRET_BYTES: usize = 24;

/// Random bytes in a secret for connection tokens.
const TOKEN_SECRET_BYTES: usize = 32;

/// Nothing longer is hashed: keys of ours have 36 characters, configured ones may be longer.
const MAX_PRESENTED_BYTES: usize = 512;

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyRole {
    /// Calls the server API of its app.
    Api,
    /// Uploads, activates and rolls back in its app.
    Deploy,
    /// Does everything in its app.
    AppAdmin,
    /// Does everything.
    Operator,
}

/// A stored key, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Key {
    pub id: String,
    pub role: KeyRole,
    /// `None` for operators alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<AppName>,
    /// Server API methods that the key may call; empty for all. Only keys of role [`KeyRole::Api`] have any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    pub label: String,
    pub created_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<Timestamp>,
}

/// The secret of a key, in the one moment in which it is known. Not printable by accident.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret(String);

/// A key just made.
#[derive(Debug)]
pub struct NewKey {
    pub key: Key,
    pub secret: Secret,
}

/// Whom a presented secret belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    pub id: Box<str>,
    pub role: KeyRole,
    pub app: Option<AppName>,
    pub methods: Box<[Box<str>]>,
}

/// A hash and whose it is.
type Entry = ([u8; 32], Arc<Verified>);

/// Every valid key by hash, swapped as a whole when keys change.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    /// By the first bytes of the hash. They are no secret worth timing: whoever could steer a SHA-256 towards
    /// a stored one does not need to; the rest is compared in constant time.
    by_prefix: HashMap<[u8; 8], Vec<Entry>>,
}

impl KeyRole {
    pub const ALL: [Self; 4] = [Self::Api, Self::Deploy, Self::AppAdmin, Self::Operator];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Deploy => "deploy",
            Self::AppAdmin => "app-admin",
            Self::Operator => "operator",
        }
    }

    /// # Errors
    /// [`StoreError::Invalid`] for any other word.
    pub fn parse(text: &str) -> Result<Self, StoreError> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| {
                StoreError::invalid("role", "a role is api, deploy, app-admin or operator")
            })
    }

    /// What every secret of the role begins with, so that people and scanners recognise it.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Api => "tgk_",
            Self::Deploy | Self::AppAdmin | Self::Operator => "tga_",
        }
    }
}

impl fmt::Display for KeyRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for KeyRole {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        Self::parse(text)
    }
}

as_text!(KeyRole);

impl Secret {
    pub(crate) fn random(role: KeyRole) -> Result<Self, StoreError> {
        let mut bytes = random_bytes::<SECRET_BYTES>()?;
        let secret = format!("{}{}", role.prefix(), URL_SAFE_NO_PAD.encode(bytes));
        bytes.zeroize();
        Ok(Self(secret))
    }

    /// A secret that signs connection tokens: 256 bits, the length that HMAC with SHA-256 wants.
    pub(crate) fn for_tokens() -> Result<Self, StoreError> {
        let mut bytes = random_bytes::<TOKEN_SECRET_BYTES>()?;
        let secret = format!("tgt_{}", URL_SAFE_NO_PAD.encode(bytes));
        bytes.zeroize();
        Ok(Self(secret))
    }

    /// One that is known already: it was stored, or an operator wrote it.
    pub fn stored(text: String) -> Self {
        Self(text)
    }

    /// The text to show once.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    pub(crate) fn hash(&self) -> [u8; 32] {
        hash(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Ring {
    pub(crate) fn new(keys: impl IntoIterator<Item = ([u8; 32], Verified)>) -> Self {
        let mut by_prefix: HashMap<_, Vec<Entry>> = HashMap::new();
        for (hash, verified) in keys {
            by_prefix
                .entry(prefix_of(&hash))
                .or_default()
                .push((hash, Arc::new(verified)));
        }
        Self { by_prefix }
    }

    /// Every valid key, in no order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&[u8; 32], &Verified)> {
        let entries = self.by_prefix.values().flatten();
        entries.map(|(hash, verified)| (hash, &**verified))
    }

    pub(crate) fn verify(&self, presented: &str) -> Option<Arc<Verified>> {
        if presented.len() > MAX_PRESENTED_BYTES {
            return None;
        }
        let presented = hash(presented);
        let candidates = self.by_prefix.get(&prefix_of(&presented))?;
        candidates
            .iter()
            .find(|(stored, _)| bool::from(stored.ct_eq(&presented)))
            .map(|(_, verified)| verified.clone())
    }
}

fn prefix_of(hash: &[u8; 32]) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h, ..] = *hash;
    [a, b, c, d, e, f, g, h]
}

fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// An opaque id: the prefix and 80 random bits.
pub(crate) fn random_id(prefix: &str) -> Result<String, StoreError> {
    Ok(format!("{prefix}{}", hex::encode(random_bytes::<10>()?)))
}

fn random_bytes<const N: usize>() -> Result<[u8; N], StoreError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| {
        StoreError::conflict("the operating system gives no random bytes; try again")
    })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a8_a_key_has_at_least_128_random_bits_and_a_recognisable_prefix() {
        let (one, two) = (
            Secret::random(KeyRole::Api).unwrap(),
            Secret::random(KeyRole::Api).unwrap(),
        );
        assert_ne!(one.reveal(), two.reveal());
        let random = one.reveal().strip_prefix("tgk_").unwrap();
        assert!(URL_SAFE_NO_PAD.decode(random).unwrap().len() * 8 >= 128);
        assert!(
            Secret::random(KeyRole::Operator)
                .unwrap()
                .reveal()
                .starts_with("tga_")
        );
    }

    #[test]
    fn m6_a_secret_does_not_show_in_debug_output() {
        let secret = Secret::random(KeyRole::Api).unwrap();
        assert!(!format!("{secret:?}").contains(secret.reveal()));
    }

    #[test]
    fn a8_only_the_whole_hash_opens() {
        let secret = Secret::random(KeyRole::Api).unwrap();
        let verified = Verified {
            id: "k".into(),
            role: KeyRole::Api,
            app: None,
            methods: Box::default(),
        };
        let mut near_miss = secret.hash();
        near_miss[31] ^= 1;
        let ring = Ring::new([(near_miss, verified.clone())]);
        assert!(ring.verify(secret.reveal()).is_none());
        let ring = Ring::new([(near_miss, verified.clone()), (secret.hash(), verified)]);
        assert!(ring.verify(secret.reveal()).is_some());
        assert!(ring.verify("").is_none());
        assert!(ring.verify(&"x".repeat(4096)).is_none());
    }
}
