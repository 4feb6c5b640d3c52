//! One connection to one server: sockets, TLS, login, what the server says of itself, who the primary is.
//!
//! Owns no retry and no pool: [`Connector::open`] tries once and ends within `connect_timeout`. Who keeps a connection
//! alive is `link` for commands and `pubsub` for subscriptions. Invariant: a connection for commands is to a server
//! that said it is a primary, and carries the [`Generation`] that the server had.

mod sentinel;
mod server;
mod watch;

use std::{
    fmt, io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Cmd, RedisConnectionInfo, RedisError, Value,
    aio::{MultiplexedConnection, PubSub},
};
use tidegate_tls::TlsStream;
use tokio::net::TcpStream;
use tokio_util::either::Either;

pub(crate) use self::server::{is_loading, role};
pub use self::{
    server::{Generation, ServerRole},
    watch::{PrimaryWatch, left},
};
use crate::config::{Address, Login, Topology};

/// Requests that the driver of one connection has not taken yet; beyond it senders wait in line.
const SEND_QUEUE: usize = 4_096;

/// Bytes after which a connection writes although more could be joined.
const WRITE_BYTES: usize = 64 * 1024;

/// A socket to a server.
pub type Socket = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nothing answers there, or not in time.
    #[error("cannot connect to Redis at {address}")]
    Unreachable {
        address: Address,
        #[source]
        source: io::Error,
    },
    /// The server wants another user or password, or the user may not do what the engine does.
    #[error(
        "Redis at {address} refuses the login; check user and password of engine.redis, and what the user may do"
    )]
    Refused {
        address: Address,
        #[source]
        source: RedisError,
    },
    /// It speaks, but not as a server that is ready to serve.
    #[error("Redis at {address} does not serve")]
    NotReady {
        address: Address,
        #[source]
        source: RedisError,
    },
    /// It is a replica: what is written there is lost.
    #[error(
        "Redis at {address} is a replica; engine.redis must name the primary, or the sentinels that know it"
    )]
    NotPrimary { address: Address },
    /// It is no Cluster, or has not met the others.
    #[error(
        "Redis at {address} knows of no Cluster; engine.redis.cluster_address must name servers of one that is formed"
    )]
    NoSlots { address: Address },
    /// The sentinels do not answer.
    #[error(
        "none of the sentinels names a primary for {master_name:?}; check engine.redis.sentinel_address and sentinel_master_name"
    )]
    NoPrimary {
        master_name: Box<str>,
        #[source]
        source: Option<Box<Self>>,
    },
}

impl ConnectError {
    /// Whether an operator must act: waiting will not help.
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::Refused { .. } => true,
            Self::NoPrimary { source, .. } => source.as_deref().is_some_and(Self::is_lasting),
            Self::Unreachable { .. }
            | Self::NotReady { .. }
            | Self::NotPrimary { .. }
            | Self::NoSlots { .. } => false,
        }
    }
}

/// Opens connections to the servers of one shard.
#[derive(Debug, Clone)]
pub struct Connector {
    topology: Topology,
    connect_timeout: Duration,
    /// How often a server was found to be of another generation than before; all clones count together.
    num_renewals: Arc<AtomicU64>,
}

/// What moves the bytes of a connection: has to be polled for anything to happen, and ends with the connection.
pub type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A connection for commands.
pub struct Opened {
    pub connection: MultiplexedConnection,
    pub driver: Driver,
    pub generation: Generation,
    pub address: Address,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened")
            .field("address", &self.address)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

impl Connector {
    pub fn new(topology: Topology, connect_timeout: Duration) -> Self {
        Self {
            topology,
            connect_timeout,
            num_renewals: Arc::default(),
        }
    }

    /// A server is of another generation than before: what was written to it may be lost.
    pub(crate) fn count_renewal(&self) {
        // Relaxed: a counter that is looked at now and then.
        self.num_renewals.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn num_renewals(&self) -> u64 {
        self.num_renewals.load(Ordering::Relaxed)
    }

    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    pub fn login(&self) -> &Login {
        match &self.topology {
            Topology::Standalone { login, .. }
            | Topology::Sentinel { login, .. }
            | Topology::Cluster { login, .. } => login,
        }
    }

    /// Where the primary is now: the configured address, or what the sentinels say. `None` for a Cluster, where that
    /// depends on the key.
    ///
    /// # Errors
    /// [`ConnectError::NoPrimary`] within `connect_timeout`.
    pub async fn primary(&self) -> Result<Option<Address>, ConnectError> {
        match &self.topology {
            Topology::Standalone { address, .. } => Ok(Some(address.clone())),
            Topology::Sentinel { .. } => {
                let word = self.ask_sentinels().await?;
                Ok(word.map(|word| word.primary))
            }
            Topology::Cluster { .. } => Ok(None),
        }
    }

    /// The primary that more than half of the sentinels name; `None` when they do not agree or there are none.
    pub async fn agreed_primary(&self) -> Option<Address> {
        let word = self.ask_sentinels().await.ok()??;
        word.is_agreed.then_some(word.primary)
    }

    async fn ask_sentinels(&self) -> Result<Option<sentinel::Word>, ConnectError> {
        match &self.topology {
            Topology::Sentinel {
                sentinels,
                sentinel_login,
                master_name,
                ..
            } => sentinel::primary(self, sentinels, sentinel_login, master_name)
                .await
                .map(Some),
            Topology::Standalone { .. } | Topology::Cluster { .. } => Ok(None),
        }
    }

    /// Connects for commands and makes sure that the server is a primary. Ends within `connect_timeout`.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn open(&self, address: &Address) -> Result<Opened, ConnectError> {
        self.within(address, async {
            let opened = self.open_multiplexed(address, self.login()).await?;
            let (mut connection, mut driver) = opened;
            let role = tokio::select! {
                () = &mut driver => return Err(closed(address)),
                role = introduce(&mut connection, self.login()) => role,
            };
            match role.map_err(|source| not_ready(address, source))? {
                ServerRole::Primary(generation) => Ok(Opened {
                    connection,
                    driver,
                    generation,
                    address: address.clone(),
                }),
                ServerRole::Replica => Err(ConnectError::NotPrimary {
                    address: address.clone(),
                }),
            }
        })
        .await
    }

