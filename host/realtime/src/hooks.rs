//! Hooks: the moments at which code that is not ours decides.
//!
//! Owns the questions, the verdicts and the trait that answers them; knows nothing of wasm. The sandbox
//! implements [`Hooks`]; tests use closures. A hook answers *ready* (inline lane: the answer was computed on
//! the caller's thread) or *pending* (aside lane: a future). Composition of several plugins is the
//! implementor's business; what arrives here is the pipeline's one verdict.

use std::{collections::BTreeMap, future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use tidegate_protocol::FilterNode;

use crate::{
    events::{Event, Observer},
    ids::{AppId, ClientId},
};

/// An answer that is there now, or later.
pub enum Progress<T> {
    Ready(T),
    Pending(Pin<Box<dyn Future<Output = T> + Send>>),
}

/// What a hook call came to: the verdict, and what the plugins want done now that the call succeeded.
#[derive(Debug)]
pub struct Outcome<V> {
    pub verdict: V,
    /// What the plugins queued; the node does it after the verdict was carried out.
    pub effects: Vec<Effect>,
}

/// Something a plugin asked for during a call.
#[derive(Debug, Clone)]
pub enum Effect {
    Publish {
        channel: Arc<str>,
        data: Bytes,
        /// Given up unless it is greater than that of the last one; 0 for none.
        version: u64,
    },
    /// End connections. The code is 4000..=4999, the reason has at most 123 bytes.
    Disconnect {
        target: SessionTarget,
        code: u32,
        reason: Arc<str>,
    },
    /// Take the subscriptions to a channel away.
    Unsubscribe {
        target: SessionTarget,
        channel: Arc<str>,
    },
}

/// Whose sessions an effect is about; sessions of the same app only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionTarget {
    /// All sessions of a user, who is not anonymous.
    User(Arc<str>),
    Client(ClientId),
}

/// The hook could not be answered: trap, deadline, bad value, no slot. The client gets error 100 with the
/// trace id, under which the node remembers the story.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("plugin call failed (trace {trace_id})")]
pub struct HookFailure {
    pub trace_id: Arc<str>,
    /// Whether too many questions of the app waited already. The client is then told so, with error 111.
    pub is_overload: bool,
}

impl HookFailure {
    /// A plugin failed, or could not be called.
    pub fn new(trace_id: Arc<str>) -> Self {
        Self {
            trace_id,
            is_overload: false,
        }
    }

    /// The app asks more than its plugins answer.
    pub fn overload(trace_id: Arc<str>) -> Self {
        Self {
            trace_id,
            is_overload: true,
        }
    }
}

/// A plugin's deliberate no. Codes and text were checked by the implementor: errors 400..=1999 or 103,
/// disconnects 4000..=4999 or 3500, text at most 123 bytes for a disconnect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    Error { code: u32, reason: Arc<str> },
    Disconnect { code: u32, reason: Arc<str> },
}

/// What hooks may know of a connection. Shared by all calls of a session.
#[derive(Debug, Clone)]
pub struct Peer {
    pub app: AppId,
    pub client: ClientId,
    /// Empty before authentication and for anonymous clients.
    pub user: Arc<str>,
    /// `websocket`, `sse`, ….
    pub transport: &'static str,
    /// Name and version that the client's library reported.
    pub name: Arc<str>,
    pub version: Arc<str>,
    /// Textual address of the client.
    pub remote_addr: Arc<str>,
    /// Allowed headers, lower-case names; transport headers before emulated ones.
    pub headers: Arc<[(Box<str>, Box<str>)]>,
    /// Server-only JSON of the identity; empty when none.
    pub meta: Bytes,
    /// JSON shown to others; empty when none.
    pub info: Bytes,
}

/// Who caused a message.
#[derive(Debug, Clone)]
pub enum Origin {
    Client(Arc<Peer>),
    ServerApi,
    Plugin,
}

/// What the node's own token check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenCheck {
    /// No token in the command.
    Absent,
    /// No keys are configured, nothing was checked.
    NotConfigured,
    /// Signature and claims hold; the claims as JSON text.
    Valid {
        claims: Arc<str>,
    },
    Expired,
    Invalid,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthenticationReason {
    Connect,
    Refresh,
}

#[derive(Debug, Clone)]
pub struct AuthenticationQuestion {
    pub reason: AuthenticationReason,
    pub peer: Arc<Peer>,
    pub token: Arc<str>,
    pub token_check: TokenCheck,
    pub data: Bytes,
}

