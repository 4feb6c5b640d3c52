//! Configuration: one file in TOML, YAML or JSON, overrides from the environment, everything checked at once.
//!
//! Three shapes: the spanned tree ([`tree`]) → typed settings checked against the table of keys ([`settings`],
//! [`keys`]) → the validated [`Config`], whose parts the subsystems take by value. After [`load`] nobody handles
//! "maybe missing". This module is the only one that reads the environment, and it binds nothing.
//!
//! Invariant: [`load`] reports every problem it can find, each with key path and place.

pub mod check;
pub mod default_file;
pub mod environment;
mod json;
mod key_sections;
pub mod keys;
pub mod parse;
pub mod secret;
pub mod settings;
pub mod tree;
pub mod units;

mod build;
mod problems;
mod realtime;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    num::{NonZeroU32, NonZeroUsize},
    path::{Path, PathBuf},
    time::Duration,
};

use http::HeaderName;
use ipnet::IpNet;
use regex::Regex;
use tidegate_control::PostgresConfig;
use tidegate_realtime::config::PersonalChannel;
use tidegate_redis::RedisConfig;
use tidegate_sandbox::StateQuotas;

pub use self::{
    check::Effective,
    environment::{Environment, ProcessEnvironment},
    parse::Format,
    problems::{ConfigError, Problems},
    secret::Secret,
    tree::{Origin, Problem},
};

/// A SHA-256 HMAC is as strong as its key up to this length (threat model A1).
pub const HMAC_SECRET_MIN_BYTES: usize = 32;

/// 128 bits of randomness (threat model A8).
pub const ADMIN_KEY_MIN_BYTES: usize = 16;

/// Connections per node; what a small machine holds with room for a reconnect storm.
pub const DEFAULT_CONNECTION_LIMIT: usize = 50_000;

/// Process exit status for a configuration that cannot be used.
pub const EXIT_STATUS: u8 = 2;

/// A configuration file larger than this is some other file.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The validated configuration of a node.
#[derive(Debug, Clone)]
pub struct Config {
    pub data_dir: PathBuf,
    pub http_server: HttpServerConfig,
    pub admin_api: AdminApiConfig,
    pub log: LogConfig,
    pub client: ClientConfig,
    pub token: TokenConfig,
    pub channels: ChannelsConfig,
    pub engine: EngineConfig,
    pub control: ControlConfig,
    pub http_api: HttpApiConfig,
    pub websocket: WebsocketConfig,
    pub plugins: PluginsConfig,
    pub health: Endpoint,
    pub prometheus: Endpoint,
    /// `None`: the host's name and port.
    pub node_name: Option<String>,
    /// Over which the metrics in `info` are counted.
    pub info_metrics_interval: Duration,
    pub shutdown_timeout: Duration,
    /// `None` unless `demo.enabled`.
    pub demo: Option<DemoConfig>,
}

/// Where publications and history live.
#[derive(Debug, Clone)]
pub enum EngineConfig {
    /// On this node, up to so many bytes.
    Memory {
        max_bytes: usize,
    },
    Redis(Box<RedisConfig>),
}

/// Where apps, keys, plugins and bindings are stored.
#[derive(Debug, Clone)]
pub enum ControlConfig {
    /// In a file of the data directory: one node.
    Sqlite,
    /// In a database that nodes share.
    Postgres(Box<PostgresConfig>),
}

/// The listener for clients and the server API.
#[derive(Debug, Clone)]
pub struct HttpServerConfig {
    /// `None` is every interface.
    pub address: Option<IpAddr>,
    /// 0: the system chooses.
    pub port: u16,
    pub trusted_proxies: Vec<IpNet>,
}

/// The admin listener; its address is loopback.
#[derive(Debug, Clone)]
pub struct AdminApiConfig {
    pub is_enabled: bool,
    pub address: IpAddr,
    pub port: u16,
    /// Accepted beside the keys of the control store.
    pub key: Option<Secret>,
}

#[derive(Debug, Clone)]
pub struct LogConfig {
    pub level: LogLevel,
    pub file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
    None,
}

impl LogLevel {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "trace" => Some(Self::Trace),
            "debug" => Some(Self::Debug),
            "info" => Some(Self::Info),
            "warn" => Some(Self::Warn),
            "error" => Some(Self::Error),
            "none" => Some(Self::None),
            _ => None,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
            Self::None => "none",
        }
    }
}

