//! New messages made by the plugin.

use std::fmt;

use serde::Serialize;

use crate::host;

/// A publication was not queued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublishError {
    /// The message cannot be published as asked; the text says why.
    Invalid(String),
    /// This call already queued as many effects as it may (32), or the message in hand is at its last hop.
    Limit(String),
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(reason) | Self::Limit(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for PublishError {}

/// Queues a publication to a channel of the app.
///
/// It is made after the call returned successfully, and passes the filters and routers of its channel like any
/// other.
///
/// ```
/// use tidegate_sdk::{Filtering, Message, Refusal, filtering::Verdict, log, publishing, testing::Host};
///
/// struct Audited;
///
/// impl Filtering for Audited {
///     fn filter(message: Message) -> Result<Verdict, Refusal> {
///         if let Err(error) = publishing::publish("audit", message.data()) {
///             log::warn!("not audited: {error}");
///         }
///         Ok(Verdict::Pass)
///     }
/// }
///
/// let mut host = Host::new();
/// host.filter::<Audited>("room", r#"{"text":"hi"}"#)?;
/// assert_eq!(host.publications()[0].channel, "audit");
/// # Ok::<(), Refusal>(())
/// ```
///
/// # Errors
///
/// When the node would not make the publication: the channel's name is not allowed, the call queued too many, or
/// plugins have been publishing in answer to one another.
pub fn publish(channel: &str, data: &[u8]) -> Result<(), PublishError> {
    host::publish(channel, data)
}

/// Queues a publication that says what something is now, and is worth nothing once a newer one was made.
///
/// It is given up in silence if one of this `version` or a greater one was made in the channel before, by whichever
/// node: of words that come twice, late or from two nodes at once the newest stays. 0 is no version. The channel
/// remembers the last one for as long as its position, `history_meta_ttl`.
///
/// # Errors
///
/// As [`publish`].
pub fn publish_newer(channel: &str, data: &[u8], version: u64) -> Result<(), PublishError> {
    host::publish_newer(channel, data, version)
}

/// Queues a publication with `value` as its JSON data.
///
/// # Errors
///
/// As [`publish`]; and when `value` cannot be written as JSON.
pub fn publish_json<T: Serialize + ?Sized>(channel: &str, value: &T) -> Result<(), PublishError> {
    publish(channel, &json(value)?)
}

/// [`publish_newer`] with `value` as its JSON data.
///
/// # Errors
///
/// As [`publish`]; and when `value` cannot be written as JSON.
pub fn publish_json_newer<T: Serialize + ?Sized>(
    channel: &str,
    value: &T,
    version: u64,
) -> Result<(), PublishError> {
    publish_newer(channel, &json(value)?, version)
}

fn json<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, PublishError> {
    serde_json::to_vec(value).map_err(|error| PublishError::Invalid(error.to_string()))
}
