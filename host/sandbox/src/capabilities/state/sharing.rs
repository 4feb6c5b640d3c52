//! `state` over the cluster: each node tells the others what changed, and takes in what they tell.
//!
//! Owns who is told what and when; what merges is in `merge`, the keys are in `store`. Changed keys go out in batches,
//! a turn every [`TURN`], each key at most once a turn however often it changed, and no more than [`TURN_BYTES`]: what
//! finds no room goes in the next turn, as it is then. Batches are numbered; a node that misses one asks for what is
//! newer than the one before, and a node that joins asks for everything.
//!
//! Invariants. No call of a plugin waits for anything here. Whatever was written is told to every node that stays, or
//! counted as lost. Messages of others are parsed as hostile, and bounded before they are kept.

mod peers;
#[cfg(test)]
mod tests;
mod wire;

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::value::RawValue;
use tidegate_realtime::cluster::{Cluster, Gossip, NodeUid, Recipient};
use tokio::sync::mpsc;

use self::{
    peers::{Peers, Question},
    wire::{Deleted, Message, PluginKeys, Said},
};
use super::store::{Place, PluginState, StateStore, Told, Whose};

/// Time between two turns. What is written is on its way after half of it on average, and with the other nodes well
/// within the 250 ms that plugins are promised.
const TURN: Duration = Duration::from_millis(75);

/// Bytes of changes that go out in a turn: 3.4 MiB a second, some 30,000 counters.
const TURN_BYTES: usize = 256 << 10;

/// Bytes of answers to other nodes' questions that go out in a turn. Half, so that a node that joins does not hold
/// changes up.
const REPEAT_BYTES: usize = 128 << 10;

/// Bytes after which a message is full. Parsing and merging one takes a fraction of a millisecond.
const MESSAGE_BYTES: usize = 32 << 10;

/// More batches than a turn makes: any two that follow each other are more than one full message.
const MAX_BATCHES: u64 = 1 + 2 * ((TURN_BYTES + (128 << 10)) / MESSAGE_BYTES) as u64;

/// Pages of keys that are looked at in a turn for answers to other nodes: about a millisecond.
const MAX_PAGES: usize = 128;

/// Messages of others that wait to be merged. More is a node that is too slow for them; what it drops it asks for.
const INBOX: usize = 1_024;

/// Milliseconds between two words on which batch was the last.
const LAST_EVERY: u64 = 1_000;

/// What this node shares.
#[derive(Debug)]
pub(crate) struct Sharing {
    store: Arc<StateStore>,
    core: Mutex<Core>,
    inbox: mpsc::Sender<(NodeUid, Bytes)>,
}

/// Messages of others, for [`Sharing::run`].
pub(crate) type Inbox = mpsc::Receiver<(NodeUid, Bytes)>;

#[derive(Debug, Default)]
struct Core {
    peers: Peers,
    /// The last batch that was made.
    batch: u64,
    last_said: u64,
    /// Plugins whose changes did not all find room.
    left_over: VecDeque<Arc<PluginState>>,
    repeats: VecDeque<Repeat>,
    /// Bytes beyond the last turns' room.
    debt: usize,
    repeat_debt: usize,
}

/// An answer under way to a node that asked.
#[derive(Debug)]
struct Repeat {
    to: NodeUid,
    whose: Whose,
    since: u64,
    upto: u64,
    part: u32,
    plugins: VecDeque<Arc<PluginState>>,
    place: Place,
}

/// Something to be sent.
pub(super) struct Outgoing {
    pub(super) to: Recipient,
    pub(super) text: Box<RawValue>,
}

/// Puts keys into messages of a bounded size.
#[derive(Default)]
struct Packer {
    full: Vec<Vec<PluginKeys>>,
    open: Vec<PluginKeys>,
    open_bytes: usize,
    num_bytes: usize,
}

