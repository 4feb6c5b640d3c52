//! Commands to Redis: pipelined over one connection, bounded in number and in time, repeated only when they were
//! certainly not executed.
//!
//! A [`Pipe`] reaches one shard: a server, the primary that sentinels name, or a Cluster. `link` keeps the connection
//! to one server alive, `cluster` finds the server of a slot. Invariants (threat model R2): no more than
//! `max_in_flight` commands of a node are on their way, every command ends within five seconds, and commands of one
//! channel are sent in the order in which they were given, since one connection carries them.

mod cluster;
mod commit;
mod in_flight;
mod link;
pub mod value;

use std::{fmt, sync::Arc, time::Duration};

use redis::{Cmd, ServerError, ServerErrorKind, Value};
use tidegate_realtime::{broker::BrokerError, ids::ChannelKey};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::in_flight::InFlight;
use self::{
    cluster::Cluster,
    link::{Link, Live, Server},
};
use crate::{
    config::{Address, RedisConfig, Topology},
    connect::{ConnectError, Connector, Generation, PrimaryWatch},
    keys,
};

/// How often a command that was not executed is sent again when a Cluster moves its slots or changes a primary.
const MAX_REPEATS: u32 = 5;

/// How long a replica has to confirm a publication (threat model R8).
pub const REPLICA_TIMEOUT: Duration = Duration::from_millis(500);

/// The first wait before a repeat; the next ones are longer.
const REPEAT_DELAY: Duration = Duration::from_millis(20);

/// Why a command has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RedisFailure {
    /// The command was not executed; Redis may be back soon.
    #[error("Redis is away")]
    Away,
    /// The connection ended before the answer: the command may have been executed.
    #[error("the connection to Redis ended before the answer")]
    Unanswered,
    /// More commands in flight than the node allows.
    #[error("too many commands to Redis are in flight")]
    Overloaded,
    /// Redis will not do it: out of memory, not allowed, wrong type of value.
    #[error("Redis refuses with {code}: {detail}")]
    Refused { code: Box<str>, detail: Box<str> },
    /// It is done, and no replica has confirmed it in time.
    #[error("no replica has confirmed the command in time")]
    Unreplicated,
    /// The answer is not one to this command.
    #[error("Redis answered something else than was asked for")]
    Unexpected,
}

impl RedisFailure {
    /// Whether a primary refuses to write because it has lost its replicas.
    fn lacks_replicas(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if &**code == "NOREPLICAS")
    }

    /// For metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::Unanswered => "unanswered",
            Self::Overloaded => "overloaded",
            Self::Refused { .. } => "refused",
            Self::Unreplicated => "unreplicated",
            Self::Unexpected => "unexpected",
        }
    }
}

impl From<RedisFailure> for BrokerError {
    fn from(failure: RedisFailure) -> Self {
        match failure {
            RedisFailure::Overloaded => Self::Overloaded,
            RedisFailure::Unreplicated => Self::Unreplicated,
            RedisFailure::Away
            | RedisFailure::Unanswered
            | RedisFailure::Refused { .. }
            | RedisFailure::Unexpected => Self::Unavailable,
        }
    }
}

/// Which server of a Cluster a command belongs to; elsewhere there is one.
#[derive(Debug, Clone, Copy)]
pub enum Route<'a> {
    /// The one that has this key or sharded pub/sub channel.
    Key(&'a str),
    /// Any one, for what is not kept in slots (`PUBLISH`).
    Any,
}

/// A Lua script, known to Redis by its digest.
pub struct Script {
    code: Box<str>,
    digest: Box<str>,
}

impl Script {
    pub fn new(code: impl Into<Box<str>>) -> Self {
        let code = code.into();
        Self {
            digest: redis::Script::new(&code).get_hash().into(),
            code,
        }
    }

    fn request(
        &self,
        live: &Live,
        build: impl Fn(&mut Cmd, &Generation),
        confirmation: Confirmation,
    ) -> Request<'_> {
        let mut command = redis::cmd("EVALSHA");
        command.arg(&*self.digest);
        build(&mut command, &live.generation());
        Request::Script {
            command,
            script: self,
            confirmation,
        }
    }

    fn load(&self) -> Cmd {
        let mut command = redis::cmd("SCRIPT");
        command.arg("LOAD").arg(&*self.code);
        command
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Script").field(&self.digest).finish()
    }
}

