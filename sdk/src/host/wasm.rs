//! The component's imports, with the SDK's own types.

use crate::{
    bindings::capabilities::tidegate::plugin as wit, context::Origin, log::Level,
    publishing::PublishError, routing::Target, state::StateError,
};

pub(crate) use wit::{
    clock::now as now_ms,
    config::get as config,
    context::{
        app, claims, client_id, client_name, client_version, header, hops, info, meta,
        remote_address, tag, token_error, trace_id, transport, user, version,
    },
    message::{remove_tag, set_delta, set_idempotency_key, set_tag, skip_history},
    random::{bytes as random_bytes, number as random_number},
};

pub(crate) fn log(level: Level, text: &str) {
    let level = match level {
        Level::Trace => wit::log::Level::Trace,
        Level::Debug => wit::log::Level::Debug,
        Level::Info => wit::log::Level::Info,
        Level::Warn => wit::log::Level::Warn,
        Level::Error => wit::log::Level::Error,
    };
    wit::log::log(level, text);
}

pub(crate) fn origin() -> Origin {
    match wit::context::origin() {
        wit::context::OriginKind::Client => Origin::Client,
        wit::context::OriginKind::ServerApi => Origin::ServerApi,
        wit::context::OriginKind::Plugin => Origin::Plugin,
    }
}

pub(crate) fn send_to(target: &Target, data: Option<&[u8]>) {
    match target {
        Target::Origin => wit::message::to_origin(data),
        Target::Channel(channel) => wit::message::to_channel(channel, data),
        Target::User(user) => wit::message::to_user(user, data),
        Target::Session(client_id) => wit::message::to_session(client_id, data),
    }
}

pub(crate) fn publish(channel: &str, data: &[u8]) -> Result<(), PublishError> {
    wit::publishing::publish(channel, data).map_err(|error| match error {
        wit::publishing::PublishError::Invalid(reason) => PublishError::Invalid(reason),
        wit::publishing::PublishError::Limit(reason) => PublishError::Limit(reason),
    })
}

fn state_error(error: wit::state::StateError) -> StateError {
    match error {
        wit::state::StateError::Invalid(reason) => StateError::Invalid(reason),
        wit::state::StateError::TooLarge(reason) => StateError::TooLarge(reason),
        wit::state::StateError::Limit(reason) => StateError::Limit(reason),
        wit::state::StateError::Quota(reason) => StateError::Quota(reason),
        wit::state::StateError::WrongKind(reason) => StateError::WrongKind(reason),
    }
}

pub(crate) fn state_get(key: &str) -> Result<Option<Vec<u8>>, StateError> {
    wit::state::get(key).map_err(state_error)
}

pub(crate) fn state_set(key: &str, value: &[u8], ttl_ms: u64) -> Result<(), StateError> {
    wit::state::set(key, value, ttl_ms).map_err(state_error)
}

pub(crate) fn state_compare_and_set(
    key: &str,
    expected: Option<&[u8]>,
    value: &[u8],
    ttl_ms: u64,
) -> Result<bool, StateError> {
    wit::state::compare_and_set(key, expected, value, ttl_ms).map_err(state_error)
}

pub(crate) fn state_delete(key: &str) -> Result<bool, StateError> {
    wit::state::delete(key).map_err(state_error)
}

pub(crate) fn state_increment(key: &str, by: i64, ttl_ms: u64) -> Result<i64, StateError> {
    wit::state::increment(key, by, ttl_ms).map_err(state_error)
}

pub(crate) fn state_count(key: &str) -> Result<i64, StateError> {
    wit::state::count(key).map_err(state_error)
}

pub(crate) fn state_time_left(key: &str) -> Result<Option<u64>, StateError> {
    wit::state::time_left(key).map_err(state_error)
}
