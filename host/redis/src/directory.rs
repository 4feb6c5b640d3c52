//! The directory in Redis: who is where, and what dead nodes leave to be done.
//!
//! Owns a hash for each user (client to where it is), a hash for each node (its book), and a sorted set of the nodes by
//! their last heartbeats. A heartbeat costs the same however many sessions there are: users' hashes have long lives
//! and are renewed when their sessions are entered anew, three times in a life; that a shard lost them all is what
//! `marks` finds out. Times are by the clock of Redis.
//! Invariants. Values are stored as they are given and compared byte by byte. What the first and the last session of
//! a user are is decided in the step that writes them, which remembers what it answered, so that a call whose answer was
//! lost is answered again. Nothing that is read is believed before it was parsed.

mod marks;

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use redis::{Cmd, Value};
use tidegate_realtime::{
    broker::BrokerError,
    cluster::NodeUid,
    directory::{
        Answer, BATCH, BOOK_LIFE, Beat, Change, Directory, GONE_LIFE, Moment, Page, Record, Slot,
        Standing, Turn, USER_LIFE, User,
    },
    hooks::Progress,
    ids::ChannelKey,
};
use tokio::time::Instant;

use self::marks::Marks;
use crate::{
    commands::{
        Pipe, RedisFailure, Route, Script, Shards,
        value::{bytes, number, text},
    },
    keys::Keys,
    metrics::{CommandKind, EngineMetrics},
};

/// Overdue nodes in one answer; there are few nodes.
const MAX_OVERDUE: usize = 100;

/// Users changed at the same time for one batch.
const CHANGES_IN_FLIGHT: usize = 128;

/// Sessions of a user in one answer.
const SESSIONS_PAGE: usize = 512;

/// Pages that reading a user's sessions may take; see the presence of a channel.
const MAX_PAGES: usize = 4_096;

/// The field that says what is known of a user beside the sessions.
const KNOWN: &[u8] = b"-";

/// The directory in Redis. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RedisDirectory {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    shards: Shards,
    keys: Keys,
    metrics: EngineMetrics,
    marks: Marks,
    beat: Script,
    condemn: Script,
    retire: Script,
    reopen: Script,
    write: Script,
    erase: Script,
    change: Script,
}

impl RedisDirectory {
    pub fn new(shards: Shards, keys: Keys, metrics: EngineMetrics) -> Self {
        Self {
            shared: Arc::new(Shared {
                shards,
                keys,
                metrics,
                marks: Marks::default(),
                beat: Script::new(concat!(
                    include_str!("scripts/directory_head.lua"),
                    include_str!("scripts/directory_beat.lua")
                )),
                condemn: Script::new(concat!(
                    include_str!("scripts/directory_head.lua"),
                    include_str!("scripts/directory_condemn.lua")
                )),
                retire: Script::new(concat!(
                    include_str!("scripts/directory_head.lua"),
                    include_str!("scripts/directory_retire.lua")
                )),
                reopen: Script::new(concat!(
                    include_str!("scripts/directory_head.lua"),
                    include_str!("scripts/directory_reopen.lua")
                )),
                write: Script::new(include_str!("scripts/directory_write.lua")),
                erase: Script::new(include_str!("scripts/directory_erase.lua")),
                change: Script::new(include_str!("scripts/directory_change.lua")),
            }),
        }
    }

    fn run<T: Send + 'static, W>(
        &self,
        work: impl FnOnce(Arc<Shared>) -> W,
    ) -> Progress<Result<T, BrokerError>>
    where
        W: Future<Output = Result<T, RedisFailure>> + Send + 'static,
    {
        let work = work(Arc::clone(&self.shared));
        self.shared.metrics.timed(CommandKind::Directory, work)
    }
}

impl Shared {
    /// Where books and nodes are.
    fn pipe(&self) -> &Pipe {
        self.shards.first()
    }

    async fn ask_nodes(
        &self,
        script: &Script,
        arguments: impl Fn(&mut Cmd),
    ) -> Result<Value, RedisFailure> {
        let key = self.keys.nodes();
        let build = |command: &mut Cmd, _: &_| {
            command.arg(1).arg(&key);
            arguments(command);
        };
        self.pipe().invoke(script, Route::Key(&key), build).await
    }

