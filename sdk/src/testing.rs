//! The test kit: `cargo test` runs a plugin natively, against a host that the test makes up.
//!
//! ```
//! use serde_json::json;
//! use tidegate_sdk::{Filtering, Message, Refusal, context, filtering::Verdict, log, testing::Host};
//!
//! struct Door;
//!
//! impl Filtering for Door {
//!     fn filter(message: Message) -> Result<Verdict, Refusal> {
//!         message.set_tag("from", message.user());
//!         log::debug!("version {}", context::version());
//!         Ok(Verdict::Pass)
//!     }
//! }
//!
//! let mut host = Host::new().user("ann").version(3).config(json!({ "strict": true }));
//! assert_eq!(host.filter::<Door>("room", r#"{"text":"hi"}"#), Ok(Verdict::Pass));
//! assert_eq!(host.tags()["from"], "ann");
//! assert_eq!(host.log()[0].text, "version 3");
//! ```
//!
//! Every call is that of a new instance, and what it did replaces what the one before did; only what it left in
//! [`state`](crate::state) and [`store`](crate::store) is there for the next, and [`metrics`](crate::metrics) add up. The contract's limits
//! hold: what would fail the hook call on a node panics in the test and says why.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use serde::Serialize;

use crate::{
    Authentication, Authorization, Events, Filtering, Message, Refusal, Routing, Rpc, Schedule,
    Trouble, authentication, authorization, config,
    context::{Origin, TokenError},
    events::Event,
    filtering,
    host::{self, Held, Number, State, Stored},
    json,
    log::Level,
    routing, rpc, schedule,
    sessions::Target,
};

/// What is left of a call of a new host: the deadline of the quickest hooks.
const DEFAULT_REMAINING_MS: u32 = 5;

/// The moment of a new host's clock: 2026-01-01 00:00 UTC.
const DEFAULT_NOW_MS: u64 = 1_767_225_600_000;

/// A node that is not there: what it tells the plugin, and what the plugin did to it.
#[derive(Debug, Clone)]
#[must_use = "a host does nothing until one of its hooks is called"]
pub struct Host {
    state: State,
}

/// A line that the plugin wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// How grave it is.
    pub level: Level,
    /// What it says, cut to 1 KiB.
    pub text: String,
}

/// A publication that the plugin queued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// Where to.
    pub channel: String,
    /// What.
    pub data: Vec<u8>,
}

/// Connections that the plugin wants closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disconnect {
    /// Whose.
    pub target: Target,
    /// 4000 to 4999.
    pub code: u32,
    /// What the client is told.
    pub reason: String,
}

/// Subscriptions that the plugin wants taken away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsubscribe {
    /// Whose.
    pub target: Target,
    /// To which channel.
    pub channel: String,
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

/// What the plugin will be told.
impl Host {
    /// A host of app `default` that runs version 1 of the plugin without settings, for an anonymous client over a
    /// WebSocket.
    pub fn new() -> Self {
        let mut state = State::default();
        state.facts.app = "default".to_owned();
        state.facts.version = 1;
        state.facts.trace_id = "test".to_owned();
        state.facts.client_id = "00000000-0000-4000-8000-000000000000".to_owned();
        state.facts.transport = "websocket".to_owned();
        state.facts.now_ms = DEFAULT_NOW_MS;
        state.facts.remaining_ms = DEFAULT_REMAINING_MS;
        Self { state }
    }

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

/// The hooks.
impl Host {
    /// Connects a client.
    ///
    /// # Errors
    ///
    /// What the plugin refuses with.
    pub fn authenticate<P: Authentication>(
        &mut self,
        token: &str,
        data: impl AsRef<[u8]>,
    ) -> Result<authentication::Verdict, Refusal> {
        let request = authentication::Request::new(
            authentication::Reason::Connect,
            token.to_owned(),
            data.as_ref().to_vec(),
        );
        self.run(false, data.as_ref(), || P::authenticate(request))
    }

    /// Asks for a new identity of the host's user before the old one expires. The node keeps neither token nor data
    /// of the connect command.
    ///
    /// # Errors
    ///
    /// What the plugin refuses with.
    pub fn reauthenticate<P: Authentication>(
        &mut self,
    ) -> Result<authentication::Verdict, Refusal> {
        let reason = authentication::Reason::Refresh;
        let request = authentication::Request::new(reason, String::new(), Vec::new());
        self.run(false, &[], || P::authenticate(request))
    }

