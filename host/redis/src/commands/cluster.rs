//! Commands to a Redis Cluster: the server of a slot, and what to do when slots or primaries move.
//!
//! Owns the map of slots and one [`Link`] for each primary. The map is read again every few seconds, and at once when a
//! server says that something moved. Invariant: only commands that a server refused to execute are repeated, with
//! growing pauses and until the deadline at the latest.

mod slot_map;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use redis::{ServerError, ServerErrorKind, Value};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::slot_map::{Redirect, SlotMap, SlotRange, parse_dead, parse_slots};
use super::{Answer, Link, Live, MAX_REPEATS, REPEAT_DELAY, RedisFailure, Request, Route, Server};
use crate::{
    config::Address,
    connect::{ConnectError, Connector},
    keeper,
    keys::slot,
};

/// How often the map is read when nothing says that it changed.
const REFRESH_INTERVAL: Duration = Duration::from_secs(5);

/// Pause between two readings however many servers say that something moved.
const REFRESH_PAUSE: Duration = Duration::from_millis(100);

/// The servers of a Cluster.
#[derive(Debug)]
pub(super) struct Cluster {
    shared: Arc<Shared>,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Shared {
    connector: Connector,
    seeds: Vec<Address>,
    io_timeout: Duration,
    tracker: TaskTracker,
    stop: CancellationToken,
    /// Written by the keeper, and by redirects to servers that it does not know yet.
    map: ArcSwap<SlotMap>,
    /// How often a reading of the map has shown slots elsewhere.
    num_changes: AtomicU64,
    /// Servers that the others hold for dead. Written by the keeper.
    dead: ArcSwap<Vec<Address>>,
    /// Whether the map was ever read.
    is_known: watch::Sender<bool>,
    has_moved: Notify,
}

impl Cluster {
    pub(super) fn start(
        connector: &Connector,
        seeds: Vec<Address>,
        io_timeout: Duration,
        tracker: &TaskTracker,
        stop: &CancellationToken,
    ) -> Self {
        let stop = stop.child_token();
        let shared = Arc::new(Shared {
            connector: connector.clone(),
            seeds,
            io_timeout,
            tracker: tracker.clone(),
            stop: stop.clone(),
            map: ArcSwap::default(),
            num_changes: AtomicU64::new(0),
            dead: ArcSwap::default(),
            is_known: watch::Sender::new(false),
            has_moved: Notify::new(),
        });
        let kept = Arc::clone(&shared);
        tracker.spawn(keeper::keep(
            "slot map",
            stop.clone(),
            move || Arc::clone(&kept).keep(),
            // The map that was read last stands.
            || {},
        ));
        Self { shared, stop }
    }

    /// Whether the primary of every slot that has one is connected: with one missing, channels are dead.
    pub(super) fn is_live(&self) -> bool {
        let map = self.shared.map.load();
        map.is_complete() && map.links().all(Link::is_live)
    }

    /// Whether there has been no connection to any primary for so long that none is on its way.
    pub(super) fn is_lost(&self, now: Instant) -> bool {
        let map = self.shared.map.load();
        map.links().all(|link| link.is_lost(now))
    }

    pub(super) async fn connected(&self) {
        let mut is_known = self.shared.is_known.subscribe();
        // The sender lives as long as the Cluster.
        let _ = is_known.wait_for(|is_known| *is_known).await;
        let map = self.shared.map.load_full();
        for link in map.links() {
            link.connected().await;
        }
    }

    /// The primaries there are now, for connections of one's own; empty before the first reading.
    pub(super) fn primaries(&self) -> Vec<Address> {
        self.shared.map.load().addresses().cloned().collect()
    }

    /// Whether what is published on a server can be expected to arrive: it has slots, and the others do not hold it for
    /// dead.
    pub(super) fn is_on_duty(&self, address: &Address) -> bool {
        self.has_slots(address) && !self.shared.dead.load().contains(address)
    }

