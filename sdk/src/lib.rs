//! Write plugins for Tidegate, the realtime server that its users extend while it runs.
//!
//! A plugin is a crate that implements one trait per hook and names the hooks in [`plugin!`]:
//!
//! | Hook | Trait | Asked | Answers |
//! |---|---|---|---|
//! | `authentication` | [`Authentication`] | when a client connects, and before its identity expires | an [`Identity`], *not mine* |
//! | `authorization` | [`Authorization`] | when a client subscribes, and before its grant expires | a [`Grant`], *not mine* |
//! | `filtering` | [`Filtering`] | for each message, before the channel | pass, replace, drop |
//! | `routing` | [`Routing`] | after filtering | keep, or [destinations](routing::Destinations) |
//! | `rpc` | [`Rpc`] | for a client's RPC | a reply, *not mine* |
//! | `events` | [`Events`] | after the fact, in batches: who came, left, subscribed, published | nothing |
//! | `schedule` | [`Schedule`] | by the clock, on one node of the cluster | nothing |
//!
//! The first five may refuse, with a [`Refusal`] that tells the client why; the last two fail with a [`Trouble`] that
//! tells the log. Beside the hooks stands `settings`, the trait [`Configured`]: settings are tried when they are bound.
//!
//! # A plugin from start to end
//!
//! `tidegate plugin new shout` makes the crate. What is in it:
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! use tidegate_sdk::{Filtering, Message, Refusal, config, filtering::Verdict, plugin};
//!
//! struct Shout;
//!
//! /// What the operator may set when binding the plugin.
//! #[derive(Deserialize)]
//! #[serde(default, deny_unknown_fields)]
//! struct Settings {
//!     max_chars: usize,
//! }
//!
//! impl Default for Settings {
//!     fn default() -> Self {
//!         Self { max_chars: 280 }
//!     }
//! }
//!
//! #[derive(Serialize, Deserialize)]
//! struct Line {
//!     text: String,
//! }
//!
//! impl Filtering for Shout {
//!     fn filter(message: Message) -> Result<Verdict, Refusal> {
//!         let settings = config::settings::<Settings>();
//!         let mut line: Line = message.json()?;
//!         if line.text.chars().count() > settings.max_chars {
//!             return Err(Refusal::error(413, "that is too long to shout"));
//!         }
//!         line.text = line.text.to_uppercase();
//!         Verdict::json(&line)
//!     }
//! }
//!
//! plugin!(Shout: filtering);
//!
//! // Its test runs natively, with `cargo test`.
//! use tidegate_sdk::testing::Host;
//!
//! let mut host = Host::new().config(serde_json::json!({ "max_chars": 5 }));
//! let verdict = host.filter::<Shout>("chat:lobby", r#"{"text":"hello"}"#).unwrap();
//! assert_eq!(verdict, Verdict::Replace(br#"{"text":"HELLO"}"#.to_vec()));
//! let refusal = host.filter::<Shout>("chat:lobby", r#"{"text":"hello!"}"#).unwrap_err();
//! assert_eq!(refusal.reason(), "that is too long to shout");
//! ```
//!
//! Build it, push it, and say where it is asked:
//!
//! ```text
//! tidegate plugin build
//! tidegate plugin push
//! tidegate plugin activate shout 1
//! tidegate plugin bind shout filtering --scope namespace:chat --config '{"max_chars": 100}'
//! ```
//!
//! # What a plugin can use
//!
//! [`log`], [`config`], [`context`], [`clock`], [`budget`], [`random`], [`state`], [`store`], [`metrics`], [`json`],
//! [`publishing`], [`sessions`], [`presence`], and the methods of [`Message`]. There is no file system, no network and no environment;
//! what the standard library has of them answers with errors.
//!
//! # What to know
//!
//! * **A call has a deadline** (20 ms; filtering and routing 5 ms, events 50 ms, schedule 1 s; 3 s for a plugin that uses
//!   [`store`], which waits for other machines and may have neither filtering nor routing) and 32 MiB of memory. A call that is late, panics,
//!   or answers with a value out of range has *failed*: its effects are discarded, its instance is thrown away, the
//!   client gets error 100 with a trace id, and nobody else notices. A panic's message is in the plugin's log.
//! * **There are many instances, and each may vanish at any moment.** Remember nothing in globals but what can be
//!   computed again, such as [`config::settings`]; [`state`] is for the rest.
//! * **The hot hooks are cheap when you are:** a [`Message`] owns what the node handed over, parses nothing unless
//!   asked, and every fact of [`context`] costs only the call that asks for it.
//! * **Link a small stack.** The template's `.cargo/config.toml` passes `-zstack-size=131072` and
//!   `--initial-heap=65536`: instances stay small, recursion fails early, and the allocator of this crate starts in
//!   memory that is already there.
//! * The dependency must be called `tidegate-sdk` in `Cargo.toml`: generated code says `::tidegate_sdk`.

