//! Lets clients in with tickets that the app's own back end signed.
//!
//! A client sends its ticket as connect data, `{"ticket": "PAYLOAD.MAC"}`. The payload is JSON in URL-safe base64,
//! the MAC is HMAC-SHA256 over that text, in the same base64. A client that sends no ticket is nobody's business
//! here: the next plugin or the node's own token check decides.
//!
//! Invariant: nothing of a payload is looked at, other than which key it claims, before its MAC was verified.

mod ticket;

use serde::{Deserialize, Serialize};
use tidegate_sdk::{
    Authentication, Configured, Identity, Refusal,
    authentication::{Reason, Request, Verdict},
    clock,
    config::{self, BadSetting},
    log, plugin,
    settings::Offered,
};

use crate::ticket::{Ticket, TicketError};

/// The ticket cannot be used, now or ever. The client needs another one.
pub const INVALID_CODE: u32 = 401;

/// The ticket was good once. The client fetches a new one and connects again.
pub const EXPIRED_CODE: u32 = 440;

/// Shorter secrets can be guessed.
const MIN_SECRET_BYTES: usize = 32;

/// The plugin.
#[derive(Debug)]
pub struct TicketAuth;

/// What the operator sets.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, try_from = "RawSettings")]
struct Settings {
    secrets: Vec<Secret>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSettings {
    secrets: Vec<Secret>,
}

/// A key and its name. Several are good at a time, so that they can be changed without a break: add the new one,
/// sign with it, take the old one out when its last ticket has expired.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Secret {
    pub(crate) id: String,
    pub(crate) secret: String,
}

impl TryFrom<RawSettings> for Settings {
    type Error = String;

    fn try_from(raw: RawSettings) -> Result<Self, String> {
        let RawSettings { secrets } = raw;
        if secrets.is_empty() {
            return Err("`secrets` is empty; give at least one {\"id\", \"secret\"}".to_owned());
        }
        for (nth, Secret { id, secret }) in secrets.iter().enumerate() {
            if secret.len() < MIN_SECRET_BYTES {
                return Err(format!(
                    "secret `{id}` has {} bytes; at least {MIN_SECRET_BYTES} are needed",
                    secret.len()
                ));
            }
            if secrets[..nth].iter().any(|before| before.id == *id) {
                return Err(format!("two secrets have the id `{id}`"));
            }
        }
        Ok(Self { secrets })
    }
}

#[derive(Deserialize)]
struct ConnectData<'r> {
    #[serde(borrow)]
    ticket: Option<std::borrow::Cow<'r, str>>,
}

/// What others see beside what the client publishes, and what later hooks find as the session's meta.
#[derive(Serialize)]
struct Shown<'t> {
    name: &'t str,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'t str>,
}

impl Authentication for TicketAuth {
    fn authenticate(request: Request) -> Result<Verdict, Refusal> {
        match request.reason() {
            // A ticket says when it ends, and only its signer can say otherwise. So nothing is renewed: the node
            // ends the session when the ticket ends, and the client's SDK connects again with a new one.
            Reason::Refresh => return Ok(Verdict::NotMine),
            Reason::Connect => {}
        }
        // Data of another form is for somebody else.
        let Ok(ConnectData {
            ticket: Some(ticket),
        }) = request.json()
        else {
            return Ok(Verdict::NotMine);
        };

        let settings = config::settings::<Settings>();
        match Ticket::verify(&ticket, &settings.secrets, clock::unix_seconds()) {
            Ok(ticket) => Ok(identity(&ticket).into()),
            Err(error) => {
                log::info!("ticket refused: {error}");
                Err(refusal(&error))
            }
        }
    }
}

fn identity(ticket: &Ticket) -> Identity {
    let shown = Shown {
        name: ticket.name.as_deref().unwrap_or(&ticket.user),
        role: ticket.role.as_deref(),
    };
    let identity = Identity::new(&ticket.user)
        .expires_at(ticket.exp)
        .info(&shown)
        .meta(&shown);
    ticket
        .channels
        .iter()
        .fold(identity, |identity, channel| identity.subscribe(&**channel))
}

/// The client is told what it can act on, the log what the operator can.
fn refusal(error: &TicketError) -> Refusal {
    match error {
        TicketError::Expired { seconds } => Refusal::error(
            EXPIRED_CODE,
            format!("the ticket expired {seconds} seconds ago; fetch a new one"),
        ),
        TicketError::Malformed(_) => Refusal::error(
            INVALID_CODE,
            "the ticket is malformed; it is two base64url texts with a dot between them",
        ),
        TicketError::Unsigned { .. } => Refusal::error(
            INVALID_CODE,
            "the ticket is not signed with a key that is in use here",
        ),
        TicketError::Unusable(what) => Refusal::error(
            INVALID_CODE,
            format!("the ticket is signed but cannot be used: {what}"),
        ),
    }
}

impl Configured for TicketAuth {
    fn check(offered: Offered) -> Result<(), BadSetting> {
        offered.read::<Settings>().map(drop)
    }
}

plugin!(TicketAuth: authentication, settings);

#[cfg(test)]
mod tests;