    async fn beat(&self, node: &NodeUid, silent_for: Duration) -> Result<Beat, RedisFailure> {
        let answer = self.ask_nodes(&self.beat, |command| {
            command.arg(node.as_str()).arg(millis(silent_for));
            command.arg(millis(BOOK_LIFE)).arg(MAX_OVERDUE);
        });
        let beat = parse_beat(&answer.await?).ok_or(RedisFailure::Unexpected)?;
        let book = self.keys.book(node);
        let mut command = redis::cmd("PEXPIRE");
        command.arg(&book).arg(millis(BOOK_LIFE));
        self.pipe().run(&command, Route::Key(&book)).await?;
        Ok(beat)
    }

    async fn renew_marks(&self, node: &NodeUid) {
        let Self {
            shards,
            keys,
            metrics,
            ..
        } = self;
        self.marks.renew(shards, keys, node, metrics).await;
    }

    async fn condemn(&self, node: &NodeUid, silent_for: Duration) -> Result<bool, RedisFailure> {
        let answer = self.ask_nodes(&self.condemn, |command| {
            command.arg(node.as_str()).arg(millis(silent_for));
        });
        parse_bool(&answer.await?)
    }

    async fn retire(&self, node: &NodeUid) -> Result<bool, RedisFailure> {
        if !self.has_book(node).await? {
            let answer = self.ask_nodes(&self.retire, |command| {
                command.arg(node.as_str());
            });
            let is_closed = parse_bool(&answer.await?)?;
            // Book and nodes are two keys: a line may have come in between, from a node that has just woken up.
            if !is_closed || !self.has_book(node).await? {
                return Ok(is_closed);
            }
        }
        let reopened = self.ask_nodes(&self.reopen, |command| {
            command.arg(node.as_str());
        });
        reopened.await?;
        Ok(false)
    }

    async fn has_book(&self, node: &NodeUid) -> Result<bool, RedisFailure> {
        let book = self.keys.book(node);
        let mut command = redis::cmd("EXISTS");
        command.arg(&book);
        parse_bool(&self.pipe().run(&command, Route::Key(&book)).await?)
    }

    async fn write(&self, node: &NodeUid, records: &[Record]) -> Result<(), RedisFailure> {
        if records.is_empty() {
            return Ok(());
        }
        let book = self.keys.book(node);
        let build = |command: &mut Cmd, _: &_| {
            command.arg(1).arg(&book).arg(millis(BOOK_LIFE));
            for Record { slot, value } in records {
                command.arg(slot.to_text()).arg(&value[..]);
            }
        };
        let route = Route::Key(&book);
        self.pipe().invoke(&self.write, route, build).await?;
        Ok(())
    }

    /// Takes fields out of a book, whatever they say.
    async fn remove(
        &self,
        node: &NodeUid,
        fields: impl ExactSizeIterator<Item = Bytes>,
    ) -> Result<(), RedisFailure> {
        if fields.len() == 0 {
            return Ok(());
        }
        let book = self.keys.book(node);
        let mut command = redis::cmd("HDEL");
        command.arg(&book);
        for field in fields {
            command.arg(&field[..]);
        }
        self.pipe().run(&command, Route::Key(&book)).await?;
        Ok(())
    }

    async fn erase(&self, node: &NodeUid, page: Page) -> Result<(), RedisFailure> {
        let Page {
            records,
            foreign,
            next: _,
        } = page;
        self.remove(node, foreign.into_iter()).await?;
        let book = self.keys.book(node);
        let lines: Vec<_> = records
            .into_iter()
            .map(|record| (record.slot.to_text(), record.value))
            .collect();
        for some in lines.chunks(BATCH) {
            let build = |command: &mut Cmd, _: &_| {
                command.arg(1).arg(&book);
                for (slot, value) in some {
                    command.arg(slot).arg(&value[..]);
                }
            };
            let route = Route::Key(&book);
            self.pipe().invoke(&self.erase, route, build).await?;
        }
        Ok(())
    }

    async fn read(&self, node: &NodeUid, from: u64) -> Result<Page, RedisFailure> {
        let book = self.keys.book(node);
        let (next, lines) = self.scan(self.pipe(), &book, from, BATCH).await?;
        let mut page = Page {
            next: (next != 0).then_some(next),
            ..Page::default()
        };
        for (field, value) in lines {
            let slot = std::str::from_utf8(&field).ok().and_then(Slot::parse);
            match slot {
                Some(slot) => page.records.push(Record { slot, value }),
                None => page.foreign.push(field),
            }
        }
        Ok(page)
    }

    async fn scan(
        &self,
        pipe: &Pipe,
        key: &str,
        cursor: u64,
        count: usize,
    ) -> Result<(u64, Vec<(Bytes, Bytes)>), RedisFailure> {
        let mut command = redis::cmd("HSCAN");
        command.arg(key).arg(cursor).arg("COUNT").arg(count);
        let answer = pipe.run(&command, Route::Key(key)).await?;
        parse_page(&answer).ok_or(RedisFailure::Unexpected)
    }

