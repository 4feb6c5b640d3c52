//! Who is next on the aside lane: fair to apps by the processor time that they take, not by the calls they make.
//!
//! Each app has a line, first in, first out. The app whose calls have taken the least so far is next, so an app
//! of short calls gets many of them done beside one of long calls. An app that had nothing to do does not save
//! up time: it starts where the others are. Pure: no threads, no clock. Bounds: [`LINE`] calls an app, and
//! [`ALL`] in all, beyond which an app may still have [`SHORT_LINE`].

use std::collections::{BTreeSet, VecDeque};

use rustc_hash::FxHashMap;
use tidegate_realtime::ids::AppId;

/// Calls of one app that may wait.
pub(crate) const LINE: usize = 1_000;
/// Calls that may wait in all; a job is a few hundred bytes and the message that it holds.
const ALL: usize = 32_768;
/// Calls of an app that may wait when the lane as a whole is full, so that a few apps cannot shut the others out.
const SHORT_LINE: usize = 64;

/// A call whose turn has come.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Next<J> {
    pub(crate) app: AppId,
    pub(crate) job: J,
    /// Microseconds that the app's other calls took while this one waited.
    pub(crate) own_micros: u64,
}

/// Calls that wait, and who runs.
#[derive(Debug)]
pub(crate) struct FairQueue<J> {
    lines: FxHashMap<AppId, Line<J>>,
    /// Apps that have a call waiting and may run one, by what they took so far.
    ready: BTreeSet<(u64, AppId)>,
    /// Calls of one app that may run at once.
    most_at_once: usize,
    waiting: usize,
    /// What the app that ran last had taken: where newcomers start.
    level: u64,
}

#[derive(Debug)]
struct Line<J> {
    /// With what the app had taken when they came.
    jobs: VecDeque<(u64, J)>,
    running: usize,
    /// Microseconds that the app's calls took, above the level at which it came in.
    taken: u64,
}

impl<J> FairQueue<J> {
    /// `most_at_once` is how many calls of one app may run at the same time.
    pub(crate) fn new(most_at_once: usize) -> Self {
        Self {
            lines: FxHashMap::default(),
            ready: BTreeSet::new(),
            most_at_once: most_at_once.max(1),
            waiting: 0,
            level: 0,
        }
    }

    /// Puts a call at the end of the app's line.
    ///
    /// # Errors
    /// Gives the call back when the line is full.
    pub(crate) fn push(&mut self, app: &AppId, job: J) -> Result<(), J> {
        let line = self.lines.entry(app.clone()).or_insert_with(|| Line {
            jobs: VecDeque::new(),
            running: 0,
            taken: 0,
        });
        let most = if self.waiting >= ALL {
            SHORT_LINE
        } else {
            LINE
        };
        if line.jobs.len() >= most {
            return Err(job);
        }
        if line.jobs.is_empty() && line.running == 0 {
            line.taken = line.taken.max(self.level);
        }
        line.jobs.push_back((line.taken, job));
        self.waiting += 1;
        if line.running < self.most_at_once {
            self.ready.insert((line.taken, app.clone()));
        }
        Ok(())
    }

    /// The next call to run; [`Self::done`] must follow.
    pub(crate) fn pop(&mut self) -> Option<Next<J>> {
        let (taken, app) = self.ready.pop_first()?;
        self.level = self.level.max(taken);
        let line = self.lines.get_mut(&app).expect("a ready app has a line");
        let (then, job) = line.jobs.pop_front().expect("a ready app has a call");
        let own_micros = line.taken - then;
        self.waiting -= 1;
        line.running += 1;
        if !line.jobs.is_empty() && line.running < self.most_at_once {
            self.ready.insert((line.taken, app.clone()));
        }
        Some(Next {
            app,
            job,
            own_micros,
        })
    }

    /// A call of the app ended after so many microseconds.
    pub(crate) fn done(&mut self, app: &AppId, took_micros: u64) {
        let Some(line) = self.lines.get_mut(app) else {
            return;
        };
        self.ready.remove(&(line.taken, app.clone()));
        line.running -= 1;
        line.taken += took_micros.max(1);
        if !line.jobs.is_empty() {
            self.ready.insert((line.taken, app.clone()));
        } else if line.running == 0 && line.taken <= self.level {
            // It would start at the level anyway.
            self.lines.remove(app);
        }
    }

