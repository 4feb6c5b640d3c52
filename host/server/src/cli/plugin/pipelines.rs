//! `plugin pipelines`: who is asked where, in which order.

use serde_json::Value;

use super::{api::PluginApi, arguments::Pipelines};
use crate::cli::{
    Failure, Output, block_on,
    output::{string, table},
};

pub(super) fn run(command: &Pipelines, output: Output) -> Result<(), Failure> {
    let api = PluginApi::new(&command.server, output)?;
    let found = block_on(api.pipelines(command.hook, command.channel.as_deref()))?;
    output.result(&found, || text(&found));
    Ok(())
}

fn text(found: &Value) -> String {
    let list = |member: &str| found[member].as_array().into_iter().flatten();
    let mut shown: Vec<String> = list("items").map(describe).collect();
    let warnings = list("warnings").filter_map(Value::as_str);
    shown.extend(warnings.map(|warning| format!("warning: {warning}")));
    if shown.is_empty() {
        return "no plugin is asked there; `tidegate plugin bind` binds one".to_owned();
    }
    shown.join("\n\n")
}

/// A heading and the plugins in the order in which they are asked.
fn describe(pipeline: &Value) -> String {
    let rows: Vec<Vec<String>> = pipeline["plugins"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|step| {
            vec![
                string(&step["plugin"]),
                step["version"].to_string(),
                string(&step["scope"]),
                string(&step["failure_policy"]),
                string(&step["lane"]),
                string(&step["breaker"]),
                format!("{} ms", step["deadline_ms"]),
            ]
        })
        .collect();
    let heading = [
        "  PLUGIN",
        "VERSION",
        "BOUND TO",
        "ON FAILURE",
        "LANE",
        "BREAKER",
        "DEADLINE",
    ];
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .map(|mut row| {
            row[0] = format!("  {}", row[0]);
            row
        })
        .collect();
    format!(
        "{}@{} runs {}, {} ms by its deadlines, {} ms at the very worst\n{}",
        string(&pipeline["hook"]),
        string(&pipeline["scope"]),
        string(&pipeline["lane"]),
        pipeline["deadlines_ms"],
        pipeline["worst_case_ms"],
        table(&heading, &rows)
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pipeline_is_told_in_the_order_of_its_plugins() {
        let step = |plugin: &str| {
            json!({
                "plugin": plugin, "version": 3, "scope": "app", "failure_policy": "open", "isolation": "shared",
                "lane": "inline", "breaker": "closed", "deadline_ms": 5,
            })
        };
        let told = text(&json!({ "items": [{
            "hook": "filtering", "scope": "namespace:chat", "lane": "inline", "deadlines_ms": 10,
            "worst_case_ms": 338, "plugins": [step("second-to-none"), step("another")],
        }] }));
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(
            lines[0],
            "filtering@namespace:chat runs inline, 10 ms by its deadlines, 338 ms at the very worst"
        );
        assert!(lines[2].starts_with("  second-to-none  3"), "{told}");
        assert!(lines[3].starts_with("  another "), "{told}");
        assert!(text(&json!({ "items": [] })).contains("plugin bind"));
        let warned = text(&json!({ "items": [], "warnings": ["no such namespace"] }));
        assert_eq!(warned, "warning: no such namespace");
    }
}
