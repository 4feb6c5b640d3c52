//! Stand-ins for the node: one per test thread, there only while the test kit makes a call.
//!
//! They keep the contract's limits, so that a plugin which passes here does not fail there: what would fail the
//! hook call on a node panics with the reason.

mod json;
mod metrics;
mod sessions;
mod state;
mod store;

use std::{cell::RefCell, collections::BTreeMap};

use crate::{
    context::Origin, log::Level, publishing::PublishError, routing::Target,
    sessions::Target as SessionTarget, testing::Publication,
};

pub(crate) use self::{json::*, metrics::*, sessions::*, state::*, store::*};

/// Limits of `wit/capabilities.wit`.
const MAX_TAGS: usize = 16;
const MAX_TAG_KEY_BYTES: usize = 64;
const MAX_IDEMPOTENCY_KEY_BYTES: usize = 64;
const MAX_TAG_VALUE_BYTES: usize = 256;
const MAX_DESTINATIONS: usize = 64;
const MAX_RANDOM_BYTES: u32 = 1024;
const MAX_EFFECTS: usize = 32;
const MAX_LOG_BYTES: usize = 1024;
/// A node's default (`channel.max_length`).
const MAX_CHANNEL_BYTES: usize = 255;
/// Messages that so many plugins in a row have made are not published again.
const MAX_HOPS: u32 = 3;

/// Everything that the plugin can ask, and everything that it did.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub(crate) facts: Facts,
    pub(crate) effects: Effects,
    /// State of the generator behind `random`.
    pub(crate) seed: u64,
    /// Whether the call in hand may change the message (filtering and routing).
    pub(crate) has_message: bool,
    /// What the plugin remembers.
    pub(crate) keys: Keys,
    /// What it keeps in the store.
    pub(crate) stored: StoredKeys,
    /// What it recorded for the monitoring.
    pub(crate) numbers: Numbers,
    /// The data of the message or command in hand.
    pub(crate) data: Vec<u8>,
}

/// What the test says about the world.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    pub(crate) config: Option<String>,
    pub(crate) app: String,
    pub(crate) version: u32,
    pub(crate) trace_id: String,
    pub(crate) origin: Option<Origin>,
    pub(crate) user: String,
    pub(crate) client_id: String,
    pub(crate) transport: String,
    pub(crate) client_name: Option<String>,
    pub(crate) client_version: Option<String>,
    pub(crate) remote_address: Option<String>,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) claims: Option<String>,
    pub(crate) token_error: Option<String>,
    pub(crate) meta: Option<Vec<u8>>,
    pub(crate) info: Option<Vec<u8>>,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) hops: u32,
    /// The users who are subscribed to a channel, once for each session.
    pub(crate) presence: BTreeMap<String, Vec<String>>,
    pub(crate) now_ms: u64,
    pub(crate) remaining_ms: u32,
}

/// What the last call did.
#[derive(Debug, Clone, Default)]
pub(crate) struct Effects {
    pub(crate) log: Vec<(Level, String)>,
    pub(crate) publications: Vec<Publication>,
    pub(crate) disconnects: Vec<(SessionTarget, u32, String)>,
    pub(crate) unsubscribes: Vec<(SessionTarget, String)>,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) is_history_skipped: bool,
    pub(crate) idempotency_key: Option<String>,
    pub(crate) delta: Option<bool>,
    pub(crate) destinations: usize,
}

impl Effects {
    /// How many effects are queued, of all kinds.
    pub(crate) fn queued(&self) -> usize {
        self.publications.len() + self.disconnects.len() + self.unsubscribes.len()
    }
}

thread_local! {
    static CURRENT: RefCell<Option<State>> = const { RefCell::new(None) };
}

/// Puts `state` in place while `call` runs, and hands it back changed.
pub(crate) fn scope<T>(state: State, call: impl FnOnce() -> T) -> (T, State) {
    /// Empties the place even when the plugin panics, so that the thread's next test starts clean.
    struct Clear;
    impl Drop for Clear {
        fn drop(&mut self) {
            CURRENT.take();
        }
    }

    let before = CURRENT.replace(Some(state));
    assert!(
        before.is_none(),
        "a hook of the plugin called the test kit; only tests may"
    );
    let clear = Clear;
    let answer = call();
    let state = CURRENT
        .take()
        .expect("the state stays in place during a call");
    drop(clear);
    (answer, state)
}

fn with<T>(ask: impl FnOnce(&mut State) -> T) -> T {
    CURRENT.with_borrow_mut(|current| {
        let state = current.as_mut().expect(
            "no call is in hand: outside of a node, capabilities answer only while \
             `tidegate_sdk::testing::Host` calls a hook",
        );
        ask(state)
    })
}

/// Facts about the session are absent where no client caused the call.
fn of_client(fact: impl FnOnce(&Facts) -> Option<String>) -> Option<String> {
    with(|state| match state.facts.origin {
        None | Some(Origin::Client) => fact(&state.facts),
        Some(Origin::ServerApi | Origin::Plugin) => None,
    })
}

