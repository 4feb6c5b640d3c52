//! Connection tokens: JWT of the HMAC family, checked strictly.
//!
//! Owns the rules A1–A4 and A6 of the threat model. The order is fixed: size, three segments, header, key,
//! signature, and only then claims; no claim is used before the signature holds. Decoding is strict because two
//! readers that disagree about a token are a way around one of them: base64url without padding or spare bits,
//! UTF-8, exact member names, no member twice. Failures are uniform: a client learns "invalid" or "expired".

mod claims;
mod json;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Sha256, Sha384, Sha512};
use zeroize::Zeroizing;

pub use self::claims::{Claims, TokenSubscription};
use self::json::Members;
use crate::config::TextRule;

/// Larger tokens are not looked at (threat model A2).
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Clocks of two machines differ by a little; a token is good this long beyond its `exp` and before its `nbf`.
pub const LEEWAY_SECONDS: u64 = 10;

/// A SHA-256 HMAC is as strong as its key up to this length (threat model A1).
pub const MIN_HMAC_SECRET_BYTES: usize = 32;

/// How connection tokens are checked.
#[derive(Debug, Clone, Default)]
pub struct TokenConfig {
    pub hmac_secret: Option<HmacSecret>,
    /// Accepted beside the current one while secrets are rotated.
    pub hmac_previous_secret: Option<HmacSecret>,
    /// Unix seconds after which the previous secret counts no more; `None`: as long as it is configured.
    pub hmac_previous_valid_until: Option<u64>,
    /// Empty: all of the HMAC family.
    pub algorithms: Vec<TokenAlgorithm>,
    pub audience: Option<TextRule>,
    pub issuer: Option<TextRule>,
    /// The claim that names the user; `None`: `sub`.
    pub user_id_claim: Option<Box<str>>,
    /// Tokens without `exp` are refused.
    pub require_exp: bool,
    /// For migration and tests: secrets shorter than [`MIN_HMAC_SECRET_BYTES`].
    pub insecure_allow_weak_hmac: bool,
    /// For tests: anybody can forge tokens.
    pub insecure_skip_signature_verify: bool,
    /// Tokens without a user are refused.
    pub disallow_anonymous: bool,
}

/// The algorithms of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenAlgorithm {
    Hs256,
    Hs384,
    Hs512,
}

impl TokenAlgorithm {
    /// By the exact name of the header; anything else does not exist here.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "HS256" => Some(Self::Hs256),
            "HS384" => Some(Self::Hs384),
            "HS512" => Some(Self::Hs512),
            _ => None,
        }
    }
}

/// A secret for signatures: usable, never printable, wiped when it goes.
#[derive(Clone)]
pub struct HmacSecret(Arc<Zeroizing<Vec<u8>>>);

impl HmacSecret {
    pub fn new(secret: impl Into<Vec<u8>>) -> Self {
        Self(Arc::new(Zeroizing::new(secret.into())))
    }

    fn signs(&self, algorithm: TokenAlgorithm, message: &[u8], signature: &[u8]) -> bool {
        match algorithm {
            TokenAlgorithm::Hs256 => is_mac::<Hmac<Sha256>>(&self.0, message, signature),
            TokenAlgorithm::Hs384 => is_mac::<Hmac<Sha384>>(&self.0, message, signature),
            TokenAlgorithm::Hs512 => is_mac::<Hmac<Sha512>>(&self.0, message, signature),
        }
    }
}

impl fmt::Debug for HmacSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HmacSecret({} bytes, hidden)", self.0.len())
    }
}

/// Compares in constant time; a signature of another length is none.
fn is_mac<M: Mac + KeyInit>(secret: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let Ok(mut mac) = <M as KeyInit>::new_from_slice(secret) else {
        return false;
    };
    mac.update(message);
    mac.verify_slice(signature).is_ok()
}

/// Why a token is not accepted. What exactly is wrong stays on the node, so that the answer teaches nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// No key is configured, so that no token can be good.
    #[error("no token key is configured")]
    NotConfigured,
    #[error("invalid token: {0}")]
    Invalid(Fault),
    /// Past its `exp`, or not yet at its `nbf`.
    #[error("token expired")]
    Expired,
}

/// What is wrong with a token, for debug logs and a closed set of labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Fault {
    #[error("too large")]
    TooLarge,
    #[error("not three segments")]
    Segments,
    #[error("not strict base64url")]
    Encoding,
    #[error("not a JSON object of unique members")]
    Json,
    #[error("header")]
    Header,
    #[error("algorithm")]
    Algorithm,
    #[error("signature")]
    Signature,
    #[error("claim of the wrong type or missing")]
    Claim,
    #[error("audience")]
    Audience,
    #[error("issuer")]
    Issuer,
    #[error("a subscription token")]
    SubscriptionToken,
}

impl From<Fault> for TokenError {
    fn from(fault: Fault) -> Self {
        Self::Invalid(fault)
    }
}

