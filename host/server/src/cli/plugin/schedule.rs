//! `plugin schedule`: what plugins do by the clock, and what came of it.

use serde_json::Value;

use super::{api::PluginApi, arguments::Schedule};
use crate::cli::{
    Failure, Output, block_on,
    output::{moment, string, table},
};

const TITLES: [&str; 8] = [
    "PLUGIN", "PERIOD", "EVERY", "NEXT RUN", "LAST RUN", "OUTCOME", "TOOK", "NODE",
];

pub(super) fn run(command: &Schedule, output: Output) -> Result<(), Failure> {
    let api = PluginApi::new(&command.server, output)?;
    let found = block_on(api.schedule())?;
    let silent = found["silent_nodes"].as_array().into_iter().flatten();
    for node in silent.filter_map(Value::as_str) {
        output.note(&format!(
            "node {node} did not answer; runs of its are not shown"
        ));
    }
    output.result(&found, || text(&found));
    Ok(())
}

fn text(found: &Value) -> String {
    let items = found["items"].as_array().into_iter().flatten();
    let rows: Vec<_> = items.clone().map(row).collect();
    if rows.is_empty() {
        return "no plugin runs by the clock; `tidegate plugin bind NAME schedule` has one do so"
            .to_owned();
    }
    let mut shown = table(&TITLES, &rows);
    for item in items {
        if let Some(trace) = item["trace"].as_str() {
            shown.push_str(&format!(
                "\n{} {} failed: tidegate explain {trace}",
                string(&item["plugin"]),
                string(&item["period"])
            ));
        }
    }
    shown
}

fn row(item: &Value) -> Vec<String> {
    let took = item["last_took_ms"].as_u64();
    vec![
        string(&item["plugin"]),
        string(&item["period"]),
        item["every_seconds"]
            .as_u64()
            .map(every)
            .unwrap_or_default(),
        moment(&item["next_ms"]),
        moment(&item["last_due_ms"]),
        string(&item["last_outcome"]),
        took.map(|took| format!("{took} ms")).unwrap_or_default(),
        string(&item["node_name"]),
    ]
}

/// A period in the largest unit that holds it in whole numbers.
fn every(seconds: u64) -> String {
    let units = [(86_400, "d"), (3_600, "h"), (60, "min")];
    let fitting = units
        .iter()
        .find(|(unit, _)| seconds > 0 && seconds.is_multiple_of(*unit));
    match fitting {
        Some((unit, name)) => format!("{} {name}", seconds / unit),
        None => format!("{seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_period_has_a_line_and_a_run_that_failed_a_way_to_its_story() {
        let told = text(&json!({ "items": [
            {"plugin": "board", "period": "hour", "every_seconds": 3600, "next_ms": 3_600_000},
            {
                "plugin": "gong", "period": "tick", "every_seconds": 90, "next_ms": 90_000, "last_due_ms": 0,
                "last_outcome": "failed", "last_took_ms": 7, "node": "u", "node_name": "edge-1", "trace": "a1b2",
            },
        ] }));
        let cells = |line: &str| {
            let cells = line.split("  ").map(|cell| cell.trim().to_owned());
            cells.filter(|cell| !cell.is_empty()).collect::<Vec<_>>()
        };
        let lines: Vec<_> = told.lines().collect();
        assert_eq!(cells(lines[0]), TITLES);
        assert_eq!(
            cells(lines[1]),
            ["board", "hour", "1 h", "1970-01-01T01:00:00Z"]
        );
        assert_eq!(
            cells(lines[2]),
            [
                "gong",
                "tick",
                "90 s",
                "1970-01-01T00:01:30Z",
                "1970-01-01T00:00:00Z",
                "failed",
                "7 ms",
                "edge-1"
            ]
        );
        assert_eq!(lines[3], "gong tick failed: tidegate explain a1b2");
        assert!(text(&json!({ "items": [] })).contains("plugin bind NAME schedule"));
    }
}
