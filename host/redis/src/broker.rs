//! The broker over Redis: publications and their history, shared by all nodes.
//!
//! Owns what is sent for each call of [`Broker`] and what its answer means; how nodes hear of publications is the
//! [`Listening`] side's. A publication with history is one script, so that its place in the stream, its entry and its
//! announcement are one step for everybody. Invariants. The answer to a publish does not wait for anybody to hear of
//! it. Offsets never fall inside one epoch: a stream whose server is of another generation than the one that wrote it
//! gets a new epoch in the script that first touches it (threat model R3). What is read is one piece without holes.

mod scripts;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use redis::{Cmd, Value};
use tidegate_protocol::{Publication, StreamPosition};
use tidegate_realtime::{
    broker::{
        Broker, BrokerError, EngineHealth, HistoryLimit, HistoryOrder, HistoryPage, HistoryQuery,
        IDEMPOTENCY_TTL, JoinLeave, PublishRequest, Published,
    },
    hooks::Progress,
    ids::ChannelKey,
};
use tokio::time::Instant;

use self::scripts::{Lives, Scripts, Stamp};
use crate::{
    commands::{
        Pipe, RedisFailure, Route, Shards,
        value::{bytes, text},
    },
    connect::Generation,
    envelope::{
        BadEnvelope, Envelope, encode_publication, parse_position, parse_publication, place,
    },
    keys::Keys,
    metrics::{CommandKind, EngineMetrics},
};

/// Life of a meta that is made to renew an epoch; the default of `channel.history_meta_ttl`.
const RENEWED_META_TTL: Duration = Duration::from_secs(30 * 24 * 3600);

/// How the node hears of what is published: subscriptions to Redis, and the events that come of them.
pub trait Listening: Send + Sync + 'static {
    /// As [`Broker::subscribe`].
    fn subscribe(&self, key: &ChannelKey) -> Progress<Result<(), BrokerError>>;
    /// As [`Broker::unsubscribe`].
    fn unsubscribe(&self, key: &ChannelKey);
    /// As [`Broker::health`].
    fn health(&self) -> EngineHealth;
    /// As [`Broker::max_unconfirmed`].
    fn max_unconfirmed(&self) -> Duration;
}

/// Publications and history in Redis. Cheap to clone.
#[derive(Clone)]
pub struct RedisBroker {
    shared: Arc<Shared>,
}

struct Shared {
    shards: Shards,
    /// Connections of their own for publications that wait for a replica; `None` where none does.
    replicated: Option<Shards>,
    keys: Keys,
    scripts: Scripts,
    listening: Arc<dyn Listening>,
    metrics: EngineMetrics,
    /// Whether Redis refused the last that was sent: the log has one line for each change, not for each refusal.
    is_refused: AtomicBool,
}

impl std::fmt::Debug for RedisBroker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisBroker")
            .field("keys", &self.shared.keys)
            .finish_non_exhaustive()
    }
}

impl RedisBroker {
    /// `replicated` are connections of their own for publications with history, which then count only when a replica
    /// has them.
    pub fn new(
        shards: Shards,
        replicated: Option<Shards>,
        keys: Keys,
        listening: Arc<dyn Listening>,
        metrics: EngineMetrics,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                shards,
                replicated,
                keys,
                scripts: Scripts::new(),
                listening,
                metrics,
                is_refused: AtomicBool::new(false),
            }),
        }
    }

    fn run<T: Send + 'static>(
        &self,
        kind: CommandKind,
        work: impl Future<Output = Result<T, RedisFailure>> + Send + 'static,
    ) -> Progress<Result<T, BrokerError>> {
        let shared = Arc::clone(&self.shared);
        Progress::Pending(Box::pin(async move {
            let start = Instant::now();
            let outcome = work.await;
            shared.metrics.observe(kind, start.elapsed(), &outcome);
            shared.note(&outcome);
            outcome.map_err(BrokerError::from)
        }))
    }
}

impl Broker for RedisBroker {
    fn publish(&self, request: PublishRequest) -> Progress<Result<Published, BrokerError>> {
        let shared = Arc::clone(&self.shared);
        self.run(CommandKind::Publish, async move {
            shared.publish(request).await
        })
    }

    fn history(
        &self,
        key: &ChannelKey,
        query: HistoryQuery,
    ) -> Progress<Result<HistoryPage, BrokerError>> {
        let (shared, key) = (Arc::clone(&self.shared), key.clone());
        self.run(CommandKind::History, async move {
            shared.history(&key, &query).await
        })
    }

    fn is_far(&self) -> bool {
        true
    }

