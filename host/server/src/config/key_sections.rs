//! The key table, section by section. The rows are in the files of this folder.
//!
//! Groups that repeat (TLS, hook proxies, streaming transports) are written once.

mod backends;
mod channel;
mod client;
mod elsewhere;
mod node;
mod transports;

use serde_json::Value as Json;

use self::{
    backends::{CLIENT_TLS, CONTROL, CONTROL_POSTGRES, CONTROL_TLS, ENGINE, PUBLISH},
    channel::{CHANNEL, NAMESPACE, RPC, SHARED_POLL_KEYS},
    client::{CLIENT, SUBSCRIPTION_TOKEN, TOKEN},
    node::{
        ADMIN, ADMIN_API, DEMO, HEALTH, HTTP_API, HTTP_SERVER, INIT, LOG, NODE, OPENTELEMETRY,
        OURS, PLUGINS, PROMETHEUS, SHUTDOWN, SWAGGER,
    },
    transports::{EMULATION_KEYS, UNI_WEBSOCKET, WEBSOCKET},
};
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
const RESP2: Status = Never("Tidegate speaks RESP2 with Redis; remove the key.");
const SENTINEL_NAME: Status =
    Never("connections to sentinels end with their answer and have no name; remove the key.");
const REPLICA: Status =
    Never("reading from replicas would show the past as the present; remove the key.");
const LISTS: Status = Never("history is kept in streams; remove the key.");
const CLIENT_CA: Status = Never("Redis checks our certificate with its own CA; remove the key.");
const PRESENCE: Status = Never("presence in Redis has one layout; remove the key.");
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
const CONSOLE: Status = Never(
    "this is Centrifugo's own console; remove the key: Tidegate's admin API is configured in `admin_api`.",
);
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
    table.section("engine.redis.tls", CLIENT_TLS);
    table.section("engine.redis.sentinel_tls", CLIENT_TLS);
    table.section("publish", PUBLISH);
    table.section("control", CONTROL);
    table.section("control.postgres", CONTROL_POSTGRES);
    table.section("control.postgres.tls", CONTROL_TLS);
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
    for (section, rows) in elsewhere::SECTIONS {
        table.section(section, rows);
    }
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
    // The prefix of the ACL example.
    table.reference_default("engine.redis.prefix", Json::from("centrifugo"));
    // The reference means "unlimited" by 0; a bound is always there with us.
    table.reference_default("client.connection_limit", Json::from(0));
    table.reference_default("health.enabled", Json::from(false));
    // A second without a byte taken is a mobile network's ordinary day.
    table.reference_default("websocket.write_timeout", Json::from("1s"));
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
