//! The plugin threads: they take calls off the fair queue and run them.
//!
//! As many as there are cores, and others for plugins that wait ([`Lane::Waiting`]); one app has at most half of them at
//! a time, and one plugin that waits half of what its app has; both at least one. A thread that has nothing to do sleeps. The queue's lock is held for a push or a pop and never while a plugin runs. Dropping the
//! handle drops the calls that wait, lets those under way end, and waits for the threads.

use std::{
    io,
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use tidegate_realtime::ids::AppId;
use tokio::time::Instant;

use super::{
    Lane, Turn, Waiters,
    queue::{FairQueue, Next},
};
use crate::{capabilities::store, deadline::processor_time};

/// After this long in the queue a call is too late, whatever kept it.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_millis(200);

/// The same where plugins wait, whose calls have seconds: a third of what they may take by default.
pub(crate) const LONGEST_WAIT_TO_WAIT: Duration = Duration::from_secs(1);

/// What threads there shall be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ThreadsConfig {
    pub(crate) lane: Lane,
    pub(crate) n_threads: NonZeroUsize,
}

/// A call that runs on a plugin thread.
pub(crate) trait Job: Send {
    /// Does the work; `turn` says what the queue took of its deadline.
    fn run(&mut self, turn: Turn);

    /// Answers who asked. Comes after the work was accounted for, so that what they ask next neither waits for
    /// this thread nor is charged with it.
    fn deliver(self: Box<Self>);
}

struct Waiting {
    job: Box<dyn Job>,
    since: Instant,
    /// [`Shared::busy_micros`] at that moment.
    busy_then: u64,
}

struct Shared {
    state: Mutex<State>,
    wanted: Condvar,
    /// What all these threads took so far: processor time, or where plugins wait time by the clock.
    busy_micros: AtomicU64,
    n_threads: u64,
    lane: Lane,
}

struct State {
    queue: FairQueue<Waiting>,
    /// Threads that sleep.
    idle: usize,
    is_stopped: bool,
}

/// Handle to the threads.
pub(crate) struct PluginThreads {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for PluginThreads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PluginThreads")
            .field("threads", &self.threads.len())
            .finish_non_exhaustive()
    }
}

impl PluginThreads {
    /// # Errors
    /// That of the operating system when it gives no thread.
    pub(crate) fn start(config: ThreadsConfig) -> io::Result<Self> {
        let ThreadsConfig { lane, n_threads } = config;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                queue: FairQueue::new(n_threads.get() / 2),
                idle: 0,
                is_stopped: false,
            }),
            wanted: Condvar::new(),
            busy_micros: AtomicU64::new(0),
            n_threads: n_threads.get() as u64,
            lane,
        });
        let mut threads = Self {
            shared,
            threads: Vec::new(),
        };
        for _ in 0..n_threads.get() {
            let shared = Arc::clone(&threads.shared);
            let thread = thread::Builder::new()
                .name(match lane {
                    Lane::Inline | Lane::Aside => "plugin".to_owned(),
                    Lane::Waiting => "plugin-waiting".to_owned(),
                })
                .spawn(move || run(&shared))?;
            threads.threads.push(thread);
        }
        Ok(threads)
    }

    /// Has the job run when it is the app's turn, and that of the plugins that it waits with.
    ///
    /// # Errors
    /// Gives the job back when too many of the app, or of such a plugin, wait already.
    pub(crate) fn submit(
        &self,
        app: &AppId,
        waiters: Waiters,
        job: Box<dyn Job>,
    ) -> Result<(), Box<dyn Job>> {
        let waiting = Waiting {
            job,
            since: Instant::now(),
            busy_then: self.shared.busy_micros.load(Ordering::Relaxed),
        };
        let mut state = self.shared.state.lock();
        let pushed = state.queue.push(app, waiters, waiting);
        let is_somebody_idle = state.idle > 0;
        drop(state);
        if is_somebody_idle && pushed.is_ok() {
            self.shared.wanted.notify_one();
        }
        pushed.map_err(|waiting| waiting.job)
    }

    pub(crate) fn len(&self) -> usize {
        self.threads.len()
    }

    /// Calls that wait for a thread.
    pub(crate) fn waiting(&self) -> usize {
        self.shared.state.lock().queue.waiting()
    }

    /// Calls of the app that wait for a thread.
    pub(crate) fn waiting_of(&self, app: &AppId) -> usize {
        self.shared.state.lock().queue.waiting_of(app)
    }
}

impl Drop for PluginThreads {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.is_stopped = true;
        // Dropped outside of the lock: who waits for them wakes up.
        let left = std::mem::replace(&mut state.queue, FairQueue::new(1));
        drop(state);
        drop(left);
        self.shared.wanted.notify_all();
        let own = thread::current().id();
        for thread in self.threads.drain(..) {
            if thread.thread().id() != own && thread.join().is_err() {
                tracing::error!("a plugin thread had panicked");
            }
        }
    }
}

