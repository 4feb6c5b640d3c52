//! Bindings: bind, look, unbind.

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use tidegate_control::{Binding, BindingRequest, FailurePolicy, PluginName, Scope};

use super::{
    problem::Problem,
    routes::{Answer, Call},
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
}

pub(super) async fn list(call: Call) -> Result<Answer, Problem> {
    let app = call.app()?;
    let bindings = call.ask(move |store| store.bindings(&app)).await?;
    let items: Vec<Value> = bindings.iter().map(show).collect();
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
            .map_or(Ok(FailurePolicy::Closed), |policy| policy.parse())?,
    };
    let (app, actor) = (call.app()?, call.caller.actor.clone());
    let _turn = call.admin.changes.lock().await;
    prepare_active(&call, &request.plugin).await?;
    let bound = call
        .admin
        .change(&actor, &app, move |store, actor, app| {
            store.bind(actor, app, &request)
        })
        .await?;
    let mut body = show(&bound.binding);
    body["is_new"] = json!(bound.is_new);
    Ok(Answer::made(bound.is_new, body))
}

/// A plugin that was active without a binding has not been needed since the node started.
async fn prepare_active(call: &Call, plugin: &PluginName) -> Result<(), Problem> {
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
    match version {
        Some(version) => {
            call.admin
                .prepare(actor, (&app, plugin), &version, "binding.set")
                .await
        }
        None => Ok(()),
    }
}

pub(super) async fn unbind(call: Call) -> Result<Answer, Problem> {
    let (app, actor) = (call.app()?, call.caller.actor.clone());
    let id = call.param("binding").to_owned();
    let _turn = call.admin.changes.lock().await;
    let binding = call
        .admin
        .change(&actor, &app, move |store, actor, app| {
            store.unbind(actor, app, &id)
        })
        .await?;
    Ok(Answer::ok(show(&binding)))
}

/// A binding as JSON, its configuration embedded.
pub(super) fn show(binding: &Binding) -> Value {
    let mut body = json!({
        "id": binding.id,
        "app": binding.app,
        "plugin": binding.plugin,
        "hook": binding.hook,
        "scope": binding.scope,
        "position": binding.position,
        "failure_policy": binding.failure_policy,
        "created_at": binding.created_at,
    });
    if let Ok(config) = serde_json::from_str::<Value>(&binding.config) {
        body["config"] = config;
    }
    if let Some(version) = binding.active_version {
        body["active_version"] = json!(version);
    }
    body
}
