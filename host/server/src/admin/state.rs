//! What there is to see: the node, the audit log, the stories of failed calls.

use serde_json::json;
use tidegate_control::{AuditQuery, MAX_PAGE, Page};

use super::{
    host::{OUTCOMES, StoryQuery},
    problem::Problem,
    routes::{self, Answer, Call},
};

/// Entries on a page where the caller names no number.
const DEFAULT_PAGE: usize = 50;

pub(super) async fn openapi(_: Call) -> Result<Answer, Problem> {
    Ok(Answer::ok(routes::document()))
}

pub(super) async fn status(call: Call) -> Result<Answer, Problem> {
    let uptime = call.admin.started.elapsed().as_secs();
    Ok(Answer::ok(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": uptime,
        "role": call.caller.role,
        "app": call.caller.app,
    })))
}

pub(super) async fn explain(call: Call) -> Result<Answer, Problem> {
    let trace = call.param("trace");
    let story = call.admin.host.explain(trace);
    // Another app's trace is as unknown as one that never was (threat model N2).
    let story = story.filter(|story| call.caller.reaches(&story.app));
    let Some(story) = story else {
        return Err(Problem::new("not-found", "the trace id is not known")
            .help("the node remembers the last few hundred stories of an app; ask soon after the error, on the node that gave it"));
    };
    Ok(Answer::ok(json!({
        "trace": trace,
        "app": story.app,
        "story": story.story,
    })))
}

pub(super) async fn stories(call: Call) -> Result<Answer, Problem> {
    let text = |name| call.query.get(name).map(str::to_owned);
    let outcome = match call.query.get("outcome") {
        None => None,
        Some(wanted) => {
            let found = OUTCOMES.iter().find(|outcome| **outcome == wanted);
            let Some(found) = found else {
                let text = format!("outcome: one of {}", OUTCOMES.join(", "));
                return Err(Problem::new("invalid-field", text).field("outcome"));
            };
            Some(*found)
        }
    };
    let most = page(&call)?.size;
    if !(1..=MAX_PAGE).contains(&most) {
        let text = format!("limit: 1 to {MAX_PAGE}");
        return Err(Problem::new("invalid-field", text).field("limit"));
    }
    let query = StoryQuery {
        user: text("user"),
        channel: text("channel"),
        outcome,
        most,
    };
    let items = call.admin.host.stories(&call.app()?, query);
    Ok(Answer::ok(json!({ "items": items })))
}

pub(super) async fn audit(call: Call) -> Result<Answer, Problem> {
    let page = page(&call)?;
    let query = AuditQuery {
        app: call.app_if_any(),
        page,
    };
    let entries = call.ask(move |store| store.audit(&query)).await?;
    let next = next(&entries, page, |entry| entry.id);
    Ok(Answer::ok(json!({ "items": entries, "next": next })))
}

/// The page that the query asks for; the store refuses sizes that are not allowed.
pub(super) fn page(call: &Call) -> Result<Page, Problem> {
    let size = call.query.number("limit")?;
    Ok(Page {
        size: size.map_or(DEFAULT_PAGE, |size| {
            usize::try_from(size).unwrap_or(usize::MAX)
        }),
        before: call.query.number("before")?,
    })
}

/// The cursor behind a full page; a page that is not full is the last.
pub(super) fn next<T>(items: &[T], page: Page, id: impl Fn(&T) -> u64) -> Option<u64> {
    items.last().filter(|_| items.len() >= page.size).map(id)
}
