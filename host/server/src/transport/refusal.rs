//! What the listeners refuse: one reason, one count, one line in the log.
//!
//! Owns the closed set of reasons (threat model N4) and the metrics labelled by it. The line is at debug level, since
//! a louder one would let anybody fill the log; it holds the reason and the peer, never what the peer sent. Origins that
//! are not allowed are told at info level as well, once a minute.

use std::net::IpAddr;

use http::{HeaderMap, header};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use tidegate_realtime::{node::OpenRefused, notices::Notices};

use super::admission::Refused;

/// Longest origin that is logged.
const SHOWN_ORIGIN_BYTES: usize = 256;

/// Why a connection or a request came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Not HTTP/1 as its definition has it.
    Malformed,
    /// More bytes or headers than a request head may have.
    HeadTooLarge,
    /// No whole request head in time.
    HeadTimeout,
    /// No answer in time, usually since the body does not come.
    RequestTimeout,
    /// The client takes nothing of its answer.
    WriteStalled,
    /// Two ways to say where the body ends.
    TwoLengths,
    NotGet,
    AbsoluteTarget,
    BadHost,
    HasBody,
    NoUpgrade,
    BadVersion,
    BadKey,
    ForbiddenOrigin,
    UnknownApp,
    AppFull,
    Draining,
    NodeFull,
    NodeRate,
    AddressFull,
    AddressRate,
}

impl Refusal {
    /// Label for metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::HeadTooLarge => "head_too_large",
            Self::HeadTimeout => "head_timeout",
            Self::RequestTimeout => "request_timeout",
            Self::WriteStalled => "write_stalled",
            Self::TwoLengths => "two_lengths",
            Self::NotGet => "not_get",
            Self::AbsoluteTarget => "absolute_target",
            Self::BadHost => "bad_host",
            Self::HasBody => "has_body",
            Self::NoUpgrade => "no_upgrade",
            Self::BadVersion => "bad_version",
            Self::BadKey => "bad_key",
            Self::ForbiddenOrigin => "forbidden_origin",
            Self::UnknownApp => "unknown_app",
            Self::AppFull => "app_full",
            Self::Draining => "draining",
            Self::NodeFull => "node_full",
            Self::NodeRate => "node_rate",
            Self::AddressFull => "address_full",
            Self::AddressRate => "address_rate",
        }
    }

    /// What hyper found wrong; `None` for a peer that only went away.
    pub fn of_connection(error: &hyper::Error) -> Option<Self> {
        if error.is_parse_too_large() {
            Some(Self::HeadTooLarge)
        } else if error.is_parse() {
            Some(Self::Malformed)
        } else if error.is_timeout() {
            Some(Self::HeadTimeout)
        } else if has_stalled(error) {
            Some(Self::WriteStalled)
        } else {
            None
        }
    }
}

/// Whether writing came to nothing for as long as it may.
fn has_stalled(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error);
    cause
        .and_then(|cause| cause.downcast_ref::<std::io::Error>())
        .is_some_and(|error| error.kind() == std::io::ErrorKind::TimedOut)
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Draining => Self::Draining,
            Refused::NodeFull => Self::NodeFull,
            Refused::NodeRate => Self::NodeRate,
            Refused::AddressFull => Self::AddressFull,
            Refused::AddressRate => Self::AddressRate,
        }
    }
}

impl From<OpenRefused> for Refusal {
    fn from(refused: OpenRefused) -> Self {
        match refused {
            OpenRefused::UnknownApp => Self::UnknownApp,
            OpenRefused::ConnectionLimit => Self::AppFull,
            OpenRefused::Draining => Self::Draining,
        }
    }
}

/// What the listeners count. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct TransportMetrics {
    refused: Family<ReasonLabel, Counter>,
    failed: Family<StatusLabel, Counter>,
    notices: Notices,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabel {
    status: u16,
}

impl TransportMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("tidegate_transport");
        registry.register(
            "refused",
            "Connections, handshakes and requests that the listeners refused",
            metrics.refused.clone(),
        );
        registry.register(
            "failed_requests",
            "Requests answered with a status of 400 or above",
            metrics.failed.clone(),
        );
        metrics
    }

    /// Counts and logs a refusal. To be called before the peer hears of it.
    pub fn refuse(&self, refusal: Refusal, peer: IpAddr) {
        let reason = refusal.label();
        self.refused.get_or_create(&ReasonLabel { reason }).inc();
        tracing::debug!(client.addr = %peer, reason, "refused");
    }

    /// Tells the operator, now and then, which web pages are kept out: those of a new site often shall not be.
    pub(super) fn note_origin(&self, headers: &HeaderMap, client: IpAddr) {
        let reason = Refusal::ForbiddenOrigin.label();
        let Some(suppressed) = self.notices.due(reason) else {
            return;
        };
        // A header's text is printable ASCII; anything else is not shown.
        let origin = headers.get(header::ORIGIN);
        let origin = origin.map_or("", |origin| origin.to_str().unwrap_or("(not text)"));
        let origin = &origin[..origin.len().min(SHOWN_ORIGIN_BYTES)];
        tracing::info!(
            client.addr = %client, reason, origin, setting = "client.allowed_origins", suppressed,
            "a connection was refused"
        );
    }

    /// Counts an answer of ours by its status, if it is a failure.
    pub fn count_answer(&self, status: http::StatusCode) {
        if status.as_u16() >= 400 {
            let status = status.as_u16();
            self.failed.get_or_create(&StatusLabel { status }).inc();
        }
    }
}