    /// Where a user's sessions are kept.
    fn place(&self, user: &User) -> (&Pipe, String) {
        let place = ChannelKey::new(&user.app, &user.name);
        (self.shards.of(&place), self.keys.user(&place))
    }

    async fn change(&self, user: &User, changes: &[Change]) -> Result<Vec<Turn>, RedisFailure> {
        let (pipe, key) = self.place(user);
        let build = |command: &mut Cmd, _: &_| {
            command.arg(1).arg(&key);
            command.arg(millis(USER_LIFE)).arg(millis(GONE_LIFE));
            for change in changes {
                let (kind, client, value) = match change {
                    Change::Came {
                        client,
                        value,
                        answer: Answer::Known,
                    } => ("came", client, &value[..]),
                    Change::Came {
                        client,
                        value,
                        answer: Answer::Missing,
                    } => ("again", client, &value[..]),
                    Change::Left { client } => ("left", client, &b""[..]),
                    Change::Away { client } => ("away", client, &b""[..]),
                    Change::Settle { client } => ("settle", client, &b""[..]),
                    Change::Lost { client, value } => ("lost", client, &value[..]),
                };
                command.arg(kind).arg(client.to_string()).arg(value);
            }
        };
        let answer = pipe.invoke(&self.change, Route::Key(&key), build).await?;
        parse_turns(&answer)
            .filter(|turns| turns.len() == changes.len())
            .ok_or(RedisFailure::Unexpected)
    }

    /// One script for each user, many of them on their way together.
    async fn change_all(&self, changes: Vec<(User, Change)>) -> Vec<Result<Turn, BrokerError>> {
        let mut turns = vec![Err(BrokerError::Unavailable); changes.len()];
        let mut by_user: HashMap<User, (Vec<usize>, Vec<Change>)> = HashMap::new();
        for (index, (user, change)) in changes.into_iter().enumerate() {
            let (indices, changes) = by_user.entry(user).or_default();
            indices.push(index);
            changes.push(change);
        }
        let invocations = by_user
            .into_iter()
            .map(|(user, (indices, changes))| async move {
                let start = Instant::now();
                let outcome = self.change(&user, &changes).await;
                let took = start.elapsed();
                self.metrics.observe(CommandKind::Directory, took, &outcome);
                (indices, outcome)
            });
        let mut answers = stream::iter(invocations).buffer_unordered(CHANGES_IN_FLIGHT);
        while let Some((indices, outcome)) = answers.next().await {
            match outcome {
                Ok(some) => {
                    for (index, turn) in indices.into_iter().zip(some) {
                        turns[index] = Ok(turn);
                    }
                }
                Err(failure) => {
                    let error = BrokerError::from(failure);
                    for index in indices {
                        turns[index] = Err(error.clone());
                    }
                }
            }
        }
        turns
    }