/// What a wait costs of a call's deadline. It counts in full where plugins caused it: the app's own, which took
/// `own`, or those of all apps together, which took `share` for each thread. Where the threads mostly did not run,
/// the machine had no core for them, which is no more the plugins' doing than a preempted guest is (see
/// `deadline`): then only the work done counts, up to [`LONGEST_WAIT`].
fn charge(waited: Duration, own: Duration, share: Duration) -> Duration {
    let work = own.max(share);
    if waited > LONGEST_WAIT || work * 2 >= waited {
        waited
    } else {
        work
    }
}

/// What a thread is paid for: where plugins wait, the thread itself is what is scarce.
fn paid_time(lane: Lane, origin: Instant) -> Duration {
    match lane {
        Lane::Inline | Lane::Aside => processor_time(),
        Lane::Waiting => origin.elapsed(),
    }
}

fn run(shared: &Shared) {
    if shared.lane == Lane::Waiting {
        store::let_this_thread_wait();
    }
    let origin = Instant::now();
    let mut paid = paid_time(shared.lane, origin);
    let mut state = shared.state.lock();
    loop {
        if state.is_stopped {
            return;
        }
        let Some(next) = state.queue.pop() else {
            state.idle += 1;
            shared.wanted.wait(&mut state);
            state.idle -= 1;
            if shared.lane == Lane::Waiting {
                // Nobody is paid for sleeping.
                paid = paid_time(shared.lane, origin);
            }
            continue;
        };
        drop(state);
        let Next {
            ticket,
            job: waiting,
            own_micros,
        } = next;
        let Waiting {
            mut job,
            since,
            busy_then,
        } = waiting;
        let busy = shared.busy_micros.load(Ordering::Relaxed) - busy_then;
        let charged = match shared.lane {
            Lane::Inline | Lane::Aside => charge(
                since.elapsed(),
                Duration::from_micros(own_micros),
                Duration::from_micros(busy / shared.n_threads),
            ),
            // Deadlines are by the clock there, and long.
            Lane::Waiting => since.elapsed(),
        };
        let turn = Turn::Aside {
            charged,
            lane: shared.lane,
        };
        // Guests are contained where they are called; this keeps the thread if something of ours gives way.
        let has_failed = catch_unwind(AssertUnwindSafe(|| job.run(turn))).is_err();
        let now = paid_time(shared.lane, origin);
        let worked = micros(now.saturating_sub(paid));
        paid = now;
        shared.busy_micros.fetch_add(worked, Ordering::Relaxed);
        state = shared.state.lock();
        state.queue.done(&ticket, worked);
        // The app's next call became possible only now; if another thread sleeps it shall have it.
        if state.idle > 0 && state.queue.waiting() > 1 {
            shared.wanted.notify_one();
        }
        drop(state);
        if has_failed || catch_unwind(AssertUnwindSafe(|| job.deliver())).is_err() {
            tracing::error!("a question failed on a plugin thread");
        }
        state = shared.state.lock();
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    /// What a test has run; nobody waits for its answer.
    struct Does<F>(Option<F>);

    impl<F: FnOnce() + Send> Job for Does<F> {
        fn run(&mut self, _: Turn) {
            self.0.take().unwrap()();
        }

        fn deliver(self: Box<Self>) {}
    }

    fn job(does: impl FnOnce() + Send + 'static) -> Box<dyn Job> {
        Box::new(Does(Some(does)))
    }

    fn threads(n: usize) -> PluginThreads {
        start(Lane::Aside, n)
    }

    fn start(lane: Lane, n: usize) -> PluginThreads {
        let n_threads = NonZeroUsize::new(n).unwrap();
        PluginThreads::start(ThreadsConfig { lane, n_threads }).unwrap()
    }

    fn submit(threads: &PluginThreads, name: &str, job: Box<dyn Job>) -> Result<(), Box<dyn Job>> {
        threads.submit(&app(name), Waiters::new(), job)
    }

    fn app(name: &str) -> AppId {
        AppId::parse(name).unwrap()
    }

    #[test]
    fn calls_of_one_app_run_in_order_and_a_panic_ends_only_its_own() {
        let threads = threads(2);
        let (sender, receiver) = sync_channel(100);
        for n in 0..100 {
            let sender = sender.clone();
            let job = job(move || {
                assert!(n != 50, "this one gives way");
                sender.send(n).unwrap();
            });
            submit(&threads, "a", job).ok().unwrap();
        }
        drop(sender);
        let order: Vec<_> = receiver.iter().collect();
        let expected: Vec<_> = (0..100).filter(|n| *n != 50).collect();
        assert_eq!(order, expected);
    }

    #[test]
    fn an_app_that_blocks_its_thread_leaves_the_others_to_everybody_else() {
        let threads = threads(2);
        let (release, gate) = sync_channel::<()>(1);
        let (sender, receiver) = sync_channel(10);
        let blocking = job(move || gate.recv().unwrap());
        submit(&threads, "hog", blocking).ok().unwrap();
        for _ in 0..5 {
            let sender = sender.clone();
            let of_hog = job(move || sender.send("hog").unwrap());
            submit(&threads, "hog", of_hog).ok().unwrap();
        }
        let other = sender.clone();
        let job = job(move || other.send("other").unwrap());
        submit(&threads, "other", job).ok().unwrap();
        assert_eq!(receiver.recv().unwrap(), "other");
        assert_eq!(threads.waiting_of(&app("hog")), 5);
        release.send(()).unwrap();
        assert_eq!(receiver.recv().unwrap(), "hog");
    }

    #[test]
    fn where_plugins_wait_an_app_pays_for_the_time_that_it_holds_threads() {
        let threads = start(Lane::Waiting, 1);
        let (entered, has_entered) = sync_channel(1);
        let (release, gate) = sync_channel::<()>(1);
        let (sender, receiver) = sync_channel(10);
        let waits = job(move || {
            entered.send(()).unwrap();
            gate.recv().unwrap();
        });
        submit(&threads, "waits", waits).ok().unwrap();
        has_entered.recv().unwrap();
        for name in ["waits", "waits", "short", "short"] {
            let sender = sender.clone();
            let job = job(move || sender.send(name).unwrap());
            submit(&threads, name, job).ok().unwrap();
        }
        // It used no processor, and held the only thread for longer than the others will.
        let until = Instant::now() + Duration::from_millis(300);
        while Instant::now() < until {
            thread::yield_now();
        }
        release.send(()).unwrap();
        let order: Vec<_> = receiver.iter().take(4).collect();
        assert_eq!(order, ["short", "short", "waits", "waits"]);
    }

    #[test]
    fn what_waits_when_the_threads_stop_is_dropped_and_its_asker_hears_of_it() {
        let threads = threads(1);
        let (entered, has_entered) = sync_channel::<()>(1);
        let (release, gate) = sync_channel::<()>(1);
        let blocking = job(move || {
            entered.send(()).unwrap();
            gate.recv().unwrap();
        });
        submit(&threads, "a", blocking).ok().unwrap();
        has_entered.recv().unwrap();
        let (sender, receiver) = sync_channel::<()>(1);
        let job = job(move || sender.send(()).unwrap());
        submit(&threads, "a", job).ok().unwrap();
        let stopping = thread::spawn(move || drop(threads));
        assert!(receiver.recv().is_err(), "the job was dropped");
        release.send(()).unwrap();
        stopping.join().unwrap();
    }

    /// Answers with what its wait was charged, and says so on delivery.
    struct Charged {
        works_for: Duration,
        charged: Duration,
        answer: std::sync::mpsc::SyncSender<Duration>,
    }

    impl Job for Charged {
        fn run(&mut self, turn: Turn) {
            if let Turn::Aside { charged, .. } = turn {
                self.charged = charged;
            }
            let until = processor_time() + self.works_for;
            while processor_time() < until {}
        }

        fn deliver(self: Box<Self>) {
            self.answer.send(self.charged).unwrap();
        }
    }

    #[test]
    fn who_asks_after_an_answer_is_not_charged_with_the_work_for_it() {
        let threads = threads(1);
        for _ in 0..20 {
            let (answer, answered) = sync_channel(1);
            let asks = Charged {
                works_for: Duration::from_millis(2),
                charged: Duration::MAX,
                answer,
            };
            submit(&threads, "a", Box::new(asks)).ok().unwrap();
            let charged = answered.recv().unwrap();
            // A wait that long is charged whoever caused it; here it would be the machine.
            assert!(charged.is_zero() || charged > LONGEST_WAIT, "{charged:?}");
        }
    }

    #[test]
    fn a_wait_costs_the_deadline_unless_the_machine_made_it() {
        let ms = Duration::from_millis;
        assert_eq!(charge(ms(8), ms(8), ms(0)), ms(8), "its own app's calls");
        assert_eq!(charge(ms(8), ms(1), ms(4)), ms(8), "everybody's calls");
        assert_eq!(charge(ms(8), ms(1), ms(2)), ms(2), "mostly nobody ran");
        assert_eq!(charge(ms(201), ms(1), ms(1)), ms(201));
    }
}
