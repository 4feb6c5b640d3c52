//! The logs of plugins: what each said of late, for its author.
//!
//! Every plugin of an app has a ring of lines in memory, bounded in lines and bytes, and all rings together are
//! bounded too: the longest silent give way. A call's lines are put there in one go when the call has ended, so they
//! stand together, and a call that says nothing pays for nothing. Whoever reads or follows copies handles out under a
//! short lock and does everything else without it.
//!
//! Owns what is kept, in which order, what is dropped, and how much of it the node's own log repeats. What a guest may
//! say is `capabilities::log`'s business, who may read it the server's.
//!
//! Invariants: text in a line was escaped before; a reader is told of every line once, as a line or in a count
//! of those that were dropped; nothing here waits for a reader.

mod budget;
mod echo;
mod follow;
mod metrics;
mod ring;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use rustc_hash::FxHashMap;
use tidegate_realtime::{
    hooks::Peer,
    ids::{AppId, ClientId},
};
use tokio::sync::Notify;

pub use self::follow::LogFollower;
use self::{budget::LineBudget, echo::Echo, metrics::LogCollector, ring::Ring};
use crate::{binding::Hook, failure::FailureKind};

/// Lines a second that a plugin may write.
const LINES_PER_SECOND: u16 = 100;
/// Lines a second that are kept beyond that: the node's own about failed calls, and last words of failed calls.
const URGENT_PER_SECOND: u16 = 20;
/// What the rings of all plugins take together: 64 plugins that fill theirs, or a thousand with some hundred lines.
const TOTAL_BYTES: usize = 32 << 20;
/// What the longest silent rings give way to: a sixteenth below the bound, so that it is not done for each line.
const TOTAL_AFTER_EVICTION: usize = TOTAL_BYTES / 16 * 15;
/// What a line takes beside its texts: the structs, and places in a ring and in the allocator.
const LINE_COST: usize = 192;

/// How grave a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum LogLevel {
    #[default]
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

impl LogLevel {
    pub const ALL: [Self; 5] = [
        Self::Trace,
        Self::Debug,
        Self::Info,
        Self::Warn,
        Self::Error,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who wrote a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaker {
    Plugin,
    /// The node, about the plugin; with the kind where a call failed.
    Node(Option<FailureKind>),
}

/// One line of a plugin's log.
#[derive(Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Milliseconds since 1970.
    pub at_millis: u64,
    pub level: LogLevel,
    pub speaker: Speaker,
    /// Escaped and cut.
    pub message: Box<str>,
    pub call: Arc<LogCall>,
}

impl LogLine {
    /// What keeping the line takes. What it shares with others of its call is counted for each.
    fn cost(&self) -> usize {
        let call = &self.call;
        let user = call.user.as_ref().map_or(0, |user| user.len());
        let subject = call.subject.as_ref().map_or(0, |subject| subject.len());
        LINE_COST + self.message.len() + user + subject
    }
}

/// What the lines of one call have in common.
#[derive(Debug, PartialEq, Eq)]
pub struct LogCall {
    pub plugin: Arc<str>,
    pub version: u32,
    pub hook: Hook,
    /// Whose command it was; absent for anonymous clients, the server API and plugins.
    pub user: Option<Arc<str>>,
    /// The session whose command it was.
    pub client: Option<ClientId>,
    /// Channel, or method of an RPC. As the client wrote it: not escaped.
    pub subject: Option<Arc<str>>,
    /// The same for everything that was asked about one command at the hook; absent outside calls.
    pub trace_id: Option<Arc<str>>,
}

impl LogCall {
    /// For lines that belong to no call.
    pub(crate) fn outside(plugin: Arc<str>, version: u32, hook: Hook) -> Self {
        Self {
            plugin,
            version,
            hook,
            user: None,
            client: None,
            subject: None,
            trace_id: None,
        }
    }

    /// Notes whose call it is.
    pub(crate) fn of_peer(mut self, peer: Option<&Arc<Peer>>) -> Self {
        if let Some(peer) = peer {
            self.user = (!peer.user.is_empty()).then(|| Arc::clone(&peer.user));
            self.client = Some(peer.client);
        }
        self
    }
}

/// What a reader gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogItem {
    Line {
        /// Counts the plugin's lines, those that were dropped among them.
        number: u64,
        line: Arc<LogLine>,
    },
    /// So many lines are missing at this place.
    Dropped { count: u64, why: Loss },
}

/// Why lines are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The plugin wrote more than it may in a second.
    RateLimit,
    /// The reader was slower than the ring, or the plugin was deleted.
    Overrun,
    /// The log was emptied to make room for those of other plugins.
    Evicted,
}

impl Loss {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RateLimit => "rate-limit",
            Self::Overrun => "overrun",
            Self::Evicted => "evicted",
        }
    }
}

/// Which lines a reader wants.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogFilter {
    pub user: Option<String>,
    pub trace_id: Option<String>,
    /// This level and graver ones.
    pub level: LogLevel,
    pub version: Option<u32>,
}

