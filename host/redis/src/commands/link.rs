//! Keeps one connection to one server alive.
//!
//! Owns connecting again, with capped and jittered pauses, and finding out that a connection is dead: every half second
//! a probe follows the commands down the same connection, and when its answer takes too long the connection is given up,
//! which ends every command on it. So commands need no timers of their own. Invariant: a command sent on a live
//! connection ends within `io_timeout`; a command that finds none waits `PATIENCE` at most. A server that loads its data
//! keeps its connection, which is not on offer before the server says that it has them.

use std::{iter, sync::Arc, time::Duration};

use arc_swap::{ArcSwap, ArcSwapOption};
use rand::RngExt as _;
use redis::{Cmd, Value, aio::MultiplexedConnection};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{RedisFailure, commit::Commits};
use crate::{
    config::Address,
    connect::{
        ConnectError, Connector, Generation, Opened, PrimaryWatch, ServerRole, is_loading, left,
        role,
    },
    keeper,
};

/// How often a live connection is probed.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);

/// The least time between two probes, however many commands were refused.
const REFUSED_PAUSE: Duration = Duration::from_millis(20);

/// How long commands wait for a lost connection to come back before they fail at once.
const PATIENCE: Duration = Duration::from_secs(1);

/// A link that had no connection for so long is no passing trouble; as long as what is published may go unheard.
const LOST_AFTER: Duration = Duration::from_secs(10);

/// Pauses between two tries to connect: the first, and the longest. A second is soon enough for clients and long
/// enough for a server that starts.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A connection that is kept alive.
#[derive(Debug)]
pub(super) struct Link {
    shared: Arc<Shared>,
    /// Ends the keeper with the link: a server may leave a Cluster.
    stop: CancellationToken,
}

#[derive(Debug)]
struct Shared {
    connector: Connector,
    /// A fixed server; `None` for the primary, wherever it is.
    address: Option<Address>,
    /// Knows when the primary is another one than that of a connection that stands.
    watch: Option<Arc<PrimaryWatch>>,
    io_timeout: Duration,
    /// Of the last connection that stood. Written by the keeper alone.
    generation: ArcSwapOption<Generation>,
    /// Written by the keeper alone.
    live: ArcSwapOption<Live>,
    /// When the link lost its connection, or was started; `None` while it has one. Follows `live`.
    lost_at: watch::Sender<Option<Instant>>,
    /// Somebody was told that the server is no primary any more: find the one that is.
    doubted: Notify,
    /// Somebody was told that the server does not serve for now: look at once.
    refused: Notify,
}

/// A connection that stands.
#[derive(Debug)]
pub(super) struct Live {
    connection: MultiplexedConnection,
    generation: ArcSwap<Generation>,
    /// Those who wait for a replica.
    pub(super) commits: Commits,
}

impl Live {
    pub(super) fn generation(&self) -> Arc<Generation> {
        self.generation.load_full()
    }

    pub(super) async fn roundtrip(&self, command: &Cmd) -> Result<Value, RedisFailure> {
        let mut connection = self.connection.clone();
        let answer = connection.send_packed_command(command).await;
        answer.map_err(|error| {
            tracing::debug!(%error, "a command to Redis got no answer");
            RedisFailure::Unanswered
        })
    }

    /// The same for a command that belongs elsewhere as a rule: Redis must be told that we know.
    pub(super) async fn roundtrip_asking(&self, command: &Cmd) -> Result<Value, RedisFailure> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("ASKING");
        pipeline.add_command(command.clone());
        let mut connection = self.connection.clone();
        let answers = connection.send_packed_commands(&pipeline, 1, 1).await;
        let answers = answers.map_err(|error| {
            tracing::debug!(%error, "a command to Redis got no answer");
            RedisFailure::Unanswered
        })?;
        answers.into_iter().next().ok_or(RedisFailure::Unexpected)
    }
}

impl Link {
    pub(super) fn start(
        server: Server,
        connector: Connector,
        io_timeout: Duration,
        tracker: &TaskTracker,
        stop: &CancellationToken,
    ) -> Self {
        let (address, watch) = match server {
            Server::Fixed(address) => (Some(address), None),
            Server::Primary(watch) => (None, watch),
        };
        let shared = Arc::new(Shared {
            connector,
            address,
            watch,
            io_timeout,
            generation: ArcSwapOption::empty(),
            live: ArcSwapOption::empty(),
            lost_at: watch::Sender::new(Some(Instant::now())),
            doubted: Notify::new(),
            refused: Notify::new(),
        });
        let stop = stop.child_token();
        let (kept, tasks, stopped) = (Arc::clone(&shared), tracker.clone(), stop.clone());
        tracker.spawn(keeper::keep(
            "link",
            stop.clone(),
            move || Arc::clone(&kept).keep(tasks.clone(), stopped.clone()),
            // Its guards withdrew the offer and closed the connection.
            || {},
        ));
        Self { shared, stop }
    }

