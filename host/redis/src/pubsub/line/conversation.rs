//! What is said and heard on one connection for subscriptions, from its first word to its end.
//!
//! Owns the socket, and what was said on it and has no answer yet. What is to be said comes from the registry; what is
//! heard goes to [`PubSubEvents`](crate::pubsub::PubSubEvents) from the task that reads, so that messages keep their
//! order. Reading never waits for writing: a server that answers a hundred thousand subscriptions would otherwise wait
//! for us, and we for it.

use std::{
    collections::VecDeque,
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::Instant,
};

use super::{
    super::{
        Lapse, Shard,
        metrics::{End, ProbeOutcome, PubSubMetrics},
        probe::{Due, Probe},
        registry::{LineId, Name},
        resp::{self, Said},
    },
    Line,
    open::code_of,
};
use crate::{
    commands::{RedisFailure, Route},
    config::Address,
    connect::{Socket, left},
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

/// Names tried for a probe whose slot is on one certain server of a Cluster. With ten thousand primaries of equal size
/// this still finds one.
const PROBE_NAMES: u32 = 100_000;

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

/// The life of one connection.
pub(super) struct Conversation<'a> {
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
pub(super) struct Ended {
    pub(super) reason: End,
    pub(super) has_delivered: bool,
}

impl<'a> Conversation<'a> {
    pub(super) fn new(shard: &'a Arc<Shard>, line: &'a Line) -> Self {
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

    pub(super) async fn hold(mut self, socket: Socket, address: &Address) -> Ended {
        let _counted = Counted::new(&self.shard.metrics);
        let is_back = self.shard.registry.lock().connected(self.line.id);
        tracing::info!(is_back, "connected to Redis for subscriptions");
        let reason = {
            let pipe = self.shard.pipe.clone();
            tokio::select! {
                reason = self.serve(socket) => reason,
                () = left(pipe.watch(), address) => End::replaced,
            }
        };
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
        if !self.shard.pipe.has_slots(address) {
            return None;
        }
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
