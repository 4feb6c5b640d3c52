//! Apps: list, create, delete. The file owns app `default`; all others come and go here.

use serde::Deserialize;
use serde_json::json;
use tidegate_control::{AppName, PluginName, Store, StoreError};

use super::{
    problem::Problem,
    routes::{Answer, Call},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AppRequest {
    name: String,
}

pub(super) async fn list(call: Call) -> Result<Answer, Problem> {
    let mut apps = call.ask(Store::apps).await?;
    apps.retain(|app| call.caller.reaches(&app.name));
    Ok(Answer::ok(json!({ "items": apps })))
}

pub(super) async fn create(call: Call) -> Result<Answer, Problem> {
    let request: AppRequest = call.json()?;
    let name = AppName::parse(&request.name).map_err(|error| match error {
        StoreError::Invalid { why, .. } => {
            Problem::new("invalid-field", format!("name: {why}")).field("name")
        }
        other => other.into(),
    })?;
    let actor = call.caller.actor.clone();
    let _turn = call.admin.turns.of(&name).await;
    let _applying = call.admin.turns.to_apply().await;
    let created = call
        .ask(move |store| store.create_app(&actor, &name))
        .await?;
    let secret = created.token_secret.reveal();
    call.admin.open_app(&created.app.name, secret);
    let mut body = json!(created.app);
    body["token_secret"] = json!(secret);
    Ok(Answer::made(true, body))
}

pub(super) async fn delete(call: Call) -> Result<Answer, Problem> {
    let (app, actor) = (call.app()?, call.caller.actor.clone());
    let _turn = call.admin.turns.of(&app).await;
    let _applying = call.admin.turns.to_apply().await;
    let name = app.clone();
    let plugins = call
        .ask(move |store| {
            let plugins = plugin_names(store, &name)?;
            store.delete_app(&actor, &name)?;
            Ok(plugins)
        })
        .await?;
    call.admin.close_app(&app, &plugins);
    Ok(Answer::empty())
}

/// All plugins of an app.
fn plugin_names(store: &Store, app: &AppName) -> Result<Vec<PluginName>, StoreError> {
    let mut names: Vec<PluginName> = Vec::new();
    loop {
        let page = store.plugins(app, names.last().map(PluginName::as_str))?;
        if page.is_empty() {
            return Ok(names);
        }
        names.extend(page.into_iter().map(|plugin| plugin.name));
    }
}