/// Limits and habits of client connections.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// `*` alone, `null`, or patterns of scheme, host and port.
    pub allowed_origins: Vec<String>,
    pub allow_anonymous_connect_without_token: bool,
    pub ping_interval: Duration,
    /// Shorter than `ping_interval`.
    pub pong_timeout: Duration,
    pub expired_close_delay: Duration,
    pub expired_sub_close_delay: Duration,
    pub stale_close_delay: Duration,
    pub channel_limit: usize,
    /// Zero: positions are not checked.
    pub position_check_delay: Duration,
    pub queue_max_bytes: usize,
    /// At most half of the presence TTL.
    pub presence_update_interval: Duration,
    pub connection_limit: usize,
    /// `None`: no limit.
    pub user_connection_limit: Option<usize>,
    /// `None`: 5,000 per core.
    pub connection_rate_limit: Option<NonZeroU32>,
    pub ip_connection_limit: usize,
    pub ip_connection_rate_limit: NonZeroU32,
    /// Per second; `None`: no limit.
    pub command_rate: Option<NonZeroU32>,
    pub connect_include_server_time: bool,
    pub history_max_publications: usize,
    pub recovery_max_publications: usize,
    /// The header by which a proxy in front names the user.
    pub user_id_header: Option<HeaderName>,
    /// `None`: users have no channels of their own.
    pub personal_channel: Option<PersonalChannel>,
    pub is_insecure: bool,
}

/// How connection tokens are checked.
#[derive(Debug, Clone)]
pub struct TokenConfig {
    pub hmac_secret: Option<Secret>,
    pub hmac_previous_secret: Option<Secret>,
    /// Unix seconds; `None`: as long as it is configured.
    pub hmac_previous_valid_until: Option<u64>,
    /// Empty: all of the HMAC family.
    pub algorithms: Vec<TokenAlgorithm>,
    pub audience: Option<TokenClaimRule>,
    pub issuer: Option<TokenClaimRule>,
    pub user_id_claim: Option<String>,
    pub require_exp: bool,
    pub allow_weak_hmac: bool,
    pub skip_signature_verify: bool,
    pub disallow_anonymous: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenAlgorithm {
    Hs256,
    Hs384,
    Hs512,
}

impl TokenAlgorithm {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "HS256" => Ok(Self::Hs256),
            "HS384" => Ok(Self::Hs384),
            "HS512" => Ok(Self::Hs512),
            "none" => {
                Err("`none` is no algorithm; a token without a signature proves nothing".into())
            }
            "RS256" | "RS384" | "RS512" | "PS256" | "PS384" | "PS512" | "ES256" | "ES384"
            | "ES512" | "EdDSA" => Err(format!(
                "{text} is not part of this release; use HS256, HS384 or HS512"
            )),
            _ => Err(format!(
                "`{text}` is not an algorithm; use HS256, HS384 or HS512"
            )),
        }
    }

    /// As in the token's header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Hs384 => "HS384",
            Self::Hs512 => "HS512",
        }
    }
}

/// What `aud` or `iss` must be.
#[derive(Debug, Clone)]
pub enum TokenClaimRule {
    Exactly(String),
    Matches(Regex),
}

/// How channel names are read, and their options.
#[derive(Debug, Clone)]
pub struct ChannelsConfig {
    pub max_length_bytes: usize,
    pub private_prefix: char,
    pub namespace_boundary: char,
    pub user_boundary: char,
    pub user_separator: char,
    pub without_namespace: NamespaceConfig,
    pub namespaces: BTreeMap<String, NamespaceConfig>,
}

