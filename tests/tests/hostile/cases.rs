//! The rows: what is sent, and what it must come to.
//!
//! The answer of a row says how the server counts it as well: there is no way to write a row that is refused for
//! nothing in particular.

pub(crate) mod api;
pub(crate) mod connects;
pub(crate) mod frames;
pub(crate) mod handshakes;
pub(crate) mod json;
pub(crate) mod protobuf;

use tidegate_tests::raw::{TEXT, frame};

/// Sent in many places where a client may put text, and never to be found in the log. The escape would paint a
/// terminal.
pub(crate) const MARK: &str = "hostile-mark";

/// What a row must come to, and the one reason for which it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// A reply without error to command 2. Nothing is counted as refused.
    Fine,
    /// The handshake succeeds. Nothing is counted as refused.
    Upgraded,
    /// Command 2 is answered with this error, and counted under its code.
    Error(u32),
    /// What cannot be decoded: a close frame with 3501, counted under this reason as well.
    Undecodable(&'static str),
    /// What can be decoded and is not allowed: a close frame with this code, counted under it.
    Closed(u16),
    /// What breaks the WebSocket protocol: a close frame with the code of this reason, counted under both.
    Violation(&'static str),
    /// A handshake or connection that is answered with this status, and counted under this reason.
    Refused(u16, &'static str),
    /// A request of HTTP that is answered with this status, and counted under it.
    Failed(u16),
}

/// What a client sees of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Fine,
    Error(u32),
    Closed(u16),
    Status(u16),
    /// The connection ended without a word.
    Nothing,
}

/// A row: what it is, the bytes, the answer.
pub(crate) type Row = (&'static str, Vec<u8>, Answer);

/// Families of metrics that count refusals. In each of them everything must be as the rows say.
pub(crate) const FAMILIES: [&str; 5] = [
    "tidegate_realtime_bad_frames_total",
    "tidegate_realtime_disconnects_total",
    "tidegate_realtime_errors_total",
    "tidegate_transport_failed_requests_total",
    "tidegate_transport_refused_total",
];

impl Answer {
    pub(crate) fn seen(self) -> Seen {
        match self {
            Self::Fine => Seen::Fine,
            Self::Upgraded => Seen::Status(101),
            Self::Error(code) => Seen::Error(code),
            Self::Undecodable(_) => Seen::Closed(3501),
            Self::Closed(code) => Seen::Closed(code),
            Self::Violation(reason) => Seen::Closed(code_of(reason)),
            Self::Refused(status, _) | Self::Failed(status) => Seen::Status(status),
        }
    }

    /// The samples that rise by one, and no others.
    pub(crate) fn counts(self) -> Vec<String> {
        let bad_frame =
            |reason| format!("tidegate_realtime_bad_frames_total{{reason=\"{reason}\"}}");
        let disconnect = |code| format!("tidegate_realtime_disconnects_total{{code=\"{code}\"}}");
        let failed =
            |status| format!("tidegate_transport_failed_requests_total{{status=\"{status}\"}}");
        match self {
            Self::Fine | Self::Upgraded => Vec::new(),
            Self::Error(code) => vec![format!("tidegate_realtime_errors_total{{code=\"{code}\"}}")],
            Self::Undecodable(reason) => vec![bad_frame(reason), disconnect(3501)],
            Self::Closed(code) => vec![disconnect(code)],
            Self::Violation(reason) => vec![bad_frame(reason), disconnect(code_of(reason))],
            Self::Refused(status, reason) => {
                let mut counts = vec![format!(
                    "tidegate_transport_refused_total{{reason=\"{reason}\"}}"
                )];
                if !is_without_request(reason) {
                    counts.push(failed(status));
                }
                counts
            }
            Self::Failed(status) => vec![failed(status)],
        }
    }

    /// Message and reason of its one line in the log; `None` for what is part of a session's daily life.
    pub(crate) fn logged(self) -> Option<(&'static str, Option<&'static str>)> {
        match self {
            Self::Fine | Self::Upgraded | Self::Error(_) | Self::Failed(_) => None,
            Self::Closed(_) => Some(("session closes", None)),
            Self::Undecodable(reason) | Self::Violation(reason) => {
                Some(("session closes", Some(reason)))
            }
            Self::Refused(_, reason) => Some(("refused", Some(reason))),
        }
    }

    /// Whether the answer may be out before it is counted: hyper answers what is no request by itself.
    pub(crate) fn is_counted_late(self) -> bool {
        matches!(self, Self::Refused(_, reason) if is_without_request(reason))
    }
}

fn is_without_request(reason: &str) -> bool {
    matches!(reason, "malformed" | "head_too_large" | "head_timeout")
}

fn code_of(violation: &str) -> u16 {
    match violation {
        "websocket_protocol" => 1002,
        "websocket_text_not_utf8" => 1007,
        "websocket_too_many_fragments" => 1008,
        "websocket_too_big" => 1009,
        "ping_flood" => 3013,
        _ => panic!("{violation} is no violation"),
    }
}

pub(crate) fn text(json: impl AsRef<[u8]>) -> Vec<u8> {
    frame(TEXT, json.as_ref())
}