    fn publish_join_leave(
        &self,
        key: &ChannelKey,
        event: JoinLeave,
    ) -> Progress<Result<(), BrokerError>> {
        let (shared, key) = (Arc::clone(&self.shared), key.clone());
        self.run(CommandKind::Other, async move {
            let payload = match &event {
                JoinLeave::Join(info) => Envelope::encode_join(info),
                JoinLeave::Leave(info) => Envelope::encode_leave(info),
            };
            shared.announce(&key, payload).await
        })
    }

    fn remove_history(&self, key: &ChannelKey) -> Progress<Result<(), BrokerError>> {
        let (shared, key) = (Arc::clone(&self.shared), key.clone());
        self.run(CommandKind::Other, async move {
            let stream = shared.keys.stream(&key);
            // Trimmed and not deleted: its life goes on, and the next publication need not look.
            let mut command = redis::cmd("XTRIM");
            command.arg(&stream).arg("MAXLEN").arg(0);
            let pipe = shared.shards.of(&key);
            pipe.run(&command, Route::Key(&stream)).await?;
            Ok(())
        })
    }

    fn subscribe(&self, key: &ChannelKey) -> Progress<Result<(), BrokerError>> {
        self.shared.listening.subscribe(key)
    }

    fn unsubscribe(&self, key: &ChannelKey) {
        self.shared.listening.unsubscribe(key);
    }

    fn renew_epoch(
        &self,
        key: &ChannelKey,
        epoch: &str,
    ) -> Progress<Result<StreamPosition, BrokerError>> {
        let (shared, key, epoch) = (Arc::clone(&self.shared), key.clone(), epoch.to_owned());
        self.run(CommandKind::Other, async move {
            shared.renew(&key, &epoch).await
        })
    }

    fn max_unconfirmed(&self) -> Duration {
        self.shared.listening.max_unconfirmed()
    }

    /// The word of the probes, which go through the pipes. A connection that is lost for a moment is no reason to
    /// take every node of the service off its balancer at once.
    fn health(&self) -> EngineHealth {
        let health = self.shared.listening.health();
        // No probe goes over these.
        let now = Instant::now();
        let mut replicated = self.shared.replicated.iter().flat_map(Shards::all);
        if replicated.any(|pipe| pipe.is_lost(now)) {
            return EngineHealth::Unable("Redis cannot be reached for replicated publishes".into());
        }
        let mut pipes = self.shared.shards.all().iter();
        if health != EngineHealth::Able && !pipes.all(Pipe::is_connected) {
            return EngineHealth::Unable("Redis cannot be reached".into());
        }
        health
    }
}

impl Shared {
    async fn publish(&self, request: PublishRequest) -> Result<Published, RedisFailure> {
        let PublishRequest {
            key,
            publication,
            history,
            idempotency_key,
            version,
            version_epoch,
        } = request;
        if history.is_none() && idempotency_key.is_none() && version == 0 {
            let payload = Envelope::encode_plain(&publication);
            self.announce(&key, payload).await?;
            return Ok(Published::default());
        }
        let pipe = self.shards.of(&key);
        let channel = self.keys.channel(&key);
        let mut body = Vec::new();
        encode_publication(&publication, &mut body);
        let (meta, stream) = (self.keys.meta(&key), self.keys.stream(&key));
        let lives = Lives::of(history);
        let checks = (idempotency_key.is_some() || version > 0).then(|| Checks {
            version_key: self.keys.version(&key),
            result_key: self
                .keys
                .result(&key, idempotency_key.as_deref().unwrap_or_default()),
            result_ttl: idempotency_key.map_or(Duration::ZERO, |_| IDEMPOTENCY_TTL),
            version,
            version_epoch,
        });
        let epoch = scripts::random_epoch();
        let script = self.scripts.publish(pipe.is_cluster());
        let route = Route::Key(&channel);
        let build = |command: &mut Cmd, generation: &Generation| {
            command.arg(if checks.is_some() { 5 } else { 3 });
            command.arg(&meta).arg(&stream).arg(&channel);
            if let Some(checks) = &checks {
                command.arg(&checks.version_key).arg(&checks.result_key);
            }
            let stamp = Stamp::of_publication(generation, &lives, &epoch);
            command.arg(stamp.as_bytes()).arg(&body);
            if let Some(checks) = &checks {
                checks.add_arguments(command);
            }
        };
        let answer = match (&self.replicated, history) {
            (Some(replicated), Some(_)) => {
                let pipe = replicated.of(&key);
                Box::pin(pipe.invoke_replicated(script, route, build)).await?
            }
            (Some(_), None) | (None, _) => pipe.invoke(script, route, build).await?,
        };
        parse_published(&answer)
    }

