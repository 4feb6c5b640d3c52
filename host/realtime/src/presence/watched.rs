//! Presence that is kept outside this node, as plugins see it: a copy of the channels that they ask about.
//!
//! A plugin's call cannot wait for the store. So the first question about a channel has it read, and from then on it
//! is read again every [`READ_EVERY`] until nobody has asked for [`WATCHED_FOR`]. Owns which channels those are and
//! what was read of them. Invariants: nobody is answered with what was read longer than [`MAX_AGE`] ago; channels,
//! reads and bytes are bounded, and what does not fit is not answered.

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

/// Reads under way at a time.
const MAX_READS: usize = 32;

/// Members that are read of a channel: as many as a plugin can be told at once.
const MAX_MEMBERS: usize = 1_000;

/// Bytes of all members that are kept.
const MAX_BYTES: usize = 64 * 1024 * 1024;

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
    /// Of all members that are kept.
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
            if !inner.channels.contains_key(key) {
                if inner.channels.len() >= MAX_CHANNELS {
                    return Err(NoView::Busy);
                }
                inner.channels.insert(key.clone(), Channel::default());
            }
            let Some(channel) = inner.channels.get_mut(key) else {
                return Err(NoView::Busy);
            };
            ask(channel)
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
                let (watched, store) = (Arc::clone(&self), Arc::clone(&store));
                reads.spawn(async move { watched.read(&*store, &key, what).await });
            }
            let next = next.unwrap_or(now + WATCHED_FOR);
            tokio::select! {
                biased; // Stop wins, so that shutdown is prompt.
                () = stop.cancelled() => return,
                _ = reads.join_next(), if !reads.is_empty() => {}
                () = self.wake.notified(), if reads.len() < MAX_READS => {}
                () = tokio::time::sleep_until(next), if reads.len() < MAX_READS => {}
            }
        }
    }

    /// Begins at most so many reads; answers when the next is due, if any is.
    fn take_due(&self, now: Instant, at_most: usize) -> (Vec<(ChannelKey, What)>, Option<Instant>) {
        let mut inner = self.inner.lock();
        let Inner {
            channels,
            num_bytes,
        } = &mut *inner;
        channels.retain(|_, channel| {
            let (stats, members) = (&channel.stats, &channel.members);
            let is_read = stats.is_reading || members.is_reading;
            let is_kept = is_read || stats.is_watched(now) || members.is_watched(now);
            if !is_kept {
                *num_bytes -= channel.num_bytes;
            }
            is_kept
        });
        let mut due = Vec::new();
        let mut next: Option<Instant> = None;
        for (key, channel) in channels {
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

    async fn read(&self, store: &dyn Presence, key: &ChannelKey, what: What) {
        match what {
            What::Stats => {
                let stats = store.stats(key).wait().await.ok();
                if let Some(channel) = self.inner.lock().channels.get_mut(key) {
                    channel.stats.end(stats);
                }
            }
            What::Members => {
                let members = store.members(key, MAX_MEMBERS).wait().await;
                self.keep(key, members);
            }
        }
    }

    fn keep(&self, key: &ChannelKey, members: Result<Members, BrokerError>) {
        let mut inner = self.inner.lock();
        let Inner {
            channels,
            num_bytes,
        } = &mut *inner;
        let Some(channel) = channels.get_mut(key) else {
            return;
        };
        let Ok(members) = members else {
            channel.members.end(None);
            return;
        };
        let cost: usize = members.members.iter().map(|member| member.cost()).sum();
        *num_bytes -= channel.num_bytes;
        channel.num_bytes = 0;
        let kept = if cost > MAX_PAGE_BYTES {
            Err(NoView::TooLarge)
        } else if *num_bytes + cost > MAX_BYTES {
            Err(NoView::Busy)
        } else {
            *num_bytes += cost;
            channel.num_bytes = cost;
            Ok(Arc::new(members))
        };
        channel.members.end(Some(kept));
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;
    use crate::{
        ids::{AppId, ClientId},
        presence::{Member, MemoryPresence},
    };

    /// A store that this node has to ask.
    struct Far(MemoryPresence);

    impl Presence for Far {
        fn add(
            &self,
            key: &ChannelKey,
            member: &Arc<Member>,
        ) -> crate::hooks::Progress<Result<(), BrokerError>> {
            self.0.add(key, member)
        }
        fn refresh(
            &self,
            members: Vec<crate::presence::Present>,
        ) -> crate::hooks::Progress<Result<(), BrokerError>> {
            self.0.refresh(members)
        }
        fn remove(
            &self,
            key: &ChannelKey,
            client: ClientId,
        ) -> crate::hooks::Progress<Result<(), BrokerError>> {
            self.0.remove(key, client)
        }
        fn members(
            &self,
            key: &ChannelKey,
            limit: usize,
        ) -> crate::hooks::Progress<Result<Members, BrokerError>> {
            self.0.members(key, limit)
        }
        fn stats(
            &self,
            key: &ChannelKey,
        ) -> crate::hooks::Progress<Result<PresenceStats, BrokerError>> {
            self.0.stats(key)
        }
    }

    fn key(name: &str) -> ChannelKey {
        ChannelKey::new(&AppId::default_app(), name)
    }

    fn ann() -> Arc<Member> {
        Arc::new(Member {
            client: ClientId::random(),
            user: "ann".into(),
            conn_info: Default::default(),
            chan_info: Default::default(),
        })
    }

    struct World {
        watched: Arc<Watched>,
        store: MemoryPresence,
        stop: CancellationToken,
        tasks: JoinSet<()>,
    }

    impl World {
        fn new() -> Self {
            let mut world = Self {
                watched: Arc::default(),
                store: MemoryPresence::default(),
                stop: CancellationToken::new(),
                tasks: JoinSet::new(),
            };
            let store = Arc::new(Far(world.store.clone()));
            let watching = Arc::clone(&world.watched);
            let stop = world.stop.clone();
            world.tasks.spawn(watching.run(store, stop));
            world
        }

        fn clients(&self, name: &str) -> Result<usize, NoView> {
            let stats = self.watched.stats(&key(name), Instant::now())?;
            Ok(stats.num_clients)
        }

        async fn until(&self, expected: usize) {
            while self.clients("room") != Ok(expected) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_question_begins_to_follow_and_the_next_are_answered() {
        let world = World::new();
        let member = ann();
        world.store.add(&key("room"), &member).wait().await.unwrap();
        assert_eq!(world.clients("room"), Err(NoView::Elsewhere));
        let members = || world.watched.members(&key("room"), Instant::now());
        assert_eq!(members().unwrap_err(), NoView::Elsewhere);
        let began = Instant::now();
        world.until(1).await;
        assert!(began.elapsed() < READ_EVERY);
        assert_eq!(members().unwrap().members, [Arc::clone(&member)]);
        // What changes is seen within the age that is promised, as long as somebody asks now and then.
        world
            .store
            .remove(&key("room"), member.client)
            .wait()
            .await
            .unwrap();
        let began = Instant::now();
        world.until(0).await;
        assert!(began.elapsed() < MAX_AGE);
        tokio::time::sleep(WATCHED_FOR / 2).await;
        assert_eq!(world.clients("room"), Ok(0));
        // Nobody asked for long: it is not followed any more.
        tokio::time::sleep(WATCHED_FOR + MAX_AGE).await;
        assert_eq!(world.clients("room"), Err(NoView::Elsewhere));
        world.stop.cancel();
    }

    #[test]
    fn what_is_too_old_is_not_answered_and_a_failed_read_is_tried_again() {
        let (watched, now) = (Watched::default(), Instant::now());
        assert_eq!(watched.stats(&key("room"), now), Err(NoView::Elsewhere));
        let (due, _) = watched.take_due(now, 1);
        assert_eq!(due, [(key("room"), What::Stats)]);
        assert!(watched.take_due(now, 1).0.is_empty(), "one read at a time");
        let end = |read| {
            let mut inner = watched.inner.lock();
            inner
                .channels
                .get_mut(&key("room"))
                .unwrap()
                .stats
                .end(read);
        };
        end(Some(PresenceStats::default()));
        let old = now + MAX_AGE - Duration::from_millis(1);
        assert!(watched.stats(&key("room"), old).is_ok());
        assert_eq!(watched.take_due(old, 1).0.len(), 1);
        end(None);
        assert_eq!(
            watched.stats(&key("room"), now + MAX_AGE),
            Err(NoView::Elsewhere)
        );
        let (due, next) = watched.take_due(now + MAX_AGE, 1);
        assert_eq!((due.len(), next), (0, Some(old + READ_EVERY)));
        assert_eq!(watched.take_due(old + READ_EVERY, 1).0.len(), 1);
    }

    #[test]
    fn channels_and_bytes_are_bounded() {
        let (watched, now) = (Watched::default(), Instant::now());
        for number in 0..MAX_CHANNELS {
            let answer = watched.members(&key(&number.to_string()), now);
            assert_eq!(answer.unwrap_err(), NoView::Elsewhere);
        }
        assert_eq!(
            watched.members(&key("more"), now).unwrap_err(),
            NoView::Busy
        );
        let mut due = watched.take_due(now, MAX_CHANNELS).0;
        let large = |bytes: usize| {
            let member = Member {
                conn_info: vec![b'1'; bytes].into(),
                ..Member::clone(&ann())
            };
            Ok(Members {
                members: vec![Arc::new(member)],
                is_whole: true,
            })
        };
        let mut keep = |bytes| {
            let (key, _) = due.pop().unwrap();
            watched.keep(&key, large(bytes));
            watched.members(&key, now)
        };
        assert_eq!(keep(MAX_PAGE_BYTES).unwrap_err(), NoView::TooLarge);
        let half = MAX_PAGE_BYTES / 2;
        let kept = (0..200).filter(|_| keep(half).is_ok()).count();
        assert_eq!(kept, MAX_BYTES / (half + Member::MIN_COST + "ann".len()));
        assert_eq!(keep(half).unwrap_err(), NoView::Busy);
        // Who is not asked about any more makes room.
        let later = now + WATCHED_FOR;
        for (key, _) in &due {
            watched.keep(key, Err(BrokerError::Unavailable));
        }
        watched.take_due(later, 0);
        assert_eq!(watched.inner.lock().num_bytes, 0);
        assert_eq!(
            watched.members(&key("more"), later).unwrap_err(),
            NoView::Elsewhere
        );
    }
}
