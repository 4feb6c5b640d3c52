//! Types generated from the WIT. They stop at [`crate::convert`] and the capability modules; nothing else
//! in the crate names them.

wasmtime::component::bindgen!({
    path: "../../wit",
    world: "plugin",
    imports: { default: trappable },
});
