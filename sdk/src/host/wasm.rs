//! The component's imports, with the SDK's own types.

use crate::{
    bindings::capabilities::tidegate::plugin as wit, context::Origin, log::Level,
    publishing::PublishError, routing::Target,
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
