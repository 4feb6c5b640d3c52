//! The rows: each makes one fault under load and says what must come of it.
//!
//! Numbers and bars are those of the table in `docs/faults.md`. A row starts everything that it needs and leaves
//! nothing behind.

mod nodes;
mod poison;
mod store;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{
    checker::{Expectation, Forgotten, Verdict, check},
    node::NodeProcess,
    record::{Event, Outcome, Record},
    stage::{Ack, Size, Stage},
};

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Row {
    MemoryRestart,
    MemoryStorm,
    NodeKill,
    NodeKillSeen,
    NodePause,
    RedisKillWithFile,
    RedisKillWithoutFile,
    Partition,
    ReceivePartition,
    SlowRedis,
    Sentinel,
    SentinelReplicated,
    Fork,
    ForkReplicated,
    SplitBrain,
    ClusterFailover,
    ClusterReshard,
    KillSubscribers,
    FlushAll,
    DeleteStreams,
    DeleteMeta,
    OutOfMemory,
    RollingRestart,
    Storm,
    Poison,
}

impl Row {
    /// Every row, in the order of the table.
    pub const ALL: [Self; 25] = [
        Self::MemoryRestart,
        Self::MemoryStorm,
        Self::NodeKill,
        Self::NodeKillSeen,
        Self::NodePause,
        Self::RedisKillWithFile,
        Self::RedisKillWithoutFile,
        Self::Partition,
        Self::ReceivePartition,
        Self::SlowRedis,
        Self::Sentinel,
        Self::SentinelReplicated,
        Self::Fork,
        Self::ForkReplicated,
        Self::SplitBrain,
        Self::ClusterFailover,
        Self::ClusterReshard,
        Self::KillSubscribers,
        Self::FlushAll,
        Self::DeleteStreams,
        Self::DeleteMeta,
        Self::OutOfMemory,
        Self::RollingRestart,
        Self::Storm,
        Self::Poison,
    ];