    pub(super) fn is_live(&self) -> bool {
        self.shared.live.load().is_some()
    }

    /// Whether there has been no connection for so long that none is on its way.
    pub(super) fn is_lost(&self, now: Instant) -> bool {
        let lost_at = *self.shared.lost_at.borrow();
        lost_at.is_some_and(|lost_at| now.duration_since(lost_at) >= LOST_AFTER)
    }

    pub(super) async fn connected(&self) {
        let mut lost_at = self.shared.lost_at.subscribe();
        // The sender lives as long as this link.
        let _ = lost_at.wait_for(Option::is_none).await;
    }

    /// The connection; waits a little for a lost one.
    pub(super) async fn live(&self) -> Result<Arc<Live>, RedisFailure> {
        if let Some(live) = self.shared.live.load_full() {
            return Ok(live);
        }
        let lost_at = *self.shared.lost_at.borrow();
        if let Some(lost_at) = lost_at {
            let waiting = tokio::time::timeout_at(lost_at + PATIENCE, self.connected());
            // Late or in time, what counts is what stands now.
            let _ = waiting.await;
        }
        self.shared.live.load_full().ok_or(RedisFailure::Away)
    }

    /// Gives the connection up: its server said that it does not serve any more.
    pub(super) fn doubt(&self, live: &Arc<Live>) {
        let now = self.shared.live.load();
        // Not a newer one, which stands for a server that was found since.
        if now.as_ref().is_some_and(|now| Arc::ptr_eq(now, live)) {
            self.shared.doubted.notify_one();
        }
    }

