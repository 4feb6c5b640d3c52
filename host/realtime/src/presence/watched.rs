//! Presence that is kept outside this node, as plugins see it: a copy of the channels that they ask about.
//!
//! A plugin's call cannot wait for the store. So the first question about a channel has it read, and from then on it
//! is read again every [`READ_EVERY`] until nobody has asked for [`WATCHED_FOR`]. Owns which channels those are and
//! what was read of them. Invariants: nobody is answered with what was read longer than [`MAX_AGE`] ago; channels,
//! reads and bytes are bounded, for each app and in all, and what does not fit is not answered. When the places are taken
//! an app with fewer channels than another gets one of that other's.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

use super::{Members, NoView, Presence, PresenceStats};
use crate::{broker::BrokerError, config::MAX_PAGE_BYTES, ids::ChannelKey};

/// How old an answer may be.
pub const MAX_AGE: Duration = Duration::from_secs(2);

/// How often a channel is read: half of [`MAX_AGE`], so that a slow read leaves no hole.
const READ_EVERY: Duration = Duration::from_secs(1);

/// How long after the last question a channel is still read.
const WATCHED_FOR: Duration = Duration::from_secs(30);

/// Channels that are read, of all apps: at most 2,000 commands a second for the store.
const MAX_CHANNELS: usize = 1_000;

/// An app's share of them: who names channels that its clients choose shuts nobody else out.
const MAX_APP_CHANNELS: usize = MAX_CHANNELS / 4;

/// Reads under way at a time.
const MAX_READS: usize = 32;

/// Members that are read of a channel: as many as a plugin can be told at once.
const MAX_MEMBERS: usize = 1_000;

/// Bytes of all members that are kept.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// An app's share of them.
const MAX_APP_BYTES: usize = MAX_BYTES / 4;

/// The channels that plugins ask about.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    inner: Mutex<Inner>,
    /// A channel is to be read at once.
    wake: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    channels: HashMap<ChannelKey, Channel>,
    /// What each app has of them; none that has nothing.
    apps: HashMap<String, Share>,
    /// Of all members that are kept.
    num_bytes: usize,
}

#[derive(Debug, Default)]
struct Share {
    num_channels: usize,
    num_bytes: usize,
}

#[derive(Debug, Default)]
struct Channel {
    stats: Side<PresenceStats>,
    members: Side<Result<Arc<Members>, NoView>>,
    num_bytes: usize,
}

/// What is asked about a channel, and what was read last.
#[derive(Debug)]
struct Side<T> {
    asked_at: Option<Instant>,
    /// A read is under way since, or was begun last.
    begun_at: Option<Instant>,
    is_reading: bool,
    /// When the read began that brought it.
    read: Option<(Instant, T)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Stats,
    Members,
}

impl<T> Default for Side<T> {
    fn default() -> Self {
        Self {
            asked_at: None,
            begun_at: None,
            is_reading: false,
            read: None,
        }
    }
}

impl<T: Clone> Side<T> {
    /// Notes the question; answers what was read, if it is not too old, and whether a read is wanted at once.
    fn ask(&mut self, now: Instant) -> (Option<T>, bool) {
        self.asked_at = Some(now);
        let fresh = self.read.as_ref().filter(|(at, _)| now < *at + MAX_AGE);
        let answer = fresh.map(|(_, answer)| answer.clone());
        (answer, self.is_due(now))
    }
}

impl<T> Side<T> {
    fn is_watched(&self, now: Instant) -> bool {
        self.asked_at.is_some_and(|at| now < at + WATCHED_FOR)
    }

    /// When it is to be read, if it is.
    fn due_at(&self, now: Instant) -> Option<Instant> {
        if self.is_reading || !self.is_watched(now) {
            return None;
        }
        let asked_at = self.asked_at?;
        Some(self.begun_at.map_or(asked_at, |at| at + READ_EVERY))
    }

    fn is_due(&self, now: Instant) -> bool {
        self.due_at(now).is_some_and(|due| due <= now)
    }

