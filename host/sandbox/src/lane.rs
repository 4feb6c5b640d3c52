//! Where a question runs.
//!
//! *Inline*: on the worker that asks, which waits for the answer; for filtering and routing by versions that have
//! earned it ([`standing`]). *Aside*: on plugin threads ([`threads`]) with a queue that is fair to apps
//! ([`queue`]); the asker gets a future. Authentication, authorization and rpc always run aside. All plugins of a
//! question run in one lane, aside if any of them has to.
//!
//! A question that waited aside is asked of what is bound when its turn comes, not of what was bound when it was
//! put there: after an activation nothing old is called, queued or not. The messages of a session stay in order,
//! since a session has one question at a time.

mod queue;
mod standing;
mod threads;

use std::{
    io,
    num::NonZeroUsize,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use tidegate_realtime::{
    hooks::{Answered, HookFailure, Outcome, Progress},
    ids::AppId,
};
use tokio::{sync::oneshot, time::Instant};

use self::threads::{Job, PluginThreads};
pub(crate) use self::{
    queue::LINE,
    standing::{Move, Standing},
    threads::LONGEST_WAIT,
};
use crate::instances::Patience;

/// Waiting calls of an app from which on versions that are about to earn the inline lane may use it: behind so
/// many, a message would wait longer than it takes.
const CROWD: usize = 32;

/// A lane, as statistics show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// On the session's worker.
    Inline,
    /// On plugin threads.
    Aside,
}

impl Lane {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inline => "inline",
            Self::Aside => "aside",
        }
    }
}

/// How a question runs, and what that means for its calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Inline, if all its versions have earned it.
    Inline,
    /// Inline although some have not quite, because the aside lane is crowded.
    Overflow,
    /// Aside; the queue took so much of the first call's deadline.
    Aside { charged: Duration },
}

impl Turn {
    pub(crate) fn lane(self) -> Lane {
        match self {
            Self::Inline | Self::Overflow => Lane::Inline,
            Self::Aside { .. } => Lane::Aside,
        }
    }

    pub(crate) fn is_aside(self) -> bool {
        matches!(self, Self::Aside { .. })
    }

    /// How long a call with so much time left may wait for an instance.
    pub(crate) fn patience(self, left: Duration) -> Patience {
        match self {
            Self::Inline | Self::Overflow => Patience::None,
            Self::Aside { .. } => Patience::Until(Instant::now() + left),
        }
    }
}

/// A question for a plugin thread.
struct Question<F, T> {
    ask: Option<F>,
    answer: Option<T>,
    sender: oneshot::Sender<T>,
}

impl<T: Send, F: FnOnce(Turn) -> T + Send> Job for Question<F, T> {
    fn run(&mut self, charged: Duration) {
        self.answer = self.ask.take().map(|ask| ask(Turn::Aside { charged }));
    }

    fn deliver(self: Box<Self>) {
        if let Some(answer) = self.answer {
            // Who asked may be gone.
            let _ = self.sender.send(answer);
        }
    }
}

/// The aside lane.
#[derive(Debug)]
pub(crate) struct Aside {
    threads: PluginThreads,
    /// Questions that found a full queue.
    shed: AtomicU64,
}

/// What the aside lane is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AsideStatistics {
    pub threads: usize,
    /// Questions that wait for a thread.
    pub waiting: usize,
    /// Questions refused because too many of their app waited.
    pub shed: u64,
}

impl Aside {
    /// # Errors
    /// That of the operating system when it gives no thread.
    pub(crate) fn start(n_threads: Option<NonZeroUsize>) -> io::Result<Self> {
        let cores = || thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Ok(Self {
            threads: PluginThreads::start(n_threads.unwrap_or_else(cores))?,
            shed: AtomicU64::new(0),
        })
    }

    pub(crate) fn is_crowded(&self, app: &AppId) -> bool {
        self.threads.waiting_of(app) >= CROWD
    }

    /// Asks on a plugin thread. `shed` answers when the queue is full, `lost` when the node stops first.
    pub(crate) fn ask<V: Send + 'static>(
        &self,
        app: &AppId,
        question: impl FnOnce(Turn) -> Result<Outcome<V>, HookFailure> + Send + 'static,
        shed: impl FnOnce() -> HookFailure,
        lost: impl FnOnce() -> HookFailure + Send + 'static,
    ) -> Answered<V> {
        let (sender, receiver) = oneshot::channel();
        let job = Question {
            ask: Some(question),
            answer: None,
            sender,
        };
        if self.threads.submit(app, Box::new(job)).is_err() {
            self.shed.fetch_add(1, Ordering::Relaxed);
            return Progress::Ready(Err(shed()));
        }
        Progress::Pending(Box::pin(async move {
            receiver.await.unwrap_or_else(|_| Err(lost()))
        }))
    }

    pub(crate) fn statistics(&self) -> AsideStatistics {
        AsideStatistics {
            threads: self.threads.len(),
            waiting: self.threads.waiting(),
            shed: self.shed.load(Ordering::Relaxed),
        }
    }
}
