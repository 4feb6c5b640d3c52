//! The two forms that carry several commands: batch, and the legacy one.

use axum::{http::StatusCode, response::Response};
use futures_util::{StreamExt, stream};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{
    collections::HashMap,
    sync::atomic::{AtomicUsize, Ordering},
};
use tidegate_protocol::{ApiErrorCode, ErrorCode, server_api::ApiError};

use super::{
    Api,
    auth::Caller,
    call::{Fault, Method, error_to_json, parse},
    json, plain, respond,
};
use crate::api::ErrorMode;

/// Commands of a parallel batch that run at the same time; the reference's number.
const BATCH_IN_FLIGHT: usize = 1024;

/// Commands of one request; each costs an answer, even where it does nothing.
const MAX_COMMANDS: usize = 10_000;

/// Bytes of replies after which no further command of the request is carried out: four history pages.
const MAX_REPLY_BYTES: usize = 4 * 1024 * 1024;

const TOO_MANY_COMMANDS: &str = "the request has more than 10000 commands; send them in several";

/// What the commands of one request may answer together.
struct Allowance {
    num_bytes: AtomicUsize,
    /// Held by a command with a large answer, so that those of a parallel batch do not all begin before the first
    /// has been counted.
    large: tokio::sync::Mutex<()>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch {
    #[serde(default)]
    commands: Vec<HashMap<String, Box<RawValue>>>,
    #[serde(default)]
    parallel: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LegacyCommand<'a> {
    #[serde(default)]
    id: u64,
    #[serde(borrow)]
    method: &'a RawValue,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
}

impl Api {
    /// `{"commands": […]}` to `{"replies": […]}`, in the same order; results are bare, without envelope.
    pub(super) async fn batch(&self, caller: &Caller, body: &[u8]) -> Response {
        let batch: Batch = match parse(body) {
            Ok(batch) => batch,
            Err(fault) => return respond(Err(fault), ErrorMode::Envelope),
        };
        if batch.commands.len() > MAX_COMMANDS {
            return respond(
                Err(Fault::Malformed(TOO_MANY_COMMANDS)),
                ErrorMode::Envelope,
            );
        }
        let allowance = &Allowance::new();
        let in_flight = if batch.parallel { BATCH_IN_FLIGHT } else { 1 };
        let replies: Vec<Vec<u8>> = stream::iter(batch.commands)
            .map(|command| async {
                tokio::task::coop::consume_budget().await;
                self.batch_command(caller, command, allowance).await
            })
            .buffered(in_flight)
            .collect()
            .await;
        let mut out =
            Vec::with_capacity(16 + replies.iter().map(|reply| reply.len() + 1).sum::<usize>());
        out.extend_from_slice(br#"{"replies":["#);
        for (index, reply) in replies.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.extend_from_slice(reply);
        }
        out.extend_from_slice(b"]}");
        json(StatusCode::OK, out)
    }

    async fn batch_command(
        &self,
        caller: &Caller,
        command: HashMap<String, Box<RawValue>>,
        allowance: &Allowance,
    ) -> Vec<u8> {
        let mut members = command.into_iter();
        let (Some((name, request)), None) = (members.next(), members.next()) else {
            return wrap(
                "error",
                &error_to_json(&ApiError::from(ApiErrorCode::BadRequest)),
            );
        };
        let Some(method) = Method::from_name(&name) else {
            return wrap(
                "error",
                &error_to_json(&ApiError::from(ApiErrorCode::NotFound)),
            );
        };
        match self
            .call_within(allowance, caller, method, request.get().as_bytes())
            .await
        {
            Ok(result) => wrap(method.name(), &result),
            Err(fault) => wrap("error", &error_to_json(&error_of(fault))),
        }
    }

