//! `events`: being told what happened.

use std::time::{Duration, SystemTime};

use crate::{Trouble, bindings::events::exports::tidegate::plugin::events as wit, panics};

/// Told what happened, after the fact and in batches.
///
/// That somebody left ([`Kind::Disconnected`], [`Kind::Unsubscribed`], [`Kind::Offline`]), or that a user came online
/// ([`Kind::Online`]), is told **at least once**: again when the call failed, or what it published could not be
/// published now, and by another node when one died. So it may be told twice, under the same [`Event::id`]; write what
/// you do about it so that twice is as good as once. Everything else is news: told once, or not at all where the plugin
/// failed or was too slow.
///
/// ```
/// use tidegate_sdk::{
///     Events, Trouble, events::{Event, Kind}, plugin, publishing, testing::Host,
/// };
///
/// struct Board;
///
/// impl Events for Board {
///     const WANTED: &'static [Kind] = &[Kind::Online, Kind::Offline];
///
///     fn handle(batch: Vec<Event>) -> Result<(), Trouble> {
///         for event in batch {
///             let channel = format!("status:{}", event.user());
///             publishing::publish_json(&channel, event.kind().name())?;
///         }
///         Ok(())
///     }
/// }
///
/// plugin!(Board: events);
///
/// let mut host = Host::new();
/// host.handle::<Board>(vec![Event::new(Kind::Offline).with_user("ann")]).unwrap();
/// assert_eq!(host.publications()[0].channel, "status:ann");
/// assert_eq!(host.publications()[0].data, br#""offline""#);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is listed with the hook `events` but does not implement `Events`",
    label = "needs `impl tidegate_sdk::Events for {Self}`",
    note = "write `const WANTED: &'static [events::Kind]` and `fn handle(batch: Vec<events::Event>) -> Result<(), Trouble>` in it, or take `events` out of `plugin!`"
)]
pub trait Events {
    /// What the plugin wants to be told; at least one kind. What is not named costs nothing.
    const WANTED: &'static [Kind];

    /// Deals with at most 16 events, in 50 ms unless the operator says otherwise.
    ///
    /// # Errors
    ///
    /// [`Trouble`] says why they cannot be dealt with now: nothing that the call queued takes place, and what is told
    /// at least once is told again.
    fn handle(batch: Vec<Event>) -> Result<(), Trouble>;
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A client was let in.
    Connected,
    /// A connection ended that had been let in; told at least once.
    Disconnected,
    /// A client, or the server for it, has subscribed to a channel.
    Subscribed,
    /// A subscription ended, with its connection or before; told at least once.
    Unsubscribed,
    /// A message was published to a channel. Its data is not told: see [`Filtering`](crate::Filtering).
    Published,
    /// A channel has subscribers on this node now.
    Occupied,
    /// A channel has had no subscribers on this node for a second.
    Vacated,
    /// A user has a connection in the cluster now, and had none; told at least once. The times of a user's `Online` and
    /// `Offline` rise, whichever nodes tell them: they are versions for
    /// [`publish_newer`](crate::publishing::publish_newer).
    Online,
    /// The last connection of a user in the cluster ended; told at least once.
    Offline,
}

impl Kind {
    /// The word for it in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
            Self::Subscribed => "subscribed",
            Self::Unsubscribed => "unsubscribed",
            Self::Published => "published",
            Self::Occupied => "occupied",
            Self::Vacated => "vacated",
            Self::Online => "online",
            Self::Offline => "offline",
        }
    }

    fn flag(self) -> wit::Kinds {
        match self {
            Self::Connected => wit::Kinds::CONNECTED,
            Self::Disconnected => wit::Kinds::DISCONNECTED,
            Self::Subscribed => wit::Kinds::SUBSCRIBED,
            Self::Unsubscribed => wit::Kinds::UNSUBSCRIBED,
            Self::Published => wit::Kinds::PUBLISHED,
            Self::Occupied => wit::Kinds::OCCUPIED,
            Self::Vacated => wit::Kinds::VACATED,
            Self::Online => wit::Kinds::ONLINE,
            Self::Offline => wit::Kinds::OFFLINE,
        }
    }
}

