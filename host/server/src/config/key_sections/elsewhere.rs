//! Sections of Centrifugo for things that Tidegate does not have and does not plan as they are there.
//!
//! Only the keys that a real file is likely to name. `enabled = false` and empty lists are accepted, so that a file
//! with everything switched off passes.

use super::{Flag, Never, PORT, Row, Status, Structure, Supported, Text};

const BROKER: Status = Never(
    "there is no broker beside the engine; set engine.type to \"memory\" or \"redis\" and remove the section.",
);
const GRPC: Status =
    Never("gRPC is not planned; the same methods are at /api over HTTP; remove the section.");
const GRPC_CLIENTS: Status =
    Never("gRPC is not planned for clients; they connect by WebSocket; remove the section.");
const WEBTRANSPORT: Status =
    Never("WebTransport is not planned; clients connect by WebSocket; remove the section.");
const GRAPHITE: Status =
    Never("metrics are for Prometheus, at /metrics of the admin listener; remove the section.");
const CONSUMERS: Status =
    Never("consumers are not planned; publish from your back end over /api; remove the key.");
const DEBUG: Status = Never(
    "there is no Go profile to serve; take one of the process with perf; remove the section.",
);
const PID_FILE: Status = Never("service managers know the process without a file; remove the key.");
const ANY: &str = "Accepted for compatibility: Tidegate never sends usage statistics.";

pub(super) const SECTIONS: &[(&str, &[Row])] = &[
    (
        "broker",
        &[
            ("enabled", Flag, "false", BROKER, ""),
            ("type", Text, "\"nats\"", BROKER, ""),
            ("nats", Structure, "{}", BROKER, ""),
            ("redis", Structure, "{}", BROKER, ""),
        ],
    ),
    (
        "presence_manager",
        &[
            ("enabled", Flag, "false", BROKER, ""),
            ("type", Text, "\"redis\"", BROKER, ""),
            ("redis", Structure, "{}", BROKER, ""),
        ],
    ),
    (
        "grpc_api",
        &[
            ("enabled", Flag, "false", GRPC, ""),
            ("address", Text, "\"\"", GRPC, ""),
            ("port", PORT, "10000", GRPC, ""),
            ("key", Text, "\"\"", GRPC, ""),
            ("reflection", Flag, "false", GRPC, ""),
            ("tls", Structure, "{}", GRPC, ""),
        ],
    ),
    (
        "uni_grpc",
        &[
            ("enabled", Flag, "false", GRPC_CLIENTS, ""),
            ("address", Text, "\"\"", GRPC_CLIENTS, ""),
            ("port", PORT, "11000", GRPC_CLIENTS, ""),
            ("tls", Structure, "{}", GRPC_CLIENTS, ""),
        ],
    ),
    (
        "webtransport",
        &[("enabled", Flag, "false", WEBTRANSPORT, "")],
    ),
    (
        "graphite",
        &[
            ("enabled", Flag, "false", GRAPHITE, ""),
            ("host", Text, "\"localhost\"", GRAPHITE, ""),
            ("port", PORT, "2003", GRAPHITE, ""),
            ("prefix", Text, "\"centrifugo\"", GRAPHITE, ""),
            ("interval", Text, "\"10s\"", GRAPHITE, ""),
            ("tags", Flag, "false", GRAPHITE, ""),
        ],
    ),
    ("debug", &[("enabled", Flag, "false", DEBUG, "")]),
    (
        "usage_stats",
        &[("disabled", Flag, "false", Supported, ANY)],
    ),
    (
        "",
        &[
            ("consumers", Structure, "[]", CONSUMERS, ""),
            ("pid_file", Text, "\"\"", PID_FILE, ""),
        ],
    ),
];
