//! The one door to the node: imports of the component on WebAssembly, the test kit's stand-ins elsewhere.
//!
//! Both sides have the same functions with the same signatures; the wrappers in the capability modules call
//! them and nothing else.

#[cfg(not(target_arch = "wasm32"))]
mod fake;
#[cfg(target_arch = "wasm32")]
mod wasm;

#[cfg(not(target_arch = "wasm32"))]
pub(crate) use fake::*;
#[cfg(target_arch = "wasm32")]
pub(crate) use wasm::*;