impl From<wit::Kind> for Kind {
    fn from(kind: wit::Kind) -> Self {
        match kind {
            wit::Kind::Connected => Self::Connected,
            wit::Kind::Disconnected => Self::Disconnected,
            wit::Kind::Subscribed => Self::Subscribed,
            wit::Kind::Unsubscribed => Self::Unsubscribed,
            wit::Kind::Published => Self::Published,
            wit::Kind::Occupied => Self::Occupied,
            wit::Kind::Vacated => Self::Vacated,
            wit::Kind::Online => Self::Online,
            wit::Kind::Offline => Self::Offline,
        }
    }
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    id: String,
    kind: Kind,
    at_ms: u64,
    user: String,
    client: String,
    channel: String,
    code: u32,
    reason: String,
}

impl Event {
    /// An event for a test, at the start of 2026; nobody did it yet.
    pub fn new(kind: Kind) -> Self {
        Self {
            id: format!("{:032x}", kind as u8),
            kind,
            at_ms: 1_767_225_600_000,
            user: String::new(),
            client: String::new(),
            channel: String::new(),
            code: 0,
            reason: String::new(),
        }
    }

    /// Names the event.
    #[must_use]
    pub fn with_id(self, id: &str) -> Self {
        Self {
            id: id.to_owned(),
            ..self
        }
    }

    /// Says who did it.
    #[must_use]
    pub fn with_user(self, user: &str) -> Self {
        Self {
            user: user.to_owned(),
            ..self
        }
    }

    /// Says which session it is about.
    #[must_use]
    pub fn with_client(self, client: &str) -> Self {
        Self {
            client: client.to_owned(),
            ..self
        }
    }

    /// Says which channel it is about.
    #[must_use]
    pub fn with_channel(self, channel: &str) -> Self {
        Self {
            channel: channel.to_owned(),
            ..self
        }
    }

    /// Says why something ended.
    #[must_use]
    pub fn with_code(self, code: u32, reason: &str) -> Self {
        Self {
            code,
            reason: reason.to_owned(),
            ..self
        }
    }

    /// Says when it happened, in milliseconds since 1970.
    #[must_use]
    pub fn with_time_ms(self, at_ms: u64) -> Self {
        Self { at_ms, ..self }
    }

    /// The same whenever the event is told again.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What happened.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// When it happened, in milliseconds since 1970. Of the `online` and `offline` of a user the later one has the
    /// greater number, whichever nodes told of them.
    pub fn time_ms(&self) -> u64 {
        self.at_ms
    }

    /// When it happened.
    pub fn time(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.at_ms)
    }

    /// Who; empty for an anonymous client, and where nobody did it.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The public id of the client's session; empty where there is none.
    pub fn client(&self) -> &str {
        &self.client
    }

    /// The channel; empty where it is about none.
    pub fn channel(&self) -> &str {
        &self.channel
    }

    /// Why a connection or a subscription ended.
    pub fn code(&self) -> u32 {
        self.code
    }

    /// The same in words.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl From<wit::Event> for Event {
    fn from(event: wit::Event) -> Self {
        let wit::Event {
            id,
            kind,
            at_ms,
            user,
            client,
            channel,
            code,
            reason,
        } = event;
        Self {
            id,
            kind: kind.into(),
            at_ms,
            user,
            client,
            channel,
            code,
            reason,
        }
    }
}

impl<P: Events> wit::Guest for P {
    fn wanted() -> wit::Kinds {
        let wanted = P::WANTED.iter().map(|kind| kind.flag());
        wanted.fold(wit::Kinds::empty(), |all, kind| all | kind)
    }

    fn handle(batch: Vec<wit::Event>) -> Result<(), String> {
        panics::report();
        let batch = batch.into_iter().map(Event::from).collect();
        P::handle(batch).map_err(Trouble::into_reason)
    }
}
