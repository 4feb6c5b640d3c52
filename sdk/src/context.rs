//! Facts about the call in hand.
//!
//! Each is asked of the node when it is needed (about a fifth of a microsecond), so that a call which needs none
//! pays for none.
//!
//! ```
//! use tidegate_sdk::{Refusal, Rpc, context, rpc, testing::Host};
//!
//! struct WhoAmI;
//!
//! impl Rpc for WhoAmI {
//!     fn call(request: rpc::Request) -> Result<rpc::Verdict, Refusal> {
//!         let address = context::remote_address().unwrap_or_default();
//!         rpc::Verdict::json(&format!("{}@{address}", request.user()))
//!     }
//! }
//!
//! let mut host = Host::new().user("ann").remote_address("192.0.2.1");
//! let reply = host.call::<WhoAmI>("whoami", "").unwrap();
//! assert_eq!(reply, rpc::Verdict::Reply(br#""ann@192.0.2.1""#.to_vec()));
//! ```

use serde::de::DeserializeOwned;

use crate::{JsonError, host};

/// Who caused the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A client of the app.
    Client,
    /// The app's back end, over the server API.
    ServerApi,
    /// A plugin that published.
    Plugin,
}

/// What the node's own token check found wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenError {
    /// The token was good once.
    Expired,
    /// The token's form, signature or claims do not hold.
    Invalid,
    /// The client sent no token.
    Absent,
}

/// The app that the plugin belongs to.
pub fn app() -> String {
    host::app()
}

/// Number of the version that runs: 1 for the first upload of the plugin, rising by one.
pub fn version() -> u32 {
    host::version()
}

/// Id under which the node remembers this call; `tidegate explain` finds it.
pub fn trace_id() -> String {
    host::trace_id()
}

/// Who caused the call.
pub fn origin() -> Origin {
    host::origin()
}

/// The user of the session: absent for the server API, empty for an anonymous client.
pub fn user() -> Option<String> {
    host::user()
}

/// The public id of the session; absent for the server API.
pub fn client_id() -> Option<String> {
    host::client_id()
}

/// `websocket` and so on; absent for the server API.
pub fn transport() -> Option<String> {
    host::transport()
}

/// The name that the client's library gave in its connect command.
pub fn client_name() -> Option<String> {
    host::client_name()
}

/// The version that the client's library gave in its connect command.
pub fn client_version() -> Option<String> {
    host::client_version()
}

/// Address of the client as the node sees it; behind a trusted proxy, as the proxy names it.
pub fn remote_address() -> Option<String> {
    host::remote_address()
}

/// A header of the client's HTTP request. `name` is in lower case. Only those that the operator allowed are there
/// (`plugins.allowed_headers`), and none that a client wrote into its connect command.
pub fn header(name: &str) -> Option<String> {
    host::header(name)
}

/// Claims of the client's token, when the node's own check accepted it. Authentication only.
///
/// # Errors
///
/// When the claims are not a `T`.
pub fn claims<T: DeserializeOwned>() -> Result<Option<T>, JsonError> {
    host::claims()
        .map(|claims| JsonError::parse("the token's claims", claims.as_bytes()))
        .transpose()
}

/// Why the node's own check refused the token; absent when it accepted it, or no keys are configured.
/// Authentication only.
pub fn token_error() -> Option<TokenError> {
    host::token_error().map(|error| match error.as_str() {
        "expired" => TokenError::Expired,
        "absent" => TokenError::Absent,
        // A word that a later node may add is a refusal all the same.
        _ => TokenError::Invalid,
    })
}

/// What the authentication hook kept for this session ([`Identity::meta`](crate::Identity::meta)).
///
/// # Errors
///
/// When it is not a `T`.
pub fn meta<T: DeserializeOwned>() -> Result<Option<T>, JsonError> {
    host::meta()
        .map(|meta| JsonError::parse("the session's meta", &meta))
        .transpose()
}

/// What the session shows to others ([`Identity::info`](crate::Identity::info)).
///
/// # Errors
///
/// When it is not a `T`.
pub fn info<T: DeserializeOwned>() -> Result<Option<T>, JsonError> {
    host::info()
        .map(|info| JsonError::parse("the session's info", &info))
        .transpose()
}

/// How many plugins in a row made this message: 0 when a client or the server API sent it. A message is refused
/// at the third hop.
pub fn hops() -> u32 {
    host::hops()
}
