//! Who is online on a node that stands alone.
//!
//! Owns the users that plugins were told of, while some plugin wants to be told. A user whose last session went is
//! there for a moment longer: who reconnects within it was never gone. With others beside it a node leaves this to the
//! directory. Invariant: whatever order comings and goings are told in, what a plugin was told last is true once
//! nobody comes or goes for the length of a grace.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::Node;
use crate::{
    directory::{Moment, User, registrar::GRACE},
    session::Now,
};

#[derive(Default)]
pub(super) struct Statuses {
    users: Mutex<Users>,
    /// Somebody leaves, or nobody does any more.
    changed: Notify,
    /// Of the coming or going that was told last.
    last_moment: AtomicU64,
}

#[derive(Default)]
struct Users {
    known: HashMap<User, Status>,
    /// Those that are leaving, in order, and some that have come back meanwhile.
    leaving: VecDeque<(Instant, User)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Online,
    LeavingAt(Instant),
}

impl Statuses {
    /// A session of the user came; true if that is news.
    pub(super) fn came(&self, user: User) -> bool {
        self.users
            .lock()
            .known
            .insert(user, Status::Online)
            .is_none()
    }

    /// The moment of a coming or going, after that of any before.
    pub(super) fn next_moment(&self) -> Moment {
        let now = Now::read().unix_millis;
        let next = |last: u64| now.max(last + 1);
        // Relaxed: a counter; nothing else hangs on it.
        let update = |last| Some(next(last));
        let last = self
            .last_moment
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, update);
        Moment::new(next(last.unwrap_or_else(|last| last)))
    }

    /// The last session of the user went.
    pub(super) fn went(&self, user: User) {
        let at = Instant::now() + GRACE;
        let mut users = self.users.lock();
        users.known.insert(user.clone(), Status::LeavingAt(at));
        users.leaving.push_back((at, user));
        drop(users);
        self.changed.notify_waiters();
    }

    /// The users whose time is over, unless `is_here` says otherwise.
    fn settle(&self, now: Instant, is_here: impl Fn(&User) -> bool) -> Vec<User> {
        let mut gone = Vec::new();
        let mut users = self.users.lock();
        while let Some((at, user)) = users.leaving.pop_front_if(|(at, _)| *at <= now) {
            if users.known.get(&user) != Some(&Status::LeavingAt(at)) {
                continue;
            }
            if is_here(&user) {
                users.known.insert(user, Status::Online);
            } else {
                users.known.remove(&user);
                gone.push(user);
            }
        }
        drop(users);
        self.changed.notify_waiters();
        gone
    }

    fn next_due(&self) -> Option<Instant> {
        self.users.lock().leaving.front().map(|(at, _)| *at)
    }

    /// Waits until nobody is leaving.
    pub(super) async fn settled(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.next_due().is_none() {
                return;
            }
            changed.await;
        }
    }
}

/// Tells of users whose grace is over, until `stop`.
pub(super) async fn run(node: Arc<Node>, stop: CancellationToken) {
    loop {
        let changed = node.statuses.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        let due = node.statuses.next_due();
        tokio::select! {
            biased; // Stop wins, so that shutdown is prompt.
            () = stop.cancelled() => return,
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                let is_here = |user: &User| {
                    node.app(&user.app).is_some_and(|app| app.has_user(&user.name))
                };
                for user in node.statuses.settle(Instant::now(), is_here) {
                    node.user_went(&user, node.statuses.next_moment());
                }
            }
            () = changed => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::AppId;

    fn ann() -> User {
        User {
            app: AppId::default_app(),
            name: "ann".into(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_back_within_the_grace_was_never_gone() {
        let statuses = Statuses::default();
        assert!(statuses.came(ann()) && !statuses.came(ann()));
        statuses.went(ann());
        assert!(!statuses.came(ann()));
        let later = Instant::now() + GRACE;
        assert_eq!(statuses.settle(later, |_| false), []);
        statuses.went(ann());
        assert_eq!(statuses.settle(Instant::now(), |_| false), []);
        assert_eq!(statuses.settle(later, |_| false), [ann()]);
        assert!(statuses.came(ann()));
    }

    #[test]
    fn moments_rise() {
        let statuses = Statuses::default();
        let moments = [(); 5].map(|()| statuses.next_moment());
        assert!(moments.is_sorted_by(|one, next| one < next), "{moments:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_going_that_is_told_late_does_not_end_who_is_here() {
        let statuses = Statuses::default();
        assert!(statuses.came(ann()));
        // The session that came meanwhile was told first.
        assert!(!statuses.came(ann()));
        statuses.went(ann());
        let later = Instant::now() + GRACE;
        assert_eq!(statuses.settle(later, |_| true), []);
        statuses.went(ann());
        assert_eq!(statuses.settle(later, |_| false), [ann()]);
    }
}