impl LogFilter {
    fn admits(&self, line: &LogLine) -> bool {
        let Self {
            user,
            trace_id,
            level,
            version,
        } = self;
        let is = |wanted: &Option<String>, found: &Option<Arc<str>>| {
            wanted
                .as_deref()
                .is_none_or(|wanted| found.as_deref() == Some(wanted))
        };
        line.level >= *level
            && version.is_none_or(|version| line.call.version == version)
            && is(trace_id, &line.call.trace_id)
            && is(user, &line.call.user)
    }
}

/// What a call said, ready to be kept.
#[derive(Debug)]
pub(crate) enum Said {
    Line {
        at_millis: u64,
        level: LogLevel,
        speaker: Speaker,
        /// Escaped and cut.
        message: Box<str>,
    },
    /// There was no budget for it.
    Dropped,
}

/// The logs of all plugins of a node.
#[derive(Debug)]
pub(crate) struct Logs {
    /// Of plugins that are bound, have lines or are followed. Locked before a ring, never the other way round.
    plugins: Mutex<ByPlugin>,
    shared: Arc<Shared>,
}

type ByPlugin = FxHashMap<(AppId, Arc<str>), Arc<PluginLog>>;

#[derive(Debug, Default)]
struct Shared {
    /// What all rings take.
    bytes: AtomicUsize,
    /// Rises with each write, to tell who has been silent for longer.
    turn: AtomicU64,
    /// Lines over a plugin's budget; read by metrics.
    dropped: Arc<AtomicU64>,
    /// Lines that gave way to those of other plugins.
    evicted: AtomicU64,
    followers: AtomicUsize,
    echo: Echo,
}

/// The log of one plugin in one app, shared by all its instances whatever their version.
#[derive(Debug)]
pub(crate) struct PluginLog {
    ring: Mutex<Ring>,
    budget: LineBudget,
    urgent: LineBudget,
    /// The turn of the last write.
    touched: AtomicU64,
    /// How many wait for `grown`.
    followers: AtomicUsize,
    grown: Notify,
    echoed: echo::OfPlugin,
    /// Whether the node's log repeats its lines; not those of a plugin that is tried before it is anybody's.
    is_echoed: bool,
    shared: Arc<Shared>,
}

impl Logs {
    /// Counts in `dropped` the lines over a plugin's budget.
    pub(crate) fn new(dropped: Arc<AtomicU64>) -> Self {
        Self {
            plugins: Mutex::default(),
            shared: Arc::new(Shared {
                dropped,
                ..Shared::default()
            }),
        }
    }

    /// The log of a plugin.
    pub(crate) fn of(&self, app: &AppId, plugin: &str) -> Arc<PluginLog> {
        let mut plugins = self.plugins.lock();
        let entry = plugins
            .entry((app.clone(), plugin.into()))
            .or_insert_with(|| Arc::new(PluginLog::new(&self.shared)));
        Arc::clone(entry)
    }

    /// A log that nobody can read, for plugins that are tried out.
    pub(crate) fn unlisted(&self) -> Arc<PluginLog> {
        let mut log = PluginLog::new(&self.shared);
        log.is_echoed = false;
        Arc::new(log)
    }

    /// Forgets logs that have nothing in them and that nobody uses.
    pub(crate) fn forget_unused(&self) {
        let mut plugins = self.plugins.lock();
        plugins.retain(|_, log| Arc::strong_count(log) > 1 || log.ring.lock().len() > 0);
    }

    /// Gives up what a plugin said.
    pub(crate) fn forget_plugin(&self, app: &AppId, plugin: &str) {
        self.forget(|log_app, log_plugin| log_app == app && log_plugin == plugin);
    }

    /// Gives up what the plugins of an app said.
    pub(crate) fn forget_app(&self, app: &AppId) {
        self.forget(|log_app, _| log_app == app);
    }

    fn forget(&self, is_meant: impl Fn(&AppId, &str) -> bool) {
        self.plugins.lock().retain(|(app, plugin), log| {
            if !is_meant(app, plugin) {
                return true;
            }
            log.clear();
            // Who follows it still follows it when there is another of its name.
            Arc::strong_count(log) > 1
        });
    }

    /// Keeps what a call said.
    pub(crate) fn write(&self, log: &PluginLog, call: &Arc<LogCall>, said: Vec<Said>) {
        log.write(call, said);
        if self.shared.bytes.load(Ordering::Relaxed) > TOTAL_BYTES {
            self.evict(TOTAL_AFTER_EVICTION);
        }
    }

    /// Keeps a line that the node has to say about a plugin outside a call.
    #[cold]
    pub(crate) fn note(
        &self,
        app: &AppId,
        call: LogCall,
        (at_millis, level): (u64, LogLevel),
        message: &str,
    ) {
        let log = self.of(app, &call.plugin);
        let said = log.urgent_line(at_millis, level, Speaker::Node(None), message.into());
        self.write(&log, &Arc::new(call), vec![said]);
    }