    /// Has a look taken at the server, which said that it does not serve for now. The connection stays.
    pub(super) fn look(&self) {
        self.shared.refused.notify_one();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Where a link leads.
#[derive(Debug)]
pub(super) enum Server {
    Fixed(Address),
    /// Wherever the primary is, and who knows when that changes.
    Primary(Option<Arc<PrimaryWatch>>),
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Closed,
    Stalled,
    NotPrimary,
    /// The sentinels name another one.
    Replaced,
}

impl Shared {
    async fn keep(self: Arc<Self>, tracker: TaskTracker, stop: CancellationToken) {
        let mut pause = FIRST_PAUSE;
        let mut is_reported = false;
        loop {
            let opened = tokio::select! {
                biased; // A stop is not delayed by a server that is away.
                () = stop.cancelled() => return,
                opened = self.open() => opened,
            };
            match opened {
                Ok(opened) => {
                    is_reported = false;
                    tracing::info!(address = %opened.address, "connected to Redis");
                    let mut has_served = false;
                    let end = self.serve(opened, &tracker, &stop, &mut has_served).await;
                    if stop.is_cancelled() {
                        return;
                    }
                    tracing::warn!(?end, "the connection to Redis is lost");
                    // A server that takes connections and serves nothing is not asked faster than one that is away.
                    if has_served {
                        pause = FIRST_PAUSE;
                    }
                }
                Err(error) => {
                    // Once per outage.
                    if !is_reported {
                        report(&error);
                        is_reported = true;
                    }
                }
            }
            let jittered = pause.mul_f64(rand::rng().random_range(0.5..1.0));
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(jittered) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn open(&self) -> Result<Opened, ConnectError> {
        let address = match &self.address {
            Some(address) => Some(address.clone()),
            None => self.connector.primary().await?,
        };
        // A link of a Cluster has an address.
        let address = address.ok_or_else(|| ConnectError::NoPrimary {
            master_name: Box::default(),
            source: None,
        })?;
        self.connector.open(&address).await
    }

    /// Offers the connection, whenever its server serves, until it ends. `has_served` is written as soon as a probe has
    /// shown that it does.
    async fn serve(
        &self,
        opened: Opened,
        tracker: &TaskTracker,
        stop: &CancellationToken,
        has_served: &mut bool,
    ) -> End {
        let Opened {
            connection,
            driver,
            generation,
            address,
        } = opened;
        let live = Arc::new(Live {
            connection,
            generation: ArcSwap::from_pointee(generation),
            commits: Commits::default(),
        });
        // Its own task, so that traffic does not wake the probe. Dropped with `serve`, and every command with it.
        let closing = CancellationToken::new();
        let _closed = closing.clone().drop_guard();
        let driving = tracker.spawn(async move {
            tokio::select! {
                biased; // A connection that is given up must not take one command more.
                () = closing.cancelled() => {}
                () = driver => {}
            }
        });
        tokio::select! {
            () = stop.cancelled() => End::Closed,
            _ = driving => End::Closed,
            end = self.probe(&live, has_served) => end,
            () = live.commits.run(live.connection.clone()) => End::Closed,
            () = left(self.watch.as_deref(), &address) => End::Replaced,
        }
    }

    /// Offers the connection while the server serves; ends when it does not answer in time or is no primary any more.
    async fn probe(&self, live: &Arc<Live>, has_served: &mut bool) -> End {
        let mut connection = live.connection.clone();
        let mut offer = None;
        let mut num_probes = 0_u32;
        loop {
            let patience = self.io_timeout.saturating_sub(PROBE_INTERVAL);
            match tokio::time::timeout(patience, look(&mut connection)).await {
                Err(_) => return End::Stalled,
                // It answers something: that is enough for it to say itself what it does not do.
                Ok(Err(error)) if !error.is_io_error() => {}
                Ok(Err(_)) => return End::Closed,
                Ok(Ok(Seen::Replica)) => return End::NotPrimary,
                Ok(Ok(Seen::Loading)) => {
                    if num_probes == 0 || offer.is_some() {
                        tracing::info!("Redis loads its data; waiting until it has them");
                    }
                    offer = None;
                    num_probes += 1;
                    self.pause().await;
                    continue;
                }
                Ok(Ok(Seen::Primary(generation))) => {
                    self.note_generation(&generation);
                    if **live.generation.load() != generation {
                        live.generation.store(Arc::new(generation));
                    }
                    // Not the first one, which follows the connect at once and would excuse any number of them.
                    *has_served |= offer.is_some();
                }
            }
            num_probes += 1;
            offer.get_or_insert_with(|| Offer::make(self, Arc::clone(live)));
            tokio::select! {
                () = self.pause() => {}
                () = self.doubted.notified() => return End::NotPrimary,
            }
        }
    }

    /// What was written in another generation may be lost.
    fn note_generation(&self, generation: &Generation) {
        let before = self.generation.load();
        match &*before {
            Some(before) if **before == *generation => {}
            None => self.generation.store(Some(Arc::new(generation.clone()))),
            Some(_) => {
                self.generation.store(Some(Arc::new(generation.clone())));
                self.connector.count_renewal();
            }
        }
    }

    /// Until the next look is due: in a while, or when somebody was refused, though not in a tight circle.
    async fn pause(&self) {
        tokio::time::sleep(REFUSED_PAUSE).await;
        tokio::select! {
            () = tokio::time::sleep(PROBE_INTERVAL - REFUSED_PAUSE) => {}
            () = self.refused.notified() => {}
        }
    }
}

/// What a look at a server shows.
#[derive(Debug)]
enum Seen {
    Primary(Generation),
    Replica,
    /// It refuses nearly everything until its data are read.
    Loading,
}

async fn look(connection: &mut MultiplexedConnection) -> Result<Seen, redis::RedisError> {
    // Asked first: the generation that a server had while it loaded need not be the one that it has afterwards.
    if is_loading(connection).await? {
        return Ok(Seen::Loading);
    }
    Ok(match role(connection).await? {
        ServerRole::Primary(generation) => Seen::Primary(generation),
        ServerRole::Replica => Seen::Replica,
    })
}

/// A connection on offer; dropped, nobody finds it any more.
struct Offer<'a>(&'a Shared);

impl<'a> Offer<'a> {
    fn make(shared: &'a Shared, live: Arc<Live>) -> Self {
        shared.live.store(Some(live));
        shared.lost_at.send_replace(None);
        Self(shared)
    }
}

impl Drop for Offer<'_> {
    fn drop(&mut self) {
        self.0.live.store(None);
        self.0.lost_at.send_replace(Some(Instant::now()));
    }
}

/// Logs why there is no connection.
pub(super) fn report(error: &ConnectError) {
    let error_text = chain(error);
    if error.is_lasting() {
        tracing::error!(error = %error_text, "Redis cannot be used");
    } else {
        tracing::warn!(error = %error_text, "Redis is away; trying again");
    }
}

/// The whole chain in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = iter::successors(Some(error), |&error| error.source());
    let texts: Vec<String> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}