#[derive(Debug, Clone)]
pub enum AuthenticationVerdict {
    NotMine,
    Accept(Box<Identity>),
    Refuse(Refusal),
}

/// Who a client is.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    pub user: Arc<str>,
    /// Unix seconds.
    pub expires_at: Option<u64>,
    pub info: Bytes,
    pub data: Bytes,
    pub meta: Bytes,
    pub subscriptions: Vec<ServerSubscription>,
}

/// A subscription that the server makes on connect.
#[derive(Debug, Clone)]
pub struct ServerSubscription {
    pub channel: Arc<str>,
    pub grant: Grant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorizationReason {
    Subscribe,
    Refresh,
}

#[derive(Debug, Clone)]
pub struct AuthorizationQuestion {
    pub reason: AuthorizationReason,
    pub peer: Arc<Peer>,
    pub channel: Arc<str>,
    pub data: Bytes,
}

#[derive(Debug, Clone)]
pub enum AuthorizationVerdict {
    NotMine,
    Allow(Box<Grant>),
    Refuse(Refusal),
}

/// What a subscription may do; `None` leaves the namespace's option.
#[derive(Debug, Clone, Default)]
pub struct Grant {
    pub presence: Option<bool>,
    pub join_leave: Option<bool>,
    pub force_push_join_leave: Option<bool>,
    pub force_positioning: Option<bool>,
    pub force_recovery: Option<bool>,
    pub info: Bytes,
    pub data: Bytes,
    /// Unix seconds.
    pub expires_at: Option<u64>,
    pub audience: Audience,
}

/// Which publications reach a subscriber, and in which form. Full shape of the design; a grant with a part
/// that the node does not honour yet is refused, never silently widened.
#[derive(Debug, Clone, Default)]
pub struct Audience {
    pub predicate: Option<Box<FilterNode>>,
    pub class: Option<Arc<str>>,
    pub attributes: Vec<i64>,
}

impl Audience {
    /// Whether the grant asks for nothing beyond plain delivery.
    pub fn is_everyone(&self) -> bool {
        self.predicate.is_none() && self.class.is_none() && self.attributes.is_empty()
    }
}

/// A message on its way to the broker.
#[derive(Debug, Clone)]
pub struct Draft {
    pub app: AppId,
    pub channel: Arc<str>,
    pub origin: Origin,
    pub data: Bytes,
    /// At most 16 after filtering.
    pub tags: Vec<(Box<str>, Box<str>)>,
    pub skip_history: bool,
    pub idempotency_key: Option<Box<str>>,
    pub delta: Option<bool>,
    /// Plugins in a row that made this message; see [`MAX_HOPS`].
    pub hops: u8,
}

/// A message made by plugins this many times in a row is refused: it runs in a circle.
pub const MAX_HOPS: u8 = 3;

#[derive(Debug)]
pub enum FilteringVerdict {
    /// The draft as the pipeline left it.
    Pass(Box<Draft>),
    Drop,
    Refuse(Refusal),
}

#[derive(Debug)]
pub enum RoutingVerdict {
    /// To the draft's own channel.
    Keep(Box<Draft>),
    /// To these and nowhere else.
    Routed(Box<Draft>, Vec<Destination>),
    Refuse(Refusal),
}

/// One place a message goes to. `data: None` sends the draft's.
#[derive(Debug, Clone)]
pub struct Destination {
    pub target: Target,
    pub data: Option<Bytes>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The channel that the message was published to.
    Origin,
    Channel(Arc<str>),
    /// All sessions of a user, as a `message` push.
    User(Arc<str>),
    /// One session, as a `message` push.
    Session(Arc<str>),
}

#[derive(Debug, Clone)]
pub struct RpcQuestion {
    pub peer: Arc<Peer>,
    pub method: Arc<str>,
    pub data: Bytes,
}

#[derive(Debug, Clone)]
pub enum RpcVerdict {
    NotMine,
    Reply(Bytes),
    Refuse(Refusal),
}

/// A batch of events for one plugin.
#[derive(Debug, Clone)]
pub struct EventsQuestion {
    pub app: AppId,
    /// One of those that the implementor named by [`Watch::on_duties`].
    pub plugin: Arc<str>,
    /// Of kinds that the plugin wants; never empty.
    pub batch: Vec<Event>,
}

/// A period of a plugin has come.
#[derive(Debug, Clone)]
pub struct ScheduleQuestion {
    pub app: AppId,
    pub plugin: Arc<str>,
    pub period: Arc<str>,
    /// The moment for which it runs, in Unix milliseconds.
    pub due_ms: u64,
}

/// How often a plugin wants to run, and what it calls that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Period {
    pub name: Arc<str>,
    pub every: Duration,
}

