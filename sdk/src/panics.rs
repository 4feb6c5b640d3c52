//! A panic's message in the plugin's log.
//!
//! Without it, the node learns of a panic only as the trap *unreachable*.

/// Sees to it, once per instance, that a panic is logged before it traps.
#[cfg(target_arch = "wasm32")]
pub(crate) fn report() {
    use std::{cell::Cell, panic};

    use crate::log;

    thread_local! {
        static IS_SET: Cell<bool> = const { Cell::new(false) };
    }

    if !IS_SET.replace(true) {
        panic::set_hook(Box::new(|panic| log::error!("{panic}")));
    }
}

/// Elsewhere the test harness shows panics already.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn report() {}