    async fn sessions(&self, user: &User, most: usize) -> Result<Vec<Bytes>, RedisFailure> {
        let (pipe, key) = self.place(user);
        // Redis may name a session twice while its table grows.
        let mut found: HashMap<Bytes, Bytes> = HashMap::new();
        let mut cursor = 0;
        for _ in 0..MAX_PAGES {
            let (next, lines) = self.scan(pipe, &key, cursor, SESSIONS_PAGE).await?;
            let entered = lines.into_iter().filter(|(field, _)| field != KNOWN);
            found.extend(entered.map(|(field, line)| (field, without_time(line))));
            if next == 0 || found.len() >= most {
                return Ok(found.into_values().take(most).collect());
            }
            cursor = next;
        }
        Err(RedisFailure::Unexpected)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn parse_bool(answer: &Value) -> Result<bool, RedisFailure> {
    match number(answer) {
        Some(0) => Ok(false),
        Some(1) => Ok(true),
        _ => Err(RedisFailure::Unexpected),
    }
}

/// `[standing, [silent node, …], [condemned node, …]]`; what is no node is nobody to care for.
fn parse_beat(answer: &Value) -> Option<Beat> {
    let Value::Array(parts) = answer else {
        return None;
    };
    let [standing, silent, condemned] = parts.as_slice() else {
        return None;
    };
    let standing = match number(standing)? {
        0 => Standing::Known,
        1 => Standing::Unknown,
        2 => Standing::Condemned,
        _ => return None,
    };
    let mut overdue = Vec::new();
    for nodes in [silent, condemned] {
        let Value::Array(nodes) = nodes else {
            return None;
        };
        overdue.extend(nodes.iter().filter_map(|node| NodeUid::parse(text(node)?)));
    }
    Some(Beat { standing, overdue })
}

/// `[cursor, [field, value, …]]`.
fn parse_page(answer: &Value) -> Option<(u64, Vec<(Bytes, Bytes)>)> {
    let Value::Array(parts) = answer else {
        return None;
    };
    let [cursor, lines] = parts.as_slice() else {
        return None;
    };
    let copied = |value| bytes(value).map(Bytes::copy_from_slice);
    let lines: Option<Vec<_>> = match lines {
        Value::Array(flat) => flat
            .chunks_exact(2)
            .map(|pair| Some((copied(&pair[0])?, copied(&pair[1])?)))
            .collect(),
        Value::Map(pairs) => pairs
            .iter()
            .map(|(field, value)| Some((copied(field)?, copied(value)?)))
            .collect(),
        _ => None,
    };
    Some((number(cursor)?, lines?))
}

/// The value of a line of a user's: `time value`.
fn without_time(line: Bytes) -> Bytes {
    match line.iter().position(|byte| *byte == b' ') {
        Some(end) if end > 0 && line[..end].iter().all(u8::is_ascii_digit) => line.slice(end + 1..),
        Some(_) | None => line,
    }
}

/// `[turn, moment, …]`.
fn parse_turns(answer: &Value) -> Option<Vec<Turn>> {
    let Value::Array(parts) = answer else {
        return None;
    };
    let turn = |pair: &[Value]| {
        let moment = Moment::new(number(&pair[1])?);
        match number(&pair[0])? {
            0 => Some(Turn::Neither),
            1 => Some(Turn::First(moment)),
            2 => Some(Turn::Last(moment)),
            _ => None,
        }
    };
    parts.chunks_exact(2).map(turn).collect()
}

impl Directory for RedisDirectory {
    fn beat(&self, node: &NodeUid, silent_for: Duration) -> Progress<Result<Beat, BrokerError>> {
        let (shared, of_marks) = (Arc::clone(&self.shared), node.clone());
        let node = node.clone();
        let beat = self.run(|shared| async move { shared.beat(&node, silent_for).await });
        Progress::Pending(Box::pin(async move {
            let marks = shared.renew_marks(&of_marks);
            let (beat, ()) = tokio::join!(beat.wait(), marks);
            beat
        }))
    }

    fn condemn(&self, node: &NodeUid, silent_for: Duration) -> Progress<Result<bool, BrokerError>> {
        let node = node.clone();
        self.run(|shared| async move { shared.condemn(&node, silent_for).await })
    }

    fn retire(&self, node: &NodeUid) -> Progress<Result<bool, BrokerError>> {
        let node = node.clone();
        self.run(|shared| async move { shared.retire(&node).await })
    }

    fn write(&self, node: &NodeUid, records: Vec<Record>) -> Progress<Result<(), BrokerError>> {
        let node = node.clone();
        self.run(|shared| async move { shared.write(&node, &records).await })
    }

    fn strike(&self, node: &NodeUid, slots: Vec<Slot>) -> Progress<Result<(), BrokerError>> {
        let node = node.clone();
        self.run(|shared| async move {
            let fields = slots.into_iter().map(|slot| slot.to_text().into());
            shared.remove(&node, fields).await
        })
    }

    fn erase(&self, node: &NodeUid, page: Page) -> Progress<Result<(), BrokerError>> {
        let node = node.clone();
        self.run(|shared| async move { shared.erase(&node, page).await })
    }

    fn read(&self, node: &NodeUid, from: u64) -> Progress<Result<Page, BrokerError>> {
        let node = node.clone();
        self.run(|shared| async move { shared.read(&node, from).await })
    }

    fn change(&self, changes: Vec<(User, Change)>) -> Progress<Vec<Result<Turn, BrokerError>>> {
        let shared = Arc::clone(&self.shared);
        Progress::Pending(Box::pin(async move { shared.change_all(changes).await }))
    }

    fn num_lapses(&self) -> u64 {
        let shards = self.shared.shards.all().iter();
        shards.map(Pipe::num_lapses).sum::<u64>() + self.shared.marks.num_lost()
    }

    fn sessions(&self, user: &User, most: usize) -> Progress<Result<Vec<Bytes>, BrokerError>> {
        let user = user.clone();
        self.run(|shared| async move { shared.sessions(&user, most).await })
    }
}
