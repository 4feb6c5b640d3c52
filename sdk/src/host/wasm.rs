//! The component's imports, with the SDK's own types.

use crate::{
    bindings::capabilities::tidegate::plugin as wit,
    context::Origin,
    json::{FieldError, Kind},
    log::Level,
    metrics::MetricsError,
    presence::{Member, PresenceError, Stats},
    publishing::PublishError,
    routing::Target,
    sessions::{self, SessionsError},
    state::StateError,
    store::StoreError,
};

pub(crate) use wit::{
    budget::remaining as remaining_ms,
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

fn publish_error(error: wit::publishing::PublishError) -> PublishError {
    match error {
        wit::publishing::PublishError::Invalid(reason) => PublishError::Invalid(reason),
        wit::publishing::PublishError::Limit(reason) => PublishError::Limit(reason),
    }
}

pub(crate) fn publish(channel: &str, data: &[u8]) -> Result<(), PublishError> {
    wit::publishing::publish(channel, data).map_err(publish_error)
}

pub(crate) fn publish_newer(channel: &str, data: &[u8], version: u64) -> Result<(), PublishError> {
    wit::publishing::publish_newer(channel, data, version).map_err(publish_error)
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

fn store_error(error: wit::store::StoreError) -> StoreError {
    match error {
        wit::store::StoreError::Invalid(reason) => StoreError::Invalid(reason),
        wit::store::StoreError::TooLarge(reason) => StoreError::TooLarge(reason),
        wit::store::StoreError::Limit(reason) => StoreError::Limit(reason),
        wit::store::StoreError::Quota(reason) => StoreError::Quota(reason),
        wit::store::StoreError::WrongKind(reason) => StoreError::WrongKind(reason),
        wit::store::StoreError::Unavailable(reason) => StoreError::Unavailable(reason),
    }
}

pub(crate) fn store_get(key: &str) -> Result<Option<Vec<u8>>, StoreError> {
    wit::store::get(key).map_err(store_error)
}

pub(crate) fn store_set(key: &str, value: &[u8], ttl_ms: Option<u64>) -> Result<(), StoreError> {
    wit::store::set(key, value, ttl_ms).map_err(store_error)
}

pub(crate) fn store_compare_and_set(
    key: &str,
    expected: Option<&[u8]>,
    value: &[u8],
    ttl_ms: Option<u64>,
) -> Result<bool, StoreError> {
    wit::store::compare_and_set(key, expected, value, ttl_ms).map_err(store_error)
}

pub(crate) fn store_delete(key: &str) -> Result<bool, StoreError> {
    wit::store::delete(key).map_err(store_error)
}

pub(crate) fn store_increment(key: &str, by: i64, ttl_ms: Option<u64>) -> Result<i64, StoreError> {
    wit::store::increment(key, by, ttl_ms).map_err(store_error)
}

pub(crate) fn store_count(key: &str) -> Result<i64, StoreError> {
    wit::store::count(key).map_err(store_error)
}

fn metrics_error(error: wit::metrics::MetricsError) -> MetricsError {
    match error {
        wit::metrics::MetricsError::Invalid(reason) => MetricsError::Invalid(reason),
        wit::metrics::MetricsError::Limit(reason) => MetricsError::Limit(reason),
    }
}

fn owned(labels: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = labels.iter();
    owned
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

pub(crate) fn metrics_increment(
    name: &str,
    labels: &[(&str, &str)],
    by: u64,
) -> Result<(), MetricsError> {
    wit::metrics::increment(name, &owned(labels), by).map_err(metrics_error)
}

pub(crate) fn metrics_set_gauge(
    name: &str,
    labels: &[(&str, &str)],
    value: f64,
) -> Result<(), MetricsError> {
    wit::metrics::set_gauge(name, &owned(labels), value).map_err(metrics_error)
}

pub(crate) fn metrics_observe(
    name: &str,
    labels: &[(&str, &str)],
    value: f64,
) -> Result<(), MetricsError> {
    wit::metrics::observe(name, &owned(labels), value).map_err(metrics_error)
}

fn kind(kind: wit::json::Kind) -> Kind {
    match kind {
        wit::json::Kind::Null => Kind::Null,
        wit::json::Kind::Boolean => Kind::Boolean,
        wit::json::Kind::Number => Kind::Number,
        wit::json::Kind::Text => Kind::Text,
        wit::json::Kind::Array => Kind::Array,
        wit::json::Kind::Object => Kind::Object,
    }
}

fn field_error(pointer: &str, error: wit::json::JsonError) -> FieldError {
    match error {
        wit::json::JsonError::NotJson(reason) => FieldError::NotJson(reason),
        wit::json::JsonError::BadPointer(reason) => FieldError::BadPointer(reason),
        wit::json::JsonError::WrongKind(found) => FieldError::WrongKind {
            pointer: pointer.to_owned(),
            kind: kind(found),
        },
    }
}

pub(crate) fn json_kind(pointer: &str) -> Result<Option<Kind>, FieldError> {
    match wit::json::kind_of(pointer) {
        Ok(found) => Ok(found.map(kind)),
        Err(error) => Err(field_error(pointer, error)),
    }
}

pub(crate) fn json_text(pointer: &str) -> Result<Option<String>, FieldError> {
    wit::json::text(pointer).map_err(|error| field_error(pointer, error))
}

pub(crate) fn json_number(pointer: &str) -> Result<Option<f64>, FieldError> {
    wit::json::number(pointer).map_err(|error| field_error(pointer, error))
}

pub(crate) fn json_integer(pointer: &str) -> Result<Option<i64>, FieldError> {
    wit::json::integer(pointer).map_err(|error| field_error(pointer, error))
}

pub(crate) fn json_boolean(pointer: &str) -> Result<Option<bool>, FieldError> {
    wit::json::boolean(pointer).map_err(|error| field_error(pointer, error))
}

pub(crate) fn json_length(pointer: &str) -> Result<Option<u32>, FieldError> {
    wit::json::length(pointer).map_err(|error| field_error(pointer, error))
}

pub(crate) fn json_raw(pointer: &str) -> Result<Option<Vec<u8>>, FieldError> {
    wit::json::raw(pointer).map_err(|error| field_error(pointer, error))
}

fn sessions_error(error: wit::sessions::SessionsError) -> SessionsError {
    match error {
        wit::sessions::SessionsError::Invalid(reason) => SessionsError::Invalid(reason),
        wit::sessions::SessionsError::Limit(reason) => SessionsError::Limit(reason),
    }
}

fn session_target(target: &sessions::Target) -> wit::sessions::Target {
    match target {
        sessions::Target::User(user) => wit::sessions::Target::User(user.clone()),
        sessions::Target::Client(client) => wit::sessions::Target::Client(client.clone()),
    }
}

pub(crate) fn sessions_disconnect(
    target: &sessions::Target,
    code: u32,
    reason: &str,
) -> Result<(), SessionsError> {
    wit::sessions::disconnect(&session_target(target), code, reason).map_err(sessions_error)
}

pub(crate) fn sessions_unsubscribe(
    target: &sessions::Target,
    channel: &str,
) -> Result<(), SessionsError> {
    wit::sessions::unsubscribe(&session_target(target), channel).map_err(sessions_error)
}

fn presence_error(error: wit::presence::PresenceError) -> PresenceError {
    match error {
        wit::presence::PresenceError::Unavailable(reason) => PresenceError::Unavailable(reason),
        wit::presence::PresenceError::NotEnabled(reason) => PresenceError::NotEnabled(reason),
        wit::presence::PresenceError::Invalid(reason) => PresenceError::Invalid(reason),
    }
}

pub(crate) fn presence_count(channel: &str) -> Result<Stats, PresenceError> {
    let wit::presence::Stats { clients, users } =
        wit::presence::count(channel).map_err(presence_error)?;
    Ok(Stats { clients, users })
}

pub(crate) fn presence_members(channel: &str, limit: u32) -> Result<Vec<Member>, PresenceError> {
    let members = wit::presence::members(channel, limit).map_err(presence_error)?;
    let members = members.into_iter();
    Ok(members
        .map(|member| Member {
            client_id: member.client_id,
            user: member.user,
            info: member.info,
            channel_info: member.channel_info,
        })
        .collect())
}

pub(crate) fn presence_is_present(channel: &str, user: &str) -> Result<bool, PresenceError> {
    wit::presence::is_present(channel, user).map_err(presence_error)
}
