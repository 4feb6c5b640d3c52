//! What plugins did: counters, times and memory by version and hook.

use serde_json::{Value, json};
use tidegate_control::PluginName;

use super::{
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
    Ok(Answer::ok(
        json!({ "plugins": call.admin.host.statistics() }),
    ))
}

pub(super) async fn of_app(call: Call) -> Result<Answer, Problem> {
    let app = call.app()?;
    answer(&call, call.admin.host.statistics_of(&app, None))
}

pub(super) async fn of_plugin(call: Call) -> Result<Answer, Problem> {
    let app = call.app()?;
    let name = PluginName::parse(call.param("plugin"))?;
    let (place, plugin) = (app.clone(), name.clone());
    call.ask(move |store| store.plugin(&place, &plugin)).await?;
    answer(&call, call.admin.host.statistics_of(&app, Some(&name)))
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