#![warn(missing_docs)]

// Generated code names this crate by its own name, here as in plugins.
extern crate self as tidegate_sdk;

/// The contract's record of a refusal, of which every hook interface has its own.
macro_rules! refusal_record {
    ($wit:ident) => {
        impl From<crate::Refusal> for $wit::Refusal {
            fn from(refusal: crate::Refusal) -> Self {
                let (kind, code, reason) = refusal.into_parts();
                let kind = match kind {
                    crate::RefusalKind::Error => $wit::RefusalKind::Error,
                    crate::RefusalKind::Disconnect => $wit::RefusalKind::Disconnect,
                };
                Self { kind, code, reason }
            }
        }
    };
}

#[cfg(any(all(target_arch = "wasm32", feature = "allocator"), test))]
mod allocator;
pub mod authentication;
pub mod authorization;
#[allow(
    dead_code,
    missing_debug_implementations,
    missing_docs,
    unreachable_pub,
    unsafe_code,
    clippy::all,
    clippy::restriction,
    reason = "generated by wit-bindgen"
)]
mod bindings;
pub mod budget;
pub mod clock;
pub mod config;
pub mod context;
pub mod events;
pub mod filtering;
mod host;
pub mod json;
mod kept;
pub mod log;
mod message;
pub mod metrics;
mod panics;
pub mod presence;
pub mod publishing;
pub mod random;
mod refusal;
pub mod routing;
pub mod rpc;
pub mod schedule;
pub mod sessions;
pub mod settings;
pub mod state;
pub mod store;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
mod trouble;

#[doc(inline)]
pub use crate::{
    authentication::{Authentication, Identity, Subscription},
    authorization::{Authorization, Grant},
    events::Events,
    filtering::Filtering,
    json::{BAD_DATA_CODE, JsonError},
    message::Message,
    refusal::{Refusal, RefusalKind},
    routing::Routing,
    rpc::Rpc,
    schedule::Schedule,
    settings::Configured,
    trouble::Trouble,
};

/// Exports hooks of a plugin: `plugin!(MyPlugin: filtering, routing);`.
///
/// Before the colon stands a type that implements the traits of the hooks, after it the hooks, separated by commas:
/// `authentication`, `authorization`, `filtering`, `routing`, `rpc`, `events`, `schedule`. A crate may call the macro several times, with
/// several types, but exports each hook once. `settings` among them, for a type that implements [`Configured`], has
/// settings tried when they are bound.
///
/// ```
/// use tidegate_sdk::{Filtering, Message, Refusal, filtering, plugin};
///
/// struct Open;
///
/// impl Filtering for Open {
///     fn filter(_: Message) -> Result<filtering::Verdict, Refusal> {
///         Ok(filtering::Verdict::Pass)
///     }
/// }
///
/// plugin!(Open: filtering);
/// ```
///
/// A hook that does not exist, is listed twice, or whose trait the type does not implement is a compile error at the
/// place where it is written:
///
/// ```compile_fail
/// # struct Open;
/// tidegate_sdk::plugin!(Open: filterng);
/// ```
pub use tidegate_sdk_macros::plugin;

/// What generated code uses. Not part of the API: it changes without notice.
#[doc(hidden)]
pub mod __private {
    pub use wit_bindgen::rt as runtime;

    pub use crate::bindings::{
        authentication, authentication::export_authentication, authorization,
        authorization::export_authorization, capabilities, events, events::export_events,
        filtering, filtering::export_filtering, routing, routing::export_routing, rpc,
        rpc::export_rpc, schedule, schedule::export_schedule, settings, settings::export_settings,
    };

    /// Names the trait to the compiler, on every target.
    pub fn implements_authentication<P: crate::Authentication>() {}
    /// Names the trait to the compiler, on every target.
    pub fn implements_authorization<P: crate::Authorization>() {}
    /// Names the trait to the compiler, on every target.
    pub fn implements_filtering<P: crate::Filtering>() {}
    /// Names the trait to the compiler, on every target.
    pub fn implements_routing<P: crate::Routing>() {}
    /// Names the trait to the compiler, on every target.
    pub fn implements_rpc<P: crate::Rpc>() {}
    /// Names the trait to the compiler, on every target.
    pub fn implements_events<P: crate::Events>() {}
    /// Names the trait to the compiler, on every target.
    pub fn implements_schedule<P: crate::Schedule>() {}
    /// Names the trait to the compiler, on every target.
    pub fn implements_settings<P: crate::Configured>() {}
}
