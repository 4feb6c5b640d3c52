//! What an audit entry says of the version that goes: what it was asked on this node, and what it answered.
//!
//! Threat model M7. The figures are those of the statistics at that moment, of the node that carries the change out.

use serde_json::{Map, Value};
use tidegate_control::{AppName, Hook, PluginName};

use super::{host::PluginHost, problem::Problem, routes::Call};

/// Of a version at one hook, or at all; empty if it was never called.
pub(super) fn of(
    host: &dyn PluginHost,
    (app, plugin): (&AppName, &PluginName),
    version: u32,
    hook: Option<Hook>,
) -> String {
    let rows = host.statistics_of(app, Some(plugin));
    let hooks: Vec<String> = rows
        .iter()
        .filter(|row| row["version"] == version && row["plugin"] == plugin.as_str())
        .filter(|row| hook.is_none_or(|hook| row["hook"] == hook.as_str()))
        .filter_map(at_hook)
        .collect();
    if hooks.is_empty() {
        return String::new();
    }
    format!("version {version} on this node: {}", hooks.join("; "))
}

/// Of the version that is active, unless it is the one that will be.
pub(super) async fn of_active(
    call: &Call,
    (app, plugin): (&AppName, &PluginName),
    next: u32,
) -> Result<String, Problem> {
    let (place, name) = (app.clone(), plugin.clone());
    let found = call.ask(move |store| store.plugin(&place, &name)).await?;
    let goes = found.active_version.filter(|active| *active != next);
    let host = &*call.admin.host;
    Ok(goes.map_or_else(String::new, |goes| of(host, (app, plugin), goes, None)))
}

/// Of what is bound, if it is.
pub(super) async fn of_binding(call: &Call, app: &AppName, id: &str) -> Result<String, Problem> {
    let place = app.clone();
    let bindings = call.ask(move |store| store.bindings(&place)).await?;
    let bound = bindings.iter().find(|bound| bound.id == id);
    let past = bound.and_then(|bound| {
        let plugin = (app, &bound.plugin);
        Some(of(
            &*call.admin.host,
            plugin,
            bound.active_version?,
            Some(bound.hook),
        ))
    });
    Ok(past.unwrap_or_default())
}

/// `filtering 1204 calls (pass 1200, drop 4), 3 failed (timeout 2, trap 1)`.
fn at_hook(row: &Value) -> Option<String> {
    let calls = row["calls"].as_u64().filter(|calls| *calls > 0)?;
    let mut text = format!("{} {calls} calls", row["hook"].as_str().unwrap_or_default());
    if let Some(verdicts) = counts(row["verdicts"].as_object()) {
        text.push_str(&format!(" ({verdicts})"));
    }
    if let Some(kinds) = counts(row["failed"].as_object()) {
        text.push_str(&format!(", {} failed ({kinds})", row["failures"]));
    }
    Some(text)
}

fn counts(counts: Option<&Map<String, Value>>) -> Option<String> {
    let counts = counts.filter(|counts| !counts.is_empty())?;
    let words: Vec<String> = counts
        .iter()
        .map(|(word, count)| format!("{word} {count}"))
        .collect();
    Some(words.join(", "))
}
