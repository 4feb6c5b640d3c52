//! The rows of the key table, section by section.

use serde_json::Value as Json;

use super::keys::{Key, Kind, Status};
use Kind::{Duration, Flag, Secret, Structure, Text, Texts};
use Status::{Later, Never, Supported};

/// A row: name, kind, default as JSON text, status, documentation.
type Row = (&'static str, Kind, &'static str, Status, &'static str);

/// A count without bounds of its own.
const COUNT: Kind = Kind::Count {
    min: 0,
    max: i64::MAX,
};
const PORT: Kind = Kind::Count {
    min: 0,
    max: 65_535,
};
const SIZE: Kind = Kind::Size {
    min: 0,
    max: u64::MAX,
};

const TLS: Status = Later("TLS is");
const REDIS: Status = Later("the Redis engine is");
const PRESENCE: Status = Later("presence is");
const JOIN_LEAVE: Status = Later("join and leave messages are");
const CACHE: Status = Later("cache recovery is");
const DELTA: Status = Later("delta compression is");
const TAGS_FILTER: Status = Later("the tags filter is");
const MAP: Status = Later("map subscriptions are");
const SHARED_POLL: Status = Later("shared poll subscriptions are");
const JWKS: Status = Later("JWKS is");
const ASYMMETRIC: Status = Later("RSA and ECDSA token keys are");
const ED25519: Status = Later("Ed25519 token keys are");
const SUBSCRIPTION_TOKENS: Status = Later("subscription tokens are");
const SSE: Status = Later("server-sent events are");
const HTTP_STREAM: Status = Later("HTTP streaming is");
const UNIDIRECTIONAL: Status = Later("unidirectional transports are");
const EMULATION: Status = Later("emulation (the way back of SSE and HTTP streaming) is");
const COMPRESSION: Status =
    Never("permessage-deflate costs more memory than it saves; remove the key.");
const BUFFERS: Status = Never("Tidegate sizes its socket buffers itself; remove the key.");
const PROXY: Status = Never(
    "webhooks are replaced by plugins, see docs/migrating-from-centrifugo.md; remove the key and bind a plugin.",
);
const CONSOLE: Status =
    Never("this is Centrifugo's own console; Tidegate's admin API is configured in `admin_api`.");
const INTERNAL: Status =
    Never("internal endpoints live on the admin listener, `admin_api.address` and `.port`.");
const TELEMETRY: Status = Later("OpenTelemetry export is");

pub(super) fn build() -> Vec<Key> {
    let mut table = Table { keys: Vec::new() };
    table.section("", OURS);
    table.section("http_server", HTTP_SERVER);
    table.tls("http_server.tls", TLS);
    table.tls("http_server.internal_tls", TLS);
    table.section("admin_api", ADMIN_API);
    table.section("log", LOG);
    table.section("engine", ENGINE);
    table.tls("engine.redis.tls", REDIS);
    table.tls("engine.redis.sentinel_tls", REDIS);
    table.section("client", CLIENT);
    table.section("client.token", TOKEN);
    table.section("client.subscription_token", SUBSCRIPTION_TOKEN);
    for event in ["connect", "refresh"] {
        table.proxy(&format!("client.proxy.{event}"));
    }
    table.section("channel", CHANNEL);
    table.section("channel.without_namespace", NAMESPACE);
    table.section("channel.namespaces[]", &[(
        "name", Text, "\"\"", Supported,
        "The part of a channel's name before the first `:`; at least two letters, digits, `-`, `_` or `.`.",
    )]);
    table.section("channel.namespaces[]", NAMESPACE);
    for event in [
        "subscribe",
        "publish",
        "sub_refresh",
        "subscribe_stream",
        "map_publish",
        "map_remove",
        "shared_poll_refresh",
    ] {
        table.proxy(&format!("channel.proxy.{event}"));
    }
    table.section("rpc", RPC);
    table.proxy("rpc.proxy");
    table.section("", &[("proxies", Structure, "[]", PROXY, "")]);
    table.section("shared_poll", SHARED_POLL_KEYS);
    table.section("http_api", HTTP_API);
    table.section("websocket", WEBSOCKET);
    table.section("plugins", PLUGINS);
    table.section("health", HEALTH);
    table.section("prometheus", PROMETHEUS);
    table.section("node", NODE);
    table.section("shutdown", SHUTDOWN);
    table.section("demo", DEMO);
    table.streaming("sse", SSE, false);
    table.streaming("http_stream", HTTP_STREAM, false);
    table.streaming("uni_sse", UNIDIRECTIONAL, true);
    table.streaming("uni_http_stream", UNIDIRECTIONAL, true);
    table.section("uni_websocket", UNI_WEBSOCKET);
    table.section("emulation", EMULATION_KEYS);
    table.section("admin", ADMIN);
    table.section("swagger", SWAGGER);
    table.section("init", INIT);
    table.section("opentelemetry", OPENTELEMETRY);
    table.section(
        "",
        &[(
            "enable_unreleased_features",
            Flag,
            "false",
            Never("there are none; remove the key."),
            "",
        )],
    );
    // The reference means "unlimited" by 0; a bound is always there with us.
    table.reference_default("client.connection_limit", Json::from(0));
    table.reference_default("health.enabled", Json::from(false));
    table.keys
}

struct Table {
    keys: Vec<Key>,
}

impl Table {
    fn section(&mut self, section: &str, rows: &[Row]) {
        for (name, kind, default, status, doc) in rows {
            let path = if section.is_empty() {
                (*name).to_owned()
            } else {
                format!("{section}.{name}")
            };
            self.keys.push(Key {
                path,
                kind: *kind,
                default: serde_json::from_str(default).expect("defaults of the table are JSON"),
                reference_default: None,
                status: *status,
                doc,
            });
        }
    }

    fn rows(&mut self, section: &str, status: Status, rows: &[(&'static str, Kind, &'static str)]) {
        for (name, kind, default) in rows {
            self.section(section, &[(name, *kind, default, status, "")]);
        }
    }

    fn tls(&mut self, section: &str, status: Status) {
        self.rows(
            section,
            status,
            &[
                ("enabled", Flag, "false"),
                ("cert_pem", Text, "\"\""),
                ("key_pem", Secret, "\"\""),
                ("server_ca_pem", Text, "\"\""),
                ("client_ca_pem", Text, "\"\""),
                ("insecure_skip_verify", Flag, "false"),
                ("server_name", Text, "\"\""),
            ],
        );
    }

    fn proxy(&mut self, section: &str) {
        self.rows(
            section,
            PROXY,
            &[
                ("enabled", Flag, "false"),
                ("endpoint", Text, "\"\""),
                ("timeout", Duration, "\"1s\""),
                ("http_headers", Texts, "null"),
                ("grpc_metadata", Texts, "null"),
                ("emulated_headers", Texts, "null"),
                ("binary_encoding", Flag, "false"),
                ("include_connection_meta", Flag, "false"),
                ("http.static_headers", Structure, "{}"),
                ("http.status_to_code_transforms", Structure, "[]"),
                ("grpc.credentials_key", Text, "\"\""),
                ("grpc.credentials_value", Secret, "\"\""),
                ("grpc.compression", Flag, "false"),
                ("grpc.static_metadata", Structure, "{}"),
            ],
        );
        self.tls(&format!("{section}.http.tls"), PROXY);
        self.tls(&format!("{section}.grpc.tls"), PROXY);
    }

    fn streaming(&mut self, name: &'static str, status: Status, is_unidirectional: bool) {
        let prefix = format!("\"/connection/{name}\"");
        let section = [
            ("enabled", Flag, "false".to_owned()),
            ("handler_prefix", Text, prefix),
            ("max_request_body_size", SIZE, "65536".to_owned()),
            (
                "connect_code_to_http_response.enabled",
                Flag,
                "false".to_owned(),
            ),
            (
                "connect_code_to_http_response.transforms",
                Structure,
                "[]".to_owned(),
            ),
        ];
        let n_rows = if is_unidirectional { section.len() } else { 3 };
        for (key, kind, default) in section.iter().take(n_rows) {
            self.section(name, &[(key, *kind, "null", status, "")]);
            if let Some(last) = self.keys.last_mut() {
                last.default =
                    serde_json::from_str(default).expect("defaults of the table are JSON");
            }
        }
    }

    fn reference_default(&mut self, path: &str, default: Json) {
        if let Some(key) = self.keys.iter_mut().find(|key| key.path == path) {
            key.reference_default = Some(default);
        }
    }
}

const OURS: &[Row] = &[(
    "data_dir",
    Text,
    "\"tidegate-data\"",
    Supported,
    "Directory of the control store, the first keys and the compiled plugins; made when missing.",
)];

const HTTP_SERVER: &[Row] = &[
    (
        "address",
        Text,
        "\"\"",
        Supported,
        "IP address to listen on for clients; empty is every interface.",
    ),
    (
        "port",
        PORT,
        "8000",
        Supported,
        "Port for clients and the server API; 0 lets the system choose.",
    ),
    (
        "trusted_proxies",
        Texts,
        "[]",
        Supported,
        "Networks of proxies whose X-Forwarded-For is believed, as in \"10.0.0.0/8\".",
    ),
    ("internal_address", Text, "\"\"", INTERNAL, ""),
    ("internal_port", Text, "\"\"", INTERNAL, ""),
    ("tls_autocert.enabled", Flag, "false", TLS, ""),
    ("tls_autocert.host_whitelist", Texts, "null", TLS, ""),
    ("tls_autocert.cache_dir", Text, "\"\"", TLS, ""),
    ("tls_autocert.email", Text, "\"\"", TLS, ""),
    ("tls_autocert.server_name", Text, "\"\"", TLS, ""),
    ("tls_autocert.http", Flag, "false", TLS, ""),
    ("tls_autocert.http_addr", Text, "\":80\"", TLS, ""),
    ("tls_external", Flag, "false", TLS, ""),
    ("http3.enabled", Flag, "false", Later("HTTP/3 is"), ""),
    ("h2c_external", Flag, "false", Later("HTTP/2 is"), ""),
];

const ADMIN_API: &[Row] = &[
    (
        "enabled",
        Flag,
        "true",
        Supported,
        "Whether the admin API (plugins, bindings, keys) has its listener.",
    ),
    (
        "address",
        Text,
        "\"127.0.0.1\"",
        Supported,
        "IP address of the admin listener; loopback only, since it has no TLS yet.",
    ),
    (
        "port",
        PORT,
        "8001",
        Supported,
        "Port of the admin listener; 0 lets the system choose.",
    ),
    (
        "key",
        Secret,
        "\"\"",
        Supported,
        "A further admin key, at least 16 bytes; the first one is made at the first start.",
    ),
];

const LOG: &[Row] = &[
    (
        "level",
        Text,
        "\"info\"",
        Supported,
        "trace, debug, info, warn, error or none.",
    ),
    (
        "file",
        Text,
        "\"\"",
        Supported,
        "File to append JSON lines to; empty is standard error.",
    ),
];

const ENGINE: &[Row] = &[
    (
        "type",
        Text,
        "\"memory\"",
        Supported,
        "Where publications and history live; this release has memory.",
    ),
    ("redis.prefix", Text, "\"centrifugo\"", REDIS, ""),
    (
        "redis.address",
        Texts,
        "[\"redis://127.0.0.1:6379\"]",
        REDIS,
        "",
    ),
    ("redis.connect_timeout", Duration, "\"1s\"", REDIS, ""),
    ("redis.io_timeout", Duration, "\"4s\"", REDIS, ""),
    ("redis.db", COUNT, "0", REDIS, ""),
    ("redis.user", Text, "\"\"", REDIS, ""),
    ("redis.password", Secret, "\"\"", REDIS, ""),
    ("redis.client_name", Text, "\"\"", REDIS, ""),
    ("redis.force_resp2", Flag, "false", REDIS, ""),
    ("redis.cluster_address", Texts, "null", REDIS, ""),
    ("redis.sentinel_address", Texts, "null", REDIS, ""),
    ("redis.sentinel_user", Text, "\"\"", REDIS, ""),
    ("redis.sentinel_password", Secret, "\"\"", REDIS, ""),
    ("redis.sentinel_master_name", Text, "\"\"", REDIS, ""),
    ("redis.sentinel_client_name", Text, "\"\"", REDIS, ""),
    ("redis.replica_client.enabled", Flag, "false", REDIS, ""),
    ("redis.history_use_lists", Flag, "false", REDIS, ""),
    ("redis.presence_ttl", Duration, "\"1m0s\"", REDIS, ""),
    ("redis.presence_hash_field_ttl", Flag, "false", REDIS, ""),
    ("redis.presence_user_mapping", Flag, "false", REDIS, ""),
];

const CLIENT: &[Row] = &[
    (
        "allowed_origins",
        Texts,
        "[]",
        Supported,
        "Origins of web pages that may connect besides our own host, as in \"https://example.com\"; `*` within one matches any text.",
    ),
    (
        "allow_anonymous_connect_without_token",
        Flag,
        "false",
        Supported,
        "Accept clients without a token as anonymous ones.",
    ),
    (
        "disallow_anonymous_connection_tokens",
        Flag,
        "false",
        Supported,
        "Refuse tokens without a user.",
    ),
    (
        "ping_interval",
        Duration,
        "\"25s\"",
        Supported,
        "How often a client is pinged.",
    ),
    (
        "pong_timeout",
        Duration,
        "\"8s\"",
        Supported,
        "How long a ping may stay unanswered; shorter than `client.ping_interval`.",
    ),
    (
        "expired_close_delay",
        Duration,
        "\"25s\"",
        Supported,
        "Time a client has to refresh an expired identity.",
    ),
    (
        "expired_sub_close_delay",
        Duration,
        "\"25s\"",
        Supported,
        "Time a client has to refresh an expired subscription.",
    ),
    (
        "stale_close_delay",
        Duration,
        "\"10s\"",
        Supported,
        "Time a connection has to authenticate.",
    ),
    (
        "channel_limit",
        Kind::Count {
            min: 1,
            max: 100_000,
        },
        "128",
        Supported,
        "Subscriptions per connection.",
    ),
    (
        "queue_max_size",
        Kind::Size {
            min: 16 << 10,
            max: 256 << 20,
        },
        "1048576",
        Supported,
        "Bytes that may wait for a slow reader before it is disconnected (3008).",
    ),
    (
        "presence_update_interval",
        Duration,
        "\"27s\"",
        PRESENCE,
        "",
    ),
    (
        "concurrency",
        Kind::Count { min: 0, max: 1_024 },
        "0",
        Supported,
        "Accepted for compatibility; commands of one connection are carried out in order.",
    ),
    (
        "channel_position_check_delay",
        Duration,
        "\"40s\"",
        Never("the memory engine cannot fall behind, so positions need no check; remove the key."),
        "",
    ),
    (
        "channel_position_max_time_lag",
        Duration,
        "\"0s\"",
        Never("the memory engine cannot fall behind, so positions need no check; remove the key."),
        "",
    ),
    (
        "connection_limit",
        Kind::Count {
            min: 0,
            max: 10_000_000,
        },
        "50000",
        Supported,
        "Connections per node; 0 is the default.",
    ),
    (
        "user_connection_limit",
        Kind::Count {
            min: 0,
            max: 1_000_000,
        },
        "0",
        Supported,
        "Connections per user; 0 sets no limit.",
    ),
    (
        "connection_rate_limit",
        Kind::Count {
            min: 0,
            max: 10_000_000,
        },
        "0",
        Supported,
        "New connections per second on this node; 0 is 5,000 per processor core.",
    ),
    (
        "ip_connection_limit",
        Kind::Count {
            min: 1,
            max: 10_000_000,
        },
        "200",
        Supported,
        "Connections per client address; loopback is exempt.",
    ),
    (
        "ip_connection_rate_limit",
        Kind::Count {
            min: 1,
            max: 10_000_000,
        },
        "20",
        Supported,
        "New connections per second and client address; loopback is exempt.",
    ),
    (
        "command_rate",
        Kind::Count {
            min: 0,
            max: 1_000_000,
        },
        "0",
        Supported,
        "Commands per second and connection, with bursts of four times as many; 0 sets no limit.",
    ),
    (
        "connect_include_server_time",
        Flag,
        "false",
        Supported,
        "Tell clients the server's time in the connect reply.",
    ),
    (
        "history_max_publication_limit",
        Kind::Count {
            min: 1,
            max: 100_000,
        },
        "300",
        Supported,
        "Publications in one history reply.",
    ),
    (
        "recovery_max_publication_limit",
        Kind::Count {
            min: 1,
            max: 100_000,
        },
        "300",
        Supported,
        "Publications recovered at once; beyond it the client is told `recovered: false`.",
    ),
    (
        "insecure_skip_token_signature_verify",
        Flag,
        "false",
        Supported,
        "Believe tokens without checking their signature. For tests only.",
    ),
    (
        "user_id_http_header",
        Text,
        "\"\"",
        Later("user ids from a proxy's header are"),
        "",
    ),
    (
        "insecure",
        Flag,
        "false",
        Supported,
        "Let everybody connect, subscribe and publish. For tests only.",
    ),
    (
        "subscribe_to_user_personal_channel.enabled",
        Flag,
        "false",
        Later("personal channels are"),
        "",
    ),
    (
        "subscribe_to_user_personal_channel.personal_channel_namespace",
        Text,
        "\"\"",
        Later("personal channels are"),
        "",
    ),
    (
        "subscribe_to_user_personal_channel.single_connection",
        Flag,
        "false",
        Later("personal channels are"),
        "",
    ),
    (
        "connect_code_to_unidirectional_disconnect.enabled",
        Flag,
        "false",
        UNIDIRECTIONAL,
        "",
    ),
    (
        "connect_code_to_unidirectional_disconnect.transforms",
        Structure,
        "[]",
        UNIDIRECTIONAL,
        "",
    ),
];

const TOKEN: &[Row] = &[
    (
        "hmac_secret_key",
        Secret,
        "\"\"",
        Supported,
        "Secret of HS256, HS384 and HS512 connection tokens, at least 32 bytes.",
    ),
    (
        "hmac_previous_secret_key",
        Secret,
        "\"\"",
        Supported,
        "The secret before a rotation, still accepted.",
    ),
    (
        "hmac_previous_secret_key_valid_until",
        COUNT,
        "0",
        Supported,
        "Unix time until which the previous secret is accepted; 0 is for as long as it is configured.",
    ),
    (
        "algorithms",
        Texts,
        "[]",
        Supported,
        "Algorithms that are accepted; empty is HS256, HS384 and HS512.",
    ),
    ("audience", Text, "\"\"", Supported, "Required `aud` claim."),
    (
        "audience_regex",
        Text,
        "\"\"",
        Supported,
        "Pattern that one `aud` must match; instead of `client.token.audience`.",
    ),
    ("issuer", Text, "\"\"", Supported, "Required `iss` claim."),
    (
        "issuer_regex",
        Text,
        "\"\"",
        Supported,
        "Pattern that `iss` must match; instead of `client.token.issuer`.",
    ),
    (
        "user_id_claim",
        Text,
        "\"\"",
        Supported,
        "Claim that holds the user id instead of `sub`.",
    ),
    (
        "require_exp",
        Flag,
        "false",
        Supported,
        "Refuse tokens that never expire.",
    ),
    (
        "insecure_allow_weak_hmac",
        Flag,
        "false",
        Supported,
        "Accept an HMAC secret under 32 bytes. For migrations and tests.",
    ),
    ("rsa_public_key", Text, "\"\"", ASYMMETRIC, ""),
    ("ecdsa_public_key", Text, "\"\"", ASYMMETRIC, ""),
    ("ed25519_public_key", Text, "\"\"", ED25519, ""),
    ("jwks_public_endpoint", Text, "\"\"", JWKS, ""),
    (
        "insecure_skip_jwks_endpoint_safety_check",
        Flag,
        "false",
        JWKS,
        "",
    ),
];

const SUBSCRIPTION_TOKEN: &[Row] = &[
    ("enabled", Flag, "false", SUBSCRIPTION_TOKENS, ""),
    ("hmac_secret_key", Secret, "\"\"", SUBSCRIPTION_TOKENS, ""),
    (
        "hmac_previous_secret_key",
        Secret,
        "\"\"",
        SUBSCRIPTION_TOKENS,
        "",
    ),
    (
        "hmac_previous_secret_key_valid_until",
        COUNT,
        "0",
        SUBSCRIPTION_TOKENS,
        "",
    ),
    ("rsa_public_key", Text, "\"\"", SUBSCRIPTION_TOKENS, ""),
    ("ecdsa_public_key", Text, "\"\"", SUBSCRIPTION_TOKENS, ""),
    (
        "jwks_public_endpoint",
        Text,
        "\"\"",
        SUBSCRIPTION_TOKENS,
        "",
    ),
    ("audience", Text, "\"\"", SUBSCRIPTION_TOKENS, ""),
    ("audience_regex", Text, "\"\"", SUBSCRIPTION_TOKENS, ""),
    ("issuer", Text, "\"\"", SUBSCRIPTION_TOKENS, ""),
    ("issuer_regex", Text, "\"\"", SUBSCRIPTION_TOKENS, ""),
    ("user_id_claim", Text, "\"\"", SUBSCRIPTION_TOKENS, ""),
    (
        "insecure_skip_jwks_endpoint_safety_check",
        Flag,
        "false",
        SUBSCRIPTION_TOKENS,
        "",
    ),
];

const CHANNEL: &[Row] = &[
    (
        "max_length",
        Kind::Count { min: 1, max: 255 },
        "255",
        Supported,
        "Longest channel name in bytes.",
    ),
    (
        "private_prefix",
        Text,
        "\"$\"",
        Supported,
        "First character of private channels.",
    ),
    (
        "namespace_boundary",
        Text,
        "\":\"",
        Supported,
        "Ends the namespace in a channel name.",
    ),
    (
        "user_boundary",
        Text,
        "\"#\"",
        Supported,
        "Starts the user ids of a user-limited channel.",
    ),
    (
        "user_separator",
        Text,
        "\",\"",
        Supported,
        "Separates the user ids of a user-limited channel.",
    ),
    (
        "history_meta_ttl",
        Duration,
        "\"720h0m0s\"",
        Supported,
        "How long offset and epoch of a stream outlive its last use.",
    ),
    (
        "publication_data_format",
        Text,
        "\"\"",
        Supported,
        "Default of the namespaces' option of this name.",
    ),
    (
        "namespaces",
        Structure,
        "[]",
        Supported,
        "Namespaces, each with a `name` and the options of `channel.without_namespace`.",
    ),
];

const NAMESPACE: &[Row] = &[
    (
        "history_size",
        Kind::Count {
            min: 0,
            max: 1_000_000,
        },
        "0",
        Supported,
        "Publications kept in a channel's history; 0 keeps none.",
    ),
    (
        "history_ttl",
        Duration,
        "\"0s\"",
        Supported,
        "How long publications are kept; set together with `history_size`.",
    ),
    (
        "history_meta_ttl",
        Duration,
        "\"0s\"",
        Supported,
        "How long offset and epoch outlive the last use; 0 is `channel.history_meta_ttl`.",
    ),
    (
        "force_positioning",
        Flag,
        "false",
        Supported,
        "Tell subscribers at once when they missed something.",
    ),
    (
        "allow_positioning",
        Flag,
        "false",
        Supported,
        "Let clients ask for positioning.",
    ),
    (
        "force_recovery",
        Flag,
        "false",
        Supported,
        "Recover what a client missed while it was away, unasked.",
    ),
    (
        "allow_recovery",
        Flag,
        "false",
        Supported,
        "Let clients ask for recovery.",
    ),
    (
        "force_recovery_mode",
        Text,
        "\"\"",
        Supported,
        "Recovery mode; this release has `stream`.",
    ),
    (
        "allow_subscribe_for_client",
        Flag,
        "false",
        Supported,
        "Any user may subscribe.",
    ),
    (
        "allow_subscribe_for_anonymous",
        Flag,
        "false",
        Supported,
        "Anonymous clients too.",
    ),
    (
        "allow_publish_for_client",
        Flag,
        "false",
        Supported,
        "Any user may publish.",
    ),
    (
        "allow_publish_for_subscriber",
        Flag,
        "false",
        Supported,
        "Subscribers may publish.",
    ),
    (
        "allow_publish_for_anonymous",
        Flag,
        "false",
        Supported,
        "Anonymous clients too.",
    ),
    (
        "allow_history_for_client",
        Flag,
        "false",
        Supported,
        "Any user may read the history.",
    ),
    (
        "allow_history_for_subscriber",
        Flag,
        "false",
        Supported,
        "Subscribers may read the history.",
    ),
    (
        "allow_history_for_anonymous",
        Flag,
        "false",
        Supported,
        "Anonymous clients too.",
    ),
    (
        "allow_user_limited_channels",
        Flag,
        "false",
        Supported,
        "`dialog#42,43` is for the users 42 and 43 only.",
    ),
    (
        "channel_regex",
        Text,
        "\"\"",
        Supported,
        "Pattern for the channel name after the namespace.",
    ),
    (
        "publication_data_format",
        Text,
        "\"\"",
        Supported,
        "`json`, `json_object` or `binary`; empty is anything but nothing.",
    ),
    ("presence", Flag, "false", PRESENCE, ""),
    ("join_leave", Flag, "false", JOIN_LEAVE, ""),
    ("force_push_join_leave", Flag, "false", JOIN_LEAVE, ""),
    ("map_clients_presence_channel_prefix", Text, "\"\"", MAP, ""),
    ("map_users_presence_channel_prefix", Text, "\"\"", MAP, ""),
    ("auto_cache_recover", Flag, "false", CACHE, ""),
    ("allowed_delta_types", Texts, "null", DELTA, ""),
    ("delta_publish", Flag, "false", DELTA, ""),
    ("allow_tags_filter", Flag, "false", TAGS_FILTER, ""),
    ("allow_presence_for_anonymous", Flag, "false", PRESENCE, ""),
    ("allow_presence_for_subscriber", Flag, "false", PRESENCE, ""),
    ("allow_presence_for_client", Flag, "false", PRESENCE, ""),
    ("subscribe_proxy_enabled", Flag, "false", PROXY, ""),
    ("subscribe_proxy_name", Text, "\"default\"", PROXY, ""),
    ("publish_proxy_enabled", Flag, "false", PROXY, ""),
    ("publish_proxy_name", Text, "\"default\"", PROXY, ""),
    ("sub_refresh_proxy_enabled", Flag, "false", PROXY, ""),
    ("sub_refresh_proxy_name", Text, "\"default\"", PROXY, ""),
    ("subscribe_stream_proxy_enabled", Flag, "false", PROXY, ""),
    (
        "subscribe_stream_proxy_name",
        Text,
        "\"default\"",
        PROXY,
        "",
    ),
    (
        "subscribe_stream_proxy_bidirectional",
        Flag,
        "false",
        PROXY,
        "",
    ),
    ("subscription_type", Text, "\"\"", MAP, ""),
    ("map.mode", Text, "\"\"", MAP, ""),
    ("map.key_ttl", Duration, "\"0s\"", MAP, ""),
    ("map.stream_size", COUNT, "0", MAP, ""),
    ("map.stream_ttl", Duration, "\"0s\"", MAP, ""),
    ("map.meta_ttl", Duration, "\"0s\"", MAP, ""),
    ("map.remove_client_on_unsubscribe", Flag, "false", MAP, ""),
    ("map.client_key", Text, "\"\"", MAP, ""),
    ("map.allow_publish_for_client", Flag, "false", MAP, ""),
    ("map.allow_publish_for_subscriber", Flag, "false", MAP, ""),
    ("map.allow_publish_for_anonymous", Flag, "false", MAP, ""),
    ("map.allow_remove_for_client", Flag, "false", MAP, ""),
    ("map.allow_remove_for_subscriber", Flag, "false", MAP, ""),
    ("map.allow_remove_for_anonymous", Flag, "false", MAP, ""),
    ("map.publish_proxy_enabled", Flag, "false", MAP, ""),
    ("map.publish_proxy_name", Text, "\"default\"", MAP, ""),
    ("map.remove_proxy_enabled", Flag, "false", MAP, ""),
    ("map.remove_proxy_name", Text, "\"default\"", MAP, ""),
    ("map.default_page_size", COUNT, "0", MAP, ""),
    ("map.min_page_size", COUNT, "0", MAP, ""),
    ("map.max_page_size", COUNT, "0", MAP, ""),
    (
        "map.live_transition_max_publication_limit",
        COUNT,
        "0",
        MAP,
        "",
    ),
    (
        "map.subscribe_catch_up_timeout",
        Duration,
        "\"0s\"",
        MAP,
        "",
    ),
    ("shared_poll.proxy_name", Text, "\"\"", SHARED_POLL, ""),
    (
        "shared_poll.refresh_interval",
        Duration,
        "\"0s\"",
        SHARED_POLL,
        "",
    ),
    (
        "shared_poll.refresh_batch_size",
        COUNT,
        "0",
        SHARED_POLL,
        "",
    ),
    (
        "shared_poll.max_keys_per_connection",
        COUNT,
        "0",
        SHARED_POLL,
        "",
    ),
    ("shared_poll.mode", Text, "\"\"", SHARED_POLL, ""),
    (
        "shared_poll.channel_shutdown_delay",
        Duration,
        "\"0s\"",
        SHARED_POLL,
        "",
    ),
    (
        "shared_poll.track_expired_extra_delay",
        Duration,
        "\"0s\"",
        SHARED_POLL,
        "",
    ),
    (
        "shared_poll.publish_enabled",
        Flag,
        "false",
        SHARED_POLL,
        "",
    ),
];

const RPC: &[Row] = &[
    ("without_namespace.proxy_enabled", Flag, "false", PROXY, ""),
    (
        "without_namespace.proxy_name",
        Text,
        "\"default\"",
        PROXY,
        "",
    ),
    ("namespaces", Structure, "[]", PROXY, ""),
    (
        "ping.enabled",
        Flag,
        "false",
        Later("the built-in ping method is"),
        "",
    ),
    (
        "ping.method",
        Text,
        "\"ping\"",
        Later("the built-in ping method is"),
        "",
    ),
    ("namespace_boundary", Text, "\":\"", PROXY, ""),
];

const SHARED_POLL_KEYS: &[Row] = &[
    ("hmac_secret_key", Secret, "\"\"", SHARED_POLL, ""),
    ("hmac_previous_secret_key", Secret, "\"\"", SHARED_POLL, ""),
    (
        "hmac_previous_secret_key_valid_until",
        COUNT,
        "0",
        SHARED_POLL,
        "",
    ),
    ("concurrency_limit", COUNT, "0", SHARED_POLL, ""),
];

const HTTP_API: &[Row] = &[
    (
        "disabled",
        Flag,
        "false",
        Supported,
        "Do not serve the server API.",
    ),
    (
        "handler_prefix",
        Text,
        "\"/api\"",
        Supported,
        "Path of the server API.",
    ),
    (
        "key",
        Secret,
        "\"\"",
        Supported,
        "A further API key of the app `default`.",
    ),
    (
        "error_mode",
        Text,
        "\"\"",
        Supported,
        "`transport` answers errors with HTTP status codes instead of 200.",
    ),
    (
        "insecure",
        Flag,
        "false",
        Supported,
        "Accept requests without a key. For tests only.",
    ),
    (
        "external",
        Flag,
        "false",
        Never("the server API is always on the client listener; remove the key."),
        "",
    ),
];

const WEBSOCKET: &[Row] = &[
    (
        "disabled",
        Flag,
        "false",
        Supported,
        "Do not serve WebSocket.",
    ),
    (
        "handler_prefix",
        Text,
        "\"/connection/websocket\"",
        Supported,
        "Path of the WebSocket endpoint; `/apps/{app}` goes in front for other apps.",
    ),
    (
        "message_size_limit",
        Kind::Size {
            min: 1 << 10,
            max: 64 << 20,
        },
        "65536",
        Supported,
        "Largest message from a client; more closes with 1009.",
    ),
    (
        "write_timeout",
        Duration,
        "\"1s\"",
        Supported,
        "How long a write may stall before the client counts as slow; values under 5s mean 5s.",
    ),
    ("compression", Flag, "false", COMPRESSION, ""),
    ("compression_min_size", COUNT, "0", COMPRESSION, ""),
    ("compression_level", COUNT, "1", COMPRESSION, ""),
    ("read_buffer_size", COUNT, "0", BUFFERS, ""),
    ("use_write_buffer_pool", Flag, "false", BUFFERS, ""),
    ("write_buffer_size", COUNT, "0", BUFFERS, ""),
    (
        "decompressed_message_size_limit",
        COUNT,
        "0",
        COMPRESSION,
        "",
    ),
];

const PLUGINS: &[Row] = &[
    (
        "allowed_headers",
        Texts,
        "[]",
        Supported,
        "Names of the connection's HTTP headers that plugins may see.",
    ),
    (
        "name_in_errors",
        Flag,
        "false",
        Supported,
        "Put `plugin@version: ` in front of the reasons that clients see.",
    ),
    (
        "memory_limit",
        Kind::Size {
            min: 1 << 20,
            max: tidegate_sandbox::MEMORY_CAP_BYTES as u64,
        },
        "\"32MiB\"",
        Supported,
        "Memory of one plugin instance, all memories summed.",
    ),
    (
        "deadline.authentication",
        Duration,
        "\"20ms\"",
        Supported,
        "Time one authentication call may take.",
    ),
    (
        "deadline.authorization",
        Duration,
        "\"20ms\"",
        Supported,
        "Time one authorization call may take.",
    ),
    (
        "deadline.filtering",
        Duration,
        "\"5ms\"",
        Supported,
        "Time one filtering call may take.",
    ),
    (
        "deadline.routing",
        Duration,
        "\"5ms\"",
        Supported,
        "Time one routing call may take.",
    ),
    (
        "deadline.rpc",
        Duration,
        "\"20ms\"",
        Supported,
        "Time one rpc call may take.",
    ),
];

const HEALTH: &[Row] = &[
    (
        "enabled",
        Flag,
        "true",
        Supported,
        "Serve health on the client listener; the admin listener always does.",
    ),
    (
        "handler_prefix",
        Text,
        "\"/health\"",
        Supported,
        "Path of the health endpoint.",
    ),
];

const PROMETHEUS: &[Row] = &[
    (
        "enabled",
        Flag,
        "false",
        Supported,
        "Serve metrics on the client listener; the admin listener always does.",
    ),
    (
        "handler_prefix",
        Text,
        "\"/metrics\"",
        Supported,
        "Path of the metrics.",
    ),
    (
        "instrument_http_handlers",
        Flag,
        "false",
        Never("the metrics are the same for every transport; remove the key."),
        "",
    ),
    (
        "recovered_publications_histogram",
        Flag,
        "false",
        Later("this histogram is"),
        "",
    ),
    (
        "native_histograms",
        Flag,
        "false",
        Later("native histograms are"),
        "",
    ),
];

const NODE: &[Row] = &[
    (
        "name",
        Text,
        "\"\"",
        Supported,
        "Name of the node in logs and `info`; empty is the host's name and port.",
    ),
    (
        "info_metrics_aggregate_interval",
        Duration,
        "\"1m0s\"",
        Later("aggregated metrics in `info` are"),
        "",
    ),
];

const SHUTDOWN: &[Row] = &[(
    "timeout",
    Duration,
    "\"30s\"",
    Supported,
    "Longest time between SIGTERM and the end of the process.",
)];

const DEMO: &[Row] = &[
    (
        "enabled",
        Flag,
        "false",
        Supported,
        "Serve the demonstration page and mint its tickets, on this machine only.",
    ),
    (
        "page_dir",
        Text,
        "\"\"",
        Supported,
        "Directory of the page.",
    ),
    (
        "ticket_key_id",
        Text,
        "\"demo\"",
        Supported,
        "Id of the ticket key, as the plugin `ticket-auth` knows it.",
    ),
    (
        "ticket_secret",
        Secret,
        "\"\"",
        Supported,
        "Secret of the tickets, at least 32 bytes.",
    ),
];

const UNI_WEBSOCKET: &[Row] = &[
    ("enabled", Flag, "false", UNIDIRECTIONAL, ""),
    (
        "handler_prefix",
        Text,
        "\"/connection/uni_websocket\"",
        UNIDIRECTIONAL,
        "",
    ),
    ("compression", Flag, "false", UNIDIRECTIONAL, ""),
    ("compression_min_size", COUNT, "0", UNIDIRECTIONAL, ""),
    ("compression_level", COUNT, "1", UNIDIRECTIONAL, ""),
    ("read_buffer_size", COUNT, "0", UNIDIRECTIONAL, ""),
    ("use_write_buffer_pool", Flag, "false", UNIDIRECTIONAL, ""),
    ("write_buffer_size", COUNT, "0", UNIDIRECTIONAL, ""),
    ("write_timeout", Duration, "\"1s\"", UNIDIRECTIONAL, ""),
    ("message_size_limit", SIZE, "65536", UNIDIRECTIONAL, ""),
    (
        "decompressed_message_size_limit",
        COUNT,
        "0",
        UNIDIRECTIONAL,
        "",
    ),
    (
        "disable_closing_handshake",
        Flag,
        "false",
        UNIDIRECTIONAL,
        "",
    ),
    ("disable_disconnect_push", Flag, "false", UNIDIRECTIONAL, ""),
    ("join_push_messages", Flag, "false", UNIDIRECTIONAL, ""),
];

const EMULATION_KEYS: &[Row] = &[
    ("handler_prefix", Text, "\"/emulation\"", EMULATION, ""),
    ("max_request_body_size", SIZE, "65536", EMULATION, ""),
];

const ADMIN: &[Row] = &[
    ("enabled", Flag, "false", CONSOLE, ""),
    ("handler_prefix", Text, "\"\"", CONSOLE, ""),
    ("password", Secret, "\"\"", CONSOLE, ""),
    ("secret", Secret, "\"\"", CONSOLE, ""),
    ("insecure", Flag, "false", CONSOLE, ""),
    ("web_path", Text, "\"\"", CONSOLE, ""),
    ("web_proxy_address", Text, "\"\"", CONSOLE, ""),
    ("external", Flag, "false", CONSOLE, ""),
];

const SWAGGER: &[Row] = &[
    (
        "enabled",
        Flag,
        "false",
        Never("the API is described by /admin/v1/openapi.json; remove the key."),
        "",
    ),
    (
        "handler_prefix",
        Text,
        "\"/swagger\"",
        Never("the API is described by /admin/v1/openapi.json; remove the key."),
        "",
    ),
];

const INIT: &[Row] = &[
    ("enabled", Flag, "false", Later("the init endpoint is"), ""),
    (
        "handler_prefix",
        Text,
        "\"/connection/init\"",
        Later("the init endpoint is"),
        "",
    ),
];

const OPENTELEMETRY: &[Row] = &[
    ("enabled", Flag, "false", TELEMETRY, ""),
    ("api", Flag, "false", TELEMETRY, ""),
    ("consuming", Flag, "false", TELEMETRY, ""),
    ("google_cloud_adc_auth", Flag, "false", TELEMETRY, ""),
];
