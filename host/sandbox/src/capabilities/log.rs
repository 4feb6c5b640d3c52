//! `log`: lines of the plugin, cut and rate-limited as they come, escaped when their call has ended (threat model W6).
//!
//! The budget belongs to the plugin in its app, whatever the number of its instances. What goes over it is
//! dropped and counted, never an error: a chatty plugin still works.

use std::sync::Arc;

use crate::{
    capabilities::clock::unix_millis,
    failure::{escape, escaped},
    generated::tidegate::plugin::log::{Host, Level},
    guest::GuestState,
    logs::{LogLevel, PluginLog, Said, Speaker},
    stories::new_trace_id,
};

/// Longest line after escaping.
pub(crate) const LINE_BYTES: usize = 1_024;
/// Lines of a call that are kept for its story: a panic's message has two or three.
const TAIL_LINES: usize = 6;
/// Longest of them after escaping. All stories of the node together keep a few MiB at most.
const TAIL_LINE_BYTES: usize = 400;

/// What a call has said so far. There are no more lines than a guest may make calls into the host.
#[derive(Debug, Default)]
pub(crate) struct CallLog(Vec<Uttered>);

#[derive(Debug)]
struct Uttered {
    at_millis: u64,
    level: LogLevel,
    /// Cut, and as the guest wrote it.
    text: String,
    /// Whether the plugin's budget had room for it.
    is_admitted: bool,
}

impl CallLog {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The lines of a call that was answered, for the plugin's log.
    pub(crate) fn said(self) -> Vec<Said> {
        let said = |line: Uttered| match line.is_admitted {
            true => line.said(),
            false => Said::Dropped,
        };
        self.0.into_iter().map(said).collect()
    }

    /// The lines of a call that failed. Its last words are among them, whatever it said before: a panic's message is
    /// what its author looks for.
    pub(crate) fn said_by_failed(&self, log: &PluginLog) -> Vec<Said> {
        let is_grave = |line: &Uttered| line.level == LogLevel::Error;
        let last_words = self.0.iter().rposition(is_grave);
        let lines = self.0.iter().enumerate();
        lines
            .map(|(index, line)| match (line.is_admitted, last_words) {
                (true, _) => line.clone_said(),
                (false, Some(last)) if last == index => {
                    let message = escape(&line.text, LINE_BYTES).into();
                    log.urgent_line(line.at_millis, line.level, Speaker::Plugin, message)
                }
                (false, Some(_) | None) => Said::Dropped,
            })
            .collect()
    }

    /// The last lines, whether there was a budget for them or not: they say why the call failed.
    pub(crate) fn into_tail(self) -> Arc<[Box<str>]> {
        let mut tail = Vec::new();
        for Uttered { level, text, .. } in &self.0 {
            for (number, text) in text.lines().take(TAIL_LINES).enumerate() {
                let text = escape(text, TAIL_LINE_BYTES);
                tail.push(match number {
                    0 => format!("{level}: {text}"),
                    _ => format!("  {text}"),
                });
            }
        }
        let first = tail.len().saturating_sub(TAIL_LINES);
        tail.drain(first..).map(String::into_boxed_str).collect()
    }
}

impl Uttered {
    fn said(self) -> Said {
        Said::Line {
            at_millis: self.at_millis,
            level: self.level,
            speaker: Speaker::Plugin,
            message: escaped(self.text, LINE_BYTES).into(),
        }
    }

    fn clone_said(&self) -> Said {
        Said::Line {
            at_millis: self.at_millis,
            level: self.level,
            speaker: Speaker::Plugin,
            message: escape(&self.text, LINE_BYTES).into(),
        }
    }
}

impl From<Level> for LogLevel {
    fn from(level: Level) -> Self {
        match level {
            Level::Trace => Self::Trace,
            Level::Debug => Self::Debug,
            Level::Info => Self::Info,
            Level::Warn => Self::Warn,
            Level::Error => Self::Error,
        }
    }
}

impl Host for GuestState {
    fn log(&mut self, level: Level, message: String) -> wasmtime::Result<()> {
        self.call.enter_log()?;
        let at_millis = unix_millis();
        let mut text = message;
        if text.len() > LINE_BYTES {
            text.truncate(text.floor_char_boundary(LINE_BYTES));
            text.shrink_to_fit();
        }
        let level = level.into();
        let is_admitted = self.unit.log.admit(at_millis);
        let trace_id = self.call.trace_id.get_or_insert_with(new_trace_id);
        if is_admitted {
            self.unit
                .log
                .echo(&self.unit, (at_millis, level), trace_id, &text);
        }
        self.call.log.0.push(Uttered {
            at_millis,
            level,
            text,
            is_admitted,
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::Logs;

    fn uttered(level: LogLevel, text: &str, is_admitted: bool) -> Uttered {
        Uttered {
            at_millis: 0,
            level,
            text: text.to_owned(),
            is_admitted,
        }
    }

    fn messages(said: Vec<Said>) -> Vec<Option<Box<str>>> {
        let message = |said| match said {
            Said::Line { message, .. } => Some(message),
            Said::Dropped => None,
        };
        said.into_iter().map(message).collect()
    }

    #[test]
    fn the_tail_has_the_last_lines_escaped_and_cut() {
        let mut log = CallLog::default();
        for n in 0..9 {
            log.0.push(uttered(LogLevel::Info, &n.to_string(), false));
        }
        let panic = format!("panicked:\n\u{1b}{}", "x".repeat(1_000));
        log.0.push(uttered(LogLevel::Error, &panic, false));
        let lines = log.into_tail();
        assert_eq!(lines.len(), TAIL_LINES);
        assert_eq!((&*lines[0], &*lines[4]), ("info: 5", "error: panicked:"));
        assert!(lines[5].starts_with("  \\u{1b}xxx"), "{}", lines[5]);
        assert!(lines[5].len() <= TAIL_LINE_BYTES + 2);
    }

    #[test]
    fn w6_a_line_is_one_line_whatever_is_in_it() {
        let log = CallLog(vec![uttered(LogLevel::Info, "a\nerror: b\u{1b}[31m", true)]);
        assert_eq!(
            messages(log.said()),
            [Some("a\\nerror: b\\u{1b}[31m".into())]
        );
    }

    #[test]
    fn a_failed_calls_last_words_are_kept_when_the_budget_is_used_up() {
        let log = CallLog(vec![
            uttered(LogLevel::Info, "one", true),
            uttered(LogLevel::Error, "two", false),
            uttered(LogLevel::Error, "panicked", false),
            uttered(LogLevel::Info, "four", false),
        ]);
        let plugin = Logs::new(Arc::default()).unlisted();
        assert_eq!(
            messages(log.said_by_failed(&plugin)),
            [Some("one".into()), None, Some("panicked".into()), None]
        );
        assert_eq!(messages(log.said()), [Some("one".into()), None, None, None]);
    }
}
