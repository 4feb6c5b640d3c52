//! How events get to their plugins: one batch at a time for each, again and again where it must be.
//!
//! A batch is taken when its call has succeeded and the messages that the plugin made of it are published: as long as
//! the engine is away nothing is taken, and what is kept waits. Invariant: whatever becomes of a call, also a panic,
//! the room of its events is given back and what waits behind them goes on.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    Event, Events, Shared,
    queue::{Entry, Post},
};
use crate::{
    hooks::{EventsQuestion, HookFailure},
    ids::AppId,
    node::Node,
    publish::{EffectsOutcome, run_effects},
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

/// Why a plugin has not taken its events.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Untold {
    /// The call failed.
    #[error(transparent)]
    Plugin(#[from] HookFailure),
    /// The call succeeded, and what the plugin made of the events could not be published.
    #[error("the plugin's messages could not be published now")]
    Unpublished,
    /// The node itself failed at it.
    #[error("the node failed while it told the plugin")]
    Fallen,
}

impl Untold {
    /// Leads to the story of the call; empty where there is none.
    fn trace_id(&self) -> &str {
        match self {
            Self::Plugin(failure) => &failure.trace_id,
            Self::Unpublished | Self::Fallen => "",
        }
    }
}

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
        if std::thread::panicking() && self.post.abandon() {
            self.shared.work_on(&self.post);
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

/// A batch under way, in the parts that are still to be told: the next at the end, with how often it was tried.
struct Batch<'a> {
    shared: &'a Shared,
    post: &'a Post,
    parts: Vec<(Vec<Arc<Entry>>, u32)>,
}

impl Batch<'_> {
    /// Takes the part out that was in hand.
    fn take_part(&mut self) -> Vec<Arc<Entry>> {
        self.parts.pop().map_or_else(Vec::new, |(part, _)| part)
    }
}

/// What a fallen delivery, or a node that stops, leaves is not told, and nobody is to believe it was.
impl Drop for Batch<'_> {
    fn drop(&mut self) {
        for (part, _) in self.parts.drain(..) {
            part.iter().for_each(|entry| entry.forsake());
            self.shared.metrics.dropped_failed(&part);
            self.post.finish(&part);
        }
    }
}

/// Hands a batch over until it was taken, or given up.
async fn deliver_batch(node: &Arc<Node>, shared: &Shared, post: &Post, batch: Vec<Arc<Entry>>) {
    let parts = vec![(batch, 0)];
    let mut batch = Batch {
        shared,
        post,
        parts,
    };
    while let Some((part, tries)) = batch.parts.last() {
        let tries = tries + 1;
        if post.is_retired() {
            let part = batch.take_part();
            shared.metrics.dropped_unbound(&part);
            post.finish(&part);
            continue;
        }
        let told: Vec<Event> = part.iter().map(|entry| entry.event.clone()).collect();
        let outcome = tell(node, &post.app, &post.plugin, told).await;
        let mut part = batch.take_part();
        let Err(failure) = outcome else {
            shared.metrics.taken(part.len());
            post.finish(&part);
            continue;
        };
        let news: Vec<_> = part
            .extract_if(.., |entry| !entry.event.kind.is_kept())
            .collect();
        shared.metrics.dropped_failed(&news);
        post.finish(&news);
        if part.is_empty() {
            continue;
        }
        if tries >= MAX_TRIES {
            tracing::error!(
                app = %post.app, plugin = %post.plugin, events = part.len(), %failure,
                trace_id = failure.trace_id(),
                "events are given up: the plugin failed at them each time; mend it, what it keeps of sessions is behind"
            );
            shared.metrics.dropped_failed(&part);
            post.finish(&part);
            continue;
        }
        shared.metrics.retries.inc();
        if tries > WHOLE_TRIES && part.len() > 1 {
            let second = part.split_off(part.len() / 2);
            batch.parts.push((second, tries));
        }
        batch.parts.push((part, tries));
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
pub(super) async fn tell(
    node: &Arc<Node>,
    app: &AppId,
    plugin: &Arc<str>,
    batch: Vec<Event>,
) -> Result<(), Untold> {
    let hops = batch.iter().map(|event| event.hops).max().unwrap_or(0);
    let question = EventsQuestion {
        app: app.clone(),
        plugin: Arc::clone(plugin),
        batch,
    };
    // Nothing of the node is held while the call is under way, so nothing can be left half done.
    let told = AssertUnwindSafe(call(node, question, hops)).catch_unwind();
    told.await.unwrap_or_else(|_| {
        tracing::error!(%app, %plugin, "a call with events fell; the events are told again where they must be");
        Err(Untold::Fallen)
    })
}

async fn call(node: &Arc<Node>, question: EventsQuestion, hops: u8) -> Result<(), Untold> {
    let app = question.app.clone();
    let outcome = node.hooks().events(question).wait().await?;
    if let Some(app) = node.app(&app)
        && !outcome.effects.is_empty()
    {
        match run_effects(node, &app, outcome.effects, hops).wait().await {
            EffectsOutcome::Done => {}
            EffectsOutcome::Unavailable => return Err(Untold::Unpublished),
        }
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