    /// Sends what nothing is kept of.
    async fn announce(&self, key: &ChannelKey, payload: Vec<u8>) -> Result<(), RedisFailure> {
        let pipe = self.shards.of(key);
        let channel = self.keys.channel(key);
        // Pub/sub of a Cluster is sharded: one server tells those who listen, not every server every other.
        let name = if pipe.is_cluster() {
            "SPUBLISH"
        } else {
            "PUBLISH"
        };
        let mut command = redis::cmd(name);
        command.arg(&channel).arg(payload);
        pipe.run(&command, Route::Key(&channel)).await?;
        Ok(())
    }

    async fn history(
        &self,
        key: &ChannelKey,
        query: &HistoryQuery,
    ) -> Result<HistoryPage, RedisFailure> {
        let HistoryQuery {
            limit,
            since,
            order,
            meta_ttl,
        } = query;
        let limit = match limit {
            HistoryLimit::PositionOnly => 0,
            // Nobody keeps so many that the number would not fit.
            HistoryLimit::AtMost(number) => i64::try_from(*number).unwrap_or(-1),
        };
        let epoch = since.as_ref().map_or("", |since| since.epoch.as_str());
        let since = since.as_ref().map(|since| since.offset);
        let (command_name, from, to) = match order {
            HistoryOrder::OldestFirst => {
                let from =
                    since.map_or_else(|| "-".to_owned(), |since| entry_id(since.saturating_add(1)));
                ("XRANGE", from, "+".to_owned())
            }
            HistoryOrder::NewestFirst => {
                let from =
                    since.map_or_else(|| "+".to_owned(), |since| entry_id(since.saturating_sub(1)));
                ("XREVRANGE", from, "-".to_owned())
            }
        };
        let (meta, stream) = (self.keys.meta(key), self.keys.stream(key));
        let new_epoch = scripts::random_epoch();
        let pipe = self.shards.of(key);
        let answer = pipe.invoke(
            self.scripts.history(),
            Route::Key(&meta),
            |command, generation| {
                command.arg(2).arg(&meta).arg(&stream);
                command.arg(Stamp::new(generation, &new_epoch).as_bytes());
                command
                    .arg(scripts::millis(*meta_ttl))
                    .arg(limit)
                    .arg(epoch);
                command.arg(&from).arg(&to).arg(command_name);
            },
        );
        let (top, entries) = parse_page(answer.await?)?;
        let publications = self.read_entries(entries, &top, *order);
        Ok(HistoryPage { publications, top })
    }

    /// The newest entries that follow each other. An entry that no node of ours has written is a hole, and what is
    /// older than a hole would look as if nothing were missing behind it.
    fn read_entries(
        &self,
        entries: Vec<Value>,
        top: &StreamPosition,
        order: HistoryOrder,
    ) -> Vec<Arc<Publication>> {
        let mut run: Vec<Arc<Publication>> = Vec::with_capacity(entries.len());
        let newest_first: Box<dyn Iterator<Item = Value>> = match order {
            HistoryOrder::OldestFirst => Box::new(entries.into_iter().rev()),
            HistoryOrder::NewestFirst => Box::new(entries.into_iter()),
        };
        for entry in newest_first {
            let read = read_entry(entry, &top.epoch);
            let publication = match read {
                Ok(publication) => publication,
                Err(error) => {
                    self.metrics.count_bad_envelope(error);
                    break;
                }
            };
            let is_next = run
                .last()
                .is_none_or(|newer| newer.offset == publication.offset + 1);
            if !is_next {
                break;
            }
            run.push(Arc::new(publication));
        }
        if order == HistoryOrder::OldestFirst {
            run.reverse();
        }
        run
    }

    async fn renew(&self, key: &ChannelKey, epoch: &str) -> Result<StreamPosition, RedisFailure> {
        let (meta, stream) = (self.keys.meta(key), self.keys.stream(key));
        let new_epoch = scripts::random_epoch();
        let pipe = self.shards.of(key);
        let answer = pipe.invoke(
            self.scripts.renew(),
            Route::Key(&meta),
            |command, generation| {
                command.arg(2).arg(&meta).arg(&stream);
                command.arg(Stamp::new(generation, &new_epoch).as_bytes());
                command.arg(epoch).arg(scripts::millis(RENEWED_META_TTL));
            },
        );
        let answer = answer.await?;
        let position = bytes(&answer).and_then(parse_position);
        position.ok_or(RedisFailure::Unexpected)
    }

    /// Tells the operator when Redis begins and stops to refuse what the engine sends.
    fn note<T>(&self, outcome: &Result<T, RedisFailure>) {
        match outcome {
            Ok(_) => {
                if self.is_refused.load(Ordering::Relaxed)
                    && self.is_refused.swap(false, Ordering::Relaxed)
                {
                    tracing::info!("Redis accepts commands again");
                }
            }
            Err(error @ (RedisFailure::Refused { .. } | RedisFailure::Unexpected)) => {
                if !self.is_refused.swap(true, Ordering::Relaxed) {
                    tracing::error!(%error, "Redis does not do what it is told; publications are refused");
                }
            }
            Err(
                RedisFailure::Away
                | RedisFailure::Unanswered
                | RedisFailure::Overloaded
                | RedisFailure::Unreplicated,
            ) => {}
        }
    }
}

