//! How events get to their plugins: one batch at a time for each, again and again where it must be.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    Event, Events, Shared,
    queue::{Entry, Post},
};
use crate::{
    hooks::{EventsQuestion, HookFailure, Progress},
    ids::AppId,
    node::Node,
    publish::run_effects,
};

/// Most events in one call. For each of them a plugin can publish a message and use its state twice, within the limits
/// that hold for every call (32 effects, 32 operations, 100 calls into the host).
pub const BATCH: usize = 16;

/// How long the first event of a batch waits for others.
const LINGER: Duration = Duration::from_millis(50);

/// How often what is kept is handed over before it is given up: for about a minute and a half, which is longer than
/// a breaker stays open and an operator needs to put the former version back.
const MAX_TRIES: u32 = 16;

/// After this many tries a batch is halved with each further one, so that an event that brings its plugin down takes
/// no others with it.
const WHOLE_TRIES: u32 = 2;

const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);

/// How many posts are being worked on.
#[derive(Debug, Default)]
pub(super) struct Busy {
    number: AtomicUsize,
    idle: Notify,
}

impl Busy {
    pub(super) fn add(&self) {
        self.number.fetch_add(1, Ordering::AcqRel);
    }

    fn remove(&self) {
        if self.number.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.idle.notify_waiters();
        }
    }

    async fn wait_for_idle(&self) {
        loop {
            let idle = self.idle.notified();
            let mut idle = std::pin::pin!(idle);
            // Before the look, so that a change after it is heard.
            idle.as_mut().enable();
            if self.number.load(Ordering::Acquire) == 0 {
                return;
            }
            idle.await;
        }
    }
}

/// Delivers until `stop`; what waits then is lost, see [`Events::drain`].
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    let events = Arc::clone(node.events());
    let shared = &events.shared;
    let mut deliveries = JoinSet::new();
    loop {
        let ready = std::mem::take(&mut *shared.ready.lock());
        for post in ready {
            let work = deliver_all(Arc::clone(&node), Arc::clone(shared), post);
            deliveries.spawn(work);
        }
        tokio::select! {
            biased; // Stop wins, so that shutdown is prompt.
            () = stop.cancelled() => break,
            () = shared.wake.notified() => {}
            Some(ended) = deliveries.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a delivery of events ended early");
                }
            }
        }
    }
    let left = shared.metrics.queued.get();
    if left > 0 {
        tracing::warn!(
            left,
            "the node stops with events that no plugin took; their plugins were too slow, or failed"
        );
    }
}

/// Ends the work on a post, however it ends.
struct Working {
    shared: Arc<Shared>,
    post: Arc<Post>,
}

impl Drop for Working {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.post.abandon();
        }
        self.shared.busy.remove();
    }
}

async fn deliver_all(node: Arc<Node>, shared: Arc<Shared>, post: Arc<Post>) {
    let _working = Working {
        shared: Arc::clone(&shared),
        post: Arc::clone(&post),
    };
    loop {
        if !post.is_full() {
            tokio::select! {
                () = tokio::time::sleep(LINGER) => {}
                () = post.full.notified() => {}
                () = shared.draining.cancelled() => {}
            }
        }
        let Some(batch) = post.take() else {
            return;
        };
        deliver_batch(&node, &shared, &post, batch).await;
    }
}

