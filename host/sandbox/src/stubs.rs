//! WASI for guests that import it without meaning to: every function is there and traps.
//!
//! A plugin built for wasip2 names a dozen WASI interfaces even if it never calls one. They are linked so
//! that it loads; touching one ends the call. There is no file, socket, environment or HTTP behind any of
//! them, and never wasmtime-wasi, whose blocking calls a guest could turn against the host's runtime.

use wasmtime::component::{Component, Linker};

use crate::guest::GuestState;

/// The interfaces of WASI 0.2 that may be imported. Not among them: filesystem, sockets, http, and anything
/// that is not listed here.
const WASI_INTERFACES: [&str; 18] = [
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
];

/// Whether the import is one that the stubs answer.
pub(crate) fn is_stubbed(import: &str) -> bool {
    import.split_once('@').is_some_and(|(interface, version)| {
        version.starts_with("0.2.") && WASI_INTERFACES.contains(&interface)
    })
}

/// Fills what the linker lacks for the component with traps. Admission has seen to it that only stubbed
/// interfaces are lacking.
pub(crate) fn link(linker: &mut Linker<GuestState>, component: &Component) -> wasmtime::Result<()> {
    linker.define_unknown_imports_as_traps(component)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w1_only_harmless_wasi_is_stubbed() {
        assert!(is_stubbed("wasi:cli/stderr@0.2.9"));
        for import in [
            "wasi:filesystem/types@0.2.0",
            "wasi:sockets/tcp@0.2.0",
            "wasi:http/outgoing-handler@0.2.0",
            "wasi:cli/stderr@0.3.0",
            "wasi:cli/stderr",
            "wasi:cli/run@0.2.0",
        ] {
            assert!(!is_stubbed(import), "{import}");
        }
    }
}
