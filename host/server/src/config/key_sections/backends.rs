//! Rows of the key table: what a node keeps outside of itself, in Redis and in the control store.

use super::{CLIENT_CA, COUNT, LISTS, PRESENCE, REPLICA, RESP2, Row, SENTINEL_NAME};
use crate::config::keys::{Kind, Status};
use Kind::{Duration, Flag, Secret, Text, Texts};
use Status::Supported;

pub(super) const ENGINE: &[Row] = &[
    (
        "type",
        Text,
        "\"memory\"",
        Supported,
        "Where publications and history live: `memory` for a node that stands alone, `redis` for nodes that are one service.",
    ),
    (
        "memory.max_bytes",
        Kind::Size {
            min: 1 << 20,
            max: 1 << 40,
        },
        "\"512MiB\"",
        Supported,
        "Bytes of streams and history on this node; beyond it the app that holds most loses its oldest.",
    ),
    (
        "redis.prefix",
        Text,
        "\"tg\"",
        Supported,
        "What every key and pub/sub channel in Redis starts with; deployments that share a Redis need different ones.",
    ),
    (
        "redis.address",
        Texts,
        "[\"redis://127.0.0.1:6379\"]",
        Supported,
        "Addresses, `redis://user:password@host:port/db`, `rediss://` for TLS. Several are shards: each channel lives on one of them.",
    ),
    (
        "redis.connect_timeout",
        Duration,
        "\"1s\"",
        Supported,
        "Longest time to connect and log in; at most 1s.",
    ),
    (
        "redis.io_timeout",
        Duration,
        "\"4s\"",
        Supported,
        "A connection that answers nothing for so long is given up, with every command on it; at most 4s.",
    ),
    (
        "redis.db",
        COUNT,
        "0",
        Supported,
        "Number of the database, where an address names none. Pub/sub channels are the same in all.",
    ),
    (
        "redis.user",
        Text,
        "\"\"",
        Supported,
        "User, where an address names none; empty is Redis' `default`.",
    ),
    (
        "redis.password",
        Secret,
        "\"\"",
        Supported,
        "Password, where an address names none.",
    ),
    (
        "redis.client_name",
        Text,
        "\"\"",
        Supported,
        "What `CLIENT LIST` calls the connections for commands.",
    ),
    ("redis.force_resp2", Flag, "false", RESP2, ""),
    (
        "redis.cluster_address",
        Texts,
        "[]",
        Supported,
        "Servers of a Redis Cluster (7.0 or later), from which the others are found; instead of `address`.",
    ),
    (
        "redis.sentinel_address",
        Texts,
        "[]",
        Supported,
        "Sentinels, which name the primary; instead of `address`.",
    ),
    (
        "redis.sentinel_user",
        Text,
        "\"\"",
        Supported,
        "User at the sentinels.",
    ),
    (
        "redis.sentinel_password",
        Secret,
        "\"\"",
        Supported,
        "Password at the sentinels.",
    ),
    (
        "redis.sentinel_master_name",
        Text,
        "\"\"",
        Supported,
        "What the sentinels call the primary.",
    ),
    (
        "redis.sentinel_client_name",
        Text,
        "\"\"",
        SENTINEL_NAME,
        "",
    ),
    ("redis.replica_client.enabled", Flag, "false", REPLICA, ""),
    ("redis.history_use_lists", Flag, "false", LISTS, ""),
    (
        "redis.presence_ttl",
        Duration,
        "\"1m0s\"",
        Supported,
        "How long a subscriber stays present without a sign of life, as when its node died.",
    ),
    ("redis.presence_hash_field_ttl", Flag, "false", PRESENCE, ""),
    ("redis.presence_user_mapping", Flag, "false", PRESENCE, ""),
];

pub(super) const PUBLISH: &[Row] = &[(
    "ack",
    Text,
    "\"primary\"",
    Supported,
    "Who has a publication with history before its publisher is told that it is published: `primary`, or `replicated` for the primary and a replica, within half a second or error 100.",
)];

/// TLS of connections that this node opens.
/// This node's own certificate, towards Redis and towards the database.
const CERT_PEM: Row = (
    "cert_pem",
    Text,
    "\"\"",
    Supported,
    "This node's certificate, for servers that want one: PEM, PEM in base64, or the path of a file.",
);
const KEY_PEM: Row = (
    "key_pem",
    Secret,
    "\"\"",
    Supported,
    "The certificate's private key, in the same forms.",
);

pub(super) const CLIENT_TLS: &[Row] = &[
    (
        "enabled",
        Flag,
        "false",
        Supported,
        "Connect with TLS; the same as `rediss://` in an address.",
    ),
    CERT_PEM,
    KEY_PEM,
    (
        "server_ca_pem",
        Text,
        "\"\"",
        Supported,
        "Who may vouch for the server, in the same forms; empty is the system's roots.",
    ),
    ("client_ca_pem", Text, "\"\"", CLIENT_CA, ""),
    (
        "insecure_skip_verify",
        Flag,
        "false",
        Supported,
        "Accepts any certificate. Whoever is in between reads and writes everything.",
    ),
    (
        "server_name",
        Text,
        "\"\"",
        Supported,
        "Name in the server's certificate; empty is the host of the address.",
    ),
];

pub(super) const CONTROL: &[Row] = &[(
    "store",
    Text,
    "\"sqlite\"",
    Supported,
    "Where apps, keys, plugins, bindings and the audit log are: `sqlite`, a file in `data_dir` for one node, or `postgres`, a database that nodes share.",
)];

pub(super) const CONTROL_POSTGRES: &[Row] = &[
    (
        "url",
        Secret,
        "\"\"",
        Supported,
        "The database: `postgresql://user:password@host:port/database?sslmode=verify-full`.",
    ),
    (
        "schema",
        Text,
        "\"tidegate\"",
        Supported,
        "The schema that holds the tables, made at the first start; `[a-z0-9_]`.",
    ),
    (
        "max_copy_age",
        Duration,
        "\"72h\"",
        Supported,
        "How old the copy of what ran last may be for a node to start from it while the database is away: keys that were revoked since count again; `0s` is any age.",
    ),
];

pub(super) const CONTROL_TLS: &[Row] = &[
    CERT_PEM,
    KEY_PEM,
    (
        "server_ca_pem",
        Text,
        "\"\"",
        Supported,
        "Who may vouch for the database server, in the same forms; empty is the system's roots.",
    ),
    (
        "insecure_skip_verify",
        Flag,
        "false",
        Supported,
        "Accepts any certificate. Whoever is in between reads and writes everything.",
    ),
    (
        "server_name",
        Text,
        "\"\"",
        Supported,
        "Name in the database server's certificate; empty is the host of the address.",
    ),
];
