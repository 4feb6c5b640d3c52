//! `authorization`: who may subscribe to what, and how.

use serde::{Deserialize, Serialize};

use crate::{
    JsonError, Refusal, bindings::authorization::exports::tidegate::plugin::authorization as wit,
    json, panics,
};

/// Asked when a client subscribes to a channel, and when a subscription that this hook granted is about to expire.
///
/// The first definite answer wins; if all say [`Verdict::NotMine`], the namespace's `allow_subscribe_for_*` rules
/// decide.
///
/// ```
/// use tidegate_sdk::{Authorization, Grant, Refusal, authorization::{Request, Verdict}, plugin, testing::Host};
///
/// /// `inbox:ann` is for ann alone.
/// struct Inboxes;
///
/// impl Authorization for Inboxes {
///     fn authorize(request: Request) -> Result<Verdict, Refusal> {
///         let Some(owner) = request.channel().strip_prefix("inbox:") else {
///             return Ok(Verdict::NotMine);
///         };
///         if owner != request.user() {
///             return Err(Refusal::denied("this inbox is somebody else's"));
///         }
///         Ok(Grant::new().force_recovery(true).into())
///     }
/// }
///
/// plugin!(Inboxes: authorization);
///
/// let mut host = Host::new().user("ann");
/// assert!(host.authorize::<Inboxes>("inbox:ann", "").is_ok());
/// assert!(host.authorize::<Inboxes>("inbox:bob", "").is_err());
/// assert_eq!(host.authorize::<Inboxes>("room", "").unwrap(), Verdict::NotMine);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is listed with the hook `authorization` but does not implement `Authorization`",
    label = "needs `impl tidegate_sdk::Authorization for {Self}`",
    note = "write `fn authorize(request: authorization::Request) -> Result<authorization::Verdict, Refusal>` in it, or take `authorization` out of `plugin!`"
)]
pub trait Authorization {
    /// Decides on one subscription.
    ///
    /// # Errors
    ///
    /// A [`Refusal`] is what the client gets instead of the subscription.
    fn authorize(request: Request) -> Result<Verdict, Refusal>;
}

/// Why the hook is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A client sent a subscribe command.
    Subscribe,
    /// The grant that this hook gave expires soon.
    Refresh,
}

/// What the client asks for.
#[derive(Debug)]
pub struct Request {
    reason: Reason,
    channel: String,
    user: String,
    data: Vec<u8>,
}

impl Request {
    pub(crate) fn new(reason: Reason, channel: String, user: String, data: Vec<u8>) -> Self {
        Self {
            reason,
            channel,
            user,
            data,
        }
    }

    /// Why the hook is asked.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The channel.
    pub fn channel(&self) -> &str {
        &self.channel
    }

    /// Who asks; empty for an anonymous client.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The data of the subscribe command; empty when there was none, and at [`Reason::Refresh`].
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Reads the data as JSON.
    ///
    /// # Errors
    ///
    /// When the data is not a `T`; with `?` the client gets error 400 and is told what is wrong and where.
    pub fn json<'r, T: Deserialize<'r>>(&'r self) -> Result<T, JsonError> {
        JsonError::parse("subscribe data", &self.data)
    }
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The plugin has no opinion on this channel; the next one is asked.
    NotMine,
    /// The client may subscribe.
    Allow(Box<Grant>),
}

impl From<Grant> for Verdict {
    fn from(grant: Grant) -> Self {
        Self::Allow(Box::new(grant))
    }
}

/// What a subscription may do. Everything left out is the namespace's own setting.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "a grant counts only when the hook returns it"]
pub struct Grant {
    presence: Option<bool>,
    join_leave: Option<bool>,
    force_push_join_leave: Option<bool>,
    force_positioning: Option<bool>,
    force_recovery: Option<bool>,
    info: Option<Vec<u8>>,
    data: Option<Vec<u8>>,
    expires_at: Option<u64>,
    audience_predicate: Option<String>,
    audience_class: Option<String>,
    audience_attributes: Vec<i64>,
}

impl Grant {
    /// A subscription with the namespace's settings.
    pub fn new() -> Self {
        Self::default()
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

    /// What other subscribers of the channel see (`chan_info`), written as JSON.
    ///
    /// # Panics
    ///
    /// When the value cannot be written as JSON.
    #[track_caller]
    pub fn info<T: Serialize + ?Sized>(mut self, value: &T) -> Self {
        self.info = Some(json::print("the grant's info", value));
        self
    }

    /// What the client gets in the reply to its subscribe command, written as JSON.
    ///
    /// # Panics
    ///
    /// When the value cannot be written as JSON.
    #[track_caller]
    pub fn data<T: Serialize + ?Sized>(mut self, value: &T) -> Self {
        self.data = Some(json::print("the grant's data", value));
        self
    }

    /// When the grant ends, in seconds since 1970 UTC; the node asks again before that.
    pub fn expires_at(mut self, unix_seconds: u64) -> Self {
        self.expires_at = Some(unix_seconds);
        self
    }

    /// Which publications the subscriber gets at all: a tag filter of the client protocol (`FilterNode`) as JSON
    /// text. The client neither sees it nor can remove it.
    pub fn audience_predicate(mut self, filter: impl Into<String>) -> Self {
        self.audience_predicate = Some(filter.into());
        self
    }

    /// The class whose rendering of each publication the subscriber gets.
    pub fn audience_class(mut self, class: impl Into<String>) -> Self {
        self.audience_class = Some(class.into());
        self
    }

    /// Up to four integers that the `selection` hook sees of this subscriber.
    ///
    /// # Panics
    ///
    /// When there are more than four.
    #[track_caller]
    pub fn audience_attributes(mut self, attributes: impl Into<Vec<i64>>) -> Self {
        let attributes = attributes.into();
        assert!(
            attributes.len() <= 4,
            "a grant has at most four audience attributes, not {}",
            attributes.len()
        );
        self.audience_attributes = attributes;
        self
    }
}

impl<P: Authorization> wit::Guest for P {
    fn authorize(
        reason: wit::Reason,
        channel: String,
        user: String,
        data: Vec<u8>,
    ) -> wit::Verdict {
        panics::report();
        let reason = match reason {
            wit::Reason::Subscribe => Reason::Subscribe,
            wit::Reason::Refresh => Reason::Refresh,
        };
        match P::authorize(Request::new(reason, channel, user, data)) {
            Ok(Verdict::NotMine) => wit::Verdict::NotMine,
            Ok(Verdict::Allow(grant)) => wit::Verdict::Allow((*grant).into()),
            Err(refusal) => wit::Verdict::Refuse(refusal.into()),
        }
    }
}

impl From<Grant> for wit::Grant {
    fn from(grant: Grant) -> Self {
        let Grant {
            presence,
            join_leave,
            force_push_join_leave,
            force_positioning,
            force_recovery,
            info,
            data,
            expires_at,
            audience_predicate,
            audience_class,
            audience_attributes,
        } = grant;
        Self {
            presence,
            join_leave,
            force_push_join_leave,
            force_positioning,
            force_recovery,
            info,
            data,
            expires_at,
            audience_predicate,
            audience_class,
            audience_attributes,
        }
    }
}

refusal_record!(wit);
