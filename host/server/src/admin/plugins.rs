//! Plugins: upload, look, activate, roll back, delete.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};
use tidegate_control::{
    Activation, MAX_PAGE, NewVersion, Page, PluginName, Store, StoreError, Version,
};

use super::{
    bindings::{self, Secrets},
    host::{Admitted, Refused},
    past,
    problem::Problem,
    routes::{Answer, Call},
    settings,
    state::{next, page},
};

/// Versions shown with a plugin.
const VERSIONS_SHOWN: usize = 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ActivateRequest {
    version: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Empty {}

pub(super) async fn list(call: Call) -> Result<Answer, Problem> {
    let app = call.app()?;
    let after = call.query.get("after").map(str::to_owned);
    let plugins = call
        .ask(move |store| store.plugins(&app, after.as_deref()))
        .await?;
    let next = plugins
        .last()
        .filter(|_| plugins.len() >= MAX_PAGE)
        .map(|plugin| plugin.name.clone());
    Ok(Answer::ok(json!({ "items": plugins, "next": next })))
}

pub(super) async fn inspect(call: Call) -> Result<Answer, Problem> {
    let app = call.app()?;
    let name = plugin(&call)?;
    let secrets = Secrets::asked_for(&call)?;
    let (plugin, versions, bindings) = call
        .ask(move |store| {
            let page = Page {
                size: VERSIONS_SHOWN,
                before: None,
            };
            let plugin = store.plugin(&app, &name)?;
            let versions = store.versions(&app, &name, page)?;
            let mut bindings = store.bindings(&app)?;
            bindings.retain(|binding| binding.plugin == name);
            Ok((plugin, versions, bindings))
        })
        .await?;
    let bindings: Vec<Value> = bindings
        .iter()
        .map(|binding| bindings::show(&call, binding, secrets))
        .collect();
    let mut body = json!(plugin);
    body["versions"] = json!(versions);
    body["bindings_list"] = json!(bindings);
    Ok(Answer::ok(body))
}

pub(super) async fn versions(call: Call) -> Result<Answer, Problem> {
    let (app, name, page) = (call.app()?, plugin(&call)?, page(&call)?);
    let versions = call
        .ask(move |store| store.versions(&app, &name, page))
        .await?;
    let next = next(&versions, page, |version| u64::from(version.number));
    Ok(Answer::ok(json!({ "items": versions, "next": next })))
}

pub(super) async fn version(call: Call) -> Result<Answer, Problem> {
    let (app, name) = (call.app()?, plugin(&call)?);
    let number = call
        .param("version")
        .parse()
        .map_err(|_| Problem::new("not-found", "the version does not exist"))?;
    let version = call
        .ask(move |store| store.version(&app, &name, number))
        .await?;
    Ok(Answer::ok(json!(version)))
}

pub(super) async fn upload(call: Call) -> Result<Answer, Problem> {
    let (app, name, actor) = (call.app()?, plugin(&call)?, call.caller.actor.clone());
    let (host, bytes) = (call.admin.host.clone(), call.body.clone());
    let admitted = tokio::task::spawn_blocking(move || host.admit(&bytes))
        .await
        .unwrap_or_else(|error| {
            // A check that gives up on hostile bytes must not take the node along.
            tracing::error!(%error, "the admission of an upload failed");
            Err(Refused {
                rule: "admission-failed".to_owned(),
                detail: "the checks could not be finished for these bytes".to_owned(),
                help: "build the plugin with 'tidegate plugin build' and push it again".to_owned(),
            })
        });
    // Compiling may take half a minute: nobody else's change waits for it, so the turn is taken afterwards.
    let tried = match admitted {
        Ok(Admitted {
            artifact,
            hooks,
            imports,
        }) => {
            let artifact: Arc<[u8]> = artifact.into();
            let tried = call.admin.host.try_out(Arc::clone(&artifact)).await;
            tried.map(|()| (artifact, hooks, imports))
        }
        Err(refused) => Err(refused),
    };
    let (artifact, hooks, imports) = match tried {
        Ok(tried) => tried,
        Err(refused) => {
            let object = format!("plugin/{name}");
            call.admin
                .write_down(&actor, &app, "plugin.upload", object, &refused)
                .await;
            return Err(Problem::refused(refused));
        }
    };
    let _turn = call.admin.turns.of(&app).await;
    let note = call.query.get("note").unwrap_or_default().to_owned();
    let (shown, keep) = (name.clone(), call.admin.keep_versions);
    let uploaded = call
        .ask(move |store| {
            let new = NewVersion {
                artifact: &artifact,
                hooks: &hooks,
                imports: &imports,
                note: &note,
            };
            let uploaded = store.add_version(&actor, &app, &name, new)?;
            if let (true, Some(keep)) = (uploaded.is_new, keep)
                && let Err(error) = store.prune_versions(&actor, &app, &name, keep)
            {
                // The upload is stored, which is what was asked for; the next one finds more to remove.
                tracing::warn!(%app, plugin = %name, %error, "old versions of a plugin could not be removed");
            }
            Ok(uploaded)
        })
        .await?;
    let mut body = json!(uploaded.version);
    body["plugin"] = json!(shown);
    body["is_new"] = json!(uploaded.is_new);
    Ok(Answer::made(uploaded.is_new, body))
}

pub(super) async fn activate(call: Call) -> Result<Answer, Problem> {
    let request: ActivateRequest = call.json()?;
    let number = request.version;
    switch(
        call,
        "plugin.activate",
        move |store, app, plugin| store.version(app, plugin, number),
        move |store, actor, (app, plugin), past| store.activate(actor, app, plugin, number, past),
    )
    .await
}

pub(super) async fn rollback(call: Call) -> Result<Answer, Problem> {
    let Empty {} = call.json()?;
    switch(
        call,
        "plugin.rollback",
        Store::rollback_target,
        |store, actor, (app, plugin), past| store.rollback(actor, app, plugin, past),
    )
    .await
}

/// Finds the version, tries it, then makes it the active one.
async fn switch(
    call: Call,
    action: &'static str,
    find: impl FnOnce(&Store, &tidegate_control::AppName, &PluginName) -> Result<Version, StoreError>
    + Send
    + 'static,
    store: impl FnOnce(
        &Store,
        &tidegate_control::Actor,
        (&tidegate_control::AppName, &PluginName),
        &str,
    ) -> Result<Activation, StoreError>
    + Send
    + 'static,
) -> Result<Answer, Problem> {
    let (app, name, actor) = (call.app()?, plugin(&call)?, call.caller.actor.clone());
    let _turn = call.admin.turns.of(&app).await;
    let (place, wanted) = (app.clone(), name.clone());
    let version = call.ask(move |store| find(store, &place, &wanted)).await?;
    let candidate = call
        .admin
        .prepare(&actor, (&app, &name), &version, action)
        .await?;
    let past = past::of_active(&call, (&app, &name), version.number).await?;
    let activation = call
        .admin
        .change(&actor, &app, move |control, actor, app| {
            store(control, actor, (app, &name), &past)
        })
        .await?;
    let mut body = json!(activation);
    // Refused here, settings and code that changed together could never be replaced.
    let warnings = settings::warnings(&call, &candidate).await?;
    if !warnings.is_empty() {
        body["warnings"] = json!(warnings);
    }
    Ok(Answer::ok(body))
}

pub(super) async fn delete(call: Call) -> Result<Answer, Problem> {
    let (app, name, actor) = (call.app()?, plugin(&call)?, call.caller.actor.clone());
    let _turn = call.admin.turns.of(&app).await;
    let (place, deleted) = (app.clone(), name.clone());
    call.ask(move |store| store.delete_plugin(&actor, &place, &deleted))
        .await?;
    call.admin.host.forget_plugin(&app, &name);
    Ok(Answer::empty())
}

/// The plugin of the path. Outside an upload, a name that is not possible does not exist either, but saying
/// the rule helps whoever mistyped it.
fn plugin(call: &Call) -> Result<PluginName, Problem> {
    Ok(PluginName::parse(call.param("plugin"))?)
}
