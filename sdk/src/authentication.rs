//! `authentication`: who may connect, and as whom.

use serde::{Deserialize, Serialize};

use crate::{
    JsonError, Refusal, bindings::authentication::exports::tidegate::plugin::authentication as wit,
    json, panics,
};

/// Asked when a client connects, and when the identity that this hook gave is about to expire.
///
/// Several plugins are asked in the order of their bindings; the first definite answer wins. If all say
/// [`Verdict::NotMine`], the node's own token check decides.
///
/// ```
/// use serde::Deserialize;
/// use tidegate_sdk::{Authentication, Identity, Refusal, authentication::{Request, Verdict}, plugin, testing::Host};
///
/// /// Guests come in with a name of their choice.
/// struct Guests;
///
/// #[derive(Deserialize)]
/// struct Guest {
///     name: String,
/// }
///
/// impl Authentication for Guests {
///     fn authenticate(request: Request) -> Result<Verdict, Refusal> {
///         if request.data().is_empty() {
///             return Ok(Verdict::NotMine);
///         }
///         let guest: Guest = request.json()?;
///         if guest.name.len() > 32 {
///             return Err(Refusal::error(422, "a name has at most 32 bytes"));
///         }
///         let user = format!("guest-{}", guest.name);
///         Ok(Identity::new(user).info(&guest.name).subscribe("lobby").into())
///     }
/// }
///
/// plugin!(Guests: authentication);
///
/// let mut host = Host::new();
/// let expected = Identity::new("guest-ann").info("ann").subscribe("lobby");
/// assert_eq!(host.authenticate::<Guests>("", r#"{"name":"ann"}"#).unwrap(), expected.into());
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is listed with the hook `authentication` but does not implement `Authentication`",
    label = "needs `impl tidegate_sdk::Authentication for {Self}`",
    note = "write `fn authenticate(request: authentication::Request) -> Result<authentication::Verdict, Refusal>` in it, or take `authentication` out of `plugin!`"
)]
pub trait Authentication {
    /// Decides on one client.
    ///
    /// # Errors
    ///
    /// A [`Refusal`] keeps the client out, and tells it why. Without a code of its own it is error 103, or
    /// disconnect 3500.
    fn authenticate(request: Request) -> Result<Verdict, Refusal>;
}

/// Why the hook is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A client sent its connect command.
    Connect,
    /// The identity that this hook gave expires soon; [`context::user`](crate::context::user) tells whose.
    Refresh,
}

/// What the client sent.
#[derive(Debug)]
pub struct Request {
    reason: Reason,
    token: String,
    data: Vec<u8>,
}

impl Request {
    pub(crate) fn new(reason: Reason, token: String, data: Vec<u8>) -> Self {
        Self {
            reason,
            token,
            data,
        }
    }

    /// Why the hook is asked.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The token of the connect command; empty when there was none, and at [`Reason::Refresh`]. Where the operator configured token keys,
    /// [`context::claims`](crate::context::claims) and [`context::token_error`](crate::context::token_error) tell
    /// what the node's own check found.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The data of the connect command; empty when there was none, and at [`Reason::Refresh`].
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Reads the data as JSON.
    ///
    /// # Errors
    ///
    /// When the data is not a `T`; with `?` the client gets error 400 and is told what is wrong and where.
    pub fn json<'r, T: Deserialize<'r>>(&'r self) -> Result<T, JsonError> {
        JsonError::parse("connect data", &self.data)
    }
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The plugin has no opinion on this client; the next one is asked.
    NotMine,
    /// The client is who this says.
    Accept(Box<Identity>),
}

impl From<Identity> for Verdict {
    fn from(identity: Identity) -> Self {
        Self::Accept(Box::new(identity))
    }
}

/// Who a client is, and what comes with that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "an identity counts only when the hook returns it"]
pub struct Identity {
    user: String,
    expires_at: Option<u64>,
    info: Option<Vec<u8>>,
    data: Option<Vec<u8>>,
    meta: Option<Vec<u8>>,
    subscriptions: Vec<Subscription>,
}

impl Identity {
    /// A client that is `user`.
    pub fn new(user: impl Into<String>) -> Self {
        Self {
            user: user.into(),
            ..Self::default()
        }
    }

    /// A client without a user.
    pub fn anonymous() -> Self {
        Self::default()
    }

    /// When the identity ends, in seconds since 1970 UTC. The node asks again ([`Reason::Refresh`]) before that
    /// moment; the client need not do anything.
    pub fn expires_at(mut self, unix_seconds: u64) -> Self {
        self.expires_at = Some(unix_seconds);
        self
    }

    /// What other clients see beside what this one publishes (`conn_info`), written as JSON.
    ///
    /// # Panics
    ///
    /// When the value cannot be written as JSON.
    #[track_caller]
    pub fn info<T: Serialize + ?Sized>(mut self, value: &T) -> Self {
        self.info = Some(json::print("the identity's info", value));
        self
    }

