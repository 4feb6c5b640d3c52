//! `log`: lines of the plugin, escaped, cut and rate-limited (threat model W6).
//!
//! The budget belongs to the plugin in its app, whatever the number of its instances. What goes over it is
//! dropped and counted, never an error: a chatty plugin still works.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::{
    capabilities::clock::unix_millis,
    failure::escape,
    generated::tidegate::plugin::log::{Host, Level},
    guest::GuestState,
};

/// Longest line after escaping.
const LINE_BYTES: usize = 1_024;
/// Lines a second.
const LINES_PER_SECOND: u64 = 100;
/// Bits that hold the number of lines; the rest hold the second.
const COUNT_BITS: u32 = 16;

/// Lines that a plugin may write in the second at hand.
#[derive(Debug, Default)]
pub(crate) struct LogBudget {
    /// The second since 1970 and how many lines were asked for in it, in one word, so that one
    /// compare-and-swap keeps both.
    window: AtomicU64,
    /// Lines over the budget; shared by all plugins, read by metrics.
    dropped: Arc<AtomicU64>,
}

impl LogBudget {
    pub(crate) fn new(dropped: Arc<AtomicU64>) -> Self {
        Self {
            window: AtomicU64::new(0),
            dropped,
        }
    }

    /// Whether one more line may be written now.
    fn admit(&self, second: u64) -> bool {
        let mut seen = self.window.load(Ordering::Relaxed);
        loop {
            let used = if seen >> COUNT_BITS == second {
                seen & ((1 << COUNT_BITS) - 1)
            } else {
                0
            };
            if used >= LINES_PER_SECOND {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                return false;
            }
            let next = (second << COUNT_BITS) | (used + 1);
            match self.window.compare_exchange_weak(
                seen,
                next,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
    }
}

impl Host for GuestState {
    fn log(&mut self, level: Level, message: String) -> wasmtime::Result<()> {
        self.call.enter_log()?;
        let unit = &self.unit;
        if !unit.log_budget.admit(unix_millis() / 1_000) {
            return Ok(());
        }
        let line = escape(&message, LINE_BYTES);
        // The macro wants a constant level, hence one arm each.
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    target: "tidegate::plugin",
                    app = %unit.app, plugin = %unit.plugin, version = unit.version,
                    hook = unit.hook.as_str(), line, "plugin log"
                )
            };
        }
        match level {
            Level::Trace => line!(trace),
            Level::Debug => line!(debug),
            Level::Info => line!(info),
            Level::Warn => line!(warn),
            Level::Error => line!(error),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w6_lines_beyond_a_hundred_a_second_are_dropped_and_counted() {
        let budget = LogBudget::default();
        let admitted = (0..150).filter(|_| budget.admit(7)).count();
        assert_eq!(
            (admitted, budget.dropped.load(Ordering::Relaxed)),
            (100, 50)
        );
        assert!(budget.admit(8));
    }
}
