//! Settings are tried before they are bound.
//!
//! The plugin's words go to whoever wants to bind the settings and to nobody else: they may quote what is secret in
//! them, which the audit log and warnings to others must not.

use tidegate_control::{Binding, BindingRequest, Version};

use super::{
    host::{Candidate, Refused},
    problem::Problem,
    routes::Call,
};

/// What a plugin is told to have where nobody gave it settings.
const NONE: &str = "{}";

/// Why an audit entry or a warning says no more.
const UNUSABLE: &str = "the plugin cannot use these settings";

/// Asks the version that is active about the settings that a request would bind, if the request changes them. One that
/// does not export the hook cannot be bound there anyway.
pub(super) async fn try_to_bind(
    call: &Call,
    (version, candidate): (&Version, Candidate),
    request: &BindingRequest,
) -> Result<(), Problem> {
    if !version.hooks.contains(&request.hook) {
        return Ok(());
    }
    let settings = match &request.config {
        Some(settings) => settings.clone(),
        None if is_bound(call, request).await? => return Ok(()),
        None => NONE.to_owned(),
    };
    let tried = call
        .admin
        .host
        .check_settings(candidate, request.hook, settings);
    let Err(refused) = tried.await else {
        return Ok(());
    };
    let object = format!("plugin/{}/versions/{}", request.plugin, version.number);
    let told = Refused {
        detail: UNUSABLE.to_owned(),
        ..refused.clone()
    };
    let (actor, app) = (&call.caller.actor, call.app()?);
    call.admin
        .write_down(actor, &app, "binding.set", object, &told)
        .await;
    Err(Problem::refused(refused).field("config"))
}

async fn is_bound(call: &Call, request: &BindingRequest) -> Result<bool, Problem> {
    let app = call.app()?;
    let bindings = call.ask(move |store| store.bindings(&app)).await?;
    Ok(bindings.iter().any(|bound| {
        bound.plugin == request.plugin && bound.hook == request.hook && bound.scope == request.scope
    }))
}

/// What the version that was just activated says of the settings that its plugin is bound with: one sentence for each
/// binding that it cannot use.
pub(super) async fn warnings(call: &Call, candidate: &Candidate) -> Result<Vec<String>, Problem> {
    let app = call.app()?;
    let bindings = call.ask(move |store| store.bindings(&app)).await?;
    let mut warnings = Vec::new();
    for bound in &bindings {
        if bound.plugin != candidate.plugin {
            continue;
        }
        let Binding {
            hook,
            scope,
            config,
            ..
        } = bound;
        let settings = if config.is_empty() { NONE } else { config };
        let tried = call
            .admin
            .host
            .check_settings(candidate.clone(), *hook, settings.to_owned());
        match tried.await {
            Err(refused) if !refused.is_for_want_of_a_compiler() => warnings.push(format!(
                "at {hook}@{scope} version {} cannot use the settings that are bound; bind it there with better ones, \
                 and it says what is wrong",
                candidate.version
            )),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(warnings)
}
