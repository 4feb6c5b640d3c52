//! The position check: has everybody on this node got all of their streams?
//!
//! Owns when the top of a followed stream is read, once per channel whatever the number of its members (threat model
//! R5) and only where nothing was delivered meanwhile, and what follows from the answer. Whoever turns out to have missed something is stopped and told by
//! [`Signal::Gap`](crate::link::Signal::Gap), which the session answers with 2500 or 3010. A stream that shows less
//! than this node has seen of it was rolled back: it gets a new epoch before anybody is told (the node's side of the
//! fork guard, R3), so that nobody comes back to offsets that mean two things. Does not deliver, and knows no Redis.
//!
//! Invariant: a publication on its way is not taken for a lost one. A member is told when it has not come, some time
//! after a top was read, to where that top was.

use std::{collections::VecDeque, pin::pin, sync::Arc};

use futures_util::{StreamExt, stream};
use tidegate_protocol::StreamPosition;
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    broker::{BrokerError, HistoryLimit, HistoryOrder, HistoryQuery},
    hub::{Channel, Comparison, Hub, Known},
    metrics::{CheckOutcome, DoubtScope},
    node::Node,
};

/// Time between a difference found by routine and the second look: far more than a publication takes from the broker
/// to an outbox, and little beside the time between two checks.
const SECOND_LOOK: Duration = Duration::from_secs(2);

/// The same where something is known to have gone wrong: what was lost is likely lost, and clients wait.
const SECOND_LOOK_IN_DOUBT: Duration = Duration::from_secs(1);

/// Doubts that come faster than this are dealt with together, so that whoever causes them causes few reads.
const DOUBT_SPACING: Duration = Duration::from_millis(50);

/// When doubts that the broker left unanswered are taken up again.
const RETRY: Duration = Duration::from_secs(1);

/// Reads in flight. A node has a budget of thousands; publishes must find room beside a check of everything.
const READS_IN_FLIGHT: usize = 256;

/// Unanswered reads after which the rest of a batch is left for later: every one may take its whole time-out.
const MAX_UNANSWERED: usize = 64;

/// Turns of the routine in one interval. A channel is read after so many without a delivery; more of them make the time
/// since the last delivery more exact, and the walk dearer.
const TURNS: u8 = 8;

/// Channels looked at between two yields.
const YIELD_EVERY: usize = 128;

/// How often a node whose apps check nothing looks whether that has changed.
const IDLE: Duration = Duration::from_secs(10);

/// No configured interval means more than this; it keeps the arithmetic in bounds.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Checks positions until `stop`.
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    let mut checker = Checker {
        round: Round::start(Instant::now()),
        looks: VecDeque::new(),
        doubts_from: Instant::now(),
        retry: None,
        node,
    };
    loop {
        let wait = checker.wait();
        tokio::select! {
            biased; // Stop wins, so that shutdown is prompt.
            () = stop.cancelled() => return,
            () = wait => {}
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = checker.turn() => {}
        }
    }
}

struct Checker {
    node: Arc<Node>,
    round: Round,
    /// In the order in which they were planned, which is nearly that of their times.
    looks: VecDeque<SecondLook>,
    /// When doubts are taken next, if there are any.
    doubts_from: Instant,
    /// Some doubts could not be dealt with: everything is looked at again then.
    retry: Option<Instant>,
}

/// Where the walk over all channels is. The map's order is by a hash of the node's own, so nodes differ.
#[derive(Debug)]
struct Round {
    part: usize,
    at: Instant,
    /// In per cent of the interval, another one in every round, so that nodes and restarts do not fall into step.
    pace: u32,
}

/// A channel some of whose members were behind this top.
struct SecondLook {
    at: Instant,
    channel: Arc<Channel>,
    due: StreamPosition,
}

/// Why a channel is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Routine,
    Doubt,
}

/// What was found.
enum Found {
    Confirmed,
    /// Members are behind this top.
    Behind(StreamPosition),
    /// Members were told.
    Lost,
    /// The stream had lost what was seen of it, and has a new epoch now.
    RolledBack,
    /// What is known of the stream has changed meanwhile.
    Superseded(StreamPosition),
    /// The app has gone, or does not want this.
    NotAsked,
    Unanswered,
}

impl Round {
    fn start(now: Instant) -> Self {
        Self {
            part: 0,
            at: now,
            pace: rand::random_range(80..=120),
        }
    }