    /// Its name in the table.
    pub fn id(self) -> &'static str {
        match self {
            Self::MemoryRestart => "M1",
            Self::MemoryStorm => "M24",
            Self::NodeKill => "F1",
            Self::NodeKillSeen => "F1s",
            Self::NodePause => "F2",
            Self::RedisKillWithFile => "F3",
            Self::RedisKillWithoutFile => "F4",
            Self::Partition => "F5",
            Self::ReceivePartition => "F6",
            Self::SlowRedis => "F7",
            Self::Sentinel => "F8",
            Self::SentinelReplicated => "F8c",
            Self::Fork => "F9",
            Self::ForkReplicated => "F9c",
            Self::SplitBrain => "F10",
            Self::ClusterFailover => "F11a",
            Self::ClusterReshard => "F11b",
            Self::KillSubscribers => "F12a",
            Self::FlushAll => "F12b",
            Self::DeleteStreams => "F12c",
            Self::DeleteMeta => "F12d",
            Self::OutOfMemory => "F12e",
            Self::RollingRestart => "F23",
            Self::Storm => "F24",
            Self::Poison => "P",
        }
    }

    /// What is done, in words.
    pub fn fault(self) -> &'static str {
        match self {
            Self::MemoryRestart => {
                "memory engine: the only node killed (kill -9) and started again"
            }
            Self::MemoryStorm => "memory engine: 10,000 clients cut at once",
            Self::NodeKill => "one of two nodes killed (kill -9)",
            Self::NodeKillSeen => {
                "one of two nodes killed (kill -9) with 4,000 sessions that others see"
            }
            Self::NodePause => "one of two nodes stopped (SIGSTOP) and continued",
            Self::RedisKillWithFile => "Redis killed, started again with its append-only file",
            Self::RedisKillWithoutFile => "Redis killed, started again empty",
            Self::Partition => "Redis unreachable: bytes stall both ways",
            Self::ReceivePartition => "pub/sub connections receive nothing, commands pass",
            Self::SlowRedis => "Redis asleep for 3 s, then 200 ms away",
            Self::Sentinel => "Sentinel: primary killed, a replica promoted",
            Self::SentinelReplicated => {
                "`publish.ack = replicated`, Sentinel: primary killed, a replica promoted"
            }
            Self::Fork => "primary killed while its replica lagged, the replica promoted",
            Self::ForkReplicated => {
                "`publish.ack = replicated`: primary killed while its replica lagged, the replica promoted"
            }
            Self::SplitBrain => "a node keeps the old primary while the other has the promoted one",
            Self::ClusterFailover => "Redis Cluster: one primary of three killed",
            Self::ClusterReshard => "Redis Cluster: 500 slots moved",
            Self::KillSubscribers => "CLIENT KILL TYPE pubsub",
            Self::FlushAll => "FLUSHALL",
            Self::DeleteStreams => "streams deleted, their metadata kept; every client cut",
            Self::DeleteMeta => "metadata of streams deleted, the streams kept",
            Self::OutOfMemory => "Redis out of memory (noeviction), then not",
            Self::RollingRestart => {
                "both nodes drained (SIGTERM) and started again, one after the other"
            }
            Self::Storm => "10,000 clients cut at once",
            Self::Poison => "garbage, forgeries and wrong types in Redis; scripts flushed",
        }
    }

    /// Whether it needs a Redis.
    pub fn needs_redis(self) -> bool {
        !matches!(self, Self::MemoryRestart | Self::MemoryStorm)
    }

    /// Plays the row.
    ///
    /// # Errors
    /// It cannot be played: something does not start, or a stream cannot be read afterwards.
    pub async fn run(self, size: Size) -> Result<Report> {
        let played = match self {
            Self::MemoryRestart => Box::pin(nodes::memory_restart(size)).await,
            Self::MemoryStorm => Box::pin(nodes::memory_storm(size)).await,
            Self::NodeKill => Box::pin(nodes::kill(size)).await,
            Self::NodeKillSeen => Box::pin(nodes::kill_seen(size)).await,
            Self::NodePause => Box::pin(nodes::pause(size)).await,
            Self::RedisKillWithFile => Box::pin(store::kill_with_file(size)).await,
            Self::RedisKillWithoutFile => Box::pin(store::kill_without_file(size)).await,
            Self::Partition => Box::pin(store::partition(size)).await,
            Self::ReceivePartition => Box::pin(store::receive_partition(size)).await,
            Self::SlowRedis => Box::pin(store::slow(size)).await,
            Self::Sentinel => Box::pin(store::sentinel(size, Ack::Primary)).await,
            Self::SentinelReplicated => Box::pin(store::sentinel(size, Ack::Replicated)).await,
            Self::Fork => Box::pin(store::fork(size, Ack::Primary)).await,
            Self::ForkReplicated => Box::pin(store::fork(size, Ack::Replicated)).await,
            Self::SplitBrain => Box::pin(store::split_brain(size)).await,
            Self::ClusterFailover => Box::pin(store::cluster_failover(size)).await,
            Self::ClusterReshard => Box::pin(store::cluster_reshard(size)).await,
            Self::KillSubscribers => Box::pin(store::kill_subscribers(size)).await,
            Self::FlushAll => Box::pin(store::flush_all(size)).await,
            Self::DeleteStreams => Box::pin(store::delete_streams(size)).await,
            Self::DeleteMeta => Box::pin(store::delete_meta(size)).await,
            Self::OutOfMemory => Box::pin(store::out_of_memory(size)).await,
            Self::RollingRestart => Box::pin(nodes::rolling_restart(size)).await,
            Self::Storm => Box::pin(nodes::storm(size)).await,
            Self::Poison => Box::pin(poison::play(size)).await,
        };
        let (record, expected) = played.with_context(|| format!("row {}", self.id()))?;
        let verdict = check(&record, &expected);
        Ok(Report {
            row: self,
            effects: record.effects,
            verdict,
        })
    }
}

/// What a row gives to the judge.
type Played = Result<(Record, Expectation)>;

