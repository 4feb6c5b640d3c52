//! What plugins did: counters, times and memory by version and hook.

use std::sync::Arc;

use serde_json::{Value, json};
use tidegate_control::PluginName;

use super::{
    host::PluginHost,
    problem::Problem,
    routes::{Answer, Call},
};

/// What a list may be sorted by, the largest first, and where that is in a row.
const ORDERS: &[(&str, &str)] = &[
    ("calls", "/calls"),
    ("cpu", "/time/total_ns"),
    ("p99", "/time/p99_ns"),
    ("failures", "/failures"),
    ("memory", "/memory/bytes"),
];

pub(super) async fn of_node(call: Call) -> Result<Answer, Problem> {
    let found = counted(&call, |host| host.statistics()).await;
    Ok(Answer::ok(json!({ "plugins": found })))
}

pub(super) async fn of_app(call: Call) -> Result<Answer, Problem> {
    let app = call.app()?;
    let items = counted(&call, move |host| host.statistics_of(&app, None)).await;
    answer(&call, items)
}

pub(super) async fn of_plugin(call: Call) -> Result<Answer, Problem> {
    let app = call.app()?;
    let name = PluginName::parse(call.param("plugin"))?;
    let (place, plugin) = (app.clone(), name.clone());
    call.ask(move |store| store.plugin(&place, &plugin)).await?;
    let items = counted(&call, move |host| host.statistics_of(&app, Some(&name))).await;
    answer(&call, items)
}

/// Sums the counters on a thread of its own: those of a thousand plugins take longer than a session's worker may be
/// held.
async fn counted<T: Send + 'static>(
    call: &Call,
    count: impl FnOnce(&dyn PluginHost) -> T + Send + 'static,
) -> T {
    let host = Arc::clone(&call.admin.host);
    match tokio::task::spawn_blocking(move || count(&*host)).await {
        Ok(counted) => counted,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn answer(call: &Call, mut items: Vec<Value>) -> Result<Answer, Problem> {
    if let Some(wanted) = call.query.get("sort") {
        let order = ORDERS.iter().find(|(name, _)| *name == wanted);
        let Some((_, place)) = order else {
            let known: Vec<&str> = ORDERS.iter().map(|(name, _)| *name).collect();
            let text = format!("sort: one of {}", known.join(", "));
            return Err(Problem::new("invalid-field", text).field("sort"));
        };
        let key = |row: &Value| row.pointer(place).and_then(Value::as_u64).unwrap_or(0);
        // Stable, so that equals stay in the order of their names.
        items.sort_by_key(|row| std::cmp::Reverse(key(row)));
    }
    let uptime = call.admin.started.elapsed().as_millis();
    Ok(Answer::ok(json!({
        "uptime_ms": u64::try_from(uptime).unwrap_or(u64::MAX),
        "items": items,
    })))
}
