//! Connections to end and subscriptions to take away.
//!
//! Both are effects, like publications: they are queued, carried out after the call succeeded, and discarded if it
//! failed or refused. A call queues at most 32 effects, publications among them. Where there is no such session,
//! nothing happens, and nobody is told.
//!
//! ```
//! use tidegate_sdk::{
//!     Authentication, Identity, Refusal, authentication, sessions::{self, Target}, testing::Host,
//! };
//!
//! /// One device at a time: who comes last stays. The session in hand does not belong to its user yet.
//! struct OneDevice;
//!
//! impl Authentication for OneDevice {
//!     fn authenticate(request: authentication::Request) -> Result<authentication::Verdict, Refusal> {
//!         let user = request.token();
//!         let others = Target::User(user.to_owned());
//!         sessions::disconnect(&others, 4501, "you are connected elsewhere")?;
//!         Ok(Identity::new(user).into())
//!     }
//! }
//!
//! let mut host = Host::new();
//! host.authenticate::<OneDevice>("ann", "")?;
//! assert_eq!(host.disconnects()[0].target, Target::User("ann".to_owned()));
//! # Ok::<(), Refusal>(())
//! ```

use std::fmt;

use crate::{Refusal, host, kept::unavailable};

/// Whose sessions. Sessions of the same app only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// All sessions of a user, who is not anonymous.
    User(String),
    /// One session, by its client id ([`context::client_id`](crate::context::client_id)).
    Client(String),
}

/// Nothing was queued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionsError {
    /// It cannot be done as asked; the text says why.
    Invalid(String),
    /// This call already queued as many effects as it may.
    Limit(String),
}

impl fmt::Display for SessionsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(reason) | Self::Limit(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for SessionsError {}

/// The client is told that the plugin cannot answer now; the reason stays between the plugin and its log.
impl From<SessionsError> for Refusal {
    fn from(error: SessionsError) -> Self {
        unavailable("sessions could not be changed", &error)
    }
}

/// Closes the connections, after the call.
///
/// The code is 4000 to 4999 (from 4500 on the client does not come back); 0 chooses 4500 *disconnected*. The reason
/// has at most 123 bytes and is shown to the client.
///
/// # Errors
///
/// When user, client id, code or reason are out of their range, or too many effects are queued.
pub fn disconnect(target: &Target, code: u32, reason: &str) -> Result<(), SessionsError> {
    host::sessions_disconnect(target, code, reason)
}

/// Takes the subscriptions to a channel away, after the call. The client is told so (code 2000) and does not
/// subscribe again by itself.
///
/// # Errors
///
/// When user, client id or channel are out of their range, or too many effects are queued.
pub fn unsubscribe(target: &Target, channel: &str) -> Result<(), SessionsError> {
    host::sessions_unsubscribe(target, channel)
}