    /// Subscribes the client to a channel.
    ///
    /// # Errors
    ///
    /// What the plugin refuses with.
    pub fn authorize<P: Authorization>(
        &mut self,
        channel: &str,
        data: impl AsRef<[u8]>,
    ) -> Result<authorization::Verdict, Refusal> {
        self.ask_authorization::<P>(authorization::Reason::Subscribe, channel, data.as_ref())
    }

    /// Asks for a new grant before the old one expires. The node does not keep the data of the subscribe command.
    ///
    /// # Errors
    ///
    /// What the plugin refuses with.
    pub fn reauthorize<P: Authorization>(
        &mut self,
        channel: &str,
    ) -> Result<authorization::Verdict, Refusal> {
        self.ask_authorization::<P>(authorization::Reason::Refresh, channel, &[])
    }

    /// Publishes `data` to a channel as the host's user.
    ///
    /// # Errors
    ///
    /// What the plugin refuses with.
    pub fn filter<P: Filtering>(
        &mut self,
        channel: &str,
        data: impl AsRef<[u8]>,
    ) -> Result<filtering::Verdict, Refusal> {
        let message = self.message(channel, data.as_ref());
        self.run(true, data.as_ref(), || P::filter(message))
    }

    /// Publishes `data` to a channel as the host's user, behind the filters.
    ///
    /// # Errors
    ///
    /// What the plugin refuses with.
    pub fn route<P: Routing>(
        &mut self,
        channel: &str,
        data: impl AsRef<[u8]>,
    ) -> Result<routing::Verdict, Refusal> {
        let message = self.message(channel, data.as_ref());
        self.run(true, data.as_ref(), || {
            let verdict = P::route(message)?;
            if let routing::Verdict::Routed(destinations) = &verdict {
                destinations.send();
            }
            Ok(verdict)
        })
    }

    /// Calls a method as the host's user.
    ///
    /// # Errors
    ///
    /// What the plugin refuses with.
    pub fn call<P: Rpc>(
        &mut self,
        method: &str,
        data: impl AsRef<[u8]>,
    ) -> Result<rpc::Verdict, Refusal> {
        let user = self.user_of_call();
        let request = rpc::Request::new(method.to_owned(), user, data.as_ref().to_vec());
        self.run(false, data.as_ref(), || P::call(request))
    }

    /// Tells of events.
    ///
    /// # Errors
    ///
    /// Why the plugin cannot deal with them; then nothing that it queued takes place.
    pub fn handle<P: Events>(&mut self, batch: Vec<Event>) -> Result<(), Trouble> {
        self.run_alone(|| P::handle(batch))
    }

    /// Runs a period of the plugin's, due at the host's time.
    ///
    /// # Errors
    ///
    /// Why the plugin could not do it; then nothing that it queued takes place.
    ///
    /// # Panics
    ///
    /// When the plugin has no period of that name.
    #[track_caller]
    pub fn run_period<P: Schedule>(&mut self, period: &str) -> Result<(), Trouble> {
        let found = P::PERIODS.iter().find(|known| known.name() == period);
        let period = found.unwrap_or_else(|| panic!("the plugin has no period `{period}`"));
        let every = u64::try_from(period.every().as_millis()).unwrap_or(u64::MAX);
        let due_ms = self.state.facts.now_ms / every.max(1) * every;
        let run = schedule::Run::new(period.name().to_owned(), due_ms);
        self.run_alone(|| P::run(run))
    }

    fn ask_authorization<P: Authorization>(
        &mut self,
        reason: authorization::Reason,
        channel: &str,
        data: &[u8],
    ) -> Result<authorization::Verdict, Refusal> {
        let user = self.user_of_call();
        let request = authorization::Request::new(reason, channel.to_owned(), user, data.to_vec());
        self.run(false, data, || P::authorize(request))
    }

    fn message(&self, channel: &str, data: &[u8]) -> Message {
        Message::new(channel.to_owned(), self.user_of_call(), data.to_vec())
    }

    /// The server API and plugins publish as nobody.
    fn user_of_call(&self) -> String {
        match self.state.facts.origin {
            None | Some(Origin::Client) => self.state.facts.user.clone(),
            Some(Origin::ServerApi | Origin::Plugin) => String::new(),
        }
    }

    /// Makes a call that no client has a part in.
    fn run_alone(&mut self, call: impl FnOnce() -> Result<(), Trouble>) -> Result<(), Trouble> {
        let before = self.state.facts.origin.replace(Origin::Plugin);
        let answer = self.run(false, &[], call);
        self.state.facts.origin = before;
        answer
    }

