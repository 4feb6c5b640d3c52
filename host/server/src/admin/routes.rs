//! The table of routes, and the router made from it.
//!
//! A row says everything about a route: who may call it, what it takes and gives, and what does it. Nothing
//! else adds a route, so a route without a role cannot exist (threat model M4).

use std::{future::Future, pin::Pin, sync::Arc};

use axum::{
    Json, Router,
    body::Body,
    extract::{RawPathParams, Request},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{MethodFilter, MethodRouter, on},
};
use bytes::Bytes;
use serde_json::Value;
use tidegate_control::{AppName, KeyRole, StoreError};
use tokio::time::Instant;

use super::{
    Admin, access::Caller, apps, bindings, blocking, body, body::Query, keys, logs, nodes, openapi,
    pipelines, plugins, problem::Problem, schedule, schemas, sessions, state, statistics,
};

/// In front of every path.
pub(super) const PREFIX: &str = "/admin/v1";

/// One route.
pub(super) struct Route {
    pub(super) method: Verb,
    /// Below [`PREFIX`]. A path with `{app}` is for those whom that app concerns: for everybody else, the app
    /// does not exist (threat model N2).
    pub(super) path: &'static str,
    /// Stable name for generated clients.
    pub(super) operation: &'static str,
    pub(super) summary: &'static str,
    /// The least role that may call it.
    pub(super) role: KeyRole,
    pub(super) query: &'static [Parameter],
    pub(super) request: RequestBody,
    /// Status and schema of the success; of a `stream`, the schema of each line.
    pub(super) response: (u16, &'static str),
    pub(super) handler: Handler,
}

impl Route {
    /// Whether the answer is a JSON value on each line, until somebody ends it.
    pub(super) fn is_stream(&self) -> bool {
        self.path.ends_with("/follow")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Get,
    Post,
    Delete,
}

/// A parameter of the query.
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    pub(super) summary: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestBody {
    None,
    /// A schema by name.
    Json(&'static str),
    Wasm,
}

/// A request that passed everything that all requests have to pass.
pub(super) struct Call {
    pub(super) admin: Arc<Admin>,
    pub(super) caller: Caller,
    /// Set where the path has `{app}`; exists, and the caller may reach it.
    app: Option<AppName>,
    params: Vec<(String, String)>,
    pub(super) query: Query,
    pub(super) body: Bytes,
    /// Members that the request may have.
    members: Vec<&'static str>,
}

/// What a handler answers.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    Nothing,
    Json(Value),
    /// Of this type, for as long as it takes.
    Stream(&'static str, Body),
}

pub(super) type Handling = Pin<Box<dyn Future<Output = Result<Answer, Problem>> + Send>>;
pub(super) type Handler = fn(Call) -> Handling;

const LIMIT: Parameter = Parameter {
    name: "limit",
    kind: "integer",
    summary: "entries on the page, 1 to 200; 50 if absent",
};
const BEFORE: Parameter = Parameter {
    name: "before",
    kind: "integer",
    summary: "the `next` of the page before",
};
const AFTER: Parameter = Parameter {
    name: "after",
    kind: "string",
    summary: "the `next` of the page before",
};
const NOTE: Parameter = Parameter {
    name: "note",
    kind: "string",
    summary: "a line about this version, at most 512 bytes",
};

const SORT: Parameter = Parameter {
    name: "sort",
    kind: "string",
    summary: "calls, cpu, p99, failures or memory, the largest first; by plugin and hook if absent",
};
const HOOK: Parameter = Parameter {
    name: "hook",
    kind: "string",
    summary: "of this hook alone",
};
const CHANNEL: Parameter = Parameter {
    name: "channel",
    kind: "string",
    summary: "those that this channel meets",
};

const LINES: Parameter = Parameter {
    name: "limit",
    kind: "integer",
    summary: "lines of the past, 1 to 1000; 100 if absent",
};
const USER: Parameter = Parameter {
    name: "user",
    kind: "string",
    summary: "only lines about commands of this user",
};
const TRACE: Parameter = Parameter {
    name: "trace",
    kind: "string",
    summary: "only lines of the call with this trace id",
};
const LEVEL: Parameter = Parameter {
    name: "level",
    kind: "string",
    summary: "only lines of this level and graver ones: trace, debug, info, warn, error",
};
const OF_VERSION: Parameter = Parameter {
    name: "version",
    kind: "integer",
    summary: "only lines of this version",
};

const ASKER: Parameter = Parameter {
    name: "user",
    kind: "string",
    summary: "of this user alone",
};
const SUBJECT: Parameter = Parameter {
    name: "channel",
    kind: "string",
    summary: "about this channel alone; for rpc, the method",
};
const OUTCOME: Parameter = Parameter {
    name: "outcome",
    kind: "string",
    summary: "failed, refused or answered",
};
const SESSIONS: Parameter = Parameter {
    name: "limit",
    kind: "integer",
    summary: "sessions to show, 1 to 1000; 100 if absent",
};
const OF_USER: Parameter = Parameter {
    name: "user",
    kind: "string",
    summary: "of this user alone; empty for the anonymous ones",
};
const REVEAL: Parameter = Parameter {
    name: "reveal",
    kind: "boolean",
    summary: "true shows secrets in settings as they are, to operators alone",
};

macro_rules! routes {
    ($(
        $verb:ident $path:literal $role:ident $operation:literal $summary:literal
        ($($query:expr),*) $request:expr => $status:literal $schema:literal, $handler:path;
    )*) => {
        /// Every route of the admin API.
        pub(super) const ROUTES: &[Route] = &[$(Route {
            method: Verb::$verb,
            path: $path,
            operation: $operation,
            summary: $summary,
            role: KeyRole::$role,
            query: &[$($query),*],
            request: $request,
            response: ($status, $schema),
            handler: |call| Box::pin($handler(call)),
        },)*];
    };
}

use RequestBody::{Json as Takes, None as Nothing, Wasm};

routes! {
    Get "/openapi.json" Deploy "getOpenApi" "This document"
        () Nothing => 200 "OpenApi", state::openapi;
    Get "/status" Deploy "getStatus" "The node: version, uptime, who the key is"
        () Nothing => 200 "Status", state::status;
    Get "/nodes" Deploy "listNodes" "Which versions each node of the cluster runs, since when, and what keeps it from others"
        () Nothing => 200 "Nodes", nodes::list;
    Get "/statistics" Operator "getStatistics" "Counters of every plugin"
        () Nothing => 200 "Statistics", statistics::of_node;
    Get "/apps/{app}/statistics" Deploy "listStatistics" "What the plugins of an app did, by version and hook"
        (SORT) Nothing => 200 "HookStatisticsList", statistics::of_app;
    Get "/apps/{app}/plugins/{plugin}/statistics" Deploy "listPluginStatistics" "What a plugin did, by version and hook"
        (SORT) Nothing => 200 "HookStatisticsList", statistics::of_plugin;
    Get "/apps" Deploy "listApps" "Apps that the key reaches"
        () Nothing => 200 "Apps", apps::list;
    Post "/apps" Operator "createApp" "Create an app; the secret for its connection tokens is in this answer alone"
        () Takes("AppRequest") => 201 "NewApp", apps::create;
    Delete "/apps/{app}" Operator "deleteApp" "Delete an app in which nothing is bound, with its plugins and keys, for good"
        () Nothing => 204 "", apps::delete;
    Get "/explain/{trace}" Deploy "explainTrace" "What happened in a plugin call, by the trace id of its error"
        () Nothing => 200 "Story", state::explain;
    Get "/apps/{app}/stories" Deploy "listStories" "What plugins made of an app's commands lately, newest first"
        (ASKER, SUBJECT, OUTCOME, LIMIT) Nothing => 200 "Stories", state::stories;
    Get "/audit" Operator "listAudit" "The audit log of all apps, newest first"
        (LIMIT, BEFORE) Nothing => 200 "AuditEntries", state::audit;
    Get "/apps/{app}/audit" AppAdmin "listAppAudit" "The audit log of an app, newest first"
        (LIMIT, BEFORE) Nothing => 200 "AuditEntries", state::audit;

    Get "/apps/{app}/sessions" AppAdmin "listSessions" "Connected sessions of an app on all nodes, newest first"
        (OF_USER, SESSIONS) Nothing => 200 "Sessions", sessions::list;
    Get "/apps/{app}/sessions/{client}" AppAdmin "getSession" "Where a session is, and since when"
        () Nothing => 200 "Session", sessions::show;
    Delete "/apps/{app}/sessions/{client}" AppAdmin "kickSession" "End a session, on whatever node it is (3503)"
        () Nothing => 204 "", sessions::kick;

    Get "/apps/{app}/plugins" Deploy "listPlugins" "Plugins of an app, by name"
        (AFTER) Nothing => 200 "Plugins", plugins::list;
    Get "/apps/{app}/plugins/{plugin}" Deploy "getPlugin" "A plugin with its newest versions and its bindings"
        (REVEAL) Nothing => 200 "PluginDetails", plugins::inspect;
    Delete "/apps/{app}/plugins/{plugin}" AppAdmin "deletePlugin" "Delete a plugin that is bound nowhere, with its versions"
        () Nothing => 204 "", plugins::delete;
    Get "/apps/{app}/plugins/{plugin}/versions" Deploy "listVersions" "Versions of a plugin, newest first"
        (LIMIT, BEFORE) Nothing => 200 "Versions", plugins::versions;
    Post "/apps/{app}/plugins/{plugin}/versions" Deploy "uploadVersion"
        "Upload a version; makes the plugin if absent; 200 with the newest version when that has the same bytes"
        (NOTE) Wasm => 201 "UploadedVersion", plugins::upload;
    Get "/apps/{app}/plugins/{plugin}/versions/{version}" Deploy "getVersion" "A version: hooks, imports, size, digest"
        () Nothing => 200 "Version", plugins::version;
    Get "/apps/{app}/plugins/{plugin}/logs" Deploy "getLogs" "What a plugin logged of late on this node, oldest first"
        (LINES, USER, TRACE, LEVEL, OF_VERSION) Nothing => 200 "LogItems", logs::recent;
    Get "/apps/{app}/plugins/{plugin}/logs/follow" Deploy "getLogStream"
        "The same, then what it logs from now on: a JSON object on each line, an empty line when nothing came for 15 s"
        (LINES, USER, TRACE, LEVEL, OF_VERSION) Nothing => 200 "LogItem", logs::follow;
    Post "/apps/{app}/plugins/{plugin}/activate" Deploy "activateVersion"
        "Make a version the one that runs; once answered, no later call on this node runs another"
        () Takes("ActivateRequest") => 200 "Activation", plugins::activate;
    Post "/apps/{app}/plugins/{plugin}/rollback" Deploy "rollbackPlugin" "Activate the version that was active before"
        () Takes("Empty") => 200 "Activation", plugins::rollback;

    Get "/apps/{app}/pipelines" Deploy "listPipelines"
        "Who is asked at each hook in each scope, in order, with the time it may take"
        (HOOK, CHANNEL) Nothing => 200 "Pipelines", pipelines::list;
    Get "/apps/{app}/schedule" Deploy "listSchedule"
        "What plugins do by the clock: when each period is due, and what came of the last run"
        () Nothing => 200 "Schedule", schedule::list;
    Get "/apps/{app}/bindings" Deploy "listBindings" "Bindings of an app in the order of its pipelines"
        (REVEAL) Nothing => 200 "Bindings", bindings::list;
    Post "/apps/{app}/bindings" AppAdmin "bindPlugin"
        "Bind a plugin to a hook in a scope; 200 when it was bound there and the binding changed"
        () Takes("BindRequest") => 201 "BoundBinding", bindings::bind;
    Delete "/apps/{app}/bindings/{binding}" AppAdmin "unbindPlugin" "Remove a binding; answers what it was"
        () Nothing => 200 "Binding", bindings::unbind;

    Get "/apps/{app}/keys" AppAdmin "listAppKeys" "Keys of an app, without their secrets"
        () Nothing => 200 "Keys", keys::list;
    Post "/apps/{app}/keys" AppAdmin "createAppKey" "Make a key of an app; the secret is in this answer alone"
        () Takes("AppKeyRequest") => 201 "NewKey", keys::create;
    Delete "/apps/{app}/keys/{key}" AppAdmin "revokeAppKey" "Revoke a key of an app, at once"
        () Nothing => 200 "Key", keys::revoke;
    Get "/keys" Operator "listKeys" "All keys, without their secrets"
        () Nothing => 200 "Keys", keys::list;
    Post "/keys" Operator "createOperatorKey" "Make an operator key; the secret is in this answer alone"
        () Takes("OperatorKeyRequest") => 201 "NewKey", keys::create_operator;
    Delete "/keys/{key}" Operator "revokeKey" "Revoke any key, at once"
        () Nothing => 200 "Key", keys::revoke;
}

pub(super) fn router(admin: &Arc<Admin>) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        let admin = admin.clone();
        let handler = move |params: RawPathParams, request: Request| {
            let admin = admin.clone();
            async move { settle(serve(route, admin, &params, request).await) }
        };
        let method: MethodRouter = on(route.method.filter(), handler);
        router = router.route(&format!("{PREFIX}{}", route.path), method);
    }
    router
        .method_not_allowed_fallback(|| async {
            settle(Err(Problem::new(
                "method-not-allowed",
                "this path has other methods; see /admin/v1/openapi.json",
            )))
        })
        .fallback(|| async {
            settle(Err(Problem::new(
                "not-found",
                "there is no such path; see /admin/v1/openapi.json",
            )))
        })
}

/// Everything that every request passes, in this order: who, how often, role, app, query, type, size.
async fn serve(
    route: &'static Route,
    admin: Arc<Admin>,
    params: &RawPathParams,
    request: Request,
) -> Result<Answer, Problem> {
    let (parts, request_body) = request.into_parts();
    let Passed {
        caller,
        app,
        params,
        query,
    } = match check(route, &admin, params, &parts).await {
        Ok(passed) => passed,
        Err(problem) => {
            // Else the connection is cut while the caller still sends, and the answer is lost with it.
            body::discard(request_body).await;
            return Err(problem);
        }
    };
    let (limit, members) = match route.request {
        RequestBody::None => (body::MAX_JSON_BYTES, Vec::new()),
        RequestBody::Json(schema) => (body::MAX_JSON_BYTES, schemas::members(schema)),
        RequestBody::Wasm => (body::MAX_UPLOAD_BYTES, Vec::new()),
    };
    let body = body::read(&parts.headers, request_body, limit).await?;
    let call = Call {
        admin: admin.clone(),
        caller,
        app,
        params,
        query,
        body,
        members,
    };
    let handling = (route.handler)(call);
    match route.method {
        Verb::Get => handling.await,
        // A change that began must end: what is stored and what runs would part if it were dropped half-way
        // because the caller hung up.
        Verb::Post | Verb::Delete => admin.tracker.spawn(handling).await.unwrap_or_else(|error| {
            tracing::error!(%error, operation = route.operation, "an admin request failed");
            Err(Problem::internal())
        }),
    }
}

/// What is known of a request before its body is read.
struct Passed {
    caller: Caller,
    app: Option<AppName>,
    params: Vec<(String, String)>,
    query: Query,
}

async fn check(
    route: &'static Route,
    admin: &Arc<Admin>,
    params: &RawPathParams,
    parts: &axum::http::request::Parts,
) -> Result<Passed, Problem> {
    let caller = admin.authenticate(parts)?;
    admin.quotas.take(&caller, Instant::now())?;
    if caller.role < route.role {
        return Err(Problem::new(
            "forbidden",
            format!("this needs a key of role {}", route.role.as_str()),
        ));
    }
    let params: Vec<(String, String)> = params
        .iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let app = match params.iter().find(|(name, _)| name == "app") {
        Some((_, app)) => Some(reach(admin, &caller, app).await?),
        None => None,
    };
    let known: Vec<&str> = route.query.iter().map(|parameter| parameter.name).collect();
    let query = Query::parse(parts.uri.query().unwrap_or_default(), &known)?;
    check_type(route.request, &parts.headers)?;
    Ok(Passed {
        caller,
        app,
        params,
        query,
    })
}

/// The app, if it exists and the caller may know so: both failures look and cost the same.
async fn reach(admin: &Arc<Admin>, caller: &Caller, app: &str) -> Result<AppName, Problem> {
    let absent = || Problem::new("not-found", "the app does not exist");
    let app = AppName::parse(app).map_err(|_| absent())?;
    let place = app.clone();
    match blocking(&admin.store, move |store| store.app(&place)).await {
        Ok(()) if caller.reaches(&app) => Ok(app),
        Ok(()) | Err(StoreError::NotFound { .. }) => Err(absent()),
        // What there is to see of a node is not in the store: an app that was there a moment ago still is.
        Err(error) if error.is_away() && admin.knows(&app) && caller.reaches(&app) => Ok(app),
        Err(error) => Err(error.into()),
    }
}

fn check_type(request: RequestBody, headers: &axum::http::HeaderMap) -> Result<(), Problem> {
    let (types, wanted): (&[&str], _) = match request {
        RequestBody::None => return Ok(()),
        RequestBody::Json(_) => (&["application/json"], "application/json"),
        RequestBody::Wasm => (
            &["application/wasm", "application/octet-stream"],
            "application/wasm",
        ),
    };
    if body::is_type(headers, types) {
        return Ok(());
    }
    Err(Problem::new(
        "unsupported-media-type",
        format!("send the body as content type {wanted}"),
    ))
}

fn settle(answer: Result<Answer, Problem>) -> Response {
    const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
    const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");
    let mut response = match answer {
        Ok(Answer { status, content }) => match content {
            Content::Nothing => status.into_response(),
            Content::Json(body) => (status, Json(body)).into_response(),
            Content::Stream(kind, body) => {
                (status, [(header::CONTENT_TYPE, kind)], body).into_response()
            }
        },
        Err(problem) => problem.into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, NO_STORE);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    response
}

impl Call {
    /// The app of the path.
    pub(super) fn app(&self) -> Result<AppName, Problem> {
        // Only a handler in a row without `{app}` could ask in vain.
        self.app.clone().ok_or_else(Problem::internal)
    }