    /// Connects for subscriptions, to a primary or a replica. Ends within `connect_timeout`.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn open_pubsub(&self, address: &Address) -> Result<PubSub, ConnectError> {
        self.within(address, async {
            let login = self.login();
            let socket = self.open_socket(address, login).await?;
            let opened = PubSub::new(&connection_info(login), socket).await;
            opened.map_err(|source| login_failed(address, source))
        })
        .await
    }

    /// Asks a server something that any server answers, over a connection that ends with the answer. Ends within
    /// `connect_timeout`.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn ask(
        &self,
        address: &Address,
        login: &Login,
        command: &Cmd,
    ) -> Result<Value, ConnectError> {
        self.within(address, async {
            let (mut connection, driver) = self.open_multiplexed(address, login).await?;
            let answer = tokio::select! {
                () = driver => return Err(closed(address)),
                answer = connection.send_packed_command(command) => answer,
            };
            let answer = answer.and_then(Value::extract_error);
            answer.map_err(|source| not_ready(address, source))
        })
        .await
    }

    /// A bare socket with TLS, not logged in.
    ///
    /// # Errors
    /// [`ConnectError::Unreachable`].
    pub async fn open_socket(
        &self,
        address: &Address,
        login: &Login,
    ) -> Result<Socket, ConnectError> {
        let unreachable = |source| ConnectError::Unreachable {
            address: address.clone(),
            source,
        };
        let connected = TcpStream::connect((&*address.host, address.port)).await;
        let stream = connected.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        let Some(tls) = &login.tls else {
            return Ok(Either::Left(stream));
        };
        let wrapped = tls.connect(&address.host, stream).await;
        Ok(Either::Right(Box::new(wrapped.map_err(unreachable)?)))
    }

    async fn open_multiplexed(
        &self,
        address: &Address,
        login: &Login,
    ) -> Result<(MultiplexedConnection, Driver), ConnectError> {
        let socket = self.open_socket(address, login).await?;
        // The bounds are the keeper's: one probe for all commands instead of a timer for each.
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(None)
            .set_pipeline_buffer_size(SEND_QUEUE)
            .set_write_backpressure_boundary(WRITE_BYTES);
        let info = connection_info(login);
        let opened = MultiplexedConnection::new_with_config(&info, socket, config).await;
        let (connection, driver) = opened.map_err(|source| login_failed(address, source))?;
        Ok((connection, Box::pin(driver)))
    }

    async fn within<T>(
        &self,
        address: &Address,
        work: impl Future<Output = Result<T, ConnectError>>,
    ) -> Result<T, ConnectError> {
        let done = tokio::time::timeout(self.connect_timeout, work).await;
        done.unwrap_or_else(|_| {
            Err(ConnectError::Unreachable {
                address: address.clone(),
                source: io::Error::new(io::ErrorKind::TimedOut, "no answer in time"),
            })
        })
    }
}

/// Says who we are and asks what the server is.
async fn introduce(
    connection: &mut MultiplexedConnection,
    login: &Login,
) -> Result<ServerRole, RedisError> {
    if !login.client_name.is_empty() {
        let mut command = redis::cmd("CLIENT");
        command.arg("SETNAME").arg(&*login.client_name);
        connection
            .send_packed_command(&command)
            .await?
            .extract_error()?;
    }
    server::role(connection).await
}

fn connection_info(login: &Login) -> RedisConnectionInfo {
    let mut info = RedisConnectionInfo::default()
        .set_db(login.db)
        // `CLIENT SETINFO` is a command more for an ACL to name.
        .set_skip_set_lib_name();
    if !login.user.is_empty() {
        info = info.set_username(&login.user);
    }
    if !login.password.is_empty() {
        info = info.set_password(&login.password);
    }
    info
}

fn closed(address: &Address) -> ConnectError {
    ConnectError::Unreachable {
        address: address.clone(),
        source: io::ErrorKind::ConnectionReset.into(),
    }
}

/// A failure while logging in: of the login, or of the way there.
fn login_failed(address: &Address, source: RedisError) -> ConnectError {
    if source.is_io_error() {
        return ConnectError::Unreachable {
            address: address.clone(),
            source: io::Error::other(source),
        };
    }
    if source.kind() == redis::ErrorKind::AuthenticationFailed {
        return ConnectError::Refused {
            address: address.clone(),
            source,
        };
    }
    not_ready(address, source)
}

/// A failure after the login.
fn not_ready(address: &Address, source: RedisError) -> ConnectError {
    let address = address.clone();
    match source.code() {
        Some("NOPERM" | "NOAUTH" | "WRONGPASS") => ConnectError::Refused { address, source },
        _ => ConnectError::NotReady { address, source },
    }
}