/// What has to hold for a publication to be published.
struct Checks {
    version_key: String,
    result_key: String,
    /// Zero without an idempotency key.
    result_ttl: Duration,
    /// 0 for none.
    version: u64,
    version_epoch: Box<str>,
}

impl Checks {
    fn add_arguments(&self, command: &mut Cmd) {
        command.arg(self.version).arg(&*self.version_epoch);
        command.arg(scripts::millis(self.result_ttl));
    }
}

/// Id of the entry with this offset.
fn entry_id(offset: u64) -> String {
    format!("{offset}-0")
}

fn parse_published(answer: &Value) -> Result<Published, RedisFailure> {
    let answer = bytes(answer).ok_or(RedisFailure::Unexpected)?;
    let (is_repeated, is_suppressed, position) = match answer.split_first() {
        Some((b'=', rest)) => (true, false, rest),
        Some((b'<', rest)) => (false, true, rest),
        Some(_) | None => (false, false, answer),
    };
    let position = if position.is_empty() {
        None
    } else {
        Some(parse_position(position).ok_or(RedisFailure::Unexpected)?)
    };
    Ok(Published {
        position,
        is_repeated,
        is_suppressed,
    })
}

fn parse_page(answer: Value) -> Result<(StreamPosition, Vec<Value>), RedisFailure> {
    let Value::Array(parts) = answer else {
        return Err(RedisFailure::Unexpected);
    };
    let Ok([top, entries]) = <[Value; 2]>::try_from(parts) else {
        return Err(RedisFailure::Unexpected);
    };
    let top = bytes(&top).and_then(parse_position);
    match (top, entries) {
        (Some(top), Value::Array(entries)) => Ok((top, entries)),
        _ => Err(RedisFailure::Unexpected),
    }
}

fn read_entry(entry: Value, epoch: &str) -> Result<Publication, BadEnvelope> {
    let Value::Array(parts) = entry else {
        return Err(BadEnvelope::Malformed);
    };
    let Ok([id, Value::Array(fields)]) = <[Value; 2]>::try_from(parts) else {
        return Err(BadEnvelope::Malformed);
    };
    let offset = text(&id).and_then(|id| id.strip_suffix("-0")?.parse().ok());
    let offset = offset.ok_or(BadEnvelope::Position)?;
    let Ok([name, Value::BulkString(body)]) = <[Value; 2]>::try_from(fields) else {
        return Err(BadEnvelope::Malformed);
    };
    if text(&name) != Some("d") {
        return Err(BadEnvelope::Malformed);
    }
    let mut publication = parse_publication(Bytes::from(body))?;
    let position = StreamPosition {
        offset,
        epoch: epoch.to_owned(),
    };
    place(&mut publication, &position);
    Ok(publication)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn r7_answers_that_make_no_sense_are_failures() {
        for nonsense in [
            Value::Nil,
            Value::Int(1),
            bulk("abcdefgh"),
            bulk("=abc"),
            bulk("abcdefgh-1"),
        ] {
            let parsed = parse_published(&nonsense);
            assert_eq!(parsed, Err(RedisFailure::Unexpected), "{nonsense:?}");
        }
        for nonsense in [
            Value::Nil,
            Value::Array(vec![]),
            Value::Array(vec![bulk("abcdefgh1"), Value::Nil]),
            Value::Array(vec![Value::Nil, Value::Array(vec![])]),
        ] {
            assert_eq!(parse_page(nonsense), Err(RedisFailure::Unexpected));
        }
    }

    #[test]
    fn r7_entries_of_others_are_errors() {
        let entry =
            |id: &str, fields: Vec<Value>| Value::Array(vec![bulk(id), Value::Array(fields)]);
        let ours = || vec![bulk("d"), bulk("\0{}")];
        assert_eq!(read_entry(entry("7-0", ours()), "e").unwrap().offset, 7);
        for foreign in [
            Value::Nil,
            entry("7-1", ours()),
            entry("x-0", ours()),
            entry("7-0", vec![bulk("e"), bulk("\0{}")]),
            entry("7-0", vec![bulk("d"), bulk("\u{7f}{}")]),
            entry("7-0", vec![bulk("d")]),
            entry(
                "7-0",
                vec![bulk("d"), bulk("\0{}"), bulk("d"), bulk("\0{}")],
            ),
        ] {
            assert!(read_entry(foreign.clone(), "e").is_err(), "{foreign:?}");
        }
    }
}
