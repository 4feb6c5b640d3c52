//! Names of things: app, client, session, channel key.
//!
//! Owns the one injective encoder that turns (app, channel) into a key (threat model N1). No other code may
//! build a key; distinct pairs give distinct keys.

use std::{borrow::Cow, fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The unit of isolation. At most 64 bytes of `[a-z0-9-]`, checked by [`AppId::parse`].
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AppId(Arc<str>);

/// The app of a fresh server.
pub const DEFAULT_APP: &str = "default";

/// The name is not one an app may have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an app id is 1 to 64 characters of a-z, 0-9 and '-', and starts with a letter")]
pub struct BadAppId;

impl AppId {
    /// # Errors
    /// [`BadAppId`] unless `text` is 1 to 64 bytes of `[a-z0-9-]` starting with a letter.
    pub fn parse(text: &str) -> Result<Self, BadAppId> {
        let is_ok = (1..=64).contains(&text.len())
            && text.starts_with(|first: char| first.is_ascii_lowercase())
            && text
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if is_ok {
            Ok(Self(text.into()))
        } else {
            Err(BadAppId)
        }
    }

    pub fn default_app() -> Self {
        Self(DEFAULT_APP.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for AppId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "app:{}", self.0)
    }
}

impl fmt::Display for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Public id of a session: a random UUID, 16 bytes, shown in hyphenated form.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(uuid::Uuid);

impl ClientId {
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4())
    }

    /// Parses the hyphenated form; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        uuid::Uuid::try_parse(text).ok().map(Self)
    }

    pub(crate) fn as_u128(self) -> u128 {
        self.0.as_u128()
    }
}

/// Secret id of a session, known to its client alone: who says it may speak for the session. Kept out of logs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SessionId(uuid::Uuid);

impl SessionId {
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4())
    }

    /// Parses the hyphenated form; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        uuid::Uuid::try_parse(text).ok().map(Self)
    }

    /// The form that travels to the client, and to nobody else.
    pub fn reveal(self) -> String {
        self.0.hyphenated().to_string()
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId(…)")
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl Serialize for ClientId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ClientId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| de::Error::custom("a client id is a UUID"))
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client:{self}")
    }
}

/// Key of a channel in every store and map: the app's length in two decimal digits, the app, the channel.
/// Injective because the length is of fixed width and says where the app ends. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelKey {
    encoded: Arc<str>,
}

/// Width of the length prefix of a [`ChannelKey`].
const PREFIX_LEN: usize = 2;

impl ChannelKey {
    pub fn new(app: &AppId, channel: &str) -> Self {
        let app = app.as_str();
        // An app id has at most 64 bytes.
        let digit = |number: usize| char::from(b"0123456789"[number % 10]);
        let mut encoded = String::with_capacity(PREFIX_LEN + app.len() + channel.len());
        encoded.push(digit(app.len() / 10));
        encoded.push(digit(app.len()));
        encoded.push_str(app);
        encoded.push_str(channel);
        Self {
            encoded: encoded.into(),
        }
    }

    /// Reads what [`ChannelKey::as_str`] gave to a store; `None` for anything else.
    pub fn parse(encoded: &str) -> Option<Self> {
        let (digits, rest) = encoded.split_at_checked(PREFIX_LEN)?;
        if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        let (app, _) = rest.split_at_checked(digits.parse().ok()?)?;
        AppId::parse(app).ok()?;
        Some(Self {
            encoded: encoded.into(),
        })
    }

    /// The whole key, for stores.
    pub fn as_str(&self) -> &str {
        &self.encoded
    }

    pub fn app(&self) -> &str {
        &self.encoded[PREFIX_LEN..self.app_end()]
    }

    pub fn channel(&self) -> &str {
        &self.encoded[self.app_end()..]
    }

    fn app_end(&self) -> usize {
        let digits = self.encoded.as_bytes();
        PREFIX_LEN + usize::from(digits[0] - b'0') * 10 + usize::from(digits[1] - b'0')
    }
}

impl fmt::Debug for ChannelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.app(), self.channel())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n1_a_key_gives_back_its_app_and_channel() {
        for (app, channel) in [
            ("default", "news"),
            ("a", "05bbbb"),
            ("a0", "5bbbb"),
            ("x", ""),
        ] {
            let key = ChannelKey::new(&AppId::parse(app).unwrap(), channel);
            assert_eq!((key.app(), key.channel()), (app, channel));
            assert_eq!(ChannelKey::parse(key.as_str()), Some(key));
        }
    }

    #[test]
    fn what_is_no_key_is_not_taken_for_one() {
        for foreign in [
            "",
            "0",
            "07",
            "07defaul",
            "x7default",
            "00news",
            "07Default",
            "-1a",
            "01é",
        ] {
            assert_eq!(ChannelKey::parse(foreign), None, "{foreign:?}");
        }
    }

    #[test]
    fn app_ids_with_separators_are_refused() {
        for bad in ["", "A", "a/b", "a:b", "1a", "a b", &"a".repeat(65)] {
            assert_eq!(AppId::parse(bad), Err(BadAppId), "{bad:?}");
        }
    }
}
