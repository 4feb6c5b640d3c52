//! Where a question runs.
//!
//! *Inline*: on the worker that asks, which waits for the answer; for filtering and routing by versions that have
//! earned it ([`standing`]). *Aside*: on plugin threads ([`threads`]) with a queue that is fair to apps
//! ([`queue`]); the asker gets a future. Authentication, authorization and rpc always run aside. All plugins of a
//! question run in one lane, aside if any of them has to.
//!
//! Calls of plugins that wait for other machines ([`Class::Waiting`]) run on threads of the same kind that nobody else
//! uses, so that a store that stalls holds up nobody but those who asked it. They are made when they are first needed.
//! An app has at most half of them at a time, by the time that its calls hold them and not by the processor time, and
//! one plugin half of what its app has, so that a plugin whose store stalls leaves room for those beside it. A
//! question is put in a lane by what is bound when it is asked; if a plugin that waits was bound before its turn comes,
//! it moves there.
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
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use smallvec::SmallVec;
use tidegate_realtime::{
    hooks::{Answered, HookFailure, Outcome, Progress},
    ids::AppId,
};
use tokio::{sync::oneshot, time::Instant};

use self::threads::{Job, PluginThreads, ThreadsConfig};
pub(crate) use self::{
    queue::LINE,
    standing::{Move, Standing},
    threads::{LONGEST_WAIT, LONGEST_WAIT_TO_WAIT},
};
use crate::instances::Patience;

/// Waiting calls of an app from which on versions that are about to earn the inline lane may use it: behind so
/// many, a message would wait longer than it takes.
const CROWD: usize = 32;

/// The plugins of a question that may wait for other machines, each once and in order of their names. None: the
/// question needs no thread that may wait.
pub(crate) type Waiters = SmallVec<[Arc<str>; 1]>;

/// A lane, as statistics show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// On the session's worker.
    Inline,
    /// On plugin threads.
    Aside,
    /// On threads for plugins that wait for other machines.
    Waiting,
}