impl TokenConfig {
    /// Whether tokens can be checked at all.
    pub fn has_keys(&self) -> bool {
        self.hmac_secret.is_some() || self.insecure_skip_signature_verify
    }

    /// Checks a connection token at `now`, in unix seconds.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn verify(&self, token: &str, now: u64) -> Result<Claims, TokenError> {
        self.verify_with(token, now, ExpiryRule::Honoured)
    }

    /// [`TokenConfig::verify`] for insecure mode, which does not look at the expiry.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn verify_ignoring_expiry(&self, token: &str, now: u64) -> Result<Claims, TokenError> {
        self.verify_with(token, now, ExpiryRule::Ignored)
    }

    fn verify_with(&self, token: &str, now: u64, expiry: ExpiryRule) -> Result<Claims, TokenError> {
        if !self.has_keys() {
            return Err(TokenError::NotConfigured);
        }
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Fault::TooLarge.into());
        }
        let segments = Segments::split(token)?;
        let algorithm = self.algorithm(&segments.header()?)?;
        if !self.insecure_skip_signature_verify {
            self.check_signature(algorithm, &segments, now)?;
        }
        // From here on the bytes are the issuer's.
        let claims = Claims::read(&segments.claims()?, self)?;
        if expiry == ExpiryRule::Honoured {
            claims.check_times(now, self.require_exp)?;
        }
        Ok(claims)
    }

    fn algorithm(&self, header: &str) -> Result<TokenAlgorithm, Fault> {
        let header = Members::parse(header)?;
        // `jku`, `x5u`, `jwk` and `x5c` are not looked at; these would change what the signature covers.
        for refused in ["crit", "zip", "b64", "enc"] {
            if header.has(refused) {
                return Err(Fault::Header);
            }
        }
        // A nested token says so here.
        let is_nested = |content: &str| content.eq_ignore_ascii_case("jwt");
        if header.text("cty")?.as_deref().is_some_and(is_nested) {
            return Err(Fault::Header);
        }
        let is_token = |kind: &str| {
            ["jwt", "at+jwt"]
                .iter()
                .any(|known| kind.eq_ignore_ascii_case(known))
        };
        if !header.text("typ")?.as_deref().is_none_or(is_token) {
            return Err(Fault::Header);
        }
        header.text("kid")?;
        let name = header.text("alg")?.ok_or(Fault::Algorithm)?;
        let algorithm = TokenAlgorithm::parse(&name).ok_or(Fault::Algorithm)?;
        if self.algorithms.is_empty() || self.algorithms.contains(&algorithm) {
            Ok(algorithm)
        } else {
            Err(Fault::Algorithm)
        }
    }

    fn check_signature(
        &self,
        algorithm: TokenAlgorithm,
        segments: &Segments<'_>,
        now: u64,
    ) -> Result<(), Fault> {
        let signature = decode(segments.signature)?;
        let is_previous_good = self
            .hmac_previous_valid_until
            .is_none_or(|valid_until| now <= valid_until);
        let previous = self
            .hmac_previous_secret
            .as_ref()
            .filter(|_| is_previous_good);
        let is_signed = [self.hmac_secret.as_ref(), previous]
            .into_iter()
            .flatten()
            .filter(|secret| self.is_strong_enough(secret))
            .any(|secret| secret.signs(algorithm, segments.signed.as_bytes(), &signature));
        if is_signed {
            Ok(())
        } else {
            Err(Fault::Signature)
        }
    }

    /// The configuration refuses weak secrets when it is read; this holds where it is made by other means.
    fn is_strong_enough(&self, secret: &HmacSecret) -> bool {
        self.insecure_allow_weak_hmac || secret.0.len() >= MIN_HMAC_SECRET_BYTES
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ExpiryRule {
    Honoured,
    Ignored,
}

struct Segments<'a> {
    header: &'a str,
    claims: &'a str,
    signature: &'a str,
    /// Header and claims with the dot between them: what the signature covers.
    signed: &'a str,
}

impl<'a> Segments<'a> {
    fn split(token: &'a str) -> Result<Self, Fault> {
        let (signed, signature) = token.rsplit_once('.').ok_or(Fault::Segments)?;
        let (header, claims) = signed.split_once('.').ok_or(Fault::Segments)?;
        if claims.contains('.') {
            return Err(Fault::Segments);
        }
        Ok(Self {
            header,
            claims,
            signature,
            signed,
        })
    }

    fn header(&self) -> Result<String, Fault> {
        String::from_utf8(decode(self.header)?).map_err(|_| Fault::Encoding)
    }

    fn claims(&self) -> Result<String, Fault> {
        String::from_utf8(decode(self.claims)?).map_err(|_| Fault::Encoding)
    }
}

/// Strict: no padding, no spare bits, no other alphabet, no white space.
fn decode(segment: &str) -> Result<Vec<u8>, Fault> {
    URL_SAFE_NO_PAD.decode(segment).map_err(|_| Fault::Encoding)
}
