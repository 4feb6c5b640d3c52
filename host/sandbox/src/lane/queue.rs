//! Who is next on the aside lane: fair to apps by the processor time that they take, not by the calls they make.
//!
//! Each app has a line, first in, first out. The app whose calls have taken the least so far is next, so an app
//! of short calls gets many of them done beside one of long calls. An app that had nothing to do does not save
//! up time: it starts where the others are. Pure: no threads, no clock. Bounds: [`LINE`] calls an app, and
//! [`ALL`] in all, beyond which an app may still have [`SHORT_LINE`].
//!
//! Calls of plugins that wait for other machines say which these are. Each plugin has a share of what its app may run
//! and queue: calls over it are passed by what came later and needs other plugins.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use tidegate_realtime::ids::AppId;

use super::Waiters;

/// Calls of one app that may wait.
pub(crate) const LINE: usize = 1_000;
/// Calls that may wait in all; a job is a few hundred bytes and the message that it holds.
const ALL: usize = 32_768;
/// Calls of an app that may wait when the lane as a whole is full, so that a few apps cannot shut the others out.
const SHORT_LINE: usize = 64;

/// A call whose turn has come.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Next<J> {
    pub(crate) ticket: Ticket,
    pub(crate) job: J,
    /// Microseconds that the app's other calls took while this one waited.
    pub(crate) own_micros: u64,
}

/// Whose call runs; [`FairQueue::done`] takes it back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    app: AppId,
    waiters: Waiters,
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
    /// Calls that came so far.
    came: u64,
    /// What the app that ran last had taken: where newcomers start.
    level: u64,
}

#[derive(Debug)]
struct Line<J> {
    /// Those with calls waiting; the calls of most apps form one.
    parts: SmallVec<[Part<J>; 1]>,
    waiting: usize,
    running: usize,
    /// Of plugins that wait for other machines.
    running_of: Vec<(Arc<str>, usize)>,
    /// Microseconds that the app's calls took, above the level at which it came in.
    taken: u64,
}

/// The calls of an app that need the same plugins.
#[derive(Debug)]
struct Part<J> {
    waiters: Waiters,
    jobs: VecDeque<Queued<J>>,
}

#[derive(Debug)]
struct Queued<J> {
    job: J,
    /// The place in the app's line.
    number: u64,
    /// What the app had taken when it came.
    then: u64,
}

impl<J> Line<J> {
    fn new() -> Self {
        Self {
            parts: SmallVec::new(),
            waiting: 0,
            running: 0,
            running_of: Vec::new(),
            taken: 0,
        }
    }

    /// The part whose first call is next, if the app may run one.
    fn next_part(&self, most_at_once: usize) -> Option<usize> {
        if self.running >= most_at_once {
            return None;
        }
        let most_of_plugin = share(most_at_once);
        let has_room = |part: &Part<J>| {
            let full = |(plugin, running): &(Arc<str>, usize)| {
                *running >= most_of_plugin && part.waiters.contains(plugin)
            };
            !self.running_of.iter().any(full)
        };
        let parts = self.parts.iter().enumerate();
        parts
            .filter(|(_, part)| has_room(part))
            .filter_map(|(index, part)| Some((part.jobs.front()?.number, index)))
            .min()
            .map(|(_, index)| index)
    }

    fn take(&mut self, index: usize) -> Option<(Waiters, Queued<J>)> {
        let part = self.parts.get_mut(index)?;
        let queued = part.jobs.pop_front()?;
        let waiters = part.waiters.clone();
        if part.jobs.is_empty() {
            self.parts.swap_remove(index);
        }
        self.waiting -= 1;
        self.running += 1;
        for plugin in &waiters {
            match self.running_of.iter_mut().find(|(of, _)| of == plugin) {
                Some((_, running)) => *running += 1,
                None => self.running_of.push((Arc::clone(plugin), 1)),
            }
        }
        Some((waiters, queued))
    }

    fn ended(&mut self, waiters: &Waiters) {
        self.running -= 1;
        for plugin in waiters {
            if let Some((_, running)) = self.running_of.iter_mut().find(|(of, _)| of == plugin) {
                *running -= 1;
            }
        }
        self.running_of.retain(|(_, running)| *running > 0);
    }
}