    pub(super) fn has_slots(&self, address: &Address) -> bool {
        self.shared.map.load().has_slots(address)
    }

    pub(super) fn num_changes(&self) -> u64 {
        // Pairs with the one after the map was stored.
        self.shared.num_changes.load(Ordering::Acquire)
    }

    /// The primary of a key.
    pub(super) fn primary_of(&self, key: &str) -> Option<Address> {
        self.shared.map.load().address_of(slot(key.as_bytes()))
    }

    pub(super) async fn send<'a>(
        &self,
        route: Route<'_>,
        deadline: Instant,
        request: impl Fn(&Live) -> Request<'a>,
    ) -> Result<Value, RedisFailure> {
        let sending = self.send_until_executed(route, request);
        match tokio::time::timeout_at(deadline, sending).await {
            Ok(answer) => answer,
            // It may have been sent when the time was over.
            Err(_) => Err(RedisFailure::Unanswered),
        }
    }

    async fn send_until_executed<'a>(
        &self,
        route: Route<'_>,
        request: impl Fn(&Live) -> Request<'a>,
    ) -> Result<Value, RedisFailure> {
        let mut delay = REPEAT_DELAY;
        let mut redirect = None;
        for _ in 0..=MAX_REPEATS {
            match self.try_send(route, redirect.take(), &request).await? {
                Attempt::Done(value) => return Ok(value),
                Attempt::Redirected(to) => {
                    redirect = Some(to);
                    self.shared.has_moved.notify_one();
                }
                Attempt::NotNow => {
                    self.shared.has_moved.notify_one();
                    tokio::time::sleep(delay).await;
                    delay *= 2;
                }
            }
        }
        Err(RedisFailure::Away)
    }

    async fn try_send<'a>(
        &self,
        route: Route<'_>,
        redirect: Option<Redirect>,
        request: impl Fn(&Live) -> Request<'a>,
    ) -> Result<Attempt, RedisFailure> {
        let (link, is_asking) = match redirect {
            Some(Redirect::Moved(address)) => (Some(self.shared.link_to(&address)), false),
            Some(Redirect::Ask(address)) => (Some(self.shared.link_to(&address)), true),
            None => (self.shared.owner(route), false),
        };
        let Some(link) = link else {
            return Ok(Attempt::NotNow);
        };
        let live = match link.live().await {
            Ok(live) => live,
            Err(RedisFailure::Away) => return Ok(Attempt::NotNow),
            Err(other) => return Err(other),
        };
        let request = request(&live);
        let answer = if is_asking {
            live.exchange_asking(&request).await
        } else {
            live.exchange(&request).await
        };
        if answer.as_ref().is_err_and(RedisFailure::lacks_replicas) {
            self.shared.has_moved.notify_one();
        }
        Ok(match answer? {
            Answer::Value(value) => Attempt::Done(value),
            Answer::Elsewhere(error) => match parse_redirect(&error) {
                Some(redirect) => Attempt::Redirected(redirect),
                None => {
                    match error.kind() {
                        Some(ServerErrorKind::ReadOnly) => link.doubt(&live),
                        Some(ServerErrorKind::BusyLoading | ServerErrorKind::MasterDown) => {
                            link.look()
                        }
                        // Said of a slot, not of the server.
                        _ => {}
                    }
                    Attempt::NotNow
                }
            },
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// How a try to send ended.
enum Attempt {
    Done(Value),
    Redirected(Redirect),
    NotNow,
}

/// The server named by `MOVED slot host:port` or `ASK slot host:port`.
fn parse_redirect(error: &ServerError) -> Option<Redirect> {
    let is_asking = match error.kind()? {
        ServerErrorKind::Moved => false,
        ServerErrorKind::Ask => true,
        _ => return None,
    };
    let (host, port) = error.details()?.split_once(' ')?.1.rsplit_once(':')?;
    // An empty host is the server's own, which the next reading of the map tells better.
    if host.is_empty() {
        return None;
    }
    let address = Address::new(host, port.parse().ok()?);
    Some(if is_asking {
        Redirect::Ask(address)
    } else {
        Redirect::Moved(address)
    })
}

impl Shared {
    fn owner(&self, route: Route<'_>) -> Option<Arc<Link>> {
        let map = self.map.load();
        match route {
            Route::Key(key) => map.owner(slot(key.as_bytes())),
            Route::Any => map.any_live(),
        }
    }

    fn start_link(&self, address: &Address) -> Arc<Link> {
        Arc::new(Link::start(
            Server::Fixed(address.clone()),
            self.connector.clone(),
            self.io_timeout,
            &self.tracker,
            &self.stop,
        ))
    }

    /// The link to a server that another one named; one that the map does not know yet joins it.
    fn link_to(&self, address: &Address) -> Arc<Link> {
        if let Some(link) = self.map.load().link_to(address) {
            return link;
        }
        let link = self.start_link(address);
        self.map.rcu(|map| map.with_link(address, &link));
        self.map.load().link_to(address).unwrap_or(link)
    }

    async fn keep(self: Arc<Self>) {
        let mut is_reported = false;
        loop {
            let read = tokio::select! {
                biased; // A stop is not delayed by servers that are away.
                () = self.stop.cancelled() => return,
                read = self.read_slots() => read,
            };
            match read {
                Ok((slots, asked)) => {
                    is_reported = false;
                    self.take(&slots);
                    self.is_known.send_replace(true);
                    let dead = tokio::select! {
                        () = self.stop.cancelled() => return,
                        dead = self.read_dead(&asked) => dead,
                    };
                    self.dead.store(Arc::new(dead));
                }
                Err(error) => {
                    if !is_reported {
                        super::link::report(&error);
                        is_reported = true;
                    }
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(REFRESH_PAUSE) => {}
            }
            let interval = if is_reported {
                REFRESH_PAUSE
            } else {
                REFRESH_INTERVAL
            };
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.has_moved.notified() => {}
                () = tokio::time::sleep(interval) => {}
            }
        }
    }

    /// Takes the map over as it was read.
    fn take(&self, slots: &[SlotRange]) {
        let before = self
            .map
            .rcu(|map| map.updated(slots, |address| self.start_link(address)));
        if !self.map.load().agrees_with(&before) {
            self.num_changes.fetch_add(1, Ordering::Release);
        }
    }

    /// Whom the others hold for dead, as one of them has it; asked only when somebody is away.
    async fn read_dead(&self, asked: &Address) -> Vec<Address> {
        if self.map.load().links().all(Link::is_live) {
            return Vec::new();
        }
        let mut command = redis::cmd("CLUSTER");
        command.arg("NODES");
        let login = self.connector.login();
        match self.connector.ask(asked, login, &command).await {
            Ok(answer) => parse_dead(&answer, &asked.host),
            // Who may not ask counts on everybody.
            Err(error) => {
                tracing::debug!(%error, "nobody says which servers of the Cluster are dead");
                Vec::new()
            }
        }
    }

    /// Asks one server after the other, those that are known to live first; answers which one has answered too.
    async fn read_slots(&self) -> Result<(Vec<SlotRange>, Address), ConnectError> {
        let map = self.map.load_full();
        let known = map.live_addresses().cloned();
        let candidates: Vec<Address> = known.chain(self.seeds.iter().cloned()).collect();
        let mut command = redis::cmd("CLUSTER");
        command.arg("SLOTS");
        let mut last = None;
        for address in candidates {
            let login = self.connector.login();
            match self.connector.ask(&address, login, &command).await {
                // A node that knows of no slot has not met the others yet.
                Ok(answer) => match parse_slots(&answer, &address.host) {
                    Some(slots) if !slots.is_empty() => return Ok((slots, address)),
                    Some(_) | None => last = Some(ConnectError::NoSlots { address }),
                },
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| ConnectError::NoSlots {
            address: Address::new("", 0),
        }))
    }
}