/// Commands to one shard.
#[derive(Debug, Clone)]
pub struct Pipe {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    connector: Connector,
    servers: Servers,
    /// Where the primary is, in case that it is named by sentinels.
    watch: Option<Arc<PrimaryWatch>>,
    in_flight: InFlight,
    io_timeout: Duration,
}

#[derive(Debug)]
enum Servers {
    One(Link),
    Cluster(Cluster),
}

/// All shards of the engine.
#[derive(Debug, Clone)]
pub struct Shards {
    pipes: Arc<[Pipe]>,
}

impl Shards {
    /// Starts to connect; waits for nothing. Connections are kept on `tracker` until `stop`.
    pub fn start(config: &RedisConfig, tracker: &TaskTracker, stop: &CancellationToken) -> Self {
        let in_flight = InFlight::new(config.max_in_flight);
        Self::start_within(&in_flight, config, tracker, stop)
    }

    /// Connections of their own to the same servers, within the same number of commands in flight.
    pub fn start_beside(
        &self,
        config: &RedisConfig,
        tracker: &TaskTracker,
        stop: &CancellationToken,
    ) -> Self {
        Self::start_within(self.first().in_flight(), config, tracker, stop)
    }

    fn start_within(
        in_flight: &InFlight,
        config: &RedisConfig,
        tracker: &TaskTracker,
        stop: &CancellationToken,
    ) -> Self {
        let pipes = config.shards.iter().map(|topology| {
            let connector = Connector::new(topology.clone(), config.connect_timeout);
            Pipe::start(
                connector,
                config.io_timeout,
                in_flight.clone(),
                tracker,
                stop,
            )
        });
        Self {
            pipes: pipes.collect(),
        }
    }

    /// The shard of a channel and everything of it.
    pub fn of(&self, channel: &ChannelKey) -> &Pipe {
        &self.pipes[keys::shard(channel, self.pipes.len())]
    }

    /// The shard of what belongs to no channel: registry, control.
    pub fn first(&self) -> &Pipe {
        &self.pipes[0]
    }

    pub fn all(&self) -> &[Pipe] {
        &self.pipes
    }
}

impl Pipe {
    /// Starts to connect; waits for nothing.
    pub fn start(
        connector: Connector,
        io_timeout: Duration,
        in_flight: InFlight,
        tracker: &TaskTracker,
        stop: &CancellationToken,
    ) -> Self {
        let watch = match connector.topology() {
            Topology::Sentinel { .. } => {
                let watch = PrimaryWatch::start(connector.clone(), tracker, stop);
                Some(Arc::new(watch))
            }
            Topology::Standalone { .. } | Topology::Cluster { .. } => None,
        };
        let servers = match connector.topology() {
            Topology::Standalone { .. } | Topology::Sentinel { .. } => {
                let server = Server::Primary(watch.clone());
                let link = Link::start(server, connector.clone(), io_timeout, tracker, stop);
                Servers::One(link)
            }
            Topology::Cluster { seeds, .. } => Servers::Cluster(Cluster::start(
                &connector,
                seeds.clone(),
                io_timeout,
                tracker,
                stop,
            )),
        };
        Self {
            shared: Arc::new(Shared {
                connector,
                servers,
                watch,
                in_flight,
                io_timeout,
            }),
        }
    }

    /// The servers with which connections of one's own have to be opened: the primary or, in a Cluster, the primaries
    /// known now.
    ///
    /// # Errors
    /// [`ConnectError`] when nobody names a primary.
    pub async fn primaries(&self) -> Result<Vec<Address>, ConnectError> {
        match &self.shared.servers {
            Servers::One(_) => Ok(self.connector().primary().await?.into_iter().collect()),
            Servers::Cluster(cluster) => Ok(cluster.primaries()),
        }
    }

    /// The primary that has a key or a sharded pub/sub channel; `None` outside a Cluster and before it is known.
    pub fn primary_of(&self, key: &str) -> Option<Address> {
        match &self.shared.servers {
            Servers::One(_) => None,
            Servers::Cluster(cluster) => cluster.primary_of(key),
        }
    }

    /// Whether a server of a Cluster has any slots.
    pub fn has_slots(&self, address: &Address) -> bool {
        match &self.shared.servers {
            Servers::One(_) => true,
            Servers::Cluster(cluster) => cluster.has_slots(address),
        }
    }

    /// Whether what is published on a server of a Cluster can be expected to arrive: it has slots, and the other servers
    /// do not hold it for dead.
    pub fn is_on_duty(&self, address: &Address) -> bool {
        match &self.shared.servers {
            Servers::One(_) => true,
            Servers::Cluster(cluster) => cluster.is_on_duty(address),
        }
    }

