//! Bindings: bind, look, unbind.
//!
//! Invariant: settings leave this module redacted, unless an operator asked for them as they are.

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use tidegate_control::{Binding, BindingRequest, KeyRole, PluginName, Scope, Version};

use super::{
    host::Candidate,
    past,
    problem::Problem,
    redact::redact,
    routes::{Answer, Call},
    settings,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BindRequest {
    plugin: String,
    hook: String,
    scope: Option<String>,
    position: Option<u32>,
    config: Option<Box<RawValue>>,
    failure_policy: Option<String>,
    isolation: Option<String>,
}

pub(super) async fn list(call: Call) -> Result<Answer, Problem> {
    let (app, secrets) = (call.app()?, Secrets::asked_for(&call)?);
    let bindings = call.ask(move |store| store.bindings(&app)).await?;
    let items: Vec<Value> = bindings
        .iter()
        .map(|binding| show(&call, binding, secrets))
        .collect();
    Ok(Answer::ok(json!({ "items": items })))
}

pub(super) async fn bind(call: Call) -> Result<Answer, Problem> {
    let request: BindRequest = call.json()?;
    let request = BindingRequest {
        plugin: PluginName::parse(&request.plugin)?,
        hook: request.hook.parse()?,
        scope: request
            .scope
            .map_or(Ok(Scope::App), |scope| scope.parse())?,
        position: request.position,
        config: request.config.map(|config| config.get().to_owned()),
        failure_policy: request
            .failure_policy
            .map(|policy| policy.parse())
            .transpose()?,
        isolation: request
            .isolation
            .map(|isolation| isolation.parse())
            .transpose()?,
    };
    let kept = not_named(&request);
    let warning = unknown_namespace(&call, &request.scope);
    let (app, actor) = (call.app()?, call.caller.actor.clone());
    let _turn = call.admin.turns.of(&app).await;
    if let Some((version, candidate)) = prepare_active(&call, &request.plugin).await? {
        settings::try_to_bind(&call, (&version, candidate), &request).await?;
    }
    let bound = call
        .admin
        .change(&actor, &app, move |store, actor, app| {
            store.bind(actor, app, &request)
        })
        .await?;
    let mut body = show(&call, &bound.binding, Secrets::Redacted);
    body["is_new"] = json!(bound.is_new);
    if !bound.is_new {
        body["kept"] = json!(kept);
    }
    if let Some(warning) = warning {
        body["warnings"] = json!([warning]);
    }
    Ok(Answer::made(bound.is_new, body))
}

/// What a binding keeps because the request does not name it.
fn not_named(request: &BindingRequest) -> Vec<&'static str> {
    let named = [
        ("config", request.config.is_some()),
        ("failure_policy", request.failure_policy.is_some()),
        ("isolation", request.isolation.is_some()),
        ("position", request.position.is_some()),
    ];
    let kept = named.into_iter().filter(|(_, is_named)| !is_named);
    kept.map(|(member, _)| member).collect()
}

/// A namespace that the configuration does not have is allowed, since it may come later, but it may be a typo.
fn unknown_namespace(call: &Call, scope: &Scope) -> Option<String> {
    let Scope::Namespace(name) = scope else {
        return None;
    };
    if call.admin.channels.namespaces.contains_key(&**name) {
        return None;
    }
    let known = known_namespaces(call);
    Some(format!(
        "the configuration has no namespace {name}, so the plugin is never asked there; {known}"
    ))
}

/// The end of a sentence about a namespace that is not there.
pub(super) fn known_namespaces(call: &Call) -> String {
    let names = call.admin.channels.namespaces.keys();
    let names: Vec<&str> = names.map(|name| &**name).collect();
    match names.len() {
        0 => "it has none".to_owned(),
        _ => format!("it has {}", names.join(", ")),
    }
}

/// A plugin that was active without a binding has not been needed since the node started.
async fn prepare_active(
    call: &Call,
    plugin: &PluginName,
) -> Result<Option<(Version, Candidate)>, Problem> {
    let (app, actor) = (call.app()?, &call.caller.actor);
    let (place, name) = (app.clone(), plugin.clone());
    let version = call
        .ask(
            move |store| match store.plugin(&place, &name)?.active_version {
                Some(number) => store.version(&place, &name, number).map(Some),
                None => Ok(None),
            },
        )
        .await?;
    let Some(version) = version else {
        return Ok(None);
    };
    let candidate = call
        .admin
        .prepare(actor, (&app, plugin), &version, "binding.set")
        .await?;
    Ok(Some((version, candidate)))
}

pub(super) async fn unbind(call: Call) -> Result<Answer, Problem> {
    let (app, actor) = (call.app()?, call.caller.actor.clone());
    let id = call.param("binding").to_owned();
    let _turn = call.admin.turns.of(&app).await;
    let past = past::of_binding(&call, &app, &id).await?;
    let binding = call
        .admin
        .change(&actor, &app, move |store, actor, app| {
            store.unbind(actor, app, &id, &past)
        })
        .await?;
    Ok(Answer::ok(show(&call, &binding, Secrets::Redacted)))
}

/// Whether settings are shown as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Secrets {
    Redacted,
    Revealed,
}

impl Secrets {
    /// What the query asks for, if the caller may have it: secrets are for operators alone.
    pub(super) fn asked_for(call: &Call) -> Result<Self, Problem> {
        match call.query.get("reveal") {
            None | Some("false") => Ok(Self::Redacted),
            Some("true") => {
                let caller = &call.caller;
                if caller.role != KeyRole::Operator {
                    return Err(Problem::new(
                        "forbidden",
                        "secrets in settings are shown to a key of role operator alone",
                    )
                    .help(
                        "ask without reveal: the settings are shown, with their secrets replaced",
                    ));
                }
                tracing::info!(who = %caller.actor.who, "secrets in the settings of bindings were read");
                Ok(Self::Revealed)
            }
            Some(_) => Err(Problem::new("invalid-field", "reveal: true or false").field("reveal")),
        }
    }
}

/// A binding as JSON, its configuration embedded, and why it does not run if it should.
pub(super) fn show(call: &Call, binding: &Binding, secrets: Secrets) -> Value {
    let mut body = json!({
        "id": binding.id,
        "app": binding.app,
        "plugin": binding.plugin,
        "hook": binding.hook,
        "scope": binding.scope,
        "position": binding.position,
        "failure_policy": binding.failure_policy,
        "isolation": binding.isolation,
        "created_at": binding.created_at,
    });
    if let Ok(mut config) = serde_json::from_str::<Value>(&binding.config) {
        if secrets == Secrets::Redacted {
            redact(&mut config);
        }
        body["config"] = config;
    }
    if let Some(version) = binding.active_version {
        body["active_version"] = json!(version);
    }
    if let Some(why) = call.admin.host.problem(&binding.id) {
        body["problem"] = json!(why.to_string());
    }
    body
}
