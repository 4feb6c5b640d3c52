//! Tickets: reading them, and believing them.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use sha2::Sha256;

use crate::Secret;

/// Longer ones are not decoded.
const MAX_TICKET_BYTES: usize = 8 * 1024;

/// A ticket whose MAC was right and whose time is not over.
#[derive(Debug, Deserialize)]
pub(crate) struct Ticket {
    /// Who its bearer is; not empty.
    pub(crate) user: String,
    /// When it ends, in seconds since 1970 UTC.
    pub(crate) exp: u64,
    /// What its bearer may do, for later hooks.
    pub(crate) role: Option<String>,
    /// The name that others see.
    pub(crate) name: Option<String>,
    /// Channels that its bearer is subscribed to from the start.
    #[serde(default)]
    pub(crate) channels: Vec<String>,
}

/// Which key a payload claims to be signed with.
#[derive(Deserialize)]
struct Claimed {
    kid: Option<String>,
}

/// A ticket is not believed.
#[derive(Debug)]
pub(crate) enum TicketError {
    /// It does not have a ticket's form.
    Malformed(&'static str),
    /// No key in use made its MAC.
    Unsigned { kid: Option<String> },
    /// Its time is over.
    Expired { seconds: u64 },
    /// It is genuine, and says what makes no sense.
    Unusable(String),
}

impl fmt::Display for TicketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(what) => write!(f, "malformed: {what}"),
            Self::Unsigned { kid: Some(kid) } => {
                write!(f, "no secret in use made its MAC; it names key `{kid}`")
            }
            Self::Unsigned { kid: None } => f.write_str("no secret in use made its MAC"),
            Self::Expired { seconds } => write!(f, "expired {seconds} s ago"),
            Self::Unusable(what) => write!(f, "signed, but {what}"),
        }
    }
}

impl Ticket {
    /// Checks form, MAC and time, in this order.
    pub(crate) fn verify(text: &str, secrets: &[Secret], now: u64) -> Result<Self, TicketError> {
        if text.len() > MAX_TICKET_BYTES {
            return Err(TicketError::Malformed("it is longer than 8 KiB"));
        }
        let (payload, mac) = text
            .split_once('.')
            .ok_or(TicketError::Malformed("there is no dot"))?;
        let mac = URL_SAFE_NO_PAD
            .decode(mac)
            .map_err(|_| TicketError::Malformed("the MAC is not base64url"))?;
        let json = URL_SAFE_NO_PAD
            .decode(payload)
            .map_err(|_| TicketError::Malformed("the payload is not base64url"))?;
        let Claimed { kid } = serde_json::from_slice(&json)
            .map_err(|_| TicketError::Malformed("the payload is not a JSON object"))?;

        // A ticket that names no key may be of any: there are few.
        let is_signed = secrets
            .iter()
            .filter(|secret| kid.as_ref().is_none_or(|kid| *kid == secret.id))
            .any(|secret| is_mac(payload.as_bytes(), &mac, secret));
        if !is_signed {
            return Err(TicketError::Unsigned { kid });
        }

        let ticket: Self = serde_json::from_slice(&json)
            .map_err(|error| TicketError::Unusable(error.to_string()))?;
        if ticket.user.is_empty() {
            return Err(TicketError::Unusable("its user is empty".to_owned()));
        }
        if ticket.exp <= now {
            return Err(TicketError::Expired {
                seconds: now - ticket.exp,
            });
        }
        Ok(ticket)
    }
}

/// Compares in constant time.
fn is_mac(payload: &[u8], mac: &[u8], Secret { secret, .. }: &Secret) -> bool {
    let Ok(mut expected) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else {
        return false;
    };
    expected.update(payload);
    expected.verify_slice(mac).is_ok()
}

/// Signs a payload, as the app's back end does.
#[cfg(test)]
pub(crate) fn sign(payload: &str, secret: &str) -> String {
    let payload = URL_SAFE_NO_PAD.encode(payload);
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(payload.as_bytes());
    let mac = URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes());
    format!("{payload}.{mac}")
}