    /// The part that is due, and the next one's time.
    fn next(&mut self, now: Instant, interval: Duration) -> usize {
        let part = self.part;
        self.part += 1;
        if self.part >= Hub::num_parts() {
            *self = Self::start(now);
        }
        let num_parts = u32::try_from(Hub::num_parts()).unwrap_or(1);
        self.at = now + interval.min(LONGEST) * self.pace / 100 / u32::from(TURNS) / num_parts;
        part
    }
}

impl Checker {
    /// Waits until something is to be done.
    async fn wait(&self) {
        let next = self.looks.front().map_or(self.round.at, |look| look.at);
        let next = next.min(self.round.at);
        let next = self.retry.map_or(next, |retry| next.min(retry));
        let doubt = async {
            self.node.hub().doubts().wake.notified().await;
            tokio::time::sleep_until(self.doubts_from).await;
        };
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = doubt => {}
        }
    }

    async fn turn(&mut self) {
        self.take_doubts().await;
        self.look_again().await;
        let now = Instant::now();
        if self.round.at > now {
            return;
        }
        let Some(interval) = self.interval() else {
            self.round.at = now + IDLE;
            return;
        };
        let part = self.round.next(now, interval);
        let channels = self.node.hub().unconfirmed_channels(part, TURNS);
        self.check(channels, Cause::Routine).await;
    }

    /// How often every channel is checked: as often as the engine needs it, and as the app that wants it most.
    fn interval(&self) -> Option<Duration> {
        let delays = self.node.apps().into_iter().map(|app| delay_of(&app));
        let shortest = delays.filter(|delay| !delay.is_zero()).min()?;
        Some(shortest.min(self.node.broker().max_unconfirmed()))
    }

    async fn take_doubts(&mut self) {
        let now = Instant::now();
        let doubts = self.node.hub().doubts().take();
        let is_retry = self.retry.is_some_and(|at| at <= now);
        if is_retry {
            self.retry = None;
        }
        let metrics = &self.node.metrics().positions;
        if doubts.has_everything {
            metrics.count_doubt(DoubtScope::Everything, 1);
        }
        metrics.count_doubt(DoubtScope::Channel, doubts.channels.len());
        if doubts.has_everything || is_retry {
            for part in 0..Hub::num_parts() {
                let channels = self.node.hub().positioned_channels(part);
                if !self.check(channels, Cause::Doubt).await {
                    break;
                }
            }
        } else if !doubts.channels.is_empty() {
            self.check(doubts.channels, Cause::Doubt).await;
        } else {
            return;
        }
        self.doubts_from = Instant::now() + DOUBT_SPACING;
    }

    async fn look_again(&mut self) {
        let now = Instant::now();
        let mut due = Vec::new();
        while self.looks.front().is_some_and(|look| look.at <= now) {
            due.extend(self.looks.pop_front());
        }
        for look in &due {
            look.channel.begin_second_look();
        }
        let due = due.into_iter().map(|look| (look.channel, Some(look.due)));
        self.check_all(due.collect(), Cause::Doubt).await;
    }

    async fn check(&mut self, channels: Vec<Arc<Channel>>, cause: Cause) -> bool {
        let channels = channels.into_iter().map(|channel| (channel, None));
        self.check_all(channels.collect(), cause).await
    }

    /// Looks at these channels, with the top that their members should have come to. Answers whether the broker
    /// did; what is in doubt otherwise is taken up later.
    async fn check_all(
        &mut self,
        channels: Vec<(Arc<Channel>, Option<StreamPosition>)>,
        cause: Cause,
    ) -> bool {
        let node = Arc::clone(&self.node);
        let looks = channels.into_iter().map(|(channel, due)| {
            let node = &node;
            async move {
                let found = look_at(node, &channel, due.as_ref(), cause).await;
                (channel, found)
            }
        });
        let mut looks = pin!(stream::iter(looks).buffer_unordered(READS_IN_FLIGHT));
        let (mut num_looked, mut num_unanswered) = (0_usize, 0_usize);
        while let Some((channel, found)) = looks.next().await {
            node.metrics().positions.count_check(match &found {
                Found::Confirmed => CheckOutcome::Confirmed,
                Found::Behind(_) | Found::Superseded(_) => CheckOutcome::Behind,
                Found::Lost => CheckOutcome::Lost,
                Found::RolledBack => CheckOutcome::RolledBack,
                Found::Unanswered => CheckOutcome::Unanswered,
                Found::NotAsked => continue,
            });
            match found {
                Found::Behind(due) | Found::Superseded(due) => self.plan(channel, due, cause),
                Found::Unanswered => num_unanswered += 1,
                Found::Confirmed | Found::Lost | Found::RolledBack | Found::NotAsked => {}
            }
            if num_unanswered >= MAX_UNANSWERED {
                break;
            }
            num_looked += 1;
            if num_looked.is_multiple_of(YIELD_EVERY) {
                tokio::task::yield_now().await;
            }
        }
        if num_unanswered > 0 && cause == Cause::Doubt {
            self.retry = Some(Instant::now() + RETRY);
        }
        num_unanswered == 0
    }

    fn plan(&mut self, channel: Arc<Channel>, due: StreamPosition, cause: Cause) {
        // One look is enough; the earlier one is the better one.
        if channel.plan_second_look() {
            let delay = match cause {
                Cause::Routine => SECOND_LOOK,
                Cause::Doubt => SECOND_LOOK_IN_DOUBT,
            };
            self.looks.push_back(SecondLook {
                at: Instant::now() + delay,
                channel,
                due,
            });
        }
    }
}