    /// Calls that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Calls of the app that wait.
    pub(crate) fn waiting_of(&self, app: &AppId) -> usize {
        self.lines.get(app).map_or(0, |line| line.jobs.len())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn app(n: usize) -> AppId {
        AppId::parse(&format!("app-{n}")).unwrap()
    }

    fn pop(queue: &mut FairQueue<usize>) -> Option<usize> {
        queue.pop().map(|next| next.job)
    }

    #[test]
    fn an_app_of_short_calls_is_served_beside_one_of_long_calls() {
        let mut queue = FairQueue::new(1);
        let (long, short) = (app(1), app(2));
        for job in 0..200 {
            queue.push(&long, job).unwrap();
            queue.push(&short, 1_000 + job).unwrap();
        }
        let mut served = HashMap::new();
        for _ in 0..110 {
            let app = queue.pop().unwrap().app;
            queue.done(&app, if app == long { 20_000 } else { 200 });
            *served.entry(app).or_insert(0) += 1;
        }
        // A hundred calls of the one take as long as one of the other.
        assert!(served[&short] >= 100, "{served:?}");
        assert!(served[&long] >= 1, "{served:?}");
    }

    #[test]
    fn one_app_runs_no_more_than_its_share_at_once() {
        let mut queue = FairQueue::new(2);
        for job in 0..5 {
            queue.push(&app(1), job).unwrap();
        }
        assert_eq!([pop(&mut queue), pop(&mut queue)], [Some(0), Some(1)]);
        assert_eq!(pop(&mut queue), None, "two of it run");
        queue.push(&app(2), 9).unwrap();
        assert_eq!(pop(&mut queue), Some(9), "the other app is not held up");
        queue.done(&app(1), 1);
        assert_eq!(pop(&mut queue), Some(2));
    }

    #[test]
    fn time_is_not_saved_up_by_doing_nothing_nor_forgotten_by_leaving() {
        let mut queue = FairQueue::new(1);
        for _ in 0..100 {
            queue.push(&app(1), 0).unwrap();
            let first = queue.pop().unwrap();
            queue.done(&first.app, 1_000);
        }
        // The newcomer does not get a hundred calls in a row.
        for _ in 0..3 {
            queue.push(&app(1), 1).unwrap();
            queue.push(&app(2), 2).unwrap();
        }
        let mut order = Vec::new();
        while let Some(Next { app, job, .. }) = queue.pop() {
            order.push(job);
            queue.done(&app, 1_000);
        }
        assert_eq!(order, [2, 1, 2, 1, 2, 1]);
    }

    #[test]
    fn lines_are_bounded_and_a_full_lane_leaves_room_for_every_app() {
        let mut queue = FairQueue::new(1);
        for job in 0..LINE {
            queue.push(&app(0), job).unwrap();
        }
        assert_eq!(queue.push(&app(0), 7), Err(7));
        for n in 1..ALL.div_ceil(LINE) {
            for job in 0..LINE {
                let _ = queue.push(&app(n), job);
            }
        }
        assert!(queue.waiting() >= ALL);
        for job in 0..SHORT_LINE {
            queue.push(&app(999), job).unwrap();
        }
        assert_eq!(queue.push(&app(999), 7), Err(7));
    }

    #[test]
    fn a_call_knows_what_its_own_app_took_while_it_waited() {
        let mut queue = FairQueue::new(1);
        for job in 0..3 {
            queue.push(&app(1), job).unwrap();
        }
        let mut own = Vec::new();
        while let Some(next) = queue.pop() {
            own.push(next.own_micros);
            queue.done(&next.app, 700);
        }
        assert_eq!(own, [0, 700, 1_400]);
    }

    #[derive(Debug, Clone)]
    enum Event {
        Push(usize),
        Pop,
        Done(usize, u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (0_usize..4).prop_map(Event::Push),
            Just(Event::Pop),
            (0_usize..8, 0_u64..5_000).prop_map(|(which, took)| Event::Done(which, took)),
        ]
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_reordered_and_no_thread_idles_without_need(
            events in proptest::collection::vec(event(), 1..300), most in 1_usize..3,
        ) {
            let mut queue = FairQueue::new(most);
            let mut next = 0;
            let mut waiting: HashMap<AppId, VecDeque<usize>> = HashMap::new();
            let mut running: Vec<AppId> = Vec::new();
            for event in events {
                match event {
                    Event::Push(n) => {
                        queue.push(&app(n), next).unwrap();
                        waiting.entry(app(n)).or_default().push_back(next);
                        next += 1;
                    }
                    Event::Pop => {
                        let may_run = waiting.iter().any(|(app, jobs)| {
                            let runs = running.iter().filter(|other| *other == app).count();
                            !jobs.is_empty() && runs < most
                        });
                        match queue.pop() {
                            Some(Next { app, job, .. }) => {
                                let line = waiting.get_mut(&app).unwrap();
                                prop_assert_eq!(line.pop_front(), Some(job));
                                running.push(app);
                            }
                            None => prop_assert!(!may_run, "somebody could have run"),
                        }
                    }
                    Event::Done(which, took) => {
                        if which < running.len() {
                            let app = running.swap_remove(which);
                            queue.done(&app, took);
                        }
                    }
                }
                let left: usize = waiting.values().map(VecDeque::len).sum();
                prop_assert_eq!(queue.waiting(), left);
            }
        }
    }
}