    fn run<V, E>(
        &mut self,
        has_message: bool,
        data: &[u8],
        call: impl FnOnce() -> Result<V, E>,
    ) -> Result<V, E> {
        config::forget();
        let mut state = self.state.clone();
        state.effects = host::Effects {
            tags: state.facts.tags.clone(),
            ..host::Effects::default()
        };
        state.has_message = has_message;
        state.data = data.to_vec();
        state.keys.operations = 0;
        state.stored.operations = 0;
        let (answer, state) = host::scope(state, call);
        self.state = state;
        if answer.is_err() {
            // A refused message goes nowhere, and what its call queued is not made.
            let log = std::mem::take(&mut self.state.effects.log);
            self.state.effects = host::Effects {
                log,
                ..host::Effects::default()
            };
        }
        answer
    }
}

/// What the last call did.
impl Host {
    /// The lines that it wrote.
    pub fn log(&self) -> Vec<LogLine> {
        let lines = self.state.effects.log.iter();
        lines
            .map(|(level, text)| LogLine {
                level: *level,
                text: text.clone(),
            })
            .collect()
    }

    /// The publications that it queued.
    pub fn publications(&self) -> Vec<Publication> {
        let publications = self.state.effects.publications.iter();
        publications
            .map(|(channel, data)| Publication {
                channel: channel.clone(),
                data: data.clone(),
            })
            .collect()
    }

    /// The tags that the message goes on with.
    pub fn tags(&self) -> &BTreeMap<String, String> {
        &self.state.effects.tags
    }

    /// Whether the message is kept out of the history.
    pub fn is_history_skipped(&self) -> bool {
        self.state.effects.is_history_skipped
    }

    /// The key that the message was given.
    pub fn idempotency_key(&self) -> Option<&str> {
        self.state.effects.idempotency_key.as_deref()
    }

    /// The connections that it wants closed.
    pub fn disconnects(&self) -> Vec<Disconnect> {
        let disconnects = self.state.effects.disconnects.iter();
        disconnects
            .map(|(target, code, reason)| Disconnect {
                target: target.clone(),
                code: *code,
                reason: reason.clone(),
            })
            .collect()
    }

    /// The subscriptions that it wants taken away.
    pub fn unsubscribes(&self) -> Vec<Unsubscribe> {
        let unsubscribes = self.state.effects.unsubscribes.iter();
        unsubscribes
            .map(|(target, channel)| Unsubscribe {
                target: target.clone(),
                channel: channel.clone(),
            })
            .collect()
    }

    /// A counter or a gauge as all calls so far left it; `None` if nothing was recorded.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        match self.state.numbers.get(name, labels)? {
            Number::Counter(count) => Some(*count as f64),
            Number::Gauge(value) => Some(*value),
            Number::Histogram(_) => None,
        }
    }

    /// What all calls so far added to a histogram.
    pub fn observations(&self, name: &str, labels: &[(&str, &str)]) -> Vec<f64> {
        match self.state.numbers.get(name, labels) {
            Some(Number::Histogram(observed)) => observed.clone(),
            Some(Number::Counter(_) | Number::Gauge(_)) | None => Vec::new(),
        }
    }

    /// The value that a key of the plugin's [`store`](crate::store) holds, at the host's time.
    pub fn stored(&self, key: &str) -> Option<Vec<u8>> {
        match self.state.stored.held(key, self.state.facts.now_ms)? {
            Stored::Value(value) => Some(value.clone()),
            Stored::Counter(_) => None,
        }
    }

    /// The count that a key of the plugin's [`store`](crate::store) holds, at the host's time; 0 where there is none.
    pub fn stored_count(&self, key: &str) -> i64 {
        match self.state.stored.held(key, self.state.facts.now_ms) {
            Some(Stored::Counter(count)) => *count,
            Some(Stored::Value(_)) | None => 0,
        }
    }

    /// The value that a key of the plugin's state holds, at the host's time.
    pub fn state(&self, key: &str) -> Option<Vec<u8>> {
        match self.state.keys.held(key, self.state.facts.now_ms)? {
            Held::Value(value) => Some(value.clone()),
            Held::Counter(_) => None,
        }
    }

    /// The count that a key of the plugin's state holds, at the host's time; 0 where there is none.
    pub fn count(&self, key: &str) -> i64 {
        match self.state.keys.held(key, self.state.facts.now_ms) {
            Some(Held::Counter(count)) => *count,
            Some(Held::Value(_)) | None => 0,
        }
    }

    /// Whether the message may be sent as a difference, if the plugin said anything about that.
    pub fn delta(&self) -> Option<bool> {
        self.state.effects.delta
    }
}

#[track_caller]
fn text_of<T: Serialize>(what: &'static str, value: &T) -> String {
    String::from_utf8(json::print(what, value)).expect("JSON is UTF-8")
}