impl Lane {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inline => "inline",
            Self::Aside => "aside",
            Self::Waiting => "waiting",
        }
    }

    /// After this long in its queue a call is too late, whatever kept it.
    pub(crate) fn longest_wait(self) -> Duration {
        match self {
            Self::Inline | Self::Aside => LONGEST_WAIT,
            Self::Waiting => LONGEST_WAIT_TO_WAIT,
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
    /// Aside, or where plugins wait; the queue took so much of the first call's deadline.
    Aside { charged: Duration, lane: Lane },
}

impl Turn {
    pub(crate) fn lane(self) -> Lane {
        match self {
            Self::Inline | Self::Overflow => Lane::Inline,
            Self::Aside { lane, .. } => lane,
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
struct Question<W, F, T> {
    app: AppId,
    /// Which plugins that wait it asks, by what is bound now.
    waiters: W,
    ask: Option<F>,
    answer: Option<T>,
    sender: oneshot::Sender<T>,
    /// Where it goes if it has to wait and is somewhere else.
    waiting: Weak<Waiting>,
}

impl<W, F, T> Job for Question<W, F, T>
where
    W: Fn() -> Waiters + Send + 'static,
    F: FnOnce(Turn) -> T + Send + 'static,
    T: Send + 'static,
{
    fn run(&mut self, turn: Turn) {
        if turn.lane() != Lane::Waiting && !(self.waiters)().is_empty() {
            return;
        }
        self.answer = self.ask.take().map(|ask| ask(turn));
    }

    fn deliver(self: Box<Self>) {
        if self.ask.is_some() {
            // Dropped where there is no room, and who asked hears of it.
            if let Some(waiting) = self.waiting.upgrade() {
                let (app, waiters) = (self.app.clone(), (self.waiters)());
                drop(waiting.submit(&app, waiters, self));
            }
            return;
        }
        if let Some(answer) = self.answer {
            // Who asked may be gone.
            let _ = self.sender.send(answer);
        }
    }
}

/// The threads for plugins that wait.
#[derive(Debug)]
struct Waiting {
    n_threads: NonZeroUsize,
    /// `None` if the operating system gave none.
    threads: OnceLock<Option<PluginThreads>>,
    /// Questions that found a full queue.
    shed: AtomicU64,
}

impl Waiting {
    /// Has the job run when it is the app's turn, and that of these plugins.
    fn submit(&self, app: &AppId, waiters: Waiters, job: Box<dyn Job>) -> Result<(), Box<dyn Job>> {
        let threads = self.threads.get_or_init(|| {
            let config = ThreadsConfig {
                lane: Lane::Waiting,
                n_threads: self.n_threads,
            };
            let started = PluginThreads::start(config);
            let started = started.inspect_err(|error| {
                tracing::error!(
                    %error,
                    "the threads for plugins that wait could not be started; raise the limit of threads, or lower \
                     plugins.waiting_threads"
                );
            });
            started.ok()
        });
        let submitted = match threads {
            Some(threads) => threads.submit(app, waiters, job),
            None => Err(job),
        };
        if submitted.is_err() {
            self.shed.fetch_add(1, Ordering::Relaxed);
        }
        submitted
    }
}

/// The aside lane.
#[derive(Debug)]
pub(crate) struct Aside {
    threads: PluginThreads,
    waiting: Arc<Waiting>,
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
    /// `n_waiting` are for plugins that wait, and are started when there is one.
    ///
    /// # Errors
    /// That of the operating system when it gives no thread.
    pub(crate) fn start(
        n_threads: Option<NonZeroUsize>,
        n_waiting: NonZeroUsize,
    ) -> io::Result<Self> {
        let cores = || thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let config = ThreadsConfig {
            lane: Lane::Aside,
            n_threads: n_threads.unwrap_or_else(cores),
        };
        Ok(Self {
            threads: PluginThreads::start(config)?,
            waiting: Arc::new(Waiting {
                n_threads: n_waiting,
                threads: OnceLock::new(),
                shed: AtomicU64::new(0),
            }),
            shed: AtomicU64::new(0),
        })
    }

    pub(crate) fn is_crowded(&self, app: &AppId) -> bool {
        self.threads.waiting_of(app) >= CROWD
    }

    /// Asks on a plugin thread, or on one where plugins wait if there are `waiters`, which is asked again when the turn
    /// comes. `shed` answers when the queue is full, `lost` when the node stops first.
    pub(crate) fn ask<V: Send + 'static>(
        &self,
        app: &AppId,
        waiters: impl Fn() -> Waiters + Send + 'static,
        question: impl FnOnce(Turn) -> Result<Outcome<V>, HookFailure> + Send + 'static,
        shed: impl FnOnce() -> HookFailure,
        lost: impl FnOnce() -> HookFailure + Send + 'static,
    ) -> Answered<V> {
        let (sender, receiver) = oneshot::channel();
        let now = waiters();
        let job = Box::new(Question {
            app: app.clone(),
            waiters,
            ask: Some(question),
            answer: None,
            sender,
            waiting: Arc::downgrade(&self.waiting),
        });
        let submitted = if now.is_empty() {
            self.threads.submit(app, now, job).inspect_err(|_| {
                self.shed.fetch_add(1, Ordering::Relaxed);
            })
        } else {
            self.waiting.submit(app, now, job)
        };
        if submitted.is_err() {
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

    /// What the threads for plugins that wait are doing; there are none before there is such a plugin.
    pub(crate) fn waiting_statistics(&self) -> AsideStatistics {
        let threads = self.waiting.threads.get().and_then(Option::as_ref);
        AsideStatistics {
            threads: threads.map_or(0, PluginThreads::len),
            waiting: threads.map_or(0, PluginThreads::waiting),
            shed: self.waiting.shed.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, atomic::AtomicBool, mpsc::sync_channel};

    use super::*;

    fn answer<V>(answered: Answered<V>) -> V {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let answer = runtime.unwrap().block_on(answered.wait());
        answer.unwrap().verdict
    }

    #[test]
    fn a_question_moves_to_where_plugins_wait_if_one_was_bound_before_its_turn() {
        let one = NonZeroUsize::MIN;
        let aside = Aside::start(Some(one), one).unwrap();
        let app = AppId::default_app();
        let waits = Arc::new(AtomicBool::new(false));
        let ask = |run: Box<dyn FnOnce(Turn) -> Lane + Send>| {
            let waits = Arc::clone(&waits);
            let waiters = move || {
                let waits = waits.load(Ordering::SeqCst);
                waits.then(|| Arc::from("waits")).into_iter().collect()
            };
            let question = move |turn| {
                Ok(Outcome {
                    verdict: run(turn),
                    effects: Vec::new(),
                })
            };
            let failure = || HookFailure::new("lost".into());
            aside.ask(&app, waiters, question, failure, failure)
        };
        let (entered, has_entered) = sync_channel(1);
        let (release, gate) = sync_channel::<()>(1);
        let first = ask(Box::new(move |turn| {
            entered.send(()).unwrap();
            gate.recv().unwrap();
            turn.lane()
        }));
        has_entered.recv().unwrap();
        let queued = ask(Box::new(Turn::lane));
        waits.store(true, Ordering::SeqCst);
        release.send(()).unwrap();
        assert_eq!(answer(first), Lane::Aside);
        assert_eq!(answer(queued), Lane::Waiting);
        assert_eq!(answer(ask(Box::new(Turn::lane))), Lane::Waiting);
        // Where plugins wait others may be asked, too.
        waits.store(false, Ordering::SeqCst);
        assert_eq!(answer(ask(Box::new(Turn::lane))), Lane::Aside);
    }
}
