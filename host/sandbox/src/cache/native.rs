//! Loading compiled code: the only unsafe code of the crate.
#![expect(
    unsafe_code,
    reason = "compiled code cannot be checked when it is loaded; its MAC proves that we wrote it"
)]

use wasmtime::{Engine, component::Component};

/// Compiled code whose MAC held. Made by [`super::Cache`] alone.
pub(super) struct Authentic<'a>(pub(super) &'a [u8]);

/// Turns authentic compiled code into a component.
pub(super) fn load(engine: &Engine, artifact: &Authentic<'_>) -> wasmtime::Result<Component> {
    // SAFETY: the bytes are what `Component::serialize` gave to this node for this engine: their MAC, made
    // with a key that only the node has, covers them, the component's digest and the engine's identity.
    unsafe { Component::deserialize(engine, artifact.0) }
}