/// A plugin that runs by the clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timetable {
    pub plugin: Arc<str>,
    pub periods: Arc<[Period]>,
}

/// What an app's plugins do besides answering questions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Duties {
    pub observers: Vec<Observer>,
    pub timetables: Vec<Timetable>,
}

/// Who wants to know which plugins have duties.
pub trait Watch: Send + Sync + 'static {
    /// What holds from now on, for all apps. Must not block and not ask a hook.
    fn on_duties(&self, duties: &BTreeMap<AppId, Duties>);
}

/// What a hook call answers.
pub type Answered<V> = Progress<Result<Outcome<V>, HookFailure>>;

/// The pipelines of every app. Implementations never block the caller: what takes long is `Pending`. A hook that an
/// implementation leaves out is one that no plugin has.
pub trait Hooks: Send + Sync + 'static {
    fn authenticate(&self, _: AuthenticationQuestion) -> Answered<AuthenticationVerdict> {
        ready(AuthenticationVerdict::NotMine)
    }

    fn authorize(&self, _: AuthorizationQuestion) -> Answered<AuthorizationVerdict> {
        ready(AuthorizationVerdict::NotMine)
    }

    fn filter(&self, draft: Box<Draft>) -> Answered<FilteringVerdict> {
        ready(FilteringVerdict::Pass(draft))
    }

    fn route(&self, draft: Box<Draft>) -> Answered<RoutingVerdict> {
        ready(RoutingVerdict::Keep(draft))
    }

    fn rpc(&self, _: RpcQuestion) -> Answered<RpcVerdict> {
        ready(RpcVerdict::NotMine)
    }

    /// Whether any plugin answers RPCs in the app; where none does, RPC is error 108, not 104.
    fn has_rpc(&self, _: &AppId) -> bool {
        false
    }

    /// Whether any plugin is asked about subscriptions to this channel of the app.
    fn has_authorization(&self, _app: &AppId, _channel: &str) -> bool {
        false
    }

    /// Tells a plugin what happened. A failure means that the batch counts as not told.
    fn events(&self, _: EventsQuestion) -> Answered<()> {
        ready(())
    }

    /// Has a plugin do what it does by the clock.
    fn scheduled(&self, _: ScheduleQuestion) -> Answered<()> {
        ready(())
    }

    /// Tells `watch` which plugins have duties, now and whenever that changes. Where nobody does, nobody is told.
    fn watch_duties(&self, _watch: Arc<dyn Watch>) {}
}

/// No plugins at all.
#[derive(Debug, Default, Clone, Copy)]
pub struct NoHooks;

impl<T> Progress<T> {
    /// Applies `then` to the value, whenever it comes.
    pub fn map<U, F>(self, then: F) -> Progress<U>
    where
        T: Send + 'static,
        F: FnOnce(T) -> U + Send + 'static,
    {
        match self {
            Self::Ready(value) => Progress::Ready(then(value)),
            Self::Pending(future) => Progress::Pending(Box::pin(async move { then(future.await) })),
        }
    }

    /// Goes on with something that may itself be pending; nothing is allocated while all of it is ready.
    pub fn and_then<U, F>(self, then: F) -> Progress<U>
    where
        T: Send + 'static,
        U: Send + 'static,
        F: FnOnce(T) -> Progress<U> + Send + 'static,
    {
        match self {
            Self::Ready(value) => then(value),
            Self::Pending(future) => Progress::Pending(Box::pin(async move {
                match then(future.await) {
                    Progress::Ready(value) => value,
                    Progress::Pending(rest) => rest.await,
                }
            })),
        }
    }

    /// The value, waiting for it if need be.
    pub async fn wait(self) -> T {
        match self {
            Self::Ready(value) => value,
            Self::Pending(future) => future.await,
        }
    }
}

impl<T> std::fmt::Debug for Progress<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ready(_) => "Progress::Ready",
            Self::Pending(_) => "Progress::Pending",
        })
    }
}

/// A verdict that is there, and nothing else to be done.
pub(crate) fn ready<V>(verdict: V) -> Answered<V> {
    Progress::Ready(Ok(Outcome {
        verdict,
        effects: Vec::new(),
    }))
}

impl Hooks for NoHooks {}
