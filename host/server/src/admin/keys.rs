//! Keys: list, create, revoke. A secret is in one answer and nowhere else (threat model A8, M6).

use serde::Deserialize;
use serde_json::json;
use tidegate_control::{KeyRole, NewKey};

use super::{
    problem::Problem,
    routes::{Answer, Call},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AppKeyRequest {
    role: String,
    #[serde(default)]
    label: String,
    #[serde(default)]
    methods: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OperatorKeyRequest {
    #[serde(default)]
    label: String,
}

/// What the ids of keys begin with that the configuration file owns, as the audit log shows them.
pub(super) const CONFIGURED: &str = "config:";

pub(super) async fn list(call: Call) -> Result<Answer, Problem> {
    let app = call.app_if_any();
    let keys = call.ask(move |store| store.keys(app.as_ref())).await?;
    Ok(Answer::ok(json!({ "items": keys })))
}

pub(super) async fn create(call: Call) -> Result<Answer, Problem> {
    let request: AppKeyRequest = call.json()?;
    let role = KeyRole::parse(&request.role)?;
    let (app, actor) = (call.app()?, call.caller.actor.clone());
    if role > call.caller.role {
        return Err(Problem::new(
            "forbidden",
            "a key makes no key that may do more than itself",
        ));
    }
    let made = call
        .ask(move |store| {
            store.create_key(&actor, role, Some(&app), &request.methods, &request.label)
        })
        .await?;
    Ok(show_new(&made))
}

pub(super) async fn create_operator(call: Call) -> Result<Answer, Problem> {
    let request: OperatorKeyRequest = call.json()?;
    let actor = call.caller.actor.clone();
    let made = call
        .ask(move |store| store.create_key(&actor, KeyRole::Operator, None, &[], &request.label))
        .await?;
    Ok(show_new(&made))
}

pub(super) async fn revoke(call: Call) -> Result<Answer, Problem> {
    let (app, actor) = (call.app_if_any(), call.caller.actor.clone());
    let id = call.param("key").to_owned();
    let revoked = id.clone();
    if let Some(setting) = id.strip_prefix(CONFIGURED) {
        if !["admin_api.key", "http_api.key"].contains(&setting) {
            return Err(Problem::new("not-found", "the key does not exist"));
        }
        return Err(Problem::new(
            "conflict",
            format!(
                "the configuration file owns this key; change {setting} there and restart the node"
            ),
        ));
    }
    let key = call
        .ask(move |store| store.revoke_key(&actor, app.as_ref(), &id))
        .await?;
    call.admin.followers.end_key(&revoked);
    Ok(Answer::ok(json!(key)))
}

fn show_new(made: &NewKey) -> Answer {
    let mut body = json!(made.key);
    body["secret"] = json!(made.secret.reveal());
    Answer::made(true, body)
}
