//! Rows of the key table: transports.

use super::{BUFFERS, COMPRESSION, COUNT, EMULATION, Row, SIZE, UNIDIRECTIONAL};
use crate::config::keys::{Kind, Status};
use Kind::{Duration, Flag, Text};
use Status::Supported;

pub(super) const WEBSOCKET: &[Row] = &[
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
        "\"5s\"",
        Supported,
        "How long a client may take no byte of what waits for it before it is disconnected as slow (3008).",
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

pub(super) const UNI_WEBSOCKET: &[Row] = &[
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

pub(super) const EMULATION_KEYS: &[Row] = &[
    ("handler_prefix", Text, "\"/emulation\"", EMULATION, ""),
    ("max_request_body_size", SIZE, "65536", EMULATION, ""),
];