/// What one plugin may have of what its app may have.
fn share(of_app: usize) -> usize {
    (of_app / 2).max(1)
}

impl<J> FairQueue<J> {
    /// `most_at_once` is how many calls of one app may run at the same time; those of one plugin that waits are half
    /// as many.
    pub(crate) fn new(most_at_once: usize) -> Self {
        Self {
            lines: FxHashMap::default(),
            ready: BTreeSet::new(),
            most_at_once: most_at_once.max(1),
            waiting: 0,
            came: 0,
            level: 0,
        }
    }

    /// Puts a call at the end of the app's line; it asks these plugins, which may wait for other machines.
    ///
    /// # Errors
    /// Gives the call back when the line is full.
    pub(crate) fn push(&mut self, app: &AppId, waiters: Waiters, job: J) -> Result<(), J> {
        let most = if self.waiting >= ALL {
            SHORT_LINE
        } else {
            LINE
        };
        let line = self.lines.entry(app.clone()).or_insert_with(Line::new);
        let of_plugin = |plugin| {
            let parts = line.parts.iter();
            let asking = parts.filter(|part| part.waiters.contains(plugin));
            asking.map(|part| part.jobs.len()).sum::<usize>()
        };
        if line.waiting >= most
            || waiters
                .iter()
                .any(|plugin| of_plugin(plugin) >= share(most))
        {
            return Err(job);
        }
        if line.waiting == 0 && line.running == 0 {
            line.taken = line.taken.max(self.level);
        }
        let queued = Queued {
            job,
            number: self.came,
            then: line.taken,
        };
        self.came += 1;
        match line.parts.iter_mut().find(|part| part.waiters == waiters) {
            Some(part) => part.jobs.push_back(queued),
            None => line.parts.push(Part {
                waiters,
                jobs: VecDeque::from([queued]),
            }),
        }
        line.waiting += 1;
        self.waiting += 1;
        if line.next_part(self.most_at_once).is_some() {
            self.ready.insert((line.taken, app.clone()));
        }
        Ok(())
    }

    /// The next call to run; [`Self::done`] must follow.
    pub(crate) fn pop(&mut self) -> Option<Next<J>> {
        let (taken, app) = self.ready.pop_first()?;
        self.level = self.level.max(taken);
        let line = self.lines.get_mut(&app).expect("a ready app has a line");
        let next = line
            .next_part(self.most_at_once)
            .and_then(|part| line.take(part));
        let (waiters, queued) = next.expect("a ready app has a call that may run");
        self.waiting -= 1;
        if line.next_part(self.most_at_once).is_some() {
            self.ready.insert((line.taken, app.clone()));
        }
        Some(Next {
            ticket: Ticket { app, waiters },
            job: queued.job,
            own_micros: line.taken - queued.then,
        })
    }

