//! What a session asks its driver, and what it is answered.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use tidegate_protocol::{DisconnectCode, Error, ErrorCode, PresenceResult, Raw, StreamPosition};

use crate::{
    broker::{BrokerError, HistoryPage, HistoryQuery},
    hooks::{
        AuthenticationQuestion, AuthenticationVerdict, AuthorizationQuestion, AuthorizationVerdict,
        Draft, HookFailure, Identity, Refusal, RpcQuestion, RpcVerdict,
    },
    ids::ChannelKey,
    namespace::NamespaceOptions,
    presence::{Attendance, PresenceStats, roster::Visibility},
};

/// What to do after a command, an answer, a deadline or a signal.
#[derive(Debug)]
pub enum Step {
    /// Go on reading.
    Done,
    /// Carry this out and hand the answer in; no command is read meanwhile.
    Ask(Ask),
    Close(Closing),
}

/// How a connection ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closing {
    pub code: u32,
    pub reason: Arc<str>,
}

impl From<DisconnectCode> for Closing {
    fn from(code: DisconnectCode) -> Self {
        Self {
            code: code.code(),
            reason: code.text().into(),
        }
    }
}

/// Why a command has no result.
#[derive(Debug, Clone, PartialEq)]
pub enum Failure {
    /// An error in the reply; the connection goes on.
    Error(Error),
    /// The end of the connection.
    Close(Closing),
}

impl Failure {
    /// An error with a sentence of its own in place of the code's usual text.
    pub fn error(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::Error(Error {
            message: message.into(),
            ..code.to_error()
        })
    }
}

impl From<ErrorCode> for Failure {
    fn from(code: ErrorCode) -> Self {
        Self::Error(code.to_error())
    }
}

impl From<DisconnectCode> for Failure {
    fn from(code: DisconnectCode) -> Self {
        Self::Close(code.into())
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Error { code, reason } => Self::Error(Error {
                code,
                message: reason.as_ref().to_owned(),
                temporary: false,
            }),
            Refusal::Disconnect { code, reason } => Self::Close(Closing { code, reason }),
        }
    }
}

impl From<HookFailure> for Failure {
    fn from(failure: HookFailure) -> Self {
        let code = if failure.is_overload {
            ErrorCode::TooManyRequests
        } else {
            ErrorCode::Internal
        };
        let text = code.text();
        Self::error(code, format!("{text} (trace {})", failure.trace_id))
    }
}

impl From<BrokerError> for Failure {
    fn from(error: BrokerError) -> Self {
        match error {
            BrokerError::Unavailable => ErrorCode::Internal.into(),
            BrokerError::Overloaded => ErrorCode::TooManyRequests.into(),
            BrokerError::Unreplicated => {
                let text = ErrorCode::Internal.text();
                let text = format!("{text}: no replica has confirmed it, it may be stored");
                Self::error(ErrorCode::Internal, text)
            }
        }
    }
}

/// Work that the session cannot do by itself.
#[derive(Debug)]
pub enum Ask {
    Connect(Box<ConnectAsk>),
    /// The identity that a hook gave is about to expire.
    RefreshIdentity(Box<AuthenticationQuestion>),
    Subscribe(Box<SubscribeAsk>),
    /// A subscription that nobody is asked about any more.
    Enlist(Box<EnlistAsk>),
    /// The subscription that a hook granted is about to expire.
    RefreshSubscription(Box<AuthorizationQuestion>),
    Publish(PublishAsk),
    Rpc(Box<RpcQuestion>),
    History(Box<HistoryAsk>),
    Presence(ChannelKey),
    PresenceStats(ChannelKey),
}

#[derive(Debug)]
pub struct ConnectAsk {
    pub question: AuthenticationQuestion,
    /// What holds if no plugin decides.
    pub builtin: Result<Box<Identity>, Failure>,
    /// What the client says about server-side subscriptions, by channel.
    pub requested: BTreeMap<Box<str>, Requested>,
}

/// A channel in the connect request's `subs`.
#[derive(Debug, Clone, PartialEq)]
pub struct Requested {
    /// The position that the client holds.
    pub recover_from: Option<StreamPosition>,
    /// Nothing is asked of the subscription that this node does not have, so that it may be made on request.
    pub is_plain: bool,
}