    /// How often slots of a Cluster were found elsewhere than before.
    pub fn num_changes(&self) -> u64 {
        match &self.shared.servers {
            Servers::One(_) => 0,
            Servers::Cluster(cluster) => cluster.num_changes(),
        }
    }

    /// How often what was written may have been lost: the server is of another generation, or another one has its place.
    pub fn num_lapses(&self) -> u64 {
        self.connector().num_renewals() + self.num_changes()
    }

    /// For connections of one's own: pub/sub.
    pub fn connector(&self) -> &Connector {
        &self.shared.connector
    }

    /// Knows when the primary is another one; `None` where no sentinels name it.
    pub fn watch(&self) -> Option<&PrimaryWatch> {
        self.shared.watch.as_deref()
    }

    pub fn is_cluster(&self) -> bool {
        matches!(self.shared.servers, Servers::Cluster(_))
    }

    pub fn in_flight(&self) -> &InFlight {
        &self.shared.in_flight
    }

    /// Whether a connection to the server (of a Cluster: to any) stands.
    pub fn is_connected(&self) -> bool {
        match &self.shared.servers {
            Servers::One(link) => link.is_live(),
            Servers::Cluster(cluster) => cluster.is_live(),
        }
    }

    /// Whether there has been no connection for so long that none is on its way; of a Cluster: to no server.
    pub fn is_lost(&self, now: Instant) -> bool {
        match &self.shared.servers {
            Servers::One(link) => link.is_lost(now),
            Servers::Cluster(cluster) => cluster.is_lost(now),
        }
    }

    /// Waits until a connection stands; for a start, which the caller bounds.
    pub async fn connected(&self) {
        match &self.shared.servers {
            Servers::One(link) => link.connected().await,
            Servers::Cluster(cluster) => cluster.connected().await,
        }
    }

    /// Sends a command and waits for its answer, which is no server error.
    ///
    /// # Errors
    /// [`RedisFailure`], within five seconds.
    ///
    /// # Cancel safety
    /// A command whose future is dropped may have been sent and executed.
    pub async fn run(&self, command: &Cmd, route: Route<'_>) -> Result<Value, RedisFailure> {
        self.send(route, |_| Request::Command(command)).await
    }

    /// Runs a script: `build` adds the number of keys, the keys and the arguments behind the digest, and learns the
    /// generation of the server that the command goes to. It may be called again for another server.
    ///
    /// # Errors
    /// As [`Pipe::run`].
    ///
    /// # Cancel safety
    /// As [`Pipe::run`].
    pub async fn invoke(
        &self,
        script: &Script,
        route: Route<'_>,
        build: impl Fn(&mut Cmd, &Generation),
    ) -> Result<Value, RedisFailure> {
        self.send(route, |live: &Live| {
            script.request(live, &build, Confirmation::None)
        })
        .await
    }

    /// The same, answered when a replica has confirmed that it has the result (threat model R8). Whatever else is sent
    /// on the connection waits meanwhile, so this wants a pipe of its own.
    ///
    /// # Errors
    /// As [`Pipe::run`], and [`RedisFailure::Unreplicated`] after [`REPLICA_TIMEOUT`], or twice that behind others.
    ///
    /// # Cancel safety
    /// As [`Pipe::run`].
    pub async fn invoke_replicated(
        &self,
        script: &Script,
        route: Route<'_>,
        build: impl Fn(&mut Cmd, &Generation),
    ) -> Result<Value, RedisFailure> {
        self.send(route, |live: &Live| {
            script.request(live, &build, Confirmation::OfAReplica)
        })
        .await
    }

    async fn send<'a>(
        &self,
        route: Route<'_>,
        request: impl Fn(&Live) -> Request<'a>,
    ) -> Result<Value, RedisFailure> {
        let _permit = self.shared.in_flight.enter()?;
        match &self.shared.servers {
            Servers::One(link) => {
                let live = link.live().await?;
                match live.exchange(&request(&live)).await {
                    Ok(Answer::Value(value)) => Ok(value),
                    Err(failure) => {
                        // It may be that its replicas follow another one by now.
                        if let Some(watch) = self.watch()
                            && failure.lacks_replicas()
                        {
                            watch.look();
                        }
                        Err(failure)
                    }
                    Ok(Answer::Elsewhere(error)) => {
                        match error.kind() {
                            // Another server may be the primary by now.
                            Some(ServerErrorKind::ReadOnly) => link.doubt(&live),
                            // It loads, or has a reason of its own: a new connection would hear the same.
                            _ => link.look(),
                        }
                        tracing::debug!(error = error.code(), "Redis does not serve for now");
                        Err(RedisFailure::Away)
                    }
                }
            }
            Servers::Cluster(cluster) => {
                let deadline = Instant::now() + self.shared.io_timeout;
                // Boxed, so that commands to one server do not carry the state of this loop.
                Box::pin(cluster.send(route, deadline, request)).await
            }
        }
    }
}