fn delay_of(app: &App) -> Duration {
    app.settings().client.position_check_delay
}

/// Reads the top of the channel's stream and compares.
async fn look_at(
    node: &Node,
    channel: &Arc<Channel>,
    due: Option<&StreamPosition>,
    cause: Cause,
) -> Found {
    let Some(query) = query_for(node, channel, cause) else {
        return Found::NotAsked;
    };
    // What was known before the read must be in the store; what comes meanwhile need not be in the answer.
    let before = channel.known();
    let Ok(page) = node.broker().history(&channel.key, query).wait().await else {
        return Found::Unanswered;
    };
    let top = page.top;
    let known = channel.known();
    let epoch_of = |known: &Option<Known>| known.as_ref().map(|known| known.epoch.clone());
    if before.is_some() && epoch_of(&before) != epoch_of(&known) {
        return Found::Superseded(top);
    }
    let is_same = |known: &Known| top.epoch.is_empty() || *known.epoch == *top.epoch;
    let highest = before.as_ref().map_or(0, |before| before.highest);
    match &known {
        Some(known) if known.is_forked || (is_same(known) && top.offset < highest) => {
            let renewed = renew(node, channel, known).await;
            renewed.unwrap_or(Found::Unanswered)
        }
        Some(now) if !is_same(now) => told_of_another(node, channel, now, &top).await,
        Some(_) | None => {
            let due = due.filter(|due| due.epoch == top.epoch);
            let comparison = Comparison::SameStream {
                due: due.map_or(0, |due| due.offset),
                top: top.offset,
            };
            let compared = node.hub().compare(channel, comparison).await;
            if compared.num_behind > 0 {
                Found::Behind(top)
            } else if compared.num_lost > 0 {
                Found::Lost
            } else {
                Found::Confirmed
            }
        }
    }
}

fn query_for(node: &Node, channel: &Channel, cause: Cause) -> Option<HistoryQuery> {
    let app = node.app_named(channel.key.app())?;
    let settings = app.settings();
    if cause == Cause::Routine && settings.client.position_check_delay.is_zero() {
        return None;
    }
    let resolved = settings.channel.resolve(channel.key.channel()).ok()?;
    Some(HistoryQuery {
        limit: HistoryLimit::PositionOnly,
        since: None,
        order: HistoryOrder::OldestFirst,
        meta_ttl: resolved.options.meta_ttl,
    })
}

/// Has a stream that was rolled back begin anew, then tells everybody who followed the old one.
async fn renew(node: &Node, channel: &Arc<Channel>, old: &Known) -> Result<Found, BrokerError> {
    let renewing = node.broker().renew_epoch(&channel.key, &old.epoch);
    let top = renewing.wait().await?;
    node.metrics().positions.epochs_renewed.inc();
    tracing::warn!(
        app = channel.key.app(),
        "a stream was rolled back in the store and has a new epoch; its subscribers are told"
    );
    told_of_another(node, channel, old, &top).await;
    Ok(Found::RolledBack)
}

/// Goes over to another stream, of which `top` is the top, and tells who followed the old one.
async fn told_of_another(
    node: &Node,
    channel: &Arc<Channel>,
    old: &Known,
    top: &StreamPosition,
) -> Found {
    // First, so that who joins meanwhile is compared with the stream that there is.
    if !channel.replace_stream(Some(old), top) {
        return Found::Superseded(top.clone());
    }
    let compared = node.hub().compare(channel, Comparison::OtherStream).await;
    if compared.num_lost > 0 {
        Found::Lost
    } else {
        Found::Confirmed
    }
}