    fn begin(&mut self, now: Instant) {
        self.is_reading = true;
        self.begun_at = Some(now);
    }

    /// A read that fails leaves what was there, which gets older.
    fn end(&mut self, read: Option<T>) {
        self.is_reading = false;
        if let (Some(read), Some(begun)) = (read, self.begun_at) {
            self.read = Some((begun, read));
        }
    }
}

impl Channel {
    fn asked_at(&self) -> Option<Instant> {
        self.stats.asked_at.max(self.members.asked_at)
    }

    fn is_kept(&self, now: Instant) -> bool {
        let is_read = self.stats.is_reading || self.members.is_reading;
        is_read || self.stats.is_watched(now) || self.members.is_watched(now)
    }
}

impl Inner {
    /// The channel; taken up if there is a place for it.
    fn take_up(&mut self, key: &ChannelKey) -> Option<&mut Channel> {
        if !self.channels.contains_key(key) {
            let of_app = self.num_channels(key.app());
            if of_app >= MAX_APP_CHANNELS {
                return None;
            }
            if self.channels.len() >= MAX_CHANNELS {
                self.make_place(of_app + 1)?;
            }
            self.channels.insert(key.clone(), Channel::default());
            self.apps.entry_ref(key.app()).or_default().num_channels += 1;
        }
        self.channels.get_mut(key)
    }

    fn num_channels(&self, app: &str) -> usize {
        self.apps.get(app).map_or(0, |share| share.num_channels)
    }

    /// Drops the channel that was asked about longest ago, of the app with most, if that has more than so many.
    fn make_place(&mut self, more_than: usize) -> Option<()> {
        let most = self.apps.iter().max_by_key(|(_, share)| share.num_channels);
        let (app, _) = most.filter(|(_, share)| share.num_channels > more_than)?;
        let of_app = self
            .channels
            .iter()
            .filter(|(key, _)| key.app() == app.as_str());
        let oldest = of_app.min_by_key(|(_, channel)| channel.asked_at());
        let oldest = oldest.map(|(key, _)| key.clone())?;
        self.drop_channel(&oldest);
        Some(())
    }

    fn drop_channel(&mut self, key: &ChannelKey) {
        let Some(channel) = self.channels.remove(key) else {
            return;
        };
        self.num_bytes -= channel.num_bytes;
        if let Some(share) = self.apps.get_mut(key.app()) {
            share.num_bytes -= channel.num_bytes;
            share.num_channels -= 1;
            if share.num_channels == 0 {
                self.apps.remove(key.app());
            }
        }
    }

    /// Notes what the members of a channel take from now on, if there is room for it.
    fn hold(&mut self, key: &ChannelKey, num_bytes: usize) -> bool {
        let (Some(channel), Some(share)) =
            (self.channels.get_mut(key), self.apps.get_mut(key.app()))
        else {
            return false;
        };
        self.num_bytes -= channel.num_bytes;
        share.num_bytes -= channel.num_bytes;
        channel.num_bytes = 0;
        let fits =
            self.num_bytes + num_bytes <= MAX_BYTES && share.num_bytes + num_bytes <= MAX_APP_BYTES;
        if fits {
            self.num_bytes += num_bytes;
            share.num_bytes += num_bytes;
            channel.num_bytes = num_bytes;
        }
        fits
    }
}

/// A read under way. One that falls ends as one that failed: the channel is read again, or given up.
struct Reading {
    watched: Arc<Watched>,
    key: ChannelKey,
    what: What,
    is_over: bool,
}

impl Reading {
    fn new(watched: &Arc<Watched>, key: ChannelKey, what: What) -> Self {
        Self {
            watched: Arc::clone(watched),
            key,
            what,
            is_over: false,
        }
    }