pub(crate) fn log(level: Level, text: &str) {
    let mut end = text.len().min(MAX_LOG_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    with(|state| state.effects.log.push((level, text[..end].to_owned())));
}

pub(crate) fn config() -> String {
    with(|state| {
        state
            .facts
            .config
            .clone()
            .unwrap_or_else(|| "{}".to_owned())
    })
}

pub(crate) fn app() -> String {
    with(|state| state.facts.app.clone())
}

pub(crate) fn version() -> u32 {
    with(|state| state.facts.version)
}

pub(crate) fn trace_id() -> String {
    with(|state| state.facts.trace_id.clone())
}

pub(crate) fn origin() -> Origin {
    with(|state| state.facts.origin.unwrap_or(Origin::Client))
}

pub(crate) fn user() -> Option<String> {
    of_client(|facts| Some(facts.user.clone()))
}

pub(crate) fn client_id() -> Option<String> {
    of_client(|facts| Some(facts.client_id.clone()))
}

pub(crate) fn transport() -> Option<String> {
    of_client(|facts| Some(facts.transport.clone()))
}

pub(crate) fn client_name() -> Option<String> {
    of_client(|facts| facts.client_name.clone())
}

pub(crate) fn client_version() -> Option<String> {
    of_client(|facts| facts.client_version.clone())
}

pub(crate) fn remote_address() -> Option<String> {
    of_client(|facts| facts.remote_address.clone())
}

pub(crate) fn header(name: &str) -> Option<String> {
    of_client(|facts| facts.headers.get(name).cloned())
}

pub(crate) fn claims() -> Option<String> {
    with(|state| state.facts.claims.clone())
}

pub(crate) fn token_error() -> Option<String> {
    with(|state| state.facts.token_error.clone())
}

pub(crate) fn meta() -> Option<Vec<u8>> {
    with(|state| state.facts.meta.clone())
}

pub(crate) fn info() -> Option<Vec<u8>> {
    with(|state| state.facts.info.clone())
}

pub(crate) fn tag(key: &str) -> Option<String> {
    with(|state| state.effects.tags.get(key).cloned())
}

pub(crate) fn hops() -> u32 {
    with(|state| state.facts.hops)
}

pub(crate) fn remaining_ms() -> u32 {
    with(|state| state.facts.remaining_ms)
}

pub(crate) fn now_ms() -> u64 {
    with(|state| state.facts.now_ms)
}

pub(crate) fn random_bytes(len: u32) -> Vec<u8> {
    assert!(
        len <= MAX_RANDOM_BYTES,
        "{len} random bytes were asked for; a call gives at most {MAX_RANDOM_BYTES}"
    );
    let mut bytes = Vec::new();
    while bytes.len() < len as usize {
        bytes.extend(random_number().to_le_bytes());
    }
    bytes.truncate(len as usize);
    bytes
}

/// SplitMix64: every seed, zero too, gives a good sequence, and a test that fails fails again.
pub(crate) fn random_number() -> u64 {
    with(|state| {
        state.seed = state.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state.seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    })
}

fn change(edit: impl FnOnce(&mut Effects)) {
    with(|state| {
        assert!(
            state.has_message,
            "the message can be changed only while filtering or routing is asked"
        );
        edit(&mut state.effects);
    });
}

pub(crate) fn set_tag(key: &str, value: &str) {
    assert!(
        (1..=MAX_TAG_KEY_BYTES).contains(&key.len()),
        "tag key `{key}` has {} bytes; 1 to {MAX_TAG_KEY_BYTES} are allowed",
        key.len()
    );
    assert!(
        value.len() <= MAX_TAG_VALUE_BYTES,
        "the value of tag `{key}` has {} bytes; at most {MAX_TAG_VALUE_BYTES} are allowed",
        value.len()
    );
    change(|effects| {
        effects.tags.insert(key.to_owned(), value.to_owned());
        assert!(
            effects.tags.len() <= MAX_TAGS,
            "a message has at most {MAX_TAGS} tags"
        );
    });
}

pub(crate) fn remove_tag(key: &str) {
    change(|effects| {
        effects.tags.remove(key);
    });
}

pub(crate) fn skip_history() {
    change(|effects| effects.is_history_skipped = true);
}

pub(crate) fn set_idempotency_key(key: &str) {
    assert!(
        (1..=MAX_IDEMPOTENCY_KEY_BYTES).contains(&key.len()),
        "an idempotency key has 1 to {MAX_IDEMPOTENCY_KEY_BYTES} bytes"
    );
    change(|effects| effects.idempotency_key = Some(key.to_owned()));
}

pub(crate) fn set_delta(on: bool) {
    assert!(
        !on,
        "this release makes no differences: set_delta(true) fails the call"
    );
    change(|effects| effects.delta = Some(on));
}

pub(crate) fn send_to(_target: &Target, _data: Option<&[u8]>) {
    change(|effects| {
        effects.destinations += 1;
        assert!(
            effects.destinations <= MAX_DESTINATIONS,
            "a message has at most {MAX_DESTINATIONS} destinations"
        );
    });
}

pub(crate) fn publish(channel: &str, data: &[u8]) -> Result<(), PublishError> {
    publish_newer(channel, data, 0)
}

pub(crate) fn publish_newer(channel: &str, data: &[u8], version: u64) -> Result<(), PublishError> {
    if channel.is_empty() || channel.len() > MAX_CHANNEL_BYTES {
        return Err(PublishError::Invalid(format!(
            "a channel name has 1 to {MAX_CHANNEL_BYTES} bytes"
        )));
    }
    if !channel.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        return Err(PublishError::Invalid(
            "a channel name is printable ASCII".to_owned(),
        ));
    }
    if data.is_empty() {
        return Err(PublishError::Invalid("data is empty".to_owned()));
    }
    with(|state| {
        if state.facts.hops + 1 >= MAX_HOPS {
            return Err(PublishError::Limit(
                "the message in hand is at its last hop".to_owned(),
            ));
        }
        if state.effects.queued() >= MAX_EFFECTS {
            return Err(PublishError::Limit(format!(
                "{MAX_EFFECTS} effects are queued already"
            )));
        }
        state.effects.publications.push(Publication {
            channel: channel.to_owned(),
            data: data.to_vec(),
            version,
        });
        Ok(())
    })
}
