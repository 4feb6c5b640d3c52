//! What another node can tell no more: told at once, beside the queues, and answered for.
//!
//! Owns what some plugins took of events that others did not, so that only those are called again. It is remembered
//! for a while and up to a number of events; what is forgotten is told again under its id.

use std::{collections::VecDeque, sync::Arc};

use hashbrown::HashSet;
use parking_lot::Mutex;
use tokio::time::{Duration, Instant};

use super::{
    Event, EventId,
    delivery::{BATCH, Untold, tell},
    queue::Post,
};
use crate::{hooks::Progress, ids::AppId, node::Node};

/// Events remembered of an app's plugins: some pages of a dead node's book.
const MAX_TAKEN: usize = 16 * 1024;

/// How long they are. Whoever has to tell the rest tries every few seconds; a session that is lost again later has to
/// be told of again.
const REMEMBERED: Duration = Duration::from_secs(60);

/// What plugins of an app took of events that others of them did not.
#[derive(Default)]
pub(super) struct Taken {
    inner: Mutex<Inner>,
}

/// A plugin, and an event that it took.
type Pair = (Arc<str>, EventId);

#[derive(Default)]
struct Inner {
    pairs: HashSet<Pair>,
    /// The same, the oldest first, and some that are forgotten already.
    order: VecDeque<(Instant, Pair)>,
}

impl Taken {
    pub(super) fn has(&self, plugin: &Arc<str>, id: EventId, now: Instant) -> bool {
        let mut inner = self.inner.lock();
        if inner.order.is_empty() {
            return false;
        }
        inner.forget_before(now);
        inner.pairs.contains(&(Arc::clone(plugin), id))
    }

    fn remember(&self, plugin: &Arc<str>, events: &[Event], now: Instant) {
        let mut inner = self.inner.lock();
        for event in events {
            let pair = (Arc::clone(plugin), event.id);
            if inner.pairs.insert(pair.clone()) {
                inner.order.push_back((now, pair));
            }
        }
        inner.forget_before(now);
    }

    /// Everybody has taken them.
    fn forget(&self, plugin: &Arc<str>, events: &[Event]) {
        let mut inner = self.inner.lock();
        if inner.order.is_empty() {
            return;
        }
        for event in events {
            inner.pairs.remove(&(Arc::clone(plugin), event.id));
        }
    }
}

impl Inner {
    fn forget_before(&mut self, now: Instant) {
        let is_over = |at: Instant| now >= at + REMEMBERED;
        while self.order.len() > MAX_TAKEN || self.order.front().is_some_and(|(at, _)| is_over(*at))
        {
            if let Some((_, pair)) = self.order.pop_front() {
                self.pairs.remove(&pair);
            }
        }
    }
}

/// Events for one plugin, in calls of at most [`BATCH`].
struct Call {
    post: Arc<Post>,
    wanted: Vec<Event>,
}

impl Node {
    /// Tells every observer of an app of things that another node can tell no more, and answers when all have taken
    /// them. Does not wait in the queues, and tries once: the caller, who has a lease, does it again, and who has
    /// taken an event is not told of it again then.
    ///
    /// # Errors
    /// [`Untold`] of the first plugin that failed.
    pub fn deliver_events(
        self: &Arc<Self>,
        app: &AppId,
        events: Vec<Event>,
    ) -> Progress<Result<(), Untold>> {
        let desk = self.events().desk(app);
        let (posts, now) = (desk.posts.load_full(), Instant::now());
        let mut calls: Vec<Call> = Vec::new();
        for post in posts.iter() {
            let is_to_tell = |event: &&Event| {
                post.wants(event.kind) && !desk.taken.has(&post.plugin, event.id, now)
            };
            let wanted: Vec<Event> = events.iter().filter(is_to_tell).cloned().collect();
            if !wanted.is_empty() {
                let post = Arc::clone(post);
                calls.push(Call { post, wanted });
            }
        }
        if calls.is_empty() {
            return Progress::Ready(Ok(()));
        }
        let node = Arc::clone(self);
        Progress::Pending(Box::pin(async move {
            let mut outcome = Ok(());
            for Call { post, wanted } in &calls {
                for chunk in wanted.chunks(BATCH) {
                    match tell(&node, &post.app, &post.plugin, chunk.to_vec()).await {
                        Ok(()) => {
                            let metrics = &desk.shared.metrics;
                            metrics.delivered.inc_by(chunk.len() as u64);
                            desk.taken.remember(&post.plugin, chunk, Instant::now());
                        }
                        // The others are told all the same.
                        Err(failure) => outcome = outcome.and(Err(failure)),
                    }
                }
            }
            if outcome.is_ok() {
                for post in posts.iter() {
                    desk.taken.forget(&post.plugin, &events);
                }
            }
            outcome
        }))
    }
}
