//! `routing`: where a message goes.

use crate::{
    Message, Refusal, bindings::routing::exports::tidegate::plugin::routing as wit, host, json,
    panics,
};

/// Asked after filtering: where does the message go?
///
/// Several plugins may be bound; the last one that did not answer [`Verdict::Keep`] decides.
///
/// ```
/// use serde::Deserialize;
/// use tidegate_sdk::{Message, Refusal, Routing, plugin, routing::{Destinations, Verdict}, testing::Host};
///
/// /// A message with `to` is for that user alone.
/// struct Whisper;
///
/// #[derive(Deserialize)]
/// struct Line<'m> {
///     to: Option<&'m str>,
/// }
///
/// impl Routing for Whisper {
///     fn route(message: Message) -> Result<Verdict, Refusal> {
///         let line: Line<'_> = message.json()?;
///         Ok(match line.to {
///             None => Verdict::Keep,
///             Some(user) => Destinations::new().user(user).user(message.user()).into(),
///         })
///     }
/// }
///
/// plugin!(Whisper: routing);
///
/// let mut host = Host::new().user("ann");
/// let verdict = host.route::<Whisper>("room", r#"{"to":"bob"}"#).unwrap();
/// assert_eq!(verdict, Verdict::Routed(Destinations::new().user("bob").user("ann")));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is listed with the hook `routing` but does not implement `Routing`",
    label = "needs `impl tidegate_sdk::Routing for {Self}`",
    note = "write `fn route(message: Message) -> Result<routing::Verdict, Refusal>` in it, or take `routing` out of `plugin!`"
)]
pub trait Routing {
    /// Decides on one message.
    ///
    /// # Errors
    ///
    /// A [`Refusal`] ends the message here, and its sender is told why.
    fn route(message: Message) -> Result<Verdict, Refusal>;
}

/// Where the message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// To the channel that it was published to.
    Keep,
    /// To these destinations and nowhere else. To none: it ends here, and its sender is told that it was
    /// published.
    Routed(Destinations),
}

impl From<Destinations> for Verdict {
    fn from(destinations: Destinations) -> Self {
        Self::Routed(destinations)
    }
}

/// A list of destinations, at most 64.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "destinations count only when the hook returns them"]
pub struct Destinations {
    list: Vec<Destination>,
}

/// One destination, and what it gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// Where.
    pub target: Target,
    /// What, if it is not the message's own data.
    pub data: Option<Vec<u8>>,
}

/// Where a message can go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The channel that the message was published to.
    Origin,
    /// Another channel; the message is a publication there like any other.
    Channel(String),
    /// All sessions of a user, as a message without channel: no history, no offset.
    User(String),
    /// One session by its client id, as a message without channel.
    Session(String),
}

impl Destinations {
    /// Nowhere yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the channel that the message was published to.
    pub fn origin(self) -> Self {
        self.with(Target::Origin, None)
    }

    /// Adds a channel.
    pub fn channel(self, channel: impl Into<String>) -> Self {
        self.with(Target::Channel(channel.into()), None)
    }

    /// Adds a user, on all devices.
    pub fn user(self, user: impl Into<String>) -> Self {
        self.with(Target::User(user.into()), None)
    }

    /// Adds a session.
    pub fn session(self, client_id: impl Into<String>) -> Self {
        self.with(Target::Session(client_id.into()), None)
    }

    /// Adds a destination that gets `data` of its own.
    pub fn with_data(self, target: Target, data: impl Into<Vec<u8>>) -> Self {
        self.with(target, Some(data.into()))
    }

    /// Adds a destination that gets `value` as its JSON data.
    ///
    /// # Panics
    ///
    /// When `value` cannot be written as JSON, such as a map whose keys are not text.
    #[track_caller]
    pub fn with_json<T: serde::Serialize + ?Sized>(self, target: Target, value: &T) -> Self {
        let data = json::print("the data of a destination", value);
        self.with(target, Some(data))
    }

    /// The destinations in the order in which they were added.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Destination> {
        self.list.iter()
    }

    fn with(mut self, target: Target, data: Option<Vec<u8>>) -> Self {
        self.list.push(Destination { target, data });
        self
    }

    /// Tells the node.
    pub(crate) fn send(&self) {
        for Destination { target, data } in &self.list {
            host::send_to(target, data.as_deref());
        }
    }
}

impl<P: Routing> wit::Guest for P {
    fn route(channel: String, user: String, data: Vec<u8>) -> wit::Verdict {
        panics::report();
        match P::route(Message::new(channel, user, data)) {
            Ok(Verdict::Keep) => wit::Verdict::Keep,
            Ok(Verdict::Routed(destinations)) => {
                destinations.send();
                wit::Verdict::Routed
            }
            Err(refusal) => wit::Verdict::Refuse(refusal.into()),
        }
    }
}

refusal_record!(wit);