/// Options of a namespace.
#[derive(Debug, Clone)]
pub struct NamespaceConfig {
    pub history: Option<HistoryConfig>,
    /// Life of offset and epoch, also of channels without history that somebody positions on.
    pub meta_ttl: Duration,
    pub force_positioning: bool,
    pub allow_positioning: bool,
    pub force_recovery: bool,
    pub allow_recovery: bool,
    pub subscribe: Permission,
    pub publish: Permission,
    pub read_history: Permission,
    pub read_presence: Permission,
    pub presence: bool,
    pub join_leave: bool,
    pub force_push_join_leave: bool,
    pub allow_user_limited_channels: bool,
    /// For the name after the namespace.
    pub channel_regex: Option<Regex>,
    pub publication_data_format: PublicationDataFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryConfig {
    /// More than 0.
    pub size: usize,
    pub ttl: Duration,
    /// Longer than `ttl`.
    pub meta_ttl: Duration,
}

/// Who may do something. `for_anonymous` alone allows nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Permission {
    pub for_client: bool,
    /// Never set for subscribing.
    pub for_subscriber: bool,
    pub for_anonymous: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublicationDataFormat {
    /// Anything but nothing.
    NotEmpty,
    Json,
    JsonObject,
    /// Anything, nothing included.
    Binary,
}

impl PublicationDataFormat {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "" => Some(Self::NotEmpty),
            "json" => Some(Self::Json),
            "json_object" => Some(Self::JsonObject),
            "binary" => Some(Self::Binary),
            _ => None,
        }
    }
}

/// The server API.
#[derive(Debug, Clone)]
pub struct HttpApiConfig {
    pub is_enabled: bool,
    pub handler_prefix: String,
    /// A further key of the app `default`.
    pub key: Option<Secret>,
    pub is_insecure: bool,
    pub error_mode: ErrorMode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorMode {
    /// HTTP 200 with `{"error": …}`.
    Envelope,
    /// HTTP status codes.
    Transport,
}

#[derive(Debug, Clone)]
pub struct WebsocketConfig {
    pub is_enabled: bool,
    pub handler_prefix: String,
    pub max_message_bytes: usize,
    pub write_timeout: Duration,
}

#[derive(Debug, Clone)]
pub struct PluginsConfig {
    /// Headers that the `context` import shows.
    pub allowed_headers: Vec<HeaderName>,
    pub name_in_errors: bool,
    pub trace_in_refusals: bool,
    /// Versions of a plugin that are kept; all of them without a number.
    pub keep_versions: Option<NonZeroU32>,
    pub max_memory_bytes: usize,
    /// Address space and time by the clock of the process that compiles an upload.
    pub compile_memory_bytes: u64,
    pub compile_timeout: Duration,
    /// Between two stories of commands that went well; zero for none.
    pub explain_interval: Duration,
    pub deadlines: PluginDeadlines,
    /// Threads of the aside lane; as many as cores where none is given.
    pub threads: Option<NonZeroUsize>,
    /// Threads for plugins that wait for other machines.
    pub waiting_threads: NonZeroUsize,
    /// Instances at once; what the pool holds where none is given.
    pub max_instances: Option<NonZeroUsize>,
    pub state: StateQuotas,
}

/// Time for one call, by hook.
#[derive(Debug, Clone, Copy)]
pub struct PluginDeadlines {
    pub authentication: Duration,
    pub authorization: Duration,
    pub filtering: Duration,
    pub routing: Duration,
    pub rpc: Duration,
    /// Of a plugin that waits for other machines, at whatever hook.
    pub waiting: Duration,
    pub events: Duration,
    pub schedule: Duration,
}

/// Something served at a path of the client listener.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub is_enabled: bool,
    pub handler_prefix: String,
}

/// The demonstration page.
#[derive(Debug, Clone)]
pub struct DemoConfig {
    pub page_dir: PathBuf,
    pub ticket_key_id: String,
    pub ticket_secret: Secret,
}

/// A switch that weakens the node, as it warns about it at start and every ten minutes (threat model P5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InsecureSwitch {
    pub key: &'static str,
    pub consequence: &'static str,
}