    /// A call ended after so many microseconds.
    pub(crate) fn done(&mut self, ticket: &Ticket, took_micros: u64) {
        let Ticket { app, waiters } = ticket;
        let Some(line) = self.lines.get_mut(app) else {
            return;
        };
        self.ready.remove(&(line.taken, app.clone()));
        line.ended(waiters);
        line.taken += took_micros.max(1);
        if line.next_part(self.most_at_once).is_some() {
            self.ready.insert((line.taken, app.clone()));
        } else if line.waiting == 0 && line.running == 0 && line.taken <= self.level {
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
        self.lines.get(app).map_or(0, |line| line.waiting)
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

    fn push(queue: &mut FairQueue<usize>, app: &AppId, job: usize) -> Result<(), usize> {
        queue.push(app, Waiters::new(), job)
    }

    fn waiters(plugins: &[&str]) -> Waiters {
        plugins.iter().map(|plugin| Arc::from(*plugin)).collect()
    }

    fn ticket(app: &AppId, plugins: &[&str]) -> Ticket {
        Ticket {
            app: app.clone(),
            waiters: waiters(plugins),
        }
    }

    #[test]
    fn a_plugin_that_waits_runs_half_of_its_app_and_others_pass_it_by() {
        let mut queue = FairQueue::new(4);
        let app = app(1);
        for job in 0..4 {
            queue.push(&app, waiters(&["stuck"]), job).unwrap();
        }
        queue.push(&app, waiters(&["other"]), 4).unwrap();
        queue.push(&app, waiters(&["other", "stuck"]), 5).unwrap();
        queue.push(&app, waiters(&["other"]), 6).unwrap();
        assert_eq!([pop(&mut queue), pop(&mut queue)], [Some(0), Some(1)]);
        assert_eq!([pop(&mut queue), pop(&mut queue)], [Some(4), Some(6)]);
        assert_eq!(pop(&mut queue), None, "four of the app run");
        queue.done(&ticket(&app, &["other"]), 1);
        assert_eq!(pop(&mut queue), None, "who needs both has to wait for both");
        queue.done(&ticket(&app, &["stuck"]), 1);
        assert_eq!([pop(&mut queue), pop(&mut queue)], [Some(2), None]);
        queue.done(&ticket(&app, &["stuck"]), 1);
        queue.done(&ticket(&app, &["stuck"]), 1);
        assert_eq!([pop(&mut queue), pop(&mut queue)], [Some(3), Some(5)]);
        let mut alone = FairQueue::new(1);
        alone.push(&app, waiters(&["stuck"]), 0).unwrap();
        assert_eq!(pop(&mut alone), Some(0), "one may run in any case");
    }

    #[test]
    fn a_plugin_that_waits_leaves_half_of_the_line_to_others() {
        let mut queue = FairQueue::new(2);
        for job in 0..LINE / 2 {
            let asked: &[&str] = if job % 2 == 0 {
                &["stuck"]
            } else {
                &["other", "stuck"]
            };
            queue.push(&app(1), waiters(asked), job).unwrap();
        }
        assert_eq!(queue.push(&app(1), waiters(&["stuck"]), 7), Err(7));
        queue.push(&app(1), waiters(&["other"]), 8).unwrap();
        assert_eq!(queue.push(&app(1), waiters(&["other", "stuck"]), 9), Err(9));
    }

    #[test]
    fn an_app_of_short_calls_is_served_beside_one_of_long_calls() {
        let mut queue = FairQueue::new(1);
        let (long, short) = (app(1), app(2));
        for job in 0..200 {
            push(&mut queue, &long, job).unwrap();
            push(&mut queue, &short, 1_000 + job).unwrap();
        }
        let mut served = HashMap::new();
        for _ in 0..110 {
            let ticket = queue.pop().unwrap().ticket;
            queue.done(&ticket, if ticket.app == long { 20_000 } else { 200 });
            *served.entry(ticket.app).or_insert(0) += 1;
        }
        // A hundred calls of the one take as long as one of the other.
        assert!(served[&short] >= 100, "{served:?}");
        assert!(served[&long] >= 1, "{served:?}");
    }

    #[test]
    fn one_app_runs_no_more_than_its_share_at_once() {
        let mut queue = FairQueue::new(2);
        for job in 0..5 {
            push(&mut queue, &app(1), job).unwrap();
        }
        assert_eq!([pop(&mut queue), pop(&mut queue)], [Some(0), Some(1)]);
        assert_eq!(pop(&mut queue), None, "two of it run");
        push(&mut queue, &app(2), 9).unwrap();
        assert_eq!(pop(&mut queue), Some(9), "the other app is not held up");
        queue.done(&ticket(&app(1), &[]), 1);
        assert_eq!(pop(&mut queue), Some(2));
    }

    #[test]
    fn time_is_not_saved_up_by_doing_nothing_nor_forgotten_by_leaving() {
        let mut queue = FairQueue::new(1);
        for _ in 0..100 {
            push(&mut queue, &app(1), 0).unwrap();
            let first = queue.pop().unwrap();
            queue.done(&first.ticket, 1_000);
        }
        // The newcomer does not get a hundred calls in a row.
        for _ in 0..3 {
            push(&mut queue, &app(1), 1).unwrap();
            push(&mut queue, &app(2), 2).unwrap();
        }
        let mut order = Vec::new();
        while let Some(Next { ticket, job, .. }) = queue.pop() {
            order.push(job);
            queue.done(&ticket, 1_000);
        }
        assert_eq!(order, [2, 1, 2, 1, 2, 1]);
    }

    #[test]
    fn lines_are_bounded_and_a_full_lane_leaves_room_for_every_app() {
        let mut queue = FairQueue::new(1);
        for job in 0..LINE {
            push(&mut queue, &app(0), job).unwrap();
        }
        assert_eq!(push(&mut queue, &app(0), 7), Err(7));
        for n in 1..ALL.div_ceil(LINE) {
            for job in 0..LINE {
                let _ = push(&mut queue, &app(n), job);
            }
        }
        assert!(queue.waiting() >= ALL);
        for job in 0..SHORT_LINE {
            push(&mut queue, &app(999), job).unwrap();
        }
        assert_eq!(push(&mut queue, &app(999), 7), Err(7));
    }

    #[test]
    fn a_call_knows_what_its_own_app_took_while_it_waited() {
        let mut queue = FairQueue::new(1);
        for job in 0..3 {
            push(&mut queue, &app(1), job).unwrap();
        }
        let mut own = Vec::new();
        while let Some(next) = queue.pop() {
            own.push(next.own_micros);
            queue.done(&next.ticket, 700);
        }
        assert_eq!(own, [0, 700, 1_400]);
    }

    #[derive(Debug, Clone)]
    enum Event {
        /// App, and which plugins it asks.
        Push(usize, usize),
        Pop,
        Done(usize, u64),
    }

    const ASKED: [&[&str]; 4] = [&[], &["a"], &["b"], &["a", "b"]];

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (0_usize..4, 0..ASKED.len()).prop_map(|(app, asked)| Event::Push(app, asked)),
            Just(Event::Pop),
            (0_usize..8, 0_u64..5_000).prop_map(|(which, took)| Event::Done(which, took)),
        ]
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_reordered_and_no_thread_idles_without_need(
            events in proptest::collection::vec(event(), 1..300), most in 1_usize..6,
        ) {
            let mut queue = FairQueue::new(most);
            let mut next = 0;
            let mut waiting: HashMap<(AppId, usize), VecDeque<usize>> = HashMap::new();
            let mut running: Vec<Ticket> = Vec::new();
            for event in events {
                match event {
                    Event::Push(n, asked) => {
                        queue.push(&app(n), waiters(ASKED[asked]), next).unwrap();
                        waiting.entry((app(n), asked)).or_default().push_back(next);
                        next += 1;
                    }
                    Event::Pop => {
                        let may_run = waiting.iter().any(|((app, asked), jobs)| {
                            let of_app = || running.iter().filter(|other| other.app == *app);
                            let is_full = |plugin: &&str| {
                                let of_plugin = of_app().filter(|other| {
                                    other.waiters.iter().any(|waiter| **waiter == **plugin)
                                });
                                of_plugin.count() >= (most / 2).max(1)
                            };
                            !jobs.is_empty()
                                && of_app().count() < most
                                && !ASKED[*asked].iter().any(is_full)
                        });
                        match queue.pop() {
                            Some(Next { ticket, job, .. }) => {
                                prop_assert!(may_run, "nobody could have run");
                                let asked = ASKED.iter().position(|asked| waiters(asked) == ticket.waiters);
                                let line = waiting.get_mut(&(ticket.app.clone(), asked.unwrap())).unwrap();
                                prop_assert_eq!(line.pop_front(), Some(job));
                                running.push(ticket);
                            }
                            None => prop_assert!(!may_run, "somebody could have run"),
                        }
                    }
                    Event::Done(which, took) => {
                        if which < running.len() {
                            let ticket = running.swap_remove(which);
                            queue.done(&ticket, took);
                        }
                    }
                }
                let left: usize = waiting.values().map(VecDeque::len).sum();
                prop_assert_eq!(queue.waiting(), left);
            }
        }
    }
}