    /// What the client gets in the reply to its connect command, written as JSON.
    ///
    /// # Panics
    ///
    /// When the value cannot be written as JSON.
    #[track_caller]
    pub fn data<T: Serialize + ?Sized>(mut self, value: &T) -> Self {
        self.data = Some(json::print("the identity's data", value));
        self
    }

    /// What later hooks find in [`context::meta`](crate::context::meta), written as JSON. It is never sent to any
    /// client.
    ///
    /// # Panics
    ///
    /// When the value cannot be written as JSON.
    #[track_caller]
    pub fn meta<T: Serialize + ?Sized>(mut self, value: &T) -> Self {
        self.meta = Some(json::print("the identity's meta", value));
        self
    }

    /// Subscribes the client to a channel from the start: a channel's name, or a whole [`Subscription`].
    pub fn subscribe(mut self, subscription: impl Into<Subscription>) -> Self {
        self.subscriptions.push(subscription.into());
        self
    }
}

/// A subscription made by the server. Options left out are the namespace's.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a subscription counts only as part of an identity"]
pub struct Subscription {
    channel: String,
    info: Option<Vec<u8>>,
    data: Option<Vec<u8>>,
    expires_at: Option<u64>,
    presence: Option<bool>,
    join_leave: Option<bool>,
    force_push_join_leave: Option<bool>,
    force_positioning: Option<bool>,
    force_recovery: Option<bool>,
}

impl Subscription {
    /// A subscription to `channel` with the namespace's options.
    pub fn new(channel: impl Into<String>) -> Self {
        Self {
            channel: channel.into(),
            info: None,
            data: None,
            expires_at: None,
            presence: None,
            join_leave: None,
            force_push_join_leave: None,
            force_positioning: None,
            force_recovery: None,
        }
    }

    /// What other subscribers see (`chan_info`), written as JSON.
    ///
    /// # Panics
    ///
    /// When the value cannot be written as JSON.
    #[track_caller]
    pub fn info<T: Serialize + ?Sized>(mut self, value: &T) -> Self {
        self.info = Some(json::print("the subscription's info", value));
        self
    }

    /// What the client gets with the subscription, written as JSON.
    ///
    /// # Panics
    ///
    /// When the value cannot be written as JSON.
    #[track_caller]
    pub fn data<T: Serialize + ?Sized>(mut self, value: &T) -> Self {
        self.data = Some(json::print("the subscription's data", value));
        self
    }

    /// When the subscription ends, in seconds since 1970 UTC.
    pub fn expires_at(mut self, unix_seconds: u64) -> Self {
        self.expires_at = Some(unix_seconds);
        self
    }

    /// Whether the session is in the channel's presence.
    pub fn presence(mut self, on: bool) -> Self {
        self.presence = Some(on);
        self
    }

    /// Whether the session's coming and going is announced.
    pub fn join_leave(mut self, on: bool) -> Self {
        self.join_leave = Some(on);
        self
    }

    /// Whether the session hears of others' coming and going without asking for it.
    pub fn force_push_join_leave(mut self, on: bool) -> Self {
        self.force_push_join_leave = Some(on);
        self
    }

    /// Whether the node checks that the session's position in the stream keeps up.
    pub fn force_positioning(mut self, on: bool) -> Self {
        self.force_positioning = Some(on);
        self
    }

    /// Whether missed messages are recovered after a cut.
    pub fn force_recovery(mut self, on: bool) -> Self {
        self.force_recovery = Some(on);
        self
    }
}

impl From<&str> for Subscription {
    fn from(channel: &str) -> Self {
        Self::new(channel)
    }
}

impl From<String> for Subscription {
    fn from(channel: String) -> Self {
        Self::new(channel)
    }
}

impl<P: Authentication> wit::Guest for P {
    fn authenticate(reason: wit::Reason, token: String, data: Vec<u8>) -> wit::Verdict {
        panics::report();
        let reason = match reason {
            wit::Reason::Connect => Reason::Connect,
            wit::Reason::Refresh => Reason::Refresh,
        };
        match P::authenticate(Request::new(reason, token, data)) {
            Ok(Verdict::NotMine) => wit::Verdict::NotMine,
            Ok(Verdict::Accept(identity)) => wit::Verdict::Accept((*identity).into()),
            Err(refusal) => wit::Verdict::Refuse(refusal.into()),
        }
    }
}

impl From<Identity> for wit::Identity {
    fn from(identity: Identity) -> Self {
        let Identity {
            user,
            expires_at,
            info,
            data,
            meta,
            subscriptions,
        } = identity;
        Self {
            user,
            expires_at,
            info,
            data,
            meta,
            subscriptions: subscriptions.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<Subscription> for wit::Subscription {
    fn from(subscription: Subscription) -> Self {
        let Subscription {
            channel,
            info,
            data,
            expires_at,
            presence,
            join_leave,
            force_push_join_leave,
            force_positioning,
            force_recovery,
        } = subscription;
        Self {
            channel,
            info,
            data,
            expires_at,
            presence,
            join_leave,
            force_push_join_leave,
            force_positioning,
            force_recovery,
        }
    }
}

refusal_record!(wit);
