//! `nodes`: what each node of the cluster runs, and whether all have what was decided last.

use std::time::Duration;

use clap::Args;
use hyper::Method;
use serde_json::Value;
use tokio::time::Instant;

use super::{
    Failure, Output, block_on,
    output::{string, table},
    server::AdminAccess,
};

/// Longest wait for the nodes; compiling a large plugin takes a part of it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate nodes
  tidegate plugin activate shout 2 && tidegate nodes --wait
  tidegate nodes --json

A node that was silent for 20 s is not shown. With --wait the exit code is 1 when a node is behind, or cannot run what it
should, after a minute.")]
pub struct Nodes {
    /// Wait until every node runs what was decided last
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    server: AdminAccess,
}

pub(super) fn run(command: &Nodes, output: Output) -> Result<(), Failure> {
    let client = command.server.client(output)?;
    let answer = block_on(async {
        let start = Instant::now();
        loop {
            let answer = client
                .call(Method::GET, "/admin/v1/nodes", &Value::Null)
                .await?;
            let is_over = !command.wait || start.elapsed() >= PATIENCE;
            if is_over || behind(&answer).is_empty() {
                return Ok(answer);
            }
            tokio::time::sleep(PAUSE).await;
        }
    })?;
    output.result(&answer, || shown(&answer));
    if let Some(problem) = answer["problem"].as_str() {
        output.note(&format!("only the node that was asked is shown: {problem}"));
        for node in items(&answer["items"]) {
            if let Some(seconds) = node["store_heard_seconds_ago"].as_u64() {
                let name = string(&node["name"]);
                output.note(&format!("{name} heard the store last {seconds} s ago"));
            }
        }
    }
    let behind = behind(&answer);
    if command.wait && !behind.is_empty() {
        return Err(Failure::new(format!(
            "not every node runs what was decided: {}",
            behind.join("; ")
        ))
        .hint("`tidegate nodes` and the logs of these nodes say why"));
    }
    Ok(())
}

/// What keeps the cluster from being of one mind.
fn behind(answer: &Value) -> Vec<String> {
    let mut behind = Vec::new();
    if let Some(problem) = answer["problem"].as_str() {
        behind.push(problem.to_owned());
    }
    for node in items(&answer["items"]) {
        let name = string(&node["name"]);
        if node["revision"] != answer["revision"] {
            behind.push(format!("{name} has not followed yet"));
        }
        let plugins = items(&node["plugins"]).filter_map(|plugin| plugin["problem"].as_str());
        for problem in plugins.chain(node["problem"].as_str()) {
            behind.push(format!("{name}: {problem}"));
        }
    }
    behind
}

fn shown(answer: &Value) -> String {
    let mut rows = Vec::new();
    for node in items(&answer["items"]) {
        let state = if answer["revision"].is_null() {
            "unknown"
        } else if node["revision"] == answer["revision"] {
            "current"
        } else {
            "behind"
        };
        let state = node["problem"].as_str().unwrap_or(state);
        let of_node = [
            string(&node["name"]),
            string(&node["version"]),
            state.to_owned(),
        ];
        let mut plugins = items(&node["plugins"]).peekable();
        if plugins.peek().is_none() {
            rows.push([&of_node[..], &[const { String::new() }; 4]].concat());
        }
        for plugin in plugins {
            let version = match &plugin["version"] {
                Value::Null => "none".to_owned(),
                version => version.to_string(),
            };
            let name = format!("{}/{}", string(&plugin["app"]), string(&plugin["plugin"]));
            let of_plugin = [
                name,
                version,
                string(&plugin["since"]),
                string(&plugin["problem"]),
            ];
            rows.push([&of_node[..], &of_plugin[..]].concat());
        }
    }
    let titles = [
        "NODE", "RELEASE", "STATE", "PLUGIN", "VERSION", "SINCE", "PROBLEM",
    ];
    table(&titles, &rows)
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_is_behind_with_another_revision_or_with_a_problem() {
        let node =
            |name: &str, revision: &str| json!({"name": name, "revision": revision, "plugins": []});
        let items = [node("a", "7-aa"), node("b", "7-aa")];
        let mut answer = json!({"revision": "7-aa", "items": items});
        assert!(behind(&answer).is_empty());
        answer["items"][1]["revision"] = json!("7-bb");
        assert_eq!(behind(&answer), ["b has not followed yet"]);
        answer["items"][1] = node("b", "7-aa");
        answer["items"][0]["plugins"] =
            json!([{"app": "default", "plugin": "p", "version": 1, "problem": "size: too large"}]);
        assert_eq!(behind(&answer), ["a: size: too large"]);
        assert!(shown(&answer).contains("default/p"));
    }
}
