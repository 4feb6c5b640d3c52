//! Stories: what happened in a question that failed, or that a plugin asked the id of.
//!
//! A small ring in memory; the newest push out the oldest. No payloads and no tokens are in it, unless a plugin wrote
//! them into its log before it failed.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use tidegate_realtime::ids::AppId;

use crate::{binding::Hook, capabilities::clock::unix_millis, failure::FailureKind};

/// Stories kept. A few hundred bytes each; failed ones have up to 6 KiB of the plugin's log and stack.
const CAPACITY: usize = 1_024;
/// Random bytes of a trace id; shown as twice as many characters.
const TRACE_ID_BYTES: usize = 6;

/// One question and what the plugins made of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Story {
    pub trace_id: Arc<str>,
    pub app: AppId,
    pub hook: Hook,
    /// Milliseconds since 1970.
    pub at_millis: u64,
    /// Channel or method that the question was about; empty for authentication.
    pub subject: Arc<str>,
    /// The plugins in the order they ran.
    pub steps: Vec<StoryStep>,
}

/// One plugin's part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoryStep {
    pub plugin: Arc<str>,
    pub version: u32,
    pub ended: StepEnd,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepEnd {
    /// The word of the verdict: `pass`, `replace`, `not-mine`, ….
    Answered(&'static str),
    Failed {
        kind: FailureKind,
        detail: Arc<str>,
        /// The last lines that the plugin logged in this call, a panic's message among them; escaped and cut.
        log: Arc<[Box<str>]>,
        /// Where the plugin was, innermost first.
        frames: Arc<[Box<str>]>,
        /// Whether the policy let the question go on without the plugin.
        is_passed_over: bool,
    },
}

#[derive(Debug, Default)]
pub(crate) struct Stories {
    ring: Mutex<VecDeque<Arc<Story>>>,
}

impl Stories {
    pub(crate) fn keep(&self, story: Story) {
        let story = Arc::new(story);
        let mut ring = self.ring.lock();
        let oldest = if ring.len() >= CAPACITY {
            ring.pop_front()
        } else {
            None
        };
        ring.push_back(story);
        drop(ring);
        drop(oldest);
    }

    pub(crate) fn find(&self, trace_id: &str) -> Option<Story> {
        let ring = self.ring.lock();
        let found = ring
            .iter()
            .rev()
            .find(|story| *story.trace_id == *trace_id)
            .cloned();
        drop(ring);
        found.map(|story| Story::clone(&story))
    }
}

impl Story {
    pub(crate) fn new(
        trace_id: Arc<str>,
        app: &AppId,
        hook: Hook,
        subject: &Arc<str>,
        steps: Vec<StoryStep>,
    ) -> Self {
        Self {
            trace_id,
            app: app.clone(),
            hook,
            at_millis: unix_millis(),
            subject: Arc::clone(subject),
            steps,
        }
    }
}

/// A fresh id: short enough to be read out on the telephone, long enough not to be guessed.
pub(crate) fn new_trace_id() -> Arc<str> {
    let bytes: [u8; TRACE_ID_BYTES] = rand::random();
    hex::encode(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_the_newest() {
        let stories = Stories::default();
        let app = AppId::default_app();
        for n in 0..=CAPACITY {
            let id = n.to_string().into();
            let story = Story::new(id, &app, Hook::Rpc, &"m".into(), Vec::new());
            stories.keep(story);
        }
        assert_eq!(stories.find("0"), None);
        assert!(stories.find("1").is_some());
        assert!(stories.find(&CAPACITY.to_string()).is_some());
    }
}