/// What is sent.
enum Request<'a> {
    Command(&'a Cmd),
    Script {
        command: Cmd,
        script: &'a Script,
        confirmation: Confirmation,
    },
}

/// Who has to have the result before it is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Confirmation {
    None,
    OfAReplica,
}

/// What comes back.
enum Answer {
    Value(Value),
    /// The server did not execute it, and another one or a later moment may.
    Elsewhere(ServerError),
}

impl Request<'_> {
    fn command(&self) -> &Cmd {
        match self {
            Self::Command(command) => command,
            Self::Script { command, .. } => command,
        }
    }

    fn confirmation(&self) -> Confirmation {
        match self {
            Self::Command(_) => Confirmation::None,
            Self::Script { confirmation, .. } => *confirmation,
        }
    }

    /// The script to load when the server answers that it does not know it.
    fn unknown_script(&self, answer: &Value) -> Option<&Script> {
        match (self, answer) {
            (Self::Script { script, .. }, Value::ServerError(error))
                if error.kind() == Some(ServerErrorKind::NoScript) =>
            {
                Some(script)
            }
            (Self::Script { .. } | Self::Command(_), _) => None,
        }
    }
}

/// Whether the server is not the owner of the slot yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asking {
    No,
    Yes,
}

impl Live {
    /// One round trip; two more when the server does not know the script, one more for a replica's confirmation.
    async fn exchange(&self, request: &Request<'_>) -> Result<Answer, RedisFailure> {
        let answer = self.roundtrip(request.command()).await?;
        // Boxed, so that ordinary commands do not carry the state of what happens seldom.
        let answer = match request.unknown_script(&answer) {
            None => judge(answer)?,
            Some(script) => Box::pin(self.load_and_repeat(script, request, Asking::No)).await?,
        };
        match request.confirmation() {
            Confirmation::None => Ok(answer),
            Confirmation::OfAReplica => Box::pin(self.confirm(answer)).await,
        }
    }

    /// As `exchange`, with a server that is about to get the slot.
    async fn exchange_asking(&self, request: &Request<'_>) -> Result<Answer, RedisFailure> {
        let answer = self.roundtrip_asking(request.command()).await?;
        let answer = match request.unknown_script(&answer) {
            None => judge(answer)?,
            Some(script) => self.load_and_repeat(script, request, Asking::Yes).await?,
        };
        match request.confirmation() {
            Confirmation::None => Ok(answer),
            Confirmation::OfAReplica => self.confirm(answer).await,
        }
    }

    async fn load_and_repeat(
        &self,
        script: &Script,
        request: &Request<'_>,
        asking: Asking,
    ) -> Result<Answer, RedisFailure> {
        if let refusal @ Value::ServerError(_) = self.roundtrip(&script.load()).await? {
            return judge(refusal);
        }
        let command = request.command();
        judge(match asking {
            Asking::No => self.roundtrip(command).await?,
            Asking::Yes => self.roundtrip_asking(command).await?,
        })
    }

    /// What was done counts when a replica has it; what was not done needs none.
    async fn confirm(&self, answer: Answer) -> Result<Answer, RedisFailure> {
        if let Answer::Value(_) = &answer {
            self.commits.confirmed().await?;
        }
        Ok(answer)
    }
}

fn judge(answer: Value) -> Result<Answer, RedisFailure> {
    let Value::ServerError(error) = answer else {
        return Ok(Answer::Value(answer));
    };
    match error.kind() {
        Some(
            ServerErrorKind::BusyLoading
            | ServerErrorKind::Moved
            | ServerErrorKind::Ask
            | ServerErrorKind::TryAgain
            | ServerErrorKind::ClusterDown
            | ServerErrorKind::MasterDown
            | ServerErrorKind::ReadOnly,
        ) => Ok(Answer::Elsewhere(error)),
        Some(_) | None => Err(RedisFailure::Refused {
            code: error.code().into(),
            detail: error.details().unwrap_or_default().into(),
        }),
    }
}