    /// Calls a method unless the request has been answered enough.
    async fn call_within(
        &self,
        allowance: &Allowance,
        caller: &Caller,
        method: Method,
        request: &[u8],
    ) -> Result<Vec<u8>, Fault> {
        let _turn = match method {
            Method::History | Method::Channels => Some(allowance.large.lock().await),
            _ => None,
        };
        if allowance.is_spent() {
            return Err(Fault::Api(ApiError {
                code: ErrorCode::LimitExceeded.code(),
                message: format!(
                    "{}: the replies of this request are larger than 4 MiB; ask for the rest in another one",
                    ErrorCode::LimitExceeded.text()
                ),
            }));
        }
        let answer = self.call(caller, method, request).await;
        if let Ok(result) = &answer {
            allowance.spend(result.len());
        }
        answer
    }

    /// Commands one after another, replies on one line each.
    pub(super) async fn legacy(&self, caller: &Caller, body: &[u8]) -> Response {
        let mut out = Vec::new();
        let commands: Result<Vec<_>, _> = serde_json::Deserializer::from_slice(body)
            .into_iter::<LegacyCommand<'_>>()
            .take(MAX_COMMANDS + 1)
            .collect();
        let Ok(commands) = commands else {
            return plain(
                StatusCode::BAD_REQUEST,
                "the request body is not a sequence of commands",
            );
        };
        if commands.len() > MAX_COMMANDS {
            return plain(StatusCode::BAD_REQUEST, TOO_MANY_COMMANDS);
        }
        let allowance = Allowance::new();
        for command in commands {
            if !out.is_empty() {
                out.push(b'\n');
            }
            tokio::task::coop::consume_budget().await;
            let reply = self.legacy_command(caller, &command, &allowance).await;
            out.push(b'{');
            if command.id != 0 {
                out.extend_from_slice(format!("\"id\":{},", command.id).as_bytes());
            }
            // Without the brace that `wrap` opened: the id goes in front.
            out.extend_from_slice(reply.get(1..).unwrap_or_default());
        }
        if out.is_empty() {
            return plain(StatusCode::BAD_REQUEST, "the request body has no command");
        }
        json(StatusCode::OK, out)
    }

    async fn legacy_command(
        &self,
        caller: &Caller,
        command: &LegacyCommand<'_>,
        allowance: &Allowance,
    ) -> Vec<u8> {
        let Some(method) = legacy_method(command.method) else {
            return wrap(
                "error",
                &error_to_json(&ApiError::from(ApiErrorCode::NotFound)),
            );
        };
        let params = command.params.map_or("{}", RawValue::get);
        match self
            .call_within(allowance, caller, method, params.as_bytes())
            .await
        {
            Ok(result) => wrap("result", &result),
            Err(fault) => wrap("error", &error_to_json(&error_of(fault))),
        }
    }
}

impl Allowance {
    fn new() -> Self {
        Self {
            num_bytes: AtomicUsize::new(MAX_REPLY_BYTES),
            large: tokio::sync::Mutex::default(),
        }
    }

    fn is_spent(&self) -> bool {
        self.num_bytes.load(Ordering::Relaxed) == 0
    }

    fn spend(&self, num_bytes: usize) {
        let left = self.num_bytes.load(Ordering::Relaxed);
        // The commands of a request are polled by one task: nobody writes in between.
        self.num_bytes
            .store(left.saturating_sub(num_bytes), Ordering::Relaxed);
    }
}

fn legacy_method(method: &RawValue) -> Option<Method> {
    if let Ok(number) = method.get().parse() {
        return Method::from_number(number);
    }
    let name: String = serde_json::from_str(method.get()).ok()?;
    Method::from_name(&name.to_ascii_lowercase())
}

/// Inside a batch there is no HTTP status to say it with.
fn error_of(fault: Fault) -> ApiError {
    match fault {
        Fault::Api(error) => error,
        Fault::Malformed(why) | Fault::UnknownMember(why) => ApiError {
            code: ApiErrorCode::BadRequest.code(),
            message: format!("bad request: {why}"),
        },
        Fault::Forbidden => ApiError {
            code: ErrorCode::PermissionDenied.code(),
            message: ErrorCode::PermissionDenied.text().to_owned(),
        },
    }
}

/// `{"name":value}`.
pub(super) fn wrap(name: &str, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len() + value.len() + 5);
    out.extend_from_slice(b"{\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    out.extend_from_slice(value);
    out.push(b'}');
    out
}
