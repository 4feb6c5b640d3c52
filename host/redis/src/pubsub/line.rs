//! One connection for subscriptions, kept alive.
//!
//! Owns the socket, what was said on it and has no answer yet, and the pauses between two tries to connect. What is to
//! be said comes from the registry; what is heard goes to [`PubSubEvents`](super::PubSubEvents) from the task that
//! reads, so that messages keep their order. Reading never waits for writing: a server that answers a hundred thousand
//! subscriptions would otherwise wait for us, and we for it.

use std::{
    collections::VecDeque,
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use rand::RngExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::Notify,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    Lapse, Shard,
    metrics::{End, ProbeOutcome, PubSubMetrics},
    probe::{Due, INTERVAL, Probe, UNREADY_AFTER},
    registry::{LineId, Name},
    resp::{self, Said},
};
use crate::{
    commands::{RedisFailure, Route},
    config::{Address, Login},
    connect::{ConnectError, Socket},
    keys,
};

/// Names in one subscribe command, as in the reference.
const BATCH_NAMES: usize = 512;

/// Names said and not answered. It bounds what the server has to keep for us while we do not read.
const MAX_UNANSWERED: usize = 8 * BATCH_NAMES;

/// Bytes that wait to be written; more names are not taken before.
const MAX_OUT: usize = 64 * 1024;

/// Bytes asked of the socket at once.
const READ_BYTES: usize = 64 * 1024;

/// Messages handed on between two yields.
const YIELD_EVERY: usize = 128;

/// Pauses between two tries to connect: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Names tried for a probe whose slot is on one certain server of a Cluster. With ten thousand primaries of equal size
/// this still finds one.
const PROBE_NAMES: u32 = 100_000;

/// What a line is to those outside its task.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) id: LineId,
    /// A server of a Cluster; `None` for the primary, wherever it is.
    pub(super) address: Option<Address>,
    /// There is something to say.
    pub(super) wake: Notify,
    pub(super) stop: CancellationToken,
    /// Whether it delivers. Written by the line's task.
    proof: Mutex<Proof>,
    /// How many times in a row the server was no primary. Written by the Cluster's task.
    misses: AtomicU32,
}

/// What is known of a line's delivery.
#[derive(Debug, Clone, Copy)]
struct Proof {
    /// When it was last shown, or the line was made.
    at: Instant,
    /// Since when it is in doubt.
    deaf_since: Option<Instant>,
}

/// The oldest proof that a task which is at its work has: one probe's interval, and then the doubt's time.
const STALE_AFTER: Duration = INTERVAL.saturating_add(UNREADY_AFTER);

impl Line {
    pub(super) fn new(id: LineId, address: Option<Address>, stop: CancellationToken) -> Self {
        let now = Instant::now();
        Self {
            id,
            address,
            wake: Notify::new(),
            stop,
            proof: Mutex::new(Proof {
                at: now,
                deaf_since: Some(now),
            }),
            misses: AtomicU32::new(0),
        }
    }

    /// Whether it has not delivered for so long that the node is not ready. Also when its task does not say so any more:
    /// then the last proof gets old.
    pub(super) fn is_deaf(&self, now: Instant) -> bool {
        let Proof { at, deaf_since } = *self.proof.lock();
        let is_over = deaf_since.is_some_and(|since| now.duration_since(since) >= UNREADY_AFTER);
        is_over || now.duration_since(at) >= STALE_AFTER
    }

    /// Whether the last doubt was followed by a proof.
    #[cfg(test)]
    pub(super) fn delivers(&self) -> bool {
        self.proof.lock().deaf_since.is_none()
    }