impl Packer {
    fn push(&mut self, plugin: &PluginState, told: Told) {
        let num_bytes = told.num_bytes();
        if self.open_bytes + num_bytes > MESSAGE_BYTES {
            self.cut();
        }
        let is_of_plugin =
            |keys: &PluginKeys| keys.app == plugin.app.as_str() && keys.plugin == *plugin.plugin;
        if !self.open.last().is_some_and(is_of_plugin) {
            self.open.push(PluginKeys::new(&plugin.app, &plugin.plugin));
            let head = 64 + plugin.plugin.len();
            self.open_bytes += head;
            self.num_bytes += head;
        }
        if let Some(keys) = self.open.last_mut() {
            keys.push(told);
        }
        self.open_bytes += num_bytes;
        self.num_bytes += num_bytes;
    }

    fn cut(&mut self) {
        if !self.open.is_empty() {
            self.full.push(std::mem::take(&mut self.open));
        }
        self.open_bytes = 0;
    }

    fn finish(mut self) -> Vec<Vec<PluginKeys>> {
        self.cut();
        self.full
    }
}

impl Sharing {
    pub(crate) fn new(store: Arc<StateStore>) -> (Arc<Self>, Inbox) {
        store.share();
        let (inbox, messages) = mpsc::channel(INBOX);
        let sharing = Self {
            store,
            core: Mutex::default(),
            inbox,
        };
        (Arc::new(sharing), messages)
    }

    /// Tells and merges until `stop`.
    pub(crate) async fn run(
        self: Arc<Self>,
        cluster: Arc<Cluster>,
        inbox: Inbox,
        stop: impl Future<Output = ()>,
    ) {
        let telling = self.tell(&cluster);
        let hearing = self.listen(inbox);
        tokio::select! {
            () = stop => {}
            // Neither ends.
            () = async { tokio::join!(telling, hearing); } => {}
        }
        // What was written last is told before the node goes, if that is possible at once.
        let turn = self.turn();
        let last = self.send(&cluster, turn);
        let _ = tokio::time::timeout(TURN, last).await;
    }

