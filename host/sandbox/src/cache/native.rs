//! Loading compiled code: the only unsafe code of the crate.
#![expect(
    unsafe_code,
    reason = "compiled code cannot be checked when it is loaded; we load only what we generated"
)]

use wasmtime::{Engine, component::Component};

/// Compiled code that this node generated: a moment ago, or before, as its MAC proves.
pub(crate) struct Generated(Vec<u8>);

impl Generated {
    /// Code that came out of our own compiler just now. Made by [`crate::compile`] alone.
    pub(crate) fn here(artifact: Vec<u8>) -> Self {
        Self(artifact)
    }

    /// Code from a file whose MAC held. Made by [`super::Cache`] alone.
    pub(super) fn proven(artifact: Vec<u8>) -> Self {
        Self(artifact)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Turns our compiled code into a component.
pub(crate) fn load(engine: &Engine, artifact: &Generated) -> wasmtime::Result<Component> {
    // SAFETY: the bytes are what wasmtime's own compiler gave to this node. Either they come straight from it,
    // through a file that only the node and its compile child had open, or their MAC, made with a key that only
    // the node has, covers them, the component's digest and the engine's identity.
    unsafe { Component::deserialize(engine, &artifact.0) }
}
