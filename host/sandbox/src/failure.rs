//! Why a call failed, in the words that stories, logs and metrics share.
//!
//! A refusal by a plugin is not here: it is an answer. Everything here is blamed on the plugin, except
//! `no-slot` and `host-panic`, which are ours, and `breaker-open`, which repeats an earlier blame.

use std::{fmt, sync::Arc};

use wasmtime::{PoolConcurrencyLimitError, Trap};

/// Longest detail kept.
const DETAIL_BYTES: usize = 1_024;
/// Longest line of a backtrace kept; names of generic functions go on for ever.
const FRAME_BYTES: usize = 160;
/// Lines of a backtrace kept; the engine collects 16 frames, and inlined functions have lines of their own.
const FRAMES: usize = 24;
/// How the engine's backtrace begins where it is part of an error.
const BACKTRACE: &str = "error while executing at wasm backtrace:";

/// The kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The deadline came first.
    Timeout,
    /// The guest trapped: a panic, an overflow, an access out of bounds.
    Trap,
    /// The guest trapped after memory was denied to it.
    Memory,
    /// An answer or an argument out of its range.
    BadValue,
    /// More calls into the host, or more results, than one call may make.
    Limit,
    /// No instance could be had.
    NoSlot,
    /// A host function panicked.
    HostPanic,
    /// Not called at all: its breaker is open, since it failed too often or cannot run on this node.
    BreakerOpen,
}

impl FailureKind {
    pub const ALL: [Self; 8] = [
        Self::Timeout,
        Self::Trap,
        Self::Memory,
        Self::BadValue,
        Self::Limit,
        Self::NoSlot,
        Self::HostPanic,
        Self::BreakerOpen,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Trap => "trap",
            Self::Memory => "memory",
            Self::BadValue => "bad-value",
            Self::Limit => "limit",
            Self::NoSlot => "no-slot",
            Self::HostPanic => "host-panic",
            Self::BreakerOpen => "breaker-open",
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A failed call.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    /// For operators and authors; escaped, since parts of it come from the guest.
    pub(crate) detail: Arc<str>,
    /// Where the guest was, innermost first; escaped.
    pub(crate) frames: Arc<[Box<str>]>,
}

/// What ends a guest's call from within a host function or a check of its answer.
#[derive(Debug, thiserror::Error)]
#[error("{detail}")]
pub(crate) struct GuestFault {
    pub(crate) kind: FailureKind,
    pub(crate) detail: String,
}

impl GuestFault {
    pub(crate) fn bad_value(detail: impl Into<String>) -> Self {
        Self {
            kind: FailureKind::BadValue,
            detail: detail.into(),
        }
    }

    pub(crate) fn limit(detail: impl Into<String>) -> Self {
        Self {
            kind: FailureKind::Limit,
            detail: detail.into(),
        }
    }
}

/// Where an error arose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Instantiation,
    Call,
}

impl Failure {
    pub(crate) fn new(kind: FailureKind, detail: &str) -> Self {
        Self {
            kind,
            detail: escape(detail, DETAIL_BYTES).into(),
            frames: Arc::default(),
        }
    }

    /// Classifies an error of wasmtime. Trap codes alone mislead: out of memory looks like `unreachable`,
    /// so what the limiter saw counts too.
    pub(crate) fn classify(error: &wasmtime::Error, phase: Phase, memory_denied: bool) -> Self {
        let kind = if let Some(fault) = error.downcast_ref::<GuestFault>() {
            fault.kind
        } else if let Some(trap) = error.downcast_ref::<Trap>() {
            match trap {
                Trap::Interrupt => FailureKind::Timeout,
                _ if memory_denied => FailureKind::Memory,
                _ => FailureKind::Trap,
            }
        } else if error.is::<PoolConcurrencyLimitError>() {
            FailureKind::NoSlot
        } else if memory_denied {
            FailureKind::Memory
        } else {
            match phase {
                Phase::Instantiation => FailureKind::Trap,
                Phase::Call => FailureKind::BadValue,
            }
        };
        let causes = error.chain().map(ToString::to_string);
        let (backtraces, causes): (Vec<_>, Vec<_>) =
            causes.partition(|cause| cause.starts_with(BACKTRACE));
        Self {
            frames: backtraces.iter().flat_map(|text| frames(text)).collect(),
            ..Self::new(kind, &causes.join(": "))
        }
    }
}

/// The lines of a backtrace below its heading.
fn frames(backtrace: &str) -> impl Iterator<Item = Box<str>> {
    let lines = backtrace.lines().skip(1).take(FRAMES);
    // The engine aligns offsets with blanks.
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    lines.map(move |line| escape(&words(line), FRAME_BYTES).into())
}

/// Makes guest text fit for a log line: control characters escaped, cut at `max_bytes`.
pub(crate) fn escape(text: &str, max_bytes: usize) -> String {
    let mut out = String::with_capacity(text.len().min(max_bytes));
    for char in text.chars() {
        let before = out.len();
        if char.is_control() || is_invisible(char) {
            out.extend(char.escape_default());
        } else {
            out.push(char);
        }
        if out.len() > max_bytes {
            out.truncate(before);
            break;
        }
    }
    out
}

/// As [`escape`]; text that has nothing to escape and is short enough is not copied.
pub(crate) fn escaped(text: String, max_bytes: usize) -> String {
    let is_fit = |char: char| !char.is_control() && !is_invisible(char);
    if text.len() <= max_bytes && text.chars().all(is_fit) {
        text
    } else {
        escape(&text, max_bytes)
    }
}

/// Characters that reorder or hide text in a terminal or a console.
fn is_invisible(char: char) -> bool {
    matches!(char,
        '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2064}'
        | '\u{2066}'..='\u{2069}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w6_guest_text_cannot_forge_lines_or_colours() {
        assert_eq!(
            escape("a\nb\u{1b}[31m\u{202e}c", 100),
            "a\\nb\\u{1b}[31m\\u{202e}c"
        );
        assert_eq!(escape("aéé", 3), "aé");
        assert_eq!(escape("aa\n", 3), "aa");
        assert_eq!(escaped("aa\n".to_owned(), 9), "aa\\n");
        assert_eq!(escaped("aa".to_owned(), 9), "aa");
    }

    #[test]
    fn a_denied_growth_explains_the_trap_after_it() {
        let error = wasmtime::Error::from(Trap::UnreachableCodeReached);
        let kind = |denied| Failure::classify(&error, Phase::Call, denied).kind;
        assert_eq!(kind(true), FailureKind::Memory);
        assert_eq!(kind(false), FailureKind::Trap);
    }
    #[test]
    fn frames_are_kept_apart_from_the_cause() {
        let error = wasmtime::Error::from(Trap::UnreachableCodeReached).context(format!(
            "{BACKTRACE}\n    0: 0xd5 - <unknown>!a\u{1b}\n    1: 0xd6 - <unknown>!b"
        ));
        let failure = Failure::classify(&error, Phase::Call, false);
        assert_eq!(
            &*failure.detail,
            "wasm trap: wasm `unreachable` instruction executed"
        );
        let frames: Vec<&str> = failure.frames.iter().map(|frame| &**frame).collect();
        assert_eq!(
            frames,
            ["0: 0xd5 - <unknown>!a\\u{1b}", "1: 0xd6 - <unknown>!b"]
        );
    }
}
