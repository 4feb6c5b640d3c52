//! Who is where: the connected sessions of an app on all nodes.

use serde_json::json;
use tidegate_realtime::{
    ids::ClientId,
    node::{SessionFilter, SessionsFound},
};

use super::{
    problem::Problem,
    routes::{Answer, Call},
};

/// Most sessions on a page.
const MAX_PAGE: usize = 1_000;

/// Sessions on a page that does not say.
const DEFAULT_PAGE: u64 = 100;

pub(super) async fn list(call: Call) -> Result<Answer, Problem> {
    let most = call.query.number("limit")?.unwrap_or(DEFAULT_PAGE);
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    if !(1..=MAX_PAGE).contains(&most) {
        let text = format!("limit: 1 to {MAX_PAGE}");
        return Err(Problem::new("invalid-field", text).field("limit"));
    }
    let filter = SessionFilter {
        user: call.query.get("user").map(str::to_owned),
        client: None,
        most,
    };
    let found = find(&call, filter).await?;
    Ok(Answer::ok(json!({
        "items": found.sessions,
        "has_more": found.has_more,
        "silent_nodes": found.silent_nodes,
    })))
}

pub(super) async fn show(call: Call) -> Result<Answer, Problem> {
    let client = client(&call)?;
    let found = find_one(&call, client).await?;
    Ok(Answer::ok(json!(found)))
}

/// Ends a session that is there; what is not there cannot be ended, and the caller hears so.
pub(super) async fn kick(call: Call) -> Result<Answer, Problem> {
    let client = client(&call)?;
    let found = find_one(&call, client).await?;
    let kicked = call.admin.apps.kick(&call.app()?, client).await;
    let result = match &kicked {
        Ok(()) => format!("ok: user {}", found.user),
        Err(error) => format!("failed: {error}"),
    };
    write_down(&call, client, result).await?;
    kicked.map_err(unreachable)?;
    tracing::info!(app = %call.app()?, session.id = %client, "a session was ended by an operator");
    Ok(Answer::empty())
}

/// Who ended whose session, for the audit log; also where other nodes could not be told.
async fn write_down(call: &Call, client: ClientId, result: String) -> Result<(), Problem> {
    let (actor, app) = (call.caller.actor.clone(), call.app()?);
    let object = client.to_string();
    call.ask(move |store| store.record_refusal(&actor, &app, "session.kick", &object, &result))
        .await
}

async fn find_one(
    call: &Call,
    client: ClientId,
) -> Result<tidegate_realtime::node::SessionPlace, Problem> {
    let filter = SessionFilter {
        user: None,
        client: Some(client),
        most: 1,
    };
    let mut found = find(call, filter).await?;
    found.sessions.pop().ok_or_else(|| {
        let problem = Problem::new("not-found", "no session has this client id");
        if found.silent_nodes.is_empty() {
            problem
        } else {
            problem.help("not all nodes have answered; try again")
        }
    })
}

async fn find(call: &Call, filter: SessionFilter) -> Result<SessionsFound, Problem> {
    let found = call.admin.apps.sessions(&call.app()?, filter);
    found.await.map_err(unreachable)
}

fn client(call: &Call) -> Result<ClientId, Problem> {
    // What is no id is the id of no session.
    ClientId::parse(call.param("client"))
        .ok_or_else(|| Problem::new("not-found", "no session has this client id"))
}

fn unreachable(_: tidegate_realtime::broker::BrokerError) -> Problem {
    Problem::new(
        "nodes-unreachable",
        "the other nodes of the cluster cannot be asked",
    )
    .help("look at the engine: this node's /health/ready says how it is; then try again")
}