    /// Takes note whether the server is a primary; answers how many times it has not been.
    pub(super) fn miss(&self, is_primary: bool) -> u32 {
        if is_primary {
            self.misses.store(0, Ordering::Relaxed);
            return 0;
        }
        self.misses.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn doubt(&self, since: Instant) {
        self.proof.lock().deaf_since.get_or_insert(since);
    }

    fn is_heard(&self) {
        *self.proof.lock() = Proof {
            at: Instant::now(),
            deaf_since: None,
        };
    }
}

/// Connects, serves, and connects again until the line stops.
pub(super) async fn keep(shard: Arc<Shard>, line: Arc<Line>) {
    let mut pause = FIRST_PAUSE;
    let mut is_reported = false;
    loop {
        let opened = tokio::select! {
            biased; // A stop is not delayed by a server that is away.
            () = line.stop.cancelled() => return,
            opened = open(&shard, &line) => opened,
        };
        match opened {
            Ok(socket) => {
                is_reported = false;
                let end = Conversation::new(&shard, &line).hold(socket).await;
                clean_up(&shard, &line);
                shard.metrics.count_end(end.reason);
                if line.stop.is_cancelled() {
                    return;
                }
                tracing::warn!(reason = ?end.reason, "a connection for subscriptions is lost");
                if end.has_delivered {
                    pause = FIRST_PAUSE;
                }
            }
            Err(error) => {
                // Once per outage.
                if !is_reported {
                    report(&error);
                    is_reported = true;
                }
                // Whatever the map says of them, these names may be elsewhere by now.
                if line.address.is_some() {
                    shard.registry.lock().evict(line.id);
                    shard.has_homeless.notify_one();
                }
            }
        }
        let jittered = pause.mul_f64(rand::rng().random_range(0.5..1.0));
        tokio::select! {
            () = line.stop.cancelled() => return,
            () = tokio::time::sleep(jittered) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// The line has no connection any more: it ended, or its task fell.
pub(super) fn clean_up(shard: &Shard, line: &Line) {
    line.doubt(Instant::now());
    shard.registry.lock().disconnected(line.id);
}

/// Counts a connection as long as it stands, whatever ends it.
struct Counted<'a>(&'a PubSubMetrics);

impl<'a> Counted<'a> {
    fn new(metrics: &'a PubSubMetrics) -> Self {
        metrics.connections.inc();
        Self(metrics)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.connections.dec();
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("no server is known")]
    NoAddress,
    #[error("Redis does not answer the login")]
    Login(#[source] io::Error),
    #[error("Redis refuses the login for subscriptions with {0}")]
    Refused(Box<str>),
}

fn report(error: &OpenError) {
    match error {
        OpenError::Refused(_) => {
            tracing::error!(%error, "nothing can be heard from Redis; check user and password");
        }
        OpenError::Connect(_) | OpenError::NoAddress | OpenError::Login(_) => {
            tracing::warn!(%error, "nothing can be heard from Redis; trying again");
        }
    }
}

/// Finds the server, connects and logs in.
async fn open(shard: &Shard, line: &Line) -> Result<Socket, OpenError> {
    let connector = shard.pipe.connector();
    let address = match &line.address {
        Some(address) => address.clone(),
        None => {
            let primary = connector.primary().await?;
            primary.ok_or(OpenError::NoAddress)?
        }
    };
    let opening = async {
        let login = connector.login();
        let mut socket = connector.open_socket(&address, login).await?;
        introduce(&mut socket, login).await?;
        Ok(socket)
    };
    let opened = tokio::time::timeout(shard.connect_timeout, opening).await;
    opened.unwrap_or_else(|_| Err(OpenError::Login(io::ErrorKind::TimedOut.into())))
}

/// Says who we are.
async fn introduce(socket: &mut Socket, login: &Login) -> Result<(), OpenError> {
    let mut out = BytesMut::new();
    let mut num_due = 0;
    if !login.password.is_empty() {
        let credentials = [&*login.user, &*login.password];
        let credentials = credentials.into_iter().filter(|part| !part.is_empty());
        let credentials: Vec<&str> = credentials.collect();
        resp::write_command(&mut out, "AUTH", credentials.into_iter());
        num_due += 1;
    }
    if !login.client_name.is_empty() {
        let arguments = ["SETNAME", &*login.client_name];
        resp::write_command(&mut out, "CLIENT", arguments.into_iter());
        num_due += 1;
    }
    socket.write_all(&out).await.map_err(OpenError::Login)?;
    socket.flush().await.map_err(OpenError::Login)?;
    let mut buffer = BytesMut::with_capacity(512);
    while num_due > 0 {
        let nonsense = |_| OpenError::Login(io::ErrorKind::InvalidData.into());
        let Some((said, end)) = resp::next(&buffer, 0).map_err(nonsense)? else {
            let num_read = socket.read_buf(&mut buffer).await;
            if num_read.map_err(OpenError::Login)? == 0 {
                return Err(OpenError::Login(io::ErrorKind::UnexpectedEof.into()));
            }
            continue;
        };
        if let Said::Error(text) = said {
            let code = code_of(&buffer[text]);
            return Err(OpenError::Refused(code.into()));
        }
        let _ = buffer.split_to(end);
        num_due -= 1;
    }
    Ok(())
}

/// The first word of an error, which holds no names and no secrets.
fn code_of(error: &[u8]) -> &str {
    let error = std::str::from_utf8(error).unwrap_or_default();
    error.split(' ').next().unwrap_or_default()
}

/// What was said and has no answer yet.
#[derive(Debug)]
struct Command {
    kind: CommandKind,
    names: Vec<Name>,
    num_answered: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CommandKind {
    Subscribe,
    Unsubscribe,
    /// To the line's own name.
    Probe,
}

/// The life of one connection.
struct Conversation<'a> {
    shard: &'a Arc<Shard>,
    line: &'a Line,
    buffer: BytesMut,
    /// What was found in `buffer`; kept for its memory.
    said: Vec<Said>,
    out: BytesMut,
    must_flush: bool,
    commands: VecDeque<Command>,
    num_unanswered: usize,
    probe: Probe,
    /// The line's own name; `None` for a server without slots, which has nothing to deliver.
    probe_name: Option<Name>,
    publishing: Option<Running<Result<(), RedisFailure>>>,
    has_delivered: bool,
}

/// Work of a connection beside its reading and writing.
type Running<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The end of a connection.
struct Ended {
    reason: End,
    has_delivered: bool,
}

impl<'a> Conversation<'a> {
    fn new(shard: &'a Arc<Shard>, line: &'a Line) -> Self {
        Self {
            shard,
            line,
            buffer: BytesMut::with_capacity(READ_BYTES),
            said: Vec::new(),
            out: BytesMut::new(),
            must_flush: false,
            commands: VecDeque::new(),
            num_unanswered: 0,
            probe: Probe::start(Instant::now()),
            probe_name: None,
            publishing: None,
            has_delivered: false,
        }
    }

    async fn hold(mut self, socket: Socket) -> Ended {
        let _counted = Counted::new(&self.shard.metrics);
        let is_back = self.shard.registry.lock().connected(self.line.id);
        tracing::info!(is_back, "connected to Redis for subscriptions");
        let reason = self.serve(socket).await;
        Ended {
            reason,
            has_delivered: self.has_delivered,
        }
    }

    async fn serve(&mut self, socket: Socket) -> End {
        let (mut reader, mut writer) = tokio::io::split(socket);
        loop {
            if let Some(end) = self.follow_probe() {
                return end;
            }
            self.say();
            // After every turn, since the last name that was awaited may have come, moved, or be wanted no more.
            let must_doubt = self.shard.registry.lock().take_doubt(self.line.id);
            if must_doubt {
                self.shard.events.on_lapse(Lapse::Everything);
            }
            self.buffer.reserve(READ_BYTES);
            // Not `biased`: while a server always has more for us, what we say and the probe must get their turns too.
            tokio::select! {
                () = self.line.stop.cancelled() => return End::released,
                num_read = reader.read_buf(&mut self.buffer) => {
                    if num_read.is_ok_and(|num_read| num_read > 0) {
                        if self.hear().await.is_err() {
                            return End::nonsense;
                        }
                    } else {
                        return End::closed;
                    }
                }
                written = write(&mut writer, &mut self.out), if !self.out.is_empty() || self.must_flush => {
                    match written {
                        Ok(must_flush) => self.must_flush = must_flush,
                        Err(_) => return End::closed,
                    }
                }
                () = self.line.wake.notified() => {}
                published = wait_for(&mut self.publishing) => {
                    self.publishing = None;
                    self.shard.metrics.count_probe(match published {
                        Ok(()) => ProbeOutcome::published,
                        Err(_) => ProbeOutcome::refused,
                    });
                }
                () = tokio::time::sleep_until(self.probe.wake_at()) => {}
            }
        }
    }

    /// Does what is due about the probe. Answers the end of a connection that does not deliver.
    fn follow_probe(&mut self) -> Option<End> {
        let now = Instant::now();
        if now < self.probe.wake_at() {
            return None;
        }
        if self.probe_name.is_none() {
            self.probe_name = self.find_probe_name();
            let Some(name) = self.probe_name.clone() else {
                // Nothing is kept there, so nothing can fail to arrive.
                self.line.is_heard();
                self.probe.on_answer(now);
                return None;
            };
            self.command(CommandKind::Probe, vec![name]);
        }
        match self.probe.due(now) {
            Due::Nothing => None,
            Due::GiveUp => {
                self.shard.metrics.count_probe(ProbeOutcome::lost);
                Some(End::stalled)
            }
            Due::Publish => {
                self.line.doubt(now);
                if let Some(name) = self.probe_name.clone()
                    && self.publishing.is_none()
                {
                    self.publishing = Some(Box::pin(publish(self.shard.pipe.clone(), name)));
                }
                None
            }
        }
    }

    /// A name that nobody else uses and that lies on this line's server.
    fn find_probe_name(&self) -> Option<Name> {
        let LineId(id) = self.line.id;
        let name = |number: u32| {
            let tag = format!("{}:{id}:{number}", self.shard.node);
            self.shard.keys.probe(&tag)
        };
        let Some(address) = &self.line.address else {
            return Some(name(0).into());
        };
        let is_here = |name: &String| self.shard.pipe.primary_of(name).as_ref() == Some(address);
        (0..PROBE_NAMES).map(name).find(is_here).map(Name::from)
    }

    /// Writes what is to be said, as far as there is room.
    fn say(&mut self) {
        while self.out.len() < MAX_OUT && self.num_unanswered < MAX_UNANSWERED {
            let batch = {
                let mut registry = self.shard.registry.lock();
                registry.take(self.line.id, BATCH_NAMES)
            };
            if batch.subscribe.is_empty() && batch.unsubscribe.is_empty() {
                return;
            }
            for (kind, names) in [
                (CommandKind::Unsubscribe, batch.unsubscribe),
                (CommandKind::Subscribe, batch.subscribe),
            ] {
                if self.line.address.is_none() {
                    self.command(kind, names);
                    continue;
                }
                for names in by_slot(names) {
                    self.command(kind, names);
                }
            }
        }
    }

    fn command(&mut self, kind: CommandKind, names: Vec<Name>) {
        if names.is_empty() {
            return;
        }
        let verb = match (kind, self.line.address.is_some()) {
            (CommandKind::Subscribe | CommandKind::Probe, false) => "SUBSCRIBE",
            (CommandKind::Subscribe | CommandKind::Probe, true) => "SSUBSCRIBE",
            (CommandKind::Unsubscribe, false) => "UNSUBSCRIBE",
            (CommandKind::Unsubscribe, true) => "SUNSUBSCRIBE",
        };
        resp::write_command(&mut self.out, verb, names.iter().map(|name| &**name));
        self.num_unanswered += names.len();
        self.commands.push_back(Command {
            kind,
            names,
            num_answered: 0,
        });
    }

    /// Acts on everything that has arrived.
    async fn hear(&mut self) -> Result<(), resp::Nonsense> {
        let mut said = std::mem::take(&mut self.said);
        let mut end = 0;
        while let Some((one, next)) = resp::next(&self.buffer, end)? {
            said.push(one);
            end = next;
        }
        let heard = self.buffer.split_to(end).freeze();
        for (index, one) in said.drain(..).enumerate() {
            match one {
                Said::Message { name, payload } => {
                    self.on_message(&heard[name], heard.slice(payload));
                }
                Said::Subscribed(name) => self.on_subscribed(&heard[name]),
                Said::Unsubscribed(name) => self.on_unsubscribed(&heard[name]),
                Said::Error(error) => self.on_error(&heard[error]),
                Said::Other => {}
            }
            if index % YIELD_EVERY == YIELD_EVERY - 1 {
                tokio::task::yield_now().await;
            }
        }
        self.said = said;
        Ok(())
    }

    fn on_message(&mut self, name: &[u8], payload: Bytes) {
        let now = Instant::now();
        // Names are ours and UTF-8; what is not was not asked for.
        let Ok(name) = std::str::from_utf8(name) else {
            return;
        };
        if self.probe_name.as_deref() == Some(name) {
            self.shard.metrics.count_probe(ProbeOutcome::answered);
            self.probe.on_answer(now);
            self.line.is_heard();
            self.shard.has_delivered.store(true, Ordering::Relaxed);
            self.has_delivered = true;
            return;
        }
        self.probe.on_message(now);
        self.shard.metrics.messages.inc();
        self.shard.events.on_payload(name, payload);
    }

    /// Counts an answer to the oldest command, if it is of this kind.
    fn count_answer(&mut self, is_of: impl Fn(CommandKind) -> bool) {
        let Some(command) = self.commands.front_mut() else {
            return;
        };
        if !is_of(command.kind) {
            return;
        }
        command.num_answered += 1;
        self.num_unanswered = self.num_unanswered.saturating_sub(1);
        if command.num_answered >= command.names.len() {
            self.commands.pop_front();
        }
    }

    fn on_subscribed(&mut self, name: &[u8]) {
        self.count_answer(|kind| kind != CommandKind::Unsubscribe);
        let Ok(name) = std::str::from_utf8(name) else {
            return;
        };
        if self.probe_name.as_deref() == Some(name) {
            // The first try may have overtaken the subscription.
            self.probe.try_now(Instant::now());
            return;
        }
        let confirmed = {
            let mut registry = self.shard.registry.lock();
            registry.on_subscribed(self.line.id, name)
        };
        for waiter in confirmed.waiters {
            // Who has gone does not want to know.
            let _ = waiter.send(());
        }
        if confirmed.has_lapsed {
            self.shard.events.on_lapse(Lapse::Name(name));
        }
    }

    fn on_unsubscribed(&mut self, name: &[u8]) {
        let Ok(name) = std::str::from_utf8(name) else {
            return;
        };
        if self.probe_name.as_deref() == Some(name) {
            // Its slot has moved: the next probe goes by another name.
            self.probe_name = None;
            return;
        }
        let is_asked_for = {
            let mut registry = self.shard.registry.lock();
            registry.on_unsubscribed(self.line.id, name)
        };
        if is_asked_for {
            self.count_answer(|kind| kind == CommandKind::Unsubscribe);
            return;
        }
        // The slot has moved. Asking here again has the server say where to.
        self.shard.metrics.moved.inc();
        let mut registry = self.shard.registry.lock();
        registry.rehouse(name, Some(self.line.id));
    }

    /// The server does not do what the oldest command without an answer says.
    fn on_error(&mut self, error: &[u8]) {
        let Some(command) = self.commands.pop_front() else {
            return;
        };
        let num_due = command.names.len() - command.num_answered;
        self.num_unanswered = self.num_unanswered.saturating_sub(num_due);
        let code = code_of(error);
        match command.kind {
            CommandKind::Unsubscribe => {
                // It was not subscribed any more.
                let mut registry = self.shard.registry.lock();
                for name in &command.names {
                    registry.on_unsubscribed(self.line.id, name);
                }
            }
            CommandKind::Probe => self.probe_name = None,
            CommandKind::Subscribe if self.line.address.is_some() => {
                let target = moved_to(error, self.line);
                self.shard.metrics.moved.inc_by(command.names.len() as u64);
                let line = target.map(|address| {
                    let known = self.shard.line_to(&address);
                    known.unwrap_or_else(|| self.shard.open_line(Some(address)))
                });
                let mut registry = self.shard.registry.lock();
                for name in &command.names {
                    registry.rehouse(name, line.as_ref().map(|line| line.id));
                }
                drop(registry);
                match line {
                    Some(line) => line.wake.notify_one(),
                    None => self.shard.has_homeless.notify_one(),
                }
            }
            CommandKind::Subscribe => {
                self.shard.metrics.refused.inc();
                tracing::error!(
                    code,
                    "Redis refuses to subscribe; check what its user may do"
                );
                let mut registry = self.shard.registry.lock();
                for name in &command.names {
                    registry.on_refused(self.line.id, name);
                }
            }
        }
    }
}

/// Where `MOVED` points; `None` for any other error, and for a server that points at itself.
fn moved_to(error: &[u8], line: &Line) -> Option<Address> {
    let text = std::str::from_utf8(error).ok()?;
    let target = text.strip_prefix("MOVED ")?.split(' ').nth(1)?;
    let (host, port) = target.rsplit_once(':')?;
    let port = port.parse().ok()?;
    // A server that does not know its own name leaves it out: it is the one that was asked.
    let host = match host {
        "" => line.address.as_ref().map(|address| &*address.host)?,
        host => host,
    };
    let address = Address::new(host, port);
    (line.address.as_ref() != Some(&address)).then_some(address)
}

/// Names that lie in one slot go into one command: Redis refuses any other.
fn by_slot(mut names: Vec<Name>) -> Vec<Vec<Name>> {
    let slot_of = |name: &Name| keys::slot(name.as_bytes());
    names.sort_by_cached_key(slot_of);
    let groups = names.chunk_by(|one, other| slot_of(one) == slot_of(other));
    groups.map(<[Name]>::to_vec).collect()
}

/// Publishes a probe over the path of commands.
async fn publish(pipe: crate::commands::Pipe, name: Name) -> Result<(), RedisFailure> {
    let (verb, route) = if pipe.is_cluster() {
        ("SPUBLISH", Route::Key(&name))
    } else {
        ("PUBLISH", Route::Any)
    };
    let mut command = redis::cmd(verb);
    command.arg(&*name).arg("?");
    pipe.run(&command, route).await.map(|_| ())
}

/// Writes what it can, or flushes what was written. Answers whether there is something to flush.
///
/// # Cancel safety
/// What was written is off `out`.
async fn write(writer: &mut (impl AsyncWrite + Unpin), out: &mut BytesMut) -> io::Result<bool> {
    if out.is_empty() {
        writer.flush().await?;
        return Ok(false);
    }
    if writer.write_buf(out).await? == 0 {
        return Err(io::ErrorKind::WriteZero.into());
    }
    Ok(true)
}

/// The outcome of what runs; never, when nothing does.
async fn wait_for<T>(running: &mut Option<Running<T>>) -> T {
    match running {
        Some(running) => running.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i9_a_line_whose_task_says_nothing_more_is_deaf_by_the_age_of_its_last_proof() {
        let line = Line::new(LineId(1), None, CancellationToken::new());
        let before = Instant::now();
        line.is_heard();
        let after = Instant::now();
        assert!(!line.is_deaf(before + STALE_AFTER - Duration::from_millis(1)));
        assert!(line.is_deaf(after + STALE_AFTER));
    }
}
