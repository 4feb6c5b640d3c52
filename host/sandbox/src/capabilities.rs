//! What a plugin may import: one module per interface, each with its limits.
//!
//! Every function counts towards the calls a guest may make into the host, and checks its arguments as if an
//! enemy had written them. None of them blocks but those of [`store`], which only plugins on threads of their own can
//! call, and none asks a hook: what a plugin wants done is queued in
//! the call's state and done after the call.

mod budget;
pub(crate) mod clock;
mod config;
mod context;
pub(crate) mod json;
pub(crate) mod kept;
pub(crate) mod log;
mod message;
pub(crate) mod metrics;
mod presence;
mod publishing;
mod random;
mod sessions;
pub(crate) mod state;
pub(crate) mod store;

use bytes::Bytes;
use wasmtime::component::{HasSelf, Linker};

use crate::{failure::GuestFault, generated::tidegate::plugin, guest::GuestState};

/// Publications and other effects that one call may queue.
const MAX_EFFECTS: usize = 32;
/// Longest user id that a message can be sent to, or that a session is looked for by.
const USER_BYTES: usize = 255;

/// Adds all capabilities. An import that is not linked is not there.
pub(crate) fn link(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    plugin::log::add_to_linker::<_, HasSelf<GuestState>>(linker, |state| state)?;
    plugin::config::add_to_linker::<_, HasSelf<GuestState>>(linker, |state| state)?;
    plugin::context::add_to_linker::<_, HasSelf<GuestState>>(linker, |state| state)?;
    plugin::budget::add_to_linker::<_, HasSelf<GuestState>>(linker, |state| state)?;
    plugin::clock::add_to_linker::<_, HasSelf<GuestState>>(linker, |state| state)?;
    plugin::random::add_to_linker::<_, HasSelf<GuestState>>(linker, |state| state)?;
    plugin::message::add_to_linker::<_, HasSelf<GuestState>>(linker, |state| state)?;
    plugin::publishing::add_to_linker::<_, HasSelf<GuestState>>(linker, |state| state)?;
    plugin::state::add_to_linker::<_, HasSelf<GuestState>>(linker, |state| state)?;
    plugin::store::add_to_linker::<_, HasSelf<GuestState>>(linker, |state| state)?;
    plugin::metrics::add_to_linker::<_, HasSelf<GuestState>>(linker, |state| state)?;
    plugin::json::add_to_linker::<_, HasSelf<GuestState>>(linker, |state| state)?;
    plugin::sessions::add_to_linker::<_, HasSelf<GuestState>>(linker, |state| state)?;
    plugin::presence::add_to_linker::<_, HasSelf<GuestState>>(linker, |state| state)?;
    Ok(())
}

/// Channel names as the protocol has them: ASCII without control characters, not empty, not too long.
pub(crate) fn check_channel(channel: &str, max_bytes: usize) -> Result<(), String> {
    if channel.is_empty() || channel.len() > max_bytes {
        return Err(format!("a channel name has 1 to {max_bytes} bytes"));
    }
    if !channel.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        return Err("a channel name is printable ASCII".to_owned());
    }
    Ok(())
}

/// Data that takes the place of a message's: there is some, and not more than a message may have.
pub(crate) fn check_size(what: &str, data: Vec<u8>, max_bytes: usize) -> Result<Bytes, GuestFault> {
    if data.is_empty() {
        return Err(GuestFault::bad_value(format!("{what} is empty")));
    }
    if data.len() > max_bytes {
        return Err(GuestFault::bad_value(format!(
            "{what} has {} bytes, more than the {max_bytes} of a message",
            data.len()
        )));
    }
    Ok(data.into())
}
