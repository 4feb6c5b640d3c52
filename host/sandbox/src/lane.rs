//! Where a question runs.
//!
//! All questions run inline for now: on the worker that asks, bounded by the deadlines of the plugins they
//! pass. This module is where a question is sent aside, to plugin threads with a fair queue per app; the
//! trait's answer may be pending already, so no caller changes when it is.

use tidegate_realtime::hooks::{Answered, HookFailure, Outcome, Progress};

use crate::binding::Hook;

/// A place to run at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// On the asking worker.
    Inline,
}

impl Lane {
    /// The lane of a hook.
    #[inline]
    pub(crate) fn of(hook: Hook) -> Self {
        match hook {
            Hook::Authentication
            | Hook::Authorization
            | Hook::Filtering
            | Hook::Routing
            | Hook::Rpc => Self::Inline,
        }
    }

    /// Runs the question there.
    #[inline]
    pub(crate) fn run<V>(
        self,
        question: impl FnOnce() -> Result<Outcome<V>, HookFailure>,
    ) -> Answered<V> {
        match self {
            Self::Inline => Progress::Ready(question()),
        }
    }
}