    async fn run(mut self, store: Arc<dyn Presence>) {
        match self.what {
            What::Stats => {
                let stats = store.stats(&self.key).wait().await.ok();
                self.is_over = true;
                if let Some(channel) = self.watched.inner.lock().channels.get_mut(&self.key) {
                    channel.stats.end(stats);
                }
            }
            What::Members => {
                let members = store.members(&self.key, MAX_MEMBERS).wait().await;
                self.is_over = true;
                self.watched.keep(&self.key, members);
            }
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        if let Some(channel) = self.watched.inner.lock().channels.get_mut(&self.key) {
            match self.what {
                What::Stats => channel.stats.end(None),
                What::Members => channel.members.end(None),
            }
        }
    }
}

impl Watched {
    pub(crate) fn stats(&self, key: &ChannelKey, now: Instant) -> Result<PresenceStats, NoView> {
        self.ask(key, |channel| channel.stats.ask(now))
    }

    /// Some of the members; see [`Members::is_whole`].
    pub(crate) fn members(&self, key: &ChannelKey, now: Instant) -> Result<Arc<Members>, NoView> {
        self.ask(key, |channel| channel.members.ask(now))?
    }

    fn ask<T>(
        &self,
        key: &ChannelKey,
        ask: impl FnOnce(&mut Channel) -> (Option<T>, bool),
    ) -> Result<T, NoView> {
        let (answer, is_due) = {
            let mut inner = self.inner.lock();
            ask(inner.take_up(key).ok_or(NoView::Busy)?)
        };
        if is_due {
            self.wake.notify_one();
        }
        answer.ok_or(NoView::Elsewhere)
    }

    /// Reads what is asked about, until `stop`.
    pub(crate) async fn run(self: Arc<Self>, store: Arc<dyn Presence>, stop: CancellationToken) {
        let mut reads = JoinSet::new();
        loop {
            let now = Instant::now();
            let (due, next) = self.take_due(now, MAX_READS - reads.len());
            for (key, what) in due {
                let reading = Reading::new(&self, key, what);
                reads.spawn(reading.run(Arc::clone(&store)));
            }
            let next = next.unwrap_or(now + WATCHED_FOR);
            tokio::select! {
                biased; // Stop wins, so that shutdown is prompt.
                () = stop.cancelled() => return,
                Some(ended) = reads.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a read of presence for plugins ended early");
                    }
                }
                () = self.wake.notified(), if reads.len() < MAX_READS => {}
                () = tokio::time::sleep_until(next), if reads.len() < MAX_READS => {}
            }
        }
    }

    /// Begins at most so many reads; answers when the next is due, if any is.
    fn take_due(&self, now: Instant, at_most: usize) -> (Vec<(ChannelKey, What)>, Option<Instant>) {
        let mut inner = self.inner.lock();
        let over = inner.channels.iter();
        let over = over.filter(|(_, channel)| !channel.is_kept(now));
        let over: Vec<ChannelKey> = over.map(|(key, _)| key.clone()).collect();
        over.iter().for_each(|key| inner.drop_channel(key));
        let mut due = Vec::new();
        let mut next: Option<Instant> = None;
        for (key, channel) in &mut inner.channels {
            for what in [What::Stats, What::Members] {
                let at = match what {
                    What::Stats => channel.stats.due_at(now),
                    What::Members => channel.members.due_at(now),
                };
                if at.is_some_and(|at| at <= now) && due.len() < at_most {
                    match what {
                        What::Stats => channel.stats.begin(now),
                        What::Members => channel.members.begin(now),
                    }
                    due.push((key.clone(), what));
                } else if let Some(at) = at {
                    next = Some(next.map_or(at, |next| next.min(at)));
                }
            }
        }
        (due, next)
    }

    fn keep(&self, key: &ChannelKey, members: Result<Members, BrokerError>) {
        let mut inner = self.inner.lock();
        let read = members.ok().map(|members| {
            let cost: usize = members.members.iter().map(|member| member.cost()).sum();
            if cost > MAX_PAGE_BYTES {
                inner.hold(key, 0);
                Err(NoView::TooLarge)
            } else if inner.hold(key, cost) {
                Ok(Arc::new(members))
            } else {
                Err(NoView::Busy)
            }
        });
        if let Some(channel) = inner.channels.get_mut(key) {
            channel.members.end(read);
        }
    }
}