impl Config {
    /// The insecure switches that are on; the node warns about each at start and every ten minutes.
    pub fn insecure_switches(&self) -> Vec<InsecureSwitch> {
        let any_origin = self
            .client
            .allowed_origins
            .iter()
            .any(|origin| origin == "*");
        let (is_exposed, trusts_anybody) = match &self.control {
            ControlConfig::Sqlite => (false, false),
            ControlConfig::Postgres(postgres) => (postgres.is_exposed(), postgres.trusts_anybody()),
        };
        let redis_trusts_anybody = match &self.engine {
            EngineConfig::Memory { .. } => false,
            EngineConfig::Redis(redis) => redis.trusts_anybody(),
        };
        [
            (
                is_exposed,
                "control.postgres.url",
                "its sslmode lets whoever is between this node and the database read and change what is decided, the secrets that sign tokens included; write sslmode=verify-full",
            ),
            (
                trusts_anybody,
                "control.postgres.tls.insecure_skip_verify",
                "whoever is between this node and the database reads and changes what is decided",
            ),
            (
                redis_trusts_anybody,
                "engine.redis.tls.insecure_skip_verify",
                "whoever is between this node and Redis reads and changes what is published",
            ),
            (
                self.client.is_insecure,
                "client.insecure",
                "everybody may connect, subscribe and publish",
            ),
            (
                self.token.skip_signature_verify,
                "client.insecure_skip_token_signature_verify",
                "anybody can forge tokens",
            ),
            (
                self.token.allow_weak_hmac,
                "client.token.insecure_allow_weak_hmac",
                "a short token secret can be guessed",
            ),
            (
                self.http_api.is_insecure,
                "http_api.insecure",
                "everybody may use the server API",
            ),
            (
                self.client.user_id_header.is_some() && self.http_server.trusted_proxies.is_empty(),
                "client.user_id_http_header",
                "whoever reaches the client port without the proxy chooses who it is; name the proxy in http_server.trusted_proxies",
            ),
            (
                any_origin,
                "client.allowed_origins",
                "`*` lets any web page connect with its visitor's network and cookies",
            ),
        ]
        .into_iter()
        .filter(|(is_on, ..)| *is_on)
        .map(|(_, key, consequence)| InsecureSwitch { key, consequence })
        .collect()
    }
}

/// What a configuration is made from.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// `None`: defaults and environment alone.
    pub file: Option<&'a Path>,
    pub environment: &'a dyn Environment,
    /// The option `--data-dir`, stronger than file and environment.
    pub data_dir: Option<&'a Path>,
}

impl std::fmt::Debug for Sources<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources")
            .field("file", &self.file)
            .field("data_dir", &self.data_dir)
            .finish_non_exhaustive()
    }
}

/// A variable of the environment that Centrifugo would have read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IgnoredVariable {
    pub name: String,
    /// What to do about it.
    pub hint: String,
}

/// The variables that have no effect here and had one in Centrifugo.
fn ignored(environment: &dyn Environment) -> Vec<IgnoredVariable> {
    let names = environment.centrifugo_variables().into_iter();
    names
        .map(|name| {
            let instead = environment::in_place_of(&name);
            let is_key = keys::all()
                .iter()
                .any(|key| key.is_supported() && key.environment_name().as_ref() == Some(&instead));
            let hint = if is_key {
                format!("it has no effect; set {instead} instead")
            } else {
                "it has no effect, and Tidegate has no such key; unset it".to_owned()
            };
            IgnoredVariable { name, hint }
        })
        .collect()
}

/// A configuration with the origin of each of its values.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    pub effective: Vec<Effective>,
    pub ignored: Vec<IgnoredVariable>,
}

/// Reads, checks and builds the configuration.
///
/// # Errors
/// The file cannot be read, or the list of all its problems.
pub fn load(sources: Sources<'_>) -> Result<Loaded, ConfigError> {
    let Sources {
        file,
        environment,
        data_dir,
    } = sources;
    let text = file.map(read).transpose()?;
    let tree = match (file, &text) {
        (Some(path), Some(text)) => {
            let parsed = parse::parse(text, Format::of(path, text));
            Some(
                parsed
                    .map_err(|problem| ConfigError::Problems(Problems::new(file, vec![problem])))?,
            )
        }
        _ => None,
    };
    let mut settings = settings::Settings::read(tree.as_ref(), environment);
    if let Some(data_dir) = data_dir {
        settings.override_by_option("data_dir", "--data-dir", &data_dir.to_string_lossy());
    }
    let mut problems = std::mem::take(&mut settings.problems);
    let config = build::build(&settings, &mut problems);
    if problems.is_empty() {
        let effective = check::effective(&settings);
        Ok(Loaded {
            config,
            effective,
            ignored: ignored(environment),
        })
    } else {
        Err(ConfigError::Problems(Problems::new(file, problems)))
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if metadata.len() > MAX_FILE_BYTES {
        let source = std::io::Error::other("the file is larger than 1 MiB; is it the right one?");
        return Err(unreadable(source));
    }
    std::fs::read_to_string(path).map_err(unreadable)
}

#[cfg(test)]
mod tests;
