//! Rows of the key table: the node, its listeners and what operates it.

use super::{CONSOLE, INTERNAL, PORT, Row, TELEMETRY, TLS};
use crate::config::keys::{Kind, Status};
use Kind::{Duration, Flag, Secret, Text, Texts};
use Status::{Later, Never, Supported};

pub(super) const OURS: &[Row] = &[(
    "data_dir",
    Text,
    "\"tidegate-data\"",
    Supported,
    "Directory of the control store, the first keys and the compiled plugins; made when missing.",
)];

pub(super) const HTTP_SERVER: &[Row] = &[
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

pub(super) const ADMIN_API: &[Row] = &[
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

pub(super) const LOG: &[Row] = &[
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

pub(super) const HTTP_API: &[Row] = &[
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

pub(super) const PLUGINS: &[Row] = &[
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
        "trace_in_refusals",
        Flag,
        "false",
        Supported,
        "Put ` (trace ID)` behind the reasons that clients see when a plugin refuses, and keep the story of each for `tidegate explain ID`.",
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
        "explain_interval",
        Duration,
        "\"1s\"",
        Supported,
        "How often the story of a command that went well is kept for `tidegate explain --recent`, of each plugin and hook; 0 keeps none.",
    ),
    (
        "compile_timeout",
        Duration,
        "\"30s\"",
        Supported,
        "Processor time that compiling one upload may take; by the clock, three times as long and at least 90 s.",
    ),
    (
        "compile_memory_limit",
        Kind::Size {
            min: 256 << 20,
            max: 16 << 30,
        },
        "\"1GiB\"",
        Supported,
        "Address space of the process that compiles an upload.",
    ),
    (
        "threads",
        Kind::Count { min: 0, max: 256 },
        "0",
        Supported,
        "Threads that run plugins aside; 0 is as many as there are cores.",
    ),
    (
        "waiting_threads",
        Kind::Count { min: 1, max: 1_024 },
        "32",
        Supported,
        "Calls at once of plugins that wait for other machines (`store`), of which one app has at most half, and one plugin half of that; a thread each, once there is such a plugin.",
    ),
    (
        "max_instances",
        Kind::Count {
            min: 0,
            max: 10_000,
        },
        "0",
        Supported,
        "Plugin instances at once; 0 is what the machine's memory mappings allow, which is also the most.",
    ),
    (
        "keep_versions",
        Kind::Count {
            min: 0,
            max: 10_000,
        },
        "50",
        Supported,
        "Versions of a plugin that are kept, the newest; beside them the active one and as many that were active before it, for `rollback`. Older ones go when a version is pushed. 0 keeps all.",
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
    (
        "deadline.waiting",
        Duration,
        "\"3s\"",
        Supported,
        "Time one call of a plugin that waits for other machines (`store`) may take, the waiting included, at authentication, authorization and rpc.",
    ),
    (
        "deadline.events",
        Duration,
        "\"50ms\"",
        Supported,
        "Time one call of events may take; a call has at most 16.",
    ),
    (
        "deadline.schedule",
        Duration,
        "\"1s\"",
        Supported,
        "Time one run of a schedule may take.",
    ),
    (
        "state.keys_per_app",
        Kind::Count {
            min: 1,
            max: 10_000_000,
        },
        "100000",
        Supported,
        "Keys that the plugins of one app may keep in `state`.",
    ),
    (
        "state.bytes_per_app",
        Kind::Size {
            min: 64 << 10,
            max: 16 << 30,
        },
        "\"32MiB\"",
        Supported,
        "Memory that the plugins of one app may fill with `state`.",
    ),
    (
        "state.bytes_in_all",
        Kind::Size {
            min: 64 << 10,
            max: 64 << 30,
        },
        "\"256MiB\"",
        Supported,
        "The same of all apps together; not less than that of one.",
    ),
];

pub(super) const HEALTH: &[Row] = &[
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

pub(super) const PROMETHEUS: &[Row] = &[
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

pub(super) const NODE: &[Row] = &[
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
        Supported,
        "How often the counters of the node are put together for `info`; at least 1 s.",
    ),
];

pub(super) const SHUTDOWN: &[Row] = &[(
    "timeout",
    Duration,
    "\"30s\"",
    Supported,
    "Longest time between SIGTERM and the end of the process.",
)];

pub(super) const DEMO: &[Row] = &[
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

pub(super) const ADMIN: &[Row] = &[
    ("enabled", Flag, "false", CONSOLE, ""),
    ("handler_prefix", Text, "\"\"", CONSOLE, ""),
    ("password", Secret, "\"\"", CONSOLE, ""),
    ("secret", Secret, "\"\"", CONSOLE, ""),
    ("insecure", Flag, "false", CONSOLE, ""),
    ("web_path", Text, "\"\"", CONSOLE, ""),
    ("web_proxy_address", Text, "\"\"", CONSOLE, ""),
    ("external", Flag, "false", CONSOLE, ""),
];

pub(super) const SWAGGER: &[Row] = &[
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

pub(super) const INIT: &[Row] = &[
    ("enabled", Flag, "false", Later("the init endpoint is"), ""),
    (
        "handler_prefix",
        Text,
        "\"/connection/init\"",
        Later("the init endpoint is"),
        "",
    ),
];

pub(super) const OPENTELEMETRY: &[Row] = &[
    ("enabled", Flag, "false", TELEMETRY, ""),
    ("api", Flag, "false", TELEMETRY, ""),
    ("consuming", Flag, "false", TELEMETRY, ""),
    ("google_cloud_adc_auth", Flag, "false", TELEMETRY, ""),
];
