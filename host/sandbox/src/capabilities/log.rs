//! `log`: lines of the plugin, escaped, cut and rate-limited (threat model W6).
//!
//! The budget belongs to the plugin in its app, whatever the number of its instances. What goes over it is
//! dropped and counted, never an error: a chatty plugin still works.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    capabilities::clock::unix_millis,
    failure::escape,
    generated::tidegate::plugin::log::{Host, Level},
    guest::GuestState,
};

/// Longest line after escaping.
const LINE_BYTES: usize = 1_024;
/// Lines of a call that are kept for its story: a panic's message has two or three.
const TAIL_LINES: usize = 6;
/// Longest of them after escaping. All stories of the node together keep a few MiB at most.
const TAIL_LINE_BYTES: usize = 400;
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

/// The last lines that a call logged, whether there was a budget for them or not: they say why it failed.
#[derive(Debug, Default)]
pub(crate) struct LogTail(VecDeque<Box<str>>);

impl LogTail {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn push(&mut self, level: Level, message: &str) {
        for (number, text) in message.lines().take(TAIL_LINES).enumerate() {
            if self.0.len() >= TAIL_LINES {
                self.0.pop_front();
            }
            let text = escape(text, TAIL_LINE_BYTES);
            let line = match number {
                0 => format!("{}: {text}", name(level)),
                _ => format!("  {text}"),
            };
            self.0.push_back(line.into());
        }
    }

    pub(crate) fn into_lines(self) -> Arc<[Box<str>]> {
        self.0.into_iter().collect()
    }
}

fn name(level: Level) -> &'static str {
    match level {
        Level::Trace => "trace",
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error => "error",
    }
}

impl Host for GuestState {
    fn log(&mut self, level: Level, message: String) -> wasmtime::Result<()> {
        self.call.enter_log()?;
        self.call.log.push(level, &message);
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
    #[test]
    fn the_tail_has_the_last_lines_escaped_and_cut() {
        let mut tail = LogTail::default();
        for n in 0..9 {
            tail.push(Level::Info, &n.to_string());
        }
        tail.push(
            Level::Error,
            &format!("panicked:\n\u{1b}{}", "x".repeat(1_000)),
        );
        let lines = tail.into_lines();
        assert_eq!(lines.len(), TAIL_LINES);
        assert_eq!((&*lines[0], &*lines[4]), ("info: 5", "error: panicked:"));
        assert!(lines[5].starts_with("  \\u{1b}xxx"), "{}", lines[5]);
        assert!(lines[5].len() <= TAIL_LINE_BYTES + 2);
    }
}