    /// The app of the path, where the handler serves rows with and without one.
    pub(super) fn app_if_any(&self) -> Option<AppName> {
        self.app.clone()
    }

    pub(super) fn param(&self, name: &str) -> &str {
        let found = self.params.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value)
    }

    /// Parses the JSON body.
    pub(super) fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, Problem> {
        body::parse(&self.body, &self.members)
    }

    /// Asks the store without keeping this thread waiting.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        call: impl FnOnce(&tidegate_control::Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Problem> {
        Ok(blocking(&self.admin.store, call).await?)
    }
}

impl Answer {
    pub(super) fn ok(body: Value) -> Self {
        Self {
            status: StatusCode::OK,
            content: Content::Json(body),
        }
    }

    /// 201 for what is new, 200 for what was there.
    pub(super) fn made(is_new: bool, body: Value) -> Self {
        let status = if is_new {
            StatusCode::CREATED
        } else {
            StatusCode::OK
        };
        Self {
            status,
            content: Content::Json(body),
        }
    }

    pub(super) fn empty() -> Self {
        Self {
            status: StatusCode::NO_CONTENT,
            content: Content::Nothing,
        }
    }

    pub(super) fn stream(kind: &'static str, body: Body) -> Self {
        Self {
            status: StatusCode::OK,
            content: Content::Stream(kind, body),
        }
    }
}

impl Verb {
    fn filter(self) -> MethodFilter {
        match self {
            Self::Get => MethodFilter::GET,
            Self::Post => MethodFilter::POST,
            Self::Delete => MethodFilter::DELETE,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Post => "post",
            Self::Delete => "delete",
        }
    }
}

/// The document made from the table.
pub(super) fn document() -> Value {
    openapi::document(ROUTES)
}
