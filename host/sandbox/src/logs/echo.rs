//! What the node's own log repeats of what plugins say.
//!
//! Whoever collects the node's log gets the plugins' lines with it, but the log belongs to the operator: a plugin has
//! a small share of it, and all plugins together a bounded one. The rest is in the plugin's log alone and counted in
//! `suppressed` of the plugin's next line. What the node says about plugins it writes to its log itself.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{LogLevel, PluginLog, budget::LineBudget};
use crate::{capabilities::log::LINE_BYTES, failure::escape, unit::Unit};

/// Lines a second of one plugin.
const OF_PLUGIN_PER_SECOND: u16 = 10;
/// Lines a second of all of them.
const OF_NODE_PER_SECOND: u16 = 200;
/// Where the lines appear; `log.level` holds for them as for the node's own.
const TARGET: &str = "tidegate::plugin";

/// The share of all plugins.
#[derive(Debug)]
pub(super) struct Echo(LineBudget);

/// The share of one.
#[derive(Debug)]
pub(super) struct OfPlugin {
    budget: LineBudget,
    /// Lines left out since the last that was not.
    suppressed: AtomicU64,
}

impl Default for Echo {
    fn default() -> Self {
        Self(LineBudget::new(OF_NODE_PER_SECOND))
    }
}

impl Default for OfPlugin {
    fn default() -> Self {
        Self {
            budget: LineBudget::new(OF_PLUGIN_PER_SECOND),
            suppressed: AtomicU64::new(0),
        }
    }
}

impl PluginLog {
    /// Repeats a line of a call in the node's log, if there is room for it and the node logs lines of its level.
    /// `text` is as the guest wrote it.
    pub(crate) fn echo(
        &self,
        unit: &Unit,
        (at_millis, level): (u64, LogLevel),
        trace_id: &str,
        text: &str,
    ) {
        if !self.is_echoed {
            return;
        }
        // The macros want a constant level, hence one arm each.
        macro_rules! repeat {
            ($level:ident) => {{
                if !tracing::event_enabled!(target: TARGET, tracing::Level::$level) {
                    return;
                }
                let Some(suppressed) = self.admit_echo(at_millis) else {
                    return;
                };
                let line = escape(text, LINE_BYTES);
                tracing::event!(
                    target: TARGET,
                    tracing::Level::$level,
                    app = %unit.app, plugin = %unit.plugin, version = unit.version, hook = unit.hook.as_str(),
                    trace_id, line, suppressed, "plugin log"
                );
            }};
        }
        match level {
            LogLevel::Trace => repeat!(TRACE),
            LogLevel::Debug => repeat!(DEBUG),
            LogLevel::Info => repeat!(INFO),
            LogLevel::Warn => repeat!(WARN),
            LogLevel::Error => repeat!(ERROR),
        }
    }

    /// How many lines of the plugin were left out before this one, if this one may be written.
    fn admit_echo(&self, at_millis: u64) -> Option<u64> {
        let OfPlugin { budget, suppressed } = &self.echoed;
        if budget.admit(at_millis) && self.shared.echo.0.admit(at_millis) {
            Some(suppressed.swap(0, Ordering::Relaxed))
        } else {
            suppressed.fetch_add(1, Ordering::Relaxed);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::logs::Logs;

    #[test]
    fn w6_the_nodes_log_repeats_a_few_lines_of_each_plugin_and_says_how_many_it_left_out() {
        let logs = Logs::new(Arc::default());
        let plugin = logs.unlisted();
        let admitted = (0..50).filter_map(|_| plugin.admit_echo(7_000));
        assert_eq!(admitted.collect::<Vec<_>>(), [0; 10]);
        assert_eq!(plugin.admit_echo(8_000), Some(40));
        // All plugins together have a bound as well: one line of this second is gone already.
        let others = (0..40).map(|_| logs.unlisted());
        let of_others = others.map(|other| (0..50).filter_map(|_| other.admit_echo(8_000)).count());
        assert_eq!(of_others.sum::<usize>(), 199);
    }
}
