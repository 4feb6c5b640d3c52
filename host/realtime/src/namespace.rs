//! Namespaces: which options a channel has, and whom they let do what.
//!
//! Owns the options' meaning (client-protocol sections 5.1, 9 and 14) and the lookup from a channel's name to
//! its namespace. Pure: knows neither sessions nor the broker.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use regex::Regex;
use tidegate_protocol::Raw;

use crate::broker::HistoryOptions;

/// Longest channel name in bytes; the reference's value.
pub const DEFAULT_MAX_NAME_BYTES: usize = 255;

/// Life of offset and epoch: 30 days, so that a client that was away over a holiday still recovers.
pub const DEFAULT_META_TTL: Duration = Duration::from_secs(720 * 3600);

/// How channel names of an app are read, and the options of its namespaces.
#[derive(Debug, Clone)]
pub struct ChannelConfig {
    pub max_name_bytes: usize,
    /// Channels that begin with it are private: without a subscription token nobody gets in.
    pub private_prefix: char,
    pub namespace_boundary: char,
    /// What follows the last one is a list of the users who may subscribe.
    pub user_boundary: char,
    pub user_separator: char,
    pub without_namespace: Arc<NamespaceOptions>,
    pub namespaces: BTreeMap<Box<str>, Arc<NamespaceOptions>>,
}

impl Default for ChannelConfig {
    fn default() -> Self {
        Self {
            max_name_bytes: DEFAULT_MAX_NAME_BYTES,
            private_prefix: '$',
            namespace_boundary: ':',
            user_boundary: '#',
            user_separator: ',',
            without_namespace: Arc::default(),
            namespaces: BTreeMap::new(),
        }
    }
}

/// Options of a namespace. Everything is off by default.
#[derive(Debug, Clone)]
pub struct NamespaceOptions {
    /// `None`: publications are delivered and forgotten, and have no offset.
    pub history: Option<HistoryConfig>,
    /// Life of offset and epoch.
    pub meta_ttl: Duration,
    /// Every subscription is positioned.
    pub force_positioning: bool,
    /// Clients may ask for a positioned subscription.
    pub allow_positioning: bool,
    /// Every subscription is recoverable.
    pub force_recovery: bool,
    /// Clients may ask for a recoverable subscription.
    pub allow_recovery: bool,
    pub subscribe: Permission,
    pub publish: Permission,
    pub read_history: Permission,
    pub read_presence: Permission,
    /// Keeps who is subscribed.
    pub presence: bool,
    /// Tells of who subscribes and unsubscribes.
    pub join_leave: bool,
    /// Every subscriber is told, unasked.
    pub force_push_join_leave: bool,
    /// Names with a `#` say who may subscribe.
    pub allow_user_limited_channels: bool,
    /// For the part of the name after the namespace.
    pub channel_regex: Option<Regex>,
    pub publication_data_format: PublicationDataFormat,
}

impl Default for NamespaceOptions {
    fn default() -> Self {
        Self {
            history: None,
            meta_ttl: DEFAULT_META_TTL,
            force_positioning: false,
            allow_positioning: false,
            force_recovery: false,
            allow_recovery: false,
            subscribe: Permission::default(),
            publish: Permission::default(),
            read_history: Permission::default(),
            read_presence: Permission::default(),
            presence: false,
            join_leave: false,
            force_push_join_leave: false,
            allow_user_limited_channels: false,
            channel_regex: None,
            publication_data_format: PublicationDataFormat::default(),
        }
    }
}

impl NamespaceOptions {
    /// What the broker is told to keep.
    pub fn history_options(&self) -> Option<HistoryOptions> {
        self.history.map(|history| HistoryOptions {
            size: history.size,
            ttl: history.ttl,
            meta_ttl: self.meta_ttl,
        })
    }
}

/// How much of a stream is kept, and how long after the last publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryConfig {
    /// More than 0.
    pub size: usize,
    /// Shorter than the namespace's `meta_ttl`.
    pub ttl: Duration,
}

/// Who may do something. `for_anonymous` alone allows nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Permission {
    pub for_client: bool,
    /// Who is subscribed to the channel; has no meaning for subscribing itself.
    pub for_subscriber: bool,
    pub for_anonymous: bool,
}

/// Who asks for permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applicant {
    /// The connection has no user.
    pub is_anonymous: bool,
    pub is_subscribed: bool,
    /// The app is in insecure mode.
    pub is_insecure: bool,
}

impl Permission {
    /// For every client, anonymous ones included.
    pub const EVERYBODY: Self = Self {
        for_client: true,
        for_subscriber: false,
        for_anonymous: true,
    };

    pub fn allows(self, applicant: Applicant) -> bool {
        let has_right = self.for_client || (self.for_subscriber && applicant.is_subscribed);
        let is_known = !applicant.is_anonymous || self.for_anonymous;
        (has_right && is_known) || applicant.is_insecure
    }
}

/// What the data of a publication must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PublicationDataFormat {
    /// Anything but nothing.
    #[default]
    NotEmpty,
    Json,
    JsonObject,
    /// Anything, nothing included.
    Binary,
}

impl PublicationDataFormat {
    pub fn accepts(self, data: &Raw) -> bool {
        match self {
            Self::NotEmpty => !data.is_empty(),
            Self::Json => data.is_json(),
            Self::JsonObject => data.is_json_object(),
            Self::Binary => true,
        }
    }

    /// What to say about data that is not accepted.
    pub const fn complaint(self) -> &'static str {
        match self {
            Self::NotEmpty | Self::Binary => "the data of a publication must not be empty",
            Self::Json => "the data of a publication in this namespace must be JSON",
            Self::JsonObject => "the data of a publication in this namespace must be a JSON object",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(permission: (bool, bool, bool), applicant: (bool, bool, bool), expected: bool) {
        let (for_client, for_subscriber, for_anonymous) = permission;
        let (is_anonymous, is_subscribed, is_insecure) = applicant;
        let permission = Permission {
            for_client,
            for_subscriber,
            for_anonymous,
        };
        let allowed = permission.allows(Applicant {
            is_anonymous,
            is_subscribed,
            is_insecure,
        });
        assert_eq!(allowed, expected, "{permission:?} for {applicant:?}");
    }

    #[test]
    fn permissions_follow_the_pattern_of_the_reference() {
        // Nothing is allowed by default, except in insecure mode.
        check((false, false, false), (false, true, false), false);
        check((false, false, false), (true, false, true), true);
        // `for_anonymous` alone grants nothing.
        check((false, false, true), (false, false, false), false);
        check((false, false, true), (true, true, false), false);
        // A client with a user, and one without.
        check((true, false, false), (false, false, false), true);
        check((true, false, false), (true, false, false), false);
        check((true, false, true), (true, false, false), true);
        // Subscribers.
        check((false, true, false), (false, true, false), true);
        check((false, true, false), (false, false, false), false);
        check((false, true, false), (true, true, false), false);
        check((false, true, true), (true, true, false), true);
    }

    #[test]
    fn data_formats_accept_what_they_say() {
        #[track_caller]
        fn check(data: &'static str, expected: [bool; 4]) {
            use PublicationDataFormat::{Binary, Json, JsonObject, NotEmpty};
            let data = Raw::from(data);
            let formats = [NotEmpty, Json, JsonObject, Binary];
            assert_eq!(formats.map(|format| format.accepts(&data)), expected);
        }
        check("", [false, false, false, true]);
        check("{}", [true, true, true, true]);
        check("[1]", [true, true, false, true]);
        check("not json", [true, false, false, true]);
        check("{\"a\":", [true, false, false, true]);
    }
}