/// A subscription on its way: what was asked for and what the namespace says to it.
#[derive(Debug, Clone)]
pub struct SubscribeAsk {
    pub channel: Arc<str>,
    pub key: ChannelKey,
    pub options: Arc<NamespaceOptions>,
    /// Whether the authorization hook is asked; the name alone may have decided.
    pub is_hook_asked: bool,
    /// What holds if no plugin decides.
    pub builtin: Result<(), Failure>,
    pub data: Bytes,
    pub wishes: Wishes,
}

/// A subscription that the server API wants the session to have.
#[derive(Debug)]
pub struct EnlistAsk {
    pub channel: Arc<str>,
    pub key: ChannelKey,
    pub options: Arc<NamespaceOptions>,
    pub terms: Terms,
}

/// What the client would like of a subscription, as far as it may.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wishes {
    pub is_positioned: bool,
    pub is_recoverable: bool,
    /// To be told of who joins and leaves.
    pub hears_joins: bool,
    /// The position to recover from.
    pub recover_from: Option<StreamPosition>,
    /// Error 112 in place of a subscription that could not be recovered.
    pub must_recover: bool,
}

#[derive(Debug)]
pub struct PublishAsk {
    pub draft: Box<Draft>,
    /// The draft's data as it was decoded: what is known about it holds while no plugin changes it.
    pub data: Raw,
    /// Present when the session is subscribed to the channel, so that nobody builds it again.
    pub key: Option<ChannelKey>,
    /// Info of the publisher in the channel.
    pub chan_info: Raw,
}

#[derive(Debug)]
pub struct HistoryAsk {
    pub key: ChannelKey,
    pub query: HistoryQuery,
}

/// Answers, each to the [`Ask`] of its name. `S` is the seat in a channel.
#[derive(Debug)]
pub enum Answer<S> {
    Connect(Result<Box<Admission<S>>, Failure>),
    RefreshIdentity(Result<AuthenticationVerdict, HookFailure>),
    Subscribe(Result<Box<Seated<S>>, Failure>),
    Enlist(Result<Box<Seated<S>>, Failure>),
    RefreshSubscription(Result<AuthorizationVerdict, HookFailure>),
    Publish(Result<(), Failure>),
    Rpc(Result<RpcVerdict, Failure>),
    History(Result<Box<HistoryPage>, Failure>),
    Presence(Result<Box<PresenceResult>, Failure>),
    PresenceStats(Result<PresenceStats, Failure>),
}

/// A client that may come in.
#[derive(Debug)]
pub struct Admission<S> {
    pub identity: Identity,
    /// A hook gave the identity, so the host refreshes it and the client is not told of the expiry.
    pub is_by_hook: bool,
    pub seats: Vec<Seated<S>>,
}

/// Who wanted a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MadeBy {
    /// The client, by a subscribe command; the others are server-side subscriptions.
    Client,
    /// The client's token, or the plugin that knows the client.
    Identity,
    /// The client, in its connect request.
    Request,
    /// The node: a personal channel, or the server API.
    Node,
}

/// A seat in a channel, not live yet.
#[derive(Debug)]
pub struct Seated<S> {
    pub channel: Arc<str>,
    pub made_by: MadeBy,
    pub seat: S,
    pub terms: Terms,
    /// Absent where nobody is to see the subscription.
    pub attendance: Option<Attendance>,
    /// Read after the seat was taken; present exactly when the terms are positioned.
    pub page: Option<HistoryPage>,
}

/// What a subscription is to be.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Terms {
    /// Offsets are checked: nothing is missed unnoticed. Holds for recoverable subscriptions too.
    pub is_positioned: bool,
    pub is_recoverable: bool,
    pub recover_from: Option<StreamPosition>,
    pub must_recover: bool,
    /// What others learn of it.
    pub visibility: Visibility,
    /// It is told of who joins and leaves.
    pub hears_joins: bool,
    /// Unix seconds; the host asks again before.
    pub expires_at: Option<u64>,
    /// For the subscriber.
    pub data: Bytes,
    /// For the other subscribers.
    pub info: Bytes,
}