    /// Takes lines until all together take no more than `bytes`: of the app that has most, so that none can empty the
    /// logs of the others, and there of the plugin that has been silent for longest.
    #[cold]
    fn evict(&self, bytes: usize) {
        let plugins = self.plugins.lock();
        let mut apps: FxHashMap<&AppId, (usize, Vec<_>)> = FxHashMap::default();
        for ((app, _), log) in &*plugins {
            let size = log.ring.lock().bytes();
            if size > 0 {
                let (total, logs) = apps.entry(app).or_default();
                *total += size;
                logs.push((log.touched.load(Ordering::Relaxed), size, log));
            }
        }
        for (_, logs) in apps.values_mut() {
            // The longest silent last, to be taken off the end.
            logs.sort_unstable_by_key(|(touched, ..)| std::cmp::Reverse(*touched));
        }
        while self.shared.bytes.load(Ordering::Relaxed) > bytes {
            let largest = apps.values_mut().max_by_key(|(total, _)| *total);
            let Some((total, Some((_, size, log)))) =
                largest.map(|(total, logs)| (total, logs.pop()))
            else {
                return;
            };
            *total -= size;
            let evicted = log.evict() as u64;
            self.shared.evicted.fetch_add(evicted, Ordering::Relaxed);
        }
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(LogCollector(Arc::clone(&self.shared))));
    }
}

impl PluginLog {
    fn new(shared: &Arc<Shared>) -> Self {
        Self {
            ring: Mutex::default(),
            budget: LineBudget::new(LINES_PER_SECOND),
            urgent: LineBudget::new(URGENT_PER_SECOND),
            touched: AtomicU64::new(0),
            followers: AtomicUsize::new(0),
            grown: Notify::new(),
            is_echoed: true,
            echoed: echo::OfPlugin::default(),
            shared: Arc::clone(shared),
        }
    }

    /// Whether the plugin may write one more line now.
    pub(crate) fn admit(&self, at_millis: u64) -> bool {
        self.budget.admit(at_millis)
    }

    /// A line that is kept although the plugin has said too much already, within a budget of its own.
    pub(crate) fn urgent_line(
        &self,
        at_millis: u64,
        level: LogLevel,
        speaker: Speaker,
        message: Box<str>,
    ) -> Said {
        if !self.urgent.admit(at_millis) {
            return Said::Dropped;
        }
        Said::Line {
            at_millis,
            level,
            speaker,
            message,
        }
    }

    fn write(&self, call: &Arc<LogCall>, said: Vec<Said>) {
        // Everything that takes memory is done before the lock is taken.
        let lines: Vec<Option<Arc<LogLine>>> = said
            .into_iter()
            .map(|said| match said {
                Said::Line {
                    at_millis,
                    level,
                    speaker,
                    message,
                } => Some(Arc::new(LogLine {
                    at_millis,
                    level,
                    speaker,
                    message,
                    call: Arc::clone(call),
                })),
                Said::Dropped => None,
            })
            .collect();
        let mut dropped = 0;
        let mut is_news = false;
        let mut ring = self.ring.lock();
        let before = ring.bytes();
        for line in lines {
            match line {
                Some(line) => {
                    ring.push(line);
                    is_news = true;
                }
                None => {
                    // Only the first of a gap is worth waking anybody.
                    is_news |= ring.skip();
                    dropped += 1;
                }
            }
        }
        let after = ring.bytes();
        // Under the lock, so that whoever clears the ring takes off what was added.
        if after > before {
            self.shared
                .bytes
                .fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.shared
                .bytes
                .fetch_sub(before - after, Ordering::Relaxed);
        }
        drop(ring);
        if dropped > 0 {
            self.shared.dropped.fetch_add(dropped, Ordering::Relaxed);
        }
        let turn = self.shared.turn.fetch_add(1, Ordering::Relaxed);
        self.touched.store(turn + 1, Ordering::Relaxed);
        // Pairs with the increment in `follow`: who is not seen here reads the ring after it was written.
        if is_news && self.followers.load(Ordering::SeqCst) > 0 {
            self.grown.notify_waiters();
        }
    }

    /// Gives up all lines; answers how many there were.
    fn clear(&self) -> usize {
        let mut ring = self.ring.lock();
        let len = ring.len();
        self.shared.bytes.fetch_sub(ring.bytes(), Ordering::Relaxed);
        ring.clear();
        len
    }

    /// The same to make room for others, which its readers are told.
    fn evict(&self) -> usize {
        let mut ring = self.ring.lock();
        let len = ring.len();
        self.shared.bytes.fetch_sub(ring.bytes(), Ordering::Relaxed);
        ring.evict();
        len
    }

    /// The last `limit` lines that the filter lets through, oldest first, with what is missing between them.
    pub(crate) fn recent(&self, filter: &LogFilter, limit: usize) -> Vec<LogItem> {
        let ring = self.ring.lock();
        let mut cursor = ring.begin(filter, limit);
        let mut items = ring.read(&mut cursor, filter, usize::MAX);
        let gap = ring.trailing_gap(cursor);
        drop(ring);
        if gap > 0 {
            items.push(LogItem::Dropped {
                count: gap,
                why: Loss::RateLimit,
            });
        }
        items
    }
}

impl Drop for PluginLog {
    fn drop(&mut self) {
        let bytes = self.ring.get_mut().bytes();
        self.shared.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