    async fn tell(&self, cluster: &Arc<Cluster>) {
        let mut turns = tokio::time::interval(TURN);
        turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            turns.tick().await;
            let turn = self.turn();
            self.send(cluster, turn).await;
        }
    }

    /// Sends one after the other, so that they arrive in order.
    async fn send(&self, cluster: &Arc<Cluster>, messages: Vec<Outgoing>) {
        let mut messages = messages.into_iter();
        while let Some(Outgoing { to, text }) = messages.next() {
            if let Err(error) = cluster.gossip(to, text).wait().await {
                // The others find that batches are missing and ask for them.
                let num_lost = 1 + messages.len() as u64;
                let counts = &self.store.shared().counts;
                counts.lost_messages.fetch_add(num_lost, Ordering::Relaxed);
                tracing::debug!(%error, num_lost, "changes of `state` could not be told to the other nodes");
                return;
            }
        }
    }

    async fn listen(&self, mut inbox: Inbox) {
        while let Some((from, text)) = inbox.recv().await {
            self.hear(&from, &text);
            // Other tasks of the thread run between any two messages.
            tokio::task::yield_now().await;
        }
    }

    /// What is to be sent now.
    pub(super) fn turn(&self) -> Vec<Outgoing> {
        let now = self.store.shared().now();
        let mut core = self.core.lock();
        let core = &mut *core;
        let mut outgoing = Vec::new();
        self.changes(core, now, &mut outgoing);
        if core.peers.is_empty() {
            core.repeats.clear();
            return outgoing;
        }
        if core.batch > 0 && now >= core.last_said.saturating_add(LAST_EVERY) {
            core.last_said = now;
            let batch = core.batch;
            outgoing.push(outgoing_to(Recipient::Everyone, now, Said::Last { batch }));
        }
        for Question {
            to,
            since,
            is_whole,
        } in core.peers.questions(now)
        {
            let counts = &self.store.shared().counts;
            counts.pulls.fetch_add(1, Ordering::Relaxed);
            let said = Said::Pull { since, is_whole };
            outgoing.push(outgoing_to(Recipient::Node(to), now, said));
        }
        self.repeats(core, now, &mut outgoing);
        outgoing
    }

    /// Takes this turn's changes. With nobody to tell they are noted as told, and whoever comes asks for them.
    fn changes(&self, core: &mut Core, now: u64, outgoing: &mut Vec<Outgoing>) {
        core.left_over.extend(self.store.shared().take_changed());
        let room = TURN_BYTES.saturating_sub(core.debt);
        core.debt = core.debt.saturating_sub(TURN_BYTES);
        let mut packer = Packer::default();
        // All plugins come to their turn before any of them comes again.
        let mut share = room / core.left_over.len().max(1);
        while packer.num_bytes < room {
            let Some(plugin) = core.left_over.pop_front() else {
                break;
            };
            let upto = packer.num_bytes + share.max(1);
            // In which batch a key is gets known when its message is full. It is noted with one that is none of the
            // turn's and later, so that at worst it is repeated without need.
            let has_more = plugin.take_changes(core.batch + MAX_BATCHES, |told| {
                packer.push(&plugin, told);
                packer.num_bytes < upto
            });
            if has_more {
                core.left_over.push_back(plugin);
                share = room.saturating_sub(packer.num_bytes) / core.left_over.len();
            }
        }
        if !core.peers.is_empty() {
            let left_over = core.left_over.iter();
            let num_deferred: usize = left_over.map(|plugin| plugin.num_changed()).sum();
            let counts = &self.store.shared().counts;
            counts
                .deferred_keys
                .fetch_add(num_deferred as u64, Ordering::Relaxed);
        }
        core.debt += packer.num_bytes.saturating_sub(room);
        let forgotten = self.store.shared().take_forgotten().into_iter();
        let mut forgotten: Vec<_> = forgotten.map(Deleted::new).collect();
        let mut messages = packer.finish();
        if messages.is_empty() && !forgotten.is_empty() {
            messages.push(Vec::new());
        }
        for plugins in messages {
            // With the first: what changed since may be that of a plugin of the same name.
            let forgotten = std::mem::take(&mut forgotten);
            core.batch += 1;
            if core.peers.is_empty() {
                continue;
            }
            core.last_said = now;
            let batch = core.batch;
            let said = Said::Changes {
                batch,
                forgotten,
                plugins,
            };
            outgoing.push(outgoing_to(Recipient::Everyone, now, said));
        }
    }

    fn repeats(&self, core: &mut Core, now: u64, outgoing: &mut Vec<Outgoing>) {
        let mut room = REPEAT_BYTES.saturating_sub(core.repeat_debt);
        core.repeat_debt = core.repeat_debt.saturating_sub(REPEAT_BYTES);
        let mut pages = 0;
        while room > 0 && pages < MAX_PAGES {
            let Some(mut repeat) = core.repeats.pop_front() else {
                return;
            };
            let mut packer = Packer::default();
            while packer.num_bytes < room.min(MESSAGE_BYTES / 2) && pages < MAX_PAGES {
                pages += 1;
                let Some(plugin) = repeat.plugins.front() else {
                    break;
                };
                match plugin.page(&mut repeat.place, repeat.whose) {
                    Some(page) => page.into_iter().for_each(|told| packer.push(plugin, told)),
                    None => {
                        repeat.plugins.pop_front();
                        repeat.place = Place::default();
                    }
                }
            }
            let num_bytes = packer.num_bytes;
            core.repeat_debt += num_bytes.saturating_sub(room);
            room = room.saturating_sub(num_bytes);
            let is_over = repeat.plugins.is_empty();
            let mut parts = packer.finish();
            if parts.is_empty() && is_over {
                parts.push(Vec::new());
            }
            let last = parts.len().saturating_sub(1);
            for (nth, plugins) in parts.into_iter().enumerate() {
                let forgotten = match repeat.part {
                    0 => self.store.shared().all_forgotten(),
                    _ => Vec::new(),
                };
                let said = Said::Repeat {
                    since: repeat.since,
                    part: repeat.part,
                    upto: (is_over && nth == last).then_some(repeat.upto),
                    forgotten: forgotten.into_iter().map(Deleted::new).collect(),
                    plugins,
                };
                repeat.part += 1;
                let to = Recipient::Node(repeat.to.clone());
                outgoing.push(outgoing_to(to, now, said));
            }
            if !is_over {
                // Others that asked come to their turn too.
                core.repeats.push_back(repeat);
            }
        }
    }

    /// Takes a message in.
    pub(super) fn hear(&self, from: &NodeUid, text: &[u8]) {
        let counts = &self.store.shared().counts;
        let bad = || {
            counts.bad_messages.fetch_add(1, Ordering::Relaxed);
        };
        let Some(Message { now, said }) = Message::parse(text) else {
            return bad();
        };
        if !self.store.shared().follow(now) {
            tracing::debug!(node.id = %from, "another node's clock is too far from this one's");
            return bad();
        }
        match said {
            Said::Changes {
                batch,
                forgotten,
                plugins,
            } => {
                if self.take_in(forgotten, plugins, now) {
                    self.core.lock().peers.heard(from, batch);
                } else {
                    bad();
                }
            }
            Said::Last { batch } => self.core.lock().peers.last(from, batch),
            Said::Pull { since, is_whole } => self.on_pull(from, since, is_whole),
            Said::Repeat {
                since,
                part,
                upto,
                forgotten,
                plugins,
            } => {
                if self.take_in(forgotten, plugins, now) {
                    let now = self.store.shared().now();
                    let peers = &mut self.core.lock().peers;
                    peers.repeated(from, since, part, upto, now);
                } else {
                    bad();
                }
            }
        }
    }

    /// Whether everything could be read.
    fn take_in(&self, forgotten: Vec<Deleted>, plugins: Vec<PluginKeys>, now: u64) -> bool {
        let forgotten = forgotten.into_iter().map(|deleted| deleted.read(now));
        let plugins = plugins.into_iter().map(|keys| keys.read(now));
        let (Some(forgotten), Some(plugins)) = (
            forgotten.collect::<Option<Vec<_>>>(),
            plugins.collect::<Option<Vec<_>>>(),
        ) else {
            return false;
        };
        for forgotten in forgotten {
            self.store.take_away(&forgotten);
        }
        for (app, plugin, told) in plugins {
            self.store.merge(&app, &plugin, told);
        }
        true
    }

    fn on_pull(&self, from: &NodeUid, since: u64, is_whole: bool) {
        let plugins = self.store.all().into();
        let mut core = self.core.lock();
        // Who asks again did not get an answer to the end.
        core.repeats.retain(|repeat| repeat.to != *from);
        let upto = core.batch;
        core.repeats.push_back(Repeat {
            to: from.clone(),
            whose: if is_whole {
                Whose::Everybodys
            } else {
                Whose::Own { since }
            },
            since,
            upto,
            part: 0,
            plugins,
            place: Place::default(),
        });
    }
}

fn outgoing_to(to: Recipient, now: u64, said: Said) -> Outgoing {
    let text = Message { now, said }.encode();
    Outgoing { to, text }
}

impl Gossip for Sharing {
    fn on_gossip(&self, from: &NodeUid, text: Bytes) {
        if self.inbox.try_send((from.clone(), text)).is_err() {
            let counts = &self.store.shared().counts;
            counts.lost_messages.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn on_joined(&self, node: &NodeUid) {
        let mut core = self.core.lock();
        core.peers.joined(node);
        // Said at once, so that it asks at once.
        core.last_said = 0;
    }

    fn on_gone(&self, node: &NodeUid) {
        let mut core = self.core.lock();
        core.peers.gone(node);
        core.repeats.retain(|repeat| repeat.to != *node);
    }
}
