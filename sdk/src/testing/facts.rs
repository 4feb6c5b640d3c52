//! What a test makes the plugin believe: settings, session, clock, and what is kept already.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::Host;
use crate::{
    context::{Origin, TokenError},
    host::{Held, Stored},
    json,
};

/// What the plugin will be told.
impl Host {
    /// Sets the settings, written as JSON.
    #[track_caller]
    pub fn config<T: Serialize>(mut self, settings: T) -> Self {
        self.state.facts.config = Some(text_of("the settings", &settings));
        self
    }

    /// Sets the app.
    pub fn app(mut self, app: &str) -> Self {
        app.clone_into(&mut self.state.facts.app);
        self
    }

    /// Sets the number of the version that runs.
    pub fn version(mut self, version: u32) -> Self {
        self.state.facts.version = version;
        self
    }

    /// Sets the id under which the node remembers the call.
    pub fn trace_id(mut self, trace_id: &str) -> Self {
        trace_id.clone_into(&mut self.state.facts.trace_id);
        self
    }

    /// Sets who caused the call.
    pub fn origin(mut self, origin: Origin) -> Self {
        self.state.facts.origin = Some(origin);
        self
    }

    /// Sets the session's user.
    pub fn user(mut self, user: &str) -> Self {
        user.clone_into(&mut self.state.facts.user);
        self
    }

    /// Sets the session's public id.
    pub fn client_id(mut self, client_id: &str) -> Self {
        client_id.clone_into(&mut self.state.facts.client_id);
        self
    }

    /// Sets the transport's name.
    pub fn transport(mut self, transport: &str) -> Self {
        transport.clone_into(&mut self.state.facts.transport);
        self
    }

    /// Sets name and version of the client's library.
    pub fn client(mut self, name: &str, version: &str) -> Self {
        self.state.facts.client_name = Some(name.to_owned());
        self.state.facts.client_version = Some(version.to_owned());
        self
    }

    /// Sets the client's address.
    pub fn remote_address(mut self, address: &str) -> Self {
        self.state.facts.remote_address = Some(address.to_owned());
        self
    }

    /// Adds a header of the client's request.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let headers = &mut self.state.facts.headers;
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
        self
    }

    /// Sets the claims of a token that the node's own check accepted, written as JSON.
    #[track_caller]
    pub fn claims<T: Serialize>(mut self, claims: T) -> Self {
        self.state.facts.claims = Some(text_of("the claims", &claims));
        self
    }

    /// Sets why the node's own check refused the token.
    pub fn token_error(mut self, error: TokenError) -> Self {
        let error = match error {
            TokenError::Expired => "expired",
            TokenError::Invalid => "invalid",
            TokenError::Absent => "absent",
        };
        self.state.facts.token_error = Some(error.to_owned());
        self
    }

    /// Sets what authentication kept for the session, written as JSON.
    #[track_caller]
    pub fn meta<T: Serialize>(mut self, meta: T) -> Self {
        self.state.facts.meta = Some(json::print("meta", &meta));
        self
    }

    /// Sets what the session shows to others, written as JSON.
    #[track_caller]
    pub fn info<T: Serialize>(mut self, info: T) -> Self {
        self.state.facts.info = Some(json::print("info", &info));
        self
    }

    /// Adds a tag that the message comes with.
    pub fn tag(mut self, key: &str, value: &str) -> Self {
        let tags = &mut self.state.facts.tags;
        tags.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Sets how many plugins in a row made the message.
    pub fn hops(mut self, hops: u32) -> Self {
        self.state.facts.hops = hops;
        self
    }

    /// Sets the clock.
    ///
    /// # Panics
    ///
    /// When the moment is before 1970.
    #[track_caller]
    pub fn now(mut self, now: SystemTime) -> Self {
        let since = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .expect("the clock of a node does not know moments before 1970");
        self.state.facts.now_ms =
            u64::try_from(since.as_millis()).expect("milliseconds since 1970 fit 64 bits");
        self
    }

    /// Moves the clock forward.
    pub fn advance(mut self, by: Duration) -> Self {
        let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.state.facts.now_ms = self.state.facts.now_ms.saturating_add(by);
        self
    }

    /// Puts a value into the plugin's state, to live for `ttl` from the host's time.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tidegate_sdk::testing::Host;
    ///
    /// let host = Host::new().with_state("ban:ann", "spam", Duration::from_secs(60));
    /// assert_eq!(host.state("ban:ann").as_deref(), Some(&b"spam"[..]));
    /// assert_eq!(host.advance(Duration::from_secs(60)).state("ban:ann"), None);
    /// ```
    pub fn with_state(mut self, key: &str, value: impl AsRef<[u8]>, ttl: Duration) -> Self {
        let end = self.end_of(ttl);
        let held = Held::Value(value.as_ref().to_vec());
        self.state.keys.put(key, held, end);
        self
    }

    /// Puts a value without an end into the plugin's [`store`](crate::store).
    pub fn with_stored(mut self, key: &str, value: impl AsRef<[u8]>) -> Self {
        let held = Stored::Value(value.as_ref().to_vec());
        self.state.stored.put(key, held, None);
        self
    }

    /// Puts a counter without an end into the plugin's [`store`](crate::store).
    pub fn with_stored_count(mut self, key: &str, count: i64) -> Self {
        self.state.stored.put(key, Stored::Counter(count), None);
        self
    }

    /// Takes the [`store`](crate::store) away: every operation is
    /// [`Unavailable`](crate::store::StoreError::Unavailable) from now on.
    pub fn without_store(mut self) -> Self {
        self.state.stored.is_away = true;
        self
    }

    /// Puts a counter into the plugin's state, to live for `ttl` from the host's time.
    pub fn with_count(mut self, key: &str, count: i64, ttl: Duration) -> Self {
        let end = self.end_of(ttl);
        self.state.keys.put(key, Held::Counter(count), end);
        self
    }

    /// Says who is subscribed to a channel: a user for each session, an empty one for an anonymous client. Of other
    /// channels presence is unavailable.
    pub fn with_presence(mut self, channel: &str, users: &[&str]) -> Self {
        let users = users.iter().map(|user| (*user).to_owned()).collect();
        let presence = &mut self.state.facts.presence;
        presence.insert(channel.to_owned(), users);
        self
    }

    fn end_of(&self, ttl: Duration) -> u64 {
        let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        self.state.facts.now_ms.saturating_add(ttl)
    }

    /// Sets what is left of the call's deadline. It stays the same during the call: the test kit does not interrupt.
    pub fn remaining(mut self, left: Duration) -> Self {
        self.state.facts.remaining_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX);
        self
    }

    /// Sets where random numbers start.
    pub fn seed(mut self, seed: u64) -> Self {
        self.state.seed = seed;
        self
    }
}

#[track_caller]
fn text_of<T: Serialize>(what: &'static str, value: &T) -> String {
    String::from_utf8(json::print(what, value)).expect("JSON is UTF-8")
}