/// Hands a batch over until it was taken, or given up.
async fn deliver_batch(node: &Arc<Node>, shared: &Shared, post: &Post, batch: Vec<Arc<Entry>>) {
    // What is to be done, the next at the end.
    let mut parts = vec![(batch, 0_u32)];
    while let Some((mut part, tries)) = parts.pop() {
        if post.is_retired() {
            shared.metrics.dropped_unbound(part.len());
            post.finish(&part, &shared.room);
            continue;
        }
        let told: Vec<Event> = part.iter().map(|entry| entry.event.clone()).collect();
        let Err(failure) = tell(node, &post.app, &post.plugin, told).await else {
            shared.metrics.taken(part.len());
            post.finish(&part, &shared.room);
            continue;
        };
        let news: Vec<_> = part
            .extract_if(.., |entry| !entry.event.kind.is_kept())
            .collect();
        shared.metrics.dropped_failed(news.len());
        post.finish(&news, &shared.room);
        let tries = tries + 1;
        if part.is_empty() {
            continue;
        }
        if tries >= MAX_TRIES {
            tracing::error!(
                app = %post.app, plugin = %post.plugin, events = part.len(), trace_id = %failure.trace_id,
                "events are given up: the plugin failed at them each time; mend it, what it keeps of sessions is behind"
            );
            shared.metrics.given_up(part.len());
            post.finish(&part, &shared.room);
            continue;
        }
        shared.metrics.retries.inc();
        if tries > WHOLE_TRIES && part.len() > 1 {
            let second = part.split_off(part.len() / 2);
            parts.push((second, tries));
        }
        parts.push((part, tries));
        tokio::time::sleep(backoff(tries, shared.draining.is_cancelled())).await;
    }
}

/// How long to wait before the next try; a node that is about to stop does not have the time.
fn backoff(tries: u32, is_draining: bool) -> Duration {
    if is_draining {
        return FIRST_BACKOFF;
    }
    let doubled = FIRST_BACKOFF.saturating_mul(1 << tries.saturating_sub(1).min(16));
    doubled
        .min(LONGEST_BACKOFF)
        .mul_f64(rand::random_range(0.8..=1.2))
}

/// Makes one call, and does what came of it.
async fn tell(
    node: &Arc<Node>,
    app: &AppId,
    plugin: &Arc<str>,
    batch: Vec<Event>,
) -> Result<(), HookFailure> {
    let hops = batch.iter().map(|event| event.hops).max().unwrap_or(0);
    let question = EventsQuestion {
        app: app.clone(),
        plugin: Arc::clone(plugin),
        batch,
    };
    let outcome = node.hooks().events(question).wait().await?;
    if let Some(app) = node.app(app)
        && !outcome.effects.is_empty()
    {
        run_effects(node, &app, outcome.effects, hops).wait().await;
    }
    Ok(())
}

impl Events {
    /// Delivers what waits, for as long as `within`: to be called when nothing more happens and before the node's
    /// services end.
    pub async fn drain(&self, within: Duration) {
        self.shared.draining.cancel();
        let _ = tokio::time::timeout(within, self.shared.busy.wait_for_idle()).await;
    }
}

impl Node {
    /// Tells every observer of an app of things that another node can tell no more, and answers when all have taken
    /// them. Does not wait in the queues, and tries once: the caller, who has a lease, does it again.
    ///
    /// # Errors
    /// [`HookFailure`] of the first plugin that failed; others may have taken the events, and get them again.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "they are handed over: each plugin gets its own"
    )]
    pub fn deliver_events(
        self: &Arc<Self>,
        app: &AppId,
        events: Vec<Event>,
    ) -> Progress<Result<(), HookFailure>> {
        let desk = self.events().desk(app);
        let posts = desk.posts.load_full();
        let mut calls: Vec<(Arc<Post>, Vec<Event>)> = Vec::new();
        for post in posts.iter() {
            let wanted = events.iter().filter(|event| post.wants(event.kind));
            let wanted: Vec<Event> = wanted.cloned().collect();
            let mut rest = wanted.as_slice();
            while !rest.is_empty() {
                let (chunk, others) = rest.split_at(rest.len().min(BATCH));
                calls.push((Arc::clone(post), chunk.to_vec()));
                rest = others;
            }
        }
        if calls.is_empty() {
            return Progress::Ready(Ok(()));
        }
        let node = Arc::clone(self);
        let work = async move {
            let metrics = &node.events().shared.metrics;
            let mut outcome = Ok(());
            for (post, chunk) in calls {
                let number = chunk.len();
                match tell(&node, &post.app, &post.plugin, chunk).await {
                    Ok(()) => {
                        metrics.delivered.inc_by(number as u64);
                    }
                    // The others are told all the same.
                    Err(failure) => outcome = outcome.and(Err(failure)),
                }
            }
            outcome
        };
        Progress::Pending(Box::pin(work) as Pin<Box<_>>)
    }
}