/// What came of a row.
#[derive(Debug)]
pub struct Report {
    pub row: Row,
    pub effects: u64,
    pub verdict: Verdict,
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let result = match self.verdict.passed() {
            true => "passed",
            false => "FAILED",
        };
        let (id, figures) = (self.row.id(), self.verdict.figures);
        write!(
            formatter,
            "{id} {result} {figures} effects={}",
            self.effects
        )
    }
}

/// Ends the load and gives the record, with the effects that `count` finds in it.
async fn finish(stage: Stage, count: impl FnOnce(&Record) -> u64) -> Result<Record> {
    let Stage {
        nodes,
        balancer: _,
        load,
    } = stage;
    let record = load.finish(0).await;
    let mut record = match record {
        Ok(record) => record,
        Err(error) => {
            let logs: Vec<String> = nodes.iter().map(NodeProcess::log_tail).collect();
            anyhow::bail!("{error:#}; the nodes logged\n{}", logs.join("\n---\n"));
        }
    };
    record.effects = count(&record);
    Ok(record)
}

/// A store that begins anew forgets everything that it held when the fault came.
fn all_of_before(size: Size, record: &Record) -> Forgotten {
    Forgotten {
        lag: record.fault_at,
        window: while_it_broke(size, record),
        percent: match size {
            Size::Quarter => 90,
            Size::Full => 75,
        },
    }
}

/// A replica that takes over has not got what was still on its way.
fn what_lagged(size: Size, record: &Record) -> Forgotten {
    let (lag, percent) = match size {
        Size::Quarter => (3, 30),
        Size::Full => (1, 15),
    };
    Forgotten {
        lag: Duration::from_secs(lag),
        window: while_it_broke(size, record),
        percent,
    }
}

/// Nothing that is sent after the heal may be lost, nor, on a machine that keeps time, what is sent 2 s after the fault.
fn while_it_broke(size: Size, record: &Record) -> Duration {
    let window = record.healed_at - record.fault_at;
    match size {
        Size::Quarter => window,
        Size::Full => window.min(Duration::from_secs(2)),
    }
}

/// Connections that ended after the fault.
fn ends(record: &Record) -> u64 {
    events(record, |event| matches!(event, Event::Disconnected { .. }))
}

/// Subscribers that were told that they do not have everything.
fn not_recovered(record: &Record) -> u64 {
    events(record, |event| match event {
        Event::Subscribed(result) => result.was_recovering && !result.recovered,
        Event::Publication { .. }
        | Event::Unsubscribed { .. }
        | Event::Refused { .. }
        | Event::Disconnected { .. }
        | Event::NotConnected { .. } => false,
    })
}

/// Places that were given twice, in two epochs: the histories diverged there.
fn diverged(record: &Record) -> u64 {
    let mut epochs: BTreeMap<(u32, u64), BTreeSet<&str>> = BTreeMap::new();
    for attempt in &record.attempts {
        if let Outcome::Acked { epoch, offset } = &attempt.outcome {
            let place = epochs.entry((attempt.channel, *offset)).or_default();
            place.insert(epoch);
        }
    }
    let places = epochs.values();
    places.filter(|epochs| epochs.len() > 1).count() as u64
}

/// Publishes without an ack after the fault.
fn without_ack(record: &Record) -> u64 {
    let attempts = record.attempts.iter();
    let count = attempts.filter(|attempt| {
        attempt.done_at >= record.fault_at && !matches!(attempt.outcome, Outcome::Acked { .. })
    });
    count.count() as u64
}

/// Publishes that took longer than this.
fn slower_than(record: &Record, bar: Duration) -> u64 {
    let attempts = record.attempts.iter();
    let slow = attempts.filter(|attempt| attempt.done_at - attempt.body.sent_at > bar);
    slow.count() as u64
}

fn events(record: &Record, is_wanted: impl Fn(&Event) -> bool) -> u64 {
    let entries = record.subscribers.iter().flat_map(|log| &log.entries);
    let wanted = entries.filter(|entry| entry.at >= record.fault_at && is_wanted(&entry.event));
    wanted.count() as u64
}
